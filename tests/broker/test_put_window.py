"""Where the newest messages stand: the tables by themselves."""

from collections.abc import Iterator

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from broker.machine.codec import encode_command
from broker.machine.commands import DeleteTopic
from broker.machine.put_messages import Message, decode_put_messages, encode_put_messages
from broker.machine.queues import Queues
from broker.machine.replies import Applied
from broker.machine.topics import TopicConfig, Topics
from broker.store import put_window
from broker.store.put_window import (
    Place,
    PutWindow,
    identity_of,
    meant_for,
    records_in,
)
from dledger_py.ledger.log_commands import Payload
from dledger_py.remoting.wire.message import encode_record, pack_host

HOST = pack_host("10.0.0.1", 10911)
NOW_MS = 1_700_000_000_000
TOPICS = ("orders", "stock", "SCHEDULE_TOPIC_XXXX", "%RETRY%shop", "RMQ_SYS_TRANS_HALF_TOPIC")


@frozen
class Entry:
    index: int
    position: int
    payload: memoryview
    term: int = 1


def record(key: str, body: bytes = b"x", topic: str = "orders", more: str = "") -> bytes:
    return encode_record(
        queue_id=0,
        flag=0,
        sys_flag=0,
        born_timestamp_ms=1,
        born_host=HOST,
        store_timestamp_ms=NOW_MS,
        store_host=HOST,
        body=body,
        topic=topic,
        properties=f"A\x01b\x02UNIQ_KEY\x01{key}\x02{more}".encode(),
    )


def message(key: str, body: bytes = b"x", topic: str = "orders", more: str = "") -> Message:
    return topic, 0, 0, record(key, body, topic, more)


def wanted(key: str, body: bytes = b"x", topic: str = "orders") -> int:
    data = record(key, body)
    return identity_of(data, 0, len(data), topic)


class Log:
    """Entries one after the other, and the windows of members that apply them."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.places: list[Place] = []
        """Of each message that came to a queue: its entry's."""
        self.end = 1_000_000
        self.topics, self.queues = Topics(), Queues()
        self.topics.put([TopicConfig(name=name) for name in TOPICS], 0)

    def put(self, *messages: Message, stamped_ms: int = NOW_MS) -> tuple[Entry, Applied]:
        entry = self.append(encode_put_messages(stamped_ms, messages))
        applied = self.queues.put(decode_put_messages(entry.payload), self.topics, entry.position)
        place = (entry.position, len(entry.payload))
        self.places += [place for reply in applied.reply if isinstance(reply, tuple)]
        return entry, applied

    def append(self, payload: bytes) -> Entry:
        entry = Entry(len(self.entries) + 1, self.end, memoryview(payload))
        self.entries.append(entry)
        self.end += len(payload) + 40
        return entry

    def between(self, first: int, last: int) -> list[Payload]:
        """As they lie in a buffer with more."""
        return [
            (bytearray(b"before%b" % entry.payload), 6, 6 + len(entry.payload), entry.position)
            for entry in self.entries[first - 1 : last]
        ]


@pytest.fixture
def log() -> Log:
    return Log()


def kept(count: int) -> PutWindow:
    """As the member that leads has it."""
    window = PutWindow(count)
    window.begin()
    return window


@pytest.fixture
def window(log: Log) -> PutWindow:
    return kept(10)


def test_a_message_is_found_by_topic_id_and_body(log, window) -> None:
    window.applied(*log.put(message("U1"), message("U2", topic="stock"), message("U3", b"y")))

    assert log.places == [
        window.find(wanted("U1")),
        window.find(wanted("U2", topic="stock")),
        window.find(wanted("U3", b"y")),
    ]
    others = [wanted("U1", topic="stock"), wanted("U1", b"y"), wanted("U4"), wanted("U", b"")]
    assert [None] * 4 == [window.find(each) for each in others]
    assert 3 == len(window)


