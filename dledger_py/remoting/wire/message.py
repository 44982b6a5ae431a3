"""The stored message: the same bytes in the log, in a pull answer and in a transaction check.

Laws
- A record is built once; whoever reads it fills in the two offsets (`patch_offsets`), at fixed
  positions outside the body's CRC. Nothing else ever changes.
- The IPv6 bits of sysFlag follow the hosts that are really there, never what a client claims.
- A topic longer than 127 bytes makes a V2 record, which Go, ali-ons and C++ cannot read: the broker
  limits group names so that it does not come to that.

Source: MessageDecoder, MessageExtEncoder, MessageSysFlag, MessageClientIDSetter, HookUtils.
Properties are a string here; `properties` takes them apart. Compressed bodies stay as they are.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from struct import Struct as Layout
from typing import Final
from zlib import crc32

from attrs import define, frozen

from dledger_py.remoting.wire import properties as property_text
from dledger_py.remoting.wire.schema import Malformed

MAGIC_V1: Final = 0xDAA320A7
MAGIC_V2: Final = 0xDAA320AB
MAGIC_BLANK: Final = 0xCBD43194

QUEUE_ID_AT: Final = 12
QUEUE_OFFSET_AT: Final = 20
PHYSICAL_OFFSET_AT: Final = 28
SYS_FLAG_AT: Final = 36
BORN_HOST_AT: Final = 48

# sysFlag
COMPRESSED: Final = 1
MULTI_TAGS: Final = 2
TRANSACTION_MASK: Final = 12
TRANSACTION_NONE: Final = 0
TRANSACTION_PREPARED: Final = 4
TRANSACTION_COMMIT: Final = 8
TRANSACTION_ROLLBACK: Final = 12
BORN_HOST_IPV6: Final = 16
STORE_HOST_IPV6: Final = 32
_HOST_IPV6: Final = BORN_HOST_IPV6 | STORE_HOST_IPV6
COMPRESSION_TYPE_MASK: Final = 0x700

PORT_MAX: Final = 0xFFFF
_TAG_REMEMBERED_MAX: Final = 128  # characters; a tag may have thousands
TOPIC_SIZE_V1_MAX: Final = 127
TOPIC_SIZE_MAX: Final = 255
BODY_CRC_MASK: Final = 0x7FFFFFFF
RECONSUME_TIMES_MAX: Final = 0x7FFFFFFF  # what the field holds; a producer may begin with it

_HEAD_V4 = Layout(">IIIiiqqiq8sq8siqi")  # up to and with the body's length
_HEAD = {
    (False, False): _HEAD_V4,
    (True, False): Layout(">IIIiiqqiq20sq8siqi"),
    (False, True): Layout(">IIIiiqqiq8sq20siqi"),
    (True, True): Layout(">IIIiiqqiq20sq20siqi"),
}
_BODY_AT: Final = (88, 100, 100, 112)  # by which hosts are IPv6, as in sysFlag
_OFFSETS = Layout(">qq")
_SIZE_AND_MAGIC = Layout(">II")
_INT = Layout(">i")
_MAGIC_AND_FLAG = Layout(">4xI28xi")
_LONG = Layout(">q")
_CHECKED = Layout(">i4xi24xi44xi")  # size, body CRC, system flag; body size between IPv4 hosts
_BATCH_ITEM = Layout(">iiiii")  # size, magic, crc, flag, body length

assert _HEAD_V4.size == 88
RECORD_OVERHEAD: Final = 91  # of a V1 record between IPv4 hosts: all but topic, properties, body

_LENGTH_1: Final = [bytes((size,)) for size in range(256)]
_LENGTH_2 = Layout(">H")


class MalformedRecord(Malformed):
    """Bytes that are no message, or no batch of them."""


# --- hosts ----------------------------------------------------------------------------------------


def pack_host(host: str, port: int) -> bytes:
    """Address and port as records hold them: 8 bytes, or 20 for IPv6 (mapped ones become IPv4).

    Raises: ValueError for a name instead of an address, and for what is no port: consumers in Java
    cannot read a message of a host that has none.
    """
    if not 0 <= port <= PORT_MAX:
        raise ValueError(f"port {port}: 0 to {PORT_MAX} are possible")
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.packed + port.to_bytes(4, "big")


def unpack_host(packed: bytes) -> tuple[str, int]:
    """The inverse of `pack_host`."""
    return str(ip_address(packed[:-4])), int.from_bytes(packed[-4:], "big")


# --- records --------------------------------------------------------------------------------------


def encode_record(
    *,
    queue_id: int,
    flag: int,
    sys_flag: int,
    born_timestamp_ms: int,
    born_host: bytes,
    store_timestamp_ms: int,
    store_host: bytes,
    body: bytes,
    topic: str,
    properties: bytes = b"",
    reconsume_times: int = 0,
    prepared_offset: int = 0,
    queue_offset: int = 0,
    physical_offset: int = 0,
) -> bytes:
    """One record; hosts as `pack_host` gives them. The two offsets are usually patched in later.

    Raises: MalformedRecord if topic or properties are too long for their length fields.
    """
    layout = _HEAD_V4
    if len(born_host) != 8 or len(store_host) != 8:
        layout = _HEAD[len(born_host) == 20, len(store_host) == 20]
        sys_flag |= (len(born_host) == 20) * BORN_HOST_IPV6 | (
            len(store_host) == 20
        ) * STORE_HOST_IPV6
    elif sys_flag & _HOST_IPV6:
        sys_flag &= ~_HOST_IPV6
    name = topic.encode()
    name_size = len(name)
    body_size = len(body)
    properties_size = len(properties)
    if properties_size > property_text.PROPERTIES_SIZE_MAX:
        raise MalformedRecord(f"properties of {properties_size} bytes: at most 32767 fit")
    magic = MAGIC_V1
    if name_size <= TOPIC_SIZE_V1_MAX:
        name_length = _LENGTH_1[name_size]
    elif name_size <= TOPIC_SIZE_MAX:
        magic = MAGIC_V2
        name_length = _LENGTH_2.pack(name_size)
    else:
        raise MalformedRecord(f"topic of {name_size} bytes: at most {TOPIC_SIZE_MAX} fit")
    size = layout.size + body_size + len(name_length) + name_size + 2 + properties_size
    head = layout.pack(
        size,
        magic,
        crc32(body) & BODY_CRC_MASK,
        queue_id,
        flag,
        queue_offset,
        physical_offset,
        sys_flag,
        born_timestamp_ms,
        born_host,
        store_timestamp_ms,
        store_host,
        reconsume_times,
        prepared_offset,
        body_size,
    )
    return b"".join((head, body, name_length, name, _LENGTH_2.pack(properties_size), properties))


def encode_plain_record(
    queue_id: int,
    flag: int,
    sys_flag: int,
    born_timestamp_ms: int,
    born_host: bytes,
    store_timestamp_ms: int,
    store_host: bytes,
    reconsume_times: int,
    body: bytes,
    body_crc: int,
    topic: bytes,
    properties: bytes,
) -> bytes:
    """What `encode_record` makes of the same, at two thirds of its cost, for the usual message.

    `body_crc` is the body's CRC-32 under `BODY_CRC_MASK`. The hosts are IPv4 and `sys_flag` says
    so; `topic` has its length byte in front, at most 127; `properties` are at most 32767 bytes.
    None of this is checked.
    """
    body_size = len(body)
    properties_size = len(properties)
    head = _HEAD_V4.pack(
        90 + body_size + len(topic) + properties_size,
        MAGIC_V1,
        body_crc,
        queue_id,
        flag,
        0,
        0,
        sys_flag,
        born_timestamp_ms,
        born_host,
        store_timestamp_ms,
        store_host,
        reconsume_times,
        0,
        body_size,
    )
    return b"".join((head, body, topic, _LENGTH_2.pack(properties_size), properties))


def patch_offsets(buffer: bytearray, at: int, queue_offset: int, physical_offset: int) -> None:
    """Fill in the offsets of the record that begins at `at`."""
    _OFFSETS.pack_into(buffer, at + QUEUE_OFFSET_AT, queue_offset, physical_offset)


def record_size(buffer: bytes | bytearray | memoryview, at: int = 0) -> int:
    """The size of the record at `at`. Raises: MalformedRecord if none begins there."""
    if len(buffer) - at < RECORD_OVERHEAD:
        raise MalformedRecord(f"{len(buffer) - at} bytes at {at}: too few for a record")
    size, magic = _SIZE_AND_MAGIC.unpack_from(buffer, at)
    if magic not in (MAGIC_V1, MAGIC_V2):
        raise MalformedRecord(f"magic {magic:#010x} at {at} is none of a record's")
    if size < RECORD_OVERHEAD or at + size > len(buffer):
        raise MalformedRecord(f"record of {size} bytes at {at}, but the data ends at {len(buffer)}")
    return int(size)


def is_intact(buffer: memoryview, at: int, size: int) -> bool:
    """Whether a record of this size begins at `at`, with the body that was stored: the one its CRC
    is of. False for bytes that are no record."""
    if size < RECORD_OVERHEAD or at + size > len(buffer):
        return False
    found, crc, sys_flag, body_size = _CHECKED.unpack_from(buffer, at)
    body_at = _HEAD_V4.size
    if sys_flag & _HOST_IPV6:
        body_at = _BODY_AT[sys_flag >> 4 & 3]
        if body_at > size:
            return False
        (body_size,) = _INT.unpack_from(buffer, at + body_at - 4)
    body_at += at
    return bool(
        found == size
        and 0 <= body_size <= at + size - body_at
        and crc32(buffer[body_at : body_at + body_size]) & BODY_CRC_MASK == crc
    )


def store_timestamp_ms(buffer: bytes | bytearray | memoryview, at: int = 0) -> int:
    """When the record at `at` was stored."""
    (sys_flag,) = _INT.unpack_from(buffer, at + SYS_FLAG_AT)
    host_size = 20 if sys_flag & BORN_HOST_IPV6 else 8
    (stamp,) = _LONG.unpack_from(buffer, at + BORN_HOST_AT + host_size)
    return int(stamp)


def properties_of(buffer: bytes | bytearray | memoryview, at: int, size: int) -> str:
    """The properties of a record that is intact, and nothing else of it: a third of the cost of
    `decode_record`. What is not UTF-8 is replaced. Raises: MalformedRecord."""
    magic, sys_flag = _MAGIC_AND_FLAG.unpack_from(buffer, at)
    body_at = at + _BODY_AT[sys_flag >> 4 & 3]
    (body_size,) = _INT.unpack_from(buffer, body_at - 4)
    topic_at, end = body_at + body_size, at + size
    if magic == MAGIC_V2 and topic_at + 2 <= end:
        (topic_size,) = _LENGTH_2.unpack_from(buffer, topic_at)
        start = topic_at + 4 + topic_size
    else:
        start = topic_at + 3 + (buffer[topic_at] if topic_at < end else size)
    if start > end:
        raise MalformedRecord(f"record at {at}: its topic ends at {start}, the record at {end}")
    return str(buffer[start:end], "utf-8", "replace")


@define(kw_only=True)
class Record:
    """A stored message, taken apart. Not frozen, though nobody changes it: consumers make one per
    message, and freezing costs 1 µs."""

    size: int
    body_crc: int
    queue_id: int
    flag: int
    queue_offset: int
    physical_offset: int
    sys_flag: int
    born_timestamp_ms: int
    born_host: bytes
    store_timestamp_ms: int
    store_host: bytes
    reconsume_times: int
    prepared_offset: int
    body: bytes
    topic: str
    properties: str

    @property
    def offset_message_id(self) -> str:
        return offset_message_id(self.store_host, self.physical_offset)

    @property
    def reconsume_times_again(self) -> int:
        """How often it has come back with its next try, as far as can be counted."""
        return min(self.reconsume_times + 1, RECONSUME_TIMES_MAX)

    def property(self, key: str) -> str | None:
        """One property; None if absent or empty."""
        return property_text.find(self.properties, key)


def decode_record(buffer: bytes | bytearray | memoryview, at: int = 0) -> Record:
    """The record at `at`. The CRC is not checked: `is_intact` does.

    Raises: MalformedRecord.
    """
    size = record_size(buffer, at)
    (sys_flag,) = _INT.unpack_from(buffer, at + SYS_FLAG_AT)
    layout = _HEAD_V4
    if sys_flag & _HOST_IPV6:
        layout = _HEAD[bool(sys_flag & BORN_HOST_IPV6), bool(sys_flag & STORE_HOST_IPV6)]
        if layout.size > size:
            raise MalformedRecord(f"record of {size} bytes at {at}: too few for its hosts")
    fields = layout.unpack_from(buffer, at)
    end = at + size
    body_at = at + layout.size
    topic_at = body_at + fields[14]
    if fields[14] < 0 or topic_at + 2 > end:
        raise MalformedRecord(f"record at {at}: body of {fields[14]} bytes in {size}")
    if fields[1] == MAGIC_V2:
        (topic_size,) = _LENGTH_2.unpack_from(buffer, topic_at)
        topic_at += 2
    else:
        topic_size = buffer[topic_at]
        topic_at += 1
    properties_at = topic_at + topic_size + 2
    if properties_at > end:
        raise MalformedRecord(f"record at {at}: topic of {topic_size} bytes in {size}")
    (properties_size,) = _LENGTH_2.unpack_from(buffer, properties_at - 2)
    if properties_at + properties_size > end:
        raise MalformedRecord(f"record at {at}: properties of {properties_size} bytes in {size}")
    try:
        return Record(
            size=size,
            body_crc=fields[2],
            queue_id=fields[3],
            flag=fields[4],
            queue_offset=fields[5],
            physical_offset=fields[6],
            sys_flag=sys_flag,
            born_timestamp_ms=fields[8],
            born_host=fields[9],
            store_timestamp_ms=fields[10],
            store_host=fields[11],
            reconsume_times=fields[12],
            prepared_offset=fields[13],
            body=bytes(buffer[body_at : body_at + fields[14]]),
            topic=str(buffer[topic_at : properties_at - 2], "utf-8"),
            properties=str(buffer[properties_at : properties_at + properties_size], "utf-8"),
        )
    except UnicodeDecodeError as error:
        raise MalformedRecord(f"record at {at}: {error}") from error


def decode_records(data: bytes | bytearray | memoryview) -> list[Record]:
    """All records of a pull body. Raises: MalformedRecord; a cut record is one."""
    records = []
    at = 0
    while at < len(data):
        record = decode_record(data, at)
        records.append(record)
        at += record.size
    return records


# --- batches --------------------------------------------------------------------------------------


@frozen
class BatchItem:
    """One message of a batch as its producer wrote it."""

    flag: int
    body: bytes
    properties: bytes


def split_batch_body(body: bytes) -> list[BatchItem]:
    """The messages of a SEND_BATCH_MESSAGE body.

    Raises: MalformedRecord for lengths that do not fit into each other.
    """
    return [BatchItem(*item) for item in batch_items(body)]


def batch_items(body: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The same without an object for each: flag, body and properties.

    Raises: MalformedRecord once it comes to lengths that do not fit.
    """
    unpack_item, unpack_size = _BATCH_ITEM.unpack_from, _LENGTH_2.unpack_from
    at, whole = 0, len(body)
    while at < whole:
        if whole - at < _BATCH_ITEM.size + 2:
            raise MalformedRecord(f"batch item at {at}: only {whole - at} bytes are left")
        size, _magic, _crc, flag, body_size = unpack_item(body, at)
        if size < _BATCH_ITEM.size + 2 or at + size > whole:
            raise MalformedRecord(f"batch item at {at}: size {size}, {whole - at} are left")
        body_at = at + _BATCH_ITEM.size
        middle, end = body_at + body_size, at + size
        if body_size < 0 or middle + 2 > end:
            raise MalformedRecord(f"batch item at {at}: body of {body_size} bytes in {size}")
        (properties_size,) = unpack_size(body, middle)
        if middle + 2 + properties_size != end:
            raise MalformedRecord(f"batch item at {at}: properties of {properties_size} bytes")
        yield flag, body[body_at:middle], body[middle + 2 : end]
        at = end


