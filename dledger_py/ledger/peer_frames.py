"""PURE. What two members of a group say to each other, byte by byte.

A frame is

    length         u32, of everything after it
    header length  u32
    header         one canonical CBOR array: a tag, then plain integers and strings
    body           log entries exactly as they lie on disk; only `Append` has any

The first frame of a connection is `Hello`: who speaks, to whom, for which group, in which
incarnation of the process. A connection belongs to one incarnation of one member, so the frames
after it do not repeat that. Every later frame is one Raft message, in the direction of the one
who dialled; the answer travels on the connection the other side dialled.

Laws: encoding and decoding are inverse, and only the canonical encoding is accepted; every length
is checked before it is believed, so a peer can make this side hold no more than one frame.

Deliberately elsewhere: sockets (peer_link), whether entries continue this member's log (storage,
when they are sealed into it), and what the messages mean (raft).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

import cbor2
from attrs import astuple, fields, frozen

from dledger_py.ledger.errors import FrameError
from dledger_py.raft.vocabulary import (
    Append,
    AppendAccepted,
    AppendRefused,
    Entry,
    Message,
    PreVote,
    PreVoteGranted,
    PreVoteRefused,
    RequestVote,
    RequestVoteNow,
    TimeoutNow,
    TooFarBehind,
    VoteGranted,
    VoteRefused,
)
from dledger_py.storage.formats import (
    ENTRY_HEADER_BYTES,
    PAYLOAD_MAX_BYTES,
    End,
    peek_place,
    walk,
)

PROTOCOL_VERSION = 3
"""Raised when an old member could misread a new one; both sides must speak the same."""

HELLO_LIMIT_BYTES = 1024
"""Largest first frame: names are short, and a stranger's bytes shall cost nothing. (A group's
identity, two node names of 64 characters and two addresses take less than 600.)"""

FRAME_LIMIT_BYTES = PAYLOAD_MAX_BYTES + (2 << 20)
"""Largest frame after the hello: one entry of the largest payload, or a batch of small ones,
which the core keeps near 1 MiB."""

INTEGER_LIMIT = 1 << 63
"""No term, index or round comes near; what is larger was never written by a member."""

LANE_RAFT = "raft"
"""The lane of a connection that carries Raft messages, from the dialler to the listener."""

LANE_FETCH = "fetch"
"""The lane of a connection on which the dialler asks and the listener answers (fetch_frames)."""

_TLS_HANDSHAKE = 0x1603
"""How a TLS connection begins, where a length should be; no frame is that long."""

_LENGTHS = Struct(">II")
assert _LENGTHS.size == 8
assert FRAME_LIMIT_BYTES < _TLS_HANDSHAKE << 16

_HELLO_TAG = 0
_TAGS: dict[type[Message], int] = {
    # Numbers are on the wire and are never reused for another meaning.
    PreVote: 1,
    PreVoteGranted: 2,
    PreVoteRefused: 3,
    RequestVote: 4,
    VoteGranted: 5,
    VoteRefused: 6,
    Append: 7,
    AppendAccepted: 8,
    AppendRefused: 9,
    RequestVoteNow: 10,
    TimeoutNow: 11,
    TooFarBehind: 12,
}
_APPEND_TAG = _TAGS[Append]
_PLAIN = {
    tag: (kind, tuple(field.name for field in fields(kind)))
    for kind, tag in _TAGS.items()
    if kind is not Append
}
_PLAIN_FIELDS = dict(_PLAIN.values())


@frozen(kw_only=True)
class Hello:
    """The first frame: whose words follow, and to whom they are addressed."""

    version: int = PROTOCOL_VERSION
    cluster: str
    group: str
    lane: str = LANE_RAFT
    """What the connection is for."""
    sender: str
    receiver: str
    incarnation: int
    """Chosen at random by each start of the sender's process."""
    birth: int = 0
    """Chosen at random when the sender's data folder was made: tells it from an emptied one."""
    receiver_birth: int = 0
    """The birth of the receiver's folder as the sender's log has it; 0 if it has none."""
    settled: bool = False
    """Whether the births of members stand in the sender's log."""
    address: str = ""
    """Where the sender listens for its peers, host:port: a receiver that does not know dials
    there."""
    contact: str = ""
    """What the sender's user wants the other members to know of it (brokers: where clients
    go)."""
    configuration_index: int = 0
    """Where the latest configuration stands that the sender knows to be committed; 0 if it is the
    one that the group was founded with."""
    configuration: bytes = b""
    """That configuration, if it stands anywhere."""


