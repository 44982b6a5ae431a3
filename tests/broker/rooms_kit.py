"""All rooms of a broker around a ledger that is a list: what is proposed is applied when told.

The machine, the index, the long polls and the client table are the real ones; sockets, disks and
other members are not there.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field

from broker.formats import UNIT_TAGS_CODE
from broker.machine.codec import encode_command
from broker.machine.commands import Initialise
from broker.machine.effects import DropQueues, IndexMessages, OffsetsReset, TopicsChanged
from broker.machine.groups import standard_groups
from broker.machine.machine import Machine
from broker.machine.replies import Applied
from broker.machine.timer_wheel import WAITING_TOPICS
from broker.machine.topics import standard_topics
from broker.rooms._stored_times import StoredTimes
from broker.rooms.clients import Clients
from broker.rooms.groups import Groups
from broker.rooms.locks import Locks
from broker.rooms.lookups import Lookups
from broker.rooms.offsets import Offsets
from broker.rooms.operations import Operations
from broker.rooms.progress import Progress
from broker.rooms.pulling import Pulling
from broker.rooms.recalling import Recalling
from broker.rooms.relays import Relays
from broker.rooms.replies import Replies
from broker.rooms.resets import Resets
from broker.rooms.resuming import Resuming
from broker.rooms.sending import Sending
from broker.rooms.sending_back import SendingBack
from broker.rooms.topics import Topics
from broker.rooms.transactions import Transactions
from broker.rooms.unsupported import with_refusals
from broker.rooms.usual_sends import UsualSends
from broker.serving.client_calls import ClientCalls
from broker.serving.client_table import ClientTable
from broker.serving.deliveries import Deliveries
from broker.serving.disk_watch import DiskWatch
from broker.serving.duplicates import Duplicates
from broker.serving.half_messages import HalfMessages
from broker.serving.long_polls import LongPolls
from broker.serving.offset_commits import OffsetCommits
from broker.serving.proposals import Proposals
from broker.serving.put_batch import PutBatch
from broker.serving.rates import Rates
from broker.store.consume_queues import ConsumeQueues
from broker.store.message_reader import MessageReader
from broker.store.put_window import PutWindow
from dledger_py.ledger.errors import LedgerError
from dledger_py.remoting.commands.clients import Heartbeat
from dledger_py.remoting.commands.heartbeats import (
    ConsumerData,
    HeartbeatData,
    MessageModel,
    ProducerData,
    SubscriptionData,
    encode_heartbeat,
)
from dledger_py.remoting.rooms import Answer, Caller, Later, routes
from dledger_py.remoting.wire.codes import OUR_VERSION
from dledger_py.remoting.wire.frame import Frame, Framer, encode_request
from dledger_py.remoting.wire.message import pack_host
from dledger_py.remoting.wire.schema import Request, decode, encode, reply_type
from dledger_py.runtime.host import RealHost

STORE_HOST = pack_host("10.0.0.1", 10911)
CLUSTER, BROKER = "DefaultCluster", "broker-a"


@define(eq=False)
class Connection:
    """A client's end, as rooms see it; notes what it is told."""

    id: int
    remote: tuple[str, int] = ("10.0.0.9", 54321)
    local: tuple[str, int] = ("10.0.0.1", 10911)
    closed: bool = False
    attributes: dict[str, Any] = field(factory=dict)
    answers: list[Frame] = field(factory=list)
    told: list[Request[Any]] = field(factory=list)
    told_bodies: list[bytes] = field(factory=list)
    awaited: dict[int, Callable[[Frame | None], None]] = field(factory=dict)
    settled: int = 0
    settled_bytes: int = 0
    _on_close: list[Callable[[], None]] = field(factory=list)

    @property
    def packed_remote(self) -> bytes:
        return pack_host(*self.remote)

    def respond(self, request_size: int, head: bytes, body: bytes) -> None:
        if self.closed:
            return
        self.settled += 1
        self.settled_bytes += request_size
        if head:
            self.answers += Framer().feed(head + body)

    def respond_all(self, request_bytes: int, heads: Sequence[bytes]) -> None:
        if self.closed:
            return
        for head in heads:
            self.respond(0, head, b"")
        self.settled_bytes += request_bytes

    def request(self, request: Request[Any], body: bytes = b"", *, on_reply: Any = None) -> int:
        self.told.append(request)
        self.told_bodies.append(body)
        if on_reply is not None:
            self.awaited[len(self.told)] = on_reply
        return len(self.told)

    def forget(self, number: int) -> None:
        self.awaited.pop(number, None)

    def say(
        self, code: int = 0, body: bytes = b"", remark: str | None = None, **fields: str
    ) -> None:
        """Answer what was asked last."""
        on_reply = self.awaited.pop(len(self.told))
        on_reply(Frame(code=code, flag=1, body=body, remark=remark, fields=fields))

    def on_close(self, callback: Callable[[], None]) -> None:
        self._on_close.append(callback)

    def close(self) -> None:
        self.closed = True
        for on_reply in self.awaited.values():
            on_reply(None)
        for callback in self._on_close:
            callback()


