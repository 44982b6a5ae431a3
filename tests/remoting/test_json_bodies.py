"""Bodies in every client's dialect, and in the one form we write."""

import time
import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.json import encode as json_encode

from dledger_py.remoting.commands.clients import ConsumerIds
from dledger_py.remoting.commands.groups import GroupConfig, GroupTable
from dledger_py.remoting.commands.heartbeats import (
    ConsumeFromWhere,
    ConsumerData,
    ConsumeType,
    HeartbeatData,
    MessageModel,
    ProducerData,
    SubscriptionData,
    decode_heartbeat,
    encode_heartbeat,
    tag_subscription,
)
from dledger_py.remoting.commands.json_bodies import (
    DIALECT_BYTES_MAX,
    MalformedBody,
    decode_body,
    encode_body,
    parse,
    strict,
)
from dledger_py.remoting.commands.registrations import (
    INFLATED_SIZE_MAX,
    RegisterBody,
    crc_of,
    decode_registration,
    encode_registration,
)
from dledger_py.remoting.commands.relays import ConsumerStatus
from dledger_py.remoting.commands.routes import (
    BrokerData,
    BrokerMemberGroup,
    BrokerMembers,
    ClusterInfo,
    QueueData,
    TopicList,
    TopicRoute,
)
from dledger_py.remoting.commands.settings_text import decode_settings, encode_settings
from dledger_py.remoting.commands.statistics import (
    ClientConnection,
    ConsumerConnections,
    ConsumeStats,
    KeyValueTable,
    MessageQueue,
    QueueOffsets,
    QueueProgress,
    TopicStats,
)
from dledger_py.remoting.commands.topics import DataVersion, TopicConfig, TopicTable

VERSION = DataVersion(counter=3, timestamp=1700000000000)
ADDRESSES = {0: "10.0.0.1:10911", 1: "10.0.0.2:10911"}
GROUP = BrokerData(broker_name="broker-a", cluster="DefaultCluster", broker_addrs=ADDRESSES)
QUEUE = MessageQueue(topic="TopicTest", broker_name="broker-a", queue_id=0)
QUEUE_KEY = b'{"brokerName":"broker-a","queueId":0,"topic":"TopicTest"}'
SUBSCRIPTION = SubscriptionData(topic="TopicTest", sub_version=1700000000000)

