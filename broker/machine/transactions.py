"""The half messages whose transaction has not ended: what is still owed an answer.

A half message is stored like any other, as a record of the half topic, and is pending from then on.
It ends once: committed, rolled back or expired, and the message that takes its place, if any, is
put by the same entry of the log. So there is never a second one, however often a verdict comes.

Laws: a half is named by the log position of its record, which no other record ever has. The record
stays where it is while it is pending: whoever trims the log asks `lowest_position` first. How many
halves may be pending is decided where they are admitted, not here (`HALVES_MAX`).

Elsewhere: what a half looks like and what becomes of it (`broker.serving.half_messages`), when its
producer is asked (`broker.serving.check_back`).

**Source**: RocketMQ's `TransactionalMessageServiceImpl.java`, which keeps the same in a queue of
*op* messages and stores a half again with each check.
"""

from collections.abc import Iterator
from typing import Final

from attrs import define, field

from broker.formats import UNIT
from broker.machine.shapes import Plain

HALVES_MAX: Final = 100_000
"""Pending ones of a broker group. RocketMQ sets no limit; a producer that never ends its
transactions must not fill everybody's memory."""


@define
class Half:
    """One pending half message."""

    queue_offset: int
    """Its offset in the half topic's queue."""
    size: int
    """Of its record."""
    stamped_ms: int
    """When it was stored."""
    checks: int = 0
    """How often its producer was asked what became of the transaction."""
    checked_ms: int = 0
    """When it was asked last; 0 if never."""


@define
class Transactions:
    """The table. Anyone may read it between two awaits; the rest is the machine's."""

    _pending: dict[int, Half] = field(factory=dict)
    """By log position, in the order of the log."""

    def __len__(self) -> int:
        return len(self._pending)

    def get(self, position: int) -> Half | None:
        """The half message whose record is at this log position, if it is pending."""
        return self._pending.get(position)

    def lowest_position(self) -> int | None:
        """Where in the log the oldest pending half begins; None if there is none."""
        return next(iter(self._pending), None)

    def newest_first(self) -> Iterator[tuple[int, Half]]:
        """(log position, half) of all of them; not across an await."""
        return reversed(self._pending.items())

    def begin(self, first_offset: int, units: bytes, stamped_ms: int) -> None:
        """These records of the half topic's queue were stored, of dense offsets."""
        for number, (position, size, _code) in enumerate(UNIT.iter_unpack(units)):
            self._pending[position] = Half(first_offset + number, size, stamped_ms)

    def checked(self, position: int, stamped_ms: int) -> bool:
        """The producer is asked; False if the half is not pending."""
        half = self._pending.get(position)
        if half is None:
            return False
        half.checks += 1
        half.checked_ms = stamped_ms
        return True

    def end(self, position: int) -> None:
        """The half at this position is pending no more."""
        del self._pending[position]

    def drop(self) -> None:
        """Forget all of them."""
        self._pending.clear()

    def state(self) -> Plain:
        """All of it as plain values, sorted."""
        return [
            [position, h.queue_offset, h.size, h.stamped_ms, h.checks, h.checked_ms]
            for position, h in self._pending.items()
        ]

    def put(self, position: int, half: Half) -> None:
        """Take one over from a snapshot."""
        self._pending[position] = half
