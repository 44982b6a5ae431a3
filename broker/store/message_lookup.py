"""Finding a message by the log position a client names, as in its offset message id.

A client may name any byte of the log, also one within a body that was made to look like a record.
So what lies there is a candidate only; it is a message if the index of the queue it claims says so.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from broker.store.consume_queues import ConsumeQueues
from broker.store.message_reader import LogReader, rotten
from dledger_py.remoting.wire.message import (
    RECORD_OVERHEAD,
    MalformedRecord,
    decode_record,
    is_intact,
    patch_offsets,
)

RECORD_BYTES_MAX: Final = 16 * 1024 * 1024  # the largest frame, which brought it here


async def record_at(
    log: LogReader,
    queues: ConsumeQueues,
    position: int,
    run_in_thread: Callable[..., Awaitable[Any]],
) -> bytes | None:
    """The message at a log position, or None.

    Event loop; a disk is waited for in a thread. **Raises** `Reopen` if its body is not what was
    stored.
    """
    try:
        found = candidate_at(log, position, nowait=True)
    except BlockingIOError:
        found = await run_in_thread(candidate_at, log, position, abandon_on_cancel=True)
    return confirmed(queues, position, found) if found is not None else None


def candidate_at(log: LogReader, position: int, *, nowait: bool = False) -> bytearray | None:
    """The bytes of what may be a record there, or None.

    **Blocks** unless `nowait`, which raises `BlockingIOError` instead; any thread.
    """
    if position < 0:
        return None
    try:
        head = log.read_bytes(position, RECORD_OVERHEAD, nowait=nowait)
        size = int.from_bytes(head[:4], "big")
        if not RECORD_OVERHEAD <= size <= RECORD_BYTES_MAX:
            return None
        return log.read_bytes(position, size, nowait=nowait)
    except LookupError:
        return None


def confirmed(queues: ConsumeQueues, position: int, candidate: bytearray) -> bytes | None:
    """The record, offsets filled in, if its queue has it at this position; else None.

    **Raises** `Reopen` if its body is not what was stored.
    """
    try:
        record = decode_record(candidate)
    except MalformedRecord:
        return None
    offset = queues.offset_of(record.topic, record.queue_id, position)
    if offset is None:
        return None
    if not is_intact(memoryview(candidate), 0, record.size):
        raise rotten(position)
    patch_offsets(candidate, 0, offset, position)
    return bytes(candidate)
