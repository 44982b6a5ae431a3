"""One message of a popped queue after the other.  Pure: what may be handed out next.

The laws.

* The broker gives nothing more of a queue until all that was popped of it is done with or its time
  is over.  So what is here of a queue is of one pop: what comes later replaces it, since it was
  somebody else's in between.
* Of each queue the first message is out; the others follow it one by one.
* Whoever lets the first one go unhandled lets all of them go: they come again after it.
"""

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from attrs import define, field

from dledger_py.client.queues import Queue

ItemT = TypeVar("ItemT")


@define
class PopOrder(Generic[ItemT]):
    """What was popped in order and is not done with; items are themselves and like no other."""

    _lanes: dict[Queue, deque[ItemT]] = field(factory=dict)

    @property
    def behind(self) -> int:
        """How many wait for another one."""
        return sum(map(len, self._lanes.values())) - len(self._lanes)

    def put(self, queue: Queue, items: Iterable[ItemT]) -> ItemT | None:
        """*items* were popped: the one that is out now, if there are any."""
        lane = deque(items)
        if not lane:
            self._lanes.pop(queue, None)
            return None
        self._lanes[queue] = lane
        return lane[0]

    def done(self, queue: Queue, item: ItemT) -> ItemT | None:
        """*item* is done with: the one that is out now, unless *item* was not."""
        lane = self._lanes.get(queue)
        if lane is None or lane[0] is not item:
            return None
        lane.popleft()
        if not lane:
            del self._lanes[queue]
            return None
        return lane[0]

    def let_go(self, queue: Queue, item: ItemT) -> list[ItemT]:
        """*item* was not handled: those that waited for it, and wait no more."""
        lane = self._lanes.get(queue)
        if lane is None or lane[0] is not item:
            return []
        del self._lanes[queue]
        lane.popleft()
        return list(lane)
