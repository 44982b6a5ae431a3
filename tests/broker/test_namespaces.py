"""Names with a namespace in front, as Java's and Go's clients write them: `ns%orders`, `ns%shop`,
`%RETRY%ns%shop`. To the broker they are just names, so nothing may ever look for a `%`."""

import pytest

from dledger_py.remoting.commands.groups import CreateGroup, DeleteGroup, GroupConfig
from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.commands.locks import LockQueues
from dledger_py.remoting.commands.offsets import QueryConsumerOffset, UpdateConsumerOffset
from dledger_py.remoting.commands.operations import GetConsumeStats, QueryTopicGroups
from dledger_py.remoting.commands.progress import QueryGroupTopics
from dledger_py.remoting.commands.pulling import PullMessage
from dledger_py.remoting.commands.resets import ResetOffsets
from dledger_py.remoting.commands.routes import TopicList
from dledger_py.remoting.commands.send_back import SendBack
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.statistics import ConsumeStats, GroupList
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from dledger_py.remoting.wire.message import Record, decode_records
from dledger_py.remoting.wire.properties import decode as properties_of
from dledger_py.remoting.wire.properties import encode as properties_text
from tests.broker.rooms_kit import Desk, header
from tests.broker.test_delays import go_on

NAMESPACES = ("MQ_INST_1", "MQ_INST_2")
RETRY, DEAD = "%RETRY%MQ_INST_1%shop", "%DLQ%MQ_INST_1%shop"


@pytest.fixture
def desk(tmp_path) -> Desk:
    desk = Desk(tmp_path)
    for name in NAMESPACES:
        desk.beat(f"{name}%shop", f"{name}%orders", client_id=f"c-{name}", by=desk.connect())
        send(desk, f"{name}%orders", name.encode())
    return desk


def send(desk: Desk, topic: str, body: bytes, **properties: str) -> None:
    """The first makes the topic, as RocketMQ lets producers do."""
    request = SendMessage(
        producer_group="MQ_INST_1%pg",
        topic=topic,
        queue_id=0,
        default_topic="TBW102",
        properties=properties_text({"UNIQ_KEY": "U1", **properties}),
    )
    assert 0 == desk.ask(request, body, code=310).code


def pulled(desk: Desk, topic: str, group: str = "MQ_INST_1%shop") -> list[Record]:
    """By the subscription of the heartbeat."""
    request = PullMessage(
        consumer_group=group, topic=topic, queue_id=0, queue_offset=0, max_msg_nums=32, sys_flag=0
    )
    answer = desk.ask(request)
    return decode_records(answer.body) if answer.code == 0 else []


def test_namespaces_do_not_mix(desk) -> None:
    for name in NAMESPACES:
        (record,) = pulled(desk, f"{name}%orders", f"{name}%shop")
        assert (name.encode(), f"{name}%orders") == (record.body, record.topic)
        desk.ask(
            UpdateConsumerOffset(
                consumer_group=f"{name}%shop", topic=f"{name}%orders", queue_id=0, commit_offset=1
            )
        )
        topics = decode_body(TopicList, desk.ask(QueryGroupTopics(group=f"{name}%shop")).body)
        groups = decode_body(GroupList, desk.ask(QueryTopicGroups(topic=f"{name}%orders")).body)
        assert ((f"{name}%orders",), (f"{name}%shop",)) == (topics.topic_list, groups.group_list)
    assert (
        22 == desk.ask(QueryConsumerOffset(consumer_group="shop", topic="orders", queue_id=0)).code
    )


