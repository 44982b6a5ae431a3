"""Messages that are sent again while leaders come and go: real brokers in this process."""

from typing import Any

import pytest
import trio

from broker.serving import retention
from dledger_py.client.connection import Connection
from dledger_py.ledger import snapshotter
from dledger_py.remoting.commands.operations import TransferLeadership
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.wire.message import decode_records
from tests.broker.broker_kit import BrokerGroup, brokers, dial, pull, send
from tests.broker.test_reopening import Dialled, Nodes
from tests.broker.transactions_kit import half_send

TIMED = {"TIMER_DELAY_SEC": "3600"}


def text(number: int, more: dict[str, str]) -> str:
    properties = {"UNIQ_KEY": f"0A0B0C{number:04}", "WAIT": "true"} | more
    return "".join(f"{key}\x01{value}\x02" for key, value in properties.items())


async def send_one(
    client: Connection, number: int, *, queue_id: int = 0, **more: str
) -> SendMessage | Any:
    """The answer's header: where the message stands."""
    properties = text(number, more)
    reply = await send(client, "orders", b"body", queue_id=queue_id, properties=properties)
    return reply.header


async def send_all(client: Connection, queue_id: int = 0) -> list[Any]:
    """A plain message, a timed one and a half one."""
    half = half_send(queue_id=queue_id)
    return [
        await send_one(client, 1, queue_id=queue_id),
        await send_one(client, 2, queue_id=queue_id, **TIMED),
        (await client.call(half, b"pay")).header,
    ]


async def count_stored(client: Connection) -> int:
    found = 0
    for queue_id in (0, 1):
        found += len(decode_records((await pull(client, "orders", queue_id=queue_id)).body))
    return found


def pending_halves(group: BrokerGroup) -> set[int]:
    return {
        len(member.broker.machine.transactions)
        for member in group.members.values()
        if not member.ended.is_set()
    }


async def test_the_next_leader_knows_what_the_one_before_stored(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        first = await group.wait_leader()
        follower, other = await group.wait_followers()
        async with dial(follower) as client:
            before = await send_all(client)
            await group.stop(first.node)
            await group.wait_leader()
            after = await send_all(client, queue_id=1)
            stored = await count_stored(client)
        await group.wait_applied_alike()
        halves = pending_halves(group)
        leads = [member.leads for member in (follower, other)]
        sizes = [len(member.broker.put_window) for member in (follower, other)]

    assert before == after
    assert 1 == stored
    assert {1} == halves
    assert sizes == [3 if each else 0 for each in leads], "only who leads has to know"


async def test_leadership_that_goes_round_and_comes_back_stores_nothing_twice(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        leader = await group.wait_leader()
        followers = await group.wait_followers()
        answers = []
        for successor in (*followers, leader):
            member = await group.wait_leader()
            async with dial(member) as client:
                answers.append(await send_one(client, len(answers)))
                await client.call(TransferLeadership(transferee_id=successor.node))
            await group.wait_until(lambda successor=successor: successor.leads)
            async with dial(successor) as client:
                again = [await send_one(client, number) for number in range(len(answers))]
                stored = await count_stored(client)
            assert answers == again
    assert 3 == stored


@pytest.mark.parametrize("size", [1, 3])
async def test_a_start_from_snapshots_knows_what_was_stored(tmp_path, size) -> None:
    async with brokers(tmp_path, size) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            before = await send_all(client)
        for _ in range(2):
            for name in group.names:
                await group.stop(name)
            await group.start()
            member = await group.wait_leader()
            async with dial(member) as client:
                assert before == await send_all(client, queue_id=1)
                stored = await count_stored(client)
    assert 1 == stored


async def test_it_is_off_if_the_settings_say_so(tmp_path) -> None:
    async with brokers(tmp_path, 1, deduplication_s=0) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            offsets = [(await send_one(client, 1)).queue_offset for _ in range(2)]
    assert [0, 1] == offsets
    assert member.broker.put_window is None


async def test_a_member_that_took_over_a_copy_of_the_log_knows_what_is_in_it(
    tmp_path, monkeypatch
) -> None:
    """The others have let go of what it lacked, so it copies log and state; then it leads."""
    monkeypatch.setattr(retention, "LOOK_S", 0.01)
    monkeypatch.setattr(retention, "HELD_BYTES_MAX", 0)
    monkeypatch.setattr(snapshotter, "LOOK_S", 0.01)
    small = {"retention_bytes": 40_000, "retention_hours": 0}
    async with brokers(tmp_path, 3, **small) as group:
        group.ledger_settings["segment_size_bytes"] = 10_000
        nodes = Nodes(group)
        for name in group.names:
            nodes.start(name)
        await nodes.until(lambda: len(nodes.ready) == 3)
        leader = await nodes.wait_leader(*group.names)
        away, _third = (name for name in group.names if name != leader)
        while len(nodes.broker(away).machine.topics) < 10:  # or it has nothing to go on from
            await trio.lowlevel.checkpoint()
        await nodes.stop(away)
        async with dial(Dialled(nodes.broker(leader))) as client:
            for number in range(200):
                last = await send(client, "orders", b"%0500d" % number, properties=text(number, {}))
            while nodes.broker(leader).ledger.first_position < 60_000:
                await trio.lowlevel.checkpoint()
            nodes.start(away)
            await nodes.until(lambda: nodes.ready.count(away) == 1)
            await client.call(TransferLeadership(transferee_id=away))
            await nodes.wait_leader(away)
            again = await send(client, "orders", b"%0500d" % 199, properties=text(199, {}))
            gone = await send(client, "orders", b"%0500d" % 0, properties=text(0, {}))
        copies = len(nodes.made[away])
        group.nursery.cancel_scope.cancel()

    assert 3 == copies, "it was opened again, to begin with a copy"
    assert last.header == again.header
    assert 200 == gone.header.queue_offset, "what the log has let go of is stored again"
