"""A machine that was restored is the machine it was taken from; anything else is refused."""

import struct
import zlib
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.machine import snapshot
from broker.machine.codec import encode_command
from broker.machine.commands import CheckedTransactions, EnsureTopics, PutGroup
from broker.machine.declined_puts import DeclinedPuts
from broker.machine.errors import SnapshotRefused
from broker.machine.groups import GroupConfig, Groups
from broker.machine.locks import Lock, Locks
from broker.machine.machine import Machine
from broker.machine.moves import Moves, Recall, encode_move
from broker.machine.names import HALF_TOPIC
from broker.machine.offsets import Offsets
from broker.machine.pops import Checkpoint, Held, Order, PopQueue, Pops
from broker.machine.put_messages import encode_put_messages
from broker.machine.queues import Queue, Queues
from broker.machine.request_modes import RequestMode, RequestModes
from broker.machine.resets import Resets
from broker.machine.shapes import encode
from broker.machine.snapshot import (
    HEADER,
    SECTION,
    Kind,
    Place,
    capture,
    encode_snapshot,
    restore_snapshot,
)
from broker.machine.topics import TopicConfig, Topics
from broker.machine.transactions import Half, Transactions
from tests.machine.machine_commands import EXAMPLES, MESSAGES, MOVE, Entry, log_of, payloads

GOLDEN = Path(__file__).parents[1] / "golden" / "machine" / "snapshots"
AT = Place(index=7, term=3, position=4096)


def machine_of(log: list[bytes]) -> Machine:
    machine = Machine()
    for entry in log_of(log):
        machine.apply(entry)
    return machine


def tables_of(machine: Machine) -> list[object]:
    return [getattr(machine, field.name) for field in attrs.fields(Machine)]


def example(version: int = snapshot.VERSION) -> Machine:
    """Something in every table that a version has."""
    names = ["bills", "%RETRY%shop"] + ["SCHEDULE_TOPIC_XXXX"] * (version >= 3)
    topics = tuple(TopicConfig(name=name) for name in names)
    log = [
        encode_command(EXAMPLES["02-initialise"]),
        encode_command(EnsureTopics(stamped_ms=1_700_000_000_001, topics=topics)),
        encode_put_messages(1_700_000_000_002, MESSAGES),
        encode_command(EXAMPLES["09-commit-offsets"]),
    ]
    if version >= 2:
        log.append(encode_command(EXAMPLES["11-lock-queues"]))
    if version >= 3:
        waiting = [("SCHEDULE_TOPIC_XXXX", 2, 1_700_000_060_000, b"for later")] * 3
        log += [
            encode_put_messages(1_700_000_000_002, waiting),
            encode_command(EXAMPLES["14-recall-message"]),
            encode_move(MOVE, MESSAGES),
            encode_move(MOVE, MESSAGES),  # declined
        ]
        log.append(encode_command(EXAMPLES["17-reset-offsets"]))
        half_topic = TopicConfig(name=HALF_TOPIC, read_queues=1, write_queues=1)
        log.append(encode_command(EnsureTopics(stamped_ms=1_700_000_000_003, topics=(half_topic,))))
        log.append(encode_put_messages(1_700_000_000_004, [(HALF_TOPIC, 0, 0, b"half")] * 2))
        second = len(b"".join(log)) + 40 * len(log) - len(b"half")
        checked = CheckedTransactions(stamped_ms=1_700_000_000_005, halves=(second,))
        log.append(encode_command(checked))
    if version >= 4:
        log.append(encode_put_messages(1_700_000_000_006, MESSAGES))
        log += [
            encode_command(EXAMPLES[name])
            for name in ("19-pop-messages", "20-settle-pops", "22-set-request-mode")
        ]
    return machine_of(log)


def resealed(data: bytes) -> bytes:
    """The same sections with the crcs that belong to them: as a wrong encoder would write it."""
    header = data[: HEADER.size - 4]
    crc = zlib.crc32(header)
    parts = [header, struct.pack(">I", crc)]
    for kind, body in sections(data):
        crc = zlib.crc32(body, zlib.crc32(bytes((kind,)), crc))
        parts.append(SECTION.pack(kind, len(body), crc) + body)
    return b"".join(parts)


def sections(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], HEADER.size
    while at < len(data):
        kind, length, _crc = SECTION.unpack_from(data, at)
        at += SECTION.size
        found.append((kind, data[at : at + length]))
        at += length
    return found


def snapshot_of(*parts: tuple[int, object]) -> bytes:
    """Sections with these contents and an end that fits."""
    data = encode_snapshot(Machine(), AT)[: HEADER.size]
    for kind, plain in parts:
        body = encode(plain)
        data += SECTION.pack(kind, len(body), 0) + body
    body = encode([len(data)])
    return resealed(data + SECTION.pack(Kind.END, len(body), 0) + body)


