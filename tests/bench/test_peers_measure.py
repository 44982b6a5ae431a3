"""Figures from /proc, of processes whose use is known."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.peers import measure

BURN = """
import sys, threading, time
def burn():
    while time.thread_time() < 0.3:
        pass
threads = [threading.Thread(target=burn) for _ in range(int(sys.argv[1]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(time.process_time(), flush=True)
sys.stdin.read()
"""


@contextmanager
def burnt(threads: int) -> Iterator[tuple[int, float]]:
    """A process that used its processor time in threads which have ended, and how much."""
    with subprocess.Popen(
        [sys.executable, "-c", BURN, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process.pid, float(process.stdout.readline())
        process.communicate("")


def test_all_threads_of_a_process_count_also_ended_ones() -> None:
    with burnt(2) as (pid, used_s):
        counted_s = measure.cpu_seconds(pid)

    assert used_s >= 0.6
    assert used_s == pytest.approx(counted_s, abs=0.05)


def test_memory_is_what_the_kernel_calls_resident() -> None:
    with burnt(0) as (pid, _):
        status = Path(f"/proc/{pid}/status").read_text()
        found = measure.rss_mb(pid)

    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    assert int(line.split()[1]) * 1024 / 1e6 == pytest.approx(found, rel=0.05)


def test_a_process_may_be_called_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "7").mkdir()
    after_name = ["S", *["0"] * 10, "150", "50", *["0"] * 30]
    (tmp_path / "7" / "stat").write_text("7 (a ) b (c) " + " ".join(after_name))
    monkeypatch.setattr(measure, "PROC", tmp_path)

    assert 200 / measure.TICKS_PER_S == measure.cpu_seconds(7)


def usage(*, at_s: float, server_s: float, own_s: float, machine_s: float) -> measure.Usage:
    return measure.Usage(at_s=at_s, cpu_s={1: server_s}, own_s=own_s, machine_s=machine_s)


def test_foreign_is_what_neither_servers_nor_we_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    before = usage(at_s=10, server_s=5, own_s=1, machine_s=100)
    after = usage(at_s=14, server_s=8, own_s=1.5, machine_s=106)

    difference = measure.spent(before, after, load_s=0.5)

    assert 3 == difference.server_cpu_s
    assert 0.25 == difference.foreign_share  # 6 s in all, 3 + 1 are ours: 2 of 8 possible


def test_what_a_load_does_before_it_measures_is_left_out() -> None:
    samples = [
        usage(at_s=at_s, server_s=0, own_s=0, machine_s=0) for at_s in (0.0, 1.0, 2.0, 3.0, 5.0)
    ]

    assert 2.0 == measure.began(samples, seconds=2.9).at_s
    assert 0.0 == measure.began(samples, seconds=100).at_s


def test_a_look_sees_each_process_and_the_machine() -> None:
    before = measure.look([])
    with burnt(1) as (pid, used_s):
        after = measure.look([pid])

    assert used_s == pytest.approx(after.cpu_s[pid], abs=0.05)
    assert after.machine_s - before.machine_s >= 0.25
    assert after.at_s > before.at_s
