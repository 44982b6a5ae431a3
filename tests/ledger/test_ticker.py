"""The core's clock under virtual time."""

from __future__ import annotations

import trio
import trio.testing

from dledger_py.actors import Child, Supervisor
from dledger_py.ledger.ticker import Ticker


async def test_ticks_come_at_their_pace_and_missed_ones_are_not_made_up_for(mock_clock):
    times = []
    ticker = Ticker(
        0.02, lambda: times.append(trio.current_time()), stall_s=0.1, stalled=lambda: None
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(Supervisor("test", (Child("ticker", lambda: ticker),)).serve)
        start = trio.current_time()
        for _ in range(5):
            mock_clock.jump(0.02)
            await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(3.0)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(0.02)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert 7 == len(times)
    assert 1 == ticker.stalls
    assert 0.1 < times[4] - start + 0.001 < 0.12


async def test_missing_ticks_are_told_before_the_next_and_to_whoever_looks(mock_clock):
    seen = []
    ticker = Ticker(
        0.02, lambda: seen.append("tick"), stall_s=0.1, stalled=lambda: seen.append("stalled")
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(Supervisor("test", (Child("ticker", lambda: ticker),)).serve)
        for late_s in (0.02, 0.035, 0.02):  # within one tick: the next comes all the sooner
            mock_clock.jump(late_s)
            ticker.look()
            await trio.testing.wait_all_tasks_blocked()

        assert ["tick"] * 3 == seen
        mock_clock.jump(0.05)
        ticker.look()
        assert ["tick"] * 3 + ["stalled"] == seen
        await trio.testing.wait_all_tasks_blocked()
        assert ["tick"] * 3 + ["stalled", "stalled", "tick"] == seen
        assert 0 == ticker.stalls
        nursery.cancel_scope.cancel()
