"""Pop consumption: messages handed to one consumer for a while, and its handles to them.

A consumer asks a broker, not a queue, for messages; nobody else of its group gets them until the
time it asked for is over. It acknowledges each by its *handle*, a text that the broker makes of
where the message stands and when it was popped. Clients keep it as property `POP_CK` and never look
into it, but for the topic: where a retry is popped, the topic of the request that names the message
is the one for the group's retries.

Source: protocol page 08 §4; ExtraInfoUtil.java, MQClientAPIImpl.java (processPopResponse).
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Final

from attrs import frozen

from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Int32, Malformed, Reply, Request, wire

ANY_QUEUE: Final = -1
"""Queue id of a pop that takes messages of whatever queue the broker has of the topic."""

IN_ORDER: Final = 999
"""`revive_qid` of what is popped in order; anything else is in none."""

FROM_FIRST, FROM_LAST = 0, 1
"""`init_mode` of a pop: where a group begins that has never consumed a queue."""

NUMBER_MAX: Final = 2**63 - 1
"""Java's long. What handles and acknowledgements say ends in the log, whose numbers are no larger;
one that got there would stop whoever reads it."""

BATCH_BYTES_MAX: Final = 1024
"""Of the bits of one BatchAck: 8192 offsets; brokers give out 32 at a time."""


class Origin(Enum):
    """Which topic a popped message stands in, as handles and offsets name it."""

    TOPIC = "0"
    RETRY = "1"
    """`%RETRY%<group>_<topic>`."""
    RETRY_V2 = "2"
    """`%RETRY%<group>+<topic>`, of brokers that are set to it; ours never are."""


class MalformedHandle(Malformed):
    """A text that is no handle; the request was refused."""


@frozen(kw_only=True)
class Handle:
    """What a consumer acknowledges a popped message by."""

    first_offset: int
    """Of those that were popped of the queue together with the message."""
    pop_ms: int
    """When that was, by the broker's clock."""
    invisible_ms: int
    """How long nobody else gets them, from then on."""
    revive_qid: int
    origin: Origin
    broker_name: str
    queue_id: int
    offset: int

    def encode(self) -> str:
        """Words with blanks between them."""
        return (
            f"{self.first_offset} {self.pop_ms} {self.invisible_ms} {self.revive_qid}"
            f" {self.origin.value} {self.broker_name} {self.queue_id} {self.offset}"
        )

    def real_topic(self, group: str, topic: str) -> str:
        """Where the message stands that a pop of `topic` gave to the group: what the requests name
        that acknowledge it or change its time."""
        return real_topic(group, topic, self.origin)


def decode_handle(text: str) -> Handle:
    """The inverse of `encode`. Raises: MalformedHandle."""
    words = text.split(" ")
    try:
        first, pop_ms, invisible_ms, revive_qid, origin, broker, queue_id, offset = words
        return Handle(
            first_offset=_number(first),
            pop_ms=_number(pop_ms),
            invisible_ms=_number(invisible_ms),
            revive_qid=_number(revive_qid),
            origin=Origin(origin),
            broker_name=broker,
            queue_id=_number(queue_id),
            offset=_number(offset),
        )
    except ValueError as error:
        raise MalformedHandle(f"handle {text[:100]!r}: {error}") from error


def real_topic(group: str, topic: str, origin: Origin) -> str:
    """The topic that an origin means, for a group that pops `topic`."""
    match origin:
        case Origin.TOPIC:
            return topic
        case Origin.RETRY:
            return f"%RETRY%{group}_{topic}"
        case Origin.RETRY_V2:
            return f"%RETRY%{group}+{topic}"


@frozen(kw_only=True)
class PoppedQueue:
    """The messages that a pop gives of one queue, in the order of its answer's body."""

    origin: Origin
    queue_id: int
    first_offset: int
    offsets: Sequence[int]
    counts: Sequence[int] = ()
    """How often each was popped before, if it was popped in order."""


def start_offsets(queues: Iterable[PoppedQueue]) -> str:
    """`start_offset_info` of a reply."""
    return ";".join(f"{q.origin.value} {q.queue_id} {q.first_offset}" for q in queues)


