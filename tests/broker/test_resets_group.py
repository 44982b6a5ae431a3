"""A reset in three real brokers: neither lost nor repeated when the leader dies."""

import pytest

from dledger_py.remoting.commands.json_bodies import decode_body
from dledger_py.remoting.commands.offsets import QueryConsumerOffset, UpdateConsumerOffset
from dledger_py.remoting.commands.resets import OffsetsByQueue, ResetOffsets
from tests.broker.broker_kit import GROUP, brokers, dial, pull, send


def commit(offset: int) -> UpdateConsumerOffset:
    return UpdateConsumerOffset(
        consumer_group=GROUP, topic="orders", queue_id=0, commit_offset=offset
    )


def question() -> QueryConsumerOffset:
    return QueryConsumerOffset(consumer_group=GROUP, topic="orders", queue_id=0)


@pytest.mark.parametrize("taken_up", [False, True])
async def test_the_next_leader_knows_who_still_has_to_be_told(tmp_path, taken_up) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        first = await group.wait_leader()
        follower, _other = await group.wait_followers()
        async with dial(first) as client, dial(follower) as operator:
            for number in range(4):
                await send(client, "orders", b"%d" % number)
            await client.call(commit(4))
            reset = ResetOffsets(group=GROUP, topic="orders", timestamp=0)
            answer = await operator.call(reset)
            told = (await pull(client, "orders", 4)).code
            if taken_up:
                await pull(client, "orders", 0)
                await client.call(commit(3))
        await group.stop(first.node)
        second = await group.wait_leader()
        async with dial(second) as client:
            await client.call(commit(4))
            stands = (await client.call(question())).header.offset
            codes = [(await pull(client, "orders", offset)).code for offset in (2, 0, 2)]
        await group.start(first.node)
        await group.wait_applied_alike()
        pending = [m.broker.machine.resets.count for m in group.members.values()]

    assert {0: 0} == {
        queue.queue_id: offset
        for queue, offset in decode_body(OffsetsByQueue, answer.body).offset_table.items()
        if queue.queue_id == 0
    }
    assert 21 == told
    assert (4 if taken_up else 0) == stands
    assert ([0, 0, 0] if taken_up else [21, 0, 0]) == codes
    queues = len(decode_body(OffsetsByQueue, answer.body).offset_table)
    assert [queues - 1] * 3 == pending


async def test_a_restart_of_all_keeps_it(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        async with dial(await group.wait_leader()) as client:
            await send(client, "orders", b"x")
            await client.call(ResetOffsets(group=GROUP, topic="orders", timestamp=-1))
        for name in group.names:
            await group.stop(name)
        await group.start()
        async with dial(await group.wait_leader()) as client:
            code = (await pull(client, "orders", 0)).code

    assert 21 == code
