"""Consuming as a member of a group: who reads what, handing messages out, committing.

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
* At most `concurrency` messages are handed out, or on their way back, and not settled.  Any number
  of tasks may iterate.
* Queues are shared out by every member for itself, by the same rule (`rebalance`), whenever a
  broker says that the members changed, and every `REBALANCE_S`.  A member that cannot find out who
  the others are keeps what it has.

Reading one queue is `queue_reader`; being known to the brokers is `membership`.
"""

import heapq
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count

import anyio
import anyio.lowlevel
from attrs import evolve, frozen

from dledger_py.client import retry
from dledger_py.client._tasks import Starter, open_tasks
from dledger_py.client.asking import Asker
from dledger_py.client.errors import ClientClosed, ClientError, ConsumerFailed, NoRoute
from dledger_py.client.membership import Membership
from dledger_py.client.messages import Message
from dledger_py.client.pool import Pool
from dledger_py.client.queue_reader import RETRY_PREFIX, From, QueueReader, Subscription
from dledger_py.client.queues import Queue
from dledger_py.client.rebalance import averaged, change
from dledger_py.client.route_tables import TopicRoute
from dledger_py.client.routes import Routes
from dledger_py.remoting.commands.clients import ConsumerIds, GetConsumerIds
from dledger_py.remoting.commands.heartbeats import (
    ConsumeFromWhere,
    ConsumerData,
    tag_subscription,
)
from dledger_py.remoting.commands.json_bodies import MalformedBody, decode_body
from dledger_py.remoting.commands.send_back import SendBack
from dledger_py.remoting.wire.message import parse_offset_message_id

logger = logging.getLogger(__name__)

REBALANCE_S = 20.0
"""How often the shares are looked at without being told to; Java's and Go's period."""

UNBALANCED_S = 1.0
"""How soon after an attempt that could not settle the shares; Java's retry."""

COMMIT_S = 5.0
"""How often offsets are committed; every RocketMQ client does it this often."""

CLOSE_S = 5.0
"""How long a consumer that ends may take to commit and to say good-bye, even when cancelled."""

MEMBERS_TIMEOUT_S = 3.0

SEND_BACK_S = 5.0
"""How long the broker is asked to take a message back, before it is delivered again here."""

DEAD_LETTER = -1
"""The delay level that means: never again."""


@frozen(kw_only=True)
class Manner:
    """How a group is consumed."""

    concurrency: int
    from_: From
    max_reconsume_times: int | None
    """None: what the broker keeps for the group, usually 16."""


