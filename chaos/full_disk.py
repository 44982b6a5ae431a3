"""The scenario: disks run low and run full, of the leader, of a follower, of everybody.

Each member keeps its data on a small disk of its own, which something else fills under load.

    low     less than `disk_floor_bytes` is free: a leader refuses sends and says why; reads and
            offsets go on, and the operator is told. Below half of it the leader gives way.
    full    not a byte is free: the member's next write fails, and it ends with exit code 70, having
            acknowledged nothing that it could not keep. It is started again once there is space.

After each, the space is given back, and everything must go on by itself.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio
from attrs import define, field, frozen

from chaos.checkers.history import OffsetCommitted
from chaos.judging import Verdict, judge
from chaos.load import RECOVERY_TIMEOUT_S, TOPIC, Load, Say, under_load
from chaos.nemesis.disks import SmallDisk, small_disks
from chaos.recorder import Recorder
from dledger_py.actors.incarnation import EXIT_FAIL_STOP
from dledger_py.admin import Admin
from dledger_py.cluster.layout import node_names
from dledger_py.cluster.local import LocalCluster

CASES: Final = ("follower", "leader", "all")
DISK_BYTES: Final = 192 * 1024 * 1024
FLOOR_BYTES: Final = 32 * 1024 * 1024
PROBE_TIMEOUT_S: Final = 2.0
LOOK_S: Final = 0.1
COMMITS_AT_LEAST: Final = 5  # offsets that must get through while sends are refused


@frozen(kw_only=True)
class Plan:
    """Whose disks, in this order, and how often."""

    times: int = 1
    nodes: int = 3
    cases: tuple[str, ...] = CASES


async def run(directory: Path, plan: Plan, *, say: Say) -> Verdict:
    """Run the scenario on a cluster of its own. Raises: CannotMount, TimeoutError, NoLeader."""
    recorder = Recorder()
    places = {node: directory / node for node in node_names(plan.nodes)}
    with small_disks(*places.values(), size_bytes=DISK_BYTES) as disks:
        exits = Exits()
        cluster = LocalCluster(
            directory,
            nodes=plan.nodes,
            settings={"disk_floor_bytes": str(FLOOR_BYTES)},
            on_exit=exits.add,
        )
        async with cluster.running():
            await cluster.wait_leader()
            async with under_load(cluster, recorder, say) as load:
                await load.more_sends()
                by_node = {node: disks[place] for node, place in places.items()}
                scenario = _Scenario(cluster=cluster, disks=by_node, load=load, exits=exits)
                for _ in range(plan.times):
                    for case in plan.cases:
                        await scenario.run_low(case)
                        await scenario.run_full(case)
    return judge(recorder.history(), findings=scenario.findings)


@define(eq=False)
class Exits:
    """Members that ended by themselves, and how."""

    codes: dict[str, int | None] = field(factory=dict)
    _added: trio.Event = field(factory=trio.Event)

    def add(self, node: str, code: int | None) -> None:
        self.codes[node] = code
        self._added.set()
        self._added = trio.Event()

    async def wait(self, node: str) -> None:
        """Until this member has ended."""
        while node not in self.codes:
            await self._added.wait()


@define(eq=False, kw_only=True)
class _Scenario:
    cluster: LocalCluster
    disks: dict[str, SmallDisk]
    load: Load
    exits: Exits
    findings: list[str] = field(factory=list)
    _probes: int = 0

    # --- low ----------------------------------------------------------------------------------

    async def run_low(self, case: str) -> None:
        leader, victims = await self._victims(case)
        self.load.fault("low on disk", *victims)
        for node in victims:
            self.disks[node].leave(FLOOR_BYTES * 3 // 4)
        for node in victims:
            await self._told(node, "diskRefusesSends", "true", logged="disk.ran_low")
        if leader in victims:
            why = await self._refused()
            await self._consumers_go_on()
            self.load.say(f"{case}: sends are refused, consumers go on: {why}")
        else:
            await self.load.more_sends()
            self.load.say(f"{case}: sends go on while {', '.join(victims)} is low on disk")
        if case == "leader":
            self.load.fault("lower on disk", leader)
            self.disks[leader].leave(FLOOR_BYTES // 4)
            successor = await self.cluster.wait_leader(other_than=leader)
            await self.load.more_sends()
            self.load.say(f"{case}: {leader} gave way to {successor}, and sends go on")
        self.load.fault("given space", *victims)
        for node in victims:
            self.disks[node].relieve()
        for node in victims:
            await self._told(node, "diskRefusesSends", "false", logged="disk.recovered")
        await self.cluster.wait_leader()
        await self.load.more_sends()

    async def _told(self, node: str, key: str, value: str, *, logged: str) -> None:
        """Until the operator sees it, by asking and in the log."""
        admin = Admin(self.cluster.namesrv_address)
        address = self.cluster.members[node].address

        async def shown() -> bool:
            (state,) = await admin.broker_status(broker_address=address)
            return state.table.get(key) == value

        await self._eventually(shown, f"{node} does not show {key} = {value}")
        if logged not in self.cluster.layout.log_path(node).read_text():
            self.findings.append(f"{node} has not logged {logged}")

    async def _refused(self) -> str:
        """Until a send is refused for the disk; the words it is refused with."""
        words: list[str] = []

        async def refused() -> bool:
            self._probes += 1
            error = await self.load.workload.send("probe", self._probes, timeout_s=PROBE_TIMEOUT_S)
            words.append(str(error))
            return "answered 14: " in words[-1] and "disk is nearly full" in words[-1]

        await self._eventually(refused, "sends are not refused")
        _, _, why = words[-1].partition("answered ")
        return why

    async def _consumers_go_on(self) -> None:
        workload, recorder = self.load.workload, self.load.recorder
        before = _commits(recorder)
        await self.load.wait_until(
            lambda: _commits(recorder) >= before + COMMITS_AT_LEAST, what="commits of offsets"
        )
        result = await workload.client.pull(TOPIC, 0, await workload.client.min_offset(TOPIC, 0))
        if not result.messages:
            self.findings.append("messages are not read while sends are refused")

    # --- full ---------------------------------------------------------------------------------

    async def run_full(self, case: str) -> None:
        _, victims = await self._victims(case)
        self.exits.codes.clear()
        self.load.fault("full", *victims)
        for node in victims:
            self.disks[node].fill()
        if case == "all":
            await self._eventually(self._stand_still, "sends go on with every disk full")
        else:
            with trio.fail_after(RECOVERY_TIMEOUT_S):
                await self.exits.wait(victims[0])
            await self.cluster.wait_leader(other_than=victims[0])
            await self.load.more_sends()
        ended = dict(self.exits.codes)
        self.findings += [
            f"{node} ended with {code}, not {EXIT_FAIL_STOP}"
            for node, code in ended.items()
            if code != EXIT_FAIL_STOP
        ]
        self.load.fault("given space", *victims)
        for node in victims:
            self.disks[node].relieve()
        await self._eventually(self._all_serve, "the members are not all back")
        await self.load.more_sends()
        who = f"{', '.join(ended)} ended with exit code 70" if ended else "nobody wrote"
        self.load.say(f"{case}: full, {who}; all are back")

    async def _all_serve(self) -> bool:
        """Start who has ended. Some may just be ending, of a write from before the relief."""
        down = [node for node, member in self.cluster.members.items() if member.state == "down"]
        async with trio.open_nursery() as starting:
            for node in down:
                starting.start_soon(self.cluster.start, node)
        return not down and await self.cluster.leader() is not None

    async def _stand_still(self) -> bool:
        """Whether nothing is acknowledged: members end, or saw the disk in time and do not lead."""
        before = len(self.load.recorder.acknowledged)
        await trio.sleep(PROBE_TIMEOUT_S)
        return len(self.load.recorder.acknowledged) == before

    # --- both ---------------------------------------------------------------------------------

    async def _victims(self, case: str) -> tuple[str, tuple[str, ...]]:
        leader = await self.cluster.wait_leader()
        match case:
            case "leader":
                return leader, (leader,)
            case "follower":
                return leader, (next(node for node in self.disks if node != leader),)
            case _:
                return leader, tuple(self.disks)

    async def _eventually(self, holds: Callable[[], Awaitable[bool]], otherwise: str) -> None:
        with trio.move_on_after(RECOVERY_TIMEOUT_S) as waiting:
            while not await holds():  # noqa: ASYNC110 - of another process, that tells nobody
                await trio.sleep(LOOK_S)
        if waiting.cancelled_caught:
            raise TimeoutError(f"{otherwise} within {RECOVERY_TIMEOUT_S:g} s")


def _commits(recorder: Recorder) -> int:
    return sum(1 for _ in recorder.history().of(OffsetCommitted))
