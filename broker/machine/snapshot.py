"""The machine's whole state ↔ bytes, so that a member need not apply its log from the beginning.

    header     magic, version, the place in the log the state stands for, crc of the header
    section*   kind u8, body length u32, crc u32, body: one canonical CBOR array
    end        a section of kind END: [bytes before it]; nothing follows

Sections come in the order of `Kind`; each table is cut into as many as it needs, its rows sorted.
A section's crc goes on from the one before, so none can be missing, swapped or of another snapshot.

Laws: equal states at equal places give equal bytes, so members can compare theirs. A snapshot is
restored whole or refused with the reason. A version never changes its meaning: a new table is a new
kind in a new version, and old versions stay readable. Nothing derived is in here: consume queues
have checkpoints of their own (`broker.store.checkpoints`). Elsewhere: when snapshots are taken and
where they are kept (the ledger).

`capture` copies what changes and is done on the loop, between two applied entries; encoding what
was captured may then take its time, in a worker thread or chunk by chunk.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Any, Final

from attrs import define, field, frozen

from broker.machine.codec import GROUP_CONFIG, RUNS, TOPIC_CONFIG
from broker.machine.config_tables import DataVersion
from broker.machine.declined_puts import DeclinedPuts
from broker.machine.errors import MalformedCommand, SnapshotRefused
from broker.machine.groups import GroupConfig, Groups
from broker.machine.locks import Lock, Locks
from broker.machine.machine import Machine
from broker.machine.moves import Moves, Recall
from broker.machine.offsets import Offsets
from broker.machine.pops import (
    MESSAGES_MAX,
    Checkpoint,
    Held,
    Order,
    PopQueue,
    Pops,
    count_of,
    offsets_of,
)
from broker.machine.queues import Queue, Queues
from broker.machine.request_modes import RequestMode, RequestModes
from broker.machine.resets import Resets
from broker.machine.shapes import INT, TEXT, Plain, decode, encode, many, record, row
from broker.machine.topics import TopicConfig, Topics
from broker.machine.transactions import Half, Transactions

MAGIC: Final = b"DLEDGMS\0"
VERSION: Final = 4
VERSIONS: Final = (1, 2, 3, 4)  # 1: no locks; 2: nothing waits, is reset or half; 3: nothing popped

HEADER = struct.Struct(">8sHHQQQI")
assert HEADER.size == 40

SECTION = struct.Struct(">BII")
assert SECTION.size == 9

_CRC: Final = struct.Struct(">I")

ROWS_MAX: Final = 1000  # of a section; encoding so many holds the interpreter about a millisecond
BODY_BYTES_MAX: Final = 256 * 1024  # then a section is halved, unless one row alone is larger


class Kind(IntEnum):
    """What a section holds; never reused."""

    END = 0
    COUNTERS = 1
    TOPICS = 2
    GROUPS = 3
    QUEUES = 4
    OFFSETS = 5
    LOCKS = 6
    CURSORS = 7
    RECALLS = 8
    TRANSACTIONS = 9
    RESETS = 10
    MOVES = 11
    DECLINED_PUTS = 12
    POPS = 13
    REQUEST_MODES = 14


@frozen(kw_only=True)
class Place:
    """Where in the log a state stands: everything up to this entry has been applied."""

    index: int
    term: int
    position: int
    """Log position behind the entry, where the header of the next begins."""


@frozen(kw_only=True)
class Counters:
    """What a machine holds besides its tables."""

    topics_version: DataVersion
    groups_version: DataVersion
    messages_total: int
    bytes_total: int


_DATA_VERSION = record(DataVersion, counter=INT, timestamp_ms=INT)
_COUNTERS = record(
    Counters,
    topics_version=_DATA_VERSION,
    groups_version=_DATA_VERSION,
    messages_total=INT,
    bytes_total=INT,
)
_TOPICS = many(TOPIC_CONFIG)
_GROUPS = many(GROUP_CONFIG)
_QUEUES = many(row(TEXT, INT, INT, INT, INT))
_OFFSETS = many(row(TEXT, TEXT, INT, INT))
_LOCKS = many(row(TEXT, TEXT, INT, TEXT, INT))
_CURSORS = many(row(TEXT, INT, INT))
_RECALLS = many(row(INT, TEXT, TEXT, INT))
_MOVES = row(INT, INT)
_DECLINED_PUTS = many(INT)
_RESETS = many(row(TEXT, TEXT, INT, INT, INT))
_TRANSACTIONS = many(row(INT, INT, INT, INT, INT, INT))
_CHECKPOINTS = many(row(INT, INT, INT, INT, RUNS))
_ORDER = many(row(INT, INT, INT, INT))
_POPS = many(row(TEXT, TEXT, INT, INT, _CHECKPOINTS, TEXT, _ORDER))
_REQUEST_MODES = many(row(TEXT, TEXT, TEXT, INT))


@frozen(kw_only=True)
class Captured:
    """A state that no longer changes; any thread may encode it."""

    at: Place
    counters: Counters
    topics: tuple[TopicConfig, ...]
    groups: tuple[GroupConfig, ...]
    queues: Sequence[Plain]
    """(topic, queue id, min offset, next offset, last stored ms), sorted."""
    offsets: Sequence[Plain]
    """(group, topic, queue id, offset), sorted."""
    locks: Sequence[Plain]
    """(group, topic, queue id, owner, renewed ms), sorted."""
    cursors: Sequence[Plain]
    """(topic, queue id, offset), sorted."""
    recalls: Sequence[Plain]
    """(number, topic, unique id, deliver ms), sorted."""
    moves: Plain
    """Up to which time messages were moved, and how many recalls there were."""
    declined_puts: Sequence[Plain]
    """Log positions, ascending."""
    resets: Sequence[Plain]
    """(group, topic, queue id, offset, stamped ms), sorted."""
    transactions: Sequence[Plain]
    """(log position, queue offset, size, stamped ms, checks, checked ms), sorted."""
    pops: Sequence[Plain]
    """(group, topic, queue id, frontier, checkpoints, attempt id, messages in order), sorted."""
    request_modes: Sequence[Plain]
    """(topic, group, mode, queues shared), sorted."""

    def chunks(self) -> Iterator[bytes]:
        """The snapshot in pieces, none much larger than `BODY_BYTES_MAX`."""
        header = HEADER.pack(MAGIC, VERSION, 0, self.at.index, self.at.term, self.at.position, 0)[
            : -_CRC.size
        ]
        crc = zlib.crc32(header)
        yield header + _CRC.pack(crc)
        length = HEADER.size
        for kind, body in self._bodies():
            crc = _chained(crc, kind, body)
            yield SECTION.pack(kind, len(body), crc) + body
            length += SECTION.size + len(body)
        body = encode([length])
        yield SECTION.pack(Kind.END, len(body), _chained(crc, Kind.END, body)) + body

    def _bodies(self) -> Iterator[tuple[Kind, bytes]]:
        yield Kind.COUNTERS, encode(_COUNTERS.to_plain(self.counters))
        tables: tuple[tuple[Kind, Sequence[Any], Callable[[Any], Plain]], ...] = (
            (Kind.TOPICS, sorted(self.topics, key=_name), _TOPICS.to_plain),
            (Kind.GROUPS, sorted(self.groups, key=_name), _GROUPS.to_plain),
            (Kind.QUEUES, self.queues, _as_is),
            (Kind.OFFSETS, self.offsets, _as_is),
            (Kind.LOCKS, self.locks, _as_is),
            (Kind.CURSORS, self.cursors, _as_is),
            (Kind.RECALLS, self.recalls, _as_is),
            (Kind.TRANSACTIONS, self.transactions, _as_is),
            (Kind.RESETS, self.resets, _as_is),
        )
        for kind, rows, to_plain in tables:
            for first in range(0, len(rows), ROWS_MAX):
                for body in _bounded(to_plain(rows[first : first + ROWS_MAX])):
                    yield kind, body
        yield Kind.MOVES, encode(self.moves)
        for first in range(0, len(self.declined_puts), ROWS_MAX):
            yield Kind.DECLINED_PUTS, encode(self.declined_puts[first : first + ROWS_MAX])
        for kind, rows in ((Kind.POPS, self.pops), (Kind.REQUEST_MODES, self.request_modes)):
            for first in range(0, len(rows), ROWS_MAX):
                for body in _bounded(rows[first : first + ROWS_MAX]):
                    yield kind, body


def capture(machine: Machine, at: Place) -> Captured:
    """The machine's state of this moment, which is the one after the entry of `at`."""
    _messages, _bytes, queues = machine.queues.state()
    return Captured(
        at=at,
        counters=Counters(
            topics_version=machine.topics.data_version,
            groups_version=machine.groups.data_version,
            messages_total=machine.queues.messages_total,
            bytes_total=machine.queues.bytes_total,
        ),
        topics=tuple(machine.topics),
        groups=tuple(machine.groups),
        queues=queues,
        offsets=machine.offsets.state(),
        locks=machine.locks.state(),
        cursors=machine.moves.cursors(),
        recalls=machine.moves.recalls(),
        moves=[machine.moves.moved_ms, machine.moves.recalls_count],
        declined_puts=machine.declined_puts.state(),
        resets=machine.resets.state(),
        transactions=machine.transactions.state(),
        pops=machine.pops.state(),
        request_modes=machine.request_modes.state(),
    )


