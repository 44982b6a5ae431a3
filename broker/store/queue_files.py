"""The consume queues' files: positional writes and reads of whole units, few files open at a time.

    <directory>/<topic>/<queue id>/<20-digit byte offset>        300,000 units of 20 bytes each
    <directory>/.dropped/<20-digit number>/<topic>/...           deleted, but in the last checkpoint

Laws: the unit of offset n lies at byte 20 n, so writing it twice is harmless. Nothing is synced
here: what must outlive a crash is synced by `checkpoints`, everything else is rebuilt from the log,
so a crash may leave anything of it behind. The number of open files is bounded however many queues
there are. All calls block, writes into the page cache only; all come from one thread. Elsewhere:
which units are still in memory (`consume_queues`).

Errors are of the kind *stop*: a disk that is full or failing for an index is so for the log too.
"""

import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import define, field

from broker.formats import UNIT, UNITS_PER_FILE, place_in_file, queue_file_name
from dledger_py.actors import FailStop

OPEN_FILES_MAX: Final = 256  # of the usual 1024 a process; sockets and log segments need theirs

_FILE_NAMES = str.maketrans("%|", "~,")  # legal on Linux as they are, but not everywhere
_MAPPABLE = re.compile(r"[%|A-Za-z0-9_+-]{1,255}")

Key = tuple[str, int, str]
"""(topic, queue id, file name)."""

ASIDE: Final = ".dropped"  # no topic's folder begins with a dot


