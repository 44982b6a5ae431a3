"""A member whose disk is nearly full: what it still does, what it refuses, when it leads again."""

import pytest

from broker.errors import LASTING
from dledger_py.remoting.commands.offsets import UpdateConsumerOffset
from dledger_py.remoting.commands.pulling import CARRIES_SUBSCRIPTION, PullMessage
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic
from tests.broker.rooms_kit import Desk

SEND = SendMessage(producer_group="pg", topic="orders", queue_id=0)


@pytest.fixture
def desk(tmp_path) -> Desk:
    """A broker whose floor is 100 bytes, with one message stored."""
    desk = Desk(tmp_path)
    desk.ask(CreateTopic(topic="orders", read_queue_nums=1, write_queue_nums=1, perm=6))
    desk.ask(SEND)
    return desk


def with_free(desk: Desk, free_bytes: int) -> Desk:
    desk.free_bytes = free_bytes
    desk.disk.look()
    return desk


def test_below_the_floor_sends_are_refused_with_the_figures(desk) -> None:
    answer = with_free(desk, 99).ask(SEND)

    assert 14 == answer.code  # every client tries again, later
    assert "disk is nearly full" in answer.remark
    assert LASTING in answer.fields
    assert 1 == desk.machine.queues.next_offset("orders", 0)


def test_below_the_floor_consumers_go_on(desk) -> None:
    with_free(desk, 10)
    desk.ask(
        PullMessage(
            consumer_group="DEFAULT_CONSUMER",
            topic="orders",
            queue_id=0,
            queue_offset=0,
            max_msg_nums=1,
            sys_flag=CARRIES_SUBSCRIPTION,
            subscription="*",
        )
    )
    commit = UpdateConsumerOffset(
        consumer_group="DEFAULT_CONSUMER", topic="orders", queue_id=0, commit_offset=1
    )

    assert 0 == desk.ask(commit).code
    assert 1 == desk.machine.offsets.get("DEFAULT_CONSUMER", "orders", 0)


@pytest.mark.parametrize(
    ("free_bytes", "code"),
    [(100, 14), (109, 14), (110, 0)],  # a little above the floor, so that it does not flap
)
def test_sends_are_taken_again_once_there_is_space(desk, free_bytes: int, code: int) -> None:
    with_free(desk, 99)

    assert code == with_free(desk, free_bytes).ask(SEND).code


def test_below_half_the_floor_a_member_gives_up_leading_until_there_is_space(desk) -> None:
    for free_bytes in (1000, 60, 50, 49, 30, 99, 100, 60):
        with_free(desk, free_bytes)

    assert [False, True] == desk.electable


@pytest.mark.parametrize(
    ("free_bytes", "refuses", "leads"), [(100, False, True), (99, True, True), (49, True, False)]
)
def test_operators_are_shown_what_the_disk_allows(desk, free_bytes, refuses, leads) -> None:
    seen = with_free(desk, free_bytes).disk.statistics()

    assert (free_bytes, 100) == (seen.free_bytes, seen.floor_bytes)
    assert (refuses, leads) == (seen.refusing, seen.electable)
