"""`python -m chaos.sim.mutants --seeds 100`: how often each planted bug is caught; status 1 if one
survives, or one that is harmless does not.
"""

import argparse
import sys

from chaos.sim.mutants import MUTANTS
from chaos.sim.mutants.mutant import Mutant, hunt


def main() -> int:
    """Hunt every mutant on its own seeds, then count how many of as many others catch it."""
    parser = argparse.ArgumentParser(prog="python -m chaos.sim.mutants", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50, help="seeds that are none of a mutant's")
    parser.add_argument("--seed", type=int, default=1_000_000, help="the first of these")
    chosen = parser.parse_args()
    seeds = range(chosen.seed, chosen.seed + chosen.seeds)
    right = caught = 0
    for mutant in MUTANTS:
        first = hunt(mutant)
        among = sum(hunt(mutant, range(seed, seed + 1)) is not None for seed in seeds)
        print(f"{_verdict(mutant, first is not None):9} {among:4}/{len(seeds)}  {mutant.name}")
        if first is not None:
            print(f"{'':20}seed {first.seed}: {first.violation[:100]}", flush=True)
        elif mutant.harmless:
            print(f"{'':20}{mutant.harmless}", flush=True)
        caught += first is not None and not mutant.harmless
        right += (first is not None or among > 0) != bool(mutant.harmless)
    harmless = sum(bool(mutant.harmless) for mutant in MUTANTS)
    print(f"{caught} of {len(MUTANTS) - harmless} caught, {harmless} harmless")
    return 0 if right == len(MUTANTS) else 1


def _verdict(mutant: Mutant, caught: bool) -> str:
    if mutant.harmless:
        return "ACCUSED" if caught else "harmless"
    return "caught" if caught else "SURVIVED"


if __name__ == "__main__":
    sys.exit(main())
