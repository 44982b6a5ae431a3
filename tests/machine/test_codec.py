"""Commands survive the log, and nothing else passes for one."""

import contextlib
from pathlib import Path

import cbor2
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from broker.machine.codec import OWN_TAGS, ROWS, decode_command, encode_command, first_record_at
from broker.machine.commands import Command, CommitOffsets, DeleteTopic
from broker.machine.end_transaction import HEAD as END_HEAD
from broker.machine.end_transaction import EndTransaction, Verdict
from broker.machine.errors import MalformedCommand, Unappliable, UnknownCommand
from broker.machine.moves import MoveMessages, encode_move
from broker.machine.put_messages import (
    HEAD,
    MESSAGE,
    QUEUE,
    Message,
    PutMessages,
    encode_put_messages,
)
from broker.machine.revivals import RevivePops, encode_revival
from tests.machine.machine_commands import (
    EXAMPLES,
    MESSAGES,
    MOVE,
    REVIVAL,
    commands,
    messages,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "machine"


def golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


@pytest.mark.parametrize("name", EXAMPLES)
def test_commands_keep_their_bytes(name: str) -> None:
    """A log written by any release must be readable by every later one."""
    assert EXAMPLES[name] == decode_command(golden(name))
    assert golden(name) == encode_command(EXAMPLES[name])


@pytest.mark.parametrize("offset", [2**63, -(2**63) - 1])
def test_a_number_that_nobody_could_read_is_not_written(offset: int) -> None:
    command = CommitOffsets(stamped_ms=1, commits=(("g", "t", 0, offset),))

    with pytest.raises(AssertionError, match="64 bits"):
        encode_command(command)


def test_messages_keep_their_bytes() -> None:
    assert golden("01-put-messages") == encode_put_messages(1_700_000_000_000, MESSAGES)


def test_moved_messages_keep_their_bytes() -> None:
    assert golden("13-move-messages") == encode_move(MOVE, MESSAGES)


def test_revived_messages_keep_their_bytes() -> None:
    assert golden("21-revive-pops") == encode_revival(REVIVAL, MESSAGES)


def test_every_tag_has_golden_bytes() -> None:
    tags = {int(path.name[:2]) for path in GOLDEN.glob("*.hex")}

    assert {*OWN_TAGS, *(row.tag for row in ROWS.values())} == tags


def test_moved_messages_come_back() -> None:
    payload = encode_move(MOVE, MESSAGES)
    command = decode_command(payload)

    assert isinstance(command, MoveMessages)
    assert MOVE == command.move
    assert decode_command(payload[command.messages_at :]) == command.messages


def test_a_move_that_nobody_writes_is_refused() -> None:
    good = encode_move(MOVE, MESSAGES)
    at = decode_command(good).messages_at
    backwards = encode_move(evolve(MOVE, first_offset=3), MESSAGES)
    for bad in (
        good[:at],
        good[:7],
        good[:2] + b"\xff\xff\xff\xff" + good[6:],
        good[:at] + b"\x05" + good[at + 1 :],
        good[:6] + b"\x80" + good[7:],
        backwards,
    ):
        with pytest.raises(MalformedCommand):
            decode_command(bad)
    with pytest.raises(UnknownCommand):
        decode_command(good[:1] + b"\x02" + good[2:])


def test_revived_messages_come_back() -> None:
    payload = encode_revival(REVIVAL, MESSAGES)
    command = decode_command(payload)

    assert isinstance(command, RevivePops)
    assert REVIVAL == command.revival
    assert decode_command(payload[command.messages_at :]) == command.messages
    assert payload[first_record_at(payload) :].startswith(MESSAGES[0][3])
    assert None is first_record_at(encode_revival(REVIVAL, []))


def test_a_revival_that_nobody_writes_is_refused() -> None:
    good = encode_revival(REVIVAL, MESSAGES)
    at = decode_command(good).messages_at
    for bad in (
        good[:at],
        good[:7],
        good[:2] + b"\xff\xff\xff\xff" + good[6:],
        good[:at] + b"\x05" + good[at + 1 :],
        good[:6] + b"\x80" + good[7:],
        encode_revival(evolve(REVIVAL, checkpoints=()), MESSAGES),
    ):
        with pytest.raises(MalformedCommand):
            decode_command(bad)
    with pytest.raises(UnknownCommand):
        decode_command(good[:1] + b"\x02" + good[2:])


@given(commands)
def test_a_command_comes_back(command: Command) -> None:
    assert command == decode_command(memoryview(encode_command(command)))


@given(st.integers(-(2**63), 2**63 - 1), messages)
def test_messages_come_back(stamped_ms: int, sent: list[Message]) -> None:
    payload = encode_put_messages(stamped_ms, sent)
    command = decode_command(payload)

    assert isinstance(command, PutMessages)
    assert stamped_ms == command.stamped_ms
    at = command.records_at
    found = []
    for number, size, tags_code in MESSAGE.iter_unpack(command.table):
        found.append((*command.queues[number], tags_code, payload[at : at + size]))
        at += size
    assert sent == found
    assert len(payload) == command.payload_bytes == at


def test_a_queue_is_written_once_however_many_messages_it_gets() -> None:
    one = encode_put_messages(0, [("orders", 0, 0, b"x")])
    ten = encode_put_messages(0, [("orders", 0, 0, b"x")] * 10)

    assert 9 * (MESSAGE.size + 1) == len(ten) - len(one)


DELETE = encode_command(DeleteTopic(stamped_ms=1, name="a"))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x05",
        DELETE[:-1],
        DELETE + b"\x00",
        DELETE[:2] + b"\x9f\x01\x61a\xff",  # an array of indefinite length
        DELETE[:2] + b"\x82\x18\x01\x61a",  # 1 in two bytes
        DELETE[:2] + b"\x82\x01\x7f\x61a\xff",  # a string of indefinite length
        DELETE[:2] + b"\x81\x01",  # a field is missing
        DELETE[:2] + b"\x83\x01\x61a\x01",  # one too many
        DELETE[:2] + b"\x82\xf5\x61a",  # true is no integer
        DELETE[:2] + b"\x82\xf9\x3c\x00\x61a",  # nor is 1.0
        DELETE[:2] + b"\x82\x01\x41a",  # bytes are no string
        DELETE[:2] + b"\x82\x01\xf6",  # null is no name
        DELETE[:2] + b"\x82\xc2\x49\x01" + bytes(8) + b"\x61a",  # 2**64
        DELETE[:2] + b"\x82\x1b\xff" + bytes(7) + b"\x61a",  # more than 2**63
        DELETE[:2] + b"\xa1\x01\x61a",  # a map
        DELETE[:2] + b"\xa2\x01\x61a\x01\x61a",  # with its key twice
        DELETE[:2] + b"\x82\x01\x62\xff\xff",  # not UTF-8
        DELETE[:2] + b"\x81" * 100_000 + b"\x00",  # deep
        DELETE[:2] + b"\x82\x01\xd8\x1c\x61a",  # a shareable value
        b"\x09\x01" + cbor2.dumps([1, [["g", "t", 0]]]),
        b"\x06\x01" + cbor2.dumps([1, ["g"]]),
    ],
    ids=lambda payload: payload[:12].hex(),
)
def test_what_no_encoder_writes_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedCommand):
        decode_command(payload)


