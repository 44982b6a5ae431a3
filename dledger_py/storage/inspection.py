"""Looking at a stopped member's directory: what is there, is it sound, what does damage mean.

Nothing is changed, and the verdict is that of the next start (`recovery`): damage is what it would
refuse, a torn tail is what it would cut. Both use `survey`. A start stops at the first damage;
`inspect` goes on behind it, each segment from what its own header says it continues, so that an
operator sees how much is hit.

Memory stays bounded: one buffer, one summary and a few findings per segment.

Elsewhere: how it looks on a screen (`dledger_py.cli.log_commands`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum

from attrs import define, field, frozen

from dledger_py.storage.files import File, FileSystem
from dledger_py.storage.formats import (
    ADVICE_UPGRADE,
    ATTEST_OFFSETS,
    EMPTY,
    ENTRY_HEADER,
    ENTRY_HEADER_BYTES,
    HARD_COPIES,
    HARD_FILE_BYTES,
    NEWBORN,
    START_OFFSETS,
    SUCCESSOR_OFFSET,
    Attest,
    Bad,
    Corrupt,
    End,
    HardRecord,
    HardState,
    Identity,
    count_hard_copies,
    segment_name,
    segment_start,
)
from dledger_py.storage.hard_state import HARD_STATE_NAME, read_hard_state
from dledger_py.storage.recovery import LOCK_NAME
from dledger_py.storage.survey import (
    SCAN_BYTES,
    SegmentFound,
    Survey,
    check_continues,
    check_end,
    find_segments,
    has_no_entry,
    is_zero,
    lone,
    read_at,
    survey_segment,
    walks,
)


class NoLog(Exception):
    """There is no such directory, or no log in it. Kind: refused."""


class Severity(Enum):
    NOTE = "note"  # mended, or finished, by the next start without a loss
    TORN = "torn tail"  # cut by the next start; nobody was told that it is durable
    DAMAGE = "damage"  # the next start refuses


@frozen(kw_only=True)
class Finding:
    """Something that is not as it was written. `index`: the first entry it concerns, if any."""

    severity: Severity
    file: str
    offset: int
    index: int | None
    reason: str
    meaning: str
    advice: str


@frozen(kw_only=True)
class SegmentSummary:
    """One segment file. The ends are those of its readable entries, which start at the front."""

    file: str
    size_bytes: int
    start_position: int
    end_position: int
    first_index: int
    last_index: int
    first_term: int
    last_term: int
    attested_position: int | None
    followed: bool
    starts_log: bool
    findings: tuple[Finding, ...]

    @property
    def entries(self) -> int:
        return self.last_index - self.first_index + 1


@frozen(kw_only=True)
class Inspection:
    """All that was found. What concerns the hard state and whole files comes first."""

    directory: str
    identity: Identity | None
    hard_state: HardState | None
    segments: tuple[SegmentSummary, ...]
    findings: tuple[Finding, ...]
    configuration: bytes | None
    """The payload of the last CONFIG entry that can be read."""

    @property
    def sound(self) -> bool:
        """The next start accepts it."""
        return not any(finding.severity is Severity.DAMAGE for finding in self.findings)

    @property
    def first_damage(self) -> Finding | None:
        damage = (each for each in self.findings if each.severity is Severity.DAMAGE)
        return next(damage, None)

    @property
    def torn_tail(self) -> Finding | None:
        torn = (each for each in self.findings if each.severity is Severity.TORN)
        return next(torn, None)


@frozen(kw_only=True)
class DumpedEntry:
    """One verified entry; `preview` is the beginning of its payload."""

    index: int
    term: int
    kind: int
    position: int
    size_bytes: int
    crc: int
    preview: bytes


def inspect(files: FileSystem, directory: str) -> Inspection:
    """Check everything in a stopped member's directory, changing nothing.

    Blocks: reads the whole log once. Raises NoLog; DirectoryInUse while a process has it open;
    OSError.
    """
    with _undisturbed(files, directory) as names:
        return _Inspector(files, directory, names).run()


def dump(
    files: FileSystem, directory: str, first_index: int = 1, *, preview_bytes: int = 0
) -> Iterator[DumpedEntry]:
    """The entries of a stopped member from `first_index` on, verified, in order.

    Ends where the log does. Raises Corrupt at the first entry that cannot be read (damage, or a
    torn tail: `inspect` tells which); NoLog; DirectoryInUse; OSError.
    """
    with _undisturbed(files, directory) as names:
        found = find_segments(files, directory, names)
        before: End | None = None
        for at, segment in enumerate(found):
            following = found[at + 1] if at + 1 < len(found) else None
            if isinstance(segment, Corrupt):
                if following is None and _may_be_newborn(files, segment):
                    return
                raise segment
            if isinstance(following, SegmentFound) and following.header.before.index < first_index:
                continue
            if before is not None:
                check_continues(segment, before)
            before = segment.header.before
            file = files.open(segment.path)
            try:
                for entry, end in _entries(file, segment, preview_bytes):
                    before = end
                    if entry.index >= first_index:
                        yield entry
            finally:
                file.close()


@contextmanager
def _undisturbed(files: FileSystem, directory: str) -> Iterator[list[str]]:
    """The names in the directory, which no process opens meanwhile."""
    try:
        names = files.list(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoLog(f"{directory}: no such directory") from error
    if HARD_STATE_NAME not in names and not any(segment_start(name) is not None for name in names):
        raise NoLog(f"{directory}: no log in it (neither {HARD_STATE_NAME} nor {segment_name(0)})")
    with ExitStack() as after:
        if LOCK_NAME in names:  # taking it would create it otherwise; nobody was ever here then
            after.callback(files.lock(f"{directory}/{LOCK_NAME}").release)
            names = files.list(directory)
        yield names


def _entries(
    file: File, segment: SegmentFound, preview_bytes: int
) -> Iterator[tuple[DumpedEntry, End]]:
    buffer = memoryview(bytearray(SCAN_BYTES))
    end = segment.header.before
    for walked, view, _offset, bad in walks(file, segment.start, end, buffer):
        position = end.position
        for index, term, kind, start, stop in walked.entries:
            crc = ENTRY_HEADER.unpack_from(view, start)[8]
            body = start + ENTRY_HEADER_BYTES
            entry = DumpedEntry(
                index=index,
                term=term,
                kind=kind,
                position=position + start,
                size_bytes=stop - body,
                crc=crc,
                preview=bytes(view[body : min(stop, body + preview_bytes)]),
            )
            yield entry, End(index, term, position + stop, crc)
        end = walked.end
        if bad is not None and not is_zero(file, bad.at):
            raise Corrupt(file.path, bad.at, bad.reason, "dledger log verify says what it means")


def _may_be_newborn(files: FileSystem, damage: Corrupt) -> bool:
    """Whether the last file's unreadable header may come from a crash while it was created."""
    if damage.advice == ADVICE_UPGRADE:
        return False
    file = files.open(damage.file)
    try:
        return has_no_entry(file)
    finally:
        file.close()


