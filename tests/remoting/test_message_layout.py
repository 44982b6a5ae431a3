"""Stored messages, batches, ids, tags and properties, byte by byte."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dledger_py.remoting.wire import properties
from dledger_py.remoting.wire.message import (
    MAGIC_V2,
    BatchItem,
    MalformedRecord,
    decode_record,
    decode_records,
    encode_batch_body,
    encode_record,
    is_intact,
    offset_message_id,
    pack_host,
    parse_offset_message_id,
    patch_offsets,
    properties_of,
    record_size,
    split_batch_body,
    store_timestamp_ms,
    tags_code,
    unique_key,
    unpack_host,
)

BORN = pack_host("10.0.0.9", 54321)
STORE = pack_host("10.0.0.1", 10911)
PROPERTIES = "UNIQ_KEY\x010A000009162E18B4AAC2000000000000\x02TAGS\x01TagA\x02"
RECORD = bytes.fromhex(
    "0000009d daa320a7 3610a686 00000003 00000000 000000000000002a 00000000000003e8 00000000"
    "0000018bcfe56800 0a000009 0000d431 0000018bcfe56805 0a000001 00002a9f 00000000"
    "0000000000000000 00000005 68656c6c6f 09 546f70696354657374"
    "0034 554e49515f4b4559 01"
    "3041303030303039313632453138423441414332303030303030303030303030 02"
    "54414753 01 54616741 02"
)
BATCH = bytes.fromhex(
    "00000034 00000000 00000000 00000000 00000002 6d31   001c 4b455953 01 6b31 02"
    "57414954 01 74727565 02 54414753 01 54616741 02"
    "00000023 00000000 00000000 00000000 00000003 6d3232 000a 57414954 01 74727565 02"
)


def record(**changes: object) -> bytes:
    arguments: dict[str, object] = {
        "queue_id": 3,
        "flag": 0,
        "sys_flag": 0,
        "born_timestamp_ms": 1700000000000,
        "born_host": BORN,
        "store_timestamp_ms": 1700000000005,
        "store_host": STORE,
        "body": b"hello",
        "topic": "TopicTest",
        "properties": PROPERTIES.encode(),
    }
    return encode_record(**arguments | changes)  # type: ignore[arg-type]


def test_the_published_record_is_written() -> None:
    buffer = bytearray(record())
    patch_offsets(buffer, 0, 42, 1000)

    assert bytes(buffer) == RECORD


def test_the_published_record_is_read() -> None:
    found = decode_record(RECORD)

    assert (found.size, found.queue_id, found.flag) == (157, 3, 0)
    assert (found.queue_offset, found.physical_offset) == (42, 1000)
    assert unpack_host(found.born_host) == ("10.0.0.9", 54321)
    assert unpack_host(found.store_host) == ("10.0.0.1", 10911)
    assert (found.born_timestamp_ms, found.store_timestamp_ms) == (1700000000000, 1700000000005)
    assert (found.body, found.topic, found.properties) == (b"hello", "TopicTest", PROPERTIES)
    assert found.body_crc == 907060870
    assert is_intact(memoryview(RECORD), 0, len(RECORD))
    assert found.offset_message_id == "0A00000100002A9F00000000000003E8"
    assert found.property("TAGS") == "TagA"
    assert store_timestamp_ms(RECORD) == 1700000000005


def test_records_are_simply_concatenated() -> None:
    buffer = bytearray(RECORD + record(body=b"two"))
    patch_offsets(buffer, len(RECORD), 43, 1157)

    first, second = decode_records(buffer)

    assert (first.queue_offset, first.body) == (42, b"hello")
    assert (second.queue_offset, second.physical_offset, second.body) == (43, 1157, b"two")


@pytest.mark.parametrize("size", [0, 1, 90, 91, 120, len(RECORD) - 1])
def test_a_cut_record_is_refused(size: int) -> None:
    if size == 0:
        assert decode_records(b"") == []
        return
    with pytest.raises(MalformedRecord):
        decode_records(RECORD[:size])


@pytest.mark.parametrize(
    "at, value",
    [
        (0, 5),
        (0, 2**31),
        (4, 0),
        (84, 2**31 - 1),
        (84, 2**32 - 1),
        (84, 2**32 - 60),
        (84, 67),
        (84, 68),
        (92, 0x6FFF0000),
        (102, 0x74FFFF55),
    ],
)
def test_a_record_that_lies_about_lengths_is_refused(at: int, value: int) -> None:
    bad = bytearray(RECORD)
    bad[at : at + 4] = value.to_bytes(4, "big")

    with pytest.raises(MalformedRecord):
        decode_record(bad)


def test_ipv6_hosts_set_their_bits_whatever_the_client_said() -> None:
    host = pack_host("2001:db8::1", 1)
    found = decode_record(record(born_host=host))

    assert found.sys_flag == 16
    assert unpack_host(found.born_host) == ("2001:db8::1", 1)
    assert found.body == b"hello"
    assert store_timestamp_ms(record(born_host=host)) == 1700000000005
    assert decode_record(record(store_host=host, born_host=host)).sys_flag == 48
    assert decode_record(record(sys_flag=48 | 8)).sys_flag == 8


def test_a_mapped_address_is_an_ipv4_address() -> None:
    assert pack_host("::ffff:10.0.0.9", 54321) == BORN


@pytest.mark.parametrize("port", [-1, 65_536, 2**31])
def test_what_is_no_port_is_in_no_record(port) -> None:
    with pytest.raises(ValueError, match="port"):
        pack_host("10.0.0.9", port)


def test_a_long_topic_makes_a_v2_record() -> None:
    topic = "%RETRY%" + "g" * 200
    found = record(topic=topic)

    assert int.from_bytes(found[4:8], "big") == MAGIC_V2
    assert decode_record(found).topic == topic
    assert record_size(found) == len(found)


IPV6 = pack_host("2001:db8::1", 1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"body": b""},
        {"properties": b""},
        {"topic": "%RETRY%" + "g" * 200},
        {"born_host": IPV6},
        {"store_host": IPV6},
        {"born_host": IPV6, "store_host": IPV6, "topic": "t" * 128},
        {"sys_flag": 8},
    ],
    ids=str,
)
def test_properties_are_found_without_reading_the_rest(changes: dict[str, object]) -> None:
    raw = record(**changes)

    assert decode_record(raw).properties == properties_of(
        b"in front" + raw + b"behind", 8, len(raw)
    )


def test_properties_that_are_not_utf_8_are_read_with_gaps() -> None:
    raw = record(properties=b"a\x01\xff\x02")

    assert properties_of(raw, 0, len(raw)) == "a\x01\ufffd\x02"


@pytest.mark.parametrize("length", [b"\x00", b"\xff"])
def test_properties_behind_the_end_are_refused(length: bytes) -> None:
    raw = bytearray(record(properties=b"", body=b"hello"))
    raw[93:94] = length
    size = len(raw) - (length == b"\x00") * (len(raw) - 94)

    with pytest.raises(MalformedRecord):
        properties_of(raw, 0, size)


@pytest.mark.parametrize(
    "changes", [{"topic": "t" * 256}, {"properties": b"x" * 32768}], ids=["topic", "properties"]
)
def test_what_does_not_fit_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(MalformedRecord):
        record(**changes)


@given(
    st.binary(max_size=200),
    st.text(st.characters(codec="utf-8"), max_size=60),
    st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**63 - 1),
)
def test_a_record_comes_back_equal(
    body: bytes, topic: str, address: bytes, flag: int, queue_offset: int
) -> None:
    host = address + bytes(4)
    raw = record(body=body, topic=topic, born_host=host, flag=flag, queue_offset=queue_offset)
    found = decode_record(raw)

    assert (found.body, found.topic, found.born_host, found.flag, found.queue_offset) == (
        body,
        topic,
        host,
        flag,
        queue_offset,
    )
    assert is_intact(memoryview(raw), 0, len(raw))


@pytest.mark.parametrize("born_host", ["10.0.0.9", "2001:db8::9"])
@pytest.mark.parametrize("store_host", ["10.0.0.1", "2001:db8::1"])
def test_every_bit_of_a_body_counts(born_host: str, store_host: str) -> None:
    raw = bytearray(
        record(
            body=b"hello", born_host=pack_host(born_host, 1), store_host=pack_host(store_host, 2)
        )
    )
    at = raw.index(b"hello")
    flipped = []
    for bit in range(5 * 8):
        raw[at + bit // 8] ^= 1 << bit % 8
        flipped.append(is_intact(memoryview(raw), 0, len(raw)))
        raw[at + bit // 8] ^= 1 << bit % 8

    assert [False] * 40 == flipped
    assert is_intact(memoryview(raw), 0, len(raw))


@given(st.binary(max_size=400))
def test_any_bytes_have_an_intact_body_or_not(data: bytes) -> None:
    for candidate in (data, RECORD[:36] + data, RECORD[:-1] + data):
        for size in (0, 91, 120, len(candidate)):
            is_intact(memoryview(candidate), 0, size)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    for candidate in (data, RECORD[:8] + data, len(data).to_bytes(4, "big") + RECORD[4:8] + data):
        try:
            decode_records(candidate)
        except MalformedRecord:
            continue


# --- batches, ids, tags --------------------------------------------------------------------------


def test_the_published_batch_is_split_and_written() -> None:
    items = split_batch_body(BATCH)

    assert items == [
        BatchItem(0, b"m1", b"KEYS\x01k1\x02WAIT\x01true\x02TAGS\x01TagA\x02"),
        BatchItem(0, b"m22", b"WAIT\x01true\x02"),
    ]
    assert encode_batch_body(items) == BATCH


@pytest.mark.parametrize("size", range(1, len(BATCH)))
def test_a_cut_batch_is_refused(size: int) -> None:
    if size == 0x34:
        assert len(split_batch_body(BATCH[:size])) == 1
        return
    with pytest.raises(MalformedRecord):
        split_batch_body(BATCH[:size])


@given(st.binary(max_size=120))
def test_any_bytes_are_a_batch_or_refused(data: bytes) -> None:
    for candidate in (data, len(data).to_bytes(4, "big") + data):
        try:
            items = split_batch_body(candidate)
        except MalformedRecord:
            continue
        assert len(encode_batch_body(items)) == len(candidate)


@pytest.mark.parametrize(
    "tag, code",
    [
        ("", 0),
        ("TagA", 2598919),
        ("TagB", 2598920),
        ("*", 42),
        ("中文", 646394),
        ("a-very-long-tag-name-to-go-negative", -1504546191),
        ("\U0001f600", 1772899),
    ],
)
def test_tags_hash_as_java_strings(tag: str, code: int) -> None:
    assert tags_code(tag) == code


def test_an_offset_message_id_leads_back_to_the_message() -> None:
    text = offset_message_id(STORE, 1000)

    assert text == "0A00000100002A9F00000000000003E8"
    assert parse_offset_message_id(text) == ("10.0.0.1", 10911, 1000)
    assert parse_offset_message_id(text.lower()) == ("10.0.0.1", 10911, 1000)
    wide = offset_message_id(pack_host("2001:db8::1", 10911), 2**63 - 1)
    assert len(wide) == 56
    assert parse_offset_message_id(wide) == ("2001:db8::1", 10911, 2**63 - 1)


@pytest.mark.parametrize("text", ["", "0A", "G" * 32, "0A00000100002A9F00000000000003E", "00" * 20])
def test_a_bad_message_id_is_refused(text: str) -> None:
    with pytest.raises(MalformedRecord):
        parse_offset_message_id(text)


def test_a_unique_key_has_its_parts_in_place() -> None:
    assert unique_key(BORN, 5678, 0x18B4AAC2, 0, 0) == "0A000009162E18B4AAC2000000000000"


# --- properties ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", {}),
        ("A\x01b\x02", {"A": "b"}),
        ("A\x01b", {"A": "b"}),
        ("A\x01b\x01c\x02", {"A": "b\x01c"}),
        ("A\x01\x02\x01b\x02C\x01d\x02x\x02", {"C": "d"}),
        ("A\x01b\x02A\x01c\x02", {"A": "c"}),
        ("A\x01b\x02A\x01\x02", {"A": "b"}),
    ],
)
def test_properties_are_read_as_java_does(text: str, expected: dict[str, str]) -> None:
    assert properties.decode(text) == expected
    for key in ("A", "C", "x", "b"):
        assert properties.find(text, key) == expected.get(key)


@given(st.text("AB\x01\x02", max_size=30))
def test_finding_one_is_reading_all(text: str) -> None:
    for key in ("A", "B", "AB", "BA"):
        assert properties.find(text, key) == properties.decode(text).get(key)


@given(st.dictionaries(st.text("xyzä", min_size=1), st.text("xyz\x01", min_size=1)))
def test_properties_come_back_equal(given_properties: dict[str, str]) -> None:
    text = properties.encode(given_properties)

    assert properties.decode(text) == given_properties
    assert properties.decode(properties.append(text, "NEW", "1"))["NEW"] == "1"


def test_a_separator_inside_a_property_is_refused() -> None:
    with pytest.raises(ValueError, match="0x01 and 0x02"):
        properties.encode({"A": "b\x02c"})


def test_a_batch_item_whose_body_ends_before_it_begins_is_malformed() -> None:
    """What stands there looks like the size of its properties."""
    item = struct.pack(">iHHiii", 40, 34, 0, 0, 0, -16) + bytes(20)
    with pytest.raises(MalformedRecord, match="body of -16 bytes in 40"):
        split_batch_body(item)
