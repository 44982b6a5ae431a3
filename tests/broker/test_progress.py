"""What tools ask about groups, asked of the room itself: pages 02 (f) and 06."""

import pytest

from dledger_py.remoting.commands.groups import (
    CreateGroup,
    CreateGroups,
    GetGroup,
    GroupConfig,
    GroupConfigs,
)
from dledger_py.remoting.commands.json_bodies import encode_body, parse
from dledger_py.remoting.commands.offsets import UpdateConsumerOffset
from dledger_py.remoting.commands.progress import (
    GetAllConsumeStats,
    GetAllOffsets,
    QueryConsumeQueue,
    QueryCorrectionOffsets,
    QueryGroupTopics,
    QuerySubscription,
    QueryTimeSpans,
)
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import (
    CreateTopic,
    CreateTopics,
    GetTopic,
    TopicConfig,
    TopicConfigs,
)
from dledger_py.remoting.rooms import Refused
from tests.broker.rooms_kit import Desk

START_MS = 1_700_000_000_000


@pytest.fixture
def desk(tmp_path) -> Desk:
    """Three messages in queue 0 of orders, 10 ms apart; shop has consumed two of them."""
    desk = Desk(tmp_path)
    for topic, order in (("orders", False), ("bills", True)):
        desk.ask(
            CreateTopic(topic=topic, read_queue_nums=2, write_queue_nums=2, perm=6, order=order)
        )
    for group in ("shop", "audit"):
        desk.ask(CreateGroup(), encode_body(GroupConfig(group_name=group)))
    for _ in range(3):
        properties = "TAGS\x01TagA\x02"
        desk.ask(
            SendMessage(producer_group="p", topic="orders", queue_id=0, properties=properties), b"x"
        )
        desk.now_ms += 10
    commit(desk, "shop", 2)
    return desk


def commit(desk: Desk, group: str, offset: int, topic: str = "orders", queue_id: int = 0) -> None:
    request = UpdateConsumerOffset(
        consumer_group=group, topic=topic, queue_id=queue_id, commit_offset=offset
    )
    assert 0 == desk.ask(request).code


def key(queue_id: int, topic: str = "orders") -> str:
    return f'{{"brokerName":"broker-a","queueId":{queue_id},"topic":"{topic}"}}'


def test_all_offsets_at_once(desk) -> None:
    commit(desk, "audit", 1, queue_id=1)

    assert {"orders@shop": {"0": 2}, "orders@audit": {"1": 1}} == parse(
        desk.ask(GetAllOffsets()).body
    )["offsetTable"]


def test_the_topics_of_a_group(desk) -> None:
    commit(desk, "shop", 0, topic="bills")

    assert ["bills", "orders"] == parse(desk.ask(QueryGroupTopics(group="shop")).body)["topicList"]
    assert [] == parse(desk.ask(QueryGroupTopics(group="none")).body)["topicList"]


def test_what_a_group_wants_of_a_topic(desk) -> None:
    desk.beat("shop", "orders", "TagA")
    found = parse(desk.ask(QuerySubscription(group="shop", topic="orders")).body)

    assert ("shop", "orders") == (found["group"], found["topic"])
    assert "TagA" == found["subscriptionData"]["subString"]
    assert {"group": "shop", "topic": "bills"} == parse(
        desk.ask(QuerySubscription(group="shop", topic="bills")).body
    )


@pytest.mark.parametrize(
    "group, consumed_ms, delay_ms",
    [("shop", START_MS + 10, 80), ("audit", START_MS, 100)],
)
async def test_how_old_is_what_was_consumed(desk, group, consumed_ms, delay_ms) -> None:
    desk.now_ms = START_MS + 100
    answer = await desk.ask_async(QueryTimeSpans(topic="orders", group=group))
    written, empty = parse(answer.body)["consumeTimeSpanSet"]

    assert {
        "messageQueue": {"brokerName": "broker-a", "queueId": 0, "topic": "orders"},
        "minTimeStamp": START_MS,
        "maxTimeStamp": START_MS + 20,
        "consumeTimeStamp": consumed_ms,
        "delayTime": delay_ms,
    } == written
    assert [-1, -1, -1, 0] == [
        empty[name] for name in ("minTimeStamp", "maxTimeStamp", "consumeTimeStamp", "delayTime")
    ]


