"""Sending: what arrives, what is tried again, and what an error says."""

import math
from datetime import timedelta
from typing import Any

import anyio
import pytest

from dledger_py.client import (
    ClientClosed,
    Indefinite,
    NoQueue,
    Outgoing,
    Refused,
    SendRefused,
    SendUncertain,
    Unreachable,
    connect,
)
from dledger_py.remoting.wire.frame import Frame, encode_response
from dledger_py.remoting.wire.properties import decode
from tests.client.fake_broker import (
    ROUTE,
    SEND,
    FakeBroker,
    FakeNameServer,
    Store,
    connected,
    running_cluster,
)
from tests.client.fake_servers import Peer, on_both_loops, running


@on_both_loops
async def test_a_message_arrives_with_everything_it_was_given() -> None:
    async with connected() as (cluster, mq):
        receipt = await mq.send(
            "t", b"body", tag="paid", keys=["o-1", "o-2"], group="o", properties={"amount": "12 €"}
        )
        sent = cluster.broker.requests_of(SEND)[0]

    assert (receipt.topic, receipt.broker, receipt.queue_id, receipt.queue_offset) == (
        "t",
        "broker-a",
        0,
        0,
    )
    assert len(receipt.offset_message_id) == 32
    assert sent.body == b"body"
    assert decode(sent.fields["i"]) == {
        "UNIQ_KEY": receipt.message_id,
        "WAIT": "true",
        "TAGS": "paid",
        "KEYS": "o-1 o-2",
        "__SHARDINGKEY": "o",
        "amount": "12 €",
    }


@on_both_loops
async def test_a_topic_may_be_called_with_percents() -> None:
    async with connected() as (cluster, mq):
        cluster.names.route("%RETRY%d", cluster.broker)

        await mq.send("%RETRY%d", b"body")

        assert cluster.broker.requests_of(SEND)[0].fields["b"] == "%RETRY%d"


@on_both_loops
async def test_a_timeout_is_a_number_of_seconds() -> None:
    expected = "timeout_s datetime.timedelta.*: a number of seconds is expected"
    span: Any = timedelta(seconds=1)
    async with connected() as (_, mq):
        for call in (mq.send, mq.request, mq.send_oneway):
            with pytest.raises(TypeError, match=expected):
                await call("t", b"body", timeout_s=span)
    with pytest.raises(TypeError, match=expected):
        async with connect("127.0.0.1:1", timeout_s=span):
            raise AssertionError("not reached")
    for seconds in (-1, math.nan):
        with pytest.raises(ValueError, match=f"timeout_s {seconds}: 0 or more seconds"):
            async with connect("127.0.0.1:1", timeout_s=seconds):
                raise AssertionError("not reached")


@on_both_loops
async def test_a_lost_connection_is_tried_again_with_the_same_id_and_a_fresh_route() -> None:
    async with connected() as (cluster, mq):
        await mq.send("t", b"first")
        asked = len(cluster.names.requests_of(ROUTE))
        seen: list[str] = []

        def lose_it(peer: Peer, frame: Frame) -> bytes | None:
            seen.append(decode(frame.fields["i"])["UNIQ_KEY"])
            if len(seen) == 1:
                raise anyio.EndOfStream  # the server hangs up
            return cluster.broker.store_one(peer, frame)

        cluster.broker.handlers[SEND] = lose_it
        receipt = await mq.send("t", b"second")

        assert seen == [receipt.message_id] * 2
        assert len(cluster.names.requests_of(ROUTE)) == asked + 1


@on_both_loops
async def test_a_send_rides_out_an_election_and_finds_the_new_leader() -> None:
    names, store = FakeNameServer(), Store()
    old, new = FakeBroker(store), FakeBroker(store)
    async with running(names, old, new):
        names.route("t", old, new)
        async with connect(names.address) as mq:
            await mq.send("t", b"before")
            refusals = [0]

            def not_leader(peer: Peer, frame: Frame) -> bytes:
                refusals[0] += 1
                if refusals[0] == 4:  # the election is over
                    names.route("t", new, old)
                    new.handlers[SEND] = new.store_one
                return encode_response(frame, 14, remark="no leader")

            old.handlers[SEND] = new.handlers[SEND] = not_leader
            receipt = await mq.send("t", b"during")

    assert receipt.queue_offset == 1
    assert store.unique_ids.count(receipt.message_id) == 1


