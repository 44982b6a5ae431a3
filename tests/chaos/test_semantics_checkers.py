"""Each judge of the semantics passes a good history and catches the smallest bad one."""

import pytest
from attrs import evolve

from chaos.checkers import order, places, pops, retries, timers, transactions
from chaos.checkers.history import (
    Checked,
    Consumed,
    Ended,
    Event,
    Found,
    History,
    Outcome,
    PopAcknowledged,
    Popped,
    QueueLeft,
    QueueTaken,
    Recalled,
    SentBack,
    Stored,
    Timed,
    Tried,
)
from chaos.checkers.messages import repeated
from chaos.semantics import CHECKERS

DONE, REFUSED, UNKNOWN = Outcome.DONE, Outcome.REFUSED, Outcome.UNKNOWN


def tried(value: str, topic: str, outcome: Outcome = DONE, at: int = 1) -> Tried:
    return Tried(at_ms=at, topic=topic, value=value, outcome=outcome)


def found(value: str, topic: str, offset: int = 0, at: int = 100, times: int = 0) -> Found:
    return Found(
        topic=topic,
        queue_id=0,
        offset=offset,
        value=value,
        stored_ms=at,
        reconsume_times=times,
        at_end=True,
    )


# --- messages for later ---------------------------------------------------------------------------


def timed(value: str, earliest: int = 100, level: int = 0) -> Timed:
    return Timed(value=value, queue_id=0, earliest_ms=earliest, level=level, exact=not level)


def later(value: str, earliest: int = 100, level: int = 0, outcome: Outcome = DONE) -> list[Event]:
    return [timed(value, earliest, level), tried(value, timers.TOPIC, outcome)]


def recalled(value: str, outcome: Outcome = DONE) -> Recalled:
    return Recalled(value=value, outcome=outcome)


def delivered(value: str, offset: int = 0, at: int = 100) -> Found:
    return found(value, timers.TOPIC, offset, at)


LATER: list[Event] = [
    *later("a", level=1),
    *later("b", earliest=200),
    *later("c"),
    recalled("c"),
    *later("d", outcome=UNKNOWN),
    *later("e", outcome=REFUSED),
    *later("f", earliest=300),
    recalled("f", REFUSED),
    *later("g"),
    recalled("g", UNKNOWN),
    delivered("a", 0),
    delivered("b", 1, at=205),
    delivered("f", 2, at=300),
]

# --- transactions ---------------------------------------------------------------------------------


def half(value: str, outcome: Outcome = DONE) -> Tried:
    return tried(value, transactions.TOPIC, outcome)


def ended(
    value: str, *, commit: bool = True, by_check: bool = False, outcome: Outcome = DONE
) -> Ended:
    return Ended(value=value, commit=commit, by_check=by_check, outcome=outcome)


def checked(value: str, number: int, age: int = 1_500) -> Checked:
    return Checked(value=value, number=number, age_ms=age)


def committed(value: str, offset: int = 0) -> Found:
    return found(value, transactions.TOPIC, offset)


def expired(value: str, offset: int = 0) -> Found:
    return found(value, transactions.EXPIRED_TOPIC, offset)


TRANSACTIONS: list[Event] = [
    half("t1"),
    ended("t1"),
    ended("t1", commit=False, outcome=REFUSED),
    half("t2"),
    ended("t2", commit=False),
    half("t3"),
    checked("t3", 1),
    checked("t3", 3),
    ended("t3", by_check=True),
    half("t4"),
    ended("t4", commit=False, by_check=True),
    half("t5"),
    half("t6", UNKNOWN),
    half("t7"),
    ended("t7", commit=False, outcome=UNKNOWN),
    half("t8"),
    ended("t8", outcome=UNKNOWN),
    committed("t1", 0),
    committed("t3", 1),
    committed("t8", 2),
    expired("t5", 0),
]

# --- in order -------------------------------------------------------------------------------------


def taken(owner: str, queue_id: int = 0) -> QueueTaken:
    return QueueTaken(at_ns=1, owner=owner, queue_id=queue_id)


