"""Consuming in order while the leader, which keeps the locks, is killed and members come and go."""

from collections import defaultdict
from pathlib import Path

import pytest
import trio

from dledger_py.client import connect
from dledger_py.cluster.local import LocalCluster

pytestmark = pytest.mark.e2e

DEADLINE_S = 180
TOPIC = "Events"
KEYS = 8
EVENTS = 30


async def test_order_outlives_leaders_and_members(tmp_path: Path) -> None:
    seen: defaultdict[str, list[int]] = defaultdict(list)
    busy: set[str] = set()
    overlaps: list[str] = []
    complete = trio.Event()

    async def member(names: str, limit: int) -> None:
        async with (
            connect(names, timeout_s=30) as mq,
            mq.consumer("g", TOPIC, from_="first", ordered=True) as messages,
        ):
            taken = 0
            async for message in messages:
                key, event = message.body.decode().split()
                if key in busy:
                    overlaps.append(key)
                busy.add(key)
                await trio.lowlevel.checkpoint()
                seen[key].append(int(event))
                busy.remove(key)
                message.ack()
                taken += 1
                if len(seen) == KEYS and all(EVENTS - 1 in events for events in seen.values()):
                    complete.set()
                if taken == limit:
                    return

    async def send(mq, key: str) -> None:
        for event in range(EVENTS):
            await mq.send(TOPIC, b"%s %d" % (key.encode(), event), group=key)

    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path).running() as cluster:
            leader = await cluster.wait_leader()
            names = cluster.namesrv_address
            async with connect(names, timeout_s=30) as mq, trio.open_nursery() as nursery:
                await mq.send(TOPIC, b"k0 -1", group="k0")
                nursery.start_soon(member, names, 20)  # leaves in the middle
                nursery.start_soon(member, names, -1)
                async with trio.open_nursery() as senders:
                    for number in range(KEYS):
                        senders.start_soon(send, mq, f"k{number}")
                    await cluster.kill_leader()
                    await cluster.wait_leader(other_than=leader)
                nursery.start_soon(member, names, -1)
                await complete.wait()
                nursery.cancel_scope.cancel()

    assert not overlaps
    for events in seen.values():
        first_time = list(dict.fromkeys(events))
        assert [*range(first_time[0], EVENTS)] == first_time
