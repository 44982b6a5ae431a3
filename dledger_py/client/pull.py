"""Pull access: read any queue from any offset, without a group's heartbeat, balance or commits."""

from datetime import datetime
from enum import Enum

from attrs import frozen

from dledger_py.client.asking import Asker
from dledger_py.client.errors import (
    MalformedAnswer,
    ResponseError,
    ambiguous_queue,
    no_such_queue,
)
from dledger_py.client.messages import Message, as_message
from dledger_py.client.queues import Queue
from dledger_py.client.routes import Routes
from dledger_py.client.subscriptions import From, Selection, Sql
from dledger_py.remoting.commands.heartbeats import SQL_EXPRESSION, TAG_EXPRESSION
from dledger_py.remoting.commands.json_bodies import MalformedBody, decode_body
from dledger_py.remoting.commands.offsets import (
    GetMaxOffset,
    GetMinOffset,
    QueryConsumerOffset,
    SearchOffset,
    UpdateConsumerOffset,
)
from dledger_py.remoting.commands.pulling import (
    CARRIES_SUBSCRIPTION,
    MAY_SUSPEND,
    PullMessage,
    PullReply,
)
from dledger_py.remoting.commands.resets import OffsetsByQueue, ResetOffsets
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.message import MalformedRecord, Record, decode_records

PULL_CODES = (
    ResponseCode.SUCCESS,
    ResponseCode.PULL_NOT_FOUND,
    ResponseCode.PULL_RETRY_IMMEDIATELY,
    ResponseCode.PULL_OFFSET_MOVED,
)
"""The answers to a pull that say where to go on."""

HELD_SLACK_S = 7.0
"""What a held pull gets on top of its waiting time: Java's brokers hold up to 5 s longer."""


class PullStatus(Enum):
    """What a pull found."""

    FOUND = "messages"
    NOTHING_NEW = "the end of the queue"
    NO_MATCH = "messages, but none that the filter lets through"
    OFFSET_MOVED = "the offset is not in the queue; `next_offset` is"


_STATUSES = dict(zip(PULL_CODES, PullStatus, strict=True))


@frozen(kw_only=True)
class PullResult:
    """One look into a queue."""

    status: PullStatus
    messages: tuple[Message, ...]
    next_offset: int
    """Where to go on."""

    min_offset: int
    max_offset: int
    """The offset the next message will get."""


