"""A disk in memory that behaves as badly as disks may: the other `FileSystem`.

What it models: writes reach the disk in 512-byte sectors, in any order, only surely by a sync;
at a power cut every unsynced sector is kept or lost, and at most one per file is torn (a disk
is at one place when the power goes); names in directories likewise. A failed sync *drops* what
it should have written, keeps showing it to readers, and the next sync reports success (what
Linux does). Everything is decided by the seed.

`crash()` is a power cut, `kill()` the death of the process: the page cache survives it.
`stop_after` arms a power cut in the middle of whatever runs; `fail` arms an error.

It is part of the package, not of the tests, because the simulation in chaos/ runs on it too.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterable

from attrs import define, field

from dledger_py.storage.files import DirectoryInUse
from dledger_py.storage.formats import SECTOR_BYTES

FREE_BYTES = 1 << 40
"""What a disk without a `capacity_bytes` says of itself."""


class PowerCut(BaseException):
    """The armed moment has come. Not an Exception: nothing may handle it but the test."""


@define(eq=False)
class _Inode:
    seen: bytearray = field(factory=bytearray)  # the page cache: what readers see
    disk: bytearray = field(factory=bytearray)  # what survives any crash
    # unsynced, in order: (offset, bytes) of a write, or (size, None) of a truncation
    unsynced: list[tuple[int, bytes | None]] = field(factory=list)


@define(eq=False)
class LyingFiles:
    """See the module."""

    seed: int | str = 0
    capacity_bytes: int | None = None
    cold: bool = False  # nowait reads find nothing in the page cache
    trace: list[str] = field(factory=list)
    _names: dict[str, _Inode] = field(factory=dict)
    _disk_names: dict[str, _Inode] = field(factory=dict)
    _renamed: dict[str, str] = field(factory=dict)  # to -> from, as far as no sync settled it
    _directories: set[str] = field(factory=set)
    _locks: dict[str, LyingLock] = field(factory=dict)
    _faults: dict[str, dict[int, int]] = field(factory=dict)
    _counts: dict[str, int] = field(factory=dict)
    _life: int = 0
    _changes: int = 0
    _stop_after: int | None = None
    _random: random.Random = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._random = random.Random(f"lying/{self.seed}")

    # -- what a test does to it

    def crash(self) -> None:
        """The power is cut: unsynced writes and names are kept, lost or torn, as chance has it."""
        self._names = self._names_after_crash()
        for inode in {id(inode): inode for inode in self._names.values()}.values():
            self._crash_content(inode)
        self._disk_names = dict(self._names)
        self.kill()

    def kill(self) -> None:
        """The process dies: its files close and its locks go, the page cache stays."""
        self._life += 1
        self._locks.clear()
        self._stop_after = None

    def stop_after(self, changes: int) -> None:
        """Raise PowerCut at the change (write, sync, name) after so many more."""
        self._stop_after = self._changes + changes

    @property
    def stopped(self) -> bool:
        """Whether the armed power cut has come; nothing works until `crash`."""
        return self._stop_after is not None and self._changes > self._stop_after

    @property
    def changes(self) -> int:
        """Changes (writes, truncations, syncs, names) made so far."""
        return self._changes

    def fail(self, operation: str, code: int, *, after: int = 0) -> None:
        """The (after + 1)th next `operation` (pwrite, fdatasync, pread, …) raises this errno."""
        at = self._counts.get(operation, 0) + after + 1
        self._faults.setdefault(operation, {})[at] = code

    def heal(self) -> None:
        """Nothing armed goes off any more, and there is room."""
        self._stop_after = None
        self._faults.clear()
        self.capacity_bytes = None

    @property
    def stop_is_armed(self) -> bool:
        """Whether a power cut is to come in the middle of some change."""
        return self._stop_after is not None

    @property
    def used_bytes(self) -> int:
        return sum(len(inode.seen) for inode in self._names.values())

    def flip_bit(self, path: str, offset: int, bit: int = 0) -> None:
        """Rot, on the disk as well as in the page cache."""
        inode = self._names[path]
        for content in (inode.seen, inode.disk):
            if offset < len(content):
                content[offset] ^= 1 << bit

    def content(self, path: str) -> bytes:
        return bytes(self._names[path].seen)

    def survives(self, directory: str, piece: bytes) -> bool:
        """Whether a file in this directory has these bytes after any power cut."""
        names = sorted(_in_directory(self._disk_names, directory), reverse=True)
        # Mostly it was written last, hence from the end.
        return any(self._disk_names[f"{directory}/{name}"].disk.rfind(piece) >= 0 for name in names)

    def put(self, path: str, content: bytes) -> None:
        """Replace a file, durably."""
        inode = _Inode(bytearray(content), bytearray(content))
        self._names[path] = self._disk_names[path] = inode

    def forget(self, path: str) -> None:
        """A file is gone, durably."""
        self._names.pop(path, None)
        self._disk_names.pop(path, None)

    def empty(self, directory: str) -> None:
        """Everything below it is gone, durably."""
        for path in [path for path in self._names | self._disk_names if _is_below(path, directory)]:
            self.forget(path)

    def copy(self, seed: int | str) -> LyingFiles:
        """The same disk after a clean stop, with other dice."""
        other = LyingFiles(seed=seed)
        other._directories = set(self._directories)
        for path, inode in self._names.items():
            other.put(path, bytes(inode.seen))
        return other

    # -- FileSystem

    def open(self, path: str, *, write: bool = False) -> LyingFile:
        self._operation("open", path)
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return LyingFile(self, path, self._names[path], self._life, write)

    def create(self, path: str) -> LyingFile:
        self._change("create", path)
        if path in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._names[path] = _Inode()
        return LyingFile(self, path, self._names[path], self._life, True)

    def remove(self, path: str) -> None:
        self._change("remove", path)
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        del self._names[path]

    def rename(self, path: str, to: str) -> None:
        self._change("rename", path)
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self._names[to] = self._names.pop(path)
        self._renamed[to] = path

    def list(self, directory: str) -> list[str]:
        self._operation("list", directory)
        if directory not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
        return sorted(_in_directory(self._names, directory))

    def make_directory(self, directory: str) -> None:
        self._directories.add(directory)

    def fsync_directory(self, directory: str) -> None:
        self._change("fsync_directory", directory)
        for name in set(_in_directory(self._disk_names, directory)):
            del self._disk_names[f"{directory}/{name}"]
        for name in _in_directory(self._names, directory):
            self._disk_names[f"{directory}/{name}"] = self._names[f"{directory}/{name}"]
            self._renamed.pop(f"{directory}/{name}", None)

    def free_bytes(self, directory: str) -> int:
        if self.capacity_bytes is None:
            return FREE_BYTES
        return max(0, self.capacity_bytes - self.used_bytes)

    def lock(self, path: str) -> LyingLock:
        if path in self._locks:
            raise DirectoryInUse(f"{path} is locked: another process is running on this directory")
        self._locks[path] = LyingLock(lambda: self._locks.pop(path, None))
        return self._locks[path]

    # -- within

    def _operation(self, operation: str, path: str) -> None:
        """Count it, and fail it if that is armed."""
        if self.stopped:
            raise PowerCut
        count = self._counts[operation] = self._counts.get(operation, 0) + 1
        code = self._faults.get(operation, {}).pop(count, None)
        if code is not None:
            raise OSError(code, os.strerror(code), path)

    def _change(self, operation: str, path: str) -> None:
        self._changes += 1
        self._operation(operation, path)
        self.trace.append(f"{operation} {path}")

    def _names_after_crash(self) -> dict[str, _Inode]:
        names = {}
        kept: dict[str, bool] = {}
        for path in sorted({*self._names, *self._disk_names}, key=self._renamed_first):
            now, before = self._names.get(path), self._disk_names.get(path)
            if path not in kept:
                kept[path] = now is before or self._random.random() < 0.5
            if path in self._renamed:  # both its names change, or none
                kept.setdefault(self._renamed[path], kept[path])
            inode = now if kept[path] else before
            if inode is not None:
                names[path] = inode
        self._renamed.clear()
        return names

    def _renamed_first(self, path: str) -> tuple[bool, str]:
        return path not in self._renamed, path

    def _crash_content(self, inode: _Inode) -> None:
        keep = self._random.choice((0.0, 0.5, 0.9, 1.0))  # of the sectors; all, none, or some
        torn = self._random.random() < 0.3
        for offset, content in inode.unsynced:
            if content is None:
                if self._random.random() < keep:
                    _resize(inode.disk, offset)
                continue
            for start, stop in _sectors(offset, len(content)):
                if self._random.random() >= keep:
                    continue
                piece = content[start - offset : stop - offset]
                if torn:
                    torn = False
                    piece = piece[: self._random.randrange(len(piece) + 1)]
                _store(inode.disk, start, piece)
            if self._random.random() < keep and len(inode.disk) < offset + len(content):
                _resize(inode.disk, offset + len(content))  # the size without the bytes
        inode.unsynced.clear()
        inode.seen = bytearray(inode.disk)


@define(eq=False)
class LyingLock:
    """A held lock."""

    _release: Callable[[], object]

    def release(self) -> None:
        self._release()


@define(eq=False)
class LyingFile:
    """An open file; dead once the process or the machine is."""

    _files: LyingFiles
    path: str
    _inode: _Inode
    _life: int
    _writable: bool
    _closed: bool = False

    def pread(self, size: int, offset: int) -> bytes:
        self._check("pread")
        return bytes(self._inode.seen[offset : offset + size])

    def pread_into(self, buffer: memoryview, offset: int, *, nowait: bool = False) -> int:
        self._check("pread")
        if nowait and self._files.cold:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        content = self._inode.seen[offset : offset + len(buffer)]
        buffer[: len(content)] = content
        return len(content)

    def pwrite(self, content: bytes | memoryview, offset: int) -> None:
        self._check("pwrite", change=True)
        files, content = self._files, bytes(content)
        capacity = files.capacity_bytes
        if capacity is not None:
            growth = max(0, offset + len(content) - len(self._inode.seen))
            missing = files.used_bytes + growth - capacity
            if missing > 0:
                self._write(content[: max(0, len(content) - missing)], offset)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        self._write(content, offset)

    def truncate(self, size: int) -> None:
        self._check("truncate", change=True)
        _resize(self._inode.seen, size)
        self._inode.unsynced.append((size, None))

    def fdatasync(self) -> None:
        self._sync("fdatasync")

    def fsync(self) -> None:
        self._sync("fsync")

    def size(self) -> int:
        self._check("size")
        return len(self._inode.seen)

    def close(self) -> None:
        self._closed = True

    def _write(self, content: bytes, offset: int) -> None:
        _store(self._inode.seen, offset, content)
        self._inode.unsynced.append((offset, content))

    def _sync(self, operation: str) -> None:
        try:
            self._check(operation, change=True)
        except OSError:
            # The kernel marks the pages clean although they never arrived: readers still see
            # them, the next sync says all is well, and a crash shows the truth.
            self._inode.unsynced.clear()
            raise
        # Only what is still to be written goes down; what a failed sync dropped stays lost.
        for offset, content in self._inode.unsynced:
            if content is None:
                _resize(self._inode.disk, offset)
            else:
                _store(self._inode.disk, offset, content)
        self._inode.unsynced.clear()

    def _check(self, operation: str, *, change: bool = False) -> None:
        assert not self._closed, f"{operation} on closed {self.path}"
        assert self._life == self._files._life, f"{operation} by a dead process on {self.path}"
        if change:
            assert self._writable, f"{operation} on read-only {self.path}"
            self._files._change(operation, self.path)
        else:
            self._files._operation(operation, self.path)


def _sectors(offset: int, size: int) -> Iterable[tuple[int, int]]:
    """The pieces of a write that each lie within one sector."""
    at, stop = offset, offset + size
    while at < stop:
        following = min(stop, at - at % SECTOR_BYTES + SECTOR_BYTES)
        yield at, following
        at = following


def _store(content: bytearray, offset: int, piece: bytes) -> None:
    if not piece:
        return
    if len(content) < offset:
        _resize(content, offset)
    content[offset : offset + len(piece)] = piece


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(f"{directory}/")


def _in_directory(names: Iterable[str], directory: str) -> Iterable[str]:
    prefix = directory + "/"
    inside = (path[len(prefix) :] for path in names if path.startswith(prefix))
    return (name for name in inside if "/" not in name)
