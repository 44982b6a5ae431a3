"""NATS JetStream: three servers, streams with three replicas in files.

Built by `go install` from the module proxy, once, into the cache. A stream has a leader of its own,
which need not be the server its creator asked; clients are sent there, as a hop between servers
would be measured otherwise.
"""

import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import trio
from attrs import frozen

from bench.peers.children import Children, open_children, run_tool
from bench.peers.peer import NODES, PeerFailed, PeerMissing, Running, tool, wait_until
from dledger_py.cluster.ports import PortReservations

MODULE = "github.com/nats-io/nats-server/v2@latest"
BUILD_TIMEOUT_S = 600.0
ASK_TIMEOUT_S = 5.0

PROMISES = {
    "default": (
        "in memory (page cache) at two of three; fsync every two minutes (sync_interval's default)"
    ),
    "always": "written and fsync'ed at two of three before the answer (sync_interval: always)",
}

Sync = Literal["default", "always"]


@frozen(kw_only=True)
class Nats:
    """One sync policy."""

    sync: Sync
    cache: Path
    dialect: str = "nats"
    batches: bool = False
    topics_max: int = 1_000

    @property
    def name(self) -> str:
        return "nats" if self.sync == "default" else "nats-sync"

    @property
    def like(self) -> str:
        return "ours-async" if self.sync == "default" else "ours-sync"

    @property
    def promise(self) -> str:
        return PROMISES[self.sync]

    @property
    def _binary(self) -> Path:
        return self.cache / "nats" / "nats-server"

    async def prepare(self) -> None:
        """Build the server, unless the cache has it."""
        if self._binary.exists():
            return
        go = tool("go", install="install Go, 1.26 or newer")
        self._binary.parent.mkdir(parents=True, exist_ok=True)
        env = {"GOBIN": str(self._binary.parent)}
        try:
            await run_tool([go, "install", MODULE], timeout_s=BUILD_TIMEOUT_S, env=env)
        except PeerFailed as error:
            raise PeerMissing(f"nats-server could not be built: {error}") from error

    @asynccontextmanager
    async def running(self, scratch: Path) -> AsyncIterator[Running]:
        """See `Peer.running`."""
        version = await run_tool([str(self._binary), "--version"], timeout_s=ASK_TIMEOUT_S)
        ports = PortReservations()
        try:
            async with open_children() as children:
                clients = {f"n{n}": ports.take_any() for n in range(NODES)}
                routes = {name: ports.take_any() for name in clients}
                monitors = {name: ports.take_any() for name in clients}
                for name in clients:
                    path = scratch / f"{name}.conf"
                    path.write_text(self._config(name, scratch, clients, routes, monitors))
                    command = [str(self._binary), "--config", str(path)]
                    children.start(name, command, folder=scratch)
                await self._wait_ready(children, monitors)
                addresses = {f"127.0.0.1:{port}": name for name, port in clients.items()}

                async def find_entry() -> str:
                    return next(iter(addresses))  # any: the client asks who leads its stream

                async def find_leader(topic: str) -> str:
                    name = await _stream_leader(monitors, topic)
                    return f"127.0.0.1:{clients[name]}"

                async def kill(address: str) -> None:
                    await children.kill(addresses[address])

                yield Running(
                    version=version.split()[-1],
                    pids={address: children.pid(name) for address, name in addresses.items()},
                    names=addresses,
                    find_entry=find_entry,
                    find_leader=find_leader,
                    kill=kill,
                    settings={"sync_interval": self.sync, "replicas": str(NODES)},
                )
        finally:
            ports.close()

    def _config(
        self,
        name: str,
        scratch: Path,
        clients: dict[str, int],
        routes: dict[str, int],
        monitors: dict[str, int],
    ) -> str:
        others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes.values())
        always = "sync_interval: always" if self.sync == "always" else ""
        return f"""
server_name: {name}
listen: "127.0.0.1:{clients[name]}"
http: "127.0.0.1:{monitors[name]}"
jetstream {{
  store_dir: "{scratch / name}"
  max_memory_store: 1GB
  max_file_store: 50GB
  {always}
}}
cluster {{
  name: bench
  listen: "127.0.0.1:{routes[name]}"
  routes: [{others}]
}}
"""

    async def _wait_ready(self, children: Children, monitors: dict[str, int]) -> None:
        async def ready() -> bool:
            children.check()
            answers = [await _ask(port, "/healthz") for port in monitors.values()]
            leads = await _ask(next(iter(monitors.values())), "/jsz")
            meta = (leads or {}).get("meta_cluster", {})
            return (
                all(answer is not None and answer.get("status") == "ok" for answer in answers)
                and meta.get("cluster_size") == NODES
                and bool(meta.get("leader"))
            )

        await wait_until(ready, what="nats: all servers healthy", explain=children.tails)


async def _stream_leader(monitors: dict[str, int], topic: str) -> str:
    """The leader of the stream that the load generator made for a topic: of the first stream that
    stores its subject or bears its name."""
    for port in monitors.values():
        answer = await _ask(port, "/jsz?streams=true&config=true&accounts=true")
        for account in (answer or {}).get("account_details", []):
            for stream in account.get("stream_detail", []):
                leader = stream.get("cluster", {}).get("leader")
                if leader and topic in (stream["name"], *stream["config"].get("subjects", [])):
                    return str(leader)
    raise PeerFailed(f"nats: no stream {topic!r} with a leader")


async def _ask(port: int, path: str) -> dict[str, Any] | None:
    """The monitoring page as JSON; None if nobody answers or the answer is "not yet"."""

    def get() -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}{path}", timeout=ASK_TIMEOUT_S
            ) as page:
                found: dict[str, Any] = json.load(page)
                return found
        except OSError:  # HTTPError is one
            return None

    return await trio.to_thread.run_sync(get)
