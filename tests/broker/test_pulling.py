"""Pulls, asked of the room itself: what page 04 §5 answers, and waiting."""

import pytest

from dledger_py.ledger.errors import NotLeader
from dledger_py.remoting.commands.groups import CreateGroup, GroupConfig
from dledger_py.remoting.commands.heartbeats import MessageModel
from dledger_py.remoting.commands.json_bodies import encode_body
from dledger_py.remoting.commands.offsets import QueryConsumerOffset
from dledger_py.remoting.commands.pulling import (
    CARRIES_SUBSCRIPTION,
    COMMITS_OFFSET,
    MAY_SUSPEND,
    PullMessage,
)
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from dledger_py.remoting.wire.message import decode_records
from tests.broker.rooms_kit import Desk, header

GROUP = "TOOLS_CONSUMER"


@pytest.fixture
def desk(tmp_path) -> Desk:
    desk = Desk(tmp_path)
    make_topic(desk)
    return desk


def make_topic(desk: Desk, name: str = "orders", read: int = 2, **fields) -> None:
    given = {"write_queue_nums": 4, "perm": 6} | fields
    assert desk.ask(CreateTopic(topic=name, read_queue_nums=read, **given)).code == 0


def make_group(desk: Desk, name: str, **settings) -> None:
    body = encode_body(GroupConfig(group_name=name, **settings))
    assert desk.ask(CreateGroup(), body).code == 0


def send(desk: Desk, *tags: str, topic: str = "orders") -> None:
    for tag in tags:
        text = f"TAGS\x01{tag}\x02" if tag else ""
        desk.put(SendMessage(producer_group="p", topic=topic, queue_id=0, properties=text), b"x")
    desk.turn()


def pull(offset: int = 0, expression: str | None = "*", **fields) -> PullMessage:
    given = {
        "consumer_group": GROUP,
        "topic": "orders",
        "queue_id": 0,
        "queue_offset": offset,
        "max_msg_nums": 32,
        "sys_flag": CARRIES_SUBSCRIPTION,
        "subscription": expression,
        "suspend_timeout_millis": 15_000,
    }
    return PullMessage(**(given | fields))


def waiting(offset: int = 0, expression: str | None = "*", **fields) -> PullMessage:
    return pull(offset, expression, sys_flag=CARRIES_SUBSCRIPTION | MAY_SUSPEND, **fields)


def places(answer) -> tuple[int, int, int]:
    found = header(PullMessage, answer)
    return found.next_begin_offset, found.min_offset, found.max_offset


@pytest.mark.parametrize(
    "messages, offset, code, following",
    [
        (0, 0, 19, 0),
        (0, 5, 21, 0),
        (0, -1, 21, 0),
        (3, -1, 21, 0),
        (3, 0, 0, 3),
        (3, 2, 0, 3),
        (3, 3, 19, 3),
        (3, 4, 21, 3),
        (3, 2**62, 21, 3),
    ],
)
def test_every_offset_has_its_code_and_four_header_fields(
    desk, messages, offset, code, following
) -> None:
    send(desk, *[""] * messages)
    answer = desk.ask(pull(offset))

    assert code == answer.code
    assert (following, 0, messages) == places(answer)
    assert "0" == answer.fields["suggestWhichBrokerId"]
    assert bool(answer.body) == (code == 0)


def test_lite_pulls_are_pulls(desk) -> None:
    send(desk, "")

    assert 0 == desk.ask(pull(), code=361).code


def test_messages_come_whole_with_their_offsets_and_not_too_many(desk) -> None:
    send(desk, *["TagA"] * 300)
    answer = desk.ask(pull(3, max_msg_nums=5))

    assert [3, 4, 5, 6, 7] == [record.queue_offset for record in decode_records(answer.body)]
    assert (8, 0, 300) == places(answer)
    assert 256 == len(decode_records(desk.ask(pull(max_msg_nums=2**31 - 1)).body))
    assert 1 == len(decode_records(desk.ask(pull(max_msg_nums=0)).body))


def test_the_index_is_never_read_at_a_length_the_client_chose(desk, monkeypatch) -> None:
    send(desk, *[""] * 10)
    lengths = []
    read = desk.queues.range

    def noting(topic, queue_id, offset, limit):
        lengths.append(limit)
        return read(topic, queue_id, offset, limit)

    monkeypatch.setattr(type(desk.queues), "range", lambda self, *given: noting(*given))
    desk.ask(pull(max_msg_nums=2**31 - 1))
    desk.ask(pull(max_msg_nums=2**31 - 1, subscription="TagA"))

    assert [256, 800] == lengths


