"""Consume queues: what was indexed is found, wherever it lies, within the bounds promised."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import formats
from broker.formats import UNIT, place_in_file, queue_file_name
from broker.store.consume_queues import Boundary, ConsumeQueues
from broker.store.queue_files import QueueFiles
from dledger_py.actors import FailStop


def unit(position: int, size: int = 100, tags_code: int = 0) -> bytes:
    return UNIT.pack(position, size, tags_code)


def units(*positions: int) -> bytes:
    return b"".join(map(unit, positions))


def dense(first: int, count: int) -> bytes:
    """Units whose position is ten times their offset."""
    return units(*(10 * offset for offset in range(first, first + count)))


def small(
    directory: Path, *, tail_units: int = 4, tails_bytes: int = 10_000, open_files: int = 3
) -> ConsumeQueues:
    return ConsumeQueues(
        QueueFiles(directory, open_files_max=open_files),
        tail_units_max=tail_units,
        tails_bytes_max=tails_bytes,
    )


def test_units_are_readable_at_once(tmp_path: Path) -> None:
    queues = small(tmp_path)
    queues.index("orders", 2, 0, units(0, 10))

    assert units(0, 10) == queues.range("orders", 2, 0, 32)
    assert units(10) == queues.range("orders", 2, 1, 32)
    assert (0, 2) == (queues.min_offset("orders", 2), queues.next_offset("orders", 2))
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("offset, limit", [(0, 9), (0, 3), (2, 4), (3, 6), (4, 1), (5, 9), (8, 1)])
def test_a_range_may_begin_in_the_file_and_end_in_the_tail(
    tmp_path: Path, offset: int, limit: int
) -> None:
    queues = small(tmp_path, tail_units=4)
    queues.index("orders", 0, 0, dense(0, 5))  # these five go to the file
    queues.index("orders", 0, 5, dense(5, 3))  # these three stay

    count = max(0, min(limit, 8 - offset))
    assert dense(offset, count) == queues.range("orders", 0, offset, limit)
    assert 60 == queues.statistics().tail_bytes


def test_nothing_lies_outside_of_a_queue(tmp_path: Path) -> None:
    queues = small(tmp_path)
    queues.index("orders", 0, 0, dense(0, 6))

    assert b"" == queues.range("orders", 0, 6, 1)
    assert b"" == queues.range("orders", 0, -1, 1)
    assert b"" == queues.range("orders", 1, 0, 1)
    assert b"" == queues.range("bills", 0, 0, 1)
    assert (0, 0) == (queues.min_offset("bills", 0), queues.next_offset("bills", 0))


def test_indexing_twice_changes_nothing(tmp_path: Path) -> None:
    queues = small(tmp_path)
    for _ in range(2):
        queues.index("orders", 0, 0, dense(0, 3))
        queues.index("orders", 0, 0, dense(0, 7))
        queues.index("orders", 0, 5, dense(5, 5))

    assert dense(0, 10) == queues.range("orders", 0, 0, 99)


def test_a_gap_is_our_bug(tmp_path: Path) -> None:
    queues = small(tmp_path)
    queues.index("orders", 0, 0, dense(0, 3))

    with pytest.raises(AssertionError, match="no units for 1 offsets"):
        queues.index("orders", 0, 4, dense(4, 1))


def test_a_queue_may_begin_anywhere(tmp_path: Path) -> None:
    """After retention the log's first unit of a queue is not its offset 0."""
    queues = small(tmp_path)
    queues.index("orders", 0, 1000, dense(1000, 6))

    assert (1000, 1006) == (queues.min_offset("orders", 0), queues.next_offset("orders", 0))
    assert b"" == queues.range("orders", 0, 0, 9)
    assert dense(1000, 6) == queues.range("orders", 0, 1000, 9)


