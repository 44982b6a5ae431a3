"""Messages for later: delivered once, in time, in order; not at all if they were recalled.

A producer tries a message again only if nobody answered, and it is the same message then. So what
is found twice was delivered twice.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from chaos.checkers.history import Found, History, Outcome, Recalled, Timed, Tried
from chaos.checkers.places import copies, outcomes

TOPIC: Final = "ChaosTimers"
APART_MS: Final = 50
"""Times at least so far apart are kept in order."""
AHEAD_MS: Final = 10_000
"""If they were not further ahead; what is, is moved before it is due, and may be late for that."""


def timers_lost(history: History) -> tuple[str, ...]:
    """What was acknowledged, and not recalled, is delivered."""
    found = copies(history, [TOPIC])
    recalls = _recalls(history)
    return tuple(
        f"{value} was acknowledged and never delivered"
        for value, tried in outcomes(history, TOPIC).items()
        if Outcome.DONE in tried
        and value not in found
        and all(outcome is Outcome.REFUSED for outcome in recalls.get(value, ()))
    )


def timers_repeated(history: History) -> tuple[str, ...]:
    """Nothing is delivered twice."""
    return tuple(
        f"{value} was delivered {len(places)} times, at {_offsets(places)}"
        for value, places in copies(history, [TOPIC]).items()
        if len(places) > 1
    )


def timers_early(history: History) -> tuple[str, ...]:
    """Nothing is delivered before its time."""
    promised = {timed.value: timed.earliest_ms for timed in history.of(Timed)}
    return tuple(
        f"{value} was delivered {promised[value] - found.stored_ms} ms before its time"
        for value, places in copies(history, [TOPIC]).items()
        for found in places
        if value in promised and found.stored_ms < promised[value]
    )


def recalled_delivered(history: History) -> tuple[str, ...]:
    """What was taken back, and the broker said so, is never delivered."""
    found = copies(history, [TOPIC])
    return tuple(
        f"{value} was recalled and is at {_offsets(found[value])}"
        for value, outcome in _recalls(history).items()
        if Outcome.DONE in outcome and value in found
    )


def timers_reordered(history: History) -> tuple[str, ...]:
    """In one queue, messages of one level stand in the order in which they were acknowledged, and
    those with times of their own in the order of these, if they are `APART_MS` apart and were at
    most `AHEAD_MS` ahead.

    Only such count as were acknowledged before the earlier one was due: who comes late is behind.
    """
    acknowledged_ms = {
        tried.value: tried.at_ms
        for tried in history.of(Tried)
        if tried.topic == TOPIC and tried.outcome is Outcome.DONE
    }
    found = copies(history, [TOPIC])
    lanes: dict[tuple[str, int, int], list[Timed]] = defaultdict(list)
    for timed in history.of(Timed):
        ahead_ms = timed.earliest_ms - acknowledged_ms.get(timed.value, timed.earliest_ms)
        exact = timed.exact and ahead_ms <= AHEAD_MS
        if ahead_ms > 0 and timed.value in found and (timed.level or exact):
            lanes[timed.broker, timed.queue_id, timed.level].append(timed)
    wrong = []
    for lane in lanes.values():
        if not lane[0].level:
            lane.sort(key=lambda timed: timed.earliest_ms)
        before: list[Timed] = []
        for timed in lane:
            offset = found[timed.value][0].offset
            earlier = [
                other
                for other in before
                if timed.level or timed.earliest_ms - other.earliest_ms >= APART_MS
            ]
            before.append(timed)
            last = max(earlier, key=lambda other: found[other.value][0].offset, default=None)
            if last is not None and found[last.value][0].offset > offset:
                wrong.append(
                    f"{timed.value} was delivered before {last.value}, which was due first"
                )
    return tuple(wrong)


def timers_idle(history: History) -> tuple[str, ...]:
    """There were messages for later, by level and by time, and recalls."""
    found = copies(history, [TOPIC])
    delivered = [timed for timed in history.of(Timed) if timed.value in found]
    recalled = any(recall.outcome is Outcome.DONE for recall in history.of(Recalled))
    kinds = {
        "message of a level was delivered": any(timed.level for timed in delivered),
        "message with a time of its own was delivered": any(not t.level for t in delivered),
        "recall was acknowledged": recalled,
    }
    return tuple(f"no {what}" for what, there in kinds.items() if not there)


def told(history: History) -> str:
    """The figures for people."""
    found = copies(history, [TOPIC])
    late = [
        found[timed.value][0].stored_ms - timed.earliest_ms
        for timed in history.of(Timed)
        if timed.value in found
    ]
    recalls = _recalls(history)
    taken_back = sum(1 for outcome in recalls.values() if Outcome.DONE in outcome)
    return (
        f"for later: {len(late)} delivered, the latest {max(late, default=0)} ms after its time;"
        f" {taken_back} of {len(recalls)} recalls were in time"
    )


def _recalls(history: History) -> Mapping[str, list[Outcome]]:
    by_value: dict[str, list[Outcome]] = defaultdict(list)
    for recall in history.of(Recalled):
        by_value[recall.value].append(recall.outcome)
    return by_value


def _offsets(places: list[Found]) -> str:
    return ", ".join(f"queue {found.queue_id} offset {found.offset}" for found in places)


CHECKERS = (
    timers_lost,
    timers_repeated,
    timers_early,
    recalled_delivered,
    timers_reordered,
    timers_idle,
)
