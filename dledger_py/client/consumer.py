"""Consuming as a member of a group: handing messages out, and hearing what became of them.

    async with mq.consumer("billing", {"Orders": "paid || shipped"}) as messages:
        async for message in messages:
            async with message.ack_on_success():
                ...

The laws.

* At least once.  A queue's committed offset never passes a message that was not acknowledged, so a
  crash, a lost queue or a moved one repeats messages; none is left out.
* A message that failed is sent back to the broker, which delivers it again later to whichever
  member, counts, and puts it to the dead letters in the end.  It is settled here once the broker
  has it.  Where the broker does not take it, this member delivers it again itself.
* Broadcasting, a message that failed is tried again by its own member; what failed too often, where
  the consumer has a limit, is dropped, and logged.
* In order, a message that failed keeps its queue waiting, and is tried again here; only what failed
  too often is sent to the dead letters, where the consumer has a limit.
* At most `concurrency` messages are handed out, or on their way back, and not settled.  Any number
  of tasks may iterate.

Who reads which queue is `sharing`; reading one is `queue_reader`.
"""

import heapq
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count

import anyio
import anyio.lowlevel
from attrs import evolve

from dledger_py.client import retry
from dledger_py.client._tasks import Starter, open_tasks
from dledger_py.client.errors import ClientError, ConsumerFailed
from dledger_py.client.in_order import InOrder
from dledger_py.client.messages import Message, Received, within
from dledger_py.client.queue_reader import QueueReader
from dledger_py.client.queues import Queue
from dledger_py.client.sharing import Services, Shares
from dledger_py.client.subscriptions import (
    From,
    Manner,
    Subscription,
    checked_place,
    consumer_data,
    retries_of,
)
from dledger_py.remoting.commands.send_back import SendBack
from dledger_py.remoting.wire.message import parse_offset_message_id

logger = logging.getLogger(__name__)

CLOSE_S = 5.0
"""How long a consumer that ends may take to commit and to say good-bye, even when cancelled."""

SEND_BACK_S = 5.0
"""How long the broker is asked to take a message back, before it is delivered again here."""

DEAD_LETTER = -1
"""The delay level that means: never again."""


