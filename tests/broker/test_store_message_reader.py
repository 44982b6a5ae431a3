"""Reading records: whole, with their offsets, within limits, and by few reads."""

from pathlib import Path

import pytest
from attrs import define, field

from broker.formats import UNIT
from broker.store.consume_queues import ConsumeQueues
from broker.store.message_lookup import RECORD_BYTES_MAX, candidate_at, confirmed
from broker.store.message_reader import (
    GAP_BYTES_MAX,
    READ_BYTES_MAX,
    SELECT_BYTES_MAX,
    SELECT_UNITS,
    MessageReader,
)
from broker.store.tag_filter import matching
from dledger_py.actors import FailStop
from dledger_py.ledger.reopening import Reopen
from dledger_py.remoting.wire.message import (
    decode_record,
    decode_records,
    encode_record,
    pack_host,
    tags_code,
)


def record(
    body: bytes = b"hello",
    *,
    topic: str = "orders",
    queue_id: int = 0,
    born_host: str = "10.0.0.9",
    store_host: str = "10.0.0.1",
    stored_ms: int = 1_700_000_000_005,
    properties: bytes = b"",
) -> bytes:
    return encode_record(
        queue_id=queue_id,
        flag=0,
        sys_flag=0,
        born_timestamp_ms=1_700_000_000_000,
        born_host=pack_host(born_host, 54321),
        store_timestamp_ms=stored_ms,
        store_host=pack_host(store_host, 10911),
        body=body,
        topic=topic,
        properties=properties,
    )


@define
class FakeLog:
    """A log in memory, which notes each read."""

    stored: bytearray = field(factory=bytearray)
    reads: list[tuple[int, int]] = field(factory=list)
    cached: bool = True

    def append(self, data: bytes) -> int:
        position = len(self.stored)
        self.stored += data
        return position

    def read_bytes(self, position: int, length: int, *, nowait: bool = False) -> bytearray:
        if nowait and not self.cached:
            raise BlockingIOError
        if not 0 <= position <= position + length <= len(self.stored):
            raise LookupError(f"{length} bytes at {position}")
        self.reads.append((position, length))
        return self.stored[position : position + length]


def stored(log: FakeLog, *records: bytes, gap: int = 0) -> bytes:
    """Append records, `gap` bytes between them, and return their units."""
    found = []
    for one in records:
        log.append(bytes(gap))
        found.append(UNIT.pack(log.append(one), len(one), 0))
    return b"".join(found)


def test_records_leave_with_their_offsets() -> None:
    log = FakeLog()
    log.append(b"entry header")
    records = [record(b"first"), record(b"second")]
    units = stored(log, *records)

    fetched = MessageReader(log).read(units, 42, [0, 1])

    one, two = decode_records(fetched.body)
    assert (42, 12, b"first") == (one.queue_offset, one.physical_offset, one.body)
    assert (43, 12 + len(records[0]), b"second") == (
        two.queue_offset,
        two.physical_offset,
        two.body,
    )
    assert (2, 44) == (fetched.messages, fetched.next_offset)
    assert [(12, len(records[0]) + len(records[1]))] == log.reads
    assert records[0] in bytes(log.stored), "the log keeps its bytes"


def test_what_lies_between_neighbours_is_left_out() -> None:
    log = FakeLog()
    records = [record(bytes([n])) for n in range(5)]
    units = stored(log, *records, gap=100)

    fetched = MessageReader(log).read(units, 0, range(5))

    assert [bytes([n]) for n in range(5)] == [r.body for r in decode_records(fetched.body)]
    assert 1 == len(log.reads)


@pytest.mark.parametrize("gap, reads", [(GAP_BYTES_MAX, 1), (GAP_BYTES_MAX + 1, 2)])
def test_distant_records_are_read_apart(gap: int, reads: int) -> None:
    log = FakeLog()
    units = stored(log, record(b"a"), record(b"b"), gap=gap)

    fetched = MessageReader(log).read(units, 0, [0, 1])

    assert [b"a", b"b"] == [r.body for r in decode_records(fetched.body)]
    assert reads == len(log.reads)


def test_no_read_is_huge() -> None:
    log = FakeLog()
    units = stored(log, *(record(bytes(7000)) for _ in range(100)), gap=GAP_BYTES_MAX)

    fetched = MessageReader(log).read(units, 0, range(100), messages_max=100, bytes_max=10**9)

    assert 100 == fetched.messages == len(decode_records(fetched.body))
    assert max(length for _, length in log.reads) <= READ_BYTES_MAX


