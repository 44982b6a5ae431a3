"""The client without async: the same names, for programs that have no event loop.

    from dledger_py.client.sync import connect

    with connect("127.0.0.1:9876") as mq:
        mq.send("Orders", b"...", tag="paid")
        with mq.consumer("billing", {"Orders": "paid"}) as messages:
            for message in messages:
                with message.ack_on_success():
                    handle(message)

The laws.

* An event loop runs in one thread of its own, for as long as the `with` block; all work is that of
  the async client, and so are all guarantees.  Whoever calls waits in its own thread.
* Any number of threads may use one client, and one consumer.
* Every call has a deadline; what waits without one (`for message in messages`) ends with the block,
  and with Ctrl-C.
* A client belongs to the process that made it.  In a child that was forked off, every call raises
  ClientForked, and leaving the block touches nothing of the parent's.

What a call does and raises is said at the async one of the same name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    contextmanager,
)
from datetime import datetime, timedelta
from types import TracebackType
from typing import Literal, TypeVar

import anyio
import anyio.to_thread
from attrs import fields, frozen

from dledger_py.client import client as async_client
from dledger_py.client import consumer as async_consumer
from dledger_py.client import messages as async_messages
from dledger_py.client import popping as async_popping
from dledger_py.client import retry
from dledger_py.client.client import PRODUCER_GROUP, PULL_GROUP
from dledger_py.client.loop_thread import LoopThread
from dledger_py.client.messages import Outgoing, Receipt, Received, Settlement, as_seconds, settle
from dledger_py.client.pull import PullResult
from dledger_py.client.queues import Queue
from dledger_py.client.subscriptions import From, Selection
from dledger_py.client.transactions import Transaction, TransactionState

T = TypeVar("T")

Check = Callable[[Received], TransactionState]
"""Finds out what became of a transaction; called in a worker thread."""


@frozen
class _Told:
    """Tells the consumer, in its own thread, what became of one message."""

    thread: LoopThread
    settlement: Settlement
    message: async_messages.Message

    def acknowledge(self, _message: Received) -> None:
        self.thread.call(self.settlement.acknowledge, self.message)

    def give_back(self, _message: Received, after_s: float | None) -> None:
        self.thread.call(self.settlement.give_back, self.message, after_s)

    def put_back(self, _message: Received) -> None:
        self.thread.call(self.settlement.put_back, self.message)

    def give_up(self, _message: Received) -> None:
        self.thread.call(self.settlement.give_up, self.message)

    async def reply(
        self,
        _message: Received,
        body: bytes,
        properties: Mapping[str, str] | None,
        timeout_s: float | None,
    ) -> None:
        await self.settlement.reply(self.message, body, properties, timeout_s)

    def reply_now(
        self, body: bytes, properties: Mapping[str, str] | None, timeout_s: float | None
    ) -> None:
        self.thread.call(self.settlement.reply, self.message, body, properties, timeout_s)


@frozen
class _AckScope:
    """The scope of `Message.ack_on_success`."""

    message: "Message"
    settlement: Settlement
    after_s: float | None

    def __enter__(self) -> "Message":
        return self.message

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return settle(self.message, self.settlement, self.after_s, error)


@frozen(kw_only=True)
class Message(Received):
    """One message as it was received."""

    def ack_on_success(
        self, retry_after: float | timedelta | None = None
    ) -> AbstractContextManager["Message", bool]:
        """A scope that acknowledges when its block ends well and gives the message back when not.

        As the async one; Ctrl-C is no failure.
        """
        return _AckScope(self, self.settled_by(), as_seconds(retry_after))

    def reply(
        self,
        body: bytes,
        *,
        properties: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Answer a request: see `Client.request`."""
        told = self.settled_by()
        assert isinstance(told, _Told)
        told.reply_now(async_messages.checked_body(body), properties, timeout_s)


_FIELDS = tuple(
    (each.name, str(each.alias)) for each in fields(Received) if each.alias != "settlement"
)


def _wrapped(message: async_messages.Message, thread: LoopThread, *, settled: bool) -> Message:
    values = {alias: getattr(message, name) for name, alias in _FIELDS}
    told = _Told(thread, message.settled_by(), message) if settled else None
    return Message(**values, settlement=told)


