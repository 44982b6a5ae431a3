"""What a power cut leaves of the consume queues' files, which lie in a real folder.

They are written with the operating system's own calls, so the simulation keeps the books: what was
synced, file by file and folder by folder. At a power cut every sector and every name that was
not is kept or lost, as on `dledger_py.storage.lying`'s disk.

Modelled are files that are made and grow in place; topics are not deleted in these runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from attrs import define, field

from broker.store import checkpoints
from dledger_py.storage.formats import SECTOR_BYTES

NAMES_LOST = 0.1
"""How often a name that was not synced is gone; more, and hardly a crash leaves anything to be
misled by."""


@define(eq=False)
class Folders:
    """All members' folders below one root."""

    root: Path
    _files: dict[Path, bytes] = field(factory=dict)
    _names: dict[Path, None] = field(factory=dict)
    """Files and folders whose names are durable."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take note of every sync."""
        sync_with = checkpoints._sync_with

        def noted(sync: Callable[[int], None], path: Path, flags: int) -> bool:
            found = path.exists()
            if found:
                self._note(path)
            return found

        checkpoints._sync_with = noted
        try:
            yield
        finally:
            checkpoints._sync_with = sync_with

    def _note(self, path: Path) -> None:
        if path.is_dir():
            for known in [known for known in self._names if known.parent == path]:
                del self._names[known]
            self._names |= dict.fromkeys(sorted(path.iterdir()))
        else:
            self._files[path] = path.read_bytes()

    def crash(self, folder: Path, random: Random) -> None:
        """The power of the machine with this folder is cut."""
        for path in sorted(folder.rglob("*")):
            if not path.exists():
                continue  # its folder is gone by now
            if path not in self._names and random.random() < NAMES_LOST:
                self._lose(path)
            elif path.is_file():
                path.write_bytes(self._left_of(path, random))

    def empty(self, folder: Path) -> None:
        """Somebody deletes everything in it."""
        shutil.rmtree(folder, ignore_errors=True)
        for path in [path for path in self._files if folder in path.parents]:
            del self._files[path]
        for path in [path for path in self._names if folder in path.parents]:
            del self._names[path]

    def _lose(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    def _left_of(self, path: Path, random: Random) -> bytes:
        seen, disk = path.read_bytes(), self._files.get(path, b"")
        keep = random.choice((0.0, 0.5, 0.5, 0.9, 1.0))
        # The size without the bytes is what journalling file systems are known for.
        size = len(seen) if random.random() < 0.8 else len(disk)
        left = bytearray(disk[:size].ljust(size, b"\0"))
        for start in range(0, size, SECTOR_BYTES):
            if random.random() < keep:
                stop = min(size, start + SECTOR_BYTES)
                left[start:stop] = seen[start:stop]
        self._files[path] = bytes(left)
        return bytes(left)
