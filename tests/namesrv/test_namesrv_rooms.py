"""Every request a name server answers, as bytes in and bytes out, on a clock of our own."""

import zlib
from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, field
from structlog.testing import capture_logs

from dledger_py.remoting.commands import routing
from dledger_py.remoting.rooms import routes
from dledger_py.remoting.wire import schema
from dledger_py.remoting.wire.frame import Frame, Framer, encode_request
from namesrv.kv import KvTable
from namesrv.rooms import SERVICE_WAIT_MS, Entries, Operating, Registering, Routing
from namesrv.routes import RouteTable

# Written by Java's classes; the checksum of the plain one is RocketMQ's own.
PLAIN = (
    b'{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":3,'
    b'"stateVersion":0,"timestamp":1700000000000},"mappingDataVersion":{"counter":0,'
    b'"stateVersion":0,"timestamp":1700000000000},'
    b'"topicConfigTable":{"TopicTest":{"attributes":{},"order":false,"perm":6,"readQueueNums":4,'
    b'"topicFilterType":"SINGLE_TAG","topicName":"TopicTest","topicSysFlag":0,"writeQueueNums":4}},'
    b'"topicQueueMappingDetailMap":{},"topicQueueMappingInfoMap":{}}}'
)
PLAIN_CRC32 = 1_779_474_218
TWO_TOPICS = PLAIN.replace(b'"TopicTest":', b'"TBW102":{"topicName":"TBW102"},"TopicTest":')
INFLATED = (
    b'\x00\x00\x00\x38{"counter":3,"stateVersion":0,"timestamp":1700000000000}'
    b"\x00\x00\x00\x01\x00\x00\x00\x1dTopicTest 4 4 6 SINGLE_TAG {}"
    b"\x00\x00\x00\x02[]\x00\x00\x00\x00"
)
OLD = (
    b'{"dataVersion":{"counter":3,"timestamp":1700000000000},"topicConfigTable":{"TopicTest":{'
    b'"order":false,"perm":6,"readQueueNums":4,"topicName":"TopicTest","writeQueueNums":4}}}'
)
ROUTE = (
    b'{"brokerDatas":[{"brokerAddrs":{"0":"10.0.0.1:10911","1":"10.0.0.2:10911"},'
    b'"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}],'
    b'"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,"readQueueNums":4,'
    b'"topicSysFlag":0,"writeQueueNums":4}]}'
)