async def test_who_has_consumed_all_has_nothing_waiting(desk) -> None:
    commit(desk, "shop", 3)
    desk.now_ms += 1000
    answer = await desk.ask_async(QueryTimeSpans(topic="orders", group="shop"))

    assert 0 == parse(answer.body)["consumeTimeSpanSet"][0]["delayTime"]


@pytest.mark.parametrize("topic", ["none"])
async def test_time_spans_of_an_unknown_topic(desk, topic) -> None:
    with pytest.raises(Refused, match="not exist") as refused:
        await desk.ask_async(QueryTimeSpans(topic=topic, group="shop"))

    assert 17 == refused.value.code


@pytest.mark.parametrize(
    "others, filtered, found",
    [
        ({}, "", {"0": 2}),
        ({"audit": 1}, "", {"0": 1}),
        ({"audit": 0}, "", {"0": 0}),
        ({"audit": 3}, "", {"0": 2}),
        ({"audit": 3}, "shop", {"0": 2**63 - 1}),
        ({"audit": 1}, "audit,none", {"0": 2}),
        ({"audit": 1}, "shop", {"0": 1}),
    ],
)
def test_the_least_that_any_group_has_consumed(desk, others, filtered, found) -> None:
    for group, offset in others.items():
        commit(desk, group, offset)
    request = QueryCorrectionOffsets(compare_group="shop", topic="orders", filter_groups=filtered)

    assert found == parse(desk.ask(request).body)["correctionOffsets"]


@pytest.mark.parametrize("is_order, topics", [(False, ["orders", "bills"]), (True, ["bills"])])
async def test_how_far_all_groups_are(desk, is_order, topics) -> None:
    commit(desk, "shop", 0, topic="bills")
    answer = await desk.ask_async(GetAllConsumeStats(is_order=is_order))
    body = parse(answer.body)
    of_shop = next(each["shop"] for each in body["consumeStatsList"] if "shop" in each)

    assert "10.0.0.1:10911" == body["brokerAddr"]
    assert topics == [parse(min(each["offsetTable"]).encode())["topic"] for each in of_shop]
    assert (0 if is_order else 1) == body["totalDiff"]
    if not is_order:
        assert {
            "brokerOffset": 3,
            "consumerOffset": 2,
            "pullOffset": 2,
            "lastTimestamp": START_MS + 10,
        } == of_shop[0]["offsetTable"][key(0)]


async def test_topics_that_nobody_subscribes_to_any_more_are_left_out(desk) -> None:
    desk.beat("shop", "bills")
    body = parse((await desk.ask_async(GetAllConsumeStats())).body)

    assert [] == next(each["shop"] for each in body["consumeStatsList"] if "shop" in each)


# --- entries of a queue ---


def entries(desk: Desk, index: int = 0, count: int = 10, **fields):
    given = {"topic": "orders", "queue_id": 0} | fields
    return desk.ask(QueryConsumeQueue(index=index, count=count, **given))


def test_entries_of_a_queue(desk) -> None:
    found = parse(entries(desk, 1, 1).body)

    assert (0, 3) == (found["minQueueIndex"], found["maxQueueIndex"])
    (entry,) = found["queueData"]
    assert 2598919 == entry["tagsCode"]
    assert entry["physicOffset"] > 0 < entry["physicSize"]
    assert 3 == len(parse(entries(desk).body)["queueData"])
    assert 2 == len(parse(entries(desk, 1, 2**31 - 1).body)["queueData"])