@define(eq=False)
class _Inspector:
    """One run of `inspect`."""

    _files: FileSystem
    _directory: str
    _names: list[str]
    _summaries: list[SegmentSummary] = field(init=False, factory=list)
    _findings: list[Finding] = field(init=False, factory=list)
    _configuration: bytes | None = field(init=False, default=None)

    def run(self) -> Inspection:
        found = find_segments(self._files, self._directory, self._names)
        newborn = self._newborn(found)
        if newborn is not None:
            del found[-1]
        readable = [segment for segment in found if isinstance(segment, SegmentFound)]
        record = self._hard_state(anything=bool(found), newborn=newborn)
        identity = record.identity if record is not None else None
        if identity is None and readable:
            identity = readable[0].header.identity
        self._dropped(readable)
        claims = (attest for segment in readable for attest in segment.attests)
        attested = max(claims, key=lambda attest: attest.seq, default=Attest(0, 0, 0, 0))
        commit = record.state.commit if record is not None else 0
        starts_late = bool(readable) and readable[0].start_marks > 0
        end: End | None = readable[0].header.before if starts_late else EMPTY
        for segment in found:
            if isinstance(segment, Corrupt):
                self._damaged(segment, None)
                end = None
                continue
            is_last = segment is found[-1]
            self._identity_of(segment, identity)
            end = self._segment(segment, end, attested, None if not is_last else (commit, newborn))
        return Inspection(
            directory=self._directory,
            identity=identity,
            hard_state=record.state if record is not None else None,
            segments=tuple(self._summaries),
            findings=tuple(self._findings),
            configuration=self._configuration,
        )

    # -- one segment

    def _segment(
        self,
        segment: SegmentFound,
        before: End | None,
        attested: Attest,
        last: tuple[int, int | None] | None,
    ) -> End | None:
        """Where it ends, or None if that cannot be told. `last`: commit hint, newborn."""
        findings_before = len(self._findings)
        if before is not None:
            try:
                check_continues(segment, before)
            except Corrupt as error:
                self._damaged(error, segment.header.before.index + 1)
        survey = Survey(attested, segment.header.before)
        file = self._files.open(segment.path)
        try:
            size = file.size()
            whole = self._survey(file, segment, survey, last)
        finally:
            file.close()
        if survey.configurations:
            self._configuration = survey.configurations[-1][1]
        self._header_notes(segment, is_last=last is not None)
        self._summaries.append(
            SegmentSummary(
                file=segment.path,
                size_bytes=size,
                start_position=segment.start,
                end_position=survey.end.position,
                first_index=segment.header.before.index + 1,
                last_index=survey.end.index,
                first_term=survey.terms[0][1] if survey.terms else 0,
                last_term=survey.end.term if survey.terms else 0,
                attested_position=max(segment.attests, key=lambda attest: attest.seq).position,
                followed=segment.has_successor,
                starts_log=bool(segment.start_marks),
                findings=tuple(self._findings[findings_before:]),
            )
        )
        return survey.end if whole else None

    def _survey(
        self,
        file: File,
        segment: SegmentFound,
        survey: Survey,
        last: tuple[int, int | None] | None,
    ) -> bool:
        try:
            survey_segment(file, segment.start, survey, memoryview(bytearray(SCAN_BYTES)))
            bad = survey.bad
            if bad is not None and (bad.foreign or last is None):
                advice = ADVICE_UPGRADE if bad.foreign else None
                raise Corrupt(segment.path, bad.at, bad.reason, advice)
            if last is not None:
                check_end(segment, survey, *last)
        except Corrupt as error:
            self._damaged(error, survey.end.index + 1)
            return False
        if bad is not None and not is_zero(file, bad.at):
            self._torn(file, bad, survey.end)
        return True

    def _torn(self, file: File, bad: Bad, end: End) -> None:
        self._findings.append(
            Finding(
                severity=Severity.TORN,
                file=file.path,
                offset=bad.at,
                index=end.index + 1,
                reason=bad.reason,
                meaning=(
                    f"{file.size() - bad.at} bytes of a write that was cut short: they were never "
                    f"synced, so nobody was told that they are durable"
                ),
                advice="nothing to do: the next start cuts them off and says so",
            )
        )

    def _header_notes(self, segment: SegmentFound, *, is_last: bool) -> None:
        if len(segment.attests) < len(ATTEST_OFFSETS):
            reason = "one of two attest slots is unreadable"
            self._note(segment.path, ATTEST_OFFSETS[0], reason, "the other one counts")
        if 0 < segment.start_marks < len(START_OFFSETS):
            reason = "one of two copies of the start mark is unreadable"
            self._note(segment.path, START_OFFSETS[0], reason, "the next start writes both again")
        if not is_last and not segment.has_successor:
            reason = "not marked as followed, but it is"
            meaning = "a crash in a cut or a roll; the next start sets the mark again"
            self._note(segment.path, SUCCESSOR_OFFSET, reason, meaning)

    def _identity_of(self, segment: SegmentFound, identity: Identity | None) -> None:
        own = segment.header.identity
        if own != identity:
            reason = f"belongs to {own}, the hard state or the first file to {identity}"
            self._damaged(Corrupt(segment.path, 40, reason), None)

    # -- the rest

    def _newborn(self, found: list[SegmentFound | Corrupt]) -> int | None:
        """The start of a last file that was never used."""
        last = found[-1] if found else None
        if not isinstance(last, Corrupt) or not _may_be_newborn(self._files, last):
            return None
        start = segment_start(last.file.rpartition("/")[2])
        if len(found) == 1 and start:
            found[0] = lone(last.file)
            return None
        meaning = "a crash while it was created; the next start removes it"
        self._note(last.file, last.offset, last.reason, meaning)
        return start

    def _hard_state(self, *, anything: bool, newborn: int | None) -> HardRecord | None:
        path = f"{self._directory}/{HARD_STATE_NAME}"
        if HARD_STATE_NAME not in self._names:
            if anything:
                reason = "term and vote are missing beside a log (they are created before it)"
                self._damaged(Corrupt(path, 0, reason), None)
            return None
        try:
            record = read_hard_state(self._files, self._directory)
        except Corrupt as error:
            if anything or error.advice == ADVICE_UPGRADE:
                self._damaged(error, None)
            else:
                meaning = "a crash while the directory was created; the next start begins anew"
                self._note(path, error.offset, error.reason, meaning)
            return None
        if not anything and record.state != NEWBORN:
            reason = f"knows term {record.state.term}, but its log has no readable segment"
            self._damaged(Corrupt(path, 0, reason), None)
        self._hard_copies(path)
        return record

    def _hard_copies(self, path: str) -> None:
        file = self._files.open(path)
        try:
            copies = count_hard_copies(read_at(file, HARD_FILE_BYTES, 0), path)
        finally:
            file.close()
        if copies < 2 * len(HARD_COPIES):
            reason = f"{copies} of {2 * len(HARD_COPIES)} copies of term and vote are readable"
            self._note(path, 0, reason, "each slot has one, which counts; saving writes them again")

    def _dropped(self, readable: list[SegmentFound]) -> None:
        """Files that an interrupted drop has left before the first segment."""
        first = readable[0].start if readable and readable[0].start_marks else 0
        for name in self._names:
            start = segment_start(name)
            if start is not None and start < first:
                reason = f"before the first segment of the log, which starts at position {first}"
                meaning = "dropped on purpose; the next start removes it"
                self._note(f"{self._directory}/{name}", 0, reason, meaning)

    def _note(self, file: str, offset: int, reason: str, meaning: str) -> None:
        self._findings.append(
            Finding(
                severity=Severity.NOTE,
                file=file,
                offset=offset,
                index=None,
                reason=reason,
                meaning=meaning,
                advice="nothing to do",
            )
        )

    def _damaged(self, error: Corrupt, index: int | None) -> None:
        newer = error.advice == ADVICE_UPGRADE
        self._findings.append(
            Finding(
                severity=Severity.DAMAGE,
                file=error.file,
                offset=error.offset,
                index=index,
                reason=error.reason,
                meaning=(
                    "written by a newer version: this one refuses to start on it"
                    if newer
                    else "corruption, not a crash: these bytes are not what was once durable here, "
                    "so the member refuses to start rather than forget what others rely on"
                ),
                advice=error.advice.removeprefix("Nothing was changed. "),
            )
        )