@define(eq=False)
class FakePort:
    """A connection that keeps what it is told to send."""

    id: int = 1
    remote: tuple[str, int] = ("10.9.9.9", 5)
    local: tuple[str, int] = ("10.0.0.9", 9876)
    packed_remote: bytes = b""
    closed: bool = False
    attributes: dict[str, Any] = field(factory=dict)
    sent: list[Frame] = field(factory=list)
    callbacks: list[Callable[[], None]] = field(factory=list)

    def request(self, request: object, body: bytes = b"", *, on_reply: object = None) -> None:
        raise AssertionError("a name server asks nobody")

    def on_close(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def respond(self, request_size: int, head: bytes, body: bytes) -> None:
        self.sent += Framer().feed(head + body)

    def close(self) -> None:
        self.closed = True
        for callback in self.callbacks:
            callback()


class NameServer:
    """All rooms, and one connection unless a test opens others."""

    def __init__(self) -> None:
        self.now_ms = 1000
        self.table = RouteTable()
        self.saved: list[str] = []
        self.entries = Entries(KvTable(), self.saved.append)
        rooms = [
            Registering(self.table, self.entries, lambda: self.now_ms),
            Routing(self.table, self.entries, lambda: self.now_ms, self.now_ms),
            self.entries,
            Operating(self.table),
        ]
        self.routes = routes(rooms)
        self.port = FakePort()

    def ask(
        self,
        request: schema.Request[Any],
        body: bytes = b"",
        *,
        port: FakePort | None = None,
        **loose: str,
    ) -> Frame:
        fields = schema.encode(request) | loose
        (frame,) = Framer().feed(encode_request(request.code, 7, fields, body))
        port = port or self.port
        assert self.routes.answer(port, frame) is None  # no handler here waits
        answer = port.sent.pop()
        assert answer.opaque == 7
        return answer

    def register(
        self,
        address: str = "10.0.0.1:10911",
        broker_id: int = 0,
        body: bytes = TWO_TOPICS,
        *,
        port: FakePort | None = None,
        **more: Any,
    ) -> Frame:
        request = routing.RegisterBroker(
            broker_name="broker-a",
            broker_addr=address,
            cluster_name="DefaultCluster",
            broker_id=broker_id,
            ha_server_addr="10.0.0.1:10912",
            **more,
        )
        return self.ask(request, body, port=port)

    def register_master(self, body: bytes) -> Frame:
        """Under a known id, where a table of one topic is welcome."""
        self.register(body=b"")
        return self.register(body=body)

    def topics(self) -> tuple[str, ...]:
        return self.table.topics()


@pytest.fixture
def server() -> NameServer:
    return NameServer()


# -- registering ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [PLAIN, zlib.compress(INFLATED), zlib.compress(INFLATED[:-4]), OLD],
    ids=["plain", "compressed", "compressed, before 5.0", "before 3.0.11"],
)
def test_a_registration_is_understood_in_every_form(server: NameServer, body: bytes) -> None:
    answer = server.register_master(body)

    assert answer.code == 0
    assert server.topics() == ("TopicTest",)
    known = server.table.data_version(cluster="DefaultCluster", address="10.0.0.1:10911")
    assert known is not None
    assert (known.counter, known.timestamp) == (3, 1_700_000_000_000)


def test_the_header_does_not_decide_what_is_compressed(server: NameServer) -> None:
    server.register(body=b"")

    answer = server.register(body=zlib.compress(INFLATED), compressed=False)

    assert (answer.code, server.topics()) == (0, ("TopicTest",))


@pytest.mark.parametrize(
    "crc32, code, remark",
    [(PLAIN_CRC32, 0, None), (0, 0, None), (1, 1, "crc32 not match")],
)
def test_the_checksum_counts_unless_it_is_zero(
    server: NameServer, crc32: int, code: int, remark: str | None
) -> None:
    server.register(body=b"")

    answer = server.register(body=PLAIN, body_crc32=crc32)

    assert (answer.code, answer.remark) == (code, remark)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"topicConfigSerializeWrapper":3}',
        b'{"topicConfigSerializeWrapper":{"topicConfigTable":{"T":1}}}',
        b"\x78\x9cgarbage",
        zlib.compress(INFLATED)[:-1],
        zlib.compress(INFLATED[:50]),
        zlib.compress(INFLATED[:60] + b"\x7f\xff\xff\xff"),
        zlib.compress(INFLATED.replace(b"4 4 6", b"4 4 x")),
        zlib.compress(bytes(17 << 20)),
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_registration_is_refused_and_changes_nothing(
    server: NameServer, body: bytes
) -> None:
    answer = server.register(body=body)

    assert answer.code == 1
    assert answer.remark
    assert server.table == RouteTable()


def test_one_topic_from_an_unknown_broker_is_refused(server: NameServer) -> None:
    answer = server.register(body=PLAIN)

    assert (answer.code, answer.remark) == (1, "register broker failed")


def test_a_broker_of_another_group_is_refused_with_one_line_in_the_log(
    server: NameServer,
) -> None:
    server.register(ledger_cluster="c", ledger_folders="a0,a1")
    stray = {"port": FakePort(id=2), "ledger_cluster": "c", "ledger_folders": "b0"}

    with capture_logs() as lines:
        first, again = (server.register("10.0.0.2:10911", **stray) for _ in range(2))

    assert (1, first.remark) == (again.code, again.remark)
    assert (first.remark or "").startswith("broker name 'broker-a' is taken by 10.0.0.1:10911")
    assert ["broker.refused"] == [line["event"] for line in lines]


