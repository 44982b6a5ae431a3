"""Opening a directory: what is there, is it whole, and what may be cut.

The rule: bytes that somebody may have been told are durable are never cut. The attest slots say
up to where everything was synced once; the hard state says how far entries were committed.
Damage below either is Corrupt. Damage behind both is the torn tail of a group that nobody can
have been told about, and is cut and reported. (One group is between the two: the last before a
crash was synced but not yet attested. Rot in exactly that group, before the next one is written
or the log has been idle for 100 ms, passes for a torn write unless its entries were committed
and the hard state says so.)

A segment that another one follows is not read where its summary tells what is in it (`summaries`):
a start takes as long for ten gigabytes as for one. Rot in there is found where those bytes are read
next, at the latest by whoever scrubs, or here with `check_all`.

First everything is read and judged, then mended; Corrupt and WrongIdentity leave all as it was.
Mending can be cut short at any point and begun again. It ends with everything durable and
attested: what was found behind the attested end may be in the page cache only (the process was
killed before its sync, or its sync failed and the kernel dropped the pages), so these bytes are
written once more and synced before anyone relies on them.

Elsewhere: reading and the checks themselves (`survey`), the order of writes that makes this
sufficient (`appender`, `retention`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise, zip_longest
from secrets import randbits

from attrs import define, field, frozen

from dledger_py.storage.appender import Appender, create_segment, mark_successor
from dledger_py.storage.birth import BIRTH_BITS, Birth, create_birth, read_birth
from dledger_py.storage.files import File, FileSystem, Lock
from dledger_py.storage.formats import (
    ADVICE_UPGRADE,
    EMPTY,
    HEADER_BLOCK_BYTES,
    NEWBORN,
    START_OFFSETS,
    Attest,
    Corrupt,
    HardRecord,
    HardState,
    Identity,
    WrongIdentity,
    attest_offset,
    encode_attest,
    encode_segment_header,
    encode_successor,
    segment_name,
    segment_start,
)
from dledger_py.storage.hard_state import (
    HARD_STATE_NAME,
    HardStateFile,
    create_hard_state,
    read_hard_state,
)
from dledger_py.storage.log import Log
from dledger_py.storage.retention import mark_start, remove_dropped
from dledger_py.storage.segment import Segments
from dledger_py.storage.start_configuration import read_start_configuration
from dledger_py.storage.summaries import (
    Summary,
    fits,
    read_summary,
    remove_summaries,
    summary_starts,
    write_summary,
)
from dledger_py.storage.survey import (
    SCAN_BYTES,
    SegmentFound,
    Survey,
    check_continues,
    check_end,
    has_no_entry,
    is_zero,
    lone,
    read_at,
    read_header_block,
    survey_segment,
)
from dledger_py.storage.switching import finish_switch

LOCK_NAME = "LOCK"

# RocketMQ's segments have 1 GiB, mapped; ours are only written and read, and a smaller one frees
# space sooner and is scanned sooner. An entry never spans two.
SEGMENT_SIZE_BYTES = 64 * 1024 * 1024


@frozen(kw_only=True)
class CutReport:
    """A torn tail was dropped while opening: for a log line, at WARNING."""

    file: str
    offset: int
    position: int
    size_bytes: int
    reason: str


@frozen(kw_only=True)
class Recovered:
    """An opened directory. `hard_state` is what was loaded; later ones are in the file object.
    `configurations` are the payloads of the log's CONFIG entries, by index, in order; if its front
    was dropped, before them the one that was in force."""

    log: Log
    hard_state: HardState
    hard_state_file: HardStateFile
    birth: Birth
    configurations: tuple[tuple[int, bytes], ...]
    cut: CutReport | None
    created: bool  # the directory was empty: a new member, or one that lost its disk
    checked_bytes: int  # of the log: what was read and verified

    def close(self) -> None:
        """Close log and hard state, and release the directory. The writer's."""
        try:
            self.hard_state_file.close()
        finally:
            self.log.close()


