"""Consuming by pops: messages from whatever queue, each this member's own for a while.

    async with mq.pop_consumer("billing", "Orders", invisible_s=60) as messages:
        async for message in messages:
            async with message.ack_on_success():
                ...

The laws.

* Nothing is shared out and nothing committed: the broker knows who has which message until when,
  and there may be more members than queues.
* A message is acknowledged to the broker by its handle, once (`pop_acks`).  One that is not
  acknowledged comes again when its time is over, to whichever member; so does one whose
  acknowledgement got lost.
* What waits here for longer than its time is not handed out: it is somebody else's by then.
* In order, the messages of a queue are handed out one after the other, and the broker gives nothing
  more of it to anybody meanwhile.  One that failed takes back with it those that were popped after
  it.  A pop whose answer was not heard is asked for once more by the same name, so it is not lost.

What is promised by the broker is in docs/pop.md.
"""

import logging
import random
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
from attrs import evolve, frozen

from dledger_py.client import retry
from dledger_py.client._tasks import Starter, open_tasks
from dledger_py.client.connection import Reply
from dledger_py.client.errors import (
    ClientClosed,
    ClientError,
    ConsumerFailed,
    MalformedAnswer,
    ResponseError,
    subscription_refused,
)
from dledger_py.client.messages import Message, Received, as_message, within
from dledger_py.client.pop_acks import SETTLE_S, Acknowledger
from dledger_py.client.pop_order import PopOrder
from dledger_py.client.pull import HELD_SLACK_S, records
from dledger_py.client.queues import Queue
from dledger_py.client.sharing import Services
from dledger_py.client.subscriptions import Subscription
from dledger_py.remoting.commands.heartbeats import ConsumerData, ConsumeType
from dledger_py.remoting.commands.popping import (
    ANY_QUEUE,
    FROM_FIRST,
    FROM_LAST,
    ChangeInvisibleTime,
    Handle,
    Origin,
    PopMessage,
    PopReply,
    decode_handle,
    parse_popped,
)
from dledger_py.remoting.commands.send_back import SendBack
from dledger_py.remoting.wire import properties as property_text
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.message import parse_offset_message_id
from dledger_py.remoting.wire.schema import Malformed

logger = logging.getLogger(__name__)

POP_MESSAGES = 32
"""Brokers give no more at once."""

POLL_S = 15.0
"""How long the broker may hold a pop that finds nothing; Java's value."""

LOOK_S = 20.0
"""How often brokers of a topic that are new are looked for."""

CLOSE_S = 5.0

UNHELD_PAUSE_S = 0.05
PUT_BACK_S = 1.0
"""When a message comes again that was taken and not tried."""

FOUND = (
    ResponseCode.SUCCESS,
    ResponseCode.PULL_NOT_FOUND,
    ResponseCode.POLLING_FULL,
    ResponseCode.POLLING_TIMEOUT,
)


@frozen
class _Popped:
    """A message, and by what it is acknowledged."""

    message: Message
    handle: Handle
    until: float

    def topic(self, group: str) -> str:
        """Where it stands."""
        return self.handle.real_topic(group, self.message.queue.topic)


