"""Members of two groups in each of three processes, which are one process here."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from attrs import define, field

from broker.app import Broker
from broker.config import BrokerConfig, GroupSettings, LedgerSettings
from broker.node import Node, serve
from dledger_py.actors import FailStop
from dledger_py.client.connection import open_connection
from dledger_py.cluster.ports import PortReservations
from tests.broker.broker_kit import PATIENCE_S, send

NODES = ("n0", "n1", "n2")
GROUPS = ("broker-a", "broker-b")


@define(eq=False)
class Process:
    """A node that runs, or ran."""

    node: Node
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    ended: trio.Event = field(factory=trio.Event)
    error: BaseException | None = None

    async def run(self) -> None:
        try:
            with self.scope:
                await self.node.run()
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()

    def broker(self, group: str) -> Broker:
        return next(b for b in self.node.brokers if b.config.broker_name == group)


@define(eq=False)
class Cluster:
    """Three nodes on reserved ports."""

    nursery: trio.Nursery
    folder: Path
    ports: PortReservations = field(factory=PortReservations)
    processes: dict[str, Process] = field(factory=dict)
    ready: list[str] = field(factory=list)
    peers: dict[str, str] = field(init=False)
    members: dict[str, dict[str, str]] = field(init=False)
    _news: trio.Event = field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.peers = self._addresses()
        self.members = {group: self._addresses() for group in GROUPS}

    def _addresses(self) -> dict[str, str]:
        return {node: f"127.0.0.1:{self.ports.take_any()}" for node in NODES}

    def make(self, node: str, preferred: dict[str, str] | None = None) -> Node:
        config = BrokerConfig(
            node=node,
            data_dir=self.folder / node,
            namesrv=(),
            vip=False,
            flush="async",
            ledger=LedgerSettings(peers=self.peers, election_timeout_ms=10_000, heartbeat_ms=40),
            groups=tuple(
                GroupSettings(
                    broker_name=group,
                    members=self.members[group],
                    preferred_leader=(preferred or {}).get(group, ""),
                )
                for group in GROUPS
            ),
        )
        for each in config.by_group():
            each.data_dir.mkdir(parents=True, exist_ok=True)
        made = Node(config, on_ready=lambda: self.tell(node))
        for broker in made.brokers:
            broker.ledger.on_role_change(lambda view: self.tell())
            broker.ledger.after_turn(self.tell)
        return made

    def start(self, *nodes: str, preferred: dict[str, str] | None = None) -> None:
        for node in nodes or NODES:
            self.processes[node] = Process(self.make(node, preferred))
            self.nursery.start_soon(self.processes[node].run)

    def tell(self, ready: str | None = None) -> None:
        if ready is not None:
            self.ready.append(ready)
        self._news.set()
        self._news = trio.Event()

    async def wait_until(self, condition):
        while not (found := condition()):
            await self._news.wait()
        return found

    def leader(self, group: str) -> Broker | None:
        running = [p.broker(group) for p in self.processes.values() if not p.ended.is_set()]
        return next((broker for broker in running if broker.leadership.leads), None)

    async def wait_leader(self, group: str) -> Broker:
        return await self.wait_until(lambda: self.leader(group))


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            made = Cluster(nursery, folder)
            try:
                yield made
            finally:
                made.ports.close()
                for process in made.processes.values():
                    process.scope.cancel()


async def store(cluster: Cluster, group: str, body: bytes) -> int:
    """Send to whoever leads the group; the answer's code."""
    leader = await cluster.wait_leader(group)
    async with open_connection(*leader.server.addresses[0]) as client:
        return (await send(client, "orders", body)).code


async def test_each_group_has_a_log_of_its_own_and_all_share_a_port_for_peers(tmp_path) -> None:
    async with cluster(tmp_path) as running:
        running.start()
        await running.wait_until(lambda: set(NODES) <= set(running.ready))
        codes = [await store(running, "broker-a", b"one"), await store(running, "broker-b", b"two")]
        codes.append(await store(running, "broker-b", b"three"))
        await running.wait_until(
            lambda: (
                [1] * 3 + [2] * 3
                == [
                    process.broker(group).queues.next_offset("orders", 0)
                    for group in GROUPS
                    for process in running.processes.values()
                ]
            )
        )
        names = {
            listener
            for process in running.processes.values()
            for broker in process.node.brokers
            for listener in [broker.ledger.peer_address]
        }
        tree = [child.name for child in running.processes["n0"].node.tree().children]

    assert [0, 0, 0] == codes
    assert 3 == len(names)
    assert ["reception", "broker-a", "broker-b", "farewell"] == tree
    assert all((tmp_path / node / group / "LOCK").exists() for node in NODES for group in GROUPS)


async def test_leaderships_are_spread_as_the_groups_prefer_and_handed_over_at_a_stop(
    tmp_path,
) -> None:
    preferred = {"broker-a": "n0", "broker-b": "n0"}
    async with cluster(tmp_path) as running:
        running.start(preferred=preferred)
        await running.wait_until(
            lambda: all(running.processes["n0"].broker(g).leadership.leads for g in GROUPS)
        )
        terms = {group: running.leader(group).ledger.view.term for group in GROUPS}
        running.processes["n0"].scope.cancel()
        await running.processes["n0"].ended.wait()
        successors = {group: await running.wait_leader(group) for group in GROUPS}
        steps = {g: successors[g].ledger.view.term - terms[g] for g in GROUPS}

    assert running.processes["n0"].error is None
    assert {"broker-a": 1, "broker-b": 1} == steps  # handed over: nobody had to find out


async def test_a_member_that_cannot_go_on_ends_the_process_and_the_others_take_over(
    tmp_path,
) -> None:
    async with cluster(tmp_path) as running:
        running.start()
        await running.wait_until(lambda: set(NODES) <= set(running.ready))
        leader = await running.wait_leader("broker-a")
        node = leader.config.node
        leader.ledger.parts.driver.fail(RuntimeError("a disk that failed"))
        await running.processes[node].ended.wait()
        error = running.processes[node].error
        codes = [await store(running, group, b"x") for group in GROUPS]
        ends = [process.ended.is_set() for process in running.processes.values()]

    assert isinstance(error, FailStop)
    assert "a disk that failed" in str(error)
    assert [0, 0] == codes
    assert 1 == sum(ends)


async def test_a_taken_peer_port_is_reported_before_anything_is_opened(tmp_path) -> None:
    async with cluster(tmp_path) as running:
        host, _, port = running.peers["n0"].rpartition(":")
        (taken,) = await trio.open_tcp_listeners(int(port), host=host)
        async with taken:
            with pytest.raises(FailStop, match="n0 cannot listen for its peers at"):
                running.make("n0")


async def test_a_folder_that_cannot_be_made_is_named_in_one_line(tmp_path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(FailStop, match=r"the data folder cannot be made: .*/file/n0'"):
        await serve(BrokerConfig(data_dir=tmp_path / "file" / "n0", listen="127.0.0.1:1"))
