"""How far each queue reaches, and the assignment of offsets to messages.

Laws: offsets of a queue are dense and start at 0; a queue exists here from its first message on, so
a topic of a thousand unused queues costs nothing. Where the messages lie is not kept: it leaves as
`IndexMessages`. A deleted topic takes its queues along, so its successor starts at 0 again.
"""

from collections.abc import Iterable, Mapping

from attrs import define, field, frozen

from broker.formats import UNIT
from broker.machine.effects import Effect, IndexMessages
from broker.machine.errors import MalformedCommand
from broker.machine.put_messages import MESSAGE, PutMessages
from broker.machine.replies import Applied, MessageReply, Reason
from broker.machine.shapes import Plain
from broker.machine.topics import TopicConfig, Topics


@define
class Queue:
    """One queue: it holds the offsets `min_offset` <= offset < `next_offset`."""

    min_offset: int = 0
    next_offset: int = 0
    last_stored_ms: int = 0
    """The stamp of the newest message; 0 if there never was one."""


@frozen(kw_only=True)
class Totals:
    """What was put since the log's beginning."""

    messages: int
    bytes: int


_NEVER_WRITTEN = Queue()


@define
class Queues:
    """The table. Anyone may read it between two awaits; `put` and `drop` are the machine's."""

    messages_total: int = 0
    bytes_total: int = 0
    _topics: dict[str, dict[int, Queue]] = field(factory=dict)

    def min_offset(self, topic: str, queue_id: int) -> int:
        """The first offset that can be read; 0 for a queue without messages."""
        return self._get(topic, queue_id).min_offset

    def next_offset(self, topic: str, queue_id: int) -> int:
        """The offset the next message gets: RocketMQ's *max offset*. 0 if there was no message."""
        return self._get(topic, queue_id).next_offset

    def last_stored_ms(self, topic: str, queue_id: int) -> int:
        """When the newest message was stamped; 0 if there is none."""
        return self._get(topic, queue_id).last_stored_ms

    def all(self) -> tuple[tuple[str, int], ...]:
        """Every (topic, queue id) that ever got a message, sorted."""
        return tuple(
            (topic, each) for topic in sorted(self._topics) for each in self.written(topic)
        )

    def written(self, topic: str) -> tuple[int, ...]:
        """The queues of a topic that ever got a message, sorted."""
        return tuple(sorted(self._topics.get(topic, ())))

    def totals(self) -> Totals:
        """For statistics."""
        return Totals(messages=self.messages_total, bytes=self.bytes_total)

    def state(self) -> Plain:
        """All of it as plain values, sorted."""
        return [
            self.messages_total,
            self.bytes_total,
            [
                [topic, queue_id, queue.min_offset, queue.next_offset, queue.last_stored_ms]
                for topic, queues in sorted(self._topics.items())
                for queue_id, queue in sorted(queues.items())
            ],
        ]

    def begin_at(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Let these queues, of which nothing was put yet, begin at these offsets."""
        for (topic, queue_id), offset in offsets.items():
            queue = Queue(min_offset=offset, next_offset=offset)
            self._topics.setdefault(topic, {})[queue_id] = queue

    def drop(self, topic: str) -> None:
        """Forget a deleted topic's queues."""
        self._topics.pop(topic, None)

    def trim(self, starts: Iterable[tuple[str, int, int]]) -> tuple[tuple[str, int, int], ...]:
        """Let queues begin at these offsets; those that begin later now. A queue that is gone, or
        begins there already, stays as it is."""
        moved = []
        for topic, queue_id, first in starts:
            queue = self._topics.get(topic, {}).get(queue_id)
            if queue is not None and queue.min_offset < min(first, queue.next_offset):
                queue.min_offset = min(first, queue.next_offset)
                moved.append((topic, queue_id, queue.min_offset))
        return tuple(moved)

    def put(self, command: PutMessages, topics: Topics, position: int) -> Applied:
        """Give each message the next offset of its queue; `position` is the log's, of the payload.

        Messages of a queue that does not exist get a `Reason` each and leave no other trace.

        **Raises** `MalformedCommand`, before anything changed, if the sizes do not add up.
        """
        targets: list[Queue | Reason] = []
        offsets: list[int] = []
        units: list[bytearray | None] = []
        for topic, queue_id in command.queues:
            target = self._target(topics.get(topic), topic, queue_id)
            targets.append(target)
            if type(target) is Queue:
                offsets.append(target.next_offset)
                units.append(bytearray())
            else:
                offsets.append(0)
                units.append(None)
        replies: list[MessageReply] = []
        put, stored_bytes, add, pack = 0, 0, replies.append, UNIT.pack
        at = position + command.records_at
        try:
            for number, size, tags_code in MESSAGE.iter_unpack(command.table):
                of_queue = units[number]
                if of_queue is None:
                    reason = targets[number]
                    assert isinstance(reason, Reason)
                    add(reason)
                else:
                    offset = offsets[number]
                    offsets[number] = offset + 1
                    of_queue += pack(at, size, tags_code)
                    add((offset, at))
                    put += 1
                    stored_bytes += size
                at += size
        except IndexError:
            raise MalformedCommand("a message names a queue that is not in the table") from None
        if at != position + command.payload_bytes:
            raise MalformedCommand(
                f"records end at byte {at - position} of a payload of {command.payload_bytes}"
            )
        effects: list[Effect] = []
        stamped_ms = command.stamped_ms
        for number, of_queue in enumerate(units):
            if of_queue:
                target = targets[number]
                assert isinstance(target, Queue)
                topic, queue_id = command.queues[number]
                if not target.next_offset:
                    self._topics.setdefault(topic, {})[queue_id] = target
                effects.append(IndexMessages(topic, queue_id, target.next_offset, bytes(of_queue)))
                target.next_offset = offsets[number]
                target.last_stored_ms = stamped_ms
        self.messages_total += put
        self.bytes_total += stored_bytes
        return Applied(replies, effects)

    def _get(self, topic: str, queue_id: int) -> Queue:
        return self._topics.get(topic, {}).get(queue_id, _NEVER_WRITTEN)

    def _target(self, config: TopicConfig | None, topic: str, queue_id: int) -> Queue | Reason:
        if config is None:
            return Reason.UNKNOWN_TOPIC
        if not (0 <= queue_id < config.read_queues or 0 <= queue_id < config.write_queues):
            return Reason.UNKNOWN_QUEUE
        queues = self._topics.get(topic)
        queue = queues.get(queue_id) if queues is not None else None
        return Queue() if queue is None else queue
