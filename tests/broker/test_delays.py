"""Messages for later: sends, and what becomes of them when their time has come."""

import pytest
import trio

from broker.errors import MessagesGone, TooBusy
from broker.machine.codec import encode_command
from broker.machine.commands import DeleteTopic as DropTopic
from broker.machine.moves import Move, encode_move
from broker.machine.names import SCHEDULE_TOPIC, TIMER_TOPIC
from broker.machine.timer_wheel import LEVELS_MS, WHEEL_QUEUES, until
from broker.rooms.delaying import RecallHandle, decode_handle
from broker.serving.deliveries import BYTES_MAX, PAUSE_MS, SLEEP_MAX_S, UNDER_WAY_MAX
from dledger_py.ledger.errors import Indefinite, NotLeader
from dledger_py.remoting.commands.json_bodies import parse
from dledger_py.remoting.commands.progress import GetDelayOffsets
from dledger_py.remoting.commands.pulling import CARRIES_SUBSCRIPTION, PullMessage
from dledger_py.remoting.commands.sending import RecallMessage, SendMessage
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from dledger_py.remoting.wire.message import BatchItem, decode_records, encode_batch_body, tags_code
from dledger_py.remoting.wire.properties import decode as properties_of
from dledger_py.remoting.wire.properties import encode as properties_text
from tests.broker.rooms_kit import BROKER, Desk, ListLedger, header

HOUR_MS = 3_600_000


@pytest.fixture
def desk(tmp_path) -> Desk:
    desk = Desk(tmp_path)
    create(desk, "orders")
    return desk


def create(desk: Desk, name: str, queues: int = 4) -> None:
    desk.ask(CreateTopic(topic=name, read_queue_nums=queues, write_queue_nums=queues, perm=6))


def send(desk: Desk, body: bytes = b"x", topic: str = "orders", **properties):
    return desk.ask(sending(body, topic, **properties), body, code=310)


def sending(body: bytes = b"x", topic: str = "orders", **properties) -> SendMessage:
    return SendMessage(
        topic=topic,
        queue_id=0 if topic.startswith("%") else 1,
        producer_group="pg",
        default_topic="TBW102",
        properties=properties_text({"UNIQ_KEY": f"U{body[:4].decode()}", **properties}),
    )


def stored(desk: Desk, topic: str = "orders", queue_id: int = 1, offset: int = 0) -> list:
    pull = PullMessage(
        consumer_group="TOOLS_CONSUMER",
        topic=topic,
        queue_id=queue_id,
        queue_offset=offset,
        max_msg_nums=32,
        sys_flag=CARRIES_SUBSCRIPTION,
        subscription="*",
    )
    answer = desk.ask(pull)
    return decode_records(answer.body) if answer.code == 0 else []


def bodies(desk: Desk, topic: str = "orders", queue_id: int = 1) -> list[bytes]:
    return [record.body for record in stored(desk, topic, queue_id)]


def go_on(desk: Desk, ms: int = 0) -> None:
    """Let time pass, and the leader do what is due, in steps as it would."""
    end = desk.now_ms + ms
    while True:
        look(desk)
        if desk.now_ms >= end:
            return
        sleep_ms = max(1, round(desk.deliveries.sleep_s() * 1000))
        desk.now_ms = min(end, desk.now_ms + sleep_ms)


def look(desk: Desk) -> None:
    desk.deliveries.look()
    while desk.ledger.proposed:
        desk.ledger.settle()
        desk.deliveries.look()


@pytest.mark.parametrize("level", [1, 3, 18])
def test_a_level_delays_by_its_time(desk, level) -> None:
    answer = send(desk, DELAY=str(level), TAGS="TagA")
    go_on(desk, LEVELS_MS[level - 1] - 1)
    before = bodies(desk)
    go_on(desk, 1)
    (record,) = stored(desk)

    assert (1, 0) == (int(answer.fields["queueId"]), int(answer.fields["queueOffset"]))
    assert [] == before
    assert (b"x", 1, "orders", desk.now_ms) == (
        record.body,
        record.queue_id,
        record.topic,
        record.store_timestamp_ms,
    )
    assert {"UNIQ_KEY": "Ux", "TAGS": "TagA", "REAL_TOPIC": "orders", "REAL_QID": "1"}.items() <= (
        properties_of(record.properties).items()
    )
    unit = desk.queues.range("orders", 1, 0, 1)
    assert tags_code("TagA") == int.from_bytes(unit[-8:], "big", signed=True)


