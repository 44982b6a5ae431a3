"""The `dledger` command itself: help, servers, and clusters that are not there."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dledger_py.cli.output import columns, print_table


def test_help_loads_neither_servers_nor_trio() -> None:
    program = (
        "import sys\n"
        "from dledger_py.cli.main import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "heavy = {'trio', 'anyio', 'structlog', 'rich', 'broker', 'namesrv', 'msgspec'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert "Commands:" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("server, setting", [("namesrv", "listen"), ("broker", "node")])
def test_a_server_shows_its_settings(dledger: Any, server: str, setting: str) -> None:
    ended = dledger(server, "--print-config")

    assert ended.code == 0
    assert f"\n{setting} = " in ended.out


@pytest.mark.parametrize("server", ["namesrv", "broker"])
def test_a_wrong_setting_is_code_78_and_one_line(dledger: Any, server: str) -> None:
    ended = dledger(server, "--set", "nodee=n0")

    assert ended.code == 78
    assert "there is no setting nodee" in ended.err
    assert ended.err.count("\n") == 1


def test_a_cluster_that_was_never_started_is_code_3(dledger: Any, tmp_path: Path) -> None:
    for command in ("status", "kill-leader", "down", "start"):
        names = ["n0"] if command == "start" else []
        ended = dledger("cluster", command, "--data", str(tmp_path), *names)

        assert ended.code == 3
        assert f"dledger: no cluster was started in {tmp_path}" in ended.err
        assert f"dledger cluster up --data {tmp_path}" in ended.err


def test_a_state_file_that_is_not_ours_is_code_1(dledger: Any, tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text("{}")

    ended = dledger("cluster", "status", "--data", str(tmp_path))

    assert ended.code == 1
    assert "cluster.json cannot be read: version None, not 1" in ended.err


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """A cluster whose processes are all gone; their ids belong to somebody else now."""
    stranger = {"pid": 1, "start_ticks": 1, "boot": "another"}
    server = {"peer_address": None, "log_path": "x.log", "process": stranger}
    state = {
        "version": 1,
        "keeper": stranger,
        "cluster_name": "DefaultCluster",
        "broker_name": "broker-a",
        "servers": [
            server | {"name": "namesrv", "address": "127.0.0.1:1"},
            server | {"name": "n0", "address": "127.0.0.1:2"},
        ],
    }
    (tmp_path / "cluster.json").write_text(json.dumps(state))
    return tmp_path


def test_a_dead_cluster_is_shown_as_down_with_code_3(dledger: Any, dead: Path) -> None:
    plain = dledger("cluster", "status", "--data", str(dead))
    as_json = dledger("cluster", "status", "--data", str(dead), "--json")

    assert (plain.code, as_json.code) == (3, 3)
    assert "nothing runs" in plain.out
    document = json.loads(as_json.out)
    assert (document["running"], document["leader"]) == (False, None)
    assert [server["state"] for server in document["servers"]] == ["down", "down"]


def test_a_command_to_copy_names_the_program_that_was_called(
    dledger: Any, dead: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/of/an/environment/dledger"])

    shown = dledger("cluster", "status", "--data", str(dead))

    assert f"/of/an/environment/dledger cluster up --data {dead}" in shown.out


def test_nothing_is_done_to_a_dead_cluster(dledger: Any, dead: Path) -> None:
    assert dledger("cluster", "kill-leader", "--data", str(dead)).code == 3
    assert dledger("cluster", "start", "n0", "--data", str(dead)).code == 3
    down = dledger("cluster", "down", "--data", str(dead))
    assert (down.code, down.out) == (0, "nothing was running\n")


@pytest.mark.parametrize(
    "options",
    [["--nodes", "0"], ["--ports", "other"], ["--set", "nonsense"], ["--flush", "never"]],
)
def test_up_refuses_what_makes_no_sense(dledger: Any, options: list[str]) -> None:
    assert dledger("cluster", "up", *options).code == 2


def test_a_table_is_aligned_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(columns("Name", ">N"), [("x" * 200, 7), ("y", None)])

    header, first, second = capsys.readouterr().out.splitlines()
    assert header == "#Name" + " " * 197 + "#N"
    assert first == "x" * 200 + "   7"
    assert second == "y"
