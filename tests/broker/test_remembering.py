"""Starts from a written-down state: clients find what they would find after applying it all."""

import shutil

from structlog.testing import capture_logs

from broker.machine import commands
from broker.machine.codec import encode_command
from broker.machine.machine import Machine
from broker.remembering import RememberingBroker
from broker.store.consume_queues import ConsumeQueues
from broker.store.queue_files import QueueFiles
from dledger_py.ledger.machine import Committed, StatePlace
from dledger_py.remoting.commands.offsets import (
    GetEarliestTime,
    GetMaxOffset,
    QueryConsumerOffset,
    UpdateConsumerOffset,
)
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic, GetTopic
from dledger_py.remoting.wire.message import decode_records
from tests.broker.broker_kit import GROUP, brokers, dial, pull, send


def bodies(reply) -> list[bytes]:
    return [record.body for record in decode_records(reply.body)]


async def send_all(client, first, stop, topic="orders"):
    for number in range(first, stop):
        await send(client, topic, b"%d" % number, queue_id=number % 2)


async def commit_offset(client, offset):
    await client.call(
        UpdateConsumerOffset(consumer_group=GROUP, topic="orders", queue_id=0, commit_offset=offset)
    )


async def what_clients_see(client):
    """Messages of both queues, the group's offset, the oldest message's time, the topic."""
    pulled = [bodies(await pull(client, "orders", queue_id=queue_id)) for queue_id in (0, 1)]
    question = QueryConsumerOffset(consumer_group=GROUP, topic="orders", queue_id=0)
    offset = await client.call(question)
    earliest = await client.call(GetEarliestTime(topic="orders", queue_id=0))
    topic = await client.call(GetTopic(topic="orders"))
    return pulled, offset.header.offset, earliest.header.timestamp, topic.body


def started_from(logs):
    """The snapshot indices that starts went on from."""
    return [entry["index"] for entry in logs if entry["event"] == "snapshot.restored"]


async def restarted_after_a_kill(group, tmp_path):
    """What a kill at this moment would leave behind, started again."""
    shutil.copytree(tmp_path / "n0", tmp_path / "killed")
    await group.stop("n0")
    await group.start("n0", data_dir=tmp_path / "killed")
    return await group.wait_leader()


async def test_a_snapshot_and_what_came_after_it_make_the_whole(tmp_path) -> None:
    async with brokers(tmp_path, 1, flush="sync") as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await send_all(client, 0, 20)
            await commit_offset(client, 3)
        await group.stop("n0")
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await send_all(client, 20, 30)
            await commit_offset(client, 7)
            before = await what_clients_see(client)
        with capture_logs() as logs:
            member = await restarted_after_a_kill(group, tmp_path)
        async with dial(member) as client:
            after = await what_clients_see(client)
            last = await send(client, "orders", b"new", queue_id=0)

    assert 1 == len(started_from(logs))
    assert before == after
    assert [b"%d" % number for number in range(0, 30, 2)] == after[0][0]
    assert (7, 15) == (after[1], last.header.queue_offset)


async def test_a_topic_deleted_and_made_anew_after_the_snapshot(tmp_path) -> None:
    async with brokers(tmp_path, 1, flush="sync") as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await send_all(client, 0, 20)
            await send_all(client, 0, 6, topic="others")
        await group.stop("n0")
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await client.call(DeleteTopic(topic="others"))
            await client.call(DeleteTopic(topic="orders"))
            await client.call(
                CreateTopic(topic="orders", read_queue_nums=2, write_queue_nums=2, perm=6)
            )
            await send_all(client, 40, 44)
            before = await what_clients_see(client)
        with capture_logs() as logs:
            member = await restarted_after_a_kill(group, tmp_path)
        async with dial(member) as client:
            after = await what_clients_see(client)
            end = await client.call(GetMaxOffset(topic="orders", queue_id=0))
        others = member.broker.machine.topics.get("others")

    assert 1 == len(started_from(logs))
    assert before == after
    assert others is None
    assert [b"40", b"42"] == after[0][0]
    assert 2 == end.header.offset


async def test_without_the_index_files_the_whole_log_is_applied_again(tmp_path) -> None:
    async with brokers(tmp_path, 1, flush="sync") as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            await send_all(client, 0, 20)
            await commit_offset(client, 3)
            before = await what_clients_see(client)
        await group.stop("n0")
        shutil.rmtree(tmp_path / "n0/consumequeue/orders")
        with capture_logs() as logs:
            await group.start()
            member = await group.wait_leader()
        async with dial(member) as client:
            after = await what_clients_see(client)
        await group.stop("n0")
        with capture_logs() as later_logs:  # the next stop has written it down again
            await group.start()
            member = await group.wait_leader()
        async with dial(member) as client:
            later = await what_clients_see(client)

    (warning,) = [entry for entry in logs if entry["event"] == "snapshot.not_used"]
    assert "orders" in warning["reason"]
    assert [] == started_from(logs)
    assert 1 == len(started_from(later_logs))
    assert before == after == later


def test_a_state_of_nothing_may_be_written_down_while_the_first_command_comes(tmp_path) -> None:
    """A member that is told to stop as soon as it has started."""
    folder = tmp_path / "consumequeue"
    of = RememberingBroker(Machine(), ConsumeQueues(QueueFiles(folder)))
    written = of.capture(StatePlace(index=1, term=1, position=40))
    more = written.prepare()
    command = encode_command(commands.DeleteTopic(stamped_ms=1, name="none"))
    applied = of.apply(Committed(index=2, term=1, position=80, payload=memoryview(command)))
    written.sync()
    written.release()
    written.end()

    assert not more
    assert () == tuple(applied.effects)
