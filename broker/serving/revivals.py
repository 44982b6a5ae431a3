"""Popped messages that nobody acknowledged in time: tried again, or given up, by whoever leads.

When the time of a checkpoint is up, its messages that are still in flight are read, laid out for
the group's retry topic of their topic (`%RETRY%<group>_<topic>`), or for its dead letters if they
came back too often, and proposed as one `RevivePops`. One entry of a queue is under way at a time.

Laws: nothing here is remembered: a new leader reads all of it from the machine. A revival that was
declined, since one of its messages was acknowledged at that moment, is looked at again and proposed
without it.

Elsewhere: that a message is acknowledged or revived and not both (`machine.apply_pops`); that the
log is kept for what is in flight (`retention`, which asks `held`). Source: PopReviveService.java.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import Final, Never

import structlog
import trio
from attrs import define, field, frozen

from broker.errors import MessagesGone
from broker.formats import UNIT_PLACE
from broker.machine import names
from broker.machine.commands import EnsureTopics
from broker.machine.groups import GroupConfig
from broker.machine.machine import Machine
from broker.machine.pops import Handle, PopKey
from broker.machine.put_messages import Message
from broker.machine.replies import Declined
from broker.machine.revivals import Expired, Revival, encode_revival
from broker.machine.topics import (
    PERM_READ,
    PERM_WRITE,
    TOPICS_MAX,
    TopicConfig,
    dead_letter_topic,
)
from broker.serving.cold_reads import ColdReads
from broker.serving.proposals import Proposals
from broker.serving.put_batch import Proposer
from broker.store.consume_queues import ConsumeQueues
from broker.store.message_reader import MessageReader
from dledger_py.actors import Inbox
from dledger_py.ledger.errors import LedgerError
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.message import (
    TRANSACTION_MASK,
    Record,
    decode_records,
    encode_record,
    tags_code,
)

log = structlog.get_logger()

MESSAGES_MAX: Final = 256
"""Of one entry, but for what a single checkpoint has."""

BYTES_MAX: Final = 256 * 1024
"""The same. A pop takes as much at most, or one larger message."""

UNDER_WAY_MAX: Final = 8
"""Entries at once, each of a queue of its own."""

SLEEP_MAX_S: Final = 1.0
"""Between two looks: the wall clock, which says what is due, may be set."""

PAUSE_MS: Final = 100
"""Before a queue is looked at again whose revival was refused."""

LONG_PAUSE_MS: Final = 5_000
"""The same, where an operator has to do something first: an entry that is declined takes room."""

# What is of an earlier life of a message that is given up, as where one is sent back.
_EARLIER: Final = (
    props.REAL_TOPIC,
    props.REAL_QUEUE_ID,
    props.TIMER_OUT_MS,
    props.TIMER_DELAY_SEC,
    props.TIMER_DELAY_MS,
    props.TIMER_DELIVER_MS,
)


@frozen(kw_only=True)
class RevivalStatistics:
    """A snapshot for metrics; since this process began."""

    retried: int
    given_up: int
    waiting_queues: int


@frozen(kw_only=True)
class _Part:
    """What is due of one queue."""

    key: PopKey
    checkpoints: tuple[Expired, ...]
    units: bytes
    pop_ms: Sequence[int]
    """When each of the messages was popped."""


@define(eq=False, kw_only=True)
class Revivals:
    """Actor: wakes when something is due, or something new will be, and this member leads."""

    store_host: bytes
    machine: Machine
    queues: ConsumeQueues
    reader: MessageReader
    cold_reads: ColdReads
    ledger: Proposer
    proposals: Proposals
    leads: Callable[[], bool]
    now_ms: Callable[[], int]
    retried: int = field(default=0, init=False)
    given_up: int = field(default=0, init=False)
    _heap: list[tuple[int, PopKey]] = field(factory=list, init=False)
    """When something of each queue is due; queues may be in it more than once, too soon."""
    _known: dict[PopKey, int] = field(factory=dict, init=False)
    """The soonest entry of each queue."""
    _under_way: set[PopKey] = field(factory=set, init=False)
    _news: trio.Event = field(factory=trio.Event, init=False)

    async def run(self, inbox: Inbox[Never]) -> None:
        """**Raises** `FailStop` if what is due cannot be read."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._revive_for_ever)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _revive_for_ever(self) -> None:
        self.role_changed()
        while True:
            self._news = trio.Event()
            self.look()
            with trio.move_on_after(self.sleep_s()):
                await self._news.wait()

    def sleep_s(self) -> float:
        """How long nothing is due, as far as is known."""
        if not self._heap or len(self._under_way) >= UNDER_WAY_MAX:
            return SLEEP_MAX_S
        return min(max(self._heap[0][0] - self.now_ms(), 0) / 1000, SLEEP_MAX_S)

    def role_changed(self) -> None:
        """Forget what is known, and find it out again if this member leads."""
        self._known.clear()
        self._heap.clear()
        if self.leads():
            for key, _queue in self.machine.pops.queues():
                self._look_at(key)
        self._news.set()

    def began(self, key: PopKey) -> None:
        """Something of this queue is due sooner than anything was."""
        if self.leads() and key not in self._under_way:
            self._look_at(key)
            self._news.set()

    def held(self) -> int | None:
        """The log position of the first message in flight; None if there is none."""
        now_ms = self.now_ms()
        positions = []
        for (_group, topic, queue_id), queue in self.machine.pops.queues():
            offset = queue.needed_from(now_ms)
            unit = b"" if offset is None else self.queues.range(topic, queue_id, offset, 1)
            if unit:
                positions.append(UNIT_PLACE.unpack(unit)[0])
        return min(positions, default=None)

    def statistics(self) -> RevivalStatistics:
        """Counts."""
        return RevivalStatistics(
            retried=self.retried, given_up=self.given_up, waiting_queues=len(self._known)
        )

    def look(self) -> None:
        """Begin to revive what is due. **Raises** `FailStop`."""
        if not self.leads():
            return
        now_ms = self.now_ms()
        while self._heap and self._heap[0][0] <= now_ms and len(self._under_way) < UNDER_WAY_MAX:
            due_ms, key = heapq.heappop(self._heap)
            if self._known.get(key) == due_ms:
                del self._known[key]
                self._begin(key, now_ms)

    def _look_at(self, key: PopKey, not_before_ms: int = 0) -> None:
        """Note when something of a queue is due, if it is not noted for as soon."""
        queue = self.machine.pops.get(key)
        due_ms = queue.due_ms if queue is not None else None
        if due_ms is not None:
            due_ms = max(due_ms, not_before_ms)
            known_ms = self._known.get(key)
            if known_ms is None or due_ms < known_ms:
                self._known[key] = due_ms
                heapq.heappush(self._heap, (due_ms, key))

    def _begin(self, key: PopKey, now_ms: int) -> None:
        """Read what is due of a queue, then propose to move it."""
        part = self._due(key, now_ms)
        if part is None:
            self._look_at(key)  # it was acknowledged, or the clock was set back
            return
        self._under_way.add(key)
        try:
            self._propose(part, self._read(part, nowait=True))
        except BlockingIOError:
            self.cold_reads.submit(
                lambda: self._read(part, nowait=False),
                lambda found: self._propose(part, found),
                lambda _error: self._ended(key, pause_ms=PAUSE_MS),
            )
        except MessagesGone:
            self._ended(key, pause_ms=PAUSE_MS)

    def _due(self, key: PopKey, now_ms: int) -> _Part | None:
        """The first checkpoints that are due; None if none is."""
        queue = self.machine.pops.get(key)
        if queue is None:
            return None
        _group, topic, queue_id = key
        checkpoints: list[Expired] = []
        units: list[bytes] = []
        pop_ms: list[int] = []
        size = 0
        for handle, checkpoint in queue.due(now_ms):
            found = [self.queues.range(topic, queue_id, o, 1) for o in checkpoint.in_flight()]
            found = [unit for unit in found if unit]
            size += sum(UNIT_PLACE.unpack(unit)[1] for unit in found)
            if checkpoints and (size > BYTES_MAX or len(units) + len(found) > MESSAGES_MAX):
                break
            checkpoints.append((*handle, checkpoint.pending))
            units += found
            pop_ms += [_popped_ms(handle)] * len(found)
        if not checkpoints:
            return None
        return _Part(key=key, checkpoints=tuple(checkpoints), units=b"".join(units), pop_ms=pop_ms)

    def _read(self, part: _Part, *, nowait: bool) -> list[Record]:
        """The records of a part. Any thread; **blocks** unless `nowait`. **Raises** `FailStop`,
        `MessagesGone`."""
        chosen = range(len(part.pop_ms))
        fetched = self.reader.read(
            part.units, 0, chosen, messages_max=len(chosen), bytes_max=1 << 62, nowait=nowait
        )
        return decode_records(fetched.body)

    def _propose(self, part: _Part, found: Sequence[Record]) -> None:
        if not self.leads():
            self._ended(part.key)
            return
        group, topic, queue_id = part.key
        now_ms = self.now_ms()
        settings = self.machine.groups.get(group) or GroupConfig(name=group)
        retries = topic if names.is_retry_topic(topic) else names.pop_retry_topic_name(group, topic)
        messages: list[Message] = []
        given_up = 0
        for record, pop_ms in zip(found, part.pop_ms, strict=True):
            if record.reconsume_times >= settings.retry_max_times:
                letters = names.dead_letter_topic_name(group)
                given_up += 1
                messages.append(self._laid_out(record, letters, pop_ms, now_ms, is_letter=True))
            else:
                messages.append(self._laid_out(record, retries, pop_ms, now_ms))
        if not self._ensure({target for target, *_ in messages}, group, now_ms):
            self._ended(part.key, pause_ms=LONG_PAUSE_MS)
            return
        revival = Revival(
            stamped_ms=now_ms,
            group=group,
            topic=topic,
            queue_id=queue_id,
            checkpoints=part.checkpoints,
        )

        def settle(outcome: object) -> None:
            if isinstance(outcome, LedgerError):
                self._ended(part.key, pause_ms=PAUSE_MS)
            elif isinstance(outcome, Declined):
                log.debug("revivals.declined", queue=part.key, reason=outcome.detail)
                self._ended(part.key, pause_ms=PAUSE_MS)
            else:
                self.given_up += given_up
                self.retried += len(messages) - given_up
                self._ended(part.key)

        self.ledger.propose(encode_revival(revival, messages), settle)

    def _ensure(self, topics: set[str], group: str, now_ms: int) -> bool:
        """See to it that these exist; the entry goes into the log before the one that needs it.
        False if they cannot be had."""
        for name in topics:
            config = self.machine.topics.get(name)
            there = len(self.machine.topics) < TOPICS_MAX if config is None else config.queues > 0
            if not there:
                log.warning("revivals.no_queue", topic=name, group=group)
                return False
        missing = tuple(
            dead_letter_topic(group)
            if names.is_dead_letter_topic(name)
            else TopicConfig(name=name, read_queues=1, write_queues=1, perm=PERM_READ | PERM_WRITE)
            for name in sorted(topics)
            if name not in self.machine.topics
        )
        if missing:
            self.proposals.forget(EnsureTopics(stamped_ms=now_ms, topics=missing))
        return True

    def _ended(self, key: PopKey, *, pause_ms: int = 0) -> None:
        self._under_way.discard(key)
        if self.leads():
            self._look_at(key, self.now_ms() + pause_ms)
        self._news.set()

    def _laid_out(
        self, record: Record, topic: str, pop_ms: int, now_ms: int, *, is_letter: bool = False
    ) -> Message:
        """The message as it stands in the log next."""
        parsed = props.decode(record.properties)
        tag = parsed.get(props.TAGS)
        if is_letter:
            for key in _EARLIER:
                parsed.pop(key, None)
            parsed[props.DELAY] = "0"
        parsed.setdefault(props.FIRST_POP_TIME, str(pop_ms))
        parsed.setdefault(props.RETRY_TOPIC, record.topic)
        parsed.setdefault(props.ORIGIN_MESSAGE_ID, record.offset_message_id)
        properties = props.encode(parsed).encode()
        if len(properties) > props.PROPERTIES_SIZE_MAX:
            properties = record.properties.encode()  # better without what we would add than lost
        again = encode_record(
            queue_id=0,
            flag=record.flag,
            sys_flag=record.sys_flag & ~TRANSACTION_MASK,
            born_timestamp_ms=record.born_timestamp_ms,
            born_host=record.born_host,
            store_timestamp_ms=now_ms,
            store_host=self.store_host,
            reconsume_times=record.reconsume_times_again,
            body=record.body,
            topic=topic,
            properties=properties,
        )
        return (topic, 0, tags_code(tag) if tag else 0, again)


def _popped_ms(handle: Handle) -> int:
    return handle[1]
