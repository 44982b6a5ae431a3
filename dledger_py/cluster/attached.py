"""A cluster that another process runs: looking at it, killing its leader, taking it down.

Everything goes by the state file, and no signal is sent to a process whose start time differs from
what stands there. Waiting blocks the thread: these are for the command line.
"""

import signal
import time
from pathlib import Path
from typing import Literal

from attrs import frozen

from dledger_py.cluster.errors import ClusterError, NotRunning
from dledger_py.cluster.state import ClusterState, ServerState, read_state

DOWN_WAIT_S = 30.0
"""How long a keeper may take to stop its servers in good order: their graces, and some."""

KILLED_WAIT_S = 10.0


@frozen(kw_only=True)
class ServerStatus:
    """One server as it is now."""

    name: str
    address: str
    pid: int | None
    state: Literal["running", "paused", "down"]
    log_path: str


@frozen
class AttachedCluster:
    """The cluster whose state file lies in `directory`."""

    directory: Path
    state: ClusterState

    @classmethod
    def find(cls, directory: Path) -> "AttachedCluster":
        """Raises: NotRunning if no cluster was ever started there."""
        return cls(directory.absolute(), read_state(directory.absolute()))

    @property
    def keeper_alive(self) -> bool:
        return self.state.keeper.alive

    def servers(self) -> tuple[ServerStatus, ...]:
        """The name server first, then the brokers."""
        return tuple(_status(server) for server in self.state.servers)

    def check_running(self) -> None:
        """Raises: NotRunning if nobody runs it."""
        if not self.keeper_alive:
            raise NotRunning(
                f"the cluster in {self.directory} does not run",
                hint=f"start it: dledger cluster up --data {self.directory}",
            )

    def kill(self, node: str) -> int:
        """SIGKILL a broker and wait until it is gone; its pid. Raises: NotRunning."""
        process = self.state.broker(node).process
        if process is None or not process.signal(signal.SIGKILL):
            raise NotRunning(f"{node} does not run")
        if not process.wait_ended(KILLED_WAIT_S):
            raise ClusterError(f"{node} (pid {process.pid}) is killed but does not go away")
        return process.pid

    def node_at(self, address: str) -> str | None:
        """The broker that has this address, in whichever group."""
        return next((s.name for s in self.state.brokers if address in s.groups.values()), None)

    def down(self, *, wait_s: float = DOWN_WAIT_S) -> bool:
        """Stop everything in good order; False if nothing ran.

        Raises: ClusterError if the keeper does not end in time.
        """
        due = time.monotonic() + wait_s
        keeper_ran = self.state.keeper.signal(signal.SIGTERM)
        if keeper_ran and not self.state.keeper.wait_ended(wait_s):
            raise ClusterError(
                f"process {self.state.keeper.pid} does not end within {wait_s:g} s",
                hint=f"its servers end with it: kill -KILL {self.state.keeper.pid}",
            )
        # Servers end with their keeper; but nothing is left behind, whatever happened.
        left = [server.process for server in self.state.servers if server.process is not None]
        left_ran = [process.signal(signal.SIGKILL) for process in left]
        for process in left:
            process.wait_ended(max(0.0, due - time.monotonic()))
        return keeper_ran or any(left_ran)


def _status(server: ServerState) -> ServerStatus:
    process = server.process
    state: Literal["running", "paused", "down"]
    if process is None or not process.alive:
        state = "down"
    elif process.paused:
        state = "paused"
    else:
        state = "running"
    return ServerStatus(
        name=server.name,
        address=server.address,
        pid=process.pid if process is not None and state != "down" else None,
        state=state,
        log_path=server.log_path,
    )
