"""What follows from an applied entry, outside the replicated state.

An effect may be performed again after a restart, when the log is applied from its beginning, so
each is harmless twice: index writes are positional, the others are hints to look at the tables.
Waking long polls is part of `IndexMessages`: its units hold the tags codes a waiting pull filters
by.
"""

from enum import Enum
from typing import ClassVar

from attrs import frozen
from msgspec import Struct


class Audience(Enum):
    """Which members perform an effect."""

    EVERYWHERE = "everywhere"
    LEADER = "leader"


class IndexMessages(Struct, frozen=True, gc=False):
    """These messages now stand in the queue: index them, then wake whoever waits for the queue.

    Where messages go to many queues there is one for each, and attrs takes a microsecond for it.
    """

    audience: ClassVar[Audience] = Audience.EVERYWHERE
    topic: str
    queue_id: int
    first_offset: int
    units: bytes
    """Consume-queue units (`broker.formats.UNIT`), one per message, of dense offsets."""


@frozen
class DropQueues:
    """The topic was deleted: forget its index, and let waiting pulls find out."""

    audience: ClassVar[Audience] = Audience.EVERYWHERE
    topic: str


@frozen
class TrimQueues:
    """These queues begin later now: (topic, queue id, first offset)."""

    audience: ClassVar[Audience] = Audience.EVERYWHERE
    queues: tuple[tuple[str, int, int], ...]


@frozen
class DropEntries:
    """Nothing up to this entry of the log is needed any more."""

    audience: ClassVar[Audience] = Audience.EVERYWHERE
    index: int


@frozen
class TopicsChanged:
    """These topics were created, altered or deleted. The leader registers them at once."""

    audience: ClassVar[Audience] = Audience.EVERYWHERE
    topics: tuple[str, ...]


@frozen
class GroupsChanged:
    """These consumer groups were created, altered or deleted."""

    audience: ClassVar[Audience] = Audience.EVERYWHERE
    groups: tuple[str, ...]


@frozen
class OffsetsReset:
    """A group is to go on from elsewhere: let pulls that wait for the topic find out."""

    audience: ClassVar[Audience] = Audience.EVERYWHERE
    group: str
    topic: str


@frozen
class PopsBegan:
    """Something of this queue that a group has in flight is due sooner than anything before."""

    audience: ClassVar[Audience] = Audience.EVERYWHERE
    group: str
    topic: str
    queue_id: int


@frozen
class QueueFreed:
    """What a group consumes of this queue in order has changed: its next pop may come sooner."""

    audience: ClassVar[Audience] = Audience.EVERYWHERE
    group: str
    topic: str
    queue_id: int


Effect = (
    IndexMessages
    | DropQueues
    | TrimQueues
    | DropEntries
    | TopicsChanged
    | GroupsChanged
    | OffsetsReset
    | PopsBegan
    | QueueFreed
)
