"""`python -m chaos.sim --seed 42 --runs 100 --profile hell`: status 1 if an invariant broke."""

import argparse
import sys
from itertools import product

from chaos.sim.hours import Totals, results
from chaos.sim.profiles import PROFILES

REPORT_RUNS = 500
"""A long run tells its figures this often."""


def main() -> int:
    """Run the seeds asked for; stop at the first violation and tell its last events."""
    parser = argparse.ArgumentParser(prog="python -m chaos.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds")
    parser.add_argument("--hours", type=float, default=0.0, help="simulated hours instead of runs")
    parser.add_argument("--profile", choices=(*PROFILES, "all"), default="swarm")
    parser.add_argument("--members", type=int, choices=(1, 3, 5, 7), default=[3], nargs="+")
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated time with faults")
    chosen = parser.parse_args()
    profiles = PROFILES if chosen.profile == "all" else (chosen.profile,)
    settings = tuple(product(profiles, chosen.members))
    totals = Totals()
    for result in results(chosen.seed, settings, chosen.runs, chosen.hours, chosen.seconds):
        totals.add(result)
        if result.violation:
            print(result.story)
            print(
                f"seed {result.seed} ({result.profile}, {result.members} members,"
                f" {chosen.seconds:g} s): {result.violation}"
            )
            return 1
        if totals.runs % REPORT_RUNS == 0:
            print(totals.tell(), flush=True)
    print(totals.tell())
    return 0


if __name__ == "__main__":
    sys.exit(main())