# Each exactly as Java writes it, but for numbers as map keys, which are quoted.
WRITTEN: dict[str, tuple[Any, bytes]] = {
    "route": (
        TopicRoute(
            broker_datas=(GROUP,),
            queue_datas=(
                QueueData(broker_name="broker-a", perm=6, read_queue_nums=4, write_queue_nums=4),
            ),
        ),
        b'{"brokerDatas":[{"brokerAddrs":{"0":"10.0.0.1:10911","1":"10.0.0.2:10911"},'
        b'"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}],'
        b'"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,'
        b'"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}',
    ),
    "cluster": (
        ClusterInfo(
            broker_addr_table={"broker-a": GROUP},
            cluster_addr_table={"DefaultCluster": ("broker-a",)},
        ),
        b'{"brokerAddrTable":{"broker-a":{"brokerAddrs":{"0":"10.0.0.1:10911",'
        b'"1":"10.0.0.2:10911"},"brokerName":"broker-a","cluster":"DefaultCluster",'
        b'"enableActingMaster":false}},"clusterAddrTable":{"DefaultCluster":["broker-a"]}}',
    ),
    "members": (
        BrokerMembers(
            broker_member_group=BrokerMemberGroup(
                broker_name="broker-a", cluster="DefaultCluster", broker_addrs={0: "10.0.0.1:10911"}
            )
        ),
        b'{"brokerMemberGroup":{"brokerAddrs":{"0":"10.0.0.1:10911"},"brokerName":"broker-a",'
        b'"cluster":"DefaultCluster"}}',
    ),
    "topic_list": (
        TopicList(topic_list=("TopicTest", "TBW102"), broker_addr="10.0.0.1:10911"),
        b'{"brokerAddr":"10.0.0.1:10911","topicList":["TopicTest","TBW102"]}',
    ),
    "topic_table": (
        TopicTable(
            data_version=VERSION,
            topic_config_table={
                "TopicTest": TopicConfig(
                    topic_name="TopicTest", read_queue_nums=4, write_queue_nums=4
                )
            },
        ),
        b'{"dataVersion":{"counter":3,"stateVersion":0,"timestamp":1700000000000},'
        b'"topicConfigTable":{"TopicTest":{"attributes":{},"order":false,"perm":6,'
        b'"readQueueNums":4,"topicFilterType":"SINGLE_TAG","topicName":"TopicTest",'
        b'"topicSysFlag":0,"writeQueueNums":4}}}',
    ),
    "group_table": (
        GroupTable(
            data_version=DataVersion(timestamp=1700000000000),
            subscription_group_table={"cg": GroupConfig(group_name="cg")},
        ),
        b'{"dataVersion":{"counter":0,"stateVersion":0,"timestamp":1700000000000},'
        b'"forbiddenTable":{},"subscriptionGroupTable":{"cg":{"attributes":{},"brokerId":0,'
        b'"consumeBroadcastEnable":true,"consumeEnable":true,"consumeFromMinEnable":true,'
        b'"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"cg",'
        b'"groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,'
        b'"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"retryQueueNums":1,'
        b'"whichBrokerWhenConsumeSlowly":1}}}',
    ),
    "consumer_connections": (
        ConsumerConnections(
            connection_set=(
                ClientConnection(
                    client_addr="10.0.0.9:54321",
                    client_id="10.0.0.9@1234#5678",
                    language="JAVA",
                    version=479,
                ),
            ),
            subscription_table={"TopicTest": SUBSCRIPTION},
        ),
        b'{"connectionSet":[{"clientAddr":"10.0.0.9:54321","clientId":"10.0.0.9@1234#5678",'
        b'"language":"JAVA","version":479}],"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET",'
        b'"consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","subscriptionTable":{'
        b'"TopicTest":{"classFilterMode":false,"codeSet":[],"expressionType":"TAG",'
        b'"subString":"*","subVersion":1700000000000,"tagsSet":[],"topic":"TopicTest"}}}',
    ),
    "consume_stats": (
        ConsumeStats(
            offset_table={
                QUEUE: QueueProgress(
                    broker_offset=10, consumer_offset=8, pull_offset=9, last_timestamp=1700000000000
                )
            }
        ),
        b'{"consumeTps":0.0,"offsetTable":{'
        + QUEUE_KEY
        + b':{"brokerOffset":10,"consumerOffset":8,"lastTimestamp":1700000000000,"pullOffset":9}}}',
    ),
    "topic_stats": (
        TopicStats(
            offset_table={
                QUEUE: QueueOffsets(
                    max_offset=10, min_offset=0, last_update_timestamp=1700000000000
                )
            }
        ),
        b'{"offsetTable":{'
        + QUEUE_KEY
        + b':{"lastUpdateTimestamp":1700000000000,"maxOffset":10,"minOffset":0}},'
        b'"topicPutTps":0.0}',
    ),
    "ids": (ConsumerIds(consumer_id_list=("a", "b")), b'{"consumerIdList":["a","b"]}'),
    "table": (KeyValueTable(table={"key": "value"}), b'{"table":{"key":"value"}}'),
}


def test_queues_are_map_keys_as_they_are_within_other_maps_too() -> None:
    """Java's clients of 5.5.0 (fastjson2) refuse the whole body if such a key is quoted."""
    other = MessageQueue(topic="TopicTest", broker_name="broker-a", queue_id=1)
    body = ConsumerStatus(consumer_table={"client": {QUEUE: 5, other: 6}, "none": {}})

    assert encode_body(body) == (
        b'{"consumerTable":{"client":{'
        + QUEUE_KEY
        + b":5,"
        + QUEUE_KEY.replace(b":0", b":1")
        + b':6},"none":{}},"messageQueueTable":{}}'
    )
    assert decode_body(ConsumerStatus, encode_body(body)) == body


@pytest.mark.parametrize("body, data", WRITTEN.values(), ids=WRITTEN)
def test_a_body_is_written_as_java_writes_it(body: Any, data: bytes) -> None:
    assert encode_body(body) == data
    assert decode_body(type(body), data) == body


def test_fastjsons_bare_and_inline_keys_are_read() -> None:
    route = WRITTEN["route"][1].replace(b'"0":', b"0:").replace(b'"1":', b" 1 :")
    stats = (
        b'{"consumeTps":0.0,"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"TopicTest"}'
        b':{"brokerOffset":10,"consumerOffset":8,"lastTimestamp":1700000000000,"pullOffset":9}}}'
    )

    assert decode_body(TopicRoute, route) == WRITTEN["route"][0]
    assert decode_body(ConsumeStats, stats) == WRITTEN["consume_stats"][0]
    assert parse(b'{"offsetTable":{"T@g":{0:8,1:9}},"x":[1,-2,{3:[4]}],"s":"{0:1,2:3}"}') == {
        "offsetTable": {"T@g": {"0": 8, "1": 9}},
        "x": [1, -2, {"3": [4]}],
        "s": "{0:1,2:3}",
    }


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{]", b"}}", b'{"a"', b"\xff", b'{"a":' + b"[" * 50_000, b"nonsense"]
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBody, match="not JSON"):
        parse(body)