def test_what_was_delivered_and_what_only_moved_on_is_counted(desk) -> None:
    send(desk, b"1", DELAY="1")
    send(desk, b"2", TIMER_DELAY_MS="25000")
    go_on(desk, 1000)
    at_first = desk.deliveries.statistics()
    go_on(desk, 24_000)
    in_the_end = desk.deliveries.statistics()

    assert (1, 0) == (at_first.delivered, at_first.moved_on)
    assert (2, 1) == (in_the_end.delivered, in_the_end.moved_on)


def test_a_level_beyond_the_last_is_the_last(desk) -> None:
    send(desk, DELAY="99")
    go_on(desk, LEVELS_MS[-1])

    (record,) = stored(desk)
    assert "18" == properties_of(record.properties)["DELAY"]


@pytest.mark.parametrize("level", ["0", "-1", "", "soon", "1.5"])
def test_what_is_no_level_delays_nothing(desk, level) -> None:
    send(desk, DELAY=level)

    assert [b"x"] == bodies(desk)


DELAYS = {
    "a moment": 60,
    "within the first ring": 19_999,
    "into the second": 20_000,
    "a slot of the second": 12_800 * 100,
    "into the third": 51 * 60_000,
    "hours": 7 * HOUR_MS + 1234,
    "days": 5 * 24 * HOUR_MS + 77,
}


@pytest.mark.parametrize("delay_ms", DELAYS.values(), ids=DELAYS.keys())
def test_any_time_is_kept_to_the_millisecond(desk, delay_ms) -> None:
    send(desk, TIMER_DELIVER_MS=str(desk.now_ms + delay_ms))
    go_on(desk, delay_ms - 1)
    before = bodies(desk)
    go_on(desk, 1)

    assert [] == before
    assert [b"x"] == bodies(desk)


@pytest.mark.parametrize(
    "properties, delay_ms",
    [
        ({"TIMER_DELAY_SEC": "3"}, 3000),
        ({"TIMER_DELAY_MS": "30"}, 30),
        ({"TIMER_DELAY_SEC": "1", "TIMER_DELAY_MS": "30"}, 1000),
        ({"DELAY": "1", "TIMER_DELAY_MS": "30"}, 1000),
        ({"DELAY": "0", "TIMER_DELAY_MS": "30"}, 30),
    ],
)
def test_the_first_property_that_says_anything_decides(desk, properties, delay_ms) -> None:
    send(desk, **properties)
    go_on(desk, delay_ms - 1)
    before = bodies(desk)
    go_on(desk, 1)

    assert ([], [b"x"]) == (before, bodies(desk))


@pytest.mark.parametrize("text", ["0", "-5", "1699999999999", "1700000000000"])
def test_what_lies_in_the_past_is_delivered_at_once(desk, text) -> None:
    send(desk, TIMER_DELIVER_MS=text)

    assert [b"x"] == bodies(desk)


@pytest.mark.parametrize("text", ["soon", "1e3", "9" * 18, "9" * 40, " 1"])
def test_a_time_that_cannot_be_is_refused(desk, text) -> None:
    answer = send(desk, TIMER_DELIVER_MS=text)

    assert 13 == answer.code
    assert "TIMER_DELIVER_MS" in answer.remark
    assert 0 == desk.machine.queues.totals().messages


def test_a_batch_holds_nothing_for_later(desk) -> None:
    item = BatchItem(0, b"x", properties_text({"DELAY": "3"}).encode())
    request = SendMessage(topic="orders", queue_id=1, producer_group="pg", batch=True)
    answer = desk.ask(request, encode_batch_body([item]), code=320)

    assert (13, True) == (answer.code, "batch" in answer.remark)


