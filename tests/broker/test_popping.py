"""Pops asked of the rooms: page 08 §4."""

from collections.abc import Callable
from typing import Any

import pytest

from broker.machine import pops as table
from broker.machine.codec import decode_command
from broker.machine.commands import PopMessages
from broker.rooms import popping as room
from broker.serving import pop_batch, pop_choice
from dledger_py.ledger.errors import Indefinite, NotLeader
from dledger_py.remoting.commands.groups import CreateGroup, GroupConfig
from dledger_py.remoting.commands.json_bodies import encode_body
from dledger_py.remoting.commands.offsets import UpdateConsumerOffset
from dledger_py.remoting.commands.popping import (
    Notification,
    PeekMessage,
    PollingInfo,
)
from dledger_py.remoting.commands.resets import ResetOffsets
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from dledger_py.remoting.wire.message import decode_records
from tests.broker.popping_kit import GROUP, INVISIBLE_MS, Got, PopDesk, pop, waiting
from tests.broker.rooms_kit import ListLedger, header


@pytest.fixture
def desk(tmp_path) -> PopDesk:
    return PopDesk(tmp_path).furnish()


def in_flight(desk: PopDesk) -> int:
    return sum(queue.in_flight for _key, queue in desk.machine.pops.queues())


def progress(desk: PopDesk, topic: str = "orders") -> dict[int, int]:
    return dict(desk.machine.offsets.of_topic(GROUP, topic))


# --- getting messages ----------------------------------------------------------------------------


def test_a_pop_takes_what_no_other_gets(desk) -> None:
    desk.send(b"0", b"1", b"2")
    first, second, third = (desk.pop(max_msg_nums=2) for _ in range(3))

    assert [b"0", b"1"] == first.bodies
    assert [b"2"] == second.bodies
    assert (210, []) == (third.code, third.bodies)
    assert (1, 0) == (first.reply.rest_num, second.reply.rest_num)
    assert 3 == in_flight(desk)
    assert {0: 0} == progress(desk)


def test_a_pop_looks_at_all_queues_and_lists_what_it_got_of_each(desk) -> None:
    desk.send(b"0", b"1")
    desk.send(b"2", queue_id=1)
    got = desk.pop()

    assert {b"0", b"1", b"2"} == set(got.bodies)
    assert sorted(["0 0 0", "0 1 0"]) == sorted(got.reply.start_offset_info.split(";"))
    assert sorted(["0 0 0,1", "0 1 0"]) == sorted(got.reply.msg_offset_info.split(";"))
    assert (desk.now_ms, INVISIBLE_MS, 0) == (
        got.reply.pop_time,
        got.reply.invisible_time,
        got.reply.revive_qid,
    )


def test_a_pop_may_name_a_queue(desk) -> None:
    desk.send(b"0")
    desk.send(b"1", queue_id=1)

    assert [b"1"] == desk.pop(queue_id=1).bodies
    assert 210 == desk.pop(queue_id=1).code
    assert [b"0"] == desk.pop(queue_id=0).bodies


def test_every_answer_has_all_numbers(desk) -> None:
    desk.send(b"0")
    found = desk.ask(pop())
    missed = desk.ask(pop())
    late = desk.ask(pop(born_time=desk.now_ms - 20_000, poll_time=15_000))

    assert [0, 210, 210] == [answer.code for answer in (found, missed, late)]
    for answer in (found, missed, late):
        assert {"popTime", "invisibleTime", "reviveQid", "restNum"} <= answer.fields.keys()


def test_groups_do_not_take_from_each_other(desk) -> None:
    desk.send(b"0")

    assert [b"0"] == desk.pop().bodies
    assert [b"0"] == desk.pop(consumer_group="audit").bodies


def test_pops_of_one_turn_are_one_entry_and_share_the_messages_out(desk) -> None:
    desk.send(*(b"%d" % number for number in range(6)))
    before = desk.ledger.entries
    clients = [desk.connect() for _ in range(4)]
    for client in clients:
        desk.put(pop(max_msg_nums=2), by=client)
    desk.turn()

    got = [Got(client.answers[0]) for client in clients]
    assert [[b"0", b"1"], [b"2", b"3"], [b"4", b"5"], []] == [each.bodies for each in got]
    assert 1 == desk.ledger.entries - before


def test_an_answer_has_no_more_bytes_than_a_pull(desk) -> None:
    big = bytes(200_000)
    desk.send(big, big, b"small", bytes(300_000))

    assert [1, 2, 1, 0] == [len(desk.pop(queue_id=0).bodies) for _ in range(4)]


