"""Messages that consumers have popped: which are in flight, until when, and by which handle.

    pop       a consumer takes messages of a queue: they are in flight, nobody else gets them
    ack       it is done with one of them
    change    it wants one of them for longer, or gives it back sooner: a new handle, a new time
    revive    the time of those it was silent about is up: they are moved to a topic for retries

A group takes the messages of a queue in their order, and stands at its *frontier* there: what lies
before was taken, and each message of it is either in flight or done with. Its *progress* is the
first of those in flight, or the frontier; it is kept among the offsets of groups, where whoever
asks how far a group is finds it. A queue is in this table only while something of it is in flight:
else the progress says all there is.

What one pop takes of a queue is a *checkpoint*: the offsets, a bit for each that is still in
flight, and the time that all of them have. A handle names it by the first offset and the stamp of
the pop; a message whose time was changed gets a checkpoint of its own.

In order (`Order`) a queue has one consumer at a time: as long as anything of it is in flight and
its time not up, nothing else is given out. What was not acknowledged stays at its offset, and the
next pop gets it again, and is told how often it was popped before.

Laws: a message is in flight by one handle at a time; a handle that was replaced, or whose message
is done with, has no effect. A pop names the frontier it starts from and is declined if the group
stands elsewhere: so a message is given out once, whoever proposes it and however often. A message
whose time is up is still in flight until it is revived, and may be acknowledged until then. What
may be in flight is bounded.

Elsewhere: which messages a pop wants, and what becomes of them when they are revived (`rooms`,
`serving.revivals`). **Source**: RocketMQ's `PopMessageProcessor.java`, `PopCheckPoint.java` and
`ConsumerOrderInfoManager.java`, which keep the same as messages of a topic of the broker's own.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from attrs import define, field, frozen

from broker.machine.replies import Reason
from broker.machine.shapes import Plain

IN_FLIGHT_MAX: Final = 10_000
"""Messages of one queue, for one group; RocketMQ's `popInflightMessageThreshold`."""

CHECKPOINTS_MAX: Final = 100_000
"""Of all groups together. Both decide replies, so raising one is an upgrade."""

MESSAGES_MAX: Final = 63
"""Of one checkpoint: its bits fit a signed number of 64. RocketMQ's pops take 32 at most."""

STALE_MAX: Final = 64  # entries of a heap that may be dead beyond as many live ones

PopKey = tuple[str, str, int]
"""(group, topic, queue id)."""

Handle = tuple[int, int]
"""(first offset of the checkpoint, stamp of the pop in ms)."""

Run = tuple[int, int]
"""(first offset, number of offsets)."""


def runs_of(offsets: Iterable[int]) -> tuple[Run, ...]:
    """Ascending offsets as runs: 3, 4, 5, 9 as (3, 3), (9, 1)."""
    runs: list[Run] = []
    for offset in offsets:
        if runs and sum(runs[-1]) == offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((offset, 1))
    return tuple(runs)


def offsets_of(runs: Sequence[Run]) -> Sequence[int]:
    """The inverse."""
    if len(runs) == 1:
        first, count = runs[0]
        return range(first, first + count)
    return tuple(offset for first, count in runs for offset in range(first, first + count))


def count_of(runs: Sequence[Run]) -> int:
    """How many offsets they are."""
    return sum(count for _first, count in runs)


@frozen(kw_only=True)
class Claim:
    """What a pop takes of one queue."""

    topic: str
    queue_id: int
    first_offset: int
    """Where the group stands."""
    next_offset: int
    """Where it stands then: what lies between and is not taken is done with."""
    runs: tuple[Run, ...]
    """The offsets that are taken, ascending; none of them: the group only moves on."""


@define
class Checkpoint:
    """What is still in flight of one pop of one queue."""

    offsets: Sequence[int]
    pending: int
    """Bit *i* is set while `offsets[i]` is in flight."""
    until_ms: int

    @property
    def lowest(self) -> int:
        """The first offset in flight."""
        return self.offsets[(self.pending & -self.pending).bit_length() - 1]

    def in_flight(self) -> tuple[int, ...]:
        """All of them, ascending."""
        return tuple(o for number, o in enumerate(self.offsets) if self.pending >> number & 1)

    def bit(self, offset: int) -> int:
        """The bit of an offset that is in flight; 0 if it is not."""
        try:
            return self.pending & 1 << self.offsets.index(offset)
        except ValueError:
            return 0