class Puller:
    """Reads queues by offset."""

    def __init__(self, routes: Routes, asker: Asker) -> None:
        self._routes = routes
        self._asker = asker

    async def queues(self, topic: str) -> tuple[Queue, ...]:
        """The queues of *topic* that can be read."""
        return (await self._routes.get(topic)).read_queues

    async def find(self, topic: str, queue_id: int, broker: str | None) -> Queue:
        """The queue called that.  **Raises** NoQueue if there is none, or more than one."""
        for fresh in (False, True):
            route = await self._routes.get(topic)
            if fresh:
                route = await self._routes.refresh(topic, route)
            found = [
                queue
                for queue in route.read_queues
                if queue.queue_id == queue_id and broker in (None, queue.broker)
            ]
            if len(found) == 1:
                return found[0]
        if found:
            raise ambiguous_queue(topic, queue_id, found)
        count = 1 + max((queue.queue_id for queue in route.read_queues), default=-1)
        raise no_such_queue(topic, queue_id, count)

    async def pull(
        self,
        queue: Queue,
        offset: int,
        *,
        group: str,
        max_messages: int,
        tags: Selection,
        wait_s: float,
        timeout_s: float,
    ) -> PullResult:
        """Messages of *queue* from *offset* on, at most as many as the broker gives at once."""
        request = pull_request(
            queue, offset, group=group, max_messages=max_messages, wanted=tags, wait_s=wait_s
        )
        if wait_s:
            reply = await self._asker.once(queue, request, wait_s + HELD_SLACK_S, PULL_CODES)
        else:
            reply = await self._asker.ask(queue, request, timeout_s, PULL_CODES)
        return PullResult(
            status=_STATUSES[ResponseCode(reply.code)],
            messages=tuple(as_message(record, queue) for record in records(queue, reply.body)),
            next_offset=reply.header.next_begin_offset,
            min_offset=reply.header.min_offset,
            max_offset=reply.header.max_offset,
        )

    async def min_offset(self, queue: Queue, timeout_s: float) -> int:
        """The first offset that is still there."""
        request = GetMinOffset(topic=queue.topic, queue_id=queue.queue_id)
        return (await self._asker.ask(queue, request, timeout_s)).header.offset

    async def max_offset(self, queue: Queue, timeout_s: float) -> int:
        """The offset the next message will get."""
        request = GetMaxOffset(topic=queue.topic, queue_id=queue.queue_id)
        return (await self._asker.ask(queue, request, timeout_s)).header.offset

    async def search_offset(self, queue: Queue, at: datetime, timeout_s: float) -> int:
        """The first offset stored at or after *at*; the next one if there is none."""
        request = SearchOffset(
            topic=queue.topic, queue_id=queue.queue_id, timestamp=as_timestamp_ms(at)
        )
        return (await self._asker.ask(queue, request, timeout_s)).header.offset

    async def committed_offset(self, queue: Queue, group: str, timeout_s: float) -> int | None:
        """Where *group* goes on in *queue*; None if it never committed an offset there."""
        request = QueryConsumerOffset(
            consumer_group=group,
            topic=queue.topic,
            queue_id=queue.queue_id,
            set_zero_if_not_found=False,
        )
        try:
            return (await self._asker.ask(queue, request, timeout_s)).header.offset
        except ResponseError as error:
            if error.code == ResponseCode.QUERY_NOT_FOUND:
                return None
            raise

    async def commit_offset(self, queue: Queue, group: str, offset: int, timeout_s: float) -> None:
        """Let *group* go on at *offset*, wherever it stood before."""
        request = UpdateConsumerOffset(
            consumer_group=group,
            topic=queue.topic,
            queue_id=queue.queue_id,
            commit_offset=offset,
        )
        await self._asker.ask(queue, request, timeout_s)

    async def reset_offset(
        self, group: str, topic: str, to: From, timeout_s: float
    ) -> dict[Queue, int]:
        """Let *group* go on there, in every queue of *topic*."""
        at_ms = as_timestamp_ms(to) if isinstance(to, datetime) else {"first": 0, "last": -1}[to]
        route = await self._routes.get(topic)
        found: dict[Queue, int] = {}
        for queue in {queue.broker: queue for queue in route.read_queues}.values():
            request = ResetOffsets(group=group, topic=topic, timestamp=at_ms, is_force=True)
            reply = await self._asker.ask(queue, request, timeout_s)
            try:
                table = decode_body(OffsetsByQueue, reply.body).offset_table
            except MalformedBody as error:
                raise MalformedAnswer(f"the broker of {queue}", str(error)) from error
            found |= {
                Queue(each.topic, each.broker_name, each.queue_id): offset
                for each, offset in table.items()
            }
        return found


def pull_request(
    queue: Queue, offset: int, *, group: str, max_messages: int, wanted: Selection, wait_s: float
) -> PullMessage:
    """A pull that brings its subscription along, so that a broker which has not heard this
    client's heartbeat yet (it may have been elected a moment ago) can answer."""
    return PullMessage(
        consumer_group=group,
        topic=queue.topic,
        queue_id=queue.queue_id,
        queue_offset=offset,
        max_msg_nums=max_messages,
        sys_flag=CARRIES_SUBSCRIPTION | (MAY_SUSPEND if wait_s else 0),
        suspend_timeout_millis=int(wait_s * 1000),
        subscription=wanted.expression if isinstance(wanted, Sql) else wanted,
        expression_type=SQL_EXPRESSION if isinstance(wanted, Sql) else TAG_EXPRESSION,
    )


def records(queue: Queue, body: bytes) -> list[Record]:
    """The records in a pull's *body*."""
    try:
        return decode_records(body)
    except MalformedRecord as error:
        raise MalformedAnswer(f"the broker of {queue}", str(error)) from error


def as_timestamp_ms(at: datetime) -> int:
    """*at* as the protocol's timestamp."""
    if at.tzinfo is None:
        raise ValueError(f"time {at}: one with a time zone is expected")
    return int(at.timestamp() * 1000)


__all__ = ["PullReply", "PullResult", "PullStatus", "Puller"]
