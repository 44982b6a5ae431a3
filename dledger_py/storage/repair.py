"""Mending entries that rotted, with the bytes that other members have at the same positions.

Recovery refuses a log with damage among what was durable once. Where the damage is in entries only,
these can be had again: the log's bytes are the same on every member, and every entry names the crc
of the one before it, so a fetched run of entries that continues the last good one here and is
continued by the next good one is what stood here. What cannot be had from others (term and vote,
the start of the log, what was attested in the last file) still stops the member.

    mend = open_repair(files, directory, identity)
    for mending in mend.mendings:
        mending.begin()                             # copies what is good
        while not mending.complete:
            mending.take(...)                       # committed bytes from mending.wanted on
        mending.finish()
    mend.close()                                    # and recover again

Laws:

1. *A damaged file is rebuilt beside itself and takes its place by one rename.* Until then the old
   one is there, damaged and refused; afterwards the new one is, whole. So a crash at any point
   leaves what can be repaired from the beginning, and bad sectors are not written to again.
2. *Nothing ends sooner than it did.* A file in the middle must end exactly where the next one
   begins. The last must reach what was attested and what was committed; or hold a committed entry
   of a higher term than any attested one, for then what was attested behind it contradicts
   committed entries and was never committed itself.
3. *Good bytes here are used, not fetched*: before the damage, behind it and between two.
4. *No log is ahead of the term.* Entries of a higher term raise it, durably, before they count.
5. A file whose header is lost, and one that is missing, become part of the file before: what the
   header said follows from the chain. Files need not have one size.

Elsewhere: who is asked for the bytes, and that they are committed (the ledger).
"""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

from attrs import define, evolve, field, frozen

from dledger_py.storage.batch import BadBatch
from dledger_py.storage.birth import read_birth
from dledger_py.storage.files import File, FileSystem, Lock
from dledger_py.storage.formats import (
    ADVICE_UPGRADE,
    ENTRY_HEADER_BYTES,
    HEADER_BLOCK_BYTES,
    KIND_CONFIG,
    SUCCESSOR_OFFSET,
    Attest,
    Bad,
    Corrupt,
    End,
    Identity,
    WrongIdentity,
    attest_offset,
    encode_attest,
    segment_name,
    segment_start,
    walk,
)
from dledger_py.storage.hard_state import HARD_STATE_NAME, HardStateFile, read_hard_state
from dledger_py.storage.recovery import LOCK_NAME
from dledger_py.storage.survey import (
    SCAN_BYTES,
    SegmentFound,
    has_no_entry,
    read_at,
    read_header_block,
    walks,
)

REPAIR_NAME = "repair"  # the file that is being rebuilt


class Contradicted(Exception):
    """Committed entries contradict intact ones here: these were never committed. Kind: refused."""


@frozen(kw_only=True)
class Goal:
    """What a rebuilt file must reach. `exact`: it ends where the next one begins; without it the
    file is the last."""

    exact: End | None = None
    attested: Attest = Attest(0, 0, 0, 0)
    commit: int = 0
    newborn: int = 0

    def reached(self, end: End) -> bool:
        """**Raises** Contradicted if it cannot be reached from there any more."""
        exact = self.exact
        if exact is not None:
            if end == exact:
                return True
            if end.index >= exact.index or end.position >= exact.position:
                raise Contradicted(f"{end} where {exact} ended before")
            return False
        if end.index < self.commit or end.position < self.newborn:
            return False
        return end.term > self.attested.term or end.index >= self.attested.index