def test_entries_tell_whether_the_group_is_online(desk) -> None:
    offline = parse(entries(desk, consumer_group="shop").body)
    desk.beat("shop", "orders", "TagA")
    online = parse(entries(desk, consumer_group="shop").body)

    assert "shop@orders is not online!" == offline["filterData"]
    assert "subscriptionData" not in offline
    assert "TagA" == online["subscriptionData"]["subString"]


@pytest.mark.parametrize(
    "fields, code",
    [({"topic": "none"}, 17), ({"queue_id": 2}, 29), ({"index": 3}, 1), ({"index": -1}, 1)],
)
def test_entries_that_are_not_there(desk, fields, code) -> None:
    assert code == entries(desk, **fields).code


def test_an_answer_holds_so_many_entries_and_no_more(desk, monkeypatch) -> None:
    monkeypatch.setattr("broker.rooms.progress.ENTRIES_MAX", 2)

    assert 2 == len(parse(entries(desk).body)["queueData"])


# --- lists of topics and groups ---


def topics(*configs: TopicConfig) -> bytes:
    return encode_body(TopicConfigs(topic_config_list=configs))


def groups(*configs: GroupConfig) -> bytes:
    return encode_body(GroupConfigs(group_config_list=configs))


def test_several_topics_at_once(desk) -> None:
    body = topics(
        TopicConfig(topic_name="a", read_queue_nums=3, attributes={"+message.type": "FIFO"}),
        TopicConfig(topic_name="orders", perm=4),
    )
    answer = desk.ask(CreateTopics(), body)

    assert 0 == answer.code
    made = parse(desk.ask(GetTopic(topic="a")).body)
    assert (3, {"message.type": "FIFO"}) == (made["readQueueNums"], made["attributes"])
    assert 4 == parse(desk.ask(GetTopic(topic="orders")).body)["perm"]


def test_an_attribute_is_taken_away_by_its_name_alone(desk) -> None:
    desk.ask(
        CreateTopics(), topics(TopicConfig(topic_name="a", attributes={"+message.type": "FIFO"}))
    )
    desk.ask(CreateTopics(), topics(TopicConfig(topic_name="a", attributes={"-message.type": ""})))

    assert {} == parse(desk.ask(GetTopic(topic="a")).body)["attributes"]


@pytest.mark.parametrize(
    "body, code",
    [
        (topics(TopicConfig(topic_name="a"), TopicConfig(topic_name="TBW102")), 29),
        (topics(TopicConfig(topic_name="a"), TopicConfig(topic_name="b.c")), 29),
        (topics(TopicConfig(topic_name="a", attributes={"+colour": "red"})), 1),
        (topics(*(TopicConfig(topic_name=f"t{n}") for n in range(1001))), 29),
        (topics(), 0),
        (b"rubbish", 1),
    ],
)
def test_a_list_of_topics_that_cannot_be_is_refused(desk, body, code) -> None:
    assert code == desk.ask(CreateTopics(), body).code


def test_several_groups_at_once(desk) -> None:
    body = groups(GroupConfig(group_name="a", retry_max_times=3), GroupConfig(group_name="shop"))
    answer = desk.ask(CreateGroups(), body)

    assert 0 == answer.code
    assert 3 == parse(desk.ask(GetGroup(group="a")).body)["retryMaxTimes"]


@pytest.mark.parametrize(
    "body, code",
    [
        (groups(GroupConfig(group_name="b.c"), GroupConfig(group_name="a")), 29),
        (groups(*(GroupConfig(group_name=f"g{n}") for n in range(1001))), 29),
        (b"[]", 1),
    ],
)
def test_a_list_of_groups_that_cannot_be_is_refused(desk, body, code) -> None:
    assert code == desk.ask(CreateGroups(), body).code


@pytest.mark.parametrize("request_", [CreateTopics(), CreateGroups()])
def test_followers_hand_lists_on_unread(desk, request_) -> None:
    desk.gate.leads = False
    desk.ask(request_)

    assert [request_.code] == [frame.code for frame in desk.gate.relayed]
