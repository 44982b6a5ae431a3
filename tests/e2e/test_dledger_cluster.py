"""`dledger cluster` from a shell: up, look, kill, start, down; nobody is left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dledger_py.cluster.processes import ProcessId
from dledger_py.cluster.state import read_state

pytestmark = pytest.mark.e2e

DLEDGER = [sys.executable, "-m", "dledger_py.cli"]
TIMEOUT_S = 120


def dledger(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DLEDGER, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def processes(directory: Path) -> list[ProcessId]:
    state = read_state(directory)
    return [state.keeper, *(s.process for s in state.servers if s.process is not None)]


def status(data: list[str]) -> tuple[int, dict[str, Any]]:
    ended = dledger("cluster", "status", "--json", *data)
    return ended.returncode, json.loads(ended.stdout)


def test_a_detached_cluster_is_looked_at_hurt_healed_and_taken_down(tmp_path: Path) -> None:
    data = ["--data", str(tmp_path)]

    up = dledger("cluster", "up", *data, "--ports", "free", "--detach")
    assert up.returncode == 0, up.stderr
    assert "3 brokers and a name server serve" in up.stdout
    alive = processes(tmp_path)
    try:
        code, before = status(data)
        assert (code, before["running"]) == (0, True)
        assert {server["role"] for server in before["servers"]} == {"", "leader", "follower"}

        again = dledger("cluster", "up", *data, "--ports", "free")
        assert again.returncode == 1
        assert f"process {alive[0].pid} runs a cluster in {tmp_path}" in again.stderr

        killed = json.loads(dledger("cluster", "kill-leader", "--json", *data).stdout)
        assert killed["killed"] == before["leader"]
        assert killed["leader"] != before["leader"]

        code, hurt = status(data)
        assert code == 0
        states = {server["name"]: server["state"] for server in hurt["servers"]}
        assert states.pop(before["leader"]) == "down"
        assert set(states.values()) == {"running"}

        started = dledger("cluster", "start", before["leader"], *data)
        assert (started.returncode, started.stderr) == (0, "")

        name_server = before["servers"][0]["address"]
        members = json.loads(dledger("admin", "clusterList", "--json", "-n", name_server).stdout)
        assert members[0]["brokerId"] == 0
        assert len(members) == 3
    finally:
        alive += processes(tmp_path)
        down = dledger("cluster", "down", *data)

    assert (down.returncode, down.stdout) == (0, "stopped\n")
    assert not any(process.alive for process in alive)
    assert dledger("cluster", "status", *data).returncode == 3


def test_a_cluster_of_two_groups_is_led_by_two_nodes_until_one_dies(tmp_path: Path) -> None:
    data = ["--data", str(tmp_path)]

    up = dledger("cluster", "up", *data, "--ports", "free", "--groups", "2", "--detach")
    assert up.returncode == 0, up.stderr
    try:
        code, before = status(data)
        name_server = before["servers"][0]["address"]
        plain = dledger("cluster", "status", *data).stdout
        which = dledger("admin", "transferLeader", "-n", name_server, "-t", "n2")
        killed = json.loads(dledger("cluster", "kill-leader", "--json", *data).stdout)
        _, after = status(data)
        (other,) = {"n1", "n2"} - {after["leader"]}  # n0, which would be preferred, is away
        transfer = ("admin", "transferLeader", "-n", name_server, "-b", "broker-a", "-t", other)
        moved = dledger(*transfer)
        raft = json.loads(dledger("admin", "raftStatus", "--json", "-n", name_server).stdout)
        unknown = dledger("cluster", "kill-leader", "--group", "x", *data)
    finally:
        down = dledger("cluster", "down", *data)

    assert "n0 leads broker-a, n1 leads broker-b." in up.stdout
    assert code == 0
    assert [(g["name"], g["leader"]) for g in before["groups"]] == [
        ("broker-a", "n0"),
        ("broker-b", "n1"),
    ]
    assert ["broker-a", "broker-b"] == [line.split()[-1] for line in plain.splitlines()[2:4]]
    assert "which broker group?" in which.stderr
    assert killed["killed"] == "n0"
    assert [each["name"] for each in killed["groups"]] == ["broker-a"]
    leaders = {group["name"]: group["leader"] for group in after["groups"]}
    assert leaders == {"broker-a": killed["leader"], "broker-b": "n1"}
    assert moved.stdout.split() == [other, "leads", "broker-a"]
    assert {member["brokerName"] for member in raft} == {"broker-a", "broker-b"}
    assert "no group 'x': there are broker-a, broker-b" in unknown.stderr
    assert (down.returncode, down.stdout) == (0, "stopped\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cluster_in_the_foreground_ends_in_good_order(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [*DLEDGER, "cluster", "up", "--data", str(tmp_path), "--ports", "free"]
    with subprocess.Popen(
        [*command, "--nodes", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as keeper:
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        shown = keeper.stdout.readline()
        alive = processes(tmp_path)
        os.kill(keeper.pid, number)
        rest, errors = keeper.stdout.read(), keeper.stderr.read()

    assert "1 broker and a name server serve" in shown
    assert 'connect("127.0.0.1:' in rest
    assert rest.endswith("stopping …\n")
    assert (keeper.returncode, errors) == (0, "")
    assert len(alive) == 3
    assert not any(process.alive for process in alive)
    exits = [(tmp_path / "logs" / f"{name}.log").read_text() for name in ("namesrv", "n0")]
    assert not any("Traceback" in text for text in exits)


def test_a_taken_port_is_explained(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = dledger(
            *("cluster", "up", "--detach", "--data", str(tmp_path), "--namesrv-port", str(port))
        )

    assert ended.returncode == 1
    assert f"port {port} for the name server is taken by pid {os.getpid()}" in ended.stderr
    assert "Traceback" not in ended.stderr
