"""Pulls that wait for the next message of a queue.

A pull that found nothing new is *held* here until a message arrives that it may want, until its
topic or this member's role changes, or until the time the client allowed has passed. All end the
same way: the whole pull is run again, this time forbidden to wait, so there is one place that
decides what a pull answers. When its connection ends it is forgotten at once.

Pops wait in the same way, of another instance: for any queue of a topic (`ANY_QUEUE`), and for
several things at once, as several pulls of which the first that is woken releases the others.

Deadlines are on a monotonic clock. Source: protocol page 07, long polling.
"""

import heapq
from collections.abc import Callable, Collection, Iterable
from typing import Final

from attrs import define, field, frozen

HELD_MAX: Final = 100_000  # one per (client, queue): 2,000 clients with 50 queues each
HOLD_MS_MAX: Final = 100_000  # clients ask for 15 to 20 s; silent connections are closed at 120 s
ANY_QUEUE: Final = -1  # where pops wait that take messages of any queue of a topic
DONE_MAX: Final = 1_024  # entries of the deadline heap that may be dead beyond as many live ones


@frozen(kw_only=True)
class LongPollStatistics:
    """Pulls that wait now; and since the start, how many a message ended and how many the clock."""

    held: int
    woken: int
    expired: int


@define(eq=False, kw_only=True)
class HeldPull:
    """One waiting pull. `again` runs it a second time; `wants` is its tag filter (None: all).

    One that filters by more than tags `looks` itself whether something arrived that it wants, and
    remembers how far it has looked; it may say so in doubt.
    """

    topic: str
    queue_id: int
    deadline_ms: int
    wants: frozenset[int] | None
    owner: int
    """The connection it came by."""
    again: Callable[[], None]
    looks: Callable[[], bool] | None = None
    done: bool = False
    group: str = ""
    """Of a pop: who waits."""


@define(eq=False)
class LongPolls:
    """All held pulls of this member, by queue, by deadline and by connection."""

    _by_queue: dict[tuple[str, int], list[HeldPull]] = field(factory=dict)
    _by_deadline: list[tuple[int, int, HeldPull]] = field(factory=list)
    _by_owner: dict[int, set[HeldPull]] = field(factory=dict)
    _sequence: int = 0
    _held: int = 0
    _woken: int = 0
    _expired: int = 0

    def has_room(self) -> bool:
        """Whether one more pull may be held; if not, it is answered at once."""
        return self._held < HELD_MAX

    def waits(self, topic: str, queue_id: int) -> bool:
        """Whether anybody waits for this queue."""
        return (topic, queue_id) in self._by_queue

    @property
    def busy(self) -> bool:
        """Whether anybody waits for anything."""
        return bool(self._by_queue)

    def count(self, group: str, topic: str, queue_id: int) -> int:
        """How many pops of a group wait for this queue."""
        waiting = self._by_queue.get((topic, queue_id), ())
        return sum(pull.group == group for pull in waiting)

    def hold(self, pull: HeldPull) -> None:
        """Keep the pull until something happens."""
        self._by_queue.setdefault((pull.topic, pull.queue_id), []).append(pull)
        self._by_owner.setdefault(pull.owner, set()).add(pull)
        self._sequence += 1
        heapq.heappush(self._by_deadline, (pull.deadline_ms, self._sequence, pull))
        self._held += 1
        if len(self._by_deadline) > 2 * self._held + DONE_MAX:
            # A busy queue ends its pulls long before their deadlines: do not keep them until then.
            self._by_deadline = [entry for entry in self._by_deadline if not entry[2].done]
            heapq.heapify(self._by_deadline)

    def wake(self, topic: str, queue_id: int, tags_codes: Iterable[int]) -> None:
        """Messages with these tag hashes were added to the queue: run the pulls that want one."""
        waiting = self._by_queue.pop((topic, queue_id), None)
        if waiting is None:
            return
        codes = frozenset(tags_codes)
        wanted = [
            pull
            for pull in waiting
            if (pull.wants is None or not pull.wants.isdisjoint(codes))
            and (pull.looks is None or pull.looks())
        ]
        if len(wanted) < len(waiting):
            woken = set(wanted)
            self._by_queue[topic, queue_id] = [pull for pull in waiting if pull not in woken]
        self._wake(wanted)

    def wake_topics(self, topics: Collection[str]) -> None:
        """These topics are others now, or gone: run their pulls."""
        for key in [key for key in self._by_queue if key[0] in topics]:
            self._wake(self._by_queue.pop(key))

    def wake_all(self) -> None:
        """Run every held pull: the role has changed, or the end has come."""
        queues, self._by_queue = self._by_queue, {}
        for waiting in queues.values():
            self._wake(waiting)

    def release(self, pull: HeldPull) -> None:
        """Whoever waits has what it waits for: forget this; nothing if it is done already."""
        if pull.done:
            return
        if pull in self._by_queue.get((pull.topic, pull.queue_id), ()):  # not if all are woken
            self._take_from_queue(pull)
        self._forget(pull)

    def drop(self, owner: int) -> None:
        """The connection has ended: forget its pulls."""
        for pull in tuple(self._by_owner.get(owner, ())):
            self._take_from_queue(pull)
            self._forget(pull)

    def expire(self, now_ms: int) -> None:
        """Run the pulls whose time is up."""
        heap = self._by_deadline
        while heap and (heap[0][2].done or heap[0][0] <= now_ms):
            pull = heapq.heappop(heap)[2]
            if not pull.done:
                self._take_from_queue(pull)
                self._forget(pull)
                self._expired += 1
                pull.again()

    def statistics(self) -> LongPollStatistics:
        """For metrics."""
        return LongPollStatistics(held=self._held, woken=self._woken, expired=self._expired)

    def _wake(self, pulls: list[HeldPull]) -> None:
        for pull in pulls:
            if not pull.done:  # one before it may have released it
                self._forget(pull)
                self._woken += 1
                pull.again()

    def _take_from_queue(self, pull: HeldPull) -> None:
        key = (pull.topic, pull.queue_id)
        waiting = self._by_queue[key]
        waiting.remove(pull)
        if not waiting:
            del self._by_queue[key]

    def _forget(self, pull: HeldPull) -> None:
        pull.done = True
        self._held -= 1
        of_owner = self._by_owner[pull.owner]
        of_owner.discard(pull)
        if not of_owner:
            del self._by_owner[pull.owner]