def encode_snapshot(machine: Machine, at: Place) -> bytes:
    """The whole snapshot at once. For a state of many queues: `capture`, then `chunks`."""
    return b"".join(capture(machine, at).chunks())


def restore_snapshot(data: bytes | bytearray | memoryview) -> tuple[Machine, Place]:
    """The machine of a snapshot, and the place in the log to go on behind.

    **Raises** `SnapshotRefused` for anything `Captured.chunks` did not write.
    """
    view = memoryview(data)
    at, crc = _read_header(view)
    tables = _Tables()
    place, kind = HEADER.size, Kind.END
    while True:
        before, (kind, body, crc) = kind, _read_section(view, place, crc)
        if kind is not Kind.END and kind < before:
            raise SnapshotRefused(f"byte {place}: {kind.name} come after {before.name}")
        try:
            if kind is Kind.END:
                _check_end(decode(body), place, len(view) - SECTION.size - len(body))
                return tables.machine(), at
            tables.add(kind, decode(body))
        except MalformedCommand as error:
            raise SnapshotRefused(f"byte {place}: {kind.name}: {error}") from error
        place += SECTION.size + len(body)


def _read_header(view: memoryview) -> tuple[Place, int]:
    if len(view) < HEADER.size:
        raise SnapshotRefused(f"{len(view)} bytes, a header has {HEADER.size}: cut off")
    magic, version, flags, index, term, position, crc = HEADER.unpack_from(view)
    if magic != MAGIC:
        raise SnapshotRefused(f"magic {magic.hex()}, expected {MAGIC.hex()}: not a snapshot")
    found = zlib.crc32(view[: HEADER.size - _CRC.size])
    if found != crc:
        raise SnapshotRefused(f"header: crc {found:08x}, expected {crc:08x}: damaged")
    if version not in VERSIONS or flags:
        raise SnapshotRefused(
            f"version {version} flags {flags}, this build knows versions up to {VERSION}, flags 0"
        )
    return Place(index=index, term=term, position=position), crc


