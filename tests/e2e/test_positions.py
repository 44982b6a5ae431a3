"""A group that is moved while its member is connected, and a member that moves itself."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from dledger_py.client import Consumer, Queue, connect
from dledger_py.cluster.local import LocalCluster

pytestmark = pytest.mark.e2e

DEADLINE_S = 120
TOPIC = "Orders"


async def take(messages: Consumer, count: int) -> list[int]:
    found = []
    for _ in range(count):
        message = await anext(messages)
        message.ack()
        found.append(message.queue_offset)
    return found


async def test_members_follow_resets_and_seek(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path).running() as cluster:
            await cluster.wait_leader()
            async with connect(cluster.namesrv_address, timeout_s=30) as mq:
                for number in range(4):
                    receipt = await mq.send(TOPIC, b"%d" % number, queue=0)
                async with mq.consumer("shop", TOPIC, from_="first") as messages:
                    taken = [await take(messages, 4)]
                    moved = await mq.reset_offset("shop", TOPIC, "first")
                    taken.append(await take(messages, 4))
                    queue = Queue(TOPIC, receipt.broker, receipt.queue_id)
                    await messages.seek(queue, 2)
                    taken.append(await take(messages, 2))
                    await mq.reset_offset("shop", TOPIC, datetime.now(UTC))
                    receipt = await mq.send(TOPIC, b"later", queue=0)
                    taken.append(await take(messages, 1))

    assert 0 == moved[queue]
    assert [[0, 1, 2, 3], [0, 1, 2, 3], [2, 3], [receipt.queue_offset]] == taken