def test_many_keep_their_order_and_come_once(desk) -> None:
    delays = [900, 50, 25_000, 50, 1_000_000, 900, 20_500]
    for number, delay_ms in enumerate(delays):
        send(desk, b"%d" % number, TIMER_DELAY_MS=str(delay_ms))
    go_on(desk, 2_000_000)

    due = sorted(range(len(delays)), key=lambda number: (delays[number], number))
    assert [b"%d" % number for number in due] == bodies(desk)


def test_a_slot_that_takes_several_entries_comes_before_the_next(desk) -> None:
    for number in range(3):
        send(desk, b"%d" % number * 100_000, TIMER_DELAY_MS="50")
    send(desk, b"3", TIMER_DELAY_MS="100")
    desk.now_ms += 100
    go_on(desk)

    assert [b"0", b"1", b"2", b"3"] == [
        record.body[:1] for offset in range(4) for record in stored(desk, offset=offset)[:1]
    ]


def test_a_slot_whose_entry_is_slow_comes_before_the_next(desk) -> None:
    for number, after_ms in enumerate((50, 60, 100)):
        send(desk, b"%d" % number, TIMER_DELAY_MS=str(after_ms))
    desk.now_ms += 50
    desk.deliveries.look()
    desk.now_ms += 50
    go_on(desk)

    assert [b"0", b"1", b"2"] == bodies(desk)


def test_a_slot_that_is_being_read_comes_before_the_next(desk) -> None:
    for number, after_ms in enumerate((50, 100)):
        send(desk, b"%d" % number, TIMER_DELAY_MS=str(after_ms))
    desk.now_ms += 50
    desk.ledger.cached = False
    desk.deliveries.look()
    desk.now_ms += 50
    desk.ledger.cached = True
    look(desk)
    meanwhile = bodies(desk)
    desk.threads.run()
    go_on(desk)

    assert [] == meanwhile
    assert [b"0", b"1"] == bodies(desk)


def test_while_slots_wait_for_an_entry_nobody_looks_again_and_again(desk) -> None:
    for number, after_ms in enumerate((50, 60, 100)):
        send(desk, b"%d" % number, TIMER_DELAY_MS=str(after_ms))
    desk.now_ms += 50
    desk.deliveries.look()
    desk.now_ms += 50
    desk.deliveries.look()

    assert (1, SLEEP_MAX_S) == (len(desk.ledger.proposed), desk.deliveries.sleep_s())


@pytest.mark.parametrize(
    "slow, other",
    [
        (("TIMER_DELAY_MS", "1000", "1010"), ("DELAY", "1")),
        (("DELAY", "1", "1"), ("TIMER_DELAY_MS", "1050")),
    ],
    ids=["a level for a slot", "a slot for a level"],
)
def test_neither_waits_for_the_other(desk, slow, other) -> None:
    key, first, second = slow
    send(desk, b"1", **{key: first})
    desk.now_ms += 10
    send(desk, b"2", **{key: second})
    desk.now_ms += 50
    send(desk, b"3", **{other[0]: other[1]})
    desk.now_ms += 940
    desk.deliveries.look()
    before = len(desk.ledger.proposed)
    desk.now_ms += 150
    desk.deliveries.look()

    assert (1, 2) == (before, len(desk.ledger.proposed))


def test_a_level_does_not_wait_for_another(desk) -> None:
    send(desk, b"1", DELAY="2")
    desk.now_ms += 4500
    send(desk, b"2", DELAY="2")
    send(desk, b"3", DELAY="1")
    desk.now_ms += 500
    desk.deliveries.look()
    moving, desk.ledger.proposed = desk.ledger.proposed, []
    desk.now_ms += 5000
    go_on(desk)
    meanwhile = bodies(desk)
    desk.ledger.proposed = moving
    go_on(desk)

    assert ([b"3"], [b"3", b"1", b"2"]) == (meanwhile, bodies(desk))


