"""What a pop takes next: chosen by the leader, decided by the machine.

A group's frontier moves when a pop is applied. The next pop need not wait for that: a *cursor* says
where the frontier will be once everything proposed is applied. If it turns out otherwise, because
another leader came first or an operator has sent the group elsewhere, the machine declines what was
proposed, the cursor is forgotten, and the choice is made again. So what is here may be lost or
wrong at any time, and nothing but time is lost with it.

What no filter matches is passed over. That moves the frontier like any pop, but is proposed only
with the next message that matches, or once it is a long stretch, or a wait is over.

Elsewhere: what may be taken (`machine.apply_pops`); waiting, reading and answering
(`rooms.popping`).
"""

from collections.abc import Callable, Sequence
from typing import Final

from attrs import define, field, frozen

from broker.filters.sql import SqlFilter
from broker.formats import UNIT, UNIT_PLACE
from broker.machine import pops
from broker.machine.apply_pops import frontier
from broker.machine.machine import Machine
from broker.machine.pops import Claim, PopKey, PopQueue, runs_of
from broker.store.consume_queues import ConsumeQueues
from broker.store.message_reader import Fetched, MessageReader
from broker.store.tag_filter import matching
from dledger_py.remoting.commands.popping import FROM_FIRST, Origin
from dledger_py.remoting.wire.message import decode_records

Wants = frozenset[int] | SqlFilter | None

SCANNED_MAX: Final = 4_000
"""Index entries looked at for one queue at a time: a third of a millisecond. Pulls look at fewer,
and do not write down that they did."""

PASSED_MAX: Final = 2_000
"""A stretch in which nothing matches is proposed once it is so long."""

FILTERING_MS_MAX: Final = 5
"""For an expression, per queue on the loop."""

AGAIN_MS: Final = 200
"""When to look again at a queue that something is under way for."""

CURSORS_MAX: Final = 100_000
"""Beyond, those are forgotten that nothing is under way for."""


@frozen(kw_only=True)
class Asked:
    """What a pop asks for, of one queue."""

    key: PopKey
    origin: Origin
    wants: Wants
    init_mode: int
    ordered: bool = False
    attempt_id: str = ""


@frozen(kw_only=True)
class Part:
    """What is to be taken of one queue, and where it is."""

    key: PopKey
    origin: Origin
    claim: Claim
    units: bytes
    units_at: int
    """The offset of the first unit."""
    chosen: Sequence[int]
    """Numbers of the units that are taken."""
    size: int
    fetched: Fetched | None = None
    """The records, if they had to be read in order to choose."""

    @property
    def offsets(self) -> list[int]:
        """Those that are taken."""
        return [self.units_at + number for number in self.chosen]


@frozen
class Blocked:
    """Nothing can be taken: the queue is consumed in order, and something of it is in flight."""

    until_ms: int


class Full(Exception):
    """So much is in flight that nothing may be added."""


@define(eq=False)
class Cursor:
    """Where a group will stand in a queue."""

    next_offset: int
    """Where the group will stand; counts while something is under way."""
    under_way: int = 0
    looked: int = 0
    """Nothing before matches `wants`."""
    wants: Wants = None


