"""Real processes: everything is destroyed but a backup, or all members but one."""

import shutil
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import trio
from attrs import evolve

from dledger_py.admin import Admin
from dledger_py.client import Client, connect
from dledger_py.cluster.layout import MemberPlace, node_names
from dledger_py.cluster.local import LocalCluster
from dledger_py.cluster.ports import PortReservations
from dledger_py.cluster.servers import ServerProcess
from tests.e2e.test_failover import DEADLINE_S, TOPIC, assert_all_there, send_some, stored

pytestmark = pytest.mark.e2e

GROUP = "billing"


async def dledger(*arguments: str | Path) -> str:
    """What `dledger log …` prints when it ends well."""
    ended: CompletedProcess[bytes] = await trio.run_process(
        [sys.executable, "-m", "dledger_py.cli", "log", *map(str, arguments)],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert 0 == ended.returncode, ended.stderr.decode()
    return ended.stdout.decode()


async def consumed(mq: Client, count: int) -> set[bytes]:
    """The next messages of the group."""
    bodies = set()
    async with mq.consumer(GROUP, {TOPIC: "*"}) as messages:
        async for message in messages:
            async with message.ack_on_success():
                bodies.add(message.body)
            if len(bodies) == count:
                break
    return bodies


def logs_of(directory: Path, nodes: Iterable[str]) -> list[list[bytes]]:
    """The entries of each member, as they lie in its files."""
    return [[p.read_bytes()[4096:] for p in sorted((directory / n).glob("*.log"))] for n in nodes]


async def test_what_a_live_backup_holds_outlives_everything_else(tmp_path: Path) -> None:
    old, new, backup = tmp_path / "old", tmp_path / "new", tmp_path / "backup"
    nodes = node_names(3)
    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(old).running() as cluster:
            leader = await cluster.wait_leader()
            async with connect(cluster.namesrv_address, timeout_s=30) as mq:
                receipts = await send_some(mq, 60, "kept")
                assert set(receipts) == await consumed(mq, 60)
                told = await dledger("backup", old / leader, backup)
                await send_some(mq, 5, "too late")
        shutil.rmtree(old)
        assert "complete: entries 1 to" in told
        assert "sound" in await dledger("verify", backup)
        for node in nodes:
            await dledger(
                *("restore", backup, new / node),
                *("--member", node, "--members", ",".join(nodes)),
            )
        first, second, third = logs_of(new, nodes)
        assert first == second == third
        async with LocalCluster(new).running() as cluster:
            await cluster.wait_leader()
            async with connect(cluster.namesrv_address, timeout_s=30) as mq:
                found = await stored(mq)
                more = await send_some(mq, 10, "and on")
                assert set(more) == await consumed(mq, 10)  # the group goes on where it was
                killed = await cluster.kill_leader()
                await cluster.wait_leader(other_than=killed)
                assert_all_there(receipts | more, await stored(mq))

    assert set(receipts) == set(found.values())
    assert_all_there(receipts, found)


async def test_the_last_of_three_is_rescued_and_joined_by_a_new_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    with trio.fail_after(DEADLINE_S):
        async with LocalCluster(old).running() as cluster:
            await cluster.wait_leader()
            async with connect(cluster.namesrv_address, timeout_s=30) as mq:
                receipts = await send_some(mq, 60, "kept")
        new.mkdir()
        (old / "n0").rename(new / "n0")
        shutil.rmtree(old)
        shown = await dledger("rescue", new / "n0")
        assert "n0 would go on alone" in shown
        done = await dledger("rescue", new / "n0", "--accept-data-loss")
        assert "rescued: n0 is the only member" in done

        async with (
            LocalCluster(new, nodes=1).running() as cluster,
            connect(cluster.namesrv_address, timeout_s=30) as mq,
        ):
            assert "n0" == await cluster.wait_leader()
            assert_all_there(receipts, await stored(mq))
            receipts |= await send_some(mq, 20, "alone")
            async with joined(cluster, "n1"):
                receipts |= await send_some(mq, 20, "together")
                assert_all_there(receipts, await stored(mq))

    assert 100 == len(receipts)


@asynccontextmanager
async def joined(cluster: LocalCluster, node: str) -> AsyncIterator[None]:
    """While a new member runs, from when it has a vote on."""
    reservations = PortReservations()
    place = MemberPlace(
        node=node,
        host="127.0.0.1",
        ports=(reservations.take_any_with_vip(),),
        peer_port=reservations.take_any(),
    )
    directory = cluster.layout.directory
    layout = evolve(cluster.layout, members=(*cluster.layout.members, place))
    config = directory / f"{node}.toml"
    config.write_text(layout.broker_toml(place))
    server = ServerProcess(
        name=node,
        module="broker",
        arguments=["--config", str(config), "--set", "ledger.join=true"],
        log_path=directory / "logs" / f"{node}.log",
    )
    admin = Admin(cluster.namesrv_address)
    async with trio.open_nursery() as nursery:
        try:
            async with trio.open_nursery() as starting:
                starting.start_soon(partial(server.start, nursery, timeout_s=60))
                await admin.add_member(node, place.peer_address)
            while not await has_vote(admin, node):
                pass  # each question is a round trip through both
            yield
        finally:
            with trio.CancelScope(shield=True):
                await server.stop(grace_s=10)
            reservations.close()


async def has_vote(admin: Admin, node: str) -> bool:
    return any(
        (each.node, each.membership) == (node, "voter") for each in await admin.raft_status()
    )
