"""The scenario: the members of a group change under load, as an operator would change them.

    add       a further broker with an empty folder; it gets the log, then a vote
    remove    the leader, whose process is stopped afterwards
    replace   a follower that was killed and whose folder is gone

The group is as large after a round as before, and one member newer.
"""

import shutil
from pathlib import Path
from typing import Final

import trio
from attrs import frozen

from chaos.judging import Verdict, judge
from chaos.load import RECOVERY_TIMEOUT_S, Load, Say, under_load
from chaos.recorder import Recorder
from dledger_py.admin import Admin
from dledger_py.cluster.local import LocalCluster

GAP_MAX_S: Final = 2.0
LOOK_S: Final = 0.1


@frozen(kw_only=True)
class Plan:
    """How many rounds of all three."""

    times: int = 1
    nodes: int = 3
    gap_max_s: float = GAP_MAX_S


async def run(directory: Path, plan: Plan, *, say: Say) -> Verdict:
    """Run the scenario on a cluster of its own. Raises: TimeoutError, NoLeader, ResponseError."""
    recorder = Recorder()
    cluster = LocalCluster(directory, nodes=plan.nodes)
    async with cluster.running():
        await cluster.wait_leader()
        admin = Admin(cluster.namesrv_address)
        async with under_load(cluster, recorder, say) as load:
            await load.more_sends()
            for number in range(plan.times):
                await _add(cluster, admin, load, f"n{plan.nodes + number}")
                await _remove(cluster, admin, load)
                await _replace(cluster, admin, load)
    return judge(recorder.history(), gap_max_s=plan.gap_max_s)


async def _add(cluster: LocalCluster, admin: Admin, load: Load, node: str) -> None:
    place = await cluster.add_broker(node)
    load.fault("added", node)
    await admin.add_member(node, place.peer_address)
    await _wait_membership(admin, node, "voter")
    await load.more_sends()
    load.say(f"{node} was added and has a vote")


async def _remove(cluster: LocalCluster, admin: Admin, load: Load) -> None:
    node = await cluster.wait_leader()
    load.fault("removed while it led", node)
    await admin.remove_member(node)
    successor = await cluster.wait_leader(other_than=node)
    await _wait_membership(admin, node, "")
    await cluster.stop(node)
    await load.more_sends()
    load.say(f"{node} was removed while it led; {successor} leads")


async def _replace(cluster: LocalCluster, admin: Admin, load: Load) -> None:
    leader = await cluster.wait_leader()
    running = [node for node, member in cluster.members.items() if member.state == "running"]
    node = next(node for node in running if node != leader)
    load.fault("killed and emptied", node)
    await cluster.kill(node)
    shutil.rmtree(cluster.layout.data_path(node))
    await cluster.start(node)
    load.fault("replaced", node)
    await admin.replace_member(node)
    await _wait_membership(admin, node, "voter")
    await load.more_sends()
    load.say(f"{node} lost its folder, was replaced and has a vote again")


async def _wait_membership(admin: Admin, node: str, wanted: str) -> None:
    """Until the group's leader has this to say of a node; nothing, if it is none of the group."""
    with trio.move_on_after(RECOVERY_TIMEOUT_S):
        while True:
            states = await admin.raft_status()
            led = any(state.role == "leader" for state in states)
            told = {state.node: state.membership for state in states}
            if led and told.get(node, "") == wanted:
                return
            await trio.sleep(LOOK_S)
    raise TimeoutError(f"{node} is not {wanted or 'gone'} within {RECOVERY_TIMEOUT_S:g} s")
