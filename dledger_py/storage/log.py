"""The log as its owner sees it: seal on the loop thread, write one at a time, read anywhere.

Threads:

* *loop thread*: `seal`, `seal_raw`, `cut` and every attribute. No I/O (but see `cut`).
* *the writer*: `fits`, `write`, `seal_idle`, `drop_before`, `close`. Whatever thread it is at the
  moment, one at a time, which its owner sees to. Nobody else changes files.
* *any thread*: `read`, `read_run`, `read_bytes`.

Writes must happen in the order of the seals and cuts they perform.

Elsewhere: file changes and their order (`appender`, `retention`), opening (`recovery`), bytes
(`formats`).
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from attrs import frozen

from dledger_py.storage import batch as batches_of
from dledger_py.storage.anchors import ANCHOR_SPACING_BYTES, Anchors
from dledger_py.storage.appender import Appender
from dledger_py.storage.batch import Batch, Run, StoredEntry, stored_entries
from dledger_py.storage.files import FileSystem, Lock
from dledger_py.storage.formats import (
    ENTRY_HEADER_BYTES,
    Corrupt,
    End,
    EntryLike,
    LogFailed,
    Walk,
    WalkedEntry,
    peek_place,
    walk,
)
from dledger_py.storage.segment import Segments
from dledger_py.storage.summaries import summarise, write_summary


@frozen
class Cut:
    """What `Log.cut` decided and `Log.write` has to perform: the log ends here now."""

    end: End


@frozen(kw_only=True)
class LogStatistics:
    """A snapshot for metrics; positions in bytes."""

    first_index: int
    last_index: int
    first_position: int
    end_position: int
    written_position: int
    durable_position: int
    attested_position: int
    segments: int
    anchors: int
    open_read_files: int


@frozen(kw_only=True)
class Scrubbed:
    """What a slice of scrubbing has verified; the next one goes on at `stop_position`, or, when
    this one has reached the end of the written log, at the log's first position again."""

    start_position: int
    stop_position: int
    at_end: bool


