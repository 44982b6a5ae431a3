"""Reading topics from their first message to their end, and writing down what stands where."""

from collections.abc import AsyncIterator, Iterable, Sequence

import trio
from attrs import define, field

from chaos.checkers.history import Found
from chaos.recorder import Recorder
from dledger_py.client import Client, ClientError, Message, NoRoute

FOLLOW_PAUSE_S = 0.3
LAGGING_S = 0.05
EMPTY_MAX = 200  # a member that just went on is behind for a moment, not for ten seconds

Place = tuple[str, str, int]  # topic, broker, queue id


async def read_to_end(
    client: Client, topic: str, broker: str, queue_id: int, offset: int | None = None
) -> AsyncIterator[Message]:
    """The messages of a queue, from its first offset or this one, up to its end of now."""
    place = (topic, queue_id)
    if offset is None:
        offset = await client.min_offset(*place, broker=broker)
    end = await client.max_offset(*place, broker=broker)
    empty = 0
    while offset < end:
        result = await client.pull(*place, offset, broker=broker)
        for message in result.messages:
            yield message
        if result.next_offset > offset:
            offset, empty = result.next_offset, 0
            continue
        empty += 1
        assert empty < EMPTY_MAX, f"queue {queue_id} of {topic} stands still at {offset}"
        await trio.sleep(LAGGING_S)


def found(message: Message, *, at_end: bool = False) -> Found:
    """What is written down of a message that was read."""
    queue = message.queue
    return Found(
        topic=queue.topic,
        broker=queue.broker,
        queue_id=queue.queue_id,
        offset=message.queue_offset,
        value=message.body.decode(),
        stored_ms=round(message.stored_at.timestamp() * 1000),
        reconsume_times=message.reconsume_times,
        at_end=at_end,
    )


@define(eq=False, kw_only=True)
class Follower:
    """Reads topics while they grow, so that a place is seen more than once."""

    client: Client
    recorder: Recorder
    topics: Sequence[str]
    _next: dict[Place, int] = field(factory=dict)

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            await self.catch_up()
            await trio.sleep(FOLLOW_PAUSE_S)

    async def catch_up(self) -> None:
        """Read what has come since the last time, as far as it can be read now."""
        for place in await self._places():
            topic, broker, queue_id = place
            try:
                async for message in read_to_end(
                    self.client, topic, broker, queue_id, self._next.get(place)
                ):
                    self.recorder.add(found(message))
                    self._next[place] = message.queue_offset + 1
            except ClientError:
                pass  # there is no leader now: the next time will do

    async def read_all(self) -> None:
        """Read everything once more, now that all is over. Raises: ClientError."""
        for topic, broker, queue_id in await self._places():
            async for message in read_to_end(self.client, topic, broker, queue_id):
                self.recorder.add(found(message, at_end=True))

    async def _places(self) -> Iterable[Place]:
        places = []
        for topic in self.topics:
            try:
                queues = await self.client.queues(topic)
            except NoRoute:
                continue  # nobody has needed it yet
            places += [(queue.topic, queue.broker, queue.queue_id) for queue in queues]
        return places
