"""Who is told what, when, and that it happens once."""

from __future__ import annotations

import trio

from dledger_py.ledger.errors import Busy, Indefinite, NotLeader
from dledger_py.ledger.settlements import Settlements


def raise_it(error: Exception) -> None:
    raise error


async def next_turn() -> None:
    turn = trio.Event()
    trio.lowlevel.current_trio_token().run_sync_soon(turn.set)
    await turn.wait()


async def test_a_proposal_gets_the_reply_of_exactly_its_entry():
    settlements = Settlements(1000)
    results = []
    first = settlements.admit(10, results.append)
    second = settlements.admit(10, results.append)
    settlements.proposed(first, 5, 1)
    settlements.proposed(second, 6, 1)
    settlements.applied(5, 1, "five")
    settlements.applied(6, 2, "somebody else's six")

    assert "five" == results[0]
    assert isinstance(results[1], NotLeader)
    assert 0 == settlements.waiting_bytes == settlements.waiting


async def test_a_barrier_waits_until_its_index_is_applied():
    settlements = Settlements(1000)
    results = []
    late = settlements.admit_barrier(lambda error: results.append(("late", error)))
    early = settlements.admit_barrier(lambda error: results.append(("early", error)))
    settlements.confirmed(late, 9, applied_index=3)
    settlements.confirmed(early, 3, applied_index=3)
    settlements.applied(8, 1, None)

    assert [("early", None)] == results
    settlements.applied(9, 1, None)
    assert [("early", None), ("late", None)] == results


async def test_nobody_is_answered_inside_their_own_call():
    settlements = Settlements(1000)
    results = []
    turns = []
    settlements.after_turn(lambda: turns.append(len(results)))
    settlements.deferring = True
    ticket = settlements.admit(10, results.append)
    settlements.lost(ticket, NotLeader("n2"))
    settlements.end_turn()
    settlements.deferring = False

    assert [] == results == turns
    await next_turn()
    assert "n2" == results[0].leader
    assert [1] == turns


async def test_what_is_over_the_bound_is_busy_but_one_alone_never_is():
    settlements = Settlements(100)
    results = []
    ticket = settlements.admit(5000, results.append)
    refused = settlements.admit(1, results.append)
    await next_turn()

    assert ticket is not None
    assert refused is None
    assert [Busy] == [type(result) for result in results]


async def test_after_turn_runs_once_for_a_burst_and_not_for_nothing():
    settlements = Settlements(1000)
    turns = []
    settlements.after_turn(lambda: turns.append("turn"))
    settlements.end_turn()
    for index in (1, 2, 3):
        ticket = settlements.admit(1, lambda reply: None)
        settlements.proposed(ticket, index, 1)
        settlements.applied(index, 1, None)
    settlements.end_turn()
    settlements.end_turn()

    assert ["turn"] == turns


async def test_an_end_answers_everybody_once():
    settlements = Settlements(1000)
    results = []
    settlements.admit(1, results.append)
    settlements.admit_barrier(results.append)
    settlements.confirmed(settlements.admit_barrier(results.append), 9, applied_index=1)
    settlements.abandon()
    settlements.abandon()
    await next_turn()

    assert [Indefinite, NotLeader, NotLeader] == [type(result) for result in results]


async def test_a_callback_that_raises_is_reported_and_not_lost():
    errors = []
    settlements = Settlements(1000)

    def guard(answer):
        try:
            answer()
        except RuntimeError as error:
            errors.append(error)

    settlements.guard = guard
    settlements.refuse(lambda result: raise_it(RuntimeError("a broken callback")), Busy())
    await next_turn()

    assert "a broken callback" == str(errors[0])
