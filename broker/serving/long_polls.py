"""Pulls that wait for the next message of a queue.

A pull that found nothing new is *held*: its `Later` stays here until a message arrives that it may
want, or until the time the client allowed has passed. Both end the same way: the whole pull is run
again, this time forbidden to wait, so there is one place that decides what a pull answers.

Source: protocol page 07, long polling.
"""

import heapq
from collections.abc import Callable, Iterable

from attrs import define, field, frozen

HELD_MAX = 100_000  # one per (client, queue): 2,000 clients with 50 queues each


@frozen(kw_only=True)
class LongPollStatistics:
    held: int
    woken: int
    expired: int


@define(eq=False, kw_only=True)
class HeldPull:
    """One waiting pull. `again` runs it a second time; `wants` is its tag filter (None: all)."""

    topic: str
    queue_id: int
    deadline_ms: int
    wants: frozenset[int] | None
    again: Callable[[], None]
    gone: Callable[[], bool]
    done: bool = False


@define(eq=False)
class LongPolls:
    """All held pulls of this member, by queue and by deadline."""

    _by_queue: dict[tuple[str, int], list[HeldPull]] = field(factory=dict)
    _by_deadline: list[tuple[int, int, HeldPull]] = field(factory=list)
    _sequence: int = 0
    _held: int = 0
    _woken: int = 0
    _expired: int = 0

    def has_room(self) -> bool:
        return self._held < HELD_MAX

    def waits(self, topic: str, queue_id: int) -> bool:
        """Whether anybody waits for this queue."""
        return (topic, queue_id) in self._by_queue

    def hold(self, pull: HeldPull) -> None:
        self._by_queue.setdefault((pull.topic, pull.queue_id), []).append(pull)
        self._sequence += 1
        heapq.heappush(self._by_deadline, (pull.deadline_ms, self._sequence, pull))
        self._held += 1

    def wake(self, topic: str, queue_id: int, tags_codes: Iterable[int]) -> None:
        """Messages with these tag hashes were added to the queue: run the pulls that want one."""
        waiting = self._by_queue.pop((topic, queue_id), None)
        if waiting is None:
            return
        codes = frozenset(tags_codes)
        still = []
        for pull in waiting:
            if pull.wants is None or not pull.wants.isdisjoint(codes):
                self._woken += 1
                self._finish(pull)
            elif not pull.gone():
                still.append(pull)
            else:
                self._forget(pull)
        if still:
            # A pull run again may have been held anew; it goes behind those that still wait.
            self._by_queue[topic, queue_id] = still + self._by_queue.get((topic, queue_id), [])

    def wake_all(self) -> None:
        """Run every held pull: the role changed, or the queues did."""
        queues, self._by_queue = self._by_queue, {}
        for waiting in queues.values():
            for pull in waiting:
                self._woken += 1
                self._finish(pull)

    def expire(self, now_ms: int) -> None:
        """Run the pulls whose time is up, and forget those whose connection has gone."""
        heap = self._by_deadline
        while heap and (heap[0][2].done or heap[0][0] <= now_ms):
            _deadline, _sequence, pull = heapq.heappop(heap)
            if pull.done:
                continue
            waiting = self._by_queue.get((pull.topic, pull.queue_id))
            if waiting is not None and pull in waiting:
                waiting.remove(pull)
                if not waiting:
                    del self._by_queue[pull.topic, pull.queue_id]
            self._expired += 1
            self._finish(pull)

    def next_deadline_ms(self) -> int | None:
        heap = self._by_deadline
        while heap and heap[0][2].done:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def statistics(self) -> LongPollStatistics:
        return LongPollStatistics(held=self._held, woken=self._woken, expired=self._expired)

    def _finish(self, pull: HeldPull) -> None:
        self._forget(pull)
        if not pull.gone():
            pull.again()

    def _forget(self, pull: HeldPull) -> None:
        pull.done = True
        self._held -= 1