def test_files_lie_where_rocketmqs_tools_look(tmp_path: Path) -> None:
    queues = small(tmp_path, tail_units=1)
    queues.index("orders", 3, 300_001, dense(300_001, 1))

    path = tmp_path / "orders" / "3" / "00000000000006000000"
    assert bytes(20) + dense(300_001, 1) == path.read_bytes()
    assert ("00000000000000000000", 5_999_980) == (queue_file_name(299_999), place_in_file(299_999))


def test_units_across_a_file_boundary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "UNITS_PER_FILE", 3)
    monkeypatch.setattr(formats, "FILE_BYTES", 60)
    monkeypatch.setattr("broker.store.queue_files.UNITS_PER_FILE", 3)
    queues = small(tmp_path, tail_units=1)
    queues.index("orders", 0, 0, dense(0, 2))
    queues.index("orders", 0, 2, dense(2, 8))

    assert dense(0, 10) == queues.range("orders", 0, 0, 99)
    assert dense(2, 2) == queues.range("orders", 0, 2, 2)
    names = sorted(path.name for path in (tmp_path / "orders" / "0").iterdir())
    assert [f"{byte:020d}" for byte in (0, 60, 120, 180)] == names


def test_few_files_are_open_however_many_queues_there_are(tmp_path: Path) -> None:
    queues = small(tmp_path, tail_units=1, open_files=3)
    for turn in range(2):
        for queue_id in range(10):
            queues.index("orders", queue_id, turn, dense(turn, 1))
            assert queues.statistics().open_files <= 3
    for queue_id in range(10):
        assert dense(0, 2) == queues.range("orders", queue_id, 0, 9)
        assert queues.statistics().open_files <= 3

    before = len(os.listdir("/proc/self/fd"))
    queues.close()
    assert before - 3 == len(os.listdir("/proc/self/fd"))


def test_the_files_used_last_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = QueueFiles(tmp_path, open_files_max=2)
    for queue_id in (0, 1, 0, 2):
        files.write("orders", queue_id, 0, dense(0, 1))

    opened = []
    os_open = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: opened.append(path) or os_open(path, *rest))
    files.read("orders", 0, 0, 1)
    files.read("orders", 2, 0, 1)

    assert [] == opened
    files.close()


def test_many_quiet_queues_keep_little_in_memory(tmp_path: Path) -> None:
    """The oldest tails go first."""
    queues = small(tmp_path, tail_units=100, tails_bytes=100)
    for queue_id in range(8):
        queues.index("orders", queue_id, 0, dense(0, 1))

    assert 100 == queues.statistics().tail_bytes
    written = sorted(path.name for path in (tmp_path / "orders").iterdir())
    assert ["0", "1", "2"] == written
    assert all(dense(0, 1) == queues.range("orders", n, 0, 1) for n in range(8))


def test_a_deleted_topic_can_begin_again(tmp_path: Path) -> None:
    queues = small(tmp_path)
    queues.index("orders", 0, 0, dense(0, 6))
    queues.index("orders", 1, 0, dense(0, 2))
    queues.index("bills", 0, 0, dense(0, 2))
    queues.drop("orders")
    queues.drop("orders")

    assert b"" == queues.range("orders", 0, 0, 9)
    assert not (tmp_path / "orders").exists()
    assert 0 == queues.statistics().open_files, "a file that is gone must not be written any more"
    queues.index("orders", 0, 0, units(7))
    assert units(7) == queues.range("orders", 0, 0, 9)
    assert dense(0, 2) == queues.range("bills", 0, 0, 9)
    assert 60 == queues.statistics().tail_bytes


def test_every_start_begins_with_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "consumequeue"
    queues = ConsumeQueues.create(directory)
    queues.index("orders", 0, 0, dense(0, 512))
    queues.close()
    assert (directory / "orders").exists()

    again = ConsumeQueues.create(directory)

    assert not directory.exists()
    assert b"" == again.range("orders", 0, 0, 1)