@pytest.mark.parametrize(
    "how, code",
    [
        ({"max_msg_nums": 33}, 29),
        ({"topic": "nowhere"}, 17),
        ({"queue_id": 2}, 29),
        ({"queue_id": -2}, 29),
        ({"consumer_group": "not/legal"}, 26),
        ({"exp": "a = ", "exp_type": "SQL92"}, 23),
        ({"exp": "a", "exp_type": "XPATH"}, 23),
        ({"invisible_time": 0}, 29),
        ({"invisible_time": 13 * 3_600_000}, 29),
        ({"order": True, "attempt_id": "x" * 257}, 29),
    ],
)
def test_what_cannot_be_popped_is_refused(desk, how, code) -> None:
    assert code == desk.ask(pop(**how)).code
    assert not desk.ledger.proposed


def test_topics_and_groups_may_forbid_it(desk) -> None:
    desk.ask(CreateTopic(topic="closed", read_queue_nums=1, write_queue_nums=1, perm=2))
    desk.ask(CreateGroup(), encode_body(GroupConfig(group_name="idle", consume_enable=False)))

    assert 16 == desk.ask(pop(topic="closed")).code
    assert 16 == desk.ask(pop(consumer_group="idle")).code


def test_what_could_not_be_put_anywhere_again_is_not_given_out(desk) -> None:
    """A message that is not acknowledged goes to a topic with both names in its own."""
    longest = "%DLQ%" + "x" * (255 - len("%DLQ%%RETRY%_") - len(GROUP))
    codes = []
    for topic in (longest, longest + "x"):
        desk.ask(CreateTopic(topic=topic, read_queue_nums=1, write_queue_nums=1, perm=6))
        desk.ask(SendMessage(producer_group="p", topic=topic, queue_id=0), b"0")
        codes.append(desk.pop(topic=topic, invisible_time=1).code)
        desk.passes(1)

    assert [0, 29] == codes
    assert [b"0"] == desk.pop(topic=longest).bodies


def test_a_group_that_cannot_be_made_does_not_exist(desk, monkeypatch) -> None:
    monkeypatch.setattr("broker.machine.groups.GROUPS_MAX", 0)
    desk.send(b"0")

    assert 26 == desk.ask(pop(consumer_group="fresh")).code


def test_a_group_that_nobody_made_is_made_by_popping(desk) -> None:
    desk.send(b"0")

    assert [b"0"] == desk.pop(consumer_group="fresh").bodies
    assert "fresh" in desk.machine.groups
    assert "%RETRY%fresh" in desk.machine.topics


@pytest.mark.parametrize("init_mode, expected", [(0, [b"1", b"2", b"3"]), (1, [b"3"])])
def test_a_new_group_begins_at_either_end(desk, init_mode, expected) -> None:
    """At the end: with the last message, as in RocketMQ, so that it knows where it began."""
    desk.send(b"0", b"1", b"2", b"3")
    desk.machine.queues.trim([("orders", 0, 1)])
    desk.queues.trim("orders", 0, 1)

    assert expected == desk.pop(init_mode=init_mode).bodies


def test_a_young_queue_is_read_from_its_beginning(desk) -> None:
    desk.send(b"0", b"1")

    assert [b"0", b"1"] == desk.pop(init_mode=1).bodies


def test_a_group_goes_on_where_it_pulled(desk) -> None:
    desk.send(b"0", b"1", b"2")
    commit = UpdateConsumerOffset(consumer_group=GROUP, topic="orders", queue_id=0, commit_offset=1)
    desk.ask(commit)

    assert [b"1", b"2"] == desk.pop().bodies


def test_where_a_group_stands_beyond_the_end_it_goes_on_from_there(desk) -> None:
    desk.send(b"0")
    desk.ask(
        UpdateConsumerOffset(consumer_group=GROUP, topic="orders", queue_id=0, commit_offset=99)
    )
    assert 210 == desk.pop().code
    desk.send(b"1")

    assert [b"1"] == desk.pop().bodies
    assert {0: 1} == progress(desk)


# --- filters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [{"exp": "b || c"}, {"exp": "TAGS IN ('b', 'c')", "exp_type": "SQL92"}]
)
def test_only_what_matches_is_taken_and_the_rest_is_passed_over(desk, how) -> None:
    for tag in "abacca":
        desk.send(tag.encode(), tag=tag)
    first = desk.pop(max_msg_nums=2, **how)
    second = desk.pop(max_msg_nums=2, **how)

    assert [b"b", b"c"] == first.bodies
    assert "0 0 1,3" == first.reply.msg_offset_info
    assert [b"c"] == second.bodies
    assert [0, 0, 0] == [desk.ack(handle) for handle in first.handles + second.handles]
    assert 6 == progress(desk)[0]


