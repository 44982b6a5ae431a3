"""What becomes of popped messages, asked of the rooms: page 08 §4."""

import pytest
from attrs import evolve, fields

from broker.machine.codec import encode_command
from broker.machine.commands import SettlePops
from broker.machine.names import DERIVED_TOPIC_LENGTH_MAX, GROUP_LENGTH_MAX
from broker.rooms.popping_acks import BATCH_MAX
from broker.serving.pop_batch import SETTLED_MAX
from dledger_py.ledger.config import LedgerConfig
from dledger_py.ledger.errors import Indefinite, NotLeader
from dledger_py.remoting.commands.groups import CreateGroup, DeleteGroup, GroupConfig
from dledger_py.remoting.commands.json_bodies import encode_body
from dledger_py.remoting.commands.offsets import UpdateConsumerOffset
from dledger_py.remoting.commands.popping import (
    AckMessages,
    BatchAck,
    BatchAcks,
    ChangeInvisibleTime,
    Handle,
    InvisibleTimeReply,
    Origin,
    ack_bits,
)
from dledger_py.remoting.commands.resets import ResetOffsets
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.schema import decode
from tests.broker.popping_kit import (
    GROUP,
    INVISIBLE_MS,
    RETRIES,
    Got,
    PopDesk,
    ack,
    pop,
    waiting,
)


@pytest.fixture
def desk(tmp_path) -> PopDesk:
    return PopDesk(tmp_path).furnish()


def in_flight(desk: PopDesk) -> int:
    return sum(queue.in_flight for _key, queue in desk.machine.pops.queues())


def progress(desk: PopDesk, topic: str = "orders") -> int | None:
    return desk.machine.offsets.get(GROUP, topic, 0)


def batch(*rows: BatchAck) -> bytes:
    return encode_body(BatchAcks(broker_name="broker-a", acks=rows))


def row(handles: list[Handle], **how) -> BatchAck:
    first = handles[0]
    given = {
        "group": GROUP,
        "topic": "orders",
        "origin": first.origin.value,
        "first_offset": first.first_offset,
        "queue_id": first.queue_id,
        "pop_ms": first.pop_ms,
        "bits": ack_bits(first.first_offset, [handle.offset for handle in handles]),
    }
    return BatchAck(**(given | how))


# --- acknowledging -------------------------------------------------------------------------------


def test_the_group_is_as_far_as_everything_is_acknowledged(desk) -> None:
    desk.send(b"0", b"1", b"2")
    handles = desk.pop().handles
    steps = []
    for number in (1, 0, 2):
        assert 0 == desk.ack(handles[number])
        steps.append(progress(desk))

    assert [0, 2, 3] == steps
    assert 0 == in_flight(desk)
    assert 210 == desk.pop().code


def test_it_is_answered_once_it_is_written_down(desk) -> None:
    desk.send(b"0")
    handle = desk.pop().handles[0]
    desk.put(ack(handle))
    desk.pop_batch.turn_ended()
    assert 1 == len(desk.ledger.proposed)
    before = len(desk.client.answers)
    desk.ledger.settle()

    assert [0] == [answer.code for answer in desk.client.answers[before:]]


def test_acknowledgements_of_one_turn_are_one_entry(desk) -> None:
    desk.send(*(b"%d" % number for number in range(20)))
    handles = desk.pop().handles
    before = desk.ledger.entries
    for handle in handles:
        desk.put(ack(handle))
    desk.turn()

    assert 1 == desk.ledger.entries - before
    assert 20 == progress(desk)


def test_a_second_acknowledgement_is_a_success_and_changes_nothing(desk) -> None:
    desk.send(b"0", b"1")
    handle, other = desk.pop().handles

    assert [0, 0] == [desk.ack(handle), desk.ack(handle)]
    assert 1 == in_flight(desk)
    assert 0 == desk.ack(evolve(other, pop_ms=other.pop_ms - 1))
    assert 1 == in_flight(desk)


