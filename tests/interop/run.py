"""Unmodified clients against a cluster of ours: `make interop`, or `python run.py --help`.

Builds the programs, starts three brokers and a name server, and lets each client send and consume:
steady first, then choosing by an SQL92 expression, then with the leader killed in the middle
(failover); and requests and replies, both ways. Then each of its features is tried, and tried again
with the leader killed halfway (killed), and mqadmin asked for whatever it can do. Ends with 0 if
all that was acknowledged was consumed, every request was replied to and every feature held, with 1
if not, with 2 if it could not be tried. Everything has a deadline.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import trio
from features import Check
from judge import History
from matrix import CLIENTS, REQUEST, SQL, STEADY, TRANSACTIONS, table
from mqadmin import MQAdminRun
from programs import BUILD, PROGRAMS, TOOLS, BuildFailed, Program
from rich.console import Console
from rich.table import Table
from scenario import Result, Scenario, TransactionScenario

from dledger_py.cluster.errors import ClusterError
from dledger_py.cluster.local import LocalCluster

FAILOVERS = {
    "failover": STEADY,
    "sql-failover": SQL,
    "request-failover": REQUEST,
    "transactions-failover": TRANSACTIONS,
}
"""With the leader killed in the middle."""

TOLD = tuple(
    name
    for calm in (STEADY, SQL, REQUEST, TRANSACTIONS)
    for name in (calm, *(failover for failover in FAILOVERS if FAILOVERS[failover] == calm))
)
CHECKED, KILLED, MQADMIN = "features", "killed", "mqadmin"
SCENARIOS = (*TOLD, CHECKED, KILLED, MQADMIN)
KINDS = {TRANSACTIONS: TransactionScenario}

STEADY_LIMIT_S = 60
CHECK_LIMIT_S = 120
"""Go's ordered consumer does not unlock a queue that a rebalance takes from it: the queue rests
until that lock is over, after 60 s; its next look may be 20 s later."""

FAILOVER_LIMIT_S = 150
"""A client needs up to 30 s to ask for the new leader, and sends on afterwards."""

FAILOVER_INTERVAL_MS = 20
"""Slow enough that the leader dies among the sends, not after them."""

SQL_INTERVAL_MS = 5
"""Slow enough that the consumer waits for some of the messages, and skips others in its wait."""

SQL_EXPRESSION = "TAGS = 'interop' AND third IN ('0', '1') AND number >= 10"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.list:
        print(table(CLIENTS))
        return 0
    programs = [program for program in PROGRAMS if program.name in options.clients]
    try:
        for program in programs:
            _build(program)
        for name in _tools_wanted(options):
            _build(TOOLS[name])
        BUILD.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=BUILD))
        _say(f"logs and data are in {folder}")
        results = trio.run(_run, options, programs, folder)
    except (BuildFailed, ClusterError) as error:
        print(f"interop: {error}", file=sys.stderr)
        return 2
    code = _report(results)
    if code == 0 and not options.keep:
        shutil.rmtree(folder)
    return code


async def _run(
    options: argparse.Namespace, programs: Sequence[Program], folder: Path
) -> list[Result]:
    if options.namesrv is not None:
        return [
            await _played(_told(program, STEADY, options, options.namesrv, folder))
            for program in programs
        ]
    results: list[Result] = []
    async with LocalCluster(folder / "cluster", groups=options.groups).running() as cluster:
        await cluster.wait_leaders()
        await cluster.wait_preferred()
        for program in programs:
            results += [
                await _scenario(program, name, options, cluster, folder)
                for name in TOLD
                if name in options.scenarios
                and program.tries(FAILOVERS.get(name, name), killed=name in FAILOVERS)
            ]
            for scenario in (CHECKED, KILLED):
                checks = program.checks if scenario in options.scenarios else ()
                results += [
                    await _check(program, check, scenario, cluster, folder)
                    for check in checks
                    if not options.checks or check in options.checks
                ]
    for program in programs:
        if program.name in _tools_wanted(options):
            results.append(await _tool(program, folder))
    return results


def _tools_wanted(options: argparse.Namespace) -> list[str]:
    """They are Java's, need its client beside them, and know one broker group by its name."""
    asked = MQADMIN in options.scenarios and options.namesrv is None and options.groups == 1
    return [name for name in options.clients if name in TOOLS] if asked else []


async def _tool(program: Program, folder: Path) -> Result:
    """On a cluster of its own: what the steps print depends on all that was done before."""
    tool = TOOLS[program.name]
    _say(f"{tool.name} …")
    async with LocalCluster(folder / f"cluster-{tool.name}").running() as cluster:
        await cluster.wait_leaders()
        await cluster.wait_preferred()
        result = await MQAdminRun(cluster, folder / tool.name, tool, program).run()
    for fault in result.faults:
        _say(f"  {fault}")
    return result


