"""RabbitMQ with quorum queues: three nodes, the release that Debian ships or another on the PATH.

The nodes have an epmd of their own on a port of their own, and nothing of theirs is in the places
where an installed RabbitMQ keeps its data. A queue is led by the node that its creator asked, which
is the default; clients go there.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import frozen

from bench.peers.children import Children, open_children, run_tool
from bench.peers.peer import NODES, PeerFailed, Running, tool, wait_until
from dledger_py.cluster.ports import PortReservations

CTL_TIMEOUT_S = 60.0

DEBIAN_SCRIPTS = Path("/usr/lib/rabbitmq/bin")
"""Debian's scripts on the PATH insist on the user rabbitmq; these do not."""

INSTALL = (
    "apt install rabbitmq-server (and stop the node that the package starts:"
    " service rabbitmq-server stop)"
)
COOKIE = "dledgerbench"

NO_DAEMON = "-start_epmd false"
"""Else Erlang starts an epmd that outlives everything, whenever it does not find one."""


@frozen(kw_only=True)
class RabbitMQ:
    """Quorum queues with publisher confirms."""

    name: str = "rabbitmq"
    promise: str = (
        "written and fdatasync'ed to the write-ahead log of two of three before the confirm"
    )
    dialect: str = "amqp"
    batches: bool = False
    like: str = "ours-sync"
    topics_max: int = 100

    async def prepare(self) -> None:
        """Nothing is fetched: it must be installed."""
        _script("rabbitmq-server")
        tool("epmd", install="it comes with Erlang: apt install erlang-base")

    @asynccontextmanager
    async def running(self, scratch: Path) -> AsyncIterator[Running]:
        """See `Peer.running`."""
        ports = PortReservations()
        try:
            async with open_children() as children:
                epmd = ports.take_any()
                command = ["epmd", "-address", "127.0.0.1", "-port", str(epmd)]
                children.start("epmd", command, folder=scratch)
                await _wait_epmd(epmd, children)
                clients = {f"rabbit{n}": ports.take_any() for n in range(NODES)}
                common = _common(scratch, epmd, list(clients))
                for name, port in clients.items():
                    env = common | _own(name, scratch / name, port, ports.take_any())
                    children.start(
                        name, [_script("rabbitmq-server")], folder=scratch / name, env=env
                    )
                version = await self._wait_ready(children, common)
                addresses = {f"127.0.0.1:{port}": name for name, port in clients.items()}

                async def find_entry() -> str:
                    return next(iter(addresses))  # a queue is led where it was created

                async def find_leader(topic: str) -> str:
                    words = ["list_queues", "--quiet", "--formatter", "json", "name", "leader"]
                    queues = json.loads(await _ctl(common, words, children))
                    for queue in queues:
                        if queue["name"].startswith(topic) and queue["leader"]:
                            return f"127.0.0.1:{clients[queue['leader'].partition('@')[0]]}"
                    raise PeerFailed(f"rabbitmq: no queue {topic!r} with a leader")

                async def kill(address: str) -> None:
                    await children.kill(addresses[address])

                yield Running(
                    version=version,
                    pids={address: children.pid(name) for address, name in addresses.items()},
                    names=addresses,
                    find_entry=find_entry,
                    find_leader=find_leader,
                    kill=kill,
                    settings={"queues": "quorum", "replicas": str(NODES)},
                )
        finally:
            ports.close()

    async def _wait_ready(self, children: Children, common: Mapping[str, str]) -> str:
        """Wait until all nodes run in one cluster; gives the version."""

        async def epmd_or_children() -> bool:
            children.check()
            try:
                await _ctl(common, ["await_online_nodes", str(NODES), "--timeout", "5"], children)
            except PeerFailed:
                return False
            return True

        await wait_until(
            epmd_or_children, what="rabbitmq: three nodes online", explain=children.tails
        )
        await _ctl(common, ["await_startup", "--timeout", "30"], children)
        status = await _ctl(common, ["status", "--quiet", "--formatter", "json"], children)
        return str(json.loads(status)["rabbitmq_version"])


def _script(name: str) -> str:
    debian = DEBIAN_SCRIPTS / name
    if debian.exists():
        return str(debian)
    return tool(name, install=INSTALL)


def _common(scratch: Path, epmd: int, names: list[str]) -> dict[str, str]:
    """Settings of all nodes, and of rabbitmqctl. Writes the files they point to."""
    cookie = scratch / ".erlang.cookie"
    cookie.write_text(COOKIE)
    cookie.chmod(0o400)
    backend = "rabbit_peer_discovery_classic_config"
    lines = [f"cluster_formation.peer_discovery_backend = {backend}"]
    lines += [
        f"cluster_formation.classic_config.nodes.{number} = {name}@localhost"
        for number, name in enumerate(names, 1)
    ]
    lines += ["loopback_users = none", "disk_free_limit.absolute = 100MB"]
    (scratch / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
    (scratch / "enabled_plugins").write_text("[].\n")
    (scratch / "env.conf").write_text("")
    return {
        "HOME": str(scratch),
        "ERL_EPMD_PORT": str(epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_CONF_ENV_FILE": str(scratch / "env.conf"),
        "RABBITMQ_CONFIG_FILE": str(scratch / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(scratch / "enabled_plugins"),
        "RABBITMQ_NODENAME": f"{names[0]}@localhost",
        "RABBITMQ_CTL_ERL_ARGS": NO_DAEMON,
        "LANG": "C.UTF-8",
    }


def _own(name: str, home: Path, port: int, dist_port: int) -> dict[str, str]:
    """Settings of one node."""
    return {
        "RABBITMQ_NODENAME": f"{name}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(dist_port),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        # With it the script becomes the server instead of starting it; then -noinput is left to us.
        "RABBITMQ_ALLOW_INPUT": "1",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            f"{NO_DAEMON} -noinput -kernel inet_dist_use_interface {{127,0,0,1}}"
        ),
    }


async def _wait_epmd(port: int, children: Children) -> None:
    async def listens() -> bool:
        children.check()
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            return False
        await stream.aclose()
        return True

    await wait_until(listens, what="rabbitmq: epmd", explain=children.tails)


async def _ctl(common: Mapping[str, str], words: list[str], children: Children) -> str:
    command = [_script("rabbitmqctl"), *words]
    return await run_tool(command, timeout_s=CTL_TIMEOUT_S, env=common, explain=children.tails)
