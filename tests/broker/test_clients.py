"""Clients that come, stay and go: page 07 §1 and §2."""

import pytest

from broker.serving import client_table
from broker.serving.client_table import SILENCE_MS
from dledger_py.ledger.errors import NotLeader
from dledger_py.remoting.commands.clients import (
    CheckClientConfig,
    GetConsumerIds,
    Heartbeat,
    UnregisterClient,
)
from dledger_py.remoting.commands.groups import CreateGroup, GroupConfig
from dledger_py.remoting.commands.heartbeats import (
    ConsumerData,
    HeartbeatData,
    MessageModel,
    encode_heartbeat,
)
from dledger_py.remoting.commands.json_bodies import encode_body, parse
from tests.broker.rooms_kit import Desk

FULL_BEATS = {
    "java": b'{"clientID":"c1","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET",'
    b'"consumeType":"CONSUME_PASSIVELY","groupName":"shop","messageModel":"CLUSTERING",'
    b'"subscriptionDataSet":[{"classFilterMode":false,"codeSet":[2598919],"expressionType":"TAG",'
    b'"subString":"TagA","subVersion":1700000000000,"tagsSet":["TagA"],"topic":"orders"}],'
    b'"unitMode":false}],"heartbeatFingerprint":0,"producerDataSet":[{"groupName":"pg"}],'
    b'"withoutSub":false}',
    "go": b'{"clientID":"c1","producerDataSet":[{"groupName":"pg"}],"consumerDataSet":[{"groupName"'
    b':"shop","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","consumeFromWhere":'
    b'"CONSUME_FROM_LAST_OFFSET","subscriptionDataSet":[{"classFilterMode":false,"topic":"orders",'
    b'"subString":"TagA","tagsSet":["TagA"],"codeSet":["2598919"],"subVersion":1700000000000000000,'
    b'"expressionType":"TAG"}],"unitMode":false}]}',
    "c++": b'{"clientID":"c1","consumerDataSet":[{"consumeFromWhere":0,"consumeType":1,"groupName":'
    b'"shop","messageModel":1,"subscriptionDataSet":[{"codeSet":[2598919],"subString":"TagA",'
    b'"subVersion":"1700000000000","tagsSet":["TagA"],"topic":"orders"}]}],'
    b'"producerDataSet":[{"groupName":"pg"}]}\n',
}


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(tmp_path)


def ids(desk: Desk, group: str = "shop") -> list[str] | int:
    answer = desk.ask(GetConsumerIds(consumer_group=group))
    return parse(answer.body)["consumerIdList"] if answer.code == 0 else answer.code


@pytest.mark.parametrize("client", FULL_BEATS)
def test_every_clients_heartbeat_is_understood(desk, client) -> None:
    answer = desk.ask(Heartbeat(), FULL_BEATS[client])

    assert (0, {"IS_SUB_CHANGE": "true"}) == (answer.code, answer.fields)
    assert ["c1"] == ids(desk)
    assert ["c1"] == [producer.client_id for producer in desk.table.producers("pg")]
    assert "TagA" == desk.table.consumer_group("shop").subscriptions["orders"].sub_string


def test_the_first_heartbeat_makes_the_group_and_its_retry_topic(desk) -> None:
    desk.beat("shop", "orders")
    retry = desk.machine.topics.get("%RETRY%shop")

    assert "shop" in desk.machine.groups
    assert (1, 1, 6) == (retry.read_queues, retry.write_queues, retry.perm)

    before = desk.ledger.entries
    desk.beat("shop", "orders")
    assert before == desk.ledger.entries


def test_a_new_leader_makes_up_for_what_it_heard_as_a_follower(desk) -> None:
    desk.gate.leads = False
    desk.beat("shop", "orders")
    early = "shop" in desk.machine.groups
    desk.gate.leads = True
    desk.clients.role_changed()
    desk.turn()

    assert (False, True) == (early, "shop" in desk.machine.groups)


def test_many_groups_are_made_by_entries_that_the_log_takes(desk) -> None:
    """By a heartbeat, and by a new leader for all heartbeats that came before."""
    names = [f"{number:0120}" for number in range(2_001)]
    data = HeartbeatData(
        client_id="c1",
        consumer_data_set=tuple(ConsumerData(group_name=name) for name in names),
    )
    desk.put(Heartbeat(), encode_heartbeat(data))
    by_the_heartbeat = [len(payload) for payload, _settle in desk.ledger.proposed]
    desk.ledger.refuse(NotLeader(None))
    desk.clients.role_changed()
    by_the_leader = [len(payload) for payload, _settle in desk.ledger.proposed]
    desk.turn()

    assert 3 == len(by_the_heartbeat)
    assert by_the_heartbeat == by_the_leader
    assert 300_000 > max(by_the_leader)
    assert all(name in desk.machine.groups for name in names)
    assert [0] == [answer.code for answer in desk.client.answers]


def test_groups_with_illegal_names_are_left_out(desk) -> None:
    assert 0 == desk.beat("a.b", "orders").code
    assert 1 == ids(desk, "a.b")
    assert "a.b" not in desk.machine.groups


