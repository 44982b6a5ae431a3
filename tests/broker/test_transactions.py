"""Half messages and their ends, asked of the rooms: page 08 §1."""

import pytest

from broker.machine.codec import encode_command
from broker.machine.end_transaction import EndTransaction as EndedByAnother
from broker.machine.end_transaction import Verdict
from broker.machine.names import HALF_TOPIC
from broker.rooms.sending import DELAY_BYTES_MAX
from broker.serving import half_messages
from broker.serving.half_records import immunity_ms, is_half
from dledger_py.ledger.errors import Indefinite, NotLeader
from dledger_py.remoting.commands.groups import CreateGroup, GroupConfig
from dledger_py.remoting.commands.json_bodies import encode_body
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from dledger_py.remoting.commands.transactions import COMMIT, ROLLBACK, UNKNOWN
from dledger_py.remoting.wire.message import (
    COMPRESSED,
    MULTI_TAGS,
    TRANSACTION_COMMIT,
    decode_record,
    tags_code,
)
from dledger_py.remoting.wire.properties import PROPERTIES_SIZE_MAX
from dledger_py.remoting.wire.properties import decode as properties_of
from tests.broker.rooms_kit import STORE_HOST, Desk, header
from tests.broker.transactions_kit import half_send, position_of, prepared, stored, verdict


@pytest.fixture
def desk(tmp_path) -> Desk:
    desk = Desk(tmp_path)
    desk.ask(topic("orders"))
    return desk


def topic(name: str, queues: int = 4, **settings) -> CreateTopic:
    given = {"read_queue_nums": queues, "write_queue_nums": queues, "perm": 6}
    return CreateTopic(topic=name, **(given | settings))


def stored_properties(desk: Desk, request: SendMessage) -> bytes:
    desk.ask(request, b"x")
    return stored(desk, HALF_TOPIC, 0)[-1].properties.encode()


# --- halves --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [10, 310])
def test_a_half_message_is_stored_where_no_consumer_sees_it(desk, code) -> None:
    desk.ask(half_send(), b"first", code=code)
    reply = header(SendMessage, desk.ask(half_send(), b"pay", code=code))
    _first, half = stored(desk, HALF_TOPIC, 0)

    assert [] == stored(desk)
    assert (1, 1, "U1") == (reply.queue_id, reply.queue_offset, reply.transaction_id)
    assert half.physical_offset == position_of(reply)
    assert (b"pay", 0, 0, 1_600_000_000_000) == (
        half.body,
        half.sys_flag,
        half.queue_id,
        half.born_timestamp_ms,
    )
    assert {
        "TRAN_MSG": "true",
        "PGROUP": "payers",
        "UNIQ_KEY": "U1",
        "TAGS": "TagA",
        "REAL_TOPIC": "orders",
        "REAL_QID": "1",
        "__transactionId__": "U1",
        "MSG_REGION": "DefaultRegion",
        "TRACE_ON": "true",
        "CLUSTER": "DefaultCluster",
    } == properties_of(half.properties)
    assert 2 == len(desk.machine.transactions)


def test_the_topic_of_a_half_message_is_created_on_use(desk) -> None:
    prepared(desk, name="new")

    assert "new" in desk.machine.topics
    assert [] == stored(desk, "new")


def test_where_a_half_message_goes_is_not_for_its_producer_to_say(desk) -> None:
    reply = prepared(desk, REAL_TOPIC="elsewhere", REAL_QID="9", __transactionId__="X")
    (half,) = stored(desk, HALF_TOPIC, 0)
    desk.ask(verdict(reply))

    assert 1 == half.properties.count("REAL_TOPIC") == half.properties.count("__transactionId__")
    assert ["orders"] == [record.topic for record in stored(desk)]


