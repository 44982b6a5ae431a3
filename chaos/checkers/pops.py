"""Pops: each message is with one consumer at a time, until it is acknowledged, and then with none.

Times are of brokers' stamps and of clients' clocks, which are one machine's. An acknowledgement
counts if it was heard before the message's time was over: later, it may have come too late, and
nobody is told. One that was not heard may have counted.
"""

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from chaos.checkers.history import History, Outcome, PopAcknowledged, Popped
from chaos.checkers.places import outcomes

TOPIC: Final = "ChaosPops"
GROUP: Final = "chaos-pops"
RETRY_TOPIC: Final = f"%RETRY%{GROUP}_{TOPIC}"


def pops_lost(history: History) -> tuple[str, ...]:
    """What was sent is popped, and the last consumer that had it may have acknowledged it: if that
    was refused, somebody gets it after him."""
    last: dict[str, int] = {}
    for popped in history.of(Popped):
        last[popped.value] = max(popped.popped_ms, last.get(popped.value, 0))
    settled = {
        (ack.value, ack.popped_ms)
        for ack in history.of(PopAcknowledged)
        if ack.outcome is not Outcome.REFUSED
    }
    return tuple(
        f"{value} was sent, and "
        + (f"nobody has acknowledged it since {last[value]}" if value in last else "never popped")
        for value, tried in outcomes(history, TOPIC).items()
        if Outcome.DONE in tried and (value, last.get(value)) not in settled
    )


def popped_after_acknowledgement(history: History) -> tuple[str, ...]:
    """What was acknowledged in time is given out no more, to nobody who asked after that."""
    acknowledged = _acknowledged(history)
    return tuple(
        f"{popped.value} was acknowledged at {acknowledged[popped.value]}, and popped at"
        f" {popped.popped_ms} by somebody who asked at {popped.began_ms}"
        for popped in history.of(Popped)
        if popped.began_ms > acknowledged.get(popped.value, popped.began_ms)
    )


def popped_by_two(history: History) -> tuple[str, ...]:
    """Nobody is given a message whose time with somebody else is not over."""
    by_value: dict[str, list[Popped]] = defaultdict(list)
    for popped in history.of(Popped):
        by_value[popped.value].append(popped)
    return tuple(
        f"{value} was popped at {earlier.popped_ms} until {earlier.until_ms}, and again at"
        f" {later.popped_ms}"
        for value, all_of_it in by_value.items()
        for earlier, later in pairwise(sorted(all_of_it, key=_popped_ms))
        if later.popped_ms < earlier.until_ms
    )


def pops_unknown(history: History) -> tuple[str, ...]:
    """Nothing is popped that nobody sent, or that was refused."""
    sent = outcomes(history, TOPIC)
    return tuple(
        f"{popped.value} was popped, and never sent"
        for popped in history.of(Popped)
        if all(outcome is Outcome.REFUSED for outcome in sent.get(popped.value, ()))
    )


def pops_idle(history: History) -> tuple[str, ...]:
    """Messages were popped and acknowledged, and some came again."""
    kinds = {
        "message was acknowledged": bool(_acknowledged(history)),
        "message came again": any(popped.times for popped in history.of(Popped)),
    }
    return tuple(f"no {what}" for what, there in kinds.items() if not there)


def told(history: History) -> str:
    """The figures for people."""
    popped = list(history.of(Popped))
    again = sum(1 for each in popped if each.times)
    unheard = sum(1 for each in history.of(PopAcknowledged) if each.outcome is Outcome.UNKNOWN)
    return (
        f"pops: {len(popped)} popped, {again} of them again;"
        f" {unheard} acknowledgements were not heard"
    )


def _acknowledged(history: History) -> Mapping[str, int]:
    """When it was heard first that a message is acknowledged, in time."""
    first: dict[str, int] = {}
    for ack in history.of(PopAcknowledged):
        if ack.outcome is Outcome.DONE and ack.at_ms < ack.until_ms:
            first[ack.value] = min(ack.at_ms, first.get(ack.value, ack.at_ms))
    return first


def _popped_ms(popped: Popped) -> int:
    return popped.popped_ms


CHECKERS = (
    pops_lost,
    popped_after_acknowledgement,
    popped_by_two,
    pops_unknown,
    pops_idle,
)