@pytest.mark.parametrize(
    "how, code",
    [
        ({"topic": "nowhere"}, 17),
        ({"consumer_group": "not/legal"}, 26),
        ({"consumer_group": "g" * 121}, 26),
        ({"queue_id": 2}, 13),
        ({"queue_id": -1}, 13),
        ({"offset": 1}, 208),
        ({"offset": -1}, 208),
        ({"extra_info": "none of ours"}, 1),
        ({"extra_info": "0 0 0 0 9 broker-a 0 0"}, 1),
        ({"extra_info": "0 0 0 0 0 broker-a 0 -1"}, 1),
        ({"extra_info": f"{2**63} 0 0 0 0 broker-a 0 0"}, 1),
        ({"extra_info": f"0 {2**63} 0 0 0 broker-a 0 0"}, 1),
    ],
)
def test_what_names_no_message_is_refused(desk, how, code) -> None:
    desk.send(b"0")
    handle = desk.pop().handles[0]

    assert code == desk.ask(ack(handle, **({"topic": "orders"} | how))).code
    assert 1 == in_flight(desk)


def test_one_below_the_beginning_is_refused(desk) -> None:
    desk.send(b"0", b"1")
    handle = desk.pop().handles[0]
    desk.queues.trim("orders", 0, 1)

    assert 208 == desk.ack(handle)


@pytest.mark.parametrize("error, code", [(NotLeader("n1"), 14), (Indefinite("lost"), 1)])
def test_one_that_may_have_been_lost_says_so(desk, error, code) -> None:
    desk.send(b"0")
    handle = desk.pop().handles[0]
    client = desk.connect()
    desk.put(ack(handle), by=client)
    desk.put(AckMessages(), batch(row([handle])), by=client)
    desk.pop_batch.turn_ended()
    desk.ledger.refuse(error)

    assert [code, code] == [answer.code for answer in client.answers]
    assert 0 == desk.ack(handle)
    assert 0 == in_flight(desk)


def test_many_at_once(desk) -> None:
    desk.send(*(b"%d" % number for number in range(12)))
    desk.send(b"x", queue_id=1)
    handles = desk.pop().handles
    of = {q: [h for h in handles if h.queue_id == q] for q in (0, 1)}
    rows = (
        row([of[0][number] for number in (0, 3, 9)]),
        row(of[1]),
        row(of[1], topic="nowhere"),
        row(of[1], origin="7"),
        row(of[1], bits="no base 64"),
        row(of[1], first_offset=2**63 - 1, bits=ack_bits(0, [0, 2])),
        row(of[1], queue_id=7),
    )
    answer = desk.ask(AckMessages(), batch(*rows))

    assert 0 == answer.code
    assert 9 == in_flight(desk)
    assert 1 == progress(desk)
    assert 208 == desk.ask(AckMessages(), batch()).code
    assert 208 == desk.ask(AckMessages()).code


def test_no_more_at_once_than_there_is_room_for(desk) -> None:
    desk.send(b"0")
    handle = desk.pop().handles[0]
    bits = ack_bits(0, range(8_000))

    answer = desk.ask(AckMessages(), batch(*(row([handle], bits=bits) for _ in range(3))))
    assert 29 == answer.code
    assert 1 == in_flight(desk)


def test_the_largest_batch_is_one_entry_with_all_that_came_before_it() -> None:
    """A payload that is too long is an error of ours, which ends every connection."""
    most = 2**63 - 1
    named = ("g" * GROUP_LENGTH_MAX, "t" * DERIVED_TOPIC_LENGTH_MAX, most, most, most)
    command = SettlePops(
        stamped_ms=most,
        acks=((*named, ((most, 1),)),) * (BATCH_MAX + SETTLED_MAX),
        changes=((*named, most, most),) * SETTLED_MAX,
    )

    assert len(encode_command(command)) <= fields(LedgerConfig).payload_max_bytes.default


