"""Producers of numbered messages, and consumers that work in order and hand queues on.

A consumer works on a queue for a short time, commits, and lets go of it, so that others get it:
what goes wrong at a change of owner has many chances to. It stops by itself when it has not been
told for `OWNED_S` that the queue is still its own.
"""

from itertools import count

import trio
from attrs import define

from chaos.checkers.history import (
    Consumed,
    OffsetCommitted,
    OffsetRead,
    QueueLeft,
    QueueTaken,
)
from chaos.checkers.order import GROUP, TOPIC, value_of
from chaos.recorder import now_ns
from chaos.workloads.attempts import Attempts
from dledger_py.client import Client, ClientError
from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.commands.locks import (
    LockQueues,
    QueuesLocked,
    QueuesOfClient,
    UnlockQueues,
)
from dledger_py.remoting.commands.statistics import MessageQueue

QUEUES = 3
KEYS = 6
PAUSE_S = 0.1  # between two numbers of a key
TWICE_EVERY = 5
RETRY_S = 0.02
FREE_S = 0.05  # before a queue is tried again that is somebody else's
MESSAGES_AT_ONCE = 8
STINT_S = 0.5  # how long a queue is worked on before others get it
LONG_STINT_S = 18.0  # who is not in a hurry keeps one while leaders come and go
OWNED_S = 25.0  # after half a minute it would have to ask again

Queue = tuple[str, int]  # broker, queue id


@define(eq=False, kw_only=True)
class Order:
    """What the producers and consumers share."""

    attempts: Attempts
    client: Client

    async def produce(self, key: str, queue: Queue, stopped: trio.Event) -> None:
        """Send the numbers of a key, each until it is acknowledged, until `stopped`; and some once
        more, as who did not hear that would."""
        broker, queue_id = queue
        for number in count():
            unique_id, heard = self.attempts.ids.make(), 0
            while heard < (2 if number % TWICE_EVERY == 0 else 1):
                if stopped.is_set():
                    return
                ending = await self.attempts.send(
                    TOPIC, broker, queue_id, value_of(key, number), unique_id=unique_id
                )
                heard += ending.done
                if not ending.done:
                    await trio.sleep(RETRY_S)
            await trio.sleep(PAUSE_S)

    def queues(self) -> list[Queue]:
        """Of all groups."""
        return [(broker, number) for broker in self.attempts.brokers for number in range(QUEUES)]

    def places(self) -> list[tuple[str, Queue]]:
        """Every key with its queue, for ever."""
        queues = self.queues()
        return [(f"key{number}", queues[number % len(queues)]) for number in range(KEYS)]

    async def consume(self, owner: str, first: int, stint_s: float = STINT_S) -> None:
        """Work on one queue after the other, beginning with the `first`, until cancelled."""
        queues = self.queues()
        for number in count(first):
            queue = queues[number % len(queues)]
            if await self._take(owner, queue):
                await self._work(owner, queue, stint_s)
                await self._leave(owner, queue)
            await trio.sleep(FREE_S)

    async def _take(self, owner: str, queue: Queue) -> bool:
        broker, queue_id = queue
        ending = await self.attempts.call(TOPIC, broker, LockQueues(), _asked(owner, queue))
        if ending.reply is None:
            return False
        if not decode_body(QueuesLocked, ending.reply.body).queues:
            return False
        self.attempts.recorder.add(
            QueueTaken(at_ns=now_ns(), owner=owner, broker=broker, queue_id=queue_id)
        )
        return True

    async def _leave(self, owner: str, queue: Queue) -> None:
        broker, queue_id = queue
        self.attempts.recorder.add(
            QueueLeft(at_ns=now_ns(), owner=owner, broker=broker, queue_id=queue_id)
        )
        await self.attempts.call(TOPIC, broker, UnlockQueues(), _asked(owner, queue))

    async def _work(self, owner: str, queue: Queue, stint_s: float) -> None:
        """Handle and commit; what is not committed, the next owner begins with again."""
        until = trio.current_time() + stint_s
        offset: int | None = None
        with trio.move_on_after(OWNED_S):
            while trio.current_time() < until:
                try:
                    if offset is None:
                        offset = await self._committed(queue)
                    offset = await self._handle(owner, queue, offset)
                    await self._commit(queue, offset)
                except ClientError:  # no leader now: the queue stays ours
                    await trio.sleep(RETRY_S)

    async def _committed(self, queue: Queue) -> int:
        broker, queue_id = queue
        began_ns = now_ns()
        offset = await self.client.committed_offset(GROUP, TOPIC, queue_id, broker=broker)
        self.attempts.recorder.add(
            OffsetRead(
                began_ns=began_ns,
                at_ns=now_ns(),
                group=GROUP,
                broker=broker,
                queue_id=queue_id,
                offset=offset,
            )
        )
        return offset or 0

    async def _commit(self, queue: Queue, offset: int) -> None:
        broker, queue_id = queue
        await self.client.commit_offset(GROUP, TOPIC, queue_id, offset, broker=broker)
        self.attempts.recorder.add(
            OffsetCommitted(
                at_ns=now_ns(), group=GROUP, broker=broker, queue_id=queue_id, offset=offset
            )
        )

    async def _handle(self, owner: str, queue: Queue, offset: int) -> int:
        """Handle what comes next, or wait a moment for it; the offset behind it."""
        broker, queue_id = queue
        result = await self.client.pull(
            TOPIC, queue_id, offset, MESSAGES_AT_ONCE, broker=broker, group=GROUP, wait_s=STINT_S
        )
        for message in result.messages:
            key, _, number = message.body.decode().rpartition("-")
            self.attempts.recorder.add(
                Consumed(
                    owner=owner,
                    broker=broker,
                    queue_id=queue_id,
                    offset=message.queue_offset,
                    key=key,
                    number=int(number),
                )
            )
        return max(offset, result.next_offset)  # a member that lags behind names an earlier one


def _asked(owner: str, queue: Queue) -> bytes:
    broker, queue_id = queue
    wanted = MessageQueue(topic=TOPIC, broker_name=broker, queue_id=queue_id)
    return encode_body(QueuesOfClient(client_id=owner, consumer_group=GROUP, mq_set=(wanted,)))
