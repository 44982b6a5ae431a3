"""The records within the log's entries, whatever kind of command brought them there.

Laws: this is the one place that knows which commands hold records. A record stands in the table of
its command, so nothing within a body is ever taken for one; whether it also got an offset is what
the queues say (`message_lookup.confirmed`).
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from attrs import frozen

from broker.machine import end_transaction, moves, put_messages, revivals
from broker.machine.end_transaction import decode_end_transaction
from broker.machine.moves import decode_move
from broker.machine.put_messages import MESSAGE, PutMessages, decode_put_messages
from broker.machine.revivals import decode_revival
from dledger_py.remoting.wire import properties
from dledger_py.remoting.wire.message import (
    TRANSACTION_MASK,
    TRANSACTION_ROLLBACK,
    Record,
    decode_record,
)
from dledger_py.storage.formats import KIND_COMMAND


class StoredEntry(Protocol):
    """An entry as the log reads it."""

    @property
    def index(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def payload(self) -> memoryview: ...
    @property
    def payload_position(self) -> int: ...
    @property
    def raw(self) -> memoryview:
        """The payload with the entry's header before it."""


@frozen(kw_only=True)
class Wanted:
    """Messages of a topic that have a key, stored within a time; both ends of it count."""

    topic: str
    key: str
    begin_ms: int
    end_ms: int
    unique: bool
    """Only the unique key counts, not the words of KEYS."""

    def fits(self, record: Record) -> bool:
        if record.topic != self.topic:
            return False
        if not self.begin_ms <= record.store_timestamp_ms <= self.end_ms:
            return False
        if record.sys_flag & TRANSACTION_MASK == TRANSACTION_ROLLBACK:
            return False
        if record.property(properties.UNIQ_KEY) == self.key:
            return True
        words = (record.property(properties.KEYS) or "").split(properties.KEY_SEPARATOR)
        return not self.unique and self.key in words


def puts_in(payload: memoryview) -> Iterator[tuple[int, PutMessages]]:
    """Each `PutMessages` of a command: where in the payload it begins, and what it says."""
    if payload[0] == put_messages.TAG:
        yield 0, decode_put_messages(payload)
    elif payload[0] == moves.TAG:
        command = decode_move(payload)
        yield command.messages_at, command.messages
    elif payload[0] == revivals.TAG:
        revived = decode_revival(payload)
        yield revived.messages_at, revived.messages
    elif payload[0] == end_transaction.TAG:
        messages = decode_end_transaction(payload).messages
        if messages is not None:
            yield end_transaction.HEAD.size, messages


def matches(entries: Sequence[StoredEntry], wanted: Wanted) -> list[int]:
    """The log positions of the records that fit, in their order.

    An entry whose bytes do not have the key is passed over at the speed of `bytes.find`.
    """
    key = wanted.key.encode()
    found = []
    for entry in entries:
        if entry.kind != KIND_COMMAND:
            continue
        payload = bytes(entry.payload)
        if key in payload:
            for start, put in puts_in(memoryview(payload)):
                found += [
                    entry.payload_position + at for at in _fitting(payload, start, put, wanted)
                ]
    return found


def _fitting(payload: bytes, start: int, put: PutMessages, wanted: Wanted) -> Iterator[int]:
    """Where in the payload the records begin that fit."""
    numbers = {number for number, (topic, _) in enumerate(put.queues) if topic == wanted.topic}
    key = wanted.key.encode()
    at = start + put.records_at
    for number, size, _tags_code in MESSAGE.iter_unpack(put.table):
        if (
            number in numbers
            and payload.find(key, at, at + size) >= 0
            and wanted.fits(decode_record(payload, at))
        ):
            yield at
        at += size
