"""Consuming in order: one message of a queue at a time, one member for each queue."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from attrs import define, field

from dledger_py.client import (
    Client,
    Consumer,
    Message,
    connect,
    queue_reader,
    retry,
    sharing,
)
from dledger_py.client.retry import BackOff
from dledger_py.remoting.wire.frame import Frame, encode_response
from tests.client.fake_broker import NOTIFY, PULL, Cluster, running_cluster
from tests.client.fake_servers import Peer, on_both_loops

LOCK, UNLOCK, SEND_BACK = 41, 42, 36


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "UNBALANCED_S", 0.01)
    monkeypatch.setattr(queue_reader, "LOCKED_PAUSE_S", 0.01)
    monkeypatch.setattr(retry, "REDELIVERY_BACK_OFF", BackOff(0.001, 0.01))
    monkeypatch.setattr(retry, "CONSUME_BACK_OFF", BackOff(0.001, 0.01))


@define
class Locks:
    """The broker's table of owners, without time."""

    cluster: Cluster
    owners: dict[tuple[str, int], str] = field(factory=dict)
    answers: bool = True

    def __attrs_post_init__(self) -> None:
        self.cluster.broker.handlers |= {LOCK: self.lock, UNLOCK: self.unlock}
        self.cluster.names.route("%RETRY%g", self.cluster.broker)

    def lock(self, peer: Peer, frame: Frame) -> bytes | None:
        if not self.answers:
            return encode_response(frame, 14, remark="no leader")
        asked = json.loads(frame.body)
        got = [
            queue
            for queue in asked["mqSet"]
            if self.owners.setdefault((queue["topic"], queue["queueId"]), asked["clientId"])
            == asked["clientId"]
        ]
        return encode_response(frame, 0, body=json.dumps({"lockOKMQSet": got}).encode())

    def unlock(self, peer: Peer, frame: Frame) -> bytes:
        asked = json.loads(frame.body)
        for queue in asked["mqSet"]:
            if self.owners.get((queue["topic"], queue["queueId"])) == asked["clientId"]:
                del self.owners[queue["topic"], queue["queueId"]]
        return encode_response(frame, 0)

    def of(self, client: Client) -> list[int]:
        return sorted(
            queue_id
            for (topic, queue_id), owner in self.owners.items()
            if topic == "t" and owner == client.client_id
        )


@asynccontextmanager
async def locking(queues: int = 1, count: int = 4) -> AsyncIterator[tuple[Locks, Client]]:
    """*count* messages in each queue."""
    async with running_cluster(queues) as cluster:
        locks = Locks(cluster)
        for queue_id in range(queues):
            for number in range(count):
                cluster.store.append("t", queue_id, b"%d" % number)
        async with connect(cluster.names.address) as mq:
            yield locks, mq


async def nothing_comes(messages: Consumer) -> bool:
    with anyio.move_on_after(0.03) as scope:
        (await anext(messages)).nack(retry_after=3600)
    return scope.cancelled_caught


def place(message: Message) -> tuple[int, int]:
    return message.queue.queue_id, message.queue_offset


@on_both_loops
async def test_the_next_message_of_a_queue_comes_when_the_last_was_settled() -> None:
    async with locking(queues=2) as (locks, mq):
        async with mq.consumer("g", "t", from_="first", ordered=True) as messages:
            first = sorted([await anext(messages), await anext(messages)], key=place)
            assert [place(each) for each in first] == [(0, 0), (1, 0)]
            assert await nothing_comes(messages)

            first[1].ack()
            assert place(await anext(messages)) == (1, 1)
            assert locks.of(mq) == [0, 1]

        assert locks.owners == {}
        assert locks.cluster.store.committed["g", "t", 1] == 1


