"""Handles and offsets of popped messages, as Java writes and reads them: page 08 §4.2."""

import pytest

from dledger_py.remoting.commands.popping import (
    BatchAck,
    Handle,
    MalformedHandle,
    Origin,
    PoppedQueue,
    PopReply,
    ack_bits,
    decode_handle,
    message_offsets,
    order_counts,
    parse_popped,
    real_topic,
    start_offsets,
)
from dledger_py.remoting.wire.schema import Malformed

HANDLE = Handle(
    first_offset=100,
    pop_ms=1_700_000_000_000,
    invisible_ms=60_000,
    revive_qid=3,
    origin=Origin.TOPIC,
    broker_name="broker-a",
    queue_id=0,
    offset=103,
)
TEXT = "100 1700000000000 60000 3 0 broker-a 0 103"


def test_a_handle_is_the_text_that_java_writes() -> None:
    assert TEXT == HANDLE.encode()
    assert HANDLE == decode_handle(TEXT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "100",
        TEXT + " 1",
        TEXT.replace("103", "x"),
        TEXT.replace("103", "-3"),
        TEXT.replace("103", "9" * 20),
        TEXT.replace("103", str(2**63)),
        TEXT.replace("103", "१०"),
        TEXT.replace(" 0 broker", " 4 broker"),
    ],
)
def test_what_is_no_handle_is_refused(text) -> None:
    with pytest.raises(MalformedHandle):
        decode_handle(text)


def test_the_largest_number_of_java_is_one() -> None:
    assert 2**63 - 1 == decode_handle(TEXT.replace("103", str(2**63 - 1))).offset


def test_a_handle_knows_the_topic_its_message_stands_in() -> None:
    topics = [real_topic("shop", "orders", origin) for origin in Origin]

    assert ["orders", "%RETRY%shop_orders", "%RETRY%shop+orders"] == topics
    assert "orders" == HANDLE.real_topic("shop", "orders")


def test_offsets_are_listed_by_queue() -> None:
    queues = [
        PoppedQueue(
            origin=Origin.TOPIC, queue_id=3, first_offset=100, offsets=[100, 101, 103], counts=[]
        ),
        PoppedQueue(origin=Origin.RETRY, queue_id=0, first_offset=7, offsets=[7]),
    ]

    assert "0 3 100;1 0 7" == start_offsets(queues)
    assert "0 3 100,101,103;1 0 7" == message_offsets(queues)


def test_counts_name_offsets_and_the_least_of_each_queue() -> None:
    queue = PoppedQueue(
        origin=Origin.TOPIC, queue_id=3, first_offset=5, offsets=[5, 6, 8], counts=[1, 0, 2]
    )
    text = order_counts([queue])
    reply = PopReply(
        start_offset_info=start_offsets([queue]),
        msg_offset_info=message_offsets([queue]),
        order_count_info=text,
    )

    assert "0 qo3%5 1;0 qo3%8 2;0 3 0" == text
    assert {(Origin.TOPIC, 3): queue} == parse_popped(reply)
    assert {} == parse_popped(PopReply())


@pytest.mark.parametrize(
    "fields",
    [
        {"msg_offset_info": "0 3 1"},
        {"msg_offset_info": "0 3 x", "start_offset_info": "0 3 1"},
        {"msg_offset_info": "0 3", "start_offset_info": "0 3 1"},
        {"msg_offset_info": "8 3 1", "start_offset_info": "8 3 1"},
    ],
)
def test_offsets_that_cannot_be_read_are_refused(fields) -> None:
    with pytest.raises(Malformed):
        parse_popped(PopReply(**fields))


def test_bits_stand_in_the_order_of_java() -> None:
    assert "CQI=" == ack_bits(100, [109, 100, 103])
    assert "" == ack_bits(100, [])


def test_bits_far_behind_the_first_offset_are_read_as_they_were_written() -> None:
    offsets = [100, 107, 108, 4_195, 8_291]
    row = BatchAck(
        group="shop",
        topic="orders",
        origin="0",
        first_offset=100,
        queue_id=0,
        pop_ms=1,
        bits=ack_bits(100, offsets),
    )

    assert offsets == row.offsets()
