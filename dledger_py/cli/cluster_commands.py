"""`dledger cluster …`: a whole cluster on this machine, and what can be done to it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

from dledger_py.cli.exits import DONE, FAILED, UNREACHABLE, fail
from dledger_py.cli.output import columns, print_json, print_table, program, say

if TYPE_CHECKING:
    from dledger_py.admin.records import MemberState
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
    """A name server and brokers on this machine, in one Raft group or in several."""


@cluster.command()
@_data
@click.option("--nodes", type=click.IntRange(1, 9), default=3, show_default=True, help="Brokers.")
@click.option(
    "--groups",
    type=click.IntRange(1, 9),
    default=1,
    show_default=True,
    help="Raft groups; each node has a member of each, and they are led in turns.",
)
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
    """Who runs, who leads. Exit code 0: every group has a leader; 1: not so; 3: nothing runs."""
    from dledger_py.cluster.attached import AttachedCluster

    attached = AttachedCluster.find(directory)
    groups = _groups_now(attached)
    if as_json:
        print_json(_status_document(attached, groups))
    else:
        _show_status(attached, groups)
        if not attached.keeper_alive:
            say(f"nothing runs; start it: {program()} cluster up --data {directory}")
        for group in groups if attached.keeper_alive else ():
            if group.leader is None:
                of = "" if len(groups) == 1 else f": {group.name}"
                say(f"no leader{of}", style="bold red")
    led = all(group.leader is not None for group in groups)
    code = UNREACHABLE if not attached.keeper_alive else DONE if led else FAILED
    raise click.exceptions.Exit(code)


def _status_document(attached: "AttachedCluster", groups: Sequence["GroupNow"]) -> dict[str, Any]:
    """`leader`, and servers' `role` and `term`, are of the first group."""
    first = groups[0]
    return {
        "cluster": attached.state.cluster_name,
        "group": first.name,
        "running": attached.keeper_alive,
        "leader": first.leader,
        "directory": str(attached.directory),
        "servers": [
            {
                "name": server.name,
                "address": server.address,
                "pid": server.pid,
                "state": server.state,
                "role": first.role(server.name),
                "term": first.term(server.name),
                "log": server.log_path,
            }
            for server in attached.servers()
        ],
        "groups": [
            {
                "name": group.name,
                "leader": group.leader,
                "members": [
                    {
                        "node": node,
                        "address": address,
                        "role": group.role(node),
                        "term": group.term(node),
                    }
                    for node, address in group.addresses.items()
                ],
            }
            for group in groups
        ],
    }


def _show_status(attached: "AttachedCluster", groups: Sequence["GroupNow"]) -> None:
    servers = attached.servers()
    if len(groups) == 1:
        (group,) = groups
        print_table(
            columns("Server", "Address", ">Pid", "State", "Role", ">Term"),
            [
                (s.name, s.address, s.pid, s.state, group.role(s.name), group.term(s.name))
                for s in servers
            ],
        )
        return
    print_table(
        columns("Server", ">Pid", "State", "Leads"),
        [
            (s.name, s.pid, s.state, ", ".join(g.name for g in groups if g.leader == s.name))
            for s in servers
        ],
    )
    say()
    print_table(
        columns("Group", "Leader", ">Term", *groups[0].addresses),
        [
            (g.name, g.leader, g.term(g.leader) if g.leader else "", *g.addresses.values())
            for g in groups
        ],
    )


