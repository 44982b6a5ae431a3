"""Messages that fail while the leader is killed: each comes again, and the hopeless are buried."""

from collections import Counter
from pathlib import Path

import pytest
import trio

from dledger_py.client import Consumer, connect
from dledger_py.cluster.local import LocalCluster

pytestmark = pytest.mark.e2e

DEADLINE_S = 180
TOPIC = "Payments"
MESSAGES = 60


async def test_failed_messages_outlive_leaders(tmp_path: Path) -> None:
    handled: Counter[bytes] = Counter()
    failed: Counter[bytes] = Counter()
    letters: set[bytes] = set()
    complete = trio.Event()

    async def work(messages: Consumer) -> None:
        async for message in messages:
            number = int(message.body)
            async with message.ack_on_success(retry_after=1):
                if number % 10 == 9 or message.reconsume_times == 0:
                    failed[message.body] += 1
                    raise ValueError("not yet, or never")
                handled[message.body] += 1
            if len(handled) == MESSAGES * 9 // 10:
                complete.set()

    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path).running() as cluster:
            leader = await cluster.wait_leader()
            async with connect(cluster.namesrv_address, timeout_s=60) as mq:
                for number in range(MESSAGES):
                    await mq.send(TOPIC, b"%d" % number)
                consumer = mq.consumer("till", TOPIC, from_="first", max_reconsume_times=1)
                async with consumer as messages, trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(work, messages)
                    await cluster.kill_leader()
                    await cluster.wait_leader(other_than=leader)
                    await complete.wait()
                    async with mq.consumer("audit", "%DLQ%till", from_="first") as dead:
                        async for letter in dead:
                            letter.ack()
                            letters.add(letter.body)
                            if len(letters) == MESSAGES // 10:
                                break
                    nursery.cancel_scope.cancel()

    bodies = {b"%d" % number for number in range(MESSAGES)}
    assert bodies == set(failed)
    assert {body for body in bodies if int(body) % 10 == 9} == letters
    assert bodies - letters == set(handled)
