"""What travels between a user and this client: messages to send, receipts, messages received.

All frozen.  Bodies are bytes and nothing else; what they mean is the user's business.
"""

import logging
import zlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import TracebackType
from typing import Protocol

from attrs import field, frozen
from msgspec import Struct

from dledger_py.client.errors import UnsupportedCompression
from dledger_py.client.queues import Queue
from dledger_py.remoting.wire import properties as property_text
from dledger_py.remoting.wire.message import (
    COMPRESSED,
    COMPRESSION_TYPE_MASK,
    Record,
    unpack_host,
)

logger = logging.getLogger(__name__)

BODY_BYTES_MAX = 4 * 1024 * 1024
"""The largest body, and the largest batch: the default limit of every broker and client."""

INFLATED_BYTES_MAX = 64 * 1024 * 1024
"""What a compressed body may grow to: sixteen largest bodies, so that a bomb stays a message."""

TOPIC_CHARACTERS_MAX = 127

_TOPIC_ALPHABET = frozenset("%|-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

_SET_BY_ARGUMENTS = frozenset(
    {
        property_text.KEYS,
        property_text.TAGS,
        property_text.UNIQ_KEY,
        property_text.WAIT,
        property_text.SHARDING_KEY,
    }
)

_COMPRESSIONS = {0x000: "zlib", 0x100: "lz4", 0x200: "zstd", 0x300: "zlib"}


def not_text(what: str, value: object) -> TypeError:
    """Nothing is turned into text by itself: a number would come back as something else."""
    return TypeError(f"{what} {value!r} is {type(value).__name__}: str is expected")


def as_keys(keys: Iterable[str]) -> tuple[str, ...]:
    """*keys* as a tuple of words; one string is one key."""
    if isinstance(keys, str):
        keys = (keys,)
    found = tuple(keys)
    for key in found:
        if not isinstance(key, str):
            raise not_text("key", key)
        if not key or key.split() != [key]:
            raise ValueError(f"key {key!r}: a word without blanks is expected")
    return found


@frozen(kw_only=True)
class Outgoing:
    """One message of a batch."""

    body: bytes
    tag: str | None = None
    keys: tuple[str, ...] = field(default=(), converter=as_keys)
    properties: Mapping[str, str] = field(factory=dict)


class Receipt(Struct, frozen=True, kw_only=True, gc=False):
    """Where a message was stored.  Having one means that the broker acknowledged it.

    One is made per message, and a frozen attrs class would take a tenth of a send's time.
    """

    message_id: str
    """The unique id, made by this client; the same on every attempt."""

    offset_message_id: str
    """The broker's id: its address and the position in its log."""

    topic: str
    broker: str
    queue_id: int
    queue_offset: int
    recall_handle: str | None = None
    """By which a delayed message may be taken back; None for any other."""

    status: int = 0
    """0, or how weakly it is stored: 10 and 12 not flushed in time, 11 without a replica."""


class Settlement(Protocol):
    """Whoever waits to hear what became of a message; the consumer it came from.

    Only the first word about a delivery counts.
    """

    def acknowledge(self, message: "Received") -> None:
        """*message* is done with."""

    def give_back(self, message: "Received", after_s: float | None) -> None:
        """*message* failed: it is to be delivered again, after *after_s* or a back-off."""

    def put_back(self, message: "Received") -> None:
        """*message* was not handled, and did not fail: this member gets it again."""

    def give_up(self, message: "Received") -> None:
        """*message* is to go to the group's dead letters."""

    async def reply(
        self,
        message: "Received",
        body: bytes,
        properties: Mapping[str, str] | None,
        timeout_s: float | None,
    ) -> None:
        """Answer the request *message*."""


@frozen
class _AckScope:
    """The scope of `Message.ack_on_success`."""

    message: "Message"
    settlement: Settlement
    after_s: float | None

    async def __aenter__(self) -> "Message":
        return self.message

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return settle(self.message, self.settlement, self.after_s, error)


def settle(
    message: "Received",
    settlement: Settlement,
    after_s: float | None,
    error: BaseException | None,
) -> bool:
    """Say what became of *message* when a block about it ended with *error*; whether the error ends
    there, too."""
    if error is None:
        settlement.acknowledge(message)
        return False
    if not isinstance(error, Exception):  # a cancellation, or the end of the program
        settlement.put_back(message)
        return False
    settlement.give_back(message, after_s)
    logger.warning(
        "message %s of %s failed at attempt %d",
        message.message_id,
        message.queue,
        message.delivery_attempt,
        exc_info=error,
    )
    return True


@frozen(kw_only=True)
class Received:
    """What there is to know about a message that was received, and what to say of it at once."""

    topic: str
    """The topic it was sent to, also when it comes from a retry topic."""

    queue: Queue
    """The queue it was read from."""

    queue_offset: int
    message_id: str
    """The sender's unique id; the offset message id if the sender gave none."""

    offset_message_id: str
    tag: str | None
    keys: tuple[str, ...]
    properties: Mapping[str, str]
    """Everything that travelled with it: the sender's properties and the broker's."""

    born_at: datetime
    born_host: str
    stored_at: datetime
    reconsume_times: int
    """How often the broker took it back."""

    delivery_attempt: int = 1
    """1, and one more for each time it failed, as far as this member knows."""

    stored_body: bytes = field(repr=False)
    """The body as it lies in the broker, perhaps compressed."""

    sys_flag: int = field(default=0, repr=False)
    _settlement: Settlement | None = field(default=None, repr=False, eq=False, alias="settlement")

    @property
    def body(self) -> bytes:
        """The body as it was sent.

        **Raises** UnsupportedCompression for lz4, zstd, and what zlib cannot undo.
        """
        if not self.sys_flag & COMPRESSED:
            return self.stored_body
        return _inflate(self.stored_body, self.sys_flag & COMPRESSION_TYPE_MASK)

    def ack(self) -> None:
        """Done: the message will not be delivered to this group again, once it is committed."""
        self.settled_by().acknowledge(self)

    def nack(self, retry_after: float | timedelta | None = None) -> None:
        """It failed: deliver it again, after a back-off or *retry_after* (seconds).

        The broker takes it back, and counts; after the group's (or the consumer's) maximum it is a
        dead letter.  Spans are rounded up to the broker's levels: 1 s, 5 s, 10 s, 30 s, 1 to
        10 min, 20 min, 30 min, 1 h, 2 h.
        """
        self.settled_by().give_back(self, as_seconds(retry_after))

    def reject(self) -> None:
        """It will never work: put it to the group's dead letters at once."""
        self.settled_by().give_up(self)

    def settled_by(self) -> Settlement:
        """Whom to tell.  **Raises** RuntimeError for a message that was pulled, or a reply."""
        if self._settlement is None:
            raise RuntimeError("a message that was pulled has nobody to acknowledge it to")
        return self._settlement


@frozen(kw_only=True)
class Message(Received):
    """One message as it was received."""

    def ack_on_success(
        self, retry_after: float | timedelta | None = None
    ) -> AbstractAsyncContextManager["Message", bool]:
        """A scope that acknowledges when its block ends well and gives the message back when not.

        An `Exception` is logged and swallowed, so that the loop around it goes on; what becomes of
        the message is what `nack(retry_after)` says.  A cancellation passes through, and is no
        failure: the message comes again and nobody counts.
        """
        return _AckScope(self, self.settled_by(), as_seconds(retry_after))

    async def reply(
        self,
        body: bytes,
        *,
        properties: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Answer a request: see `Client.request`.  It is not acknowledged by that.

        **Raises** ResponseError if whoever asked is gone or does not wait any more; ValueError if
        this is no request.
        """
        await self.settled_by().reply(self, checked_body(body), properties, timeout_s)


def as_message(record: Record, queue: Queue, settlement: Settlement | None = None) -> Message:
    """The stored *record*, read from *queue*."""
    properties = property_text.decode(record.properties)
    offset_message_id = record.offset_message_id
    keys = properties.get(property_text.KEYS)
    return Message(
        topic=properties.get(property_text.RETRY_TOPIC, record.topic),
        queue=queue,
        queue_offset=record.queue_offset,
        message_id=properties.get(property_text.UNIQ_KEY, offset_message_id),
        offset_message_id=offset_message_id,
        tag=properties.get(property_text.TAGS),
        keys=tuple(keys.split()) if keys else (),
        properties=properties,
        born_at=as_datetime(record.born_timestamp_ms),
        born_host="{}:{}".format(*unpack_host(record.born_host)),
        stored_at=as_datetime(record.store_timestamp_ms),
        reconsume_times=record.reconsume_times,
        delivery_attempt=record.reconsume_times + 1,
        stored_body=record.body,
        sys_flag=record.sys_flag,
        settlement=settlement,
    )


def render_properties(
    unique_id: str,
    tag: str | None,
    keys: Iterable[str],
    group: str | None,
    properties: Mapping[str, str] | None,
) -> str:
    """The property string of a message to send.

    **Raises** ValueError for what would not arrive: empty or separated values, reserved names.
    TypeError for what is no text.
    """
    text = f"UNIQ_KEY\x01{unique_id}\x02WAIT\x01true\x02"
    if tag is not None:
        text += _pair(property_text.TAGS, checked_tag(tag))
    if keys != () and (keys := as_keys(keys)):
        text += _pair(property_text.KEYS, " ".join(keys))
    if group is not None:
        if not isinstance(group, str):
            raise not_text("group", group)
        text += _pair(property_text.SHARDING_KEY, group)
    if properties:
        if type(properties) is not dict and not isinstance(properties, Mapping):
            raise TypeError(f"properties are {type(properties).__name__}: a mapping is expected")
        for name, value in properties.items():
            if name in _SET_BY_ARGUMENTS:
                raise ValueError(f"property {name!r} is set by an argument of its own")
            if not isinstance(value, str):
                raise not_text(f"property {name!r}:", value)
            text += _pair(name, value)
    # A character is at most three bytes, so short texts need no counting.
    if len(text) * 3 > property_text.PROPERTIES_SIZE_MAX:
        size = len(text.encode())
        if size > property_text.PROPERTIES_SIZE_MAX:
            raise ValueError(f"properties of {size} bytes: at most 32767 fit")
    return text


def delay_properties(delay: timedelta | datetime) -> dict[str, str]:
    """How a message says that it is for later.

    A span counts from when the broker has the message, by its clock; it knows milliseconds.
    **Raises** ValueError for a span below zero, and for a time without a zone; TypeError for a
    number, whose unit nobody knows.
    """
    if isinstance(delay, timedelta):
        if delay < timedelta():
            raise ValueError(f"delay {delay}: a span of 0 or more is expected")
        return {property_text.TIMER_DELAY_MS: str(-(-delay // _MILLISECOND))}
    if not isinstance(delay, datetime):
        raise TypeError(f"delay {delay!r}: a timedelta or a datetime is expected")
    if delay.tzinfo is None:
        raise ValueError(f"delay {delay}: a datetime with a time zone is expected")
    return {property_text.TIMER_DELIVER_MS: str(-((_EPOCH - delay) // _MILLISECOND))}


@lru_cache(maxsize=1024)  # topics repeat, and each send asks
def checked_topic(topic: str) -> str:
    """*topic*, if a topic may be called that."""
    return checked_name("topic", topic)


def checked_name(what: str, name: str) -> str:
    """*name*, if a topic may be called that, or a group: topics are named after groups."""
    if not isinstance(name, str):
        raise not_text(what, name)
    if not 0 < len(name) <= TOPIC_CHARACTERS_MAX or not _TOPIC_ALPHABET.issuperset(name):
        raise ValueError(f"{what} {name!r}: 1-127 letters, digits or % | - _ are expected")
    return name


def checked_body(body: bytes) -> bytes:
    """*body*, if it fits into a message."""
    if type(body) is not bytes and not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(f"body is {type(body).__name__}: bytes are expected")
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"body of {len(body)} bytes: at most {BODY_BYTES_MAX} fit")
    return bytes(body)


def checked_tag(tag: str) -> str:
    """*tag*, if a subscription could ever name it."""
    if not isinstance(tag, str):
        raise not_text("tag", tag)
    if not tag or tag != tag.strip() or "||" in tag or tag == "*":
        raise ValueError(f"tag {tag!r}: one word that is not * and holds no || is expected")
    return tag


def within(timeout_s: float | None, default_s: float) -> float:
    """*timeout_s*, or the default if none is given; what is left of a deadline may be below zero.

    **Raises** TypeError for what is no number; a timedelta is none, since the name says seconds.
    """
    if timeout_s is None:
        return default_s
    if not isinstance(timeout_s, int | float):
        raise TypeError(f"timeout_s {timeout_s!r}: a number of seconds is expected")
    return timeout_s


def as_seconds(pause: float | timedelta | None) -> float | None:
    """*pause* in seconds."""
    found = pause.total_seconds() if isinstance(pause, timedelta) else pause
    if found is not None and not found >= 0:  # NaN neither
        raise ValueError(f"retry_after {pause}: a span of 0 or more is expected")
    return found


def as_datetime(timestamp_ms: int) -> datetime:
    """A point in time, in UTC; the ends of the calendar for what lies beyond them."""
    try:
        return _EPOCH + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if timestamp_ms > 0 else _EPOCH


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def _pair(name: str, value: str) -> str:
    if not name or not value:
        raise ValueError(f"property {name!r}={value!r}: empty ones do not arrive")
    if "\x01" in name or "\x02" in name or "\x01" in value or "\x02" in value:
        raise ValueError(f"property {name!r}: 0x01 and 0x02 separate properties")
    return f"{name}\x01{value}\x02"


def _inflate(body: bytes, kind: int) -> bytes:
    algorithm = _COMPRESSIONS.get(kind, f"algorithm {kind >> 8}")
    if algorithm != "zlib":
        raise UnsupportedCompression(algorithm)
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(body, INFLATED_BYTES_MAX)
    except zlib.error as error:
        raise UnsupportedCompression(f"zlib, and damaged: {error}") from error
    if not inflater.eof:
        why = f"more than {INFLATED_BYTES_MAX} bytes" if inflater.unconsumed_tail else "cut short"
        raise UnsupportedCompression(f"zlib, and {why}")
    return inflated
