"""A cluster's life with a real name server and stand-ins for brokers."""

import os
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dledger_py.client.connection import open_connection, parse_address
from dledger_py.cluster.errors import (
    AlreadyRunning,
    ClusterError,
    NoLeader,
    PortTaken,
    ServerFailed,
)
from dledger_py.cluster.local import FixedPorts, LocalCluster
from dledger_py.cluster.processes import ProcessId
from dledger_py.cluster.state import ClusterState, read_state
from dledger_py.remoting.commands import routing


def cluster(directory: Path, **options: Any) -> LocalCluster:
    options = {"nodes": 1, "grace_s": 20.0} | options
    modules = {"namesrv": "namesrv", "broker": "standin_server"}
    return LocalCluster(directory, modules=modules, **options)


@asynccontextmanager
async def registered(running: LocalCluster, node: str, term: int) -> AsyncIterator[None]:
    """`node` is the leader as far as the name server knows."""
    host, port = parse_address(running.namesrv_address)
    request = routing.RegisterBroker(
        broker_name="broker-a",
        broker_addr=running.members[node].address,
        cluster_name="DefaultCluster",
        broker_id=0,
    )
    wrapper = (
        b'{"topicConfigSerializeWrapper":{"dataVersion":{"stateVersion":%d},"topicConfigTable":{}}}'
    )
    async with open_connection(host, port) as connection:
        await connection.call(request, wrapper % term)
        yield


def processes(state: ClusterState) -> list[ProcessId]:
    return [server.process for server in state.servers if server.process is not None]