@define(eq=False)
class QueueFiles:
    """The files below one directory."""

    directory: Path
    open_files_max: int = OPEN_FILES_MAX
    _open: OrderedDict[Key, int] = field(factory=OrderedDict, init=False)
    _unsynced: dict[Key, bool] = field(factory=dict, init=False)
    """Files written since they were last handed out to be synced; whether they are also new."""
    _aside_number: int = field(default=0, init=False)

    @property
    def open_files(self) -> int:
        """How many descriptors are held."""
        return len(self._open)

    @property
    def unsynced_files(self) -> int:
        """How many files were written since the last checkpoint."""
        return len(self._unsynced)

    @property
    def aside_number(self) -> int:
        """What the next topic that is set aside gets; counted within one life."""
        return self._aside_number

    def clear(self) -> None:
        """Begin with no files. **Raises** `FailStop`."""
        self.close()
        self._unsynced.clear()
        remove(self.directory)

    def write(self, topic: str, queue_id: int, first_offset: int, units: bytes) -> None:
        """Put units at their places. **Raises** `FailStop`."""
        for offset, part in _by_file(first_offset, units):
            name = queue_file_name(offset)
            try:
                key = (topic, queue_id, name)
                descriptor = self._descriptor(key)
                self._unsynced.setdefault(key, False)
                _write_all(descriptor, part, place_in_file(offset))
            except OSError as error:
                raise FailStop(
                    f"writing consume queue {self.folder(topic, queue_id)}: {error}"
                ) from error

    def read(self, topic: str, queue_id: int, offset: int, count: int) -> bytes:
        """The units of `count` offsets, all of which were written. **Raises** `FailStop`."""
        parts = []
        while count:
            within = min(count, UNITS_PER_FILE - offset % UNITS_PER_FILE)
            try:
                descriptor = self._descriptor((topic, queue_id, queue_file_name(offset)))
                part = os.pread(descriptor, within * UNIT.size, place_in_file(offset))
            except OSError as error:
                raise FailStop(
                    f"reading consume queue {self.folder(topic, queue_id)}: {error}"
                ) from error
            if len(part) != within * UNIT.size:
                raise FailStop(
                    f"consume queue {self.folder(topic, queue_id)}: {len(part)} bytes from offset "
                    f"{offset} on, expected {within * UNIT.size}"
                )
            parts.append(part)
            offset += within
            count -= within
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def remove_below(self, topic: str, queue_id: int, first_offset: int) -> None:
        """Remove a queue's files that hold offsets below this one only. **Raises** `FailStop`."""
        folder = self.folder(topic, queue_id)
        keep = queue_file_name(first_offset)
        try:
            outgrown = [name for name in os.listdir(folder) if name < keep]
            for name in outgrown:
                descriptor = self._open.pop((topic, queue_id, name), None)
                if descriptor is not None:
                    os.close(descriptor)
                self._unsynced.pop((topic, queue_id, name), None)
                os.unlink(folder / name)
        except FileNotFoundError:
            pass  # it has no files yet
        except OSError as error:
            raise FailStop(f"removing from consume queue {folder}: {error}") from error

    def delete(self, topic: str) -> None:
        """Remove a topic's files. **Raises** `FailStop`."""
        self.take_unsynced(topic)
        self._let_go(topic)
        remove(self.topic_folder(topic))

    def prepare_aside(self) -> None:
        """Make the folder that topics are set aside in. **Raises** `FailStop`."""
        try:
            (self.directory / ASIDE).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FailStop(f"making a folder in {self.directory}: {error}") from error

    def next_aside(self, topic: str) -> Path:
        """Where `set_aside` would move a topic now."""
        return self.directory / ASIDE / f"{self._aside_number:020d}" / folder_name(topic)

    def set_aside(self, topic: str) -> None:
        """Move a topic's files to where nothing changes them any more. **Raises** `FailStop`."""
        self._let_go(topic)
        place = self.next_aside(topic)
        self._aside_number += 1
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            self.topic_folder(topic).rename(place)
        except FileNotFoundError:
            pass  # it never had files
        except OSError as error:
            raise FailStop(f"setting consume queues of {topic!r} aside: {error}") from error

    def take_unsynced(self, topic: str | None = None) -> dict[Key, bool]:
        """Hand out the files to be synced, of one topic or of all; they count as synced now."""
        if topic is None:
            taken, self._unsynced = self._unsynced, {}
            return taken
        keys = [key for key in self._unsynced if key[0] == topic]
        return {key: self._unsynced.pop(key) for key in keys}

    def give_back_unsynced(self, files: Mapping[Key, bool]) -> None:
        """These were not synced after all."""
        for key, new in files.items():
            self._unsynced[key] = new or self._unsynced.get(key, False)

    def topic_folder(self, topic: str) -> Path:
        """Where a topic's queues have their folders."""
        return self.directory / folder_name(topic)

    def folder(self, topic: str, queue_id: int) -> Path:
        """Where a queue's files are."""
        return self.topic_folder(topic) / str(queue_id)

    def close(self) -> None:
        """Let go of all descriptors."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, key: Key) -> int:
        descriptor = self._open.get(key)
        if descriptor is not None:
            self._open.move_to_end(key)
            return descriptor
        while len(self._open) >= self.open_files_max:
            os.close(self._open.popitem(last=False)[1])
        topic, queue_id, name = key
        path = self.folder(topic, queue_id) / name
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._unsynced[key] = True
        self._open[key] = descriptor
        return descriptor

    def _let_go(self, topic: str) -> None:
        for key in [key for key in self._open if key[0] == topic]:
            os.close(self._open.pop(key))


def remove(folder: Path) -> None:
    """Remove a folder and all below, if it is there. **Raises** `FailStop`."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise FailStop(f"removing consume queues in {folder}: {error}") from error


def folder_name(topic: str) -> str:
    """A topic's folder: one character for each, so that the longest legal topic still fits."""
    assert _MAPPABLE.fullmatch(topic), f"topic {topic!r} cannot be a file name"
    return topic.translate(_FILE_NAMES)


def _by_file(offset: int, units: bytes) -> list[tuple[int, bytes]]:
    """Cut at the file boundaries: (offset of the first unit, units)."""
    room = (UNITS_PER_FILE - offset % UNITS_PER_FILE) * UNIT.size
    parts = [(offset, units[:room])]
    while room < len(units):
        size = UNITS_PER_FILE * UNIT.size
        parts.append((offset + room // UNIT.size, units[room : room + size]))
        room += size
    return parts


def _write_all(descriptor: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, place)
        view = view[written:]
        place += written