def test_a_queue_of_one_slot_goes_in_several_entries(desk) -> None:
    for number in range(3):
        send(desk, b"%d" % number * 100_000, TIMER_DELAY_MS="50")
    desk.now_ms += 50
    entries = desk.ledger.entries
    go_on(desk)

    assert 2 == desk.ledger.entries - entries
    assert 3 == desk.machine.queues.next_offset("orders", 1)
    assert [b"0", b"1"] == [body[:1] for body in bodies(desk)]  # no more fits one answer


def test_a_message_larger_than_an_entry_is_to_be_goes_alone(desk) -> None:
    send(desk, b"1" * (BYTES_MAX + 1), DELAY="1")
    send(desk, b"2", DELAY="1")
    go_on(desk, 1000)

    assert 2 == desk.machine.queues.next_offset("orders", 1)


def test_what_is_behind_the_first_of_a_queue_waits_for_its_own_time(desk) -> None:
    send(desk, b"1", DELAY="1")
    desk.now_ms += 500
    send(desk, b"2", DELAY="1")
    go_on(desk, 999)
    before = bodies(desk)
    go_on(desk, 1)

    assert ([b"1"], [b"1", b"2"]) == (before, bodies(desk))


def test_so_many_entries_are_under_way_at_once_and_no_more(desk) -> None:
    for number in range(UNDER_WAY_MAX + 2):
        send(desk, b"%d" % number, TIMER_DELAY_MS=str(1000 + 50 * number))
    desk.now_ms += 2000
    desk.deliveries.look()
    under_way, pause_s = len(desk.ledger.proposed), desk.deliveries.sleep_s()
    go_on(desk)

    assert (UNDER_WAY_MAX, SLEEP_MAX_S) == (under_way, pause_s)
    assert UNDER_WAY_MAX + 2 == len(bodies(desk))


def test_what_comes_behind_an_entry_under_way_waits_for_it(desk) -> None:
    send(desk, b"1", DELAY="1")
    desk.now_ms += 1000
    desk.deliveries.look()
    moving, desk.ledger.proposed = desk.ledger.proposed, []
    send(desk, b"2", DELAY="1")
    desk.deliveries.look()
    meanwhile, desk.ledger.proposed = desk.ledger.proposed, moving
    go_on(desk, 1000)

    assert [] == meanwhile
    assert [b"1", b"2"] == bodies(desk)


def test_a_new_leader_goes_on_where_the_last_one_was(desk) -> None:
    for number in range(3):
        send(desk, b"%d" % number, DELAY="1")
    desk.now_ms += 1000
    desk.deliveries.look()
    desk.gate.leads = False
    desk.ledger.refuse(NotLeader(None))
    look(desk)
    meanwhile = bodies(desk)
    desk.gate.leads = True
    desk.deliveries.role_changed()
    go_on(desk)

    assert [] == meanwhile
    assert [b"0", b"1", b"2"] == bodies(desk)


def test_what_was_moved_though_nobody_knew_is_not_moved_again(desk) -> None:
    send(desk, DELAY="1")
    desk.now_ms += 1000
    desk.deliveries.look()
    ((payload, settle),) = desk.ledger.proposed
    desk.ledger.proposed.clear()
    desk.ledger.apply(payload)
    settle(Indefinite("who knows"))
    desk.now_ms += PAUSE_MS
    look(desk)

    assert [b"x"] == bodies(desk)


def test_what_nobody_knows_the_end_of_is_looked_at_after_a_pause(desk) -> None:
    send(desk, DELAY="1")
    desk.now_ms += 1000
    desk.deliveries.look()
    desk.ledger.refuse(Indefinite("who knows"))
    pause_s = desk.deliveries.sleep_s()
    desk.now_ms += PAUSE_MS - 1
    desk.deliveries.look()
    at_once = list(desk.ledger.proposed)
    go_on(desk, 1)

    assert (PAUSE_MS / 1000, []) == (pause_s, at_once)
    assert [b"x"] == bodies(desk)


