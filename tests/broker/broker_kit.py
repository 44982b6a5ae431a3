"""Real brokers in this process: ledgers, files and sockets as in production, ports of the system.

Every wait ends by an event: a role, an applied entry, an answer. `PATIENCE_S` is only how long a
broken build takes to fail.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, evolve, field

from broker.app import Broker
from broker.config import BrokerConfig, LedgerSettings
from dledger_py.client.connection import Connection, Reply, open_connection
from dledger_py.cluster.ports import PortReservations
from dledger_py.remoting.commands.pulling import CARRIES_SUBSCRIPTION, MAY_SUSPEND, PullMessage
from dledger_py.remoting.commands.sending import SendMessage

PATIENCE_S = 20.0
LOOK_S = 0.05
GROUP = "TOOLS_CONSUMER"


@define(eq=False)
class Member:
    """One running broker, or one that ran."""

    broker: Broker
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    ended: trio.Event = field(factory=trio.Event)
    settled: trio.Event = field(factory=trio.Event)
    """It answers clients, or has ended."""
    error: BaseException | None = None

    @property
    def node(self) -> str:
        return self.broker.config.node

    @property
    def address(self) -> tuple[str, int]:
        return self.broker.server.addresses[0]

    @property
    def leads(self) -> bool:
        """Also whether it has made the topics that every broker has."""
        return self.broker.leadership.leads and len(self.broker.machine.topics) > 10

    async def run(self) -> None:
        try:
            with self.scope:
                await self.broker.run(self)
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()
            self.settled.set()

    def started(self, value: None = None) -> None:
        """Called by the broker, as a `trio.TaskStatus`."""
        self.settled.set()


@define(eq=False)
class BrokerGroup:
    """Members on reserved ports; each can be started, stopped and started again."""

    nursery: trio.Nursery
    folder: Path
    names: tuple[str, ...]
    settings: dict[str, Any]
    ports: PortReservations = field(factory=PortReservations)
    ledger_settings: dict[str, Any] = field(
        # A disk that hangs deposes nobody, unless a test wants silence to be noticed.
        factory=lambda: {"election_timeout_ms": 10_000, "heartbeat_ms": 40}
    )
    members: dict[str, Member] = field(factory=dict)
    _addresses: dict[str, str] = field(factory=dict)
    _peers: dict[str, str] = field(factory=dict)
    _news: trio.Event = field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        for name in self.names:
            self._addresses[name] = f"127.0.0.1:{self.ports.take_any()}"
            self._peers[name] = f"127.0.0.1:{self.ports.take_any()}"

    def peer(self, name: str) -> str:
        """Where this member listens for the others."""
        return self._peers[name]

    def settings_of(self, *founders: str) -> dict[str, Any]:
        """What the founders of a group are told, who know nobody else."""
        ledger = self.config(founders[0]).ledger
        return {
            "members": {name: self._addresses[name] for name in founders},
            "ledger": evolve(ledger, peers={name: self._peers[name] for name in founders}),
        }

    def config(self, name: str, **settings: Any) -> BrokerConfig:
        ledger = LedgerSettings(peers=self._peers, **self.ledger_settings)
        given = {
            "node": name,
            "listen": self._addresses[name],
            "members": self._addresses,
            "data_dir": self.folder / name,
            "namesrv": (),
            "vip": False,
            "flush": "async",
            "forward_wait_ms": 10_000,
            "ledger": ledger,
        }
        return BrokerConfig(**(given | self.settings | settings))

    async def start(self, *names: str, **settings: Any) -> None:
        """Until they answer clients; one that ended instead is not told here."""
        started = [self._make(name, **settings) for name in names or self.names]
        for member in started:  # together: each waits for a majority before it listens
            self.nursery.start_soon(member.run)
        for member in started:
            await member.settled.wait()

    def _make(self, name: str, **settings: Any) -> Member:
        config = self.config(name, **settings)
        config.data_dir.mkdir(exist_ok=True)
        broker = Broker(config)
        broker.ledger.on_role_change(lambda view: self._tell())
        broker.ledger.after_turn(self._tell)
        member = self.members[name] = Member(broker)
        return member

    async def stop(self, name: str) -> None:
        member = self.members[name]
        member.scope.cancel()
        await member.ended.wait()

    async def wait_until(self, condition: Callable[[], Any]) -> Any:
        """Look again whenever a member's role changes or it has applied anything that had an
        effect; now and then for the rest, of which nobody is told."""
        with trio.fail_after(PATIENCE_S):
            while not (found := condition()):
                self._news = trio.Event()
                with trio.move_on_after(LOOK_S):
                    await self._news.wait()
        return found

    async def wait_leader(self) -> Member:
        return await self.wait_until(lambda: next((m for m in self._running() if m.leads), None))

    async def wait_applied_alike(self) -> None:
        """Until all running members have applied what the leader has."""
        leader = await self.wait_leader()
        index = leader.broker.ledger.applied_index
        await self.wait_until(
            lambda: all(m.broker.ledger.applied_index >= index for m in self._running())
        )

    async def wait_followers(self) -> list[Member]:
        """The others, once they know whom they follow."""
        leader = await self.wait_leader()
        others = [member for member in self._running() if member is not leader]
        await self.wait_until(
            lambda: all(m.broker.ledger.view.leader == leader.node for m in others)
        )
        await self.wait_applied_alike()
        return others

    def _running(self) -> list[Member]:
        return [
            member
            for member in self.members.values()
            if not member.ended.is_set() and not member.scope.cancel_called
        ]

    def _tell(self) -> None:
        self._news.set()


@asynccontextmanager
async def brokers(folder: Path, size: int, **settings: Any) -> AsyncIterator[BrokerGroup]:
    """Members n0, n1, … that are not running yet; all are stopped in the end."""
    names = tuple(f"n{number}" for number in range(size))
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            group = BrokerGroup(nursery, folder, names, settings)
            try:
                yield group
            finally:
                group.ports.close()
                for member in group.members.values():
                    member.scope.cancel()


def dial(member: Member, **how: Any) -> Any:
    """A client's connection to a member."""
    return open_connection(*member.address, **how)


async def send(
    connection: Connection, topic: str, body: bytes = b"x", *, queue_id: int = 0, **fields: Any
) -> Reply[Any]:
    request = SendMessage(
        producer_group="pg",
        topic=topic,
        queue_id=queue_id,
        default_topic="TBW102",
        **fields,
    )
    return await connection.call(request, body, timeout_s=PATIENCE_S)


async def pull(
    connection: Connection,
    topic: str,
    offset: int = 0,
    *,
    queue_id: int = 0,
    wait_ms: int = 0,
    sql: str | None = None,
) -> Reply[Any]:
    request = PullMessage(
        consumer_group=GROUP,
        topic=topic,
        queue_id=queue_id,
        queue_offset=offset,
        max_msg_nums=32,
        sys_flag=CARRIES_SUBSCRIPTION | (MAY_SUSPEND if wait_ms else 0),
        subscription=sql or "*",
        expression_type="SQL92" if sql else "TAG",
        suspend_timeout_millis=wait_ms,
    )
    return await connection.call(request, timeout_s=PATIENCE_S, accept=(0, 19, 20, 21))
