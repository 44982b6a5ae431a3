"""The client pops from real brokers: more members than queues, failures, time that is up, order."""

from collections import Counter
from pathlib import Path

import pytest
import trio

from dledger_py.client import Message, Sql, connect
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


async def test_members_pop_in_order(tmp_path: Path) -> None:
    """Each message of a queue is handled after the one before it, though some fail at first and the
    leader dies. One whose acknowledgement was not heard may come again."""
    queues = 3
    last = dict.fromkeys(range(queues), -1)
    out: Counter[int] = Counter()
    wrong: list[str] = []
    complete = trio.Event()

    async def member(names: str) -> None:
        async with (
            connect(names, timeout_s=30) as mq,
            mq.pop_consumer("sorters", TOPIC, concurrency=6, ordered=True) as messages,
            trio.open_nursery() as handlers,
        ):
            async for message in messages:
                handlers.start_soon(handle, message)

    async def handle(message: Message) -> None:
        queue, number = message.queue.queue_id, int(message.body)
        async with message.ack_on_success(retry_after=0.2):
            out[queue] += 1
            try:
                if out[queue] > 1 or number > last[queue] + 1:
                    wrong.append(f"{number} of queue {queue} after {last[queue]}: {out[queue]} out")
                await trio.lowlevel.checkpoint()
                if number % 5 == 4 and message.reconsume_times == 0:
                    raise ValueError("not yet")
                last[queue] = max(last[queue], number)
            finally:
                out[queue] -= 1
        if set(last.values()) == {JOBS - 1}:
            complete.set()

    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path).running() as cluster:
            leader = await cluster.wait_leader()
            names = cluster.namesrv_address
            async with connect(names, timeout_s=30) as mq, trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(member, names)
                for number in range(JOBS):
                    if number == JOBS // 2:
                        await cluster.kill_leader()
                        await cluster.wait_leader(other_than=leader)
                    for queue in range(queues):
                        await mq.send(TOPIC, b"%d" % number, queue=queue)
                await complete.wait()
                nursery.cancel_scope.cancel()

    assert [] == wrong
