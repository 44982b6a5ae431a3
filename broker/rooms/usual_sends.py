"""The usual send, without an object for each message: two thirds of a busy broker's time.

Nearly every send looks alike: one message in the short spelling, to a topic that is there, with a
unique id and perhaps a tag. For these the way from frame to record and from reply to answer is laid
out straight; whatever is unusual in any respect is left to `Sending`, whose rules hold for both.

Laws
- What is taken here is stored and answered, to the byte, as `Sending.send` would have done it.
- What is left has not been touched: deciding comes first, storing last.
- What may have been sent before is left: whether it was takes a look at the log.
"""

from collections.abc import Callable, Container, Sequence
from typing import Any, Final
from zlib import crc32

from attrs import define, field, frozen

from broker.machine import names
from broker.machine.replies import MessageReply, Reason
from broker.machine.topics import TopicConfig
from broker.rooms._message_types import takes_all
from broker.rooms.sending import REGION, Sending, declined
from broker.serving.leadership import BORN_HOST
from broker.serving.put_batch import Single
from dledger_py.remoting.commands.sending import plain_answer
from dledger_py.remoting.rooms import Port, quick, refusal, render_head
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.frame import JSON, Frame
from dledger_py.remoting.wire.message import (
    BODY_CRC_MASK,
    TOPIC_SIZE_V1_MAX,
    encode_plain_record,
    tags_code,
)

# What makes a message unusual if its properties hold it anywhere, as a key or within another word.
_UNUSUAL: Final = (
    props.DELAY,
    "TIMER_",
    props.TRANSACTION_PREPARED,
    props.MSG_REGION,
    props.POP_CK,
)

_SMALL: Final = {str(number): number for number in range(256)}
_TOPICS_MAX: Final = 10_000  # remembered; with more, all are looked at again
_NUMBER_TEXT_MAX: Final = 18  # digits that are a 64-bit integer, whatever they are

_UNIQUE_ID: Final = f"{props.UNIQ_KEY}\x01"
_TAG: Final = f"{props.TAGS}\x01"


@frozen
class _Topic:
    """A topic as the usual send needs it; good as long as its settings are this very object."""

    settings: TopicConfig
    queues: int
    stored_name: bytes
    hash: int | None
    """A part of its messages' identities (`put_window`); None if nobody recognises what is sent to
    it twice."""


