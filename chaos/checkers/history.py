"""What clients saw, in the order in which they saw it.

A *value* names one message for ever: no two sends of a run use the same value. A queue is one of a
*broker*, which is a group's name; where there is one group it may be left out. Times are
nanoseconds of one monotonic clock, so that a gap can be measured across clients of one process.
"""

from collections.abc import Iterator, Sequence
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
)
Kind = TypeVar("Kind")


@frozen
class History:
    """A finished run."""

    events: Sequence[Event]

    def of(self, kind: type[Kind]) -> Iterator[Kind]:
        return (event for event in self.events if isinstance(event, kind))