async def test_everything_serves_inside_the_block_and_nothing_outlives_it(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with cluster(tmp_path, nodes=3).running() as running:
            addresses = [running.namesrv_address, *(m.address for m in running.members.values())]
            for address in addresses:
                socket.create_connection(parse_address(address)).close()
            state = read_state(tmp_path)
            alive = [process.alive for process in processes(state)]

    assert list(running.members) == ["n0", "n1", "n2"]
    assert state.keeper.pid == os.getpid()
    assert [server.name for server in state.servers] == ["namesrv", "n0", "n1", "n2"]
    assert alive == [True] * 4
    assert not any(process.alive for process in processes(state))
    assert processes(read_state(tmp_path)) == []


async def test_the_configuration_names_every_member(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with cluster(tmp_path, nodes=2, flush="async").running() as running:
            written = tomllib.loads((tmp_path / "n1.toml").read_text())

    members = {place.node: place.address for place in running.layout.members}
    peers = {place.node: place.peer_address for place in running.layout.members}
    assert written == {
        "cluster_name": "DefaultCluster",
        "cluster_id": "DefaultCluster/broker-a",
        "broker_name": "broker-a",
        "node": "n1",
        "listen": members["n1"],
        "data_dir": str(tmp_path / "n1"),
        "namesrv": [running.namesrv_address],
        "flush": "async",
        "members": members,
        "ledger": {"peers": peers},
    }


async def test_somebody_may_stand_between_the_members(tmp_path: Path) -> None:
    def dialled(dialler: str, owner: str, address: str) -> str:
        return f"{dialler}-to-{owner}:{address.rpartition(':')[2]}"

    with trio.fail_after(60):
        async with cluster(tmp_path, nodes=2, dialled=dialled).running() as running:
            written = tomllib.loads((tmp_path / "n1.toml").read_text())

    n0, n1 = running.layout.members
    assert written["members"] == {"n0": f"n1-to-n0:{n0.port}", "n1": n1.address}
    assert written["ledger"]["peers"] == {"n0": f"n1-to-n0:{n0.peer_port}", "n1": n1.peer_address}


async def test_a_broker_that_comes_later_is_told_to_join(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with cluster(tmp_path, nodes=2).running() as running:
            place = await running.add_broker("n2")
            socket.create_connection(parse_address(place.address)).close()
            written = tomllib.loads((tmp_path / "n2.toml").read_text())
            founder = tomllib.loads((tmp_path / "n0.toml").read_text())
            with pytest.raises(ClusterError, match="there is a n2 already"):
                await running.add_broker("n2")
            await running.kill("n2")
            await running.start("n2")
            state = read_state(tmp_path)
            alive = [process.alive for process in processes(state)]

    peers = {each.node: each.peer_address for each in running.layout.members}
    assert written["ledger"] == {"peers": peers, "join": True}
    assert "n2" not in founder["ledger"]["peers"]
    assert list(running.members) == ["n0", "n1", "n2"]
    assert alive == [True] * 4
    assert processes(read_state(tmp_path)) == []


async def test_an_error_in_the_block_leaves_it_as_it_is_and_stops_everything(
    tmp_path: Path,
) -> None:
    with trio.fail_after(60), pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is meant
        async with cluster(tmp_path).running():
            alive = processes(read_state(tmp_path))
            raise ZeroDivisionError

    assert not any(process.alive for process in alive)


async def test_cancelling_the_block_stops_everything(tmp_path: Path) -> None:
    with trio.fail_after(60):
        with trio.CancelScope() as scope:
            async with cluster(tmp_path).running():
                alive = processes(read_state(tmp_path))
                scope.cancel()
                await trio.sleep_forever()

    assert not any(process.alive for process in alive)


async def test_a_server_that_fails_to_start_takes_the_others_along(tmp_path: Path) -> None:
    broken = cluster(tmp_path, settings={"behave": "crash"})

    with trio.fail_after(60), pytest.raises(ServerFailed, match="the disk is full"):
        async with broken.running():
            raise AssertionError("not reached")

    assert processes(read_state(tmp_path)) == []


async def test_a_killed_server_comes_back_on_its_port(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with cluster(tmp_path).running() as running:
            before = running.members["n0"]
            await running.kill("n0")
            down = running.members["n0"]
            await running.start("n0")
            after = running.members["n0"]

    assert (before.state, down.state, after.state) == ("running", "down", "running")
    assert before.address == after.address
    assert down.pid is None
    assert before.pid != after.pid


async def test_the_next_cluster_in_the_directory_has_the_same_addresses(tmp_path: Path) -> None:
    addresses = []
    with trio.fail_after(60):
        for _ in range(2):
            async with cluster(tmp_path).running() as running:
                addresses.append((running.namesrv_address, running.members["n0"].address))

    assert addresses[0] == addresses[1]


async def test_the_data_of_two_brokers_is_not_started_as_one(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with cluster(tmp_path, nodes=2).running():
            pass
        with pytest.raises(ClusterError, match=r"belongs to 2 brokers \(n0, n1\), not 1"):
            async with cluster(tmp_path, nodes=1).running():
                raise AssertionError("not reached")


async def test_a_directory_holds_one_running_cluster(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with cluster(tmp_path).running():
            with pytest.raises(AlreadyRunning, match=f"process {os.getpid()} runs a cluster"):
                async with cluster(tmp_path).running():
                    raise AssertionError("not reached")


async def test_a_taken_port_is_explained_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ports = FixedPorts(namesrv=taken)
        (tmp_path / "there").mkdir()

        for name in ("new", "there"):
            with trio.fail_after(60), pytest.raises(PortTaken, match=f"port {taken} for the name"):
                async with cluster(tmp_path / name, ports=ports).running():
                    raise AssertionError("not reached")

    assert ["there"] == os.listdir(tmp_path)
    assert [] == os.listdir(tmp_path / "there")


async def test_the_leader_is_whom_the_name_server_shows(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with cluster(tmp_path, nodes=2).running() as running:
            nobody = await running.leader()
            async with registered(running, "n0", 1):
                first = await running.wait_leader()
                async with registered(running, "n1", 2):
                    second = await running.wait_leader(other_than="n0")
                    killed = await running.kill_leader()
                    after = await running.leader()

    assert (nobody, first, second, killed, after) == (None, "n0", "n1", "n1", None)


async def test_waiting_for_a_leader_in_vain_shows_the_logs(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with cluster(tmp_path).running() as running:
            with pytest.raises(NoLeader) as caught:
                await running.wait_leader(timeout_s=0.2)

    assert "no leader within 0.2 s (n0 running)" in str(caught.value)
    assert "stand-in behaves well" in str(caught.value)


async def test_a_paused_leader_does_not_count(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with cluster(tmp_path).running() as running, registered(running, "n0", 1):
            running.pause("n0")
            paused = (running.members["n0"].state, await running.leader())
            running.resume("n0")
            resumed = (running.members["n0"].state, await running.leader())

    assert paused == ("paused", None)
    assert resumed == ("running", "n0")


async def test_an_end_nobody_asked_for_is_reported(tmp_path: Path) -> None:
    ended = trio.Event()
    reports: list[tuple[str, int | None]] = []

    def on_exit(name: str, code: int | None) -> None:
        reports.append((name, code))
        ended.set()

    with trio.fail_after(60):
        async with cluster(tmp_path, on_exit=on_exit).running():
            (_, broker) = processes(read_state(tmp_path))
            broker.signal(signal.SIGKILL)
            await ended.wait()

    assert reports == [("n0", -9)]


@pytest.mark.parametrize("nodes", [0, 10])
async def test_a_senseless_number_of_nodes_is_refused(tmp_path: Path, nodes: int) -> None:
    with pytest.raises(ClusterError, match="1 to 9 are possible"):
        async with cluster(tmp_path, nodes=nodes).running():
            raise AssertionError("not reached")


async def test_an_unknown_node_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with cluster(tmp_path).running() as running:
            with pytest.raises(ClusterError, match="no member 'n7': there are n0"):
                await running.kill("n7")


def test_nothing_outlives_a_killed_keeper(tmp_path: Path) -> None:
    keeper = (
        "import sys, trio\n"
        "from dledger_py.cluster.local import LocalCluster\n"
        "async def main():\n"
        "    modules = {'namesrv': 'namesrv', 'broker': 'standin_server'}\n"
        "    async with LocalCluster(sys.argv[1], nodes=1, modules=modules).running() as cluster:\n"
        "        cluster.pause('n0')\n"
        "        print('up', flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    command = [sys.executable, "-c", keeper, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        children = processes(read_state(tmp_path))

        process.kill()

        assert all(child.wait_ended(20) for child in children)
    assert len(children) == 2
