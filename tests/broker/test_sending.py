"""Sends, asked of the room itself."""

import pytest

from broker.errors import NoLeader
from broker.machine.locks import LEASE_MS
from broker.rooms.sending import BATCH_MESSAGES_MAX
from broker.serving.put_batch import ENTRIES_AHEAD
from dledger_py.ledger.errors import Busy, Indefinite, NotLeader
from dledger_py.remoting.commands.pulling import CARRIES_SUBSCRIPTION, PullMessage
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from dledger_py.remoting.wire.message import (
    MULTI_TAGS,
    BatchItem,
    decode_records,
    encode_batch_body,
    parse_offset_message_id,
    tags_code,
)
from dledger_py.remoting.wire.properties import decode as properties_of
from dledger_py.remoting.wire.properties import encode as properties_text
from tests.broker.rooms_kit import Desk, header

V2, BATCH = 310, 320


@pytest.fixture
def desk(tmp_path) -> Desk:
    desk = Desk(tmp_path)
    desk.ask(topic("orders"))
    return desk


def topic(name: str, read: int = 4, write: int = 4, **settings) -> CreateTopic:
    return CreateTopic(
        topic=name, read_queue_nums=read, write_queue_nums=write, **({"perm": 6} | settings)
    )


def send(name: str = "orders", queue_id: int = 0, **fields) -> SendMessage:
    given = {"producer_group": "pg", "default_topic": "TBW102", "default_topic_queue_nums": 4}
    return SendMessage(topic=name, queue_id=queue_id, **(given | fields))


def stored(desk: Desk, name: str = "orders", queue_id: int = 0) -> list:
    pull = PullMessage(
        consumer_group="TOOLS_CONSUMER",
        topic=name,
        queue_id=queue_id,
        queue_offset=0,
        max_msg_nums=32,
        sys_flag=CARRIES_SUBSCRIPTION,
        subscription="*",
    )
    answer = desk.ask(pull)
    return decode_records(answer.body) if answer.code == 0 else []


@pytest.mark.parametrize("code", [10, V2])
def test_a_message_is_stored_and_answered_with_its_place(desk, code) -> None:
    text = properties_text({"UNIQ_KEY": "U1", "TAGS": "TagA"})
    request = send(queue_id=2, properties=text, flag=9, born_timestamp=1_600_000_000_000)
    reply = header(SendMessage, desk.ask(request, b"hello", code=code))
    (record,) = stored(desk, queue_id=2)

    assert (2, 0, "U1") == (reply.queue_id, reply.queue_offset, reply.transaction_id)
    assert ("10.0.0.1", 10911, record.physical_offset) == parse_offset_message_id(reply.msg_id)
    assert (b"hello", 9, 0, 2) == (
        record.body,
        record.flag,
        record.queue_offset,
        record.queue_id,
    )
    assert (1_600_000_000_000, desk.now_ms) == (
        record.born_timestamp_ms,
        record.store_timestamp_ms,
    )
    assert {
        "UNIQ_KEY": "U1",
        "TAGS": "TagA",
        "MSG_REGION": "DefaultRegion",
        "TRACE_ON": "true",
        "CLUSTER": "DefaultCluster",
    } == properties_of(record.properties)


def test_a_missing_unique_key_is_made_by_the_broker(desk) -> None:
    reply = header(SendMessage, desk.ask(send(), b"x"))
    (record,) = stored(desk)

    assert reply.transaction_id == properties_of(record.properties)["UNIQ_KEY"] == "0A000001FFFF"


def test_what_a_message_carries_of_its_earlier_life_is_not_repeated(desk) -> None:
    earlier = {"MSG_REGION": "far", "TRACE_ON": "false", "CLUSTER": "other", "POP_CK": "receipt"}
    text = properties_text({"UNIQ_KEY": "U", "odd": "a"} | earlier) + "more\x01a\x01b"
    desk.ask(send(properties=text), b"x")
    (record,) = stored(desk)

    assert 1 == record.properties.count("MSG_REGION") == record.properties.count("CLUSTER")
    assert "POP_CK" not in record.properties
    assert "a\x01b" == properties_of(record.properties)["more"]
    assert "DefaultRegion" == properties_of(record.properties)["MSG_REGION"]


