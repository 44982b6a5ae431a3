"""`dledger cluster up` in the foreground: start, report, tell what happens, stop."""

import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import trio
from attrs import frozen

from dledger_py.cli.admin_commands import NAMESRV
from dledger_py.cli.cluster_commands import DATA
from dledger_py.cli.exits import DONE
from dledger_py.cli.output import columns, print_table, program, say, short_path
from dledger_py.cluster import control
from dledger_py.cluster.errors import ClusterError
from dledger_py.cluster.local import FixedPorts, FreePorts, LocalCluster
from dledger_py.cluster.servers import describe_exit

LEADER_WATCH_S = 0.5
"""How often the leader is looked for once all runs: a person watches, nothing else."""

FIRST_LEADER_WAIT_S = 30.0

PREFERRED_WAIT_S = 20.0
"""How long groups may take to be led by whom they prefer; usually a second or two. Who does not by
then is told when it does."""


@frozen(kw_only=True)
class _Report:
    """What a person, or the waiting parent of a detached keeper, is told once."""

    cluster: LocalCluster
    leaders: Mapping[str, str]
    """Of each group."""
    took_s: float

    @property
    def leader(self) -> str:
        """Of the first group."""
        return next(iter(self.leaders.values()))

    def headline(self) -> str:
        count = len(self.cluster.members)
        brokers = "1 broker" if count == 1 else f"{count} brokers"
        serve = f"and a name server serve after {self.took_s:.1f} s"
        if len(self.leaders) == 1:
            return f"{brokers} {serve}; {self.leader} leads."
        led = ", ".join(f"{node} leads {group}" for group, node in self.leaders.items())
        return f"{brokers} with {len(self.leaders)} groups {serve};\n{led}."

    def header(self) -> tuple[str, ...]:
        if len(self.leaders) == 1:
            return "Server", "Address", "Role"
        return "Server", *(f"Address in {group}" for group in self.leaders)

    def rows(self) -> list[tuple[str, ...]]:
        """Each server and where clients reach it; for several groups, a column of each."""
        places = self.cluster.layout.members
        if len(self.leaders) > 1:
            none = ("",) * (len(self.leaders) - 1)
            return [
                ("name server", self.cluster.namesrv_address, *none),
                *((place.node, *place.addresses) for place in places),
            ]
        rows = [("name server", self.cluster.namesrv_address, "")]
        for place in places:
            role = "leader" if place.node == self.leader else "follower"
            rows.append((place.node, place.address, role))
        return [*rows]

    def snippet(self) -> str:
        return (
            "import anyio\n"
            "from dledger_py.client import connect\n"
            "\n"
            "async def main():\n"
            f'    async with connect("{self.cluster.namesrv_address}") as mq:\n'
            '        print(await mq.send("Orders", b"hello"))\n'
            "\n"
            "anyio.run(main)\n"
        )

    def commands(self) -> list[str]:
        """Options that are the defaults are left out."""
        data = short_path(self.cluster.directory)
        where = "" if data == DATA else f" --data {data}"
        address = self.cluster.namesrv_address
        asked = "" if address == NAMESRV else f" -n {address}"
        return [
            f"{program()} cluster status{where}",
            f"{program()} cluster kill-leader{where}",
            f"{program()} cluster start {self.leader}{where}",
            f"{program()} admin clusterList{asked}",
        ]

    def plain(self) -> str:
        lines = (
            f"  {name:<12} {''.join(f'{c:<22}' for c in cells)}" for name, *cells in self.rows()
        )
        table = "\n".join(line.rstrip() for line in lines)
        return f"{self.headline()}\n{table}\n  {'data':<12} {self.cluster.directory}\n"


def run(
    *,
    directory: Path,
    nodes: int,
    groups: int,
    ports: str,
    namesrv_port: int,
    base_port: int,
    host: str,
    flush: str,
    settings: tuple[str, ...],
    ready_fd: int | None,
) -> int:
    """Until SIGINT or SIGTERM; the exit code. Raises: ClusterError."""
    cluster = LocalCluster(
        directory,
        nodes=nodes,
        groups=groups,
        ports=FreePorts()
        if ports == "free"
        else FixedPorts(namesrv=namesrv_port, brokers=base_port),
        host=host,
        flush="async" if flush == "async" else "sync",
        settings=dict(each.split("=", 1) for each in settings),
        on_exit=lambda name, code: say(
            f"{name} ended with {describe_exit(code)}; start it again: "
            f"{program()} cluster start {name} --data {directory}",
            style="bold red",
        ),
    )
    trio.run(_until_stopped, cluster, ready_fd)
    return DONE


async def _until_stopped(cluster: LocalCluster, ready_fd: int | None) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        failure: ClusterError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at, signals, nursery.cancel_scope)
            try:
                await _keep(cluster, ready_fd)
            except ClusterError as error:  # it leaves the nursery as it is, not as a group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _cancel_at(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        say("stopping …")
        scope.cancel()
        return


async def _keep(cluster: LocalCluster, ready_fd: int | None) -> None:
    began = time.monotonic()
    async with cluster.running():
        await cluster.wait_leaders(timeout_s=FIRST_LEADER_WAIT_S)
        await cluster.wait_preferred(timeout_s=PREFERRED_WAIT_S)
        leaders = await cluster.wait_leaders(timeout_s=FIRST_LEADER_WAIT_S)
        report = _Report(cluster=cluster, leaders=leaders, took_s=time.monotonic() - began)
        _show(report)
        if ready_fd is not None:
            os.write(ready_fd, report.plain().encode())
            os.close(ready_fd)
        async with trio.open_nursery() as nursery:
            await nursery.start(_serve_control, cluster)
            await _watch_leaders(cluster, leaders)


async def _serve_control(
    cluster: LocalCluster, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    await control.serve(cluster, task_status=task_status)


async def _watch_leaders(cluster: LocalCluster, leaders: Mapping[str, str | None]) -> None:
    """Tell each change of leadership; never returns."""
    shown = leaders
    while True:
        await trio.sleep(LEADER_WATCH_S)
        now = await cluster.leaders()
        for group, leader in now.items():
            if leader == shown[group]:
                continue
            of = "" if len(now) == 1 else f" {group}"
            if leader is None:
                say(f"nobody leads{of}" if of else "no leader", style="bold red")
            else:
                say(f"{leader} leads{of} now", style="bold green")
        shown = now


def _show(report: _Report) -> None:
    say(report.headline(), style="bold green")
    print_table(columns(*report.header()), report.rows())
    say(f"Data and logs: {report.cluster.directory}")
    say()
    say("Send a message:", style="bold")
    say()
    for line in report.snippet().splitlines():
        say(f"    {line}".rstrip())
    say()
    say("From another shell:", style="bold")
    say()
    for command in report.commands():
        say(f"    {command}")
    say()
    say("Ctrl-C stops everything; the data stays.")
