"""Apache RocketMQ in DLedger mode: three brokers in one Raft group, and its name server.

Fetched by Maven, once, into the cache. DLedger answers when two of three have an entry in their
mapped file, and flushes every 10 ms in the background. The broker hands it no flush policy, so
`flushDiskType` changes nothing in this mode: the release's `DLedgerCommitLog` passes on neither it
nor an interval. There is thus one variant only.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from attrs import frozen

from bench.peers.children import Children, open_children, run_tool
from bench.peers.peer import NODES, PeerFailed, PeerMissing, Running, tool, wait_until
from dledger_py.cluster.leaders import addresses_by_group
from dledger_py.cluster.ports import PortReservations

VERSION = "5.5.0"
"""The newest release of which every module is on Maven Central."""

MODULES = ("rocketmq-namesrv", "rocketmq-broker", "rocketmq-controller")
FETCH_TIMEOUT_S = 600.0

HEAP = ("-Xms512m", "-Xmx512m", "-XX:MaxDirectMemorySize=1g", "-XX:+UseG1GC")
"""The stock start script asks for 8 GB a broker; the live set of these workloads is some 100 MB."""

GROUP = "broker-a"


@frozen(kw_only=True)
class RocketMQ:
    """DLedger mode."""

    cache: Path
    name: str = "rocketmq"
    promise: str = (
        "in memory (mapped file) at two of three (DLedger); flushed every 10 ms in the background,"
        " whatever flushDiskType says"
    )
    dialect: str = "remoting"
    batches: bool = True
    like: str = "ours-async"
    topics_max: int = 1_000

    @property
    def _jars(self) -> Path:
        return self.cache / f"rocketmq-{VERSION}"

    async def prepare(self) -> None:
        """Fetch the jars, unless the cache has them."""
        tool("java", install="apt install default-jre-headless (8 or newer)")
        done = self._jars / "complete"
        if done.exists():
            return
        mvn = tool("mvn", install="apt install maven (once, to fetch RocketMQ)")
        self._jars.mkdir(parents=True, exist_ok=True)
        pom = self._jars / "pom.xml"
        pom.write_text(_pom())
        command = [mvn, "--quiet", "--batch-mode", "--file", str(pom)]
        command += ["dependency:copy-dependencies", f"-DoutputDirectory={self._jars}"]
        try:
            await run_tool(command, timeout_s=FETCH_TIMEOUT_S)
        except PeerFailed as error:
            raise PeerMissing(f"RocketMQ could not be fetched: {error}") from error
        done.touch()

    @asynccontextmanager
    async def running(self, scratch: Path) -> AsyncIterator[Running]:
        """See `Peer.running`."""
        ports = PortReservations()
        try:
            async with open_children() as children:
                namesrv = f"127.0.0.1:{ports.take_any()}"
                addresses = self._start(children, scratch, ports, namesrv)

                async def registered() -> Mapping[int, str]:
                    return (await addresses_by_group(namesrv)).get(GROUP, {})

                async def all_registered() -> bool:
                    children.check()
                    found = await registered()
                    return len(found) == NODES and 0 in found

                async def find_leader(_topic: str = "") -> str:
                    found = await registered()
                    if 0 not in found:
                        raise PeerFailed("rocketmq: no leader")
                    return found[0]

                async def kill(address: str) -> None:
                    await children.kill(addresses[address])

                await wait_until(
                    all_registered, what="rocketmq: three brokers", explain=children.tails
                )
                yield Running(
                    version=VERSION,
                    pids={address: children.pid(name) for address, name in addresses.items()},
                    names=addresses,
                    find_entry=find_leader,
                    find_leader=find_leader,
                    kill=kill,
                    settings={"mode": "DLedger", "heap": " ".join(HEAP)},
                )
        finally:
            ports.close()

    def _start(
        self, children: Children, scratch: Path, ports: PortReservations, namesrv: str
    ) -> dict[str, str]:
        """Start everything; gives the brokers' names by address."""
        (scratch / "namesrv.conf").write_text(
            f"listenPort={namesrv.rpartition(':')[2]}\nbindAddress=127.0.0.1\n"
            f"kvConfigPath={scratch}/kv.json\nconfigStorePath={scratch}/namesrv.properties\n"
        )
        start = "org.apache.rocketmq.namesrv.NamesrvStartup"
        self._java(children, "namesrv", start, scratch / "namesrv", scratch / "namesrv.conf")
        names = [f"n{number}" for number in range(NODES)]
        raft = {name: ports.take_any() for name in names}
        peers = ";".join(f"{name}-127.0.0.1:{port}" for name, port in raft.items())
        addresses = {}
        for name in names:
            port = ports.take_any_with_vip()
            addresses[f"127.0.0.1:{port}"] = name
            path = scratch / f"{name}.conf"
            path.write_text(_broker(name, scratch / name, port, ports.take_any(), namesrv, peers))
            start = "org.apache.rocketmq.broker.BrokerStartup"
            self._java(children, name, start, scratch / name, path)
        return addresses

    def _java(self, children: Children, name: str, start: str, home: Path, config: Path) -> None:
        classes = str(self._jars / "*")
        where = [f"-Duser.home={home}", f"-Drocketmq.home.dir={home}"]
        command = ["java", *HEAP, *where, "-cp", classes, start, "-c", str(config)]
        children.start(name, command, folder=home)


def _broker(name: str, home: Path, port: int, ha_port: int, namesrv: str, peers: str) -> str:
    return f"""
brokerClusterName=DefaultCluster
brokerName={GROUP}
brokerId=-1
brokerIP1=127.0.0.1
listenPort={port}
haListenPort={ha_port}
bindAddress=127.0.0.1
namesrvAddr={namesrv}
storePathRootDir={home}/store
storePathCommitLog={home}/store/commitlog
autoCreateTopicEnable=true
enableDLegerCommitLog=true
dLegerGroup={GROUP}
dLegerPeers={peers}
dLegerSelfId={name}
"""


def _pom() -> str:
    dependencies = "".join(
        f"<dependency><groupId>org.apache.rocketmq</groupId><artifactId>{module}</artifactId>"
        f"<version>{VERSION}</version></dependency>"
        for module in MODULES
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>bench</groupId><artifactId>rocketmq</artifactId><version>1</version>"
        f"<dependencies>{dependencies}</dependencies></project>\n"
    )