def test_what_matches_nothing_is_written_down_when_the_wait_is_over(desk) -> None:
    heard = waiting(desk, exp="b")
    for _ in range(5):
        before = desk.ledger.entries
        desk.send(b"a", tag="a")
        assert 1 == desk.ledger.entries - before, "nothing but the message"
    desk.passes(15_000)

    assert 210 == heard().code
    assert 5 == progress(desk)[0]


def test_a_long_stretch_is_passed_over_bit_by_bit(desk, monkeypatch) -> None:
    monkeypatch.setattr(pop_choice, "SCANNED_MAX", 2)
    for _ in range(9):
        desk.send(b"a", tag="a")
    desk.send(b"b", tag="b")

    assert [b"b"] == desk.pop(exp="b").bodies
    assert 9 == progress(desk)[0]


def test_another_filter_looks_at_what_the_first_passed_over(desk) -> None:
    heard = waiting(desk, exp="b")
    desk.send(b"a", tag="a")
    assert heard() is None

    assert [b"a"] == desk.pop(exp="a").bodies


def test_records_on_disk_are_read_by_a_thread(desk) -> None:
    desk.send(b"a", tag="a")
    desk.send(b"b", tag="b")
    desk.ledger.cached = False
    by_tag, by_sql = desk.connect(), desk.connect()
    desk.ask(pop(exp="a"), by=by_tag)
    desk.threads.run()
    desk.ask(pop(consumer_group="audit", exp="TAGS = 'b'", exp_type="SQL92"), by=by_sql)
    desk.ledger.cached = True  # that is what the thread is for
    desk.threads.run()
    desk.turn()

    assert [b"a"] == Got(by_tag.answers[0]).bodies
    assert [b"b"] == Got(by_sql.answers[0]).bodies


# --- waiting -------------------------------------------------------------------------------------


def test_a_pop_waits_for_the_first_message(desk) -> None:
    heard = waiting(desk)
    desk.send(b"0", queue_id=1)

    assert [b"0"] == Got(heard()).bodies
    assert not desk.pop_waits.busy


def test_one_message_wakes_one_pop(desk) -> None:
    heard = [waiting(desk) for _ in range(5)]
    before = desk.ledger.entries
    desk.send(b"0")

    assert 1 == sum(each() is not None for each in heard)
    assert 2 == desk.ledger.entries - before
    desk.send(b"1")
    assert 2 == sum(each() is not None for each in heard)


def test_messages_of_several_queues_in_one_entry_wake_as_many(desk) -> None:
    heard = [waiting(desk) for _ in range(3)]
    for queue_id in (0, 1):
        desk.put(
            # Both stand in one entry, so the queues are indexed one after the other.
            _send(queue_id),
            b"x",
        )
    desk.turn()

    assert 2 == sum(each() is not None for each in heard)


def test_its_time_is_what_the_client_has_left(desk) -> None:
    heard = waiting(desk, born_time=desk.now_ms - 10_000)
    desk.passes(4_999)
    assert heard() is None
    desk.passes(1)

    assert 210 == heard().code
    assert 0 == len(desk.pop_waits.polls._by_owner)


def test_a_client_that_leaves_waits_no_more(desk) -> None:
    client = desk.connect()
    desk.ask(pop(poll_time=15_000), by=client)
    client.close()
    assert not desk.pop_waits.busy
    desk.send(b"0")

    assert [b"0"] == desk.pop().bodies


def test_nobody_waits_for_a_topic_that_goes(desk) -> None:
    heard = waiting(desk)
    desk.ask(DeleteTopic(topic="orders"))

    assert 17 == heard().code


def test_a_reset_wakes_who_waits(desk) -> None:
    desk.send(b"0")
    desk.ack(desk.pop().handles[0])
    heard = waiting(desk)
    desk.ask(ResetOffsets(group=GROUP, topic="orders", timestamp=0))

    assert [b"0"] == Got(heard()).bodies


def test_no_more_are_held_than_there_is_room_for(desk, monkeypatch) -> None:
    monkeypatch.setattr("broker.serving.long_polls.HELD_MAX", 2)
    waiting(desk)

    assert 209 == desk.pop(poll_time=15_000).code