def test_everybody_in_the_group_is_told_of_changes_and_only_then(desk) -> None:
    first, second = desk.connect(), desk.connect()
    desk.beat("shop", "orders", client_id="c1", by=first)
    desk.beat("shop", "orders", client_id="c1", by=first)
    told = [len(first.told)]
    desk.beat("shop", "orders", client_id="c2", by=second)
    told += [len(first.told), len(second.told)]
    desk.beat("shop", "orders", "TagA", client_id="c2", by=second, version=2)
    told += [len(first.told), len(second.told)]
    desk.beat("shop", "orders", "TagA", client_id="c2", by=second, version=3)
    told += [len(first.told), len(second.told)]
    desk.ask(UnregisterClient(client_id="c2", consumer_group="shop"))
    told += [len(first.told), len(second.told)]

    assert [1, 2, 1, 3, 2, 3, 2, 4, 2] == told
    assert {"shop"} == {request.consumer_group for request in first.told}
    assert ["c1"] == ids(desk)


def test_broadcasting_and_silenced_groups_are_not_told(desk) -> None:
    quiet = GroupConfig(group_name="quiet", notify_consumer_ids_changed_enable=False)
    desk.ask(CreateGroup(), encode_body(quiet))
    desk.beat("quiet", "orders")
    desk.beat("shouting", "orders", model=MessageModel.BROADCASTING)

    assert [] == desk.client.told


def test_the_end_of_a_connection_takes_its_clients_along(desk) -> None:
    first, second = desk.connect(), desk.connect()
    desk.beat("shop", "orders", client_id="c1", by=first)
    desk.beat("shop", "orders", client_id="c2", by=second)
    second.close()

    assert ["c1"] == ids(desk)
    assert 3 == len(first.told)
    first.close()
    assert 1 == ids(desk)


def test_a_client_that_came_back_is_not_removed_by_its_old_connection(desk) -> None:
    old, new = desk.connect(), desk.connect()
    desk.beat("shop", "orders", by=old)
    desk.beat("shop", "orders", by=new)
    old.close()

    assert ["c1"] == ids(desk)


def test_silent_clients_leave_by_a_clock_nobody_corrects(desk) -> None:
    desk.beat("shop", "orders")
    desk.now_ms += 10**9
    desk.clients.expire()
    stays = ids(desk)
    desk.ticks_ms += SILENCE_MS + 1
    desk.clients.expire()

    assert (["c1"], 1) == (stays, ids(desk))


def test_a_beat_without_subscriptions_keeps_them_or_asks_for_a_full_one(desk) -> None:
    short = b'{"clientID":"c1","consumerDataSet":[{"groupName":"shop"}],"withoutSub":true}'
    unknown = desk.ask(Heartbeat(), short)
    desk.beat("shop", "orders")
    desk.ticks_ms += SILENCE_MS
    known = desk.ask(Heartbeat(), short)
    desk.ticks_ms += SILENCE_MS
    desk.clients.expire()

    assert ["true", "false"] == [beat.fields["IS_SUB_CHANGE"] for beat in (unknown, known)]
    assert ["orders"] == list(desk.table.consumer_group("shop").subscriptions)


def test_beyond_the_limit_of_clients_nothing_is_kept(desk, monkeypatch) -> None:
    monkeypatch.setattr(client_table, "CLIENTS_MAX", 2)
    for number in range(4):
        desk.beat(f"g{number}", "orders", client_id="c")

    assert ["g0", "g1"] == [group.name for group in desk.table.consumer_groups()]


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff", b'{"clientID":3,"consumerDataSet":1}']
)
def test_rubbish_is_refused(desk, body) -> None:
    assert 1 == desk.ask(Heartbeat(), body).code


# --- checking a subscription ---

CHECKS = {
    "SQL92": (b'"expressionType":"SQL92","subString":"n > 1 AND a = \'x\'"', 0),
    "no SQL92": (b'"expressionType":"SQL92","subString":"n > \'x\'"', 23),
    "no expression": (b'"expressionType":"SQL92","subString":null', 23),
    "tags": (b'"expressionType":"TAG","subString":"n >"', 0),
    "no type": (b'"expressionType":null,"subString":"n >"', 0),
    "unknown type": (b'"expressionType":"XPATH","subString":"/n"', 23),
}


@pytest.mark.parametrize("case", CHECKS)
def test_a_subscription_is_checked(desk, case) -> None:
    members, code = CHECKS[case]
    data = b'{"classFilterMode":false,"codeSet":[],%b,"subVersion":1,"tagsSet":[],"topic":"orders"}'
    body = b'{"clientId":"c1","group":"shop","subscriptionData":%b}' % (data % members)
    answer = desk.ask(CheckClientConfig(), body)

    assert code == answer.code
    assert ("line 1, column 5" in (answer.remark or "")) == (case == "no SQL92")


def test_nothing_to_check_is_all_right(desk) -> None:
    assert 0 == desk.ask(CheckClientConfig()).code
    assert 0 == desk.ask(CheckClientConfig(), b'{"clientId":"c1","group":"shop"}').code
