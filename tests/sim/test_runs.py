"""Seeds that must hold, and runs that must repeat themselves."""

import subprocess
import sys

import pytest

from chaos.sim.hours import Totals, results
from chaos.sim.run import run

RUNS = tuple(
    (profile, members, round(scale * count), seconds)
    for profile, scale in (
        ("swarm", 1.0),
        ("hell", 1.0),
        ("cut", 0.5),
        ("change", 1.0),
        ("retain", 0.5),
        ("lease", 0.5),
    )
    for members, count, seconds in ((3, 70, 12.0), (5, 35, 8.0))
)


@pytest.mark.parametrize("profile,members,count,seconds", RUNS)
def test_every_invariant_holds(profile: str, members: int, count: int, seconds: float) -> None:
    acknowledged = elections = reads = by_lease = transfers = changes = drops = copies = 0
    for seed in range(count):
        result = run(seed, profile, members, seconds)

        assert not result.violation, (
            f"python -m chaos.sim --seed {seed} --profile {profile} --members {members}"
            f" --seconds {seconds}\n{result.story}\n{result.violation}"
        )
        acknowledged += result.acknowledged
        elections += result.elections
        reads += result.reads
        by_lease += result.reads_at_once
        transfers += result.transfers
        changes += result.changes
        drops += result.drops
        copies += result.installs
    # A world in which nothing happens holds every invariant.
    assert acknowledged > 20 * count
    assert elections > count
    assert reads > count
    if profile == "change":
        assert transfers > count // 4
        assert changes > 3 * count
    if profile == "lease":
        assert by_lease > reads // 4
    if profile == "retain":
        assert drops > 10 * count
        assert copies > count // 2


def test_a_cluster_of_one_holds_too() -> None:
    for seed in range(5):
        assert not run(seed, "hell", 1, 8.0).violation


@pytest.mark.parametrize("profile", ("swarm", "hell"))
def test_a_seed_repeats_itself(profile: str) -> None:
    for seed in (3, 4):
        assert run(seed, profile, 3, 8.0) == run(seed, profile, 3, 8.0)
    assert run(5, profile, 3, 8.0).trace != run(6, profile, 3, 8.0).trace


def test_a_seed_repeats_itself_in_another_process() -> None:
    command = [sys.executable, "-m", "chaos.sim", "--seed", "7", "--runs", "1"]
    command += ["--profile", "hell", "--seconds", "8"]
    traces = [
        subprocess.run(
            command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": hash_seed}
        ).stdout.split("last trace ")[1]
        for hash_seed in ("1", "2")
    ]

    assert f"{run(7, 'hell', 3, 8.0).trace:08x}" == traces[0].strip() == traces[1].strip()


def test_hours_are_simulated_in_turn_and_faults_are_counted() -> None:
    totals = Totals()
    settings = (("swarm", 3), ("hell", 5))
    seen = list(results(10, settings, runs=0, hours=0.04, seconds=20.0))
    for result in seen:
        totals.add(result)

    assert [(10, "swarm", 3), (11, "hell", 5), (12, "swarm", 3)] == [
        (result.seed, result.profile, result.members) for result in seen[:3]
    ]
    assert totals.simulated_s - seen[-1].simulated_s < 0.04 * 3600 <= totals.simulated_s
    assert totals.faults["crashes"] > 0
    assert "0.04 simulated hours" in totals.tell()


def test_a_number_of_runs_is_that_many() -> None:
    assert [5, 6] == [r.seed for r in results(5, (("swarm", 3),), runs=2, hours=0.0, seconds=3.0)]
