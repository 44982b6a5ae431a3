"""`python -m bench.peers`: ours and others in turn; `--help` says what can be chosen.

Builds the load generator, fetches what is to be fetched, and runs the rounds. What is missing on
this machine is said and reported as skipped. Writes to the folder given by --out: results.jsonl
(one line per measurement), results.md and results.png.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from bench.peers import report
from bench.peers.nats import Nats
from bench.peers.ours import Ours
from bench.peers.peer import Peer, PeerMissing
from bench.peers.rabbitmq import RabbitMQ
from bench.peers.rocketmq import RocketMQ
from bench.peers.rounds import Plan, Rounds, Row
from bench.peers.workloads import BY_NAME, WORKLOADS, built_generator
from dledger_py.runtime import logs

OUT: Final = Path(__file__).resolve().parents[1] / "results"


def main() -> int:
    """Measure and report. 0 if everything could be measured, 1 if something failed, 2 if nothing
    could be tried, 130 if it was stopped."""
    options = _options()
    logs.configure(level="error")
    try:
        generator = built_generator()
    except PeerMissing as error:
        print(f"bench-peers: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="bench-peers-", dir=options.scratch))
    plan = Plan(
        rounds=options.rounds,
        peers=[peer for peer in _peers(options.cache) if peer.name in options.peers],
        workloads=[BY_NAME[name] for name in options.workloads],
        scale=options.scale,
        seconds=options.seconds,
        all_topics=options.all_topics,
        generator=generator,
        scratch=scratch,
    )
    try:
        rows = _run(plan, options.out / "results.jsonl")
    except KeyboardInterrupt:
        print(f"stopped; what was measured is in {options.out}/results.jsonl", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report.write_all(rows, options.out)
    return 1 if any("failed" in row for row in rows) else 0


def _run(plan: Plan, path: Path) -> list[Row]:
    rows: list[Row] = []
    with path.open("w") as results:

        def write(row: Row) -> None:
            rows.append(row)
            results.write(json.dumps(row) + "\n")
            results.flush()  # a run that is stopped leaves what it measured

        write({"machine": _machine(), "rounds": plan.rounds, "scale": plan.scale})
        trio.run(_until_terminated, Rounds(plan=plan, write=write))
    return rows


async def _until_terminated(rounds: Rounds) -> None:
    """Ctrl-C and SIGTERM alike: no process and no data stay behind."""
    done = False
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await rounds.run()
            done = True
            nursery.cancel_scope.cancel()
    if not done:
        raise KeyboardInterrupt


def _peers(cache: Path) -> Sequence[Peer]:
    """In the order of a round."""
    return (
        Ours(flush="sync"),
        Ours(flush="async"),
        RocketMQ(cache=cache),
        RabbitMQ(),
        Nats(sync="default", cache=cache),
        Nats(sync="always", cache=cache),
    )


def _options() -> argparse.Namespace:
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    peers = [peer.name for peer in _peers(home)]
    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(prog="bench.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=peers, default=peers)
    parser.add_argument("--workloads", nargs="+", choices=names, default=names)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies counts and times")
    parser.add_argument("--seconds", type=float, default=2.5, help="of a measurement, about")
    parser.add_argument(
        "--all-topics", action="store_true", help="as many topics where each is a Raft group, too"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--scratch", type=Path, help="where all servers' data goes meanwhile")
    parser.add_argument(
        "--cache", type=Path, default=home / "dledger-bench", help="what was fetched"
    )
    options = parser.parse_args()
    options.cache = options.cache.absolute()
    return options


def _machine() -> dict[str, object]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e6),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
