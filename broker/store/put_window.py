"""Where the newest messages of the log stand, by what tells them apart: topic, unique id and body.

Made from the log alone, entry by entry as they are applied, so none of it is replicated or written
down. It is kept on the member that leads; a new leader reads the log's end first (`look_back`).

Laws
- The newest `count` messages are in it, at most a third more, and what one entry has, or one step
  of looking back. Of two that are alike the newer one counts. Messages without a unique id are not
  in it, nor what consumers sent back (retry and dead-letter topics): that is alike on purpose. Of
  those that wait (delayed, half) the topic is the one they are meant for.
- An identity is a hash: what is found is an entry worth looking at, never a proof. Whoever asks
  compares the record there.
- Nothing is done message by message that can be done for an entry: its messages share one place,
  and the oldest of four tables goes as a whole. A message takes some 60 bytes.

Elsewhere: what is done with a message that is found (`broker.serving.duplicates`), and when it is
kept and looked back for (`broker.serving.window_keeper`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from struct import Struct, unpack
from typing import Final, TypeVar

from attrs import define, field, frozen

from broker.formats import UNIT_PLACE
from broker.machine import names, put_messages
from broker.machine.effects import IndexMessages
from broker.machine.put_messages import HEAD, MESSAGE, QUEUE, decode_put_messages
from broker.machine.replies import MessageReply
from broker.machine.timer_wheel import WAITING_TOPICS
from dledger_py.ledger.log_commands import Payload
from dledger_py.ledger.machine import Applied, Committed
from dledger_py.remoting.wire import properties as props
from dledger_py.storage.formats import PAYLOAD_MAX_BYTES

_UNIQUE_ID: Final = f"{props.UNIQ_KEY}\x01".encode()
_REAL_TOPIC: Final = f"{props.REAL_TOPIC}\x01".encode()
_END: Final = b"\x02"
_NAME_BYTES: Final = len(_UNIQUE_ID)

_body_crc: Final[Callable[[bytes | bytearray, int], tuple[int]]] = Struct(">8xI").unpack_from

STORED_FOR_ANOTHER: Final = frozenset({*WAITING_TOPICS, names.HALF_TOPIC})

_TABLES: Final = 4  # a fourth of the memory is for messages that need not be there any more

_SLOTS: Final = 1 << 20
_SLOT_MASK: Final = _SLOTS - 1
_GENERATIONS: Final = 255  # of tables, told apart in a byte

_SIZE_BITS: Final = PAYLOAD_MAX_BYTES.bit_length()
_SIZE_MASK: Final = (1 << _SIZE_BITS) - 1

_STEP_ENTRIES: Final = 64  # of the log, looked back at together, at first
_STEP_ENTRIES_MAX: Final = 4096
_STEP_BYTES: Final = 4 * 1024 * 1024  # and what it aims at: reading it costs more than beginning to
_STEP_BYTES_MAX: Final = 2 * _STEP_BYTES  # broken off, and begun anew with fewer entries

_GAP_MAX_MS: Final = 5_000  # between the stamps of two entries; more may be a clock that was set

LOOK_BACK_ENTRIES_MAX: Final = 20_000
LOOK_BACK_BYTES_MAX: Final = 256 * 1024 * 1024
"""Of the log, read by a new leader, which serves nobody meanwhile: some tenths of a second at most,
if it is in the page cache. So many entries take a busy group some ten seconds to make."""


_Bytes = TypeVar("_Bytes", bytes, bytearray)

Place = tuple[int, int]
"""Log position and size of a command's payload: one for all messages that came by it."""


def identity_of(data: bytes, at: int, end: int, topic: str) -> int:
    """What tells the record at `at` apart from others of this topic; 0 if it has no unique id.

    The same as long as a process lives, and no longer. `rooms.usual_sends` makes it by itself.
    """
    unique_id = unique_id_in(data, at, end)
    if not unique_id:
        return 0
    return _hash_of_id(unique_id) ^ _body_crc(data, at)[0] ^ hash(topic)


def unique_id_in(data: _Bytes, at: int, end: int) -> _Bytes:
    """The last property of that name in the record at `at`, as it stands there; empty for none."""
    start = data.rfind(_UNIQUE_ID, at, end)
    return data[start : data.find(_END, start, end) + 1 or end] if start >= 0 else data[:0]


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


@frozen
class _Unread:
    """An entry that messages came by, not read yet."""

    committed: Committed
    outcome: Applied