REFUSED = {
    "topic that may not be sent to": (send("SCHEDULE_TOPIC_XXXX"), b"x", 16, "forbidden"),
    "topic nobody created yet that may not": (send("TRANS_CHECK_MAX_TIME_TOPIC"), b"x", 16, ""),
    "unknown topic, unknown template": (send("new", default_topic="none"), b"x", 17, "new"),
    "unknown topic, template without X": (send("new", default_topic="orders"), b"x", 17, "new"),
    "illegal topic": (send("a.b"), b"x", 29, "a.b"),
    "topic of 128 bytes": (send("t" * 128), b"x", 29, "127"),
    "queue behind the last": (send(queue_id=4), b"x", 29, "queueId[4]"),
    "body too large": (send(), bytes(4 * 1024 * 1024 + 1), 13, "4194304"),
    "properties too long": (
        send(properties=properties_text({"k": "v" * 32_760})),
        b"x",
        13,
        "32767",
    ),
    "prepared transaction": (send(sys_flag=4), b"x", 13, "TRAN_MSG"),
    "half message of nobody": (
        send(properties=properties_text({"TRAN_MSG": "true"})),
        b"x",
        13,
        "PGROUP",
    ),
    "half message with a time that is none": (
        send(
            properties=properties_text(
                {"TRAN_MSG": "true", "PGROUP": "pg", "TIMER_DELAY_MS": "soon"}
            )
        ),
        b"x",
        13,
        "TIMER_DELAY_MS",
    ),
    "batch of half messages by sysFlag": (
        send(batch=True, sys_flag=4),
        encode_batch_body([BatchItem(0, b"b", b"")]),
        13,
        "batch cannot hold transactional",
    ),
    "batch of half messages": (
        send(batch=True),
        encode_batch_body([BatchItem(0, b"b", b"TRAN_MSG\x01true\x02")]),
        13,
        "batch cannot hold transactional",
    ),
    "batch that is no batch": (send(batch=True), b"rubbish", 13, "batch"),
    "empty batch": (send(batch=True), b"", 13, "no message"),
    "batch cut in a property": (
        send(batch=True),
        encode_batch_body([BatchItem(0, b"b", b"k\x01\xff\x02")]),
        13,
        "batch",
    ),
    "batch with a delay": (
        send(batch=True),
        encode_batch_body([BatchItem(0, b"b", b"DELAY\x013\x02")]),
        13,
        "for later",
    ),
    "batch to a retry topic": (
        send("%RETRY%shop", batch=True),
        encode_batch_body([BatchItem(0, b"b", b"")]),
        13,
        "retry",
    ),
    "retry topic of an illegal group": (send("%RETRY%" + "g" * 121), b"x", 29, "120"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_send_is_refused_and_leaves_nothing(desk, case) -> None:
    request, body, code, remark = REFUSED[case]
    topics, entries = set(desk.machine.topics.names()), desk.ledger.entries
    answer = desk.ask(request, body)

    assert code == answer.code
    assert remark in answer.remark
    assert topics == set(desk.machine.topics.names())
    assert entries == desk.ledger.entries


HARMLESS = ({"DELAY": "0"}, {"DELAY": "-1"}, {"TRAN_MSG": "false"}, {"WAIT": "false"})


@pytest.mark.parametrize("properties", HARMLESS, ids=str)
def test_what_asks_for_nothing_special_is_stored(desk, properties) -> None:
    assert 0 == desk.ask(send(properties=properties_text(properties)), b"x").code


def test_a_batch_becomes_records_with_consecutive_offsets_and_their_own_properties(desk) -> None:
    items = [
        BatchItem(number, b"m%d" % number, b"KEYS\x01k%d\x02TAGS\x01T\x02" % number)
        for number in range(3)
    ]
    desk.ask(send(), b"before")
    answer = desk.ask(
        send(properties=properties_text({"UNIQ_KEY": "whole"})),
        encode_batch_body(items),
        code=BATCH,
    )
    reply = header(SendMessage, answer)
    records = stored(desk)[1:]

    assert (1, "whole") == (reply.queue_offset, reply.transaction_id)
    assert reply.msg_id == ",".join(record.offset_message_id for record in records)
    assert [1, 2, 3] == [record.queue_offset for record in records]
    assert [(i.flag, i.body, i.properties.decode()) for i in items] == [
        (record.flag, record.body, record.properties) for record in records
    ]


def test_a_batch_of_very_many_tiny_messages_is_refused_before_it_stalls_everybody(desk) -> None:
    item = BatchItem(0, b"", b"")
    many = encode_batch_body([item]) * (BATCH_MESSAGES_MAX + 1)
    fat = encode_batch_body([BatchItem(0, bytes(1000), b"")]) * 4_000

    assert 13 == desk.ask(send(batch=True), many).code
    assert 0 == desk.ask(send(batch=True), fat).code
    assert 4_000 == desk.machine.queues.next_offset("orders", 0)

    grown = Desk(desk.folder / "grown", max_message_bytes=7 * 1024 * 1024)
    grown.ask(topic("t" * 127))
    fat = encode_batch_body([BatchItem(0, bytes(450), b"")]) * 14_000
    answer = grown.ask(send("t" * 127, batch=True), fat)

    assert (13, 0) == (answer.code, grown.machine.queues.next_offset("t" * 127, 0))


def test_a_negative_queue_is_chosen_among_the_writable_ones(desk) -> None:
    desk.ask(topic("wide", read=8, write=2))
    chosen = {header(SendMessage, desk.ask(send("wide", -1), b"x")).queue_id for _ in range(64)}

    assert {0, 1} == chosen
    assert 0 == desk.ask(send("wide", 7), b"x").code  # being drained: still there
    assert 29 == desk.ask(send("wide", 8), b"x").code


def test_a_topic_without_write_queues_takes_no_message_of_free_choice(desk) -> None:
    desk.ask(topic("drained", read=4, write=0))

    assert 16 == desk.ask(send("drained", -1), b"x").code


def test_a_topic_that_may_not_be_written_says_so(desk) -> None:
    desk.ask(topic("orders", perm=4))

    assert 16 == desk.ask(send(), b"x").code


@pytest.mark.parametrize("asked, given", [(4, 4), (100, 8), (0, 1), (-3, 1)])
def test_an_unknown_topic_is_made_from_the_template(desk, asked, given) -> None:
    answer = desk.ask(send("new", default_topic_queue_nums=asked), b"x")
    made = desk.machine.topics.get("new")

    assert 0 == answer.code
    assert (given, given, 6) == (made.read_queues, made.write_queues, made.perm)


def test_a_burst_of_first_messages_creates_the_topic_once_and_shares_an_entry(desk) -> None:
    before = desk.ledger.entries
    for number in range(10):
        desk.put(send("new"), b"%d" % number)
    desk.turn()

    assert 2 == desk.ledger.entries - before
    assert [b"%d" % number for number in range(10)] == [r.body for r in stored(desk, "new")]


def test_creating_topics_on_use_can_be_switched_off(tmp_path) -> None:
    desk = Desk(tmp_path, auto_create=False)

    assert 17 == desk.ask(send("new"), b"x").code


def test_a_topic_deleted_under_way_takes_no_message(desk) -> None:
    desk.put(send(), b"x")
    desk.put(DeleteTopic(topic="orders"))
    desk.put(send(), b"y")
    desk.turn()
    codes = [answer.code for answer in desk.client.answers[-3:]]

    assert [0, 0, 17] == codes


def test_multi_tag_topics_mark_their_records_and_clients_cannot(desk) -> None:
    desk.ask(topic("multi", topic_filter_type="MULTI_TAG"))
    desk.ask(send("multi"), b"x")
    desk.ask(send(sys_flag=MULTI_TAGS), b"x")

    assert [MULTI_TAGS] == [record.sys_flag for record in stored(desk, "multi")]
    assert [0] == [record.sys_flag for record in stored(desk)]


# --- consumers that send back by themselves ---


@pytest.mark.parametrize(
    "times, header_max, version, ends_in",
    [
        (1, None, 479, "%RETRY%shop"),
        (16, None, 479, "%RETRY%shop"),
        (17, None, 479, "%DLQ%shop"),
        (3, 2, 479, "%DLQ%shop"),
        (17, 20, 479, "%RETRY%shop"),
        (3, 2, 120, "%RETRY%shop"),  # so old a client does not mean it
    ],
)
def test_a_message_sent_back_too_often_is_a_dead_letter(
    desk, times, header_max, version, ends_in
) -> None:
    request = send("%RETRY%shop", reconsume_times=times, max_reconsume_times=header_max)
    answer = desk.ask(request, b"x", version=version)

    assert 0 == answer.code
    assert [(b"x", times)] == [(r.body, r.reconsume_times) for r in stored(desk, ends_in)]
    assert "shop" in desk.machine.groups


def test_what_a_group_that_consumes_in_order_sends_back_is_a_dead_letter(desk) -> None:
    desk.ask(send("%RETRY%shop", reconsume_times=1), b"before")
    desk.machine.locks.take("shop", "one", [("orders", 0)], desk.now_ms)
    desk.ask(send("%RETRY%shop", reconsume_times=1), b"owned")
    desk.now_ms += LEASE_MS + 1
    desk.ask(send("%RETRY%shop", reconsume_times=1), b"long after")

    assert [b"owned"] == [record.body for record in stored(desk, "%DLQ%shop")]
    assert [b"before", b"long after"] == [record.body for record in stored(desk, "%RETRY%shop")]


# --- outcomes ---


@pytest.mark.parametrize(
    "error, code",
    [(NotLeader(None), 14), (Busy("full"), 14), (Indefinite("lost"), 1)],
    ids=["refused", "busy", "indefinite"],
)
def test_the_outcome_of_the_entry_is_the_outcome_of_every_send_in_it(desk, error, code) -> None:
    for _ in range(3):
        desk.put(send(), b"x")
    desk.batch.propose()
    desk.ledger.refuse(error)

    assert [code] * 3 == [answer.code for answer in desk.client.answers[-3:]]
    assert ("may have" in desk.client.answers[-1].remark) == (code == 1)


def test_while_enough_entries_are_under_way_sends_gather_into_the_next(desk) -> None:
    for _ in range(ENTRIES_AHEAD + 3):
        desk.put(send(), b"x")
        desk.batch.turn_ended()
    under_way = len(desk.ledger.proposed)
    payload, settle = desk.ledger.proposed.pop(0)
    settle(desk.ledger.apply(payload))
    desk.batch.turn_ended()

    assert (ENTRIES_AHEAD, ENTRIES_AHEAD) == (under_way, len(desk.ledger.proposed))
    desk.turn()
    assert ENTRIES_AHEAD + 3 == desk.machine.queues.next_offset("orders", 0)


def test_one_way_sends_are_stored_and_never_answered(desk) -> None:
    answered, settled = len(desk.client.answers), desk.client.settled
    desk.ask(send(), b"x", one_way=True)
    desk.ask(send("a.b"), b"x", one_way=True)

    assert [b"x"] == [record.body for record in stored(desk)]
    assert answered == len(desk.client.answers) - 1  # the pull's
    assert settled + 3 == desk.client.settled


def test_a_follower_hands_sends_on_unread(desk) -> None:
    desk.gate.leads = False
    desk.ask(send("a.b"), b"x")

    assert ["a.b"] == [frame.fields["topic"] for frame in desk.gate.relayed]


@pytest.mark.parametrize("host", ["10.1.2.3:4711", "::1:4711"])
def test_a_forwarded_send_names_the_client_it_came_from(desk, host) -> None:
    desk.ask(send(), b"x", fields={"__bornHost": host})
    (record,) = stored(desk)

    assert 4711 == int.from_bytes(record.born_host[-4:], "big")


@pytest.mark.parametrize(
    "host", ["nonsense", "10.1.2.3:-1", "example.org:1", "1.2.3.4:65536", "1.2.3.4:99999999999"]
)
def test_a_born_host_that_is_none_is_refused(desk, host) -> None:
    assert 29 == desk.ask(send(), b"x", fields={"__bornHost": host}).code


def test_the_tag_is_indexed_by_javas_hash(desk) -> None:
    desk.ask(send(properties=properties_text({"TAGS": "TagA"})), b"x")
    unit = desk.queues.range("orders", 0, 0, 1)

    assert tags_code("TagA") == int.from_bytes(unit[12:], "big", signed=True)


def test_no_leader_is_a_code_every_client_tries_again() -> None:
    assert 14 == NoLeader().code