@define(eq=False)
class Mending:
    """One file to be rebuilt. Blocking; one thread at a time.

    `sources` are the files whose bytes may be good, in order, each with the position of its first
    byte behind the header block: the file itself, and those that become part of it.
    """

    _files: FileSystem
    _directory: str
    segment: SegmentFound
    goal: Goal
    _sources: list[tuple[str, int]]
    place: tuple[str, int]
    """File and offset of the first damage."""
    end: End = field(init=False)
    """Behind the last entry that is in the new file."""
    fetched: int = field(init=False, default=0)
    """Entries that came from others."""
    complete: bool = field(init=False, default=False)
    _partial: bytes = field(init=False, default=b"")
    _new: File | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.end = self.segment.header.before

    def begin(self) -> None:
        """Begin the new file with what is good. May be done again, to start anew."""
        self.abandon()
        path = f"{self._directory}/{REPAIR_NAME}"
        if REPAIR_NAME in self._files.list(self._directory):
            self._files.remove(path)
        self.end, self.fetched, self._partial = self.segment.header.before, 0, b""
        self.complete = False
        self._new = self._files.create(path)
        self._copy_good()

    @property
    def wanted(self) -> int:
        """The position of the next byte that has to be fetched."""
        return self.end.position + len(self._partial)

    def take(self, raw: bytes) -> None:
        """Take log bytes from `wanted` on.

        **Raises** BadBatch if they do not continue this log: then those of the last whole entry are
        wanted again, as its beginning may have come from another member and be what was wrong.
        Contradicted if they are committed and what follows here is not. OSError.
        """
        assert self._new is not None
        assert not self.complete
        exact = self.goal.exact
        if exact is not None:
            raw = raw[: exact.position - self.wanted]  # what the next file has is none of ours
        content = self._partial + raw
        walked = walk(content, self.end)
        if walked.bad is not None and not walked.bad.needed:
            self._partial = b""
            raise BadBatch(evolve(walked.bad, at=self.end.position + walked.bad.at))
        good = content[: walked.at]
        self._partial = content[walked.at :]
        if exact is not None and self._partial and self.wanted >= exact.position:
            raise Contradicted(f"an entry spans position {exact.position}, where a file begins")
        if not good:
            return
        self.fetched += len(walked.entries)
        self._append(good, walked.end)
        self._copy_good()
        if self.end != walked.end:
            self._partial = b""  # it was here, whole

    def finish(self) -> None:
        """The new file takes the old one's place. Durability: on disk on return."""
        assert self.complete
        new = self._new
        assert new is not None
        new.pwrite(self._header_block(), 0)
        new.fsync()
        self._raise_term()
        new.close()
        self._new = None
        self._files.rename(f"{self._directory}/{REPAIR_NAME}", self.segment.path)
        self._files.fsync_directory(self._directory)
        for path, _start in self._sources[1:]:
            self._files.remove(path)
        self._files.fsync_directory(self._directory)

    def _raise_term(self) -> None:
        """What was fetched may be of a higher term than this member has heard of. It has now, as
        if a leader had sent it; and before its log says so, since no log is ahead of the term."""
        record = read_hard_state(self._files, self._directory)
        if self.end.term > record.state.term:
            file = self._files.open(f"{self._directory}/{HARD_STATE_NAME}", write=True)
            try:
                HardStateFile(file, record).save(self.end.term, None, record.state.commit)
            finally:
                file.close()

    def abandon(self) -> None:
        """Let go of the new file."""
        if self._new is not None:
            self._new.close()
            self._new = None

    def _copy_good(self) -> None:
        """Copy the entries that continue the new file and are intact here.

        In the last file these may go on behind the goal: nobody attested them, but they were
        synced perhaps, and somebody was told.
        """
        before = None
        while before != self.end and not (self.complete and self.goal.exact is not None):
            before = self.end
            path, start = next(
                source for source in reversed(self._sources) if source[1] <= before.position
            )
            file = self._files.open(path)
            try:
                buffer = memoryview(bytearray(SCAN_BYTES))
                for walked, view, _offset, _bad in walks(file, start, before, buffer):
                    self._append(bytes(view[: walked.at]), walked.end)
            except Corrupt:
                pass  # the disk cannot read it: as good as rotten
            finally:
                file.close()

    def _append(self, raw: bytes, end: End) -> None:
        assert self._new is not None
        at = HEADER_BLOCK_BYTES + self.end.position - self.segment.start
        if raw:
            self._new.pwrite(raw, at)
        self.end = end
        self.complete = self.goal.reached(end)

    def _header_block(self) -> bytes:
        """As it was; the last file's slots claim what is there now."""
        file = self._files.open(self.segment.path)
        try:
            block = bytearray(read_at(file, HEADER_BLOCK_BYTES, 0))
        finally:
            file.close()
        if self.goal.exact is None:
            end = self.end
            for seq in (self.goal.attested.seq + 1, self.goal.attested.seq + 2):
                claim = encode_attest(Attest(seq, end.position, end.index, end.term))
                block[attest_offset(seq) : attest_offset(seq) + len(claim)] = claim
        return bytes(block)


@define(eq=False)
class Repair:
    """A directory that needs mending, locked. Made by `open_repair`. `configuration` is the payload
    of the last intact CONFIG entry, if there is any: it may tell where the others are. Whatever
    this log held lies below `end_position`."""

    mendings: tuple[Mending, ...]
    end_position: int
    birth: int
    configuration: bytes | None
    _lock: Lock

    def close(self) -> None:
        """Let go of everything; what was not finished is begun again next time."""
        for mending in self.mendings:
            mending.abandon()
        self._lock.release()


def open_repair(files: FileSystem, directory: str, identity: Identity) -> Repair:
    """What has to be rebuilt so that recovery accepts this directory; nothing if it should.

    Blocks: reads the whole log once, sequentially; changes nothing.
    Raises Corrupt for damage that other members' bytes cannot mend; WrongIdentity, DirectoryInUse,
    OSError.
    """
    lock = files.lock(f"{directory}/{LOCK_NAME}")
    try:
        examination = _Examination(files, directory, identity)
        mendings = tuple(examination.run())
        return Repair(
            mendings,
            examination.end_position,
            examination.birth,
            examination.configuration,
            lock,
        )
    except BaseException:
        lock.release()
        raise