def test_groups_that_are_not_there_take_no_room(desk) -> None:
    desk.send(b"0")
    handle = desk.pop().handles[0]
    desk.put(AckMessages(), batch(row([handle], group="g" * 9_000), row([handle])))
    desk.pop_batch.turn_ended()
    (entry,) = desk.ledger.proposed

    assert 200 > len(entry[0])


def test_the_bits_of_a_batch_are_those_of_java() -> None:
    """Page 06 §10."""
    assert "CQI=" == ack_bits(100, [100, 103, 109])
    assert [100, 103, 109] == row([_handle(100)], bits="CQI=").offsets()


def test_a_follower_hands_all_of_it_on(desk) -> None:
    desk.send(b"0")
    handle = desk.pop().handles[0]
    desk.gate.leads = False
    desk.put(ack(handle))
    desk.put(AckMessages(), batch(row([handle])))
    desk.put(_change(handle, 5))

    assert [200051, 200151, 200053] == [frame.code for frame in desk.gate.relayed]


# --- when the time is over -----------------------------------------------------------------------


def test_what_nobody_acknowledged_comes_again_as_a_retry(desk) -> None:
    desk.send(b"0", b"1", b"2", tag="red")
    first = desk.pop()
    desk.ack(first.handles[1])
    desk.passes(INVISIBLE_MS - 1)
    assert 210 == desk.pop().code
    desk.passes(1)
    again = desk.pop()

    assert [b"0", b"2"] == again.bodies
    assert [1, 1] == again.times
    assert 3 == progress(desk)
    assert 0 == progress(desk, RETRIES)
    record, handle = again.records[0], again.handles[0]
    assert ("orders", "red") == (record.topic, record.property(props.TAGS))
    assert str(first.reply.pop_time) == record.property(props.FIRST_POP_TIME)
    assert first.records[0].offset_message_id == record.property(props.ORIGIN_MESSAGE_ID)
    assert "orders" == record.property(props.RETRY_TOPIC)
    assert (Origin.RETRY, RETRIES) == (handle.origin, handle.real_topic(GROUP, "orders"))
    assert [0, 0] == [desk.ack(each) for each in again.handles]
    desk.passes(10 * INVISIBLE_MS)
    assert 210 == desk.pop().code
    assert 2 == progress(desk, RETRIES)


def test_who_waits_is_given_the_retry(desk) -> None:
    desk.send(b"0")
    desk.pop(invisible_time=1_000)
    heard = waiting(desk)
    desk.passes(1_000)

    assert [b"0"] == Got(heard()).bodies


def test_an_acknowledgement_that_comes_late_counts_until_the_message_is_moved(desk) -> None:
    desk.send(b"0", b"1")
    handles = desk.pop().handles
    desk.now_ms += INVISIBLE_MS + 5
    assert 0 == desk.ack(handles[0])
    desk.passes(0)
    assert 0 == desk.ack(handles[1])  # too late, and nothing to be done about it

    assert [b"1"] == desk.pop().bodies


def test_one_that_comes_at_that_very_moment_is_not_moved(desk) -> None:
    """The acknowledgement is in the log before the revival that was proposed already."""
    desk.send(b"0", b"1")
    handles = desk.pop().handles
    desk.now_ms += INVISIBLE_MS
    desk.revivals.look()
    move, desk.ledger.proposed = desk.ledger.proposed, []
    desk.ack(handles[0])
    desk.ledger.proposed = move
    desk.turn()
    assert 210 == desk.pop().code
    desk.passes(200)

    assert [b"1"] == desk.pop().bodies
    assert 1 == len(desk.machine.declined_puts.state())


