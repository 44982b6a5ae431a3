"""What operators ask of single consumers, asked of the room itself: pages 02 (f) and 06 §9."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from broker.errors import CLIENT_UNKNOWN
from broker.rooms import relays
from broker.serving.client_calls import ANSWER_S
from dledger_py.remoting.commands.json_bodies import parse
from dledger_py.remoting.commands.relays import (
    ConsumeDirectly,
    GetConsumerRunningInfo,
    GetConsumerStatus,
    GetStatusFromClient,
)
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic
from dledger_py.remoting.rooms import Answer, Refused
from dledger_py.remoting.wire.frame import Frame
from dledger_py.remoting.wire.message import decode_record, offset_message_id
from tests.broker.rooms_kit import BROKER, STORE_HOST, Connection, Desk, header

RUNNING = GetConsumerRunningInfo(consumer_group="shop", client_id="c1", jstack_enable=True)


@pytest.fixture
def desk(tmp_path) -> Desk:
    desk = Desk(tmp_path)
    desk.ask(CreateTopic(topic="orders", read_queue_nums=1, write_queue_nums=1, perm=6))
    return desk


@pytest.fixture
def consumer(desk) -> Connection:
    connection = desk.connect()
    desk.beat("shop", "orders", client_id="c1", by=connection)
    connection.told.clear()
    return connection


@pytest.fixture
def stored(desk) -> str:
    """The id of a message."""
    request = SendMessage(producer_group="p", topic="orders", queue_id=0, properties="k\x01v\x02")
    return header(SendMessage, desk.ask(request, b"hello")).msg_id


def directly(msg_id: str, **fields: Any) -> ConsumeDirectly:
    return ConsumeDirectly(
        **({"consumer_group": "shop", "client_id": "c1"} | fields), msg_id=msg_id
    )


@asynccontextmanager
async def asked(desk: Desk, *arguments: Any) -> AsyncIterator[Callable[[], Answer[Any]]]:
    """The question is with the consumer; what is yielded gives the answer, after the block."""
    answers: list[Answer[Any]] = []

    async def ask() -> None:
        answers.append(await desk.ask_async(*arguments))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        yield lambda: answers[0]


async def test_the_question_and_the_answer_are_handed_on_as_they_are(desk, consumer) -> None:
    async with asked(desk, RUNNING) as answer:
        consumer.say(17, b'{"any":1}', "odd", field="value")

    assert [RUNNING] == consumer.told
    assert (17, b'{"any":1}', "odd", b'{"field":"value"}') == (
        answer().code,
        answer().body,
        answer().remark,
        answer().rendered,
    )


async def test_a_message_is_sent_along_for_the_consumer_to_consume(desk, consumer, stored) -> None:
    request = directly(stored, topic="orders", group_sys_flag=3)
    async with asked(desk, request) as answer:
        consumer.say(0, b'{"consumeResult":"CR_SUCCESS"}')
    record = decode_record(consumer.told_bodies[-1])

    assert [directly(stored, topic="orders", group_sys_flag=3, broker_name=BROKER)] == consumer.told
    assert (b"hello", "orders", 0, stored) == (
        record.body,
        record.topic,
        record.queue_offset,
        record.offset_message_id,
    )
    assert (0, b'{"consumeResult":"CR_SUCCESS"}') == (answer().code, answer().body)


@pytest.mark.parametrize("question", ["running", "directly"])
async def test_a_silent_consumer_is_waited_for_so_long(
    desk, consumer, stored, question, autojump_clock
) -> None:
    began = trio.current_time()
    with pytest.raises(Refused, match="c1") as raised:
        await desk.ask_async(RUNNING if question == "running" else directly(stored))

    assert (207, ANSWER_S) == (raised.value.code, trio.current_time() - began)
    assert {} == consumer.awaited


@pytest.mark.parametrize(
    "group, client_id", [("shop", "c2"), ("none", "c1"), ("shop", ""), ("shop", None)]
)
async def test_a_consumer_nobody_knows_is_not_online(
    desk, consumer, stored, group, client_id
) -> None:
    question: Any = directly(stored, consumer_group=group, client_id=client_id)
    if client_id:
        with pytest.raises(Refused, match="not online"):
            await desk.ask_async(GetConsumerRunningInfo(consumer_group=group, client_id=client_id))
    with pytest.raises(Refused, match="not online") as raised:
        await desk.ask_async(question)

    assert (1, True) == (raised.value.code, CLIENT_UNKNOWN in raised.value.fields)
    assert [] == consumer.told


async def test_another_member_may_know_the_consumer(desk, stored) -> None:
    desk.gate.others = {"b": Frame(code=0, flag=1, body=b"from b")}
    answers = [await desk.ask_async(each) for each in (RUNNING, directly(stored))]

    assert [b"from b", b"from b"] == [answer.body for answer in answers]


@pytest.mark.parametrize(
    "msg_id, code, remark",
    [
        ("", 29, "characters"),
        ("xyz", 29, "hexadecimal"),
        ("00" * 15, 29, "characters"),
        (offset_message_id(STORE_HOST, 7), 1, "by the offset, 7"),
        ("FF" * 16, 1, "by the offset"),
    ],
)
async def test_a_message_that_is_not_there_is_not_consumed(
    desk, consumer, msg_id, code, remark
) -> None:
    with pytest.raises(Refused, match=remark) as raised:
        await desk.ask_async(directly(msg_id))

    assert code == raised.value.code
    assert [] == consumer.told


# --- where consumers are ---


def where(offset: int) -> bytes:
    """As fastjson writes it."""
    return (
        b'{"consumerTable":{},"messageQueueTable":'
        b'{{"brokerName":"broker-a","queueId":0,"topic":"orders"}:%d}}' % offset
    )


STATUS = GetConsumerStatus(topic="orders", group="shop")
QUEUE = '{"brokerName":"broker-a","queueId":0,"topic":"orders"}'


async def test_every_consumer_of_the_group_is_asked_where_it_is(desk, consumer) -> None:
    second, broken, gone = desk.connect(), desk.connect(), desk.connect()
    desk.beat("shop", "orders", client_id="c2", by=second)
    desk.beat("shop", "orders", client_id="c3", by=broken)
    desk.beat("shop", "orders", client_id="c4", by=gone)
    async with asked(desk, STATUS) as answer:
        assert GetStatusFromClient(topic="orders", group="shop") == consumer.told[-1]
        consumer.say(0, where(5))
        second.say(0, where(6))
        broken.say(0, b"rubbish")
        gone.close()

    table = parse(answer().body)["consumerTable"]
    assert {"c1": {QUEUE: 5}, "c2": {QUEUE: 6}} == table


async def test_one_consumer_may_be_asked_alone(desk, consumer) -> None:
    second = desk.connect()
    desk.beat("shop", "orders", client_id="c2", by=second)
    second.told.clear()
    consumer.told.clear()
    async with asked(desk, GetConsumerStatus(topic="o", group="shop", client_addr="c2")) as answer:
        second.say(0, where(6))

    assert ([], 1) == (consumer.told, len(second.told))
    assert ["c2"] == list(parse(answer().body)["consumerTable"])


async def test_who_refuses_or_says_nothing_is_left_out(desk, consumer, autojump_clock) -> None:
    second = desk.connect()
    desk.beat("shop", "orders", client_id="c2", by=second)
    async with asked(desk, STATUS) as answer:
        second.say(1, where(6))

    assert {} == parse(answer().body)["consumerTable"]


async def test_a_table_is_bounded(desk, consumer, monkeypatch) -> None:
    monkeypatch.setattr(relays, "TABLE_BYTES_MAX", len(where(5)) - 1)
    async with asked(desk, STATUS) as answer:
        consumer.say(0, where(5))
    monkeypatch.setattr(relays, "ASKED_MAX", 0)
    with pytest.raises(Refused, match="1 consumers") as raised:
        await desk.ask_async(STATUS)

    assert ({}, 29) == (parse(answer().body)["consumerTable"], raised.value.code)


async def test_a_group_nobody_consumes_in_has_no_table(desk) -> None:
    with pytest.raises(Refused) as raised:
        await desk.ask_async(STATUS)

    assert 206 == raised.value.code
