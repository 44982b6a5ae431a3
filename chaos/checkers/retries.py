"""Retries: what is given back comes again as often as that, and ends among the dead letters once.

A consumer that does not hear whether its message was taken back gives it back again. So between the
number of acknowledgements and the number of attempts anything is right; mostly they are equal.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from chaos.checkers.history import Found, History, Outcome, SentBack
from chaos.checkers.places import copies, outcomes

TOPIC: Final = "ChaosRetries"
GROUP: Final = "chaos-retries"
RETRY_TOPIC: Final = f"%RETRY%{GROUP}"
DEAD_TOPIC: Final = f"%DLQ%{GROUP}"

Step = tuple[str, int, bool]  # value, how often it came back by this, whether as a dead letter


def retries_lost(history: History) -> tuple[str, ...]:
    """What was given back is in the retry topic, or among the dead letters, so many times."""
    found = _found(history)
    return tuple(
        f"{_step(step)} {done} times, and is there {len(found.get(step, ()))} times"
        for step, tried in _given_back(history).items()
        if len(found.get(step, ())) < (done := tried.count(Outcome.DONE))
    )


def retries_repeated(history: History) -> tuple[str, ...]:
    """And not more often; a count that nobody's giving back explains is wrong, too."""
    given_back = _given_back(history)
    return tuple(
        f"{_step(step)} {most} times at most, and is there {len(places)} times"
        for step, places in _found(history).items()
        if len(places) > (most := _possible(given_back.get(step, [])))
    )


def retries_early(history: History) -> tuple[str, ...]:
    """Nothing comes back before its time."""
    earliest: dict[Step, int] = {}
    for back in history.of(SentBack):
        step = _step_of(back)
        earliest[step] = min(back.earliest_ms, earliest.get(step, back.earliest_ms))
    return tuple(
        f"{_step(step)}, and came {earliest[step] - found.stored_ms} ms too early"
        for step, places in _found(history).items()
        for found in places
        if step in earliest and found.stored_ms < earliest[step]
    )


def originals_lost(history: History) -> tuple[str, ...]:
    """What is to be given back is there in the first place: once."""
    found = copies(history, [TOPIC])
    return tuple(
        f"{value} was acknowledged and is there {len(found.get(value, ()))} times"
        for value, tried in outcomes(history, TOPIC).items()
        if not tried.count(Outcome.DONE) <= len(found.get(value, ())) <= _possible(tried)
    )


def retries_idle(history: History) -> tuple[str, ...]:
    """Messages came back, some of them more than once, and some ended as dead letters."""
    steps = _found(history)
    kinds = {
        "message came back": any(not dead for _, _, dead in steps),
        "message came back twice": any(times >= 2 and not dead for _, times, dead in steps),
        "message was given up at once": any(times == 1 and dead for _, times, dead in steps),
        "message came back too often": any(times > 1 and dead for _, times, dead in steps),
    }
    return tuple(f"no {what}" for what, there in kinds.items() if not there)


def told(history: History) -> str:
    """The figures for people."""
    unheard = sum(1 for back in history.of(SentBack) if back.outcome is Outcome.UNKNOWN)
    again, dead = (
        sum(len(places) for places in copies(history, [topic]).values())
        for topic in (RETRY_TOPIC, DEAD_TOPIC)
    )
    return f"retries: {again} came again, {dead} are dead letters; {unheard} answers were not heard"


def _given_back(history: History) -> Mapping[Step, list[Outcome]]:
    steps: dict[Step, list[Outcome]] = defaultdict(list)
    for back in history.of(SentBack):
        steps[_step_of(back)].append(back.outcome)
    return steps


def _found(history: History) -> Mapping[Step, list[Found]]:
    steps: dict[Step, list[Found]] = defaultdict(list)
    for places in copies(history, [RETRY_TOPIC, DEAD_TOPIC]).values():
        for found in places:
            steps[found.value, found.reconsume_times, found.topic == DEAD_TOPIC].append(found)
    return steps


def _possible(tried: list[Outcome]) -> int:
    return sum(1 for outcome in tried if outcome is not Outcome.REFUSED)


def _step_of(back: SentBack) -> Step:
    return back.value, back.times + 1, back.dead


def _step(step: Step) -> str:
    value, times, dead = step
    return f"{value} was given {'up' if dead else 'back'} as the {times}. time"


CHECKERS = (
    retries_lost,
    retries_repeated,
    retries_early,
    originals_lost,
    retries_idle,
)
