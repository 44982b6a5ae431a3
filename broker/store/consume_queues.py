"""Which record each offset of each queue is: the newest units in memory, the rest in files.

Laws: units are readable the moment `index` returns. A queue's units are dense; indexing again what
is indexed already changes nothing, a gap is our bug. Memory is bounded by `TAIL_UNITS_MAX` per
queue and `TAILS_BYTES_MAX` in all: past either, units go to the files. One thread only.

A start either begins with nothing (`create`), and the whole log is applied again, or goes on from a
checkpoint (`open`), and only what was applied behind it is.

Elsewhere: the files (`queue_files`), what of them outlives a crash (`checkpoints`), the records
(`message_reader`). How far a queue reaches is also in `broker.machine.queues`, which is what
decides; here it says what can be looked up.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from broker.formats import UNIT, UNIT_PLACE
from broker.store.checkpoints import Checkpoint, Reached, resume
from broker.store.queue_files import QueueFiles

TAIL_UNITS_MAX: Final = 512  # one write of 10 KiB for so many messages costs some ns for each
TAILS_BYTES_MAX: Final = 8 * 1024 * 1024  # reached by many quiet queues; then the oldest tail goes


class Boundary(Enum):
    """Which side of a point in time is looked for."""

    LOWER = "LOWER"
    """The first message stored at that time or later."""
    UPPER = "UPPER"
    """The last message stored at that time or earlier."""


@frozen(kw_only=True)
class ConsumeQueuesStatistics:
    """A snapshot for metrics."""

    queues: int
    tail_bytes: int
    open_files: int
    unsynced_files: int
    """Written since the last checkpoint."""
    flushes: int


@define(eq=False)
class _Queue:
    min_offset: int
    tail_offset: int
    """Units below are in the files."""
    tail: bytearray = field(factory=bytearray)

    @property
    def next_offset(self) -> int:
        return self.tail_offset + len(self.tail) // UNIT.size


@define(eq=False)
class ConsumeQueues:
    """All queues of this member. Made by `create` or `open`."""

    _files: QueueFiles
    tail_units_max: int = TAIL_UNITS_MAX
    tails_bytes_max: int = TAILS_BYTES_MAX
    _topics: dict[str, dict[int, _Queue]] = field(factory=dict, init=False)
    _waiting: dict[tuple[str, int], _Queue] = field(factory=dict, init=False)
    """Queues with a tail, the one that has waited longest first."""
    _tail_bytes: int = field(default=0, init=False)
    _flushes: int = field(default=0, init=False)
    _checkpoint: Checkpoint | None = field(default=None, init=False)
    _trimmed: dict[tuple[str, int], int] = field(factory=dict, init=False)
    """Where queues begin that were trimmed since the last checkpoint began."""
    _outgrown: dict[tuple[str, int], int] = field(factory=dict, init=False)
    """The same, of the checkpoint under way."""
    _covered: bool = field(default=False, init=False)
    """Whether a start may have to go on from a checkpoint, so that its files must be kept."""

    @classmethod
    def create(cls, directory: Path) -> "ConsumeQueues":
        """Empty queues: whatever the directory holds is removed, since the log rebuilds it."""
        queues = cls(QueueFiles(directory))
        queues.clear()
        return queues

    @classmethod
    def open(
        cls, directory: Path, reached: Mapping[tuple[str, int], Reached], *, below: int
    ) -> "ConsumeQueues":
        """The queues as they were when a checkpoint began: see `resume`."""
        queues = cls(QueueFiles(directory))
        queues.resume(reached, below=below)
        return queues

    def resume(self, reached: Mapping[tuple[str, int], Reached], *, below: int) -> None:
        """Become, from empty, what the queues were when a checkpoint began, by the files it synced.

        `reached` and `below` are what the machine and the log said at that moment: how far each
        queue reached, and the log position behind the last applied entry. Entries from there on
        have to be applied again; they overwrite what the files have of them.

        **Blocks**: some 30 µs a queue. **Raises** `CannotResume` if the files do not have what was
        reached, and leaves them as they are: then `clear`, and index the whole log again.
        """
        assert not self._topics, "units were indexed already"
        resume(self._files, reached, below)
        for (topic, queue_id), of_queue in reached.items():
            queue = _Queue(of_queue.min_offset, of_queue.next_offset)
            self._topics.setdefault(topic, {})[queue_id] = queue
        self._covered = True

    def clear(self) -> None:
        """Become empty, with no files. **Raises** `FailStop`."""
        assert self._checkpoint is None, "a checkpoint is under way"
        self._files.clear()
        self._topics.clear()
        self._waiting.clear()
        self._tail_bytes = 0
        self._trimmed.clear()
        self._covered = False

    def checkpoint(self) -> Checkpoint:
        """Begin to make durable what is indexed at this moment; costs nothing yet.

        One at a time: `end_checkpoint` makes room for the next. See `checkpoints` for the steps.
        """
        assert self._checkpoint is None, "a checkpoint is under way"
        self._covered = True
        self._checkpoint = Checkpoint(self._files, list(self._waiting), self._flush_waiting)
        self._outgrown, self._trimmed = self._trimmed, {}
        return self._checkpoint

    def end_checkpoint(self) -> None:
        """Let go of the checkpoint under way; if it was not synced, the next one has to do it.

        If no older one will be used, files go that hold only what was trimmed before it began.
        **Raises** `FailStop`.
        """
        assert self._checkpoint is not None
        self._checkpoint.give_up_unless_synced()
        if self._checkpoint.released:
            for (topic, queue_id), first in self._outgrown.items():
                self._files.remove_below(topic, queue_id, first)
        else:
            self._trimmed = self._outgrown | self._trimmed
        self._outgrown = {}
        self._checkpoint = None

    def index(self, topic: str, queue_id: int, first_offset: int, units: bytes) -> None:
        """Append units, readable at once.

        **Blocks**: for a write of some KiB into the page cache, once in 512 messages.
        **Durability**: none; the log is what is durable. **Raises** `FailStop` if a write fails.
        """
        of_topic = self._topics.get(topic)
        if of_topic is None:
            of_topic = self._topics[topic] = {}
        queue = of_topic.get(queue_id)
        if queue is None:
            # Retention lets a queue begin anywhere; its first unit says where.
            queue = of_topic[queue_id] = _Queue(first_offset, first_offset)
        known = queue.next_offset - first_offset
        assert known >= 0, f"queue {queue_id} of {topic!r}: no units for {-known} offsets"
        if known:
            units = units[known * UNIT.size :]
        if not units:
            return
        if not queue.tail:
            self._waiting[topic, queue_id] = queue
        queue.tail += units
        self._tail_bytes += len(units)
        if len(queue.tail) >= self.tail_units_max * UNIT.size:
            self._flush(topic, queue_id, queue)
        while self._tail_bytes > self.tails_bytes_max:
            (old_topic, old_queue_id), old = next(iter(self._waiting.items()))
            self._flush(old_topic, old_queue_id, old)

    def range(self, topic: str, queue_id: int, offset: int, limit: int) -> bytes:
        """Units from `offset` on, at most `limit`; none outside of the queue.

        **Blocks**: for a page of the file, if the system has dropped it from memory.
        """
        queue = self._get(topic, queue_id)
        if queue is None or not queue.min_offset <= offset < queue.next_offset:
            return b""
        end = min(offset + limit, queue.next_offset)
        from_tail = (offset - queue.tail_offset) * UNIT.size
        upto = (end - queue.tail_offset) * UNIT.size
        if from_tail >= 0:
            return bytes(queue.tail[from_tail:upto])
        of_files = self._files.read(topic, queue_id, offset, min(end, queue.tail_offset) - offset)
        return of_files + queue.tail[:upto] if upto > 0 else of_files

    def begin(self, topic: str, queue_id: int, offset: int) -> None:
        """Let a queue that is not known here begin at this offset, with no units yet."""
        of_topic = self._topics.setdefault(topic, {})
        assert queue_id not in of_topic
        of_topic[queue_id] = _Queue(offset, offset)

    def trim(self, topic: str, queue_id: int, first_offset: int) -> None:
        """Let a queue begin later. Its files go once a checkpoint can do without them."""
        queue = self._get(topic, queue_id)
        if queue is not None and queue.min_offset < first_offset:
            assert first_offset <= queue.next_offset
            queue.min_offset = first_offset
            self._trimmed[topic, queue_id] = first_offset

    def first_at(self, topic: str, queue_id: int, position: int) -> int:
        """The first offset whose message lies at this log position or behind it; the next offset if
        none does. **Blocks**: for some pages of the files."""
        first, end = self.min_offset(topic, queue_id), self.next_offset(topic, queue_id)
        return _first(first, end, lambda offset: self._place(topic, queue_id, offset) >= position)

    def min_offset(self, topic: str, queue_id: int) -> int:
        """The first offset that can be looked up; 0 for a queue without messages."""
        queue = self._get(topic, queue_id)
        return queue.min_offset if queue else 0

    def next_offset(self, topic: str, queue_id: int) -> int:
        """The offset the next unit gets; 0 for a queue without messages."""
        queue = self._get(topic, queue_id)
        return queue.next_offset if queue else 0

    def offset_of(self, topic: str, queue_id: int, position: int) -> int | None:
        """The offset of the record that begins at this log position; None if none of the queue's
        does.

        So it also tells whether a position somebody named is a record at all.
        """
        end = self.next_offset(topic, queue_id)
        found = self.first_at(topic, queue_id, position)
        if found < end and self._place(topic, queue_id, found) == position:
            return found
        return None

    def offset_by_time(
        self,
        stored_ms_of: Callable[[int], int],
        topic: str,
        queue_id: int,
        time_ms: int,
        boundary: Boundary = Boundary.LOWER,
    ) -> int:
        """The offset a point in time stands for; `stored_ms_of` tells the time of a log position.

        LOWER: the next offset if all messages are older. UPPER: the min offset if all are younger.
        Some twenty positions are looked at; whatever `stored_ms_of` raises goes to the caller.
        """
        first, end = self.min_offset(topic, queue_id), self.next_offset(topic, queue_id)

        def stored_ms(offset: int) -> int:
            return stored_ms_of(self._place(topic, queue_id, offset))

        if boundary is Boundary.LOWER:
            return _first(first, end, lambda offset: stored_ms(offset) >= time_ms)
        return max(first, _first(first, end, lambda offset: stored_ms(offset) > time_ms) - 1)

    def drop(self, topic: str) -> None:
        """Forget a deleted topic. **Blocks**: to remove its files. **Raises** `FailStop`.

        Files that a checkpoint may need are set aside instead: after a crash, the topic is there
        until its deletion is applied again.
        """
        if self._checkpoint is not None:
            for queue_id in self._topics.get(topic, {}):
                self._flush_waiting(topic, queue_id)
        for queue_id in self._topics.pop(topic, {}):
            waiting = self._waiting.pop((topic, queue_id), None)
            if waiting is not None:
                self._tail_bytes -= len(waiting.tail)
            for starts in (self._trimmed, self._outgrown):
                starts.pop((topic, queue_id), None)
        if not self._covered:
            self._files.delete(topic)
            return
        unsynced, place = self._files.take_unsynced(topic), self._files.next_aside(topic)
        if self._checkpoint is not None:
            self._checkpoint.moves(topic, place, unsynced)
        self._files.set_aside(topic)

    def statistics(self) -> ConsumeQueuesStatistics:
        """For metrics."""
        return ConsumeQueuesStatistics(
            queues=sum(map(len, self._topics.values())),
            tail_bytes=self._tail_bytes,
            open_files=self._files.open_files,
            unsynced_files=self._files.unsynced_files,
            flushes=self._flushes,
        )

    def close(self) -> None:
        """Let go of the files. What is still in memory is given up: the next start rebuilds it."""
        self._files.close()

    def _get(self, topic: str, queue_id: int) -> _Queue | None:
        of_topic = self._topics.get(topic)
        return of_topic.get(queue_id) if of_topic else None

    def _place(self, topic: str, queue_id: int, offset: int) -> int:
        position: int = UNIT_PLACE.unpack(self.range(topic, queue_id, offset, 1))[0]
        return position

    def _flush_waiting(self, topic: str, queue_id: int) -> None:
        """Write out a queue's tail, if it still has one."""
        queue = self._waiting.get((topic, queue_id))
        if queue is not None:
            self._flush(topic, queue_id, queue)

    def _flush(self, topic: str, queue_id: int, queue: _Queue) -> None:
        self._files.write(topic, queue_id, queue.tail_offset, bytes(queue.tail))
        queue.tail_offset = queue.next_offset
        self._tail_bytes -= len(queue.tail)
        queue.tail = bytearray()
        del self._waiting[topic, queue_id]
        self._flushes += 1


def _first(first: int, end: int, holds: Callable[[int], bool]) -> int:
    """The first offset of first..end-1 from which on it holds; `end` if there is none."""
    while first < end:
        middle = (first + end) // 2
        if holds(middle):
            end = middle
        else:
            first = middle + 1
    return first
