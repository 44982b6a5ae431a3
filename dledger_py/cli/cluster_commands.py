"""`dledger cluster …`: a whole cluster on this machine, and what can be done to it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dledger_py.cli.exits import DONE, FAILED, UNREACHABLE, fail
from dledger_py.cli.output import columns, print_json, print_table, say

if TYPE_CHECKING:
    from dledger_py.cluster.attached import AttachedCluster

DATA = "data/cluster"

START_WAIT_S = 60.0
"""How long `start` waits for the keeper: longer than the keeper waits for the server."""

_data = click.option(
    "--data",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=DATA,
    show_default=True,
    help="Directory of the cluster: data, configuration, logs.",
)
_json = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cluster() -> None:
    """A name server and a group of brokers on this machine."""


@cluster.command()
@_data
@click.option("--nodes", type=click.IntRange(1, 9), default=3, show_default=True, help="Brokers.")
@click.option(
    "--ports",
    type=click.Choice(["fixed", "free"]),
    default="fixed",
    show_default=True,
    help="fixed: RocketMQ's usual ones; free: whichever the system gives.",
)
@click.option("--namesrv-port", type=int, default=9876, show_default=True)
@click.option(
    "--base-port", type=int, default=10911, show_default=True, help="First broker; the next +10."
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where to listen; clients dial this."
)
@click.option(
    "--flush",
    type=click.Choice(["sync", "async"]),
    default="sync",
    show_default=True,
    help="When a message is acknowledged: on disk at a majority, or in memory there.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of brokers.")
@click.option("--detach", is_flag=True, help="Return, and leave it running for `down`.")
@click.option("--ready-fd", type=int, hidden=True)
def up(**options: Any) -> None:
    """Start everything, and stop everything at Ctrl-C."""
    for each in options["settings"]:
        if "=" not in each:
            raise click.BadParameter(f"{each!r}: expected KEY=VALUE", param_hint="--set")
    if options["detach"]:
        _detach(options)
    else:
        from dledger_py.cli.cluster_up import run

        sys.exit(run(**{name: value for name, value in options.items() if name != "detach"}))


@cluster.command()
@_data
@_json
def status(directory: Path, as_json: bool) -> None:
    """Who runs, who leads. Exit code 0: there is a leader; 1: there is none; 3: nothing runs."""
    from dledger_py.cluster.attached import AttachedCluster

    attached = AttachedCluster.find(directory)
    leader, terms = (None, {}) if not attached.keeper_alive else _leader_and_roles(attached)
    rows = [
        (s.name, s.address, s.pid, s.state, *terms.get(s.name, ("", "")), s.log_path)
        for s in attached.servers()
    ]
    if as_json:
        keys = ("name", "address", "pid", "state", "role", "term", "log")
        print_json(
            {
                "cluster": attached.state.cluster_name,
                "group": attached.state.broker_name,
                "running": attached.keeper_alive,
                "leader": leader,
                "directory": str(attached.directory),
                "servers": [dict(zip(keys, row, strict=True)) for row in rows],
            }
        )
    else:
        shape = columns("Server", "Address", ">Pid", "State", "Role", ">Term")
        print_table(shape, [row[:-1] for row in rows])
        if not attached.keeper_alive:
            say(f"nothing runs; start it: dledger cluster up --data {directory}")
        elif leader is None:
            say("no leader", style="bold red")
    code = UNREACHABLE if not attached.keeper_alive else FAILED if leader is None else DONE
    raise click.exceptions.Exit(code)


@cluster.command("kill-leader")
@_data
@_json
@click.option(
    "--wait", "wait_s", type=float, default=15.0, show_default=True, help="For the next one, in s."
)
def kill_leader(directory: Path, as_json: bool, wait_s: float) -> None:
    """SIGKILL whoever leads, and see who takes over."""
    import time

    from dledger_py.cluster.attached import AttachedCluster

    attached = AttachedCluster.find(directory)
    attached.check_running()
    leader = _wait_leader(attached, wait_s, other_than=None)
    if leader is None:
        fail(f"there is no leader to kill within {wait_s:g} s; see: dledger cluster status")
    began = time.monotonic()
    pid = attached.kill(leader)
    successor = _wait_leader(attached, wait_s, other_than=leader)
    took_s = time.monotonic() - began
    if as_json:
        print_json({"killed": leader, "pid": pid, "leader": successor, "seconds": took_s})
    else:
        say(f"killed {leader} (pid {pid})")
        if successor is not None:
            say(f"{successor} leads since {took_s:.2f} s after that", style="bold green")
        say(f"bring {leader} back: dledger cluster start {leader} --data {directory}")
    if successor is None:
        fail(f"no other leader within {wait_s:g} s: is a majority still running?")


@cluster.command()
@_data
@click.argument("name")
def start(directory: Path, name: str) -> None:
    """Start a server that is down again: n0, n1, … or namesrv."""
    from dledger_py.cluster import control
    from dledger_py.cluster.attached import AttachedCluster

    AttachedCluster.find(directory).check_running()
    control.ask(directory.absolute(), {"start": name}, timeout_s=START_WAIT_S)
    say(f"{name} serves again", style="green")


@cluster.command()
@_data
def down(directory: Path) -> None:
    """Stop a cluster that was left running, in good order. Its data stays."""
    from dledger_py.cluster.attached import AttachedCluster

    ran = AttachedCluster.find(directory).down()
    say("stopped" if ran else "nothing was running")


def _leader_and_roles(
    attached: "AttachedCluster",
) -> tuple[str | None, dict[str, tuple[str, str]]]:
    """The leader as the name server shows it; (role, term) as brokers say themselves."""
    import trio

    from dledger_py.admin import Admin
    from dledger_py.client.errors import ClientError

    asked = Admin(attached.state.namesrv.address, 1.0)
    try:
        members = trio.run(asked.cluster_list)
    except ClientError:
        return None, {}
    leader = None
    found: dict[str, tuple[str, str]] = {}
    running = {server.name for server in attached.servers() if server.state == "running"}
    for member in members:
        node = attached.node_at(member.address)
        if node is None or member.failure is not None:
            continue
        found[node] = (member.role, "" if member.term is None else str(member.term))
        if member.broker_id == 0 and node in running:
            leader = node
    return leader, found


def _wait_leader(
    attached: "AttachedCluster", wait_s: float, *, other_than: str | None
) -> str | None:
    import trio

    from dledger_py.cluster.leaders import group_addresses
    from dledger_py.cluster.local import LEADER_POLL_S

    async def wait() -> str | None:
        with trio.move_on_after(wait_s):
            while True:
                addresses = await group_addresses(
                    attached.state.namesrv.address, attached.state.broker_name
                )
                node = attached.node_at(addresses.get(0, ""))
                if node is not None and node != other_than:
                    return node
                await trio.sleep(LEADER_POLL_S)
        return None

    return trio.run(wait)


def _detach(options: dict[str, Any]) -> None:
    """Run the same command in a session of its own, and show what it says once it serves."""
    directory: Path = options["directory"]
    log_path = directory / "logs" / "keeper.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()
    arguments = ["--data", str(directory), "--ready-fd", str(write_end)]
    for name in ("nodes", "ports", "namesrv_port", "base_port", "host", "flush"):
        arguments += [f"--{name.replace('_', '-')}", str(options[name])]
    for each in options["settings"]:
        arguments += ["--set", each]
    with log_path.open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "dledger_py.cli", "cluster", "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(write_end,),
            start_new_session=True,
        )
    os.close(write_end)
    with os.fdopen(read_end) as ready:
        report = ready.read()
    if not report:
        code = keeper.wait()
        click.echo(log_path.read_text(errors="replace").rstrip(), err=True)
        raise click.exceptions.Exit(code or FAILED)
    say(report.rstrip())
    say(f"Runs in the background. Stop it: dledger cluster down --data {directory}")