def test_chosen_units_only() -> None:
    """The offset to go on with is behind all that were looked at."""
    log = FakeLog()
    units = stored(log, *(record(bytes([n])) for n in range(6)))

    fetched = MessageReader(log).read(units, 10, [1, 4])

    assert [11, 14] == [r.queue_offset for r in decode_records(fetched.body)]
    assert 16 == fetched.next_offset


def test_nothing_chosen() -> None:
    log = FakeLog()
    units = stored(log, record(), record())

    fetched = MessageReader(log).read(units, 10, [])

    assert (b"", 0, 12) == (fetched.body, fetched.messages, fetched.next_offset)
    assert [] == log.reads


def test_the_message_limit_stops_before_the_next_chosen_one() -> None:
    log = FakeLog()
    units = stored(log, *(record() for _ in range(8)))

    fetched = MessageReader(log).read(units, 0, [0, 1, 5, 7], messages_max=2)

    assert (2, 5) == (fetched.messages, fetched.next_offset)


@pytest.mark.parametrize("bytes_max, messages", [(0, 1), (1191, 1), (2394, 2), (2393, 1)])
def test_the_byte_limit_never_cuts_and_never_starves(bytes_max: int, messages: int) -> None:
    log = FakeLog()
    body = bytes(1100)
    assert 1197 == len(record(body))
    units = stored(log, *(record(body) for _ in range(4)))

    fetched = MessageReader(log).read(units, 0, range(4), bytes_max=bytes_max)

    assert messages == fetched.messages == len(decode_records(fetched.body)) == fetched.next_offset


def test_what_would_block_is_said_so() -> None:
    log = FakeLog(cached=False)
    units = stored(log, record())
    reader = MessageReader(log)

    with pytest.raises(BlockingIOError):
        reader.read(units, 0, [0], nowait=True)
    assert 1 == reader.read(units, 0, [0]).messages


def test_an_index_that_does_not_fit_stops_the_process() -> None:
    log = FakeLog()
    stored(log, record())

    with pytest.raises(FailStop, match="log position 0"):
        MessageReader(log).read(UNIT.pack(0, 50, 0), 0, [0])


@pytest.mark.parametrize("stored_body", [b"hello", b""])
def test_a_body_that_rotted_stops_the_process(stored_body: bytes) -> None:
    log = FakeLog()
    units = stored(log, record(b"sound"), record(stored_body))
    log.stored[log.stored.rindex(b"\x06orders") - 1] ^= 1  # the body's last byte, or its length

    with pytest.raises(Reopen, match=f"log position {len(record(b'sound'))}: the body"):
        MessageReader(log).read(units, 0, [0, 1])


@pytest.mark.parametrize("born_host", ["10.0.0.9", "2001:db8::9"])
@pytest.mark.parametrize("store_host", ["10.0.0.1", "2001:db8::1"])
def test_store_times_of_all_kinds_of_hosts(born_host: str, store_host: str) -> None:
    log = FakeLog()
    log.append(b"x" * 33)
    at = log.append(record(b"", born_host=born_host, store_host=store_host, stored_ms=77))

    assert 77 == MessageReader(log).stored_ms(at)


def test_offsets_of_ipv6_records_lie_at_the_same_place() -> None:
    log = FakeLog()
    units = stored(log, record(born_host="2001:db8::9", store_host="2001:db8::1"), gap=9)

    found = decode_record(MessageReader(log).read(units, 5, [0]).body)

    assert (5, 9) == (found.queue_offset, found.physical_offset)


def test_tags_are_matched_by_hash_alone() -> None:
    """`Aa` and `BB` share a hash: both pass, and the consumer looks at the tag itself."""
    assert tags_code("Aa") == tags_code("BB")
    tags = ["Aa", "BB", "Cc", "", "a-very-long-tag-name-to-go-negative"]
    units = b"".join(UNIT.pack(0, 100, tags_code(tag)) for tag in tags)

    assert [0, 1] == matching(units, {tags_code("Aa")})
    assert [4] == matching(units, {-1504546191})
    assert [2, 4] == matching(units, {tags_code("Cc"), -1504546191})
    assert [] == matching(units, set())
    assert [0, 1, 2, 3, 4] == list(matching(units, None))
    assert [] == list(matching(b"", None))


