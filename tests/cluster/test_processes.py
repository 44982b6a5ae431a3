"""Naming processes so that no stranger is ever signalled; and dying with one's parent."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from attrs import evolve

from dledger_py.cluster.processes import ProcessId

SLEEPER = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEPER, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_running_process_is_signalled_and_waited_for(sleeper: subprocess.Popen[bytes]) -> None:
    named = ProcessId.of(sleeper.pid)
    assert named is not None

    assert named.alive
    assert not named.wait_ended(0)
    assert named.signal(signal.SIGTERM)
    assert named.wait_ended(5)
    assert sleeper.wait() == -signal.SIGTERM


def test_another_process_with_the_same_id_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    named = ProcessId.of(sleeper.pid)
    assert named is not None

    for stranger in (evolve(named, start_ticks=named.start_ticks + 1), evolve(named, boot="other")):
        assert not stranger.alive
        assert not stranger.signal(signal.SIGKILL)
        assert stranger.wait_ended(0)
    assert sleeper.poll() is None


def test_a_process_that_ended_but_was_not_waited_for_is_gone(
    sleeper: subprocess.Popen[bytes],
) -> None:
    named = ProcessId.of(sleeper.pid)
    assert named is not None
    sleeper.kill()
    assert named.wait_ended(5)

    assert not named.alive
    assert not named.signal(signal.SIGTERM)


def test_a_child_dies_with_its_parent_even_while_stopped() -> None:
    parent = (
        "import os, subprocess, sys\n"
        "child = [sys.executable, '-m', 'dledger_py.cluster.child', str(os.getpid()), 'sleeper']\n"
        "subprocess.Popen(child).wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        named = ProcessId.of(int(line))
        assert named is not None
        named.signal(signal.SIGSTOP)

        process.kill()

        assert named.wait_ended(5)


def test_a_child_of_nobody_does_not_start() -> None:
    child = [sys.executable, "-m", "dledger_py.cluster.child", "1", "sleeper"]

    ended = subprocess.run(child, capture_output=True, text=True, timeout=20, check=False)

    assert ended.returncode == 1
    assert "process 1 has ended" in ended.stderr
