"""One process's view of its machine's disk: dead with the process."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from dledger_py.storage.lying import LyingFile, LyingFiles, LyingLock


@frozen
class ProcessFiles:
    """A `FileSystem`. Open files know by themselves whose life they belong to."""

    _disk: LyingFiles
    _check_alive: Callable[[], None]

    def open(self, path: str, *, write: bool = False) -> LyingFile:
        self._check_alive()
        return self._disk.open(path, write=write)

    def create(self, path: str) -> LyingFile:
        self._check_alive()
        return self._disk.create(path)

    def remove(self, path: str) -> None:
        self._check_alive()
        self._disk.remove(path)

    def rename(self, path: str, new: str) -> None:
        self._check_alive()
        self._disk.rename(path, new)

    def list(self, directory: str) -> list[str]:
        self._check_alive()
        return self._disk.list(directory)

    def make_directory(self, directory: str) -> None:
        self._check_alive()
        self._disk.make_directory(directory)

    def fsync_directory(self, directory: str) -> None:
        self._check_alive()
        self._disk.fsync_directory(directory)

    def free_bytes(self, directory: str) -> int:
        self._check_alive()
        return self._disk.free_bytes(directory)

    def lock(self, path: str) -> LyingLock:
        self._check_alive()
        return self._disk.lock(path)