def test_when_there_are_too_many_nothing_is_stored_until_some_have_ended(desk) -> None:
    desk.halves.halves_max = 2
    first = prepared(desk)
    desk.put(half_send(), b"on its way")
    refused = desk.ask(half_send(), b"one too many")
    forwarded = dict(refused.fields)
    desk.ask(verdict(first, ROLLBACK))
    again = desk.ask(half_send(), b"again")

    assert (14, 0) == (refused.code, again.code)
    assert "2 transactions have not ended" in refused.remark
    assert "true" == forwarded["__lasting"]
    assert [b"pay", b"on its way", b"again"] == [half.body for half in stored(desk, HALF_TOPIC, 0)]


def test_those_that_were_not_stored_take_no_room(desk) -> None:
    desk.halves.halves_max = 1
    desk.put(half_send(), b"lost")
    desk.batch.propose()
    desk.ledger.refuse(NotLeader(None))

    assert 0 == desk.ask(half_send(), b"stored").code


@pytest.mark.parametrize(
    "properties, comes_back, expected",
    [
        ({"TRAN_MSG": "true"}, False, True),
        ({"TRAN_MSG": "TRUE"}, False, True),
        ({"TRAN_MSG": "true"}, True, False),
        ({"TRAN_MSG": "yes"}, False, False),
        ({}, False, False),
    ],
)
def test_what_is_a_half_message(properties, comes_back, expected) -> None:
    assert expected == is_half({"PGROUP": "pg"} | properties, comes_back=comes_back)


@pytest.mark.parametrize(
    "to, times, asked, where",
    [
        ("%RETRY%shop", 1, {"DELAY": "1"}, "SCHEDULE_TOPIC_XXXX"),
        ("%RETRY%shop", 1, {}, "%RETRY%shop"),
        ("%RETRY%shop", 0, {}, "%RETRY%shop"),
        ("orders", 1, {"DELAY": "1"}, "SCHEDULE_TOPIC_XXXX"),
    ],
)
def test_what_comes_back_is_no_half_message(desk, to, times, asked, where) -> None:
    """It still claims to be one, though it was committed long ago."""
    desk.ask(CreateGroup(), encode_body(GroupConfig(group_name="shop")))
    request = half_send(to, 0, **asked)
    request.reconsume_times = times
    answer = desk.ask(request, b"again")

    assert 0 == answer.code
    assert 0 == len(desk.machine.transactions)
    assert [0] == [record.sys_flag for record in stored(desk, where, 0)]


# --- verdicts ------------------------------------------------------------------------------------


def test_a_commit_puts_the_message_into_its_topic(desk) -> None:
    reply = prepared(desk)
    desk.now_ms += 5
    entries = desk.ledger.entries
    answer = desk.ask(verdict(reply))
    (half,) = stored(desk, HALF_TOPIC, 0)
    (final,) = stored(desk)

    assert (0, 1) == (answer.code, desk.ledger.entries - entries)
    assert (b"pay", "orders", 1, 0) == (final.body, final.topic, final.queue_id, final.queue_offset)
    assert (TRANSACTION_COMMIT, position_of(reply)) == (final.sys_flag, final.prepared_offset)
    assert (1_600_000_000_000, desk.now_ms) == (final.born_timestamp_ms, final.store_timestamp_ms)
    assert (half.born_host, half.properties) == (final.born_host, final.properties)
    assert STORE_HOST == final.store_host
    units = desk.queues.range("orders", 1, 0, 1)
    assert tags_code("TagA") == int.from_bytes(units[12:], "big", signed=True)
    assert None is desk.machine.transactions.lowest_position()
    assert 1 == desk.rates.transactions_committed.total
    assert 1 == desk.rates.topic("orders").total


def test_a_committed_message_can_be_read_at_its_log_position(desk) -> None:
    desk.ask(verdict(prepared(desk)))
    (final,) = stored(desk)
    raw = desk.ledger.read_bytes(final.physical_offset, final.size)

    assert (b"pay", "orders") == (decode_record(raw).body, decode_record(raw).topic)


