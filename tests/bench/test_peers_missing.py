"""What is missing is said with what to do about it; what runs is not left behind."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen

from bench.peers.children import open_children, run_tool
from bench.peers.nats import Nats
from bench.peers.peer import Peer, PeerFailed, PeerMissing, Running
from bench.peers.rabbitmq import RabbitMQ
from bench.peers.rocketmq import RocketMQ
from bench.peers.rounds import Plan, Rounds

CACHE = Path("cache")


@pytest.mark.parametrize(
    "peer, said",
    [
        (Nats(sync="default", cache=CACHE), "go is not installed: install Go"),
        (RocketMQ(cache=CACHE), "java is not installed: apt install default-jre-headless"),
        (RabbitMQ(), "rabbitmq-server is not installed: apt install rabbitmq-server"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_a_missing_tool_is_named_with_its_package(
    peer: Peer, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("bench.peers.rabbitmq.DEBIAN_SCRIPTS", tmp_path)

    with pytest.raises(PeerMissing) as caught:
        await peer.prepare()

    assert str(caught.value).startswith(said)


@frozen(kw_only=True)
class Absent:
    """A system that cannot be run, or that does not come up."""

    name: str
    missing: bool
    promise: str = "nothing"
    dialect: str = "remoting"
    like: str = "ours-sync"
    batches: bool = False
    topics_max: int = 1

    async def prepare(self) -> None:
        if self.missing:
            raise PeerMissing("abacus is not installed: buy one")

    @asynccontextmanager
    async def running(self, scratch: Path) -> AsyncIterator[Running]:
        if self.name:
            raise PeerFailed("it fell over")
        yield


async def test_who_cannot_be_measured_is_a_row_that_says_so(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    plan = Plan(
        rounds=2,
        peers=[Absent(name="a", missing=True), Absent(name="b", missing=False)],
        workloads=[],
        scale=1,
        seconds=1,
        generator=tmp_path,
        scratch=tmp_path,
    )

    await Rounds(plan=plan, write=rows.append).run()

    assert [
        ("a", "abacus is not installed: buy one", None, None),
        ("b", None, "it fell over", 1),
        ("b", None, "it fell over", 2),
    ] == [(row["peer"], row.get("skipped"), row.get("failed"), row.get("round")) for row in rows]
    assert [] == os.listdir(tmp_path)


async def test_servers_are_gone_when_the_block_is_left(tmp_path: Path) -> None:
    pids: list[int] = []

    async def fail() -> None:
        async with open_children() as children:
            children.start("sleeper", ["sleep", "1000"], folder=tmp_path)
            pids.append(children.pid("sleeper"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


async def test_a_server_that_ended_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    async with open_children() as children:
        children.start("brief", ["sh", "-c", "echo no room; exit 3"], folder=tmp_path)
        pidfd = os.pidfd_open(children.pid("brief"))
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(pidfd)
        os.close(pidfd)

        with pytest.raises(PeerFailed, match="exit code 3") as caught:
            children.check()

    assert "no room" in str(caught.value)


async def test_a_tool_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(PeerFailed, match="exit code 4") as caught:
        await run_tool(["sh", "-c", "echo why; exit 4"], timeout_s=10)

    assert "\nwhy\n" in str(caught.value)


async def test_a_tool_does_not_die_with_the_thread_that_started_it() -> None:
    asks = "from ctypes import *; n = c_int(); CDLL(None).prctl(2, byref(n)); print(n)"

    assert await run_tool([sys.executable, "-c", asks], timeout_s=10) == "c_int(0)\n"
