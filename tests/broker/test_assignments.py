"""Who consumes what, asked of the broker: page 08 §4.1."""

import pytest
import trio

from broker.machine.topics import TopicConfig, Topics
from broker.rooms.assignments import shared_by_pop
from broker.serving import topic_queues
from broker.serving.topic_queues import TopicQueues
from dledger_py.client.errors import ResponseError, Unreachable
from dledger_py.client.queues import Queue
from dledger_py.client.rebalance import averaged
from dledger_py.remoting.commands.assignments import (
    AssignmentQuestion,
    Assignments,
    GetRequestModes,
    QueryAssignment,
    RequestMode,
    RequestModes,
    SetRequestMode,
)
from dledger_py.remoting.commands.heartbeats import MessageModel
from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.commands.routes import BrokerData, QueueData, TopicRoute
from tests.broker.popping_kit import GROUP, PopDesk


@pytest.fixture
def desk(tmp_path) -> PopDesk:
    return PopDesk(tmp_path).furnish()


async def share(desk: PopDesk, client: str = "c1", **how) -> list[tuple[str, int, str]] | None:
    question = AssignmentQuestion(
        **({"topic": "orders", "consumer_group": GROUP, "client_id": client} | how)
    )
    answer = await desk.ask_async(QueryAssignment(), encode_body(question))
    found = decode_body(Assignments, answer.body).message_queue_assignments
    if found is None:
        return None
    return sorted((a.message_queue.broker_name, a.message_queue.queue_id, a.mode) for a in found)


def set_mode(desk: PopDesk, **how) -> int:
    given = {"topic": "orders", "consumer_group": GROUP, "mode": "POP"}
    answer = desk.ask(SetRequestMode(), encode_body(RequestMode(**(given | how))))
    assert answer is not None
    return answer.code


async def test_by_pull_the_shares_are_those_that_clients_compute(desk) -> None:
    for client in ("c2", "c3"):
        desk.beat(GROUP, "orders", client_id=client, by=desk.connect())
    queues = await desk._queues_of("orders")

    for client in ("c1", "c2", "c3"):
        expected = averaged(queues, ("c1", "c2", "c3"), client)
        assert sorted((q.broker, q.queue_id, "PULL") for q in expected) == await share(desk, client)
    circle = [await share(desk, c, strategy_name="AVG_BY_CIRCLE") for c in ("c1", "c2", "c3")]
    assert [
        [("broker-a", 0, "PULL")],
        [("broker-a", 1, "PULL")],
        [("broker-b", 0, "PULL")],
    ] == circle


async def test_by_pop_everybody_has_every_broker(desk) -> None:
    assert 0 == set_mode(desk)

    assert [("broker-a", -1, "POP"), ("broker-b", -1, "POP")] == await share(desk)
    assert 3 == len(await share(desk, topic="orders", message_model=MessageModel.BROADCASTING))


async def test_a_client_that_is_not_known_keeps_what_it_has(desk) -> None:
    assert await share(desk, "stranger") is None
    assert await share(desk, consumer_group="nobody") is None
    assert await share(desk, topic="nowhere") is None
    assert await share(desk, strategy_name="MACHINE_ROOM") is None


def test_a_queue_is_popped_by_its_consumer_and_those_before_it() -> None:
    def one_each(queues, consumers, consumer):
        return averaged(queues, consumers, consumer)

    def shares(queues: int, consumers: int, shared: int) -> list[list[int]]:
        all_queues = [Queue("orders", "b", number) for number in range(queues)]
        names = [f"c{number}" for number in range(consumers)]
        return [
            [q.queue_id for q in shared_by_pop(all_queues, names, name, shared, one_each)]
            for name in names
        ]

    assert [[0, 1], [1, 2], [2, 3], [3, 0]] == shares(4, 4, 1)
    assert [[-1, -1], [-1, -1]] == shares(2, 2, 1)
    assert [[-1, -1]] * 3 == shares(2, 3, 0)
    assert [[0], [1], [0], [1]] == shares(2, 4, 1)
    assert [[], [], [], []] == shares(0, 4, 1)