@pytest.mark.parametrize("topic", ["%RETRY%g", "a|b", "%RETRY%" + "x" * 248, "-"])
def test_every_legal_topic_has_a_folder(tmp_path: Path, topic: str) -> None:
    queues = small(tmp_path, tail_units=1)
    queues.index(topic, 0, 0, dense(0, 1))

    assert dense(0, 1) == queues.range(topic, 0, 0, 1)
    (folder,) = tmp_path.iterdir()
    assert not set("%|") & set(folder.name)


@pytest.mark.parametrize("topic", ["..", "a/b", "", "a\0"])
def test_no_topic_leaves_the_directory(tmp_path: Path, topic: str) -> None:
    queues = small(tmp_path, tail_units=1)

    with pytest.raises(AssertionError, match="cannot be a file name"):
        queues.index(topic, 0, 0, dense(0, 1))


def test_a_full_disk_stops_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    queues = small(tmp_path, tail_units=1)
    monkeypatch.setattr(os, "pwrite", full)

    with pytest.raises(FailStop, match="No space left"):
        queues.index("orders", 0, 0, dense(0, 1))


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    queues = small(tmp_path, tail_units=1)
    queues.index("orders", 0, 0, dense(0, 5))

    assert dense(0, 5) == queues.range("orders", 0, 0, 5)


def test_a_file_somebody_cut_stops_the_process(tmp_path: Path) -> None:
    queues = small(tmp_path, tail_units=1)
    queues.index("orders", 0, 0, dense(0, 5))
    os.truncate(tmp_path / "orders" / "0" / queue_file_name(0), 50)

    with pytest.raises(FailStop, match="10 bytes from offset 2 on, expected 60"):
        queues.range("orders", 0, 2, 3)


def test_a_position_names_its_message(tmp_path: Path) -> None:
    queues = small(tmp_path)
    queues.index("orders", 0, 0, dense(0, 7))

    assert [0, 3, 6] == [queues.offset_of("orders", 0, position) for position in (0, 30, 60)]
    assert [None] * 3 == [queues.offset_of("orders", 0, position) for position in (-1, 31, 70)]
    assert queues.offset_of("bills", 0, 0) is None


# Store times of offsets 0 to 5; two messages may share a millisecond.
TIMES = [100, 200, 200, 200, 300, 400]


@pytest.mark.parametrize(
    "time_ms, lower, upper",
    [
        (50, 0, 0),
        (100, 0, 0),
        (150, 1, 0),
        (200, 1, 3),
        (201, 4, 3),
        (400, 5, 5),
        (401, 6, 5),
    ],
)
def test_a_time_names_an_offset(tmp_path: Path, time_ms: int, lower: int, upper: int) -> None:
    queues = small(tmp_path)
    queues.index("orders", 0, 0, dense(0, 6))

    def search(boundary: Boundary) -> int:
        return queues.offset_by_time(lambda at: TIMES[at // 10], "orders", 0, time_ms, boundary)

    assert (lower, upper) == (search(Boundary.LOWER), search(Boundary.UPPER))


@pytest.mark.parametrize("boundary", Boundary)
def test_a_time_in_an_empty_queue_is_its_beginning(tmp_path: Path, boundary: Boundary) -> None:
    queues = small(tmp_path)

    assert 0 == queues.offset_by_time(lambda _: 0, "orders", 0, 5, boundary)


steps = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 2), st.integers(0, 9)), max_size=30
)


@given(steps=steps)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_queues_are_lists(tmp_path: Path, steps: list[tuple[str, int, int]]) -> None:
    """Whatever is appended where, each queue reads back as a list would."""
    queues = ConsumeQueues.create(tmp_path / "q")
    queues.tail_units_max, queues.tails_bytes_max = 5, 150
    model: dict[tuple[str, int], int] = {}
    for topic, queue_id, count in steps:
        at = model.get((topic, queue_id), 0)
        queues.index(topic, queue_id, at, dense(at, count))
        model[topic, queue_id] = at + count
        assert queues.statistics().tail_bytes <= 150
    for (topic, queue_id), count in model.items():
        assert dense(0, count) == queues.range(topic, queue_id, 0, 1000)
        assert count == queues.next_offset(topic, queue_id)
    queues.close()
