"""A copy of another member's log, while it is being made in a folder beside this one's.

    incoming = open_incoming(...) or begin_incoming(..., start, configurations)
    while …: incoming.take(committed bytes from incoming.wanted on)
    while …: incoming.take_body(pieces of the snapshot from incoming.body_bytes() on)
    incoming.finish_body(...); incoming.finish()

The copy is a member's folder of its own, with a hard state that nobody uses; so it is opened by
recovery, and what a crash left of it is gone on with. What a crash left of its beginning is begun
again: its configuration is written last.

Blocking; one thread at a time. Elsewhere: where the bytes come from, and that they are committed
(the ledger); how the copy becomes the log (`switching`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attrs import define, field
from crc32c import crc32c

from dledger_py.storage.appender import create_segment
from dledger_py.storage.batch import BadBatch
from dledger_py.storage.files import FileSystem
from dledger_py.storage.formats import (
    Attest,
    Corrupt,
    End,
    Identity,
    entry_crc,
    segment_start,
    walk,
)
from dledger_py.storage.hard_state import create_hard_state
from dledger_py.storage.install_format import Marker, Phase
from dledger_py.storage.recovery import Recovered, recover
from dledger_py.storage.retention import mark_start
from dledger_py.storage.snapshot_format import snapshot_name
from dledger_py.storage.snapshots import SnapshotSummary, open_snapshots
from dledger_py.storage.start_configuration import (
    configuration_index,
    configuration_name,
    write_start_configuration,
)
from dledger_py.storage.switching import (
    INCOMING_NAME,
    SNAPSHOTS_NAME,
    begin_switch,
    finish_switch,
)

BODY_NAME: Final = "body"  # of the snapshot, as far as it is here
SYNC_BYTES: Final = 8 << 20  # copied between two syncs: what a crash may take back
READ_BYTES: Final = 1 << 20


class BadSnapshot(Exception):
    """A snapshot is not what was announced, or does not fit the log. Kind: refused."""


@define(eq=False)
class Incoming:
    """Made by `begin_incoming` and `open_incoming`."""

    _files: FileSystem
    _directory: str
    _identity: Identity
    _recovered: Recovered
    _partial: bytes = field(init=False, default=b"")
    _unsynced: int = field(init=False, default=0)
    _closed: bool = field(init=False, default=False)

    @property
    def start(self) -> End:
        """What the copy's first entry continues."""
        return self._recovered.log.start

    @property
    def last_index(self) -> int:
        return self._recovered.log.last_index

    @property
    def wanted(self) -> int:
        """The position of the next byte of the log."""
        return self._recovered.log.end_position + len(self._partial)

    def take(self, raw: bytes) -> None:
        """Take log bytes from `wanted` on. Durability: within `SYNC_BYTES`, or `finish`.

        Raises BadBatch if they do not continue the copy: then those of the last whole entry are
        wanted again. OSError.
        """
        log = self._recovered.log
        content = self._partial + raw
        end = End(log.last_index, log.last_term, log.end_position, log.last_crc)
        walked = walk(content, end)
        self._partial = b""
        if walked.bad is not None and not walked.bad.needed:
            raise BadBatch(walked.bad)
        self._partial = content[walked.at :]
        if not walked.at:
            return
        self._unsynced += walked.at
        sync = self._unsynced >= SYNC_BYTES
        log.write([log.seal_raw(content[: walked.at])], sync=sync)
        if sync:
            self._unsynced = 0

    def body_bytes(self) -> int:
        """How much of the snapshot's body is here."""
        if BODY_NAME not in self._files.list(self._directory):
            return 0
        file = self._files.open(f"{self._directory}/{BODY_NAME}")
        try:
            return file.size()
        finally:
            file.close()

    def take_body(self, offset: int, piece: bytes) -> None:
        """Keep a piece of the snapshot's body. Not durable: the whole is checked."""
        path = f"{self._directory}/{BODY_NAME}"
        exists = BODY_NAME in self._files.list(self._directory)
        file = self._files.open(path, write=True) if exists else self._files.create(path)
        try:
            file.pwrite(piece, offset)
        finally:
            file.close()

    def drop_body(self) -> None:
        """What is here is of another snapshot, or wrong."""
        if BODY_NAME in self._files.list(self._directory):
            self._files.remove(f"{self._directory}/{BODY_NAME}")

    def finish_body(self, announced: SnapshotSummary) -> None:
        """The body is whole. Durability: on disk on return. Raises BadSnapshot, OSError."""
        place = announced.place
        if self._end_at(place.index) != End(place.index, place.term, place.position, place.crc):
            self.drop_body()
            raise BadSnapshot(f"entry {place.index} of the log is another than the snapshot's")
        crc = 0
        for piece in self._body(announced.body_bytes):
            crc = crc32c(piece, crc)
        if crc != announced.body_crc:
            self.drop_body()
            raise BadSnapshot(f"the body of snapshot {place.index} has another crc")
        snapshots = open_snapshots(self._files, self._snapshots, self._identity)
        if place.index in snapshots.indices:
            return  # a crash came between
        for index in snapshots.indices:
            self._files.remove(f"{self._snapshots}/{snapshot_name(index)}")
        snapshots = open_snapshots(self._files, self._snapshots, self._identity)
        snapshots.write(place, self._body(announced.body_bytes))

    def finish(self, snapshot_index: int) -> None:
        """The copy becomes the log of the folder around it. Durability: on disk on return."""
        log = self._recovered.log
        configuration = _configuration_of(self._files, self._directory)
        assert configuration is not None
        marker = Marker(
            phase=Phase.SWITCHING,
            last_index=log.last_index,
            last_term=log.last_term,
            snapshot_index=snapshot_index,
            configuration_index=configuration,
            starts=self._starts(),
        )
        self.close()  # syncs it
        around = self._directory.removesuffix(f"/{INCOMING_NAME}")
        begin_switch(self._files, around, marker)
        finish_switch(self._files, around)
        _wipe(self._files, self._directory)

    def close(self) -> None:
        """Stop here; `open_incoming` goes on."""
        if not self._closed:
            self._closed = True
            self._recovered.close()

    @property
    def _snapshots(self) -> str:
        return f"{self._directory}/{SNAPSHOTS_NAME}"

    def _end_at(self, index: int) -> End | None:
        """The end of the log that has this entry as its last."""
        log = self._recovered.log
        if index == log.start.index:
            return log.start
        if not log.first_index <= index <= log.last_index:
            return None
        (entry,) = log.read(index, 1)
        return End(index, entry.term, entry.position + len(entry.raw), entry_crc(entry.raw))

    def _starts(self) -> tuple[int, ...]:
        names = self._files.list(self._directory)
        return tuple(start for name in names if (start := segment_start(name)) is not None)

    def _body(self, size: int) -> Iterator[bytes]:
        if not size:
            return
        file = self._files.open(f"{self._directory}/{BODY_NAME}")
        try:
            for at in range(0, size, READ_BYTES):
                yield file.pread(min(READ_BYTES, size - at), at)
        finally:
            file.close()


