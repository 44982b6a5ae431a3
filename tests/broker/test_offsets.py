"""Positions, asked of the room itself: page 07 §4 and §5."""

import pytest

from dledger_py.ledger.errors import Busy, Indefinite, NotLeader
from dledger_py.remoting.commands.offsets import (
    GetEarliestTime,
    GetMaxOffset,
    GetMinOffset,
    QueryConsumerOffset,
    SearchOffset,
    UpdateConsumerOffset,
)
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic
from dledger_py.remoting.rooms import Refused
from tests.broker.rooms_kit import Desk

GROUP = "TOOLS_CONSUMER"


@pytest.fixture
def desk(tmp_path) -> Desk:
    desk = Desk(tmp_path)
    desk.ask(CreateTopic(topic="orders", read_queue_nums=2, write_queue_nums=2, perm=6))
    return desk


def query(group: str = GROUP, topic: str = "orders", zero: bool | None = None):
    return QueryConsumerOffset(
        consumer_group=group, topic=topic, queue_id=0, set_zero_if_not_found=zero
    )


def commit(offset: int, group: str = GROUP, topic: str = "orders", queue_id: int = 0):
    return UpdateConsumerOffset(
        consumer_group=group, topic=topic, queue_id=queue_id, commit_offset=offset
    )


def send(desk: Desk, count: int = 1, every_ms: int = 0) -> None:
    for _ in range(count):
        desk.ask(SendMessage(producer_group="p", topic="orders", queue_id=0), b"x")
        desk.now_ms += every_ms


def offset(desk: Desk, request) -> int | None:
    answer = desk.ask(request)
    return int(answer.fields["offset"]) if answer.code == 0 else -answer.code


@pytest.mark.parametrize(
    "messages, committed, zero, found",
    [
        (0, None, None, -22),
        (3, None, None, 0),
        (3, None, True, 0),
        (3, None, False, -22),
        (3, 2, False, 2),
        (3, 0, False, 0),
        (3, 99, None, 99),  # no check against the end
        (3, -1, False, -22),
    ],
)
def test_where_a_group_starts(desk, messages, committed, zero, found) -> None:
    send(desk, messages)
    if committed is not None:
        assert 0 == desk.ask(commit(5)).code
        assert 0 == desk.ask(commit(committed)).code

    assert found == offset(desk, query(zero=zero))


def test_an_unknown_topic_has_no_offset(desk) -> None:
    assert -22 == offset(desk, query(topic="none"))


@pytest.mark.parametrize(
    "request_, code",
    [
        (commit(1, group="none"), 26),
        (commit(1, topic="none"), 17),
        (commit(1, queue_id=2), 29),
        (commit(1, queue_id=-1), 29),
        (GetMaxOffset(topic="none", queue_id=0), 17),
        (GetMaxOffset(topic="orders", queue_id=2), 29),
        (GetMinOffset(topic="orders", queue_id=-1), 29),
    ],
)
def test_what_does_not_exist_is_refused(desk, request_, code) -> None:
    assert code == desk.ask(request_).code


def test_begin_and_end_of_a_queue(desk) -> None:
    send(desk, 4)

    assert (0, 4) == (
        offset(desk, GetMinOffset(topic="orders", queue_id=0)),
        offset(desk, GetMaxOffset(topic="orders", queue_id=0)),
    )
    assert 0 == offset(desk, GetMaxOffset(topic="orders", queue_id=1))


# --- commits ---


def test_one_way_commits_are_gathered_into_one_entry(desk) -> None:
    before = desk.ledger.entries
    for number in range(10):
        desk.ask(commit(number), one_way=True)
    early = desk.ledger.entries - before
    desk.ticks_ms += 50
    desk.turn()

    assert (0, 1) == (early, desk.ledger.entries - before)
    assert 9 == desk.machine.offsets.get(GROUP, "orders", 0)


def test_the_wall_clock_may_jump_while_commits_are_gathered(desk) -> None:
    desk.ask(commit(7), one_way=True)
    desk.now_ms -= 3_600_000
    desk.ticks_ms += 50
    desk.turn()

    assert 7 == desk.machine.offsets.get(GROUP, "orders", 0)


def test_a_question_sees_one_way_commits_gathered_or_under_way(desk) -> None:
    desk.put(commit(5), one_way=True)
    assert 5 == offset(desk, query())

    desk.put(commit(6), one_way=True)
    desk.commits.propose()  # under way, not applied
    desk.put(query())
    assert not desk.ledger.barriers
    desk.turn()
    assert "6" == desk.client.answers[-1].fields["offset"]


@pytest.mark.parametrize(
    "error, code", [(NotLeader(None), 14), (Busy("full"), 14), (Indefinite("lost"), 1)], ids=str
)
def test_a_commit_tells_what_became_of_it(desk, error, code) -> None:
    desk.put(commit(1))
    desk.commits.propose_if_due()
    desk.ledger.refuse(error)

    assert code == desk.client.answers[-1].code


@pytest.mark.parametrize("error", [NotLeader(None), Indefinite("lost")], ids=str)
@pytest.mark.parametrize("gathered", [False, True])
def test_a_question_that_could_not_be_confirmed_may_be_asked_again(desk, error, gathered) -> None:
    if gathered:
        desk.put(commit(1), one_way=True)
    desk.put(GetMaxOffset(topic="orders", queue_id=0))
    desk.ledger.refuse(error)

    assert 14 == desk.client.answers[-1].code


def test_followers_hand_on_what_must_not_be_stale_and_answer_the_rest(desk) -> None:
    desk.gate.leads = False
    for request in (commit(1), query(), GetMaxOffset(topic="orders", queue_id=0)):
        desk.ask(request)
    here = desk.ask(GetMinOffset(topic="orders", queue_id=0))

    assert [15, 14, 30] == [frame.code for frame in desk.gate.relayed]
    assert 0 == here.code


# --- by time ---


@pytest.mark.parametrize(
    "time_ms, boundary, found",
    [
        (-1, "LOWER", 0),
        (0, "lower", 0),
        (5, "LOWER", 1),
        (10, "", 1),
        (25, "LOWER", 3),
        (99, "LOWER", 3),
        (-1, "UPPER", 0),
        (15, "upper", 1),
        (99, "UPPER", 2),
    ],
)
@pytest.mark.parametrize("cached", [True, False])
async def test_searching_by_time(desk, time_ms, boundary, found, cached) -> None:
    start_ms = desk.now_ms
    send(desk, 3, every_ms=10)
    desk.ledger.cached = cached
    request = SearchOffset(
        topic="orders", queue_id=0, timestamp=start_ms + time_ms, boundary_type=boundary
    )

    assert found == (await desk.ask_async(request)).header.offset


async def test_a_boundary_that_is_none_is_refused(desk) -> None:
    request = SearchOffset(topic="orders", queue_id=0, timestamp=1, boundary_type="middle")
    with pytest.raises(Refused, match="LOWER or UPPER"):
        await desk.ask_async(request)


async def test_the_earliest_time_of_a_queue(desk) -> None:
    start_ms = desk.now_ms
    send(desk, 2, every_ms=10)

    assert [start_ms, -1] == [
        (await desk.ask_async(GetEarliestTime(topic="orders", queue_id=queue_id))).header.timestamp
        for queue_id in (0, 1)
    ]
