"""Messages that are sent again, asked of the rooms: answered as the first time, stored once."""

from typing import Any

import pytest
from attrs import evolve

from broker.rooms.delaying import decode_handle
from broker.serving import duplicates
from broker.serving.duplicates import Duplicates
from broker.store.put_window import PutWindow
from dledger_py.ledger.errors import Busy, Indefinite, NotLeader
from dledger_py.remoting.commands.pulling import CARRIES_SUBSCRIPTION, PullMessage
from dledger_py.remoting.commands.send_back import SendBack
from dledger_py.remoting.commands.sending import RecallMessage, SendMessage
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from dledger_py.remoting.commands.transactions import COMMIT
from dledger_py.remoting.wire.message import BatchItem, Record, decode_records, encode_batch_body
from dledger_py.remoting.wire.properties import encode as properties_text
from tests.broker.rooms_kit import Desk, header
from tests.broker.transactions_kit import half_send, position_of, verdict

V2, BATCH = 310, 320
IDENTITY = 7
ONE = {"UNIQ_KEY": "0A0B0C0D0001", "TAGS": "a", "WAIT": "true"}


@pytest.fixture
def desk(tmp_path) -> Desk:
    return opened(Desk(tmp_path, deduplication_messages=1000))


def opened(desk: Desk) -> Desk:
    for name in ("orders", "stock", "repeats"):
        desk.ask(CreateTopic(topic=name, read_queue_nums=4, write_queue_nums=4, perm=6))
    return desk


def send(topic: str = "orders", queue_id: int = 0, **properties: str) -> SendMessage:
    return SendMessage(
        producer_group="pg",
        topic=topic,
        queue_id=queue_id,
        default_topic="TBW102",
        default_topic_queue_nums=4,
        born_timestamp=1_600_000_000_000,
        properties=properties_text(ONE | properties),
    )


def batch(*items: tuple[str, bytes], queue_id: int = 0) -> tuple[SendMessage, bytes]:
    """As Java's clients send it: the batch has an id of its own."""
    body = encode_batch_body(
        BatchItem(0, body, properties_text({"UNIQ_KEY": key} if key else {}).encode())
        for key, body in items
    )
    properties = properties_text({"UNIQ_KEY": "0A0B0C0D9999"})
    return (
        SendMessage(
            producer_group="pg",
            topic="orders",
            queue_id=queue_id,
            default_topic="TBW102",
            batch=True,
            properties=properties,
        ),
        body,
    )


def asked(desk: Desk, request: SendMessage, body: bytes = b"body", **how: Any) -> Any:
    how.setdefault("code", BATCH if request.batch else V2)
    return header(SendMessage, desk.ask(request, body, **how))


def stored(desk: Desk, topic: str = "orders") -> list[Record]:
    found = []
    for queue_id in range(4):
        pull = PullMessage(
            consumer_group="TOOLS_CONSUMER",
            topic=topic,
            queue_id=queue_id,
            queue_offset=0,
            max_msg_nums=32,
            sys_flag=CARRIES_SUBSCRIPTION,
            subscription="*",
        )
        answer = desk.ask(pull)
        found += decode_records(answer.body) if answer.code == 0 else []
    return found


def counted(desk: Desk) -> tuple[int, int, int]:
    rates = desk.rates
    return rates.put.total, rates.put_duplicates.total, rates.put_refused.total


@pytest.mark.parametrize("code", [10, V2])
def test_a_message_sent_again_is_answered_as_the_first_time(desk, code) -> None:
    first = asked(desk, send(), code=code)
    desk.now_ms += 3000
    for queue_id in (0, 3):  # a client tries another queue
        assert first == asked(desk, send(queue_id=queue_id), code=code)

    assert 1 == len(stored(desk))
    assert (1, 2, 0) == counted(desk)


def test_the_order_of_properties_does_not_matter(desk) -> None:
    first = asked(desk, send())
    again = send()
    again.properties = properties_text(dict(reversed(ONE.items())))
    assert first == asked(desk, again)
    assert 1 == len(stored(desk))


