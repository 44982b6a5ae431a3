"""However many groups invent however many owners, so many locks and no more."""

import pytest

from broker.machine import locks
from broker.machine.locks import LEASE_MS, Locks

A, B, C = ("orders", 0), ("orders", 1), ("orders", 2)


@pytest.fixture
def table(monkeypatch) -> Locks:
    monkeypatch.setattr(locks, "LOCKS_MAX", 2)
    return Locks()


def test_what_does_not_fit_is_not_given(table) -> None:
    assert (A, B) == table.take("shop", "one", (A, B, C), 0)
    assert () == table.take("audit", "two", (C,), 0)


def test_what_is_let_go_makes_room(table) -> None:
    table.take("shop", "one", (A, B), 0)
    table.release("shop", "one", (A,))
    assert (C,) == table.take("audit", "two", (C,), 0)
    assert () == table.take("audit", "two", (B,), 0)
    table.drop_topic("orders")
    assert (A, B) == table.take("bills", "one", (A, B, C), 0)


def test_where_there_is_no_room_every_group_is_looked_at_for_leases_that_ended(table) -> None:
    table.take("shop", "one", (A, B), 0)

    assert (C,) == table.take("audit", "two", (C,), LEASE_MS + 1)
    assert not table.consumes_in_order("shop", LEASE_MS + 1)


def test_what_comes_from_a_snapshot_counts(table) -> None:
    table.put("shop", A, locks.Lock("one", 0))
    table.put("shop", B, locks.Lock("one", 0))

    assert () == table.take("audit", "two", (C,), 0)
