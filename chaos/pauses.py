"""The scenario: members are stopped (SIGSTOP) for a while and go on as if nothing had happened.

A stopped member answers nobody, but its connections stay open, and when it goes on its clocks have
jumped: a leader believes for a moment that it still leads. Times lie around the election timeout:
half of it (nobody is replaced), just over it, and far beyond.
"""

from itertools import cycle
from pathlib import Path
from typing import Final

from attrs import frozen

from chaos.judging import Verdict, judge
from chaos.load import Say, under_load
from chaos.nemesis.members import pause
from chaos.recorder import Recorder
from dledger_py.cluster.local import LocalCluster

ELECTION_TIMEOUT_MS: Final = 1000
PAUSES_S: Final = (0.5, 1.1, 3.0)  # by the election timeout: below, just over, far beyond
GAP_MAX_S: Final = 2.5
"""A paused leader: one timeout of silence and its election. But clients' sends wait in the paused
process, and they leave it only after their own time for an attempt (2 s)."""


@frozen(kw_only=True)
class Plan:
    """How often to pause somebody: leader and followers in turn, with these times in turn."""

    times: int = 12
    nodes: int = 3
    pauses_s: tuple[float, ...] = PAUSES_S
    gap_max_s: float = GAP_MAX_S


async def run(directory: Path, plan: Plan, *, say: Say) -> Verdict:
    """Run the scenario on a cluster of its own. Raises: TimeoutError, NoLeader."""
    recorder = Recorder()
    cluster = LocalCluster(
        directory,
        nodes=plan.nodes,
        settings={"ledger.election_timeout_ms": str(ELECTION_TIMEOUT_MS)},
    )
    async with cluster.running():
        await cluster.wait_leader()
        async with under_load(cluster, recorder, say) as load:
            await load.more_sends()
            times = cycle([(s, leads) for s in plan.pauses_s for leads in (True, False)])
            for number in range(1, plan.times + 1):
                story = await pause(cluster, load, *next(times))
                say(f"pause {number} of {plan.times}: {story}")
    return judge(recorder.history(), gap_max_s=plan.gap_max_s)
