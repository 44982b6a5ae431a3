"""One message of a queue after the other.  Pure: who may be handed out next.

The law: of each queue one message is out, or waits for its next try; the others wait behind it in
the order they were read.  Queues do not wait for each other.
"""

from collections import deque
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from attrs import define, field

QueueT = TypeVar("QueueT", bound=Hashable)
ItemT = TypeVar("ItemT")


@define
class InOrder(Generic[QueueT, ItemT]):
    """What was read and is not done with; the first of each queue is out."""

    _lanes: dict[QueueT, deque[ItemT]] = field(factory=dict)

    def add(self, queue: QueueT, items: Iterable[ItemT]) -> ItemT | None:
        """*items* were read; the one to hand out now, if nothing of *queue* is out."""
        lane = self._lanes.setdefault(queue, deque())
        idle = not lane
        lane.extend(items)
        return lane[0] if idle and lane else None

    def done(self, queue: QueueT) -> ItemT | None:
        """What was out is done with; the one to hand out now."""
        lane = self._lanes.get(queue)
        if not lane:
            return None
        lane.popleft()
        return lane[0] if lane else None

    def forget(self, queue: QueueT) -> None:
        """Nothing of *queue* will be handed out any more."""
        self._lanes.pop(queue, None)
