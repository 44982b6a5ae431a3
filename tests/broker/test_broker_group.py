"""Three real brokers in one process: who answers what, and a change of leader."""

import pytest
import trio
from attrs import evolve

from broker.serving.leadership import FORWARDED_BY
from dledger_py.client.errors import ResponseError
from dledger_py.remoting.commands.offsets import (
    GetMaxOffset,
    QueryConsumerOffset,
    UpdateConsumerOffset,
)
from dledger_py.remoting.commands.operations import ChangeMembers, TransferLeadership
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic, GetTopic
from dledger_py.remoting.wire.frame import Framer, encode_request
from dledger_py.remoting.wire.message import decode_records
from dledger_py.remoting.wire.schema import encode
from tests.broker.broker_kit import GROUP, brokers, dial, pull, send


def bodies(reply) -> list[bytes]:
    return [record.body for record in decode_records(reply.body)]


def question(topic: str = "orders") -> QueryConsumerOffset:
    return QueryConsumerOffset(consumer_group=GROUP, topic=topic, queue_id=0)


def commit(offset: int) -> UpdateConsumerOffset:
    return UpdateConsumerOffset(
        consumer_group=GROUP, topic="orders", queue_id=0, commit_offset=offset
    )


async def test_any_member_takes_writes_and_answers_reads(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        leader = await group.wait_leader()
        follower, other = await group.wait_followers()
        async with dial(follower) as client, dial(other) as reader, dial(leader) as at_leader:
            stored = await send(client, "orders", b"hello")
            await client.call(commit(1))
            end = await client.call(GetMaxOffset(topic="orders", queue_id=0))
            offset = await reader.call(question())
            await client.call(CreateTopic(topic="t", read_queue_nums=1, write_queue_nums=1, perm=6))
            await group.wait_applied_alike()
            copies = [await pull(each, "orders") for each in (client, reader, at_leader)]
            await reader.call(GetTopic(topic="t"))
            beyond = await pull(reader, "orders", 5)
        relayed = follower.broker.leadership.statistics()
        digests = {m.broker.machine.state_digest() for m in group.members.values()}

    (record,) = decode_records(copies[0].body)
    assert [copies[0].body] * 3 == [copy.body for copy in copies]
    assert stored.header.msg_id == record.offset_message_id
    assert record.store_host[-2:] == leader.address[1].to_bytes(2, "big")
    assert b"\x7f\x00\x00\x01" == record.born_host[:4]
    assert (1, 1) == (end.header.offset, offset.header.offset)
    assert (19, 5) == (beyond.code, beyond.header.next_begin_offset)
    assert (4, 0) == (relayed.forwarded, relayed.in_hand)
    assert 1 == len(digests)


async def test_a_pull_held_by_a_follower_gets_what_the_leader_stores(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        leader = await group.wait_leader()
        follower = (await group.wait_followers())[0]
        answers = []

        async def wait_for_one(client) -> None:
            answers.append(await pull(client, "orders", 1, wait_ms=15_000))

        async with dial(follower) as consumer, dial(leader) as producer:
            await send(producer, "orders")
            await group.wait_applied_alike()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_for_one, consumer)
                while not follower.broker.polls.statistics().held:
                    await trio.lowlevel.checkpoint()
                await send(producer, "orders", b"second")

    assert [[b"second"]] == [bodies(answer) for answer in answers]


async def test_a_follower_chooses_by_an_expression_what_the_leader_stores(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        leader = await group.wait_leader()
        follower = (await group.wait_followers())[0]
        polls = follower.broker.polls
        answers = []

        async def wait_for_one(client) -> None:
            answers.append(await pull(client, "orders", wait_ms=15_000, sql="n > 1"))

        async with dial(follower) as consumer, dial(leader) as producer:
            await producer.call(
                CreateTopic(topic="orders", read_queue_nums=1, write_queue_nums=1, perm=6)
            )
            await group.wait_applied_alike()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_for_one, consumer)
                while not polls.statistics().held:
                    await trio.lowlevel.checkpoint()
                await send(producer, "orders", b"other", properties="n\x011\x02")
                await group.wait_applied_alike()
                held = polls.statistics().held
                await send(producer, "orders", b"wanted", properties="n\x012\x02")
            again = await pull(consumer, "orders", sql="n < 2")

    assert 1 == held
    assert [[b"wanted"]] == [bodies(answer) for answer in answers]
    assert [b"other"] == bodies(again)


async def test_a_forwarded_write_is_not_forwarded_again(tmp_path) -> None:
    request = SendMessage(producer_group="p", topic="TBW102", queue_id=0)
    fields = encode(request) | {FORWARDED_BY: "n9"}
    async with brokers(tmp_path, 3) as group:
        await group.start()
        follower = (await group.wait_followers())[0]
        async with await trio.open_tcp_stream(*follower.address) as stream:
            await stream.send_all(encode_request(10, 1, fields, b"x"))
            (answer,) = Framer().feed(await stream.receive_some())
        relayed = follower.broker.leadership.statistics().forwarded

    assert (14, 0) == (answer.code, relayed)


async def test_a_stopped_leader_is_replaced_and_nothing_acknowledged_is_lost(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        first = await group.wait_leader()
        follower = (await group.wait_followers())[0]
        codes = []

        async def send_on(client, number: int) -> None:
            codes.append((await send(client, "orders", b"%d" % number)).code)

        async with dial(follower) as client:
            for number in range(5):
                await send_on(client, number)
            await client.call(commit(4))
            await group.stop(first.node)
            # These meet a group without a leader: they are parked, then stored.
            async with trio.open_nursery() as nursery:
                for number in range(5, 10):
                    nursery.start_soon(send_on, client, number)
            second = await group.wait_leader()
            await group.wait_applied_alike()
            offset = await client.call(question())
            pulled = await pull(client, "orders")
        await group.start(first.node)
        await group.wait_followers()
        async with dial(group.members[first.node]) as client:
            again = await pull(client, "orders")

    assert second is not first
    assert [0] * 10 == codes
    assert {b"%d" % number for number in range(10)} == set(bodies(pulled))
    assert [b"%d" % number for number in range(5)] == bodies(pulled)[:5]
    assert 4 == offset.header.offset
    assert pulled.body == again.body


async def test_operators_choose_who_leads(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        leader = await group.wait_leader()
        follower, _other = await group.wait_followers()
        async with dial(leader) as client, dial(follower) as elsewhere:
            await send(client, "orders", b"before")
            with pytest.raises(ResponseError) as stranger:
                await client.call(TransferLeadership(transferee_id="n9"))
            with pytest.raises(ResponseError) as not_the_leader:
                await elsewhere.call(TransferLeadership(transferee_id=leader.node))
            await client.call(TransferLeadership(transferee_id=follower.node))
            await group.wait_until(lambda: follower.leads)
            await send(client, "orders", b"after")  # handed on to the new leader
            copy = await pull(elsewhere, "orders")

    assert (29, 14) == (stranger.value.code, not_the_leader.value.code)
    assert leader.node in str(not_the_leader.value)
    assert [b"before", b"after"] == bodies(copy)


async def test_a_leader_that_is_told_to_stop_hands_over_first(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        leader = await group.wait_leader()
        await group.wait_followers()
        views = []
        leader.broker.ledger.on_role_change(views.append)
        await group.stop(leader.node)
        successor = await group.wait_leader()

    assert successor.node in [view.leader for view in views if view.role == "follower"]


async def test_without_a_majority_writes_end_unknown_or_refused_and_reads_go_on(
    tmp_path,
) -> None:
    async with brokers(tmp_path, 3, forward_wait_ms=100) as group:
        group.ledger_settings["election_timeout_ms"] = 400
        await group.start()
        leader = await group.wait_leader()
        others = await group.wait_followers()
        async with dial(leader) as client:
            await send(client, "orders", b"x")
            for other in others:
                await group.stop(other.node)
            # It still leads for an election timeout, and appends what will never be committed.
            with pytest.raises(ResponseError) as unknown:
                await send(client, "orders", b"y")
            with pytest.raises(ResponseError) as refused:
                await send(client, "orders", b"z")
            pulled = await pull(client, "orders")

    assert (1, 14) == (unknown.value.code, refused.value.code)
    assert "may have been" in unknown.value.remark
    assert "nothing was stored" in refused.value.remark
    assert [b"x"] == bodies(pulled)


async def test_a_fourth_member_joins_leads_and_is_found_by_the_others(tmp_path) -> None:
    """Their settings do not name it: they know it by what it says of itself."""
    async with brokers(tmp_path, 4) as group:
        founders = group.settings_of("n0", "n1", "n2")
        await group.start("n0", "n1", "n2", **founders)
        leader = await group.wait_leader()
        async with dial(leader) as client:
            await send(client, "orders", b"before")
            joining = evolve(group.config("n3").ledger, join=True)
            await group.start("n3", ledger=joining, join_wait_ms=0)
            with pytest.raises(ResponseError) as nonsense:
                await client.call(ChangeMembers(change="swap", node="n3"))
            with pytest.raises(ResponseError) as nameless:
                await client.call(ChangeMembers(change="add", node="new", address="h:1"))
            with pytest.raises(ResponseError) as nowhere:
                await client.call(ChangeMembers(change="add", node="n3", address="nowhere"))
            await client.call(ChangeMembers(change="add", node="n3", address=group.peer("n3")))
            newcomer = group.members["n3"]
            members = newcomer.broker.ledger.members
            while "n3" not in members.voters or members.changing:
                await trio.lowlevel.checkpoint()
            with pytest.raises(ResponseError) as again:
                await client.call(ChangeMembers(change="add", node="n3", address=group.peer("n3")))
            await client.call(TransferLeadership(transferee_id="n3"))
            await group.wait_until(lambda: newcomer.leads)
            await send(client, "orders", b"handed on to the newcomer")
            with pytest.raises(ResponseError) as not_the_leader:
                await client.call(ChangeMembers(change="remove", node="n0"))
        async with dial(newcomer) as client:
            await client.call(ChangeMembers(change="remove", node=leader.node))
            await send(client, "orders", b"after")
            copy = await pull(client, "orders")

    assert (29, 29, 29, 1, 14) == tuple(
        error.value.code for error in (nonsense, nameless, nowhere, again, not_the_leader)
    )
    assert "n3 is a member already" in str(again.value)
    assert [b"before", b"handed on to the newcomer", b"after"] == bodies(copy)
