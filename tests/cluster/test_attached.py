"""What another shell can do to a cluster, here to one of stand-ins that this process runs."""

from pathlib import Path

import pytest
import trio
from attrs import evolve

from dledger_py.cluster import control
from dledger_py.cluster.attached import AttachedCluster
from dledger_py.cluster.errors import ClusterError, NotRunning
from dledger_py.cluster.local import LocalCluster

MODULES = {"namesrv": "namesrv", "broker": "standin_server"}


async def ask(directory: Path, request: dict[str, str]) -> None:
    """As another process would: from a thread that may block."""
    await trio.to_thread.run_sync(lambda: control.ask(directory, request, timeout_s=60))


async def test_servers_are_shown_as_they_are(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with LocalCluster(tmp_path, nodes=2, modules=MODULES).running() as cluster:
            cluster.pause("n0")
            await cluster.kill("n1")
            attached = AttachedCluster.find(tmp_path)
            shown = {server.name: server.state for server in attached.servers()}
            pids = {server.name: server.pid for server in attached.servers()}

    assert shown == {"namesrv": "running", "n0": "paused", "n1": "down"}
    assert pids["n1"] is None
    assert attached.node_at(cluster.members["n1"].address) == "n1"
    assert attached.node_at("elsewhere:1") is None
    assert {server.state for server in attached.servers()} == {"down"}


async def test_a_killed_broker_is_gone_and_the_keeper_says_so(tmp_path: Path) -> None:
    ended: list[str] = []
    cluster = LocalCluster(
        tmp_path, nodes=1, modules=MODULES, on_exit=lambda name, _: ended.append(name)
    )
    with trio.fail_after(60):
        async with cluster.running():
            attached = AttachedCluster.find(tmp_path)
            before = cluster.members["n0"].pid

            pid = await trio.to_thread.run_sync(attached.kill, "n0")

            while not ended:
                await trio.lowlevel.checkpoint()
            with pytest.raises(NotRunning):
                attached.kill("n0")
            with pytest.raises(ClusterError, match="no member 'n5': there are n0"):
                attached.kill("n5")

    assert (pid, ended) == (before, ["n0"])


async def test_no_stranger_is_hit(tmp_path: Path) -> None:
    """The state file names a process id that belongs to somebody else now."""
    with trio.fail_after(60):
        async with LocalCluster(tmp_path, nodes=1, modules=MODULES).running() as cluster:
            attached = AttachedCluster.find(tmp_path)
            servers = tuple(
                evolve(s, process=evolve(s.process, start_ticks=s.process.start_ticks + 1))
                for s in attached.state.servers
                if s.process is not None
            )
            keeper = evolve(attached.state.keeper, start_ticks=1)
            state = evolve(attached.state, keeper=keeper, servers=servers)
            stale = AttachedCluster(tmp_path, state)

            assert not stale.down()
            with pytest.raises(NotRunning):
                stale.kill("n0")
            with pytest.raises(NotRunning):
                stale.check_running()
            assert cluster.members["n0"].state == "running"


async def test_the_keeper_starts_a_server_again_when_asked(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with (
            LocalCluster(tmp_path, nodes=1, modules=MODULES).running() as cluster,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(lambda task_status: control.serve(cluster, task_status=task_status))
            await cluster.kill("n0")

            await ask(tmp_path, {"start": "n0"})
            started = cluster.members["n0"].state
            for request, words in (
                ({"start": "n0"}, "n0 runs already"),
                ({"start": "n7"}, "no member 'n7'"),
                ({"dance": "n0"}, "not understood"),
            ):
                with pytest.raises(ClusterError, match=words):
                    await ask(tmp_path, request)
            nursery.cancel_scope.cancel()

    assert started == "running"


async def test_without_a_keeper_nothing_can_be_started(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="dledger cluster up"):
        await ask(tmp_path, {"start": "n0"})


async def test_the_socket_of_a_killed_keeper_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / control.SOCKET_NAME).touch()
    with trio.fail_after(60):
        async with (
            LocalCluster(tmp_path, nodes=1, modules=MODULES).running() as cluster,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(lambda task_status: control.serve(cluster, task_status=task_status))
            with pytest.raises(ClusterError, match="n0 runs already"):
                await ask(tmp_path, {"start": "n0"})
            nursery.cancel_scope.cancel()

    assert not (tmp_path / control.SOCKET_NAME).exists()
