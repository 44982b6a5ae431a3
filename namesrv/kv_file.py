"""The file that keeps the entries: replaced as a whole, durable when `save` returns."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from dledger_py.actors import FailStop
from dledger_py.storage import DirectoryInUse, RealFiles
from namesrv.kv import EntryRefused, KvTable

FILE_NAME = "kvConfig.json"
"""As Java's, so that an existing one can be copied here."""

LOCK_NAME = "namesrv.lock"
"""Not as a broker's, which may have the same folder."""


@frozen
class KvFile:
    directory: Path

    @property
    def path(self) -> Path:
        return self.directory / FILE_NAME

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, and keep it from other name servers: each writes the file as a whole,
        without what another one has put there.

        Raises: FailStop if it is in use, or cannot be made or written to.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = RealFiles().lock(str(self.directory / LOCK_NAME))
        except (OSError, DirectoryInUse) as error:
            raise FailStop(f"the data folder {self.directory} cannot be used: {error}") from error
        try:
            yield
        finally:
            lock.release()

    def load(self) -> KvTable:
        """What was saved last; an empty table if nothing ever was.

        Raises: FailStop if it cannot be read: a start without would lose it at the next change.
        """
        try:
            return KvTable.from_text(self.path.read_text())
        except FileNotFoundError:
            return KvTable()
        except (OSError, ValueError, EntryRefused) as error:
            raise FailStop(f"{self.path} cannot be read: {error}") from error

    def save(self, text: str) -> None:
        """Blocks for some milliseconds: entries change once in a blue moon."""
        self.directory.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        with new.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.path)
        folder = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
