"""`python -m chaos.sim --seed 42 --runs 100 --profile hell`: status 1 if an invariant broke."""

import argparse
import sys
import time

from chaos.sim.profiles import PROFILES
from chaos.sim.run import run


def main() -> int:
    """Run the seeds asked for; stop at the first violation and tell its last events."""
    parser = argparse.ArgumentParser(prog="python -m chaos.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds")
    parser.add_argument("--profile", choices=PROFILES, default="swarm")
    parser.add_argument("--members", type=int, choices=(1, 3, 5, 7), default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated time with faults")
    chosen = parser.parse_args()
    began = time.monotonic()
    simulated = events = elections = committed = reads = 0.0
    for seed in range(chosen.seed, chosen.seed + chosen.runs):
        result = run(seed, chosen.profile, chosen.members, chosen.seconds)
        simulated += result.simulated_s
        events += result.events
        elections += result.elections
        committed += result.committed
        reads += result.reads
        if result.violation:
            print(result.story)
            print(f"seed {seed} ({chosen.profile}, {chosen.members} members): {result.violation}")
            return 1
    took = time.monotonic() - began
    print(
        f"{chosen.runs} runs held: {simulated / 3600:.2f} simulated hours"
        f" in {took:.1f} s ({simulated / took:.0f} times real time), {events:.0f} events,"
        f" {elections:.0f} elections, {committed:.0f} entries, {reads:.0f} reads"
        f"; last trace {result.trace:08x}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
