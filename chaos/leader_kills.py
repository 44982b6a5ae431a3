"""The scenario: kill the leader under load, again and again, and judge what clients saw.

Two ways to kill: the leader alone, which is started again once somebody else leads, or every node
at once, after which all acknowledged messages must be there when they are back. With several groups
the leader of one after the other is killed, and with the node all that it leads.
"""

from pathlib import Path

from attrs import frozen

from chaos.judging import Verdict, judge
from chaos.load import Say, under_load
from chaos.nemesis.members import kill, recover
from chaos.recorder import Recorder
from dledger_py.cluster.local import LocalCluster


@frozen(kw_only=True)
class Plan:
    """How often to kill, and whom."""

    times: int = 10
    kill_all: bool = False
    nodes: int = 3
    groups: int = 1
    flush: str = "sync"
    snapshot_every_bytes: int = 0
    """Make the brokers write their state down this often; 0 leaves it to them."""


async def run(directory: Path, plan: Plan, *, say: Say) -> Verdict:
    """Run the scenario on a cluster of its own. Raises: TimeoutError with the last thing done."""
    recorder = Recorder()
    often = str(plan.snapshot_every_bytes)
    cluster = LocalCluster(
        directory,
        nodes=plan.nodes,
        groups=plan.groups,
        flush="async" if plan.flush == "async" else "sync",
        settings={"ledger.snapshot_every_bytes": often} if plan.snapshot_every_bytes else {},
    )
    async with cluster.running():
        await cluster.wait_leaders()
        await cluster.wait_preferred()
        async with under_load(cluster, recorder, say) as load:
            await load.more_sends()
            for number in range(1, plan.times + 1):
                victims = await kill(cluster, load, number, everybody=plan.kill_all)
                await recover(cluster, load, victims)
                say(f"kill {number} of {plan.times}: {', '.join(victims)}")
    return judge(recorder.history())
