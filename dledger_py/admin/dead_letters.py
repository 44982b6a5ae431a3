"""What a consumer group has given up: looked at, and sent once more.

Dead letters are an ordinary topic, `%DLQ%group`, of which nothing is taken away: who sends a letter
again leaves it where it is. It goes to the group's retry topic, so that only this group sees it, or
to a topic that the operator names. It counts as never tried; unlike a retry it comes at once.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Final

from dledger_py.client import Client, Message, Queue, Receipt
from dledger_py.client.errors import NoRoute
from dledger_py.remoting.wire import properties as props

DEAD_LETTER_PREFIX: Final = "%DLQ%"
RETRY_PREFIX: Final = "%RETRY%"

_OF_THE_COPY: Final = frozenset(
    {
        props.UNIQ_KEY,
        props.KEYS,
        props.TAGS,
        props.WAIT,
        props.SHARDING_KEY,
        props.DELAY,
        props.REAL_TOPIC,
        props.REAL_QUEUE_ID,
        props.MSG_REGION,
        props.TRACE_ON,
        props.CLUSTER,
        props.POP_CK,
        # It was committed once: half again, nobody would see it.
        props.TRANSACTION_PREPARED,
        props.PRODUCER_GROUP,
        props.TRANSACTION_ID,
    }
)
"""Properties that are set anew, or are of the letter's way here."""


async def dead_letters(client: Client, group: str) -> AsyncIterator[Message]:
    """The group's dead letters, queue by queue, the oldest first; none if it never had any.

    Only those that were there when this began.
    """
    topic = DEAD_LETTER_PREFIX + group
    try:
        queues = await client.queues(topic)
    except NoRoute:
        return
    for queue in queues:
        offset, end = await _span(client, queue)
        while offset < end:
            result = await client.pull(topic, queue.queue_id, offset, broker=queue.broker)
            for message in result.messages:
                if message.queue_offset < end:
                    yield message
            if result.next_offset <= offset:
                return
            offset = result.next_offset


async def send_again(client: Client, letter: Message, group: str, to: str | None) -> Receipt:
    """Store a dead letter once more, in the topic `to` or the group's retry topic.

    **Durability**, **Raises**: as `Client.send`.
    """
    kept: Mapping[str, str] = {
        name: value
        for name, value in letter.properties.items()
        if name not in _OF_THE_COPY and not name.startswith("TIMER_")
    }
    return await client.send(
        to or RETRY_PREFIX + group,
        letter.body,
        tag=letter.tag,
        keys=letter.keys,
        properties=kept,
        queue=0 if to is None else None,
    )


async def _span(client: Client, queue: Queue) -> tuple[int, int]:
    first = await client.min_offset(queue.topic, queue.queue_id, broker=queue.broker)
    end = await client.max_offset(queue.topic, queue.queue_id, broker=queue.broker)
    return first, end
