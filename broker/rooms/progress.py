"""What operators ask about groups: offsets, times, what is left to do, entries of a queue.

Every member answers from what it has applied. Who is connected is known from heartbeats, which go
to every member.

Source: protocol pages 02 (f) and 06 (§8, 11); AdminBrokerProcessor.java,
ConsumerOffsetManager.java.
"""

from collections.abc import Callable
from typing import Final

from attrs import define

from broker.errors import QueueNotFound
from broker.formats import UNIT
from broker.machine import names
from broker.machine.machine import Machine
from broker.machine.timer_wheel import LEVELS_MS
from broker.machine.topics import TopicConfig
from broker.rooms._admission import known_topic
from broker.rooms._stored_times import StoredTimes
from broker.rooms.operations import TPS_WINDOW_S
from broker.serving.client_table import ClientTable
from broker.serving.rates import Rates
from broker.store.consume_queues import ConsumeQueues
from dledger_py.remoting.commands.heartbeats import SubscriptionData
from dledger_py.remoting.commands.json_bodies import encode_body
from dledger_py.remoting.commands.progress import (
    AllConsumeStats,
    CorrectionOffsets,
    DelayOffsets,
    GetAllConsumeStats,
    GetAllOffsets,
    GetDelayOffsets,
    GroupSubscription,
    OffsetTable,
    QueryConsumeQueue,
    QueryCorrectionOffsets,
    QueryGroupTopics,
    QuerySubscription,
    QueryTimeSpans,
    QueueEntries,
    QueueEntry,
    TimeSpan,
    TimeSpans,
)
from dledger_py.remoting.commands.routes import TopicList
from dledger_py.remoting.commands.statistics import ConsumeStats, MessageQueue, QueueProgress
from dledger_py.remoting.rooms import Answer, Caller, Refused, handles

ENTRIES_MAX: Final = 1_000  # of a queue's index in one answer: tools ask for 10
INT64_MAX: Final = 2**63 - 1


