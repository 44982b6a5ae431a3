"""The bytes of the fetch lane: inverse, canonical, bounded, and for ever the same."""

from __future__ import annotations

import attrs
import cbor2
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from dledger_py.ledger.errors import FrameError
from dledger_py.ledger.fetch_frames import (
    PIECE_MAX_BYTES,
    REASON_MAX_BYTES,
    DescribeLog,
    LogDescribed,
    LogRead,
    ReadLog,
    ReadSnapshot,
    SnapshotRead,
    Unavailable,
    decode_answer,
    decode_last_word,
    decode_request,
    encode_answer,
    encode_last_word,
    encode_request,
)
from dledger_py.ledger.peer_frames import FrameReader

NUMBERS = st.integers(0, 2**63 - 1)
SEVENS = LogDescribed(
    **{each.name: 7 for each in attrs.fields(LogDescribed) if each.name != "configuration"},
    configuration=b"who",
)


def frame(data: bytes) -> tuple[bytes, bytes]:
    (found,) = FrameReader(first=False).feed(memoryview(data))
    return found


@pytest.mark.parametrize("kind", [DescribeLog, ReadLog, ReadSnapshot])
@given(numbers=st.lists(NUMBERS, min_size=3, max_size=3))
def test_a_request_survives_the_wire(kind, numbers):
    names = [each.name for each in attrs.fields(kind)]
    request = kind(**dict(zip(names, numbers, strict=False)))

    assert request == decode_request(*frame(encode_request(request)))


@given(number=NUMBERS, body=st.binary(min_size=1, max_size=300))
def test_an_answer_survives_the_wire(number, body):
    answers = [
        attrs.evolve(SEVENS, commit_position=number, configuration=body),
        LogRead(position=number, raw=body),
        SnapshotRead(index=number, offset=5, crc=crc32c(body), piece=body),
        Unavailable(reason=f"number {number}"),
    ]

    assert answers == [decode_answer(*frame(b"".join(encode_answer(each)))) for each in answers]


def test_the_bytes_are_these_for_ever():
    piece = b"abc"
    parts = {
        "DescribeLog": encode_request(DescribeLog()),
        "ReadLog": encode_request(ReadLog(position=4096, max_bytes=10)),
        "ReadSnapshot": encode_request(ReadSnapshot(index=9, offset=3, max_bytes=10)),
        "LogDescribed": b"".join(encode_answer(SEVENS)),
        "LogRead": b"".join(encode_answer(LogRead(position=1, raw=b"raw"))),
        "SnapshotRead": b"".join(
            encode_answer(SnapshotRead(index=9, offset=3, crc=crc32c(piece), piece=piece))
        ),
        "Unavailable": b"".join(encode_answer(Unavailable(reason="no"))),
    }

    assert {
        "DescribeLog": "00000006000000028101",
        "ReadLog": "0000000a0000000683021910000a",
        "ReadSnapshot": "0000000900000005840309030a",
        "LogDescribed": "00000017000000108f0b" + "07" * 14 + b"who".hex(),
        "LogRead": "0000000a00000003820c01" + b"raw".hex(),
        "SnapshotRead": "0000001000000009840d09031a364b3fb7" + b"abc".hex(),
        "Unavailable": "0000000800000002810e" + b"no".hex(),
    } == {name: part.hex() for name, part in parts.items()}


@given(reason=st.text(min_size=1, max_size=200))
def test_a_last_word_is_understood(reason):
    assert reason.encode()[:REASON_MAX_BYTES].decode(errors="replace") == decode_last_word(
        encode_last_word(reason)
    )


@given(content=st.binary(max_size=40))
def test_what_is_no_last_word_tells_nothing(content):
    assert "" == decode_last_word(content)
    assert "" == decode_last_word(encode_last_word("no")[:-1])
    assert "" == decode_last_word(encode_request(DescribeLog()))


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (cbor2.dumps([]), b""),
        (cbor2.dumps([2, 1]), b""),
        (cbor2.dumps([2, 1, 2, 3]), b""),
        (cbor2.dumps([2, -1, 2]), b""),
        (cbor2.dumps([2, "1", 2]), b""),
        (cbor2.dumps([2, 1, 2]), b"more"),
        (cbor2.dumps([12, 1]), b"raw"),
        (cbor2.dumps([99]), b""),
        (cbor2.dumps([2, 1, 2]) + b"\0", b""),
    ],
)
def test_what_is_no_request_is_refused(header, body):
    assert ReadLog(position=1, max_bytes=2) == decode_request(cbor2.dumps([2, 1, 2]), b"")
    with pytest.raises(FrameError):
        decode_request(header, body)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (cbor2.dumps([12, 1]), b""),
        (cbor2.dumps([12, 1]), bytes(PIECE_MAX_BYTES + 1)),
        (cbor2.dumps([12, 1, 2]), b"raw"),
        (cbor2.dumps([13, 9, 3, crc32c(b"abc") ^ 1]), b"abc"),
        (cbor2.dumps([13, 9, 3, crc32c(b"abc")]), b"abd"),
        (cbor2.dumps([11, *[7] * 13]), b""),
        (cbor2.dumps([1]), b""),
        (cbor2.dumps([14, 1]), b"no"),
        (cbor2.dumps([]), b""),
    ],
)
def test_what_is_no_answer_is_refused(header, body):
    assert b"abc" == decode_answer(cbor2.dumps([13, 9, 3, crc32c(b"abc")]), b"abc").piece
    with pytest.raises(FrameError):
        decode_answer(header, body)


def test_a_reason_is_cut_to_a_line():
    head, body = encode_answer(Unavailable(reason="ü" * 1000))

    assert 512 == len(body)
    assert decode_answer(*frame(head + body)).reason.startswith("üü")
