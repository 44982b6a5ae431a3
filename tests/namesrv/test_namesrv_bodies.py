"""Bodies: what brokers send in every form, and the exact bytes clients are sent."""

import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from namesrv import bodies
from namesrv.bodies import MalformedBody
from namesrv.records import (
    BrokerData,
    DataVersion,
    QueueData,
    RegisterBody,
    TopicConfig,
    TopicRoute,
)

# Written by Java's classes; the checksum of the plain one is RocketMQ's own.
PLAIN = (
    b'{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":3,'
    b'"stateVersion":0,"timestamp":1700000000000},"mappingDataVersion":{"counter":0,'
    b'"stateVersion":0,"timestamp":1700000000000},'
    b'"topicConfigTable":{"TopicTest":{"attributes":{},"order":false,"perm":6,"readQueueNums":4,'
    b'"topicFilterType":"SINGLE_TAG","topicName":"TopicTest","topicSysFlag":0,"writeQueueNums":4}},'
    b'"topicQueueMappingDetailMap":{},"topicQueueMappingInfoMap":{}}}'
)
INFLATED = (
    b'\x00\x00\x00\x38{"counter":3,"stateVersion":0,"timestamp":1700000000000}'
    b"\x00\x00\x00\x01\x00\x00\x00\x1dTopicTest 4 4 6 SINGLE_TAG {}"
    b"\x00\x00\x00\x02[]\x00\x00\x00\x00"
)
READ = RegisterBody(
    version=DataVersion(counter=3, timestamp=1_700_000_000_000),
    topics=(TopicConfig(name="TopicTest", read_queue_nums=4, write_queue_nums=4, perm=6),),
)
OLD = (
    b'{"dataVersion":{"counter":3,"timestamp":1700000000000},"topicConfigTable":{"TopicTest":{'
    b'"order":false,"perm":6,"readQueueNums":4,"topicName":"TopicTest","writeQueueNums":4}}}'
)
ROUTE = TopicRoute(
    queues=(QueueData(broker_name="broker-a", read_queue_nums=4, write_queue_nums=4, perm=6),),
    brokers=(
        BrokerData(
            cluster="DefaultCluster",
            broker_name="broker-a",
            addresses={0: "10.0.0.1:10911", 1: "10.0.0.2:10911"},
        ),
    ),
)


def test_the_sample_has_the_published_length_and_checksum() -> None:
    assert (len(PLAIN), bodies.body_crc32(PLAIN)) == (449, 1_779_474_218)
    assert len(INFLATED) == 107


@pytest.mark.parametrize(
    "body",
    [PLAIN, zlib.compress(INFLATED), zlib.compress(INFLATED[:-4])],
    ids=["plain", "compressed", "compressed, before 5.0: no mappings"],
)
def test_a_registration_reads_the_same_in_every_form(body: bytes) -> None:
    assert bodies.decode_register_body(body) == READ


def test_a_registration_without_body_has_no_topics() -> None:
    assert bodies.decode_register_body(b"") == RegisterBody()


def test_an_old_broker_sends_its_topic_table_alone() -> None:
    assert bodies.decode_old_register_body(OLD) == READ


def test_attributes_may_contain_blanks() -> None:
    text = b'Orders 8 16 4 SINGLE_TAG {"message.type": "FIFO"}'
    data = INFLATED[:64] + len(text).to_bytes(4, "big") + text + INFLATED[-10:]

    (topic,) = bodies.decode_register_body(zlib.compress(data)).topics

    assert topic == TopicConfig(name="Orders", read_queue_nums=8, write_queue_nums=16, perm=4)


def test_bare_numeric_keys_are_read_and_strings_left_alone() -> None:
    body = PLAIN.replace(b'"topicQueueMappingInfoMap":{}', b'"x":{0:{1 :"{2:3,4:5}\\"{6:7"},-8:[]}')

    assert bodies.decode_register_body(body) == READ


