"""Three real brokers and a name server: what is acknowledged stays, whoever dies."""

from pathlib import Path

import pytest
import trio

from dledger_py.client import Client, ClientError, Receipt, connect
from dledger_py.cluster.local import LocalCluster

pytestmark = pytest.mark.e2e

DEADLINE_S = 180
"""For a whole test: some 10 s of work, on a machine that has others to do."""

TOPIC = "Orders"


async def send_some(mq: Client, count: int, word: str) -> dict[bytes, Receipt]:
    """Receipts by body, of messages that were acknowledged."""
    return {
        body: await mq.send(TOPIC, body, timeout_s=60)
        for body in (f"{word} {number}".encode() for number in range(count))
    }


async def stored(mq: Client) -> dict[tuple[int, int], bytes]:
    """Every message of the topic by (queue, offset)."""
    found: dict[tuple[int, int], bytes] = {}
    for queue in await mq.queues(TOPIC):
        offset = await mq.min_offset(TOPIC, queue.queue_id)
        end = await mq.max_offset(TOPIC, queue.queue_id)
        while offset < end:
            result = await mq.pull(TOPIC, queue.queue_id, offset, timeout_s=60)
            for message in result.messages:
                found[queue.queue_id, message.queue_offset] = message.body
            assert result.next_offset > offset
            offset = result.next_offset
    return found


def assert_all_there(receipts: dict[bytes, Receipt], found: dict[tuple[int, int], bytes]) -> None:
    """Every acknowledged message is where its receipt says."""
    missing = {
        body: receipt
        for body, receipt in receipts.items()
        if found.get((receipt.queue_id, receipt.queue_offset)) != body
    }

    assert missing == {}


async def test_acknowledged_messages_survive_the_leader_and_a_restart(tmp_path: Path) -> None:
    receipts: dict[bytes, Receipt] = {}
    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path).running() as cluster:
            await cluster.wait_leader()
            async with connect(cluster.namesrv_address, timeout_s=30) as mq:
                receipts |= await send_some(mq, 50, "before")
                killed = await cluster.kill_leader()
                receipts |= await send_some(mq, 50, "leaderless")
                leader = await cluster.wait_leader(other_than=killed)
                await cluster.start(killed)
                receipts |= await send_some(mq, 50, "after")
                assert_all_there(receipts, await stored(mq))
        async with LocalCluster(tmp_path).running() as cluster:
            await cluster.wait_leader()
            async with connect(cluster.namesrv_address, timeout_s=30) as mq:
                found = await stored(mq)

    assert leader != killed
    assert len(receipts) == 150
    assert_all_there(receipts, found)


async def test_nothing_is_acknowledged_without_a_majority(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path).running() as cluster:
            leader = await cluster.wait_leader()
            async with connect(cluster.namesrv_address, timeout_s=30) as mq:
                receipts = await send_some(mq, 10, "majority")
                for node in cluster.members:
                    if node != leader:
                        await cluster.kill(node)
                with pytest.raises(ClientError):
                    await mq.send(TOPIC, b"minority", timeout_s=3)
                for node in cluster.members:
                    if node != leader:
                        await cluster.start(node)
                await cluster.wait_leader()
                receipts |= await send_some(mq, 10, "majority again")
                found = await stored(mq)

    assert_all_there(receipts, found)


async def test_a_paused_leader_is_replaced_and_comes_back_as_a_follower(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path).running() as cluster:
            paused = await cluster.wait_leader()
            async with connect(cluster.namesrv_address, timeout_s=30) as mq:
                receipts = await send_some(mq, 10, "before")
                cluster.pause(paused)
                leader = await cluster.wait_leader(other_than=paused)
                receipts |= await send_some(mq, 10, "without it")
                cluster.resume(paused)
                receipts |= await send_some(mq, 10, "with it")
                found = await stored(mq)
            still = await cluster.leader()

    assert leader != paused
    assert still == leader
    assert_all_there(receipts, found)
