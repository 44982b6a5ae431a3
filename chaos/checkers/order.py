"""Consuming in order: one owner of a queue at a time, nothing left out, each key in its order.

A producer sends the numbers of a key one after the other, and tries each until it is acknowledged,
and some once more: all attempts are one message. A new owner goes on where the last one committed,
and may handle again what that one handled.
"""

from collections import defaultdict
from typing import Final

from chaos.checkers.history import Consumed, Found, History, Outcome, QueueLeft, QueueTaken
from chaos.checkers.places import copies, outcomes

TOPIC: Final = "ChaosOrder"
GROUP: Final = "chaos-in-order"

QueueKey = tuple[str, int]  # broker, queue id


def value_of(key: str, number: int) -> str:
    """What the `number`th message of a key is called."""
    return f"{key}-{number:06d}"


def owned_twice(history: History) -> tuple[str, ...]:
    """A queue is taken only after its last owner has left it."""
    owners: dict[QueueKey, str] = {}
    wrong = []
    for event in history.events:
        if isinstance(event, QueueTaken):
            queue = (event.broker, event.queue_id)
            other = owners.get(queue)
            if other is not None and other != event.owner:
                wrong.append(f"{event.owner} was given {_name(queue)} while {other} had it")
            owners[queue] = event.owner
        elif isinstance(event, QueueLeft) and owners.get((event.broker, event.queue_id)) == (
            event.owner
        ):
            del owners[event.broker, event.queue_id]
    return tuple(wrong)


def left_out(history: History) -> tuple[str, ...]:
    """An owner goes on at the next offset, or before it: nothing between is left out."""
    behind: dict[QueueKey, int] = defaultdict(int)
    wrong = []
    for event in history.of(Consumed):
        queue = (event.broker, event.queue_id)
        if event.offset > behind[queue]:
            wrong.append(
                f"{event.owner} handled offset {event.offset} of {_name(queue)},"
                f" of which {behind[queue]} was the next"
            )
        behind[queue] = max(behind[queue], event.offset + 1)
    return tuple(wrong)


def keys_reordered(history: History) -> tuple[str, ...]:
    """The numbers of a key are handled for the first time in their order, none left out."""
    last: dict[str, int] = {}
    wrong = []
    for event in history.of(Consumed):
        before = last.setdefault(event.key, -1)
        if event.number > before + 1:
            wrong.append(f"{value_of(event.key, event.number)} was handled after number {before}")
        last[event.key] = max(before, event.number)
    return tuple(wrong)


def stored_reordered(history: History) -> tuple[str, ...]:
    """In the log, too, the numbers of a key begin in their order."""
    places = {
        (found.broker, found.queue_id, found.offset): found.value
        for found in history.of(Found)
        if found.topic == TOPIC
    }
    last: dict[str, int] = {}
    wrong = []
    for _place, value in sorted(places.items()):
        key, _, number = value.rpartition("-")
        before = last.setdefault(key, -1)
        if int(number) > before + 1:
            wrong.append(f"{value} is stored after number {before}")
        last[key] = max(before, int(number))
    return tuple(wrong)


def numbers_repeated(history: History) -> tuple[str, ...]:
    """However often a message is sent again, it is stored once."""
    return tuple(
        f"{value} is stored {len(places)} times, at {', '.join(str(p.offset) for p in places)}"
        for value, places in copies(history, [TOPIC]).items()
        if len(places) > 1
    )


def unhandled(history: History) -> tuple[str, ...]:
    """What was acknowledged is handled."""
    handled = {value_of(event.key, event.number) for event in history.of(Consumed)}
    return tuple(
        f"{value} was acknowledged and never handled"
        for value, tried in outcomes(history, TOPIC).items()
        if Outcome.DONE in tried and value not in handled
    )


def order_idle(history: History) -> tuple[str, ...]:
    """Queues changed hands."""
    return () if _handovers(history) else ("no queue went from one consumer to another",)


def told(history: History) -> str:
    """The figures for people."""
    handled = {(event.key, event.number) for event in history.of(Consumed)}
    again = sum(1 for _ in history.of(Consumed)) - len(handled)
    return (
        f"in order: {len(handled)} handled, {again} of them again;"
        f" queues changed hands {_handovers(history)} times"
    )


def _handovers(history: History) -> int:
    last: dict[QueueKey, str] = {}
    count = 0
    for event in history.of(QueueTaken):
        queue = (event.broker, event.queue_id)
        count += last.get(queue, event.owner) != event.owner
        last[queue] = event.owner
    return count


def _name(queue: QueueKey) -> str:
    broker, queue_id = queue
    return f"queue {queue_id}" + (f" of {broker}" if broker else "")


CHECKERS = (
    owned_twice,
    left_out,
    keys_reordered,
    stored_reordered,
    numbers_repeated,
    unhandled,
    order_idle,
)
