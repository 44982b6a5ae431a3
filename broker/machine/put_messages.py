"""`PutMessages`: the command that carries every message, laid out to be built by one join.

    offset  size  field                                    integers are big-endian
    0       1     tag (1)
    1       1     version (1)
    2       8     stamped_ms
    10      2     number of queues q
    12      4     number of messages m
    16      ...   q times: queue id i32, topic length u8, topic UTF-8
    ...     14 m  m times: number of its queue in the table u16, record size u32, tags code i64
    ...     ...   the records, as RocketMQ stores them, with blank offset fields

Laws: the records lie here for good: their log position is the *physical offset* clients see. So the
layout may never be rewritten, and nothing may follow the records. A queue stands once in the table,
however many messages it gets. Neither encoding nor decoding looks into a record.
"""

import struct
from collections.abc import Sequence
from typing import Final

from attrs import frozen

from broker.machine.errors import MalformedCommand, UnknownCommand

TAG: Final = 1
VERSION: Final = 1

HEAD = struct.Struct(">BBqHI")
assert HEAD.size == 16

QUEUE = struct.Struct(">iB")
assert QUEUE.size == 5

MESSAGE = struct.Struct(">HIq")
assert MESSAGE.size == 14

QUEUES_MAX: Final = 65_535  # the u16 a message names its queue by
MESSAGES_MAX: Final = (
    65_536  # proposals are cut far below it, by bytes; bounds what applying allocates
)

Message = tuple[str, int, int, bytes]
"""(topic, queue id, tags code, record): a plain tuple, because there is one per message."""


@frozen(kw_only=True)
class PutMessages:
    """Messages to be stored, understood as far as assigning their offsets needs."""

    stamped_ms: int
    queues: tuple[tuple[str, int], ...]
    table: memoryview
    """One `MESSAGE` per message."""
    records_at: int
    """Where in the payload the first record begins."""
    payload_bytes: int


def encode_put_messages(stamped_ms: int, messages: Sequence[Message]) -> bytes:
    """One payload for all messages of a turn, in their order.

    Messages of one queue that must get consecutive offsets stand next to each other in one call.
    """
    numbers: dict[tuple[str, int], int] = {}
    pack = MESSAGE.pack
    table = []
    records = []
    for topic, queue_id, tags_code, record in messages:
        key = (topic, queue_id)
        number = numbers.get(key)
        if number is None:
            number = numbers[key] = len(numbers)
        table.append(pack(number, len(record), tags_code))
        records.append(record)
    assert len(messages) <= MESSAGES_MAX
    parts = [HEAD.pack(TAG, VERSION, stamped_ms, len(numbers), len(messages))]
    for topic, queue_id in numbers:
        name = topic.encode()
        parts.append(QUEUE.pack(queue_id, len(name)) + name)
    return b"".join(parts + table + records)


def decode_put_messages(payload: bytes | memoryview) -> PutMessages:
    """The command of a payload; whether the records fill it exactly is seen when it is applied.

    **Raises** `UnknownCommand` for another version, `MalformedCommand` for anything not written by
    `encode_put_messages`.
    """
    view = memoryview(payload)
    try:
        tag, version, stamped_ms, queue_count, message_count = HEAD.unpack_from(view)
        assert tag == TAG
        if version != VERSION:
            raise UnknownCommand(tag, version)
        at = HEAD.size
        queues = []
        for _ in range(queue_count):
            queue_id, length = QUEUE.unpack_from(view, at)
            at += QUEUE.size
            # A name cut off by the end makes `records_at` end behind the payload, which is checked.
            queues.append((str(view[at : at + length], "utf-8"), queue_id))
            at += length
    except (struct.error, UnicodeDecodeError) as error:
        raise MalformedCommand(f"PutMessages: {error}") from error
    records_at = at + message_count * MESSAGE.size
    if message_count > MESSAGES_MAX or records_at > len(view):
        raise MalformedCommand(f"{message_count} messages do not fit {len(view)} bytes")
    if len(set(queues)) != len(queues):
        raise MalformedCommand("a queue stands twice in the table")
    return PutMessages(
        stamped_ms=stamped_ms,
        queues=tuple(queues),
        table=view[at:records_at],
        records_at=records_at,
        payload_bytes=len(view),
    )