def message_offsets(queues: Iterable[PoppedQueue]) -> str:
    """`msg_offset_info` of a reply."""
    return ";".join(
        f"{q.origin.value} {q.queue_id} {','.join(map(str, q.offsets))}" for q in queues
    )


def order_counts(queues: Iterable[PoppedQueue]) -> str:
    """`order_count_info` of a reply: what was popped before, and the least of each queue, which is
    all that old clients look at."""
    parts = []
    for q in queues:
        parts += [
            f"{q.origin.value} qo{q.queue_id}%{offset} {count}"
            for offset, count in zip(q.offsets, q.counts, strict=True)
            if count
        ]
        parts.append(f"{q.origin.value} {q.queue_id} {min(q.counts, default=0)}")
    return ";".join(parts)


def parse_popped(reply: "PopReply") -> Mapping[tuple[Origin, int], PoppedQueue]:
    """What a reply says of the messages in its body, by origin and queue. A message whose property
    `POP_CK` is set already is not needed here: that is its handle.

    Raises: Malformed.
    """
    try:
        firsts = {
            (Origin(origin), int(queue_id)): int(first)
            for origin, queue_id, first in _rows(reply.start_offset_info)
        }
        listed = {
            (Origin(origin), int(queue_id)): [int(offset) for offset in offsets.split(",")]
            for origin, queue_id, offsets in _rows(reply.msg_offset_info)
        }
        counts = {
            (Origin(origin), place): int(count)
            for origin, place, count in _rows(reply.order_count_info)
        }
        return {
            (origin, queue_id): PoppedQueue(
                origin=origin,
                queue_id=queue_id,
                first_offset=firsts[origin, queue_id],
                offsets=offsets,
                counts=[
                    counts.get(
                        (origin, f"qo{queue_id}%{offset}"), counts.get((origin, str(queue_id)), 0)
                    )
                    for offset in offsets
                ],
            )
            for (origin, queue_id), offsets in listed.items()
        }
    except (ValueError, KeyError) as error:
        raise Malformed(f"the offsets of a pop cannot be read: {error}") from error


@frozen(kw_only=True)
class PopReply(Reply):
    """What was popped; body: stored messages. Of those that are retries the topic is the one that
    was asked for, and their handles are their property `POP_CK`; of the others the handle is made
    of the fields here. All but the texts are always filled: Java unboxes them without a look."""

    pop_time: int = 0  # ms, by the broker's clock
    invisible_time: int = 0  # ms
    revive_qid: Int32 = 0
    rest_num: int = 0  # messages that are left, as far as was looked
    start_offset_info: str | None = None
    msg_offset_info: str | None = None
    order_count_info: str | None = None


@frozen(kw_only=True)
class PopMessage(Request[PopReply]):
    """Take messages for a while, or wait for one until `born_time` + `poll_time`. Code 200050.

    Of one queue, or with -1 of any; retries of the group among them, unless `order`.
    """

    code = RequestCode.POP_MESSAGE
    consumer_group: str
    topic: str
    queue_id: Int32
    max_msg_nums: Int32  # at most 32
    invisible_time: int  # ms
    poll_time: int  # ms
    born_time: int = 0  # ms, by the client's clock; 0: now
    init_mode: Int32 = FROM_FIRST
    exp_type: str | None = None  # null and "" mean TAG
    exp: str | None = None
    order: bool = False
    attempt_id: str | None = None  # of a pop in order: the same again if no answer was heard


@frozen(kw_only=True)
class AckMessage(Request[None]):
    """The consumer is done with a message. Code 200051.

    `topic` is the one that it stands in: see `Handle.real_topic`.
    """

    code = RequestCode.ACK_MESSAGE
    consumer_group: str
    topic: str
    queue_id: Int32
    extra_info: str  # the handle
    offset: int


