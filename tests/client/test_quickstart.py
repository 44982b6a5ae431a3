"""The quickstart runs, against a broker that keeps its promises."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.client.fake_broker import running_cluster
from tests.client.fake_servers import on_both_loops

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "quickstart.py"


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@on_both_loops
async def test_it_sends_and_consumes_every_message() -> None:
    quickstart = load_example()
    async with running_cluster(queues=4) as cluster:
        cluster.names.route(quickstart.TOPIC, cluster.broker, queues=4)

        await quickstart.main(cluster.names.address)

        committed = sum(cluster.store.committed.values())
        assert committed == len(cluster.store.unique_ids) == quickstart.MESSAGES


@pytest.fixture(autouse=True)
def _told(capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints is for people; it stays out of the test run's output."""