class PopConsumer:
    """What one member pops, as an async iterator.  Made by `Client.pop_consumer`."""

    def __init__(
        self,
        services: Services,
        tasks: Starter,
        group: str,
        subscriptions: Mapping[str, Subscription],
        *,
        invisible_s: float,
        concurrency: int,
        from_first: bool,
        ordered: bool,
        now_s: Callable[[], float],
    ) -> None:
        self.group = group
        self._services = services
        self._tasks = tasks
        self._subscriptions = subscriptions
        self._invisible_ms = int(invisible_s * 1000)
        self._concurrency = concurrency
        self._init_mode = FROM_FIRST if from_first else FROM_LAST
        self._now_s = now_s
        self._acknowledger = Acknowledger(services.asker, group)
        self._order: PopOrder[_Popped] | None = PopOrder() if ordered else None
        self._ready: deque[_Popped] = deque()
        self._handed: dict[int, _Popped] = {}
        self._settling = 0
        self._popping: set[Queue] = set()
        self._news = anyio.Event()
        self._loops = anyio.CancelScope()
        self._failure: ConsumerFailed | None = None
        self._ended = False

    # --- handing out -----------------------------------------------------------------------------

    def __aiter__(self) -> "PopConsumer":
        return self

    async def __anext__(self) -> Message:
        await anyio.lowlevel.checkpoint()
        while True:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise StopAsyncIteration
            if len(self._handed) + self._settling < self._concurrency:
                while self._ready:
                    popped = self._ready.popleft()
                    self._tell()
                    if popped.until > anyio.current_time():
                        self._handed[id(popped.message)] = popped
                        return popped.message
                    if self._order is not None:  # those behind it have the same time
                        self._order.let_go(popped.message.queue, popped)
            await self._wait()

    def acknowledge(self, message: Received) -> None:
        """*message* is done with."""
        if (popped := self._taken_back(message)) is not None:
            self._settle(popped, self._ack)
            self._go_on(popped)

    def give_back(self, message: Received, after_s: float | None) -> None:
        """*message* failed: it comes again after *after_s*, or the longer the more often it did."""
        if (popped := self._taken_back(message)) is not None:
            if after_s is None:
                after_s = self._pause_s(message.reconsume_times)
            self._return(popped, after_s)

    def put_back(self, message: Received) -> None:
        """*message* was not handled."""
        if (popped := self._taken_back(message)) is not None:
            self._return(popped, PUT_BACK_S)

    def give_up(self, message: Received) -> None:
        """*message* is to go to the group's dead letters."""
        if (popped := self._taken_back(message)) is not None:
            self._settle(popped, self._bury)
            self._go_on(popped)

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

    def _tell(self) -> None:
        self._news.set()

    async def _wait(self) -> None:
        if self._news.is_set():
            self._news = anyio.Event()
        await self._news.wait()

    # --- settling --------------------------------------------------------------------------------

    def _taken_back(self, message: Received) -> _Popped | None:
        """*message*, if it is still in somebody's hands; it no longer is."""
        popped = self._handed.pop(id(message), None)
        return None if self._ended else popped

    def _pause_s(self, returns: int) -> float:
        """Before what failed comes again; in order its queue waits, too, so it is shorter."""
        if self._order is not None:
            return retry.REDELIVERY_BACK_OFF.pause_s(returns + 1, random.random())
        return retry.DELAY_LEVELS_S[min(2 + returns, len(retry.DELAY_LEVELS_S) - 1)]

    def _go_on(self, popped: _Popped) -> None:
        """*popped* is done with: the next one of its queue."""
        if self._order is not None:
            following = self._order.done(popped.message.queue, popped)
            if following is not None:
                self._ready.append(following)
                self._tell()

    def _return(self, popped: _Popped, after_s: float) -> None:
        """*popped* is to come again, and in order so are those behind it, after it."""
        if self._order is not None:
            for each in self._order.let_go(popped.message.queue, popped):
                self._settle(each, self._change, 0.0)
        self._settle(popped, self._change, after_s)

    def _settle(
        self, popped: _Popped, how: Callable[..., Awaitable[None]], *arguments: object
    ) -> None:
        self._settling += 1
        self._tasks.start_soon(self._settle_now, popped, how, arguments)

    async def _settle_now(
        self, popped: _Popped, how: Callable[..., Awaitable[None]], arguments: tuple[object, ...]
    ) -> None:
        try:
            await how(popped, *arguments)
        except ClientError as error:
            logger.warning(
                "%s: what became of %s was not heard, it comes again: %s",
                self.group,
                popped.message.message_id,
                error,
            )
        finally:
            self._settling -= 1
            self._tell()

    async def _ack(self, popped: _Popped) -> None:
        await self._acknowledger.acknowledge(popped.message.queue, popped.handle)

    async def _change(self, popped: _Popped, after_s: float) -> None:
        request = ChangeInvisibleTime(
            consumer_group=self.group,
            topic=popped.topic(self.group),
            queue_id=popped.handle.queue_id,
            extra_info=popped.handle.encode(),
            offset=popped.handle.offset,
            invisible_time=max(1, int(after_s * 1000)),
        )
        await self._services.asker.ask(popped.message.queue, request, SETTLE_S)

    async def _bury(self, popped: _Popped) -> None:
        message = popped.message
        request = SendBack(
            offset=parse_offset_message_id(message.offset_message_id)[2],
            group=self.group,
            delay_level=-1,
            origin_msg_id=message.message_id,
            origin_topic=message.topic,
            broker_name=message.queue.broker,
        )
        await self._services.asker.ask(message.queue, request, SETTLE_S)
        await self._ack(popped)

    # --- popping ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Pop from every broker of every topic, until cancelled."""
        with self._loops:
            await self._run()

    async def _run(self) -> None:
        async with anyio.create_task_group() as loops:
            while True:
                for subscription in self._subscriptions.values():
                    for queue in await self._brokers(subscription.topic):
                        if queue not in self._popping:
                            self._popping.add(queue)
                            loops.start_soon(self._pop_again, queue, subscription)
                with anyio.move_on_after(LOOK_S if self._popping else 1.0):
                    await anyio.sleep_forever()

    async def _brokers(self, topic: str) -> list[Queue]:
        """A queue of each broker group, to name the group by."""
        try:
            route = await self._services.routes.get(topic)
        except ClientClosed:
            self._fail(ConsumerFailed("the client was closed before its consumer"))
            return []
        except ClientError as error:
            logger.info("%s waits for a route of %r: %s", self.group, topic, error)
            return []
        await self._services.membership.meet(route.addresses)
        return [Queue(topic, name, 0) for name in sorted({q.broker for q in route.read_queues})]

    async def _pop_again(self, queue: Queue, subscription: Subscription) -> None:
        failures = 0
        attempt_id = None
        while True:
            while not self._room():
                await self._wait()
            if self._order is not None and not failures:
                attempt_id = uuid.uuid4().hex
            try:
                await self._pop(queue, subscription, attempt_id)
                failures = 0
            except ClientClosed:
                self._fail(ConsumerFailed("the client was closed before its consumer"))
                return
            except ClientError as error:
                if isinstance(error, ResponseError) and (
                    error.code == ResponseCode.SUBSCRIPTION_PARSE_FAILED
                ):
                    self._fail(subscription_refused(subscription.expression, error))
                    return
                failures += 1
                level = logging.WARNING if failures == 3 else logging.DEBUG
                logger.log(level, "%s cannot pop %s at the moment: %s", self.group, queue, error)
                await anyio.sleep(retry.CONSUME_BACK_OFF.pause_s(failures, random.random()))

    def _room(self) -> int:
        """How many more may be popped."""
        behind = self._order.behind if self._order is not None else 0
        here = len(self._handed) + len(self._ready) + behind + self._settling
        return max(0, self._concurrency - here)

    async def _pop(self, queue: Queue, subscription: Subscription, attempt_id: str | None) -> None:
        asked_at = anyio.current_time()
        request = PopMessage(
            consumer_group=self.group,
            topic=queue.topic,
            queue_id=ANY_QUEUE,
            max_msg_nums=min(POP_MESSAGES, self._room()),
            invisible_time=self._invisible_ms,
            poll_time=int(POLL_S * 1000),
            born_time=int(self._now_s() * 1000),
            init_mode=self._init_mode,
            exp_type=subscription.expression_type,
            exp=subscription.expression,
            order=self._order is not None,
            attempt_id=attempt_id,
        )
        reply = await self._services.asker.once(queue, request, POLL_S + HELD_SLACK_S, FOUND)
        if reply.code == ResponseCode.SUCCESS:
            self._take(queue, subscription, reply)
        elif anyio.current_time() - asked_at < UNHELD_PAUSE_S:
            await anyio.sleep(UNHELD_PAUSE_S)

    def _take(self, queue: Queue, subscription: Subscription, reply: Reply[PopReply]) -> None:
        until = anyio.current_time() + reply.header.invisible_time / 1000
        try:
            handles = _handles(queue, reply)
        except Malformed as error:
            raise MalformedAnswer(f"the broker of {queue}", str(error)) from error
        taken: dict[Queue, list[_Popped]] = {}
        for record, (handle, count) in zip(records(queue, reply.body), handles, strict=True):
            where = Queue(queue.topic, queue.broker, record.queue_id)
            if self._order is not None:
                record = evolve(record, reconsume_times=count)
            popped = _Popped(as_message(record, where, self), handle, until)
            if subscription.wants(popped.message.tag):
                taken.setdefault(where, []).append(popped)
            else:  # its hash was like that of a tag that is wanted
                self._settle(popped, self._ack)
        for where, all_of_it in taken.items():
            self._make_ready(where, all_of_it)
        self._tell()

    def _make_ready(self, queue: Queue, popped: list[_Popped]) -> None:
        if self._order is None:
            self._ready.extend(popped)
            return
        first = self._order.put(queue, popped)
        assert first is not None
        self._ready = deque(each for each in self._ready if each.message.queue != queue)
        self._ready.append(first)

    def _fail(self, error: ConsumerFailed) -> None:
        self._failure = self._failure or error
        self._tell()

    async def close(self) -> None:
        """Let what was said be heard, and leave the group."""
        self._loops.cancel()
        if self._order is not None:
            self._give_back_ready()
        with anyio.move_on_after(CLOSE_S / 2, shield=True):
            while self._settling:
                await self._wait()
        self._ended = True
        self._tell()
        with anyio.move_on_after(CLOSE_S, shield=True):
            await self._services.membership.leave(self.group)

    def _give_back_ready(self) -> None:
        """What was not handed out is somebody else's: not at once, for the broker may hold a pop of
        ours, which nobody here listens to, but sooner than its time is over."""
        soon = anyio.current_time() + POLL_S
        while self._ready:
            popped = self._ready.popleft()
            if popped.until > soon:
                self._return(popped, POLL_S)


