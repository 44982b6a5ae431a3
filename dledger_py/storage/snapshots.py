"""The snapshots of one member: states at an index, each in a file of its own.

Laws, and the crash points they answer:

- *Body first, then the header, twice*, each synced before the next step. A crash before the header
  is durable leaves a file that says nothing; the next opening removes it.
- *An older snapshot goes only after the newer one is durable*, its name included. `KEPT` stay, so
  that one bad file does not cost the whole log's replay.
- *What once was whole and no longer is, is corruption*: it is told, never skipped in silence. The
  caller decides whether an older one will do; it may, as long as the log still reaches back to it.
- A failed write or sync raises and leaves the object refusing: the process must end.

Blocking; any one thread at a time, except where told otherwise. Elsewhere: the header's bytes
(`snapshot_format`), what the body means (the machine), when a snapshot is taken (the ledger).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, field, frozen
from crc32c import crc32c

from dledger_py.storage.files import File, FileSystem
from dledger_py.storage.formats import Corrupt, Identity, LogFailed, WrongIdentity
from dledger_py.storage.snapshot_format import (
    COPIES,
    HEADER_BLOCK_BYTES,
    SnapshotHeader,
    decode_header,
    encode_header,
    snapshot_index,
    snapshot_name,
)

KEPT: Final = 2
READ_BYTES: Final = 1 << 20


@frozen(kw_only=True)
class SnapshotPlace:
    """The last entry a state stands for. `position` is behind it; `crc` is the entry's own."""

    index: int
    term: int
    position: int
    crc: int


@frozen(kw_only=True)
class StoredSnapshot:
    """A whole, checked snapshot."""

    place: SnapshotPlace
    body: bytes


@frozen(kw_only=True)
class SnapshotSummary:
    """A finished snapshot without its body."""

    place: SnapshotPlace
    body_bytes: int
    body_crc: int


NO_SNAPSHOT: Final = SnapshotSummary(
    place=SnapshotPlace(index=0, term=0, position=0, crc=0), body_bytes=0, body_crc=0
)