def test_an_empty_window_has_nothing(window) -> None:
    assert (None, 0) == (window.find(wanted("U1")), len(window))


KEYS = st.text(st.sampled_from("0Aé \x01U"), min_size=1, max_size=4)
MORE = st.sampled_from(["", "W\x01true\x02", "UNIQ_KEY\x01again\x02", "UNIQ_KEY\x01open"])
BODIES = st.sampled_from([b"", b"UNIQ_KEY\x01A\x02", b"x" * 300, b"UNIQ_KEY\x01"])
MESSAGES = st.builds(message, KEYS, BODIES, st.sampled_from(["orders", "stock"]), MORE)


@given(st.lists(st.lists(MESSAGES, min_size=1, max_size=6), max_size=5))
def test_each_is_found_whatever_ids_and_bodies_stand_around_it(entries) -> None:
    log, window, newest = Log(), kept(1000), {}
    for each in entries:
        window.applied(*log.put(*each))
        for (topic, _, _, data), place in zip(each, log.places[-len(each) :], strict=True):
            newest[identity_of(data, 0, len(data), topic)] = place

    assert newest == {each: window.find(each) for each in newest}
    assert len(newest) == len(window)


@given(st.lists(st.lists(MESSAGES, min_size=1, max_size=6), max_size=5))
def test_a_batch_that_is_not_stored_yet_has_the_same_identities(batches) -> None:
    window = kept(1000)
    for each in batches:
        records = [data for topic, _, _, data in each if topic == "orders"]
        found = [identity_of(data, 0, len(data), "orders") for data in records]
        assert [one for one in found if one] == window.identities_of("orders", records)


def test_an_id_as_far_from_its_records_end_as_the_one_before_may_be_shorter(log, window) -> None:
    window.applied(*log.put(message("12345678"), message("123", more="W\x01ab\x02")))
    assert log.places == [window.find(wanted("12345678")), window.find(wanted("123"))]


def test_a_message_without_a_unique_id_is_not_in_it(log, window) -> None:
    bare = encode_record(
        queue_id=0,
        flag=0,
        sys_flag=0,
        born_timestamp_ms=1,
        born_host=HOST,
        store_timestamp_ms=NOW_MS,
        store_host=HOST,
        body=b"x",
        topic="orders",
    )
    window.applied(*log.put(("orders", 0, 0, bare)))
    window.read()
    assert 0 == len(window)
    assert 0 == identity_of(bare, 0, len(bare), "orders")


def test_of_two_alike_the_newer_one_is_found(log, window) -> None:
    for _ in range(2):
        window.applied(*log.put(message("U1")))
        window.read()
    assert log.places[1] == window.find(wanted("U1"))
    assert 1 == len(window)


def test_what_waits_counts_for_the_topic_it_is_meant_for(log, window) -> None:
    later = "REAL_TOPIC\x01orders\x02REAL_QID\x010\x02"
    half = message("U2", topic="RMQ_SYS_TRANS_HALF_TOPIC", more=later)
    window.applied(*log.put(message("U1", topic="SCHEDULE_TOPIC_XXXX", more=later), half))
    for each in (window, looked_back(log, 10)):
        assert log.places == [each.find(wanted("U1")), each.find(wanted("U2"))]


def test_what_consumers_send_back_is_not_in_it(log, window) -> None:
    back = "REAL_TOPIC\x01%RETRY%shop\x02REAL_QID\x010\x02"
    window.applied(*log.put(message("U1")))
    window.applied(*log.put(message("U1", topic="SCHEDULE_TOPIC_XXXX", more=back)))
    window.applied(*log.put(message("U1", topic="%RETRY%shop")))
    window.read()
    for each in (window, looked_back(log, 10)):
        assert log.places[0] == each.find(wanted("U1"))
        assert 1 == len(each)

    data = record("U1", more=back)
    assert meant_for(data, 0, len(data), "SCHEDULE_TOPIC_XXXX") is None
    assert meant_for(data, 0, len(data), "%DLQ%shop") is None
    assert meant_for(record("U1"), 0, len(data), "SCHEDULE_TOPIC_XXXX") is None


