"""The rooms of pop consumption, beside all others; and a client that pops."""

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define

from broker.machine.effects import (
    IndexMessages,
    OffsetsReset,
    PopsBegan,
    QueueFreed,
    TopicsChanged,
    TrimQueues,
)
from broker.rooms._pop_queues import PopQueues
from broker.rooms._pop_waits import PopWaits
from broker.rooms.assignments import AssignmentRoom
from broker.rooms.popping import Popping
from broker.rooms.popping_acks import PoppingAcks
from broker.rooms.popping_questions import PoppingQuestions
from broker.serving.pop_batch import PopBatch
from broker.serving.pop_choice import PopChoice
from broker.serving.proposals import Proposals
from broker.serving.revivals import Revivals
from broker.store.message_reader import MessageReader
from dledger_py.client.queues import Queue
from dledger_py.remoting.commands.popping import (
    AckMessage,
    ChangeInvisibleTime,
    Handle,
    Origin,
    PopMessage,
    PopReply,
    decode_handle,
    parse_popped,
)
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic
from dledger_py.remoting.wire.frame import Frame
from dledger_py.remoting.wire.message import Record, decode_records
from dledger_py.remoting.wire.properties import POP_CK
from dledger_py.remoting.wire.schema import decode
from tests.broker.rooms_kit import BROKER, STORE_HOST, Desk

GROUP = "shop"
RETRIES = "%RETRY%shop_orders"
INVISIBLE_MS = 60_000


@define(eq=False, slots=False)
class PopDesk(Desk):
    """With topic `orders` of two queues, once `furnish` was called."""

    def more_rooms(self, reader: MessageReader, proposals: Proposals) -> tuple[object, ...]:
        self.revivals = Revivals(
            store_host=STORE_HOST,
            machine=self.machine,
            queues=self.queues,
            reader=reader,
            cold_reads=self.threads,
            ledger=self.ledger,
            proposals=proposals,
            leads=lambda: self.gate.leads,
            now_ms=self._now,
        )
        choice = PopChoice(
            machine=self.machine,
            queues=self.queues,
            reader=reader,
            now_ms=self._now,
            monotonic_ms=self._ticks,
        )
        of = self.pop_queues = PopQueues(
            machine=self.machine, choice=choice, ensure_group=self.clients.ensure_group
        )
        waits = self.pop_waits = PopWaits(now_ms=self._now, monotonic_ms=self._ticks)
        batch = self.pop_batch = PopBatch(self.ledger, self._now)
        reading: dict[str, Any] = {"reader": reader, "cold_reads": self.threads}
        return (
            Popping(
                broker_name=BROKER,
                of=of,
                waits=waits,
                batch=batch,
                clients=self.table,
                leadership=self.gate,
                rates=self.rates,
                now_ms=self._now,
                monotonic_ms=self._ticks,
                **reading,
            ),
            PoppingQuestions(of=of, waits=waits, monotonic_ms=self._ticks, **reading),
            PoppingAcks(
                machine=self.machine, queues=self.queues, batch=batch, leadership=self.gate
            ),
            AssignmentRoom(
                machine=self.machine,
                clients=self.table,
                queues_of=self._queues_of,
                leadership=self.gate,
                proposals=proposals,
                now_ms=self._now,
            ),
        )

    async def _queues_of(self, topic: str) -> Sequence[Queue] | None:
        """As if there were a second broker group, with one queue of each topic that we have."""
        config = self.machine.topics.get(topic)
        if config is None:
            return None
        ours = [Queue(topic, BROKER, queue_id) for queue_id in range(config.read_queues)]
        return [*ours, Queue(topic, "broker-b", 0)]

    def turn(self) -> None:
        self.batch.propose()
        self.pop_batch.turn_ended()
        while self.ledger.proposed:  # what is applied may make waiting pops take something
            super().turn()
            self.pop_batch.turn_ended()
        super().turn()

    def passes(self, ms: int) -> None:
        """Time goes by; what is due then happens."""
        self.now_ms += ms
        self.ticks_ms += ms
        self.pop_waits.polls.expire(self.ticks_ms)
        self.revivals.look()
        self.turn()

    def furnish(self) -> "PopDesk":
        self.ask(CreateTopic(topic="orders", read_queue_nums=2, write_queue_nums=2, perm=6))
        self.beat(GROUP, "orders")
        return self

    def send(self, *bodies: bytes, queue_id: int = 0, tag: str = "", **fields: Any) -> None:
        text = f"TAGS\x01{tag}\x02" if tag else ""
        for body in bodies:
            self.ask(
                SendMessage(
                    producer_group="p",
                    topic="orders",
                    queue_id=queue_id,
                    properties=fields.get("properties", text),
                ),
                body,
            )

    def pop(self, **how: Any) -> "Got":
        """One that does not wait, unless it says so."""
        by = {name: how.pop(name) for name in ("by", "fields") if name in how}
        frame = self.ask(pop(**how), **by)
        assert frame is not None
        return Got(frame, how.get("topic", "orders"))

    def ack(self, handle: Handle, **how: Any) -> int:
        frame = self.ask(ack(handle, **how))
        assert frame is not None
        return frame.code

    def change(self, handle: Handle, ms: int) -> Frame:
        request = ChangeInvisibleTime(
            consumer_group=GROUP,
            topic=handle.real_topic(GROUP, "orders"),
            queue_id=handle.queue_id,
            extra_info=handle.encode(),
            offset=handle.offset,
            invisible_time=ms,
        )
        frame = self.ask(request)
        assert frame is not None
        return frame

    def _effect(self, effect: Any) -> None:
        super()._effect(effect)
        match effect:
            case IndexMessages(topic, queue_id, _first, _units):
                if self.pop_waits.busy:
                    self.pop_waits.arrived(topic, queue_id)
            case TopicsChanged(topics):
                self.pop_waits.polls.wake_topics(topics)
            case OffsetsReset(_group, topic):
                self.pop_waits.polls.wake_topics((topic,))
            case PopsBegan(group, topic, queue_id):
                self.revivals.began((group, topic, queue_id))
            case QueueFreed(group, topic, _queue_id):
                self.pop_waits.freed(group, topic)
            case TrimQueues(queues):
                for topic, queue_id, first in queues:
                    self.queues.trim(topic, queue_id, first)


