"""Delays, transactions, order and retries while the leader dies, in small: real processes, and the
judges of the long run."""

from pathlib import Path

import pytest

from chaos import semantics

pytestmark = pytest.mark.e2e


async def test_what_a_leader_owes_its_successor_pays(tmp_path: Path) -> None:
    plan = semantics.Plan(times=1, far=False, between_s=0)

    verdict = await semantics.run(tmp_path, plan, say=print)

    assert () == verdict.findings
    assert plan.times == len(verdict.gaps)
