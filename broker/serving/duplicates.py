"""The same message sent again: it is answered with what became of the first one, and not stored.

A client that hears nothing, or that nobody leads, sends the same message again; the first one may
have been stored, or be on its way. Whoever leads and is ready has applied all that any earlier
leader can have got into the log, and knows what it has proposed itself: so the window of what was
applied and what is pending here are all there is to ask, and neither is replicated state.

Laws
- Alike is: topic, unique id, body, flag and every property that the producer set. The queue is not,
  as a client may try another one. What only looks alike is stored.
- A message is never taken for a duplicate if it has been in a broker before (an operator or a
  consumer sends it on), goes to a retry or dead-letter topic, or has no unique id of its own.
- Of a batch the first message is looked for; it is a duplicate if all of it stands there, in this
  order. A half message is one only as long as the first one is pending: who is told of one that has
  ended would go on with a transaction that is over. A timed one that was recalled is none any more.
- What the log has let go of, or a deleted topic took along, is not found any more.

Elsewhere: where messages are found (`broker.store.put_window`), what is pending (`put_batch`).
"""

from collections.abc import Callable, Sequence
from typing import Final

from attrs import define, frozen

from broker.errors import NoLeader
from broker.machine import names
from broker.machine.put_messages import Message
from broker.machine.replies import MessageReply, Reason
from broker.machine.transactions import Transactions
from broker.serving.cold_reads import ColdReads
from broker.serving.put_batch import Failed, PutBatch, several
from broker.serving.rates import Rates
from broker.store.consume_queues import ConsumeQueues
from broker.store.message_lookup import confirmed
from broker.store.message_reader import LogReader
from broker.store.put_window import (
    STORED_FOR_ANOTHER,
    Place,
    PutWindow,
    identity_of,
    meant_for,
    records_in,
    unique_id_in,
)
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.message import Record, decode_record, record_size

_NOT_THE_PRODUCERS: Final = frozenset(
    {
        props.MSG_REGION,
        props.TRACE_ON,
        props.CLUSTER,
        props.REAL_TOPIC,
        props.REAL_QUEUE_ID,
        props.TIMER_OUT_MS,
        props.TRANSACTION_ID,
    }
)

_CAME_FROM_A_BROKER: Final = f"{props.MSG_REGION}\x01"


@frozen(kw_only=True)
class Original:
    """The message that was sent first; of several the first one."""

    store_host: bytes
    queue_id: int
    """The one it is for, also while it waits in another one."""
    deliver_ms: int | None
    """Its time, if it has one of its own."""


Candidate = tuple[int, list[bytearray]]
"""A log position, and the records from there on."""

Fresh = Callable[[int], None]
"""Store the messages, under this identity; 0 for none."""

Again = Callable[[Sequence[MessageReply], Original], None]
"""Answer with what became of the first ones."""


