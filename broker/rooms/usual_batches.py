"""A batch of usual messages, without an object for each: `Sending` has the rules for all others.

A message is usual here if its properties ask for nothing but a tag, in ASCII. One that is not, and
one that cannot be read, sends the whole batch the other way: nothing was done, and there it is
stored, or refused with a reason.
"""

from collections.abc import Callable
from typing import Final

from broker.machine.put_messages import Message
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.message import MalformedRecord, batch_items, tags_code

# Delayed, timed in any unit, half messages: as a key or within another word.
_UNUSUAL: Final = tuple(
    word.encode() for word in (props.DELAY, props.TIMER_DELIVER_MS, props.TRANSACTION_PREPARED)
)
_TAG: Final = f"{props.TAGS}\x01".encode()
_END: Final = 2


def usual_batch(
    batch: bytes,
    topic: str,
    queue_id: int,
    record_of: Callable[[int, bytes, bytes], bytes],
    messages_max: int,
    records_bytes_max: int,
) -> list[Message] | None:
    """The messages of a batch body to a topic of single tags; None if any is unusual, and if there
    are none or too many. `record_of` makes a record of flag, body and properties.
    """
    delayed, timed, half = _UNUSUAL
    messages: list[Message] = []
    size = 0
    try:
        for flag, body, properties in batch_items(batch):
            if (
                delayed in properties
                or timed in properties
                or half in properties
                or not properties.isascii()
                or len(properties) > props.PROPERTIES_SIZE_MAX
            ):
                return None
            at = properties.rfind(_TAG)
            code = 0
            if at >= 0:
                end = properties.find(_END, at)
                tag = properties[at + len(_TAG) : end if end >= 0 else None]
                if not tag or (at and properties[at - 1] != _END):
                    return None
                code = tags_code(tag.decode())
            record = record_of(flag, body, properties)
            size += len(record)
            if size > records_bytes_max:
                return None
            messages.append((topic, queue_id, code, record))
    except MalformedRecord:
        return None
    return messages if 0 < len(messages) <= messages_max else None