logs = st.lists(payloads, max_size=15)
places = st.builds(
    Place,
    index=st.integers(0, 2**63),
    term=st.integers(0, 2**63),
    position=st.integers(0, 2**63),
)


@given(logs, logs, places)
def test_a_restored_machine_goes_on_like_the_original(
    before: list[bytes], after: list[bytes], at: Place
) -> None:
    original = machine_of(before)

    restored, found = restore_snapshot(encode_snapshot(original, at))

    assert at == found
    assert original.state_digest() == restored.state_digest()
    for entry in log_of(after):
        assert original.apply(entry) == restored.apply(entry)
    assert original.state_digest() == restored.state_digest()


@given(logs, logs, logs)
def test_a_machine_becomes_another_while_its_tables_are_held(
    overgrown: list[bytes], before: list[bytes], after: list[bytes]
) -> None:
    original, member = machine_of(before), machine_of(overgrown)
    held = tables_of(member)

    member.become(restore_snapshot(encode_snapshot(original, AT))[0])

    assert original.state() == member.state()
    for entry in log_of(after):
        assert original.apply(entry) == member.apply(entry)
    assert original.state_digest() == member.state_digest()
    assert all(one is other for one, other in zip(held, tables_of(member), strict=True))


@given(logs)
def test_equal_states_give_equal_bytes(log: list[bytes]) -> None:
    """Also where one of them was itself restored, so that its tables came about in other order."""
    machine = machine_of(log)
    data = encode_snapshot(machine, AT)

    assert data == encode_snapshot(restore_snapshot(data)[0], AT)


def test_equal_states_give_equal_bytes_in_whatever_order_they_came_about() -> None:
    topics = tuple(TopicConfig(name=name) for name in ("a", "b"))
    one, other = (
        machine_of([encode_command(EnsureTopics(stamped_ms=1, topics=order))])
        for order in (topics, topics[::-1])
    )

    assert encode_snapshot(one, AT) == encode_snapshot(other, AT)


def test_a_snapshot_keeps_its_bytes() -> None:
    """A snapshot of any release must be restored by every later one."""
    for version in snapshot.VERSIONS:
        golden = bytes.fromhex((GOLDEN / f"version-{version}.hex").read_text())
        machine, at = restore_snapshot(memoryview(golden))

        assert (AT, example(version).state()) == (at, machine.state())
    assert golden == encode_snapshot(example(), AT)


def test_every_field_of_the_state_is_in_the_snapshot() -> None:
    """Who adds to the state adds to the snapshot, in a new version, and then here."""
    fields = {kind: {f.name for f in attrs.fields(kind)} for kind in (Machine, Topics, Groups)}
    fields |= {kind: {f.name for f in attrs.fields(kind)} for kind in (Queues, Queue, Offsets)}
    fields |= {kind: {f.name for f in attrs.fields(kind)} for kind in (Locks, Lock, Moves, Recall)}
    fields[DeclinedPuts] = {f.name for f in attrs.fields(DeclinedPuts)}
    fields[Resets] = {f.name for f in attrs.fields(Resets)}
    fields |= {kind: {f.name for f in attrs.fields(kind)} for kind in (Transactions, Half)}
    fields |= {kind: {f.name for f in attrs.fields(kind)} for kind in (Pops, PopQueue, Order)}
    fields |= {kind: {f.name for f in attrs.fields(kind)} for kind in (Checkpoint, Held)}
    fields |= {kind: {f.name for f in attrs.fields(kind)} for kind in (RequestModes, RequestMode)}

    assert {
        Machine: {
            *("topics", "groups", "queues", "offsets", "locks", "moves", "declined_puts"),
            *("resets", "transactions", "pops", "request_modes"),
        },
        Topics: {"data_version", "_configs"},
        Groups: {"data_version", "_configs"},
        Queues: {"messages_total", "bytes_total", "_topics"},
        Queue: {"min_offset", "next_offset", "last_stored_ms"},
        Offsets: {"_groups"},
        Locks: {"_groups", "_count"},
        Lock: {"owner", "renewed_ms"},
        Moves: {"moved_ms", "recalls_count", "_cursors", "_recalls"},
        Recall: {"number", "deliver_ms"},
        DeclinedPuts: {"_positions"},
        Resets: {"_groups", "count"},
        Transactions: {"_pending"},
        Half: {"queue_offset", "size", "stamped_ms", "checks", "checked_ms"},
        Pops: {"count", "_queues"},
        PopQueue: {
            *("frontier", "checkpoints", "order"),
            *("in_flight", "_by_lowest", "_by_time"),  # these follow from the others
        },
        Order: {"attempt_id", "held"},
        Checkpoint: {"offsets", "pending", "until_ms"},
        Held: {"pop_ms", "until_ms", "count"},
        RequestModes: {"_modes"},
        RequestMode: {"mode", "pop_share_queues"},
    } == fields


