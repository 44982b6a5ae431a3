"""Durability by write number, and promises that wait for it."""

from dledger_py.raft.vocabulary import AppendAccepted, NodeId, VoteGranted
from dledger_py.raft.writes import PROMISES_MAX, Promises, Writes

LEADER = NodeId("n1")


def acknowledged(match: int, round: int) -> AppendAccepted:
    return AppendAccepted(term=1, match=match, round=round)


def test_a_late_write_does_not_vouch_for_what_replaced_it() -> None:
    writes = Writes(durable_index=4)
    writes.issue(last_index=6, now=0)
    writes.cut(first=5)
    writes.issue(last_index=5, now=0)
    writes.finish(1)

    assert 4 == writes.durable_index
    writes.finish(2)
    assert 5 == writes.durable_index


def test_cutting_below_the_durable_end_takes_it_back() -> None:
    writes = Writes(durable_index=9)
    writes.cut(first=3)

    assert 2 == writes.durable_index


def test_finishing_a_write_finishes_all_before_it() -> None:
    writes = Writes(durable_index=0)
    for index in (1, 2, 3):
        writes.issue(last_index=index, now=index)
    assert 4 == writes.waiting_ticks(now=5)
    writes.finish(2)

    assert (2, 2, 1) == (writes.durable_index, writes.durable_write, len(writes))
    assert 2 == writes.waiting_ticks(now=5)


def test_acknowledgements_that_come_due_together_leave_as_one() -> None:
    promises = Promises()
    promises.add(1, LEADER, acknowledged(1, 1))
    promises.add(2, LEADER, acknowledged(3, 2))
    promises.add(2, LEADER, acknowledged(2, 3))
    promises.add(3, LEADER, acknowledged(4, 4))

    assert [(LEADER, acknowledged(3, 3))] == promises.due(2)
    assert [(LEADER, acknowledged(4, 4))] == promises.due(3)


def test_a_flood_of_repeated_messages_is_held_once() -> None:
    promises = Promises()
    for round in range(100):
        promises.add(1, LEADER, acknowledged(5, round))
    for _ in range(100):
        promises.add(1, NodeId("n2"), VoteGranted(term=1))

    assert 2 == len(promises)


def test_what_waits_for_a_hung_disk_is_bounded() -> None:
    promises = Promises()
    for number in range(2 * PROMISES_MAX):
        promises.add(number, LEADER, VoteGranted(term=number))

    assert PROMISES_MAX == len(promises)