@pytest.mark.parametrize(
    "body, complaint",
    [
        (b"[]", "TopicConfig: an object"),
        (b"{}", "TopicConfig.topicName: missing"),
        (b'{"topicName":"T","perm":"x"}', "TopicConfig.perm: 'x' is not an integer"),
        (b'{"topicName":"T","perm":1.5}', "TopicConfig.perm: 1.5 is not an integer"),
        (b'{"topicName":"T","perm":9223372036854775808}', "does not fit into 64 bits"),
        (b'{"topicName":"T","topicSysFlag":2147483648}', "topicSysFlag: .* 32 bits"),
        (b'{"topicName":"T","attributes":[]}', "TopicConfig.attributes: an object"),
    ],
)
def test_a_bad_member_is_named(body: bytes, complaint: str) -> None:
    with pytest.raises(MalformedBody, match=complaint):
        decode_body(TopicConfig, body)


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
)
MEMBERS = st.sampled_from(["clientID", "consumerDataSet", "producerDataSet", "groupName", "topic"])
objects = st.dictionaries(MEMBERS, leaves | st.lists(st.dictionaries(MEMBERS, leaves), max_size=3))


@given(leaves | st.dictionaries(MEMBERS, leaves | st.lists(leaves | objects, max_size=3)))
def test_any_json_is_a_heartbeat_or_refused(value: Any) -> None:
    with suppress(MalformedBody):
        decode_heartbeat(json_encode(value))


@given(st.text('{}[]:,"\\01a ', max_size=30))
def test_repairing_makes_little_more_of_it_or_refuses(text: str) -> None:
    with suppress(MalformedBody):
        assert len(strict(text.encode())) <= 3 * len(text)


def test_an_object_as_a_key_within_a_key_is_refused() -> None:
    depth = 40  # quoted again and again, its 160 bytes would be 2^40
    body = b"{" * depth + b'"a":1' + b"}:1" * (depth - 1) + b"}"
    with pytest.raises(MalformedBody, match="a key within a key"):
        parse(body)
    assert {'{"a":{"b":1}}': 1} == parse(b'{{"a":{"b":1}}:1}')


def test_a_long_body_that_is_no_json_is_refused_at_once() -> None:
    body = b'{"t":{0:"%b"}}' % (b"x" * DIALECT_BYTES_MAX)
    with pytest.raises(MalformedBody, match="body is not JSON"):
        parse(body)
    assert ["0"] == list(parse(body, len(body))["t"])
    assert ["0"] == list(parse(b'{"t":{0:"x"}}')["t"])


