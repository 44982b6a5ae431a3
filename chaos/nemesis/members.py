"""What is done to members: killed and started again, or stopped for a while."""

from contextlib import suppress

import trio

from chaos.load import Load
from dledger_py.admin import Admin
from dledger_py.client import ResponseError
from dledger_py.cluster.local import LocalCluster


async def kill(
    cluster: LocalCluster, load: Load, number: int, *, everybody: bool
) -> tuple[str, ...]:
    """SIGKILL the leader of one group after the other, by `number`, or every member; who it was."""
    groups = cluster.layout.broker_names
    leader = (await cluster.wait_leaders())[groups[(number - 1) % len(groups)]]
    victims = tuple(cluster.members) if everybody else (leader,)
    load.fault("killed", *victims)
    for node in victims:
        await cluster.kill(node)
    return victims


async def hand_over(cluster: LocalCluster, load: Load, number: int) -> None:
    """Let the leader of one group after the other, by `number`, give way to the last member: where
    several could, the first ones are elected, and the last would never lead."""
    groups = cluster.layout.broker_names
    group = groups[(number - 1) % len(groups)]
    leader = await cluster.wait_leader(group=group)
    node = max(each for each in cluster.members if each != leader)
    load.fault("given the lead", node)
    with suppress(ResponseError):  # it is too far behind: then its leader goes on
        await Admin(cluster.namesrv_address).transfer_leader(node, broker_name=group)
    await load.more_sends()


async def recover(cluster: LocalCluster, load: Load, killed: tuple[str, ...]) -> None:
    """Let the others take over (if any are left), bring the killed back, wait for more sends."""
    if len(killed) < len(cluster.members):
        await load.more_sends()
    async with trio.open_nursery() as starting:
        for node in killed:
            starting.start_soon(cluster.start, node)
    await load.more_sends()


async def pause(cluster: LocalCluster, load: Load, seconds: float, leads: bool) -> str:
    """SIGSTOP the leader of the first group, or another member, for so long; what happened."""
    leader = await cluster.wait_leader()
    node = leader if leads else next(each for each in cluster.members if each != leader)
    what = "leader" if leads else "follower"
    load.fault(f"paused {seconds:g} s as {what}", node)
    cluster.pause(node)
    await trio.sleep(seconds)
    load.fault(f"resumed as {what}", node)
    cluster.resume(node)
    await load.more_sends()
    return f"{node}, {what}, for {seconds:g} s; {await cluster.wait_leader()} leads"
