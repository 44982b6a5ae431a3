"""The conformance suite on both file systems, and what only one of them can show."""

import itertools
import threading
from pathlib import Path

import pytest

from dledger_py.storage import Corrupt, RealFiles, segment
from dledger_py.storage.files import FileSystem
from dledger_py.storage.lying import LyingFiles
from tests.storage.check_log_store import check_log_store
from tests.storage.log_scenes import DIRECTORY, Life, entries_after, open_log


def test_real_files_conform(tmp_path: Path) -> None:
    numbers = itertools.count()

    def make_files() -> tuple[FileSystem, str]:
        return RealFiles(), f"{tmp_path}/{next(numbers)}/nested"

    check_log_store(make_files)


def test_lying_files_conform() -> None:
    check_log_store(lambda: (LyingFiles(), DIRECTORY))


def test_a_cold_page_cache_is_told_to_those_who_will_not_wait() -> None:
    life = Life(LyingFiles(cold=True))
    life.open()
    life.append(1, 100)
    with pytest.raises(BlockingIOError):
        life.opened.log.read_bytes(0, 10, nowait=True)

    assert 10 == len(life.opened.log.read_bytes(0, 10))


def test_a_group_costs_two_writes_and_one_sync() -> None:
    life = Life(LyingFiles())
    life.open()
    life.append(1, 100)
    life.files.trace.clear()
    life.append(1, 50, 20, groups=3)

    assert ["pwrite", "pwrite", "fdatasync"] == [line.split()[0] for line in life.files.trace]


def test_an_idle_log_is_attested_once() -> None:
    life = Life(LyingFiles())
    life.open()
    life.append(1, 100)
    life.idle()
    statistics = life.opened.log.statistics()
    changes = life.files.changes
    life.idle()

    assert statistics.attested_position == statistics.end_position
    assert changes == life.files.changes


def test_a_read_that_a_cut_overtakes_is_repeated_and_not_taken_for_damage() -> None:
    life = Life(LyingFiles())
    life.open()
    life.append(1, 50, 50, 50)
    log = life.opened.log
    whole = log._segments.read_into

    def overtaken(buffer: memoryview, position: int, *, nowait: bool = False) -> int:
        log._segments.read_into = whole
        life.cut(2, 2, 90)
        return whole(buffer, position, nowait=nowait)

    log._segments = _Shadow(log._segments, overtaken)
    assert [(1, 1), (2, 2)] == [(e.index, e.term) for e in log.read(1, 10**6)]


class _Shadow:
    """Segments with another read_into."""

    def __init__(self, segments: segment.Segments, read_into: object) -> None:
        self._segments = segments
        self.read_into = read_into

    def __getattr__(self, name: str) -> object:
        return getattr(self._segments, name)


def test_damage_found_by_a_read_is_told_with_its_place() -> None:
    life = Life(LyingFiles())
    life.open()
    life.append(1, 50, 50)
    life.files.flip_bit(f"{DIRECTORY}/{0:020d}.log", 4096 + 90 + 60)
    with pytest.raises(Corrupt, match="crc of entry 2") as raised:
        life.opened.log.read(1, 10**6)

    assert (f"{DIRECTORY}/{0:020d}.log", 4096 + 90) == (raised.value.file, raised.value.offset)


def test_the_index_stays_sparse() -> None:
    life = Life(LyingFiles())
    life.opened = open_log(life.files, segment_size_bytes=10**7)
    log = life.opened.log
    for _group in range(100):
        log.write([log.seal(entries_after(log, 1, [60] * 100))])

    assert log.end_position == 10**6
    assert 16 == log.statistics().anchors


def test_the_index_forgets_what_is_cut() -> None:
    life = Life(LyingFiles())
    life.opened = open_log(life.files, segment_size_bytes=10**7)
    log = life.opened.log
    log.write([log.seal(entries_after(log, 1, [50_000] * 10))])
    cut = log.cut(3)
    log.write([log.seal(entries_after(log, 2, [70_000] * 10))], cut)

    assert [2] * 10 == [log.read(index, 1)[0].term for index in range(3, 13)]


def test_a_descriptor_is_not_closed_under_its_readers() -> None:
    life = Life(LyingFiles())
    life.open()
    for _segment in range(3):
        life.append(1, 700)
    segments = life.opened.log._segments
    first, second = segments._acquire(1480), segments._acquire(1480)
    assert first is second
    life.cut(2, 2)
    assert first.file.pread(8, 0)
    segments._release(first)
    assert first.file.pread(8, 0)
    segments._release(second)
    with pytest.raises(AssertionError, match="closed"):
        first.file.pread(8, 0)


def test_read_descriptors_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "READ_FILES_MAX", 3)
    opened = open_log(RealFiles(), str(tmp_path), 100)
    log = opened.log
    for _group in range(10):
        log.write([log.seal(entries_after(log, 1, [100]))])
    for _again in range(2):
        assert 10 == sum(1 for index in range(1, 11) if log.read(index, 1))

    assert 10 == log.statistics().segments
    assert 3 == log.statistics().open_read_files
    opened.close()


def test_threads_read_while_the_writer_appends_and_cuts(tmp_path: Path) -> None:
    opened = open_log(RealFiles(), str(tmp_path), 20_000)
    log = opened.log
    log.write([log.seal(entries_after(log, 1, [500] * 20))])
    stop = threading.Event()
    failures: list[BaseException] = []
    reads: list[int] = []

    def read() -> None:
        count = 0
        try:
            while not stop.is_set() or not count:
                first = 1 + count * 7 % 120
                try:
                    found = log.read(first, 30_000)
                except LookupError:
                    continue
                finally:
                    count += 1
                for at, entry in enumerate(found):
                    mark = f"<{entry.index}@{entry.term}>".encode()
                    assert entry.index == first + at
                    assert bytes(entry.payload).startswith(mark)
        except BaseException as error:
            failures.append(error)
        reads.append(count)

    threads = [threading.Thread(target=read) for _number in range(3)]
    for thread in threads:
        thread.start()
    for term in range(2, 60):
        log.write([log.seal(entries_after(log, term, [500] * 30))], sync=False)
        cut = log.cut(10 + term)
        log.write([log.seal(entries_after(log, term, [700, 10, 800]))], cut, sync=False)
    stop.set()
    for thread in threads:
        thread.join()
    opened.close()

    assert [] == failures
    assert all(reads)
