"""Planted bugs are caught within their number of seeds, and harmless changes are not accused."""

from functools import cache

import pytest

from chaos.sim.mutants import MUTANTS
from chaos.sim.mutants.mutant import Mutant, hunt, planted
from chaos.sim.run import Result
from dledger_py.raft.rules import RULES, STALE

CLASSIC = (
    "vote said before it is durable",
    "append acknowledged before it is durable",
    "undurable term in a refusal",
    "leader counts its own unsynced entries",
    "cut without a conflict",
    "vote for a worse log",
    "follower commits up to its last entry",
    "commit index goes back with a late append",
    "append of an older term accepted",
    "half is a majority for commits",
    "acknowledgement claims the last entry, not what matched",
    "campaign without a pre-vote",
    "every acknowledgement answered with an append",
    "commit of an older term by counting (figure 8)",
    "votes of an older term counted",
    "acknowledgements of an older term counted",
    "late write vouches for what replaced it (ABA)",
    "match falls with a late acknowledgement",
)
"""Mistakes that were made in Raft libraries before, in elections and replication alone."""


BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


@cache
def hunted(name: str) -> Result | None:
    return hunt(BY_NAME[name])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_caught_and_a_harmless_one_survives(mutant: Mutant) -> None:
    result = hunted(mutant.name)

    if mutant.harmless:
        assert result is None, f"{mutant.name} breaks nothing, but {result and result.violation}"
    else:
        assert result is not None, f"{mutant.name} survived {mutant.seeds} seeds"


def test_the_score(capsys: pytest.CaptureFixture[str]) -> None:
    """All that do harm, within 40 seeds on average and none in more than 60."""
    harmful = [mutant for mutant in MUTANTS if not mutant.harmless]
    caught = [mutant for mutant in harmful if hunted(mutant.name) is not None]
    with capsys.disabled():
        print(f" {len(caught)} of {len(harmful)} caught, {len(MUTANTS) - len(harmful)} harmless")

    assert len(caught) == len(harmful) >= 50
    assert sum(mutant.seeds for mutant in harmful) <= 40 * len(harmful)
    assert max(mutant.seeds for mutant in harmful) <= 60


def test_the_classic_mistakes_are_among_them() -> None:
    assert len(CLASSIC) == 18
    assert [] == [name for name in CLASSIC if name not in BY_NAME]
    assert len(MUTANTS) == len(BY_NAME)


def test_planted_bugs_are_dug_out_again() -> None:
    before = (dict(RULES), dict(STALE))
    for mutant in MUTANTS:
        with planted(mutant):
            pass

    assert before == (RULES, STALE)
