"""Whole members in simulation: seeds that must hold, runs that must repeat themselves, planted bugs
that must be found.
"""

import subprocess
import sys

import pytest

from chaos.sim.nodes.mutants import MUTANTS, Mutant, hunt
from chaos.sim.nodes.plan import Fault, shrink
from chaos.sim.nodes.run import plan_of, run

SECONDS = 20.0


@pytest.mark.parametrize("members,seeds", ((3, 3), (5, 1)))
def test_whole_members_hold(members: int, seeds: int) -> None:
    acknowledged = elections = faults = compared = 0
    for seed in range(seeds):
        result = run(seed, members, SECONDS)

        assert not result.violation, (
            f"python -m chaos.sim.nodes --seed {seed} --members {members}"
            f" --seconds {SECONDS}\n{result.story}\n{result.violation}"
        )
        acknowledged += result.acknowledged
        elections += result.elections
        compared += result.states_compared
        faults += sum(times for _, times in result.faults)
    # A world in which nothing happens holds every invariant.
    assert acknowledged > 20 * seeds
    assert elections > seeds
    assert compared > 10 * seeds
    assert faults > 2 * seeds


def test_a_run_repeats_itself_in_another_process() -> None:
    """Where hashes are others, and so the order of every set."""
    command = [sys.executable, "-m", "chaos.sim.nodes", "--seconds", "6", "--seed"]
    for seed, hash_seed in ((1, "1"), (2, "77")):
        told = subprocess.run(
            [*command, str(seed)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hash_seed},
        ).stdout

        assert f"{run(seed, 3, 6.0).trace:08x}" == told.split("last trace ")[1].strip()


def test_seeds_differ() -> None:
    assert run(1, 3, 2.0).trace != run(2, 3, 2.0).trace


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_bug_in_the_wiring_is_caught(mutant: Mutant) -> None:
    assert hunt(mutant) is not None, f"{mutant.name} survived {mutant.seeds} seeds"


def test_a_failing_plan_is_made_short() -> None:
    faults = plan_of(1, 3, 200.0)
    guilty = {faults[3], faults[-2]}
    runs = 0

    def fails(fewer: tuple[Fault, ...]) -> bool:
        nonlocal runs
        runs += 1
        return guilty <= set(fewer)

    assert len(faults) > 20
    assert (faults[3], faults[-2]) == shrink(faults, fails, runs_max=200)
    assert runs <= 200