class _Messages:
    """What a consumer hands out, as an iterator."""

    def __init__(
        self, thread: LoopThread, consumer: async_consumer.Consumer | async_popping.PopConsumer
    ) -> None:
        self._thread = thread
        self._messages = consumer
        self.group = consumer.group

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        message = self.receive()
        if message is None:
            raise StopIteration
        return message

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message, waiting for it up to *timeout_s*; None if there was none by then."""
        message = self._thread.call(self._receive, timeout_s)
        return None if message is None else _wrapped(message, self._thread, settled=True)

    async def _receive(self, timeout_s: float | None) -> async_messages.Message | None:
        with anyio.move_on_after(timeout_s):
            return await anext(self._messages, None)
        return None


class Consumer(_Messages):
    """The messages of one group membership, as an iterator.  Made by `Client.consumer`."""

    def __init__(self, thread: LoopThread, consumer: async_consumer.Consumer) -> None:
        super().__init__(thread, consumer)
        self._consumer = consumer

    @property
    def queues(self) -> tuple[Queue, ...]:
        """The queues assigned to this member now."""
        return self._consumer.queues

    def seek(self, queue: Queue, to: int | From) -> None:
        """Go on in *queue*, one of `queues`, at an offset, a time, or its first or last message."""
        self._thread.call(self._consumer.seek, queue, to)


class PopConsumer(_Messages):
    """What one member pops, as an iterator.  Made by `Client.pop_consumer`."""


class Client:
    """A connected client.  Made by `connect`."""

    def __init__(self, thread: LoopThread, client: async_client.Client) -> None:
        self._thread = thread
        self._client = client
        self.client_id = client.client_id

    # --- sending ---------------------------------------------------------------------------------

    def send(
        self,
        topic: str,
        body: bytes,
        *,
        tag: str | None = None,
        keys: Iterable[str] = (),
        group: str | None = None,
        properties: Mapping[str, str] | None = None,
        queue: int | None = None,
        delay: timedelta | datetime | None = None,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Store one message and return where it is."""
        receipt: Receipt = self._thread.call(
            self._client.send,
            topic,
            body,
            tag=tag,
            keys=keys,
            group=group,
            properties=properties,
            queue=queue,
            delay=delay,
            timeout_s=timeout_s,
        )
        return receipt

    def recall(self, receipt: Receipt) -> None:
        """Take back a message that was sent with a delay and is not due yet."""
        self._thread.call(self._client.recall, receipt)

    def send_batch(
        self,
        topic: str,
        messages: Sequence[bytes | Outgoing],
        *,
        group: str | None = None,
        queue: int | None = None,
        timeout_s: float | None = None,
    ) -> tuple[Receipt, ...]:
        """Store *messages* together, all or none, in one queue at consecutive offsets."""
        receipts: tuple[Receipt, ...] = self._thread.call(
            self._client.send_batch,
            topic,
            messages,
            group=group,
            queue=queue,
            timeout_s=timeout_s,
        )
        return receipts

    def send_oneway(
        self,
        topic: str,
        body: bytes,
        *,
        tag: str | None = None,
        keys: Iterable[str] = (),
        group: str | None = None,
        properties: Mapping[str, str] | None = None,
        queue: int | None = None,
        timeout_s: float | None = None,
    ) -> str:
        """Write one message to the broker's connection; nobody knows whether it was stored."""
        unique_id: str = self._thread.call(
            self._client.send_oneway,
            topic,
            body,
            tag=tag,
            keys=keys,
            group=group,
            properties=properties,
            queue=queue,
            timeout_s=timeout_s,
        )
        return unique_id

    def request(
        self,
        topic: str,
        body: bytes,
        *,
        tag: str | None = None,
        keys: Iterable[str] = (),
        group: str | None = None,
        properties: Mapping[str, str] | None = None,
        queue: int | None = None,
        timeout_s: float | None = None,
    ) -> Message:
        """Send a message, and wait for what one of its consumers replies (`Message.reply`)."""
        reply = self._thread.call(
            self._client.request,
            topic,
            body,
            tag=tag,
            keys=keys,
            group=group,
            properties=properties,
            queue=queue,
            timeout_s=timeout_s,
        )
        return _wrapped(reply, self._thread, settled=False)

    def transaction(
        self,
        topic: str,
        body: bytes,
        *,
        tag: str | None = None,
        keys: Iterable[str] = (),
        group: str | None = None,
        properties: Mapping[str, str] | None = None,
        queue: int | None = None,
        delay: timedelta | datetime | None = None,
        timeout_s: float | None = None,
    ) -> AbstractContextManager[Transaction]:
        """Send a message if, and only if, the block ends well."""
        return self._thread.open(
            self._client.transaction(
                topic,
                body,
                tag=tag,
                keys=keys,
                group=group,
                properties=properties,
                queue=queue,
                delay=delay,
                timeout_s=timeout_s,
            )
        )

    # --- consuming -------------------------------------------------------------------------------

    def consumer(
        self,
        group: str,
        subscriptions: Mapping[str, Selection] | Sequence[str] | str,
        *,
        concurrency: int = 16,
        from_: From = "last",
        ordered: bool = False,
        broadcast: bool = False,
        max_reconsume_times: int | None = None,
    ) -> AbstractContextManager[Consumer]:
        """Be a member of *group* for as long as the block lasts, and read what falls to it."""
        manager = self._client.consumer(
            group,
            subscriptions,
            concurrency=concurrency,
            from_=from_,
            ordered=ordered,
            broadcast=broadcast,
            max_reconsume_times=max_reconsume_times,
        )
        return self._consuming(manager)

    def pop_consumer(
        self,
        group: str,
        subscriptions: Mapping[str, Selection] | Sequence[str] | str,
        *,
        concurrency: int = 16,
        from_: Literal["last", "first"] = "first",
        invisible_s: float = 60.0,
        ordered: bool = False,
    ) -> AbstractContextManager[PopConsumer]:
        """Take messages of whatever queue, each for *invisible_s*, for as long as the block
        lasts."""
        manager = self._client.pop_consumer(
            group,
            subscriptions,
            concurrency=concurrency,
            from_=from_,
            invisible_s=invisible_s,
            ordered=ordered,
        )
        return self._popping(manager)

    @contextmanager
    def _popping(
        self, manager: AbstractAsyncContextManager[async_popping.PopConsumer]
    ) -> Iterator[PopConsumer]:
        with self._thread.open(manager) as consumer:
            yield PopConsumer(self._thread, consumer)

    @contextmanager
    def _consuming(
        self, manager: AbstractAsyncContextManager[async_consumer.Consumer]
    ) -> Iterator[Consumer]:
        with self._thread.open(manager) as consumer:
            yield Consumer(self._thread, consumer)

    # --- pulling ---------------------------------------------------------------------------------

    def queues(self, topic: str) -> tuple[Queue, ...]:
        """The queues of *topic* that can be read."""
        found: tuple[Queue, ...] = self._thread.call(self._client.queues, topic)
        return found

    def pull(
        self,
        topic: str,
        queue_id: int,
        offset: int,
        max_messages: int = 32,
        *,
        broker: str | None = None,
        tags: Selection = "*",
        group: str = PULL_GROUP,
        wait_s: float = 0.0,
        timeout_s: float | None = None,
    ) -> PullResult:
        """Look into a queue from *offset* on; with *wait_s*, wait that long for a first message."""
        result: PullResult = self._thread.call(
            self._client.pull,
            topic,
            queue_id,
            offset,
            max_messages,
            broker=broker,
            tags=tags,
            group=group,
            wait_s=wait_s,
            timeout_s=timeout_s,
        )
        return result

    def min_offset(self, topic: str, queue_id: int, *, broker: str | None = None) -> int:
        """The first offset that is still there."""
        return int(self._thread.call(self._client.min_offset, topic, queue_id, broker=broker))

    def max_offset(self, topic: str, queue_id: int, *, broker: str | None = None) -> int:
        """The offset the next message will get."""
        return int(self._thread.call(self._client.max_offset, topic, queue_id, broker=broker))

    def search_offset(
        self, topic: str, queue_id: int, at: datetime, *, broker: str | None = None
    ) -> int:
        """The first offset stored at or after *at*."""
        return int(
            self._thread.call(self._client.search_offset, topic, queue_id, at, broker=broker)
        )

    def committed_offset(
        self, group: str, topic: str, queue_id: int, *, broker: str | None = None
    ) -> int | None:
        """Where *group* goes on in a queue; None if it never committed an offset there."""
        offset: int | None = self._thread.call(
            self._client.committed_offset, group, topic, queue_id, broker=broker
        )
        return offset

    def commit_offset(
        self, group: str, topic: str, queue_id: int, offset: int, *, broker: str | None = None
    ) -> None:
        """Let *group* go on at *offset*, forwards or backwards: for consumers that pull."""
        self._thread.call(self._client.commit_offset, group, topic, queue_id, offset, broker=broker)

    def reset_offset(self, group: str, topic: str, to: From) -> dict[Queue, int]:
        """Let *group* go on at a time, or at the first or the last message, in every queue."""
        found: dict[Queue, int] = self._thread.call(self._client.reset_offset, group, topic, to)
        return found


