"""Reading a log's files and judging what is there: nothing here changes anything.

What opening (`recovery`) and looking (`inspection`) share, so that both come to the same verdict:
header blocks, walks over entries, and the rule about what may be cut (told in `recovery`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import define, evolve, field, frozen

from dledger_py.storage.anchors import Anchors
from dledger_py.storage.files import File, FileSystem
from dledger_py.storage.formats import (
    EMPTY,
    ENTRY_HEADER_BYTES,
    HEADER_BLOCK_BYTES,
    KIND_CONFIG,
    Attest,
    Bad,
    Corrupt,
    End,
    SegmentHeader,
    Walk,
    attest_offset,
    count_starts,
    decode_attests,
    decode_segment_header,
    decode_successor,
    segment_name,
    segment_start,
    walk,
)
from dledger_py.storage.summaries import Summary, summarise

# Read at a time while scanning: large enough to hide a seek, small enough for the CPU's cache.
SCAN_BYTES = 1024 * 1024


@frozen
class SegmentFound:
    """A segment whose header could be read."""

    path: str
    header: SegmentHeader
    attests: list[Attest]
    has_successor: bool
    start_marks: int  # readable copies: the log begins here, what came before was dropped

    @property
    def start(self) -> int:
        return self.header.before.position


def read_header_block(file: File, start: int) -> SegmentFound:
    """The header block of the segment that its name says starts there. Raises Corrupt."""
    path = file.path
    block = read_at(file, HEADER_BLOCK_BYTES, 0)
    header = decode_segment_header(block, path)
    attests = decode_attests(block)
    if header.before.position != start:
        reason = f"header says start position {header.before.position}"
        raise Corrupt(path, 0, reason)
    if not attests:
        raise Corrupt(path, attest_offset(0), "no attest slot is readable")
    return SegmentFound(path, header, attests, decode_successor(block), count_starts(block, start))


def find_segments(
    files: FileSystem, directory: str, names: Sequence[str]
) -> list[SegmentFound | Corrupt]:
    """The segments of a log, in order; those before a start mark are no part of it."""
    found: list[SegmentFound | Corrupt] = []
    starts = sorted(start for name in names if (start := segment_start(name)) is not None)
    for start in reversed(starts):
        file = files.open(f"{directory}/{segment_name(start)}")
        try:
            segment = read_header_block(file, start)
        except Corrupt as error:
            found.append(error)
        else:
            found.append(segment)
            if segment.start_marks:
                break
        finally:
            file.close()
    return found[::-1]


@define(eq=False)
class Survey:
    """What a scan of entries learns. `bad.at` is an offset in the file; `configurations` are the
    payloads of the CONFIG entries by index."""

    attested: Attest
    end: End = EMPTY
    bad: Bad | None = None
    anchors: Anchors = field(factory=Anchors)
    terms: list[tuple[int, int]] = field(factory=list)
    configurations: list[tuple[int, bytes]] = field(factory=list)

    def take_summary(self, summary: Summary) -> None:
        """As `take` of all the entries that it tells of."""
        first = (summary.before.index + 1, summary.before.position)
        self.anchors.extend(first, summary.anchors)
        self.terms += (run for run in summary.terms if not self._goes_on(run))
        self.configurations += summary.configurations
        self.end = summary.end

    def _goes_on(self, run: tuple[int, int]) -> bool:
        return bool(self.terms) and self.terms[-1][1] == run[1]

    def summarise(self, before: End) -> Summary:
        """Of what was taken since the log ended there."""
        return summarise(before, self.end, self.anchors, self.terms, self.configurations)

    def take(self, walked: Walk, view: memoryview, path: str, offset: int) -> None:
        entries, before = walked.entries, self.end
        self.end = walked.end
        if not entries:
            return
        starts = [entry[3] for entry in entries]
        for index, _term, kind, start, stop in entries:
            if kind == KIND_CONFIG:
                payload = bytes(view[start + ENTRY_HEADER_BYTES : stop])
                self.configurations.append((index, payload))
        self.anchors.note(before.index + 1, before.position, starts)
        if not self.terms or self.terms[-1][1] != walked.end.term:
            for index, term, _kind, _start, _stop in entries:
                if not self.terms or self.terms[-1][1] != term:
                    self.terms.append((index, term))
        if before.index < self.attested.index <= walked.end.index:
            _index, term, _kind, start, stop = entries[self.attested.index - before.index - 1]
            if (term, before.position + stop) != (self.attested.term, self.attested.position):
                reason = (
                    f"entry {self.attested.index} of term {term} where the attested one has term "
                    f"{self.attested.term}: an old version of these bytes is back"
                )
                raise Corrupt(path, offset + start, reason)


def survey_segment(file: File, start: int, survey: Survey, buffer: memoryview) -> None:
    """Walk all entries of a segment; survey.bad tells what stopped it before the file's end."""
    for walked, view, offset, bad in walks(file, start, survey.end, buffer):
        survey.take(walked, view, file.path, offset)
        if bad is not None:
            survey.bad = bad