def _read_section(view: memoryview, place: int, before: int) -> tuple[Kind, bytes, int]:
    left = len(view) - place - SECTION.size
    if left < 0:
        raise SnapshotRefused(f"byte {place}: the snapshot is cut off, a section is missing")
    number, length, crc = SECTION.unpack_from(view, place)
    if length > left:
        raise SnapshotRefused(
            f"byte {place}: a section of {length} bytes, only {left} follow: cut off or damaged"
        )
    body = bytes(view[place + SECTION.size : place + SECTION.size + length])
    found = _chained(before, number, body)
    if found != crc:
        raise SnapshotRefused(
            f"byte {place}: section crc {found:08x}, expected {crc:08x}: damaged or out of place"
        )
    try:
        return Kind(number), body, crc
    except ValueError:
        raise SnapshotRefused(f"byte {place}: section kind {number} is unknown") from None


def _check_end(plain: Plain, length: int, end_at: int) -> None:
    if plain != (length,):
        raise SnapshotRefused(f"byte {length}: the end claims {plain} bytes before it")
    if end_at != length:
        raise SnapshotRefused(f"{end_at - length} bytes follow the end of the snapshot")


@define
class _Tables:
    """What has been read so far. Rows come sorted, so none can be there twice."""

    counters: Counters | None = None
    topics: dict[str, TopicConfig] = field(factory=dict)
    groups: dict[str, GroupConfig] = field(factory=dict)
    queues: dict[str, dict[int, Queue]] = field(factory=dict)
    offsets: dict[str, dict[str, dict[int, int]]] = field(factory=dict)
    locks: Locks = field(factory=Locks)
    moves: Moves = field(factory=Moves)
    declined_puts: DeclinedPuts = field(factory=DeclinedPuts)
    resets: Resets = field(factory=Resets)
    transactions: Transactions = field(factory=Transactions)
    pops: Pops = field(factory=Pops)
    request_modes: RequestModes = field(factory=RequestModes)
    _last: tuple[Kind, Any] = (Kind.END, None)

    def add(self, kind: Kind, plain: Plain) -> None:
        """Take in one section. **Raises** `MalformedCommand`."""
        if kind is Kind.COUNTERS:
            if self.counters is not None:
                raise MalformedCommand("they are there already")
            self.counters = _COUNTERS.from_plain(plain)
        elif kind is Kind.TOPICS:
            for topic in _TOPICS.from_plain(plain):
                self._ascend(kind, topic.name)
                self.topics[topic.name] = topic
        elif kind is Kind.GROUPS:
            for group in _GROUPS.from_plain(plain):
                self._ascend(kind, group.name)
                self.groups[group.name] = group
        elif kind is Kind.QUEUES:
            for name, queue_id, first, end, stored_ms in _QUEUES.from_plain(plain):
                self._ascend(kind, (name, queue_id))
                if name not in self.topics or not 0 <= first <= end:
                    raise MalformedCommand(f"queue {queue_id} of {name!r} cannot be: {first}-{end}")
                self.queues.setdefault(name, {})[queue_id] = Queue(first, end, stored_ms)
        elif kind is Kind.OFFSETS:
            for group_name, name, queue_id, offset in _OFFSETS.from_plain(plain):
                self._ascend(kind, (group_name, name, queue_id))
                if name not in self.topics or offset < 0:
                    raise MalformedCommand(
                        f"offset {offset} of queue {queue_id} of {name!r} cannot be"
                    )
                self.offsets.setdefault(group_name, {}).setdefault(name, {})[queue_id] = offset
        elif kind is Kind.LOCKS:
            for group_name, name, queue_id, owner, renewed_ms in _LOCKS.from_plain(plain):
                self._ascend(kind, (group_name, name, queue_id))
                if name not in self.topics:
                    raise MalformedCommand(f"a lock of queue {queue_id} of {name!r} cannot be")
                self.locks.put(group_name, (name, queue_id), Lock(owner, renewed_ms))
        elif kind is Kind.RESETS:
            for group_name, name, queue_id, offset, stamped_ms in _RESETS.from_plain(plain):
                self._ascend(kind, (group_name, name, queue_id))
                if self.offsets.get(group_name, {}).get(name, {}).get(queue_id) != offset:
                    raise MalformedCommand(
                        f"a reset of queue {queue_id} of {name!r} to {offset} cannot be"
                    )
                self.resets.put(group_name, name, queue_id, (offset, stamped_ms))
        else:
            self._add_moves(kind, plain)

    def _add_moves(self, kind: Kind, plain: Plain) -> None:
        if kind is Kind.CURSORS:
            for name, queue_id, offset in _CURSORS.from_plain(plain):
                self._ascend(kind, (name, queue_id))
                queue = self.queues.get(name, {}).get(queue_id)
                if queue is None or not 0 <= offset <= queue.next_offset:
                    raise MalformedCommand(
                        f"cursor {offset} of queue {queue_id} of {name!r} cannot be"
                    )
                self.moves.put_cursor(name, queue_id, offset)
        elif kind is Kind.RECALLS:
            for number, name, unique_id, deliver_ms in _RECALLS.from_plain(plain):
                self._ascend(kind, number)
                self.moves.put_recall(name, unique_id, Recall(number, deliver_ms))
        elif kind is Kind.MOVES:
            self.moves.moved_ms, self.moves.recalls_count = _MOVES.from_plain(plain)
        elif kind is Kind.DECLINED_PUTS:
            for position in _DECLINED_PUTS.from_plain(plain):
                self._ascend(kind, position)
                self.declined_puts.add(position)
        elif kind is Kind.TRANSACTIONS:
            for position, *half in _TRANSACTIONS.from_plain(plain):
                self._ascend(kind, position)
                if min(position, *half) < 0:
                    raise MalformedCommand(f"a half message at {position} cannot be: {half}")
                self.transactions.put(position, Half(*half))
        elif kind is Kind.POPS:
            for group, name, queue_id, frontier, *in_flight in _POPS.from_plain(plain):
                self._ascend(kind, (group, name, queue_id))
                popped = _pop_queue(frontier, *in_flight)
                if self.offsets.get(group, {}).get(name, {}).get(queue_id) != popped.progress:
                    raise MalformedCommand(
                        f"messages of queue {queue_id} of {name!r} in flight from"
                        f" {popped.progress} cannot be"
                    )
                self.pops.put((group, name, queue_id), popped)
        elif kind is Kind.REQUEST_MODES:
            for name, group, mode, shared in _REQUEST_MODES.from_plain(plain):
                self._ascend(kind, (name, group))
                self.request_modes.put(name, group, RequestMode(mode, shared))

    def machine(self) -> Machine:
        """The machine, once everything was read. **Raises** `MalformedCommand`."""
        counters = self.counters
        if counters is None:
            raise MalformedCommand("there were no counters")
        return Machine(
            topics=Topics(counters.topics_version, self.topics),
            groups=Groups(counters.groups_version, self.groups),
            queues=Queues(counters.messages_total, counters.bytes_total, self.queues),
            offsets=Offsets(self.offsets),
            locks=self.locks,
            moves=self.moves,
            declined_puts=self.declined_puts,
            resets=self.resets,
            transactions=self.transactions,
            pops=self.pops,
            request_modes=self.request_modes,
        )

    def _ascend(self, kind: Kind, key: Any) -> None:
        last_kind, last = self._last
        if kind is last_kind and not last < key:
            raise MalformedCommand(f"{key!r} comes after {last!r}")
        self._last = (kind, key)