_HELLO_NAMES = tuple(field.name for field in fields(Hello))
_HELLO_TYPES = tuple(
    type(value)
    for value in astuple(Hello(cluster="", group="", sender="", receiver="", incarnation=0))
)


def encode_hello(hello: Hello) -> bytes:
    return encode_array([_HELLO_TAG, *astuple(hello)])


def decode_hello(header: bytes, body: bytes) -> Hello:
    """**Raises** FrameError if this is anything but a hello; its version may still be a foreign
    one, and then the rest of it is not looked at."""
    values = decode_array(header)
    if body or len(values) < 2 or values[0] != _HELLO_TAG or not are_integers(values[1:2]):
        raise FrameError(
            f"a hello was expected, not {values!r:.80} with {len(body)} bytes behind it"
        )
    if values[1] != PROTOCOL_VERSION:
        raise FrameError(f"peer protocol {values[1]}, ours is {PROTOCOL_VERSION}")
    fitting = [
        type(value) is kind and (kind is not int or are_integers((value,)))
        for value, kind in zip(values[1:], _HELLO_TYPES, strict=False)
    ]
    if len(values) != 1 + len(_HELLO_TYPES) or not all(fitting):
        raise FrameError(f"fields of wrong number or types in the hello {values!r:.80}")
    return Hello(**dict(zip(_HELLO_NAMES, values[1:], strict=True)))


def encode_head(message: Message, body_length: int = 0) -> bytes:
    """Everything of a frame but its body, which for an `Append` is the bytes of its entries."""
    if isinstance(message, Append):
        values = [
            _APPEND_TAG,
            message.term,
            message.prev_index,
            message.prev_term,
            message.commit,
            message.round,
            len(message.entries),
        ]
    else:
        kind = type(message)
        values = [_TAGS[kind], *(getattr(message, name) for name in _PLAIN_FIELDS[kind])]
    return encode_array(values, body_length)


def encode_array(values: Sequence[int | str], body_length: int = 0) -> bytes:
    """Lengths and header of a frame, everything but its body."""
    header: bytes = cbor2.dumps(values)
    return _LENGTHS.pack(4 + len(header) + body_length, len(header)) + header


def decode_message(header: bytes, body: bytes) -> Message:
    """The message of one frame after the hello.

    An `Append`'s entries have payloads that are views into `body`. **Raises** FrameError.
    """
    values = decode_array(header)
    if not values or not are_integers(values):
        raise FrameError(f"a message is a tag and integers, not {values!r:.80}")
    tag = values[0]
    if tag == _APPEND_TAG:
        return _decode_append(values, body)
    if tag not in _PLAIN:
        raise FrameError(f"no message has the tag {tag}")
    kind, names = _PLAIN[tag]
    if body or len(values) != 1 + len(names):
        raise FrameError(
            f"{kind.__name__} has {len(names)} fields and no body, "
            f"not {len(values) - 1} and {len(body)} bytes"
        )
    return kind(**dict(zip(names, values[1:], strict=True)))


def _decode_append(values: list[int], body: bytes) -> Append:
    if len(values) != 7:
        raise FrameError(f"Append has 6 fields, not {len(values) - 1}")
    _, term, prev_index, prev_term, commit, round_, count = values
    return Append(
        term=term,
        prev_index=prev_index,
        prev_term=prev_term,
        entries=split_entries(body, prev_index, prev_term, count),
        commit=commit,
        round=round_,
    )


def split_entries(
    body: bytes, before_index: int, before_term: int, count: int
) -> tuple[Entry, ...]:
    """The `count` entries that `body` must consist of, the first right after `before_index`.

    Checksums and the chain among the entries are verified here, before the core sees them: once
    it has taken them in they could not be given back. **Raises** FrameError.
    """
    if count == 0 and not body:
        return ()
    if len(body) < ENTRY_HEADER_BYTES:
        raise FrameError(f"{count} entries in {len(body)} bytes")
    _, position, crc = peek_place(body)
    walked = walk(body, End(before_index, before_term, position, crc))
    if walked.bad is not None:
        raise FrameError(f"entries, byte {walked.bad.at}: {walked.bad.reason}")
    if len(walked.entries) != count:
        raise FrameError(f"{count} entries were announced, {len(walked.entries)} are there")
    view = memoryview(body)
    return tuple(
        Entry(index=index, term=term, kind=kind, payload=view[start + ENTRY_HEADER_BYTES : stop])
        for index, term, kind, start, stop in walked.entries
    )


