"""One member of a broker group: the only file that knows everyone, but for the rooms that answer
its clients, which `answering` puts together. (What a process has of members is in `node`.)

The tree, in the order of dependency; a crash restarts what was started after it, and whatever
endangers a promise (a failed write, a damaged log, a command nobody understands) ends the process:

    broker
    ├─ ledger        the replicated log; replays it into the machine before it is of use
    ├─ window        has the newest messages at hand, to know what is sent again, if this one leads
    ├─ cold reads    reads that wait for the disk
    ├─ leadership    hands writes on to the leader
    ├─ deliveries    moves messages for later to their topics, if this member leads
    ├─ revivals      moves popped messages that nobody acknowledged, if this member leads
    ├─ clock         deadlines of held pulls, silent clients, gathered offsets, rates
    ├─ server        the listeners, once the log is replayed
    ├─ registrar     tells the name servers
    ├─ retention     lets the oldest messages go, if this member leads
    ├─ key index     reads the log behind everybody else, to find messages by key
    ├─ check back    asks producers what became of their transactions, if this member leads
    ├─ preferred     gives leadership to the member that should have it, if that is another one
    └─ farewell      hands leadership over before a planned stop

Only the ledger is never restarted: its machine has applied the log and cannot do so again. However
it ends, the process ends.

A connection is no actor, a table is an object, a codec a function. What ties them together is
below: what follows from applied entries (`_perform`), from a change of role (`_role_changed`), and
from the end of a turn (`_turn_end`).
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Never

import structlog
import trio
from attrs import define, evolve, field

from broker import parts
from broker.answering import rooms_of
from broker.config import BrokerConfig
from broker.formats import UNIT_TAGS_CODE
from broker.ground import Ground
from broker.log_readers import IndexedReader, LogReader
from broker.machine import commands
from broker.machine.effects import (
    DropEntries,
    DropQueues,
    GroupsChanged,
    IndexMessages,
    OffsetsReset,
    PopsBegan,
    QueueFreed,
    TopicsChanged,
    TrimQueues,
)
from broker.machine.groups import standard_groups
from broker.machine.machine import Machine
from broker.machine.names import TEMPLATE_TOPIC, TIMER_TOPIC
from broker.machine.timer_wheel import WAITING_TOPICS, WHEEL_QUEUES
from broker.machine.topics import standard_topics
from broker.remembering import RememberingBroker
from broker.rooms._pop_waits import PopWaits
from broker.serving.check_back import CheckBack
from broker.serving.client_table import ClientTable
from broker.serving.cold_reads import ColdReads
from broker.serving.farewell import Farewell
from broker.serving.live_settings import LiveSettings
from broker.serving.long_polls import LongPolls
from broker.serving.offset_commits import OffsetCommits
from broker.serving.pop_batch import PopBatch
from broker.serving.proposals import Proposals
from broker.serving.put_batch import PutBatch
from broker.serving.rates import Rates
from broker.serving.retention import Retention
from broker.store.consume_queues import ConsumeQueues
from broker.store.message_reader import MessageReader
from broker.store.put_window import PutWindow
from broker.store.queue_files import QueueFiles
from dledger_py.actors import (
    Child,
    FailStop,
    Inbox,
    Strategy,
    Supervisor,
    TreeNode,
    fail_stop_in,
)
from dledger_py.ledger.config import split_address
from dledger_py.ledger.ledger import Ledger
from dledger_py.ledger.machine import Applied, Committed, RoleView
from dledger_py.ledger.reception import Reception
from dledger_py.ledger.reopening import Reopen
from dledger_py.remoting.rooms import Port
from dledger_py.remoting.server import AddressUnavailable, Server
from dledger_py.remoting.wire.frame import Frame
from dledger_py.remoting.wire.message import pack_host
from dledger_py.storage import forget_summaries

log = structlog.get_logger()

CLOCK_S = 0.025  # how late a gathered offset or a held pull may be; 40 wake-ups a second
CLIENTS_CHECK_S = 10  # RocketMQ's; silence is allowed for twelve times as long


class Broker:
    """Wires one member together; `supervisor` runs it."""

    _retaining: Retention | None = None
    _checking: CheckBack | None = None

    def __init__(
        self,
        config: BrokerConfig,
        *,
        on_ready: Callable[[], None] | None = None,
        ground: Ground | None = None,
        reception: Reception | None = None,
    ) -> None:
        """`on_ready` is called when the member answers clients; `addresses` are known then. A
        `reception` is what members of several groups share to listen for their peers."""
        self.ground = ground = ground or Ground()
        self.settings = LiveSettings(start=config, files=ground.files, host=ground.host)
        config = self.settings.config
        self._on_ready = on_ready or _nothing
        self._ledger_ran = False
        self._led = False
        self._told: RoleView | None = None
        name, port = split_address(config.advertised, of=config.node)
        self.store_host = pack_host(address_of(name), port)
        self.machine = Machine()
        self.queues = ConsumeQueues(QueueFiles(config.data_dir / "consumequeue"))
        self.put_window = PutWindow(config.deduplication_messages) if config.deduplicates else None
        self.ledger = Ledger(
            config.ledger_config(),
            RememberingBroker(self.machine, self.queues),
            perform=self._perform,
            files=ground.files,
            host=ground.host,
            reception=reception,
        )
        self.window_keeper = parts.window_keeper(self)
        self.log_reader = LogReader(self.ledger)
        self.reader = MessageReader(IndexedReader(self.log_reader))
        self.polls = LongPolls()
        self.table = ClientTable()
        self.rates = Rates()
        self.batch = PutBatch(self.ledger, ground.now_ms, self.put_window)
        self.halves = parts.half_messages(self)
        self.commits = OffsetCommits(self.ledger, ground.now_ms, ground.monotonic_ms)
        self.pop_batch = PopBatch(self.ledger, ground.now_ms)
        self.proposals = Proposals(self.ledger, self.batch)
        self.leadership = parts.leadership(self)
        self.cold_reads = ColdReads(self.flush, ground.host)
        self.deliveries = parts.deliveries(self)
        self.revivals = parts.revivals(self)
        self.disk = parts.disk_watch(self)
        self.registrar = parts.registrar(self)
        self.key_index = parts.key_index(self)
        self.clients = parts.clients(self)
        self.pop_queues = parts.pop_queues(self)
        self.pop_waits = PopWaits(now_ms=ground.now_ms, monotonic_ms=ground.monotonic_ms)
        self.routes = rooms_of(self)
        self.server = self._new_server()
        self.preferred = parts.preferred_leader(self)
        self.settings.on_change(self._settings_changed)
        self.ledger.on_role_change(self._ledger_role_changed)
        self.ledger.after_turn(self.flush)
        self.supervisor = self._tree(alone=reception is None)

    @property
    def config(self) -> BrokerConfig:
        """The settings in force."""
        return self.settings.config

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled, which is a polite stop; started once clients are answered.

        Raises: FailStop, RestartsExhausted.
        """
        with self._ending():
            await self.supervisor.serve(task_status=task_status)

    async def live(self, inbox: Inbox[Never]) -> None:
        """The same, as an actor of a process that has several: until its inbox is closed."""
        with self._ending():
            await self.supervisor.run(inbox)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Damage that a reader found is news to the ledger: its next opening has to look."""
        try:
            yield
        except BaseException as error:
            if isinstance(fail_stop_in(error), Reopen):
                forget_summaries(self.ground.files, str(self.config.data_dir))
            raise
        finally:
            self.queues.close()

    def _tree(self, *, alone: bool) -> Supervisor:
        return Supervisor(
            "broker",
            (
                Child("ledger", self._the_ledger),
                *self._knowing_repeats(),
                Child("cold reads", lambda: self.cold_reads),
                Child("leadership", lambda: self.leadership),
                Child("deliveries", lambda: self.deliveries),
                Child("revivals", lambda: self.revivals),
                Child("clock", lambda: _Clock(self)),
                Child("server", lambda: _Listening(self)),
                Child("registrar", lambda: self.registrar),
                Child("retention", self._retention),
                Child("key index", lambda: self.key_index),
                Child("check back", self._check_back),
                *self._preferring(),
                *self._farewell(alone=alone),
            ),
            Strategy.REST_FOR_ONE,
        )

    def _the_ledger(self) -> Ledger:
        if self._ledger_ran:
            raise FailStop("the ledger ended by itself; the log above this line says why")
        self._ledger_ran = True
        return self.ledger

    def _new_server(self) -> Server:
        return Server(
            self.routes,
            self.config.listen_addresses(),
            on_turn_end=self._turn_end,
            host=self.ground.host,
        )

    def _knowing_repeats(self) -> tuple[Child[Never], ...]:
        keeper = self.window_keeper
        return () if keeper is None else (Child("window", lambda: keeper),)

    def _preferring(self) -> tuple[Child[Never], ...]:
        preferred = self.preferred
        return () if preferred is None else (Child("preferred leader", lambda: preferred),)

    def _farewell(self, *, alone: bool) -> tuple[Child[Never], ...]:
        """Several members of a process take leave side by side, before any of them stops."""
        return (Child("farewell", lambda: Farewell((self.ledger,))),) if alone else ()

    def reach(self, node: str) -> str | None:
        """Where clients reach another member: by our settings, or by what it says of itself."""
        return self.config.members.get(node) or self.ledger.members.contact_of(node)

    def applied_place(self) -> tuple[int, int]:
        """The last entry applied, and the log position behind it."""
        return self.ledger.applied_index, self.ledger.committed_position

    # --- what ties them together -----------------------------------------------------------------

    def _perform(self, committed: Committed, applied: Applied) -> None:
        """What follows from an applied entry, on every member."""
        if self.put_window is not None:
            self.put_window.applied(committed, applied)
        for effect in applied.effects:
            if type(effect) is IndexMessages:  # in front: there may be one per message
                topic, queue_id, units = effect.topic, effect.queue_id, effect.units
                self.queues.index(topic, queue_id, effect.first_offset, units)
                if self.polls.waits(topic, queue_id):
                    codes = [code for (code,) in UNIT_TAGS_CODE.iter_unpack(units)]
                    self.polls.wake(topic, queue_id, codes)
                if self.pop_waits.busy:
                    self.pop_waits.arrived(topic, queue_id)
                if topic in WAITING_TOPICS:
                    self.deliveries.indexed(topic, queue_id)
                continue
            match effect:
                case TrimQueues(queues):
                    for topic, queue_id, first_offset in queues:
                        self.queues.trim(topic, queue_id, first_offset)
                case DropEntries(index):
                    self.ledger.trim(index)
                case DropQueues(topic):
                    self.queues.drop(topic)
                    self.rates.forget_topic(topic)
                case TopicsChanged(topics):
                    self.polls.wake_topics(topics)
                    self.pop_waits.polls.wake_topics(topics)
                    self.registrar.changed()
                case GroupsChanged():
                    pass  # groups are looked up at each use
                case OffsetsReset(_group, topic):
                    self.polls.wake_topics((topic,))
                    self.pop_waits.polls.wake_topics((topic,))
                case PopsBegan(group, topic, queue_id):
                    self.revivals.began((group, topic, queue_id))
                case QueueFreed(group, topic, _queue_id):
                    self.pop_waits.freed(group, topic)

    def _ledger_role_changed(self, view: RoleView) -> None:
        if self.window_keeper is not None:
            self.window_keeper.role_changed(view)
        self._role_changed()

    def window_filled(self) -> None:
        """A leader knows by now what it has to."""
        self._role_changed()
        self.flush()

    def _role_changed(self) -> None:
        """What others see of this member's role may be something else now."""
        view = self.view()
        if view == self._told:
            return
        self._told = view
        log.info(
            "broker.role_changed",
            group=self.config.broker_name,
            role=view.role,
            term=view.term,
            leader=view.leader,
            ready=view.ready,
        )
        self.leadership.role_changed()
        self.registrar.changed()
        if self.preferred is not None:
            self.preferred.role_changed()
        leads = self.leadership.leads
        if leads != self._led:
            self._led = leads
            self.polls.wake_all()  # their clients may want to ask somebody else now
            self.pop_queues.choice.forget()
            self.pop_waits.polls.wake_all()
            self.deliveries.role_changed()
            self.revivals.role_changed()
        if leads:
            self._initialise()
            self.clients.role_changed()

    def _initialise(self) -> None:
        """A new leader sees to the topics and groups that every broker has."""
        config = self.config
        topics = standard_topics(
            config.cluster_name,
            config.broker_name,
            auto_create=config.auto_create_topics,
            trace=config.trace_topic,
        )
        queues = config.default_topic_queues
        missing = tuple(
            evolve(topic, read_queues=queues, write_queues=queues)
            if topic.name == TEMPLATE_TOPIC
            else topic
            for topic in topics
            if topic.name not in self.machine.topics
        )
        groups = tuple(g for g in standard_groups() if g.name not in self.machine.groups)
        timers = self.machine.topics.get(TIMER_TOPIC)
        if timers is not None and timers.queues < WHEEL_QUEUES:  # as earlier releases made it
            self.proposals.forget(
                commands.PutTopic(
                    stamped_ms=self.ground.now_ms(),
                    name=TIMER_TOPIC,
                    read_queues=WHEEL_QUEUES,
                    write_queues=WHEEL_QUEUES,
                )
            )
        if missing or groups:
            self.proposals.forget(
                commands.Initialise(stamped_ms=self.ground.now_ms(), topics=missing, groups=groups)
            )

    def _turn_end(self) -> None:
        """Everything the sockets had is handled: propose what was gathered."""
        self.batch.turn_ended()
        self.pop_batch.turn_ended()
        self.commits.propose_if_due()

    def flush(self) -> None:
        self._turn_end()
        if self.put_window is not None:
            self.put_window.read()  # or it would keep the entry in memory
        self.server.flush()

    def redispatch(self, connection: Port, frame: Frame) -> None:
        """Handle a request that waited until this member led. Writes have no async handlers."""
        try:
            waiting: Any = self.routes.answer(connection, frame)
        except FailStop:
            raise
        except Exception:
            # As in the server: a bug of ours, the client was told, the others go on.
            log.exception("broker.handler_failed", code=frame.code)
        else:
            assert waiting is None
        self.flush()

    def view(self) -> RoleView:
        """This member's role, for all who deal with messages: it is ready once it would know a
        message that is sent again."""
        view = self.ledger.view
        keeper = self.window_keeper
        if keeper is None or keeper.full or not view.ready:
            return view
        return evolve(view, ready=False)

    def _settings_changed(self, config: BrokerConfig) -> None:
        if self._retaining is not None:
            self._retaining.wish = parts.wish(config)
        if self._checking is not None:
            self._checking.times = parts.check_times(config)
        if self.leadership.leads:
            self._initialise()  # the template of topics that are made on use

    def _retention(self) -> Retention:
        self._retaining = retaining = parts.retention(self)
        return retaining

    def _check_back(self) -> CheckBack:
        self._checking = checking = parts.check_back(self)
        return checking

    def tree(self) -> TreeNode:
        """The actors as they are now."""
        return self.supervisor.tree()