def test_a_pause_does_not_outlast_a_clock_that_is_set_back(desk) -> None:
    send(desk, b"1", DELAY="1")
    desk.now_ms += 1000
    desk.deliveries.look()
    desk.ledger.refuse(Indefinite("who knows"))
    desk.now_ms -= HOUR_MS
    send(desk, b"2", TIMER_DELAY_MS="50")
    go_on(desk, 50)

    assert [b"2"] == bodies(desk)


def lose_the_lead(desk: Desk) -> None:
    desk.gate.leads = False
    desk.deliveries.role_changed()


def lead_again(desk: Desk) -> None:
    desk.gate.leads = True
    desk.deliveries.role_changed()


def moved_by_another(desk: Desk) -> None:
    """The first message of level 1 is done with."""
    moved = Move(
        stamped_ms=desk.now_ms,
        topic=SCHEDULE_TOPIC,
        queue_id=0,
        first_offset=0,
        next_offset=1,
        soonest_ms=0,
        latest_ms=0,
        recalls_seen=0,
    )
    desk.ledger.apply(encode_move(moved, ()))


def test_who_leads_again_knows_nothing_of_the_last_time(desk) -> None:
    send(desk, b"1", DELAY="1")
    lose_the_lead(desk)
    moved_by_another(desk)
    lead_again(desk)
    send(desk, b"2", DELAY="1")
    go_on(desk, 1000)

    assert [b"2"] == bodies(desk)


def test_who_leads_again_moves_a_queue_once(desk) -> None:
    send(desk, DELAY="1")
    lose_the_lead(desk)
    lead_again(desk)
    desk.now_ms += 1000
    desk.deliveries.look()

    assert 1 == len(desk.ledger.proposed)


def test_a_move_of_an_earlier_lead_may_come_through_late(desk) -> None:
    send(desk, b"1", DELAY="1")
    desk.now_ms += 500
    send(desk, b"2", DELAY="1")
    desk.now_ms += 500
    desk.deliveries.look()
    lose_the_lead(desk)
    lead_again(desk)
    desk.ledger.settle()
    go_on(desk, 499)
    before = bodies(desk)
    go_on(desk, 1)

    assert ([b"1"], [b"1", b"2"]) == (before, bodies(desk))


def test_a_cold_read_may_outlast_the_lead(desk) -> None:
    send(desk, b"1", DELAY="1")
    desk.now_ms += 1000
    desk.ledger.cached = False
    desk.deliveries.look()
    lose_the_lead(desk)
    desk.threads.run()
    desk.ledger.cached = True
    moved_by_another(desk)
    lead_again(desk)
    send(desk, b"2", DELAY="1")
    go_on(desk, 1000)

    assert [b"2"] == bodies(desk)


def test_who_does_not_lead_sleeps_whatever_is_due(desk) -> None:
    send(desk, b"1", DELAY="1")
    desk.put(sending(b"2", DELAY="2"), b"2", code=310)
    desk.batch.propose()
    lose_the_lead(desk)
    desk.ledger.settle()
    desk.now_ms += 9000

    assert SLEEP_MAX_S == desk.deliveries.sleep_s()


def test_a_follower_delivers_nothing(desk) -> None:
    send(desk, DELAY="1")
    desk.gate.leads = False
    desk.now_ms += 5000
    desk.deliveries.look()
    desk.deliveries.role_changed()
    desk.deliveries.look()

    assert [] == desk.ledger.proposed


def test_a_clock_that_is_set_back_delays(desk) -> None:
    send(desk, DELAY="1")
    desk.now_ms -= HOUR_MS
    go_on(desk, HOUR_MS)
    before = bodies(desk)
    go_on(desk, 1000)

    assert ([], [b"x"]) == (before, bodies(desk))


def test_a_cold_read_does_not_hold_the_loop(desk) -> None:
    send(desk, DELAY="1")
    desk.now_ms += 1000
    desk.ledger.cached = False
    desk.deliveries.look()
    waiting = list(desk.ledger.proposed)
    desk.threads.run()
    desk.ledger.cached = True
    desk.ledger.settle()

    assert [] == waiting
    assert [b"x"] == bodies(desk)