def test_modes_are_kept_and_listed(desk) -> None:
    assert 0 == set_mode(desk, pop_share_queue_num=8)
    listed = decode_body(RequestModes, desk.ask(GetRequestModes()).body)

    assert {
        "orders": {
            GROUP: RequestMode(
                topic="orders", consumer_group=GROUP, mode="POP", pop_share_queue_num=8
            )
        }
    } == listed.message_request_mode_map


@pytest.mark.parametrize(
    "how, code",
    [
        ({"topic": "%RETRY%shop"}, 16),
        ({"topic": "nowhere"}, 17),
        ({"consumer_group": "nobody"}, 26),
        ({"mode": "PUSH"}, 29),
    ],
)
def test_a_mode_that_cannot_be_is_refused(desk, how, code) -> None:
    assert code == set_mode(desk, **how)


def test_a_follower_hands_a_mode_on(desk) -> None:
    desk.gate.leads = False
    desk.put(SetRequestMode(), encode_body(RequestMode(topic="orders", consumer_group=GROUP)))

    assert [401] == [frame.code for frame in desk.gate.relayed]


# --- the queues of other broker groups -----------------------------------------------------------


class NameServer:
    def __init__(self) -> None:
        self.said: list[object] = []
        self.asked = 0
        self.now_ms = 0

    async def ask(self, request) -> bytes:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        answer = self.said.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, bytes) else encode_body(answer)


def route(**queues: int) -> TopicRoute:
    return TopicRoute(
        broker_datas=tuple(BrokerData(broker_name=n, broker_addrs={0: "h:1"}) for n in queues),
        queue_datas=tuple(
            QueueData(broker_name=name, read_queue_nums=count, write_queue_nums=9, perm=6)
            for name, count in queues.items()
        ),
    )


def source(name_server: NameServer, **queues: int) -> TopicQueues:
    topics = Topics()
    topics.put([TopicConfig(name=name, read_queues=count) for name, count in queues.items()], 0)
    return TopicQueues(
        broker_name="a",
        topics=topics,
        ask=name_server.ask,
        monotonic_ms=lambda: name_server.now_ms,
    )


def told(queues) -> list[tuple[str, int]] | None:
    return None if queues is None else [(q.broker, q.queue_id) for q in queues]


async def test_our_own_queues_are_as_we_have_them_and_others_as_name_servers_say() -> None:
    server = NameServer()
    server.said = [route(a=7, b=2)]
    queues = source(server, orders=1)

    assert [("a", 0), ("b", 0), ("b", 1)] == told(await queues.of("orders"))
    assert [("a", 0), ("b", 0), ("b", 1)] == told(await queues.of("orders"))
    assert 1 == server.asked
    server.now_ms += topic_queues.BELIEVED_MS
    server.said = [route(b=1)]
    assert [("a", 0), ("b", 0)] == told(await queues.of("orders"))


async def test_what_cannot_be_asked_is_not_known() -> None:
    server = NameServer()
    server.said = [Unreachable("h:1", "down"), b"[", ResponseError(1, "broken"), route(b=1)]
    queues = source(server, orders=1)

    assert [None] * 3 == [told(await queues.of("orders")) for _ in range(3)]
    assert [("a", 0), ("b", 0)] == told(await queues.of("orders"))


async def test_a_topic_that_name_servers_do_not_know_is_ours_alone_or_nobodys() -> None:
    server = NameServer()
    server.said = [ResponseError(17, "no topic"), ResponseError(17, "no topic")]
    queues = source(server, orders=1)

    assert [("a", 0)] == told(await queues.of("orders"))
    assert None is told(await queues.of("bills"))


async def test_without_name_servers_there_are_only_our_own() -> None:
    queues = source(NameServer(), orders=2)
    queues.ask = None

    assert [("a", 0), ("a", 1)] == told(await queues.of("orders"))