@pytest.mark.parametrize("start", [b"\x00\x01", b"\xff\x01", b"\x05\x02", b"\x05\x00"])
def test_another_builds_command_is_unknown(start: bytes) -> None:
    with pytest.raises(UnknownCommand, match=f"tag {start[0]} version {start[1]}"):
        decode_command(start + DELETE[2:])


PUT = encode_put_messages(1, [("ab", 0, 7, b"record")])


@pytest.mark.parametrize(
    "payload",
    [
        PUT[: HEAD.size - 1],
        PUT[: HEAD.size + QUEUE.size - 1],
        PUT[: HEAD.size + QUEUE.size + 1],
        PUT[: HEAD.size + QUEUE.size + 2 + MESSAGE.size - 1],
        PUT[:16] + PUT[16:].replace(b"ab", b"\xff\xff"),
        HEAD.pack(1, 1, 1, 2, 0) + (QUEUE.pack(0, 2) + b"ab") * 2,
        HEAD.pack(1, 1, 1, 0, 2**32 - 1),
    ],
    ids=["head", "queue", "name", "table", "utf-8", "twice", "count"],
)
def test_cut_off_messages_are_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedCommand):
        decode_command(payload)


def test_messages_of_another_version_are_unknown() -> None:
    with pytest.raises(UnknownCommand, match="tag 1 version 2"):
        decode_command(b"\x01\x02" + PUT[2:])


END = END_HEAD.pack(15, 1, 1, 4711, Verdict.COMMITTED)


@pytest.mark.parametrize(
    "payload",
    [
        END[:-1],
        END,
        END_HEAD.pack(15, 1, 1, 4711, Verdict.ROLLED_BACK) + PUT,
        END_HEAD.pack(15, 1, 1, 4711, 4) + PUT,
        END + b"\x05" + PUT[1:],
        END + b"\x01",
        END + PUT[: HEAD.size],
        END + encode_put_messages(1, [("ab", 0, 7, b"one"), ("ab", 0, 7, b"two")]),
        END + encode_put_messages(1, [("ab", 0, 7, b"one"), ("ab", 1, 7, b"two")]),
        END + encode_put_messages(1, []),
    ],
    ids=["head", "nothing", "too much", "verdict", "tag", "cut", "queue", "two", "queues", "none"],
)
def test_an_end_that_no_encoder_writes_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedCommand):
        decode_command(payload)


@pytest.mark.parametrize("payload", [b"\x0f\x02" + END[2:] + PUT, END + b"\x01\x02" + PUT[2:]])
def test_an_end_of_another_version_is_unknown(payload: bytes) -> None:
    with pytest.raises(UnknownCommand, match="version 2"):
        decode_command(payload)


def test_the_first_record_is_found_in_whatever_carries_one() -> None:
    end = END + PUT
    rolled_back = EndTransaction(stamped_ms=1, half_position=1, verdict=Verdict.ROLLED_BACK)

    assert b"record" == PUT[first_record_at(PUT) :] == end[first_record_at(end) :]
    assert None is first_record_at(encode_command(rolled_back)) is first_record_at(DELETE)
    moved = encode_move(MOVE, MESSAGES)
    assert moved[first_record_at(moved) :].startswith(MESSAGES[0][3])
    assert None is first_record_at(encode_move(MOVE, []))


@given(
    st.binary(max_size=80)
    | st.builds(
        lambda tag, rest: bytes((tag, 1)) + rest, st.integers(1, 16), st.binary(max_size=80)
    )
)
def test_noise_never_raises_anything_else(payload: bytes) -> None:
    with contextlib.suppress(Unappliable):
        decode_command(payload)
