"""The scenario: kill the leader under load, again and again, and judge what clients saw.

Two ways to kill: the leader alone, which is started again once somebody else leads, or every node
at once, after which all acknowledged messages must be there when they are back.
"""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import trio
from attrs import frozen

from chaos.checkers.history import Acknowledged, History, Killed, Received
from chaos.checkers.messages import CHECKERS, Gap, duplicates, write_gaps
from chaos.recorder import Recorder, now_ns
from chaos.workloads.messages import Workload
from dledger_py.client import connect
from dledger_py.cluster.local import LocalCluster

PRODUCERS: Final = 4
CONSUMERS: Final = 2
QUEUES: Final = 4
TOPIC: Final = "Chaos"
GROUP: Final = "chaos-consumers"
SENDS_BETWEEN_KILLS: Final = 200
RECOVERY_TIMEOUT_S: Final = 60.0  # a run that stands still for so long has failed


Say = Callable[[str], None]


@frozen(kw_only=True)
class Verdict:
    """What the judges found."""

    findings: tuple[str, ...]
    gaps: tuple[Gap, ...]
    acknowledged: int
    received: int
    duplicates: int
    kills: int

    @property
    def passed(self) -> bool:
        return not self.findings

    @property
    def median_gap_s(self) -> float:
        return statistics.median(gap.seconds for gap in self.gaps) if self.gaps else 0.0


def judge(history: History) -> Verdict:
    """All judges on one history."""
    return Verdict(
        findings=tuple(
            f"{checker.__name__}: {finding}" for checker in CHECKERS for finding in checker(history)
        ),
        gaps=write_gaps(history),
        acknowledged=sum(1 for _ in history.of(Acknowledged)),
        received=sum(1 for _ in history.of(Received)),
        duplicates=duplicates(history),
        kills=sum(1 for _ in history.of(Killed)),
    )


@frozen(kw_only=True)
class Plan:
    """How often to kill, and whom."""

    kills: int = 10
    kill_all: bool = False
    nodes: int = 3
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
        flush="async" if plan.flush == "async" else "sync",
        settings={"ledger.snapshot_every_bytes": often} if plan.snapshot_every_bytes else {},
    )
    async with cluster.running():
        await cluster.wait_leader()
        async with connect(cluster.namesrv_address) as client:
            workload = Workload(
                name_server=cluster.namesrv_address,
                client=client,
                topic=TOPIC,
                group=GROUP,
                queues=QUEUES,
                recorder=recorder,
            )
            await _under_load(cluster, workload, plan, say)
    return judge(recorder.history())


async def _under_load(cluster: LocalCluster, workload: Workload, plan: Plan, say: Say) -> None:
    recorder = workload.recorder
    stopped = trio.Event()
    async with trio.open_nursery() as consumers:
        for number in range(CONSUMERS):
            consumers.start_soon(workload.consume, f"c{number}")
        async with trio.open_nursery() as producers:
            for number in range(PRODUCERS):
                producers.start_soon(workload.produce, f"p{number}", stopped)
            producers.start_soon(workload.keep_offsets, stopped)
            await _more_sends(recorder, say)
            for number in range(1, plan.kills + 1):
                killed = await _kill(cluster, recorder, plan)
                await _recover(cluster, recorder, killed, say)
                say(f"kill {number} of {plan.kills}: {', '.join(killed)}")
            stopped.set()
        with trio.fail_after(RECOVERY_TIMEOUT_S):
            await recorder.wait_until(lambda: recorder.acknowledged <= recorder.received)
        consumers.cancel_scope.cancel()
    await workload.inspect()


async def _kill(cluster: LocalCluster, recorder: Recorder, plan: Plan) -> Sequence[str]:
    leader = await cluster.wait_leader()
    victims = tuple(cluster.members) if plan.kill_all else (leader,)
    for node in victims:
        recorder.add(Killed(at_ns=now_ns(), node=node, leader=node == leader))
        await cluster.kill(node)
    return victims


async def _recover(
    cluster: LocalCluster, recorder: Recorder, killed: Sequence[str], say: Say
) -> None:
    """Let the others take over (if any are left), bring the killed back, wait for more sends."""
    if len(killed) < len(cluster.members):
        await _more_sends(recorder, say)
    async with trio.open_nursery() as starting:
        for node in killed:
            starting.start_soon(cluster.start, node)
    await _more_sends(recorder, say)


async def _more_sends(recorder: Recorder, say: Say) -> None:
    """Until so many more sends were acknowledged."""
    target = len(recorder.acknowledged) + SENDS_BETWEEN_KILLS
    with trio.move_on_after(RECOVERY_TIMEOUT_S) as waiting:
        await recorder.wait_until(lambda: len(recorder.acknowledged) >= target)
    if waiting.cancelled_caught:
        say("writes stand still")
        raise TimeoutError(f"no {SENDS_BETWEEN_KILLS} sends within {RECOVERY_TIMEOUT_S:g} s")