@define(eq=False)
class Snapshots:
    """Made by `open_snapshots`."""

    _files: FileSystem
    _directory: str
    _identity: Identity
    _indices: list[int]
    """Of finished snapshots, ascending."""
    _broken: bool = field(default=False, init=False)

    @property
    def newest_index(self) -> int:
        """The index of the newest finished snapshot; 0 if there is none."""
        return self._indices[-1] if self._indices else 0

    @property
    def indices(self) -> tuple[int, ...]:
        """The indices of all finished snapshots, ascending."""
        return tuple(self._indices)

    def write(self, place: SnapshotPlace, chunks: Iterable[bytes]) -> None:
        """Keep a state. Durability: on disk on return.

        Raises: OSError, and LogFailed ever after: the process must end.
        """
        assert place.index > self.newest_index, "snapshots are taken of a growing log"
        if self._broken:
            raise LogFailed(f"{self._directory}: an earlier snapshot could not be written")
        self._broken = True
        path = self._path(place.index)
        file = self._files.create(path)
        try:
            self._write_file(file, place, chunks)
        finally:
            file.close()
        self._files.fsync_directory(self._directory)
        self._broken = False
        self._indices.append(place.index)
        self.drop_old()

    def read(self, index: int) -> StoredSnapshot:
        """A finished snapshot, checked whole. Raises: Corrupt, LookupError if there is none."""
        if index not in self._indices:
            raise LookupError(f"no snapshot at index {index}: there are {self._indices}")
        path = self._path(index)
        file = self._files.open(path)
        try:
            header = decode_header(file.pread(HEADER_BLOCK_BYTES, 0), path)
            assert header is not None, "it was there when the directory was opened"
            body = file.pread(header.body_bytes, HEADER_BLOCK_BYTES)
        finally:
            file.close()
        if len(body) < header.body_bytes:
            reason = f"the body ends after {len(body)} of {header.body_bytes} bytes"
            raise Corrupt(path, HEADER_BLOCK_BYTES + len(body), reason)
        if crc32c(body) != header.body_crc:
            raise Corrupt(path, HEADER_BLOCK_BYTES, "crc of the body does not match")
        return StoredSnapshot(place=_place(header), body=body)

    def newest(self) -> SnapshotSummary:
        """What the newest finished snapshot's header says, or `NO_SNAPSHOT`. Any thread.

        Raises: Corrupt, LookupError if it made room for a newer one meanwhile.
        """
        index = self.newest_index
        if not index:
            return NO_SNAPSHOT
        header, _piece = self._look_into(index, 0, 0)
        return SnapshotSummary(
            place=_place(header), body_bytes=header.body_bytes, body_crc=header.body_crc
        )

    def read_piece(self, index: int, offset: int, max_bytes: int) -> bytes:
        """Bytes of a finished snapshot's body, unchecked; at least one. Any thread.

        Raises: Corrupt, LookupError if there is no such snapshot any more, or no such byte.
        """
        header, piece = self._look_into(index, offset, max_bytes)
        if not piece:
            raise LookupError(f"snapshot {index}: byte {offset} of {header.body_bytes}")
        return piece

    def _look_into(self, index: int, offset: int, max_bytes: int) -> tuple[SnapshotHeader, bytes]:
        path = self._path(index)
        try:
            if index not in self._indices:
                raise FileNotFoundError(path)
            file = self._files.open(path)
        except FileNotFoundError as error:
            raise LookupError(f"no snapshot at index {index} any more") from error
        try:
            header = decode_header(file.pread(HEADER_BLOCK_BYTES, 0), path)
            assert header is not None, "it was finished once"
            size = min(max_bytes, header.body_bytes - offset)
            if offset < 0 or size <= 0:
                return header, b""
            piece = file.pread(size, HEADER_BLOCK_BYTES + offset)
        finally:
            file.close()
        return header, piece

    def _write_file(self, file: File, place: SnapshotPlace, chunks: Iterable[bytes]) -> None:
        length = crc = 0
        for chunk in chunks:
            file.pwrite(chunk, HEADER_BLOCK_BYTES + length)
            length += len(chunk)
            crc = crc32c(chunk, crc)
        file.fdatasync()
        header = SnapshotHeader(
            identity=self._identity,
            index=place.index,
            term=place.term,
            position=place.position,
            entry_crc=place.crc,
            body_bytes=length,
            body_crc=crc,
        )
        copy = encode_header(header)
        for at in COPIES:
            file.pwrite(copy, at)
            file.fdatasync()

    def drop_old(self) -> None:
        """Keep the newest `KEPT`."""
        old, self._indices = self._indices[:-KEPT], self._indices[-KEPT:]
        for index in old:
            self._files.remove(self._path(index))

    def _path(self, index: int) -> str:
        return f"{self._directory}/{snapshot_name(index)}"


def _place(header: SnapshotHeader) -> SnapshotPlace:
    return SnapshotPlace(
        index=header.index, term=header.term, position=header.position, crc=header.entry_crc
    )


def open_snapshots(files: FileSystem, directory: str, identity: Identity) -> Snapshots:
    """The snapshots in a folder, made if it is missing; unfinished ones are removed, and old ones
    that a crash left.

    Raises: Corrupt for a damaged header, WrongIdentity for another member's snapshot, OSError.
    """
    files.make_directory(directory)
    finished = []
    for name in files.list(directory):
        index = snapshot_index(name)
        if index is None:
            continue
        path = f"{directory}/{name}"
        file = files.open(path)
        try:
            header = decode_header(file.pread(HEADER_BLOCK_BYTES, 0), path)
        finally:
            file.close()
        if header is None:
            files.remove(path)
            continue
        if header.identity != identity:
            raise WrongIdentity(f"{path} belongs to {header.identity}, not to {identity}")
        if header.index != index:
            raise Corrupt(path, 12, f"the header says index {header.index}, the name {index}")
        finished.append(index)
    snapshots = Snapshots(files, directory, identity, finished)
    if len(finished) > KEPT:
        files.fsync_directory(directory)  # the newest one's name may not be durable yet
        snapshots.drop_old()
    return snapshots
