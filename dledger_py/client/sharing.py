"""Who reads which queue: sharing out, taking up, laying down, committing.

The laws.

* Queues are shared out by every member for itself, by the same rule (`rebalance`), whenever a
  broker says that the members changed, and every `REBALANCE_S`.  A member that cannot find out who
  the others are keeps what it has.
* A queue's committed offset never passes a message that was not acknowledged, so a crash, a lost
  queue or a moved one repeats messages; none is left out.
* In order, a queue that is lost stays locked until what is in a user's hands is settled and
  committed; only then is it let go.

* Broadcasting, nothing is shared: every member reads every queue, and remembers where it stopped
  for as long as it lives.

Reading one queue is `queue_reader`; being known to the brokers is `membership`.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

import anyio
from attrs import frozen

from dledger_py.client._tasks import Starter
from dledger_py.client.asking import Asker
from dledger_py.client.errors import (
    ClientClosed,
    ClientError,
    ConsumerFailed,
    NoQueue,
    NoRoute,
    ResponseError,
    subscription_refused,
)
from dledger_py.client.membership import Membership
from dledger_py.client.pool import Pool
from dledger_py.client.queue_locks import QueueLocks
from dledger_py.client.queue_reader import Deliver, QueueReader
from dledger_py.client.queues import Queue
from dledger_py.client.rebalance import averaged, change
from dledger_py.client.replying import Replier
from dledger_py.client.route_tables import TopicRoute
from dledger_py.client.routes import Routes
from dledger_py.client.subscriptions import RETRY_PREFIX, From, Manner, Subscription
from dledger_py.client.tracing import Tracer
from dledger_py.remoting.commands.clients import (
    CheckClientConfig,
    CheckClientRequestBody,
    ConsumerIds,
    GetConsumerIds,
)
from dledger_py.remoting.commands.heartbeats import TAG_EXPRESSION
from dledger_py.remoting.commands.json_bodies import MalformedBody, decode_body, encode_body
from dledger_py.remoting.wire.codes import ResponseCode

logger = logging.getLogger(__name__)

REBALANCE_S = 20.0
"""How often the shares are looked at without being told to; Java's and Go's period."""

UNBALANCED_S = 1.0
"""How soon after an attempt that could not settle the shares; Java's retry."""

COMMIT_S = 5.0
"""How often offsets are committed; every RocketMQ client does it this often."""

MEMBERS_TIMEOUT_S = 3.0
CHECK_S = 3.0

EXPRESSION_REFUSED = frozenset(
    {
        ResponseCode.SUBSCRIPTION_PARSE_FAILED,
        ResponseCode.FILTER_DATA_NOT_EXIST,
        ResponseCode.SYSTEM_ERROR,  # Apache's brokers, where filtering by SQL92 is not switched on
    }
)


@frozen
class Services:
    """What a consumer needs of its client."""

    pool: Pool
    routes: Routes
    asker: Asker
    membership: Membership
    replier: Replier
    timeout_s: float
    """The deadline of a call that has none of its own."""
    tracer: Tracer | None


