"""The leader cut off from its peers, in small: real processes, and the judges of the long run."""

from pathlib import Path

import pytest

from chaos import cut_off
from chaos.load import SENDS_AT_LEAST

pytestmark = pytest.mark.e2e

GAP_MAX_S = 10
"""Far above what is right: this machine has others to do. The long run judges the time."""


@pytest.mark.parametrize(
    "plan",
    [
        cut_off.Plan(times=1, gap_max_s=GAP_MAX_S),
        cut_off.Plan(times=2, gap_max_s=GAP_MAX_S, one_way=True),
    ],
    ids=["both ways", "one way"],
)
async def test_a_leader_that_is_cut_off_is_replaced_and_nothing_is_lost(
    plan: cut_off.Plan, tmp_path: Path
) -> None:
    verdict = await cut_off.run(tmp_path, plan, say=print)

    assert () == verdict.findings
    assert 2 * plan.times == len(verdict.gaps)
    assert verdict.acknowledged > 2 * SENDS_AT_LEAST * plan.times
