"""What operators ask about groups, and the answers' bodies: positions, times, what is left to do.

Connections and the progress of one group are elsewhere (`operations`, `statistics`).
"""

from collections.abc import Mapping

from attrs import Factory, frozen

from dledger_py.remoting.commands.heartbeats import SubscriptionData
from dledger_py.remoting.commands.statistics import ConsumeStats, MessageQueue
from dledger_py.remoting.commands.topics import DataVersion
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Int32, Request


@frozen(kw_only=True)
class GetAllOffsets(Request[None]):
    """Every offset of every group; body of the answer: OffsetTable. Code 43."""

    code = RequestCode.GET_ALL_CONSUMER_OFFSET


@frozen(kw_only=True)
class OffsetTable:
    """Offsets by `topic@group` and queue id."""

    data_version: DataVersion = DataVersion()
    offset_table: Mapping[str, Mapping[int, int]] = Factory(dict)


@frozen(kw_only=True)
class GetDelayOffsets(Request[None]):
    """How far the queues of the levels of delay were delivered; body of the answer: DelayOffsets.
    Code 45."""

    code = RequestCode.GET_ALL_DELAY_OFFSET


@frozen(kw_only=True)
class DelayOffsets:
    """The next offset by level, from 1 on, of those that were ever used."""

    data_version: DataVersion = DataVersion()
    offset_table: Mapping[int, int] = Factory(dict)


@frozen(kw_only=True)
class QueryGroupTopics(Request[None]):
    """The topics a group has offsets of; body of the answer: `routes.TopicList`. Code 343."""

    code = RequestCode.QUERY_TOPICS_BY_CONSUMER
    group: str


@frozen(kw_only=True)
class QuerySubscription(Request[None]):
    """What a group's connected consumers want of a topic; body of the answer: GroupSubscription.
    Code 345."""

    code = RequestCode.QUERY_SUBSCRIPTION_BY_CONSUMER
    group: str
    topic: str = ""


@frozen(kw_only=True)
class GroupSubscription:
    """Without `subscription_data` if no connected consumer subscribes."""

    group: str
    topic: str
    subscription_data: SubscriptionData | None = None


@frozen(kw_only=True)
class QueryTimeSpans(Request[None]):
    """When messages were stored that a group has consumed; body of the answer: TimeSpans.
    Code 303."""

    code = RequestCode.QUERY_CONSUME_TIME_SPAN
    topic: str
    group: str


@frozen(kw_only=True)
class TimeSpan:
    """One queue. Store times in ms, -1 where there is no message: of the oldest message, of the
    newest, of the last consumed; and how long the next one has waited by now."""

    message_queue: MessageQueue
    min_time_stamp: int
    max_time_stamp: int
    consume_time_stamp: int
    delay_time: int = 0


@frozen(kw_only=True)
class TimeSpans:
    """The answer of QueryTimeSpans."""

    consume_time_span_set: tuple[TimeSpan, ...] = ()


@frozen(kw_only=True)
class QueryCorrectionOffsets(Request[None]):
    """The least any group has consumed of a topic, where `compare_group` has an offset; body of
    the answer: CorrectionOffsets. Code 308.

    `filter_groups`, joined by commas, do not count.
    """

    code = RequestCode.QUERY_CORRECTION_OFFSET
    compare_group: str
    topic: str
    filter_groups: str = ""


@frozen(kw_only=True)
class CorrectionOffsets:
    """Offsets by queue id."""

    correction_offsets: Mapping[int, int] = Factory(dict)


@frozen(kw_only=True)
class GetAllConsumeStats(Request[None]):
    """How far every group is behind; body of the answer: AllConsumeStats. Code 317."""

    code = RequestCode.GET_BROKER_CONSUME_STATS
    is_order: bool = False  # only topics that are ordered


@frozen(kw_only=True)
class AllConsumeStats:
    """One map for each group, with its name; one entry in it for each topic."""

    broker_addr: str
    consume_stats_list: tuple[Mapping[str, tuple[ConsumeStats, ...]], ...] = ()
    total_diff: int = 0
    total_inflight_diff: int = 0


@frozen(kw_only=True)
class QueryConsumeQueue(Request[None]):
    """Entries of a queue's index from offset `index` on; body of the answer: QueueEntries.
    Code 321."""

    code = RequestCode.QUERY_CONSUME_QUEUE
    topic: str
    queue_id: Int32
    index: int
    count: Int32
    consumer_group: str | None = None


@frozen(kw_only=True)
class QueueEntry:
    """Where one message lies in the log, its size there, the hash of its tag."""

    physic_offset: int
    physic_size: int
    tags_code: int
    eval: bool = False


@frozen(kw_only=True)
class QueueEntries:
    """The answer of QueryConsumeQueue; `filter_data` says it when the group is not online."""

    min_queue_index: int
    max_queue_index: int
    queue_data: tuple[QueueEntry, ...] = ()
    subscription_data: SubscriptionData | None = None
    filter_data: str | None = None
