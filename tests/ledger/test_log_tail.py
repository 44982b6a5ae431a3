"""The newest entries in memory."""

from __future__ import annotations

from types import SimpleNamespace

from dledger_py.ledger.log_tail import LogTail, TailEntry


def fill(tail: LogTail, count: int, *, first: int = 1, per_batch: int = 1, size: int = 50) -> None:
    index = first
    while index < first + count:
        data = b"".join(bytes([(index + k) % 256]) * size for k in range(per_batch))
        for k in range(per_batch):
            at = k * size
            place = (index - 1) * size
            tail.append(TailEntry(index, 1, 1, place, data, at, at + size))
            index += 1


def on_disk(position: int) -> SimpleNamespace:
    return SimpleNamespace(durable_position=position)


def test_the_oldest_leave_once_the_bound_is_passed():
    tail = LogTail(200, on_disk(10_000))
    fill(tail, 10)

    assert 4 == len(tail)
    assert 7 == tail.first_index
    assert tail.get(6) is None
    assert 10 == tail.get(10).index


def test_what_is_not_on_disk_yet_stays_whatever_the_bound_says():
    tail = LogTail(200, on_disk(100))
    fill(tail, 10)

    assert 3 == tail.first_index
    assert 8 == len(tail)


def test_a_cut_forgets_the_end_and_new_entries_follow():
    tail = LogTail(10_000, on_disk(0))
    fill(tail, 10)
    tail.cut(6)
    fill(tail, 2, first=6, size=7)

    assert 7 == tail.get(7).end
    assert tail.get(8) is None
    assert 5 * 50 + 2 * 7 == tail.size_bytes


def test_bytes_come_in_as_few_parts_as_they_have_in_memory():
    tail = LogTail(10_000, on_disk(0))
    fill(tail, 6, per_batch=3)
    parts = tail.raw(2, 4)

    assert [100, 100] == [len(part) for part in parts]
    assert b"".join(bytes([k]) * 50 for k in (2, 3, 4, 5)) == b"".join(parts)


def test_a_range_that_is_not_wholly_here_gives_nothing():
    tail = LogTail(200, on_disk(10_000))
    fill(tail, 10)

    assert tail.raw(6, 2) is None
    assert tail.raw(10, 2) is None
    assert tail.raw(11, 1) is None
    assert 1 == len(tail.raw(10, 1))