def test_what_was_captured_no_longer_changes() -> None:
    machine = example()
    expected = encode_snapshot(machine, AT)
    chunks = capture(machine, AT).chunks()
    found = next(chunks)
    for name in ("05-delete-topic", "06-ensure-groups", "08-delete-group"):
        machine.apply(Entry(9999, encode_command(EXAMPLES[name])))
    machine.apply(Entry(9999, encode_put_messages(5, [("bills", 1, 0, b"late")])))

    assert expected == found + b"".join(chunks)


def test_both_machines_stay_apart() -> None:
    machine = example()
    restored, _at = restore_snapshot(encode_snapshot(machine, AT))
    before = machine.state_digest()
    restored.apply(Entry(0, encode_put_messages(5, MESSAGES)))
    restored.apply(Entry(0, encode_command(EXAMPLES["08-delete-group"])))

    assert before == machine.state_digest()


def test_chunks_stay_small_however_large_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "ROWS_MAX", 10)
    monkeypatch.setattr(snapshot, "BODY_BYTES_MAX", 300)
    topics = tuple(TopicConfig(name=f"topic-{n}" + "x" * (n % 80)) for n in range(200))
    machine = machine_of(
        [
            encode_command(EnsureTopics(stamped_ms=1, topics=topics)),
            encode_put_messages(2, [(topic.name, 3, 0, b"record") for topic in topics]),
        ]
    )
    chunks = list(capture(machine, AT).chunks())

    assert max(map(len, chunks)) <= 300 + SECTION.size
    assert machine.state() == restore_snapshot(b"".join(chunks))[0].state()
    per_kind = [kind for kind, _body in sections(b"".join(chunks))]
    assert per_kind.count(Kind.TOPICS) > 20, "a section is halved where ten rows are too large"
    assert per_kind.count(Kind.QUEUES) >= 20


def test_a_row_larger_than_a_chunk_travels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "BODY_BYTES_MAX", 100)
    configs = [GroupConfig(name=f"g{n}", attributes=(("a", "x" * 500),)) for n in range(3)]
    machine = machine_of([encode_command(PutGroup(stamped_ms=1, config=c)) for c in configs])

    data = encode_snapshot(machine, AT)

    assert 3 == [kind for kind, _body in sections(data)].count(Kind.GROUPS)
    assert machine.state() == restore_snapshot(data)[0].state()


def test_every_flipped_bit_is_found() -> None:
    data = encode_snapshot(example(), AT)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(SnapshotRefused):
            restore_snapshot(damaged)


def test_every_cut_is_found() -> None:
    data = encode_snapshot(example(), AT)
    for length in range(len(data)):
        with pytest.raises(SnapshotRefused, match="cut off"):
            restore_snapshot(data[:length])


@given(st.binary(max_size=100))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(SnapshotRefused):
        restore_snapshot(data)


def damaged(at: int) -> bytes:
    data = bytearray(GOOD)
    data[at] ^= 1
    return bytes(data)


def without(kind: Kind) -> bytes:
    """As long as it was and ending alike, but for one section."""
    at = HEADER.size
    for number, body in sections(GOOD):
        size = SECTION.size + len(body)
        if number == kind:
            return GOOD[:at] + GOOD[at + size :]
        at += size
    raise AssertionError


def headed(version: int, flags: int = 0) -> bytes:
    return resealed(GOOD[:8] + struct.pack(">HH", version, flags) + GOOD[12:])


GOOD = encode_snapshot(example(), AT)
COUNTERS = (Kind.COUNTERS, [[0, 0], [0, 0], 0, 0])
TOPIC = ["a", 1, 1, 6, "SINGLE_TAG", 0, False, []]