def connect(
    name_servers: str | Sequence[str] = "127.0.0.1:9876",
    *,
    producer_group: str = PRODUCER_GROUP,
    check: Check | None = None,
    trace: bool = False,
    client_id: str | None = None,
    timeout_s: float = retry.CALL_TIMEOUT_S,
    backend: Literal["trio", "asyncio"] = "trio",
) -> AbstractContextManager[Client]:
    """A client for as long as the `with` block lasts; its event loop runs in a thread.

    *check* is an ordinary function.  *backend* is the event loop.  The rest is as in the async
    client.
    """

    async def checked(message: Received) -> TransactionState:
        assert check is not None
        return await anyio.to_thread.run_sync(check, message)

    connecting = async_client.connect(
        name_servers,
        producer_group=producer_group,
        check=None if check is None else checked,
        trace=trace,
        client_id=client_id,
        timeout_s=timeout_s,
    )
    return _Connected(connecting, backend)


class _Connected:
    """The thread, and the client in it."""

    def __init__(
        self, connecting: AbstractAsyncContextManager[async_client.Client], backend: str
    ) -> None:
        self._connecting = connecting
        self._backend = backend

    def __enter__(self) -> Client:
        with ExitStack() as stack:
            self._thread = LoopThread(self._backend)
            stack.callback(self._thread.end)
            client = stack.enter_context(self._thread.open(self._connecting))
            self._stack = stack.pop_all()
        return Client(self._thread, client)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if self._thread.forked:
            self._stack.pop_all()  # all of it is the parent's
            return None
        self._thread.ended = True
        return self._stack.__exit__(kind, error, trace)
