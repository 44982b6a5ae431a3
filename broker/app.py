"""One member of a broker group: the only file that knows everyone.

The tree, in the order of dependency; a crash restarts what was started after it, and whatever
endangers a promise (a failed write, a damaged log, a command nobody understands) ends the process:

    broker
    ├─ ledger        the replicated log; replays it into the machine before it is of use
    ├─ cold reads    reads that wait for the disk
    ├─ leadership    hands writes on to the leader
    ├─ clock         deadlines of held pulls, silent clients, gathered offsets, rates
    ├─ server        the listeners, once the log is replayed
    └─ registrar     tells the name servers

A connection is no actor, a table is an object, a codec a function. What ties them together is
below: what follows from applied entries (`_perform`), from a change of role (`_role_changed`), and
from the end of a turn (`_turn_end`).
"""

import time
from collections.abc import Callable
from typing import Any, Never

import structlog
import trio
from attrs import define, field

from broker.config import BrokerConfig
from broker.formats import UNIT_TAGS_CODE
from broker.machine import commands
from broker.machine.effects import DropQueues, GroupsChanged, IndexMessages, TopicsChanged
from broker.machine.groups import standard_groups
from broker.machine.machine import Machine
from broker.machine.topics import standard_topics
from broker.rooms._stored_times import StoredTimes
from broker.rooms.clients import Clients
from broker.rooms.groups import Groups
from broker.rooms.offsets import Offsets
from broker.rooms.operations import Operations
from broker.rooms.pulling import Pulling
from broker.rooms.sending import Sending
from broker.rooms.topics import Topics
from broker.runtime_table import RuntimeTable
from broker.serving.client_table import ClientTable
from broker.serving.cold_reads import ColdReads
from broker.serving.leadership import Leadership
from broker.serving.long_polls import LongPolls
from broker.serving.offset_commits import OffsetCommits
from broker.serving.proposals import Proposals
from broker.serving.put_batch import PutBatch
from broker.serving.rates import Rates
from broker.serving.registrar import Registrar
from broker.store.consume_queues import ConsumeQueues
from broker.store.message_reader import MessageReader
from dledger_py.actors import (
    Child,
    FailStop,
    Inbox,
    Restart,
    Strategy,
    Supervisor,
    TreeNode,
)
from dledger_py.client.unique_ids import UniqueIds
from dledger_py.ledger.config import split_address
from dledger_py.ledger.ledger import Ledger
from dledger_py.ledger.machine import Applied, Committed, RoleView
from dledger_py.remoting.rooms import Port, Routes, routes
from dledger_py.remoting.server import AddressUnavailable, Server
from dledger_py.remoting.wire.frame import Frame
from dledger_py.remoting.wire.message import pack_host
from dledger_py.runtime import process
from dledger_py.storage import Corrupt

log = structlog.get_logger()

CLOCK_S = 0.025  # how late a gathered offset or a held pull may be; 40 wake-ups a second
CLIENTS_CHECK_S = 10  # RocketMQ's; silence is allowed for twelve times as long


@define(eq=False)
class _ReplicatedMachine:
    """The broker's machine in the shape the ledger wants: the two know nothing of each other."""

    machine: Machine

    def apply(self, committed: Committed) -> Applied:
        applied = self.machine.apply(committed)
        return Applied(reply=applied.reply, effects=applied.effects)


@define(eq=False)
class _LogReader:
    """Message bodies come out of the ledger's log."""

    ledger: Ledger

    def read_bytes(self, position: int, length: int, *, nowait: bool = False) -> bytearray:
        try:
            return self.ledger.log.read_bytes(position, length, nowait=nowait)
        except (Corrupt, LookupError) as error:
            raise FailStop(f"a message cannot be read: {error}") from error