@define(eq=False, kw_only=True)
class Progress:
    """Codes 43, 45, 303, 308, 317, 321, 343 and 345."""

    broker_name: str
    address: str
    """host:port by which clients reach this member."""
    machine: Machine
    queues: ConsumeQueues
    stored_times: StoredTimes
    clients: ClientTable
    rates: Rates
    now_ms: Callable[[], int]

    @handles(GetAllOffsets)
    def all_offsets(self, request: GetAllOffsets, caller: Caller) -> Answer[None]:
        """Every offset there is."""
        offsets = self.machine.offsets
        table = {
            f"{topic}@{group}": offsets.of_topic(group, topic)
            for group in offsets.groups()
            for topic in offsets.topics_of(group)
        }
        return Answer(body=encode_body(OffsetTable(offset_table=table)))

    @handles(GetDelayOffsets)
    def delay_offsets(self, request: GetDelayOffsets, caller: Caller) -> Answer[None]:
        """How far messages of each level of delay were delivered."""
        table = {
            level: self.machine.moves.cursor(names.SCHEDULE_TOPIC, level - 1)
            for level in range(1, len(LEVELS_MS) + 1)
        }
        moved = {level: offset for level, offset in table.items() if offset}
        return Answer(body=encode_body(DelayOffsets(offset_table=moved)))

    @handles(QueryGroupTopics)
    def topics_of_group(self, request: QueryGroupTopics, caller: Caller) -> Answer[None]:
        """The topics a group has offsets of."""
        topics = self.machine.offsets.topics_of(request.group)
        return Answer(body=encode_body(TopicList(topic_list=tuple(sorted(topics)))))

    @handles(QuerySubscription)
    def subscription(self, request: QuerySubscription, caller: Caller) -> Answer[None]:
        """What the group's connected consumers want of a topic."""
        body = GroupSubscription(
            group=request.group,
            topic=request.topic,
            subscription_data=self._subscription(request.group, request.topic),
        )
        return Answer(body=encode_body(body))

    @handles(QueryTimeSpans)
    async def time_spans(self, request: QueryTimeSpans, caller: Caller) -> Answer[None]:
        """How old the messages of each queue are, and the last one the group has consumed."""
        topic = known_topic(self.machine, request.topic)
        spans = [
            await self._time_span(topic.name, queue_id, request.group)
            for queue_id in range(topic.write_queues)
        ]
        return Answer(body=encode_body(TimeSpans(consume_time_span_set=tuple(spans))))

    @handles(QueryCorrectionOffsets)
    def corrections(self, request: QueryCorrectionOffsets, caller: Caller) -> Answer[None]:
        """The least offset of all groups, for each queue of which the compared group has one;
        the largest number where its own is less than all others'."""
        topic, offsets = request.topic, self.machine.offsets
        compared = dict(offsets.of_topic(request.compare_group, topic))
        ignored = set(request.filter_groups.split(","))
        least: dict[int, int] = {}
        for group in offsets.groups_of(topic):
            if group in ignored:
                continue
            for queue_id, offset in offsets.of_topic(group, topic).items():
                if offset >= self.queues.min_offset(topic, queue_id):
                    least[queue_id] = min(offset, least.get(queue_id, INT64_MAX))
        for queue_id, offset in compared.items():
            if least.get(queue_id, INT64_MAX) > offset:
                least[queue_id] = INT64_MAX
        return Answer(body=encode_body(CorrectionOffsets(correction_offsets=least)))

    @handles(GetAllConsumeStats)
    async def all_consume_stats(self, request: GetAllConsumeStats, caller: Caller) -> Answer[None]:
        """How far every group is in each topic it has offsets of."""
        stats = []
        behind = in_flight = 0
        for group in self.machine.groups.names():
            of_group = []
            for name in self.machine.offsets.topics_of(group):
                topic = self.machine.topics.get(name)
                if topic is None or (request.is_order and not topic.order):
                    continue
                connected = self.clients.consumer_group(group)
                if connected and name not in connected.subscriptions:
                    continue
                found = await self._consume_stats(group, topic)
                of_group.append(found)
                for row in found.offset_table.values():
                    behind += row.broker_offset - row.consumer_offset
                    in_flight += row.pull_offset - row.consumer_offset
            stats.append({group: tuple(of_group)})
        body = AllConsumeStats(
            broker_addr=self.address,
            consume_stats_list=tuple(stats),
            total_diff=behind,
            total_inflight_diff=in_flight,
        )
        return Answer(body=encode_body(body))

    @handles(QueryConsumeQueue)
    def entries(self, request: QueryConsumeQueue, caller: Caller) -> Answer[None]:
        """Entries of a queue's index. Raises: TopicNotFound, QueueNotFound, Refused."""
        topic = known_topic(self.machine, request.topic)
        if not 0 <= request.queue_id < topic.queues:
            raise QueueNotFound(topic.name, request.queue_id, topic.queues)
        limit = max(0, min(request.count, ENTRIES_MAX))
        units = self.queues.range(topic.name, request.queue_id, request.index, limit)
        if not units:
            raise Refused(f"Index {request.index} of {request.queue_id}@{topic.name} is not exist!")
        subscription = said = None
        if request.consumer_group:
            subscription = self._subscription(request.consumer_group, topic.name)
            if subscription is None:
                said = f"{request.consumer_group}@{topic.name} is not online!"
        body = QueueEntries(
            min_queue_index=self.queues.min_offset(topic.name, request.queue_id),
            max_queue_index=self.queues.next_offset(topic.name, request.queue_id),
            queue_data=tuple(
                QueueEntry(physic_offset=position, physic_size=size, tags_code=tags_code)
                for position, size, tags_code in UNIT.iter_unpack(units)
            ),
            subscription_data=subscription,
            filter_data=said,
        )
        return Answer(body=encode_body(body))

    # --- pieces ----------------------------------------------------------------------------------

    def _queue(self, topic: str, queue_id: int) -> MessageQueue:
        return MessageQueue(topic=topic, broker_name=self.broker_name, queue_id=queue_id)

    def _subscription(self, group: str, topic: str) -> SubscriptionData | None:
        connected = self.clients.consumer_group(group)
        return connected.subscriptions.get(topic) if connected else None

    async def _time_span(self, topic: str, queue_id: int, group: str) -> TimeSpan:
        first = self.queues.min_offset(topic, queue_id)
        end = self.queues.next_offset(topic, queue_id)
        offset = self.machine.offsets.get(group, topic, queue_id) or 0
        oldest = await self._stored_ms(topic, queue_id, first)
        waiting = await self._stored_ms(topic, queue_id, max(first, offset))
        return TimeSpan(
            message_queue=self._queue(topic, queue_id),
            min_time_stamp=oldest,
            max_time_stamp=await self._stored_ms(topic, queue_id, end - 1),
            consume_time_stamp=await self._stored_ms(topic, queue_id, offset - 1)
            if offset
            else oldest,
            delay_time=0 if waiting < 0 else max(0, self.now_ms() - waiting),
        )

    async def _stored_ms(self, topic: str, queue_id: int, offset: int) -> int:
        stored_ms = await self.stored_times.of(topic, queue_id, offset)
        return -1 if stored_ms is None else stored_ms

    async def _consume_stats(self, group: str, topic: TopicConfig) -> ConsumeStats:
        connected = self.clients.consumer_group(group)
        table = {}
        for queue_id in range(topic.write_queues):
            offset = self.machine.offsets.get(group, topic.name, queue_id) or 0
            last = await self._stored_ms(topic.name, queue_id, offset - 1) if offset else 0
            pulled = connected.pulled.get((topic.name, queue_id), 0) if connected else 0
            table[self._queue(topic.name, queue_id)] = QueueProgress(
                broker_offset=self.queues.next_offset(topic.name, queue_id),
                consumer_offset=offset,
                pull_offset=max(pulled, offset),
                last_timestamp=max(0, last),
            )
        tps = self.rates.group(topic.name, group).per_second(TPS_WINDOW_S)
        return ConsumeStats(offset_table=table, consume_tps=tps)