def encode_batch_body(items: Iterable[BatchItem]) -> bytes:
    """The body of a batch; what a producer sends."""
    parts: list[bytes] = []
    for item in items:
        size = _BATCH_ITEM.size + len(item.body) + 2 + len(item.properties)
        parts += (
            _BATCH_ITEM.pack(size, 0, 0, item.flag, len(item.body)),
            item.body,
            _LENGTH_2.pack(len(item.properties)),
            item.properties,
        )
    return b"".join(parts)


# --- ids and tags ---------------------------------------------------------------------------------


def offset_message_id(host: bytes, position: int) -> str:
    """The id from which a client can find the message again: store host and physical offset.

    Go's transaction producer panics on a malformed one, so every send answer carries it.
    """
    return f"{host.hex().upper()}{position:016X}"


def parse_offset_message_id(text: str) -> tuple[str, int, int]:
    """Host, port and physical offset. Raises: MalformedRecord."""
    try:
        raw = bytes.fromhex(text)
    except ValueError as error:
        raise MalformedRecord(f"message id {text[:60]!r} is not hexadecimal") from error
    if len(raw) not in (16, 28):
        raise MalformedRecord(f"message id {text[:60]!r}: 32 or 56 characters are expected")
    host, port = unpack_host(raw[:-8])
    return host, port, int.from_bytes(raw[-8:], "big")


def unique_key(host: bytes, process_id: int, salt: int, since_month_ms: int, counter: int) -> str:
    """A client-side message id (UNIQ_KEY), for those who send none.

    `host` is packed, its port is not used; `since_month_ms` counts from the first day of the
    month, which is how tools estimate the time of sending from it.
    """
    return (
        f"{host[:-4].hex().upper()}{process_id & 0xFFFF:04X}{salt & 0xFFFFFFFF:08X}"
        f"{since_month_ms & 0xFFFFFFFF:08X}{counter & 0xFFFF:04X}"
    )


def tags_code(tag: str) -> int:
    """Java's String.hashCode of a tag, what subscriptions are matched by; no tag is 0."""
    return _short_code(tag) if len(tag) <= _TAG_REMEMBERED_MAX else _code(tag)


def _code(tag: str) -> int:
    units = tag.encode("utf-16-be", "surrogatepass")
    code = 0
    for at in range(0, len(units), 2):
        code = (31 * code + (units[at] << 8 | units[at + 1])) & 0xFFFFFFFF
    return code - ((code & 0x80000000) << 1)


_short_code = lru_cache(maxsize=4096)(_code)  # tags repeat; the loop costs 0.1 µs a character
