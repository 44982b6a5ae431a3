"""The quick way of sends: whatever it takes comes out as `Sending` alone would have it."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.serving.leadership import BORN_HOST
from dledger_py.ledger.errors import Busy, Indefinite, NotLeader
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic, DeleteTopic
from dledger_py.remoting.rooms import Routes
from dledger_py.remoting.wire.frame import Frame, Framer, encode_request
from dledger_py.remoting.wire.properties import encode as properties_text
from dledger_py.remoting.wire.schema import encode
from tests.broker.rooms_kit import Desk, header

V2 = 310
OPAQUE = 1_000_000
PROPERTIES = properties_text({"UNIQ_KEY": "0A0B0C", "TAGS": "TagA", "KEYS": "k1 k2"})


class Pair:
    """Two brokers that are told the same: one with the quick way, one without."""

    def __init__(self, folder: Path, recognised: int = 0) -> None:
        self.quick, self.plain = (
            Desk(folder / name, deduplication_messages=recognised) for name in ("quick", "plain")
        )
        self.plain.routes = Routes(self.plain.routes.by_code)
        self.taken = 0
        take = self.quick.usual.take

        def counted(connection, frame) -> bool:
            took = take(connection, frame)
            self.taken += took
            return took

        self.quick.routes = Routes(self.quick.routes.by_code, {V2: counted})

    def both(self, tell: Callable[[Desk], object]) -> None:
        tell(self.quick)
        tell(self.plain)

    def send(self, fields: dict[str, str], body: bytes = b"body", **how) -> Frame | None:
        """Ask both; what they answer, and what is in their logs, must be the same."""
        answers = [ask_raw(desk, fields, body, **how) for desk in (self.quick, self.plain)]
        assert answers[0] == answers[1]
        assert self.quick.ledger.data == self.plain.ledger.data
        assert totals(self.quick) == totals(self.plain)
        assert self.quick.client.settled_bytes == self.plain.client.settled_bytes
        return answers[0]


def ask_raw(desk: Desk, fields: dict[str, str], body: bytes, *, one_way: bool = False):
    connection = desk.client
    data = encode_request(V2, OPAQUE, fields, body, one_way=one_way)
    before = connection.settled
    assert desk.routes.answer(connection, Framer().feed(data)[0]) is None
    desk.turn()
    assert connection.settled == before + 1
    mine = [answer for answer in connection.answers if answer.opaque == OPAQUE]
    connection.answers.clear()
    return mine[0] if mine else None


def totals(desk: Desk) -> tuple[object, ...]:
    rates = desk.rates
    topics = {name: meter.total for name, meter in rates.put_by_topic.items()}
    return rates.put.total, rates.put_bytes.total, rates.put_refused.total, topics


def usual(**changed: object) -> dict[str, str]:
    """The fields of a send as the Apache clients write them."""
    request = SendMessage(
        producer_group="pg",
        topic="orders",
        queue_id=1,
        default_topic="TBW102",
        born_timestamp=1_700_000_000_000,
        properties=PROPERTIES,
    )
    for name, value in changed.items():
        setattr(request, name, value)
    return encode(request, V2)


@pytest.fixture
def pair(tmp_path) -> Pair:
    return opened(Pair(tmp_path))


def opened(pair: Pair) -> Pair:
    topic = CreateTopic(topic="orders", read_queue_nums=4, write_queue_nums=4, perm=6)
    pair.both(lambda desk: desk.ask(topic))
    return pair


def test_the_usual_send_is_taken_and_comes_out_the_same(pair) -> None:
    for body in (b"", b"x", bytes(100_000)):
        reply = header(SendMessage, pair.send(usual(), body))
        assert "0A0B0C" == reply.transaction_id
    assert 3 == pair.taken
    assert (3, 100_001) == (pair.quick.rates.put.total, pair.quick.rates.put_bytes.total)


USUAL = {
    "no tag": {"i": "UNIQ_KEY\x01U1\x02"},
    "properties without their last separator": {"i": "TAGS\x01a\x02UNIQ_KEY\x01U1"},
    "unique id in the middle": {"i": "A\x01b\x02UNIQ_KEY\x01U1\x02KEYS\x01k\x02"},
    "two unique ids, the last wins": {"i": "UNIQ_KEY\x01U1\x02UNIQ_KEY\x01U2\x02"},
    "compressed": {"f": "1"},
    "flag": {"h": "9"},
    "sent again by its consumer": {"j": "3", "l": "16"},
    "time in other digits": {"g": "\u0661\u0662"},
    "text that is not ASCII": {"i": "UNIQ_KEY\x01U1\x02k\x01äß€𝄞\x02"},
}

UNUSUAL = {
    "another topic": {"b": "unknown"},
    "retry topic": {"b": "%RETRY%shop"},
    "reserved topic": {"b": "SCHEDULE_TOPIC_XXXX"},
    "queue behind the last": {"e": "4"},
    "queue that is no number": {"e": "first"},
    "half message": {"f": "4"},
    "hosts of version 6, it says": {"f": "48"},
    "time that is no number": {"g": "noon"},
    "time before 1970": {"g": "-5"},
    "time beyond 64 bits": {"g": "9" * 30},
    "flag below zero": {"h": "-3"},
    "batch": {"m": "true"},
    "batch in capitals": {"m": "TRUE"},
    "queues that are no number": {"d": "x"},
    "retries that are no number": {"l": "x"},
    "consumed that often is no number": {"j": "x"},
    "no properties": {"i": ""},
    "empty unique id": {"i": "UNIQ_KEY\x01U1\x02UNIQ_KEY\x01\x02"},
    "unique id to be escaped": {"i": 'UNIQ_KEY\x01a"b\x02'},
    "unique id that is not ASCII": {"i": "UNIQ_KEY\x01ä\x02"},
    "a key that ends like the unique id": {"i": "UNIQ_KEY\x01U1\x02XUNIQ_KEY\x01U2\x02"},
    "a value like the unique id": {"i": "UNIQ_KEY\x01U1\x02k\x01UNIQ_KEY\x01U2\x02"},
    "empty tag": {"i": "UNIQ_KEY\x01U1\x02TAGS\x01\x02"},
    "a key that ends like the tag": {"i": "UNIQ_KEY\x01U1\x02TAGS\x01a\x02MYTAGS\x01b\x02"},
    "delayed": {"i": "UNIQ_KEY\x01U1\x02DELAY\x013\x02"},
    "timed": {"i": "UNIQ_KEY\x01U1\x02TIMER_DELAY_SEC\x013\x02"},
    "half message by property": {"i": "UNIQ_KEY\x01U1\x02TRAN_MSG\x01true\x02"},
    "from another region": {"i": "UNIQ_KEY\x01U1\x02MSG_REGION\x01far\x02"},
    "popped before": {"i": "UNIQ_KEY\x01U1\x02POP_CK\x01receipt\x02"},
    "properties too long": {"i": "UNIQ_KEY\x01U1\x02k\x01" + "v" * 32_700 + "\x02"},
    "forwarded": {BORN_HOST: "10.0.0.7:4444"},
}


@pytest.mark.parametrize("changed", USUAL.values(), ids=USUAL)
def test_taken(pair, changed) -> None:
    pair.send(usual() | changed)
    assert 1 == pair.taken


@pytest.mark.parametrize("changed", UNUSUAL.values(), ids=UNUSUAL)
def test_left_to_others(pair, changed) -> None:
    pair.send(usual() | changed)
    assert 0 == pair.taken


@pytest.mark.parametrize("missing", "abe")
def test_a_field_that_must_be_there_is_missed_as_before(pair, missing) -> None:
    fields = usual()
    del fields[missing]
    answer = pair.send(fields)
    assert 1 == answer.code
    assert "missing" in answer.remark
    assert 0 == pair.taken


def test_what_a_consumer_sends_back_is_judged_by_its_retries_as_before(pair) -> None:
    pair.both(lambda desk: desk.beat("shop", "orders"))
    retry = usual(topic="%RETRY%shop", queue_id=0, reconsume_times=17)
    pair.send(retry)
    assert 0 == pair.taken
    assert "%DLQ%shop" in pair.plain.machine.topics


def test_the_broker_chooses_a_queue_as_before(pair) -> None:
    topic = CreateTopic(topic="one", read_queue_nums=1, write_queue_nums=1, perm=6)
    pair.both(lambda desk: desk.ask(topic))
    assert "0" == pair.send(usual(topic="one", queue_id=-1)).fields["queueId"]
    assert 0 == pair.taken


def test_one_way_sends_are_left_to_others(pair) -> None:
    assert pair.send(usual(), one_way=True) is None
    assert (0, 1) == (pair.taken, pair.quick.rates.put.total)


def test_a_member_that_does_not_lead_or_has_no_space_takes_nothing(pair) -> None:
    pair.quick.gate.leads = False
    data = encode_request(V2, OPAQUE, usual(), b"body")
    pair.quick.routes.answer(pair.quick.client, Framer().feed(data)[0])
    assert 1 == len(pair.quick.gate.relayed)

    pair.quick.gate.leads = True
    for desk in (pair.quick, pair.plain):
        desk.free_bytes = 1
        desk.disk.look()
    pair.send(usual())
    assert 0 == pair.taken


def test_the_size_limit_is_the_same(tmp_path) -> None:
    pair = Pair(tmp_path)
    for desk in (pair.quick, pair.plain):
        desk.sending.max_message_bytes = 10
        desk.ask(CreateTopic(topic="orders", read_queue_nums=4, write_queue_nums=4, perm=6))
    pair.send(usual(), bytes(10))
    assert 1 == pair.taken
    pair.send(usual(), bytes(11))
    assert 1 == pair.taken


@pytest.mark.parametrize(
    "changed",
    [
        {"perm": 4},
        {"write_queue_nums": 1, "read_queue_nums": 1},
        {"topic_filter_type": "MULTI_TAG"},
    ],
    ids=["read only", "fewer queues", "tags of several"],
)
def test_a_topic_that_changed_is_looked_at_again(pair, changed) -> None:
    pair.send(usual())
    topic = CreateTopic(topic="orders", read_queue_nums=4, write_queue_nums=4, perm=6)
    pair.both(lambda desk: desk.ask(evolve(topic, **changed)))
    pair.send(usual())
    assert 1 == pair.taken


def test_messages_of_a_topic_that_was_deleted_meanwhile_are_refused_alike(pair) -> None:
    def tell(desk: Desk) -> None:
        desk.put(DeleteTopic(topic="orders"))
        data = encode_request(V2, 70, usual(), b"late")
        desk.routes.answer(desk.client, Framer().feed(data)[0])
        desk.turn()

    pair.both(tell)
    answers = [
        [answer for answer in desk.client.answers if answer.opaque == 70]
        for desk in (pair.quick, pair.plain)
    ]
    assert answers[0] == answers[1]
    assert 17 == answers[0][0].code
    assert 1 == pair.taken
    assert totals(pair.quick) == totals(pair.plain)


@pytest.mark.parametrize("error", [NotLeader(None), Busy("full"), Indefinite("lost")])
def test_what_the_ledger_refuses_is_told_alike(pair, error) -> None:
    for desk in (pair.quick, pair.plain):
        for opaque in (1, 2):
            data = encode_request(V2, opaque, usual(), b"body")
            desk.routes.answer(desk.client, Framer().feed(data)[0])
        desk.batch.propose()
        desk.ledger.refuse(error)
    assert pair.quick.client.answers[-2:] == pair.plain.client.answers[-2:]
    assert 2 == pair.taken
    assert totals(pair.quick) == totals(pair.plain)


def test_each_connection_gets_the_answers_to_its_own(pair) -> None:
    desk = pair.quick
    clients = [desk.connect() for _ in range(3)]
    for opaque, number in enumerate((0, 0, 1, 2, 0, 2), 1):
        data = encode_request(V2, opaque, usual(), b"body")
        desk.routes.answer(clients[number], Framer().feed(data)[0])
    clients[1].close()
    desk.turn()
    assert [[1, 2, 5], [], [4, 6]] == [[a.opaque for a in c.answers] for c in clients]
    assert [3 * len(data), 0, 2 * len(data)] == [client.settled_bytes for client in clients]
    assert 6 == pair.taken


WORDS = st.sampled_from(
    ["UNIQ_KEY", "TAGS", "KEYS", "WAIT", "true", "U1", "", "a", "ä", "\x01", "\x02", "DELAY", "0"]
)
TEXTS = st.lists(WORDS | st.sampled_from(["\x01", "\x02"]), max_size=14).map("".join)


@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=TEXTS, queue=st.sampled_from(["0", "3", "00", "+1", " 2"]), flags=st.integers(-1, 9))
def test_whatever_the_properties_say_both_ways_agree(pair, text, queue, flags) -> None:
    pair.send(usual() | {"i": text, "e": queue, "h": str(flags)})
    pair.send(usual() | {"i": text + "\x02UNIQ_KEY\x01U9\x02"})


@settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts=st.lists(TEXTS.map("{}\x02UNIQ_KEY\x01U9\x02".format) | TEXTS, max_size=4))
def test_both_ways_recognise_what_was_sent_before(tmp_path, texts) -> None:
    with TemporaryDirectory(dir=tmp_path) as folder:
        pair = opened(Pair(Path(folder), 1000))
        for text in (*texts, *reversed(texts)):
            pair.send(usual() | {"i": text})
        rates = [desk.rates for desk in (pair.quick, pair.plain)]
    assert rates[0].put_duplicates.total == rates[1].put_duplicates.total


def test_what_is_sent_again_is_left_to_others(tmp_path) -> None:
    pair = opened(Pair(tmp_path, 1000))
    first = pair.send(usual())
    assert first == pair.send(usual())
    assert (1, 1, 1) == (
        pair.taken,
        pair.quick.rates.put.total,
        pair.quick.rates.put_duplicates.total,
    )