@define(eq=False)
class _Listening:
    """The server as an actor: it listens once it has something to say.

    That is when this member has applied what its group had committed: before, it would tell
    consumers that their topics do not exist. Where no majority is up, it listens all the same after
    a while, so that what was replayed can be read.
    """

    broker: Broker

    async def run(self, inbox: Inbox[Never]) -> None:
        broker = self.broker
        await broker.ledger.wait_replayed()
        with trio.move_on_after(broker.config.join_wait_ms / 1000):
            await broker.ledger.wait_current()
        broker.server = broker._new_server()  # one instance runs once
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(broker.server.run)
            except AddressUnavailable as error:
                raise FailStop(str(error)) from error
            inbox.ready()
            on_ready, broker._on_ready = broker._on_ready, _nothing
            on_ready()
            await inbox.wait_closed()
            broker.polls.wake_all()  # a last answer instead of a broken connection
            broker.pop_waits.end_all()
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
            broker.polls.expire(broker.ground.monotonic_ms())
            broker.pop_waits.polls.expire(broker.ground.monotonic_ms())
            seconds = int(trio.current_time())
            if seconds != self._seconds:
                self._seconds = seconds
                broker.rates.sample(seconds)
                broker.disk.look()
                if seconds % CLIENTS_CHECK_S == 0:
                    broker.clients.expire()
            broker.flush()


def address_of(host: str) -> str:
    """The address of a host name: stored messages and message ids hold no names.

    Blocks for the resolver; called once, before anything else runs. Raises: FailStop.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise FailStop(f"the advertised host {host!r} has no address: {error}") from error
    # ali-ons and C++ clients cannot read records of IPv6 hosts.
    v4 = [entry for entry in found if entry[0] == socket.AF_INET]
    return str((v4 or found)[0][4][0])


def _nothing() -> None:
    """Nobody waits to hear that the member is ready."""