def test_a_slave_is_told_its_master(server: NameServer) -> None:
    server.register()

    answer = server.register("10.0.0.2:10911", 1)

    assert answer.fields == {"haServerAddr": "10.0.0.1:10912", "masterAddr": "10.0.0.1:10911"}
    assert answer.body == b""


def test_a_fenced_registration_is_answered_without_fields(server: NameServer) -> None:
    newer = PLAIN.replace(b'"stateVersion":0', b'"stateVersion":9')
    server.register(body=b"")
    server.register(body=newer)

    answer = server.register("10.0.0.2:10911", 0)

    assert (answer.code, answer.fields) == (0, {})
    assert b"10.0.0.2" not in server.ask(routing.GetClusterInfo()).body


def test_a_registration_is_answered_with_the_order_of_topics(server: NameServer) -> None:
    server.ask(routing.PutSetting(namespace="ORDER_TOPIC_CONFIG", key="T", value="broker-a:4"))

    assert server.register().body == b'{"table":{"T":"broker-a:4"}}'


def test_a_closed_connection_takes_its_broker_along(server: NameServer) -> None:
    port = FakePort(id=2)
    server.register(port=port)
    server.register(port=port)

    port.close()

    assert len(port.callbacks) == 1
    assert server.table == RouteTable()


def test_unregistering(server: NameServer) -> None:
    server.register()
    request = routing.UnregisterBroker(
        broker_name="broker-a",
        broker_addr="10.0.0.1:10911",
        cluster_name="DefaultCluster",
        broker_id=0,
    )

    assert server.ask(request).code == 0
    assert server.table == RouteTable()
    assert server.ask(request).code == 0


@pytest.mark.parametrize(
    "asked, changed",
    [
        (b'{"counter":3,"stateVersion":0,"timestamp":1700000000000}', "false"),
        (b'{"counter":4,"stateVersion":0,"timestamp":1700000000000}', "true"),
        (b"{}", "true"),
    ],
)
def test_a_broker_asks_whether_its_table_is_known(
    server: NameServer, asked: bytes, changed: str
) -> None:
    server.register()
    request = routing.QueryDataVersion(
        broker_name="broker-a",
        broker_addr="10.0.0.1:10911",
        cluster_name="DefaultCluster",
        broker_id=0,
    )

    answer = server.ask(request, asked)

    assert answer.fields == {"changed": changed}
    assert answer.body == b'{"counter":3,"stateVersion":0,"timestamp":1700000000000}'


def test_an_unknown_broker_has_changed(server: NameServer) -> None:
    request = routing.QueryDataVersion(
        broker_name="b", broker_addr="10.0.0.1:1", cluster_name="c", broker_id=0
    )

    answer = server.ask(request, b"{}")

    assert (answer.fields, answer.body) == ({"changed": "true"}, b"")


@pytest.mark.parametrize("sign", ["heartbeat", "query"])
def test_a_sign_of_life_puts_expiry_off(server: NameServer, sign: str) -> None:
    server.register()
    server.now_ms += 100_000
    who = {
        "broker_name": "broker-a",
        "broker_addr": "10.0.0.1:10911",
        "cluster_name": "DefaultCluster",
        "broker_id": 0,
    }

    if sign == "heartbeat":
        answer = server.ask(routing.BrokerHeartbeat(**who))  # type: ignore[arg-type]
    else:
        answer = server.ask(routing.QueryDataVersion(**who), b"{}")  # type: ignore[arg-type]

    assert answer.code == 0
    assert server.table.expire(now_ms=server.now_ms + 100_000) == ()


# -- routing -------------------------------------------------------------------------------------


def test_the_route_is_the_one_form_every_client_reads(server: NameServer) -> None:
    server.register()
    server.register("10.0.0.2:10911", 1)

    answer = server.ask(routing.GetRoute(topic="TopicTest"))

    assert (answer.code, answer.body) == (0, ROUTE)


