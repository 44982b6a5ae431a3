"""In which queue a message waits for its time: levels of delay, and a wheel of three rings.

A level has a queue of its own (`SCHEDULE_TOPIC`): all of it waits equally long, so the queue is in
the order in which it is due. For any other time there is a wheel (`TIMER_TOPIC`), as in *Hashed and
Hierarchical Timing Wheels* (Varghese and Lauck, 1987), whose slots are queues:

    ring 0    512 slots of 50 ms     for up to 20 s ahead: due at its very time
    ring 1    256 slots of 12.8 s    for up to 51 min ahead: due 2 s before its slot begins
    ring 2     32 slots of 30 min    for up to 12 h ahead; what is further ahead waits there, too

What is due in ring 1 or 2 is moved on, to the ring and slot that its time asks for then. So a
message is written again once or twice, and once every 12 hours.

Laws: whatever the time, nothing waits longer than half a day in one place, so the log need not be
kept longer for it. A ring is never filled to its end: where a new leader's clock is behind, what it
puts does not come behind what is due a whole turn later.

**Source**: RocketMQ's `MessageStoreConfig.java` for the levels, protocol page 08 §2 and 3.
"""

from typing import Final

from attrs import frozen

from broker.machine import names

LEVELS_MS: Final = tuple(
    1000 * seconds
    for seconds in (
        *(1, 5, 10, 30),
        *(60 * minutes for minutes in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30)),
        *(3600, 7200),
    )
)
"""How long each level waits: level 1 first."""

WAITING_TOPICS: Final = frozenset({names.SCHEDULE_TOPIC, names.TIMER_TOPIC})

EARLY_MS: Final = 2_000
"""How long before its slot begins a message is moved on, out of an outer ring."""


@frozen
class _Ring:
    first_queue: int
    slots: int
    slot_ms: int
    ahead_ms: int


_RINGS: Final = (
    _Ring(0, 512, 50, 20_000),
    _Ring(512, 256, 12_800, 51 * 60_000),
    _Ring(768, 32, 30 * 60_000, 12 * 3_600_000),
)
WHEEL_QUEUES: Final = sum(ring.slots for ring in _RINGS)

FURTHEST_MS: Final = 100 * 366 * 86_400_000
"""How far ahead a message may be timed: a century, so that it is no slip of milliseconds."""


@frozen
class Waiting:
    """Where a message waits, and until when."""

    topic: str
    queue_id: int
    due_ms: int


def is_exact(topic: str, queue_id: int) -> bool:
    """Whether messages are delivered out of this queue at their very times: a slot of ring 0."""
    return topic == names.TIMER_TOPIC and queue_id < _RINGS[0].slots


def at_level(level: int, now_ms: int) -> Waiting:
    """For a level of delay, 1 or more; beyond the last it is the last."""
    level = min(level, len(LEVELS_MS))
    return Waiting(names.SCHEDULE_TOPIC, level - 1, now_ms + LEVELS_MS[level - 1])


def until(deliver_ms: int, now_ms: int) -> Waiting:
    """For a time in the future. A slot of an outer ring may be due at once."""
    for ring in _RINGS:
        if deliver_ms - now_ms < ring.ahead_ms:
            break
    else:
        ring = _RINGS[-1]
        deliver_ms = now_ms + ring.ahead_ms
    slot = deliver_ms // ring.slot_ms
    due_ms = deliver_ms if ring is _RINGS[0] else slot * ring.slot_ms - EARLY_MS
    return Waiting(names.TIMER_TOPIC, ring.first_queue + slot % ring.slots, due_ms)
