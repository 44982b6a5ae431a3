"""`python -m chaos [--kills N] [--all] [--flush sync|async]`: kill leaders, then judge.

`--snapshot-every BYTES` makes restarts begin at snapshots instead of at the log's beginning.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import trio

from chaos import leader_kills
from dledger_py.runtime import logs


def main() -> int:
    """Run the scenario and print the verdict; 0 if every judge is content."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="how often to kill (default 10)")
    parser.add_argument("--all", action="store_true", help="kill every node at once")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--flush", choices=("sync", "async"), default="sync")
    parser.add_argument("--snapshot-every", type=int, default=0, metavar="BYTES")
    parser.add_argument("--data", type=Path, help="keep the cluster's data here")
    options = parser.parse_args()
    logs.configure(level="warning")
    plan = leader_kills.Plan(
        kills=options.kills,
        kill_all=options.all,
        nodes=options.nodes,
        flush=options.flush,
        snapshot_every_bytes=options.snapshot_every,
    )
    with tempfile.TemporaryDirectory(prefix="dledger-chaos-") as scratch:
        directory = options.data or Path(scratch)
        verdict = trio.run(_run, directory, plan)
    report(plan, verdict)
    return 0 if verdict.passed else 1


async def _run(directory: Path, plan: leader_kills.Plan) -> leader_kills.Verdict:
    return await leader_kills.run(directory, plan, say=lambda text: print(text, flush=True))


def report(plan: leader_kills.Plan, verdict: leader_kills.Verdict) -> None:
    """The verdict for people."""
    whom = "all nodes" if plan.kill_all else "the leader"
    print(f"\n{plan.nodes} nodes, flush {plan.flush}, {whom} killed {plan.kills} times")
    for number, gap in enumerate(verdict.gaps, 1):
        print(f"  kill {number:2}: {gap.node} led; longest write gap {gap.seconds * 1000:6.0f} ms")
    print(f"  median gap {verdict.median_gap_s * 1000:.0f} ms")
    print(
        f"  {verdict.acknowledged} sends acknowledged, {verdict.received} deliveries,"
        f" {verdict.duplicates} duplicates stored"
    )
    for finding in verdict.findings[:50]:
        print(f"  FAILED {finding}")
    print("passed: nothing lost, nothing rewound" if verdict.passed else "FAILED")


if __name__ == "__main__":
    sys.exit(main())