@define
class Held:
    """A message that is consumed in order."""

    pop_ms: int
    until_ms: int
    count: int
    """How often it was popped before."""


@define
class Order:
    """What of a queue is consumed in order, and was not acknowledged."""

    attempt_id: str = ""
    """Who tries again with the same one did not hear the answer."""
    held: dict[int, Held] = field(factory=dict)
    """By offset, ascending."""

    def blocked_until_ms(self) -> int:
        """When the queue may be popped again, if nothing is acknowledged; 0 if at any time."""
        return max((held.until_ms for held in self.held.values()), default=0)


@define
class PopQueue:
    """One queue of which one group has something in flight."""

    frontier: int
    checkpoints: dict[Handle, Checkpoint] = field(factory=dict)
    order: Order = field(factory=Order)
    in_flight: int = 0
    _by_lowest: list[tuple[int, Handle]] = field(factory=list, eq=False)
    _by_time: list[tuple[int, Handle]] = field(factory=list, eq=False)
    # Both heaps follow from the checkpoints, and hold some that are gone.

    @property
    def progress(self) -> int:
        """The first offset that is in flight."""
        lowest = next(iter(self.order.held), self.frontier)
        heap = self._by_lowest
        while heap:
            known, handle = heap[0]
            checkpoint = self.checkpoints.get(handle)
            if checkpoint is None:
                heapq.heappop(heap)
            elif checkpoint.lowest != known:
                heapq.heapreplace(heap, (checkpoint.lowest, handle))
            else:
                return min(lowest, known)
        return lowest

    @property
    def due_ms(self) -> int | None:
        """When the time of the first checkpoint is up; None if there is none."""
        heap = self._by_time
        while heap:
            until_ms, handle = heap[0]
            checkpoint = self.checkpoints.get(handle)
            if checkpoint is not None and checkpoint.until_ms == until_ms:
                return until_ms
            heapq.heappop(heap)
        return None

    def needed_from(self, now_ms: int) -> int | None:
        """The first offset whose time is not over, or which is to be revived; None if there is
        none: what was popped in order and abandoned stays where it is, if it can."""
        kept = (offset for offset, held in self.order.held.items() if held.until_ms > now_ms)
        found = [*islice(kept, 1)]
        if self.checkpoints:
            _progress = self.progress  # brings the heap up to date
            found.append(self._by_lowest[0][0])
        return min(found, default=None)

    def due(self, now_ms: int) -> Iterator[tuple[Handle, Checkpoint]]:
        """The checkpoints whose time is up, the first first."""
        for until_ms, handle in sorted(each for each in self._by_time if each[0] <= now_ms):
            checkpoint = self.checkpoints.get(handle)
            if checkpoint is not None and checkpoint.until_ms == until_ms:
                yield handle, checkpoint

    def add(self, handle: Handle, checkpoint: Checkpoint) -> None:
        """Messages are in flight from now on."""
        self.checkpoints[handle] = checkpoint
        self.in_flight += checkpoint.pending.bit_count()
        heapq.heappush(self._by_lowest, (checkpoint.lowest, handle))
        heapq.heappush(self._by_time, (checkpoint.until_ms, handle))
        limit = 2 * len(self.checkpoints) + STALE_MAX
        if len(self._by_time) > limit or len(self._by_lowest) > limit:
            self._by_lowest = [(each.lowest, h) for h, each in self.checkpoints.items()]
            self._by_time = [(each.until_ms, h) for h, each in self.checkpoints.items()]
            heapq.heapify(self._by_lowest)
            heapq.heapify(self._by_time)

    def take(self, handle: Handle, offset: int) -> bool:
        """A message of a checkpoint is in flight no more; False if it was not, by this handle."""
        checkpoint = self.checkpoints.get(handle)
        bit = checkpoint.bit(offset) if checkpoint is not None else 0
        if checkpoint is None or not bit:
            return False
        checkpoint.pending ^= bit
        self.in_flight -= 1
        if not checkpoint.pending:
            del self.checkpoints[handle]
        return True

    def drop(self, handle: Handle) -> None:
        """Nothing of this checkpoint is in flight any more."""
        self.in_flight -= self.checkpoints.pop(handle).pending.bit_count()


