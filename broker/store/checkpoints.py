"""What of the consume queues outlives a crash, and going on from it.

    work = queues.checkpoint()                 on the loop, in the moment the machine is captured
    while work.write_some(): ...               on the loop, in slices: tails go to the files
    work.sync()                                in a worker thread: files, then folders
    ... the caller makes its snapshot durable ...
    work.release()                             in a worker thread: what no start needs any more
    queues.end_checkpoint()                    on the loop

Laws: what the queues held when the checkpoint began is on the disk when `sync` returns; what comes
later may be there too, and is overwritten in place when it is applied again. The files do not say
how far they may be trusted: the caller's snapshot does, and exists only after `sync`. Topics that
were deleted since the last snapshot are kept aside, since a start from it has them. A failed sync
is `FailStop`, never tried again.

Only the loop writes; the thread syncs by descriptors of its own. So it can meet files of a topic
that is deleted, even made anew, at the same time: harmless, as syncing changes nothing.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from broker import formats
from broker.formats import UNIT, UNIT_PLACE, place_in_file, queue_file_name
from broker.store.queue_files import ASIDE, Key, QueueFiles, folder_name, remove
from dledger_py.actors import FailStop

TAILS_PER_SLICE: Final = 16  # 0.1 to 0.4 ms each where folders are new, far less where not


class CannotResume(Exception):
    """Refused: the files are not what the snapshot says; they were left as they are."""


@frozen(kw_only=True)
class Reached:
    """How far one queue reached when the checkpoint began."""

    min_offset: int
    next_offset: int


@define(eq=False)
class Checkpoint:
    """The work of one checkpoint. Made by `ConsumeQueues.checkpoint`."""

    _files: QueueFiles
    _tails: list[tuple[str, int]]
    _flush_tail: Callable[[str, int], None]
    _moved: dict[str, list[Path]] = field(factory=dict, init=False)
    _unsynced: dict[Key, bool] = field(factory=dict, init=False)
    _synced: bool = field(default=False, init=False)
    _written: bool = field(default=False, init=False)
    released: bool = field(default=False, init=False)
    """Whether no start will use an older one."""
    _aside_before: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tails.reverse()  # the oldest leave first, as they would by themselves
        self._aside_before = self._files.aside_number

    def write_some(self, tails_max: int = TAILS_PER_SLICE) -> bool:
        """Write out some of the tails; whether there are more. Loop only.

        **Blocks**: for writes into the page cache. **Raises** `FailStop`.
        """
        for _ in range(min(tails_max, len(self._tails))):
            self._flush_tail(*self._tails.pop())
        if not self._tails and not self._written:
            self._written = True
            self._files.prepare_aside()
            for key, new in self._files.take_unsynced().items():
                self._unsynced[key] = new or self._unsynced.get(key, False)
        return bool(self._tails)

    def sync(self) -> None:
        """Make the files and their names durable. Any thread, once everything is written.

        **Blocks**: for one fdatasync per file written since the last checkpoint, one fsync per
        folder with a new one. **Durability**: what was indexed when the checkpoint began.
        **Raises** `FailStop`.
        """
        assert self._written, "tails are not written yet"
        new_folders: dict[tuple[str, str], None] = {}
        for (topic, queue_id, name), new in self._unsynced.items():
            self._sync(topic, f"{queue_id}/{name}", _sync_file)
            if new:
                new_folders[topic, str(queue_id)] = None
                new_folders[topic, ""] = None
        for topic, within in new_folders:
            self._sync(topic, within, _sync_folder)
        # Also where nothing is new: topics may have been removed. The folder of those set aside is
        # among its names by now, so it need not be synced again for what is set aside from here on.
        root = self._files.directory
        _sync_folder(root.parent)
        _sync_folder(root)
        for places in list(self._moved.values()):
            for place in places:
                _sync_folder(place.parent)
        _sync_folder(root / ASIDE)
        self._synced = True

    def release(self) -> None:
        """Remove what was set aside before this checkpoint began. Any thread.

        Only once the snapshot this checkpoint belongs to is durable, and no older one will be used.
        **Raises** `FailStop`.
        """
        assert self._synced
        for number, folder in _asides(self._files.directory):
            if number < self._aside_before:
                remove(folder)
        self.released = True

    def moves(self, topic: str, place: Path, unsynced: Mapping[Key, bool]) -> None:
        """A topic is about to be set aside there, with these files not synced yet. Loop only."""
        # A new list: the thread may be going through the one of before.
        self._moved[topic] = [*self._moved.get(topic, ()), place]
        if not self._written:
            self._unsynced.update(unsynced)

    def give_up_unless_synced(self) -> None:
        """The files that were not synced count as that again. Loop only, no `sync` running."""
        if self._synced:
            return
        self._files.give_back_unsynced(
            {
                (topic, queue_id, name): new
                for (topic, queue_id, name), new in self._unsynced.items()
                # Of a topic that was set aside, only what was made anew is wanted any more.
                if topic not in self._moved or (self._files.folder(topic, queue_id) / name).exists()
            }
        )

    def _sync(self, topic: str, within: str, sync: Callable[[Path], bool]) -> None:
        """Sync something in a topic's folder, wherever that has been moved to."""
        live = self._files.topic_folder(topic) / within
        found = sync(live)
        # Asked only now: a topic that is being set aside is in `_moved` before it is gone.
        for place in self._moved.get(topic, ()):
            found = sync(place / within) or found
        if not found:
            raise FailStop(f"consume queue {live}: it is gone")


