"""Topics, groups and figures, as operators' tools ask for them."""

import pytest

from dledger_py.remoting.commands.groups import (
    CreateGroup,
    DeleteGroup,
    GetAllGroups,
    GetGroup,
    GroupConfig,
)
from dledger_py.remoting.commands.json_bodies import encode_body, parse
from dledger_py.remoting.commands.offsets import UpdateConsumerOffset
from dledger_py.remoting.commands.operations import (
    GetAllProducers,
    GetConsumerConnections,
    GetConsumeStats,
    GetProducerConnections,
    GetSystemTopics,
    GetTopicStats,
    QueryTopicGroups,
)
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic, GetAllTopics, GetTopic
from dledger_py.remoting.wire.codes import OUR_VERSION
from tests.broker.rooms_kit import Desk


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(tmp_path)


def create(name: str = "orders", **fields) -> CreateTopic:
    given = {"read_queue_nums": 2, "write_queue_nums": 2, "perm": 6}
    return CreateTopic(topic=name, **(given | fields))


@pytest.mark.parametrize(
    "request_, code",
    [
        (create(), 0),
        (create("%RETRY%shop"), 0),
        (create("t" * 127), 0),
        (create("t" * 128), 29),
        (create(""), 29),
        (create("a.b"), 29),
        (create("TBW102"), 29),
        (create("rmq_sys_mine"), 29),
        (create("broker-a"), 29),
        (create(perm=8), 29),
        (create(read_queue_nums=-1), 29),
        (create(write_queue_nums=65_537), 29),
        (create(topic_filter_type="NO_TAG"), 29),
        (create(attributes="+message.type=FIFO"), 0),
        (create(attributes="+message.type=MIXED"), 29),
        (create(attributes="message.type=FIFO"), 1),
        (create(attributes="+colour=red"), 1),
        (create(attributes="-message.type"), 1),
    ],
    ids=str,
)
def test_making_a_topic(desk, request_, code) -> None:
    topics = len(desk.machine.topics)

    assert code == desk.ask(request_).code
    assert (code == 0) == (len(desk.machine.topics) > topics)


def test_a_topics_settings_are_given_back_in_javas_words(desk) -> None:
    desk.ask(create(perm=4, order=True, attributes="+message.type=FIFO"))

    assert {
        "attributes": {"message.type": "FIFO"},
        "order": True,
        "perm": 4,
        "readQueueNums": 2,
        "topicFilterType": "SINGLE_TAG",
        "topicName": "orders",
        "topicSysFlag": 0,
        "writeQueueNums": 2,
    } == parse(desk.ask(GetTopic(topic="orders")).body)


def test_an_unchanged_topic_keeps_the_version_of_the_table(desk) -> None:
    versions = []
    for request in (create(), create(), create(perm=4)):
        desk.now_ms += 1
        desk.ask(request)
        answer = desk.ask(GetAllTopics())
        assert "totalTopicNum" not in answer.fields
        versions.append(parse(answer.body)["dataVersion"]["counter"])

    assert versions[0] == versions[1] == versions[2] - 1


@pytest.mark.parametrize("name, code", [("orders", 0), ("none", 0), ("TBW102", 29)])
def test_deleting_a_topic(desk, name, code) -> None:
    desk.ask(create())

    assert code == desk.ask(DeleteTopic(topic=name)).code
    assert (name == "orders") == ("orders" not in desk.machine.topics)


def test_system_topics_are_listed(desk) -> None:
    desk.ask(create())
    found = set(parse(desk.ask(GetSystemTopics()).body)["topicList"])

    assert {"TBW102", "DefaultCluster", "broker-a", "SCHEDULE_TOPIC_XXXX"} <= found
    assert "orders" not in found


# --- groups ---


def test_a_group_comes_and_goes(desk) -> None:
    body = encode_body(GroupConfig(group_name="shop", retry_max_times=3))
    made = desk.ask(CreateGroup(), body).code
    found = parse(desk.ask(GetGroup(group="shop")).body)
    listed = parse(desk.ask(GetAllGroups()).body)["subscriptionGroupTable"]
    gone = desk.ask(DeleteGroup(group_name="shop")).code
    missing = desk.ask(GetGroup(group="shop")).code

    assert (0, 3, 0, 26) == (made, found["retryMaxTimes"], gone, missing)
    assert {"type": "CUSTOMIZED"} == found["groupRetryPolicy"]
    assert "shop" in listed


@pytest.mark.parametrize(
    "body, code",
    [
        (encode_body(GroupConfig(group_name="a.b")), 29),
        (encode_body(GroupConfig(group_name="g" * 121)), 29),
        (encode_body(GroupConfig(group_name="shop", retry_queue_nums=-1)), 29),
        (encode_body(GroupConfig(group_name="shop", retry_max_times=2**31)), 1),
        (b"{}", 1),
        (b"rubbish", 1),
    ],
)
def test_a_group_that_cannot_be_is_refused(desk, body, code) -> None:
    assert code == desk.ask(CreateGroup(), body).code