def test_only_what_came_to_a_queue_is_in_it(log, window) -> None:
    window.applied(*log.put(message("U1", topic="gone"), message("U2")))
    assert (None, log.places[0]) == (
        window.find(wanted("U1", topic="gone")),
        window.find(wanted("U2")),
    )


def test_other_commands_bring_no_messages(log, window) -> None:
    _entry, applied = log.put(message("U1"))
    other = log.append(encode_command(DeleteTopic(stamped_ms=1, name="orders")))
    window.applied(other, applied)
    window.read()
    assert 0 == len(window)


def test_the_newest_stay_and_few_more(log, window) -> None:
    for number in range(95):
        window.applied(*log.put(message(f"U{number}")))
    found = [window.find(wanted(f"U{number}")) for number in range(95)]

    assert log.places[85:] == found[85:]
    assert 10 <= len(window) <= 16
    assert [None] * 75 == found[:75]


def test_what_is_in_it_is_never_denied_however_long_it_lives(log, window, monkeypatch) -> None:
    monkeypatch.setattr(put_window, "_GENERATIONS", 9)
    denied = 0
    for number in range(200):
        window.applied(*log.put(message(f"U{number}")))
        assert all(wanted(f"U{n}") in window for n in range(max(0, number - 9), number + 1))
        denied += wanted(f"U{number - 20}") not in window
    assert denied == 200, "what left it is known to have"
    assert 4 <= window._generation <= 9


def test_a_large_entry_fits_a_small_window(log, window) -> None:
    entry = [message(f"U{number}") for number in range(3000)]
    window.applied(*log.put(*entry))
    assert log.places[-10:] == [window.find(wanted(f"U{n}")) for n in range(2990, 3000)]


# --- what the proposer knows ----------------------------------------------------------------------


def test_who_proposed_an_entry_spares_reading_it(log, window) -> None:
    entry, applied = log.put(message("U1"), message("U2"))
    window.applied(entry, applied)
    window.settled(applied.reply, {7: 0, 8: 1}.keys())
    assert [*log.places, None] == [window.find(each) for each in (7, 8, wanted("U1"))]

    entry, applied = log.put(message("U3"), message("U4"), message("U5"))
    window.applied(entry, applied)
    window.settled(applied.reply, {9: 0}.keys(), [10, 10])
    assert [log.places[2], log.places[4], None] == [
        window.find(each) for each in (9, 10, wanted("U3"))
    ]


@pytest.mark.parametrize(
    "settle",
    [
        lambda window, applied: window.settled(applied.reply, [7]),
        lambda window, applied: window.settled(list(applied.reply), [7, 8]),
        lambda window, applied: (window.read(), window.settled(applied.reply, [7, 8])),
    ],
    ids=["not all have one", "another entry", "read already"],
)
def test_otherwise_it_is_read(log, window, settle) -> None:
    entry, applied = log.put(message("U1"), message("U2"))
    window.applied(entry, applied)
    settle(window, applied)
    assert log.places == [window.find(wanted("U1")), window.find(wanted("U2"))]
    assert window.find(7) is None


def test_what_stands_too_far_back_in_the_log_is_not_found(log, window) -> None:
    window.applied(*log.put(message("U1")))
    window.applied(*log.put(message("U2")))
    window.oldest_position = log.places[1][0]
    assert [None, log.places[1]] == [window.find(wanted(key)) for key in ("U1", "U2")]
    window.begin()
    assert 0 == window.oldest_position


# --- leaders come and go --------------------------------------------------------------------------


def looked_back(log: Log, count: int, first: int = 1, age_max_ms: int = 1000) -> PutWindow:
    window = PutWindow(count)
    window.look_back(first, len(log.entries), log.between, age_max_ms)
    return window


