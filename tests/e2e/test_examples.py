"""Every example does what it says, against three real brokers."""

import os
import sys
from pathlib import Path

import pytest
import trio

from dledger_py.cluster.local import LocalCluster

pytestmark = pytest.mark.e2e

DEADLINE_S = 300
FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))

# So that nobody waits long to be asked what became of a transaction.
SETTINGS = {"transaction_timeout_ms": "500"}


async def run(example: Path, name_server: str, failures: dict[str, str]) -> None:
    done = await trio.run_process(
        [sys.executable, str(example), name_server],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    said = done.stdout.decode()
    if done.returncode or "done" not in said.splitlines()[-1]:
        failures[example.name] = f"exit {done.returncode}\n{said}{done.stderr.decode()}"


async def test_every_example_runs_to_its_end(tmp_path: Path) -> None:
    failures: dict[str, str] = {}
    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(tmp_path, settings=SETTINGS).running() as cluster:
            await cluster.wait_leader()
            async with trio.open_nursery() as nursery:
                for example in EXAMPLES:
                    nursery.start_soon(run, example, cluster.namesrv_address, failures)

    assert not failures, "\n".join(f"{name}: {said}" for name, said in failures.items())
    assert len(EXAMPLES) > 1
