"""Message trace: what became of each message, told to a trace topic as RocketMQ's clients do.

The records go as ordinary messages to `RMQ_SYS_TRACE_TOPIC`, whose keys are the ids and keys of the
messages they are about; `dledger admin queryTrace`, `mqadmin` and consoles find them there.

The laws.

* Off unless `connect(trace=True)`.  Nothing waits for it and nothing fails with it: what cannot be
  sent, or is too much, is dropped and logged.
* A send is told of when it has ended, by an error too; a delivery when it is handed out, and when
  it is settled.

Source: protocol page 09 §5.  Reading is `dledger_py.admin.traces`.
"""

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import anyio
import msgspec
from attrs import frozen

from dledger_py.client.errors import ClientError
from dledger_py.client.messages import Message, Receipt, Received, render_properties
from dledger_py.client.producer import Producer, Sealed, receipt_of
from dledger_py.client.queues import Queue
from dledger_py.remoting.wire import properties as property_text
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.frame import Frame
from dledger_py.remoting.wire.message import (
    MalformedRecord,
    parse_offset_message_id,
    split_batch_body,
)

logger = logging.getLogger(__name__)

TOPIC = "RMQ_SYS_TRACE_TOPIC"
PRODUCER_GROUP = "_INNER_TRACE_PRODUCER"
REGION = "DefaultRegion"

FIELD_END = "\x01"
RECORD_END = "\x02"
NO_VALUE = "null"

NORMAL, HALF, DELAYED, ORDERED = 0, 1, 3, 4
"""Kinds of messages, by RocketMQ's numbers."""

SUCCESS, FAILED = 0, 4
"""How consuming ended, by RocketMQ's numbers."""

FLUSH_S = 1.0
"""How long a record waits for others; Java's clients wait up to 5 s."""

BATCH_RECORDS = 100
BATCH_CHARACTERS = 100_000
KEYS_CHARACTERS = 16_000
"""Properties hold 32767 bytes, and the keys are most of them here."""

QUEUED_MAX = 10_000
"""Records that wait to be sent: some megabytes."""

CLOSE_S = 1.0
SEND_S = 5.0

_DELAYS = frozenset(
    {
        property_text.DELAY,
        property_text.TIMER_DELAY_SEC,
        property_text.TIMER_DELAY_MS,
        property_text.TIMER_DELIVER_MS,
    }
)


@frozen
class _Record:
    text: str
    keys: tuple[str, ...]


@frozen
class _Delivery:
    request_id: str
    began_s: float