def walks(
    file: File, start: int, end: End, buffer: memoryview
) -> Iterator[tuple[Walk, memoryview, int, Bad | None]]:
    """Walk a segment from `end` on, one buffer (reused) after the other: (entries, the buffer
    they are in, its offset in the file, what stops the walk before the file's end).
    """
    wanted = len(buffer)
    while True:
        offset = HEADER_BLOCK_BYTES + end.position - start
        if wanted > len(buffer):
            buffer = memoryview(bytearray(wanted))
        got = read_into(file, buffer[:wanted], offset)
        if not got:
            return
        walked = walk(buffer[:got], end)
        bad = walked.bad
        stopped = bad is not None and (not bad.needed or got < wanted)
        told = evolve(bad, at=offset + bad.at) if bad is not None and stopped else None
        yield walked, buffer[:got], offset, told
        if stopped:
            return
        end = walked.end
        wanted = max(SCAN_BYTES, bad.needed if bad is not None else 0)


def check_continues(segment: SegmentFound, end: End) -> None:
    """Is this the segment that follows a log that ends there? Raises Corrupt."""
    before = segment.header.before
    if before.position != end.position:
        reason = (
            f"starts at position {before.position}, but the log before it ends at "
            f"{end.position}: a file is missing or too short"
        )
        raise Corrupt(segment.path, 0, reason)
    if before != end:
        raise Corrupt(segment.path, 0, f"continues {before}, but the log before it is {end}")


def check_end(last: SegmentFound, survey: Survey, commit: int, newborn: int | None) -> None:
    """May what follows the last good entry be cut? Raises Corrupt if not.

    `newborn`: start of a file behind it that holds no entries and has no readable header.
    """
    offset = HEADER_BLOCK_BYTES + survey.end.position - last.start
    reason = survey.bad.reason if survey.bad else "the file ends"
    if last.has_successor:
        reason += ", but it is marked as followed by another file: that one is lost"
        raise Corrupt(last.path, offset, reason)
    if survey.end.position < survey.attested.position:
        reason += (
            f", but everything up to position {survey.attested.position} (entry "
            f"{survey.attested.index}) was durable once"
        )
        raise Corrupt(last.path, offset, reason)
    if survey.end.index < commit:
        reason += f", but entries up to {commit} were committed"
        raise Corrupt(last.path, offset, reason)
    if newborn is not None and survey.end.position != newborn:
        reason += f", but the next file was begun at position {newborn}"
        raise Corrupt(last.path, offset, reason)


def has_no_entry(file: File) -> bool:
    """Whether only zeros follow the header block."""
    return is_zero(file, HEADER_BLOCK_BYTES)


def lone(path: str) -> Corrupt:
    """The only file of a log that does not begin with it."""
    reason = "the header is damaged or was never written, and no file comes before it"
    return Corrupt(path, 0, reason)


def is_zero(file: File, offset: int) -> bool:
    while content := read_at(file, SCAN_BYTES, offset):
        if content.count(0) != len(content):
            return False
        offset += len(content)
    return True


def read_at(file: File, size: int, offset: int) -> bytes:
    try:
        return file.pread(size, offset)
    except OSError as error:
        raise Corrupt(file.path, offset, f"the disk cannot read it: {error}") from error


def read_into(file: File, buffer: memoryview, offset: int) -> int:
    try:
        return file.pread_into(buffer, offset)
    except OSError as error:
        raise Corrupt(file.path, offset, f"the disk cannot read it: {error}") from error
