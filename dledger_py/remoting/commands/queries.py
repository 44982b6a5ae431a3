"""Finding single messages: by position or by key."""

from typing import Final

from attrs import frozen

from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Int32, Reply, Request, wire

BY_UNIQUE_KEY: Final = "U"
BY_TAG: Final = "T"
"""What `index_type` may be, besides "K" and nothing, which both mean by any key."""


@frozen(kw_only=True)
class QueryReply(Reply):
    """How far the index reaches; body: stored messages."""

    index_last_update_timestamp: int = 0
    index_last_update_phyoffset: int = 0


@frozen(kw_only=True)
class QueryMessage(Request[QueryReply]):
    """Messages with a key, newest first, by store time. Code 12."""

    code = RequestCode.QUERY_MESSAGE
    topic: str
    key: str
    max_num: Int32
    begin_timestamp: int
    end_timestamp: int
    by_unique_key: bool = wire("_UNIQUE_KEY_QUERY", default=False)
    index_type: str | None = None
    """What newer clients (5.5.0) send."""


@frozen(kw_only=True)
class ViewMessage(Request[None]):
    """The one message at a physical offset; body: the stored message. Code 33."""

    code = RequestCode.VIEW_MESSAGE_BY_ID
    offset: int
    topic: str | None = None
