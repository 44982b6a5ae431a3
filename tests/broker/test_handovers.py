"""What one leader was asked and the next is asked to go on with: three real brokers."""

from collections.abc import Iterable

from dledger_py.client.connection import Connection
from dledger_py.client.errors import ResponseError
from dledger_py.remoting.commands.groups import CreateGroup, GroupConfig
from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.commands.locks import (
    LockQueues,
    QueuesLocked,
    QueuesOfClient,
    UnlockQueues,
)
from dledger_py.remoting.commands.popping import ChangeInvisibleTime, Handle
from dledger_py.remoting.commands.sending import RecallMessage
from dledger_py.remoting.commands.statistics import MessageQueue
from dledger_py.remoting.wire.properties import encode as properties_text
from tests.broker.broker_kit import PATIENCE_S, BrokerGroup, Member, brokers, dial, send
from tests.broker.popping_kit import GROUP
from tests.broker.test_popping_group import acknowledge, digests, furnish, popped

LONG_MS = 3_600_000


async def next_leader(group: BrokerGroup) -> Member:
    """The one after, when the leader has stopped."""
    first = await group.wait_leader()
    await group.wait_applied_alike()
    await group.stop(first.node)
    return await group.wait_leader()


def queues_of(client_id: str, queue_ids: Iterable[int] = (0,)) -> bytes:
    asked = tuple(
        MessageQueue(topic="orders", broker_name="broker-a", queue_id=each) for each in queue_ids
    )
    return encode_body(QueuesOfClient(client_id=client_id, consumer_group=GROUP, mq_set=asked))


async def locked(client: Connection, client_id: str) -> list[int]:
    reply = await client.call(LockQueues(), queues_of(client_id))
    return [queue.queue_id for queue in decode_body(QueuesLocked, reply.body).queues]


async def change(client: Connection, handle: Handle, ms: int) -> int:
    request = ChangeInvisibleTime(
        consumer_group=GROUP,
        topic="orders",
        queue_id=handle.queue_id,
        extra_info=handle.encode(),
        offset=handle.offset,
        invisible_time=ms,
    )
    try:
        return (await client.call(request, timeout_s=PATIENCE_S)).code
    except ResponseError as error:
        return error.code


async def test_a_queue_is_its_owners_until_he_lets_go_whoever_leads(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        async with dial(await group.wait_leader()) as client:
            await furnish(client, 0)
            await client.call(CreateGroup(), encode_body(GroupConfig(group_name=GROUP)))
            mine = await locked(client, "one")
        async with dial(await next_leader(group)) as client:
            theirs = await locked(client, "other")
            still = await locked(client, "one")
            await client.call(UnlockQueues(), queues_of("other"))
            not_theirs = await locked(client, "other")
            await client.call(UnlockQueues(), queues_of("one"))
            free = await locked(client, "other")
        await group.wait_applied_alike()
        states = digests(group)

    assert ([0], [], [0], [], [0]) == (mine, theirs, still, not_theirs, free)
    assert 1 == len(states)


async def test_a_pop_in_order_is_tried_again_with_the_next_leader(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        how = {"order": True, "invisible_time": LONG_MS, "max_msg_nums": 2}
        async with dial(await group.wait_leader()) as client:
            await furnish(client, 4)
            first = await popped(client, attempt_id="a1", **how)
        async with dial(await next_leader(group)) as client:
            other = await popped(client, attempt_id="a2", **how)
            again = await popped(client, attempt_id="a1", **how)
            old = await change(client, first.handles[0], LONG_MS)
            kept = await change(client, again.handles[0], LONG_MS)
            await acknowledge(client, *first.handles)
            blocked = await popped(client, attempt_id="a3", **how)
            await acknowledge(client, *again.handles)
            rest = await popped(client, attempt_id="a3", **how)
        await group.wait_applied_alike()
        states = digests(group)

    assert [b"0", b"1"] == first.bodies == again.bodies
    assert [0, 0] == again.counts
    assert ([], []) == (other.bodies, blocked.bodies)
    assert (208, 0) == (old, kept)
    assert [b"2", b"3"] == rest.bodies
    assert 1 == len(states)


async def test_a_handle_that_was_replaced_is_void_with_the_next_leader(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        async with dial(await group.wait_leader()) as client:
            await furnish(client, 3)
            got = await popped(client, invisible_time=LONG_MS)
            first, second, third = got.handles
            changed = await change(client, first, LONG_MS)
        leader = await next_leader(group)
        async with dial(leader) as client:
            again = await change(client, first, LONG_MS)
            await acknowledge(client, first, second)
            at = leader.broker.machine.offsets.get(GROUP, "orders", 0)
            split = await change(client, third, LONG_MS)
        await group.wait_applied_alike()
        left = leader.broker.machine.pops.count
        states = digests(group)

    assert (0, 208, 0) == (changed, again, split)
    assert 0 == at
    assert 2 == left
    assert 1 == len(states)


async def test_a_timed_message_is_recalled_with_the_next_leader(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        first = await group.wait_leader()
        async with dial(first) as client:
            due_ms = first.broker.ground.now_ms() + 2_500
            replies = [
                await send(
                    client,
                    "orders",
                    b"%d" % number,
                    properties=properties_text(
                        {"TIMER_DELIVER_MS": str(due_ms), "UNIQ_KEY": f"U{number}"}
                    ),
                )
                for number in range(2)
            ]
        second = await next_leader(group)
        async with dial(second) as client:
            handle = replies[0].header.recall_handle
            recall = RecallMessage(producer_group="pg", topic="orders", recall_handle=handle)
            answer = (await client.call(recall)).header
        queues = second.broker.machine.queues
        await group.wait_until(lambda: queues.next_offset("orders", 0) > 0)
        await group.wait_until(lambda: second.broker.deliveries.held() is None)
        delivered = queues.next_offset("orders", 0)

    assert "U0" == answer.msg_id
    assert 1 == delivered