class Log:
    """One member's log. Made by `recovery.recover`."""

    def __init__(
        self,
        files: FileSystem,
        *,
        appender: Appender,
        segments: Segments,
        anchors: Anchors,
        terms: Sequence[tuple[int, int]],
        configurations: Sequence[tuple[int, bytes]],
        start: End,
        lock: Lock,
    ) -> None:
        self._files = files
        self._appender = appender
        self._segments = segments
        self._directory_lock = lock
        # Loop thread only.
        self._end = appender.end
        self._terms = list(terms)  # may still begin before first_index: see `terms`
        self._configurations = list(configurations)
        self._unwritten: deque[Batch] = deque()
        # Shared, under the lock. A cut counts at once for readers and later for the files; while
        # files lag behind (asked > done), nothing above the lowest such cut is readable.
        self._lock = threading.Lock()
        self._anchors = anchors
        self._start = start
        self._cuts_asked = 0
        self._cuts_done = 0
        self._ceiling: int | None = None

    # -- where the log ends

    @property
    def first_index(self) -> int:
        """The first entry kept (last_index + 1 if there is none). Any thread."""
        return self._start.index + 1

    @property
    def first_position(self) -> int:
        """The position of the first byte kept. Any thread."""
        return self._start.position

    @property
    def start(self) -> End:
        """What the first entry kept continues: the last entry dropped, EMPTY if none ever was.

        `start.term` is raft's `previous_term`. Any thread.
        """
        return self._start

    @property
    def boundaries(self) -> tuple[End, ...]:
        """Where the log could begin instead: what each file but the first continues. Any thread."""
        return self._segments.boundaries()

    @property
    def last_index(self) -> int:
        """The last entry sealed (0: none ever)."""
        return self._end.index

    @property
    def last_term(self) -> int:
        return self._end.term

    @property
    def last_crc(self) -> int:
        return self._end.crc

    @property
    def end_position(self) -> int:
        """Just behind the last entry sealed."""
        return self._end.position

    @property
    def terms(self) -> tuple[tuple[int, int], ...]:
        """(first index, term) of each run of equal terms, for raft's LogView. Loop thread."""
        first = self.first_index
        while len(self._terms) > 1 and self._terms[1][0] <= first:
            del self._terms[0]
        if self._terms and self._terms[0][0] < first:
            if self._end.index < first:
                self._terms.clear()
            else:
                self._terms[0] = (first, self._terms[0][1])
        return tuple(self._terms)

    def term_at(self, index: int) -> int:
        """The term of an entry from first_index - 1 to last_index: for raft's check of the entry
        before. Loop thread. Raises LookupError."""
        start = self._start
        if index == start.index:
            return start.term
        if not start.index < index <= self._end.index:
            raise self._unknown(index)
        return self._terms[bisect_right(self._terms, index, key=lambda run: run[0]) - 1][1]

    @property
    def durable_position(self) -> int:
        """Everything below was synced. Any thread."""
        return self._appender.durable.position

    @property
    def durable_index(self) -> int:
        """The last entry that was synced. The commit hint saved must not exceed it. Any thread."""
        return self._appender.durable.index

    @property
    def readable_position(self) -> int:
        """Everything below can be read: it is in the files, and no cut of it is due. Any thread."""
        with self._lock:
            return self._readable()

    def statistics(self) -> LogStatistics:
        """Any thread."""
        return LogStatistics(
            first_index=self.first_index,
            last_index=self._end.index,
            first_position=self.first_position,
            end_position=self._end.position,
            written_position=self._appender.end.position,
            durable_position=self._appender.durable.position,
            attested_position=self._appender.claimed.position,
            segments=self._segments.count(),
            anchors=len(self._anchors),
            open_read_files=self._segments.open_count(),
        )

    # -- loop thread

    def seal(self, entries: Sequence[EntryLike]) -> Batch:
        """Give entries (indexes from last_index + 1 on) their place and bytes. No I/O.

        The log ends behind them at once; they are on disk only after `write`.
        """
        return self._extend(batches_of.seal(self._end, entries))

    def seal_raw(self, raw: bytes | bytearray | memoryview) -> Batch:
        """Accept entries as another member's log holds them, if they continue this one. No I/O.

        Copies only what is not `bytes`. Raises BadBatch (a ValueError); the log is unchanged then.
        """
        return self._extend(batches_of.seal_raw(self._end, raw))

    def _extend(self, batch: Batch) -> Batch:
        with self._lock:
            self._anchors.note(batch.first_index, batch.start_position, batch.starts)
        for run in batch.terms:
            if not self._terms or self._terms[-1][1] != run[1]:
                self._terms.append(run)
        self._configurations += batch.configurations
        self._end = batch.end
        if self._cuts_asked == self._cuts_done:
            written = self._appender.end.position
            while self._unwritten and self._unwritten[0].end.position <= written:
                self._unwritten.popleft()
        self._unwritten.append(batch)
        return batch

    def cut(self, first_index: int) -> Cut | None:
        """The log ends before entry `first_index`, at once; give the result to the next `write`.

        None when there is nothing to cut. Blocks: for one small read when the entry is not in
        a batch still being written; cuts are rare (a follower drops what an old leader sent).
        Raises LookupError for an entry that is not in the log; Corrupt.
        """
        if first_index == self._end.index + 1:
            return None
        end = self._end_before(first_index)
        with self._lock:
            assert end.position >= self._start.position
            self._cuts_asked += 1
            self._ceiling = (
                end.position if self._ceiling is None else min(self._ceiling, end.position)
            )
            self._anchors.cut(end.position)
        while self._terms and self._terms[-1][0] >= first_index:
            self._terms.pop()
        while self._configurations and self._configurations[-1][0] >= first_index:
            self._configurations.pop()
        while self._unwritten and self._unwritten[-1].start_position >= end.position:
            self._unwritten.pop()
        self._end = end
        return Cut(end)

    def _end_before(self, index: int) -> End:
        start = self._start
        if not start.index < index <= self._end.index:
            raise self._unknown(index)
        if index == start.index + 1:
            return start
        term = self.term_at(index - 1)
        for batch in reversed(self._unwritten):  # the newest holds, where a cut made two overlap
            if batch.first_index <= index <= batch.last_index:
                at = batch.position_of(index) - batch.start_position
                _index, position, crc = peek_place(batch.data, at)
                return End(index - 1, term, position, crc)
        (entry,) = self.read(index, 1)
        _index, position, crc = peek_place(entry.raw)
        return End(index - 1, term, position, crc)

    def _unknown(self, index: int) -> LookupError:
        return LookupError(f"entry {index}: only {self.first_index} to {self._end.index} exist")

    # -- the writer

    def write(
        self, batches: Sequence[Batch], cut_to: Cut | None = None, *, sync: bool = True
    ) -> None:
        """Cut if asked, then append the batches. The writer's.

        Each Cut is performed by exactly one `write`, in order, before the batches sealed after
        it. ``write([], sync=True)`` makes earlier unsynced writes durable.

        Blocks: one pwrite of the joined batches, one of an attest slot, one fdatasync; more when
        a segment is full (which also gets its summary) or something is cut.
        Durability: with sync, all that was ever written is on disk on return; a cut always is.
        Raises OSError as it came from the disk, and LogFailed ever after: stop the process.
        """
        with self._writing():
            if cut_to is not None:
                self._perform(cut_to)
            for before, end in self._appender.append(batches) if batches else ():
                self._summarise(before, end)
            if sync:
                self._appender.sync()

    def fits(self, batch: Batch) -> bool:
        """Whether `write` of this batch, and of others sealed before it, will create no file. While
        nobody writes."""
        return self._appender.fits(batch)

    def _perform(self, cut: Cut) -> None:
        self._appender.cut(cut.end)
        with self._lock:
            self._cuts_done += 1
            assert self._cuts_done <= self._cuts_asked
            if self._cuts_done == self._cuts_asked:
                self._ceiling = None

    def _summarise(self, before: End, end: End) -> None:
        """A segment is full. Not while a cut is due: what is known is already that much shorter."""
        with self._lock:
            if self._cuts_asked != self._cuts_done:
                return
            summary = summarise(
                before, end, self._anchors, tuple(self._terms), tuple(self._configurations)
            )
        write_summary(self._files, self._segments.directory, summary)

    def seal_idle(self) -> None:
        """Attest all that was written (syncing it first). The writer's; after 100 ms of silence.

        Without it the last group before a crash is durable, but damage in it would pass for a
        torn write. No-op when everything is attested already. Raises as `write`.
        """
        with self._writing():
            if self._appender.durable.position != self._appender.end.position:
                self._appender.sync()
            self._appender.attest()

    def drop_before(self, index: int, configuration: tuple[int, bytes]) -> int:
        """Drop the oldest segments that end before entry `index`, and return the new first index.

        Only whole segments go, and never the active one: entries before `index` may stay. Entries
        below it must never be cut again (asserted against cuts asked for): committed, that is.
        Readers that come too late get a LookupError; those in the middle of a file finish.
        `configuration` is the index and payload of one that is committed: the latest before
        `index`, or a later one.

        The writer's. Blocks: syncs of a small file, a header, and the directory, twice; freeing
        the space of a large file may take the file system a while.
        Durability: on disk on return; a crash before leaves it done or not done.
        Raises OSError, and LogFailed ever after: stop the process.
        """
        assert index <= self._appender.end.index + 1
        with self._writing():
            before = self._segments.floor(index)
            if before.position > self._start.position:
                with self._lock:
                    assert self._ceiling is None or before.position <= self._ceiling
                    self._start = before
                    self._anchors.drop(before.index + 1, before.position)
                self._appender.drop(before, configuration)
        return self.first_index

    def close(self) -> None:
        """`seal_idle` (unless the log failed), close all files, release the directory."""
        try:
            if not self._appender.broken:
                self.seal_idle()
        finally:
            self._appender.close()
            self._segments.close()
            self._directory_lock.release()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Whatever escapes from within leaves the files in an unknown state: never write again."""
        if self._appender.broken:
            raise LogFailed(f"{self._segments.directory}: an earlier write or sync failed")
        self._appender.broken = True
        yield
        self._appender.broken = False

    # -- any thread

    def read(self, first_index: int, max_bytes: int) -> tuple[StoredEntry, ...]:
        """Entries from `first_index` on, CRC-checked, as many as fit into max_bytes, at least one.

        Stops where the written part of the log ends: what is only sealed is not here yet, and
        the result is empty then. Any thread. Blocks. Raises LookupError outside of the log,
        Corrupt.
        """
        run = self.read_run(first_index, max_bytes)
        return stored_entries(memoryview(run.data), run.entries, run.position)

    def read_run(self, first_index: int, max_bytes: int) -> Run:
        """The same in one piece, for who goes through many small ones."""
        while True:
            with self._lock:
                if not self.first_index <= first_index <= self._end.index:
                    raise self._unknown(first_index)
                cuts, start = self._cuts_asked, self._start
                limit = self._readable()
                anchor = self._anchors.floor(first_index)
            try:
                return self._read(anchor, first_index, max_bytes, limit)
            except (Corrupt, FileNotFoundError):
                # A cut asked for meanwhile may have changed the bytes under us, a drop taken the
                # files away; each turn of this loop needs another one. Without one it is what it
                # looks like.
                if cuts == self._cuts_asked and start is self._start:
                    raise

    def read_bytes(self, position: int, length: int, *, nowait: bool = False) -> bytearray:
        """`length` raw log bytes from `position` on, unchecked; the bytearray is the caller's.

        nowait: never waits for the disk; raises BlockingIOError when the bytes are not in the
        page cache (or the file system cannot tell) -- then ask again without it in a thread.
        Any thread. Raises LookupError when the range is not within the written log, or was
        dropped; Corrupt when the files end before it does.
        """
        with self._lock:
            start, limit = self._start, self._readable()
        if position < start.position or length < 0 or position + length > limit:
            raise self._out_of_range(position, length, limit)
        buffer = bytearray(length)
        try:
            got = self._segments.read_into(memoryview(buffer), position, nowait=nowait)
            if got < length:
                raise self._corrupt(position + got, "file ends before the log does")
        except FileNotFoundError:
            if position >= self._start.position:
                raise
            raise self._out_of_range(position, length, limit) from None
        return buffer

    def _out_of_range(self, position: int, length: int, limit: int) -> LookupError:
        return LookupError(
            f"bytes {position} to {position + length}: only {self.first_position} (entry "
            f"{self.first_index}) to {limit} are kept"
        )

    def scrub(self, from_position: int, max_bytes: int) -> Scrubbed:
        """Verify the entries from about `from_position` on again, max_bytes of them at a time.

        For a task in the background that finds rot in cold entries while the other members still
        have them; how fast is the caller's business. Any position will do (0 to begin with): what
        was dropped is passed over, and the middle of an entry counts as its start. At least one
        entry is read, so memory is bounded by max_bytes and the largest entry. What the page cache
        holds is verified there, not on the disk.

        Any thread. Blocks. Raises Corrupt, with the place; OSError.
        """
        while True:
            with self._lock:
                cuts, start, limit = self._cuts_asked, self._start, self._readable()
                position = max(from_position, start.position)
                if position >= limit:
                    return Scrubbed(start_position=limit, stop_position=limit, at_end=True)
                anchor = self._anchors.floor_position(position)
            try:
                stop = self._scrub(anchor, position, max_bytes, limit)
            except (Corrupt, FileNotFoundError):
                if cuts == self._cuts_asked and start is self._start:  # as in `read`
                    raise
            else:
                return Scrubbed(start_position=position, stop_position=stop, at_end=stop == limit)

    def _scrub(self, anchor: tuple[int, int], position: int, max_bytes: int, limit: int) -> int:
        index, start = anchor
        wanted = position - start + max(1, max_bytes)
        while True:
            found = self._walk(index, start, min(wanted, limit - start), limit)[1]
            if found.end.position > position:
                return found.end.position
            assert found.bad is not None  # the entry at `position` did not fit
            wanted = found.at + found.bad.needed

    def _readable(self) -> int:
        written = self._appender.end.position
        return written if self._ceiling is None else min(written, self._ceiling)

    def _read(self, anchor: tuple[int, int], first_index: int, max_bytes: int, limit: int) -> Run:
        index, start = anchor
        wanted = max_bytes if index == first_index else ANCHOR_SPACING_BYTES + max_bytes
        while start < limit:
            data, found = self._walk(index, start, min(wanted, limit - start), limit)
            needed = found.bad.needed if found.bad is not None else 0
            if found.end.index >= first_index or not needed:
                skipped = found.entries[first_index - index :]
                return Run(data=data, position=start, entries=_fitting(skipped, max_bytes))
            wanted = max(found.at + needed, wanted + ANCHOR_SPACING_BYTES)
        return Run(data=bytearray(), position=start, entries=())

    def _walk(self, index: int, start: int, size: int, limit: int) -> tuple[bytearray, Walk]:
        """Read and verify from an entry on; stops before one that needs more bytes."""
        data = bytearray(size)
        buffer = memoryview(data)
        got = self._segments.read_into(buffer, start)
        if got < size:
            raise self._corrupt(start + got, "file ends before the log does")
        found = _walk_from(buffer, index, start)
        if found.bad is not None and (not found.bad.needed or size == limit - start):
            raise self._corrupt(start + found.bad.at, found.bad.reason)
        return data, found

    def _corrupt(self, position: int, reason: str) -> Corrupt:
        file, offset = self._segments.locate(position)
        return Corrupt(file, offset, f"{reason} (log position {position})")


def _walk_from(buffer: memoryview, index: int, position: int) -> Walk:
    """Walk from an anchor: the crc before it is taken from the first entry itself."""
    if len(buffer) < ENTRY_HEADER_BYTES:
        return walk(buffer, End(index - 1, 0, position, 0))
    _index, _position, crc = peek_place(buffer)
    return walk(buffer, End(index - 1, 0, position, crc))


def _fitting(entries: Sequence[WalkedEntry], max_bytes: int) -> Sequence[WalkedEntry]:
    """As many of the first entries as fit, at least one."""
    if not entries:
        return entries
    first_start = entries[0][3]
    count = bisect_right(entries, max_bytes, key=lambda entry: entry[4] - first_start)
    return entries[: max(1, count)]
