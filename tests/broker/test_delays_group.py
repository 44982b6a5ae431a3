"""Messages for later in three real brokers: whoever leads delivers them, each once."""

import pytest

from dledger_py.remoting.wire.message import decode_records
from dledger_py.remoting.wire.properties import encode as properties_text
from tests.broker.broker_kit import Member, brokers, dial, pull, send

COUNT = 60


def delivered(member: Member) -> int:
    return member.broker.machine.queues.next_offset("orders", 0)


def later(number: int) -> str:
    """Due one after the other, some of them in the second ring of the wheel."""
    key = ("TIMER_DELAY_MS", str(10 * number)) if number % 2 else ("DELAY", "1")
    return properties_text(dict([key], UNIQ_KEY=f"U{number}"))


async def bodies(member: Member) -> list[bytes]:
    found: list[bytes] = []
    async with dial(member) as client:
        while len(found) < delivered(member):
            answer = await pull(client, "orders", len(found))
            found += [record.body for record in decode_records(answer.body)]
    return found


@pytest.mark.parametrize("stopped_at", [0, COUNT // 3])
async def test_a_change_of_leader_neither_loses_nor_repeats_what_waits(tmp_path, stopped_at):
    async with brokers(tmp_path, 3) as group:
        await group.start()
        first = await group.wait_leader()
        async with dial(first) as client:
            for number in range(COUNT):
                await send(client, "orders", b"%d" % number, properties=later(number))
        await group.wait_until(lambda: delivered(first) >= stopped_at)
        await group.stop(first.node)
        second = await group.wait_leader()
        await group.wait_until(lambda: delivered(second) >= COUNT)
        await group.start(first.node)
        await group.wait_applied_alike()
        found = [await bodies(member) for member in group.members.values()]
        waiting = [m.broker.deliveries.held() for m in group.members.values()]

    assert sorted(b"%d" % number for number in range(COUNT)) == sorted(found[0])
    assert [found[0]] * 3 == found
    assert [None] * 3 == waiting


async def test_what_waits_survives_a_restart_of_all_from_their_snapshots(tmp_path):
    async with brokers(tmp_path, 3) as group:
        await group.start()
        async with dial(await group.wait_leader()) as client:
            for number in range(COUNT):
                await send(client, "orders", b"%d" % number, properties=later(number + COUNT))
        for name in group.names:
            await group.stop(name)
        await group.start()
        leader = await group.wait_leader()
        await group.wait_until(lambda: delivered(leader) >= COUNT)
        found = await bodies(leader)

    assert sorted(b"%d" % number for number in range(COUNT)) == sorted(found)
