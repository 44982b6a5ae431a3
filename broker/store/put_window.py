"""Where the newest messages of the log stand, by what tells them apart: topic, unique id and body.

Made from the log alone, entry by entry as they are applied, so every member has the same in it and
none of it is written down; a start reads the end of the log again (`look_back`).

Laws
- The newest `count` messages are in it, and at most as many again. Of two that are alike the newer
  one counts. Messages without a unique id are not in it, nor what consumers sent back (retry and
  dead-letter topics): that is alike on purpose. Of those that wait (delayed, half) the topic is the
  one they are meant for.
- An identity is a hash, and the tables keep 46 bits of it: what is found is a position worth
  looking at, never a proof. Whoever asks compares the record there. One message in a hundred
  million is taken for another one, and forgotten.
- 16 bytes a message and no object, in two tables of which the older is dropped as a whole: nothing
  here takes longer for being fuller, and nothing is ever collected.

Elsewhere: what is done with a message that is found (`broker.serving.duplicates`).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from attrs import define, field, frozen

from broker.formats import UNIT_PLACE
from broker.machine import names, put_messages
from broker.machine.codec import decode_command
from broker.machine.effects import IndexMessages
from broker.machine.put_messages import MESSAGE, decode_put_messages
from broker.machine.replies import MessageReply, Reason
from broker.machine.timer_wheel import WAITING_TOPICS
from dledger_py.ledger.machine import Applied, Committed
from dledger_py.remoting.wire import properties as props

_UNIQUE_ID: Final = f"{props.UNIQ_KEY}\x01".encode()
_REAL_TOPIC: Final = f"{props.REAL_TOPIC}\x01".encode()
_END: Final = b"\x02"

# A slot: some bits of the identity, and how far behind its table's first message the message lies.
_DISTANCE_BITS: Final = 36  # 64 GiB of log; a table never spans more
_DISTANCE_MAX: Final = (1 << _DISTANCE_BITS) - 1
_TAG: Final = ((1 << 64) - 1) ^ _DISTANCE_MAX

STORED_FOR_ANOTHER: Final = frozenset({*WAITING_TOPICS, names.HALF_TOPIC})

_SPAN_MAX: Final = _DISTANCE_MAX - (1 << 30)  # an entry is far smaller

_RUN_UNITS: Final = 512  # put without looking whether there is room for them
_RUN_BYTES: Final = _RUN_UNITS * UNIT_PLACE.size

_STEP_ENTRIES: Final = 64  # of the log, looked back at together, at first
_STEP_BYTES: Final = 4 * 1024 * 1024  # and what it aims at: reading it costs more than beginning to


def identity_of(data: bytes, at: int, end: int, topic: str) -> int:
    """What tells the record at `at` apart from others of this topic; 0 if it has no unique id.

    The same on every member of a process's life, and within it only.
    """
    start = data.rfind(_UNIQUE_ID, at, end)
    if start < 0:
        return 0
    stop = data.find(_END, start, end)
    unique_id = data[start : end if stop < 0 else stop + 1]
    return hash(unique_id + data[at + 8 : at + 12]) ^ hash(topic)  # bytes 8 to 12: the body's CRC


def identity(unique_id: str, record: bytes, topic_hash: int) -> int:
    """The same for a record that has this unique id, and properties behind it."""
    return hash(f"UNIQ_KEY\x01{unique_id}\x02".encode() + record[8:12]) ^ topic_hash


def meant_for(data: bytes, at: int, end: int, topic: str) -> str | None:
    """The topic a record stored in `topic` counts for; None for one that is sent back."""
    if topic in STORED_FOR_ANOTHER:
        start = data.rfind(_REAL_TOPIC, at, end)
        if start < 0:
            return None
        start += len(_REAL_TOPIC)
        topic = data[start : data.find(_END, start, end)].decode("utf-8", "replace")
    if names.is_retry_topic(topic) or names.is_dead_letter_topic(topic):
        return None
    return topic


def slots_for(count: int) -> int:
    """A power of two, at least twice of what a table can come to hold: half empty, it is quick."""
    return 1 << (2 * (count + _RUN_UNITS) - 1).bit_length()


@define(eq=False)
class _Table:
    """Open addressing with linear probing; 0 is an empty slot."""

    slots: array[int] = field(factory=lambda: array("Q", (0,)))
    base: int = 0
    """One less than the log position of its first message, so that no slot in use is 0."""
    count: int = 0


@frozen
class _Unread:
    """An entry that messages came by, not read yet."""

    committed: Committed
    outcome: Applied


@define(eq=False)
class PutWindow:
    """The tables. Event loop, but for `look_back`, which runs before anything is applied."""

    count: int
    """How many of the newest messages are in it for certain."""
    _new: _Table = field(factory=_Table, init=False)
    _old: _Table = field(factory=_Table, init=False)
    _mask: int = field(default=0, init=False)
    _unread: _Unread | None = field(default=None, init=False)
    _gap: int = field(default=0, init=False)
    """How far before its record's end the last unique id began; the next one's mostly, too."""
    _width: int = field(default=0, init=False)

    def __len__(self) -> int:
        """How many messages are in it."""
        return self._new.count + self._old.count

    def find(self, identity: int) -> int:
        """The log position of the newest message that may have this identity; -1 for none."""
        if self._unread is not None:
            self.read()
        tag, mask = identity & _TAG, self._mask
        table = self._new
        slots, at = table.slots, identity & mask
        found = slots[at]
        while found:  # twice the same, as a loop over the tables would cost as much again
            if found & _TAG == tag:
                return table.base + (found & _DISTANCE_MAX)
            at = at + 1 & mask
            found = slots[at]
        table = self._old
        slots, at = table.slots, identity & mask
        found = slots[at]
        while found:
            if found & _TAG == tag:
                return table.base + (found & _DISTANCE_MAX)
            at = at + 1 & mask
            found = slots[at]
        return -1

    def applied(self, committed: Committed, outcome: Applied) -> None:
        """An entry of the log was applied, and this came of it. It is read once it is asked for, or
        the next one comes; unless the one who proposed it says what is in it, by `settled`."""
        if committed.payload[0] == put_messages.TAG:
            self.read()
            self._unread = _Unread(committed, outcome)

    def settled(self, replies: Sequence[MessageReply], identities: Collection[int]) -> None:
        """An entry got these replies, and those of its messages that have one these identities, in
        their order. If all have one, it need not be read."""
        unread, count = self._unread, len(replies)
        if unread is None or unread.outcome.reply is not replies:
            return
        if count == len(identities) <= _RUN_UNITS:
            self._unread = None
            self._put_all(identities, replies, unread.committed.position)

    def read(self) -> None:
        """Read the entry that was applied last, if nobody has."""
        unread, self._unread = self._unread, None
        if unread is not None:
            self._read(unread)

    def _read(self, unread: _Unread) -> None:
        payload, position = bytes(unread.committed.payload), unread.committed.position
        for effect in unread.outcome.effects:
            if type(effect) is IndexMessages:
                self.add(effect.topic, effect.units, payload, position)

    def _put_all(
        self, identities: Iterable[int], replies: Sequence[MessageReply], position: int
    ) -> None:
        table = self._roomy(position)
        slots, mask, base, added = table.slots, self._mask, table.base, 0
        for identity, reply in zip(identities, replies, strict=True):
            if isinstance(reply, Reason):
                continue
            _offset, at = reply
            tag = identity & _TAG
            slot = identity & mask
            found = slots[slot]
            while found and found & _TAG != tag:
                slot = slot + 1 & mask
                found = slots[slot]
            if not found:
                added += 1
            slots[slot] = tag | at - base
        table.count += added

    def add(self, topic: str, units: bytes, payload: bytes, position: int) -> None:
        """The records of a payload at this log position that have come to a queue: `units` says
        which (`broker.formats.UNIT`). They stand behind all others."""
        if topic in STORED_FOR_ANOTHER or topic.startswith("%"):
            self._add_each(_each(topic, units, payload, position))
            return
        for first in range(0, len(units), _RUN_BYTES):
            self._add_run(topic, units[first : first + _RUN_BYTES], payload, position)

    def _add_run(self, topic: str, units: bytes, payload: bytes, position: int) -> None:
        table = self._roomy(position)
        slots, mask, base, added = table.slots, self._mask, table.base, 0
        topic_hash = hash(topic)
        width = self._width
        gap_end, crc_at, crc_end = position + self._gap, position - 8, position - 12
        for at, size in UNIT_PLACE.iter_unpack(units):
            # Most unique ids are as long as the one before, and as far from their record's end.
            start = at + size - gap_end
            unique_id = payload[start : start + width]
            if unique_id[:9] != _UNIQUE_ID or unique_id.find(_END) + 1 != width:
                end = at + size - position
                found = payload.rfind(_UNIQUE_ID, at - position, end)
                if found < 0:
                    continue
                stop = payload.find(_END, found, end)
                unique_id = payload[found : end if stop < 0 else stop + 1]
                gap_end, width = position + end - found, len(unique_id)
            identity = hash(unique_id + payload[at - crc_at : at - crc_end]) ^ topic_hash
            tag = identity & _TAG
            slot = identity & mask
            found = slots[slot]
            while found and found & _TAG != tag:
                slot = slot + 1 & mask
                found = slots[slot]
            if not found:
                added += 1
            slots[slot] = tag | at - base
        table.count += added
        self._gap, self._width = gap_end - position, width

    def look_back(
        self,
        first_index: int,
        last_index: int,
        commands: Callable[[int, int], Iterable[Committed]],
        age_max_ms: int,
    ) -> None:
        """Begin with what these entries of the log put, as far back as it counts: `commands` gives
        those from one entry to another. **Blocks.**"""
        assert not len(self), "something was applied already"
        newer: list[list[tuple[int, int]]] = []
        count = 0
        newest_ms = None
        step = _STEP_ENTRIES
        while first_index <= last_index and count < self.count:
            begin = max(first_index, last_index - step + 1)
            found: list[tuple[int, int]] = []
            oldest_ms, size = None, 1
            for command in commands(begin, last_index):
                payload = bytes(command.payload)
                if oldest_ms is None:
                    oldest_ms = decode_command(payload).stamped_ms
                found += _identities(payload, command.position)
                size += len(payload)
            newer.append(found)
            count += len(found)
            if newest_ms is None:
                newest_ms = oldest_ms
            elif oldest_ms is not None and oldest_ms < newest_ms - age_max_ms:
                break
            last_index = begin - 1
            step = max(1, min(step * _STEP_BYTES // size, 2 * step))
        for step_found in reversed(newer):
            self._add_each(step_found)

    def _add_each(self, places: Iterable[tuple[int, int]]) -> None:
        for identity, position in places:
            table = self._roomy(position)
            slots, mask, tag = table.slots, self._mask, identity & _TAG
            slot = identity & mask
            while slots[slot] and slots[slot] & _TAG != tag:
                slot = slot + 1 & mask
            table.count += not slots[slot]
            slots[slot] = tag | position - table.base

    def _roomy(self, position: int) -> _Table:
        """The newer table; a fresh one, if it is full or a message there would be too far away."""
        table = self._new
        if not self._mask or table.count >= self.count or position - table.base > _SPAN_MAX:
            size = slots_for(self.count)
            fresh = array("Q", bytes(8 * size))
            if not self._mask:
                self._mask = size - 1
                table.slots = fresh  # both have as many slots
            self._old = table
            table = self._new = _Table(array("Q", bytes(8 * size)), position - 1)
        return table


def _each(topic: str, units: bytes, payload: bytes, position: int) -> Iterator[tuple[int, int]]:
    """The identity and log position of each record whose topic has to be looked for in it."""
    for at, size in UNIT_PLACE.iter_unpack(units):
        start = at - position
        counts_for = meant_for(payload, start, start + size, topic)
        if counts_for is not None:
            identity = identity_of(payload, start, start + size, counts_for)
            if identity:
                yield identity, at


def _identities(payload: bytes, position: int) -> list[tuple[int, int]]:
    """The same for each record of a command that producers' messages come by."""
    if payload[0] != put_messages.TAG:
        return []
    put = decode_put_messages(payload)
    found = []
    at = put.records_at
    for number, size, _tags_code in MESSAGE.iter_unpack(put.table):
        topic = meant_for(payload, at, at + size, put.queues[number][0])
        if topic is not None:
            identity = identity_of(payload, at, at + size, topic)
            if identity:
                found.append((identity, position + at))
        at += size
    return found
