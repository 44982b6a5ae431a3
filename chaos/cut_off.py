"""The scenario: the leader is cut off from its peers, and nobody tells anybody.

No connection breaks and no process ends: bytes between members just stop arriving, which only
silence reveals. Clients and the name server still reach every member, the old leader included, so
that a client has to notice by itself that its leader cannot decide any more.

Cut one way only, cuts alternate: first the leader's words do not arrive (others elect a leader it
does not know of), then it does not hear the others (which go on following one that cannot commit).
"""

from pathlib import Path
from typing import Final

from attrs import frozen

from chaos.judging import Verdict, judge
from chaos.load import Load, Say, under_load
from chaos.nemesis.network import Network, open_network
from chaos.recorder import Recorder
from dledger_py.cluster.local import LocalCluster

ELECTION_TIMEOUT_MS: Final = 1000  # the default; silence is noticed after one of them
GAP_MAX_S: Final = 2 * ELECTION_TIMEOUT_MS / 1000


@frozen(kw_only=True)
class Plan:
    """How often to cut, and how."""

    times: int = 10
    nodes: int = 3
    one_way: bool = False
    gap_max_s: float = GAP_MAX_S


async def run(directory: Path, plan: Plan, *, say: Say) -> Verdict:
    """Run the scenario on a cluster of its own. Raises: TimeoutError, NoLeader."""
    recorder = Recorder()
    async with open_network() as network:
        cluster = LocalCluster(
            directory,
            nodes=plan.nodes,
            dialled=network.dialled,
            settings={"ledger.election_timeout_ms": str(ELECTION_TIMEOUT_MS)},
        )
        async with cluster.running():
            await cluster.wait_leader()
            async with under_load(cluster, recorder, say) as load:
                await load.more_sends()
                for number in range(1, plan.times + 1):
                    story = await _cut_and_heal(cluster, network, load, plan, number)
                    say(f"cut {number} of {plan.times}: {story}")
    return judge(recorder.history(), gap_max_s=plan.gap_max_s)


async def _cut_and_heal(
    cluster: LocalCluster, network: Network, load: Load, plan: Plan, number: int
) -> str:
    leader = await cluster.wait_leader()
    others = [node for node in cluster.members if node != leader]
    unheard = not plan.one_way or number % 2 == 1
    deaf = not plan.one_way or number % 2 == 0
    what = "cut off" if unheard and deaf else "not heard" if unheard else "deaf"
    load.fault(what, leader)
    network.cut_off(leader, others, outwards=unheard, inwards=deaf)
    successor = await cluster.wait_leader(other_than=leader)
    await load.more_sends()
    load.fault("healed", leader)
    network.heal()
    await load.more_sends()
    return f"{leader} {what}, {successor} took over"
