"""The micro-benchmark still runs: its figures are quoted, so it must not rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import ledger_path


@pytest.mark.e2e
@pytest.mark.parametrize("how", [[], ["--tls"]])
def test_the_benchmark_measures_a_load_on_three_processes(tmp_path, how):
    command = [sys.executable, "-m", "bench.ledger_path", "--seconds", "0.2", "--load", "100x2"]
    root = Path(ledger_path.__file__).parents[1]
    ran = subprocess.run(
        [*command, *how, "--folder", str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    result = json.loads(ran.stdout)

    assert result["commits"] > 0
    assert 0 == result["refused"]
    assert bool(how) == result["tls"]
