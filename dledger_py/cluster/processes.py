"""Processes, ours and those a state file names.

A process is named by its id *and* its start time: ids are reused, and `down` from another shell
must never hit a stranger. Signals go through a pidfd opened before the start time is compared, so
the process that is compared is the one that is hit.
"""

import os
import select
import signal
from pathlib import Path

from attrs import frozen


@frozen(kw_only=True)
class ProcessId:
    """One process for all times: no other ever has the same three."""

    pid: int
    start_ticks: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """The process that has this id now, or None."""
        state, ticks = _state_and_start(pid)
        if state in "ZX":
            return None
        return cls(pid=pid, start_ticks=ticks, boot=_boot_id())

    @property
    def alive(self) -> bool:
        """Whether it runs (or is stopped); one that has ended but was not waited for does not."""
        return ProcessId.of(self.pid) == self

    @property
    def paused(self) -> bool:
        """Whether it is stopped by a signal (SIGSTOP)."""
        return self.alive and _state_and_start(self.pid)[0] == "T"

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; False if the process has ended."""
        fd = self._open()
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait until it has ended; False if it has not in time. Blocks the thread."""
        fd = self._open()
        if fd is None:
            return True
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return bool(poll.poll(timeout_s * 1000))
        finally:
            os.close(fd)

    def _open(self) -> int | None:
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if not self.alive:
            os.close(fd)
            return None
        return fd


def _state_and_start(pid: int) -> tuple[str, int]:
    """The kernel's letter for what the process does (X: it is gone), and when it began."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "X", 0
    # The name in brackets may contain blanks and brackets: fields count after the last one.
    state, *fields = stat.rpartition(")")[2].split()
    return state, int(fields[18])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