def test_what_is_sent_back_comes_again_and_is_given_up_at_last(desk) -> None:
    desk.ask(
        CreateGroup(), encode_body(GroupConfig(group_name="MQ_INST_1%shop", retry_max_times=1))
    )
    (record,) = pulled(desk, "MQ_INST_1%orders")
    for topic in (RETRY, DEAD):
        back = SendBack(offset=record.physical_offset, delay_level=0, group="MQ_INST_1%shop")
        assert 0 == desk.ask(back).code
        go_on(desk, 10_000)
        assert topic in desk.machine.topics
        if topic == RETRY:
            (record,) = stored(desk, RETRY)
    (dead,) = stored(desk, DEAD)

    assert "MQ_INST_1%orders" == properties_of(record.properties)["RETRY_TOPIC"]
    assert "MQ_INST_1%orders" == properties_of(dead.properties)["RETRY_TOPIC"]
    assert b"MQ_INST_1" == dead.body
    assert "%RETRY%MQ_INST_2%shop" in desk.machine.topics
    assert "%DLQ%MQ_INST_2%shop" not in desk.machine.topics


def stored(desk: Desk, topic: str) -> list[Record]:
    request = PullMessage(
        consumer_group="TOOLS_CONSUMER",
        topic=topic,
        queue_id=0,
        queue_offset=0,
        max_msg_nums=32,
        sys_flag=4,
        subscription="*",
    )
    return decode_records(desk.ask(request).body)


def test_delays_and_transactions_find_their_topic(desk) -> None:
    send(desk, "MQ_INST_1%orders", b"later", DELAY="1")
    go_on(desk, 1000)
    send(desk, "MQ_INST_1%orders", b"half", TRAN_MSG="true", PGROUP="MQ_INST_1%pg")
    (half,) = stored(desk, "RMQ_SYS_TRANS_HALF_TOPIC")

    assert [b"MQ_INST_1", b"later"] == [each.body for each in pulled(desk, "MQ_INST_1%orders")]
    assert "MQ_INST_1%orders" == properties_of(half.properties)["REAL_TOPIC"]


def test_queues_are_locked_for_the_group_of_a_namespace(desk) -> None:
    for name in NAMESPACES:
        body = (
            f'{{"consumerGroup":"{name}%shop","clientId":"c-{name}","mqSet":'
            f'[{{"brokerName":"broker-a","queueId":0,"topic":"{name}%orders"}}]}}'
        )
        assert b'"queueId":0' in desk.ask(LockQueues(), body.encode()).body


async def test_operators_use_the_whole_name(desk) -> None:
    reset = ResetOffsets(group="MQ_INST_1%shop", topic="MQ_INST_1%orders", timestamp=-1)
    assert 0 == desk.ask(reset).code
    stats = decode_body(
        ConsumeStats,
        (await desk.ask_async(GetConsumeStats(consumer_group="MQ_INST_1%shop"))).body,
    )
    assert {"MQ_INST_1%orders", RETRY} == {queue.topic for queue in stats.offset_table}
    change = CreateTopic(topic="MQ_INST_1%orders", read_queue_nums=2, write_queue_nums=2, perm=6)
    assert 0 == desk.ask(change).code
    assert 0 == desk.ask(DeleteTopic(topic="MQ_INST_1%orders")).code
    assert 0 == desk.ask(DeleteGroup(group_name="MQ_INST_1%shop", clean_offset=True)).code
    assert "MQ_INST_1%shop" not in desk.machine.groups
    assert {"MQ_INST_2%orders"} == {
        name for name in desk.machine.topics.names() if "%orders" in name
    }


@pytest.mark.parametrize("fields", [{"nsd": "true", "ns": "MQ_INST_1"}, {"ns": "MQ_INST_1"}])
def test_the_second_kind_of_namespace_changes_nothing(desk, fields) -> None:
    """Java's `namespaceV2` says it in fields of its own, which RocketMQ's broker does not read."""
    request = SendMessage(producer_group="pg", topic="plain", queue_id=0, default_topic="TBW102")
    assert 0 == header_code(desk, request, fields)
    assert {"plain"} == {name for name in desk.machine.topics.names() if "plain" in name}


def header_code(desk: Desk, request: SendMessage, fields: dict[str, str]) -> int:
    answer = desk.ask(request, b"x", code=310, fields=fields)
    assert header(SendMessage, answer).queue_id == 0
    return int(answer.code)