@on_both_loops
async def test_a_member_takes_over_while_the_route_still_names_a_dead_leader() -> None:
    names, store = FakeNameServer(), Store()
    dead, alive = FakeBroker(), FakeBroker(store)
    async with running(dead):
        pass  # it had an address once
    async with running(names, alive):
        names.route("t", dead, alive)
        async with connect(names.address) as mq:
            receipt = await mq.send("t", b"body")

    assert store.unique_ids == [receipt.message_id]


@on_both_loops
async def test_another_member_is_asked_when_leadership_was_lost_under_way() -> None:
    names, store = FakeNameServer(), Store()
    deposed, other = FakeBroker(), FakeBroker(store)
    async with running(names, deposed, other):
        names.route("t", deposed, other)
        deposed.handlers[SEND] = lambda peer, frame: encode_response(frame, 1, remark="it changed")
        async with connect(names.address) as mq:
            receipt = await mq.send("t", b"body")

    assert len(deposed.requests_of(SEND)) == 1
    assert store.unique_ids == [receipt.message_id]


@on_both_loops
async def test_sends_look_for_a_leader_while_the_route_names_none() -> None:
    names, store = FakeNameServer(), Store()
    follower, leader = FakeBroker(store), FakeBroker(store)
    async with running(names, follower, leader):
        names.route("t", follower, leader, leader=1)
        async with connect(names.address) as mq:
            await mq.send("t", b"handed on by a follower")
            names.route("t", leader, follower)
            with anyio.fail_after(10):
                while not leader.requests_of(SEND):
                    await mq.send("t", b"body")

            asked = len(names.requests_of(ROUTE))
            for _ in range(5):
                await mq.send("t", b"the leader is known")

    assert asked == len(names.requests_of(ROUTE))


@on_both_loops
async def test_silence_ends_as_may_have_been_stored() -> None:
    async with connected() as (cluster, mq):
        cluster.broker.handlers[SEND] = lambda peer, frame: None

        with pytest.raises(SendUncertain, match="may have been stored") as caught:
            await mq.send("t", b"body", timeout_s=1)

    sent = cluster.broker.requests_of(SEND)[0]
    assert caught.value.unique_id == decode(sent.fields["i"])["UNIQ_KEY"]
    assert isinstance(caught.value, Indefinite)
    assert caught.value.retryable


@on_both_loops
async def test_an_answer_that_came_after_silence_does_not_make_it_certain() -> None:
    async with connected() as (cluster, mq):
        answers = [None, 14]

        def answer(peer: Peer, frame: Frame) -> bytes | None:
            if len(answers) == 2:
                answers.pop(0)
                raise anyio.EndOfStream
            return encode_response(frame, 14, remark="no leader")

        cluster.broker.handlers[SEND] = answer
        with pytest.raises(SendUncertain, match="14: no leader"):
            await mq.send("t", b"body", timeout_s=1)


@on_both_loops
async def test_a_handler_that_failed_may_have_stored_it() -> None:
    async with connected() as (cluster, mq):
        cluster.broker.handlers[SEND] = lambda peer, frame: encode_response(frame, 1, remark="oops")

        with pytest.raises(SendUncertain, match="1: oops"):
            await mq.send("t", b"body", timeout_s=1)


@on_both_loops
async def test_what_is_refused_for_good_is_not_tried_again() -> None:
    async with connected() as (cluster, mq):
        cluster.broker.handlers[SEND] = lambda peer, frame: encode_response(
            frame, 13, remark="message too large"
        )
        with pytest.raises(
            SendRefused, match=r"was not stored: .* 13: message too large"
        ) as caught:
            await mq.send("t", b"body")

        assert len(cluster.broker.requests_of(SEND)) == 1
    assert not caught.value.retryable
    assert isinstance(caught.value, Refused)