def test_a_retry_that_fails_is_retried_in_the_same_topic_and_then_given_up(desk) -> None:
    desk.ask(CreateGroup(), encode_body(GroupConfig(group_name=GROUP, retry_max_times=2)))
    desk.send(b"0", tag="red")
    times = []
    for _ in range(3):
        got = desk.pop()
        times += got.times
        desk.passes(INVISIBLE_MS)

    assert [0, 1, 2] == times
    assert 210 == desk.pop().code
    assert 1 == desk.queues.next_offset("%DLQ%shop", 0)
    assert 2 == desk.queues.next_offset(RETRIES, 0)
    statistics = desk.revivals.statistics()
    assert (2, 1, 0) == (statistics.retried, statistics.given_up, statistics.waiting_queues)
    letter = desk.pop(topic="%DLQ%shop", consumer_group="audit").records[0]
    assert (b"0", 3, "orders") == (
        letter.body,
        letter.reconsume_times,
        letter.property(props.RETRY_TOPIC),
    )


def test_one_that_came_as_often_as_can_be_counted_is_given_up(desk) -> None:
    """A producer writes the number, and what cannot be revived keeps everything else waiting."""
    most = 2**31 - 1
    request = SendMessage(producer_group="p", topic="orders", queue_id=0, reconsume_times=most)
    desk.ask(request, b"0")
    desk.pop(invisible_time=1)
    desk.passes(1)
    letters = desk.pop(topic="%DLQ%shop", consumer_group="audit")

    assert ([b"0"], [most]) == (letters.bodies, letters.times)


def test_retries_are_looked_at_first_now_and_then(desk) -> None:
    """However much new there is: in one pop of five."""
    desk.send(b"old")
    desk.pop(invisible_time=1)
    desk.passes(1)
    desk.send(*(b"new" for _ in range(200)))
    for _ in range(200):
        if desk.pop(max_msg_nums=1).bodies == [b"old"]:
            break
    else:
        pytest.fail("the retry was never looked at")


def test_records_on_disk_are_read_by_a_thread(desk) -> None:
    desk.send(b"0")
    desk.pop()
    desk.ledger.cached = False
    desk.passes(INVISIBLE_MS)
    desk.threads.run()
    desk.ledger.cached = True
    desk.turn()

    assert [b"0"] == desk.pop().bodies


def test_a_retry_whose_properties_are_full_keeps_them_as_they_are(desk) -> None:
    full = "k\x01" + "v" * 32_500 + "\x02"
    desk.ask(SendMessage(producer_group="p", topic="orders", queue_id=0, properties=full), b"0")
    desk.pop(invisible_time=1)
    desk.passes(1)
    frame = desk.ask(pop())

    # No room for the handle: the client makes it of the offsets, as of any other message.
    assert 0 == frame.code
    assert "1 0 0" == frame.fields["startOffsetInfo"]


def test_where_a_retry_topic_has_no_queue_nothing_is_moved_until_it_has(desk) -> None:
    desk.send(b"0")
    desk.ask(CreateTopic(topic=RETRIES, read_queue_nums=0, write_queue_nums=0, perm=6))
    desk.pop(invisible_time=1)
    before = desk.ledger.entries
    desk.passes(1)
    desk.passes(4_999)
    assert desk.ledger.entries == before
    desk.ask(CreateTopic(topic=RETRIES, read_queue_nums=1, write_queue_nums=1, perm=6))
    desk.passes(1)

    assert [b"0"] == desk.pop().bodies


def test_what_was_popped_in_no_order_is_not_popped_in_order_before_it_was_moved(desk) -> None:
    desk.send(b"0")
    desk.pop(invisible_time=1)
    desk.now_ms += 1
    heard = waiting(desk, order=True)
    assert heard() is None
    desk.passes(200)
    desk.send(b"1")
    desk.passes(200)

    assert [b"1"] == Got(heard()).bodies


def test_a_new_leader_goes_on_with_what_is_in_flight(desk) -> None:
    desk.send(b"0")
    desk.gate.leads = True
    desk.pop()
    desk.gate.leads = False
    desk.revivals.role_changed()
    desk.passes(INVISIBLE_MS)
    assert 1 == in_flight(desk)
    desk.gate.leads = True
    desk.revivals.role_changed()
    desk.passes(0)

    assert [b"0"] == desk.pop().bodies


