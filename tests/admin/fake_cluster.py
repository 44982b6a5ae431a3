"""A real name server and a pretended broker group, for whoever asks as operators do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field

from dledger_py.client.connection import open_connection
from dledger_py.remoting.commands.groups import (
    CreateGroup,
    DeleteGroup,
    GetAllGroups,
    GetGroup,
    GroupConfig,
    GroupTable,
    GroupTableReply,
)
from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.commands.operations import (
    ChangeMembers,
    GetAllProducers,
    GetBrokerConfig,
    GetBrokerConfigReply,
    GetBrokerRuntime,
    GetConsumerConnections,
    GetConsumeStats,
    GetProducerConnections,
    GetTopicStats,
    QueryTopicGroups,
    TransferLeadership,
    UpdateBrokerConfig,
)
from dledger_py.remoting.commands.queries import QueryMessage, QueryReply, ViewMessage
from dledger_py.remoting.commands.registrations import RegisterBody, encode_registration
from dledger_py.remoting.commands.relays import GetConsumerRunningInfo
from dledger_py.remoting.commands.resets import CloneOffsets, OffsetsByQueue, ResetOffsets
from dledger_py.remoting.commands.routing import RegisterBroker
from dledger_py.remoting.commands.sending import SendMessage, SendReply
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
    TopicStats,
)
from dledger_py.remoting.commands.topics import (
    CreateTopic,
    DeleteTopic,
    GetTopic,
    TopicConfig,
    TopicTable,
)
from dledger_py.remoting.commands.transactions import ResumeCheck
from dledger_py.remoting.rooms import Answer, Caller, Refused, handles, routes
from dledger_py.remoting.server import Server
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.message import (
    decode_record,
    encode_record,
    offset_message_id,
    pack_host,
    patch_offsets,
)
from dledger_py.remoting.wire.properties import encode as encode_properties
from dledger_py.remoting.wire.properties import find as find_property
from namesrv.app import NameServer
from namesrv.config import NamesrvConfig

TOPICS = ("Orders", "RMQ_SYS_TRACE_TOPIC", "TBW102", "%RETRY%billing", "%RETRY%left-over")
POP_TOPICS = ("%RETRY%popping_Orders", "%RETRY%my_Orders", "%RETRY%gone_Orders")
"""Retries of what group `popping` popped; of a group `my_Orders`; of a group that is no more."""


@define(eq=False)
class FakeBroker:
    """One member that knows one topic and one group."""

    changes: list[object] = field(factory=list)
    stored: dict[tuple[str, str], list[bytes]] = field(factory=dict)
    """Records by topic and key."""
    refuse: Refused | None = None
    answers: bool = True
    group_names: tuple[str, ...] = ("billing", "popping", "my", "my_Orders")
    port: int = 0

    @handles(GetBrokerRuntime)
    async def runtime(self, request: GetBrokerRuntime, caller: Caller) -> Answer[None]:
        while not self.answers:
            await trio.sleep_forever()
        table = {
            "brokerVersionDesc": "V5_3_3",
            "raftRole": "leader",
            "raftTerm": "7",
            "raftNode": "n0",
            "raftLastIndex": "120",
            "raftDurableIndex": "119",
            "raftCommittedIndex": "118",
            "raftAppliedIndex": "117",
            "raftSnapshotIndex": "90",
            "raftMembership": "n0:voter,n3:learner",
            "raftAddresses": "n0=10.0.0.1:1,n3=10.0.0.4:1",
            "putTps": "12.5 11.0 10.0",
            "getTransferredTps": "3.0 2.0 1.0",
            "msgPutTotalTodayNow": "41",
            "msgGetTotalTodayNow": "40",
        }
        return Answer(body=encode_body(KeyValueTable(table=table)))

    @handles(GetTopicStats)
    def topic_stats(self, request: GetTopicStats, caller: Caller) -> Answer[None]:
        table = {
            _queue(number): QueueOffsets(
                min_offset=0, max_offset=10 + number, last_update_timestamp=1_700_000_000_123
            )
            for number in (1, 0)
        }
        return Answer(body=encode_body(TopicStats(offset_table=table)))

    @handles(GetConsumeStats)
    def consume_stats(self, request: GetConsumeStats, caller: Caller) -> Answer[None]:
        if request.consumer_group != "billing" or request.topic not in (None, "Orders"):
            return Answer(body=encode_body(ConsumeStats()))
        table = {
            _queue(0): QueueProgress(
                broker_offset=10, consumer_offset=7, pull_offset=9, last_timestamp=1
            )
        }
        return Answer(body=encode_body(ConsumeStats(offset_table=table, consume_tps=1.5)))

    @handles(GetConsumerConnections)
    def consumers(self, request: GetConsumerConnections, caller: Caller) -> Answer[None]:
        if request.consumer_group != "billing":
            raise Refused("not online", code=ResponseCode.CONSUMER_NOT_ONLINE)
        client = ClientConnection(
            client_id="c-1", client_addr="10.0.0.9:1", language="JAVA", version=479
        )
        return Answer(body=encode_body(ConsumerConnections(connection_set=(client,))))

    @handles(QueryTopicGroups)
    def groups(self, request: QueryTopicGroups, caller: Caller) -> Answer[None]:
        names = ("billing",) if request.topic == "Orders" else ()
        return Answer(body=encode_body(GroupList(group_list=names)))

    @handles(QueryMessage)
    def query(self, request: QueryMessage, caller: Caller) -> Answer[QueryReply]:
        found = self.stored.get((request.topic, request.key))
        if found is None:
            raise Refused("nothing", code=ResponseCode.QUERY_NOT_FOUND)
        return Answer(QueryReply(), body=b"".join(found))

    @handles(ViewMessage)
    def view(self, request: ViewMessage, caller: Caller) -> Answer[None]:
        for records in self.stored.values():
            for record in records:
                if decode_record(record).physical_offset == request.offset:
                    return Answer(body=record)
        raise Refused("can not find message by the offset")

    @handles(CreateTopic)
    def create(self, request: CreateTopic, caller: Caller) -> Answer[None]:
        return self._change(request)

    @handles(TransferLeadership)
    def transfer(self, request: TransferLeadership, caller: Caller) -> Answer[None]:
        return self._change(request)

    @handles(ChangeMembers)
    def change_members(self, request: ChangeMembers, caller: Caller) -> Answer[None]:
        return self._change(request)

    @handles(DeleteTopic)
    def delete(self, request: DeleteTopic, caller: Caller) -> Answer[None]:
        return self._change(request)

    @handles(SendMessage)
    def send(self, request: SendMessage, caller: Caller) -> Answer[SendReply]:
        self._change((request.topic, request.queue_id, caller.frame.body))
        unique_id = find_property(request.properties, "UNIQ_KEY")
        reply = SendReply(
            msg_id=offset_message_id(pack_host("127.0.0.1", self.port), 9),
            queue_id=request.queue_id,
            queue_offset=17,
            transaction_id=unique_id,
        )
        return Answer(reply)

    @handles(GetTopic)
    def topic(self, request: GetTopic, caller: Caller) -> Answer[None]:
        if request.topic == "New":
            raise Refused("no such topic", code=ResponseCode.TOPIC_NOT_EXIST)
        config = TopicConfig(topic_name=request.topic, read_queue_nums=3, write_queue_nums=2)
        return Answer(body=encode_body(config))

    @handles(GetGroup)
    def group(self, request: GetGroup, caller: Caller) -> Answer[None]:
        if request.group != "billing":
            raise Refused("no group", code=ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST)
        return Answer(body=encode_body(GroupConfig(group_name="billing", retry_queue_nums=7)))

    @handles(GetAllGroups)
    def all_groups(self, request: GetAllGroups, caller: Caller) -> Answer[GroupTableReply]:
        table = {name: GroupConfig(group_name=name) for name in self.group_names}
        return Answer(
            GroupTableReply(), body=encode_body(GroupTable(subscription_group_table=table))
        )

    @handles(CreateGroup)
    def create_group(self, request: CreateGroup, caller: Caller) -> Answer[None]:
        return self._change(decode_body(GroupConfig, caller.frame.body))

    @handles(DeleteGroup)
    def delete_group(self, request: DeleteGroup, caller: Caller) -> Answer[None]:
        return self._change(request)

    @handles(CloneOffsets)
    def clone(self, request: CloneOffsets, caller: Caller) -> Answer[None]:
        return self._change(request)

    @handles(ResumeCheck)
    def resume(self, request: ResumeCheck, caller: Caller) -> Answer[None]:
        return self._change(request)

    @handles(ResetOffsets)
    def reset(self, request: ResetOffsets, caller: Caller) -> Answer[None]:
        self._change(request)
        return Answer(body=encode_body(OffsetsByQueue(offset_table={_queue(0): 4, _queue(1): 5})))

    @handles(GetConsumerRunningInfo)
    def running(self, request: GetConsumerRunningInfo, caller: Caller) -> Answer[None]:
        if request.client_id != "c-1":
            raise Refused("no such client")
        return Answer(body=b'{"mqTable":{{"queueId":0,"topic":"Orders"}:{"locked":false}}}')

    @handles(GetProducerConnections)
    def producers(self, request: GetProducerConnections, caller: Caller) -> Answer[None]:
        if request.producer_group != "pg":
            raise Refused("no producer")
        client = ClientConnection(
            client_id="p-1", client_addr="10.0.0.8:1", language="GO", version=431
        )
        return Answer(body=encode_body(ProducerConnections(connection_set=(client,))))

    @handles(GetAllProducers)
    def all_producers(self, request: GetAllProducers, caller: Caller) -> Answer[None]:
        producer = ProducerInfo(
            client_id="p-1",
            remote_address="10.0.0.8:1",
            language="GO",
            version=431,
            last_update_timestamp=1,
        )
        return Answer(body=encode_body(ProducerTable(data={"pg": (producer,)})))

    @handles(GetBrokerConfig)
    def config(self, request: GetBrokerConfig, caller: Caller) -> Answer[GetBrokerConfigReply]:
        return Answer(GetBrokerConfigReply(version="{}"), body=b"maxMessageSize=4\n")

    @handles(UpdateBrokerConfig)
    def update_config(self, request: UpdateBrokerConfig, caller: Caller) -> Answer[None]:
        return self._change(caller.frame.body)

    def _change(self, request: object) -> Answer[None]:
        if self.refuse is not None:
            raise self.refuse
        self.changes.append(request)
        return Answer()

    def put(
        self,
        topic: str,
        key: str,
        body: bytes,
        *,
        properties: dict[str, str] | None = None,
        position: int = 1000,
        queue_offset: int = 5,
        stored_ms: int = 1_700_000_000_500,
    ) -> None:
        """Have a message that is found by this key."""
        host = pack_host("127.0.0.1", self.port)
        record = bytearray(
            encode_record(
                queue_id=0,
                flag=0,
                sys_flag=0,
                born_timestamp_ms=1_700_000_000_000,
                born_host=pack_host("10.0.0.9", 4711),
                store_timestamp_ms=stored_ms,
                store_host=host,
                reconsume_times=0,
                body=body,
                topic=topic,
                properties=encode_properties(properties or {}).encode(),
            )
        )
        patch_offsets(record, 0, queue_offset, position)
        self.stored.setdefault((topic, key), []).append(bytes(record))


@define(eq=False)
class FakeCluster:
    """What a test is given: addresses, and the broker to look into."""

    name_server: str
    broker_address: str
    broker: FakeBroker
    table: NameServer


@asynccontextmanager
async def fake_cluster(
    directory: Path, topics: tuple[str, ...] = TOPICS
) -> AsyncIterator[FakeCluster]:
    """One name server, one broker that leads, one member that is registered and dead."""
    broker = FakeBroker()
    name_server = NameServer(NamesrvConfig(listen="127.0.0.1:0", data_dir=directory))
    server = Server(routes([broker]), [("127.0.0.1", 0)])
    async with trio.open_nursery() as nursery:
        ((_, name_server_port),) = await nursery.start(name_server.run)
        ((_, port),) = await nursery.start(server.run)
        broker.port = port
        async with open_connection("127.0.0.1", name_server_port) as connection:
            for broker_id, address in ((0, f"127.0.0.1:{port}"), (2, "127.0.0.1:1")):
                request = RegisterBroker(
                    broker_name="broker-a",
                    broker_addr=address,
                    cluster_name="DefaultCluster",
                    broker_id=broker_id,
                )
                await connection.call(request, _topics(topics))
            yield FakeCluster(
                f"127.0.0.1:{name_server_port}", f"127.0.0.1:{port}", broker, name_server
            )
        nursery.cancel_scope.cancel()


def _queue(number: int) -> MessageQueue:
    return MessageQueue(topic="Orders", broker_name="broker-a", queue_id=number)


def _topics(names: tuple[str, ...]) -> bytes:
    table = {name: TopicConfig(topic_name=name, read_queue_nums=4) for name in names}
    return encode_registration(
        RegisterBody(topic_config_serialize_wrapper=TopicTable(topic_config_table=table))
    )