def test_a_group_without_leader_is_still_in_the_route(server: NameServer) -> None:
    leader = FakePort(id=2)
    server.register(port=leader)
    server.register("10.0.0.2:10911", 1)
    leader.close()

    answer = server.ask(routing.GetRoute(topic="TopicTest"))

    assert b'"brokerAddrs":{"1":"10.0.0.2:10911"}' in answer.body


def test_an_unknown_topic_is_refused_with_its_name(server: NameServer) -> None:
    answer = server.ask(routing.GetRoute(topic="Nobody"))

    assert answer.code == 17
    assert answer.remark == "No topic route info in name server for the topic: Nobody"
    assert answer.body == b""


def test_routes_wait_for_brokers_where_the_policy_says_so(server: NameServer) -> None:
    server.register()
    server.ask(routing.UpdateNamesrvConfig(), b"needWaitForService=true\n")

    early = server.ask(routing.GetRoute(topic="TopicTest"))
    server.now_ms += SERVICE_WAIT_MS

    assert (early.code, early.remark) == (1, "name server not ready")
    assert server.ask(routing.GetRoute(topic="TopicTest")).code == 0


def test_the_order_of_a_topic_is_in_its_route_where_the_policy_says_so(server: NameServer) -> None:
    server.register()
    server.ask(
        routing.PutSetting(namespace="ORDER_TOPIC_CONFIG", key="TopicTest", value="broker-a:4")
    )

    without = server.ask(routing.GetRoute(topic="TopicTest"))
    server.ask(routing.UpdateNamesrvConfig(), b"orderMessageEnable=true")
    with_order = server.ask(routing.GetRoute(topic="TopicTest"))

    assert b"orderTopicConf" not in without.body
    assert b'"orderTopicConf":"broker-a:4"' in with_order.body
    assert b"orderTopicConf" not in server.ask(routing.GetRoute(topic="TBW102")).body


def test_a_client_of_another_zone_sees_no_far_broker(server: NameServer) -> None:
    server.register(zone_name="z1")

    near = server.ask(routing.GetRoute(topic="TopicTest"), __ZONE_MODE="true", __ZONE_NAME="Z1")
    far = server.ask(routing.GetRoute(topic="TopicTest"), __ZONE_MODE="true", __ZONE_NAME="z2")

    assert b'"zoneName":"z1"' in near.body
    assert far.body == b'{"brokerDatas":[],"filterServerTable":{},"queueDatas":[]}'


def test_cluster_info(server: NameServer) -> None:
    server.register()

    assert server.ask(routing.GetClusterInfo()).body == (
        b'{"brokerAddrTable":{"broker-a":{"brokerAddrs":{"0":"10.0.0.1:10911"},'
        b'"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}},'
        b'"clusterAddrTable":{"DefaultCluster":["broker-a"]}}'
    )


def test_members_of_a_group(server: NameServer) -> None:
    server.register()

    def members(name: str) -> bytes:
        request = routing.GetBrokerMembers(cluster_name="DefaultCluster", broker_name=name)
        return server.ask(request).body

    assert members("broker-a") == (
        b'{"brokerMemberGroup":{"brokerAddrs":{"0":"10.0.0.1:10911"},"brokerName":"broker-a",'
        b'"cluster":"DefaultCluster"}}'
    )
    assert b'"brokerAddrs":{}' in members("unknown")


def test_lists_of_topics(server: NameServer) -> None:
    server.register()

    lists = [
        server.ask(request).body
        for request in (
            routing.GetAllTopicNames(),
            routing.GetTopicsOfCluster(cluster="DefaultCluster"),
            routing.GetTopicsOfCluster(cluster="Other"),
            routing.GetSystemTopicNames(),
        )
    ]

    assert lists == [
        b'{"topicList":["TBW102","TopicTest"]}',
        b'{"topicList":["TBW102","TopicTest"]}',
        b'{"topicList":[]}',
        b'{"brokerAddr":"10.0.0.1:10911","topicList":["DefaultCluster","broker-a"]}',
    ]


