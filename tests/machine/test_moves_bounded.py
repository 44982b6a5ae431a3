"""What the table of moves keeps, and for how long."""

import pytest

from broker.machine import moves
from broker.machine.moves import RECALL_KEPT_MS, Move, Moves

HOUR_MS = 3_600_000


@pytest.fixture
def table(monkeypatch) -> Moves:
    monkeypatch.setattr(moves, "RECALLS_MAX", 2)
    return Moves()


def move_of(table: Moves, deliver_ms: int, first_offset: int) -> Move:
    return Move(
        stamped_ms=0,
        topic="later",
        queue_id=0,
        first_offset=first_offset,
        next_offset=first_offset + 1,
        soonest_ms=deliver_ms,
        latest_ms=deliver_ms,
        recalls_seen=table.recalls_count,
    )


def delivered(table: Moves, deliver_ms: int) -> None:
    move = move_of(table, deliver_ms, table.cursor("later", 0))
    assert table.admits(move)
    table.advance(move)


@pytest.mark.parametrize("first_offset, admitted", [(0, False), (1, True), (2, False)])
def test_a_queue_is_moved_in_its_order_and_nothing_is_left_out(
    table, first_offset, admitted
) -> None:
    delivered(table, HOUR_MS)

    assert admitted is table.admits(move_of(table, HOUR_MS, first_offset))


def test_a_move_has_to_know_of_the_newest_recall(table) -> None:
    table.recall("orders", "a", HOUR_MS)
    move = move_of(table, HOUR_MS, 0)
    table.recall("orders", "b", HOUR_MS)

    assert not table.admits(move)
    assert table.admits(move_of(table, HOUR_MS, 0))


def test_no_more_recalls_are_kept_than_fit(table) -> None:
    answers = [table.recall("orders", name, 10 * HOUR_MS) for name in ("a", "b", "c", "b")]

    assert [None, None, "only 2 recalls are kept at once", None] == answers
    assert table.recalled("orders", "a", 10 * HOUR_MS)
    assert not table.recalled("orders", "c", 10 * HOUR_MS)


def test_a_recall_is_of_one_time(table) -> None:
    table.recall("orders", "a", 1 * HOUR_MS)
    before = table.recalled("orders", "a", 2 * HOUR_MS)
    table.recall("orders", "a", 2 * HOUR_MS)

    assert not before
    assert all(table.recalled("orders", "a", hours * HOUR_MS) for hours in (1, 2))


def test_recalls_of_the_past_make_room_an_hour_later(table) -> None:
    table.recall("orders", "a", 1 * HOUR_MS)
    table.recall("orders", "b", 1 * HOUR_MS + 1)
    delivered(table, RECALL_KEPT_MS + HOUR_MS - 1)
    too_early = table.recall("orders", "c", 9 * HOUR_MS)
    delivered(table, RECALL_KEPT_MS + HOUR_MS)

    assert too_early is not None
    assert table.recall("orders", "c", 9 * HOUR_MS) is None
    assert ["b", "c"] == [name for _number, _topic, name, _ms in table.recalls()]


def test_what_was_delivered_stays_delivered_whatever_comes_after(table) -> None:
    delivered(table, 2 * HOUR_MS)
    delivered(table, 1 * HOUR_MS)
    delivered(table, 0)

    assert "delivered already" in (table.recall("orders", "a", 2 * HOUR_MS) or "")