@on_both_loops
async def test_refusals_until_the_deadline_are_definite_and_retryable() -> None:
    async with connected() as (cluster, mq):
        cluster.broker.handlers[SEND] = lambda peer, frame: encode_response(frame, 14, remark="no")
        with pytest.raises(SendRefused) as caught:
            await mq.send("t", b"body", timeout_s=1)

        assert len(cluster.broker.requests_of(SEND)) > 1
    assert caught.value.retryable


@on_both_loops
async def test_an_unknown_topic_goes_where_topics_are_created() -> None:
    async with connected() as (cluster, mq):
        cluster.names.route("TBW102", cluster.broker, queues=8, perm=7)
        receipts = [await mq.send("new", b"body") for _ in range(4)]
        sent = cluster.broker.requests_of(SEND)[0]

    assert {receipt.queue_id for receipt in receipts} == {0, 1, 2, 3}
    assert (sent.fields["c"], sent.fields["d"]) == ("TBW102", "4")


@on_both_loops
async def test_a_topic_nobody_knows_is_named() -> None:
    async with connected() as (_, mq):
        with pytest.raises(SendRefused, match=r"no route for topic 'nope'.*TBW102"):
            await mq.send("nope", b"body", timeout_s=1)


@on_both_loops
async def test_a_deadline_that_cuts_off_the_last_question_does_not_hide_the_answer_before() -> None:
    async with connected() as (cluster, mq):
        answer = cluster.names.handlers[ROUTE]
        asked: list[str] = []

        def once_for_each(peer: Peer, frame: Frame) -> bytes | None:
            topic = frame.fields["topic"]
            if topic in asked:
                return None
            asked.append(topic)
            return answer(peer, frame)

        cluster.names.handlers[ROUTE] = once_for_each
        with pytest.raises(SendRefused, match=r"no route for topic 'nope'.*TBW102"):
            await mq.send("nope", b"body", timeout_s=1)

    assert asked == ["nope", "TBW102"]


@on_both_loops
async def test_a_cancelled_send_leaves_the_connection_usable() -> None:
    async with connected() as (cluster, mq):
        await mq.send("t", b"warm")
        cluster.broker.handlers[SEND] = lambda peer, frame: None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mq.send, "t", b"cancelled")
            await cluster.broker.wait_for(lambda: len(cluster.broker.requests_of(SEND)) == 2)
            tasks.cancel_scope.cancel()
        cluster.broker.handlers[SEND] = cluster.broker.store_one

        await mq.send("t", b"after")

        assert len(cluster.broker.peers) == 1


@on_both_loops
async def test_garbage_is_survived_by_a_new_connection() -> None:
    async with connected() as (cluster, mq):
        broker = cluster.broker
        broker.handlers[SEND] = lambda peer, frame: b"\xff" * 20

        with pytest.raises(SendUncertain):  # the deadline may also end the dial after the garbage
            await mq.send("t", b"body", timeout_s=1)
        broker.handlers[SEND] = broker.store_one
        assert (await mq.send("t", b"body")).queue_offset == 0


@on_both_loops
async def test_messages_of_one_key_share_a_queue_and_others_take_turns() -> None:
    async with connected(queues=4) as (_, mq):
        keyed = {(await mq.send("t", b"x", group="order-7")).queue_id for _ in range(5)}
        turns = {(await mq.send("t", b"x")).queue_id for _ in range(4)}
        named = (await mq.send("t", b"x", queue=2)).queue_id

        with pytest.raises(NoQueue, match="queue 9 of 't': only 0-3 exist"):
            await mq.send("t", b"x", queue=9)
    assert len(keyed) == 1
    assert turns == {0, 1, 2, 3}
    assert named == 2


@on_both_loops
async def test_a_batch_is_stored_together_with_an_id_each() -> None:
    async with connected() as (cluster, mq):
        receipts = await mq.send_batch("t", [b"a", Outgoing(body=b"b", tag="x", keys=("k",))])

    assert [receipt.queue_offset for receipt in receipts] == [0, 1]
    assert cluster.store.unique_ids == [receipt.message_id for receipt in receipts]
    assert len({receipt.offset_message_id for receipt in receipts}) == 2


