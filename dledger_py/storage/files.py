"""The few file operations storage needs, as a protocol, and the real ones.

Everything above works on `FileSystem` alone, so the same code runs on a disk that lies
(`lying.LyingFiles`). Paths are plain strings with "/" between the parts.

Promises every implementation keeps: `pwrite` writes all or raises (a short write is an error:
the caller must stop, not retry); data is durable only after `fdatasync`/`fsync` of the file, a
name only after `fsync_directory` of its directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from typing import Protocol


class DirectoryInUse(Exception):
    """Another process (or another opening in this one) holds the directory. Kind: refused."""


class File(Protocol):
    """An open file."""

    @property
    def path(self) -> str: ...

    def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        ...

    def pread_into(self, buffer: memoryview, offset: int, *, nowait: bool = False) -> int:
        """Fill the buffer, return how much; less only at the end of the file.

        nowait: raises BlockingIOError unless all of it is in the page cache.
        """
        ...

    def pwrite(self, content: bytes | memoryview, offset: int) -> None: ...

    def truncate(self, size: int) -> None: ...

    def fdatasync(self) -> None:
        """Content and size are durable on return."""
        ...

    def fsync(self) -> None: ...

    def size(self) -> int: ...

    def close(self) -> None: ...


class Lock(Protocol):
    """A held directory lock."""

    def release(self) -> None: ...


class FileSystem(Protocol):
    """Where files live."""

    def open(self, path: str, *, write: bool = False) -> File:
        """An existing file. Raises FileNotFoundError."""
        ...

    def create(self, path: str) -> File:
        """A new, empty file, open for writing. Raises FileExistsError."""
        ...

    def remove(self, path: str) -> None: ...

    def rename(self, path: str, to: str) -> None:
        """Give a file another name, which takes the place of what has that name: as one change."""
        ...

    def list(self, directory: str) -> list[str]:
        """Names in a directory, sorted."""
        ...

    def make_directory(self, directory: str) -> None:
        """Create it and its parents where missing, durably."""
        ...

    def fsync_directory(self, directory: str) -> None:
        """Names created and removed in it are durable on return."""
        ...

    def free_bytes(self, directory: str) -> int:
        """How much more can be written there. Raises OSError."""
        ...

    def lock(self, path: str) -> Lock:
        """Take the lock file at `path` (created if missing). Raises DirectoryInUse at once."""
        ...


def replace_file(files: FileSystem, directory: str, name: str, content: bytes) -> None:
    """Give a small file this content, as one change: a crash leaves the old or the new.

    Durability: on disk on return. Raises OSError.
    """
    new = f"{name}.new"
    if new in files.list(directory):
        files.remove(f"{directory}/{new}")
    file = files.create(f"{directory}/{new}")
    try:
        file.pwrite(content, 0)
        file.fsync()
    finally:
        file.close()
    files.rename(f"{directory}/{new}", f"{directory}/{name}")
    files.fsync_directory(directory)


class RealFiles:
    """The operating system's files."""

    def open(self, path: str, *, write: bool = False) -> RealFile:
        return RealFile(path, os.O_RDWR if write else os.O_RDONLY)

    def create(self, path: str) -> RealFile:
        return RealFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def rename(self, path: str, to: str) -> None:
        os.replace(path, to)

    def list(self, directory: str) -> list[str]:
        return sorted(os.listdir(directory))

    def make_directory(self, directory: str) -> None:
        if os.path.isdir(directory):
            return
        parent = os.path.dirname(directory.rstrip("/")) or "."
        self.make_directory(parent)
        os.mkdir(directory)
        self.fsync_directory(parent)

    def fsync_directory(self, directory: str) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, directory: str) -> int:
        return shutil.disk_usage(directory).free

    def lock(self, path: str) -> RealLock:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # flock, not lockf: it belongs to this opening, so a second one in the same process
            # is refused too, and the kernel lets go of it when the process dies.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise DirectoryInUse(
                f"{path} is locked: another process is running on this directory"
            ) from error
        return RealLock(fd)


class RealFile:
    """An open file descriptor."""

    def __init__(self, path: str, flags: int) -> None:
        self.path = path
        self._fd = os.open(path, flags | os.O_CLOEXEC, 0o644)

    def pread(self, size: int, offset: int) -> bytes:
        content = os.pread(self._fd, size, offset)
        if len(content) == size or not content:
            return content
        parts = [content]
        missing = size - len(content)
        while missing:
            content = os.pread(self._fd, missing, offset + size - missing)
            if not content:
                break
            parts.append(content)
            missing -= len(content)
        return b"".join(parts)

    def pread_into(self, buffer: memoryview, offset: int, *, nowait: bool = False) -> int:
        if nowait:
            return self._pread_into_nowait(buffer, offset)
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], offset + done)
            if not count:
                break
            done += count
        return done

    def _pread_into_nowait(self, buffer: memoryview, offset: int) -> int:
        try:
            count = os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError as error:
            # EAGAIN: not cached. EOPNOTSUPP/ENOSYS/EINVAL: this file system or kernel cannot
            # tell, so it may block.
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise BlockingIOError(error.errno, "nowait reads are not supported") from error
            raise
        if count < len(buffer):
            # Partly cached, or the end of the file: the blocking call will tell which.
            raise BlockingIOError(errno.EAGAIN, "only partly cached")
        return count

    def pwrite(self, content: bytes | memoryview, offset: int) -> None:
        count = os.pwrite(self._fd, content, offset)
        if count != len(content):
            # The kernel stops early when the disk is full or failing. Nobody retries: what is on
            # disk now is a torn write, which recovery knows how to treat.
            raise OSError(
                errno.ENOSPC,
                f"short write: {count} of {len(content)} bytes at {offset}",
                self.path,
            )

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def fdatasync(self) -> None:
        os.fdatasync(self._fd)

    def fsync(self) -> None:
        os.fsync(self._fd)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class RealLock:
    """A held flock."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
