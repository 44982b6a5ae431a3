"""Planted bugs are caught within their number of seeds."""

import pytest

from chaos.sim.mutants import MUTANTS
from chaos.sim.mutants.mutant import Mutant, hunt, planted
from dledger_py.raft.rules import RULES, STALE


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_caught(mutant: Mutant) -> None:
    assert hunt(mutant) is not None, f"{mutant.name} survived {mutant.seeds} seeds"


def test_planted_bugs_are_dug_out_again() -> None:
    before = (dict(RULES), dict(STALE))
    for mutant in MUTANTS:
        with planted(mutant):
            pass

    assert before == (RULES, STALE)