@define
class Entry:
    position: int
    payload: bytes


@define(eq=False)
class ListLedger:
    """Proposals wait in a list until `settle`, or are refused by `refuse`."""

    machine: Machine
    perform: Callable[[Entry, Applied], None]
    proposed: list[tuple[bytes, Callable[[Any], None]]] = field(factory=list)
    barriers: list[Callable[[Any], None]] = field(factory=list)
    entries: int = 0
    data: bytearray = field(factory=bytearray)
    cached: bool = True

    def propose(self, payload: bytes, settle: Callable[[Any], None]) -> None:
        self.proposed.append((payload, settle))

    def read_barrier_nowait(self, settle: Callable[[Any], None]) -> None:
        self.barriers.append(settle)

    def settle(self) -> None:
        while self.proposed or self.barriers:
            proposed, self.proposed = self.proposed, []
            for payload, settle in proposed:
                settle(self.apply(payload))
            barriers, self.barriers = self.barriers, []
            for settle in barriers:
                settle(None)

    def apply(self, payload: bytes) -> Any:
        self.entries += 1
        self.data += bytes(40)
        position = len(self.data)
        self.data += payload
        entry = Entry(position, payload)
        applied = self.machine.apply(entry)
        self.perform(entry, applied)
        return applied.reply

    def refuse(self, error: LedgerError) -> None:
        waiting = [settle for _payload, settle in self.proposed] + self.barriers
        self.proposed, self.barriers = [], []
        for settle in waiting:
            settle(error)

    def read_bytes(self, position: int, length: int, *, nowait: bool = False) -> bytearray:
        if nowait and not self.cached:
            raise BlockingIOError
        if position + length > len(self.data):
            raise LookupError(position)
        return self.data[position : position + length]


@define(eq=False)
class Gate:
    """Whether this member leads; what it would hand on."""

    leads: bool = True
    relayed: list[Frame] = field(factory=list)
    others: dict[str, Frame | None] = field(factory=dict)
    """The other members, and what each says when it is asked."""
    asked: list[str] = field(factory=list)

    async def ask(self, member: str, caller: Caller, timeout_s: float) -> Frame | None:
        self.asked.append(member)
        return self.others[member]

    def relay(self, caller: Caller) -> Later[Any]:
        self.relayed.append(caller.frame)
        return caller.later()


@define(eq=False)
class Threads:
    """Cold reads, run when the test says so."""

    jobs: list[tuple[Any, Any, Any]] = field(factory=list)

    def submit(self, read: Any, found: Any, failed: Any) -> None:
        self.jobs.append((read, found, failed))

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        for read, found, _failed in jobs:
            found(read())

    def fail(self, error: Exception) -> None:
        jobs, self.jobs = self.jobs, []
        for _read, _found, failed in jobs:
            failed(error)