def test_a_cold_read_that_had_to_wait_too_long_is_tried_again(desk) -> None:
    send(desk, DELAY="1")
    desk.now_ms += 1000
    desk.ledger.cached = False
    desk.deliveries.look()
    desk.threads.fail(TooBusy())
    desk.ledger.cached = True
    go_on(desk, PAUSE_MS)

    assert [b"x"] == bodies(desk)


def test_what_the_log_has_no_more_holds_up_nothing(desk, monkeypatch) -> None:
    send(desk, b"1", DELAY="1")

    def gone(*_args: object, **_how: object) -> None:
        raise MessagesGone

    with monkeypatch.context() as without:
        without.setattr(ListLedger, "read_bytes", gone)
        go_on(desk, 1000)
    send(desk, b"2", DELAY="1")
    go_on(desk, 1000)

    assert [b"2"] == bodies(desk)
    assert 1 == desk.deliveries.statistics().dropped


async def test_what_begins_to_wait_is_not_slept_through(desk, autojump_clock) -> None:
    began_ms, began = desk.now_ms, trio.current_time()

    def now_ms() -> int:
        return began_ms + round((trio.current_time() - began) * 1000)

    desk.deliveries.now_ms = now_ms
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.deliveries._deliver_for_ever)
        await trio.sleep(0.1)
        desk.now_ms = now_ms()
        send(desk, TIMER_DELAY_MS="50")
        await trio.sleep(0.06)
        due = len(desk.ledger.proposed)
        nursery.cancel_scope.cancel()

    assert 1 == due


def test_a_message_of_a_deleted_topic_is_gone_and_the_next_is_not(desk) -> None:
    create(desk, "bills")
    send(desk, b"1", topic="bills", DELAY="1")
    send(desk, b"2", DELAY="1")
    desk.ask(DeleteTopic(topic="bills"))
    go_on(desk, 1000)

    assert [b"2"] == bodies(desk)
    assert 1 == desk.deliveries.statistics().dropped


def test_a_topic_deleted_between_reading_and_putting(desk) -> None:
    send(desk, DELAY="1")
    desk.now_ms += 1000
    desk.deliveries.look()
    desk.ledger.apply(encode_command(DropTopic(stamped_ms=1, name="orders")))
    desk.ledger.settle()

    assert 1 == desk.machine.moves.cursor(SCHEDULE_TOPIC, 0)


def test_a_topic_that_shrank_has_another_queue_for_it(desk) -> None:
    send(desk, DELAY="1")
    send(desk, DELAY="1")
    desk.now_ms += 1000
    desk.deliveries.look()
    proposed, desk.ledger.proposed = desk.ledger.proposed, []
    create(desk, "orders", queues=1)
    desk.ledger.proposed = proposed
    look(desk)

    assert [b"x", b"x"] == bodies(desk, queue_id=0)


def test_a_topic_without_queues_has_no_place_for_it(desk) -> None:
    send(desk, DELAY="1")
    create(desk, "orders", queues=0)
    go_on(desk, 1000)

    assert 0 == desk.machine.topics.get("orders").queues
    assert 1 == desk.deliveries.statistics().dropped


def test_what_stands_in_a_waiting_topic_and_is_not_ours_is_passed(desk) -> None:
    assert 16 == send(desk, topic=TIMER_TOPIC).code
    assert 16 == send(desk, topic=SCHEDULE_TOPIC).code


def test_what_a_message_says_of_an_earlier_life_does_not_count(desk) -> None:
    send(desk, DELAY="1", REAL_TOPIC="bills", REAL_QID="9", TIMER_OUT_MS="99999999999999")
    go_on(desk, 1000)

    (record,) = stored(desk)
    assert ("orders", 1) == (record.topic, record.queue_id)
    assert "TIMER_OUT_MS" not in properties_of(record.properties)