@cluster.command("kill-leader")
@_data
@_json
@click.option("--group", help="Whose leader; the first group's if left out.")
@click.option(
    "--wait", "wait_s", type=float, default=15.0, show_default=True, help="For the next one, in s."
)
def kill_leader(directory: Path, as_json: bool, group: str | None, wait_s: float) -> None:
    """SIGKILL the node that leads a group, and see who takes over whatever it led."""
    from dledger_py.cluster.attached import AttachedCluster

    attached = AttachedCluster.find(directory)
    attached.check_running()
    known = attached.state.broker_names
    if group is not None and group not in known:
        fail(f"no group {group!r}: there are {', '.join(known)}")
    group = group or known[0]
    leader = _wait_leaders(attached, wait_s, (group,), other_than=None).get(group)
    if leader is None:
        fail(f"there is no leader to kill within {wait_s:g} s; see: {program()} cluster status")
    led = tuple(each.name for each in _groups_now(attached) if each.leader == leader) or (group,)
    began = time.monotonic()
    took_s: dict[str, float] = {}
    pid = attached.kill(leader)
    successors = _wait_leaders(
        attached,
        wait_s,
        led,
        other_than=leader,
        found=lambda name: took_s.setdefault(name, time.monotonic() - began),
    )
    if as_json:
        print_json(
            {
                "killed": leader,
                "pid": pid,
                "leader": successors.get(group),
                "seconds": took_s.get(group),
                "groups": [
                    {"name": name, "leader": successors.get(name), "seconds": took_s.get(name)}
                    for name in led
                ],
            }
        )
    else:
        what = "" if len(known) == 1 else f", which led {', '.join(led)}"
        say(f"killed {leader} (pid {pid}){what}")
        for name, successor in successors.items():
            of = "" if len(known) == 1 else f" {name}"
            say(f"{successor} leads{of} since {took_s[name]:.2f} s after that", style="bold green")
        say(f"bring {leader} back: {program()} cluster start {leader} --data {directory}")
    if len(successors) < len(led):
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


@frozen(kw_only=True)
class GroupNow:
    """A group as the name server and its members tell."""

    name: str
    addresses: Mapping[str, str]
    leader: str | None
    """As the name server shows it, if it runs."""
    roles: Mapping[str, tuple[str, str]]
    """Role and term, as the members say themselves."""

    def role(self, node: str) -> str:
        return self.roles.get(node, ("", ""))[0]

    def term(self, node: str) -> str:
        return self.roles.get(node, ("", ""))[1]


def _groups_now(attached: "AttachedCluster") -> Sequence["GroupNow"]:
    """Every group, as far as anybody answers."""
    import trio

    from dledger_py.admin import Admin
    from dledger_py.client.errors import ClientError

    members: Sequence[MemberState] = ()
    if attached.keeper_alive:
        asked = Admin(attached.state.namesrv.address, 1.0)
        with suppress(ClientError):  # nobody answers: nobody leads
            members = trio.run(asked.cluster_list)
    running = {server.name for server in attached.servers() if server.state == "running"}
    groups = []
    for name in attached.state.broker_names:
        leader = None
        roles: dict[str, tuple[str, str]] = {}
        for member in members:
            node = attached.node_at(member.address)
            if member.broker_name != name or node is None or member.failure is not None:
                continue
            roles[node] = (member.role, "" if member.term is None else str(member.term))
            if member.broker_id == 0 and node in running:
                leader = node
        addresses = {broker.name: broker.groups[name] for broker in attached.state.brokers}
        groups.append(GroupNow(name=name, addresses=addresses, leader=leader, roles=roles))
    return groups


def _wait_leaders(
    attached: "AttachedCluster",
    wait_s: float,
    groups: Collection[str],
    *,
    other_than: str | None,
    found: Callable[[str], object] = lambda group: None,
) -> dict[str, str]:
    """The leaders of these groups, of those that have one in time; `found` is told each at once."""
    import trio

    from dledger_py.cluster.leaders import addresses_by_group
    from dledger_py.cluster.local import LEADER_POLL_S

    leaders: dict[str, str] = {}

    async def wait() -> None:
        with trio.move_on_after(wait_s):
            while True:
                shown = await addresses_by_group(attached.state.namesrv.address)
                for group in groups:
                    node = attached.node_at(shown.get(group, {}).get(0, ""))
                    if node is not None and node != other_than and group not in leaders:
                        leaders[group] = node
                        found(group)
                if len(leaders) == len(groups):
                    return
                await trio.sleep(LEADER_POLL_S)

    trio.run(wait)
    return leaders


def _detach(options: dict[str, Any]) -> None:
    """Run the same command in a session of its own, and show what it says once it serves."""
    directory: Path = options["directory"]
    log_path = directory / "logs" / "keeper.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()
    arguments = ["--data", str(directory), "--ready-fd", str(write_end)]
    for name in ("nodes", "groups", "ports", "namesrv_port", "base_port", "host", "flush"):
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
    say(f"Runs in the background. Stop it: {program()} cluster down --data {directory}")
