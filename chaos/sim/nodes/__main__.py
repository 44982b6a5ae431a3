"""`python -m chaos.sim.nodes --seed 42 --runs 10`: status 1 if something that must hold did not."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

from attrs import define, field

from chaos.sim.nodes.plan import Fault, shrink
from chaos.sim.nodes.run import Result, plan_of, run

REPORT_RUNS = 100
"""A long run tells its figures this often."""

SHRINK_RUNS = 60
"""How often a failing seed is run again with fewer faults."""


@define
class Totals:
    """The sums over many runs."""

    began: float = field(factory=time.monotonic)
    runs: int = 0
    simulated_s: float = 0.0
    sums: dict[str, int] = field(factory=dict)
    faults: dict[str, int] = field(factory=dict)
    trace: int = 0

    def add(self, result: Result) -> None:
        self.runs += 1
        self.simulated_s += result.simulated_s
        self.trace = result.trace
        for name in (
            "acknowledged",
            "frames",
            "elections",
            "starts",
            "fail_stops",
            "states_compared",
            "committed_bytes",
        ):
            self.sums[name] = self.sums.get(name, 0) + getattr(result, name)
        for kind, times in result.faults:
            self.faults[kind] = self.faults.get(kind, 0) + times

    def tell(self) -> str:
        """The figures in a few lines, the last trace among them: equal runs end in equal ones."""
        took = time.monotonic() - self.began
        faults = ", ".join(f"{times} {kind}" for kind, times in sorted(self.faults.items()))
        sums = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in self.sums.items())
        return (
            f"{self.runs} runs held: {self.simulated_s / 3600:.2f} simulated hours"
            f" in {took:.1f} s ({self.simulated_s / took:.1f} times real time,"
            f" {self.simulated_s / took / 60:.2f} hours per minute)\n"
            f"  {sums}\n"
            f"  faults: {faults or 'none'}\n"
            f"  last trace {self.trace:08x}"
        )


def main() -> int:
    """Run the seeds asked for; stop at the first violation, make it short, and tell its story."""
    parser = argparse.ArgumentParser(prog="python -m chaos.sim.nodes", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds")
    parser.add_argument("--hours", type=float, default=0.0, help="simulated hours instead of runs")
    parser.add_argument("--members", type=int, choices=(1, 3, 5), default=[3], nargs="+")
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated time with faults")
    parser.add_argument("--no-shrink", action="store_true", help="tell a failure as it came")
    chosen = parser.parse_args()
    totals = Totals()
    for result in _results(chosen.seed, chosen.members, chosen.runs, chosen.hours, chosen.seconds):
        if result.violation:
            _tell_failure(result, chosen.seconds, shorten=not chosen.no_shrink)
            return 1
        totals.add(result)
        if totals.runs % REPORT_RUNS == 0:
            print(totals.tell(), flush=True)
    print(totals.tell())
    return 0


def _results(
    first_seed: int, members: Sequence[int], runs: int, hours: float, seconds: float
) -> Iterator[Result]:
    simulated_s = 0.0
    count = 0
    while simulated_s < hours * 3600 if hours else count < runs:
        result = run(first_seed + count, members[count % len(members)], seconds)
        simulated_s += result.simulated_s
        count += 1
        yield result


def _tell_failure(result: Result, seconds: float, *, shorten: bool) -> None:
    faults = plan_of(result.seed, result.members, seconds)
    if shorten:
        faults = shrink(faults, lambda fewer: _fails(result, seconds, fewer), SHRINK_RUNS)
        result = run(result.seed, result.members, seconds, faults)
    print(result.story)
    print("faults that are enough:" if shorten else "faults:")
    for fault in faults:
        print(f"  {fault}")
    print(
        f"seed {result.seed} ({result.members} members, {seconds:g} s): {result.violation}",
        flush=True,
    )


def _fails(result: Result, seconds: float, faults: tuple[Fault, ...]) -> bool:
    return bool(run(result.seed, result.members, seconds, faults).violation)


if __name__ == "__main__":
    sys.exit(main())