def test_the_answer_names_who_stored_it(desk) -> None:
    first = asked(desk, send())
    desk.sending.store_host = bytes((10, 0, 0, 2)) + desk.sending.store_host[4:]
    other = asked(desk, send(UNIQ_KEY="0A0B0C0D0002"), code=10)
    assert first.msg_id == asked(desk, send()).msg_id
    assert ("0A000001", "0A000002") == (first.msg_id[:8], other.msg_id[:8])


DIFFERENT = {
    "another topic": (send("stock"), b"body"),
    "another body": (send(), b"BODY"),
    "a longer body": (send(), b"body "),
    "another id": (send(UNIQ_KEY="0A0B0C0D0002"), b"body"),
    "another tag": (send(TAGS="b"), b"body"),
    "another property": (send(more="x"), b"body"),
    "another flag": (evolve(send(), flag=1), b"body"),
    "tried more often": (evolve(send(), reconsume_times=1), b"body"),
    "for later": (send(DELAY="1"), b"body"),
    "half": (half_send("orders", 0, **ONE), b"body"),
}


@pytest.mark.parametrize(("request_", "body"), DIFFERENT.values(), ids=DIFFERENT)
@pytest.mark.parametrize("pending", [False, True], ids=["stored", "pending"])
def test_what_differs_is_stored(desk, request_, body, pending) -> None:
    desk.put(send(), b"body", code=V2)
    if not pending:
        desk.turn()
    desk.put(request_, body, code=V2)
    desk.turn()
    desk.turn()
    assert (2, 0, 0) == counted(desk)


NEVER = {
    "no id": lambda: send(UNIQ_KEY=""),
    "one that was consumed and is sent on": lambda: send(MSG_REGION="DefaultRegion"),
    "a topic named in the settings": lambda: send("repeats"),
    "retry topic": lambda: send("%RETRY%shop"),
    "dead letters": lambda: send("%DLQ%shop"),
}


@pytest.mark.parametrize("request_", NEVER.values(), ids=NEVER)
def test_what_is_never_taken_for_a_duplicate(desk, request_) -> None:
    desk.beat("shop", "orders")
    desk.ask(CreateTopic(topic="%DLQ%shop", read_queue_nums=1, write_queue_nums=1, perm=6))
    for _ in range(2):
        asked(desk, request_())
    for _ in range(2):
        desk.put(request_(), b"body", code=V2)
    desk.turn()
    assert (4, 0, 0) == counted(desk)


def test_what_a_consumer_sends_back_hides_nothing(desk) -> None:
    desk.beat("shop", "orders")
    first = asked(desk, send())
    back = SendBack(offset=position_of(first), group="shop", delay_level=0, max_reconsume_times=16)
    for _ in range(2):
        assert 0 == desk.ask(back).code
    assert first == asked(desk, send())
    assert 2 == desk.machine.queues.next_offset("SCHEDULE_TOPIC_XXXX", 2)


def test_it_is_recognised_until_it_is_too_old(desk) -> None:
    first = asked(desk, send())
    place = desk.window.find(next(iter(desk.window._newest)))
    assert place is not None
    desk.window.oldest_position = place[0]
    assert first == asked(desk, send())
    desk.window.oldest_position = place[0] + 1
    later = asked(desk, send())
    assert (0, 1) == (first.queue_offset, later.queue_offset)
    assert later == asked(desk, send())


def test_clocks_make_no_message_old(desk) -> None:
    first = asked(desk, send())
    desk.now_ms += 3_600_000
    assert first == asked(desk, send())


def test_it_is_recognised_among_so_many(tmp_path) -> None:
    desk = opened(Desk(tmp_path, deduplication_messages=5))
    first = asked(desk, send())
    for number in range(5):
        asked(desk, send(UNIQ_KEY=f"{number:012}"))
    assert first == asked(desk, send())
    for number in range(10):
        asked(desk, send(UNIQ_KEY=f"F{number:011}"))
    assert first != asked(desk, send())


def test_it_may_be_switched_off(tmp_path) -> None:
    desk = opened(Desk(tmp_path, deduplication_messages=0))
    assert [0, 1] == [asked(desk, send()).queue_offset for _ in range(2)]


