"""The client pops from real brokers: more members than queues, failures, and time that is up."""

from collections import Counter
from pathlib import Path

import pytest
import trio

from dledger_py.client import Sql, connect
from dledger_py.cluster.local import LocalCluster

pytestmark = pytest.mark.e2e

DEADLINE_S = 180
TOPIC = "Jobs"
JOBS = 40


async def test_members_pop_what_they_can_handle(tmp_path: Path) -> None:
    done: Counter[bytes] = Counter()
    failed: Counter[bytes] = Counter()
    complete = trio.Event()

    async def member(names: str) -> None:
        async with (
            connect(names, timeout_s=30) as mq,
            mq.pop_consumer("workers", TOPIC, concurrency=4) as messages,
        ):
            async for message in messages:
                async with message.ack_on_success(retry_after=1):
                    if int(message.body) % 10 == 0 and message.reconsume_times == 0:
                        failed[message.body] += 1
                        raise ValueError("not yet")
                    done[message.body] += 1
                if len(done) == JOBS:
                    complete.set()

    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path).running() as cluster:
            leader = await cluster.wait_leader()
            names = cluster.namesrv_address
            async with connect(names, timeout_s=30) as mq:
                for number in range(JOBS):
                    await mq.send(TOPIC, b"%d" % number, queue=0, properties={"n": str(number)})
                async with trio.open_nursery() as nursery:
                    for _ in range(3):
                        nursery.start_soon(member, names)
                    await cluster.kill_leader()
                    await cluster.wait_leader(other_than=leader)
                    await complete.wait()
                    nursery.cancel_scope.cancel()

                left = {TOPIC: Sql("n = 7")}
                async with mq.pop_consumer("slow", left, invisible_s=1) as messages:
                    first = await anext(messages)
                    again = await anext(messages)  # nobody acknowledged the first one
                    again.ack()
                async with mq.pop_consumer("giving-up", left) as messages:
                    (await anext(messages)).reject()
                async with mq.consumer("audit", "%DLQ%giving-up", from_="first") as letters:
                    letter = await anext(letters)
                    letter.ack()

    bodies = {b"%d" % number for number in range(JOBS)}
    assert bodies == set(done)
    assert {body for body in bodies if int(body) % 10 == 0} == set(failed)
    assert (b"7", b"7", 0, 1) == (
        *(first.body, again.body),
        *(first.reconsume_times, again.reconsume_times),
    )
    assert b"7" == letter.body
