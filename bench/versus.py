"""`python -m bench.versus`: this checkout beside another one, to see what a change costs.

    git clone . ../before && make -C ../before setup     # and there: git checkout …
    python -m bench.versus ../before                     # flush async; --flush sync
    python -m bench.versus ../before . .:deduplication_messages=0

A cluster of each runs from the beginning to the end, both at once, and they are loaded in turn, in
bursts of a second or so. So what a machine does from one minute to the next meets both alike, which
runs of one after the other do not achieve: a ratio here is one of two bursts side by side, and the
median of those. The clusters that only idle take some hundredths of a core each.

A folder may be followed by settings of its brokers. Each must have its environment in `.venv`. All
figures are of single sends over one connection, of the kinds below; the first round does not count.
Processor time is that of the leader, and the mean of the other two, for each message.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from bench.peers.measure import cpu_seconds, rss_mb
from bench.peers.peer import PeerMissing
from bench.peers.workloads import built_generator

ROUNDS: Final = 13

Figures = tuple[float, float, float, float, float]
"""Rate, p50 and p99 in ms, processor time of the leader and of a follower in µs a message."""


@frozen(kw_only=True)
class Kind:
    """A burst of sends."""

    title: str
    words: Sequence[object]
    """Arguments of `load send`."""
    count: int
    body_bytes: int = 1_024


KINDS: Final = (
    Kind(title="1,024 B, 64 in flight", words=("--in-flight", 64), count=30_000),
    Kind(title="128 B, 64 in flight", words=("--in-flight", 64), count=30_000, body_bytes=128),
    Kind(title="1,024 B, 1 in flight", words=("--in-flight", 1), count=1_500),
    Kind(title="64 connections", words=("--connections", 64, "--in-flight", 1), count=20_000),
    Kind(title="batches of 32", words=("--in-flight", 8, "--batch", 32), count=60_000),
)


@frozen(kw_only=True)
class Side:
    """A cluster of one checkout, while it runs."""

    name: str
    leader: str
    """Its address."""
    leader_pid: int
    follower_pids: Sequence[int]

    def burst(self, generator: Path, kind: Kind) -> Figures:
        """Load it once. **Raises** subprocess.CalledProcessError."""
        command = [generator, "send", "--dialect", "remoting", "--topic", "Versus"]
        command += ["--address", self.leader, "--count", kind.count]
        command += ["--body-bytes", kind.body_bytes, *kind.words]
        before = self._used_s()
        done = subprocess.run([str(word) for word in command], capture_output=True, check=True)
        row = json.loads(done.stdout)
        leader, follower = (
            (after - earlier) * 1e6 / kind.count
            for after, earlier in zip(self._used_s(), before, strict=True)
        )
        return row["per_s"], row["p50_ms"], row["p99_ms"], leader, follower

    def memory(self) -> str:
        """Of the leader and the others."""
        others = " and ".join(f"{rss_mb(pid):.0f}" for pid in self.follower_pids)
        return f"{rss_mb(self.leader_pid):.0f} MB (leader), {others} MB"

    def _used_s(self) -> tuple[float, float]:
        followers = [cpu_seconds(pid) for pid in self.follower_pids]
        return cpu_seconds(self.leader_pid), statistics.fmean(followers)


@contextmanager
def running(given: str, flush: str, directory: Path) -> Iterator[Side]:
    """A cluster of the checkout in a folder, with the settings behind it."""
    folder, _, settings = given.partition(":")
    program = [str(Path(folder).resolve() / ".venv" / "bin" / "dledger"), "cluster"]
    data = ["--data", str(directory)]
    options = [word for each in settings.split(",") if each for word in ("--set", each)]
    options += ["--flush", flush, "--ports", "free", "--detach"]
    subprocess.run(
        [*program, "up", *data, *options], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    try:
        done = subprocess.run(
            [*program, "status", *data, "--json"], cwd=folder, check=True, capture_output=True
        )
        yield side_of(given, json.loads(done.stdout))
    finally:
        subprocess.run([*program, "down", *data], cwd=folder, stdout=subprocess.DEVNULL)


def side_of(name: str, status: Mapping[str, Any]) -> Side:
    """What is said of a cluster that has a leader."""
    brokers = [server for server in status["servers"] if server["role"]]
    (leader,) = (server for server in brokers if server["role"] == "leader")
    return Side(
        name=name,
        leader=leader["address"],
        leader_pid=leader["pid"],
        follower_pids=[server["pid"] for server in brokers if server is not leader],
    )


@frozen
class Comparison:
    """The figures of a kind of burst: one a round for each side, the one compared with first."""

    kind: Kind
    by_side: Mapping[str, list[Figures]] = field(factory=dict)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield self.kind.title
        base = next(iter(self.by_side.values()))
        for name, rounds in self.by_side.items():
            rate, p50, p99, leader, follower = map(statistics.median, zip(*rounds, strict=True))
            ratio = statistics.median(
                own[0] / other[0] for own, other in zip(rounds, base, strict=True)
            )
            yield (
                f"  {rate:>8,.0f}/s  {ratio:5.2f}  p50 {p50:6.3f} ms  p99 {p99:6.2f} ms"
                f"  leader {leader:5.1f} µs  follower {follower:5.1f} µs   {name}"
            )


def compared(
    sides: Sequence[Side], kinds: Sequence[Kind], rounds: int, generator: Path
) -> Iterator[Comparison]:
    """Burst after burst, each round in the other order."""
    for kind in kinds:
        found = Comparison(kind, {side.name: [] for side in sides})
        for number in range(rounds + 1):
            for side in sides if number % 2 else reversed(sides):
                figures = side.burst(generator, kind)
                if number:
                    found.by_side[side.name].append(figures)
        yield found


def main() -> int:
    """The exit code."""
    options = _options()
    try:
        generator = built_generator()
    except PeerMissing as error:
        print(error, file=sys.stderr)
        return 1
    sides = options.sides if len(options.sides) > 1 else [*options.sides, "."]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dledger-versus-")))
        clusters = [
            stack.enter_context(running(each, options.flush, scratch / str(number)))
            for number, each in enumerate(sides)
        ]
        for side in clusters:
            print(f"idle: {side.memory()}   {side.name}", flush=True)
        for comparison in compared(clusters, KINDS, options.rounds, generator):
            print(*comparison.lines(), sep="\n", flush=True)
        for side in clusters:
            print(f"at the end: {side.memory()}   {side.name}")
    return 0


def _options() -> argparse.Namespace:
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="bench.versus",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sides", nargs="+", metavar="FOLDER[:KEY=VALUE,…]", help="the first is compared with"
    )
    parser.add_argument("--flush", choices=("sync", "async"), default="async")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