def test_one_way_sends_count_as_well(desk) -> None:
    for _ in range(2):
        assert desk.ask(send(), b"body", code=V2, one_way=True) is None
    first = asked(desk, send())
    assert 0 == first.queue_offset
    assert (1, 2, 0) == counted(desk)


def test_a_member_that_does_not_lead_hands_it_on(desk) -> None:
    asked(desk, send())
    desk.gate.leads = False
    desk.put(send(), b"body", code=V2)
    assert 1 == len(desk.gate.relayed)


def test_while_the_disk_is_nearly_full_nothing_is_asked(desk) -> None:
    asked(desk, send())
    desk.free_bytes = 1
    desk.disk.look()
    assert 0 != desk.ask(send(), b"body", code=V2).code


# --- pending --------------------------------------------------------------------------------------


def answers(desk: Desk, count: int) -> list[Any]:
    return [header(SendMessage, answer) for answer in desk.client.answers[-count:]]


@pytest.mark.parametrize("proposed", [False, True], ids=["gathered", "proposed"])
def test_what_is_sent_again_while_it_is_on_its_way_waits_with_it(desk, proposed) -> None:
    desk.put(send(queue_id=2), b"body", code=V2)
    if proposed:
        desk.batch.propose()
    others = desk.connect()
    desk.put(send(queue_id=1), b"body", code=V2)
    desk.put(send(queue_id=0), b"body", code=V2, by=others)
    assert [] == others.answers
    desk.turn()

    first, second = answers(desk, 2)
    assert first == second == header(SendMessage, others.answers[0])
    assert 2 == first.queue_id
    assert (1, 2, 0) == counted(desk)
    assert 1 == len(stored(desk))


@pytest.mark.parametrize("error", [NotLeader(None), Busy("full"), Indefinite("lost")])
def test_it_fails_as_the_first_one_fails_and_may_be_sent_again(desk, error) -> None:
    for _ in range(2):
        desk.put(send(), b"body", code=V2)
    desk.batch.propose()
    desk.ledger.refuse(error)
    first, second = desk.client.answers[-2:]

    assert 0 != first.code
    assert (first.code, first.remark) == (second.code, second.remark)
    assert {} == desk.batch.pending
    assert 0 == asked(desk, send()).queue_offset
    assert (1, 0, 2) == counted(desk)


def test_it_is_refused_as_the_first_one_is(desk) -> None:
    desk.put(DeleteTopic(topic="orders"))
    for _ in range(2):
        desk.put(send(), b"body", code=V2)
    desk.turn()
    assert [17, 17] == [answer.code for answer in desk.client.answers[-2:]]
    assert (0, 0, 2) == counted(desk)


def test_what_only_looks_alike_goes_its_own_way_while_the_first_is_pending(desk) -> None:
    for tag in ("a", "b", "a"):
        desk.put(send(TAGS=tag), b"body", code=V2)
        desk.batch.propose()
    desk.turn()
    first, third, second = answers(desk, 3)  # those that joined hear it with the first
    assert ([0, 1], first) == ([first.queue_offset, second.queue_offset], third)
    assert {} == desk.batch.pending


def test_nothing_is_kept_of_what_has_settled(desk) -> None:
    for number in range(3):
        desk.put(send(UNIQ_KEY=f"{number:012}"), b"body", code=V2)
        desk.put(send(UNIQ_KEY=f"{number:012}"), b"body", code=V2)
    assert 3 == len(desk.batch.pending)
    desk.turn()
    assert ({}, {}) == (desk.batch.pending, desk.batch._joined)


# --- the log --------------------------------------------------------------------------------------


def test_a_disk_is_waited_for(desk) -> None:
    first = asked(desk, send())
    desk.ledger.cached = False
    assert desk.ask(send(), b"body", code=V2) is None
    desk.threads.run()
    assert first == answers(desk, 1)[0]
    assert (1, 1, 0) == counted(desk)


