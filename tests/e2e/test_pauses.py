"""Stopped members, in small: real processes, and the judges of the long run."""

from pathlib import Path

import pytest

from chaos import pauses
from chaos.load import SENDS_AT_LEAST

pytestmark = pytest.mark.e2e


async def test_members_that_stop_for_a_while_lose_nothing(tmp_path: Path) -> None:
    plan = pauses.Plan(times=2, pauses_s=(1.2,), gap_max_s=10)  # the long run judges the time

    verdict = await pauses.run(tmp_path, plan, say=print)

    assert () == verdict.findings
    assert 2 * plan.times == len(verdict.gaps)
    assert verdict.acknowledged > SENDS_AT_LEAST * plan.times