class Consumer:
    """The messages of one group membership, as an async iterator.  Made by `Client.consumer`."""

    def __init__(
        self,
        services: Services,
        tasks: Starter,
        group: str,
        subscriptions: Mapping[str, Subscription],
        manner: Manner,
    ) -> None:
        self.group = group
        self._services = services
        self._tasks = tasks
        self._manner = manner
        self._tracer = services.tracer
        self._shares = Shares(services, tasks, group, subscriptions, manner, self)
        self._ready: deque[tuple[Message, QueueReader]] = deque()
        self._handed: dict[int, tuple[Message, QueueReader]] = {}
        self._returning: dict[int, QueueReader] = {}
        self._lanes: InOrder[QueueReader, Message] | None = InOrder() if manner.ordered else None
        self._later: list[tuple[float, int, Message, QueueReader]] = []
        self._tick = count()
        self._news = anyio.Event()
        self._to_redeliver = anyio.Event()
        self._failure: ConsumerFailed | None = None
        self._ended = False

    @property
    def queues(self) -> tuple[Queue, ...]:
        """The queues assigned to this member now."""
        return self._shares.queues

    async def seek(self, queue: Queue, to: int | From) -> None:
        """Go on in *queue*, one of `queues`, at an offset, a time, or its first or last message.

        What was read there and is not acknowledged is forgotten, and acknowledging it means
        nothing any more.  The new place is committed like any other.

        **Raises** NoQueue if the queue is not assigned to this member; ClientError.
        """
        if isinstance(to, int):
            if to < 0:
                raise ValueError(f"offset {to}: 0 or more is expected")
        else:
            checked_place(to)
        await self._shares.seek(queue, to)

    # --- handing out -----------------------------------------------------------------------------

    def __aiter__(self) -> "Consumer":
        return self

    async def __anext__(self) -> Message:
        await anyio.lowlevel.checkpoint()
        while True:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise StopAsyncIteration
            if len(self._handed) + len(self._returning) < self._manner.concurrency:
                while self._ready:
                    message, reader = self._ready.popleft()
                    if reader.delivers(message):
                        self._handed[id(message)] = (message, reader)
                        if self._tracer is not None:
                            self._tracer.handed_out(message, self.group)
                        return message
            if self._news.is_set():
                self._news = anyio.Event()
            await self._news.wait()

    def acknowledge(self, message: Received) -> None:
        """*message* is done with; only the first word about a delivery counts."""
        if self._tracer is not None:
            self._tracer.settled(message, self.group, success=True)
        handed = self._handed.pop(id(message), None)
        if handed is not None:
            self._settle(*handed)

    def give_back(self, message: Received, after_s: float | None) -> None:
        """*message* failed; it is to be delivered again, after *after_s* or a pause."""
        handed = self._taken_back(message)
        if handed is None:
            return
        if self._lanes is None and not self._manner.broadcast:
            level = 0 if after_s is None else retry.delay_level(after_s)
            self._return(*handed, level, after_s)
            return
        most = self._manner.max_reconsume_times
        if most is None or message.delivery_attempt <= most:
            self._deliver_again(*handed, after_s)
        else:
            self._bury(*handed, after_s)

    def give_up(self, message: Received) -> None:
        """*message* is to go to the group's dead letters."""
        if (handed := self._taken_back(message)) is not None:
            self._bury(*handed, None)

    def put_back(self, message: Received) -> None:
        """*message* was not handled; this member gets it again."""
        if (handed := self._taken_back(message)) is not None:
            self._deliver_again(*handed, None, failed=False)

    def _taken_back(self, message: Received) -> tuple[Message, QueueReader] | None:
        """*message*, which was not handled, if it is still in somebody's hands; it no longer is."""
        if self._tracer is not None:
            self._tracer.settled(message, self.group, success=False)
        return self._handed.pop(id(message), None)

    async def reply(
        self,
        message: Received,
        body: bytes,
        properties: Mapping[str, str] | None,
        timeout_s: float | None,
    ) -> None:
        """Answer the request *message*."""
        left_s = within(timeout_s, self._services.timeout_s)
        await self._services.replier.reply(message, body, properties, left_s)

    def _settle(self, message: Message, reader: QueueReader) -> None:
        if reader.settle(message) and self._lanes is not None:
            following = self._lanes.done(reader)
            if following is not None:
                self._ready.append((following, reader))
        self._news.set()

    def _bury(self, message: Message, reader: QueueReader, after_s: float | None) -> None:
        if not self._manner.broadcast:
            self._return(message, reader, DEAD_LETTER, after_s)
            return
        logger.error("%s drops message %s of %s", self.group, message.message_id, message.queue)
        self._settle(message, reader)

    def _return(
        self, message: Message, reader: QueueReader, level: int, after_s: float | None
    ) -> None:
        if self._ended:
            return  # the group was left: whoever reads the queue now gets it again
        self._returning[id(message)] = reader
        name = f"{self.group} sends {message.message_id} back"
        self._tasks.start_soon(self._send_back, message, reader, level, after_s, name=name)

    async def _send_back(
        self, message: Message, reader: QueueReader, level: int, after_s: float | None
    ) -> None:
        try:
            request = SendBack(
                offset=parse_offset_message_id(message.offset_message_id)[2],
                group=self.group,
                delay_level=level,
                origin_msg_id=message.message_id,
                origin_topic=message.topic,
                max_reconsume_times=self._manner.max_reconsume_times,
                broker_name=message.queue.broker,
            )
            await self._services.asker.ask(message.queue, request, SEND_BACK_S)
        except ClientError as error:
            logger.warning(
                "%s: the broker does not take %s back, it is delivered again from here: %s",
                self.group,
                message.message_id,
                error,
            )
            self._deliver_again(message, reader, after_s)
        else:
            self._settle(message, reader)
        finally:
            del self._returning[id(message)]
            self._news.set()

    def _deliver_again(
        self, message: Message, reader: QueueReader, after_s: float | None, *, failed: bool = True
    ) -> None:
        self._news.set()
        again = evolve(message, delivery_attempt=message.delivery_attempt + failed)
        if not reader.replace(message, again):
            return  # the queue is somebody else's now
        if after_s is None:
            failures = message.delivery_attempt
            after_s = retry.REDELIVERY_BACK_OFF.pause_s(failures, random.random())
        due = anyio.current_time() + after_s
        heapq.heappush(self._later, (due, next(self._tick), again, reader))
        self._to_redeliver.set()

    def deliver(self, reader: QueueReader, messages: Sequence[Message]) -> None:
        """*reader* has read *messages*."""
        if self._lanes is not None:
            first = self._lanes.add(reader, messages)
            messages = () if first is None else (first,)
        self._ready.extend((message, reader) for message in messages)
        self._news.set()

    def forget(self, reader: QueueReader) -> None:
        """Nothing that *reader* has read is handed out any more."""
        if self._lanes is not None:
            self._lanes.forget(reader)

    async def wait_settled(self, reader: QueueReader) -> None:
        """Wait until nothing that *reader* has read is in anybody's hands."""
        while any(each is reader for _, each in self._handed.values()) or any(
            each is reader for each in self._returning.values()
        ):
            if self._news.is_set():
                self._news = anyio.Event()
            await self._news.wait()

    def fail(self, error: ConsumerFailed) -> None:
        """No more messages will come; whoever iterates hears why."""
        self._failure = self._failure or error
        self._news.set()

    # --- the tasks -------------------------------------------------------------------------------

    def rebalance_soon(self) -> None:
        """Look at the shares now."""
        self._shares.look_soon()

    async def run(self) -> None:
        """Share out, commit and redeliver, until cancelled."""
        async with anyio.create_task_group() as loops:
            loops.start_soon(self._redeliver)
            loops.start_soon(self._shares.run)

    async def _redeliver(self) -> None:
        while True:
            if not self._later:
                self._to_redeliver = anyio.Event()
                await self._to_redeliver.wait()
            left_s = self._later[0][0] - anyio.current_time()
            if left_s > 0:
                with anyio.move_on_after(left_s):
                    self._to_redeliver = anyio.Event()
                    await self._to_redeliver.wait()
                continue
            _, _, message, reader = heapq.heappop(self._later)
            self._ready.append((message, reader))
            self._news.set()

    async def close(self) -> None:
        """Let what goes back arrive, commit what is settled, and leave the group."""
        self._ended = True
        self._news.set()
        with anyio.move_on_after(CLOSE_S / 2, shield=True):
            while self._returning:
                if self._news.is_set():
                    self._news = anyio.Event()
                await self._news.wait()
        with anyio.move_on_after(CLOSE_S, shield=True):
            await self._shares.close()
            await self._services.membership.leave(self.group)


@asynccontextmanager
async def open_consumer(
    services: Services,
    group: str,
    subscriptions: Mapping[str, Subscription],
    manner: Manner,
    *,
    version: int,
) -> AsyncIterator[Consumer]:
    """A member of *group* for as long as the block lasts."""
    everything = dict(subscriptions)
    if not manner.broadcast:
        retries = retries_of(group)
        everything[retries.topic] = retries
    async with open_tasks() as tasks:
        consumer = Consumer(services, tasks, group, everything, manner)
        data = consumer_data(group, everything, manner, version)
        services.membership.join(data, consumer.rebalance_soon)
        tasks.start_soon(consumer.run, name=f"consumer {group}")
        try:
            yield consumer
        finally:
            await consumer.close()
