"""The peer protocol's bytes: inverse, canonical, bounded."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import attrs
import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dledger_py.ledger.errors import FrameError
from dledger_py.ledger.peer_frames import (
    FRAME_LIMIT_BYTES,
    HELLO_LIMIT_BYTES,
    FrameReader,
    Hello,
    decode_hello,
    decode_message,
    encode_head,
    encode_hello,
)
from dledger_py.raft.vocabulary import MESSAGES, Append, AppendAccepted, Entry, PreVote
from dledger_py.storage import batch
from dledger_py.storage.formats import EMPTY, ENTRY_HEADER_BYTES, End

HELLO = Hello(cluster="c", group="g", sender="n1", receiver="n0", incarnation=77)
NUMBERS = st.integers(0, 2**63 - 1)


def frames_of(data: bytes, *, first: bool = False) -> list[tuple[bytes, bytes]]:
    reader = FrameReader()
    if not first:
        reader.feed(memoryview(encode_hello(HELLO)))
    return reader.feed(memoryview(data))


def entries(count: int, first: int = 1, term: int = 1, size: int = 10) -> tuple[Entry, ...]:
    return tuple(
        Entry(index=index, term=term, kind=1, payload=bytes([index % 256]) * size)
        for index in range(first, first + count)
    )


def append_of(sent: tuple[Entry, ...], before: End = EMPTY) -> tuple[Append, bytes]:
    raw = batch.seal(before, sent).data if sent else b""
    message = Append(
        term=3, prev_index=before.index, prev_term=before.term, entries=sent, commit=2, round=9
    )
    return message, raw


@pytest.mark.parametrize("kind", [kind for kind in MESSAGES if kind is not Append])
@given(numbers=st.lists(NUMBERS, min_size=5, max_size=5))
def test_a_message_survives_the_wire(kind, numbers):
    names = [field.name for field in attrs.fields(kind)]
    message = kind(**dict(zip(names, numbers, strict=False)))
    ((header, body),) = frames_of(encode_head(message))

    assert message == decode_message(header, body)


@given(count=st.integers(0, 5), size=st.integers(0, 300))
def test_an_append_survives_with_its_entries_as_they_lie_on_disk(count, size):
    message, raw = append_of(entries(count, first=8, size=size), End(7, 1, 4711, 99))
    ((header, body),) = frames_of(encode_head(message, len(raw)) + raw)

    assert message == decode_message(header, body)
    assert raw == body


def test_a_hello_survives_and_says_its_version():
    ((header, body),) = frames_of(encode_hello(HELLO), first=True)

    assert HELLO == decode_hello(header, body)


def test_frames_come_out_the_same_however_the_bytes_arrive():
    message, raw = append_of(entries(3))
    stream = encode_hello(HELLO) + encode_head(message, len(raw)) + raw
    stream += encode_head(AppendAccepted(term=1, match=2, round=3))
    whole = FrameReader().feed(memoryview(stream))
    reader = FrameReader()
    bytewise = [
        frame for at in range(len(stream)) for frame in reader.feed(memoryview(stream)[at : at + 1])
    ]
    halves = FrameReader()
    cut = len(stream) // 2
    in_halves = halves.feed(memoryview(stream)[:cut]) + halves.feed(memoryview(stream)[cut:])

    assert 3 == len(whole)
    assert whole == bytewise == in_halves
    assert 0 == reader.held_bytes


@given(st.binary(max_size=200))
def test_rubbish_is_refused_or_waited_for_but_never_taken(data):
    reader = FrameReader()
    try:
        frames = reader.feed(memoryview(data))
        for header, body in frames:
            decode_hello(header, body)
    except FrameError:
        return
    assert reader.held_bytes <= len(data)


@given(data=st.data())
def test_an_append_with_any_bit_flipped_is_refused(data):
    message, raw = append_of(entries(2))
    at = data.draw(st.integers(0, len(raw) - 1))
    bit = data.draw(st.integers(0, 7))
    damaged = bytearray(raw)
    damaged[at] ^= 1 << bit
    ((header, body),) = frames_of(encode_head(message, len(raw)) + bytes(damaged))

    with pytest.raises(FrameError):
        decode_message(header, body)


@pytest.mark.parametrize("length", [0, 3, FRAME_LIMIT_BYTES + 1, 0xFFFFFFFF])
def test_a_length_that_cannot_be_is_refused_before_anything_is_kept(length):
    reader = FrameReader()
    reader.feed(memoryview(encode_hello(HELLO)))

    with pytest.raises(FrameError):
        reader.feed(memoryview(struct.pack(">II", length, 1) + bytes(100)))
    assert 0 == reader.held_bytes


def test_a_strangers_first_frame_is_held_to_a_small_bound():
    with pytest.raises(FrameError):
        FrameReader().feed(memoryview(struct.pack(">II", HELLO_LIMIT_BYTES + 1, 8)))


def test_a_header_longer_than_its_frame_is_refused():
    with pytest.raises(FrameError):
        frames_of(struct.pack(">II", 20, 17) + bytes(16))


def test_an_unfinished_frame_holds_what_has_arrived_and_no_more():
    reader = FrameReader()
    reader.feed(memoryview(encode_hello(HELLO)))
    reader.feed(memoryview(struct.pack(">II", FRAME_LIMIT_BYTES, 8) + bytes(1000)))

    assert 1008 == reader.held_bytes


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff",
        cbor2.dumps({}),
        cbor2.dumps([]),
        cbor2.dumps([0, 1, 2]),
        cbor2.dumps([10, 1, 2]),
        cbor2.dumps([1, 1, 2, 3, 4]),
        cbor2.dumps([1, 1, -2, 3]),
        cbor2.dumps([1, 1, 2, 2**63]),
        cbor2.dumps([1, 1, 2, True]),
        cbor2.dumps([1, 1, 2, "3"]),
        cbor2.dumps([1, 1, 2, 3]) + b"\x00",
        b"\x9f\x01\x01\x02\x03\xff",
        b"\x84\x01\x01\x02\x18\x03",
        b"\x81" * 200 + b"\x01",
    ],
)
def test_a_header_that_is_not_one_canonical_array_of_a_message_is_refused(header):
    assert PreVote(term=1, last_index=2, last_term=3) == decode_message(
        cbor2.dumps([1, 1, 2, 3]), b""
    )
    with pytest.raises(FrameError):
        decode_message(header, b"")


GOOD = [0, 3, "c", "g", "raft", "a", "b", 6, 7, 8, True, "h", "i", 9, b"z"]


@pytest.mark.parametrize(
    "header",
    [
        cbor2.dumps([1, 1, 2, 3]),
        cbor2.dumps([0]),
        cbor2.dumps([0, "3", *GOOD[2:]]),
        cbor2.dumps(GOOD[:-1]),
        cbor2.dumps([*GOOD, 1]),
        cbor2.dumps([*GOOD[:6], 5, *GOOD[7:]]),
        cbor2.dumps([*GOOD[:7], -6, *GOOD[8:]]),
        cbor2.dumps([*GOOD[:10], 1, *GOOD[11:]]),
        cbor2.dumps([*GOOD[:-2], -9, b"z"]),
        cbor2.dumps([*GOOD[:-1], "z"]),
    ],
)
def test_a_first_frame_that_is_no_hello_is_refused(header):
    assert "i" == decode_hello(cbor2.dumps(GOOD), b"").contact
    with pytest.raises(FrameError):
        decode_hello(header, b"")


def test_a_hello_of_another_version_is_refused_whatever_else_it_says():
    with pytest.raises(FrameError, match="peer protocol 2, ours is 3"):
        decode_hello(cbor2.dumps([0, 2, "c", "g", "a", "b", 6]), b"")


def test_an_append_must_hold_exactly_the_entries_it_announces():
    message, raw = append_of(entries(2))
    ((header, _),) = frames_of(encode_head(message))
    second = ENTRY_HEADER_BYTES + 10

    assert 2 == len(decode_message(header, raw).entries)
    for body in (b"", raw[:second], raw[:-1], raw + b"\0", raw[second:] + raw[:second], raw[:20]):
        with pytest.raises(FrameError):
            decode_message(header, body)


def test_an_append_whose_entries_start_elsewhere_is_refused():
    message, raw = append_of(entries(1, first=5), End(4, 1, 100, 7))
    later = attrs.evolve(message, prev_index=5)
    ((header, _),) = frames_of(encode_head(later))

    with pytest.raises(FrameError):
        decode_message(header, raw)


def test_tls_is_told_apart_from_a_frame_that_is_too_long():
    with pytest.raises(FrameError, match="speaks TLS, and tls_certificate is not set here"):
        FrameReader().feed(memoryview(bytes.fromhex("1603010200010001")))
    with pytest.raises(FrameError, match="a frame of"):
        FrameReader().feed(memoryview(bytes.fromhex("1604010200010001")))


def test_the_page_tells_every_message_and_its_numbers():
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    section = page.split("## Between members: Raft")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| ([\w ,]+) \|", section, re.MULTILINE)
    told = {name: (int(tag), numbers.split(", ")) for tag, name, numbers in rows}
    in_code = {}
    for kind in MESSAGES:
        fields = [field.name for field in attrs.fields(kind)]
        values = {name: number for number, name in enumerate(fields, 50)}
        if kind is Append:
            values["entries"] = ()
            fields = ["term", "prev_index", "prev_term", "commit", "round", "number of entries"]
        ((header, _),) = frames_of(encode_head(kind(**values)))
        tag, *numbers = cbor2.loads(header)
        in_code[kind.__name__] = (tag, fields)
        assert [values.get(name, 0) for name in fields] == numbers

    assert in_code == told