def test_who_waits_is_counted(desk) -> None:
    waiting(desk)
    waiting(desk, queue_id=1)
    waiting(desk, consumer_group="audit")
    counts = [
        header(PollingInfo, desk.ask(PollingInfo(consumer_group=g, topic="orders", queue_id=q)))
        for g, q in ((GROUP, -1), (GROUP, 1), (GROUP, 0), ("audit", -1))
    ]

    assert [1, 1, 0, 1] == [each.polling_num for each in counts]


# --- when something comes in between -------------------------------------------------------------


def test_what_another_leader_gave_out_is_not_given_out_again(desk) -> None:
    """The frontier moved between the choice and its entry."""
    desk.send(b"0", b"1", b"2")
    client = desk.connect()
    desk.put(pop(max_msg_nums=2), by=client)
    desk.pop_batch.turn_ended()
    mine, desk.ledger.proposed = desk.ledger.proposed, []
    desk.pop_queues.choice.forget()
    other = desk.pop(max_msg_nums=1)
    desk.ledger.proposed = mine
    desk.turn()

    assert [b"0"] == other.bodies
    assert [b"1", b"2"] == Got(client.answers[0]).bodies


def test_a_pop_that_always_comes_second_is_answered_in_the_end(desk, monkeypatch) -> None:
    monkeypatch.setattr(room, "DECLINED_MAX", 0)
    desk.send(b"0", b"1")
    client = desk.connect()
    desk.put(pop(max_msg_nums=1), by=client)
    desk.pop_batch.turn_ended()
    mine, desk.ledger.proposed = desk.ledger.proposed, []
    desk.pop_queues.choice.forget()
    desk.pop(max_msg_nums=1)
    desk.ledger.proposed = mine
    desk.turn()

    assert 210 == Got(client.answers[0]).code


@pytest.mark.parametrize("error, code", [(NotLeader("n1"), 14), (Indefinite("lost"), 1)])
def test_a_pop_that_may_have_been_lost_says_so(desk, error, code) -> None:
    desk.send(b"0")
    client = desk.connect()
    desk.put(pop(), by=client)
    desk.pop_batch.turn_ended()
    desk.ledger.refuse(error)

    assert code == client.answers[0].code
    assert [b"0"] == desk.pop().bodies


def test_nothing_more_is_given_out_while_too_much_is_in_flight(desk, monkeypatch) -> None:
    monkeypatch.setattr(table, "IN_FLIGHT_MAX", 2)
    desk.send(b"0", b"1", b"2")
    first, second = desk.pop(), desk.pop()

    assert [b"0", b"1"] == first.bodies
    assert 209 == second.code
    assert "in flight" in second.remark
    desk.ack(first.handles[0])
    assert [b"2"] == desk.pop().bodies


def test_a_follower_hands_on_what_it_thinks_there_is_and_holds_the_rest(desk) -> None:
    desk.gate.leads = False
    heard = waiting(desk)
    assert not desk.gate.relayed
    desk.gate.leads = True  # the message comes by the log, whoever wrote it
    desk.batch.propose()
    desk.put(_send(0), b"x")
    desk.batch.propose()
    desk.gate.leads = False
    desk.turn()

    assert heard() is None
    assert [200050] == [frame.code for frame in desk.gate.relayed]
    assert not desk.pop_waits.busy
    desk.put(pop(poll_time=15_000))
    assert 2 == len(desk.gate.relayed)


def test_what_a_follower_does_not_know_it_hands_on(desk) -> None:
    desk.gate.leads = False
    desk.put(pop(topic="new"))
    desk.put(pop(consumer_group="new"))

    assert 2 == len(desk.gate.relayed)


def test_a_pop_that_was_handed_on_is_not_held(desk) -> None:
    answer = desk.ask(pop(poll_time=15_000), fields={"__forwardedBy": "n1"})

    assert 210 == answer.code


def test_everybody_is_answered_before_the_end(desk) -> None:
    heard = waiting(desk), waiting(desk, order=True)
    desk.pop_waits.end_all()

    assert [210, 210] == [each().code for each in heard]
    assert waiting(desk)() is None


def test_who_waits_goes_on_waiting_where_a_topic_only_changes(desk) -> None:
    heard = waiting(desk)
    desk.ask(CreateTopic(topic="orders", read_queue_nums=3, write_queue_nums=3, perm=6))
    assert heard() is None
    desk.send(b"0", queue_id=2)

    assert [b"0"] == Got(heard()).bodies