@define(eq=False, kw_only=True)
class PopChoice:
    """Looks for messages that a pop may take."""

    machine: Machine
    queues: ConsumeQueues
    reader: MessageReader
    now_ms: Callable[[], int]
    monotonic_ms: Callable[[], int]
    _cursors: dict[PopKey, Cursor] = field(factory=dict, init=False)

    def choose(self, asked: Asked, limit: int, bytes_max: int) -> Part | Blocked | None:
        """Up to `limit` messages of a queue, of `bytes_max` altogether but for the first; None if
        there are none. A part may be without messages: then the group only moves on.

        **Raises** `Full`; `BlockingIOError` if records have to be read from the disk first.
        """
        queue = self.machine.pops.get(asked.key)
        if self.machine.pops.count >= pops.CHECKPOINTS_MAX or (
            queue is not None and queue.in_flight >= pops.IN_FLIGHT_MAX
        ):
            raise Full
        limit = min(limit, pops.IN_FLIGHT_MAX - (queue.in_flight if queue is not None else 0))
        if queue is not None and asked.ordered and queue.checkpoints:
            # Given out in no order; until they are acknowledged or moved, there is none.
            return Blocked(max(queue.due_ms or 0, self.now_ms() + AGAIN_MS))
        if queue is not None and queue.order.held:
            return self._choose_again(asked, queue, limit, bytes_max)
        at = self._stands(asked.key, asked.init_mode)
        _group, topic, queue_id = asked.key
        end = self.queues.next_offset(topic, queue_id)
        if at > end:
            return self._passing(asked, end, end)
        if at == end:
            return None
        if asked.ordered and self._under_way(asked.key):
            return Blocked(self.now_ms() + AGAIN_MS)
        return self._choose_next(asked, at, end, limit, bytes_max)

    def available(self, asked: Asked) -> bool:
        """Whether a pop might find something, whatever it wants."""
        queue = self.machine.pops.get(asked.key)
        if queue is not None and asked.ordered and queue.checkpoints:
            return False
        if queue is not None and queue.order.held:
            return self._blocked_until_ms(asked, queue) <= self.now_ms()
        _group, topic, queue_id = asked.key
        end = self.queues.next_offset(topic, queue_id)
        return self._stands(asked.key, asked.init_mode) != end

    def reading(self, asked: Asked) -> Callable[[], object]:
        """What to run in a thread before `choose` is called again, where it had to read records
        that are not in memory."""
        _group, topic, queue_id = asked.key
        at = self._stands(asked.key, asked.init_mode)
        cursor = self._cursors.get(asked.key)
        if cursor is not None and cursor.wants == asked.wants:
            at = max(at, cursor.looked)
        units = self.queues.range(topic, queue_id, at, SCANNED_MAX)
        wants = asked.wants
        assert isinstance(wants, SqlFilter)
        return lambda: self.reader.select(units, at, wants.matches)

    def left(self, asked: Asked) -> int:
        """How many messages of a queue the group was not given yet."""
        _group, topic, queue_id = asked.key
        end = self.queues.next_offset(topic, queue_id)
        return max(0, end - self._stands(asked.key, asked.init_mode))

    def passed(self, asked: Asked) -> Part | None:
        """What was looked at in vain and is not proposed yet."""
        cursor = self._cursors.get(asked.key)
        if cursor is None or cursor.wants != asked.wants or not cursor.looked:
            return None
        at = self._stands(asked.key, asked.init_mode)
        return self._passing(asked, at, cursor.looked) if at < cursor.looked else None

    def proposed(self, part: Part) -> Cursor:
        """The part is under way; what to say with `settled`."""
        cursor = self._cursor(part.key)
        cursor.next_offset = part.claim.next_offset
        cursor.under_way += 1
        cursor.looked = 0
        return cursor

    def settled(self, part: Part, cursor: Cursor, *, taken: bool) -> None:
        """It was applied, or it was declined or lost: then nothing is known of the queue."""
        cursor.under_way -= 1
        over = not taken or (cursor.under_way <= 0 and not cursor.looked)
        if over and self._cursors.get(part.key) is cursor:
            del self._cursors[part.key]

    def forget(self) -> None:
        """Somebody else leads, or has led."""
        self._cursors.clear()

    def _stands(self, key: PopKey, init_mode: int) -> int:
        """The offset the next pop begins at; one beyond the end of a queue that began again."""
        _group, topic, queue_id = key
        first = self.queues.min_offset(topic, queue_id)
        cursor = self._cursors.get(key)
        if cursor is not None and cursor.under_way > 0:
            return max(cursor.next_offset, first)
        stands = frontier(self.machine, key)
        if stands is None:
            # As for pulls, a queue that still has all of its messages is read from the first on.
            if init_mode == FROM_FIRST or not first:
                return first
            return max(first, self.queues.next_offset(topic, queue_id) - 1)
        return max(stands, first)

    def _under_way(self, key: PopKey) -> bool:
        cursor = self._cursors.get(key)
        return cursor is not None and cursor.under_way > 0

    def _cursor(self, key: PopKey) -> Cursor:
        cursor = self._cursors.get(key)
        if cursor is None:
            if len(self._cursors) >= CURSORS_MAX:
                self._cursors = {k: c for k, c in self._cursors.items() if c.under_way > 0}
            cursor = self._cursors[key] = Cursor(0)
        return cursor

    def _passing(self, asked: Asked, first: int, following: int) -> Part:
        _group, topic, queue_id = asked.key
        claim = Claim(
            topic=topic, queue_id=queue_id, first_offset=first, next_offset=following, runs=()
        )
        return Part(
            key=asked.key,
            origin=asked.origin,
            claim=claim,
            units=b"",
            units_at=first,
            chosen=(),
            size=0,
        )

    def _choose_next(
        self, asked: Asked, at: int, end: int, limit: int, bytes_max: int
    ) -> Part | None:
        """Of what nobody of the group was given yet."""
        _group, topic, queue_id = asked.key
        cursor = self._cursors.get(asked.key)
        looked = at
        if cursor is not None and cursor.wants == asked.wants and at <= cursor.looked <= end:
            looked = cursor.looked
        if looked == end:
            return None
        some = limit if asked.wants is None else SCANNED_MAX
        units = self.queues.range(topic, queue_id, looked, some)
        chosen, following, fetched = self._matching(asked.wants, units, looked, limit, bytes_max)
        if not chosen:
            if following < end or following - at >= PASSED_MAX:
                return self._passing(asked, at, following)
            cursor = self._cursor(asked.key)
            cursor.looked, cursor.wants = following, asked.wants
            return None
        offsets = [looked + number for number in chosen]
        claim = Claim(
            topic=topic,
            queue_id=queue_id,
            first_offset=at,
            next_offset=following,
            runs=runs_of(offsets),
        )
        return Part(
            key=asked.key,
            origin=asked.origin,
            claim=claim,
            units=units,
            units_at=looked,
            chosen=chosen,
            size=_size(units, chosen),
            fetched=fetched,
        )

    def _matching(
        self, wants: Wants, units: bytes, at: int, limit: int, bytes_max: int
    ) -> tuple[Sequence[int], int, Fetched | None]:
        """The numbers of the units that match, as far as the limits allow; the offset to go on
        from; the records, if they were read."""
        if isinstance(wants, SqlFilter):
            until_ms = self.monotonic_ms() + FILTERING_MS_MAX
            fetched = self.reader.select(
                units,
                at,
                wants.matches,
                messages_max=limit,
                bytes_max=bytes_max,
                is_enough=lambda: self.monotonic_ms() >= until_ms,
                nowait=True,
            )
            numbers = [record.queue_offset - at for record in decode_records(fetched.body)]
            return numbers, fetched.next_offset, fetched
        numbers = list(matching(units, wants))
        chosen = _within(units, numbers, limit, bytes_max)
        if len(chosen) < len(numbers):
            return chosen, at + chosen[-1] + 1, None
        return chosen, at + len(units) // UNIT.size, None

    def _choose_again(
        self, asked: Asked, queue: PopQueue, limit: int, bytes_max: int
    ) -> Part | Blocked | None:
        """Of what was given out in order, and is free again."""
        until_ms = self._blocked_until_ms(asked, queue)
        if self._under_way(asked.key):
            return Blocked(max(until_ms, self.now_ms() + AGAIN_MS))
        if until_ms > self.now_ms():
            return Blocked(until_ms)
        _group, topic, queue_id = asked.key
        held = tuple(queue.order.held)[:limit]
        first = held[0]
        units = self.queues.range(topic, queue_id, first, held[-1] - first + 1)
        chosen = _within(units, [offset - first for offset in held], limit, bytes_max)
        taken = [first + number for number in chosen]
        claim = Claim(
            topic=topic,
            queue_id=queue_id,
            first_offset=first,
            next_offset=taken[-1] + 1,
            runs=runs_of(taken),
        )
        return Part(
            key=asked.key,
            origin=asked.origin,
            claim=claim,
            units=units,
            units_at=first,
            chosen=chosen,
            size=_size(units, chosen),
        )

    def _blocked_until_ms(self, asked: Asked, queue: PopQueue) -> int:
        if asked.attempt_id and asked.ordered and asked.attempt_id == queue.order.attempt_id:
            return 0
        return queue.order.blocked_until_ms()


def _within(units: bytes, numbers: Sequence[int], limit: int, bytes_max: int) -> Sequence[int]:
    """The first of the units that the limits allow; one in any case."""
    chosen: list[int] = []
    total = 0
    for number in numbers[:limit]:
        total += UNIT_PLACE.unpack_from(units, number * UNIT.size)[1]
        if chosen and total > bytes_max:
            break
        chosen.append(number)
    return chosen


def _size(units: bytes, chosen: Sequence[int]) -> int:
    return sum(UNIT_PLACE.unpack_from(units, number * UNIT.size)[1] for number in chosen)