class Broker:
    """Wires one member together; `supervisor` runs it."""

    def __init__(self, config: BrokerConfig, *, on_ready: Callable[[], None] | None = None) -> None:
        """`on_ready` is called when the member answers clients; `addresses` are known then."""
        self.config = config
        self._on_ready = on_ready or _nothing
        host, port = split_address(config.advertised, of=config.node)
        self.machine = Machine()
        self.ledger = Ledger(
            config.ledger_config(), _ReplicatedMachine(self.machine), perform=self._perform
        )
        self.queues = ConsumeQueues.create(config.data_dir / "consumequeue")
        self.polls = LongPolls()
        self.table = ClientTable()
        self.rates = Rates()
        self.batch = PutBatch(self.ledger, now_ms)
        self.commits = OffsetCommits(self.ledger, now_ms)
        self.proposals = Proposals(self.ledger, self.batch)
        self.leadership = Leadership(
            node=config.node,
            members=config.members,
            wait_ms=config.forward_wait_ms,
            view=self._view,
            redispatch=self._redispatch,
            flush=self._flush,
        )
        self.cold_reads = ColdReads(self._flush)
        self.registrar = Registrar(
            name_servers=config.namesrv,
            cluster_name=config.cluster_name,
            broker_name=config.broker_name,
            broker_id=config.broker_id,
            address=config.advertised,
            topics=self.machine.topics,
            view=self._view,
            period_s=config.register_period_s,
        )
        self.clients = Clients(
            machine=self.machine,
            table=self.table,
            leadership=self.leadership,
            proposals=self.proposals,
            now_ms=now_ms,
        )
        self.routes = self._rooms(pack_host(host, port))
        self.server = Server(self.routes, config.listen_addresses(), on_turn_end=self._turn_end)
        self.ledger.on_role_change(self._role_changed)
        self.ledger.after_turn(self._flush)
        self.supervisor = Supervisor(
            "broker",
            (
                Child("ledger", lambda: self.ledger, restart=Restart.NEVER),
                Child("cold reads", lambda: self.cold_reads),
                Child("leadership", lambda: self.leadership),
                Child("clock", lambda: _Clock(self)),
                Child("server", lambda: _Listening(self), restart=Restart.NEVER),
                Child("registrar", lambda: self.registrar),
            ),
            Strategy.REST_FOR_ONE,
        )

    def _rooms(self, store_host: bytes) -> Routes:
        """Every room with exactly what it uses."""
        config, machine, leadership = self.config, self.machine, self.leadership
        reader = MessageReader(_LogReader(self.ledger))
        stored_times = StoredTimes(self.queues, reader)
        return routes(
            (
                Sending(
                    cluster_name=config.cluster_name,
                    broker_name=config.broker_name,
                    store_host=store_host,
                    new_unique_id=UniqueIds(config.advertised.rpartition(":")[0]).make,
                    auto_create=config.auto_create_topics,
                    max_message_bytes=config.max_message_bytes,
                    machine=machine,
                    ledger=self.ledger,
                    batch=self.batch,
                    leadership=leadership,
                    rates=self.rates,
                    now_ms=now_ms,
                ),
                Pulling(
                    machine=machine,
                    queues=self.queues,
                    reader=reader,
                    cold_reads=self.cold_reads,
                    polls=self.polls,
                    clients=self.table,
                    commits=self.commits,
                    ensure_group=self.clients.ensure_group,
                    leads=lambda: leadership.leads,
                    rates=self.rates,
                    now_ms=now_ms,
                ),
                Offsets(
                    machine=machine,
                    queues=self.queues,
                    stored_times=stored_times,
                    commits=self.commits,
                    leadership=leadership,
                    read_barrier=self.ledger.read_barrier_nowait,
                ),
                self.clients,
                Topics(
                    cluster_name=config.cluster_name,
                    broker_name=config.broker_name,
                    machine=machine,
                    leadership=leadership,
                    proposals=self.proposals,
                    term=self._term,
                    now_ms=now_ms,
                ),
                Groups(
                    machine=machine,
                    leadership=leadership,
                    proposals=self.proposals,
                    term=self._term,
                    now_ms=now_ms,
                ),
                Operations(
                    broker_name=config.broker_name,
                    machine=machine,
                    queues=self.queues,
                    stored_times=stored_times,
                    clients=self.table,
                    rates=self.rates,
                    runtime=RuntimeTable(
                        ledger=self.ledger, machine=machine, rates=self.rates, started_ms=now_ms()
                    ).text,
                    settings=config.as_text,
                    now_ms=now_ms,
                ),
            )
        )

    # --- what ties them together -----------------------------------------------------------------

    def _perform(self, _committed: Committed, applied: Applied) -> None:
        """What follows from an applied entry, on every member."""
        for effect in applied.effects:
            match effect:
                case IndexMessages(topic, queue_id, first_offset, units):
                    self.queues.index(topic, queue_id, first_offset, units)
                    if self.polls.waits(topic, queue_id):
                        codes = [code for (code,) in UNIT_TAGS_CODE.iter_unpack(units)]
                        self.polls.wake(topic, queue_id, codes)
                case DropQueues(topic):
                    self.queues.drop(topic)
                    self.rates.forget_topic(topic)
                    self.polls.wake_all()
                case TopicsChanged():
                    self.registrar.changed()
                case GroupsChanged():
                    pass  # groups are looked up at each use

    def _role_changed(self, view: RoleView) -> None:
        log.info(
            "broker.role_changed",
            role=view.role,
            term=view.term,
            leader=view.leader,
            ready=view.ready,
        )
        self.leadership.role_changed()
        self.registrar.changed()
        if view.role == "leader" and view.ready:
            self._initialise()
            self.clients.role_changed()

    def _initialise(self) -> None:
        """A new leader sees to the topics and groups that every broker has."""
        config = self.config
        topics = standard_topics(
            config.cluster_name, config.broker_name, auto_create=config.auto_create_topics
        )
        missing = tuple(topic for topic in topics if topic.name not in self.machine.topics)
        groups = tuple(g for g in standard_groups() if g.name not in self.machine.groups)
        if missing or groups:
            self.proposals.forget(
                commands.Initialise(stamped_ms=now_ms(), topics=missing, groups=groups)
            )

    def _turn_end(self) -> None:
        """Everything the sockets had is handled: propose what was gathered."""
        self.batch.propose()
        self.commits.propose_if_due()

    def _flush(self) -> None:
        self._turn_end()
        self.server.flush()

    def _redispatch(self, connection: Port, frame: Frame) -> None:
        """Handle a request that waited until this member led. Writes have no async handlers."""
        waiting: Any = self.routes.answer(connection, frame)
        assert waiting is None
        self._flush()

    def _view(self) -> RoleView:
        return self.ledger.view

    def _term(self) -> int:
        return self.ledger.view.term

    def tree(self) -> TreeNode:
        """The actors as they are now."""
        return self.supervisor.tree()