def test_a_lost_revival_is_proposed_again(desk) -> None:
    desk.send(b"0")
    desk.pop()
    desk.now_ms += INVISIBLE_MS
    desk.revivals.look()
    desk.ledger.refuse(NotLeader("n1"))
    desk.passes(100)

    assert [b"0"] == desk.pop().bodies


def test_the_log_is_kept_for_what_is_in_flight(desk) -> None:
    assert desk.revivals.held() is None
    desk.send(b"0", b"1")
    handles = desk.pop().handles
    positions = [desk.pop_queues.choice.queues.first_at("orders", 0, 0)]
    held = [desk.revivals.held()]
    desk.ack(handles[0])
    held.append(desk.revivals.held())
    desk.ack(handles[1])

    assert [0] == positions
    assert 0 < held[0] < held[1]
    assert desk.revivals.held() is None


def test_not_for_what_was_popped_in_order_and_abandoned(desk) -> None:
    desk.send(b"0")
    desk.pop(order=True)
    assert desk.revivals.held() is not None
    desk.passes(INVISIBLE_MS)

    assert desk.revivals.held() is None


# --- another time --------------------------------------------------------------------------------


def test_a_message_may_be_had_for_longer(desk) -> None:
    desk.send(b"0", b"1")
    handle, other = desk.pop().handles
    desk.passes(1_000)
    frame = desk.change(handle, 2 * INVISIBLE_MS)
    reply = decode(InvisibleTimeReply, frame.fields)
    assert (0, desk.now_ms, 2 * INVISIBLE_MS, 0) == (
        frame.code,
        reply.pop_time,
        reply.invisible_time,
        reply.revive_qid,
    )
    desk.passes(INVISIBLE_MS)
    assert [b"1"] == desk.pop().bodies  # the other one's time was over
    desk.ack(other)
    new = evolve(handle, first_offset=handle.offset, pop_ms=reply.pop_time)
    desk.ack(handle)
    assert (0, 2) == (progress(desk), in_flight(desk))
    desk.ack(new)

    assert 2 == progress(desk)


def test_a_message_may_be_given_back(desk) -> None:
    desk.send(b"0")
    handle = desk.pop().handles[0]
    desk.change(handle, 10_000)
    desk.passes(9_999)
    assert 210 == desk.pop().code
    desk.passes(1)
    again = desk.pop()
    assert [1] == again.times
    desk.change(again.handles[0], 0)
    desk.passes(0)

    assert [2] == desk.pop().times


def test_a_handle_that_is_of_no_use_changes_nothing_and_says_so(desk) -> None:
    desk.send(b"0")
    handle = desk.pop().handles[0]
    assert 0 == desk.change(handle, 10_000).code
    assert 208 == desk.change(handle, 10_000).code
    desk.passes(10_000)

    assert 208 == desk.change(handle, 10_000).code
    assert [b"0"] == desk.pop().bodies


@pytest.mark.parametrize(
    "how, code",
    [
        ({"invisible_time": -1}, 29),
        ({"invisible_time": 13 * 3_600_000}, 29),
        ({"topic": "nowhere"}, 17),
        ({"offset": 1}, 208),
        ({"extra_info": ""}, 1),
    ],
)
def test_a_change_that_cannot_be_is_refused(desk, how, code) -> None:
    desk.send(b"0")
    handle = desk.pop().handles[0]

    assert code == desk.ask(_change(handle, 5, **how)).code


def test_a_change_that_may_have_been_lost_says_so(desk) -> None:
    desk.send(b"0")
    handle = desk.pop().handles[0]
    desk.put(_change(handle, 5))
    desk.pop_batch.turn_ended()
    desk.ledger.refuse(Indefinite("lost"))

    assert 1 == desk.client.answers[-1].code


def test_no_message_gets_a_time_of_its_own_where_there_is_no_room(desk, monkeypatch) -> None:
    monkeypatch.setattr("broker.machine.pops.CHECKPOINTS_MAX", 1)
    desk.send(b"0", b"1")
    handle = desk.pop().handles[0]

    assert 1 == desk.change(handle, 5).code
    assert 0 == desk.ack(handle)


