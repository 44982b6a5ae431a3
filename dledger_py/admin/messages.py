"""Single messages: found by id or key, who has consumed one, and what clients traced of it.

Every broker group that has the topic is asked. A message is named by its offset message id, which
says where it lies in one group's log, or by the unique id its sender gave it; both may look alike,
so an id counts as the former only where it names a member that is registered.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final

from attrs import frozen

from dledger_py.admin.admin import Admin
from dledger_py.admin.asking import decoded, side_by_side, speaker_of
from dledger_py.admin.traces import Trace, trace_of
from dledger_py.client.errors import (
    ClientError,
    MalformedAnswer,
    NoRoute,
    ResponseError,
    UnsupportedCompression,
)
from dledger_py.client.messages import Message, as_message
from dledger_py.client.queues import Queue
from dledger_py.remoting.commands.heartbeats import ConsumeType, MessageModel, SubscriptionData
from dledger_py.remoting.commands.operations import (
    GetConsumerConnections,
    GetConsumeStats,
    QueryTopicGroups,
)
from dledger_py.remoting.commands.queries import QueryMessage, ViewMessage
from dledger_py.remoting.commands.routes import BrokerData
from dledger_py.remoting.commands.statistics import (
    ConsumerConnections,
    ConsumeStats,
    GroupList,
    MessageQueue,
)
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.message import (
    MalformedRecord,
    decode_records,
    parse_offset_message_id,
)

TRACE_TOPIC: Final = "RMQ_SYS_TRACE_TOPIC"

MESSAGES_MAX: Final = 64
"""Of one group, by one question; brokers give no more."""

FOR_EVER_MS: Final = 2**63 - 1
LOG_POSITION_MAX: Final = 2**63 - 1


class Standing(Enum):
    """Where a consumer group stands with one message; the names are mqadmin's."""

    CONSUMED = "it has gone past it"
    CONSUMED_BUT_FILTERED = "it has gone past it, and its filter does not want it"
    NOT_CONSUME_YET = "it is online, and has not come there yet"
    NOT_ONLINE = "nobody consumes, and it has not come there yet"
    CONSUME_BROADCASTING = "each consumer has an offset of its own"
    PULL = "it pulls, and keeps its offsets where it likes"
    UNKNOWN = "its broker did not tell"


@frozen(kw_only=True)
class Track:
    """One consumer group and one message."""

    group: str
    standing: Standing
    detail: str = ""


async def by_key(
    admin: Admin,
    topic: str,
    key: str,
    *,
    unique: bool = False,
    begin_ms: int = 0,
    end_ms: int = FOR_EVER_MS,
    most: int = MESSAGES_MAX,
) -> tuple[Message, ...]:
    """The messages of *topic* with this key, or this unique id, the newest first; none is no error.

    The times are store times, both ends included.
    """
    request = QueryMessage(
        topic=topic,
        key=key,
        max_num=most,
        begin_timestamp=begin_ms,
        end_timestamp=end_ms,
        by_unique_key=unique,
    )
    route = await admin.topic_route(topic)

    async def ask(group: BrokerData) -> list[Message]:
        address = speaker_of(group)
        try:
            reply = await admin.ask(address, request)
        except ResponseError as error:
            if error.code == ResponseCode.QUERY_NOT_FOUND:
                return []
            raise
        return _messages(reply.body, group.broker_name, address)

    found = [each for several in await side_by_side(route.broker_datas, ask) for each in several]
    found.sort(key=lambda message: message.stored_at, reverse=True)
    return tuple(found[:most])


async def by_id(admin: Admin, topic: str, message_id: str) -> tuple[Message, ...]:
    """The message with this id of either kind; none if there is none. More than one where a sender
    tried again, or several groups hold one of this id."""
    group, position = await place_of(admin, message_id)
    if group is None:
        return await by_key(admin, topic, message_id, unique=True)
    failure: ClientError | None = None
    missing = False
    for _, address in sorted(group.broker_addrs.items()):  # the leader first: it has it soonest
        try:
            reply = await admin.ask(address, ViewMessage(offset=position, topic=topic))
        except ResponseError as error:
            if error.code != ResponseCode.SYSTEM_ERROR:
                raise
            missing = True  # or this member's log is damaged there
        except ClientError as error:
            failure = failure or error
        else:
            return tuple(_messages(reply.body, group.broker_name, address))
    if failure is not None and not missing:
        raise failure
    return ()


