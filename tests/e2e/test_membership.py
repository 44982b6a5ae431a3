"""Members added, removed and replaced under load: real processes, the judges of the long run."""

from pathlib import Path

import pytest

from chaos import membership

pytestmark = pytest.mark.e2e


async def test_a_group_changes_its_members_under_load_and_loses_nothing(tmp_path: Path) -> None:
    plan = membership.Plan(gap_max_s=10)  # the long run judges the time
    told: list[str] = []

    verdict = await membership.run(tmp_path, plan, say=told.append)

    assert () == verdict.findings
    assert ["added", "removed while it led", "killed and emptied", "replaced"] == [
        gap.what for gap in verdict.gaps
    ]
    assert 3 == len(told)
