"""The log as its owner sees it: seal on the loop thread, write on the writer thread, read anywhere.

Threads:

* *loop thread*: `seal`, `seal_raw`, `cut` and every attribute. No I/O (but see `cut`).
* *writer thread*, one: `write`, `seal_idle`, `close`. The only one that changes files.
* *any thread*: `read`, `read_bytes`.

Writes must happen in the order of the seals and cuts they perform.

Elsewhere: file changes and their order (`appender`), opening (`recovery`), bytes (`formats`).
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from dledger_py.storage.batch import Batch, StoredEntry
from dledger_py.storage.formats import End, EntryLike


class LogFailed(Exception):
    """An earlier write or sync of this log failed, nothing more is written. Kind: stop."""


@frozen
class Cut:
    """What `Log.cut` decided and `Log.write` has to perform: the log ends here now."""

    end: End


@frozen(kw_only=True)
class LogStatistics:
    """A snapshot for metrics; positions in bytes."""

    first_index: int
    last_index: int
    end_position: int
    written_position: int
    durable_position: int
    attested_position: int
    segments: int
    anchors: int
    open_read_files: int


class Log:
    """One member's log. Made by `recovery.recover`."""

    @property
    def first_index(self) -> int:
        """The first entry kept: 1 until retention exists; last_index + 1 when empty."""
        raise NotImplementedError

    @property
    def last_index(self) -> int:
        """The last entry sealed (0: none ever)."""
        raise NotImplementedError

    @property
    def last_term(self) -> int:
        raise NotImplementedError

    @property
    def last_crc(self) -> int:
        raise NotImplementedError

    @property
    def end_position(self) -> int:
        """Just behind the last entry sealed."""
        raise NotImplementedError

    @property
    def terms(self) -> tuple[tuple[int, int], ...]:
        """(first index, term) of each run of equal terms, for raft's LogView."""
        raise NotImplementedError

    @property
    def durable_position(self) -> int:
        """Everything below was synced. Any thread."""
        raise NotImplementedError

    @property
    def durable_index(self) -> int:
        """The last entry that was synced. The commit hint saved must not exceed it. Any thread."""
        raise NotImplementedError

    def statistics(self) -> LogStatistics:
        """Any thread."""
        raise NotImplementedError

    def seal(self, entries: Sequence[EntryLike]) -> Batch:
        """Give entries (indexes from last_index + 1 on) their place and bytes. No I/O.

        The log ends behind them at once; they are on disk only after `write`.
        """
        raise NotImplementedError

    def seal_raw(self, raw: bytes | bytearray | memoryview) -> Batch:
        """Accept entries as another member's log holds them, if they continue this one. No I/O.

        Copies only what is not `bytes`. Raises BadBatch (a ValueError); the log is unchanged then.
        """
        raise NotImplementedError

    def cut(self, first_index: int) -> Cut | None:
        """The log ends before entry `first_index`, at once; give the result to the next `write`.

        None when there is nothing to cut. Blocks: for one small read when the entry is not in
        a batch still being written; cuts are rare (a follower drops what an old leader sent).
        Raises LookupError for an entry that is not in the log; Corrupt.
        """
        raise NotImplementedError

    def write(
        self, batches: Sequence[Batch], cut_to: Cut | None = None, *, sync: bool = True
    ) -> None:
        """Cut if asked, then append the batches. Writer thread.

        Each Cut is performed by exactly one `write`, in order, before the batches sealed after
        it. ``write([], sync=True)`` makes earlier unsynced writes durable.

        Blocks: one pwrite of the joined batches, one of an attest slot, one fdatasync; more when
        a segment is full or something is cut.
        Durability: with sync, all that was ever written is on disk on return; a cut always is.
        Raises OSError as it came from the disk, and LogFailed ever after: stop the process.
        """
        raise NotImplementedError

    def seal_idle(self) -> None:
        """Attest all that was written (syncing it first). Writer thread; after 100 ms of silence.

        Without it the last group before a crash is durable, but damage in it would pass for a
        torn write. No-op when everything is attested already. Raises as `write`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """`seal_idle` (unless the log failed), close all files, release the directory."""
        raise NotImplementedError

    def read(self, first_index: int, max_bytes: int) -> tuple[StoredEntry, ...]:
        """Entries from `first_index` on, CRC-checked, as many as fit into max_bytes, at least one.

        Stops where the written part of the log ends: what is only sealed is not here yet, and
        the result is empty then. Any thread. Blocks. Raises LookupError outside of the log,
        Corrupt.
        """
        raise NotImplementedError

    def read_bytes(self, position: int, length: int, *, nowait: bool = False) -> bytearray:
        """`length` raw log bytes from `position` on, unchecked; the bytearray is the caller's.

        nowait: never waits for the disk; raises BlockingIOError when the bytes are not in the
        page cache (or the file system cannot tell) -- then ask again without it in a thread.
        Any thread. Raises LookupError when the range is not within the written log.
        """
        raise NotImplementedError
