"""What half messages look like, and the records that come of them: pure functions.

A producer's half message is stored as it came, but under the half topic's name and without the
transaction bits of its sysFlag; where it really wants to go stands in its properties. Consumers get
a record of its own when it is committed, with the properties unchanged, as RocketMQ's do.

Elsewhere: how halves begin and end (`half_messages`), when producers are asked (`check_back`).

Source: protocol page 08 §1; TransactionalMessageBridge.java, EndTransactionProcessor.java.
"""

from collections.abc import Mapping
from typing import Final

from broker.errors import IllegalMessage
from broker.machine import names
from broker.machine.put_messages import Message
from broker.machine.topics import TopicConfig
from broker.machine.transactions import Half
from broker.store.message_reader import LogReader, rotten
from dledger_py.remoting.wire import message as records
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.message import MalformedRecord, Record

HALF_TOPIC: Final = TopicConfig(name=names.HALF_TOPIC, read_queues=1, write_queues=1)
EXPIRED_TOPIC: Final = TopicConfig(name=names.CHECKS_EXHAUSTED_TOPIC, read_queues=1, write_queues=1)

# What the broker says of a half message; a producer's own words of it are left out.
OWN: Final = frozenset({props.REAL_TOPIC, props.REAL_QUEUE_ID, props.TRANSACTION_ID})

_IMMUNITY_DIGITS_MAX: Final = 9  # seconds: some thirty years, and no number that takes long to read


def claims_half(properties: Mapping[str, str]) -> bool:
    """Whether the properties say that it is a half message."""
    return properties.get(props.TRANSACTION_PREPARED, "").lower() == "true"


def is_half(properties: Mapping[str, str], *, comes_back: bool) -> bool:
    """Whether a message is to be stored as half.

    One that comes back from a consumer, to be tried again later, still claims it, but was committed
    long ago. **Raises** IllegalMessage if nobody could ever end it.
    """
    if not claims_half(properties) or comes_back:
        return False
    if props.PRODUCER_GROUP not in properties:
        raise IllegalMessage(
            f"a transactional message needs its producer group, property {props.PRODUCER_GROUP}"
        )
    return True


def added_properties(topic: str, queue_id: int, unique_id: str) -> str:
    """What the broker adds to the properties of a half message."""
    return (
        f"{props.REAL_TOPIC}\x01{topic}\x02{props.REAL_QUEUE_ID}\x01{queue_id}\x02"
        f"{props.TRANSACTION_ID}\x01{unique_id}\x02"
    )


def immunity_ms(properties: Mapping[str, str], timeout_ms: int) -> int:
    """For how long after it was stored a half message is not checked."""
    text = properties.get(props.CHECK_IMMUNITY_TIME_S, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= _IMMUNITY_DIGITS_MAX):
        return timeout_ms
    return max(timeout_ms, int(text) * 1000)


def read_half(log: LogReader, position: int, half: Half, *, nowait: bool = False) -> Record:
    """The record of a pending half message. **Blocks** unless `nowait`, which raises
    `BlockingIOError` instead. **Raises** `Reopen` if it is not what was stored."""
    data = log.read_bytes(position, half.size, nowait=nowait)
    if not records.is_intact(memoryview(data), 0, half.size):
        raise rotten(position)
    try:
        return records.decode_record(data)
    except MalformedRecord as error:
        raise rotten(position) from error


def real_queue(properties: Mapping[str, str]) -> tuple[str, int]:
    """The topic and queue a half message is for."""
    return properties[props.REAL_TOPIC], int(properties[props.REAL_QUEUE_ID])


def expired_message(half: Record, now_ms: int, store_host: bytes) -> Message:
    """What is kept of a half message that nobody ended."""
    tag = half.property(props.TAGS)
    record = again(half, EXPIRED_TOPIC.name, 0, half.sys_flag, now_ms, store_host)
    return EXPIRED_TOPIC.name, 0, records.tags_code(tag) if tag else 0, record


def check_body(record: Record, position: int, half: Half) -> bytes:
    """The half message as its producer is shown it: with its real topic and queue."""
    topic, queue_id = real_queue(props.decode(record.properties))
    text = props.append(record.properties, props.TRANSACTION_CHECK_TIMES, str(half.checks))
    if len(text.encode()) > props.PROPERTIES_SIZE_MAX:
        text = record.properties
    return records.encode_record(
        queue_id=queue_id,
        flag=record.flag,
        sys_flag=record.sys_flag,
        born_timestamp_ms=record.born_timestamp_ms,
        born_host=record.born_host,
        store_timestamp_ms=record.store_timestamp_ms,
        store_host=record.store_host,
        reconsume_times=record.reconsume_times,
        body=record.body,
        topic=topic,
        properties=text.encode(),
        queue_offset=half.queue_offset,
        physical_offset=position,
    )


def again(
    half: Record,
    topic: str,
    queue_id: int,
    sys_flag: int,
    now_ms: int,
    store_host: bytes,
    *,
    properties: str | None = None,
    prepared_offset: int = 0,
) -> bytes:
    """The record of a half message's content that stands in another queue."""
    return records.encode_record(
        queue_id=queue_id,
        flag=half.flag,
        sys_flag=sys_flag,
        born_timestamp_ms=half.born_timestamp_ms,
        born_host=half.born_host,
        store_timestamp_ms=now_ms,
        store_host=store_host,
        reconsume_times=half.reconsume_times,
        body=half.body,
        topic=topic,
        properties=(half.properties if properties is None else properties).encode(),
        prepared_offset=prepared_offset,
    )