async def tracks(admin: Admin, message: Message) -> tuple[Track, ...]:
    """Where each consumer group of the message's topic stands with it, by name."""
    broker, topic = message.queue.broker, message.queue.topic
    route = await admin.topic_route(topic)
    found = [group for group in route.broker_datas if group.broker_name == broker]
    if not found:
        raise NoRoute(topic, f"it has no broker group {broker!r} now")
    address = speaker_of(found[0])
    reply = await admin.ask(address, QueryTopicGroups(topic=topic))
    groups = decoded(GroupList, reply.body, address).group_list

    async def ask(group: str) -> Track:
        try:
            return await _track(admin, found[0], message, group)
        except ClientError as error:
            return Track(group=group, standing=Standing.UNKNOWN, detail=str(error))

    return await side_by_side(sorted(groups), ask)


async def trace(
    admin: Admin,
    message_id: str,
    *,
    topic: str = TRACE_TOPIC,
    begin_ms: int = 0,
    end_ms: int = FOR_EVER_MS,
) -> Trace:
    """What clients traced of the message with this unique id. **Raises** NoRoute if there is no
    such trace topic."""
    found = await by_key(admin, topic, message_id, begin_ms=begin_ms, end_ms=end_ms)
    bodies = []
    for each in reversed(found):
        try:
            bodies.append(each.body)
        except UnsupportedCompression:
            bodies.append(each.stored_body)  # counted as what cannot be read
    return trace_of(message_id, bodies)


async def place_of(admin: Admin, message_id: str) -> tuple[BrokerData | None, int]:
    """The group and the log position that an offset message id names; no group for another id."""
    try:
        host, port, position = parse_offset_message_id(message_id)
    except MalformedRecord:
        return None, 0
    if position > LOG_POSITION_MAX:
        return None, 0
    address = f"{host}:{port}"
    for group in (await admin.cluster_info()).broker_addr_table.values():
        if address in group.broker_addrs.values():
            return group, position
    return None, 0


async def _track(admin: Admin, group_of: BrokerData, message: Message, group: str) -> Track:
    queue = MessageQueue(
        topic=message.queue.topic,
        broker_name=message.queue.broker,
        queue_id=message.queue.queue_id,
    )
    address = speaker_of(group_of)
    reply = await admin.ask(address, GetConsumeStats(consumer_group=group, topic=queue.topic))
    progress = decoded(ConsumeStats, reply.body, address).offset_table.get(queue)
    online = await _connected(admin, group_of.broker_addrs.values(), group)
    subscription = online.subscription_table.get(queue.topic) if online else None
    if progress is not None and progress.consumer_offset > message.queue_offset:
        wanted = subscription is None or _wants(subscription, message)
        return Track(
            group=group,
            standing=Standing.CONSUMED if wanted else Standing.CONSUMED_BUT_FILTERED,
            detail=f"offset {progress.consumer_offset} in its queue",
        )
    if online is None:
        standing = Standing.NOT_ONLINE
    elif online.message_model is MessageModel.BROADCASTING:
        standing = Standing.CONSUME_BROADCASTING
    elif online.consume_type is ConsumeType.CONSUME_ACTIVELY:
        standing = Standing.PULL
    else:
        standing = Standing.NOT_CONSUME_YET
    offset = progress.consumer_offset if progress is not None else 0
    behind = message.queue_offset - offset
    return Track(group=group, standing=standing, detail=f"{behind} messages before it in its queue")


async def _connected(
    admin: Admin, addresses: Iterable[str], group: str
) -> ConsumerConnections | None:
    """What a member says of the group's consumers; None if none of them knows any."""
    for address in addresses:
        try:
            reply = await admin.ask(address, GetConsumerConnections(consumer_group=group))
        except ResponseError as error:
            if error.code != ResponseCode.CONSUMER_NOT_ONLINE:
                raise
        except ClientError:
            continue
        else:
            return decoded(ConsumerConnections, reply.body, address)
    return None


def _wants(subscription: SubscriptionData, message: Message) -> bool:
    """Whether tags let it through; of an SQL92 expression that is not known here."""
    tags = subscription.tags_set
    return not tags or subscription.expression_type != "TAG" or message.tag in tags


def _messages(body: bytes, broker: str, address: str) -> list[Message]:
    try:
        found = decode_records(body)
    except MalformedRecord as error:
        raise MalformedAnswer(address, str(error)) from error
    return [as_message(each, Queue(each.topic, broker, each.queue_id)) for each in found]
