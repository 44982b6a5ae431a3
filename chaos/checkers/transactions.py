"""Transactions: one message for a commit, none for a roll-back, and each half message ends.

A producer tries each half message once. What it says of it later, it may say more than once, and
even change its mind: the first word that was acknowledged counts.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from chaos.checkers.history import Checked, Ended, Found, History, Outcome
from chaos.checkers.places import copies, outcomes

TOPIC: Final = "ChaosTransactions"
EXPIRED_TOPIC: Final = "TRANS_CHECK_MAX_TIME_TOPIC"


def committed_missing(history: History) -> tuple[str, ...]:
    """A commit that was acknowledged has put its message."""
    found = copies(history, [TOPIC])
    return tuple(
        f"{value} was committed and is not there"
        for value in _said(history, commit=True, acknowledged=True)
        if value not in found
    )


def committed_twice(history: History) -> tuple[str, ...]:
    """A half message becomes one message at most: committed, or expired."""
    return tuple(
        f"{value} is there {len(places)} times: {_where(places)}"
        for value, places in copies(history, [TOPIC, EXPIRED_TOPIC]).items()
        if len(places) > 1
    )


def rolled_back_visible(history: History) -> tuple[str, ...]:
    """What was rolled back, or what nobody committed, is not there."""
    found = copies(history, [TOPIC])
    rolled_back = _said(history, commit=False, acknowledged=True)
    committed = _said(history, commit=True, acknowledged=False)
    return tuple(
        f"{value} was {'rolled back' if value in rolled_back else 'never committed'} and is there"
        for value in found
        if value in rolled_back or value not in committed
    )


def rolled_back_expired(history: History) -> tuple[str, ...]:
    """What was ended does not expire."""
    ended = _said(history, commit=False, acknowledged=True)
    return tuple(
        f"{value} was rolled back and expired"
        for value in copies(history, [EXPIRED_TOPIC])
        if value in ended
    )


def ended_twice(history: History) -> tuple[str, ...]:
    """A second, different word about a transaction is not acknowledged."""
    rolled_back = _said(history, commit=False, acknowledged=True)
    return tuple(
        f"{value} was committed and rolled back, and both were acknowledged"
        for value in _said(history, commit=True, acknowledged=True)
        if value in rolled_back
    )


def unended(history: History) -> tuple[str, ...]:
    """A half message that was acknowledged is there in the end, unless somebody rolled it back."""
    found = copies(history, [TOPIC, EXPIRED_TOPIC])
    rolled_back = _said(history, commit=False, acknowledged=False)
    return tuple(
        f"{value} was acknowledged as half, and has neither been committed nor expired"
        for value, tried in outcomes(history, TOPIC).items()
        if Outcome.DONE in tried and value not in found and value not in rolled_back
    )


def checks_repeated(history: History) -> tuple[str, ...]:
    """Each check is counted before it is sent, so no two have the same number. A leader that was
    paused between the two may be overtaken."""
    seen: set[tuple[str, int]] = set()
    wrong = []
    for check in history.of(Checked):
        which = (check.value, check.number)
        if check.number < 1 or which in seen:
            wrong.append(f"check {check.number} of {check.value} came a second time")
        seen.add(which)
    return tuple(wrong)


def wrongly_checked(history: History, *, timeout_ms: int, checks_max: int) -> tuple[str, ...]:
    """Nobody is asked too early, nor too often."""
    return tuple(
        f"check {check.number} of {check.value} came when it was {check.age_ms} ms old;"
        f" {checks_max} from {timeout_ms} ms on are right"
        for check in history.of(Checked)
        if check.number > checks_max or check.age_ms < timeout_ms
    )


def transactions_idle(history: History) -> tuple[str, ...]:
    """There were ends of each kind, with and without a check."""
    done = {
        (ended.commit, ended.by_check)
        for ended in history.of(Ended)
        if ended.outcome is Outcome.DONE
    }
    kinds = {
        "commit was acknowledged": (True, False),
        "roll-back was acknowledged": (False, False),
        "commit answered a check": (True, True),
        "roll-back answered a check": (False, True),
    }
    return tuple(f"no {what}" for what, kind in kinds.items() if kind not in done)


def told(history: History) -> str:
    """The figures for people."""
    checks = sum(1 for _ in history.of(Checked))
    by_check = len(
        {each.value for each in history.of(Ended) if each.by_check and each.outcome is Outcome.DONE}
    )
    return (
        f"transactions: {len(copies(history, [TOPIC]))} committed,"
        f" {len(_said(history, commit=False, acknowledged=True))} rolled back,"
        f" {len(copies(history, [EXPIRED_TOPIC]))} expired;"
        f" {by_check} ended by an answer to one of {checks} checks"
    )


def _said(history: History, *, commit: bool, acknowledged: bool) -> Mapping[str, list[Outcome]]:
    """The values of which this was said; with `acknowledged`, only if that was heard."""
    by_value: dict[str, list[Outcome]] = defaultdict(list)
    for ended in history.of(Ended):
        if ended.commit is commit and (not acknowledged or ended.outcome is Outcome.DONE):
            by_value[ended.value].append(ended.outcome)
    return by_value


def _where(places: list[Found]) -> str:
    return ", ".join(f"{found.topic} queue {found.queue_id} {found.offset}" for found in places)


CHECKERS = (
    committed_missing,
    committed_twice,
    rolled_back_visible,
    rolled_back_expired,
    ended_twice,
    unended,
    checks_repeated,
    transactions_idle,
)