@pytest.mark.parametrize("clean, left", [(False, ("orders",)), (True, ())])
def test_deleting_a_group_may_take_its_offsets_along(desk, clean, left) -> None:
    desk.ask(create())
    desk.beat("shop", "orders")
    desk.ask(
        UpdateConsumerOffset(consumer_group="shop", topic="orders", queue_id=0, commit_offset=1)
    )
    desk.ask(DeleteGroup(group_name="shop", clean_offset=clean))

    assert left == desk.machine.offsets.topics_of("shop")


def test_predefined_groups_stay(desk) -> None:
    assert 29 == desk.ask(DeleteGroup(group_name="TOOLS_CONSUMER")).code


@pytest.mark.parametrize(
    "request_", [create(), DeleteTopic(topic="x"), CreateGroup(), DeleteGroup(group_name="g")]
)
def test_followers_hand_changes_on_unread(desk, request_) -> None:
    desk.gate.leads = False
    entries = desk.ledger.entries
    desk.ask(request_)

    assert [request_.code] == [frame.code for frame in desk.gate.relayed]
    assert entries == desk.ledger.entries


# --- figures ---


async def test_where_queues_begin_and_end(desk) -> None:
    desk.ask(create())
    desk.ask(SendMessage(producer_group="p", topic="orders", queue_id=1), b"x")
    answer = await desk.ask_async(GetTopicStats(topic="orders"))
    table = parse(answer.body)["offsetTable"]

    def key(queue_id: int) -> str:
        return f'{{"brokerName":"broker-a","queueId":{queue_id},"topic":"orders"}}'

    assert {
        key(0): {"lastUpdateTimestamp": 0, "maxOffset": 0, "minOffset": 0},
        key(1): {"lastUpdateTimestamp": desk.now_ms, "maxOffset": 1, "minOffset": 0},
    } == table


@pytest.mark.parametrize(
    "fields, topics",
    [
        ({}, {"orders", "%RETRY%shop"}),
        ({"topic": "orders"}, {"orders"}),
        ({"topic_list": "other;;orders"}, {"other", "orders"}),
        ({"topic": "none"}, set()),
    ],
)
async def test_how_far_a_group_is(desk, fields, topics) -> None:
    desk.ask(create())
    desk.ask(create("other"))
    desk.beat("shop", "orders")
    for _ in range(3):
        desk.ask(SendMessage(producer_group="p", topic="orders", queue_id=0), b"x")
    desk.ask(
        UpdateConsumerOffset(consumer_group="shop", topic="orders", queue_id=0, commit_offset=2)
    )
    answer = await desk.ask_async(GetConsumeStats(consumer_group="shop", **fields))
    table = {str(key): row for key, row in parse(answer.body)["offsetTable"].items()}
    first = table.get('{"brokerName":"broker-a","queueId":0,"topic":"orders"}')

    assert topics == {parse(key.encode())["topic"] for key in table}
    if "orders" in topics:
        assert {
            "brokerOffset": 3,
            "consumerOffset": 2,
            "lastTimestamp": desk.now_ms,
            "pullOffset": 2,
        } == first


def test_who_is_connected(desk) -> None:
    offline = desk.ask(GetConsumerConnections(consumer_group="shop")).code
    nobody = desk.ask(GetProducerConnections(producer_group="pg")).code
    desk.beat("shop", "orders", "TagA")
    found = parse(desk.ask(GetConsumerConnections(consumer_group="shop")).body)

    assert (206, 1) == (offline, nobody)
    assert ["10.0.0.9:54321"] == [each["clientAddr"] for each in found["connectionSet"]]
    assert "TagA" == found["subscriptionTable"]["orders"]["subString"]
    assert ("CLUSTERING", "CONSUME_PASSIVELY") == (found["messageModel"], found["consumeType"])


def test_every_producer_is_listed_with_when_it_was_heard(desk) -> None:
    desk.produce("pg")
    desk.ticks_ms += 5_000
    desk.now_ms += 5_000
    desk.produce("pg", client_id="c2")
    desk.produce("other", client_id="c2")
    desk.beat("shop", "orders", client_id="c3")
    found = parse(desk.ask(GetAllProducers()).body)["data"]

    def info(client_id: str, heard_ms: int) -> dict[str, object]:
        return {
            "clientId": client_id,
            "language": "JAVA",
            "lastUpdateTimestamp": heard_ms,
            "remoteIP": "10.0.0.9:54321",
            "version": OUR_VERSION,
        }

    late = info("c2", desk.now_ms)
    assert {"pg": [info("c1", desk.now_ms - 5_000), late], "other": [late]} == found


def test_who_consumes_a_topic_now_or_did(desk) -> None:
    desk.ask(create())
    desk.beat("now", "orders")
    desk.beat("did", "other", client_id="c2")
    desk.ask(
        UpdateConsumerOffset(consumer_group="did", topic="orders", queue_id=0, commit_offset=1)
    )

    assert {"groupList": ["did", "now"]} == parse(desk.ask(QueryTopicGroups(topic="orders")).body)
