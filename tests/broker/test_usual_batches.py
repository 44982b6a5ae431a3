"""The quick way of batches: what it takes comes out as `Sending` would have it one by one."""

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.rooms import sending
from broker.rooms.usual_batches import usual_batch
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.topics import CreateTopic
from dledger_py.remoting.wire.frame import Framer, encode_request
from dledger_py.remoting.wire.message import BatchItem, encode_batch_body
from dledger_py.remoting.wire.schema import encode
from tests.broker.rooms_kit import Desk

BATCH = 320
USUAL = BatchItem(3, b"body", b"UNIQ_KEY\x01U1\x02TAGS\x01TagA\x02")


class Pair:
    """Two brokers that are told the same: one with the quick way, one without."""

    def __init__(self, folder, monkeypatch) -> None:
        self.monkeypatch = monkeypatch
        self.quick, self.plain = Desk(folder / "quick"), Desk(folder / "plain")
        self.taken = 0
        for desk in (self.quick, self.plain):
            for name, kind in (("orders", "SINGLE_TAG"), ("several", "MULTI_TAG")):
                desk.ask(
                    CreateTopic(
                        topic=name,
                        read_queue_nums=4,
                        write_queue_nums=4,
                        perm=6,
                        topic_filter_type=kind,
                    )
                )

    def _counted(self, *what):
        messages = usual_batch(*what)
        self.taken += messages is not None
        return messages

    def send(self, body: bytes, **fields):
        """Ask both; what they answer, and what is in their logs, must be the same."""
        answers = []
        for desk, way in ((self.quick, self._counted), (self.plain, lambda *_: None)):
            self.monkeypatch.setattr(sending, "usual_batch", way)
            answers.append(ask(desk, body, **fields))
        assert answers[0] == answers[1]
        assert self.quick.ledger.data == self.plain.ledger.data
        assert self.quick.rates.put.total == self.plain.rates.put.total
        return answers[0]


def ask(desk, body, **fields):
    request = SendMessage(
        **{
            "producer_group": "pg",
            "topic": "orders",
            "queue_id": 1,
            "born_timestamp": 1_700_000_000_000,
            "batch": True,
            "properties": "UNIQ_KEY\x01B1\x02",
            **fields,
        }
    )
    frame = Framer().feed(encode_request(BATCH, 70, encode(request, BATCH), body))[0]
    desk.client.answers.clear()
    desk.routes.answer(desk.client, frame)
    desk.turn()
    (answer,) = desk.client.answers
    return answer


@pytest.fixture
def pair(tmp_path, monkeypatch) -> Pair:
    return Pair(tmp_path, monkeypatch)


TAKEN = {
    "one": [USUAL],
    "several": [USUAL, BatchItem(0, b"", b""), BatchItem(-1, bytes(70_000), b"k\x01v\x02")],
    "tag without an end": [BatchItem(0, b"b", b"TAGS\x01t")],
    "two tags, the last wins": [BatchItem(0, b"b", b"TAGS\x01a\x02TAGS\x01b\x02")],
    "tag behind another": [BatchItem(0, b"b", b"k\x01v\x02TAGS\x01a\x02k2\x01v\x02")],
}

LEFT = {
    "delayed": [USUAL, BatchItem(0, b"b", b"DELAY\x013\x02")],
    "timed": [BatchItem(0, b"b", b"TIMER_DELAY_MS\x013\x02")],
    "timed by its hour": [BatchItem(0, b"b", b"TIMER_DELIVER_MS\x013\x02")],
    "half": [BatchItem(0, b"b", b"TRAN_MSG\x01true\x02")],
    "not half": [BatchItem(0, b"b", b"TRAN_MSG\x01false\x02")],
    "not ASCII": [BatchItem(0, b"b", "k\x01ä\x02".encode())],
    "not UTF-8": [BatchItem(0, b"b", b"k\x01\xff\x02")],
    "empty tag": [BatchItem(0, b"b", b"TAGS\x01\x02")],
    "a key that ends like the tag": [BatchItem(0, b"b", b"TAGS\x01a\x02MYTAGS\x01b\x02")],
    "none": [],
    "properties too long": [BatchItem(0, b"b", b"k\x01" + b"v" * 33_000 + b"\x02")],
}


@pytest.mark.parametrize("items", TAKEN.values(), ids=TAKEN)
def test_taken(pair, items) -> None:
    assert 0 == pair.send(encode_batch_body(items)).code
    assert 1 == pair.taken


@pytest.mark.parametrize("items", LEFT.values(), ids=LEFT)
def test_left_to_others(pair, items) -> None:
    pair.send(encode_batch_body(items))
    assert 0 == pair.taken


def test_what_cannot_be_read_is_refused_as_before(pair) -> None:
    whole = encode_batch_body([USUAL, USUAL])
    sizes = [struct.pack(">i", size) for size in (-1, 0, 21, 22, 10_000)]
    body_sizes = [struct.pack(">i", size) for size in (-1, 3, 5, 10_000)]
    bodies = [whole[:at] for at in range(1, len(whole)) if at != len(whole) // 2]
    bodies += [size + whole[4:] for size in sizes]
    bodies += [whole[:16] + size + whole[20:] for size in body_sizes]
    for body in bodies:
        assert 13 == pair.send(body).code
    assert 0 == pair.taken


def test_the_limits_are_the_same(pair, monkeypatch) -> None:
    monkeypatch.setattr(sending, "BATCH_MESSAGES_MAX", 2)
    assert 0 == pair.send(encode_batch_body([USUAL] * 2)).code
    assert 13 == pair.send(encode_batch_body([USUAL] * 3)).code
    one = len(encode_batch_body([USUAL])) - 20 + 88 + 7
    monkeypatch.setattr(sending, "BATCH_RECORDS_BYTES_MAX", 2 * one)
    assert 0 == pair.send(encode_batch_body([USUAL] * 2)).code
    monkeypatch.setattr(sending, "BATCH_RECORDS_BYTES_MAX", 2 * one - 1)
    assert 13 == pair.send(encode_batch_body([USUAL] * 2)).code
    assert 2 == pair.taken


def test_topics_and_hosts_of_another_kind_are_left(pair, monkeypatch) -> None:
    body = encode_batch_body([USUAL])
    assert 0 == pair.send(body, topic="several").code
    with monkeypatch.context() as patched:
        patched.setattr(sending, "client_host", lambda _caller: bytes(20))
        assert 0 == pair.send(body).code
    for desk in (pair.quick, pair.plain):
        desk.sending.store_host = bytes(20)
    assert 0 == pair.send(body).code
    assert 0 == pair.taken


@pytest.mark.parametrize("sys_flag", [0, 1, 2, 48, 0x301])
def test_flags_are_kept_or_dropped_alike(pair, sys_flag) -> None:
    assert 0 == pair.send(encode_batch_body([USUAL]), sys_flag=sys_flag, reconsume_times=4).code
    assert 1 == pair.taken


WORDS = st.sampled_from(
    [b"TAGS", b"KEYS", b"", b"a", b"\xc3\xa4", b"\x01", b"\x02", b"DELAY", b"0"]
)
TEXTS = st.lists(WORDS | st.sampled_from([b"\x01", b"\x02"]), max_size=14).map(b"".join)


@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.builds(BatchItem, st.integers(-9, 9), st.binary(max_size=9), TEXTS), max_size=4))
def test_whatever_the_messages_are_both_ways_agree(pair, items) -> None:
    pair.send(encode_batch_body(items))
