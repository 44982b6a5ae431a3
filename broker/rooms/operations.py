"""What operators ask of a member: its state, its queues, who is connected, how far groups are.

Bodies and their traps: protocol pages 06 (§5, 7, 8) and 11.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from attrs import define

from broker.errors import NotOnline
from broker.machine import names
from broker.machine.machine import Machine
from broker.rooms._admission import known_topic
from broker.rooms._stored_times import StoredTimes
from broker.serving.client_table import Client, ClientTable, ConsumerGroup
from broker.serving.histories import Passed
from broker.serving.rates import Rates
from broker.store.consume_queues import ConsumeQueues
from dledger_py.remoting.commands.json_bodies import encode_body
from dledger_py.remoting.commands.operations import (
    GetAllProducers,
    GetBrokerRuntime,
    GetConsumerConnections,
    GetConsumeStats,
    GetProducerConnections,
    GetTopicStats,
    QueryTopicGroups,
    ViewStatistic,
)
from dledger_py.remoting.commands.statistics import (
    ClientConnection,
    ConsumerConnections,
    ConsumeStats,
    GroupList,
    KeyValueTable,
    MessageQueue,
    ProducerConnections,
    ProducerInfo,
    ProducerTable,
    QueueOffsets,
    QueueProgress,
    StatisticReply,
    Sum,
    TopicStats,
)
from dledger_py.remoting.rooms import Answer, Caller, Refused, handles

TPS_WINDOW_S: Final = 10  # what the tables of the tools call TPS


@define(eq=False, kw_only=True)
class Operations:
    """Codes 28, 202, 203, 204, 208, 300, 315 and 328."""

    cluster_name: str
    broker_name: str
    machine: Machine
    queues: ConsumeQueues
    stored_times: StoredTimes
    clients: ClientTable
    rates: Rates
    runtime: Callable[[int], dict[str, str]]
    now_ms: Callable[[], int]
    monotonic_ms: Callable[[], int]

    @handles(GetBrokerRuntime)
    def runtime_info(self, request: GetBrokerRuntime, caller: Caller) -> Answer[None]:
        """Counters and gauges as text."""
        return Answer(body=encode_body(KeyValueTable(table=self.runtime(self.now_ms()))))

    @handles(GetTopicStats)
    async def topic_stats(self, request: GetTopicStats, caller: Caller) -> Answer[None]:
        """Where the topic's queues begin and end."""
        topic = known_topic(self.machine, request.topic)
        table = {}
        for queue_id in range(topic.queues):
            end = self.queues.next_offset(topic.name, queue_id)
            newest = await self.stored_times.of(topic.name, queue_id, end - 1) if end else None
            table[self._queue(topic.name, queue_id)] = QueueOffsets(
                min_offset=self.queues.min_offset(topic.name, queue_id),
                max_offset=end,
                last_update_timestamp=newest or 0,
            )
        tps = self.rates.topic(topic.name).per_second(TPS_WINDOW_S)
        return Answer(body=encode_body(TopicStats(offset_table=table, topic_put_tps=tps)))

    @handles(GetConsumeStats)
    async def consume_stats(self, request: GetConsumeStats, caller: Caller) -> Answer[None]:
        """How far the group has come in each queue of its topics."""
        group = request.consumer_group
        table = {}
        tps = 0.0
        for topic, queue_id in self._queues_of(group, request.topic, request.topic_list):
            end = self.queues.next_offset(topic, queue_id)
            offset = self.machine.offsets.get(group, topic, queue_id) or 0
            last = await self.stored_times.of(topic, queue_id, offset - 1) if offset else None
            connected = self.clients.consumer_group(group)
            pulled = connected.pulled.get((topic, queue_id), 0) if connected else 0
            table[self._queue(topic, queue_id)] = QueueProgress(
                broker_offset=end,
                consumer_offset=offset,
                pull_offset=max(pulled, offset),
                last_timestamp=last or 0,
            )
            if queue_id == 0:
                tps += self.rates.group(topic, group).per_second(TPS_WINDOW_S)
        return Answer(body=encode_body(ConsumeStats(offset_table=table, consume_tps=tps)))

    @handles(GetConsumerConnections)
    def consumers(self, request: GetConsumerConnections, caller: Caller) -> Answer[None]:
        """The group's consumers, and what they said about it."""
        group = self.clients.consumer_group(request.consumer_group)
        if group is None:
            raise NotOnline(request.consumer_group)
        return Answer(
            body=encode_body(
                ConsumerConnections(
                    connection_set=_connections(group.clients.values()),
                    consume_type=group.consume_type,
                    message_model=group.message_model,
                    consume_from_where=group.consume_from_where,
                    subscription_table=group.subscriptions,
                )
            )
        )

    @handles(GetProducerConnections)
    def producers(self, request: GetProducerConnections, caller: Caller) -> Answer[None]:
        """The producers of a group."""
        producers = self.clients.producers(request.producer_group)
        if not producers:
            raise Refused(f"no producer of group [{request.producer_group}] is online")
        return Answer(body=encode_body(ProducerConnections(connection_set=_connections(producers))))

    @handles(GetAllProducers)
    def all_producers(self, request: GetAllProducers, caller: Caller) -> Answer[None]:
        """Every producer, by group."""
        beats_to_wall_ms = self.now_ms() - self.monotonic_ms()
        table = {
            group: tuple(
                ProducerInfo(
                    client_id=client.client_id,
                    remote_address=client.address,
                    language=client.language,
                    version=client.version,
                    last_update_timestamp=client.beat_ms + beats_to_wall_ms,
                )
                for client in clients.values()
            )
            for group, clients in self.clients.producer_groups().items()
        }
        return Answer(body=encode_body(ProducerTable(data=table)))

    @handles(QueryTopicGroups)
    def groups_of_topic(self, request: QueryTopicGroups, caller: Caller) -> Answer[None]:
        """Groups that consume the topic now, or have committed offsets of it."""
        online = self.clients.consumer_groups_of(request.topic)
        committed = self.machine.offsets.groups_of(request.topic)
        groups = sorted({*online, *committed})
        return Answer(body=encode_body(GroupList(group_list=tuple(groups))))

    @handles(ViewStatistic)
    def statistic(self, request: ViewStatistic, caller: Caller) -> Answer[None]:
        """How many messages passed here. Raises: Refused, if none did or nobody counts that."""
        passed = self._passed(request.stats_name, request.stats_key)
        if passed is None:
            raise Refused(f"The stats <{request.stats_name}> <{request.stats_key}> not exist")
        body = StatisticReply(
            stats_minute=Sum(sum=passed.minute, tps=passed.minute / 60),
            stats_hour=Sum(sum=passed.hour, tps=passed.hour / 3600),
            stats_day=Sum(sum=passed.day, tps=passed.day / 86400),
        )
        return Answer(body=encode_body(body))

    # --- pieces ----------------------------------------------------------------------------------

    def _queue(self, topic: str, queue_id: int) -> MessageQueue:
        return MessageQueue(topic=topic, broker_name=self.broker_name, queue_id=queue_id)

    def _passed(self, name: str, key: str) -> Passed | None:
        match name:
            case "TOPIC_PUT_NUMS":
                return self.rates.topic_passed(key)
            case "GROUP_GET_NUMS":
                topic, _, group = key.partition("@")
                return self.rates.group_passed(topic, group)
            case "BROKER_PUT_NUMS" if key == self.cluster_name:
                return self.rates.put_passed()
            case "BROKER_GET_NUMS" if key == self.cluster_name:
                return self.rates.got_passed()
            case _:
                return None

    def _queues_of(
        self, group: str, topic: str | None, topic_list: str | None
    ) -> Iterator[tuple[str, int]]:
        """Every readable queue of the topics asked for, or of all the group has to do with.

        Topics that no longer exist are left out: the tools give up at one they cannot route.
        """
        if topic:
            wanted = [topic]
        elif topic_list:
            wanted = topic_list.split(";")
        else:
            connected: ConsumerGroup | None = self.clients.consumer_group(group)
            subscribed = connected.subscriptions if connected else {}
            wanted = sorted({*self.machine.offsets.topics_of(group), *subscribed})
            retry = names.retry_topic_name(group)
            if retry in self.machine.topics and retry not in wanted:
                wanted.append(retry)
        for name in wanted:
            config = self.machine.topics.get(name)
            if config is not None:
                yield from ((name, queue_id) for queue_id in range(config.read_queues))


def _connections(clients: Iterable[Client]) -> tuple[ClientConnection, ...]:
    return tuple(
        ClientConnection(
            client_id=client.client_id,
            client_addr=client.address,
            language=client.language,
            version=client.version,
        )
        for client in clients
    )