@pytest.mark.parametrize(
    "expression, found",
    [
        ("*", 6),
        ("", 6),
        (None, 6),
        ("TagA", 2),
        ("TagA || TagB", 4),
        (" TagB||", 2),
        ("taga", 0),
        ("TagA||*", 2),
    ],
)
def test_tags_choose_messages(desk, expression, found) -> None:
    send(desk, "TagA", "TagB", "", "TagA", "TagB", "other")
    answer = desk.ask(pull(expression=expression))

    assert (0 if found else 20) == answer.code
    assert found == len(decode_records(answer.body))
    assert 6 == header(PullMessage, answer).next_begin_offset


def test_an_unmatched_stretch_is_passed_in_steps(desk) -> None:
    send(desk, *["TagA"] * 900)
    answer = desk.ask(pull(expression="TagB"))

    assert (20, 800) == (answer.code, header(PullMessage, answer).next_begin_offset)


REFUSED = {
    "illegal group": (pull(consumer_group="a.b"), 26),
    "unknown topic": (pull(topic="none"), 17),
    "queue behind the readable ones": (pull(queue_id=2), 29),
    "negative queue": (pull(queue_id=-1), 29),
    "no tag in the expression": (pull(expression="||"), 23),
    "expression of an unknown type": (pull(expression="a = 1", expression_type="XPATH"), 23),
    "nobody beat for the group": (pull(sys_flag=0), 24),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_pull_is_refused(desk, case) -> None:
    request, code = REFUSED[case]

    assert code == desk.ask(request).code


def test_permissions_of_topic_and_group_count(desk) -> None:
    make_topic(desk, "closed", perm=2)
    make_group(desk, "idle", consume_enable=False)

    assert 16 == desk.ask(pull(topic="closed")).code
    assert 16 == desk.ask(pull(consumer_group="idle")).code


def test_an_unknown_group_is_made_with_its_retry_topic(desk) -> None:
    desk.ask(pull(consumer_group="fresh"))

    assert "fresh" in desk.machine.groups
    assert "%RETRY%fresh" in desk.machine.topics


def test_heartbeats_bring_the_filter_and_the_version(desk) -> None:
    send(desk, "TagA", "TagB")
    desk.beat(GROUP, "orders", "TagB", version=5)

    assert [1] == [r.queue_offset for r in decode_records(desk.ask(pull(sys_flag=0)).body)]
    newer = decode_records(desk.ask(pull(sys_flag=0, sub_version=6)).body)
    assert [0, 1] == [r.queue_offset for r in newer]  # a filter we have not heard of: no filter
    make_topic(desk, "unsubscribed")
    assert 24 == desk.ask(pull(sys_flag=0, topic="unsubscribed")).code


def test_broadcasting_can_be_forbidden(desk) -> None:
    make_group(desk, "shouting", consume_broadcast_enable=False)
    desk.beat("shouting", "orders", model=MessageModel.BROADCASTING)

    assert 16 == desk.ask(pull(sys_flag=0, consumer_group="shouting")).code


# --- commits on the way ---


@pytest.mark.parametrize(
    "flag, offset, leads, stored",
    [
        (COMMITS_OFFSET, 7, True, 7),
        (0, 7, True, None),
        (COMMITS_OFFSET, -1, True, None),
        (COMMITS_OFFSET, 7, False, None),
    ],
)
def test_a_pull_may_commit(desk, flag, offset, leads, stored) -> None:
    desk.gate.leads = leads
    desk.ask(pull(sys_flag=CARRIES_SUBSCRIPTION | flag, commit_offset=offset))
    desk.ticks_ms += 50
    desk.turn()

    assert stored == desk.machine.offsets.get(GROUP, "orders", 0)


# --- waiting ---


def test_a_pull_at_the_end_waits_for_a_message(desk) -> None:
    send(desk, "")

    assert desk.ask(waiting(1)) is None
    send(desk, "")
    (answer,) = [answer for answer in desk.client.answers if answer.remark == "FOUND"]

    assert [1] == [record.queue_offset for record in decode_records(answer.body)]
    assert 0 == desk.polls.statistics().held


def test_a_queue_never_written_is_waited_for(desk) -> None:
    assert desk.ask(waiting(0)) is None
    assert 1 == desk.polls.statistics().held


def test_only_a_message_that_may_be_wanted_ends_the_wait(desk) -> None:
    desk.ask(waiting(0, "TagB"), by=desk.connect())
    send(desk, "TagA", "TagA")

    assert 1 == desk.polls.statistics().held
    send(desk, "TagB")
    assert 0 == desk.polls.statistics().held


def test_nothing_that_matches_is_answered_at_once_with_the_way_on(desk) -> None:
    send(desk, "TagA")
    answer = desk.ask(waiting(0, "TagB"))

    assert (20, 1) == (answer.code, header(PullMessage, answer).next_begin_offset)


def test_time_runs_out_and_the_offset_has_moved_over_what_did_not_match(desk) -> None:
    desk.ask(waiting(0, "TagB"))
    send(desk, "TagA", "TagA")
    desk.ticks_ms += 14_999
    desk.polls.expire(desk.ticks_ms)
    held = desk.polls.statistics().held
    desk.ticks_ms += 1
    desk.polls.expire(desk.ticks_ms)
    answer = desk.client.answers[-1]

    assert 1 == held
    assert (20, 2) == (answer.code, header(PullMessage, answer).next_begin_offset)


@pytest.mark.parametrize("asked, held_ms", [(-5, 0), (10, 10), (2**62, 100_000)])
def test_a_wait_has_bounds(desk, asked, held_ms) -> None:
    desk.ask(waiting(suspend_timeout_millis=asked))
    desk.polls.expire(held_ms - 1)
    before = desk.polls.statistics().held
    desk.polls.expire(held_ms)

    assert (1, 0) == (before, desk.polls.statistics().held)
    assert 19 == desk.client.answers[-1].code


def test_a_closed_connection_takes_its_pulls_along(desk) -> None:
    other = desk.connect()
    for _ in range(3):
        desk.ask(waiting(), by=other)
    desk.ask(waiting())
    other.close()

    assert 1 == desk.polls.statistics().held
    assert not other.answers


def test_a_deleted_topic_answers_its_pulls_and_no_others(desk) -> None:
    make_topic(desk, "other")
    desk.ask(waiting())
    desk.ask(waiting(topic="other"))
    desk.ask(DeleteTopic(topic="orders"), by=desk.connect())

    assert 17 == desk.client.answers[-1].code
    assert 1 == desk.polls.statistics().held


def test_a_queue_that_is_taken_away_answers_its_pulls(desk) -> None:
    desk.ask(waiting(queue_id=1))
    make_topic(desk, "orders", read=1)

    assert 29 == desk.client.answers[-2].code
    assert 0 == desk.polls.statistics().held


def test_a_change_of_role_answers_all(desk) -> None:
    desk.ask(waiting())
    desk.polls.wake_all()

    assert 19 == desk.client.answers[-1].code
    assert (0, 0, 0) == places(desk.client.answers[-1])


def test_many_pulls_that_are_over_are_not_kept_until_their_deadlines(desk) -> None:
    for _ in range(3_000):
        desk.put(waiting())
        desk.polls.wake("orders", 0, [0])

    assert len(desk.polls._by_deadline) <= 1_100


# --- followers ---


@pytest.mark.parametrize("offset", [1, 5])
def test_a_follower_that_may_be_behind_moves_nobody(desk, offset) -> None:
    desk.gate.leads = False
    answer = desk.ask(pull(offset))

    assert (19, (offset, 0, 0)) == (answer.code, places(answer))
    assert desk.ask(waiting(offset)) is None


def test_a_leader_says_beyond_only_once_it_is_confirmed(desk) -> None:
    send(desk, "")
    desk.put(pull(9))
    asked = len(desk.ledger.barriers)
    desk.ledger.refuse(NotLeader(None))
    answer = desk.client.answers[-1]

    assert (1, 19, 9) == (asked, answer.code, header(PullMessage, answer).next_begin_offset)


def test_what_was_beyond_may_have_arrived_meanwhile(desk) -> None:
    desk.put(pull(1))
    send(desk, "", "")
    answer = [a for a in desk.client.answers if a.remark == "FOUND"][-1]

    assert (2, 0, 2) == places(answer)


# --- cold messages ---


def test_messages_that_are_on_the_disk_only_are_read_elsewhere(desk) -> None:
    send(desk, "")
    desk.ledger.cached = False

    assert desk.ask(pull()) is None
    desk.threads.run()
    assert (0, (1, 0, 1)) == (desk.client.answers[-1].code, places(desk.client.answers[-1]))


def test_the_position_of_a_pull_shows_in_the_groups_progress(desk) -> None:
    send(desk, "", "")
    desk.beat(GROUP, "orders")
    desk.ask(pull())

    assert {("orders", 0): 2} == desk.table.consumer_group(GROUP).pulled


def test_pulling_commits_nothing_by_itself(desk) -> None:
    send(desk, "")
    desk.ask(pull())
    request = QueryConsumerOffset(consumer_group=GROUP, topic="orders", queue_id=0)

    assert {"offset": "0"} == desk.ask(request).fields  # a young queue