@define(eq=False, kw_only=True)
class Duplicates:
    """Asked before a producer's message is stored. One instance serves the whole member."""

    window: PutWindow
    passed_over: frozenset[str]
    """Topics in which every message counts as a new one."""
    batch: PutBatch
    leads: Callable[[], bool]
    halves: Transactions
    recalled: Callable[[str, str, int], bool]
    """Whether the message of a topic, id and time was recalled."""
    queues: ConsumeQueues
    log: LogReader
    cold_reads: ColdReads
    rates: Rates

    def watches(self, topic: str) -> bool:
        """Whether messages that producers send to this topic are recognised."""
        return not (
            topic in self.passed_over
            or names.is_retry_topic(topic)
            or names.is_dead_letter_topic(topic)
        )

    def identity_of(self, message: Message, sent_properties: str) -> int:
        """The identity of a message, or of the first of a batch; 0 if it is not to be recognised.
        `sent_properties` are those that it came with."""
        if _CAME_FROM_A_BROKER in sent_properties or props.UNIQ_KEY not in sent_properties:
            return 0
        topic, _queue_id, _code, record = message
        counts_for = meant_for(record, 0, len(record), topic)
        if counts_for is None or not self.watches(counts_for):
            return 0
        return identity_of(record, 0, len(record), counts_for)

    def identities_behind(self, messages: Sequence[Message]) -> Sequence[int]:
        """Those of a batch's messages behind the first, if that has one."""
        topic = messages[0][0]
        return self.window.identities_of(topic, [message[3] for message in messages[1:]])

    def offer(
        self,
        identity: int,
        messages: Sequence[Message],
        fresh: Fresh,
        again: Again,
        failed: Failed,
        *,
        unlike: Place | None = None,
    ) -> None:
        """Have the messages stored by `fresh`, or answered by `again` or `failed`; one of them is
        called, now or later. What the entry `unlike` has is known to be something else."""
        pending = self.batch.pending.get(identity)
        if pending is not None:
            self._join(identity, several(pending), messages, fresh, again, failed)
            return
        place = self.window.find(identity)
        if place is None or place == unlike:
            fresh(identity)
            return

        def found(candidates: Sequence[Candidate]) -> None:
            firsts = next(
                filter(None, (self._confirm(each, messages) for each in candidates)), None
            )
            if firsts is not None:
                self.rates.put_duplicates.total += len(messages)
                places = [(first.queue_offset, first.physical_offset) for first in firsts]
                again(places, _original(firsts[0]))
            elif not self.leads():  # reading has waited for a disk
                failed(NoLeader())
            else:
                self.offer(identity, messages, fresh, again, failed, unlike=place)

        try:
            candidates = self._read(place, identity, messages, nowait=True)
        except BlockingIOError:
            self.cold_reads.submit(lambda: self._read(place, identity, messages), found, failed)
        else:
            found(candidates)

    def _join(
        self,
        identity: int,
        pending: Sequence[Message],
        messages: Sequence[Message],
        fresh: Fresh,
        again: Again,
        failed: Failed,
    ) -> None:
        """The first ones are on their way: wait with them, if it is them."""
        firsts = [decode_record(message[3]) for message in pending]
        if not _all_alike(firsts, messages):
            fresh(0)
            return

        def settled(replies: Sequence[MessageReply]) -> None:
            if not isinstance(replies[0], Reason):
                self.rates.put_duplicates.total += len(messages)
            again(replies, _original(firsts[0]))

        self.batch.join(identity, settled, failed)

    def _read(
        self, place: Place, identity: int, messages: Sequence[Message], *, nowait: bool = False
    ) -> list[Candidate]:
        """What the entry has of this identity, the newest first, each with as many of the records
        behind it as there are messages. **Blocks** unless `nowait`."""
        position, size = place
        try:
            payload = bytes(self.log.read_bytes(position, size, nowait=nowait))
        except LookupError:  # retention has let go of it
            return []
        first = messages[0][3]
        unique_id = unique_id_in(first, 0, len(first))
        found = []
        for other, at in records_in(payload, unique_id):
            if other == identity:
                records = []
                begin = at
                for _ in messages:
                    if at >= size:
                        break
                    end = at + record_size(payload, at)
                    records.append(bytearray(payload[at:end]))
                    at = end
                found.append((position + begin, records))
        return found[::-1]

    def _confirm(self, candidate: Candidate, messages: Sequence[Message]) -> list[Record] | None:
        """The first ones, if that is what was found; else None."""
        position, records = candidate
        firsts: list[Record] = []
        for number, each in enumerate(records):
            stored = confirmed(self.queues, position, each)
            if stored is None:
                return None
            record = decode_record(stored)
            if number and (record.queue_id, record.queue_offset) != (
                firsts[0].queue_id,
                firsts[0].queue_offset + number,
            ):
                return None
            firsts.append(record)
            position += record.size
        if not _all_alike(firsts, messages):
            return None
        first = firsts[0]
        if first.topic == names.HALF_TOPIC and self.halves.get(first.physical_offset) is None:
            return None
        return None if self._was_recalled(first) else firsts

    def _was_recalled(self, first: Record) -> bool:
        if first.topic != names.TIMER_TOPIC:
            return False
        deliver_ms = int(first.property(props.TIMER_OUT_MS) or 0)
        unique_id = first.property(props.UNIQ_KEY) or ""
        return self.recalled(_topic(first) or "", unique_id, deliver_ms)


def _all_alike(firsts: Sequence[Record], messages: Sequence[Message]) -> bool:
    return len(firsts) == len(messages) and all(
        _alike(first, decode_record(message[3]))
        for first, message in zip(firsts, messages, strict=True)
    )


def _alike(first: Record, record: Record) -> bool:
    """Whether the same message came twice."""
    return (
        first.body == record.body
        and first.flag == record.flag
        and first.reconsume_times == record.reconsume_times
        and _topic(first) == _topic(record)
        and _set_by_producer(first) == _set_by_producer(record)
    )


def _topic(record: Record) -> str | None:
    if record.topic not in STORED_FOR_ANOTHER:
        return record.topic
    return record.property(props.REAL_TOPIC)


def _set_by_producer(record: Record) -> dict[str, str]:
    found = props.decode(record.properties)
    return {key: value for key, value in found.items() if key not in _NOT_THE_PRODUCERS}


def _original(record: Record) -> Original:
    queue_id, deliver = record.queue_id, None
    if record.topic in STORED_FOR_ANOTHER:
        queue_id = int(record.property(props.REAL_QUEUE_ID) or 0)
    if record.topic == names.TIMER_TOPIC:
        deliver = record.property(props.TIMER_OUT_MS)
    return Original(
        store_host=record.store_host,
        queue_id=queue_id,
        deliver_ms=None if deliver is None else int(deliver),
    )
