"""Term, vote and commit hint in two slots that are written in turns, in place.

A save writes a whole slot (the record twice, in different sectors) and syncs; the other slot
keeps the record before. Whatever of that a power cut tears, each slot keeps a readable copy: of
the old record or of the new one. In place, because write-sync-rename-sync of a new file costs
0.5 ms instead of 0.12 ms.

Elsewhere: the layout, and why a slot without a readable copy is refused (`formats`); what must
be saved before what is sent (raft, through `Persist`).
"""

from __future__ import annotations

from dledger_py.storage.files import File, FileSystem
from dledger_py.storage.formats import (
    HARD_FILE_BYTES,
    NEWBORN,
    Corrupt,
    HardRecord,
    HardState,
    Identity,
    LogFailed,
    decode_hard_state,
    encode_hard_slot,
    hard_slot_offset,
)

HARD_STATE_NAME = "hard-state"


class HardStateFile:
    """The hard state of one member. Made by `recovery.recover`. One thread (the writer)."""

    def __init__(self, file: File, record: HardRecord) -> None:
        self._file = file
        self._identity = record.identity
        self._seq = record.seq
        self._state = record.state
        self._broken = False

    def load(self) -> HardState:
        """The state as last saved, from memory."""
        return self._state

    def save(self, term: int, vote: str | None, commit: int) -> None:
        """Remember term, vote and commit index.

        The term never goes back and a vote never changes within its term (asserted). `commit`
        is a hint that makes recovery stricter: never more than `Log.durable_index`, and worth
        no save of its own (let it ride on one that is needed, or save once in a while).

        Blocks: one pwrite of 4 KiB, one fdatasync. Durability: on disk on return.
        Raises OSError, and LogFailed ever after: stop the process.
        """
        before = self._state
        assert term >= before.term
        assert term > before.term or before.vote is None or vote == before.vote
        assert commit >= 0
        self._write(HardState(term, vote, commit))

    def save_again(self) -> None:
        """Write the same state once more: what was loaded may be in the page cache only."""
        self._write(self._state)

    def close(self) -> None:
        self._file.close()

    def _write(self, state: HardState) -> None:
        if self._broken:
            raise LogFailed(f"{self._file.path}: an earlier save failed")
        record = HardRecord(identity=self._identity, seq=self._seq + 1, state=state)
        self._broken = True
        self._file.pwrite(encode_hard_slot(record), hard_slot_offset(record.seq))
        self._file.fdatasync()
        self._broken = False
        self._seq = record.seq
        self._state = state


def create_hard_state(
    files: FileSystem, directory: str, identity: Identity, state: HardState = NEWBORN
) -> None:
    """A newborn's file, in both slots: term 0 and no vote, unless there is a log already; durable,
    its name too."""
    path = f"{directory}/{HARD_STATE_NAME}"
    file = files.create(path)
    for seq in (0, 1):
        record = HardRecord(identity=identity, seq=seq, state=state)
        file.pwrite(encode_hard_slot(record), hard_slot_offset(seq))
    file.fsync()
    file.close()
    files.fsync_directory(directory)


def read_hard_state(files: FileSystem, directory: str) -> HardRecord:
    """Raises Corrupt, FileNotFoundError."""
    path = f"{directory}/{HARD_STATE_NAME}"
    file = files.open(path)
    try:
        return decode_hard_state(file.pread(HARD_FILE_BYTES, 0), path)
    except OSError as error:
        raise Corrupt(path, 0, f"the disk cannot read it: {error}") from error
    finally:
        file.close()
