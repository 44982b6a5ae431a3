"""Each judge passes a good history and catches the smallest bad one."""

import pytest
from attrs import evolve

from chaos.checkers.history import (
    Acknowledged,
    Event,
    Fault,
    History,
    OffsetCommitted,
    OffsetRead,
    Received,
    Refused,
    Sent,
    Stored,
    Unknown,
)
from chaos.checkers.messages import (
    CHECKERS,
    Gap,
    displaced,
    duplicates,
    holes,
    idle,
    lost,
    phantom,
    reordered,
    repeated,
    rewound,
    stalled,
    undelivered,
    write_gaps,
)

SECOND = 1_000_000_000


def sent(value: str, at: int = 0) -> Sent:
    return Sent(at_ns=at, producer="p1", value=value)


def acked(value: str, offset: int, at: int = 1, producer: str = "p1") -> Acknowledged:
    return Acknowledged(at_ns=at, producer=producer, value=value, queue_id=0, offset=offset)


def stored(value: str, offset: int) -> Stored:
    return Stored(value=value, queue_id=0, offset=offset)


def received(value: str, offset: int) -> Received:
    return Received(at_ns=2, consumer="c1", value=value, queue_id=0, offset=offset)


def committed(offset: int, at: int) -> OffsetCommitted:
    return OffsetCommitted(at_ns=at, group="g", queue_id=0, offset=offset)


def read(offset: int | None, began: int) -> OffsetRead:
    return OffsetRead(began_ns=began, at_ns=began + 1, group="g", queue_id=0, offset=offset)


GOOD: list[Event] = [
    sent("a"),
    acked("a", 0),
    sent("b"),
    Unknown(at_ns=3, producer="p1", value="b"),
    sent("c"),
    Refused(at_ns=4, producer="p1", value="c"),
    received("a", 0),
    committed(1, at=5),
    read(1, began=6),
    stored("a", 0),
    stored("b", 1),
]


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_a_good_history_passes(checker) -> None:
    assert () == checker(History(GOOD))


@pytest.mark.parametrize(
    ("checker", "events"),
    [
        (lost, [sent("a"), acked("a", 0)]),
        (displaced, [acked("a", 0), stored("b", 0)]),
        (displaced, [received("a", 3), received("b", 3)]),
        (phantom, [stored("ghost", 0)]),
        (phantom, [sent("c"), Refused(at_ns=1, producer="p1", value="c"), stored("c", 0)]),
        (undelivered, [acked("a", 0)]),
        (reordered, [acked("a", 1), acked("b", 0)]),
        (holes, [stored("a", 0), stored("b", 2)]),
        (repeated, [stored("a", 0), stored("b", 1), stored("a", 2)]),
        (rewound, [committed(9, at=1), read(4, began=2)]),
        (rewound, [committed(9, at=1), read(None, began=2)]),
        (idle, [event for event in GOOD if not isinstance(event, OffsetCommitted)]),
    ],
)
def test_the_smallest_bad_history_is_caught(checker, events: list[Event]) -> None:
    assert 1 == len(checker(History(events)))


def test_a_query_that_began_before_the_commit_was_answered_may_miss_it() -> None:
    assert () == rewound(History([committed(9, at=5), read(4, began=4)]))


def test_two_producers_may_interleave() -> None:
    events = [acked("a", 1, producer="p1"), acked("b", 0, producer="p2")]

    assert () == reordered(History(events))


def test_places_and_offsets_are_those_of_one_broker() -> None:
    events = [
        sent("a"),
        evolve(acked("a", 7), broker="x"),
        evolve(received("a", 7), broker="x"),
        evolve(committed(9, at=1), broker="x"),
        sent("b"),
        evolve(acked("b", 0), broker="y"),
        evolve(received("b", 0), broker="y"),
        evolve(read(4, began=2), broker="y"),
        *(sent(f"a{offset}") for offset in range(7)),
        *(evolve(stored(f"a{offset}", offset), broker="x") for offset in range(7)),
        evolve(stored("a", 7), broker="x"),
        evolve(stored("a", 1), broker="y"),  # a client may turn to another group
        evolve(stored("b", 0), broker="y"),
    ]

    assert [()] * len(CHECKERS) == [checker(History(events)) for checker in CHECKERS]


@pytest.mark.parametrize(
    ("checker", "events", "where"),
    [
        (displaced, [acked("a", 3), stored("b", 3)], "queue 0 of x offset 3 held a and b"),
        (holes, [stored("a", 0), stored("b", 2)], "queue 0 of x has 2 messages"),
        (repeated, [stored("a", 0), stored("a", 2)], "first at queue 0 of x offset 0, last at"),
        (rewound, [committed(9, at=1), read(4, began=2)], "group g queue 0 of x was at 9"),
        (reordered, [acked("a", 1), acked("b", 0)], "1 then 0 of queue 0 of x"),
    ],
)
def test_a_finding_names_the_broker(checker, events: list[Event], where: str) -> None:
    (finding,) = checker(History([evolve(event, broker="x") for event in events]))

    assert where in finding


def test_duplicates_are_counted() -> None:
    assert 2 == duplicates(History([stored("a", 0), stored("a", 1), stored("a", 2)]))


def fault(at: int, *nodes: str) -> Fault:
    return Fault(at_ns=at, what="killed", nodes=nodes)


def test_a_gap_is_the_longest_pause_between_a_fault_and_the_next() -> None:
    events = [
        acked("a", 0, at=1 * SECOND),
        fault(2 * SECOND, "n1"),
        acked("b", 1, at=4 * SECOND),
        acked("c", 2, at=5 * SECOND),
        fault(6 * SECOND, "n1", "n2"),
        acked("d", 3, at=7 * SECOND),
    ]

    assert (
        Gap(what="killed", nodes=("n1",), seconds=3.0),
        Gap(what="killed", nodes=("n1", "n2"), seconds=2.0),
    ) == write_gaps(History(events))


def test_a_pause_that_outlasts_a_fault_belongs_to_the_next_one_too() -> None:
    events = [
        acked("a", 0, at=1 * SECOND),
        fault(2 * SECOND, "n1"),
        fault(3 * SECOND, "n1"),
        acked("b", 1, at=5 * SECOND),
    ]

    assert [4.0, 4.0] == [gap.seconds for gap in write_gaps(History(events))]


def test_a_fault_after_which_nothing_was_acknowledged_has_an_infinite_gap() -> None:
    events = [acked("a", 0), fault(2, "n1")]

    assert (Gap(what="killed", nodes=("n1",), seconds=float("inf")),) == write_gaps(History(events))


def test_a_pause_of_writes_may_be_so_long_and_no_longer() -> None:
    gaps = [Gap(what="healed", nodes=("n1",), seconds=seconds) for seconds in (1.9, 2.0, 2.1)]

    (finding,) = stalled(gaps, at_most_s=2.0)

    assert "2.100 s after n1 was healed" in finding