def test_a_retry_comes_after_its_level_and_not_at_its_old_time(desk) -> None:
    retry = "%RETRY%shop"
    send(desk, b"1", topic=retry, DELAY="0", TIMER_DELAY_SEC="3600")
    send(desk, b"2", topic=retry, DELAY="3", TIMER_DELAY_SEC="3600")
    at_once = bodies(desk, retry, 0)
    go_on(desk, 10_000)

    assert [b"1"] == at_once
    assert [b"1", b"2"] == bodies(desk, retry, 0)


def test_the_log_is_kept_for_what_waits(desk) -> None:
    nothing = desk.deliveries.held()
    send(desk, b"1", DELAY="1")
    send(desk, b"2", DELAY="2")
    first = desk.deliveries.held()
    go_on(desk, 1000)
    second = desk.deliveries.held()
    go_on(desk, 5000)

    assert (None, None) == (nothing, desk.deliveries.held())
    assert first < second


# --- recalls ---


def handle_of(answer) -> str:
    return answer.fields["recallHandle"]


def recall(desk: Desk, handle: str, topic: str = "orders"):
    return desk.ask(RecallMessage(topic=topic, recall_handle=handle))


def test_a_recalled_message_is_not_delivered(desk) -> None:
    kept = send(desk, b"1", TIMER_DELAY_SEC="60")
    gone = send(desk, b"2", TIMER_DELAY_SEC="60")
    answer = recall(desk, handle_of(gone))
    go_on(desk, 61_000)

    assert RecallHandle(
        topic="orders", broker_name=BROKER, deliver_ms=1_700_000_060_000, unique_id="U1"
    ) == decode_handle(handle_of(kept))
    assert (0, "U2") == (answer.code, header(RecallMessage, answer).msg_id)
    assert [b"1"] == bodies(desk)


def test_a_recall_that_comes_while_the_message_is_on_its_way_counts(desk) -> None:
    handle = handle_of(send(desk, TIMER_DELAY_MS="50"))
    desk.now_ms += 50
    desk.deliveries.look()
    moving, desk.ledger.proposed = desk.ledger.proposed, []
    desk.now_ms -= 1
    answer = recall(desk, handle)
    desk.ledger.proposed = moving
    desk.now_ms += 1
    look(desk)

    statistics = desk.deliveries.statistics()
    assert 0 == answer.code
    assert [] == bodies(desk)
    assert (0, 1) == (statistics.delivered, statistics.dropped)


@pytest.mark.parametrize("which, left", [(0, [b"2"]), (1, [b"1"])])
def test_each_message_of_an_entry_may_be_recalled_on_its_way(desk, which, left) -> None:
    start_ms = desk.now_ms
    handles = [
        handle_of(send(desk, body, TIMER_DELIVER_MS=str(start_ms + after_ms)))
        for body, after_ms in ((b"1", 10), (b"2", 40))
    ]
    desk.now_ms += 50
    desk.deliveries.look()
    moving, desk.ledger.proposed = desk.ledger.proposed, []
    desk.now_ms = start_ms
    answer = recall(desk, handles[which])
    desk.ledger.proposed = moving
    desk.now_ms += 50
    go_on(desk)

    assert (1, 0) == (len(moving), answer.code)
    assert left == bodies(desk)


def test_a_message_that_was_delivered_cannot_be_recalled(desk) -> None:
    handle = handle_of(send(desk, TIMER_DELAY_MS="50"))
    go_on(desk, 50)
    late = recall(desk, handle)
    desk.now_ms -= 40
    by_another_clock = recall(desk, handle)

    assert [(604, True)] * 2 == [
        (answer.code, "too late" in answer.remark) for answer in (late, by_another_clock)
    ]


@pytest.mark.parametrize(
    "handle, code",
    [
        ("", 604),
        ("%%%", 604),
        ("AAAA", 604),
        ("x" * 5000, 604),
        ("djEgYSBiIGMgZA==", 604),  # v1 a b c d
        ("djIgYSBiIDEgZA==", 604),  # v2 a b 1 d
    ],
)
def test_a_forged_handle_is_refused(desk, handle, code) -> None:
    assert code == recall(desk, handle).code


