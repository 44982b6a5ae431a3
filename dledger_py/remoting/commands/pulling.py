"""Reading messages of one queue, at once or by waiting for the first."""

from typing import Final

from attrs import define

from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Int32, Reply, Request, spelled

# sys_flag of a pull
COMMITS_OFFSET: Final = 1
MAY_SUSPEND: Final = 2
CARRIES_SUBSCRIPTION: Final = 4
CLASS_FILTER: Final = 8
LITE_PULL: Final = 16

# forbiddenType of a refusal with NO_PERMISSION
FORBIDDEN_BY_BROKER: Final = 1
FORBIDDEN_BY_GROUP: Final = 2
FORBIDDEN_BY_TOPIC: Final = 3
FORBIDDEN_BROADCASTING: Final = 4
FORBIDDEN_BY_SUBSCRIPTION: Final = 5


@define(kw_only=True)
class PullReply(Reply):
    """Where to go on; body: stored messages. All of the first four are always filled: Java unboxes
    them without a look, so an omission becomes a NullPointerException and a 3 s stall."""

    next_begin_offset: int
    min_offset: int
    max_offset: int
    suggest_which_broker_id: int = 0
    offset_delta: int | None = None
    topic_sys_flag: Int32 | None = None
    group_sys_flag: Int32 | None = None
    forbidden_type: Int32 | None = None


@define(kw_only=True)
class PullMessage(Request[PullReply]):
    """Read up to `max_msg_nums` messages, or wait for the first. Code 11, or 361 (lite pull)."""

    code = RequestCode.PULL_MESSAGE
    consumer_group: str
    topic: str
    queue_id: Int32
    queue_offset: int  # the first logical offset wanted
    max_msg_nums: Int32
    sys_flag: Int32 = 0
    commit_offset: int = 0  # counts only with COMMITS_OFFSET
    suspend_timeout_millis: int = 0  # how long the broker may hold the request
    subscription: str | None = None
    sub_version: int = 0
    expression_type: str | None = None  # null and "" mean TAG
    max_msg_bytes: Int32 | None = None
    request_source: Int32 | None = None
    proxy_froward_client_id: str | None = None


spelled(PullMessage, RequestCode.LITE_PULL_MESSAGE)