class Got:
    """The answer to a pop, as clients read it."""

    def __init__(self, frame: Frame, topic: str = "orders") -> None:
        self.remark = frame.remark
        self._read(frame.code, decode(PopReply, frame.fields), frame.body, topic)

    @classmethod
    def of(cls, code: int, reply: PopReply, body: bytes) -> "Got":
        """The answer that came over a real connection."""
        got = cls.__new__(cls)
        got.remark = None
        got._read(code, reply, body, "orders")
        return got

    def _read(self, code: int, reply: PopReply, body: bytes, topic: str) -> None:
        self.code, self.reply = code, reply
        self.records: list[Record] = decode_records(body)
        queues = parse_popped(reply)
        assert code != 0 or self.records, "code 0 comes with messages"
        self.handles: list[Handle] = []
        self.counts: list[int] = []
        for record in self.records:
            text = record.property(POP_CK)
            assert topic == record.topic
            if text is not None:
                self.handles.append(decode_handle(text))
                self.counts.append(0)
                continue
            queue = queues[Origin.TOPIC, record.queue_id]
            number = list(queue.offsets).index(record.queue_offset)
            self.counts.append(queue.counts[number] if queue.counts else 0)
            self.handles.append(
                Handle(
                    first_offset=queue.first_offset,
                    pop_ms=self.reply.pop_time,
                    invisible_ms=self.reply.invisible_time,
                    revive_qid=self.reply.revive_qid,
                    origin=queue.origin,
                    broker_name=BROKER,
                    queue_id=record.queue_id,
                    offset=record.queue_offset,
                )
            )

    @property
    def bodies(self) -> list[bytes]:
        return [record.body for record in self.records]

    @property
    def times(self) -> list[int]:
        """How often each came back."""
        return [record.reconsume_times for record in self.records]


def pop(**how: Any) -> PopMessage:
    given: dict[str, Any] = {
        "consumer_group": GROUP,
        "topic": "orders",
        "queue_id": -1,
        "max_msg_nums": 32,
        "invisible_time": INVISIBLE_MS,
        "poll_time": 0,
    }
    return PopMessage(**(given | how))


def ack(handle: Handle, topic: str = "orders", **how: Any) -> AckMessage:
    given: dict[str, Any] = {
        "consumer_group": GROUP,
        "topic": handle.real_topic(GROUP, topic),
        "queue_id": handle.queue_id,
        "extra_info": handle.encode(),
        "offset": handle.offset,
    }
    return AckMessage(**(given | how))


Wait = Callable[[], Frame | None]


def waiting(desk: PopDesk, **how: Any) -> Wait:
    """A pop that is held, by a connection of its own; what it was answered, if it was."""
    client = desk.connect()
    assert desk.ask(pop(**({"poll_time": 15_000} | how)), by=client) is None
    return lambda: client.answers[0] if client.answers else None