@on_both_loops
async def test_a_failed_message_is_tried_again_in_its_place() -> None:
    async with locking() as (locks, mq):
        seen = []
        async with mq.consumer("g", "t", from_="first", ordered=True) as messages:
            async for message in messages:
                seen.append((message.queue_offset, message.delivery_attempt))
                async with message.ack_on_success(retry_after=0):
                    if message.queue_offset == 1 and message.delivery_attempt < 4:
                        raise ValueError("not yet")
                if message.queue_offset == 3:
                    break

        assert seen == [(0, 1), (1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (3, 1)]
        assert locks.cluster.store.committed["g", "t", 0] == 4


@on_both_loops
async def test_what_failed_too_often_is_a_dead_letter_and_the_queue_goes_on() -> None:
    async with locking() as (locks, mq):
        letters: list[tuple[str, str]] = []

        def take(peer: Peer, frame: Frame) -> bytes:
            letters.append((frame.fields["offset"], frame.fields["delayLevel"]))
            return encode_response(frame, 0)

        locks.cluster.broker.handlers[SEND_BACK] = take
        seen = []
        consumer = mq.consumer("g", "t", from_="first", ordered=True, max_reconsume_times=1)
        async with consumer as messages:
            async for message in messages:
                seen.append(message.queue_offset)
                async with message.ack_on_success():
                    if message.queue_offset == 1:
                        raise ValueError("never")
                if message.queue_offset == 2:
                    break

        assert seen == [0, 1, 1, 2]
        assert letters == [("1000", "-1")]
        assert locks.cluster.store.committed["g", "t", 0] == 3


@on_both_loops
async def test_a_queue_somebody_else_owns_is_waited_for() -> None:
    async with locking() as (locks, mq):
        locks.owners["t", 0] = "somebody"
        async with mq.consumer("g", "t", from_="first", ordered=True) as messages:
            asked = locks.cluster.broker.requests_of
            await locks.cluster.broker.wait_for(lambda: len(asked(LOCK)) > 4)
            assert not [each for each in asked(PULL) if each.fields["topic"] == "t"]

            del locks.owners["t", 0]
            assert place(await anext(messages)) == (0, 0)


@on_both_loops
async def test_a_queue_that_moves_is_let_go_after_its_last_message() -> None:
    async with (
        locking(queues=2) as (locks, mq1),
        mq1.consumer("g", "t", from_="first", ordered=True) as one,
    ):
        first = {each.queue.queue_id: each for each in [await anext(one), await anext(one)]}
        names, broker = locks.cluster.names, locks.cluster.broker
        async with (
            connect(names.address) as mq2,
            mq2.consumer("g", "t", from_="first", ordered=True) as two,
        ):
            while len([queue for queue in one.queues if queue.topic == "t"]) != 1:
                await broker.notify(NOTIFY, {"consumerGroup": "g"})
                await anyio.lowlevel.checkpoint()
            (kept,) = [queue.queue_id for queue in one.queues if queue.topic == "t"]
            moved = 1 - kept
            assert locks.of(mq1) == [0, 1]
            assert await nothing_comes(two)

            first[moved].ack()
            assert place(await anext(two)) == (moved, 1)  # what one has settled was committed
            assert (locks.of(mq1), locks.of(mq2)) == ([kept], [moved])


@on_both_loops
async def test_without_its_lock_a_member_hands_out_and_commits_nothing() -> None:
    """And goes on where the group is, once it has the queue again."""
    async with locking() as (locks, mq):
        consumer = mq.consumer("g", "t", from_="first", ordered=True)
        async with consumer as messages:
            first = await anext(messages)
            kept = messages._shares._locks
            assert kept is not None
            kept._until[first.queue] = anyio.current_time()  # its time is up
            locks.owners["t", 0] = "somebody"
            first.ack()
            assert await nothing_comes(messages)
            await messages._shares._commit(messages._shares._readers.values())
            assert ("g", "t", 0) not in locks.cluster.store.committed

            locks.cluster.store.committed["g", "t", 0] = 3  # as the other member did
            del locks.owners["t", 0]
            await locks.cluster.broker.drop_all()  # ends the pull that is being held
            again = await anext(messages)
            assert place(again) == (0, 3)
            again.ack()

        assert locks.cluster.store.committed["g", "t", 0] == 4


@on_both_loops
async def test_locks_are_renewed_while_the_broker_answers() -> None:
    async with (
        locking() as (locks, mq),
        mq.consumer("g", "t", from_="first", ordered=True) as messages,
    ):
        await anext(messages)
        kept = messages._shares._locks
        assert kept is not None
        (queue,) = [each for each in messages.queues if each.topic == "t"]
        kept._until[queue] = soon = anyio.current_time() + 5
        await kept.renew()
        assert kept._until[queue] > soon

        locks.owners["t", 0] = "somebody"
        await kept.renew()
        assert not kept.owns(queue)


@on_both_loops
async def test_a_cancelled_block_keeps_the_place_of_its_message() -> None:
    async with (
        locking() as (_, mq),
        mq.consumer("g", "t", from_="first", ordered=True) as messages,
    ):
        with anyio.CancelScope() as scope:
            async with (await anext(messages)).ack_on_success():
                scope.cancel()
                await anyio.sleep_forever()

        assert place(await anext(messages)) == (0, 0)


@on_both_loops
async def test_leaving_lets_go_also_when_cancelled() -> None:
    async with locking(queues=3) as (locks, mq):
        with anyio.CancelScope() as scope:
            async with mq.consumer("g", "t", from_="first", ordered=True) as messages:
                await anext(messages)
                scope.cancel()
                await anyio.sleep_forever()

        assert locks.owners == {}
