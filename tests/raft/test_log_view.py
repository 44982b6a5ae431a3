"""Terms, tail and cuts of the log view, against a plain list of entries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dledger_py.raft.log_view import ENTRY_OVERHEAD_BYTES, LogView
from dledger_py.raft.membership import Configuration, encode
from dledger_py.raft.vocabulary import Entry, Kind, NodeId

TERMS = st.lists(st.integers(1, 4), max_size=12).map(sorted)


def entries_of(terms: list[int]) -> list[Entry]:
    return [
        Entry(index=index, term=term, kind=1, payload=bytes(index % 5))
        for index, term in enumerate(terms, 1)
    ]


@given(TERMS, st.integers(0, 12), st.lists(st.integers(4, 6), max_size=4).map(sorted))
def test_a_cut_and_extended_log_knows_every_term(
    terms: list[int], keep: int, more: list[int]
) -> None:
    log = LogView()
    for entry in entries_of(terms):
        log.append(entry)
    if keep < len(terms):
        log.cut(keep + 1)
    model = entries_of(terms[:keep] + more)
    for entry in model[len(terms[:keep]) :]:
        log.append(entry)

    assert [0] + [entry.term for entry in model] == [
        log.term_at(index) for index in range(len(model) + 1)
    ]
    assert log.tail_bytes == sum(len(e.payload) + ENTRY_OVERHEAD_BYTES for e in model)
    assert log.entries(1, 99, 10_000) == tuple(model) if model else log.last_index == 0


@given(TERMS, st.integers(0, 14), st.integers(0, 5))
def test_last_not_above_is_the_last_place_where_logs_could_agree(
    terms: list[int], index: int, term: int
) -> None:
    log = LogView()
    for entry in entries_of(terms):
        log.append(entry)
    oracle = max(
        place
        for place in range(min(index, len(terms)) + 1)
        if place == 0 or terms[place - 1] <= term
    )

    assert oracle == log.last_not_above(index, term)


def test_entries_are_bounded_by_count_and_bytes_but_never_none() -> None:
    log = LogView()
    for index in range(1, 6):
        log.append(Entry(index=index, term=1, kind=1, payload=bytes(10)))

    assert [1, 2] == [entry.index for entry in log.entries(1, 2, 1_000)]
    assert [1, 2, 3] == [entry.index for entry in log.entries(1, 9, 30)]
    assert [2] == [entry.index for entry in log.entries(2, 9, 1)]


def test_trimming_keeps_what_is_not_durable() -> None:
    log = LogView()
    for index in range(1, 11):
        log.append(Entry(index=index, term=1, kind=1, payload=b""))
    log.trim(durable_index=4, bytes_max=0)

    assert 5 == log.tail_first
    assert 6 * ENTRY_OVERHEAD_BYTES == log.tail_bytes
    assert 1 == log.term_at(2)


def test_a_recovered_log_must_make_sense() -> None:
    with pytest.raises(ValueError, match="must start at first_index"):
        LogView(last_index=3, terms=[(2, 1)])
    with pytest.raises(ValueError, match="must rise"):
        LogView(last_index=3, terms=[(1, 2), (2, 1)])


def test_appending_out_of_order_stops_the_process() -> None:
    log = LogView(last_index=3, terms=[(1, 5)])
    with pytest.raises(AssertionError, match="does not follow"):
        log.append(Entry(index=5, term=5, kind=1, payload=b""))
    with pytest.raises(AssertionError, match="after 5"):
        log.append(Entry(index=4, term=4, kind=1, payload=b""))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12).map(sorted), st.data())
def test_a_log_that_lost_its_beginning_knows_the_rest_and_the_term_before_it(
    terms: list[int], data: st.DataObject
) -> None:
    """Dropped, cut and appended to in any order, against the plain list."""
    log = LogView()
    model = entries_of(terms)
    for entry in model:
        log.append(entry)
    start = 1
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(start, len(model) + 1))
        log.drop_before(start)
        keep = data.draw(st.integers(start - 1, len(model)))
        if keep < len(model):
            log.cut(keep + 1)
        last = model[keep - 1].term if keep else 0
        model = [*model[:keep], Entry(index=keep + 1, term=last + 1, kind=1, payload=b"x")]
        log.append(model[-1])

    whole = [0, *(entry.term for entry in model)]
    assert start == log.first_index
    assert whole[start - 1 :] == [log.term_at(i) for i in range(start - 1, len(model) + 1)]
    assert tuple(model[start - 1 :]) == log.entries(start, 99, 10_000)
    assert log.tail_bytes == sum(len(e.payload) + ENTRY_OVERHEAD_BYTES for e in model[start - 1 :])
    recovered = LogView(
        first_index=start,
        last_index=len(model),
        previous_term=whole[start - 1],
        terms=[
            (i, whole[i])
            for i in range(start, len(whole))
            if i == start or whole[i] != whole[i - 1]
        ],
    )
    for index in range(len(whole)):
        for term in range(7):
            assert log.agrees(index, term) == recovered.agrees(index, term)
            assert log.agrees(index, term) == (index < start - 1 or whole[index] == term)
            if index >= start - 1:
                assert log.last_not_above(index, term) == recovered.last_not_above(index, term)


def test_below_its_start_a_log_has_no_hint_to_give() -> None:
    log = LogView(first_index=10, last_index=12, previous_term=3, terms=[(10, 4)])

    assert (4, 9, 9, 12) == tuple(
        log.last_not_above(index, term) for index, term in ((4, 9), (9, 3), (12, 3), (12, 4))
    )


def test_what_is_not_there_cannot_be_dropped() -> None:
    log = LogView(last_index=3, terms=[(1, 5)])
    with pytest.raises(AssertionError, match="drop before 5"):
        log.drop_before(5)


def test_a_log_without_its_beginning_must_be_told_its_configuration() -> None:
    """One of the dropped entries may have been a configuration."""
    log = LogView(first_index=4, last_index=4, terms=[(4, 2)], previous_term=1)
    with pytest.raises(ValueError, match="must be told"):
        log.begin_with(Configuration(voters=(NodeId("n1"),)))


def test_the_latest_committed_configuration_is_what_a_trimmed_log_must_keep() -> None:
    """A later one may be cut again, an earlier one is not in force any more."""
    one, two = (Configuration(voters=(NodeId(name),)) for name in ("n1", "n2"))
    log = LogView()
    log.begin_with(one)
    log.append(Entry(index=1, term=1, kind=Kind.CONFIG, payload=encode(two)))
    log.append(Entry(index=2, term=1, kind=Kind.CONFIG, payload=encode(one)))

    assert (0, one) == log.committed_configuration(0)
    assert (1, two) == log.committed_configuration(1)
    assert (2, one) == log.committed_configuration(5)