def test_null_members_are_absent_ones() -> None:
    body = (
        b'{"filterServerList":null,"topicConfigSerializeWrapper":{"dataVersion":null,'
        b'"topicConfigTable":null}}'
    )

    assert bodies.decode_register_body(body) == RegisterBody()


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"topicConfigSerializeWrapper":3}',
        b'{"topicConfigSerializeWrapper":{"topicConfigTable":{"T":1}}}',
        b'{"topicConfigSerializeWrapper":{"topicConfigTable":{"T":{"perm":"six"}}}}',
        b'{"topicConfigSerializeWrapper":{"dataVersion":{"counter":1.5}}}',
        b'{"filterServerList":[1]}',
        b"\x78\x9cgarbage",
        zlib.compress(INFLATED)[:-1],
        zlib.compress(INFLATED[:50]),
        zlib.compress(INFLATED[:60] + b"\x7f\xff\xff\xff"),
        zlib.compress(INFLATED.replace(b"4 4 6", b"4 4 x")),
    ],
)
def test_what_is_no_registration_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        bodies.decode_register_body(body)


def test_a_zip_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "INFLATED_MAX_BYTES", 1000)

    with pytest.raises(MalformedBody, match="larger than allowed"):
        bodies.decode_register_body(zlib.compress(bytes(1001)))


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_do_worse_than_being_refused(data: bytes, compressed: bool) -> None:
    body = zlib.compress(data) if compressed else data

    with suppress(MalformedBody):
        bodies.decode_register_body(body)


def test_the_route_is_compact_strict_json() -> None:
    expected = (
        b'{"brokerDatas":[{"brokerAddrs":{"0":"10.0.0.1:10911","1":"10.0.0.2:10911"},"brokerName":"broker-a",'
        b'"cluster":"DefaultCluster","enableActingMaster":false}],"filterServerTable":{},"queueDatas":['
        b'{"brokerName":"broker-a","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}'
    )

    assert bodies.encode_route(ROUTE) == expected


def test_a_route_without_members_still_has_addresses() -> None:
    """The Go client panics on a missing `brokerAddrs`."""
    broker = BrokerData(cluster="c", broker_name="b", addresses={})

    assert b'"brokerAddrs":{}' in bodies.encode_route(TopicRoute(queues=(), brokers=(broker,)))


def test_cluster_info() -> None:
    expected = (
        b'{"brokerAddrTable":{"broker-a":{"brokerAddrs":{"0":"10.0.0.1:10911","1":"10.0.0.2:10911"},'
        b'"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}},'
        b'"clusterAddrTable":{"DefaultCluster":["broker-a"]}}'
    )

    assert bodies.encode_cluster_info(ROUTE.brokers) == expected


def test_member_group() -> None:
    expected = (
        b'{"brokerMemberGroup":{"brokerAddrs":{"0":"10.0.0.1:10911","1":"10.0.0.2:10911"},'
        b'"brokerName":"broker-a","cluster":"DefaultCluster"}}'
    )

    assert bodies.encode_member_group("DefaultCluster", "broker-a", ROUTE.brokers[0]) == expected


def test_topic_lists() -> None:
    plain = bodies.encode_topic_list(["T", "Ünï"])
    system = bodies.encode_topic_list(["c", "b"], broker_address="10.0.0.1:10911")

    assert plain == b'{"topicList":["T","\\u00dcn\\u00ef"]}'
    assert system == b'{"brokerAddr":"10.0.0.1:10911","topicList":["c","b"]}'


def test_data_version_there_and_back() -> None:
    version = DataVersion(state_version=7, timestamp=1, counter=2)

    data = bodies.encode_data_version(version)

    assert data == b'{"counter":2,"stateVersion":7,"timestamp":1}'
    assert bodies.decode_data_version(data) == version


def test_queues_of_a_route_body() -> None:
    assert bodies.decode_queue_datas(bodies.encode_route(ROUTE)) == ROUTE.queues