class FrameReader:
    """Cuts a stream of bytes, in whatever pieces it comes, into (header, body) pairs.

    Holds at most one unfinished frame, and of it only what has arrived. The first frame, from
    whoever it may be, is held to `HELLO_LIMIT_BYTES`; those after it to `limit_bytes`. Who dialled
    gets no hello: there is no such `first` frame then.
    """

    def __init__(self, limit_bytes: int = FRAME_LIMIT_BYTES, *, first: bool = True) -> None:
        self._limit_bytes = HELLO_LIMIT_BYTES if first else limit_bytes
        self._later_limit_bytes = limit_bytes
        self._unfinished = bytearray()

    @property
    def held_bytes(self) -> int:
        return len(self._unfinished)

    def feed(self, data: memoryview) -> list[tuple[bytes, bytes]]:
        """The frames that `data` completes. Nothing refers to `data` afterwards.

        **Raises** FrameError on a length that cannot be; the stream cannot be read on from there.
        """
        frames: list[tuple[bytes, bytes]] = []
        if self._unfinished:
            data = self._complete(data, frames)
        at = 0
        while len(data) - at >= 8:
            total, header_length = self._lengths(data, at)
            end = at + 4 + total
            if end > len(data):
                break
            body_at = at + 8 + header_length
            frames.append((bytes(data[at + 8 : body_at]), bytes(data[body_at:end])))
            self._limit_bytes = self._later_limit_bytes
            at = end
        self._unfinished += data[at:]
        return frames

    def _complete(self, data: memoryview, frames: list[tuple[bytes, bytes]]) -> memoryview:
        """Add what is missing of the unfinished frame; give back what follows it."""
        held = self._unfinished
        if len(held) < 8:
            missing = 8 - len(held)
            held += data[:missing]
            data = data[missing:]
            if len(held) < 8:
                return data
        total, header_length = self._lengths(held, 0)
        missing = 4 + total - len(held)
        held += data[:missing]
        data = data[missing:]
        if len(held) == 4 + total:
            with memoryview(held) as view:
                body_at = 8 + header_length
                frames.append((bytes(view[8:body_at]), bytes(view[body_at:])))
            self._limit_bytes = self._later_limit_bytes
            self._unfinished = bytearray()
        return data

    def _lengths(self, data: memoryview | bytearray, at: int) -> tuple[int, int]:
        total, header_length = _LENGTHS.unpack_from(data, at)
        if total >> 16 == _TLS_HANDSHAKE:
            raise FrameError("speaks TLS, and tls_certificate is not set here")
        if not 4 <= total <= self._limit_bytes:
            raise FrameError(f"a frame of {total} bytes; 4 to {self._limit_bytes} are possible")
        if header_length > min(total - 4, HELLO_LIMIT_BYTES):
            raise FrameError(f"a header of {header_length} bytes in a frame of {total}")
        return total, header_length


def decode_array(header: bytes) -> list[Any]:
    """The values in a frame's header. **Raises** FrameError if it is not one canonical array."""
    # Any: bytes become values here; every caller checks the types of what it uses.
    try:
        values = cbor2.loads(header, max_depth=1, allow_indefinite=False)
        canonical = cbor2.dumps(values)
    except (cbor2.CBORError, ValueError, OverflowError, RecursionError) as error:
        raise FrameError(f"a header that is not CBOR: {header[:32].hex()}") from error
    if type(values) is not list or canonical != header:
        raise FrameError(f"a header that is not one canonical array: {header[:32].hex()}")
    return values


def are_integers(values: tuple[Any, ...] | list[Any]) -> bool:
    """Whether these are numbers that a member may have written."""
    return all(type(value) is int and 0 <= value < INTEGER_LIMIT for value in values)