@on_both_loops
async def test_a_one_way_message_is_written_before_the_client_closes() -> None:
    async with running_cluster() as cluster:
        async with connect(cluster.names.address) as mq:
            unique_id = await mq.send_oneway("t", b"body")
        await cluster.broker.wait_for(lambda: bool(cluster.store.unique_ids))

    assert cluster.store.unique_ids == [unique_id]
    assert cluster.broker.requests_of(SEND)[0].is_one_way


@on_both_loops
async def test_many_sends_at_once_all_get_their_own_receipt() -> None:
    async with connected() as (_, mq):
        receipts = {}

        async def one(number: int) -> None:
            receipts[number] = await mq.send("t", b"%d" % number)

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(one, number)

    assert sorted(receipt.queue_offset for receipt in receipts.values()) == list(range(200))


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"topic": "a.b"}, "topic 'a.b'"),
        ({"topic": ""}, "topic ''"),
        ({"tag": "a || b"}, "tag 'a || b'"),
        ({"keys": ["a b"]}, "key 'a b'"),
        ({"properties": {"KEYS": "x"}}, "set by an argument of its own"),
        ({"properties": {"x": ""}}, "empty ones do not arrive"),
        ({"properties": {"x": "a\x02b"}}, "0x01 and 0x02"),
        ({"properties": {"x": "y" * 40_000}}, "at most 32767 fit"),
        ({"body": b"x" * (4 * 1024 * 1024 + 1)}, "at most 4194304 fit"),
    ],
)
def test_what_cannot_be_sent_is_a_value_error(arguments: dict[str, object], complaint: str) -> None:
    async def main() -> None:
        async with connected() as (_, mq):
            with pytest.raises(ValueError, match=complaint):
                await mq.send(**{"topic": "t", "body": b"x", **arguments})  # type: ignore[arg-type]

    anyio.run(main)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"topic": b"t"}, "topic b't' is bytes: str is expected"),
        ({"tag": 1}, "tag 1 is int: str is expected"),
        ({"keys": [17]}, "key 17 is int: str is expected"),
        ({"group": 7}, "group 7 is int: str is expected"),
        ({"properties": {"a": 1}}, "property 'a': 1 is int: str is expected"),
        ({"properties": ["a"]}, "properties are list: a mapping is expected"),
        ({"body": "text"}, "body is str: bytes are expected"),
        ({"delay": 5}, "delay 5: a timedelta or a datetime is expected"),
    ],
)
def test_what_is_of_the_wrong_type_is_named(arguments: dict[str, object], complaint: str) -> None:
    async def main() -> None:
        async with connected() as (_, mq):
            with pytest.raises(TypeError, match=complaint):
                await mq.send(**{"topic": "t", "body": b"x", **arguments})  # type: ignore[arg-type]

    anyio.run(main)


@on_both_loops
async def test_only_a_receipt_can_be_recalled() -> None:
    async with connected() as (_, mq):
        receipt = await mq.send("t", b"x")
        with pytest.raises(TypeError, match="what send returned is expected"):
            await mq.recall(receipt.message_id)  # type: ignore[arg-type]


@on_both_loops
async def test_a_name_server_that_is_not_there_is_named() -> None:
    async with running_cluster() as cluster:
        address = cluster.names.address
    with pytest.raises(Unreachable, match=address):
        async with connect(address, timeout_s=0.1):
            pytest.fail("connected")


@on_both_loops
async def test_a_second_name_server_takes_over() -> None:
    first, second, broker = FakeNameServer(), FakeNameServer(), FakeBroker()
    async with running(first, second, broker):
        for names in (first, second):
            names.route("t", broker)
        first.handlers[ROUTE] = lambda peer, frame: b"\xff" * 20
        async with connect(f"{first.address};{second.address}") as mq:
            await mq.send("t", b"body")

    assert len(second.requests_of(ROUTE)) == 1


@on_both_loops
async def test_a_closed_client_says_so() -> None:
    async with running_cluster() as cluster:
        async with connect(cluster.names.address) as mq:
            await mq.send("t", b"body")
        with pytest.raises(ClientClosed):
            await mq.send("t", b"body")


@on_both_loops
async def test_the_users_own_exception_leaves_the_block_as_it_is() -> None:
    async with running_cluster() as cluster:
        with pytest.raises(ZeroDivisionError):
            async with connect(cluster.names.address):
                raise ZeroDivisionError