@frozen
class Services:
    """What a consumer needs of its client."""

    pool: Pool
    routes: Routes
    asker: Asker
    membership: Membership


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
        self._subscriptions = dict(subscriptions)
        self._manner = manner
        self._readers: dict[Queue, QueueReader] = {}
        self._ready: deque[tuple[Message, QueueReader]] = deque()
        self._handed: dict[int, tuple[Message, QueueReader]] = {}
        self._returning: dict[int, Message] = {}
        self._later: list[tuple[float, int, Message, QueueReader]] = []
        self._tick = count()
        self._news = anyio.Event()
        self._to_rebalance = anyio.Event()
        self._to_redeliver = anyio.Event()
        self._failure: ConsumerFailed | None = None
        self._ended = False

    @property
    def queues(self) -> tuple[Queue, ...]:
        """The queues assigned to this member now."""
        return tuple(sorted(self._readers))

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
                    if reader.holds(message):
                        self._handed[id(message)] = (message, reader)
                        return message
            if self._news.is_set():
                self._news = anyio.Event()
            await self._news.wait()

    def acknowledge(self, message: Message) -> None:
        """*message* is done with; only the first word about a delivery counts."""
        if (handed := self._handed.pop(id(message), None)) is not None:
            handed[1].settle(message)
            self._news.set()

    def give_back(self, message: Message, after_s: float | None) -> None:
        """*message* failed; the broker is to deliver it again, after *after_s* or its own pause."""
        self._return(message, 0 if after_s is None else retry.delay_level(after_s), after_s)

    def give_up(self, message: Message) -> None:
        """*message* is to go to the group's dead letters."""
        self._return(message, DEAD_LETTER, None)

    def put_back(self, message: Message) -> None:
        """*message* was not handled; this member gets it again."""
        if (handed := self._handed.pop(id(message), None)) is not None:
            self._deliver_again(message, handed[1], None)

    def _return(self, message: Message, level: int, after_s: float | None) -> None:
        handed = self._handed.pop(id(message), None)
        if handed is None:
            return
        self._returning[id(message)] = message
        name = f"{self.group} sends {message.message_id} back"
        self._tasks.start_soon(self._send_back, message, handed[1], level, after_s, name=name)

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
            reader.settle(message)
        finally:
            del self._returning[id(message)]
            self._news.set()

    def _deliver_again(self, message: Message, reader: QueueReader, after_s: float | None) -> None:
        self._news.set()
        again = evolve(message, delivery_attempt=message.delivery_attempt + 1)
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
        self._ready.extend((message, reader) for message in messages)
        self._news.set()

    def fail(self, error: ConsumerFailed) -> None:
        """No more messages will come; whoever iterates hears why."""
        self._failure = self._failure or error
        self._news.set()

    # --- the tasks -------------------------------------------------------------------------------

    def rebalance_soon(self) -> None:
        """Look at the shares now."""
        self._to_rebalance.set()

    async def run(self) -> None:
        """Share out, commit and redeliver, until cancelled."""
        async with anyio.create_task_group() as loops:
            loops.start_soon(self._commit_again_and_again)
            loops.start_soon(self._redeliver)
            loops.start_soon(self._rebalance_again_and_again)

    async def _rebalance_again_and_again(self) -> None:
        try:
            await self._learn_routes()
            await self._services.membership.beat()
            while True:
                self._to_rebalance = anyio.Event()
                balanced = await self._rebalance()
                with anyio.move_on_after(REBALANCE_S if balanced else UNBALANCED_S):
                    await self._to_rebalance.wait()
        except ClientClosed:
            self.fail(ConsumerFailed("the client was closed before its consumer"))

    async def _learn_routes(self) -> None:
        """Find the brokers that must hear of us; topics that do not exist yet are met later."""
        for topic in self._subscriptions:
            if topic.startswith(RETRY_PREFIX):
                continue  # it appears with the first heartbeat
            try:
                await self._services.routes.get(topic)
            except ClientClosed:
                raise
            except ClientError as error:
                logger.info("%s waits for a route of %r: %s", self.group, topic, error)

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
            self.deliver(reader, (message,))

    async def _commit_again_and_again(self) -> None:
        while True:
            await anyio.sleep(COMMIT_S)
            await self._commit(self._readers.values())

    async def _commit(self, readers: Iterable[QueueReader]) -> None:
        async with anyio.create_task_group() as tasks:
            for reader in list(readers):
                tasks.start_soon(self._commit_one, reader)

    async def _commit_one(self, reader: QueueReader) -> None:
        try:
            await reader.commit()
        except ClientError as error:
            logger.warning("%s: offset of %s not committed: %s", self.group, reader.queue, error)

    # --- sharing out -----------------------------------------------------------------------------

    async def _rebalance(self) -> bool:
        """Take up and lay down queues; False if the shares of a topic could not be settled."""
        balanced = True
        for subscription in self._subscriptions.values():
            try:
                balanced &= await self._rebalance_topic(subscription)
            except NoRoute as error:
                # Retry topics appear with the first heartbeat, others with their first message.
                logger.debug("%s: %s", self.group, error)
                balanced = False
            except ClientClosed:
                raise
            except ClientError as error:
                logger.info("%s: shares stay as they are: %s", self.group, error)
                balanced = False
        return balanced

    async def _rebalance_topic(self, subscription: Subscription) -> bool:
        known = self._services.routes.known(subscription.topic)
        route = await self._services.routes.get(subscription.topic)
        if route is not known:
            await self._services.membership.beat()  # brokers we had not met
        members = await self._members(route)
        share = averaged(route.read_queues, members, self._services.membership.client_id)
        if share is None:
            await self._services.membership.beat(route.addresses)
            return False
        held = [queue for queue in self._readers if queue.topic == subscription.topic]
        difference = change(held, share)
        if difference:
            logger.info("%s reads %d queues of %r", self.group, len(share), subscription.topic)
        await self._lay_down(difference.lost)
        for queue in difference.gained:
            self._take_up(queue, subscription)
        return True

    async def _members(self, route: TopicRoute) -> tuple[str, ...]:
        """Who is in the group, as one broker of *route* knows; any should know everyone."""
        failure: ClientError = NoRoute(route.topic, "no broker is in it")
        for address in route.addresses:
            try:
                connection = await self._services.pool.get(address)
                request = GetConsumerIds(consumer_group=self.group)
                reply = await connection.call(request, timeout_s=MEMBERS_TIMEOUT_S)
                return decode_body(ConsumerIds, reply.body).consumer_id_list
            except ClientClosed:
                raise
            except MalformedBody as error:
                failure = NoRoute(route.topic, f"{address} listed no members: {error}")
            except ClientError as error:
                failure = error
        await self._services.membership.beat(route.addresses)
        raise failure

    def _take_up(self, queue: Queue, subscription: Subscription) -> None:
        reader = self._readers[queue] = QueueReader(
            queue,
            self.group,
            subscription,
            self._manner.from_,
            self._services.asker,
            self,
            self._unregistered,
        )
        self._tasks.start_soon(reader.run, name=f"{self.group} reads {queue}")

    async def _lay_down(self, queues: Sequence[Queue]) -> None:
        readers = [self._readers.pop(queue) for queue in queues]
        for reader in readers:
            reader.stop()
        await self._commit(readers)

    def _unregistered(self) -> None:
        """A broker does not know us: rebalancing begins with a heartbeat when it cannot find us."""
        self.rebalance_soon()

    async def close(self) -> None:
        """Let what goes back arrive, commit what is settled, and leave the group."""
        self._ended = True
        self._news.set()
        with anyio.move_on_after(CLOSE_S / 2, shield=True):
            while self._returning:
                self._news = anyio.Event()
                await self._news.wait()
        for reader in self._readers.values():
            reader.stop()
        with anyio.move_on_after(CLOSE_S, shield=True):
            await self._commit(self._readers.values())
            await self._services.membership.leave(self.group)


