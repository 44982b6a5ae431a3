"""What clients saw, in the order in which they saw it.

A *value* names one message for ever: no two sends of a run use the same value. A queue is one of a
*broker*, which is a group's name; where there is one group it may be left out. Times are
nanoseconds of one monotonic clock, so that a gap can be measured across clients of one process.

The second half is of what is more than a message and an offset: messages for later, transactions,
consuming in order, retries. Their times are milliseconds of the wall clock, because brokers stamp
by theirs, and all of it runs on one machine.
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TypeVar

from attrs import frozen


@frozen(kw_only=True)
class Sent:
    """A send began. One producer has one send in flight, so its sends are ordered."""

    at_ns: int
    producer: str
    value: str


@frozen(kw_only=True)
class Acknowledged:
    """The send of `value` was answered: it is at this place for ever."""

    at_ns: int
    producer: str
    value: str
    broker: str = ""
    queue_id: int
    offset: int


@frozen(kw_only=True)
class Unknown:
    """The send of `value` ended without an answer: it may have happened."""

    at_ns: int
    producer: str
    value: str


@frozen(kw_only=True)
class Refused:
    """The send of `value` was refused: it must not have happened."""

    at_ns: int
    producer: str
    value: str


@frozen(kw_only=True)
class Received:
    """A consumer was handed `value`, read from this place."""

    at_ns: int
    consumer: str
    value: str
    broker: str = ""
    queue_id: int
    offset: int


@frozen(kw_only=True)
class OffsetCommitted:
    """The commit of a consumer offset was acknowledged at `at_ns`."""

    at_ns: int
    group: str
    broker: str = ""
    queue_id: int
    offset: int


@frozen(kw_only=True)
class OffsetRead:
    """A query that began at `began_ns` answered this offset; None: the group has none."""

    began_ns: int
    at_ns: int
    group: str
    broker: str = ""
    queue_id: int
    offset: int | None


@frozen(kw_only=True)
class Stored:
    """Found at this place when everything was over: the final content of a queue."""

    value: str
    broker: str = ""
    queue_id: int
    offset: int


@frozen(kw_only=True)
class Fault:
    """Something was done to these members, or ended; what follows is its doing until the next."""

    at_ns: int
    what: str  # a participle: "killed", "cut off", "healed"
    nodes: tuple[str, ...]


class Outcome(Enum):
    """What an answer said of one attempt, or that there was none."""

    DONE = "done"
    REFUSED = "refused"  # it must not have happened
    UNKNOWN = "unknown"  # it may have happened, or may still happen


@frozen(kw_only=True)
class Tried:
    """One attempt to send `value` to this topic, which nobody repeats by himself."""

    at_ms: int
    topic: str
    value: str
    outcome: Outcome


@frozen(kw_only=True)
class Timed:
    """`value` is for later; said before it is tried."""

    value: str
    broker: str = ""
    queue_id: int
    """Where it is to be delivered."""
    earliest_ms: int
    """Not before."""
    level: int = 0
    """0: it has a time of its own."""
    exact: bool = False
    """Whether it is to be delivered at that very time, which the producer named."""


@frozen(kw_only=True)
class Recalled:
    """One attempt to take a message for later back."""

    value: str
    outcome: Outcome


@frozen(kw_only=True)
class Ended:
    """One attempt to end the transaction of `value`."""

    value: str
    commit: bool
    by_check: bool
    """Whether it answers a check."""
    outcome: Outcome


@frozen(kw_only=True)
class Checked:
    """The producer was asked what became of the transaction of `value`."""

    value: str
    number: int
    """Which check this is, as it says of itself."""
    age_ms: int
    """Since the half message was stored."""


@frozen(kw_only=True)
class QueueTaken:
    """A consumer was given a queue to work on in order."""

    at_ns: int
    owner: str
    broker: str = ""
    queue_id: int


@frozen(kw_only=True)
class QueueLeft:
    """A consumer does not work on the queue any more; it is about to say so."""

    at_ns: int
    owner: str
    broker: str = ""
    queue_id: int


@frozen(kw_only=True)
class Consumed:
    """The owner of a queue handled the message at this offset: the `number`th of its key."""

    owner: str
    broker: str = ""
    queue_id: int
    offset: int
    key: str
    number: int


@frozen(kw_only=True)
class SentBack:
    """One attempt to give a message back that had come back `times` times before."""

    value: str
    times: int
    dead: bool
    """Whether it was given up, or had come back too often."""
    earliest_ms: int
    """It is not to come back before."""
    outcome: Outcome


@frozen(kw_only=True)
class Popped:
    """A consumer that asked at `began_ms` was given the message until `until_ms`."""

    value: str
    began_ms: int
    popped_ms: int
    """The broker's stamp."""
    until_ms: int
    times: int
    """How often it had come again."""


@frozen(kw_only=True)
class PopAcknowledged:
    """One attempt to acknowledge a message that was popped then ended at `at_ms`."""

    value: str
    popped_ms: int
    until_ms: int
    at_ms: int
    outcome: Outcome


@frozen(kw_only=True)
class Found:
    """Read at this place of the log: by somebody who followed it, or when everything was over."""

    topic: str
    broker: str = ""
    queue_id: int
    offset: int
    value: str
    stored_ms: int
    reconsume_times: int = 0
    at_end: bool = False


Event = (
    Sent
    | Acknowledged
    | Unknown
    | Refused
    | Received
    | OffsetCommitted
    | OffsetRead
    | Stored
    | Fault
    | Tried
    | Timed
    | Recalled
    | Ended
    | Checked
    | QueueTaken
    | QueueLeft
    | Consumed
    | SentBack
    | Popped
    | PopAcknowledged
    | Found
)
Kind = TypeVar("Kind")


@frozen
class History:
    """A finished run."""

    events: Sequence[Event]

    def of(self, kind: type[Kind]) -> Iterator[Kind]:
        return (event for event in self.events if isinstance(event, kind))