def _pop_queue(frontier: int, checkpoints: Plain, attempt_id: str, held: Plain) -> PopQueue:
    """**Raises** `MalformedCommand`."""
    queue = PopQueue(frontier)
    for first, pop_ms, until_ms, pending, runs in checkpoints:
        count = count_of(runs)
        if not 0 < count <= MESSAGES_MAX or any(size < 1 for _first, size in runs):
            raise MalformedCommand(f"a checkpoint of {count} messages")
        if not 0 < pending < 1 << count or (first, pop_ms) in queue.checkpoints:
            raise MalformedCommand(f"checkpoint {first} of {pop_ms} with bits {pending} cannot be")
        queue.add((first, pop_ms), Checkpoint(offsets_of(runs), pending, until_ms))
    queue.order = Order(attempt_id, {offset: Held(*each) for offset, *each in held})
    queue.in_flight += len(queue.order.held)
    if not queue.in_flight or list(queue.order.held) != sorted(queue.order.held):
        raise MalformedCommand("a queue with nothing in flight, or in no order")
    return queue


def _bounded(rows: Sequence[Plain]) -> Iterator[bytes]:
    """The rows in one body, or halved until each body is small enough or a single row."""
    body = encode(rows)
    if len(body) <= BODY_BYTES_MAX or len(rows) == 1:
        yield body
        return
    middle = len(rows) // 2
    yield from _bounded(rows[:middle])
    yield from _bounded(rows[middle:])


def _chained(before: int, kind: int, body: bytes) -> int:
    """The crc of a section behind one with the crc `before`. A wrong length moves the body."""
    return zlib.crc32(body, zlib.crc32(bytes((kind,)), before))


def _as_is(rows: Plain) -> Plain:
    return rows


def _name(config: TopicConfig | GroupConfig) -> str:
    return config.name