@define(eq=False, slots=False)
class Desk:
    """The rooms, and a client to ask them with."""

    folder: Path
    auto_create: bool = True
    max_message_bytes: int = 4 * 1024 * 1024
    server_side_reset: bool = True
    checks_types: bool = False
    mixed: bool = False
    deduplication_messages: int = 0
    now_ms: int = 1_700_000_000_000
    ticks_ms: int = 0
    machine: Machine = field(factory=Machine)
    gate: Gate = field(factory=Gate)
    threads: Threads = field(factory=Threads)
    free_bytes: int = 1000
    electable: list[bool] = field(factory=list)
    _connections: int = 0
    _opaque: int = 0

    def __attrs_post_init__(self) -> None:
        machine, gate = self.machine, self.gate
        self.ledger = ledger = ListLedger(machine, self._perform)
        self.queues = ConsumeQueues.create(self.folder / "consumequeue")
        self.polls, self.table, self.rates = LongPolls(), ClientTable(), Rates()
        self.window = PutWindow(self.deduplication_messages)
        self.window.begin()
        self.batch = PutBatch(
            ledger, self._now, self.window if self.deduplication_messages else None
        )
        self.commits = OffsetCommits(ledger, self._now, self._ticks)
        self.disk = DiskWatch(
            floor_bytes=100, free_bytes=lambda: self.free_bytes, set_electable=self.electable.append
        )
        self.halves = HalfMessages(
            pending=machine.transactions, ledger=ledger, rates=self.rates, now_ms=self._now
        )
        self.duplicates = Duplicates(
            window=self.window,
            passed_over=frozenset({"repeats"}),
            batch=self.batch,
            leads=lambda: gate.leads,
            halves=machine.transactions,
            recalled=machine.moves.recalled,
            queues=self.queues,
            log=ledger,
            cold_reads=self.threads,
            rates=self.rates,
        )
        proposals = Proposals(ledger, self.batch)
        reader = MessageReader(ledger)
        times = StoredTimes(self.queues, reader, RealHost())
        shared = {"machine": machine, "leadership": gate, "now_ms": self._now}
        self.clients = Clients(
            table=self.table, proposals=proposals, monotonic_ms=self._ticks, **shared
        )
        self.sending = Sending(
            cluster_name=CLUSTER,
            broker_name=BROKER,
            store_host=STORE_HOST,
            new_unique_id=lambda: "0A000001FFFF",
            auto_create=self.auto_create,
            default_queues_max=8,
            max_message_bytes=self.max_message_bytes,
            checks_types=self.checks_types,
            ledger=ledger,
            batch=self.batch,
            halves=self.halves,
            disk=self.disk,
            rates=self.rates,
            duplicates=self.duplicates if self.deduplication_messages else None,
            **shared,
        )
        self.usual = UsualSends(self.sending)
        pulling = Pulling(
            machine=machine,
            queues=self.queues,
            reader=reader,
            cold_reads=self.threads,
            polls=self.polls,
            clients=self.table,
            commits=self.commits,
            ensure_group=self.clients.ensure_group,
            leads=lambda: gate.leads,
            read_barrier=ledger.read_barrier_nowait,
            rates=self.rates,
            monotonic_ms=self._ticks,
        )
        sending_back = SendingBack(
            sending=self.sending, log=ledger, queues=self.queues, cold_reads=self.threads
        )
        offsets = Offsets(
            machine=machine,
            queues=self.queues,
            stored_times=times,
            commits=self.commits,
            leadership=gate,
            read_barrier=ledger.read_barrier_nowait,
        )
        operations = Operations(
            cluster_name=CLUSTER,
            broker_name=BROKER,
            machine=machine,
            queues=self.queues,
            stored_times=times,
            clients=self.table,
            rates=self.rates,
            runtime=lambda now_ms: {"brokerActive": "true"},
            now_ms=self._now,
            monotonic_ms=self._ticks,
        )
        resets = Resets(
            broker_name=BROKER,
            server_side=self.server_side_reset,
            queues=self.queues,
            stored_times=times,
            cold_reads=self.threads,
            clients=self.table,
            commits=self.commits,
            proposals=proposals,
            **shared,
        )
        progress = Progress(
            broker_name=BROKER,
            address="10.0.0.1:10911",
            machine=machine,
            queues=self.queues,
            stored_times=times,
            clients=self.table,
            rates=self.rates,
            now_ms=self._now,
        )
        topics = Topics(
            cluster_name=CLUSTER,
            broker_name=BROKER,
            mixed=self.mixed,
            proposals=proposals,
            term=lambda: 7,
            **shared,
        )
        groups = Groups(proposals=proposals, term=lambda: 7, **shared)
        locks = Locks(broker_name=BROKER, proposals=proposals, **shared)
        recalling = Recalling(broker_name=BROKER, proposals=proposals, **shared)
        self.deliveries = Deliveries(
            machine=machine,
            queues=self.queues,
            reader=reader,
            cold_reads=self.threads,
            ledger=ledger,
            leads=lambda: gate.leads,
            now_ms=self._now,
        )
        # By key it is looked up on a real broker (test_key_queries.py).
        no_search: Any = None
        lookups = Lookups(log=ledger, queues=self.queues, search=no_search, host=RealHost())
        self.calls = ClientCalls(others=lambda: gate.others, ask_member=gate.ask)
        replies = Replies(
            machine=machine,
            table=self.table,
            calls=self.calls,
            store_host=STORE_HOST,
            max_message_bytes=self.max_message_bytes,
            now_ms=self._now,
        )
        relays = Relays(broker_name=BROKER, table=self.table, calls=self.calls, lookups=lookups)
        transactions = Transactions(
            store_host=STORE_HOST,
            timeout_ms=6_000,
            halves=self.halves,
            log=ledger,
            cold_reads=self.threads,
            disk=self.disk,
            **shared,
        )
        resuming = Resuming(
            store_host=STORE_HOST,
            leadership=gate,
            halves=self.halves,
            batch=self.batch,
            log=ledger,
            queues=self.queues,
            cold_reads=self.threads,
            disk=self.disk,
            now_ms=self._now,
        )
        rooms = (
            self.usual,
            self.sending,
            sending_back,
            transactions,
            resuming,
            pulling,
            offsets,
            self.clients,
            locks,
            recalling,
            topics,
            groups,
            operations,
            resets,
            progress,
            lookups,
            replies,
            relays,
        )
        self.routes = with_refusals(routes((*rooms, *self.more_rooms(reader, proposals))))
        ledger.apply(
            encode_command(
                Initialise(
                    stamped_ms=self.now_ms,
                    topics=standard_topics(CLUSTER, BROKER, auto_create=self.auto_create),
                    groups=standard_groups(),
                )
            )
        )
        self.client = self.connect()

    def more_rooms(self, reader: MessageReader, proposals: Proposals) -> tuple[object, ...]:
        """For kits that build on this one."""
        return ()

    # --- asking ----------------------------------------------------------------------------------

    def connect(self) -> Connection:
        self._connections += 1
        return Connection(self._connections)

    def put(
        self,
        request: Request[Any],
        body: bytes = b"",
        *,
        by: Connection | None = None,
        code: int | None = None,
        one_way: bool = False,
        version: int = OUR_VERSION,
        language: str = "JAVA",
        fields: dict[str, str] | None = None,
    ) -> Any:
        """Hand a request to its room, as the server does; the turn is not over yet."""
        self._opaque += 1
        wire = encode(request, code) | (fields or {})
        data = encode_request(code or request.code, self._opaque, wire, body, one_way=one_way)
        frame = Framer().feed(data)[0]
        frame.version = version
        frame.language = language
        return self.routes.answer(by or self.client, frame)

    def turn(self) -> None:
        """The turn ends; what it proposed is committed and applied."""
        self.batch.propose()
        self.commits.propose_if_due()
        self.ledger.settle()

    def ask(self, request: Request[Any], body: bytes = b"", **how: Any) -> Frame | None:
        """One request in a turn of its own; None if it is not answered yet."""
        connection = how.get("by") or self.client
        waiting = self.put(request, body, **how)
        assert waiting is None, "an async handler: use ask_async"
        opaque = self._opaque
        self.turn()
        answers = [answer for answer in connection.answers if answer.opaque == opaque]
        assert len(answers) <= 1
        return answers[0] if answers else None

    async def ask_async(self, request: Request[Any], body: bytes = b"", **how: Any) -> Answer[Any]:
        """A request whose handler may wait for a disk, or for another client."""
        answer: Answer[Any] = await self.put(request, body, **how)
        return answer

    # --- scenery ---------------------------------------------------------------------------------

    def beat(
        self,
        group: str,
        topic: str,
        expression: str = "*",
        *,
        client_id: str = "c1",
        by: Connection | None = None,
        version: int = 1,
        model: MessageModel = MessageModel.CLUSTERING,
        expression_type: str = "TAG",
        **how: Any,
    ) -> Frame | None:
        subscription = SubscriptionData(
            topic=topic,
            sub_string=expression,
            sub_version=version,
            expression_type=expression_type,
        )
        data = ConsumerData(
            group_name=group, message_model=model, subscription_data_set=(subscription,)
        )
        body = encode_heartbeat(HeartbeatData(client_id=client_id, consumer_data_set=(data,)))
        return self.ask(Heartbeat(), body, by=by, **how)

    def produce(self, group: str, *, client_id: str = "c1", by: Connection | None = None) -> None:
        """A producer's heartbeat."""
        data = HeartbeatData(
            client_id=client_id, producer_data_set=(ProducerData(group_name=group),)
        )
        self.ask(Heartbeat(), encode_heartbeat(data), by=by)

    def _perform(self, entry: Entry, applied: Applied) -> None:
        if self.deduplication_messages:
            self.window.applied(entry, applied)
        for effect in applied.effects:
            self._effect(effect)

    def _effect(self, effect: Any) -> None:
        match effect:
            case IndexMessages(topic, queue_id, first_offset, units):
                self.queues.index(topic, queue_id, first_offset, units)
                codes = [code for (code,) in UNIT_TAGS_CODE.iter_unpack(units)]
                self.polls.wake(topic, queue_id, codes)
                if topic in WAITING_TOPICS:
                    self.deliveries.indexed(topic, queue_id)
            case DropQueues(topic):
                self.queues.drop(topic)
            case TopicsChanged(topics):
                self.polls.wake_topics(topics)
            case OffsetsReset(_group, topic):
                self.polls.wake_topics((topic,))

    def _now(self) -> int:
        return self.now_ms

    def _ticks(self) -> int:
        return self.ticks_ms


def header(request: type[Request[Any]], frame: Frame | None) -> Any:
    """The header of a request's answer."""
    assert frame is not None, "not answered"
    kind = reply_type(request)
    assert kind is not None
    return decode(kind, frame.fields)
