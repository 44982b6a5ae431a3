"""Reading a topic as it lies there, by the time of storing: for people who look, not for groups."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from dledger_py.client import Client, Message, PullStatus

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS = 253_370_764_800_000  # the year 9999: no message is later, and no calendar longer


async def stored_between(
    client: Client, topic: str, begin_ms: int, end_ms: int, *, tags: str = "*"
) -> AsyncIterator[Message]:
    """The topic's messages with these store times, both included, queue by queue.

    Only those that were there when this began. **Raises** NoRoute.
    """
    for queue in await client.queues(topic):
        end = await client.max_offset(topic, queue.queue_id, broker=queue.broker)
        offset = await client.min_offset(topic, queue.queue_id, broker=queue.broker)
        if begin_ms > 0:
            begin = _EPOCH + timedelta(milliseconds=min(begin_ms, _LATEST_MS))
            found = await client.search_offset(topic, queue.queue_id, begin, broker=queue.broker)
            offset = max(offset, found)
        while offset < end:
            result = await client.pull(
                topic, queue.queue_id, offset, broker=queue.broker, tags=tags
            )
            for message in result.messages:
                stored_ms = round(message.stored_at.timestamp() * 1000)
                if message.queue_offset >= end or stored_ms > end_ms:
                    offset = end
                    break
                if stored_ms >= begin_ms:
                    yield message
            if result.next_offset <= offset or result.status is PullStatus.NOTHING_NEW:
                break
            offset = max(offset, result.next_offset)
