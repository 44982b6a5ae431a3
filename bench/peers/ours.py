"""A cluster of ours: three brokers in one Raft group, and a name server."""

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from attrs import frozen

from bench.peers.peer import NODES, PeerFailed, Running
from dledger_py.cluster.errors import ClusterError
from dledger_py.cluster.local import LocalCluster

PROMISES = {
    "sync": "written and fdatasync'ed at two of three before the answer",
    "async": "in memory (page cache) at two of three; fdatasync follows in the background",
}


@frozen(kw_only=True)
class Ours:
    """One flush policy."""

    flush: Literal["sync", "async"]
    dialect: str = "remoting"
    batches: bool = True
    topics_max: int = 1_000

    @property
    def name(self) -> str:
        return f"ours-{self.flush}"

    @property
    def like(self) -> str:
        return self.name

    @property
    def promise(self) -> str:
        return PROMISES[self.flush]

    async def prepare(self) -> None:
        """Nothing is needed."""

    @asynccontextmanager
    async def running(self, scratch: Path) -> AsyncIterator[Running]:
        """See `Peer.running`."""
        cluster = LocalCluster(scratch, nodes=NODES, flush=self.flush)
        try:
            async with cluster.running():
                nodes = {member.address: node for node, member in cluster.members.items()}

                async def find_leader(_topic: str = "") -> str:
                    try:
                        return cluster.members[await cluster.wait_leader()].address
                    except ClusterError as error:
                        raise PeerFailed(f"{error}\n{error.hint or ''}") from error

                async def kill(address: str) -> None:
                    await cluster.kill(nodes[address])

                await find_leader()

                yield Running(
                    version=importlib.metadata.version("dledger-py"),
                    names=nodes,
                    pids={address: _pid(cluster, node) for address, node in nodes.items()},
                    find_entry=find_leader,
                    find_leader=find_leader,
                    kill=kill,
                    settings={"flush": self.flush},
                )
        except ClusterError as error:
            raise PeerFailed(f"{error}\n{error.hint or ''}") from error


def _pid(cluster: LocalCluster, node: str) -> int:
    pid = cluster.members[node].pid
    assert pid is not None, "a running cluster's members run"
    return pid
