"""Owning queues, asked of the room itself: pages 06 §10 and 07 §7."""

import pytest

from dledger_py.ledger.errors import Indefinite, NotLeader
from dledger_py.remoting.commands.groups import CreateGroup, DeleteGroup, GroupConfig
from dledger_py.remoting.commands.json_bodies import decode_body, encode_body
from dledger_py.remoting.commands.locks import (
    LockQueues,
    QueuesLocked,
    QueuesOfClient,
    UnlockQueues,
)
from dledger_py.remoting.commands.statistics import MessageQueue
from dledger_py.remoting.commands.topics import CreateTopic
from tests.broker.rooms_kit import BROKER, Desk

Asked = tuple[str, int]


@pytest.fixture
def desk(tmp_path) -> Desk:
    desk = Desk(tmp_path)
    desk.ask(CreateTopic(topic="orders", read_queue_nums=4, write_queue_nums=4, perm=6))
    desk.ask(CreateGroup(), encode_body(GroupConfig(group_name="shop")))
    return desk


def body(client: str, *queues: int, broker: str = BROKER, group: str = "shop") -> bytes:
    asked = tuple(
        MessageQueue(topic="orders", broker_name=broker, queue_id=queue_id) for queue_id in queues
    )
    return encode_body(QueuesOfClient(client_id=client, consumer_group=group, mq_set=asked))


def lock(desk: Desk, client: str, *queues: int, **how: str) -> list[int]:
    answer = desk.ask(LockQueues(), body(client, *queues, **how))
    assert answer.code == 0, answer.remark
    owned = decode_body(QueuesLocked, answer.body).queues
    assert all((queue.topic, queue.broker_name) == ("orders", BROKER) for queue in owned)
    return [queue.queue_id for queue in owned]


def test_a_queue_is_owned_until_it_is_given_up(desk) -> None:
    assert [0, 1] == lock(desk, "one", 0, 1)
    assert [2] == lock(desk, "two", 1, 2)

    assert 0 == desk.ask(UnlockQueues(), body("two", 1)).code
    assert [] == lock(desk, "two", 1)
    assert 0 == desk.ask(UnlockQueues(), body("one", 0, 1)).code
    assert [1] == lock(desk, "two", 1)


def test_an_owner_that_is_silent_for_a_minute_is_one_no_more(desk) -> None:
    lock(desk, "one", 0)
    desk.now_ms += 60_000
    assert [] == lock(desk, "two", 0)
    desk.now_ms += 1
    assert [0] == lock(desk, "two", 0)


def test_the_answer_is_written_as_clients_read_it(desk) -> None:
    go = b'{"consumerGroup":"shop","clientId":"one","mqSet":[{"topic":"orders","brokerName":"%s",'
    go = go % BROKER.encode() + b'"queueId":3}]}'

    answer = desk.ask(LockQueues(), go)

    assert answer.body == (
        b'{"lockOKMQSet":[{"brokerName":"%s","queueId":3,"topic":"orders"}]}' % BROKER.encode()
    )


def test_queues_of_another_broker_are_not_ours_to_give(desk) -> None:
    assert [] == lock(desk, "one", 0, broker="broker-z")
    assert [0] == lock(desk, "two", 0)


def test_a_lock_counts_once_it_is_applied(desk) -> None:
    answered = len(desk.client.answers)
    desk.put(LockQueues(), body("one", 0))
    assert answered == len(desk.client.answers)
    assert [] == desk.machine.locks.state()

    desk.turn()

    assert answered + 1 == len(desk.client.answers)
    assert [["shop", "orders", 0, "one", desk.now_ms]] == desk.machine.locks.state()


@pytest.mark.parametrize("error, code", [(NotLeader(None), 14), (Indefinite("?"), 1)])
def test_a_lock_that_is_not_committed_is_not_given(desk, error, code) -> None:
    desk.put(LockQueues(), body("one", 0))
    desk.ledger.refuse(error)

    assert code == desk.client.answers[-1].code


def test_the_leader_gives_them(desk) -> None:
    desk.gate.leads = False

    assert desk.ask(LockQueues(), body("one", 0)) is None
    assert desk.ask(UnlockQueues(), body("one", 0)) is None
    assert [41, 42] == [frame.code for frame in desk.gate.relayed]


@pytest.mark.parametrize(
    "sent, code, remark",
    [
        (body("one", 0, group="nobody"), 26, "nobody"),
        (body("one", 0, group="not/legal"), 26, "not/legal"),
        (body(""), 29, "clientId of 0 characters"),
        (body("x" * 1025), 29, "clientId of 1025 characters"),
        (b"{}", 1, "client"),
        (b"[", 1, "JSON"),
        (body("one", -1, 4), 0, None),
    ],
)
def test_bad_requests_get_a_clear_answer(desk, sent, code, remark) -> None:
    answer = desk.ask(LockQueues(), sent)

    assert code == answer.code
    assert remark is None or remark in answer.remark
    assert [] == desk.machine.locks.state()


def test_a_deleted_group_owns_nothing(desk) -> None:
    lock(desk, "one", 0)
    desk.ask(DeleteGroup(group_name="shop"))

    assert [] == desk.machine.locks.state()
    assert not desk.machine.locks.consumes_in_order("shop", desk.now_ms)
