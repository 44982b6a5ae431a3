"""One server process: started, known to serve, watched, stopped.

Laws:
- "Started" means that it serves: the child says so by one JSON line on an inherited pipe (its
  number is in DLEDGER_READY_FD). Nobody polls ports. The pipe's end without a line is its failure.
- It never outlives us (`child`), and Ctrl-C does not reach it: it has a process group of its own.
- Every wait has a deadline, and what goes wrong shows the end of the process's log.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import trio
from attrs import define, field

from dledger_py.cluster import child
from dledger_py.cluster.errors import ClusterError, NotRunning, ServerFailed
from dledger_py.cluster.processes import ProcessId

READY_FD = "DLEDGER_READY_FD"

READY_LINE_MAX_BYTES = 4096
"""A server's line holds its addresses: some 200 bytes."""

TAIL_LINES = 15
TAIL_BYTES = 8192
"""What an error shows of a log: a screen's half, and a traceback's interesting end."""

KILL_WAIT_S = 10.0
"""How long a killed process may take to be gone: longer only if it hangs in the kernel (a dead
disk).
"""


@define(eq=False)
class ServerProcess:
    """A server that may run now or not. One task at a time starts and stops it."""

    name: str
    module: str
    arguments: Sequence[str]
    log_path: Path
    on_exit: Callable[["ServerProcess", bool], None] = lambda server, expected: None
    """Called when it ended; True if we ended it, or it never served."""
    _popen: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    _ended: trio.Event = field(factory=trio.Event, init=False)
    _expected: bool = field(default=False, init=False)
    paused: bool = field(default=False, init=False)
    process: ProcessId | None = field(default=None, init=False)
    exit_code: int | None = field(default=None, init=False)

    @property
    def running(self) -> bool:
        return self._popen is not None

    async def start(self, nursery: trio.Nursery, *, timeout_s: float) -> None:
        """Start it and wait until it serves; `nursery` gets the task that watches for its end.

        Raises:
            ServerFailed: it ended, or did not serve in time (it is killed then).
        """
        if self.running:
            raise ClusterError(f"{self.name} runs already (pid {self.pid})")
        read_end, write_end = os.pipe()
        async with trio.lowlevel.FdStream(read_end) as pipe:
            try:
                popen = self._spawn(write_end)
            finally:
                os.close(write_end)
            self._popen = popen
            self._ended = trio.Event()
            self._expected = True  # until it serves, its end is what `start` reports
            self.paused = False
            self.exit_code = None
            self.process = ProcessId.of(popen.pid)
            nursery.start_soon(self._watch, popen, os.pidfd_open(popen.pid))
            await self._wait_ready(pipe, timeout_s)
            self._expected = False

    async def stop(self, *, grace_s: float) -> None:
        """Ask it to end, and kill it if it has not after `grace_s`. Nothing if it does not run."""
        if not self.running:
            return
        self._expected = True
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        with trio.move_on_after(grace_s):
            await self._ended.wait()
            return
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL: as if the machine had lost power, except that its page cache survives."""
        self._expected = True
        self._signal(signal.SIGKILL)
        with trio.move_on_after(KILL_WAIT_S):
            await self._ended.wait()
            return
        raise ServerFailed(f"{self.name} (pid {self.pid}) is killed but does not go away")

    def pause(self) -> None:
        """SIGSTOP: alive for the kernel, dead for everyone else."""
        self._signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
        self.paused = False

    @property
    def pid(self) -> int:
        return self._running().pid

    def tail(self) -> str:
        """The end of its log."""
        return log_tail(self.log_path)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._popen is None:
            raise NotRunning(f"{self.name} does not run")
        return self._popen

    def _signal(self, number: signal.Signals) -> None:
        self._running().send_signal(number)  # Popen never signals a process it has waited for

    def _spawn(self, ready_fd: int) -> "subprocess.Popen[bytes]":
        # From this thread, not a worker's: the child dies with the thread that started it.
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        first = [sys.executable, "-m", child.__name__, str(os.getpid()), self.module]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [*first, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(ready_fd,),
                env={**os.environ, READY_FD: str(ready_fd)},
                process_group=0,
            )

    async def _wait_ready(self, pipe: trio.lowlevel.FdStream, timeout_s: float) -> None:
        line = b""
        with trio.move_on_after(timeout_s):
            while b"\n" not in line and len(line) <= READY_LINE_MAX_BYTES:
                received = await pipe.receive_some(READY_LINE_MAX_BYTES)
                if not received:
                    break
                line += received
        if b"\n" in line:
            return
        with trio.move_on_after(1):  # the pipe may end a moment before the process does
            await self._ended.wait()
        if self.running:
            await self.kill()
            raise self._failed(f"{self.name} did not serve within {timeout_s:g} s")
        raise self._failed(f"{self.name} ended with {describe_exit(self.exit_code)}")

    def _failed(self, what: str) -> ServerFailed:
        return ServerFailed(what, hint=f"the end of {self.log_path}:\n{self.tail()}")

    async def _watch(self, popen: "subprocess.Popen[bytes]", pidfd: int) -> None:
        try:
            with trio.CancelScope(
                shield=True
            ):  # ends with the process, which `running` makes sure of
                await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        self.exit_code = popen.wait()
        self._popen = None
        self.process = None
        self.paused = False
        self._ended.set()
        self.on_exit(self, self._expected)


def log_tail(path: Path) -> str:
    """The last lines of a log file."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:]) or "  (it is empty)"


def describe_exit(code: int | None) -> str:
    if code is None:
        return "an unknown exit code"
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