def resume(files: QueueFiles, reached: Mapping[tuple[str, int], Reached], below: int) -> None:
    """Bring the files to where a checkpoint left them, or raise `CannotResume`.

    First everything is looked at; only then are topics that were deleted since put back, and what
    no queue of `reached` needs removed. After a crash in between, the same can be done again.
    """
    topics: dict[str, dict[int, Reached]] = {}
    for (topic, queue_id), of_queue in reached.items():
        topics.setdefault(topic, {})[queue_id] = of_queue
    asides = [folder for _number, folder in sorted(_asides(files.directory), reverse=True)]
    back: list[tuple[Path, Path]] = []
    for topic, queues in topics.items():
        live = files.topic_folder(topic)
        fault = _topic_fault(live, queues, below)
        if fault is None:
            continue
        # A topic can be deleted and made anew again and again: the youngest whose messages are
        # older than the snapshot is the one the snapshot means.
        places = [folder / live.name for folder in asides]
        place = next((p for p in places if _topic_fault(p, queues, below) is None), None)
        if place is None:
            raise CannotResume(fault)
        back.append((place, live))
    for place, live in back:
        remove(live)
        try:
            place.rename(live)
        except OSError as error:
            raise FailStop(f"putting consume queues {place} back: {error}") from error
    # Whatever file remains now has a name that was synced: later, only new files need that.
    known = {folder_name(topic): topic for topic in topics}
    for folder in _listed(files.directory):
        if folder.name in known:
            _tidy(folder, topics[known[folder.name]])
        else:
            remove(folder)


def _tidy(folder: Path, queues: Mapping[int, Reached]) -> None:
    """Remove files of a topic that were begun behind the checkpoint, or end before the queue."""
    known = {str(queue_id): of_queue for queue_id, of_queue in queues.items()}
    for queue in _listed(folder):
        if queue.name not in known:
            remove(queue)
            continue
        expected = {name for name, _size in _expected_files(known[queue.name])}
        try:
            for name in os.listdir(queue):
                if name not in expected:
                    os.unlink(queue / name)
        except OSError as error:
            raise FailStop(f"removing from consume queue {queue}: {error}") from error


def _topic_fault(folder: Path, queues: Mapping[int, Reached], below: int) -> str | None:
    faults = (
        _queue_fault(f"{folder}/{queue_id}", of_queue, below)
        for queue_id, of_queue in queues.items()
        if of_queue.min_offset < of_queue.next_offset
    )
    return next((fault for fault in faults if fault is not None), None)


def _queue_fault(folder: str, reached: Reached, below: int) -> str | None:
    """Why these files are not those of the checkpoint, or None.

    Positions ascend with offsets: if the last one lies below the snapshot's, all of them do.
    """
    last = reached.next_offset - 1
    try:
        for name, size in _expected_files(reached):
            found = os.stat(f"{folder}/{name}").st_size
            if found < size:
                return f"consume queue {folder}/{name}: {found} bytes, the checkpoint had {size}"
        with open(f"{folder}/{queue_file_name(last)}", "rb", buffering=0) as file:
            unit = os.pread(file.fileno(), UNIT.size, place_in_file(last))
    except FileNotFoundError as error:
        return f"consume queue {error.filename}: the checkpoint had it, now it is gone"
    except OSError as error:
        raise FailStop(f"reading consume queue {folder}: {error}") from error
    position, size = UNIT_PLACE.unpack(unit)
    if size <= 0:
        return f"consume queue {folder}: offset {last} was never written"
    if position >= below:
        return f"consume queue {folder}: offset {last} is at {position}, not below {below}"
    return None


def _expected_files(reached: Reached) -> Iterator[tuple[str, int]]:
    """Each file the queue has, and how many bytes it has at least."""
    per_file = formats.UNITS_PER_FILE
    first = reached.min_offset // per_file * per_file
    for begin in range(first, reached.next_offset, per_file):
        last = min(begin + per_file, reached.next_offset) - 1
        yield queue_file_name(begin), place_in_file(last) + UNIT.size


def _sync_file(path: Path) -> bool:
    """Sync one file; False if there is none."""
    return _sync_with(os.fdatasync, path, os.O_RDONLY)


def _sync_folder(path: Path) -> bool:
    """Sync the names in a folder; False if there is none."""
    return _sync_with(os.fsync, path, os.O_RDONLY | os.O_DIRECTORY)


def _sync_with(sync: Callable[[int], None], path: Path, flags: int) -> bool:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise FailStop(f"syncing consume queue {path}: {error}") from error
    try:
        sync(descriptor)
    except OSError as error:
        raise FailStop(f"syncing consume queue {path}: {error}") from error
    finally:
        os.close(descriptor)
    return True


def _asides(directory: Path) -> list[tuple[int, Path]]:
    return [(int(folder.name), folder) for folder in _listed(directory / ASIDE)]


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FailStop(f"reading folder {directory}: {error}") from error