def test_a_compressed_body_and_a_topic_of_several_tags_keep_their_bits(desk) -> None:
    desk.ask(topic("tagged", topic_filter_type="MULTI_TAG"))
    request = half_send("tagged")
    request.sys_flag |= COMPRESSED
    reply = header(SendMessage, desk.ask(request, b"zip"))
    (half,) = stored(desk, HALF_TOPIC, 0)
    desk.ask(verdict(reply))
    (final,) = stored(desk, "tagged")

    assert COMPRESSED == half.sys_flag
    assert COMPRESSED | TRANSACTION_COMMIT | MULTI_TAGS == final.sys_flag


@pytest.mark.parametrize(
    "asked, topic_name, queue_id, after_ms",
    [
        ({"DELAY": "3"}, "SCHEDULE_TOPIC_XXXX", 2, 10_000),
        ({"TIMER_DELAY_SEC": "4"}, "rmq_sys_wheel_timer", None, 4_000),
    ],
)
def test_a_delay_counts_from_the_commit(desk, asked, topic_name, queue_id, after_ms) -> None:
    reply = prepared(desk, **asked)
    desk.now_ms += 60_000
    desk.ask(verdict(reply))
    due_ms = desk.now_ms + after_ms
    if queue_id is None:
        (queue_id,) = desk.machine.queues.written(topic_name)
    units = desk.queues.range(topic_name, queue_id, 0, 1)
    before = stored(desk)
    desk.deliveries.role_changed()
    desk.now_ms = due_ms - 1
    desk.deliveries.look()
    desk.turn()
    early = stored(desk)
    desk.now_ms = due_ms
    desk.deliveries.look()
    desk.turn()
    (final,) = stored(desk)

    assert ([], []) == (before, early)
    assert due_ms == int.from_bytes(units[12:], "big", signed=True)
    assert (b"pay", "orders", 1) == (final.body, final.topic, final.queue_id)
    assert (TRANSACTION_COMMIT, position_of(reply)) == (final.sys_flag, final.prepared_offset)


def test_a_time_that_has_passed_by_the_commit_means_at_once(desk) -> None:
    reply = prepared(desk, TIMER_DELIVER_MS=str(desk.now_ms + 10))
    desk.now_ms += 10
    desk.ask(verdict(reply))

    assert [b"pay"] == [record.body for record in stored(desk)]


def test_a_half_message_for_later_leaves_room_for_what_its_commit_adds(desk) -> None:
    spare = half_send(DELAY="1", k="")
    room = PROPERTIES_SIZE_MAX - len(stored_properties(desk, spare))
    reply = desk.ask(half_send(DELAY="1", k="v" * (room - 3 - DELAY_BYTES_MAX)), b"fits")
    refused = desk.ask(half_send(DELAY="1", k="v" * (room - 2 - DELAY_BYTES_MAX)), b"does not")

    assert (0, 13) == (reply.code, refused.code)
    assert 0 == desk.ask(verdict(header(SendMessage, reply))).code


def test_after_a_rollback_there_is_no_message(desk) -> None:
    answer = desk.ask(verdict(prepared(desk), ROLLBACK))

    assert 0 == answer.code
    assert [] == stored(desk)
    assert 0 == len(desk.machine.transactions)
    assert 1 == desk.rates.transactions_rolled_back.total


def test_a_verdict_is_answered_once_it_is_applied(desk) -> None:
    reply = prepared(desk)
    answered = len(desk.client.answers)
    desk.put(verdict(reply))

    assert answered == len(desk.client.answers)
    desk.turn()
    assert answered + 1 == len(desk.client.answers)


def test_a_one_way_verdict_counts_and_is_not_answered(desk) -> None:
    reply = prepared(desk)

    assert None is desk.ask(verdict(reply), one_way=True)
    assert 1 == len(stored(desk))


def test_a_verdict_that_comes_twice_counts_once(desk) -> None:
    reply = prepared(desk)
    codes = [desk.ask(verdict(reply)).code for _ in range(3)]
    other = desk.ask(verdict(reply, ROLLBACK))

    assert [0, 0, 0] == codes
    assert (1, True) == (other.code, "it is committed" in other.remark)
    assert 1 == len(stored(desk))