def test_who_does_not_lead_has_an_empty_one(log) -> None:
    window = PutWindow(10)
    window.applied(*log.put(message("U1")))
    window.read()
    assert 0 == len(window)

    window.begin()
    window.applied(*log.put(message("U2")))
    window.read()
    assert 1 == len(window)
    window.applied(*log.put(message("U3")))

    window.end()
    window.read()
    assert 0 == len(window)


def test_a_new_leader_finds_what_was_put_before(log) -> None:
    for number in range(300):
        log.put(message(f"U{number}"), message(f"U{number}", topic="stock"))
        log.append(encode_command(DeleteTopic(stamped_ms=NOW_MS, name="none")))
    window = looked_back(log, 100)
    found = [window.find(wanted(f"U{number}")) for number in range(300)]

    assert log.places[500::2] == found[250:]
    assert log.places[-1] == window.find(wanted("U299", topic="stock"))
    assert found[0] is None


def test_what_was_put_before_and_what_came_meanwhile_make_one_window(log, window) -> None:
    log.put(message("U1"), message("U2"))
    older = looked_back(log, 10)
    window.applied(*log.put(message("U3"), message("U1")))
    window.applied(*log.put(message("U4")))
    window.put_behind(older)
    window.applied(*log.put(message("U5")))

    assert [log.places[at] for at in (3, 1, 2, 4, 5)] == [
        window.find(wanted(key)) for key in ("U1", "U2", "U3", "U4", "U5")
    ]
    assert 5 == len(window)


def test_what_was_put_before_goes_first(log, window) -> None:
    for number in range(12):
        log.put(message(f"U{number}"))
    window.put_behind(looked_back(log, 10))
    assert log.places[2] == window.find(wanted("U2"))
    assert all(wanted(f"U{number}") in window for number in range(2, 12))
    for number in range(12, 26):
        window.applied(*log.put(message(f"U{number}")))

    assert log.places[16:] == [window.find(wanted(f"U{number}")) for number in range(16, 26)]
    assert window.find(wanted("U2")) is None
    assert len(window) <= 16


def test_a_new_leader_looks_no_further_than_it_counts_and_no_further_than_the_log(log) -> None:
    read: list[tuple[int, int]] = []

    def between(first: int, last: int) -> list[Payload]:
        read.append((first, last))
        return log.between(first, last)

    for number in range(2000):
        log.put(message(f"U{number}"), stamped_ms=NOW_MS + 10 * number)
    PutWindow(10_000).look_back(1900, 2000, between, 60_000)
    assert 1900 == min(first for first, _last in read)

    for count, age_max_ms in ((100, 60_000), (10_000, 1000)):
        read.clear()
        window = PutWindow(count)
        window.look_back(1, 2000, between, age_max_ms)
        assert log.places[1900:] == [window.find(wanted(f"U{n}")) for n in range(1900, 2000)]
        assert 1500 < min(first for first, _last in read)
        assert [last for _first, last in read[1:]] == [first - 1 for first, _last in read[:-1]]


def test_large_entries_are_looked_back_at_one_by_one_and_grow_old_all_the_same(
    log, monkeypatch
) -> None:
    monkeypatch.setattr(put_window, "_STEP_BYTES", 1)
    for number in range(200):
        log.put(message(f"U{number}"), stamped_ms=NOW_MS + 100 * number)
    window = looked_back(log, 10_000, age_max_ms=10_000)
    assert log.places[98:] == [window.find(wanted(f"U{n}")) for n in range(98, 200)]
    assert window.find(wanted("U97")) is None


@pytest.mark.parametrize("leap_ms", [3_600_000, -3_600_000])
def test_a_clock_that_was_set_makes_no_message_old(log, leap_ms) -> None:
    for number in range(2000):
        leaps = leap_ms if 1500 <= number < 1600 else 0
        log.put(message(f"U{number}"), stamped_ms=NOW_MS + 10 * number + leaps)
    window = looked_back(log, 10_000, age_max_ms=12_000)
    assert log.places[1300:] == [window.find(wanted(f"U{n}")) for n in range(1300, 2000)]
    assert window.find(wanted("U0")) is None