# --- in order ------------------------------------------------------------------------------------


def test_in_order_a_queue_has_one_consumer_at_a_time(desk) -> None:
    desk.send(b"0", b"1", b"2")
    got = desk.pop(order=True, max_msg_nums=2)
    heard = waiting(desk, order=True)
    assert [b"0", b"1"] == got.bodies
    assert 999 == got.reply.revive_qid
    assert "0 0 0" == got.reply.order_count_info
    desk.ack(got.handles[1])
    assert heard() is None
    desk.ack(got.handles[0])

    assert [b"2"] == Got(heard()).bodies
    assert 2 == progress(desk)


def test_other_queues_are_not_concerned(desk) -> None:
    desk.send(b"0")
    desk.send(b"1", queue_id=1)
    got = [desk.pop(order=True, max_msg_nums=1) for _ in range(3)]

    assert [[b"0"], [b"1"]] == sorted(each.bodies for each in got if each.bodies)
    assert 210 == got[2].code


def test_in_order_it_comes_again_where_it_is_and_is_counted(desk) -> None:
    desk.send(b"0", b"1", b"2")
    got = desk.pop(order=True)
    desk.ack(got.handles[1])
    heard = waiting(desk, order=True, poll_time=100_000)
    desk.passes(INVISIBLE_MS - 1)
    assert heard() is None
    desk.passes(1)
    again = Got(heard())

    assert [b"0", b"2"] == again.bodies
    assert [1, 1] == again.counts
    assert "0 qo0%0 1;0 qo0%2 1;0 0 1" == again.reply.order_count_info
    desk.ack(got.handles[0])  # a handle of before
    assert 2 == in_flight(desk)
    assert [0, 0] == [desk.ack(handle) for handle in again.handles]
    assert 3 == progress(desk)
    assert 0 == desk.queues.next_offset(RETRIES, 0)


def test_who_did_not_hear_the_answer_gets_the_same_again(desk) -> None:
    desk.send(b"0", b"1")
    first = desk.pop(order=True, max_msg_nums=1, attempt_id="a1")
    other = desk.pop(order=True, attempt_id="b1")
    again = desk.pop(order=True, max_msg_nums=1, attempt_id="a1")

    assert ([b"0"], 210, [b"0"]) == (first.bodies, other.code, again.bodies)
    assert [0] == again.counts
    assert 0 == desk.ack(again.handles[0])
    assert [b"1"] == desk.pop(order=True).bodies


def test_a_message_in_order_that_is_given_back_frees_its_queue(desk) -> None:
    desk.send(b"0")
    handle = desk.pop(order=True).handles[0]
    heard = waiting(desk, order=True)
    reply = decode(InvisibleTimeReply, desk.change(handle, 500).fields)
    assert (handle.pop_ms, 999) == (reply.pop_time, reply.revive_qid)
    assert heard() is None
    desk.passes(500)

    assert [1] == Got(heard()).counts


def test_both_ways_of_a_group_keep_apart(desk) -> None:
    desk.send(b"0", b"1", b"2")
    in_none = desk.pop(max_msg_nums=1)
    assert 210 == desk.pop(order=True).code
    desk.ack(in_none.handles[0])
    in_order = desk.pop(order=True, max_msg_nums=1)
    assert [b"1"] == in_order.bodies
    assert 210 == desk.pop().code
    desk.passes(INVISIBLE_MS)

    assert [b"1"] == desk.pop(max_msg_nums=1).bodies
    assert 210 == desk.pop(order=True).code


def test_in_order_is_filtered_too(desk) -> None:
    for tag in "abab":
        desk.send(tag.encode(), tag=tag)
    got = desk.pop(order=True, exp="b")

    assert [b"b", b"b"] == got.bodies
    assert [0, 0] == [desk.ack(handle) for handle in got.handles]
    assert 4 == progress(desk)


