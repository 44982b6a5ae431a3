"""Running `dledger` in this process, against a pretended cluster that lives in a thread."""

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import trio
from attrs import frozen

from dledger_py.cli.main import main
from tests.admin.fake_cluster import FakeCluster, fake_cluster


@frozen
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Dledger = Callable[..., Ended]


@pytest.fixture
def dledger(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dledger:
    """`dledger("admin", "clusterList", …)`, without a terminal."""
    monkeypatch.delenv("NAMESRV_ADDR", raising=False)
    assert not sys.stdout.isatty()

    def run(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        code = end.value.code
        out, err = capsys.readouterr()
        return Ended(code if isinstance(code, int) else 0, out, err)

    return run


@pytest.fixture
def _no_log_lines() -> Iterator[None]:
    """The servers share this process; their lines would stand among the command's."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def fake(tmp_path: Path, _no_log_lines: None) -> Iterator[FakeCluster]:
    """A cluster to ask, on another thread: a command has an event loop of its own."""
    started = threading.Event()
    holder: list[tuple[FakeCluster, trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def serve() -> None:
        with trio.CancelScope() as scope:
            async with fake_cluster(tmp_path) as cluster:
                holder.append((cluster, trio.lowlevel.current_trio_token(), scope))
                started.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(serve,), daemon=True)
    thread.start()
    assert started.wait(20)
    cluster, token, scope = holder[0]
    yield cluster
    token.run_sync_soon(scope.cancel)
    thread.join(20)
