"""Positions in queues: committed by consumers, or asked of a queue."""

from attrs import frozen

from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Int32, Reply, Request


@frozen(kw_only=True)
class OffsetReply(Reply):
    offset: int


@frozen(kw_only=True)
class QueryConsumerOffset(Request[OffsetReply]):
    """Where a group goes on in a queue. Code 14."""

    code = RequestCode.QUERY_CONSUMER_OFFSET
    consumer_group: str
    topic: str
    queue_id: Int32
    set_zero_if_not_found: bool | None = None  # only an explicit false forbids rule "young queue"


@frozen(kw_only=True)
class UpdateConsumerOffset(Request[None]):
    """Remember where a group goes on: the next offset to consume. Code 15."""

    code = RequestCode.UPDATE_CONSUMER_OFFSET
    consumer_group: str
    topic: str
    queue_id: Int32
    commit_offset: int


@frozen(kw_only=True)
class SearchOffset(Request[OffsetReply]):
    """The first offset stored at or after a time, or the last before it. Code 29."""

    code = RequestCode.SEARCH_OFFSET_BY_TIMESTAMP
    topic: str
    queue_id: Int32
    timestamp: int
    boundary_type: str = "LOWER"  # LOWER or UPPER, in any case


@frozen(kw_only=True)
class GetMaxOffset(Request[OffsetReply]):
    """The offset the next message of a queue will get. Code 30."""

    code = RequestCode.GET_MAX_OFFSET
    topic: str
    queue_id: Int32
    committed: bool = True


@frozen(kw_only=True)
class GetMinOffset(Request[OffsetReply]):
    """The first offset still there. Code 31."""

    code = RequestCode.GET_MIN_OFFSET
    topic: str
    queue_id: Int32


@frozen(kw_only=True)
class TimestampReply(Reply):
    timestamp: int  # ms; -1 if there is no message


@frozen(kw_only=True)
class GetEarliestTime(Request[TimestampReply]):
    """When the oldest message of a queue was stored. Code 32."""

    code = RequestCode.GET_EARLIEST_MSG_STORETIME
    topic: str
    queue_id: Int32
