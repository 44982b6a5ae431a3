"""The writer's half of a log: what is written in which order, and why that survives.

One group costs ``pwrite(entries) · pwrite(attest slot) · fdatasync``. The slot tells what was
synced *before* this group (`formats.Attest`), so it is true whichever part of the three reaches
the disk. The promises, crash point by crash point:

*Append.* Nothing of the group, any sectors of it, or all of it is there afterwards. Nobody was
told it is durable, and the newest readable slot claims at most the group before: recovery cuts
what is torn.

*Roll.* The full segment is synced; only then is the next one created, with a header whose slots
claim exactly that; header and directory are synced before the first entry goes in. A crash in
between leaves a last file without entries (perhaps without a readable header): recovery removes
it. A gap between files therefore never comes from a crash. Last, still before the first entry,
the full segment is marked as having a successor, and synced: a marked last file has lost one.

*Cut* to position P, below what slots claim now:

1. a slot with a claim lowered to P, in the segment that contains P; fdatasync.
   Crash before it is durable: old claim, old entries, all intact. After: the claim is weaker
   than the truth, the entries are still intact.
2. later segments removed, the last one first: the mark of the one before it is erased, synced,
   the file removed, the directory synced; so what remains is always without gaps, and the last
   file never says that one is missing. Crash: some of the old suffix is left; it is whole.
3. the file truncated to P; the other slot lowered too; fsync. Crash: the old suffix of this
   file is there or is not.
4. only now may new entries be written from P on. Would the claim still stand above P, a torn
   write of these would look like damage of durable entries; would the old bytes still be there,
   a crash could bring them back behind new ones.

In steps 1 to 3 recovery may return the old suffix, wholly or in part. That is right: whoever
asked for the cut has not been told that it happened.

A failed write or sync leaves `broken` set and is never tried again: after a failed fsync the
kernel may drop the pages and report success next time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from attrs import define, field

from dledger_py.storage.batch import Batch
from dledger_py.storage.files import File, FileSystem
from dledger_py.storage.formats import (
    HEADER_BLOCK_BYTES,
    NO_SUCCESSOR,
    SUCCESSOR_OFFSET,
    Attest,
    End,
    Identity,
    SegmentHeader,
    attest_offset,
    encode_attest,
    encode_header_block,
    encode_successor,
    peek_place,
    segment_name,
)
from dledger_py.storage.retention import mark_start, remove_dropped
from dledger_py.storage.segment import Segments
from dledger_py.storage.start_configuration import (
    remove_start_configurations,
    write_start_configuration,
)
from dledger_py.storage.summaries import remove_summaries


@define(eq=False)
class Appender:
    """Owns the active segment. Everything here is the writer's; `end`, `durable` and
    `claimed` are replaced whole, so other threads may look at them."""

    _files: FileSystem
    _segments: Segments
    _identity: Identity
    _segment_size_bytes: int
    _file: File
    end: End  # written
    durable: End  # synced
    claimed: Attest  # the newest slot
    broken: bool = field(default=False, init=False)

    def append(self, batches: Sequence[Batch]) -> list[tuple[End, End]]:
        """Write batches in one piece (one per segment), and the slot for what was synced before.

        Returns the ends of the log before and behind each segment that is full now.
        """
        full: list[tuple[End, End]] = []
        parts: list[bytes | memoryview] = []
        end = self.end
        for batch in batches:
            assert batch.before.position == end.position
            assert batch.before.crc == end.crc
            end = batch.end
            done = 0
            while (split := self._split(batch, done)) is not None:
                before = _end_before(batch, split)
                parts.append(memoryview(batch.data)[batch.starts[done] : batch.starts[split]])
                self._put(parts, before)
                full.append((self._segments.last, before))
                self._roll()
                parts, done = [], split
            parts.append(memoryview(batch.data)[batch.starts[done] :] if done else batch.data)
        self._put(parts, end)
        self._claim()
        return full

    def sync(self) -> None:
        """All that was written is durable on return."""
        end = self.end
        self._file.fdatasync()
        self.durable = end

    def attest(self) -> None:
        """Claim all that is durable, durably; no-op when claimed already."""
        if self._claim():
            self._file.fdatasync()

    def cut(self, end: End) -> None:
        """The log ends at `end`, durably; see the module about each step."""
        assert end.position <= self.end.position
        lowered = end if end.position < self.durable.position else self.durable
        self._enter_segment_of(end.position)
        self._write_slot(lowered)
        self._file.fdatasync()
        while self._segments.last.position > end.position:
            self._drop_last_segment()
        self._file.truncate(HEADER_BLOCK_BYTES + end.position - self._segments.last.position)
        self._write_slot(lowered)
        self._file.fsync()
        self.end = end
        self.durable = lowered

    def drop(self, before: End, configuration: tuple[int, bytes]) -> None:
        """The log begins behind `before`, where a segment does, durably; see `retention` and
        `start_configuration`.

        Readers must not be told of entries in the dropped segments any more.
        """
        segments = self._segments
        index, payload = configuration
        write_start_configuration(self._files, segments.directory, index, payload)
        mark_start(self._files, segments.path(before.position), before)
        paths, starts = [], []
        while segments.first.position < before.position:
            starts.append(segments.first.position)
            paths.append(segments.drop_first())
        remove_summaries(self._files, segments.directory, starts)
        remove_start_configurations(self._files, segments.directory, below=index)
        remove_dropped(self._files, segments.directory, paths)

    def close(self) -> None:
        self._file.close()

    def fits(self, batch: Batch) -> bool:
        """Whether all of its entries start in the active segment."""
        return self._split(batch, 0) is None

    def _split(self, batch: Batch, done: int) -> int | None:
        """The first entry (from `done` on) that starts behind a full segment's end, if any.

        An entry belongs to the segment it starts in, so the last one may overshoot the size.
        """
        full = self._segments.last.position + self._segment_size_bytes - batch.before.position
        if batch.starts[-1] < full:
            return None
        return bisect_left(batch.starts, full, done)

    def _put(self, parts: list[bytes | memoryview], end: End) -> None:
        size = end.position - self.end.position
        if not size:
            return
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        assert len(content) == size
        at = HEADER_BLOCK_BYTES + self.end.position - self._segments.last.position
        self._file.pwrite(content, at)
        self.end = end

    def _roll(self) -> None:
        self.sync()
        claim = Attest(self.claimed.seq + 1, self.end.position, self.end.index, self.end.term)
        file = create_segment(
            self._files, self._segments.directory, self._identity, self.end, claim
        )
        self.claimed = Attest(claim.seq + 1, claim.position, claim.index, claim.term)
        self._file.pwrite(encode_successor(self.end), SUCCESSOR_OFFSET)
        self._file.fdatasync()
        self._file.close()
        self._file = file
        self._segments.add(self.end)

    def _drop_last_segment(self) -> None:
        segments = self._segments
        start_before = segments.start_before_last()
        mark_successor(self._files, segments.path(start_before), NO_SUCCESSOR)
        remove_summaries(self._files, segments.directory, [start_before])
        path = segments.path(segments.last.position)
        segments.drop_last()
        self._files.remove(path)
        self._files.fsync_directory(segments.directory)

    def _enter_segment_of(self, position: int) -> None:
        start = self._segments.start_of(position)
        if start != self._segments.last.position:
            self._file.close()
            self._file = self._files.open(self._segments.path(start), write=True)

    def _claim(self) -> bool:
        if self.durable.position <= self.claimed.position:
            return False
        self._write_slot(self.durable)
        return True

    def _write_slot(self, durable: End) -> None:
        claim = Attest(self.claimed.seq + 1, durable.position, durable.index, durable.term)
        self._file.pwrite(encode_attest(claim), attest_offset(claim.seq))
        self.claimed = claim


def create_segment(
    files: FileSystem, directory: str, identity: Identity, before: End, claim: Attest
) -> File:
    """A new segment that continues `before`, open for writing; durable, its name too.

    Uses up the attest numbers claim.seq and claim.seq + 1.
    """
    file = files.create(f"{directory}/{segment_name(before.position)}")
    file.pwrite(encode_header_block(SegmentHeader(identity=identity, before=before), claim), 0)
    file.fsync()
    files.fsync_directory(directory)
    return file


def mark_successor(files: FileSystem, path: str, mark: bytes) -> None:
    """Set or erase the mark of a segment; durable on return."""
    file = files.open(path, write=True)
    try:
        file.pwrite(mark, SUCCESSOR_OFFSET)
        file.fdatasync()
    finally:
        file.close()


def _end_before(batch: Batch, entry: int) -> End:
    """The end of the log just before the batch's entry number `entry`."""
    if not entry:
        return batch.before
    index, position, crc = peek_place(batch.data, batch.starts[entry])
    run = bisect_right(batch.terms, (index - 1, 2**64)) - 1
    return End(index - 1, batch.terms[run][1], position, crc)
