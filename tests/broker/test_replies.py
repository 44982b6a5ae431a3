"""Request and reply, asked of the room itself: page 08 §7."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from broker.errors import CLIENT_UNKNOWN
from broker.serving import client_calls
from broker.serving.client_calls import ANSWER_S
from broker.serving.leadership import BORN_HOST, FORWARDED_BY
from dledger_py.remoting.commands.clients import UnregisterClient
from dledger_py.remoting.commands.relays import PushReply, SendReplyMessage
from dledger_py.remoting.commands.topics import CreateTopic
from dledger_py.remoting.rooms import Answer, Refused
from dledger_py.remoting.wire.frame import Frame
from dledger_py.remoting.wire.properties import decode as properties_of
from dledger_py.remoting.wire.properties import encode as properties_text
from tests.broker.rooms_kit import Connection, Desk

TOPIC = "DefaultCluster_REPLY_TOPIC"
FOR_C1 = {"CORRELATION_ID": "42", "REPLY_TO_CLIENT": "c1", "MSG_TYPE": "reply", "TTL": "3000"}


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def requester(desk) -> Connection:
    connection = desk.connect()
    desk.produce("pg", by=connection)
    return connection


def reply(**fields: Any) -> SendReplyMessage:
    given = {"producer_group": "repliers", "topic": TOPIC, "queue_id": 0}
    text = properties_text(FOR_C1)
    return SendReplyMessage(**(given | {"properties": text} | fields))


@asynccontextmanager
async def asked(
    desk: Desk, *arguments: Any, **how: Any
) -> AsyncIterator[Callable[[], Awaitable[Answer[Any]]]]:
    """A reply is on its way to the requester; what is yielded waits for what its sender hears."""
    send, receive = trio.open_memory_channel[Answer[Any] | Refused](1)

    async def ask() -> None:
        try:
            await send.send(await desk.ask_async(*arguments, **how))
        except Refused as error:
            await send.send(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        yield receive.receive
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("code", [324, 325])
async def test_a_reply_is_pushed_to_who_waits_for_it(desk, requester, code) -> None:
    request = reply(sys_flag=1, flag=9, born_timestamp=7, reconsume_times=2)
    entries = desk.ledger.entries
    async with asked(desk, request, b"pong", code=code) as heard:
        (push,) = requester.told
        requester.say()
        answer = await heard()

    assert isinstance(push, PushReply)
    assert b"pong" == requester.told_bodies[-1]
    assert FOR_C1 | {"PUSH_REPLY_TIME": str(desk.now_ms)} == properties_of(push.properties)
    assert ("repliers", TOPIC, 0, 1, 7, 9, 2) == (
        push.producer_group,
        push.topic,
        push.queue_id,
        push.sys_flag,
        push.born_timestamp,
        push.flag,
        push.reconsume_times,
    )
    assert ("10.0.0.9:54321", "10.0.0.1:10911", desk.now_ms) == (
        push.born_host,
        push.store_host,
        push.store_timestamp,
    )
    assert (0, "0", 0, 0) == (
        answer.code,
        answer.header.msg_id,
        answer.header.queue_id,
        answer.header.queue_offset,
    )
    assert entries == desk.ledger.entries  # nothing is stored


async def test_a_reply_left_to_the_broker_names_a_queue_all_the_same(desk, requester) -> None:
    async with asked(desk, reply(queue_id=-1)) as heard:
        requester.say()
        answer = await heard()

    assert (0, 0) == (requester.told[-1].queue_id, answer.header.queue_id)


async def test_a_reply_counts_once_the_requester_has_taken_it(desk, requester) -> None:
    async with asked(desk, reply()) as heard:
        requester.say(code=1, remark="not mine")
        error = await heard()

    assert (1, True) == (error.code, "not mine" in error.remark)


async def test_a_silent_requester_costs_the_replier_ten_seconds(
    desk, requester, autojump_clock
) -> None:
    began = trio.current_time()
    with pytest.raises(Refused, match="c1") as raised:
        await desk.ask_async(reply())

    assert 1 == raised.value.code
    assert ANSWER_S == trio.current_time() - began == 10
    assert {} == requester.awaited


async def test_a_requester_that_leaves_ends_the_waiting(desk, requester) -> None:
    async with asked(desk, reply()) as heard:
        requester.close()
        error = await heard()

    assert (1, True) == (error.code, "c1" in error.remark)


REFUSED = {
    "nobody asked for it": (reply(properties=""), 1, "REPLY_TO_CLIENT"),
    "unknown requester": (reply(properties=properties_text({"REPLY_TO_CLIENT": "c9"})), 1, "c9"),
    "unknown topic": (reply(topic="none"), 17, "none"),
    "topic that is not written": (reply(topic="readonly"), 16, "read only"),
    "topic of the broker's own": (reply(topic="SCHEDULE_TOPIC_XXXX"), 16, "forbidden"),
    "queue behind the last": (reply(queue_id=1), 29, "queueId[1]"),
}


@pytest.mark.parametrize("request_, code, remark", REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_a_reply_is_refused(desk, requester, request_, code, remark) -> None:
    desk.ask(CreateTopic(topic="readonly", read_queue_nums=1, write_queue_nums=1, perm=4))
    with pytest.raises(Refused, match=remark.replace("[", r"\[")) as raised:
        await desk.ask_async(request_)

    assert code == raised.value.code
    assert [] == requester.told


async def test_a_reply_is_no_larger_than_a_message(tmp_path) -> None:
    desk = Desk(tmp_path, max_message_bytes=10)
    desk.produce("pg")
    with pytest.raises(Refused, match="11 bytes") as raised:
        await desk.ask_async(reply(), bytes(11))

    assert 13 == raised.value.code


# --- whom a member knows ---


async def test_a_requester_is_known_by_its_id_in_whatever_group(desk) -> None:
    old, new = desk.connect(), desk.connect()
    desk.produce("early", by=old)
    desk.ticks_ms += 1
    desk.produce("late", by=new)
    async with asked(desk, reply()):
        assert ([], 1) == (old.told, len(new.told))
    desk.ask(UnregisterClient(client_id="c1", producer_group="late"))
    async with asked(desk, reply()):
        assert (1, 1) == (len(old.told), len(new.told))
    old.close()
    with pytest.raises(Refused, match="not found"):
        await desk.ask_async(reply())


UNKNOWN = Frame(code=1, flag=1, remark="not here", fields={CLIENT_UNKNOWN: "true"})
TAKEN = Frame(code=0, flag=1, fields={"msgId": "0"})


@pytest.mark.parametrize("others", [{"b": UNKNOWN, "c": TAKEN}, {"b": TAKEN, "c": None}])
async def test_a_member_asks_the_others_for_a_requester_it_does_not_know(desk, others) -> None:
    desk.gate.others = others
    answer = await desk.ask_async(reply())

    assert (0, b'{"msgId":"0"}') == (answer.code, answer.rendered)
    assert {"b", "c"} == set(desk.gate.asked)


async def test_what_the_member_that_knows_the_requester_says_is_the_answer(desk) -> None:
    desk.gate.others = {"b": UNKNOWN, "c": Frame(code=1, flag=1, remark="it is silent")}
    answer = await desk.ask_async(reply())

    assert (1, "it is silent") == (answer.code, answer.remark)


async def test_a_requester_nobody_knows_is_not_found(desk) -> None:
    desk.gate.others = {"b": UNKNOWN, "c": None}
    with pytest.raises(Refused, match="channel of <c1> not found") as raised:
        await desk.ask_async(reply())

    assert 1 == raised.value.code


async def test_a_member_that_was_asked_asks_nobody_and_says_that_it_does_not_know(desk) -> None:
    desk.gate.others = {"b": TAKEN}
    with pytest.raises(Refused) as raised:
        await desk.ask_async(reply(), fields={FORWARDED_BY: "a", BORN_HOST: "1.2.3.4:5"})

    assert CLIENT_UNKNOWN in raised.value.fields
    assert [] == desk.gate.asked


async def test_a_forwarded_reply_comes_from_where_its_sender_is(desk, requester) -> None:
    async with asked(desk, reply(), fields={FORWARDED_BY: "a", BORN_HOST: "1.2.3.4:5"}):
        assert "1.2.3.4:5" == requester.told[-1].born_host


# --- bounds ---


@pytest.mark.parametrize("bound, limit", [("IN_HAND_MAX", 2), ("IN_HAND_BYTES_MAX", 20_000)])
async def test_what_is_under_way_is_bounded(desk, requester, monkeypatch, bound, limit) -> None:
    monkeypatch.setattr(client_calls, bound, limit)
    async with asked(desk, reply(), bytes(8_000)), asked(desk, reply(), bytes(8_000)):
        with pytest.raises(Refused, match="too many") as raised:
            await desk.ask_async(reply(), bytes(8_000))
    async with asked(desk, reply(), bytes(8_000)) as heard:  # the room is there again
        requester.say()
        answer = await heard()

    assert (14, 0) == (raised.value.code, answer.code)
    assert 3 == len(requester.told)