def test_whoever_differed_after_a_wait_is_stored_once(desk) -> None:
    asked(desk, send(colour="red"))  # unlike, but it takes a look to know
    desk.ledger.cached = False
    for _ in range(2):
        desk.put(send(), b"body", code=V2)
    desk.threads.run()
    desk.turn()
    first, second = answers(desk, 2)
    assert first == second
    assert 1 == first.queue_offset
    assert (2, 1, 0) == counted(desk)


def test_who_leads_no_more_after_a_wait_stores_nothing(desk) -> None:
    asked(desk, send(colour="red"))
    desk.ledger.cached = False
    desk.put(send(), b"body", code=V2)
    desk.gate.leads = False
    desk.threads.run()
    desk.turn()
    assert 14 == desk.client.answers[-1].code
    assert (1, 0, 1) == counted(desk)


def test_what_the_log_has_let_go_of_is_not_recognised(desk, monkeypatch) -> None:
    asked(desk, send())

    def gone(*_arguments: object, **_more: object) -> bytearray:
        raise LookupError

    monkeypatch.setattr(type(desk.ledger), "read_bytes", gone)
    assert 1 == asked(desk, send()).queue_offset


def test_a_topic_that_was_made_again_has_nothing_of_the_one_before(desk) -> None:
    asked(desk, send())
    desk.ask(DeleteTopic(topic="orders"))
    opened(desk)
    asked(desk, send("stock"))
    assert 0 == asked(desk, send()).queue_offset
    assert (3, 0, 0) == counted(desk)


def test_a_false_hit_is_stored(desk, monkeypatch) -> None:
    asked(desk, send("stock"))
    place = desk.window.find(*desk.window._newest)
    monkeypatch.setattr(PutWindow, "find", lambda self, identity: place)
    desk.usual._in_window = lambda identity: True
    assert 0 == asked(desk, send()).queue_offset
    monkeypatch.setattr(duplicates, "records_in", lambda payload, having: [(IDENTITY, 40)])
    monkeypatch.setattr(Duplicates, "identity_of", lambda self, *_message: IDENTITY)
    assert 1 == asked(desk, send()).queue_offset
    assert (3, 0, 0) == counted(desk)


# --- for later, and half --------------------------------------------------------------------------


def test_a_timed_message_sent_again_has_the_same_time_and_handle(desk) -> None:
    first = asked(desk, send(queue_id=3, TIMER_DELAY_SEC="60"))
    desk.now_ms += 2000
    again = asked(desk, send(queue_id=1, TIMER_DELAY_SEC="60"))
    assert first == again
    assert (3, desk.now_ms + 58_000) == (
        again.queue_id,
        decode_handle(again.recall_handle).deliver_ms,
    )
    assert (1, 1, 0) == counted(desk)


def test_a_timed_message_that_was_recalled_and_is_sent_again_is_another_one(desk) -> None:
    timed = send(TIMER_DELAY_SEC="60")
    first = asked(desk, timed)
    desk.ask(RecallMessage(topic="orders", recall_handle=first.recall_handle))
    desk.now_ms += 2000
    again = asked(desk, timed)
    due_ms = [decode_handle(each.recall_handle).deliver_ms for each in (first, again)]
    assert [desk.now_ms + 58_000, desk.now_ms + 60_000] == due_ms
    assert again == asked(desk, timed)
    assert (2, 1, 0) == counted(desk)


def test_a_timed_message_whose_time_has_come_meanwhile_is_recognised(desk) -> None:
    timed = send(TIMER_DELIVER_MS=str(desk.now_ms + 1000))
    first = asked(desk, timed)
    desk.now_ms += 3000
    assert first == asked(desk, timed)
    assert (1, 1, 0) == counted(desk)


def test_a_delayed_message_sent_again_is_recognised(desk) -> None:
    for level in ("3", "99"):  # beyond the last level it is the last
        delayed = send(queue_id=2, DELAY=level, UNIQ_KEY=f"0A0B{level}")
        first = asked(desk, delayed)
        desk.now_ms += 3000
        assert first == asked(desk, delayed)
        assert 2 == first.queue_id
    assert (2, 2, 0) == counted(desk)