class Tracer:
    """The records of one client that wait to be sent."""

    def __init__(
        self,
        producer: Producer,
        producer_group: str,
        new_id: Callable[[], str],
        now_s: Callable[[], float],
    ) -> None:
        """*producer* sends the trace, and is not traced."""
        self._producer = producer
        self._group = producer_group
        self._new_id = new_id
        self._now_s = now_s
        self._records: deque[_Record] = deque()
        self._deliveries: dict[int, _Delivery] = {}
        self._news = anyio.Event()
        self._full = anyio.Event()
        self._complained = False

    # --- what happens ----------------------------------------------------------------------------

    def sent(self, sealed: Sealed, began_s: float, receipt: Receipt | None) -> None:
        """A send has ended; without *receipt* it was not confirmed."""
        cost_ms = int((self._now_s() - began_s) * 1000)
        offset_ids = receipt.offset_message_id.split(",") if receipt is not None else [""]
        for place, (properties, size) in enumerate(_parts(sealed)):
            offset_id = offset_ids[min(place, len(offset_ids) - 1)]
            keys = properties.get(property_text.KEYS)
            unique_id = properties.get(property_text.UNIQ_KEY, sealed.unique_id)
            self._add(
                (unique_id, *(keys or "").split()),
                "Pub",
                int(began_s * 1000),
                REGION,
                self._group,
                sealed.topic,
                unique_id,
                properties.get(property_text.TAGS),
                keys,
                _host(offset_id),
                size,
                cost_ms,
                _kind(properties),
                offset_id,
                _flag(receipt is not None),
            )

    def ended(self, topic: str, unique_id: str, state: str, offset_id: str, asked: bool) -> None:
        """A verdict was told to the broker."""
        self._add(
            (unique_id,),
            "EndTransaction",
            self._now_ms(),
            REGION,
            self._group,
            topic,
            unique_id,
            None,
            None,
            _host(offset_id),
            HALF,
            unique_id,
            state,
            _flag(asked),
        )

    def recalled(self, receipt: Receipt, success: bool) -> None:
        """A delayed message was taken back, or it was too late."""
        words = (self._now_ms(), REGION, self._group, receipt.topic, receipt.message_id)
        self._add((receipt.message_id,), "Recall", *words, _flag(success))

    def handed_out(self, message: Message, group: str) -> None:
        """A consumer takes *message* up."""
        if message.properties.get(property_text.TRACE_ON) == "false":
            return
        delivery = _Delivery(uuid.uuid4().hex, self._now_s())
        self._deliveries[id(message)] = delivery
        self._add(
            (message.message_id, *message.keys),
            "SubBefore",
            self._now_ms(),
            message.properties.get(property_text.MSG_REGION, REGION),
            group,
            delivery.request_id,
            message.message_id,
            message.reconsume_times,
            " ".join(message.keys) or None,
        )

    def settled(self, message: Received, group: str, success: bool) -> None:
        """It is done with *message*."""
        delivery = self._deliveries.pop(id(message), None)
        if delivery is None:
            return
        self._add(
            (message.message_id, *message.keys),
            "SubAfter",
            delivery.request_id,
            message.message_id,
            int((self._now_s() - delivery.began_s) * 1000),
            _flag(success),
            " ".join(message.keys) or None,
            SUCCESS if success else FAILED,
            self._now_ms(),
            group,
        )

    def _add(self, keys: Iterable[str], *words: str | int | None) -> None:
        if len(self._records) >= QUEUED_MAX:
            self._complain(f"more than {QUEUED_MAX} records wait")
            return
        text = FIELD_END.join(NO_VALUE if word is None else str(word) for word in words)
        self._records.append(_Record(text + RECORD_END, tuple(dict.fromkeys(keys))))
        self._news.set()
        if len(self._records) >= BATCH_RECORDS:
            self._full.set()

    def _now_ms(self) -> int:
        return int(self._now_s() * 1000)

    # --- telling it ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what has come together, again and again.  Ends with the client."""
        while True:
            await self._news.wait()
            with anyio.move_on_after(FLUSH_S):
                await self._full.wait()
            self._news, self._full = anyio.Event(), anyio.Event()
            await self.flush()

    async def close(self) -> None:
        """Send what there is, if that is quick."""
        with anyio.move_on_after(CLOSE_S, shield=True):
            await self.flush()

    async def flush(self) -> None:
        """Send all that waits."""
        while self._records:
            text, keys = self._batch()
            unique_id = self._new_id()
            sealed = Sealed(
                RequestCode.SEND_MESSAGE_V2,
                TOPIC,
                unique_id,
                msgspec.json.encode(render_properties(unique_id, None, keys, None, None)),
                text.encode(),
                None,
                None,
            )
            try:
                await self._producer.send(sealed, SEND_S)
            except ClientError as error:
                self._complain(str(error))

    def _batch(self) -> tuple[str, tuple[str, ...]]:
        texts: list[str] = []
        keys: dict[str, None] = {}
        characters = keys_characters = 0
        while self._records and len(texts) < BATCH_RECORDS:
            record = self._records[0]
            characters += len(record.text)
            keys_characters += sum(len(key) + 1 for key in record.keys)
            if texts and (characters > BATCH_CHARACTERS or keys_characters > KEYS_CHARACTERS):
                break
            self._records.popleft()
            texts.append(record.text)
            keys.update(dict.fromkeys(record.keys))
        return "".join(texts), tuple(keys)

    def _complain(self, why: str) -> None:
        level = logging.DEBUG if self._complained else logging.WARNING
        self._complained = True
        logger.log(level, "message trace is lost: %s", why)


class TracedProducer(Producer):
    """A producer whose sends are told to a tracer; the plain one need not even ask."""

    tracer: Tracer

    async def send(self, sealed: Sealed, timeout_s: float) -> tuple[Frame, Queue]:
        began_s = self._now_s()
        try:
            frame, queue = await super().send(sealed, timeout_s)
        except ClientError:
            self.tracer.sent(sealed, began_s, None)
            raise
        self.tracer.sent(sealed, began_s, receipt_of(sealed, frame, queue))
        return frame, queue


def _parts(sealed: Sealed) -> Iterator[tuple[dict[str, str], int]]:
    """Properties and size of each message in a send."""
    if sealed.code == RequestCode.SEND_BATCH_MESSAGE:
        for item in split_batch_body(sealed.body):
            yield property_text.decode(item.properties.decode()), len(item.body)
    else:
        properties = msgspec.json.decode(sealed.properties, type=str)
        yield property_text.decode(properties), len(sealed.body)


def _kind(properties: dict[str, str]) -> int:
    if property_text.TRANSACTION_PREPARED in properties:
        return HALF
    if not _DELAYS.isdisjoint(properties):
        return DELAYED
    return ORDERED if property_text.SHARDING_KEY in properties else NORMAL


def _host(offset_message_id: str) -> str | None:
    """The address of the broker that stored a message; None for what is no id of one."""
    try:
        host, port, _ = parse_offset_message_id(offset_message_id)
    except MalformedRecord:
        return None
    return f"{host}:{port}"


def _flag(value: bool) -> str:
    return "true" if value else "false"