@define
class Pops:
    """The table. Anyone may read it between two awaits; the rest is the machine's."""

    count: int = 0
    """Checkpoints, and queues that are consumed in order: readers that find none need not look."""
    _queues: dict[PopKey, PopQueue] = field(factory=dict)

    def get(self, key: PopKey) -> PopQueue | None:
        """The queue, if the group has anything of it in flight."""
        return self._queues.get(key)

    def queues(self) -> Iterable[tuple[PopKey, PopQueue]]:
        """All of them; not across an await."""
        return self._queues.items()

    def pop(
        self, key: PopKey, claim: Claim, *, stamped_ms: int, invisible_ms: int
    ) -> Reason | tuple[int, ...]:
        """Take what an admissible claim wants; or why not, and nothing is taken."""
        queue = self._queues.get(key)
        count = count_of(claim.runs)
        if count and self.count >= CHECKPOINTS_MAX:
            return Reason.TABLE_FULL
        if queue is not None:
            if queue.in_flight + count > IN_FLIGHT_MAX:
                return Reason.TABLE_FULL
            if queue.order.held:
                return self._take_over(key, queue, claim, stamped_ms, invisible_ms)
            queue.frontier = claim.next_offset
        elif count:
            queue = self._queues[key] = PopQueue(claim.next_offset)
        if queue is not None and count:
            offsets = offsets_of(claim.runs)
            checkpoint = Checkpoint(offsets, (1 << count) - 1, stamped_ms + invisible_ms)
            queue.add((offsets[0], stamped_ms), checkpoint)
            self.count += 1
        return ()

    def pop_in_order(
        self, key: PopKey, claim: Claim, *, stamped_ms: int, invisible_ms: int, attempt_id: str
    ) -> Reason | tuple[int, ...]:
        """The same, in order; how often each message was popped before."""
        queue = self._queues.get(key)
        offsets = offsets_of(claim.runs)
        if queue is not None and queue.checkpoints:
            return Reason.OUTDATED  # some of it is consumed in no order
        if not offsets:
            return ()
        if self.count >= CHECKPOINTS_MAX:
            return Reason.TABLE_FULL
        if queue is None:
            queue = self._queues[key] = PopQueue(claim.next_offset)
            self.count += 1
        held = queue.order.held
        if held:
            again = bool(attempt_id) and attempt_id == queue.order.attempt_id
            if not again and not self._may_take_over(queue, offsets, stamped_ms):
                return Reason.OUTDATED
            if not held.keys() >= set(offsets):
                return Reason.OUTDATED
            counts = tuple(held[offset].count + (not again) for offset in offsets)
        else:
            queue.frontier = claim.next_offset
            queue.in_flight = len(offsets)
            counts = (0,) * len(offsets)
        queue.order.attempt_id = attempt_id
        for offset, before in zip(offsets, counts, strict=True):
            held[offset] = Held(stamped_ms, stamped_ms + invisible_ms, before)
        return counts

    def ack(self, key: PopKey, handle: Handle, offset: int) -> bool:
        """The consumer is done with a message; False if it is not in flight by this handle."""
        queue = self._queues.get(key)
        if queue is None:
            return False
        held = queue.order.held.get(offset)
        if held is not None and held.pop_ms == handle[1]:
            del queue.order.held[offset]
            queue.in_flight -= 1
            self.count -= not queue.order.held
            return True
        acked = queue.take(handle, offset)
        self.count -= acked and handle not in queue.checkpoints
        return acked

    def change(
        self, key: PopKey, handle: Handle, offset: int, *, stamped_ms: int, invisible_ms: int
    ) -> Reason | int:
        """Give a message in flight a new time from now on: the stamp of its new handle, which
        begins with its own offset."""
        queue = self._queues.get(key)
        held = queue.order.held.get(offset) if queue is not None else None
        if held is not None and held.pop_ms == handle[1]:
            held.until_ms = stamped_ms + invisible_ms
            return held.pop_ms
        checkpoint = queue.checkpoints.get(handle) if queue is not None else None
        if queue is None or checkpoint is None or not checkpoint.bit(offset):
            return Reason.NOT_PENDING
        splits = checkpoint.pending.bit_count() > 1
        if splits and self.count >= CHECKPOINTS_MAX:
            return Reason.TABLE_FULL
        queue.take(handle, offset)
        pop_ms = max(stamped_ms, handle[1] + 1)  # a leader's clock may be behind the last one's
        queue.add((offset, pop_ms), Checkpoint((offset,), 1, stamped_ms + invisible_ms))
        self.count += splits
        return pop_ms

    def revive(self, key: PopKey, handle: Handle) -> None:
        """A checkpoint whose time is up is done with."""
        self._queues[key].drop(handle)
        self.count -= 1

    def settle(self, key: PopKey) -> int | None:
        """How far the group is with a queue, after it was changed; None if the offset says it."""
        queue = self._queues.get(key)
        if queue is None:
            return None
        if not queue.checkpoints and not queue.order.held:
            del self._queues[key]
        return queue.progress

    def drop(self, key: PopKey) -> None:
        """Nothing of a queue is in flight any more, whatever handles are out."""
        queue = self._queues.pop(key, None)
        if queue is not None:
            self.count -= len(queue.checkpoints) + bool(queue.order.held)

    def trim(self, starts: Mapping[tuple[str, int], int]) -> tuple[PopKey, ...]:
        """These queues begin there now: nothing before is in flight any more. Whose is concerned;
        each is to be settled."""
        concerned = [
            (key, queue)
            for key, queue in self._queues.items()
            if queue.progress < starts.get(key[1:], 0)
        ]
        for key, queue in concerned:
            first = starts[key[1:]]
            self.count -= len(queue.checkpoints) + bool(queue.order.held)
            for handle, each in list(queue.checkpoints.items()):
                for offset in each.in_flight():
                    if offset < first:
                        queue.take(handle, offset)
            for offset in [each for each in queue.order.held if each < first]:
                del queue.order.held[offset]
                queue.in_flight -= 1
            queue.frontier = max(queue.frontier, first)
            self.count += len(queue.checkpoints) + bool(queue.order.held)
        return tuple(key for key, _queue in concerned)

    def drop_topic(self, topic: str) -> None:
        """Forget a deleted topic, in every group."""
        for key in [each for each in self._queues if each[1] == topic]:
            self.drop(key)

    def drop_group(self, group: str) -> None:
        """Forget a deleted group."""
        for key in [each for each in self._queues if each[0] == group]:
            self.drop(key)

    def state(self) -> Plain:
        """All of it as plain values, sorted: queues with their checkpoints, and their order."""
        return [
            [
                *key,
                queue.frontier,
                [
                    [*handle, each.until_ms, each.pending, [list(r) for r in runs_of(each.offsets)]]
                    for handle, each in sorted(queue.checkpoints.items(), key=_handle)
                ],
                queue.order.attempt_id,
                [
                    [offset, held.pop_ms, held.until_ms, held.count]
                    for offset, held in queue.order.held.items()
                ],
            ]
            for key, queue in sorted(self._queues.items(), key=_key)
        ]

    def put(self, key: PopKey, queue: PopQueue) -> None:
        """Take one over from a snapshot."""
        self._queues[key] = queue
        self.count += len(queue.checkpoints) + bool(queue.order.held)

    def _take_over(
        self, key: PopKey, queue: PopQueue, claim: Claim, stamped_ms: int, invisible_ms: int
    ) -> Reason | tuple[int, ...]:
        """A pop in no order gets what was consumed in order and is in flight no more."""
        offsets = offsets_of(claim.runs)
        held = queue.order.held
        if not offsets or not held.keys() >= set(offsets):
            return Reason.OUTDATED
        if not self._may_take_over(queue, offsets, stamped_ms):
            return Reason.OUTDATED
        for offset in offsets:
            del held[offset]
        queue.in_flight -= len(offsets)
        self.count += bool(held)
        checkpoint = Checkpoint(offsets, (1 << len(offsets)) - 1, stamped_ms + invisible_ms)
        queue.add((offsets[0], stamped_ms), checkpoint)
        return ()

    @staticmethod
    def _may_take_over(queue: PopQueue, offsets: Sequence[int], stamped_ms: int) -> bool:
        held = queue.order.held
        return queue.order.blocked_until_ms() <= stamped_ms and next(iter(held)) == offsets[0]


def _handle(item: tuple[Handle, Checkpoint]) -> Handle:
    return item[0]


def _key(item: tuple[PopKey, PopQueue]) -> PopKey:
    return item[0]