def test_a_half_message_sent_again_is_the_same_transaction(desk) -> None:
    half = half_send("orders", 1)
    first = asked(desk, half)
    desk.now_ms += 3000
    again = asked(desk, half_send("orders", 2))
    assert first == again
    assert ("U1", 1, 1) == (again.transaction_id, again.queue_id, len(desk.machine.transactions))

    assert 0 == desk.ask(verdict(again, COMMIT)).code
    assert [1] == [record.queue_id for record in stored(desk)]


def test_a_half_message_that_has_ended_is_another_transaction(desk) -> None:
    first = asked(desk, half_send("orders", 1))
    desk.ask(verdict(first, COMMIT))
    second = asked(desk, half_send("orders", 1))
    assert first.msg_id != second.msg_id
    assert 1 == len(desk.machine.transactions)


def test_a_half_message_on_its_way_counts_once(desk) -> None:
    for _ in range(2):
        desk.put(half_send("orders", 1), b"body", code=V2)
    desk.turn()
    first, second = answers(desk, 2)
    assert first == second
    assert (1, 0) == (len(desk.machine.transactions), desk.halves._beginning)


# --- batches --------------------------------------------------------------------------------------

THREE = (("0A01", b"one"), ("0A02", b"two"), ("0A03", b"three"))


@pytest.mark.parametrize("pending", [False, True], ids=["stored", "pending"])
def test_a_batch_sent_again_is_answered_as_the_first_time(desk, pending) -> None:
    asked(desk, send())
    desk.put(*batch(*THREE), code=BATCH)
    if not pending:
        desk.turn()
    desk.put(*batch(*THREE, queue_id=2), code=BATCH)
    desk.turn()
    first, second = answers(desk, 2)

    assert first == second
    assert (0, 1, 3) == (first.queue_id, first.queue_offset, len(first.msg_id.split(",")))
    assert (4, 3, 0) == counted(desk)


OTHER_BATCHES = {
    "one more": (*THREE, ("0A04", b"four")),
    "another order": (THREE[0], THREE[2], THREE[1]),
    "another body": (*THREE[:2], ("0A03", b"drei")),
    "another first": (("0A00", b"one"), *THREE[1:]),
}


@pytest.mark.parametrize("items", OTHER_BATCHES.values(), ids=OTHER_BATCHES)
@pytest.mark.parametrize("pending", [False, True], ids=["stored", "pending"])
def test_a_batch_that_differs_is_stored(desk, items, pending) -> None:
    desk.put(*batch(*THREE), code=BATCH)
    if not pending:
        desk.turn()
    desk.put(*batch(*items), code=BATCH)
    desk.turn()
    assert (3 + len(items), 0, 0) == counted(desk)


def test_the_first_of_a_batch_sent_again_are_recognised_once_they_are_stored(desk) -> None:
    first = asked(desk, *batch(*THREE))
    again = asked(desk, *batch(*THREE[:2]))
    assert first.msg_id.split(",")[:2] == again.msg_id.split(",")
    assert (3, 2, 0) == counted(desk)


def test_what_stands_next_to_each_other_by_chance_is_no_batch(desk) -> None:
    for key, body in THREE:
        desk.put(*batch((key, body), queue_id=int(key[-1]) % 2), code=BATCH)
    desk.turn()
    asked(desk, *batch(*THREE))
    assert (6, 0, 0) == counted(desk)


def test_messages_of_a_batch_sent_one_by_one_are_recognised(desk) -> None:
    first = asked(desk, *batch(*THREE))
    assert desk.window._unread is None, "what is in it was known before"
    again = send()
    again.properties = properties_text({"UNIQ_KEY": "0A02"})
    reply = asked(desk, again, b"two")
    assert (1, first.msg_id.split(",")[1]) == (reply.queue_offset, reply.msg_id)
    assert (3, 1, 0) == counted(desk)


def test_a_batch_without_ids_is_stored_each_time(desk) -> None:
    for _ in range(2):
        asked(desk, *batch(("", b"one"), ("", b"two")))
    assert (4, 0, 0) == counted(desk)