def begin_incoming(
    files: FileSystem,
    directory: str,
    identity: Identity,
    start: End,
    configuration: tuple[int, bytes],
    segment_size_bytes: int,
) -> Incoming:
    """Begin a copy whose first entry continues `start`, in place of any other. `configuration` is
    the index and payload of the one in force there, or of a later one that is committed.

    `directory` is the member's folder, which the caller has locked. Raises OSError.
    """
    folder = f"{directory}/{INCOMING_NAME}"
    files.make_directory(folder)
    _wipe(files, folder)
    create_hard_state(files, folder, identity)
    claim = Attest(0, start.position, start.index, start.term)
    file = create_segment(files, folder, identity, start, claim)
    path = file.path
    file.close()
    if start.index:
        mark_start(files, path, start)
    write_start_configuration(files, folder, *configuration)
    incoming = open_incoming(files, directory, identity, segment_size_bytes)
    assert incoming is not None
    return incoming


def open_incoming(
    files: FileSystem, directory: str, identity: Identity, segment_size_bytes: int
) -> Incoming | None:
    """The copy that was begun, as far as it came; None if there is none to go on with. Raises
    OSError."""
    folder = f"{directory}/{INCOMING_NAME}"
    files.make_directory(folder)
    if _configuration_of(files, folder) is None:
        return None
    try:
        recovered = recover(files, folder, identity, segment_size_bytes)
    except Corrupt:
        return None  # it rotted: nobody was told of it
    return Incoming(files, folder, identity, recovered)


def _configuration_of(files: FileSystem, folder: str) -> int | None:
    found = (configuration_index(name) for name in files.list(folder))
    return next((index for index in found if index is not None), None)


def _wipe(files: FileSystem, folder: str) -> None:
    """The sign that it can be gone on with goes first. Durable on return."""
    while (index := _configuration_of(files, folder)) is not None:
        files.remove(f"{folder}/{configuration_name(index)}")
        files.fsync_directory(folder)
    snapshots = f"{folder}/{SNAPSHOTS_NAME}"
    files.make_directory(snapshots)
    for name in files.list(snapshots):
        files.remove(f"{snapshots}/{name}")
    for name in files.list(folder):
        if name != SNAPSHOTS_NAME:
            files.remove(f"{folder}/{name}")
    files.fsync_directory(folder)