@define(eq=False)
class UsualSends:
    """Stands in front of `Sending` for code 310, and answers what it took."""

    sending: Sending
    _topics: dict[str, _Topic] = field(factory=dict, init=False)
    _answer: Callable[[int, int, int, str, int], bytes] = field(init=False)
    _pending: Container[int] = field(init=False)
    _in_window: Callable[[int], bool] = field(init=False)

    def __attrs_post_init__(self) -> None:
        duplicates = self.sending.duplicates
        if duplicates is not None:
            self._pending = self.sending.batch.pending
            self._in_window = duplicates.window.__contains__
        self._answer = plain_answer(REGION, True, self.sending.store_host)
        self.sending.batch.answer_singles_by(self)

    @quick(RequestCode.SEND_MESSAGE_V2)
    def take(self, connection: Port, frame: Frame) -> bool:
        """Store the message if it is a usual one. False: it is not, and nothing was done."""
        sending = self.sending
        fields = frame.fields
        get = fields.get
        small = _SMALL.get
        name = get("b", "")
        topic = self._topics.get(name)
        settings = sending.machine.topics.get(name)
        if topic is None or topic.settings is not settings:
            topic = self._learn(settings)
            if topic is None:
                return False
        queue_id = small(get("e", ""))
        sys_flag = small(get("f", "0"))
        flag = small(get("h", "0"))
        reconsume_times = small(get("j", "0"))
        born_ms = get("g", "0")
        body = frame.body
        born_host = connection.packed_remote
        if (
            queue_id is None
            or queue_id >= topic.queues
            or (sys_flag != 0 and sys_flag != 1)  # plain or compressed
            or flag is None
            or reconsume_times is None
            or not (born_ms.isdecimal() and len(born_ms) <= _NUMBER_TEXT_MAX)
            or "a" not in fields
            or small(get("d", "4")) is None
            or small(get("l", "0")) is None
            or get("m", "false") != "false"
            or BORN_HOST in fields
            or frame.flag
            or frame.serialization != JSON
            or len(born_host) != 8
            or len(sending.store_host) != 8
            or len(body) > sending.max_message_bytes
            or sending.disk.refusing
            or not sending.leadership.leads
        ):
            return False

        text = get("i", "")
        found = _id_and_code(text)
        if found is None:
            return False
        unique_id, code = found
        if text[-1] != "\x02":
            text += "\x02"
        properties = (text + sending.added_properties).encode()
        if len(properties) > props.PROPERTIES_SIZE_MAX:
            return False

        body_crc = crc32(body) & BODY_CRC_MASK
        record = encode_plain_record(
            queue_id,
            flag,
            sys_flag,
            int(born_ms),
            born_host,
            sending.now_ms(),
            sending.store_host,
            reconsume_times,
            body,
            body_crc,
            topic.stored_name,
            properties,
        )
        same = 0
        if topic.hash is not None:
            same = hash(unique_id) ^ body_crc ^ topic.hash  # `put_window.identity_of`, in short
            if same in self._pending or self._in_window(same):
                return False
        sending.batch.add_single(
            (name, queue_id, code, record),
            same,
            connection,
            frame.opaque,
            frame.size,
            settings,
            queue_id,
            unique_id,
            len(body),
        )
        return True

    def forget(self) -> None:
        """What is usual may be another by now: look at all topics again."""
        self._topics.clear()

    def _learn(self, settings: TopicConfig | None) -> _Topic | None:
        """None for a topic to which no send is usual."""
        if settings is None:
            return None
        name = settings.name
        encoded = name.encode()
        if (
            not settings.writable
            or settings.filter_type != "SINGLE_TAG"
            or not names.producers_may_send(name)
            or names.is_retry_topic(name)
            or len(encoded) > TOPIC_SIZE_V1_MAX
            or (self.sending.checks_types and not takes_all(settings))
        ):
            return None
        if len(self._topics) >= _TOPICS_MAX:
            self._topics.clear()
        duplicates = self.sending.duplicates
        watched = duplicates is not None and duplicates.watches(name)
        topic = _Topic(
            settings,
            settings.queues,
            bytes((len(encoded),)) + encoded,
            hash(name) if watched else None,
        )
        self._topics[name] = topic
        return topic

    # --- answers -------------------------------------------------------------------------------

    def stored(self, singles: Sequence[Single], replies: Sequence[MessageReply]) -> None:
        """Answer where the messages stand, all that came by one connection in one go."""
        render = self._answer
        rates = self.sending.rates
        heads: list[bytes] = []
        stored: dict[str, int] = {}
        stored_bytes = refused = request_bytes = 0
        last: Any = singles[0][1]
        for at, connection, opaque, size, topic, queue_id, unique_id, body_bytes in singles:
            if connection is not last:
                last.respond_all(request_bytes, heads)
                last, heads, request_bytes = connection, [], 0
            reply = replies[at]
            if isinstance(reply, Reason):
                refused += 1
                heads.append(render_head(refusal(declined(reply, topic, queue_id)), opaque, JSON))
            else:
                offset, position = reply
                stored[topic.name] = stored.get(topic.name, 0) + 1
                stored_bytes += body_bytes
                heads.append(render(position, queue_id, offset, unique_id, opaque))
            request_bytes += size
        last.respond_all(request_bytes, heads)
        rates.put.total += len(singles) - refused
        rates.put_bytes.total += stored_bytes
        rates.put_refused.total += refused
        for name, count in stored.items():
            rates.topic(name).total += count

    def failed(self, singles: Sequence[Single], error: Exception) -> None:
        """Tell every sender."""
        self.sending.rates.put_refused.total += len(singles)
        answer = refusal(error)
        for _at, connection, opaque, size, *_rest in singles:
            connection.respond_all(size, [render_head(answer, opaque, JSON)])


def _id_and_code(text: str) -> tuple[str, int] | None:
    """The unique id and the tag's code of usual properties, read as `properties.decode` does."""
    for word in _UNUSUAL:
        if word in text:
            return None
    at = text.rfind(_UNIQUE_ID)
    if at < 0 or (at and text[at - 1] != "\x02"):
        return None
    end = text.find("\x02", at)
    unique_id = text[at + len(_UNIQUE_ID) : end] if end >= 0 else text[at + len(_UNIQUE_ID) :]
    if not (unique_id.isalnum() and unique_id.isascii()):
        return None
    at = text.rfind(_TAG)
    if at < 0:
        return unique_id, 0
    if at and text[at - 1] != "\x02":
        return None
    end = text.find("\x02", at)
    tag = text[at + len(_TAG) : end] if end >= 0 else text[at + len(_TAG) :]
    return (unique_id, tags_code(tag)) if tag else None