def left(owner: str) -> QueueLeft:
    return QueueLeft(at_ns=1, owner=owner, queue_id=0)


def handled(number: int, offset: int | None = None, key: str = "k") -> Consumed:
    offset = number if offset is None else offset
    return Consumed(owner="o1", queue_id=0, offset=offset, key=key, number=number)


def numbered(number: int, outcome: Outcome = DONE) -> Tried:
    return tried(order.value_of("k", number), order.TOPIC, outcome)


def in_log(number: int, offset: int) -> Found:
    return found(order.value_of("k", number), order.TOPIC, offset)


ORDER: list[Event] = [
    numbered(0),
    numbered(1, UNKNOWN),
    numbered(1),
    taken("o1"),
    taken("o3", queue_id=1),
    handled(0),
    handled(1),
    left("o1"),
    taken("o2"),
    taken("o2"),
    handled(1),
    left("o1"),
    in_log(0, 0),
    in_log(1, 1),
]

# --- retries --------------------------------------------------------------------------------------


def original(value: str, outcome: Outcome = DONE) -> Tried:
    return tried(value, retries.TOPIC, outcome)


def sent_back(
    value: str, times: int = 0, *, dead: bool = False, outcome: Outcome = DONE, earliest: int = 50
) -> SentBack:
    return SentBack(value=value, times=times, dead=dead, earliest_ms=earliest, outcome=outcome)


def back(value: str, times: int, offset: int = 0, at: int = 100) -> Found:
    return found(value, retries.RETRY_TOPIC, offset, at, times)


def dead_letter(value: str, times: int, offset: int = 0) -> Found:
    return found(value, retries.DEAD_TOPIC, offset, times=times)


RETRIES: list[Event] = [
    original("r1"),
    original("r2"),
    sent_back("r1", outcome=REFUSED),
    sent_back("r1", outcome=UNKNOWN),
    sent_back("r1"),
    sent_back("r1", 1),
    sent_back("r1", 2, dead=True),
    sent_back("r2", dead=True),
    found("r1", retries.TOPIC, 0),
    found("r2", retries.TOPIC, 1),
    back("r1", 1, 0),
    back("r1", 2, 1),
    dead_letter("r1", 3, 0),
    dead_letter("r2", 1, 1),
]

# --- pops -----------------------------------------------------------------------------------------


def popped(
    value: str, at: int = 100, *, until: int = 200, began: int = 90, times: int = 0
) -> Popped:
    return Popped(value=value, began_ms=began, popped_ms=at, until_ms=until, times=times)


def acknowledged(value: str, at: int = 150, until: int = 200, outcome: Outcome = DONE) -> Event:
    return PopAcknowledged(
        value=value, popped_ms=until - 100, until_ms=until, at_ms=at, outcome=outcome
    )


def to_pop(value: str, outcome: Outcome = DONE) -> Tried:
    return tried(value, pops.TOPIC, outcome)


POPS: list[Event] = [
    to_pop("p1"),
    popped("p1"),
    acknowledged("p1", 120, outcome=UNKNOWN),
    acknowledged("p1"),
    to_pop("p2", UNKNOWN),
    popped("p2"),
    acknowledged("p2", 201),  # too late: nobody knows
    popped("p2", 200, until=300, began=210, times=1),
    acknowledged("p2", 250, 300),
    popped("p2", 300, until=400, began=240, times=2),  # by one that asked before
    acknowledged("p2", 350, 400, UNKNOWN),
    to_pop("p3", UNKNOWN),
    to_pop("p4", REFUSED),
]

GOOD = [*LATER, *TRANSACTIONS, *ORDER, *RETRIES, *POPS]


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_a_good_history_passes(checker) -> None:
    assert () == checker(History(GOOD))


