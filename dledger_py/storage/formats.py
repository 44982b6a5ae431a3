"""Every byte the log keeps on disk: segment header, attest slot, entry, hard state. Pure.

Laws:

1. *Positions are logical.* A position is a byte offset in the contiguous sequence of entries and
   is the same on every member. Segment files put a header block of 4096 bytes before their
   entries, so ``file offset = position - start_position + HEADER_BLOCK_BYTES``. What differs
   between members (identity, attest slots) lives in the header block only.
2. *Every entry is chained.* An entry names its own index and position and the CRC of the entry
   before it, so bytes that were once valid elsewhere (an old suffix, a recycled block) never
   pass for the continuation of this log.
3. *A sector is the unit that tears.* What is written in place is repeated or alternated between
   sectors of 512 bytes, so that one torn or rotten sector never takes the only copy with it.
4. *Versions are refused, not guessed.* Bytes with a good CRC and an unknown version or kind are
   ``Corrupt`` for this program: cutting them off would throw away what a newer one wrote.

CRCs are CRC-32C (Castagnoli), which the `crc32c` package computes in hardware. All integers are
big-endian and unsigned. docs/formats.md shows the same layouts as tables.

Elsewhere: who writes what when (`appender`), what an unreadable byte means (`recovery`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Protocol

from attrs import evolve, field, frozen
from crc32c import crc32c

SECTOR_BYTES = 512
HEADER_BLOCK_BYTES = 4096

# --------------------------------------------------------------------------- errors


class Corrupt(Exception):
    """Bytes on disk are not what was once made durable there. Kind: stop.

    The process must end, and no entry may be cut away to "repair" the member: an entry that
    others were told is durable may be among the damaged ones. `advice` says what an operator
    can do.
    """

    def __init__(self, file: str, offset: int, reason: str, advice: str | None = None) -> None:
        self.file = file
        self.offset = offset
        self.reason = reason
        self.advice = advice or ADVICE_REPLACE
        super().__init__(f"{file}, byte {offset}: {reason}. {self.advice}")


ADVICE_REPLACE = (
    "Nothing was changed. Keep a copy of this directory, check the disk, restore the directory "
    "from a backup or remove this member and add it again under a new member id; never empty "
    "the directory and start the same member id on it"
)
ADVICE_UPGRADE = "Nothing was changed. Start the version that wrote this directory, or a newer one"


class LogFailed(Exception):
    """An earlier write or sync failed, so nothing more is written here. Kind: stop."""


class WrongIdentity(Exception):
    """The directory belongs to another cluster, group or member. Kind: refused; no change made."""


# --------------------------------------------------------------------------- identity

ID_MAX_BYTES = 64  # each of cluster, group, member and vote, as UTF-8; fixed width on disk


def _check_id(_instance: object, attribute: object, value: str) -> None:
    if not value or "\0" in value or len(value.encode()) > ID_MAX_BYTES:
        name = getattr(attribute, "name", "id")
        raise ValueError(f"{name} {value!r}: 1 to {ID_MAX_BYTES} bytes of UTF-8, no NUL, expected")


@frozen(kw_only=True)
class Identity:
    """Whose directory this is; stands in every segment header and every hard-state record."""

    cluster: str = field(validator=_check_id)
    group: str = field(validator=_check_id)
    member: str = field(validator=_check_id)

    def __str__(self) -> str:
        return f"cluster {self.cluster!r}, group {self.group!r}, member {self.member!r}"


# --------------------------------------------------------------------------- the end of a log


@frozen
class End:
    """Where a log ends: its last entry and the position just behind it; what comes next
    must connect here."""

    index: int
    term: int
    position: int
    crc: int


EMPTY = End(0, 0, 0, 0)

# --------------------------------------------------------------------------- entries

ENTRY_HEADER = struct.Struct(">HBBIQQQII")
_ENTRY_CHECKED = struct.Struct(">HBBIQQQI")  # the part of the header its own CRC covers
_U32 = struct.Struct(">I")
ENTRY_HEADER_BYTES = 40
ENTRY_MAGIC = 0xD1ED
ENTRY_VERSION = 0
KIND_NOOP = 0
KIND_COMMAND = 1
KIND_CONFIG = 2  # who the members are, from here on
KIND_MAX = KIND_CONFIG

# A RocketMQ frame is at most 16 MiB; a batch of one turn is capped far below. Twice that keeps a
# rotten length field from asking for gigabytes.
PAYLOAD_MAX_BYTES = 32 * 1024 * 1024

assert ENTRY_HEADER.size == ENTRY_HEADER_BYTES
assert _ENTRY_CHECKED.size == ENTRY_HEADER_BYTES - 4


class EntryLike(Protocol):
    """What can be sealed: raft's Entry, or anything with these four."""

    @property
    def index(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def payload(self) -> bytes | memoryview: ...


def encode_entry(
    end: End, term: int, kind: int, payload: bytes | memoryview
) -> tuple[bytes, bytes, End]:
    """Header (two parts, to be joined with the payload) of the entry after `end`, and the new end.

    The parts are left apart so that a whole batch costs one join.
    """
    size = len(payload)
    assert size <= PAYLOAD_MAX_BYTES
    assert 0 <= kind <= KIND_MAX
    assert term >= end.term
    index = end.index + 1
    checked = _ENTRY_CHECKED.pack(
        ENTRY_MAGIC, kind, ENTRY_VERSION, size, index, term, end.position, end.crc
    )
    crc = crc32c(payload, crc32c(checked))
    after = End(index, term, end.position + ENTRY_HEADER_BYTES + size, crc)
    return checked, _U32.pack(crc), after


@frozen(kw_only=True)
class Bad:
    """Why a walk stopped before the end of its buffer.

    `needed` > 0: the buffer ends inside an entry that needs that many bytes from its start; all
    that can be seen of it is plausible. `foreign`: the entry is intact but not for this version.
    """

    at: int
    reason: str
    needed: int = 0
    foreign: bool = False


#: index, term, kind, start, stop: the entry's bytes (header included) are buffer[start:stop]
WalkedEntry = tuple[int, int, int, int, int]


@frozen
class Walk:
    """The intact entries of a buffer, in order; the end behind them; what stopped the walk."""

    entries: list[WalkedEntry]
    end: End
    at: int
    bad: Bad | None


def walk(buffer: bytes | bytearray | memoryview, end: End, at: int = 0) -> Walk:
    """Verify entries one after the other: magic, CRC, index, position, chain, term order.

    The one reader of entries: recovery, reads and bytes from a peer all come through here.
    """
    view = memoryview(buffer)
    size = len(view)
    index, term, position, prev_crc = end.index, end.term, end.position, end.crc
    entries: list[WalkedEntry] = []
    bad: Bad | None = None
    while at < size:
        if size - at < ENTRY_HEADER_BYTES:
            bad = Bad(at=at, reason="ends inside an entry header", needed=ENTRY_HEADER_BYTES)
            break
        (magic, kind, version, length, own_index, own_term, own_position, chained, crc) = (
            ENTRY_HEADER.unpack_from(view, at)
        )
        if magic != ENTRY_MAGIC:
            bad = Bad(at=at, reason=f"magic {magic:#06x} where an entry starts")
            break
        if length > PAYLOAD_MAX_BYTES:
            bad = Bad(at=at, reason=f"payload length {length} above {PAYLOAD_MAX_BYTES}")
            break
        if own_index != index + 1 or own_position != position or chained != prev_crc:
            reason = (
                f"entry {own_index} at position {own_position} after crc {chained:#010x} where "
                f"entry {index + 1} at position {position} after crc {prev_crc:#010x} belongs"
            )
            bad = Bad(at=at, reason=reason)
            break
        body = at + ENTRY_HEADER_BYTES
        stop = body + length
        if stop > size:
            bad = Bad(at=at, reason="ends inside an entry", needed=stop - at)
            break
        if crc32c(view[body:stop], crc32c(view[at : body - 4])) != crc:
            bad = Bad(at=at, reason=f"crc of entry {own_index} does not match")
            break
        if version != ENTRY_VERSION or kind > KIND_MAX:
            reason = f"entry {own_index} has unknown version {version} or kind {kind}"
            bad = Bad(at=at, reason=reason, foreign=True)
            break
        if own_term < term:
            bad = Bad(at=at, reason=f"term {own_term} after term {term}")
            break
        entries.append((own_index, own_term, kind, at, stop))
        index, term, position, prev_crc = own_index, own_term, position + stop - at, crc
        at = stop
    return Walk(entries, End(index, term, position, prev_crc), at, bad)


def peek_place(buffer: bytes | memoryview, at: int = 0) -> tuple[int, int, int]:
    """(index, position, crc of the entry before) of the entry header at `at`, unverified."""
    header = ENTRY_HEADER.unpack_from(buffer, at)
    return header[4], header[6], header[7]


def entry_crc(raw: bytes | memoryview) -> int:
    """The CRC in an entry's header: what the next entry's chain begins with. Unverified."""
    crc: int = ENTRY_HEADER.unpack_from(raw)[8]
    return crc


# --------------------------------------------------------------------------- segment header

SEGMENT_HEADER = struct.Struct(">8sHHQQQI64s64s64sI")
SEGMENT_HEADER_BYTES = 236
SEGMENT_MAGIC = b"DLEDGPY\0"
SEGMENT_VERSION = 1
SEGMENT_SUFFIX = ".log"
SEGMENT_NAME_DIGITS = 20  # 2**64 has 20 digits, so names sort as positions do

assert SEGMENT_HEADER.size == SEGMENT_HEADER_BYTES
assert SEGMENT_HEADER_BYTES <= SECTOR_BYTES


@frozen(kw_only=True)
class SegmentHeader:
    """The part of the header block written once. `before` is the end of the log this file
    continues, so `before.position` is its start position."""

    identity: Identity
    before: End


def segment_name(start_position: int) -> str:
    return f"{start_position:0{SEGMENT_NAME_DIGITS}d}{SEGMENT_SUFFIX}"


def segment_start(name: str) -> int | None:
    """The start position a file name tells, or None if it is no segment's name."""
    digits = name.removesuffix(SEGMENT_SUFFIX)
    if name == digits or len(digits) != SEGMENT_NAME_DIGITS or not digits.isdecimal():
        return None
    return int(digits)


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The first sector's 236 bytes."""
    before, identity = header.before, header.identity
    packed = SEGMENT_HEADER.pack(
        SEGMENT_MAGIC,
        SEGMENT_VERSION,
        0,
        before.position,
        before.index,
        before.term,
        before.crc,
        identity.cluster.encode(),
        identity.group.encode(),
        identity.member.encode(),
        0,
    )
    return packed[:-4] + _U32.pack(crc32c(packed[:-4]))


def decode_segment_header(block: bytes, file: str) -> SegmentHeader:
    """Raises Corrupt when these are not 236 bytes this version wrote."""
    if len(block) < SEGMENT_HEADER_BYTES:
        raise Corrupt(file, len(block), "file ends inside the segment header")
    (magic, version, flags, position, index, term, prev_crc, cluster, group, member, crc) = (
        SEGMENT_HEADER.unpack_from(block)
    )
    if magic != SEGMENT_MAGIC:
        raise Corrupt(file, 0, f"magic {magic!r} is not a segment's")
    if crc32c(block[: SEGMENT_HEADER_BYTES - 4]) != crc:
        raise Corrupt(file, 0, "crc of the segment header does not match")
    if version != SEGMENT_VERSION or flags:
        reason = f"segment version {version}, flags {flags}: only version {SEGMENT_VERSION} known"
        raise Corrupt(file, 8, reason, ADVICE_UPGRADE)
    identity = Identity(
        cluster=_decode_id(cluster), group=_decode_id(group), member=_decode_id(member)
    )
    return SegmentHeader(identity=identity, before=End(index, term, position, prev_crc))


def _decode_id(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode()


# --------------------------------------------------------------------------- attest slots

ATTEST = struct.Struct(">IQQQQI")
ATTEST_BYTES = 40
ATTEST_MAGIC = 0xA77E57ED
ATTEST_OFFSETS = (SECTOR_BYTES, 2 * SECTOR_BYTES)  # in sectors of their own

SUCCESSOR_MAGIC = 0x5CCE5504
SUCCESSOR_OFFSET = 3 * SECTOR_BYTES

START_MAGIC = 0x57A27006
START_OFFSETS = (4 * SECTOR_BYTES, 5 * SECTOR_BYTES)  # the same record twice

assert ATTEST.size == ATTEST_BYTES
assert SUCCESSOR_OFFSET + SECTOR_BYTES <= START_OFFSETS[0]
assert START_OFFSETS[1] + SECTOR_BYTES <= HEADER_BLOCK_BYTES


@frozen
class Attest:
    """ "Everything below `position` was synced before this slot was written."

    `index` and `term` are those of the last entry below it. The slot with the highest `seq` of
    the whole directory is the one that speaks.
    """

    seq: int
    position: int
    index: int
    term: int


def encode_attest(attest: Attest) -> bytes:
    packed = ATTEST.pack(ATTEST_MAGIC, attest.seq, attest.position, attest.index, attest.term, 0)
    return packed[:-4] + _U32.pack(crc32c(packed[:-4]))


def attest_offset(seq: int) -> int:
    """The slot that takes write number `seq`: never the one that holds number seq - 1."""
    return ATTEST_OFFSETS[seq % 2]


def decode_attests(block: bytes) -> list[Attest]:
    """The readable slots of a header block; an unreadable one is a torn or rotten sector."""
    found = []
    for offset in ATTEST_OFFSETS:
        if len(block) < offset + ATTEST_BYTES:
            continue
        magic, seq, position, index, term, crc = ATTEST.unpack_from(block, offset)
        if magic == ATTEST_MAGIC and crc32c(block[offset : offset + ATTEST_BYTES - 4]) == crc:
            found.append(Attest(seq, position, index, term))
    return found


def encode_successor(end: End) -> bytes:
    """The mark of a segment that ends at `end` because another one follows.

    Laid out as an attest slot, number 0. Without it the loss of the last file would take all
    that attests its content along, and look like a log that ends one file earlier.
    """
    packed = ATTEST.pack(SUCCESSOR_MAGIC, 0, end.position, end.index, end.term, 0)
    return packed[:-4] + _U32.pack(crc32c(packed[:-4]))


NO_SUCCESSOR = bytes(ATTEST_BYTES)


def decode_successor(block: bytes) -> bool:
    """Whether the mark is there; an unreadable one counts as none."""
    mark = block[SUCCESSOR_OFFSET : SUCCESSOR_OFFSET + ATTEST_BYTES]
    if len(mark) < ATTEST_BYTES:
        return False
    magic, _seq, _position, _index, _term, crc = ATTEST.unpack(mark)
    return bool(magic == SUCCESSOR_MAGIC and crc32c(mark[:-4]) == crc)


def encode_start(before: End) -> bytes:
    """The mark of a segment that begins the log because all before `before` was dropped.

    Laid out as an attest slot, number 0; stands at both START_OFFSETS. See `retention`.
    """
    packed = ATTEST.pack(START_MAGIC, 0, before.position, before.index, before.term, 0)
    return packed[:-4] + _U32.pack(crc32c(packed[:-4]))


def count_starts(block: bytes, start_position: int) -> int:
    """How many of the two copies of the start mark are readable; one of another segment is none."""
    return sum(
        _is_start(block[offset : offset + ATTEST_BYTES], start_position) for offset in START_OFFSETS
    )


def _is_start(mark: bytes, start_position: int) -> bool:
    if len(mark) < ATTEST_BYTES:
        return False
    magic, _seq, position, _index, _term, crc = ATTEST.unpack(mark)
    return bool(magic == START_MAGIC and crc32c(mark[:-4]) == crc and position == start_position)


def encode_header_block(header: SegmentHeader, attest: Attest) -> bytes:
    """A new segment's first 4096 bytes: both slots say the same, as numbers seq and seq + 1."""
    block = bytearray(HEADER_BLOCK_BYTES)
    block[:SEGMENT_HEADER_BYTES] = encode_segment_header(header)
    for seq in (attest.seq, attest.seq + 1):
        at = attest_offset(seq)
        block[at : at + ATTEST_BYTES] = encode_attest(evolve(attest, seq=seq))
    return bytes(block)


# --------------------------------------------------------------------------- hard state

HARD_STATE = struct.Struct(">8sHHQQQ64s64s64s64sI")
HARD_STATE_BYTES = 296
HARD_STATE_MAGIC = b"DLEDGHS\0"
HARD_STATE_VERSION = 1
HARD_SLOT_BYTES = 4096
HARD_COPIES = (0, 2048)  # two copies inside one slot, in different sectors
HARD_FILE_BYTES = 2 * HARD_SLOT_BYTES

assert HARD_STATE.size == HARD_STATE_BYTES
assert HARD_STATE_BYTES <= SECTOR_BYTES
assert HARD_COPIES[1] + SECTOR_BYTES <= HARD_SLOT_BYTES


@frozen
class HardState:
    """What a member must never forget: its term, its vote in it, and (a hint) the commit index."""

    term: int
    vote: str | None
    commit: int


NEWBORN = HardState(0, None, 0)


@frozen(kw_only=True)
class HardRecord:
    """One save of the hard state: whose, the how-manieth, what."""

    identity: Identity
    seq: int
    state: HardState


def encode_hard_slot(record: HardRecord) -> bytes:
    """A slot's 4096 bytes: the record twice."""
    state, identity = record.state, record.identity
    packed = HARD_STATE.pack(
        HARD_STATE_MAGIC,
        HARD_STATE_VERSION,
        0,
        record.seq,
        state.term,
        state.commit,
        _encode_vote(state.vote),
        identity.cluster.encode(),
        identity.group.encode(),
        identity.member.encode(),
        0,
    )
    copy = packed[:-4] + _U32.pack(crc32c(packed[:-4]))
    half = copy.ljust(HARD_COPIES[1], b"\0")
    return half + half


def hard_slot_offset(seq: int) -> int:
    return (seq % 2) * HARD_SLOT_BYTES


def decode_hard_state(content: bytes, file: str) -> HardRecord:
    """The newest record of a hard-state file.

    A power cut in the middle of a save leaves at least one of a slot's two copies readable, old
    or new (law 3); so a slot without a readable copy is damage, and the lost one may have been
    the newest. Falling back to the other slot could then take back a vote.

    Raises Corrupt.
    """
    if len(content) < HARD_FILE_BYTES:
        raise Corrupt(file, len(content), f"hard state needs {HARD_FILE_BYTES} bytes")
    newest: HardRecord | None = None
    for slot in (0, HARD_SLOT_BYTES):
        record = _newest_of([_decode_hard_copy(content, slot + copy, file) for copy in HARD_COPIES])
        if record is None:
            raise Corrupt(file, slot, "no copy of term and vote is readable in this slot")
        newest = _newest_of([newest, record])
    assert newest is not None
    return newest


def count_hard_copies(content: bytes, file: str) -> int:
    """How many of the four copies of a hard-state file are readable. Raises Corrupt for a newer
    version."""
    at = (slot + copy for slot in (0, HARD_SLOT_BYTES) for copy in HARD_COPIES)
    return sum(_decode_hard_copy(content, each, file) is not None for each in at)


def _newest_of(records: Sequence[HardRecord | None]) -> HardRecord | None:
    readable = [record for record in records if record is not None]
    return max(readable, key=lambda record: record.seq, default=None)


def _decode_hard_copy(content: bytes, at: int, file: str) -> HardRecord | None:
    (magic, version, flags, seq, term, commit, vote, cluster, group, member, crc) = (
        HARD_STATE.unpack_from(content, at)
    )
    if magic != HARD_STATE_MAGIC or crc32c(content[at : at + HARD_STATE_BYTES - 4]) != crc:
        return None
    if version != HARD_STATE_VERSION or flags:
        reason = f"hard-state version {version}: only version {HARD_STATE_VERSION} known"
        raise Corrupt(file, at + 8, reason, ADVICE_UPGRADE)
    identity = Identity(
        cluster=_decode_id(cluster), group=_decode_id(group), member=_decode_id(member)
    )
    state = HardState(term, _decode_id(vote) or None, commit)
    return HardRecord(identity=identity, seq=seq, state=state)


def _encode_vote(vote: str | None) -> bytes:
    if vote is None:
        return b""
    encoded = vote.encode()
    if not encoded or b"\0" in encoded or len(encoded) > ID_MAX_BYTES:
        raise ValueError(f"vote {vote!r}: 1 to {ID_MAX_BYTES} bytes of UTF-8, no NUL, expected")
    return encoded