def test_lists_of_topics_are_refused_where_the_policy_says_so(server: NameServer) -> None:
    server.ask(routing.UpdateNamesrvConfig(), b"enableTopicList=false\nenableAllTopicList=false")

    for request in (
        routing.GetAllTopicNames(),
        routing.GetTopicsOfCluster(cluster="c"),
        routing.GetSystemTopicNames(),
    ):
        answer = server.ask(request)
        assert (answer.code, answer.remark) == (1, "disable")


# -- operating -----------------------------------------------------------------------------------


def test_write_permission_is_taken_and_given_back(server: NameServer) -> None:
    server.register()

    wiped = server.ask(routing.WipeWritePerm(broker_name="broker-a"))
    route = server.ask(routing.GetRoute(topic="TopicTest")).body
    added = server.ask(routing.AddWritePerm(broker_name="broker-a"))

    assert wiped.fields == {"wipeTopicCount": "2"}
    assert b'"perm":4' in route
    assert added.fields == {"addTopicCount": "2"}


def test_topics_are_added_and_deleted(server: NameServer) -> None:
    server.register()

    server.ask(routing.RegisterTopicRoute(topic="New"), ROUTE)
    added = server.topics()
    server.ask(routing.DeleteTopicRoute(topic="New", cluster_name="Other"))
    server.ask(routing.DeleteTopicRoute(topic="TopicTest", cluster_name="DefaultCluster"))
    server.ask(routing.DeleteTopicRoute(topic="TBW102"))

    assert added == ("TBW102", "TopicTest", "New")
    assert server.topics() == ("New",)


def test_the_policy_is_shown_and_changed_as_properties(server: NameServer) -> None:
    server.ask(routing.UpdateNamesrvConfig(), b"# a comment\n\nsupportActingMaster = TRUE\n")

    shown = server.ask(routing.GetNamesrvConfig()).body.decode().splitlines()

    assert "supportActingMaster=true" in shown
    assert "needWaitForService=false" in shown


def test_other_settings_cannot_be_changed_while_running(server: NameServer) -> None:
    answer = server.ask(
        routing.UpdateNamesrvConfig(), b"supportActingMaster=true\nkvConfigPath=/etc/x"
    )

    assert answer.code == 16
    assert "kvConfigPath" in str(answer.remark)
    assert not server.table.policy.support_acting_master


# -- entries -------------------------------------------------------------------------------------


def test_entries_are_kept_read_and_deleted(server: NameServer) -> None:
    server.ask(routing.PutSetting(namespace="ns", key="k", value="v"))

    one = server.ask(routing.GetSetting(namespace="ns", key="k"))
    all_of_it = server.ask(routing.GetSettings(namespace="ns"))
    server.ask(routing.DeleteSetting(namespace="ns", key="k"))

    assert one.fields == {"value": "v"}
    assert all_of_it.body == b'{"table":{"k":"v"}}'
    assert server.ask(routing.GetSetting(namespace="ns", key="k")).code == 22
    assert server.ask(routing.GetSettings(namespace="ns")).code == 22
    assert server.saved == ['{"configTable":{"ns":{"k":"v"}}}', '{"configTable":{}}']


def test_an_entry_that_cannot_be_saved_is_not_kept(server: NameServer) -> None:
    def fail(text: str) -> None:
        raise OSError(28, "No space left on device")

    server.entries.save = fail

    answer = server.ask(routing.PutSetting(namespace="ns", key="k", value="v"))

    assert answer.code == 1
    assert "No space left on device" in str(answer.remark)
    assert server.ask(routing.GetSetting(namespace="ns", key="k")).code == 22


def test_an_unknown_code_is_not_supported(server: NameServer) -> None:
    (frame,) = Framer().feed(encode_request(10, 7, {}))

    server.routes.answer(server.port, frame)

    (answer,) = server.port.sent
    assert (answer.code, answer.remark) == (3, " request type 10 not supported")