def recover(
    files: FileSystem,
    directory: str,
    identity: Identity,
    segment_size_bytes: int = SEGMENT_SIZE_BYTES,
    *,
    check_all: bool = False,
    random_bits: Callable[[int], int] = randbits,
) -> Recovered:
    """Open (or create) one member's directory, verify what is in it, lock it. With `check_all`
    every entry, whatever summaries say.

    Everything in the returned log and hard state is durable. A new directory's
    birth is taken from `random_bits`.

    Blocks: reads the last segment and those without a summary once, sequentially.
    Raises Corrupt; DirectoryInUse when another process has it open; WrongIdentity when it belongs
    to another cluster, group or member; OSError.
    """
    assert segment_size_bytes > 0
    files.make_directory(directory)
    lock = files.lock(f"{directory}/{LOCK_NAME}")
    with ExitStack() as on_failure:
        on_failure.callback(lock.release)
        finish_switch(files, directory)
        opening = _Opening(
            files, directory, identity, segment_size_bytes, lock, random_bits, check_all
        )
        recovered = opening.open()
        on_failure.pop_all()
    return recovered


@define(eq=False)
class _Opening:
    """One run of recovery."""

    _files: FileSystem
    _directory: str
    _identity: Identity
    _segment_size_bytes: int
    _lock: Lock
    _random_bits: Callable[[int], int]
    _check_all: bool
    _newborn: int | None = field(init=False, default=None)  # start of a last file without entries
    _dropped: list[str] = field(init=False, factory=list)  # files that retention had not removed
    _summaries: list[Summary] = field(init=False, factory=list)  # to be written
    _checked_bytes: int = field(init=False, default=0)

    def open(self) -> Recovered:
        found = self._find_segments()
        if not found:
            if self._newborn:
                raise lone(self._path(self._newborn))
            return self._create()
        record = self._hard_record()
        self._check_identity(record.identity, HARD_STATE_NAME)
        for segment in found:
            self._check_identity(segment.header.identity, segment.path)
        attested = max((a for s in found for a in s.attests), key=lambda attest: attest.seq)
        survey = self._scan(found, attested)
        check_end(found[-1], survey, record.state.commit, self._newborn)
        birth = self._birth()
        self._take_start_configuration(found[0], survey)
        cut = self._mend(found, survey)
        if birth is None:
            birth = Birth(self._chosen_birth(), older=True)
            create_birth(self._files, self._directory, birth)
        return self._opened(found, survey, cut, record, birth, created=False)

    def _path(self, start: int) -> str:
        return f"{self._directory}/{segment_name(start)}"

    # -- reading and judging

    def _find_segments(self) -> list[SegmentFound]:
        names = self._files.list(self._directory)
        starts = sorted(start for name in names if (start := segment_start(name)) is not None)
        found: list[SegmentFound] = []
        for start in reversed(starts):
            if found and found[-1].start_marks:
                self._dropped.append(self._path(start))
                continue
            segment = self._read_header(start, is_last=start == starts[-1])
            if segment is not None:
                found.append(segment)
        return found[::-1]

    def _read_header(self, start: int, *, is_last: bool) -> SegmentFound | None:
        file = self._files.open(self._path(start))
        try:
            return read_header_block(file, start)
        except Corrupt as error:
            # A crash while a segment is created leaves this, before any entry was in it.
            if error.advice == ADVICE_UPGRADE or not is_last or not has_no_entry(file):
                raise
            self._newborn = start
            return None
        finally:
            file.close()

    def _hard_record(self) -> HardRecord:
        try:
            return read_hard_state(self._files, self._directory)
        except FileNotFoundError as error:
            path = f"{self._directory}/{HARD_STATE_NAME}"
            reason = "term and vote are missing beside a log (they are created before it)"
            raise Corrupt(path, 0, reason) from error

    def _take_start_configuration(self, first: SegmentFound, survey: Survey) -> None:
        if first.start == 0:
            return
        index, payload = read_start_configuration(self._files, self._directory)
        # One of a later index is committed, so that nobody asks any more what was before it.
        index = min(index, first.header.before.index)
        survey.configurations.insert(0, (index, payload))

    def _birth(self) -> Birth | None:
        try:
            return read_birth(self._files, self._directory)
        except FileNotFoundError:
            return None

    def _chosen_birth(self) -> int:
        return 1 + self._random_bits(BIRTH_BITS)  # 0 stands for none

    def _check_identity(self, found: Identity, file: str) -> None:
        if found != self._identity:
            raise WrongIdentity(
                f"{self._directory} ({file}) belongs to {found}; this process is {self._identity}. "
                f"Nothing was changed; check the data directory setting"
            )

    def _scan(self, found: list[SegmentFound], attested: Attest) -> Survey:
        survey = Survey(attested, found[0].header.before if found[0].start_marks else EMPTY)
        buffer = memoryview(bytearray(SCAN_BYTES))
        for segment, following in zip_longest(found, found[1:]):
            check_continues(segment, survey.end)
            file = self._files.open(segment.path)
            try:
                if following is not None:
                    summary = self._summary_of(segment, following, file, attested)
                    if summary is not None:
                        survey.take_summary(summary)
                        continue
                survey_segment(file, segment.start, survey, buffer)
            finally:
                file.close()
            self._checked_bytes += survey.end.position - segment.start
            bad = survey.bad
            if bad is not None and (bad.foreign or following is not None):
                advice = ADVICE_UPGRADE if bad.foreign else None
                raise Corrupt(segment.path, bad.at, bad.reason, advice)
            if following is not None:
                self._summaries.append(survey.summarise(segment.header.before))
        return survey

    def _summary_of(
        self, segment: SegmentFound, following: SegmentFound, file: File, attested: Attest
    ) -> Summary | None:
        """What makes reading it needless; None if it has to be read."""
        before, end = segment.header.before, following.header.before
        if self._check_all or attested.position < end.position:
            return None
        if attested.position == end.position and (attested.index, attested.term) != (
            end.index,
            end.term,
        ):
            return None  # reading it tells what is wrong
        summary = read_summary(self._files, self._directory, segment.start)
        try:
            fitting = summary is not None and fits(summary, before, end, file)
        except OSError:
            return None  # likewise
        return summary if fitting else None

    # -- mending

    def _mend(self, found: list[SegmentFound], survey: Survey) -> CutReport | None:
        if self._newborn is not None:
            self._files.remove(self._path(self._newborn))
        first = found[0]
        if self._dropped or 0 < first.start_marks < len(START_OFFSETS):
            mark_start(self._files, first.path, first.header.before)
        # Syncs the directory in any case: a killed process may have created or removed names
        # without a sync.
        remove_dropped(self._files, self._directory, self._dropped)
        self._mend_summaries(found)
        last = found[-1]
        file = self._files.open(last.path, write=True)
        try:
            cut = _drop_tail(file, last.start, survey)
        finally:
            file.close()
        # Only in the last segment: the others were synced before their successors were created.
        self._write_again(last, survey.attested.position, survey.end.position)
        # Only now is each successor, its name and its header, sure to be there.
        for segment, following in pairwise(found):
            if not segment.has_successor:
                mark_successor(self._files, segment.path, encode_successor(following.header.before))
        return cut

    def _mend_summaries(self, found: list[SegmentFound]) -> None:
        sealed = {segment.start for segment in found[:-1]}
        stale = set(summary_starts(self._files, self._directory)) - sealed
        remove_summaries(self._files, self._directory, sorted(stale))
        for summary in self._summaries:
            write_summary(self._files, self._directory, summary)

    def _write_again(self, segment: SegmentFound, attested: int, stop: int) -> None:
        """Identical bytes over what may never have reached the disk, then a sync."""
        file = self._files.open(segment.path, write=True)
        try:
            file.pwrite(encode_segment_header(segment.header), 0)
            position = max(attested, segment.start)
            while position < stop:
                at = HEADER_BLOCK_BYTES + position - segment.start
                content = read_at(file, min(SCAN_BYTES, stop - position), at)
                file.pwrite(content, at)
                position += len(content)
            file.fsync()
        finally:
            file.close()

    def _opened(
        self,
        found: list[SegmentFound],
        survey: Survey,
        cut: CutReport | None,
        record: HardRecord,
        birth: Birth,
        *,
        created: bool,
    ) -> Recovered:
        end = survey.end
        file = self._files.open(found[-1].path, write=True)
        seq = survey.attested.seq
        for _slot in range(2):  # both, so that a torn or rotten one is whole again
            seq += 1
            claim = Attest(seq, end.position, end.index, end.term)
            file.pwrite(encode_attest(claim), attest_offset(seq))
            file.fdatasync()
        hard_path = f"{self._directory}/{HARD_STATE_NAME}"
        hard_state_file = HardStateFile(self._files.open(hard_path, write=True), record)
        hard_state_file.save_again()
        segments = Segments(self._files, self._directory, [s.header.before for s in found])
        appender = Appender(
            files=self._files,
            segments=segments,
            identity=self._identity,
            segment_size_bytes=self._segment_size_bytes,
            file=file,
            end=end,
            durable=end,
            claimed=claim,
        )
        log = Log(
            self._files,
            appender=appender,
            segments=segments,
            anchors=survey.anchors,
            terms=survey.terms,
            configurations=survey.configurations,
            start=found[0].header.before,
            lock=self._lock,
        )
        return Recovered(
            log=log,
            hard_state=record.state,
            hard_state_file=hard_state_file,
            birth=birth,
            configurations=tuple(survey.configurations),
            cut=cut,
            created=created,
            checked_bytes=self._checked_bytes,
        )

    # -- creating

    def _create(self) -> Recovered:
        """An empty log. The hard state becomes durable before the first segment exists, so that
        a log without one is always damage, and a hard state that voted always has a log; and the
        birth before both, so that none of them ever passes for a folder older than births."""
        if HARD_STATE_NAME in self._files.list(self._directory):
            self._check_never_used()
            self._files.remove(f"{self._directory}/{HARD_STATE_NAME}")
        if self._newborn is not None:
            self._files.remove(self._path(self._newborn))
        self._files.fsync_directory(self._directory)
        birth = Birth(self._chosen_birth(), older=False)
        create_birth(self._files, self._directory, birth)
        create_hard_state(self._files, self._directory, self._identity)
        claim = Attest(0, 0, 0, 0)
        create_segment(self._files, self._directory, self._identity, EMPTY, claim).close()
        record = read_hard_state(self._files, self._directory)
        found = self._find_segments()
        survey = Survey(found[0].attests[-1])
        return self._opened(found, survey, None, record, birth, created=True)

    def _check_never_used(self) -> None:
        path = f"{self._directory}/{HARD_STATE_NAME}"
        try:
            record = read_hard_state(self._files, self._directory)
        except Corrupt as error:
            if error.advice == ADVICE_UPGRADE:
                raise
            return  # torn while it was created: nobody ever voted with it
        self._check_identity(record.identity, HARD_STATE_NAME)
        if record.state != NEWBORN:
            reason = f"knows term {record.state.term}, but its log has no readable segment"
            raise Corrupt(path, 0, reason)


def _drop_tail(file: File, start: int, survey: Survey) -> CutReport | None:
    """Truncate behind the last good entry. A zero-filled remainder is dropped without a report:
    it never held anything."""
    offset = HEADER_BLOCK_BYTES + survey.end.position - start
    size = file.size() - offset
    blank = is_zero(file, offset)
    file.truncate(offset)
    if size == 0 or blank:
        return None
    return CutReport(
        file=file.path,
        offset=offset,
        position=survey.end.position,
        size_bytes=size,
        reason=survey.bad.reason if survey.bad is not None else "unknown",
    )