def pops(checkpoints: object = None, in_order: object = ()) -> list[object]:
    """A row of what a group has in flight."""
    if checkpoints is None:
        checkpoints = [[5, 1, 9, 1, [[5, 1]]]]
    return ["g", "a", 0, 7, checkpoints, "", list(in_order)]


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "0 bytes, a header has 40: cut off"),
        (b"x" + GOOD[1:], "magic .* not a snapshot"),
        (damaged(20), "header: crc .* damaged"),
        (headed(5), "version 5 flags 0, this build knows versions up to 4, flags 0"),
        (headed(0), "version 0 flags 0, this build knows"),
        (headed(1, 1), "version 1 flags 1, this build knows"),
        (GOOD[: HEADER.size], "byte 40: the snapshot is cut off, a section is missing"),
        (GOOD[:-1], "only 3 follow: cut off or damaged"),
        (damaged(HEADER.size + SECTION.size), "byte 40: section crc .* damaged or out of place"),
        (damaged(HEADER.size), "byte 40: section crc"),
        (without(Kind.GROUPS), "section crc .* out of place"),
        (resealed(without(Kind.LOCKS)), "the end claims .* bytes before it"),
        (GOOD + b"\0", "1 bytes follow the end"),
        (GOOD + GOOD, f"{len(GOOD)} bytes follow the end"),
        (snapshot_of(), "there were no counters"),
        (snapshot_of(COUNTERS, COUNTERS), "COUNTERS: they are there already"),
        (snapshot_of(COUNTERS, (99, [])), "section kind 99 is unknown"),
        (snapshot_of(COUNTERS, (Kind.CURSORS, [["a", 0, 1]])), "cursor 1 of queue 0 of 'a' cannot"),
        (
            snapshot_of(COUNTERS, (Kind.RECALLS, [[1, "a", "U1", 5], [1, "a", "U2", 5]])),
            "RECALLS: 1 comes after 1",
        ),
        (snapshot_of((Kind.TOPICS, [TOPIC]), COUNTERS), "COUNTERS come after TOPICS"),
        (snapshot_of(COUNTERS, (Kind.TOPICS, [TOPIC, TOPIC])), "'a' comes after 'a'"),
        (snapshot_of(COUNTERS, (Kind.TOPICS, [TOPIC]), (Kind.TOPICS, [TOPIC])), "'a' comes after"),
        (snapshot_of(COUNTERS, (Kind.TOPICS, [TOPIC[:-1]])), "TOPICS: expected 8 fields, found 7"),
        (snapshot_of(COUNTERS, (Kind.QUEUES, [["a", 0, 0, 1, 1]])), "queue 0 of 'a' cannot be"),
        (
            snapshot_of(COUNTERS, (Kind.TRANSACTIONS, [[9, 0, 1, 1, -1, 0]])),
            "a half message at 9 cannot be",
        ),
        (
            snapshot_of(COUNTERS, (Kind.TRANSACTIONS, [[9, 0, 1, 1, 0, 0], [8, 1, 1, 1, 0, 0]])),
            "8 comes after 9",
        ),
        (
            snapshot_of(COUNTERS, (Kind.LOCKS, [["g", "a", 0, "one", 1]])),
            "a lock of queue 0 of 'a' cannot be",
        ),
        (
            snapshot_of(
                COUNTERS,
                (Kind.TOPICS, [TOPIC]),
                (Kind.OFFSETS, [["g", "a", 0, 2]]),
                (Kind.RESETS, [["g", "a", 0, 1, 0]]),
            ),
            "a reset of queue 0 of 'a' to 1 cannot be",
        ),
        (
            snapshot_of(COUNTERS, (Kind.TOPICS, [TOPIC]), (Kind.QUEUES, [["a", 0, 2, 1, 1]])),
            "queue 0 of 'a' cannot be: 2-1",
        ),
        (snapshot_of(COUNTERS, (Kind.POPS, [pops()])), "in flight from 5 cannot be"),
        (snapshot_of(COUNTERS, (Kind.POPS, [pops([])])), "nothing in flight"),
        (snapshot_of(COUNTERS, (Kind.POPS, [pops([[5, 1, 9, 0, [[5, 2]]]])])), "with bits 0"),
        (snapshot_of(COUNTERS, (Kind.POPS, [pops([[5, 1, 9, 4, [[5, 2]]]])])), "with bits 4"),
        (snapshot_of(COUNTERS, (Kind.POPS, [pops([[5, 1, 9, 1, [[5, 1]]]] * 2)])), "5 of 1 with"),
        (snapshot_of(COUNTERS, (Kind.POPS, [pops([[5, 1, 9, 1, [[5, 99]]]])])), "of 99 messages"),
        (
            snapshot_of(COUNTERS, (Kind.POPS, [pops([], [[6, 1, 9, 0], [5, 1, 9, 0]])])),
            "in no order",
        ),
        (
            snapshot_of(COUNTERS, (Kind.TOPICS, [TOPIC]), (Kind.OFFSETS, [["g", "a", 0, -1]])),
            "offset -1 of queue 0 of 'a' cannot be",
        ),
    ],
)
def test_a_refusal_names_what_is_wrong(data: bytes, reason: str) -> None:
    with pytest.raises(SnapshotRefused, match=reason):
        restore_snapshot(data)


def test_what_the_refusals_are_made_from_is_good() -> None:
    assert GOOD == resealed(GOOD)
    restore_snapshot(snapshot_of(COUNTERS, (Kind.TOPICS, [TOPIC])))
