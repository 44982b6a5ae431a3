"""The chaos scenario in small: real processes, SIGKILL, and the same judges as the long run."""

from pathlib import Path

import pytest

from chaos import leader_kills
from chaos.load import SENDS_AT_LEAST

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "plan",
    [
        leader_kills.Plan(times=2),
        leader_kills.Plan(times=1, kill_all=True),
        leader_kills.Plan(times=1, flush="async"),
        leader_kills.Plan(times=2, groups=3),
        leader_kills.Plan(times=1, groups=3, kill_all=True),
    ],
    ids=["leader", "everybody", "leader, flush async", "leaders of groups", "all groups"],
)
async def test_nothing_acknowledged_is_lost_and_no_offset_rewound(
    plan: leader_kills.Plan, tmp_path: Path
) -> None:
    verdict = await leader_kills.run(tmp_path, plan, say=print)

    assert () == verdict.findings
    assert plan.times == len(verdict.gaps)
    assert verdict.acknowledged > SENDS_AT_LEAST * plan.times