async def _check(
    program: Program, name: str, scenario: str, cluster: LocalCluster, folder: Path
) -> Result:
    killed: list[str] = []

    async def kill_leader() -> None:
        killed.append(await cluster.kill_leader())

    leaders = await cluster.wait_leaders()
    check = Check(
        program=program,
        name=name,
        namesrv=cluster.namesrv_address,
        broker=min(
            cluster.members.items(), key=lambda item: (item[0] in leaders.values(), item[0])
        )[1].address,
        folder=folder / f"{program.name}-{scenario}-{name}",
        limit_s=CHECK_LIMIT_S if scenario == CHECKED else FAILOVER_LIMIT_S,
        disturb=kill_leader if scenario == KILLED else None,
    )
    result = await _played(check)
    await _revive(cluster, killed)
    return result


async def _scenario(
    program: Program, name: str, options: argparse.Namespace, cluster: LocalCluster, folder: Path
) -> Result:
    killed: list[str] = []

    async def kill_leader() -> None:
        killed.append(await cluster.kill_leader())
        _say(f"  killed the leader, {killed[-1]}")

    scenario = _told(program, name, options, cluster.namesrv_address, folder)
    if name in FAILOVERS:
        scenario.disturb = kill_leader
        scenario.interval_ms = FAILOVER_INTERVAL_MS
        scenario.limit_s = FAILOVER_LIMIT_S
    result = await _played(scenario)
    await _revive(cluster, killed)
    return result


def _told(
    program: Program, name: str, options: argparse.Namespace, namesrv: str, folder: Path
) -> Scenario:
    """Programs that say what they send and consume."""
    proof = FAILOVERS.get(name, name)
    return KINDS.get(proof, Scenario)(
        program=program,
        name=name,
        namesrv=namesrv,
        folder=folder / f"{program.name}-{name}",
        converses=proof == REQUEST,
        count=options.messages,
        interval_ms=SQL_INTERVAL_MS if proof == SQL else 0,
        limit_s=STEADY_LIMIT_S,
        sql=SQL_EXPRESSION if proof == SQL else None,
        history=History(chosen=_is_chosen) if proof == SQL else History(),
    )


def _is_chosen(key: str) -> bool:
    """What the expression says, by the key: a producer numbers its messages there."""
    number = int(key.rpartition("-")[2])
    return number % 3 < 2 and number >= 10


async def _revive(cluster: LocalCluster, killed: Sequence[str]) -> None:
    for node in killed:
        await cluster.start(node)
    await cluster.wait_leaders()
    await cluster.wait_preferred()


async def _played(scenario: Scenario | Check) -> Result:
    title = scenario.scenario if isinstance(scenario, Check) else scenario.name
    _say(f"{scenario.program.name}: {title} …")
    result = await scenario.run()
    for fault in result.faults:
        _say(f"  {fault}")
    return result


def _build(program: Program) -> None:
    if program.missing_tools:
        raise BuildFailed(f"{program.name} needs {' and '.join(program.missing_tools)} in PATH")
    _say(f"building the {program.name} programs …")
    program.build()


def _report(results: Sequence[Result]) -> int:
    console = Console(width=100)
    told = [result for result in results if result.history is not None]
    if told:
        console.print(_table_of_told(told))
    checked = [result for result in results if result.history is None]
    if checked:
        console.print(_table_of_checked(checked))
    failed = sum(bool(result.faults) for result in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed or not results else 0


def _table_of_told(results: Sequence[Result]) -> Table:
    """Who sent and consumed what."""
    table = Table("client", "scenario", title="Unmodified clients")
    columns = ("brokers", "acked", "failed", "consumed", "again", "longest pause", "took")
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("")
    for result in results:
        history = result.history
        assert history is not None
        table.add_row(
            result.client,
            result.scenario,
            str(history.brokers),
            str(len(history.acked) + len(history.replied) + len(history.prepared)),
            str(len(history.failed)),
            str(len(history.received)),
            str(history.deliveries - len(history.received)),
            f"{history.longest_pause_s:.1f} s",
            f"{result.duration_s:.1f} s",
            _verdict(result),
        )
    return table


def _table_of_checked(results: Sequence[Result]) -> Table:
    """Which features of which client held."""
    clients = list(dict.fromkeys(result.client for result in results))
    table = Table("feature", *clients, title="Features")
    cells = {
        (result.scenario, result.client): f"{_verdict(result)}, {result.duration_s:.0f} s"
        for result in results
    }
    for scenario in dict.fromkeys(result.scenario for result in results):
        table.add_row(scenario, *(cells.get((scenario, client), "") for client in clients))
    return table


def _verdict(result: Result) -> str:
    return "FAILED" if result.faults else "ok"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [program.name for program in PROGRAMS]
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", nargs="+", choices=names, default=names)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--list", action="store_true", help="what is tried with which client")
    parser.add_argument("--checks", nargs="+", help="of the features, only these")
    parser.add_argument("--groups", type=int, default=1, help="broker groups on the three nodes")
    parser.add_argument("--messages", type=int, default=300, help="acknowledged sends wanted")
    parser.add_argument("--namesrv", help="another cluster's name server: only the steady scenario")
    parser.add_argument("--keep", action="store_true", help="keep logs and data after success")
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