@pytest.mark.parametrize(
    ("checker", "events"),
    [
        (places.moved, [evolve(delivered("a"), at_end=False)]),
        (places.moved, [evolve(delivered("a"), at_end=False), delivered("b")]),
        (places.gaps, [delivered("a", 0), delivered("b", 2)]),
        (places.uninvited, [delivered("a")]),
        (places.uninvited, [*later("a", outcome=REFUSED), delivered("a")]),
        (timers.timers_lost, later("a")),
        (timers.timers_lost, [*later("a"), recalled("a", REFUSED)]),
        (timers.timers_repeated, [*later("a"), delivered("a", 0), delivered("a", 1)]),
        (timers.timers_early, [*later("a"), delivered("a", at=99)]),
        (timers.recalled_delivered, [*later("a"), recalled("a"), delivered("a")]),
        (
            timers.timers_reordered,
            [*later("a", 100), *later("b", 150), delivered("b", 0), delivered("a", 1)],
        ),
        (
            timers.timers_reordered,
            [*later("a", level=1), *later("b", level=1), delivered("b", 0), delivered("a", 1)],
        ),
        (transactions.committed_missing, [half("t"), ended("t"), expired("t")]),
        (transactions.committed_twice, [half("t"), ended("t"), committed("t"), committed("t", 1)]),
        (transactions.committed_twice, [half("t"), committed("t"), expired("t")]),
        (transactions.rolled_back_visible, [half("t"), ended("t", commit=False), committed("t")]),
        (transactions.rolled_back_visible, [half("t"), committed("t")]),
        (transactions.rolled_back_expired, [half("t"), ended("t", commit=False), expired("t")]),
        (transactions.ended_twice, [half("t"), ended("t"), ended("t", commit=False)]),
        (transactions.unended, [half("t"), ended("t", outcome=UNKNOWN)]),
        (transactions.checks_repeated, [checked("t", 2), checked("t", 2)]),
        (transactions.checks_repeated, [checked("t", 0)]),
        (order.owned_twice, [taken("o1"), taken("o2")]),
        (order.owned_twice, [taken("o1"), left("o2"), taken("o2")]),
        (order.left_out, [handled(0), handled(2)]),
        (order.left_out, [handled(1)]),
        (order.keys_reordered, [handled(0, 0), handled(2, 1)]),
        (order.keys_reordered, [handled(1, 0), handled(0, 1)]),
        (order.stored_reordered, [in_log(1, 0), in_log(0, 1)]),
        (order.numbers_repeated, [in_log(0, 0), in_log(0, 1)]),
        (order.unhandled, [numbered(0)]),
        (retries.retries_lost, [sent_back("r")]),
        (retries.retries_lost, [sent_back("r"), sent_back("r"), back("r", 1)]),
        (retries.retries_lost, [sent_back("r", 2, dead=True)]),
        (retries.retries_repeated, [sent_back("r"), back("r", 1), back("r", 1, 1)]),
        (retries.retries_repeated, [sent_back("r", outcome=REFUSED), back("r", 1)]),
        (retries.retries_repeated, [sent_back("r"), back("r", 0)]),
        (retries.retries_repeated, [sent_back("r", 1), back("r", 1)]),
        (
            retries.retries_repeated,
            [sent_back("r", 2, dead=True), dead_letter("r", 3), dead_letter("r", 3, 1)],
        ),
        (retries.retries_early, [sent_back("r"), back("r", 1, at=49)]),
        (retries.originals_lost, [original("r")]),
        (
            retries.originals_lost,
            [original("r"), found("r", retries.TOPIC, 0), found("r", retries.TOPIC, 1)],
        ),
        (pops.pops_lost, [to_pop("p")]),
        (pops.pops_lost, [to_pop("p"), popped("p")]),
        (pops.pops_lost, [to_pop("p"), popped("p"), acknowledged("p", outcome=REFUSED)]),
        (pops.pops_lost, [to_pop("p"), popped("p"), acknowledged("p"), popped("p", 200)]),
        (
            pops.popped_after_acknowledgement,
            [popped("p"), acknowledged("p", 150), popped("p", 200, until=300, began=151, times=1)],
        ),
        (pops.popped_by_two, [popped("p"), popped("p", 199, until=299, times=1)]),
        (pops.popped_by_two, [popped("p", 199, until=299, times=1), popped("p")]),
        (pops.pops_unknown, [popped("p")]),
        (pops.pops_unknown, [to_pop("p", REFUSED), popped("p")]),
        (repeated, [Stored(value="a", queue_id=0, offset=n) for n in (0, 4)]),
    ],
)
def test_the_smallest_bad_history_is_caught(checker, events: list[Event]) -> None:
    assert 1 == len(checker(History(events)))


