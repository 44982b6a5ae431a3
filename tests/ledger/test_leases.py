"""Readers let pass by lease, in a group of real members."""

from __future__ import annotations

import pytest
import trio

from dledger_py.ledger.config import LedgerConfig
from tests.ledger.conftest import PATIENCE_S


async def passes_without_a_round(leader) -> bool:
    """Whether a barrier passed of which no other member heard."""
    core = leader.ledger.parts.core
    before = core.role.round
    done = trio.Event()
    leader.ledger.read_barrier_nowait(lambda error: done.set())
    rounds = core.role.round - before
    await done.wait()
    return rounds == 0


async def test_a_leader_that_was_answered_lets_readers_pass_without_a_round(open_group):
    async with open_group(3, election_timeout_ms=400, lease_reads=True) as group:
        await group.start()
        leader = await group.wait_leader()
        with trio.fail_after(PATIENCE_S):
            while not await passes_without_a_round(leader):
                """A loop that stalled just now has no lease: other tests share the machine."""


async def test_missing_ticks_end_the_lease_before_a_reader_relies_on_it(open_group):
    async with open_group(3, election_timeout_ms=400, lease_reads=True) as group:
        await group.start()
        leader = await group.wait_leader()
        with trio.fail_after(PATIENCE_S):
            while not await passes_without_a_round(leader):
                """As above."""
            leader.ledger.parts.ticker._due -= 1.0  # a tick should have come a second ago

            assert not await passes_without_a_round(leader)


async def test_without_leases_every_reader_costs_a_round(open_group):
    async with open_group(3) as group:
        await group.start()
        leader = await group.wait_leader()

        assert not await passes_without_a_round(leader)


def test_leases_that_no_heartbeat_could_renew_are_refused():
    with pytest.raises(ValueError, match="lease_reads: with an election timeout of 400 ms"):
        LedgerConfig(
            node="n0",
            peers={"n0": "127.0.0.1:1"},
            data_dir="x",
            lease_reads=True,
            election_timeout_ms=400,
            heartbeat_ms=100,
        )
