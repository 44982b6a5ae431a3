"""What passed in the last minute, hour and day."""

import pytest

from broker.serving import histories
from broker.serving.histories import Histories, History, Passed
from broker.serving.rates import Rates
from dledger_py.remoting.commands.json_bodies import parse
from dledger_py.remoting.commands.operations import ViewStatistic
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from tests.broker.rooms_kit import CLUSTER, Desk

DAY_S = 86_400
START_S = 10 * DAY_S


@pytest.mark.parametrize(
    "later_s, passed",
    [
        (0, Passed(minute=3, hour=3, day=3)),
        (59, Passed(minute=3, hour=3, day=3)),
        (60, Passed(minute=0, hour=3, day=3)),
        (3599, Passed(minute=0, hour=3, day=3)),
        (3600, Passed(minute=0, hour=0, day=3)),
        (DAY_S - 1, Passed(minute=0, hour=0, day=3)),
        (DAY_S, Passed()),
    ],
)
def test_what_passed_grows_old(later_s, passed) -> None:
    history = History()
    history.add(1, START_S)
    history.add(2, START_S)

    assert passed == history.passed(START_S + later_s)


def test_slots_of_the_past_are_let_go() -> None:
    history = History()
    for second in range(0, 3 * DAY_S, 10):
        history.add(1, START_S + second)

    assert [6, 6, 24] == [len(counts) for counts in history._counts]
    assert Passed(minute=6, hour=360, day=8640) == history.passed(START_S + 3 * DAY_S - 10)


def test_what_had_nothing_for_a_day_is_forgotten_within_an_hour() -> None:
    table: Histories[str] = Histories()
    table.add("old", 1, START_S)
    table.add("new", 1, START_S + DAY_S)
    table.sweep(START_S + DAY_S)

    assert ["new"] == list(table)


def test_so_many_and_no_more(monkeypatch) -> None:
    monkeypatch.setattr(histories, "HISTORIES_MAX", 2)
    table: Histories[str] = Histories()
    for name in ("a", "b", "c", "a"):
        table.add(name, 1, START_S)

    assert ["a", "b"] == list(table)
    assert Passed(minute=2, hour=2, day=2) == table.passed("a", START_S)


def test_a_meter_that_is_dropped_has_been_noted() -> None:
    rates = Rates()
    for second in range(30):
        if second == 1:
            rates.topic("orders").total += 5
        rates.sample(START_S + second)

    assert "orders" not in rates.put_by_topic
    assert Passed(minute=5, hour=5, day=5) == rates.topic_passed("orders")


# --- as the tools ask for it ---


@pytest.fixture
def desk(tmp_path) -> Desk:
    desk = Desk(tmp_path)
    desk.ask(CreateTopic(topic="orders", read_queue_nums=1, write_queue_nums=1, perm=6))
    for _ in range(6):
        desk.ask(SendMessage(producer_group="p", topic="orders", queue_id=0), b"x")
    desk.rates.group("orders", "shop").total += 3
    desk.rates.got.total += 4
    desk.rates.sample(START_S)
    return desk


def view(name: str, key: str) -> ViewStatistic:
    return ViewStatistic(stats_name=name, stats_key=key)


@pytest.mark.parametrize(
    "name, key, count",
    [
        ("TOPIC_PUT_NUMS", "orders", 6),
        ("GROUP_GET_NUMS", "orders@shop", 3),
        ("BROKER_PUT_NUMS", CLUSTER, 6),
        ("BROKER_GET_NUMS", CLUSTER, 4),
    ],
)
def test_a_statistic(desk, name, key, count) -> None:
    found = parse(desk.ask(view(name, key)).body)

    assert {
        "statsMinute": {"avgpt": 0.0, "sum": count, "tps": count / 60},
        "statsHour": {"avgpt": 0.0, "sum": count, "tps": count / 3600},
        "statsDay": {"avgpt": 0.0, "sum": count, "tps": count / 86400},
    } == found


@pytest.mark.parametrize(
    "name, key",
    [
        ("TOPIC_PUT_NUMS", "none"),
        ("GROUP_GET_NUMS", "orders"),
        ("GROUP_GET_NUMS", "orders@none"),
        ("BROKER_PUT_NUMS", "OtherCluster"),
        ("BROKER_GET_NUMS", "OtherCluster"),
        ("SNDBCK_PUT_NUMS", "orders@shop"),
    ],
)
def test_a_statistic_that_is_not_there(desk, name, key) -> None:
    assert 1 == desk.ask(view(name, key)).code


def test_a_deleted_topic_is_forgotten(desk) -> None:
    desk.ask(DeleteTopic(topic="orders"))
    desk.rates.forget_topic("orders")

    assert 1 == desk.ask(view("TOPIC_PUT_NUMS", "orders")).code
    assert 1 == desk.ask(view("GROUP_GET_NUMS", "orders@shop")).code