def test_who_waits_is_told_when_another_leads(desk) -> None:
    heard = waiting(desk)
    desk.gate.leads = False
    desk.pop_queues.choice.forget()
    desk.pop_waits.polls.wake_all()

    assert 210 == heard().code


# --- asking without taking -----------------------------------------------------------------------


def test_a_notification_comes_with_the_first_message_and_takes_nothing(desk) -> None:
    def ask(**how):
        given = {"consumer_group": GROUP, "topic": "orders", "queue_id": -1, "poll_time": 15_000}
        return Notification(**(given | how))

    client = desk.connect()
    assert desk.ask(ask(), by=client) is None
    assert "false" == desk.ask(ask(poll_time=0)).fields["hasMsg"]
    desk.send(b"0")
    assert "true" == client.answers[0].fields["hasMsg"]
    assert "true" == desk.ask(ask()).fields["hasMsg"]
    assert 0 == in_flight(desk)
    desk.pop()
    other = desk.connect()
    desk.ask(ask(), by=other)
    desk.passes(15_000)

    assert "false" == other.answers[0].fields["hasMsg"]
    assert 17 == desk.ask(ask(topic="nowhere")).code


def test_a_peek_shows_what_is_next_and_takes_nothing(desk) -> None:
    def ask(**how):
        given = {"consumer_group": GROUP, "topic": "orders", "queue_id": -1, "max_msg_nums": 1}
        return desk.ask(PeekMessage(**(given | how)))

    assert 19 == ask().code
    desk.send(b"0", b"1")
    seen = ask()

    assert [b"0"] == [record.body for record in decode_records(seen.body)]
    assert "1" == seen.fields["restNum"]
    assert [b"0", b"1"] == desk.pop().bodies
    assert 19 == ask().code
    assert 29 == ask(max_msg_nums=33).code


def _send(queue_id: int) -> SendMessage:
    return SendMessage(producer_group="p", topic="orders", queue_id=queue_id)


# --- entries of the log that cannot grow without end -------------------------------------------


@pytest.fixture
def wide(desk, monkeypatch) -> PopDesk:
    """Of each of a topic's ten queues the group says that it stands far behind its end."""
    monkeypatch.setattr(room, "CLAIMS_MAX", 4)
    desk.ask(CreateTopic(topic="orders", read_queue_nums=10, write_queue_nums=10, perm=6))
    for queue_id in range(10):
        request = UpdateConsumerOffset(
            consumer_group=GROUP, topic="orders", queue_id=queue_id, commit_offset=2**62
        )
        assert 0 == desk.ask(request).code
    return desk


@pytest.fixture
def counts(monkeypatch) -> list[int]:
    """How many claims each entry with pops has had."""
    found: list[int] = []
    propose = ListLedger.propose

    def counted(ledger: ListLedger, payload: bytes, settle: Callable[[Any], None]) -> None:
        command = decode_command(payload)
        if isinstance(command, PopMessages):
            found.append(sum(len(each.claims) for each in command.pops))
        propose(ledger, payload, settle)

    monkeypatch.setattr(ListLedger, "propose", counted)
    return found


def test_a_pop_claims_a_bounded_number_of_queues_at_a_time(wide, counts) -> None:
    """A topic may have 65,536: so many claims fit no entry."""
    assert [] == wide.pop().bodies
    wide.send(b"0", queue_id=7)

    assert [4, 4, 2] == counts
    assert [b"0"] == wide.pop().bodies


def test_what_is_passed_over_is_written_down_in_parts_too(desk, counts, monkeypatch) -> None:
    desk.ask(CreateTopic(topic="orders", read_queue_nums=10, write_queue_nums=10, perm=6))
    for queue_id in range(10):
        desk.send(b"0", queue_id=queue_id, tag="other")
    monkeypatch.setattr(room, "CLAIMS_MAX", 4)
    for _ in range(3):
        assert [] == desk.pop(exp_type="TAG", exp="mine").bodies

    assert [4, 4, 2] == counts
    assert dict.fromkeys(range(10), 1) == progress(desk)


def test_an_entry_of_pops_has_a_bounded_number_of_claims(desk, counts, monkeypatch) -> None:
    monkeypatch.setattr(pop_batch, "CLAIMS_MAX", 3)
    desk.send(*(b"%d" % number for number in range(8)))
    for _ in range(8):
        desk.put(pop(max_msg_nums=1, queue_id=0))
    desk.turn()

    assert [3, 3, 2] == counts