def test_a_verdict_that_comes_twice_in_a_turn_counts_once(desk) -> None:
    reply = prepared(desk)
    before = len(desk.client.answers)
    for what in (COMMIT, COMMIT, ROLLBACK):
        desk.put(verdict(reply, what))
    desk.turn()

    assert [1, 0, 0] == [answer.code for answer in desk.client.answers[before:]]
    assert 1 == len(stored(desk))


def test_another_leader_only_knows_that_it_has_ended(desk) -> None:
    reply = prepared(desk)
    desk.ask(verdict(reply))
    desk.halves._ended.clear()
    answer = desk.ask(verdict(reply))

    assert (1, True) == (answer.code, "none is pending" in answer.remark)
    assert 1 == len(stored(desk))


def test_a_commit_that_did_not_come_through_is_not_remembered(desk) -> None:
    reply = prepared(desk)
    desk.put(verdict(reply))
    desk.ledger.refuse(NotLeader(None))
    by_another = EndedByAnother(
        stamped_ms=desk.now_ms, half_position=position_of(reply), verdict=Verdict.ROLLED_BACK
    )
    desk.ledger.apply(encode_command(by_another))
    answer = desk.ask(verdict(reply))

    assert (1, []) == (answer.code, stored(desk))


@pytest.mark.parametrize(
    "fields, code, remark",
    [
        ({"producer_group": "others"}, 1, "of 'payers', not of 'others'"),
        ({"tran_state_table_offset": 1}, 1, "has queue offset 0, not 1"),
        ({"commit_log_offset": 99}, 1, "none is pending at log position 99"),
        ({"commit_log_offset": -1}, 1, "none is pending"),
        ({"commit_or_rollback": 4}, 29, "commitOrRollback 4"),
        ({"commit_or_rollback": UNKNOWN}, 0, None),
    ],
)
@pytest.mark.parametrize("what", [COMMIT, ROLLBACK])
def test_what_does_not_fit_changes_nothing(desk, fields, code, remark, what) -> None:
    reply = prepared(desk)
    entries = desk.ledger.entries
    answer = desk.ask(verdict(reply, **({"commit_or_rollback": what} | fields)))

    assert code == answer.code
    assert remark is None or remark in answer.remark
    assert (entries, 1) == (desk.ledger.entries, len(desk.machine.transactions))


def test_the_leader_ends_transactions(desk) -> None:
    reply = prepared(desk)
    desk.gate.leads = False

    assert None is desk.ask(verdict(reply))
    assert [37] == [frame.code for frame in desk.gate.relayed]


@pytest.mark.parametrize("error, code", [(NotLeader(None), 14), (Indefinite("?"), 1)])
def test_a_verdict_that_did_not_come_through_can_come_again(desk, error, code) -> None:
    reply = prepared(desk)
    desk.put(verdict(reply))
    desk.ledger.refuse(error)
    refused = desk.client.answers[-1].code
    again = desk.ask(verdict(reply))

    assert (code, 0) == (refused, again.code)
    assert 1 == len(stored(desk))


def test_a_half_message_that_only_the_disk_has_is_read_by_a_thread(desk) -> None:
    reply, other = prepared(desk), prepared(desk, b"other")
    desk.ledger.cached = False
    desk.put(verdict(reply))
    desk.put(verdict(other))
    waiting = len(desk.ledger.proposed)
    desk.threads.jobs, late = desk.threads.jobs[:1], desk.threads.jobs[1:]
    desk.threads.run()
    desk.turn()
    desk.ledger.cached = True
    desk.gate.leads = False
    desk.threads.jobs = late
    desk.threads.run()

    assert 0 == waiting
    assert [0, 14] == [answer.code for answer in desk.client.answers[-2:]]
    desk.gate.leads = True
    assert [b"pay"] == [record.body for record in stored(desk)]


