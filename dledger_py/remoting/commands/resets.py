"""Where a group goes on, decided by an operator: resets, and the copy of another group's offsets.

A reset is kept by the broker, and consumers learn of it by their next pull. The older way tells the
clients themselves, each in the form that it can read.
"""

from collections.abc import Mapping

from attrs import Factory, frozen

from dledger_py.remoting.commands.json_bodies import encode_body
from dledger_py.remoting.commands.statistics import MessageQueue
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Int32, Request


@frozen(kw_only=True)
class ResetOffsets(Request[None]):
    """Let a group go on from a point in time, or from an offset of one queue; body of the answer:
    OffsetsByQueue. Code 222.

    A negative `timestamp` means the end. Without `queue_id`, or with -1, every queue is meant, and
    `offset` does not count. `is_force` only matters for the older way: without it, no queue goes
    forward.
    """

    code = RequestCode.INVOKE_BROKER_TO_RESET_OFFSET
    group: str
    topic: str
    timestamp: int  # ms
    is_force: bool = False
    queue_id: Int32 = -1
    offset: int | None = None


@frozen(kw_only=True)
class ResetClientOffsets(Request[None]):
    """Server to client, one-way: go on from these offsets; body: OffsetsByQueue, in the form that
    `offsets_for` makes. Code 220."""

    code = RequestCode.RESET_CONSUMER_CLIENT_OFFSET
    group: str
    topic: str
    timestamp: int  # ms
    is_force: bool = False


@frozen(kw_only=True)
class OffsetsByQueue:
    """The offset of each queue."""

    offset_table: Mapping[MessageQueue, int] = Factory(dict)


@frozen(kw_only=True)
class QueueOffset:
    """One queue as the C++ client reads it."""

    topic: str
    broker_name: str
    queue_id: int
    offset: int


@frozen(kw_only=True)
class OffsetList:
    """OffsetsByQueue as the C++ client reads it."""

    offset_table: tuple[QueueOffset, ...] = ()


def offsets_for(language: str, offsets: Mapping[MessageQueue, int]) -> bytes:
    """OffsetsByQueue as clients of this language read it."""
    if language == "CPP":
        rows = tuple(
            QueueOffset(topic=q.topic, broker_name=q.broker_name, queue_id=q.queue_id, offset=o)
            for q, o in offsets.items()
        )
        return encode_body(OffsetList(offset_table=rows))
    return encode_body(OffsetsByQueue(offset_table=offsets))


@frozen(kw_only=True)
class CloneOffsets(Request[None]):
    """Let one group stand where another does: in one topic, or in all it has consumed. Code 314.

    Unless `offline`, topics are left out to which connected consumers of the source group do not
    subscribe.
    """

    code = RequestCode.CLONE_GROUP_OFFSET
    src_group: str
    dest_group: str
    topic: str = ""
    offline: bool = False