def parse_subscriptions(
    subscriptions: Mapping[str, str] | Sequence[str] | str, check: Callable[[str], str]
) -> dict[str, Subscription]:
    """What a user subscribes to: topics with tag expressions, or topics alone."""
    if isinstance(subscriptions, str):
        subscriptions = {subscriptions: "*"}
    elif not isinstance(subscriptions, Mapping):
        subscriptions = dict.fromkeys(subscriptions, "*")
    if not subscriptions:
        raise ValueError("subscriptions: at least one topic is expected")
    found = {}
    for topic, expression in subscriptions.items():
        meant = tag_subscription(check(topic), expression)
        found[topic] = Subscription(
            topic=topic, expression=meant.sub_string, tags=frozenset(meant.tags_set)
        )
    return found


def consumer_data(
    group: str, subscriptions: Mapping[str, Subscription], from_: From, version: int
) -> ConsumerData:
    """What the brokers are told about a membership."""
    where = {
        "last": ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET,
        "first": ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
    }
    return ConsumerData(
        group_name=group,
        consume_from_where=(
            where[from_] if isinstance(from_, str) else ConsumeFromWhere.CONSUME_FROM_TIMESTAMP
        ),
        subscription_data_set=tuple(
            tag_subscription(each.topic, each.expression, version)
            for each in subscriptions.values()
        ),
    )


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
    retry_topic = RETRY_PREFIX + group
    everything = {
        **subscriptions,
        retry_topic: Subscription(topic=retry_topic, expression="*", tags=frozenset()),
    }
    async with open_tasks() as tasks:
        consumer = Consumer(services, tasks, group, everything, manner)
        data = consumer_data(group, everything, manner.from_, version)
        services.membership.join(data, consumer.rebalance_soon)
        tasks.start_soon(consumer.run, name=f"consumer {group}")
        try:
            yield consumer
        finally:
            await consumer.close()
