"""Messages for later: moved to where they were meant for once they are due, by whoever leads.

What waits stands in the queues of the waiting topics, on disk like all messages; here is only the
head of each such queue, and when it is due. At that time its first messages are read, laid out for
the topics they were meant for, and proposed as one `MoveMessages`; one entry of a queue is under
way at a time. Millions of waiting messages cost no memory, a queue of them some hundred bytes.

A message whose own time has not come is moved on to where it waits next (`machine.timer_wheel`).
One that was recalled, whose topic was deleted, or which is none of ours, is done with and not put.

Laws: nothing here is remembered: a new leader reads all of it from the machine. A move that was
declined, or of which nobody knows what became, is looked at again, not repeated. Slots out of which
messages are delivered are moved in the order of their times: one waits while an earlier one, of
which a part is under way, is still being read or has more to come, however slow log and disk are.

Elsewhere: that nothing is moved twice (`machine.moves`); that the log is kept for what waits
(`retention`, which asks `held`).
"""

import heapq
from collections.abc import Callable
from typing import Final, Never

import structlog
import trio
from attrs import define, field, frozen

from broker.errors import MessagesGone
from broker.formats import UNIT, UNIT_PLACE
from broker.machine.machine import Machine
from broker.machine.moves import Move, encode_move
from broker.machine.put_messages import Message
from broker.machine.replies import Declined
from broker.machine.timer_wheel import WAITING_TOPICS, is_exact, until
from broker.serving.cold_reads import ColdReads
from broker.serving.put_batch import Proposer
from broker.store.consume_queues import ConsumeQueues
from broker.store.message_reader import MessageReader
from dledger_py.actors import Inbox
from dledger_py.ledger.errors import LedgerError
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.message import Record, decode_records, encode_record, tags_code

log = structlog.get_logger()

MESSAGES_MAX: Final = 512
"""Of one entry; as many as sends are gathered into one."""

BYTES_MAX: Final = 256 * 1024

UNDER_WAY_MAX: Final = 8
"""Entries at once, each of a queue of its own."""

SLEEP_MAX_S: Final = 1.0
"""Between two looks: the wall clock, which says what is due, may be set."""

PAUSE_MS: Final = 100
"""Before anything is moved again after a move was refused: what refused it, refuses all of them."""

Queue = tuple[str, int]


@frozen(kw_only=True)
class DeliveryStatistics:
    """A snapshot for metrics; since this process began."""

    delivered: int
    moved_on: int
    dropped: int
    waiting_queues: int


@frozen
class _Part:
    """What is next in a waiting queue."""

    queue: Queue
    first_offset: int
    units: bytes
    next_offset: int