def test_a_new_leader_looks_back_at_so_many_bytes_only(log, monkeypatch) -> None:
    for number in range(2000):
        log.put(message(f"U{number}"))
    size = len(log.entries[-1].payload)
    monkeypatch.setattr(put_window, "LOOK_BACK_BYTES_MAX", 100 * size)
    window = looked_back(log, 10_000)
    assert 100 <= len(window) <= 300
    assert log.places[1900:] == [window.find(wanted(f"U{n}")) for n in range(1900, 2000)]


def test_a_new_leader_looks_back_at_so_many_entries_only(log, monkeypatch) -> None:
    monkeypatch.setattr(put_window, "LOOK_BACK_ENTRIES_MAX", 300)
    for number in range(400):
        log.put(message(f"U{number}"))
    window = looked_back(log, 10_000)
    assert 300 == len(window)
    assert log.places[100] == window.find(wanted("U100"))


def test_what_the_log_lets_go_of_meanwhile_is_not_looked_at(log) -> None:
    def between(first: int, last: int) -> Iterator[Payload]:
        yield from log.between(max(first, 1000), last)
        if first < 1000:
            raise LookupError("gone")

    for number in range(2000):
        log.put(message(f"U{number}"))
    window = PutWindow(10_000)
    window.look_back(1, 2000, between, 60_000)
    assert log.places[1950:] == [window.find(wanted(f"U{n}")) for n in range(1950, 2000)]
    assert window.find(wanted("U999")) is None


def test_what_else_is_wrong_with_the_log_is_told(log) -> None:
    def between(first: int, last: int) -> list[Payload]:
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        PutWindow(10).look_back(1, 2, between, 60_000)


def test_a_log_without_messages_leaves_it_empty(log) -> None:
    log.append(encode_command(DeleteTopic(stamped_ms=NOW_MS, name="none")))
    assert 0 == len(looked_back(log, 10))
    assert 0 == len(looked_back(Log(), 10))


@pytest.mark.parametrize("small", [0, 2000])
def test_of_large_entries_few_are_looked_back_at_together(log, small: int) -> None:
    read: list[int] = []

    def between(first: int, last: int) -> Iterator[Payload]:
        read.append(0)
        for payload in log.between(first, last):
            read[-1] += payload[2] - payload[1]
            yield payload

    for number in range(80):
        log.put(message(f"U{number}", bytes(1 << 20)))
    for number in range(80, 80 + small):
        log.put(message(f"U{number}"))
    window = PutWindow(small + 20)
    window.look_back(1, 80 + small, between, 60_000)
    assert max(read) < 10 << 20
    assert sum(read) < 60 << 20
    assert small + 20 <= len(window) <= small + 24
    assert log.places[60:] == [
        window.find(wanted(f"U{n}", bytes(1 << 20))) for n in range(60, 80)
    ] + [window.find(wanted(f"U{n}")) for n in range(80, 80 + small)]


# --- an entry -------------------------------------------------------------------------------------


def test_an_entry_says_where_its_messages_are(log) -> None:
    later = "REAL_TOPIC\x01stock\x02"
    entry, _applied = log.put(
        message("U1"), message("U2", topic="SCHEDULE_TOPIC_XXXX", more=later), message("U3")
    )
    payload = bytes(entry.payload)
    found = dict(records_in(payload))

    assert [wanted("U1"), wanted("U2", topic="stock"), wanted("U3")] == list(found)
    assert [wanted("U3")] == [each for each, _at in records_in(payload, b"U3\x02")]
    at = found[wanted("U3")]
    assert record("U3") == payload[at:]
    other = encode_command(DeleteTopic(stamped_ms=1, name="orders"))
    assert [] == list(records_in(other))