@pytest.mark.parametrize(
    ("checker", "without", "count"),
    [
        (timers.timers_idle, lambda event: isinstance(event, Recalled), 1),
        (timers.timers_idle, lambda event: isinstance(event, Timed) and event.level, 1),
        (timers.timers_idle, lambda event: isinstance(event, Timed) and not event.level, 1),
        (transactions.transactions_idle, lambda event: isinstance(event, Ended), 4),
        (order.order_idle, lambda event: event == taken("o2"), 1),
        (retries.retries_idle, lambda event: event == back("r1", 2, 1), 1),
        (retries.retries_idle, lambda event: event == dead_letter("r1", 3), 1),
        (retries.retries_idle, lambda event: event == dead_letter("r2", 1, 1), 1),
        (pops.pops_idle, lambda event: isinstance(event, PopAcknowledged), 1),
        (pops.pops_idle, lambda event: isinstance(event, Popped) and event.times, 1),
    ],
)
def test_a_run_in_which_something_never_happened_proves_nothing(
    checker, without, count: int
) -> None:
    assert count == len(checker(History([event for event in GOOD if not without(event)])))


def test_two_groups_do_not_know_what_the_other_stores() -> None:
    events = [Stored(value="a", broker=broker, queue_id=0, offset=0) for broker in ("x", "y")]

    assert () == repeated(History(events))


def test_a_place_that_is_read_twice_counts_once() -> None:
    events = [*later("a"), evolve(delivered("a"), at_end=False), delivered("a")]

    assert () == timers.timers_repeated(History(events))


def test_who_comes_after_the_other_was_due_may_stand_behind_it() -> None:
    late = [timed("a", 100), tried("a", timers.TOPIC, at=100)]
    events = [*late, *later("b", 150), delivered("b", 0), delivered("a", 1)]

    assert () == timers.timers_reordered(History(events))


def test_what_was_far_ahead_may_change_places() -> None:
    far = 10_002
    events = [*later("a", far), *later("b", 20_000), delivered("b", 0), delivered("a", 1)]

    assert () == timers.timers_reordered(History(events))


def test_times_that_are_close_to_each_other_may_change_places() -> None:
    events = [*later("a", 100), *later("b", 149), delivered("b", 0), delivered("a", 1)]

    assert () == timers.timers_reordered(History(events))


@pytest.mark.parametrize(
    ("check", "right"),
    [
        (checked("t", 5, age=1_000), True),
        (checked("t", 6, age=1_000), False),
        (checked("t", 1, age=999), False),
    ],
)
def test_a_producer_is_asked_neither_too_early_nor_too_often(check: Checked, right: bool) -> None:
    findings = transactions.wrongly_checked(History([check]), timeout_ms=1_000, checks_max=5)

    assert right is not bool(findings)


def test_the_figures_are_told() -> None:
    history = History(GOOD)

    assert (
        "for later: 3 delivered, the latest 5 ms after its time; 1 of 3 recalls were in time"
        == timers.told(history)
    )
    assert (
        "transactions: 3 committed, 2 rolled back, 1 expired;"
        " 2 ended by an answer to one of 2 checks" == transactions.told(history)
    )
    assert "in order: 2 handled, 1 of them again; queues changed hands 1 times" == order.told(
        history
    )
    assert "retries: 2 came again, 2 are dead letters; 1 answers were not heard" == retries.told(
        history
    )
    assert "pops: 4 popped, 2 of them again; 2 acknowledgements were not heard" == pops.told(
        history
    )
