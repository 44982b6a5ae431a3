"""The body of a broker's registration: plain JSON, or compressed and laid out by hand.

Source: RegisterBrokerBody. Java 5.3 compresses the body and yet says compressed=false, so the form
is told by its first byte. The text form loses order and sysFlag; that is how Java has it.
"""

import zlib
from struct import Struct as Layout
from typing import Final

from attrs import frozen

from dledger_py.remoting.commands.json_bodies import (
    MalformedBody,
    decode_body,
    encode_body,
    parse,
)
from dledger_py.remoting.commands.topics import DataVersion, TopicConfig, TopicTable

# What a body may inflate to: some 100,000 topics. Java has no limit.
INFLATED_SIZE_MAX: Final = 16 * 1024 * 1024

_LENGTH = Layout(">i")


@frozen(kw_only=True)
class RegisterBody:
    """What a broker serves."""

    topic_config_serialize_wrapper: TopicTable = TopicTable()
    filter_server_list: tuple[str, ...] = ()


def encode_registration(body: RegisterBody) -> bytes:
    """The plain form, which every name server reads."""
    return encode_body(body)


def decode_registration(body: bytes) -> RegisterBody:
    """Any form, whatever the header says of it. Raises: MalformedBody."""
    if not body:
        return RegisterBody()
    if body[:1] != b"{":
        return _decode_compressed(body)
    if b'"topicConfigSerializeWrapper"' not in body and b'"topicConfigTable"' in body:
        # Brokers before 3.0.11 send the table alone.
        return RegisterBody(topic_config_serialize_wrapper=decode_body(TopicTable, body))
    return decode_body(RegisterBody, body)


def crc_of(body: bytes) -> int:
    """The header's bodyCrc32, over the body as sent."""
    return zlib.crc32(body) & 0x7FFFFFFF


def _decode_compressed(body: bytes) -> RegisterBody:
    reader = _Pieces(_inflate(body))
    version = decode_body(DataVersion, reader.piece())
    topics = [_topic(reader.piece()) for _ in range(reader.length())]
    filters = parse(reader.piece())
    # A section about static topics may follow; we have none.
    return RegisterBody(
        topic_config_serialize_wrapper=TopicTable(
            data_version=version,
            topic_config_table={topic.topic_name: topic for topic in topics},
        ),
        filter_server_list=tuple(map(str, filters)) if isinstance(filters, list) else (),
    )


def _inflate(body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(body, INFLATED_SIZE_MAX)
    except zlib.error as error:
        raise MalformedBody(f"registration is not a zlib stream: {error}") from error
    if inflater.unconsumed_tail or not inflater.eof:
        raise MalformedBody(f"registration is cut off or inflates beyond {INFLATED_SIZE_MAX} bytes")
    return data


def _topic(text: bytes) -> TopicConfig:
    words = text.decode(errors="replace").split(" ", 5)
    try:
        name, read, write, perm, filter_type = words[:5]
        attributes = parse(words[5].encode()) if len(words) > 5 and words[5] else None
        return TopicConfig(
            topic_name=name,
            read_queue_nums=int(read),
            write_queue_nums=int(write),
            perm=int(perm),
            topic_filter_type=filter_type,
            attributes=attributes if isinstance(attributes, dict) else {},
        )
    except ValueError as error:
        raise MalformedBody(f"topic settings {text[:80]!r}: {error}") from error


class _Pieces:
    """Length-prefixed pieces of an inflated body."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def length(self) -> int:
        if self._at + 4 > len(self._data):
            raise MalformedBody(f"registration ends at {len(self._data)}, a length is missing")
        (value,) = _LENGTH.unpack_from(self._data, self._at)
        self._at += 4
        if value < 0:
            raise MalformedBody(f"registration: length {value} at {self._at - 4}")
        return int(value)

    def piece(self) -> bytes:
        size = self.length()
        end = self._at + size
        if end > len(self._data):
            raise MalformedBody(f"registration: {size} bytes at {self._at} of {len(self._data)}")
        piece = self._data[self._at : end]
        self._at = end
        return piece
