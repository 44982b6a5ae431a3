"""Signals, readiness and exit codes of a real child process."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dledger_py.runtime import process
from dledger_py.runtime.settings import SettingsError

SERVER = """
import sys, trio
from dledger_py.runtime import logs, process

async def main(stubborn):
    try:
        process.announce_ready(listen="127.0.0.1:1")
        await trio.sleep_forever()
    finally:
        print("stopped in order", flush=True)
        if stubborn:
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()

logs.configure()
sys.exit(process.run(main, len(sys.argv) > 1))
"""


def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A server that has said it is ready, and what it said."""
    read_end, write_end = os.pipe()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, *arguments],
        pass_fds=[write_end],
        env={**os.environ, "DLEDGER_READY_FD": str(write_end)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    os.close(write_end)
    with os.fdopen(read_end) as ready:
        return server, ready.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_in_order(number: signal.Signals) -> None:
    server, ready = start()
    server.send_signal(number)
    out, err = server.communicate(timeout=20)

    assert {"event": "ready", "pid": server.pid, "listen": "127.0.0.1:1"} == json.loads(ready)
    assert "stopped in order\n" == out
    assert 0 == server.returncode
    line = json.loads(err)
    assert ("process.stop_requested", "info", number.name) == (
        line["event"],
        line["level"],
        line["signal"],
    )


def test_a_second_signal_ends_at_once() -> None:
    server, _ = start("stubborn")
    server.send_signal(signal.SIGTERM)
    assert server.stdout is not None
    assert "stopped in order\n" == server.stdout.readline()
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=20)

    assert 128 + signal.SIGTERM == server.returncode


class Stop(Exception):
    exit_code = 70


@pytest.mark.parametrize(
    "error, code, line",
    [
        (Stop("segment 0:\n disk gone"), 70, "stopped: segment 0: disk gone\n"),
        (ExceptionGroup("", [KeyError(), ExceptionGroup("", [Stop("x")])]), 70, "stopped: x\n"),
        (SettingsError("name: no"), 78, "stopped: name: no\n"),
    ],
)
def test_an_error_with_an_exit_code_is_one_line(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        raise error

    assert code == process.run(main)
    assert line == capsys.readouterr().err


def test_a_bug_keeps_its_traceback() -> None:
    async def main() -> None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        process.run(main)


def test_a_main_that_returns_is_a_success() -> None:
    async def main(first: int, second: str) -> None:
        assert (1, "2") == (first, second)

    assert 0 == process.run(main, 1, "2")


def test_readiness_is_said_once_and_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    monkeypatch.setenv("DLEDGER_READY_FD", str(write_end))
    process.announce_ready()
    process.announce_ready()

    with os.fdopen(read_end) as ready:
        assert 1 == len(ready.readlines())
    assert "DLEDGER_READY_FD" not in os.environ


@pytest.mark.parametrize("fd", ["no number", "99999"])
def test_nobody_listening_for_readiness_is_no_error(
    fd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLEDGER_READY_FD", fd)
    process.announce_ready()


def test_the_file_limit_is_raised_to_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        assert before[1] == process.raise_file_limit()
        assert (before[1], before[1]) == resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


KEPT = """
import resource, sys
from dledger_py.runtime import process

def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

if len(sys.argv) > 1:
    process.return_freed_memory()
bytearray(4 << 20)  # one large block that came and went, as a broker's buffers do
before = resident_bytes()
blocks, pins = [], []
for _ in range(160):
    blocks.append(bytearray(b"x") * (200 << 10))
    pins.append(bytearray(4096))
blocks.clear()
print(resident_bytes() - before)
"""


def test_large_blocks_go_back_to_the_kernel_when_freed() -> None:
    def kept_mib(*arguments: str) -> float:
        command = [sys.executable, "-c", KEPT, *arguments]
        return int(subprocess.run(command, capture_output=True, check=True).stdout) / (1 << 20)

    assert kept_mib("return") < 4
    assert kept_mib() > 24  # or the setting does nothing here, and may as well go
