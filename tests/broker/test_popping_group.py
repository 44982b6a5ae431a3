"""Pops while leaders come and go: three real brokers in one process."""

from typing import Any

import trio

from dledger_py.client.connection import Connection
from dledger_py.remoting.commands.json_bodies import parse
from dledger_py.remoting.commands.operations import GetBrokerRuntime
from dledger_py.remoting.commands.popping import Handle, PopReply
from dledger_py.remoting.commands.topics import CreateTopic
from tests.broker.broker_kit import PATIENCE_S, BrokerGroup, Member, brokers, dial, send
from tests.broker.popping_kit import GROUP, RETRIES, Got, ack, pop

LONG_MS = 3_600_000


async def popped(client: Connection, **how: Any) -> Got:
    reply = await client.call(pop(**how), timeout_s=PATIENCE_S, accept=(0, 209, 210))
    return Got.of(reply.code, reply.header or PopReply(), reply.body)


async def furnish(client: Connection, messages: int) -> None:
    await client.call(CreateTopic(topic="orders", read_queue_nums=1, write_queue_nums=1, perm=6))
    for number in range(messages):
        await send(client, "orders", b"%d" % number)


async def acknowledge(client: Connection, *handles: Handle) -> None:
    for handle in handles:
        await client.call(ack(handle), timeout_s=PATIENCE_S)


def digests(group: BrokerGroup) -> set[bytes]:
    return {
        member.broker.machine.state_digest()
        for member in group.members.values()
        if not member.ended.is_set()
    }


async def runtime(client: Connection) -> Any:
    return parse((await client.call(GetBrokerRuntime())).body)["table"]


async def revived(group: BrokerGroup, leader: Member, count: int) -> None:
    queues = leader.broker.machine.queues
    await group.wait_until(lambda: queues.next_offset(RETRIES, 0) == count)


async def test_what_is_in_flight_outlives_the_leader(tmp_path) -> None:
    """Acknowledged before, acknowledged after, and not at all."""
    async with brokers(tmp_path, 3) as group:
        await group.start()
        first = await group.wait_leader()
        async with dial(first) as client:
            await furnish(client, 6)
            held = await popped(client, max_msg_nums=4, invisible_time=LONG_MS)
            brief = await popped(client, max_msg_nums=1, invisible_time=1)
            await acknowledge(client, held.handles[0])
        await group.wait_applied_alike()
        await group.stop(first.node)
        second = await group.wait_leader()
        async with dial(second) as client:
            await acknowledge(client, held.handles[2])
            await revived(group, second, 1)
            shown = await runtime(client)
            rest = await popped(client, invisible_time=LONG_MS)
            nothing = await popped(client)
            await acknowledge(client, *rest.handles)
            at = second.broker.machine.offsets.get(GROUP, "orders", 0)
            await acknowledge(client, held.handles[1], held.handles[3])
            at_end = second.broker.machine.offsets.get(GROUP, "orders", 0)
        await group.start(first.node)
        await group.wait_followers()
        await group.wait_applied_alike()
        states = digests(group)
        left = [member.broker.machine.pops.count for member in group.members.values()]

    assert [b"0", b"1", b"2", b"3"] == held.bodies
    assert [b"4"] == brief.bodies
    assert {b"4", b"5"} == set(rest.bodies)
    assert 210 == nothing.code
    assert (1, 6) == (at, at_end)
    assert ("2", "1") == (shown["popInFlight"], shown["popCheckpoints"])
    assert {"popRetried", "popGivenUp", "popsWaiting"} <= shown.keys()
    assert [0, 0, 0] == left
    assert 1 == len(states)


async def test_a_follower_holds_a_pop_until_there_is_something_for_it(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        leader = await group.wait_leader()
        async with dial(leader) as producer:
            await furnish(producer, 0)
            await popped(producer)  # the group is there, too
            follower = (await group.wait_followers())[0]
            await group.wait_until(lambda: GROUP in follower.broker.machine.groups)
            found: list[Got] = []
            async with dial(follower) as client, trio.open_nursery() as nursery:

                async def wait() -> None:
                    found.append(await popped(client, poll_time=60_000))

                nursery.start_soon(wait)
                await group.wait_until(lambda: follower.broker.pop_waits.busy)
                async with dial(follower) as operator:
                    waiting = (await runtime(operator))["popsWaiting"]
                await send(producer, "orders", b"x")
            async with dial(follower) as client:
                await acknowledge(client, *found[0].handles)
                progress = leader.broker.machine.offsets.get(GROUP, "orders", 0)

    assert [b"x"] == found[0].bodies
    assert 1 == progress
    assert "1" == waiting


async def test_a_restart_of_all_keeps_what_is_in_flight(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        async with dial(await group.wait_leader()) as client:
            await furnish(client, 3)
            got = await popped(client, max_msg_nums=2, invisible_time=LONG_MS)
            await acknowledge(client, got.handles[0])
        await group.wait_applied_alike()
        for name in group.names:
            await group.stop(name)
        await group.start()
        async with dial(await group.wait_leader()) as client:
            rest = await popped(client, invisible_time=LONG_MS)
            await acknowledge(client, got.handles[1], *rest.handles)
        await group.wait_applied_alike()
        at = [m.broker.machine.offsets.get(GROUP, "orders", 0) for m in group.members.values()]

    assert [b"2"] == rest.bodies
    assert [3, 3, 3] == at