@pytest.mark.parametrize(
    "piece",
    [b'\\"', b'"a\\', b'"a\\\n', b"{", b"[", b"{0:", b"{}:1,", b'{"a":', b" ", b",", b"}"],
    ids=lambda piece: piece.decode(),
)
@pytest.mark.parametrize("start", [b'{"', b"{0:1,", b"{0:" + b'{"a":' * 20_000 + b"{0:1,"])
def test_whatever_is_no_json_takes_no_time_to_speak_of(start: bytes, piece: bytes) -> None:
    body = start + piece * ((DIALECT_BYTES_MAX - len(start)) // len(piece) // 4)
    began = time.process_time()
    with pytest.raises(MalformedBody):
        parse(body)

    assert time.process_time() - began < 1.5  # some 0.1 s; a power of the length took hours


# --- heartbeats ----------------------------------------------------------------------------------

TAGGED = SubscriptionData(
    topic="TopicTest",
    sub_string="TagA || TagB",
    sub_version=1700000000000,
    tags_set=("TagA", "TagB"),
    code_set=(2598919, 2598920),
)
BEAT = HeartbeatData(
    client_id="10.0.0.9@1234#5678",
    producer_data_set=(ProducerData(group_name="pg"),),
    consumer_data_set=(ConsumerData(group_name="cg", subscription_data_set=(TAGGED,)),),
)
JAVA_BEAT = (
    b'{"clientID":"10.0.0.9@1234#5678","consumerDataSet":[{"consumeFromWhere":'
    b'"CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_PASSIVELY","groupName":"cg",'
    b'"messageModel":"CLUSTERING","subscriptionDataSet":[{"classFilterMode":false,'
    b'"codeSet":[2598919,2598920],"expressionType":"TAG","subString":"TagA || TagB",'
    b'"subVersion":1700000000000,"tagsSet":["TagA","TagB"],"topic":"TopicTest"}],'
    b'"unitMode":false}],"heartbeatFingerprint":0,"producerDataSet":[{"groupName":"pg"}],'
    b'"withoutSub":false}'
)
GO_BEAT = (
    b'{"clientID":"10.0.0.9@1234#5678","producerDataSet":[{"groupName":"pg"}],"consumerDataSet":['
    b'{"groupName":"cg","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING",'
    b'"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","subscriptionDataSet":[{'
    b'"classFilterMode":false,"topic":"TopicTest","subString":"TagA || TagB",'
    b'"tagsSet":["TagA","TagB"],"codeSet":["1","2598920"],"subVersion":1700000000000,'
    b'"expressionType":"TAG"}],"unitMode":false}]}'
)
CPP_BEAT = (
    b'{"clientID":"10.0.0.9@1234#5678","consumerDataSet":[{"consumeFromWhere":0,"consumeType":1,'
    b'"groupName":"cg","messageModel":1,"subscriptionDataSet":[{"codeSet":[2598919],'
    b'"subString":"TagA || TagB","subVersion":"1700000000000","tagsSet":["TagA","TagB"],'
    b'"topic":"TopicTest"}]}],"producerDataSet":[{"groupName":"pg"}]}\n'
)
ALI_ONS_BEAT = (
    b'{"clientID":"10.0.0.9@1234#5678","consumerDataSet":[{"groupName":"cg","consumeType":'
    b'"CONSUME_PASSIVELY","messageModel":"CLUSTERING","consumeFromWhere":'
    b'"CONSUME_FROM_LAST_OFFSET","subscriptionDataSet":[{"classFilterMode":false,'
    b'"topic":"TopicTest","subString":"TagA || TagB","tagsSet":["TagA","TagB"],"codeSet":null,'
    b'"subVersion":1700000000000,"expressionType":""}],"unitMode":false}],'
    b'"producerDataSet":[{"groupName":"pg"}]}'
)


@pytest.mark.parametrize(
    "body", [JAVA_BEAT, GO_BEAT, CPP_BEAT, ALI_ONS_BEAT], ids=["java", "go", "cpp", "ali_ons"]
)
def test_every_clients_heartbeat_means_the_same(body: bytes) -> None:
    assert decode_heartbeat(body) == BEAT


def test_our_heartbeat_is_written_as_javas() -> None:
    assert encode_heartbeat(BEAT) == JAVA_BEAT


@pytest.mark.parametrize(
    "body", [b'{"clientID":"c"}', b'{"clientID":"c","consumerDataSet":null,"producerDataSet":[]}']
)
def test_arrays_may_be_missing_or_null(body: bytes) -> None:
    assert decode_heartbeat(body) == HeartbeatData(client_id="c")


def test_enum_members_are_names_or_ordinals() -> None:
    body = (
        b'{"clientID":"c","consumerDataSet":[{"groupName":"g","consumeType":"0",'
        b'"messageModel":"BROADCASTING","consumeFromWhere":5,"subscriptionDataSet":null}]}'
    )

    (consumer,) = decode_heartbeat(body).consumer_data_set
    assert consumer.consume_type is ConsumeType.CONSUME_ACTIVELY
    assert consumer.message_model is MessageModel.BROADCASTING
    assert consumer.consume_from_where is ConsumeFromWhere.CONSUME_FROM_TIMESTAMP


def test_nanosecond_versions_keep_all_their_bits() -> None:
    body = JAVA_BEAT.replace(b"1700000000000", b"1700000000123456789")

    (consumer,) = decode_heartbeat(body).consumer_data_set
    assert consumer.subscription_data_set[0].sub_version == 1700000000123456789


@pytest.mark.parametrize(
    "expression, tags",
    [
        ("*", ()),
        (None, ()),
        ("", ()),
        ("TagA", ("TagA",)),
        ("TagA || TagB", ("TagA", "TagB")),
        (" TagA||  ||TagB ", ("TagA", "TagB")),
    ],
)
def test_a_tag_expression_is_a_set_of_tags(expression: str | None, tags: tuple[str, ...]) -> None:
    assert tag_subscription("T", expression).tags_set == tags


# --- registrations and settings ------------------------------------------------------------------

TOPICS: TopicTable = WRITTEN["topic_table"][0]
INFLATED = (
    bytes.fromhex("00000038")
    + b'{"counter":3,"stateVersion":0,"timestamp":1700000000000}'
    + bytes.fromhex("000000010000001d")
    + b"TopicTest 4 4 6 SINGLE_TAG {}"
    + bytes.fromhex("00000002")
    + b"[]"
    + bytes(4)
)


JAVAS_RUNNING_INFO = (
    b'{"mqPopTable":{{"brokerName":"b","queueId":0,"topic":"T"}:{"droped":false},{"brokerName":"b",'
    b'"queueId":1,"topic":"T"}:{"droped":false}},"mqTable":{{"$ref":"$.mqPopTable.null"}:{"locked":'
    b'false},{"$ref":"$.mqPopTable.null"}:{"$ref":"$.mqTable.MessageQueue\\\\ \\\\[topic\\\\=T\\\\'
    b',\\\\ brokerName\\\\=b\\\\]"}},"statusTable":{"T":{"consumeOKTPS":1.0E21,"consumeRT":null,'
    b'"pullRT":1.0E-7}},"jstack":"TID: 1 \\"a\\" {x:[1,2]}\\r\\n\\u2028","userConsumerInfo":{}}'
)
"""As fastjson 1.2.83 writes it: one queue in two tables, and figures that are none."""


def test_what_javas_consumers_say_of_themselves_is_read() -> None:
    found = parse(JAVAS_RUNNING_INFO)

    assert 2 == len(found["mqPopTable"])
    assert {"consumeOKTPS": 1e21, "consumeRT": None, "pullRT": 1e-7} == found["statusTable"]["T"]
    assert 'TID: 1 "a" {x:[1,2]}\r\n\u2028' == found["jstack"]


@pytest.mark.parametrize(
    "body",
    [
        encode_registration(RegisterBody(topic_config_serialize_wrapper=TOPICS)),
        WRITTEN["topic_table"][1],
        zlib.compress(INFLATED),
        zlib.compress(INFLATED[:-4]),
    ],
    ids=["plain", "before_3.0.11", "compressed", "compressed_before_5.0"],
)
def test_every_form_of_a_registration_is_read(body: bytes) -> None:
    assert len(INFLATED) == 107
    assert decode_registration(body) == RegisterBody(topic_config_serialize_wrapper=TOPICS)


def test_javas_plain_registration_has_the_published_crc() -> None:
    body = (
        b'{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":3,'
        b'"stateVersion":0,"timestamp":1700000000000},"mappingDataVersion":{"counter":0,'
        b'"stateVersion":0,"timestamp":1700000000000},"topicConfigTable":{"TopicTest":{'
        b'"attributes":{},"order":false,"perm":6,"readQueueNums":4,"topicFilterType":"SINGLE_TAG",'
        b'"topicName":"TopicTest","topicSysFlag":0,"writeQueueNums":4}},'
        b'"topicQueueMappingDetailMap":{},"topicQueueMappingInfoMap":{}}}'
    )

    assert len(body) == 449
    assert crc_of(body) == 1779474218
    found = decode_registration(body).topic_config_serialize_wrapper
    assert found.topic_config_table == TOPICS.topic_config_table


@pytest.mark.parametrize("size", [*range(0, len(INFLATED) - 4, 3)])
def test_a_cut_registration_is_refused(size: int) -> None:
    with pytest.raises(MalformedBody):
        decode_registration(zlib.compress(INFLATED[:size]))


def test_a_compressed_registration_cannot_fill_the_memory() -> None:
    bomb = zlib.compress(bytes(INFLATED_SIZE_MAX + 1), 9)

    with pytest.raises(MalformedBody, match="inflates beyond"):
        decode_registration(bomb)
    with pytest.raises(MalformedBody, match="zlib"):
        decode_registration(b"\x78\x9cnonsense")
    with pytest.raises(MalformedBody, match="cut off"):
        decode_registration(zlib.compress(INFLATED)[:-6])


def test_topic_attributes_travel_in_text_too() -> None:
    topic = b'T 1 2 6 SINGLE_TAG {"message.type":"FIFO"}'
    body = INFLATED[:60] + (1).to_bytes(4, "big") + len(topic).to_bytes(4, "big") + topic
    body += bytes.fromhex("00000002") + b"[]"

    table = decode_registration(zlib.compress(body)).topic_config_serialize_wrapper
    assert table.topic_config_table["T"].attributes == {"message.type": "FIFO"}
    assert table.topic_config_table["T"].write_queue_nums == 2


def test_settings_are_lines_of_text() -> None:
    settings = {"brokerName": "a", "autoCreateTopicEnable": True, "listenPort": 10911}

    text = encode_settings(settings)
    assert text == b"autoCreateTopicEnable=true\nbrokerName=a\nlistenPort=10911\n"
    assert decode_settings(b"# comment\n\n a = b=c \r\nd:e\n") == {"a": "b=c", "d": "e"}
    with pytest.raises(MalformedBody, match="key=value"):
        decode_settings(b"nonsense")
