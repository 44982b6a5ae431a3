"""`python -m bench.scale`: whether size costs anything, and what a start takes with a large log.

    python -m bench.scale queues              # 64 in flight over 1 … 10,000 queues
    python -m bench.scale connections         # one send in flight on each of 1 … 2,000 connections
    python -m bench.scale log --gib 10        # with a log of 10 GiB: a send's cost, two starts
    python -m bench.scale soak --minutes 60   # memory of each node, minute by minute

A local cluster of three nodes, flush async unless `--flush sync`, 1 KiB messages, the load
generator of `bench.peers` on the same machine. Costs are processor time of the three nodes for each
message.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import trio
from attrs import frozen

from bench.peers.measure import look, rss_mb, spent
from bench.peers.peer import PeerMissing
from bench.peers.workloads import built_generator
from dledger_py.cluster.local import LocalCluster
from dledger_py.runtime import logs

QUEUES: Final = (1, 10, 100, 1_000, 10_000)
QUEUES_PER_TOPIC: Final = 4
CONNECTIONS: Final = (1, 64, 500, 2_000)
CONNECTION_IN_FLIGHT: Final = 64
"""Of a single connection, so that it has as much to batch as 64 connections with one each."""

SENDS: Final = 60_000
FILL_SENDS: Final = 500_000
"""In one go of filling."""

FILL_FAILURES_MAX: Final = 20

START_TIMEOUT_S: Final = 600.0

Row = dict[str, Any]


@frozen(kw_only=True)
class Bench:
    """A cluster under load."""

    cluster: LocalCluster
    generator: Path

    async def load(self, kind: str, topic: str, *words: object) -> Row:
        """Run the generator against the leader. **Raises** subprocess.CalledProcessError."""
        leader = await self.cluster.wait_leader(timeout_s=START_TIMEOUT_S)
        command = [str(self.generator), kind, "--dialect", "remoting", "--topic", topic]
        command += ["--address", self.cluster.members[leader].address, *map(str, words)]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
        row: Row = json.loads(done.stdout) if done.stdout.strip() else {}
        return row

    async def cost(self, topic: str, *words: object, count: int = SENDS) -> str:
        """Send, and say how fast and at what cost."""
        before = look(self.pids)
        row = await self.load("send", topic, "--body-bytes", 1024, "--count", count, *words)
        used = spent(before, look(self.pids), load_s=row["client_cpu_s"])
        return (
            f"{row['per_s']:>8,.0f}/s  p50 {row['p50_ms']:.2f} ms  p99 {row['p99_ms']:.2f} ms  "
            f"{used.server_cpu_s * 1e6 / count:.0f} µs a message  RSS {self.memory()}"
        )

    @property
    def pids(self) -> Sequence[int]:
        return [member.pid for member in self.cluster.members.values() if member.pid is not None]

    def memory(self) -> str:
        """Of each node."""
        return " ".join(f"{rss_mb(pid):.0f}" for pid in self.pids) + " MB"


async def queues(bench: Bench, _options: argparse.Namespace) -> None:
    """The same load over ever more queues; at the end over one again, beside all the others."""
    for count in (*QUEUES, 1):
        topics = max(1, count // QUEUES_PER_TOPIC)
        over = min(count, QUEUES_PER_TOPIC)
        words = ("--in-flight", 64, "--topics", topics, "--queues", over)
        await bench.load("prepare", f"Queues{count}", "--topics", topics)
        await bench.cost(f"Queues{count}", *words, count=SENDS // 4)
        _say(f"{count:>6,} queues: {await bench.cost(f'Queues{count}', *words)}")


async def connections(bench: Bench, _options: argparse.Namespace) -> None:
    """One connection with many sends, then many with one each."""
    for count in CONNECTIONS:
        in_flight = CONNECTION_IN_FLIGHT if count == 1 else 1
        words = ("--connections", count, "--in-flight", in_flight)
        await bench.cost("Connections", *words, count=SENDS // 4)
        _say(f"{count:>6,} connections: {await bench.cost('Connections', *words)}")


async def log(bench: Bench, options: argparse.Namespace) -> None:
    """Fill the log, then stop and start everybody, in good order and by SIGKILL."""
    cluster = bench.cluster
    _say(f"empty: {await bench.cost('Log', '--in-flight', 64)}")
    await _fill(bench, int(options.gib * 2**30))
    _say(f"full: {await bench.cost('Log', '--in-flight', 64)}")
    for how, end in (("a clean stop", cluster.stop), ("kill -9 of all", cluster.kill)):
        for attempt in ("at once", "again"):
            async with trio.open_nursery() as nursery:
                for name in cluster.members:
                    nursery.start_soon(end, name)
            began_s = trio.current_time()
            async with trio.open_nursery() as nursery:
                for name in cluster.members:
                    nursery.start_soon(cluster.start, name)
            serving_s = trio.current_time() - began_s
            await bench.load("send", "Log", "--count", 1)
            took_s = trio.current_time() - began_s
            _say(
                f"after {how}, {attempt}: {serving_s:.2f} s until all serve, {took_s:.2f} s until "
                f"a send is answered, RSS {bench.memory()}"
            )
            if attempt == "at once":
                _say(f"  meanwhile: {await bench.cost('Log', '--in-flight', 64)}")


async def _fill(bench: Bench, wanted: int) -> None:
    failures = 0
    while (size := _bytes_of(bench.cluster)) < wanted:
        count = max(1_000, min(FILL_SENDS, int((wanted - size) / 1_250)))
        words = ("--body-bytes", 1024, "--batch", 32, "--in-flight", 8, "--count", count)
        try:
            await bench.load("send", "Log", *words)
        except subprocess.CalledProcessError as error:
            # The generator follows no leader, and the disk of three nodes deposes one at times.
            failures += 1
            if failures == FILL_FAILURES_MAX:
                raise
            _say(f"  broken off: {error.stderr.decode().strip()}")
        _say(f"  {_bytes_of(bench.cluster) / 2**30:.1f} GiB on each node, RSS {bench.memory()}")


async def soak(bench: Bench, options: argparse.Namespace) -> None:
    """Messages at an even rate, sent and consumed, until the time is up."""
    words = ("--rate", options.rate, "--body-bytes", 1024, "--queues", QUEUES_PER_TOPIC)
    _say(f"minute {0:>3}: {bench.memory()}")
    for minute in range(1, options.minutes + 1):
        # A new consumer and new connections each minute, as in a system that is used.
        try:
            row = await bench.load("e2e", "Soak", *words, "--seconds", 60)
        except subprocess.CalledProcessError as error:
            # The generator follows no leader; a machine that stalls for a second deposes one.
            _say(
                f"minute {minute:>3}: {bench.memory()}  broken off: {error.stderr.decode().strip()}"
            )
            continue
        _say(
            f"minute {minute:>3}: {bench.memory()}  p50 {row['p50_ms']:.2f} ms  "
            f"p99 {row['p99_ms']:.2f} ms  log {_bytes_of(bench.cluster) / 2**30:.1f} GiB"
        )


RUNS: Final = {"queues": queues, "connections": connections, "log": log, "soak": soak}


def main() -> int:
    """Run one of them. 1 if the cluster refused it, 2 if the generator cannot be built."""
    parser = argparse.ArgumentParser(
        prog="bench.scale", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--flush", choices=("sync", "async"), default="async")
    parser.add_argument("--gib", type=float, default=10.0, help="of log on each node")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rate", type=int, default=500, help="messages a second while soaking")
    parser.add_argument("--scratch", type=Path, help="where the nodes' folders go")
    options = parser.parse_args()
    logs.configure(level="error")
    try:
        generator = built_generator()
    except PeerMissing as error:
        print(f"bench-scale: {error}", file=sys.stderr)
        return 2
    try:
        trio.run(_run, options, generator)
    except subprocess.CalledProcessError as error:
        print(f"bench-scale: {error.stderr.decode().strip()}", file=sys.stderr)
        return 1
    return 0


async def _run(options: argparse.Namespace, generator: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="dledger-bench-", dir=options.scratch) as folder:
        cluster = LocalCluster(Path(folder), flush=options.flush)
        async with cluster.running():
            await RUNS[options.run](Bench(cluster=cluster, generator=generator), options)


def _bytes_of(cluster: LocalCluster) -> int:
    """Of the largest node's folder."""
    return max(
        sum(each.stat().st_size for each in (cluster.directory / node).rglob("*") if each.is_file())
        for node in cluster.members
    )


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