@define(eq=False)
class PutWindow:
    """The tables. Event loop; a thread may `look_back` with one of its own."""

    count: int
    """How many of the newest messages are in it for certain."""
    kept: bool = field(default=False, init=False)
    """Whether what is applied is put in."""
    oldest_position: int = field(default=0, init=False)
    """Of the log; what stands before it is too old to be found."""
    _newest: dict[int, int] = field(factory=dict, init=False)
    """Identities to places. A place is one number here: of tables with nothing but numbers the
    garbage collector knows nothing, and others of this size cost more than all the rest."""
    _second: dict[int, int] = field(factory=dict, init=False)
    _third: dict[int, int] = field(factory=dict, init=False)
    _oldest: dict[int, int] = field(factory=dict, init=False)
    _slots: bytearray = field(factory=partial(bytearray, _SLOTS), init=False)
    """For the end of each identity the generation of the newest table that has such a one: most
    messages are new, and one look here tells it, instead of one into each table. Memory that nobody
    has written to is none."""
    _generation: int = field(default=_TABLES, init=False)
    """Of the newest table; the others have those before."""
    _unread: _Unread | None = field(default=None, init=False)
    _gap: int = field(default=0, init=False)
    """How far before its record's end the last unique id began; the next one's mostly, too."""
    _width: int = field(default=0, init=False)

    def __len__(self) -> int:
        """How many messages are in it."""
        return len(self._newest) + len(self._second) + len(self._third) + len(self._oldest)

    def __contains__(self, identity: int) -> bool:
        """Whether a message of this identity may be found."""
        if self._unread is not None:
            self.read()
        return self._slots[identity & _SLOT_MASK] > self._generation - _TABLES and (
            identity in self._newest
            or identity in self._second
            or identity in self._third
            or identity in self._oldest
        )

    def find(self, identity: int) -> Place | None:
        """The entry with the newest message that may have this identity."""
        self.read()
        for table in (self._newest, self._second, self._third, self._oldest):
            found = table.get(identity)
            if found is not None:
                position = found >> _SIZE_BITS
                return None if position < self.oldest_position else (position, found & _SIZE_MASK)
        return None

    def begin(self) -> None:
        """From here on, put in what is applied. It is empty, until `put_behind`."""
        self.end()
        self.kept = True

    def end(self) -> None:
        """Keep it no longer, and forget what is in it."""
        self.kept, self.oldest_position = False, 0
        self._unread = None
        self._newest, self._second, self._third, self._oldest = {}, {}, {}, {}
        self._slots, self._generation = bytearray(_SLOTS), _TABLES

    def put_behind(self, older: PutWindow) -> None:
        """All that is in another one came before what is in this: one window of both. The other one
        is of no use any more."""
        self.read()
        for table in (self._oldest, self._third, self._second, self._newest):
            older._add(table)
        self._newest, self._second = older._newest, older._second
        self._third, self._oldest = older._third, older._oldest
        self._slots, self._generation = older._slots, older._generation

    def applied(self, committed: Committed, outcome: Applied) -> None:
        """An entry of the log was applied, and this came of it. It is read once it is asked for, or
        the next one comes; unless the one who proposed it says what is in it, by `settled`."""
        if self.kept and committed.payload[0] == put_messages.TAG:
            self.read()
            self._unread = _Unread(committed, outcome)

    def settled(
        self,
        replies: Sequence[MessageReply],
        identities: Collection[int],
        others: Collection[int] = (),
    ) -> None:
        """An entry got these replies, and those of its messages that have one these identities. If
        all have one, it need not be read."""
        unread = self._unread
        if unread is None or unread.outcome.reply is not replies:
            return
        if len(replies) == len(identities) + len(others):
            self._unread = None
            place = _place(unread.committed.position, len(unread.committed.payload))
            self._put(dict.fromkeys(identities, place))
            if others:
                self._add(dict.fromkeys(others, place))

    def read(self) -> None:
        """Read the entry that was applied last, if nobody has."""
        unread, self._unread = self._unread, None
        if unread is None:
            return
        committed = unread.committed
        payload, position = bytes(committed.payload), committed.position
        place = _place(position, len(payload))
        for effect in unread.outcome.effects:
            if type(effect) is IndexMessages:
                records = list(UNIT_PLACE.iter_unpack(effect.units))
                identities = self._identities(effect.topic, records, payload, position)
                self._put(dict.fromkeys(identities, place))

    def look_back(
        self,
        first_index: int,
        last_index: int,
        payloads: Callable[[int, int], Iterable[Payload]],
        age_max_ms: int,
    ) -> None:
        """Put in what these entries of the log put, as far back as it counts, the log goes and the
        bounds above allow: `payloads` gives those from one entry to another, or raises LookupError.
        **Blocks.** **Raises** what else it raises.

        How old an entry is, the stamps between it and the last one tell, and no clock. Leaders'
        clocks may differ: a leap between two entries counts for little, whichever way it goes.
        """
        assert not len(self), "it is of use to an empty one only"
        newer: list[dict[int, int]] = []
        count = size = age_ms = 0
        next_ms = None
        step = _STEP_ENTRIES
        first_index = max(first_index, last_index - LOOK_BACK_ENTRIES_MAX + 1)
        while (
            first_index <= last_index
            and count < self.count
            and size < LOOK_BACK_BYTES_MAX
            and age_ms <= age_max_ms
        ):
            begin = max(first_index, last_index - step + 1)
            try:
                found, stamps_ms, step_size = self._look_at(payloads(begin, last_index))
            except LookupError:  # retention has let go of it meanwhile
                break
            if step_size > _STEP_BYTES_MAX and begin < last_index:  # larger ones than behind them
                step = max(1, (last_index - begin + 1) // 8)
                continue
            newer.append(found)
            count += len(found)
            size += step_size
            if stamps_ms:
                age_ms += _passed_ms([*stamps_ms, next_ms or stamps_ms[-1]])
                next_ms = stamps_ms[0]
            last_index = begin - 1
            step = max(1, min(step * _STEP_BYTES // max(1, step_size), 2 * step, _STEP_ENTRIES_MAX))
        for found in reversed(newer):
            self._put(found)

    def _look_at(self, payloads: Iterable[Payload]) -> tuple[dict[int, int], list[int], int]:
        """Identities and places of what they put; when each put was stamped; the size of all, which
        is too large if there were more to look at."""
        found: dict[int, int] = {}
        hashes: dict[bytes, int | None] = {}
        stamps_ms: list[int] = []
        looked_at = 0
        for data, start, end, position in payloads:
            if looked_at > _STEP_BYTES_MAX:
                break
            size = end - start
            looked_at += size
            if data[start] != put_messages.TAG:
                continue
            _tag, _version, stamped_ms, queues, messages = HEAD.unpack_from(data, start)
            stamps_ms.append(stamped_ms)
            place = _place(position, size)
            if messages < 2 * queues:  # few have a queue in common
                scattered = _scattered(data, start + HEAD.size, queues, messages, hashes)
                if scattered is not None:
                    found.update(dict.fromkeys(scattered, place))
                    continue
            payload = bytes(data[start:end])
            for name, records in _by_topic(payload, position).items():
                identities = self._identities(name, records, payload, position)
                found.update(dict.fromkeys(identities, place))
        return found, stamps_ms, looked_at

    def _put(self, found: Mapping[int, int]) -> None:
        """These identities have these places."""
        if len(self._newest) * (_TABLES - 1) >= self.count:
            self._oldest, self._third, self._second = self._third, self._second, self._newest
            self._newest = {}
            self._generation += 1
            if self._generation > _GENERATIONS:
                self._number_anew()
        self._add(found)

    def _add(self, found: Mapping[int, int]) -> None:
        """Put them into the newest table, full or not."""
        self._newest.update(found)
        _mark(self._slots, self._generation, found)

    def _number_anew(self) -> None:
        self._slots, self._generation = bytearray(_SLOTS), _TABLES
        for generation, table in enumerate((self._oldest, self._third, self._second), 1):
            _mark(self._slots, generation, table)

    def _identities(
        self, topic: str, places: list[tuple[int, int]], payload: bytes, position: int
    ) -> list[int]:
        """Of records that were stored in a topic, each with its log position and size; the payload
        begins at `position`."""
        if topic in STORED_FOR_ANOTHER or topic.startswith("%"):
            return _one_by_one(topic, places, payload, position)
        # Most unique ids are as long as the one before, and as far from their record's end. Then
        # all is cut out by one expression, and looked at in one piece.
        width, far = self._width, position + self._gap
        ids = [payload[(begin := at + size - far) : begin + width] for at, size in places]
        joined = b"".join(ids)
        if not _are_unique_ids(joined, len(ids), width):
            return self._searched(topic, places, payload, position)
        crc_at, crc_end = position - 8, position - 12
        crcs = b"".join([payload[at - crc_at : at - crc_end] for at, _size in places])
        return _together(topic, joined, crcs, width)

    def identities_of(self, topic: str, records: Sequence[bytes]) -> list[int]:
        """Of records that are to be stored in a topic, in which all messages are meant for it."""
        far, width = self._gap, self._width
        ids = [record[-far : width - far] for record in records]
        joined = b"".join(ids)
        if far <= width or not _are_unique_ids(joined, len(ids), width):
            return [
                identity
                for record in records
                for identity in self._searched(topic, [(0, len(record))], record, 0)
            ]
        crcs = b"".join([record[8:12] for record in records])
        return _together(topic, joined, crcs, width)

    def _searched(
        self, topic: str, places: list[tuple[int, int]], payload: bytes, position: int
    ) -> list[int]:
        """The same where they are not alike."""
        found = []
        for at, size in places:
            start = at - position
            end = start + size
            unique_id = unique_id_in(payload, start, end)
            if unique_id:
                self._gap = end - payload.rfind(_UNIQUE_ID, start, end)
                self._width = len(unique_id)
                found.append(identity_of(payload, start, end, topic))
        return found


def records_in(payload: bytes, having: bytes = b"") -> Iterator[tuple[int, int]]:
    """The identity of each record that producers' messages came by, and where in the payload it
    begins; only of those that have these bytes."""
    if payload[0] != put_messages.TAG:
        return
    put = decode_put_messages(payload)
    at = put.records_at
    for number, size, _tags_code in MESSAGE.iter_unpack(put.table):
        end = at + size
        if payload.find(having, at, end) >= 0:
            topic = meant_for(payload, at, end, put.queues[number][0])
            identity = 0 if topic is None else identity_of(payload, at, end, topic)
            if identity:
                yield identity, at
        at = end


def _hash_of_id(unique_id: bytes | bytearray) -> int:
    """The hash of the id's text; `unique_id` is the property as it stands in a record."""
    return hash(unique_id[_NAME_BYTES:].rstrip(_END).decode("latin-1"))


def _together(topic: str, joined: bytes, crcs: bytes, width: int) -> list[int]:
    """The identities of records with such properties, all of this width, and with these CRCs; both
    stand one behind the other."""
    text, topic_hash = joined.decode("latin-1"), hash(topic)
    begins = range(_NAME_BYTES, len(text), width)
    id_size = width - _NAME_BYTES - len(_END)
    return [
        hash(text[begin : begin + id_size]) ^ crc ^ topic_hash
        for begin, crc in zip(begins, unpack(f">{len(crcs) // 4}I", crcs), strict=True)
    ]


def _are_unique_ids(joined: bytes, count: int, width: int) -> bool:
    """Whether these are so many of such properties as they stand in records, all of one length."""
    return (
        len(joined) == width * count
        and joined.count(_UNIQUE_ID) == joined.count(_END) == count
        and joined[8::width] == b"\x01" * count
        and joined[width - 1 :: width] == _END * count
    )


def _scattered(
    data: bytearray, at: int, queues: int, messages: int, hashes: dict[bytes, int | None]
) -> list[int] | None:
    """The identities of messages that a `PutMessages` brings, each looked at by itself; its table
    of queues begins at `at`. None where it has to be looked for what topic they are meant for."""
    topics = []
    for _ in range(queues):
        at += QUEUE.size
        name = bytes(data[at : at + data[at - 1]])
        at += len(name)
        if name not in hashes:
            hashes[name] = _hash_of(name)
        topic_hash = hashes[name]
        if topic_hash is None:
            return None
        topics.append(topic_hash)
    found = []
    begin = at + messages * MESSAGE.size
    for number, size, _tags_code in MESSAGE.iter_unpack(bytes(data[at:begin])):
        unique_id = unique_id_in(data, begin, begin + size)
        if unique_id:
            found.append(_hash_of_id(unique_id) ^ _body_crc(data, begin)[0] ^ topics[number])
        begin += size
    return found


def _by_topic(payload: bytes, position: int) -> dict[str, list[tuple[int, int]]]:
    """Where in the log the records begin that came by a `PutMessages`, and their sizes."""
    put = decode_put_messages(payload)
    at = position + put.records_at
    if len(put.queues) == 1:
        sizes = [size for _number, size, _tags_code in MESSAGE.iter_unpack(put.table)]
        return {put.queues[0][0]: list(zip(accumulate(sizes, initial=at), sizes, strict=False))}
    found: dict[str, list[tuple[int, int]]] = {}
    for number, size, _tags_code in MESSAGE.iter_unpack(put.table):
        found.setdefault(put.queues[number][0], []).append((at, size))
        at += size
    return found


def _one_by_one(
    topic: str, places: list[tuple[int, int]], payload: bytes, position: int
) -> list[int]:
    """The identities of records whose topic has to be looked for in them."""
    found = []
    for at, size in places:
        start = at - position
        counts_for = meant_for(payload, start, start + size, topic)
        if counts_for is not None:
            identity = identity_of(payload, start, start + size, counts_for)
            if identity:
                found.append(identity)
    return found


def _mark(slots: bytearray, generation: int, identities: Iterable[int]) -> None:
    for identity in identities:
        slots[identity & _SLOT_MASK] = generation


def _passed_ms(stamps_ms: Sequence[int]) -> int:
    """From the first to the last, leaps left out."""
    gaps = (later - earlier for earlier, later in pairwise(stamps_ms))
    return sum(gap if 0 <= gap < _GAP_MAX_MS else _GAP_MAX_MS for gap in gaps)


def _place(position: int, size: int) -> int:
    """As the tables hold it."""
    return position << _SIZE_BITS | size


def _hash_of(topic: bytes) -> int | None:
    """What the topic has in its messages' identities; None if that is to be looked for in each."""
    name = topic.decode()
    return None if name in STORED_FOR_ANOTHER or name.startswith("%") else hash(name)