def test_a_half_that_ended_while_it_was_read_is_not_ended_again(desk) -> None:
    reply = prepared(desk)
    desk.ledger.cached = False
    for what in (COMMIT, COMMIT, ROLLBACK):
        desk.put(verdict(reply, what))
    first, *late = desk.threads.jobs
    desk.threads.jobs = [first]
    desk.threads.run()
    desk.turn()
    desk.threads.jobs = late
    desk.threads.run()
    desk.ledger.cached = True

    assert [0, 0, 1] == [answer.code for answer in desk.client.answers[-3:]]
    assert [b"pay"] == [record.body for record in stored(desk)]


def test_only_the_last_ends_are_remembered(desk, monkeypatch) -> None:
    monkeypatch.setattr(half_messages, "ENDED_MAX", 2)
    replies = [prepared(desk) for _ in range(3)]
    for reply in replies:
        desk.ask(verdict(reply))

    assert [1, 0, 0] == [desk.ask(verdict(reply)).code for reply in replies]


@pytest.mark.parametrize(
    "text, late_ms, from_check, code",
    [
        ("10", 10_000, False, 0),
        ("10", 10_001, False, 604),
        ("10", 10_001, True, 0),
        ("1", 6_000, False, 0),  # never less than the time-out
        ("1", 6_001, False, 604),
        ("soon", 6_001, False, 604),
    ],
)
def test_who_asked_not_to_be_checked_ends_it_in_that_time_or_waits(
    desk, text, late_ms, from_check, code
) -> None:
    reply = prepared(desk, CHECK_IMMUNITY_TIME_IN_SECONDS=text)
    desk.now_ms += late_ms
    answer = desk.ask(verdict(reply, from_transaction_check=from_check))

    assert code == answer.code
    assert (code == 0) == (len(stored(desk)) == 1)


@pytest.mark.parametrize(
    "text, expected",
    [(None, 6_000), ("60", 60_000), ("2", 6_000), ("-1", 6_000), ("x", 6_000), ("9" * 10, 6_000)],
)
def test_how_long_nobody_is_asked(text, expected) -> None:
    properties = {} if text is None else {"CHECK_IMMUNITY_TIME_IN_SECONDS": text}

    assert expected == immunity_ms(properties, 6_000)


def test_a_message_whose_topic_is_gone_stays_half(desk) -> None:
    reply = prepared(desk)
    desk.ask(DeleteTopic(topic="orders"))
    gone = desk.ask(verdict(reply))
    pending = len(desk.machine.transactions)
    desk.ask(topic("orders"))
    again = desk.ask(verdict(reply))

    assert (17, 1, 0) == (gone.code, pending, again.code)
    assert [b"pay"] == [record.body for record in stored(desk)]


def test_a_topic_that_goes_while_the_verdict_is_under_way_takes_no_half_along(desk) -> None:
    reply = prepared(desk)
    desk.put(DeleteTopic(topic="orders"))
    desk.put(verdict(reply))
    desk.turn()

    assert (1, True) == (
        desk.client.answers[-1].code,
        "unknown topic" in desk.client.answers[-1].remark,
    )
    assert 1 == len(desk.machine.transactions)


def test_a_message_whose_queue_is_gone_goes_to_another(desk) -> None:
    reply = header(SendMessage, desk.ask(half_send(queue_id=3), b"pay"))
    desk.ask(topic("orders", queues=2))
    desk.ask(verdict(reply))
    drained = header(SendMessage, desk.ask(half_send(), b"pay"))
    desk.ask(topic("orders", queues=0))
    refused = desk.ask(verdict(drained))

    assert 16 == refused.code
    desk.ask(topic("orders", queues=2))
    assert [1] == [record.queue_id for record in stored(desk, queue_id=1)]


def test_while_the_disk_is_nearly_full_nothing_is_committed(desk) -> None:
    reply, other = prepared(desk), prepared(desk)
    desk.free_bytes = 50
    desk.disk.look()
    refused = desk.ask(verdict(reply))
    rolled_back = desk.ask(verdict(other, ROLLBACK))
    desk.free_bytes = 1000
    desk.disk.look()
    again = desk.ask(verdict(reply))

    assert (14, 0, 0) == (refused.code, rolled_back.code, again.code)
    assert [b"pay"] == [record.body for record in stored(desk)]