def test_a_named_position_is_a_message_if_the_index_says_so(tmp_path: Path) -> None:
    log = FakeLog()
    forged = record(b"I was never sent")
    units = stored(log, record(b"first"), record(b"evil " + forged, queue_id=0))
    queues = ConsumeQueues.create(tmp_path)
    queues.index("orders", 0, 7, units)
    inner = bytes(log.stored).index(forged)

    def find(position: int) -> bytes | None:
        candidate = candidate_at(log, position)
        return None if candidate is None else confirmed(queues, position, candidate)

    found = find(0)
    assert found is not None
    assert (b"first", 7, 0) == (
        decode_record(found).body,
        decode_record(found).queue_offset,
        decode_record(found).physical_offset,
    )
    assert bytearray(forged) == candidate_at(log, inner)
    assert find(inner) is None
    assert [None] * 4 == [find(position) for position in (-1, 1, len(log.stored) - 3, 2**62)]
    log.stored[log.stored.index(b"first")] ^= 1
    with pytest.raises(Reopen, match="log position 0: the body"):
        find(0)


def test_a_named_position_reads_no_more_than_a_frame() -> None:
    log = FakeLog()
    log.append((RECORD_BYTES_MAX + 1).to_bytes(4, "big") + bytes(RECORD_BYTES_MAX + 100))

    assert candidate_at(log, 0) is None
    assert [(0, 91)] == log.reads


# --- choosing by properties ---


def numbered(log: FakeLog, count: int, gap: int = 0) -> bytes:
    return stored(log, *(record(properties=b"n\x01%d\x02" % n) for n in range(count)), gap=gap)


@pytest.mark.parametrize("gap", [0, 100, GAP_BYTES_MAX + 1])
@pytest.mark.parametrize("count", [1, SELECT_UNITS, SELECT_UNITS + 1, 3 * SELECT_UNITS + 5])
def test_every_record_is_looked_at_once_wherever_it_lies(gap, count) -> None:
    log = FakeLog()
    units = numbered(log, count, gap)
    looked = []
    fetched = MessageReader(log).select(
        units, 7, lambda found: looked.append(found["n"]) or int(found["n"]) % 3 == 0
    )

    assert [str(n) for n in range(count)] == looked
    assert list(range(7, 7 + count, 3)) == [r.queue_offset for r in decode_records(fetched.body)]
    assert 7 + count == fetched.next_offset


def test_looking_stops_with_the_last_message_that_is_wanted() -> None:
    log = FakeLog()
    units = numbered(log, 800)
    fetched = MessageReader(log).select(units, 0, lambda found: True, messages_max=3)

    assert (3, 3) == (fetched.messages, fetched.next_offset)
    assert sum(length for _, length in log.reads) < len(log.stored) // 10


def test_looking_stops_after_so_many_bytes_and_never_before_one_record() -> None:
    log = FakeLog()
    large = record(bytes(SELECT_BYTES_MAX // 100))
    units = stored(log, *[large] * 150)
    huge = stored(log, record(bytes(2 * SELECT_BYTES_MAX)), record())
    even = bytes(SELECT_BYTES_MAX // SELECT_UNITS - len(record(b"")))
    exact = stored(log, *[record(even)] * SELECT_UNITS, record(bytes(SELECT_BYTES_MAX)))
    reader = MessageReader(log)

    assert 99 == reader.select(units, 0, lambda found: False).next_offset
    assert 1 == reader.select(huge, 0, lambda found: False).next_offset
    assert SELECT_UNITS == reader.select(exact, 0, lambda found: False).next_offset


def test_looking_stops_when_it_is_enough() -> None:
    log = FakeLog()
    enough = iter([False, False, True])
    fetched = MessageReader(log).select(
        numbered(log, 10), 0, lambda found: False, is_enough=lambda: next(enough)
    )

    assert (b"", 0, 3) == (fetched.body, fetched.messages, fetched.next_offset)


def test_looking_would_rather_not_wait() -> None:
    log = FakeLog(cached=False)

    with pytest.raises(BlockingIOError):
        MessageReader(log).select(numbered(log, 1), 0, lambda found: True, nowait=True)