@define(eq=False)
class _Listening:
    """The server as an actor: it listens once the log is replayed."""

    broker: Broker

    async def run(self, inbox: Inbox[Never]) -> None:
        await self.broker.ledger.wait_replayed()
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(self.broker.server.run)
            except AddressUnavailable as error:
                raise FailStop(str(error)) from error
            inbox.ready()
            self.broker._on_ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()


@define(eq=False)
class _Clock:
    """What happens by the clock, and is soft state: nothing here decides anything replicated."""

    broker: Broker
    _seconds: int = field(default=0)

    async def run(self, inbox: Inbox[Never]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ticks)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _ticks(self) -> None:
        broker = self.broker
        while True:
            await trio.sleep(CLOCK_S)
            broker.polls.expire(now_ms())
            seconds = int(trio.current_time())
            if seconds != self._seconds:
                self._seconds = seconds
                broker.rates.sample(seconds)
                if seconds % CLIENTS_CHECK_S == 0:
                    broker.clients.expire()
            broker._flush()


async def serve(config: BrokerConfig) -> None:
    """Run one member until cancelled, which is a polite stop. Raises: FailStop."""

    def ready() -> None:
        addresses = [f"{host}:{port}" for host, port in broker.server.addresses]
        process.freeze_heap()
        process.announce_ready(node=config.node, addresses=addresses)
        log.info("broker.started", node=config.node, addresses=addresses, flush=config.flush)

    config.data_dir.mkdir(parents=True, exist_ok=True)
    broker = Broker(config, on_ready=ready)
    await broker.supervisor.serve()


def now_ms() -> int:
    """The wall clock, which is data here: stamped into entries, never compared across members."""
    return time.time_ns() // 1_000_000


def _nothing() -> None:
    """Nobody waits to hear that the member is ready."""
