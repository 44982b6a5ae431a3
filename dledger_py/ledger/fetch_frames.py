"""PURE. What is asked and answered on the fetch lane, byte by byte.

Frames are those of `peer_frames`: after the hello, which names the lane "fetch", the dialler sends
requests and gets one answer to each, in their order, on the same connection. A header is one
canonical CBOR array of integers, a tag first; what is not a number is in the body.

    request                                     answer
    DescribeLog ()                              LogDescribed (…), body: a configuration
    ReadLog (position, max bytes)               LogRead (position), body: log bytes
    ReadSnapshot (index, offset, max bytes)     SnapshotRead (index, offset, crc), body: a piece
    any of them                                 Unavailable (), body: why, for a log line

Laws: log bytes are those of committed entries only, exactly as they lie on every member's disk, cut
off anywhere; so a reader may go on at any byte, at any member, and proves them by the chain of the
entries. A piece of a snapshot has its own CRC, the whole body another one. Encoding and decoding
are inverse, and lengths are bounded before they are believed.

Deliberately elsewhere: who answers (fetch_server), who asks (fetch_client), what is made of it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from attrs import fields, frozen
from crc32c import crc32c

from dledger_py.ledger.errors import FrameError
from dledger_py.ledger.peer_frames import FrameReader, are_integers, decode_array, encode_array
from dledger_py.storage.formats import End

PIECE_MAX_BYTES = 256 << 10
"""Most that one answer carries: a millisecond of work for either side."""

REASON_MAX_BYTES = 512
"""A reason is one line."""

LAST_WORD_MAX_BYTES = REASON_MAX_BYTES + 64
"""A reason, and the lengths and the tag before it."""


@frozen(kw_only=True)
class DescribeLog:
    """What is there?"""


@frozen(kw_only=True)
class ReadLog:
    """Committed log bytes from a position on."""

    position: int
    max_bytes: int


@frozen(kw_only=True)
class ReadSnapshot:
    """A piece of a snapshot's body."""

    index: int
    offset: int
    max_bytes: int


@frozen(kw_only=True)
class LogDescribed:
    """What a member could hand out at this moment.

    The first four are the entry before the first one kept (zeros: nothing was ever dropped). Then
    the last entry known to be committed here, and the position behind it. Then the newest snapshot
    (zeros: none), with the CRC of the entry it stands behind and of its body. `configuration` is
    that in force at the log's start, as it is written in the log; the index is its entry's, and 0
    with no bytes stands for the one the members were started with.
    """

    start_index: int
    start_term: int
    start_position: int
    start_crc: int
    commit_index: int
    commit_term: int
    commit_position: int
    snapshot_index: int
    snapshot_term: int
    snapshot_position: int
    snapshot_entry_crc: int
    snapshot_bytes: int
    snapshot_crc: int
    configuration_index: int
    configuration: bytes

    @property
    def start(self) -> End:
        """What the first entry kept continues."""
        return End(self.start_index, self.start_term, self.start_position, self.start_crc)


@frozen(kw_only=True)
class LogRead:
    """Bytes of the log, at least one, from this position on."""

    position: int
    raw: bytes


@frozen(kw_only=True)
class SnapshotRead:
    """A piece of a snapshot's body, at least one byte."""

    index: int
    offset: int
    crc: int
    piece: bytes


@frozen(kw_only=True)
class Unavailable:
    """Not here, or not now. On either lane also the last word of whoever refuses a connection."""

    reason: str


Request: TypeAlias = DescribeLog | ReadLog | ReadSnapshot
Answer: TypeAlias = LogDescribed | LogRead | SnapshotRead | Unavailable

_REQUESTS: dict[int, type[Request]] = {1: DescribeLog, 2: ReadLog, 3: ReadSnapshot}
_ANSWERS: dict[int, type[Answer]] = {11: LogDescribed, 12: LogRead, 13: SnapshotRead}
_UNAVAILABLE_TAG = 14
# Numbers are on the wire and are never reused for another meaning.
_TAGS: dict[type[Request | Answer], int] = {
    kind: tag for tag, kind in (*_REQUESTS.items(), *_ANSWERS.items())
}
_NUMBERS = {kind: tuple(each.name for each in fields(kind) if each.type == "int") for kind in _TAGS}
_BODIES: dict[type[Request | Answer], str] = {
    kind: each.name for kind in _TAGS for each in fields(kind) if each.type == "bytes"
}


def encode_request(request: Request) -> bytes:
    """The whole frame: a request has no body."""
    kind = type(request)
    return encode_array([_TAGS[kind], *(getattr(request, name) for name in _NUMBERS[kind])])


def decode_request(header: bytes, body: bytes) -> Request:
    """**Raises** FrameError."""
    values = _numbers(header)
    kind = _REQUESTS.get(values[0])
    if kind is None or body or len(values) != 1 + len(_NUMBERS[kind]):
        raise FrameError(f"no request of the fetch lane: {values!r:.80}, {len(body)} bytes behind")
    return kind(**dict(zip(_NUMBERS[kind], values[1:], strict=True)))


def encode_answer(answer: Answer) -> tuple[bytes, bytes]:
    """Head and body of the frame, apart so that the body is not copied."""
    if isinstance(answer, Unavailable):
        reason = answer.reason.encode()[:REASON_MAX_BYTES]
        return encode_array([_UNAVAILABLE_TAG], len(reason)), reason
    kind = type(answer)
    body: bytes = getattr(answer, _BODIES[kind])
    numbers = [_TAGS[kind], *(getattr(answer, name) for name in _NUMBERS[kind])]
    return encode_array(numbers, len(body)), body


def decode_answer(header: bytes, body: bytes) -> Answer:
    """**Raises** FrameError, also where a piece of a snapshot does not match its CRC."""
    values = _numbers(header)
    if values == [_UNAVAILABLE_TAG]:
        return Unavailable(reason=body[:REASON_MAX_BYTES].decode(errors="replace"))
    kind = _ANSWERS.get(values[0])
    if kind is None or len(values) != 1 + len(_NUMBERS[kind]):
        raise FrameError(f"no answer of the fetch lane: {values!r:.80}")
    # Any: numbers and bytes side by side.
    named: dict[str, Any] = dict(zip(_NUMBERS[kind], values[1:], strict=True))
    answer = kind(**named | {_BODIES[kind]: body})
    if isinstance(answer, LogRead | SnapshotRead) and not 0 < len(body) <= PIECE_MAX_BYTES:
        raise FrameError(f"{len(body)} bytes in one answer: 1 to {PIECE_MAX_BYTES} are possible")
    if isinstance(answer, SnapshotRead) and crc32c(body) != answer.crc:
        raise FrameError(f"a piece of snapshot {answer.index} at {answer.offset}: wrong crc")
    return answer


def encode_last_word(reason: str) -> bytes:
    """What a listener sends before it closes a connection that it refuses."""
    return b"".join(encode_answer(Unavailable(reason=reason)))


def decode_last_word(content: bytes) -> str:
    """The reason in what came before the end of a connection; empty if there is none. Never
    raises: whatever it was, it is over."""
    try:
        frames = FrameReader(LAST_WORD_MAX_BYTES, first=False).feed(memoryview(content))
        answer = decode_answer(*frames[0]) if frames else None
    except FrameError:
        return ""
    return answer.reason if isinstance(answer, Unavailable) else ""


def _numbers(header: bytes) -> list[int]:
    values = decode_array(header)
    if not values or not are_integers(values):
        raise FrameError(f"a tag and integers were expected, not {values!r:.80}")
    return values