@define(eq=False, kw_only=True)
class Deliveries:
    """Actor: wakes when something is due, or begins to wait, and this member leads."""

    machine: Machine
    queues: ConsumeQueues
    reader: MessageReader
    cold_reads: ColdReads
    ledger: Proposer
    leads: Callable[[], bool]
    now_ms: Callable[[], int]
    delivered: int = field(default=0, init=False)
    moved_on: int = field(default=0, init=False)
    dropped: int = field(default=0, init=False)
    _heap: list[tuple[int, Queue]] = field(factory=list, init=False)
    """When the head of each queue is due in which something waits, the soonest first."""
    _known: set[Queue] = field(factory=set, init=False)
    """Those that are in there."""
    _under_way: dict[Queue, int] = field(factory=dict, init=False)
    """Those of which a part is being moved, and the first offset that was not proposed yet."""
    _not_before_ms: int = field(default=0, init=False)
    _news: trio.Event = field(factory=trio.Event, init=False)

    async def run(self, inbox: Inbox[Never]) -> None:
        """**Raises** `FailStop` if what waits cannot be read."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver_for_ever)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _deliver_for_ever(self) -> None:
        self.role_changed()
        while True:
            self._news = trio.Event()
            self.look()
            with trio.move_on_after(self.sleep_s()):
                await self._news.wait()

    def sleep_s(self) -> float:
        """How long nothing is due, as far as is known."""
        if not self._heap or not self._has_way():
            return SLEEP_MAX_S
        due_ms = max(self._heap[0][0], self._not_before_ms)
        return min(max(due_ms - self.now_ms(), 0) / 1000, SLEEP_MAX_S)

    def role_changed(self) -> None:
        """Forget what is known, and find it out again if this member leads."""
        self._known.clear()
        self._heap.clear()
        self._not_before_ms = 0
        if self.leads():
            for topic in sorted(WAITING_TOPICS):
                for queue_id in self.machine.queues.written(topic):
                    self._look_at((topic, queue_id))
        self._news.set()

    def indexed(self, topic: str, queue_id: int) -> None:
        """Something was put into a waiting queue."""
        queue = (topic, queue_id)
        if queue not in self._known and queue not in self._under_way and self.leads():
            self._look_at(queue)
            self._news.set()

    def held(self) -> int | None:
        """The log position of the first message that still waits; None if none does."""
        positions = []
        for topic in WAITING_TOPICS:
            for queue_id in self.machine.queues.written(topic):
                cursor = self.machine.moves.cursor(topic, queue_id)
                unit = self.queues.range(topic, queue_id, cursor, 1)
                if unit:
                    positions.append(UNIT_PLACE.unpack(unit)[0])
        return min(positions, default=None)

    def statistics(self) -> DeliveryStatistics:
        """Counts."""
        return DeliveryStatistics(
            delivered=self.delivered,
            moved_on=self.moved_on,
            dropped=self.dropped,
            waiting_queues=len(self._known),
        )

    def look(self) -> None:
        """Begin to move what is due. **Raises** `FailStop`."""
        if not self.leads():
            return
        now_ms = self.now_ms()
        if now_ms < self._not_before_ms <= now_ms + PAUSE_MS:  # or the clock was set back
            return
        while self._heap and self._heap[0][0] <= now_ms and self._has_way():
            _due_ms, queue = heapq.heappop(self._heap)
            self._known.discard(queue)
            self._begin(queue, now_ms)

    def _has_way(self) -> bool:
        """Whether what is due first may be moved beside all that is under way."""
        if len(self._under_way) >= UNDER_WAY_MAX:
            return False
        due_ms, queue = self._heap[0]
        return not is_exact(*queue) or not any(
            is_exact(*other) and self._due_ms(other, offset, due_ms) < due_ms
            for other, offset in self._under_way.items()
        )

    def _due_ms(self, queue: Queue, offset: int, otherwise: int) -> int:
        """When the message at this offset is due, if there is one."""
        unit = self.queues.range(*queue, offset, 1)
        return UNIT.unpack(unit)[2] if unit else otherwise

    def _look_at(self, queue: Queue) -> None:
        """Note when the head of a queue is due, if it has one."""
        unit = self.queues.range(*queue, self.machine.moves.cursor(*queue), 1)
        if unit:
            _position, _size, due_ms = UNIT.unpack(unit)
            self._known.add(queue)
            heapq.heappush(self._heap, (due_ms, queue))

    def _begin(self, queue: Queue, now_ms: int) -> None:
        """Read what is due in a queue, then propose to move it."""
        first = self.machine.moves.cursor(*queue)
        units = self.queues.range(*queue, first, MESSAGES_MAX)
        count = size = 0
        for _position, bytes_, due_ms in UNIT.iter_unpack(units):
            size += bytes_
            if due_ms > now_ms or (count and size > BYTES_MAX):
                break
            count += 1
        if not count:
            self._look_at(queue)  # the clock was set back, or an earlier lead moved the head
            return
        part = _Part(queue, first, units[: count * UNIT.size], first + count)
        self._under_way[queue] = first
        try:
            self._propose(part, self._read(part, nowait=True))
        except BlockingIOError:
            self.cold_reads.submit(
                lambda: self._read(part, nowait=False),
                lambda found: self._propose(part, found),
                lambda _error: self._ended(queue, pause=True),
            )

    def _read(self, part: _Part, *, nowait: bool) -> list[Record]:
        """The records of a part. Any thread; **blocks** unless `nowait`. **Raises** `FailStop`."""
        chosen = range(len(part.units) // UNIT.size)
        try:
            fetched = self.reader.read(
                part.units,
                part.first_offset,
                chosen,
                messages_max=len(chosen),
                bytes_max=1 << 62,
                nowait=nowait,
            )
        except MessagesGone:
            log.exception("deliveries.gone", queue=part.queue, offset=part.first_offset)
            return []
        return decode_records(fetched.body)

    def _propose(self, part: _Part, found: list[Record]) -> None:
        if not self.leads():
            self._ended(part.queue)
            return
        now_ms = self.now_ms()
        laid_out = _LaidOut(machine=self.machine, now_ms=now_ms)
        for record in found:
            laid_out.add(record)
        topic, queue_id = part.queue
        move = Move(
            stamped_ms=now_ms,
            topic=topic,
            queue_id=queue_id,
            first_offset=part.first_offset,
            next_offset=part.next_offset,
            soonest_ms=min(laid_out.times_ms, default=0),
            latest_ms=max(laid_out.times_ms, default=0),
            recalls_seen=self.machine.moves.recalls_count,
        )
        put, moved_on = len(laid_out.messages), laid_out.moved_on

        def settle(outcome: object) -> None:
            if isinstance(outcome, LedgerError):
                self._ended(part.queue, pause=True)
                return
            if not isinstance(outcome, Declined):
                self.delivered += put - moved_on
                self.moved_on += moved_on
                self.dropped += part.next_offset - part.first_offset - put
            self._ended(part.queue)

        self._under_way[part.queue] = part.next_offset
        self.ledger.propose(encode_move(move, laid_out.messages), settle)

    def _ended(self, queue: Queue, *, pause: bool = False) -> None:
        self._under_way.pop(queue, None)
        if pause:
            self._not_before_ms = self.now_ms() + PAUSE_MS
        if queue not in self._known and self.leads():
            self._look_at(queue)
        self._news.set()


@define(eq=False, kw_only=True)
class _LaidOut:
    """The messages of one move."""

    machine: Machine
    now_ms: int
    messages: list[Message] = field(factory=list)
    moved_on: int = 0
    times_ms: list[int] = field(factory=list)
    """When those that are delivered were to be, if they had a time of their own."""

    def add(self, record: Record) -> None:
        """Lay one out, if it is to be put anywhere."""
        parsed = props.decode(record.properties)
        topic = self.machine.topics.get(parsed.get(props.REAL_TOPIC, ""))
        queue_id = parsed.get(props.REAL_QUEUE_ID, "")
        if topic is None or not topic.queues or not queue_id.isdecimal():
            log.warning(
                "deliveries.dropped",
                topic=parsed.get(props.REAL_TOPIC),
                unique_id=parsed.get(props.UNIQ_KEY),
            )
            return
        deliver_ms = parsed.get(props.TIMER_OUT_MS)
        if deliver_ms is not None and self.machine.moves.recalled(
            topic.name, parsed.get(props.UNIQ_KEY, ""), int(deliver_ms)
        ):
            return
        if deliver_ms is not None and int(deliver_ms) > self.now_ms:
            waiting = until(int(deliver_ms), self.now_ms)
            self.moved_on += 1
            self._put(record, waiting.topic, waiting.queue_id, waiting.due_ms)
            return
        if deliver_ms is not None:
            self.times_ms.append(int(deliver_ms))
        tag = parsed.get(props.TAGS)
        # A topic may have got fewer queues meanwhile.
        self._put(record, topic.name, int(queue_id) % topic.queues, tags_code(tag) if tag else 0)

    def _put(self, record: Record, topic: str, queue_id: int, code: int) -> None:
        again = encode_record(
            queue_id=queue_id,
            flag=record.flag,
            sys_flag=record.sys_flag,
            born_timestamp_ms=record.born_timestamp_ms,
            born_host=record.born_host,
            store_timestamp_ms=self.now_ms,
            store_host=record.store_host,
            reconsume_times=record.reconsume_times,
            prepared_offset=record.prepared_offset,
            body=record.body,
            topic=topic,
            properties=record.properties.encode(),
        )
        self.messages.append((topic, queue_id, code, again))
