"""Bodies of what operators ask: offsets, lags, connections, tables of text.

Maps by queue are written with quoted JSON as keys, which mqadmin and the dashboard read as well
as fastjson's own inline objects.
"""

from collections.abc import Mapping

from attrs import Factory, frozen

from dledger_py.remoting.commands.heartbeats import (
    ConsumeFromWhere,
    ConsumeType,
    MessageModel,
    SubscriptionData,
)
from dledger_py.remoting.wire.schema import wire


@frozen(kw_only=True, order=True)
class MessageQueue:
    """One queue of one broker group."""

    topic: str
    broker_name: str
    queue_id: int


@frozen(kw_only=True)
class KeyValueTable:
    """Text by name: the broker's running state, a namespace of settings."""

    table: Mapping[str, str] = Factory(dict)


@frozen(kw_only=True)
class QueueOffsets:
    """One queue in TopicStats."""

    min_offset: int
    max_offset: int
    last_update_timestamp: int = 0  # store time of the last message, ms; 0 if the queue is empty


@frozen(kw_only=True)
class TopicStats:
    """The answer of GetTopicStats."""

    offset_table: Mapping[MessageQueue, QueueOffsets] = Factory(dict)
    topic_put_tps: float = 0.0


@frozen(kw_only=True)
class QueueProgress:
    """One queue in ConsumeStats."""

    broker_offset: int
    consumer_offset: int
    pull_offset: int = 0
    last_timestamp: int = 0  # store time of the last consumed message, ms


@frozen(kw_only=True)
class ConsumeStats:
    """The answer of GetConsumeStats."""

    offset_table: Mapping[MessageQueue, QueueProgress] = Factory(dict)
    consume_tps: float = 0.0


@frozen(kw_only=True)
class ClientConnection:
    """One connected client; `client_addr` is host:port."""

    client_id: str
    client_addr: str
    language: str
    version: int


@frozen(kw_only=True)
class ProducerConnections:
    """The answer of GetProducerConnections."""

    connection_set: tuple[ClientConnection, ...] = ()


@frozen(kw_only=True)
class ProducerInfo:
    """One connected producer; the address is host:port, the time that of its last heartbeat."""

    client_id: str
    remote_address: str = wire("remoteIP")
    language: str
    version: int
    last_update_timestamp: int


@frozen(kw_only=True)
class ProducerTable:
    """The answer of GetAllProducers: producers by group."""

    data: Mapping[str, tuple[ProducerInfo, ...]] = Factory(dict)


@frozen(kw_only=True)
class ConsumerConnections:
    """The answer of GetConsumerConnections."""

    connection_set: tuple[ClientConnection, ...] = ()
    consume_type: ConsumeType = ConsumeType.CONSUME_PASSIVELY
    message_model: MessageModel = MessageModel.CLUSTERING
    consume_from_where: ConsumeFromWhere = ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
    subscription_table: Mapping[str, SubscriptionData] = Factory(dict)


@frozen(kw_only=True)
class GroupList:
    """The answer of QueryTopicGroups."""

    group_list: tuple[str, ...] = ()


@frozen(kw_only=True)
class Sum:
    """What passed in a span: its sum, how much a second. Calls are not counted, so `avgpt`, the
    mean of a call, is always 0."""

    sum: int
    tps: float
    avgpt: float = 0.0


@frozen(kw_only=True)
class StatisticReply:
    """The answer of ViewStatistic: the last minute, hour and day."""

    stats_minute: Sum
    stats_hour: Sum
    stats_day: Sum
