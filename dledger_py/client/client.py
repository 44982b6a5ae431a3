"""The client: everything a user does with a message queue, from one `connect`.

    async with connect("127.0.0.1:9876") as mq:
        receipt = await mq.send("Orders", b"...", tag="paid", keys=["o-1"], group="o-1")

One client has one connection per server, shared by all its tasks, and lives in the task group of
its `async with` block: nothing runs before it or after it.  Guarantees are in docs/client.md.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Literal

import anyio
import msgspec

from dledger_py.client import retry
from dledger_py.client._tasks import Starter, open_tasks
from dledger_py.client.asking import Asker
from dledger_py.client.connection import Connection
from dledger_py.client.consumer import Consumer, open_consumer
from dledger_py.client.errors import (
    NoReply,
    NoRoute,
    SendUncertain,
)
from dledger_py.client.members import Members
from dledger_py.client.membership import Membership
from dledger_py.client.messages import (
    BODY_BYTES_MAX,
    Message,
    Outgoing,
    Receipt,
    checked_body,
    checked_topic,
    delay_properties,
    render_properties,
    within,
)
from dledger_py.client.pool import Pool, reach_one
from dledger_py.client.popping import PopConsumer, open_pop_consumer
from dledger_py.client.producer import Producer, Sealed, receipt_of
from dledger_py.client.pull import Puller, PullResult
from dledger_py.client.queues import Queue
from dledger_py.client.recalling import recall
from dledger_py.client.replying import Replier, Requests
from dledger_py.client.routes import Routes, parse_name_servers
from dledger_py.client.sharing import Services
from dledger_py.client.subscriptions import (
    From,
    Manner,
    Selection,
    checked_group,
    checked_place,
    parse_subscriptions,
)
from dledger_py.client.surroundings import HERE, Surroundings
from dledger_py.client.tracing import PRODUCER_GROUP as TRACE_GROUP
from dledger_py.client.tracing import TracedProducer, Tracer
from dledger_py.client.transactions import Check, Transaction, Transactions
from dledger_py.client.unique_ids import UniqueIds
from dledger_py.remoting.wire.codes import RequestCode, ResponseCode
from dledger_py.remoting.wire.frame import Frame
from dledger_py.remoting.wire.message import BatchItem, encode_batch_body
from dledger_py.remoting.wire.properties import CORRELATION_ID

PRODUCER_GROUP = "python-producer"

PULL_GROUP = "DEFAULT_CONSUMER"
"""The group pulls are made under: one of those that exist without being created."""

INVISIBLE_S_MAX = 300.0
"""How long a popped message may be one member's; Java's client allows as much."""

_render = msgspec.json.encode


class Client:
    """A connected client.  Made by `connect`."""

    def __init__(
        self,
        tasks: Starter,
        pool: Pool,
        routes: Routes,
        *,
        client_id: str,
        address: str,
        producer_group: str,
        check: Check | None,
        trace: bool,
        timeout_s: float,
        surroundings: Surroundings,
    ) -> None:
        members = Members()
        asker = Asker(pool, routes, members)
        self.client_id = client_id
        self._timeout_s = timeout_s
        self._now_s = surroundings.now_s
        self._ids = UniqueIds(address, surroundings)
        self._tracer: Tracer | None = None
        sending = (pool, routes, members)
        if trace:
            untraced = Producer(*sending, TRACE_GROUP, self._now_s)
            self._tracer = Tracer(untraced, producer_group, self._ids.make, self._now_s)
            tasks.start_soon(self._tracer.run, name="message trace")
            self._producer: Producer = TracedProducer(*sending, producer_group, self._now_s)
            self._producer.tracer = self._tracer
        else:
            self._producer = Producer(*sending, producer_group, self._now_s)
        self._puller = Puller(routes, asker)
        self._membership = Membership(pool, routes, client_id, producer_group)
        replier = Replier(routes, asker, producer_group, self._ids.make, self._now_s)
        self._services = Services(
            pool, routes, asker, self._membership, replier, timeout_s, self._tracer
        )
        self._requests = Requests(routes, self._membership)
        self._transactions = Transactions(
            tasks, self._producer, asker, self._membership, producer_group, check, self._tracer
        )
        if check is not None:
            self._membership.be_known_everywhere()

    def _serve(self, connection: Connection, frame: Frame) -> None:
        """A server asks or tells something."""
        match frame.code:
            case RequestCode.NOTIFY_CONSUMER_IDS_CHANGED:
                self._membership.changed(frame.fields.get("consumerGroup", ""))
            case RequestCode.CHECK_TRANSACTION_STATE:
                self._transactions.asked(connection, frame)
            case RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT:
                self._requests.arrived(connection, frame)
            case _:
                remark = f" request type {frame.code} not supported"
                code = ResponseCode.REQUEST_CODE_NOT_SUPPORTED
                connection.answer_nowait(frame, code, remark=remark)

    # --- sending ---------------------------------------------------------------------------------

    async def send(
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
        """Store one message and return where it is.

        *group* is a FIFO key: messages of one key go to one queue, in the order of sends that
        waited for each other.  *queue* names a queue outright.  With *delay*, consumers see the
        message after that span, or at that time; until then `recall` takes it back.

        **Durability**: on return the broker has acknowledged it; with the default settings of our
        broker it is on disk at a majority.  **Raises** SendRefused: it was not stored.
        SendUncertain: it may have been stored.  ValueError: it cannot be sent at all.
        """
        unique_id = self._ids.make()
        if delay is not None:
            properties = {**(properties or {}), **delay_properties(delay)}
        sealed = Sealed(
            RequestCode.SEND_MESSAGE_V2,
            checked_topic(topic),
            unique_id,
            _render(render_properties(unique_id, tag, keys, group, properties)),
            checked_body(body),
            group,
            queue,
        )
        frame, stored_in = await self._producer.send(sealed, within(timeout_s, self._timeout_s))
        return receipt_of(sealed, frame, stored_in)

    async def recall(self, receipt: Receipt) -> None:
        """Take back a message that was sent with a delay and is not due yet.

        **Durability**: on return nobody will see it, whoever leads.  **Raises** ResponseError with
        code 604 if it is too late; ValueError if the message was not delayed.
        """
        await recall(receipt, self._services, self._timeout_s)

    async def send_batch(
        self,
        topic: str,
        messages: Sequence[bytes | Outgoing],
        *,
        group: str | None = None,
        queue: int | None = None,
        timeout_s: float | None = None,
    ) -> tuple[Receipt, ...]:
        """Store *messages* together, all or none, in one queue at consecutive offsets.

        **Raises** as `send`; ValueError if they are more than 4 MiB together, or none.
        """
        if not messages:
            raise ValueError("a batch of no messages: at least one is expected")
        items, ids = [], []
        for message in messages:
            outgoing = message if isinstance(message, Outgoing) else Outgoing(body=message)
            unique_id = self._ids.make()
            text = render_properties(
                unique_id, outgoing.tag, outgoing.keys, group, outgoing.properties
            )
            ids.append(unique_id)
            items.append(BatchItem(0, checked_body(outgoing.body), text.encode()))
        body = encode_batch_body(items)
        if len(body) > BODY_BYTES_MAX:
            raise ValueError(f"batch of {len(body)} bytes: at most {BODY_BYTES_MAX} fit")
        sealed = Sealed(
            RequestCode.SEND_BATCH_MESSAGE,
            checked_topic(topic),
            ids[0],
            _render(f"UNIQ_KEY\x01{ids[0]}\x02WAIT\x01true\x02"),
            body,
            group,
            queue,
        )
        frame, stored_in = await self._producer.send(sealed, within(timeout_s, self._timeout_s))
        first = receipt_of(sealed, frame, stored_in)
        offset_ids = first.offset_message_id.split(",")
        if len(offset_ids) != len(ids):
            raise SendUncertain(
                topic, ids[0], f"{len(offset_ids)} ids came for {len(ids)} messages"
            )
        return tuple(
            Receipt(
                message_id=unique_id,
                offset_message_id=offset_id,
                topic=topic,
                broker=first.broker,
                queue_id=first.queue_id,
                queue_offset=first.queue_offset + place,
                status=first.status,
            )
            for place, (unique_id, offset_id) in enumerate(zip(ids, offset_ids, strict=True))
        )

    async def send_oneway(
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
        """Write one message to the broker's connection; nobody knows whether it was stored.

        Returns its unique id.  **Raises** ClientError if there was no broker to write to.
        """
        sealed = self._sealed(topic, body, tag, keys, group, properties, queue)
        await self._producer.tell(sealed, within(timeout_s, self._timeout_s))
        return sealed.unique_id

    async def request(
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
        """Send a message, and wait for what one of its consumers replies (`Message.reply`).

        The reply comes by way of a broker and is stored nowhere.  *timeout_s* is for all of it.

        **Raises** NoReply: the request was stored, and nobody replied in time; it may have been
        handled.  And as `send`.
        """
        left_s = within(timeout_s, self._timeout_s)
        due = anyio.current_time() + left_s
        asking = self._requests.properties(left_s)
        given = {**(properties or {}), **asking}
        sealed = self._sealed(topic, body, tag, keys, group, given, queue)
        with anyio.move_on_after(left_s):
            with suppress(NoRoute):  # sending says it better
                await self._requests.be_known(topic)
        async with self._requests.expecting(asking[CORRELATION_ID]) as reply:
            await self._producer.send(sealed, due - anyio.current_time())
            with anyio.move_on_after(due - anyio.current_time()):
                return await reply.wait()
        raise NoReply(topic, sealed.unique_id, left_s)

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
    ) -> AbstractAsyncContextManager[Transaction]:
        """Send a message if, and only if, the block ends well.

        On entry the message is stored as *half*: no consumer sees it.  When the block ends, it is
        committed; when it raises, is cancelled, or called `roll_back()`, it is rolled back, and the
        error goes on.  *timeout_s* is the deadline of the entry and of the commit, each.

        When this process dies in between, or its word is lost, the broker asks (after 6 s, and then
        every 30 s): first whoever of the producer group is connected and remembers, then
        `connect(check=)`, which must find out whether the block's work was done; for that, give the
        message a key that the work knows too.

        **Raises** on entry as `send`: the block does not run, and what may have been stored is
        rolled back.  On exit CommitUncertain: the commit was not confirmed in time; it will be
        when the broker asks.  The work is done and the message will come, so undo nothing.
        """
        given = {**(properties or {}), **self._transactions.properties()}
        if delay is not None:
            given |= delay_properties(delay)
        sealed = self._sealed(topic, body, tag, keys, group, given, queue)
        return self._transactions.open(sealed, within(timeout_s, self._timeout_s))

    def _sealed(
        self,
        topic: str,
        body: bytes,
        tag: str | None,
        keys: Iterable[str],
        group: str | None,
        properties: Mapping[str, str] | None,
        queue: int | None,
    ) -> Sealed:
        """One message, ready to be sent.  `send` does this itself: a call costs it too much."""
        unique_id = self._ids.make()
        return Sealed(
            RequestCode.SEND_MESSAGE_V2,
            checked_topic(topic),
            unique_id,
            _render(render_properties(unique_id, tag, keys, group, properties)),
            checked_body(body),
            group,
            queue,
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
    ) -> AbstractAsyncContextManager[Consumer]:
        """Be a member of *group* for as long as the block lasts, and read what falls to it.

        *subscriptions* maps topics to tags ("a || b", "*" for all) or to `Sql("amount > 5")`.
        *concurrency* is how many messages may be handed out and not settled.  *from_* says where a
        queue is begun that the group has never committed an offset for.  A message that failed
        comes again up to *max_reconsume_times* (as the broker is told for the group, usually 16),
        and is a dead letter then.

        With *ordered*, the messages of a queue (of a FIFO key, then) are handed out one after the
        other, each when the one before was settled, and no other member reads that queue
        meanwhile.  What failed is tried again in its place, after 1 s, 2 s, ... 60 s or
        `retry_after`: without limit, unless *max_reconsume_times* is given.

        With *broadcast*, every member reads everything, from where *from_* says; the group has no
        offsets, and no retries at the broker.
        """
        checked_group(group)
        if max_reconsume_times is not None and max_reconsume_times < 0:
            raise ValueError(f"max_reconsume_times {max_reconsume_times}: 0 or more is expected")
        if concurrency < 1:
            raise ValueError(f"concurrency {concurrency}: at least 1 is expected")
        if ordered and broadcast:
            raise ValueError("ordered=True and broadcast=True: one of them is possible")
        checked_place(from_)
        return open_consumer(
            self._services,
            group,
            parse_subscriptions(subscriptions, checked_topic),
            Manner(
                concurrency=concurrency,
                from_=from_,
                max_reconsume_times=max_reconsume_times,
                ordered=ordered,
                broadcast=broadcast,
            ),
            version=int(self._now_s() * 1000),
        )

    def pop_consumer(
        self,
        group: str,
        subscriptions: Mapping[str, Selection] | Sequence[str] | str,
        *,
        concurrency: int = 16,
        from_: Literal["last", "first"] = "first",
        invisible_s: float = 60.0,
        ordered: bool = False,
    ) -> AbstractAsyncContextManager[PopConsumer]:
        """Take messages of whatever queue, each for *invisible_s*, for as long as the block lasts.

        Nothing is shared out, so members may be more than queues, and a slow one keeps nobody
        waiting.  What is not acknowledged in its time comes again, to whichever member.
        With *ordered* a queue rests while anything of it is out.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency {concurrency}: at least 1 is expected")
        if not 1 <= invisible_s <= INVISIBLE_S_MAX:
            raise ValueError(f"invisible_s {invisible_s}: 1 to {INVISIBLE_S_MAX} are expected")
        return open_pop_consumer(
            self._services,
            checked_group(group),
            parse_subscriptions(subscriptions, checked_topic),
            invisible_s=invisible_s,
            concurrency=concurrency,
            from_first=checked_place(from_) == "first",
            ordered=ordered,
            now_s=self._now_s,
        )

    # --- pulling ---------------------------------------------------------------------------------

    async def queues(self, topic: str) -> tuple[Queue, ...]:
        """The queues of *topic* that can be read.  **Raises** NoRoute if there is no such topic."""
        return await self._puller.queues(topic)

    async def pull(
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
        """Look into a queue from *offset* on; with *wait_s*, wait that long for a first message.

        *broker* names the broker group, where several have a queue of that number.
        """
        return await self._puller.pull(
            await self._puller.find(topic, queue_id, broker),
            offset,
            group=checked_group(group),
            max_messages=max_messages,
            tags=tags,
            wait_s=wait_s,
            timeout_s=within(timeout_s, self._timeout_s),
        )

    async def min_offset(self, topic: str, queue_id: int, *, broker: str | None = None) -> int:
        """The first offset that is still there."""
        queue = await self._puller.find(topic, queue_id, broker)
        return await self._puller.min_offset(queue, self._timeout_s)

    async def max_offset(self, topic: str, queue_id: int, *, broker: str | None = None) -> int:
        """The offset the next message will get."""
        queue = await self._puller.find(topic, queue_id, broker)
        return await self._puller.max_offset(queue, self._timeout_s)

    async def search_offset(
        self, topic: str, queue_id: int, at: datetime, *, broker: str | None = None
    ) -> int:
        """The first offset stored at or after *at*."""
        queue = await self._puller.find(topic, queue_id, broker)
        return await self._puller.search_offset(queue, at, self._timeout_s)

    async def committed_offset(
        self, group: str, topic: str, queue_id: int, *, broker: str | None = None
    ) -> int | None:
        """Where *group* goes on in a queue; None if it never committed an offset there.

        The answer is not older than any commit that was answered before this call.
        """
        queue = await self._puller.find(topic, queue_id, broker)
        return await self._puller.committed_offset(queue, checked_group(group), self._timeout_s)

    async def commit_offset(
        self, group: str, topic: str, queue_id: int, offset: int, *, broker: str | None = None
    ) -> None:
        """Let *group* go on at *offset*, forwards or backwards: for consumers that pull.

        **Durability**: on return it is as safe as an acknowledged message.  A group with connected
        consumers overwrites it with its own progress.
        """
        if offset < 0:
            raise ValueError(f"offset {offset}: 0 or more is expected")
        queue = await self._puller.find(topic, queue_id, broker)
        await self._puller.commit_offset(queue, checked_group(group), offset, self._timeout_s)

    async def reset_offset(self, group: str, topic: str, to: From) -> dict[Queue, int]:
        """Let *group* go on at a time, or at the first or the last message, in every queue.

        Members that are connected are moved by their next pull, and what they commit until then
        does not count.  Returns where each queue goes on.

        **Durability**: on return it is as safe as an acknowledged message.  **Raises**
        ResponseError with 26 if there is no such group.
        """
        return await self._puller.reset_offset(
            checked_group(group), checked_topic(topic), checked_place(to), self._timeout_s
        )


@asynccontextmanager
async def connect(
    name_servers: str | Sequence[str] = "127.0.0.1:9876",
    *,
    producer_group: str = PRODUCER_GROUP,
    check: Check | None = None,
    trace: bool = False,
    client_id: str | None = None,
    timeout_s: float = retry.CALL_TIMEOUT_S,
    surroundings: Surroundings = HERE,
) -> AsyncIterator[Client]:
    """A client for as long as the block lasts.

    *name_servers* is "host:port;host:port".  *timeout_s* is the default deadline of each call,
    and of finding a name server here.  *check* says what became of a transaction of
    *producer_group* that this client does not remember: see `transaction`.  With *trace*, what
    becomes of each message is told to RMQ_SYS_TRACE_TOPIC.  *surroundings* are other ones in
    simulations.

    **Raises** Unreachable if no name server can be reached in that time.
    """
    addresses = parse_name_servers(name_servers)
    checked_group(producer_group)
    if not within(timeout_s, retry.CALL_TIMEOUT_S) >= 0:  # NaN neither
        raise ValueError(f"timeout_s {timeout_s}: 0 or more seconds are expected")
    if check is not None and producer_group == PRODUCER_GROUP:
        raise ValueError(
            f"check= needs a producer_group= of its own: anybody may be in {PRODUCER_GROUP!r}, and "
            "every member is asked about the transactions of all"
        )
    made: list[Client] = []

    def on_request(connection: Connection, frame: Frame) -> None:
        for client in made:  # none yet while a name server is looked for
            client._serve(connection, frame)

    async with open_tasks() as tasks:
        pool = Pool(tasks, on_request, surroundings)
        first = await reach_one(pool, addresses, timeout_s)
        routes = Routes(pool, addresses)
        client = Client(
            tasks,
            pool,
            routes,
            client_id=client_id or _new_client_id(first.local_host, surroundings),
            address=first.local_host,
            producer_group=producer_group,
            check=check,
            trace=trace,
            timeout_s=timeout_s,
            surroundings=surroundings,
        )
        made.append(client)
        tasks.start_soon(routes.run, name="routes")
        tasks.start_soon(client._membership.run, name="heartbeats")
        try:
            yield client
        finally:
            if client._tracer is not None:
                await client._tracer.close()
            await pool.close()


def _new_client_id(local_host: str, surroundings: Surroundings) -> str:
    return f"{local_host}@{surroundings.pid()}#{surroundings.randbits(32):08x}"
