"""Messages that wait for their time in a topic of the broker's own, and are moved when it comes.

    send      a message for later is stored in a waiting topic; its unit's tags code says until when
    due       one `MoveMessages`: the first so many messages of a waiting queue are done with, and
              here are the records to put instead, in the topics they were meant for

Laws: a queue is moved in the order of its offsets, and a cursor says how far. A move names the
offset it begins at, and is declined if the cursor is not there: so every message is moved once,
whoever proposes it and however often. Putting and advancing are one entry. A recalled message is
not put: a recall that comes between the proposal of a move and its entry, and may be of one of its
messages, makes the move decline, to be proposed again without it.

Elsewhere: the layout (`headed_puts`), when something is due and what becomes of a record
(`serving.deliveries`), in which queue a message waits (`timer_wheel`).
"""

from collections.abc import Sequence
from typing import Final

from attrs import define, field, frozen

from broker.machine.errors import MalformedCommand
from broker.machine.headed_puts import encode_headed, split_headed
from broker.machine.put_messages import Message, PutMessages, decode_put_messages
from broker.machine.shapes import INT, TEXT, Plain, record

TAG: Final = 13
VERSION: Final = 1

RECALLS_MAX: Final = 100_000
"""Kept at once. It decides replies, so raising it is an upgrade."""

RECALL_KEPT_MS: Final = 3_600_000
"""A recall is forgotten so long after messages of its time were moved: none can be waiting then,
whatever the clocks of two leaders in a row."""


@frozen(kw_only=True)
class Move:
    """What a move says of itself."""

    stamped_ms: int
    topic: str
    """Where the messages wait."""
    queue_id: int
    first_offset: int
    next_offset: int
    """Behind the last that is done with."""
    soonest_ms: int
    """The earliest time one of the messages was to be delivered at."""
    latest_ms: int
    """The latest; 0 if none of them is delivered by this, but only moved on."""
    recalls_seen: int
    """How many recalls had been applied when the move was proposed."""


_HEAD: Final = record(
    Move,
    stamped_ms=INT,
    topic=TEXT,
    queue_id=INT,
    first_offset=INT,
    next_offset=INT,
    soonest_ms=INT,
    latest_ms=INT,
    recalls_seen=INT,
)


@frozen(kw_only=True)
class MoveMessages:
    """A move with the messages to put: either both happen or nothing does."""

    move: Move
    messages: PutMessages
    messages_at: int
    """Where in the payload the layout of `PutMessages` begins."""

    @property
    def stamped_ms(self) -> int:
        """When it was proposed."""
        return self.move.stamped_ms


def encode_move(move: Move, messages: Sequence[Message]) -> bytes:
    """The payload."""
    return encode_headed(TAG, VERSION, _HEAD.to_plain(move), move.stamped_ms, messages)


def decode_move(payload: bytes | memoryview) -> MoveMessages:
    """The inverse. **Raises** `UnknownCommand`, `MalformedCommand`."""
    view = memoryview(payload)
    head, messages_at = split_headed(view, VERSION, "a move")
    move: Move = _HEAD.from_plain(head)
    if not 0 <= move.first_offset < move.next_offset:
        raise MalformedCommand(f"a move from {move.first_offset} to {move.next_offset}")
    return MoveMessages(
        move=move, messages=decode_put_messages(view[messages_at:]), messages_at=messages_at
    )


@define
class Recall:
    """A message that is not to be delivered."""

    number: int
    """Recalls are counted; this one's count."""
    deliver_ms: int
    """When it was to be."""


@define
class Moves:
    """How far each waiting queue was moved, and what was recalled. Anyone may read it between two
    awaits; changing is the machine's."""

    moved_ms: int = 0
    """The latest time that delivered messages were to be delivered at."""
    recalls_count: int = 0
    """Ever applied."""
    _cursors: dict[tuple[str, int], int] = field(factory=dict)
    _recalls: dict[tuple[str, str, int], Recall] = field(factory=dict)
    """By (topic, unique id, time in ms), in the order of their numbers. The time is a part of it:
    clients that send a message once more, for another time, leave it its id."""

    def cursor(self, topic: str, queue_id: int) -> int:
        """The first offset of a waiting queue that has not been moved yet."""
        return self._cursors.get((topic, queue_id), 0)

    def recalled(self, topic: str, unique_id: str, deliver_ms: int) -> bool:
        """Whether the message for that time was recalled."""
        return (topic, unique_id, deliver_ms) in self._recalls

    def admits(self, move: Move) -> bool:
        """Whether the move is of what is next, and knows of every recall it must know of."""
        if self.cursor(move.topic, move.queue_id) != move.first_offset:
            return False
        for recall in reversed(self._recalls.values()):
            if recall.number <= move.recalls_seen:
                return True
            if move.soonest_ms <= recall.deliver_ms <= move.latest_ms:
                return False
        return True

    def advance(self, move: Move) -> None:
        """The messages of an admitted move are done with."""
        self._cursors[move.topic, move.queue_id] = move.next_offset
        self.moved_ms = max(self.moved_ms, move.latest_ms)

    def recall(self, topic: str, unique_id: str, deliver_ms: int) -> str | None:
        """Keep the message from being delivered; if that cannot be promised, why not."""
        if deliver_ms <= self.moved_ms:
            return f"messages for {deliver_ms} have been delivered already"
        key = (topic, unique_id, deliver_ms)
        if key not in self._recalls and len(self._recalls) >= RECALLS_MAX:
            self._forget()
            if len(self._recalls) >= RECALLS_MAX:
                return f"only {RECALLS_MAX} recalls are kept at once"
        self._recalls.pop(key, None)  # the newest last
        self.recalls_count += 1
        self._recalls[key] = Recall(self.recalls_count, deliver_ms)
        return None

    def state(self) -> Plain:
        """All of it as plain values, sorted."""
        return [self.moved_ms, self.recalls_count, self.cursors(), self.recalls()]

    def cursors(self) -> Plain:
        """(topic, queue id, offset), sorted."""
        return [[*queue, offset] for queue, offset in sorted(self._cursors.items())]

    def recalls(self) -> Plain:
        """(number, topic, unique id, deliver ms), sorted."""
        return [
            [recall.number, topic, unique_id, recall.deliver_ms]
            for (topic, unique_id, _deliver_ms), recall in self._recalls.items()
        ]

    def put_cursor(self, topic: str, queue_id: int, offset: int) -> None:
        """Take one over from a snapshot."""
        self._cursors[topic, queue_id] = offset

    def put_recall(self, topic: str, unique_id: str, recall: Recall) -> None:
        """Take one over from a snapshot, in the order of their numbers."""
        self._recalls[topic, unique_id, recall.deliver_ms] = recall

    def drop_topic(self, topic: str) -> None:
        """Forget a deleted topic."""
        for queue in [each for each in self._cursors if each[0] == topic]:
            del self._cursors[queue]

    def _forget(self) -> None:
        self._recalls = {
            key: recall
            for key, recall in self._recalls.items()
            if recall.deliver_ms > self.moved_ms - RECALL_KEPT_MS
        }
