"""`python -m bench`: single sends and consumption on three local nodes, both flush policies.

Everything shares this machine: three brokers, a name server, the load generator. So figures are
those of the machine, and comparisons hold only within one run. Each row is the median of `--rounds`
rounds, in which the policies take turns.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio
from attrs import frozen
from rich.console import Console
from rich.table import Table

from dledger_py.cluster.local import LocalCluster
from dledger_py.runtime import logs

IN_FLIGHT: Final = (1, 64, 256)
SENDS: Final = {1: 1_500, 64: 20_000, 256: 30_000}
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")

Row = dict[str, Any]


@frozen(kw_only=True)
class Options:
    """What to measure."""

    rounds: int
    policies: tuple[str, ...]
    body_bytes: int
    scale: float


def main() -> int:
    """Measure, print a table, and one JSON line per row with --json."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flush", choices=("sync", "async", "both"), default="both")
    parser.add_argument("--body-bytes", type=int, default=1024)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the message counts")
    parser.add_argument("--json", action="store_true", help="one JSON line per row instead")
    options = parser.parse_args()
    logs.configure(level="error")
    policies = ("sync", "async") if options.flush == "both" else (options.flush,)
    plan = Options(
        rounds=options.rounds,
        policies=policies,
        body_bytes=options.body_bytes,
        scale=options.scale,
    )
    rows = trio.run(_measure, plan)
    medians = _medians(rows)
    if options.json:
        for row in medians:
            print(json.dumps(row))
    else:
        _print(medians, plan)
    return 0


async def _measure(plan: Options) -> list[Row]:
    rows: list[Row] = []
    for number in range(plan.rounds):
        for policy in plan.policies:
            with tempfile.TemporaryDirectory(prefix="dledger-bench-") as scratch:
                cluster = LocalCluster(
                    Path(scratch), flush="async" if policy == "async" else "sync"
                )
                async with cluster.running():
                    rows += await _one_round(cluster, policy, plan)
            print(f"round {number + 1} of {plan.rounds}, flush {policy}", file=sys.stderr)
    return rows


async def _one_round(cluster: LocalCluster, policy: str, plan: Options) -> list[Row]:
    leader = await cluster.wait_leader()
    address = cluster.members[leader].address
    rows = []
    for in_flight in IN_FLIGHT:
        count = max(100, int(SENDS[in_flight] * plan.scale))
        words = ["send", "--topic", "Bench", "--in-flight", str(in_flight), "--count", str(count)]
        words += ["--body-bytes", str(plan.body_bytes)]
        rows.append(await _load(cluster, leader, address, words))
        rows[-1] |= {"flush": policy, "load": f"send, {in_flight} in flight"}
    rows.append(await _load(cluster, leader, address, ["drain", "--topic", "Bench"]))
    rows[-1] |= {"flush": policy, "load": "consume what is stored"}
    return rows


async def _load(cluster: LocalCluster, leader: str, address: str, words: list[str]) -> Row:
    before = _cpu_seconds(cluster)
    command = [sys.executable, "-m", "bench.load", *words, "--address", address]
    done = await trio.run_process(command, capture_stdout=True)
    row: Row = json.loads(done.stdout)
    spent = {node: after - before[node] for node, after in _cpu_seconds(cluster).items()}
    per_message = 1e6 / row["count"]
    row["leader_us"] = spent.pop(leader) * per_message
    row["follower_us"] = statistics.mean(spent.values()) * per_message
    row["client_us"] = row.pop("client_cpu_s") * per_message
    row["rss_mb"] = max(_rss_mb(member.pid) for member in cluster.members.values())
    return row


def _cpu_seconds(cluster: LocalCluster) -> Mapping[str, float]:
    """Processor time of each broker, user and system."""
    found = {}
    for node, member in cluster.members.items():
        fields = Path(f"/proc/{member.pid}/stat").read_text().rpartition(")")[2].split()
        found[node] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return found


def _rss_mb(pid: int | None) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _medians(rows: list[Row]) -> list[Row]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["flush"], row["load"]), []).append(row)
    return [
        {"flush": flush, "load": load, "rounds": len(group)}
        | {
            name: statistics.median(row[name] for row in group)
            for name in group[0]
            if name not in {"flush", "load"}
        }
        for (flush, load), group in groups.items()
    ]


def _print(rows: list[Row], plan: Options) -> None:
    table = Table(
        title=f"3 nodes and the load on one machine ({os.cpu_count()} cores),"
        f" {plan.body_bytes} B bodies, median of {plan.rounds}"
    )
    for name in ("flush", "load", "per s", "p50 ms", "p99 ms", "p99.9 ms"):
        table.add_column(name, justify="left" if name in {"flush", "load"} else "right")
    for name in ("leader µs", "follower µs", "client µs", "RSS MB"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["flush"],
            row["load"],
            f"{row['per_s']:,.0f}",
            *(f"{row[name]:.2f}" for name in ("p50_ms", "p99_ms", "p999_ms")),
            *(f"{row[name]:.1f}" for name in ("leader_us", "follower_us", "client_us")),
            f"{row['rss_mb']:.0f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(
        "flush sync: on disk (fdatasync) at a quorum before the answer;"
        " async: in memory at a quorum.\nµs: processor time per message, user and system."
    )


if __name__ == "__main__":
    sys.exit(main())