def _handles(queue: Queue, reply: Reply[PopReply]) -> list[tuple[Handle, int]]:
    """By what each message of *reply* is acknowledged, and how often it was popped in order before.
    **Raises** Malformed."""
    header = reply.header
    listed = parse_popped(header)
    places: dict[tuple[Origin, int], int] = {}
    handles = []
    for record in records(queue, reply.body):
        text = record.property(property_text.POP_CK)
        if text is not None:
            handles.append((decode_handle(text), 0))
            continue
        key = (Origin.TOPIC if record.topic == queue.topic else Origin.RETRY, record.queue_id)
        place = places[key] = places.get(key, -1) + 1
        of_queue = listed.get(key)
        if of_queue is None or place >= len(of_queue.offsets):
            raise Malformed(f"a message of queue {record.queue_id} has no handle")
        handle = Handle(
            first_offset=of_queue.first_offset,
            pop_ms=header.pop_time,
            invisible_ms=header.invisible_time,
            revive_qid=header.revive_qid,
            origin=of_queue.origin,
            broker_name=queue.broker,
            queue_id=record.queue_id,
            offset=of_queue.offsets[place],
        )
        handles.append((handle, of_queue.counts[place]))
    return handles


@asynccontextmanager
async def open_pop_consumer(
    services: Services,
    group: str,
    subscriptions: Mapping[str, Subscription],
    *,
    invisible_s: float,
    concurrency: int,
    from_first: bool,
    ordered: bool,
    now_s: Callable[[], float],
) -> AsyncIterator[PopConsumer]:
    """A member of *group* that pops, for as long as the block lasts."""
    version = int(now_s() * 1000)
    async with open_tasks() as tasks:
        consumer = PopConsumer(
            services,
            tasks,
            group,
            subscriptions,
            invisible_s=invisible_s,
            concurrency=concurrency,
            from_first=from_first,
            ordered=ordered,
            now_s=now_s,
        )
        data = ConsumerData(
            group_name=group,
            consume_type=ConsumeType.CONSUME_POP,
            subscription_data_set=tuple(each.data(version) for each in subscriptions.values()),
        )
        services.membership.join(data, lambda: None)
        tasks.start_soon(consumer.run, name=f"{group} pops")
        try:
            yield consumer
        finally:
            await consumer.close()