@pytest.mark.parametrize(
    "fields, topic, code",
    [
        ({"topic": "bills"}, "orders", 604),
        ({"broker_name": "broker-z"}, "orders", 604),
        ({"deliver_ms": 5}, "orders", 604),
        ({"deliver_ms": 10**18 - 1}, "orders", 604),
        ({"topic": "nowhere"}, "nowhere", 17),
    ],
)
def test_a_handle_of_something_else_is_refused(desk, fields, topic, code) -> None:
    given = {
        "topic": "orders",
        "broker_name": BROKER,
        "deliver_ms": desk.now_ms + 1000,
        "unique_id": "U1",
    }
    handle = RecallHandle(**given | fields).encode()

    assert code == recall(desk, handle, topic).code


def test_a_recall_is_of_messages_with_times_of_their_own(desk) -> None:
    recall(desk, handle_of(send(desk, b"1", TIMER_DELAY_SEC="60")))
    send(desk, b"1", DELAY="1")
    go_on(desk, 61_000)

    assert [b"1"] == bodies(desk)


def test_a_recall_is_of_one_time(desk) -> None:
    """A client that sends a message once more leaves it its id."""
    first, again, other = (
        handle_of(send(desk, b"1", TIMER_DELAY_SEC=seconds)) for seconds in ("60", "70", "80")
    )
    codes = [recall(desk, handle).code for handle in (first, other)]
    go_on(desk, 61_000)
    go_on(desk, 20_000)

    assert [0, 0] == codes
    assert [b"1"] == bodies(desk)
    assert str(decode_handle(again).deliver_ms) == stored(desk)[0].property("TIMER_OUT_MS")


def test_levels_have_no_handle(desk) -> None:
    assert "recallHandle" not in send(desk, DELAY="3").fields


def test_the_leader_recalls(desk) -> None:
    desk.gate.leads = False

    assert recall(desk, "x") is None
    assert [370] == [frame.code for frame in desk.gate.relayed]


# --- the wheel ---


@pytest.mark.parametrize("ahead_ms", [1, 49, 50, 19_999, 20_000, 3_059_999, 3_060_000, 10**9])
@pytest.mark.parametrize("now_ms", [1_700_000_000_000, 1_700_000_012_799, 1_700_001_799_999])
def test_the_wheel_turns_in_time(ahead_ms, now_ms) -> None:
    """However far ahead: a message is there before its time, after at most half a day in one place,
    and never at once again."""
    deliver_ms, places = now_ms + ahead_ms, 0
    while now_ms < deliver_ms:
        waiting = until(deliver_ms, now_ms)
        assert now_ms < waiting.due_ms <= min(deliver_ms, now_ms + 12 * HOUR_MS)
        assert 0 <= waiting.queue_id < WHEEL_QUEUES
        assert waiting.due_ms == deliver_ms or deliver_ms - waiting.due_ms >= 2_000
        now_ms = waiting.due_ms
        places += 1

    assert now_ms == deliver_ms
    assert places <= 4 + ahead_ms // (11 * HOUR_MS)


@pytest.mark.parametrize(
    "ahead_ms, slot_ms, queues",
    [
        (20, 50, range(512)),
        (30_000, 12_800, range(512, 768)),
        (2 * HOUR_MS, HOUR_MS // 2, range(768, WHEEL_QUEUES)),
    ],
)
def test_a_ring_has_its_queues_to_itself(ahead_ms, slot_ms, queues) -> None:
    """What is due early must not stand behind what is due late."""
    start_ms = 1_700_000_000_000
    moments = [start_ms + slot_ms * number for number in range(len(queues))]

    assert set(queues) == {until(now_ms + ahead_ms, now_ms).queue_id for now_ms in moments}


def test_operators_see_how_far_levels_were_delivered(desk) -> None:
    for level in ("1", "1", "3"):
        send(desk, DELAY=level)
    before = parse(desk.ask(GetDelayOffsets()).body)["offsetTable"]
    go_on(desk, 1000)

    assert {} == before
    assert {"1": 2} == parse(desk.ask(GetDelayOffsets()).body)["offsetTable"]