class Shares:
    """The queues of one group membership."""

    def __init__(
        self,
        services: Services,
        tasks: Starter,
        group: str,
        subscriptions: Mapping[str, Subscription],
        manner: Manner,
        consumer: Deliver,
    ) -> None:
        self.group = group
        self._services = services
        self._tasks = tasks
        self._subscriptions = subscriptions
        self._manner = manner
        self._consumer = consumer
        self._readers: dict[Queue, QueueReader] = {}
        self._retiring: dict[Queue, QueueReader] = {}
        self._stopped_at: dict[Queue, int | None] = {}
        """Broadcasting: of queues that were there once, and may come again."""
        self._locks: QueueLocks | None = None
        if manner.ordered:
            client_id = services.membership.client_id
            self._locks = QueueLocks(services.asker, client_id, group)
        self._to_rebalance = anyio.Event()

    @property
    def queues(self) -> tuple[Queue, ...]:
        """The queues assigned to this member now."""
        return tuple(sorted(self._readers))

    async def seek(self, queue: Queue, to: int | From) -> None:
        """See `Consumer.seek`."""
        reader = self._reader(queue)
        offset = to if isinstance(to, int) else await reader.find(to)
        self._reader(queue).seek(offset)  # asking took time

    def _reader(self, queue: Queue) -> QueueReader:
        reader = self._readers.get(queue)
        if reader is None:
            raise NoQueue(
                f"{queue} is not assigned to this member now", hint="`queues` lists those that are"
            )
        return reader

    def look_soon(self) -> None:
        """Look at the shares now."""
        self._to_rebalance.set()

    async def run(self) -> None:
        """Share out and commit, until cancelled."""
        async with anyio.create_task_group() as loops:
            loops.start_soon(self._commit_again_and_again)
            loops.start_soon(self._rebalance_again_and_again)
            if self._locks is not None:
                loops.start_soon(self._locks.keep)

    async def close(self) -> None:
        """Read no more, commit what is settled, and let go of the queues."""
        readers = [*self._readers.values(), *self._retiring.values()]
        for reader in readers:
            reader.stop()
        await self._commit(readers)
        if self._locks is not None:
            await self._locks.release([reader.queue for reader in readers])

    async def _rebalance_again_and_again(self) -> None:
        try:
            await self._learn_routes()
            if not await self._check_expressions():
                return
            await self._services.membership.beat()
            while True:
                self._to_rebalance = anyio.Event()
                balanced = await self._rebalance()
                with anyio.move_on_after(REBALANCE_S if balanced else UNBALANCED_S):
                    await self._to_rebalance.wait()
        except ClientClosed:
            self._consumer.fail(ConsumerFailed("the client was closed before its consumer"))

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

    async def _check_expressions(self) -> bool:
        """Ask whether expressions are any, as Java does: heartbeats with a broken one may be
        dropped without a word.  What cannot be asked now is told by the first pull."""
        client_id = self._services.membership.client_id
        for subscription in self._subscriptions.values():
            route = self._services.routes.known(subscription.topic)
            if subscription.expression_type == TAG_EXPRESSION or route is None:
                continue
            asked = CheckClientRequestBody(
                client_id=client_id, group=self.group, subscription_data=subscription.data()
            )
            try:
                for queue in route.read_queues[:1]:
                    await self._services.asker.once(
                        queue, CheckClientConfig(), CHECK_S, body=encode_body(asked)
                    )
            except ResponseError as error:
                if error.code in EXPRESSION_REFUSED:
                    self._consumer.fail(subscription_refused(subscription.expression, error))
                    return False
                logger.debug("%s: the expression was not checked: %s", self.group, error)
            except ClientClosed:
                raise
            except ClientError as error:
                logger.debug("%s: the expression was not checked: %s", self.group, error)
        return True

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
        share: tuple[Queue, ...] | None = route.read_queues
        if not self._manner.broadcast:
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
        settled = True
        for queue in difference.gained:
            if queue in self._retiring:
                settled = False  # its last message is still in a user's hands
            else:
                self._take_up(queue, subscription)
        return settled

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
            self._manner,
            self._services.asker,
            self._consumer,
            self._unregistered,
            self._locks,
            self._stopped_at.pop(queue, None),
        )
        self._tasks.start_soon(reader.run, name=f"{self.group} reads {queue}")

    async def _lay_down(self, queues: Sequence[Queue]) -> None:
        readers = [self._readers.pop(queue) for queue in queues]
        if self._locks is not None:
            for reader in readers:
                reader.retire()
                self._retiring[reader.queue] = reader
                name = f"{self.group} lays {reader.queue} down"
                self._tasks.start_soon(self._retire, reader, self._locks, name=name)
            return
        for reader in readers:
            reader.stop()
            if self._manner.broadcast:
                self._stopped_at[reader.queue] = reader.position
        await self._commit(readers)

    async def _retire(self, reader: QueueReader, locks: QueueLocks) -> None:
        await self._consumer.wait_settled(reader)
        reader.stop()
        self._consumer.forget(reader)
        await self._commit_one(reader)
        await locks.release([reader.queue])
        del self._retiring[reader.queue]
        self.look_soon()

    def _unregistered(self) -> None:
        """A broker does not know us: rebalancing begins with a heartbeat when it cannot find us."""
        self.look_soon()
