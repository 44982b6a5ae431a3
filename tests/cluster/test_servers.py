"""One server process: ready, watched, stopped; and what is said when it is not."""

import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from dledger_py.cluster.errors import NotRunning, ServerFailed
from dledger_py.cluster.ports import PortReservations
from dledger_py.cluster.processes import ProcessId
from dledger_py.cluster.servers import ServerProcess, describe_exit

Make = Callable[..., ServerProcess]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(behave: str = "") -> ServerProcess:
        reservations = PortReservations()
        port = reservations.take_any()
        reservations.close()
        (tmp_path / "s.toml").write_text(f'listen = "127.0.0.1:{port}"\n')
        options = ["--set", f"behave={behave}"] if behave else []
        return ServerProcess(
            name="s",
            module="standin_server",
            arguments=["--config", str(tmp_path / "s.toml"), *options],
            log_path=tmp_path / "logs" / "s.log",
        )

    return make


@pytest.fixture
async def nursery() -> AsyncIterator[trio.Nursery]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            yield nursery


async def test_a_started_server_serves_and_a_stopped_one_is_gone(
    make: Make, nursery: trio.Nursery
) -> None:
    server = make()
    exits: list[bool] = []
    server.on_exit = lambda _, expected: exits.append(expected)

    await server.start(nursery, timeout_s=30)
    process = server.process
    await server.stop(grace_s=30)

    assert process is not None
    assert not process.alive
    assert not server.running
    assert (server.exit_code, exits) == (0, [True])
    assert "stand-in behaves well" in server.tail()


async def test_a_server_can_be_started_again(make: Make, nursery: trio.Nursery) -> None:
    server = make()

    for _ in range(2):
        await server.start(nursery, timeout_s=30)
        await server.kill()
        assert server.exit_code == -signal.SIGKILL


async def test_a_server_that_ends_at_once_shows_the_end_of_its_log(
    make: Make, nursery: trio.Nursery
) -> None:
    server = make("crash")

    with pytest.raises(ServerFailed) as caught:
        await server.start(nursery, timeout_s=30)

    assert "s ended with exit code 1" in str(caught.value)
    assert "the disk is full" in str(caught.value)
    assert not server.running


async def test_a_server_that_never_serves_is_killed(make: Make, nursery: trio.Nursery) -> None:
    server = make("silent")

    with pytest.raises(ServerFailed, match=r"did not serve within 0\.5 s"):
        await server.start(nursery, timeout_s=0.5)

    assert not server.running


async def test_a_server_that_ignores_sigterm_is_killed(make: Make, nursery: trio.Nursery) -> None:
    server = make("deaf")
    await server.start(nursery, timeout_s=30)

    await server.stop(grace_s=0.1)

    assert server.exit_code == -signal.SIGKILL


async def test_a_paused_server_can_be_stopped_in_good_order(
    make: Make, nursery: trio.Nursery
) -> None:
    server = make()
    await server.start(nursery, timeout_s=30)
    server.pause()

    await server.stop(grace_s=30)

    assert (server.exit_code, server.paused) == (0, False)


async def test_an_end_nobody_asked_for_is_told(make: Make, nursery: trio.Nursery) -> None:
    server = make()
    ended = trio.Event()
    expectations: list[bool] = []

    def on_exit(_: ServerProcess, expected: bool) -> None:
        expectations.append(expected)
        ended.set()

    server.on_exit = on_exit
    await server.start(nursery, timeout_s=30)
    process = ProcessId.of(server.pid)
    assert process is not None

    process.signal(signal.SIGKILL)
    await ended.wait()

    assert expectations == [False]
    with pytest.raises(NotRunning):
        await server.kill()


@pytest.mark.parametrize(
    "code, words", [(0, "exit code 0"), (-9, "signal SIGKILL"), (None, "an unknown exit code")]
)
def test_exits_in_words(code: int | None, words: str) -> None:
    assert describe_exit(code) == words