# --- operators -----------------------------------------------------------------------------------


def test_a_reset_takes_back_what_is_in_flight(desk) -> None:
    desk.send(b"0", b"1", b"2")
    handles = desk.pop().handles
    desk.ask(ResetOffsets(group=GROUP, topic="orders", timestamp=0))
    assert 0 == desk.ack(handles[2])
    again = desk.pop()

    assert [b"0", b"1", b"2"] == again.bodies
    assert desk.machine.resets.get(GROUP, "orders", 0) is None
    assert [0, 0, 0] == [desk.ack(handle) for handle in again.handles]
    assert 3 == progress(desk)


def test_a_commit_does_not_count_while_something_is_in_flight(desk) -> None:
    desk.send(b"0", b"1")
    handles = desk.pop().handles
    commit = UpdateConsumerOffset(consumer_group=GROUP, topic="orders", queue_id=0, commit_offset=2)
    desk.ask(commit)
    assert 0 == progress(desk)
    for handle in handles:
        desk.ack(handle)

    assert 2 == progress(desk)


def test_the_retries_of_a_group_stay_where_a_topic_goes_that_its_name_ends_with(desk) -> None:
    desk.beat("shop_orders", "orders")
    desk.ask(SendMessage(producer_group="p", topic=RETRIES, queue_id=0), b"of group shop_orders")
    desk.ask(DeleteTopic(topic="orders"))

    assert 1 == desk.queues.next_offset(RETRIES, 0)


def test_what_was_popped_of_another_topic_stays_where_a_topic_goes(desk) -> None:
    """%RETRY%shop_old_orders: of topic `orders` for group `shop_old`, or of `old_orders`."""
    desk.ask(CreateTopic(topic="old_orders", read_queue_nums=1, write_queue_nums=1, perm=6))
    desk.ask(SendMessage(producer_group="p", topic="old_orders", queue_id=0), b"0")
    desk.beat("shop_old", "orders")
    desk.pop(topic="old_orders", invisible_time=1)
    desk.passes(1)
    desk.ask(DeleteTopic(topic="orders"))

    assert [b"0"] == desk.pop(topic="old_orders").bodies


def test_a_topic_goes_with_what_groups_popped_of_it(desk) -> None:
    desk.send(b"0", b"1")
    desk.pop(max_msg_nums=1, invisible_time=1)
    desk.passes(1)
    desk.pop(max_msg_nums=1)
    assert RETRIES in desk.machine.topics
    desk.ask(DeleteTopic(topic="orders"))

    assert RETRIES not in desk.machine.topics
    assert 0 == desk.machine.pops.count
    desk.ask(CreateTopic(topic="orders", read_queue_nums=1, write_queue_nums=1, perm=6))
    desk.send(b"new")
    assert [b"new"] == desk.pop().bodies
    desk.passes(INVISIBLE_MS)
    assert [1] == desk.pop().times


def test_a_group_that_is_made_again_goes_on_with_what_was_in_flight(desk) -> None:
    desk.send(b"0", b"1")
    handles = desk.pop().handles
    desk.ack(handles[0])
    desk.ask(DeleteGroup(group_name=GROUP))
    desk.passes(INVISIBLE_MS)

    assert [b"1"] == desk.pop().bodies


def _handle(offset: int) -> Handle:
    return Handle(
        first_offset=offset,
        pop_ms=1,
        invisible_ms=1,
        revive_qid=0,
        origin=Origin.TOPIC,
        broker_name="broker-a",
        queue_id=0,
        offset=offset,
    )


def _change(handle: Handle, ms: int, **how) -> ChangeInvisibleTime:
    given = {
        "consumer_group": GROUP,
        "topic": "orders",
        "queue_id": handle.queue_id,
        "extra_info": handle.encode(),
        "offset": handle.offset,
        "invisible_time": ms,
    }
    return ChangeInvisibleTime(**(given | how))
