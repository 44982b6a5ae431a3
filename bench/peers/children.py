"""Server processes that are not ours: started, watched and killed.

Laws:
- None outlives the block that started it, nor this process, however that ends: each asks the kernel
  to be killed with its parent before it becomes the server (see `dledger_py.cluster.child`).
- They end by SIGKILL: their data is thrown away, so that an orderly end would only take time.
- Only processes started here are signalled, and by their own id.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field

from bench.peers.peer import PeerFailed
from dledger_py.cluster.servers import describe_exit, log_tail

_BECOME = (
    "import os, sys; from dledger_py.cluster.child import die_with_parent;"
    " die_with_parent(int(sys.argv[1])); os.execvp(sys.argv[2], sys.argv[2:])"
)

KILL_WAIT_S = 20.0
"""A killed JVM unmaps gigabytes of files before it is gone."""


@define(eq=False)
class Children:
    """The processes of one cluster."""

    _started: dict[str, "subprocess.Popen[bytes]"] = field(factory=dict, init=False)
    _logs: dict[str, Path] = field(factory=dict, init=False)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start `command` in `folder`, where its output goes to a log."""
        assert name not in self._started, f"{name} was started before"
        folder.mkdir(parents=True, exist_ok=True)
        self._logs[name] = folder / f"{name}.out"
        with self._logs[name].open("ab") as log:
            self._started[name] = subprocess.Popen(
                [sys.executable, "-c", _BECOME, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, **(env or {})},
                process_group=0,  # Ctrl-C is for us alone
            )

    def pid(self, name: str) -> int:
        return self._started[name].pid

    async def kill(self, name: str) -> None:
        """SIGKILL one and wait until it is gone."""
        child = self._started[name]
        child.send_signal(signal.SIGKILL)  # Popen never signals a process it has waited for
        await _wait_gone(child)

    def check(self) -> None:
        """Raises PeerFailed if one ended by itself."""
        for name, child in self._started.items():
            if (code := child.poll()) is not None:
                raise PeerFailed(f"{name} ended with {describe_exit(code)}\n{self.tail(name)}")

    def tail(self, name: str) -> str:
        return f"the end of {self._logs[name]}:\n{log_tail(self._logs[name])}"

    def tails(self) -> str:
        return "\n".join(self.tail(name) for name in self._started)

    async def kill_all(self) -> None:
        for child in self._started.values():
            child.send_signal(signal.SIGKILL)
        for child in self._started.values():
            await _wait_gone(child)


@asynccontextmanager
async def open_children() -> AsyncIterator[Children]:
    """Processes that are gone when the block is left."""
    children = Children()
    try:
        yield children
    finally:
        with trio.CancelScope(shield=True):  # bounded by KILL_WAIT_S each
            await children.kill_all()


async def run_tool(
    command: Sequence[str],
    *,
    timeout_s: float,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
    explain: Callable[[], str] = lambda: "",
) -> str:
    """Run a program to its end; returns what it printed.

    Not bound to us as servers are: the kernel takes the thread that started a process for its
    parent, and Trio starts this one from a thread that it ends ten seconds later.

    Raises:
        PeerFailed: it failed or took too long.
    """
    with trio.move_on_after(timeout_s):
        done = await trio.run_process(
            command,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=folder,
            env={**os.environ, **(env or {})},
        )
        if done.returncode == 0:
            return done.stdout.decode()
        said = (done.stdout + done.stderr).decode(errors="replace")[-2000:]
        raise PeerFailed(
            f"{' '.join(command)}: {describe_exit(done.returncode)}\n{said}{explain()}"
        )
    raise PeerFailed(f"{' '.join(command)}: not done within {timeout_s:g} s\n{explain()}")


async def _wait_gone(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is not None:
        return
    pidfd = os.pidfd_open(child.pid)
    try:
        with trio.move_on_after(KILL_WAIT_S):
            await trio.lowlevel.wait_readable(pidfd)
            child.wait()
            return
    finally:
        os.close(pidfd)
    raise PeerFailed(f"process {child.pid} is killed but does not go away")