@frozen(kw_only=True)
class BatchAck:
    """Messages of one pop of one queue; its `topic` is the one that was popped, retry or not."""

    group: str = wire("c")
    topic: str = wire("t")
    origin: str = wire("r")
    first_offset: int = wire("so")
    queue_id: int = wire("q")
    revive_qid: int = wire("rq", default=0)
    pop_ms: int = wire("pt")
    invisible_ms: int = wire("it", default=0)
    bits: str = wire("b", default="")
    """Base64 of bytes, the lowest bit of the first first: bit *i* for the offset *i* behind the
    first one."""

    def offsets(self) -> list[int]:
        """Those that the bits name. Raises: Malformed."""
        if len(self.bits) > 2 * BATCH_BYTES_MAX:
            raise Malformed(f"an acknowledgement of {len(self.bits)} characters of bits")
        try:
            number = int.from_bytes(base64.b64decode(self.bits, validate=True), "little")
        except (binascii.Error, ValueError) as error:
            raise Malformed(f"the bits of an acknowledgement are not Base64: {error}") from error
        if self.first_offset + number.bit_length() > NUMBER_MAX:
            raise Malformed(f"an acknowledgement of offsets behind {self.first_offset}")
        offsets: list[int] = []
        while number:  # by the bits that are set: a batch has few, and may have thousands of rows
            lowest = number & -number
            offsets.append(self.first_offset + lowest.bit_length() - 1)
            number ^= lowest
        return offsets


def ack_bits(first_offset: int, offsets: Iterable[int]) -> str:
    """`BatchAck.bits` of these offsets."""
    number = sum(1 << offset - first_offset for offset in offsets)
    return base64.b64encode(number.to_bytes((number.bit_length() + 7) // 8, "little")).decode()


@frozen(kw_only=True)
class BatchAcks:
    """The body of AckMessages."""

    broker_name: str | None = None
    acks: tuple[BatchAck, ...] = ()


@frozen(kw_only=True)
class AckMessages(Request[None]):
    """The consumer is done with several messages; body: BatchAcks. Code 200151."""

    code = RequestCode.BATCH_ACK_MESSAGE


@frozen(kw_only=True)
class InvisibleTimeReply(Reply):
    """What the next handle of the message is made of; its first offset is its own offset."""

    pop_time: int
    invisible_time: int
    revive_qid: Int32


@frozen(kw_only=True)
class ChangeInvisibleTime(Request[InvisibleTimeReply]):
    """Let a popped message be the consumer's for this time from now on. Code 200053.

    Its handle is another then, and the old one void. `topic` as for AckMessage.
    """

    code = RequestCode.CHANGE_MESSAGE_INVISIBLETIME
    consumer_group: str
    topic: str
    queue_id: Int32
    extra_info: str  # the handle
    offset: int
    invisible_time: int  # ms


@frozen(kw_only=True)
class PeekMessage(Request[PopReply]):
    """Look at what a pop would take next, and take nothing. Code 200052."""

    code = RequestCode.PEEK_MESSAGE
    consumer_group: str
    topic: str
    queue_id: Int32
    max_msg_nums: Int32


@frozen(kw_only=True)
class NotificationReply(Reply):
    """Whether a pop would find something."""

    has_msg: bool
    polling_full: bool = False


@frozen(kw_only=True)
class Notification(Request[NotificationReply]):
    """Wait until a pop would find something, or `born_time` + `poll_time`. Code 200054."""

    code = RequestCode.NOTIFICATION
    consumer_group: str
    topic: str
    queue_id: Int32
    poll_time: int  # ms
    born_time: int = 0  # ms, by the client's clock; 0: now
    order: bool = False
    attempt_id: str | None = None


@frozen(kw_only=True)
class PollingInfoReply(Reply):
    """How many pops are waiting."""

    polling_num: Int32


@frozen(kw_only=True)
class PollingInfo(Request[PollingInfoReply]):
    """How many pops wait for messages here, with this group, topic and queue id. Code 200055."""

    code = RequestCode.POLLING_INFO
    consumer_group: str
    topic: str
    queue_id: Int32


def _number(word: str) -> int:
    if not word.isascii() or not word.isdecimal() or len(word) > 19 or int(word) > NUMBER_MAX:
        raise ValueError(f"{word[:30]!r} is no number of 64 bits")
    return int(word)


def _rows(text: str | None) -> list[tuple[str, str, str]]:
    """The rows of three words in one of a reply's texts. Raises: ValueError."""
    rows = []
    for part in (text or "").split(";"):
        if part:
            first, second, third = part.split(" ")
            rows.append((first, second, third))
    return rows