@define(eq=False)
class _Examination:
    """One run of `open_repair`."""

    _files: FileSystem
    _directory: str
    _identity: Identity
    end_position: int = field(init=False, default=0)
    birth: int = field(init=False, default=0)
    configuration: bytes | None = field(init=False, default=None)
    _newborn: int = field(init=False, default=0)
    _headless: dict[int, Corrupt] = field(init=False, factory=dict)  # by the name's position

    def run(self) -> list[Mending]:
        found = self._segments()
        hard = read_hard_state(self._files, self._directory)
        self._check_identity(hard.identity)
        for segment in found:
            self._check_identity(segment.header.identity)
        with suppress(FileNotFoundError):  # older than births
            self.birth = read_birth(self._files, self._directory).number
        attested = max((a for s in found for a in s.attests), key=lambda attest: attest.seq)
        last_goal = Goal(attested=attested, commit=hard.state.commit, newborn=self._newborn)
        goals = [Goal(exact=following.header.before) for _, following in pairwise(found)]
        return [
            mending
            for segment, goal in zip(found, [*goals, last_goal], strict=True)
            if (mending := self._examine(segment, goal)) is not None
        ]

    def _segments(self) -> list[SegmentFound]:
        names = self._files.list(self._directory)
        starts = sorted(start for name in names if (start := segment_start(name)) is not None)
        found: list[SegmentFound] = []
        for start in reversed(starts):
            segment = self._header(start, is_last=start == starts[-1])
            if segment is None:
                continue
            found.append(segment)
            if segment.start_marks:
                break
        found.reverse()
        first = found[0] if found else None
        if first is None or (first.start and not first.start_marks):
            start = first.start if first is not None else 0
            reason = "the beginning of the log is missing, and only it tells where the log begins"
            raise self._headless.get(min(self._headless, default=-1)) or Corrupt(
                f"{self._directory}/{segment_name(start)}", 0, reason
            )
        self._headless = {at: e for at, e in self._headless.items() if at > first.start}
        last = found[-1]
        if any(start > last.start for start in self._headless):
            raise self._headless[max(self._headless)]
        if last.has_successor and not self._newborn:
            reason = "it is marked as followed by another file: that one is lost"
            raise Corrupt(last.path, SUCCESSOR_OFFSET, reason)
        return found

    def _header(self, start: int, *, is_last: bool) -> SegmentFound | None:
        path = f"{self._directory}/{segment_name(start)}"
        file = self._files.open(path)
        try:
            return read_header_block(file, start)
        except Corrupt as error:
            if error.advice == ADVICE_UPGRADE:
                raise
            if is_last and has_no_entry(file):
                self._newborn = start
            else:
                self._headless[start] = error
            return None
        finally:
            file.close()

    def _check_identity(self, found: Identity) -> None:
        if found != self._identity:
            raise WrongIdentity(f"{self._directory} belongs to {found}, not to {self._identity}")

    def _examine(self, segment: SegmentFound, goal: Goal) -> Mending | None:
        end, bad = self._good_end(segment)
        stop = goal.exact.position if goal.exact is not None else None
        lost = [
            (f"{self._directory}/{segment_name(start)}", start)
            for start in sorted(self._headless)
            if segment.start < start and (stop is None or start < stop)
        ]
        try:
            if goal.reached(end) and not lost:
                return None
        except Contradicted as error:
            raise Corrupt(segment.path, 0, str(error)) from error
        if bad is not None and bad.foreign:
            raise Corrupt(segment.path, bad.at, bad.reason, ADVICE_UPGRADE)
        return Mending(
            files=self._files,
            directory=self._directory,
            segment=segment,
            goal=goal,
            sources=[(segment.path, segment.start), *lost],
            place=(segment.path, HEADER_BLOCK_BYTES + end.position - segment.start),
        )

    def _good_end(self, segment: SegmentFound) -> tuple[End, Bad | None]:
        end, stopped = segment.header.before, None
        file = self._files.open(segment.path)
        buffer = memoryview(bytearray(SCAN_BYTES))
        self.end_position = max(segment.start, segment.start + file.size() - HEADER_BLOCK_BYTES)
        try:
            for walked, view, _offset, bad in walks(file, segment.start, end, buffer):
                end, stopped = walked.end, bad
                for _index, _term, kind, start, stop in walked.entries:
                    if kind == KIND_CONFIG:
                        self.configuration = bytes(view[start + ENTRY_HEADER_BYTES : stop])
        except Corrupt:
            pass  # the disk cannot read it: as good as rotten
        finally:
            file.close()
        return end, stopped
