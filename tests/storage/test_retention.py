"""What a dropped front of the log means to readers in the middle of it, and what damage means
there. Crash points: test_crashes; the ordinary case on both file systems: check_log_store."""

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from dledger_py.storage import Corrupt, RealFiles
from dledger_py.storage.formats import START_OFFSETS, segment_name
from dledger_py.storage.lying import LyingFiles, PowerCut
from dledger_py.storage.segment import Segments
from tests.storage.log_scenes import (
    CONFIGURATION,
    DIRECTORY,
    Life,
    all_entries,
    entries_after,
    open_log,
)


def path_of(start: int) -> str:
    return f"{DIRECTORY}/{segment_name(start)}"


def shortened_life() -> Life:
    """Entries 1 to 4, each in a segment of 740 bytes; 1 and 2 are dropped."""
    life = Life(LyingFiles())
    life.open()
    life.save(1, "n0")
    life.append(1, 700, 700, 700, 700)
    life.idle()
    life.drop(3)
    return life


def test_a_drop_costs_three_writes_and_four_syncs_however_many_files_go() -> None:
    life = Life(LyingFiles())
    life.open()
    life.append(1, *[700] * 10)
    life.files.trace.clear()
    life.drop(9)

    kinds = [line.split()[0] for line in life.files.trace]
    members = ["create", "pwrite", "fsync", "fsync_directory"]
    start = ["pwrite", "pwrite", "fdatasync"]
    assert [*members, *start, *["remove"] * 16, "fsync_directory"] == kinds  # logs and summaries


def test_a_start_mark_survives_the_rot_of_one_copy_which_is_mended() -> None:
    for copy in START_OFFSETS:
        for other in START_OFFSETS:
            life = shortened_life()
            life.files.kill()
            life.files.flip_bit(path_of(1480), copy + 15)
            life.open()
            life.files.kill()
            if other != copy:  # whole, if the first start has mended the other
                life.files.flip_bit(path_of(1480), other + 15)
                life.open()

            assert 3 == life.opened.log.first_index


def test_a_first_file_without_a_start_mark_has_lost_one_before_it() -> None:
    life = shortened_life()
    life.files.kill()
    for copy in START_OFFSETS:
        life.files.flip_bit(path_of(1480), copy + 15)
    with pytest.raises(Corrupt, match="starts at position 1480, but the log before it ends at 0"):
        open_log(life.files)


def test_a_lost_first_file_takes_its_mark_along_and_is_missed() -> None:
    life = shortened_life()
    life.files.kill()
    life.files.forget(path_of(1480))
    with pytest.raises(Corrupt, match="a file is missing"):
        open_log(life.files)


def test_a_start_mark_that_belongs_to_another_file_is_none() -> None:
    """A block that was written to the wrong place."""
    life = shortened_life()
    life.files.kill()
    mark = life.files.content(path_of(1480))[START_OFFSETS[0] : START_OFFSETS[1] + 512]
    last = life.files.content(path_of(2220))
    life.files.put(path_of(2220), last[: START_OFFSETS[0]] + mark + last[START_OFFSETS[1] + 512 :])
    life.open()

    assert 3 == life.opened.log.first_index


def test_a_damaged_header_of_an_empty_first_file_is_no_crash_while_it_was_created() -> None:
    life = Life(LyingFiles())
    life.open()
    life.append(1, 700, 20)
    life.drop(2)
    life.cut(2, 2)
    life.files.kill()
    before = life.files.content(path_of(740))
    assert 4096 == len(before)
    for damage in (before[:50] + b"?" + before[51:], before[:600], b""):
        life.files.put(path_of(740), damage)
        with pytest.raises(Corrupt):
            open_log(life.files)

        assert damage == life.files.content(path_of(740))


def test_files_that_are_back_behind_a_mark_are_not_even_read() -> None:
    life = shortened_life()
    life.files.kill()
    life.files.put(path_of(740), b"rotten")
    life.files.put(path_of(0), b"")
    life.open()

    assert [path_of(1480), path_of(2220)] == [
        f"{DIRECTORY}/{name}" for name in life.files.list(DIRECTORY) if name.endswith(".log")
    ]


@pytest.mark.parametrize("how", ["read", "read_bytes", "scrub"])
def test_a_read_that_a_drop_overtakes_is_told_what_is_kept(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(LyingFiles())
    life.open()
    life.append(1, 700, 700, 700, 700)
    log = life.opened.log
    whole = Segments.read_into

    def overtaken(
        segments: Segments, buffer: memoryview, position: int, *, nowait: bool = False
    ) -> int:
        life.drop(3)
        return whole(segments, buffer, position, nowait=nowait)

    monkeypatch.setattr(Segments, "read_into", overtaken)
    if how == "scrub":
        assert (1480, 2220) == (log.scrub(0, 10).start_position, log.scrub(0, 10).stop_position)
        return
    with pytest.raises(LookupError, match=r"only 3 to 4 exist|entry 3"):
        log.read(1, 10) if how == "read" else log.read_bytes(10, 10)


def test_a_reader_in_the_middle_of_a_dropped_file_finishes() -> None:
    life = Life(LyingFiles())
    life.open()
    life.append(1, 700, 700, 700)
    segments = life.opened.log._segments
    opened = segments._acquire(0)
    life.drop(3)
    assert b"DLEDGPY" == opened.file.pread(7, 0)
    segments._release(opened)
    with pytest.raises(AssertionError, match="closed"):
        opened.file.pread(7, 0)


def test_a_late_reader_opens_no_file_that_was_dropped() -> None:
    """It is still there for a moment; kept open it would hold its space, or pass for another."""
    life = Life(LyingFiles())
    life.open()
    life.append(1, 700, 700, 700)
    log = life.opened.log
    assert path_of(0) == log._segments.drop_first()
    with pytest.raises(FileNotFoundError):
        log._segments._acquire(0)

    assert 0 == log._segments.open_count()


def test_the_index_forgets_what_is_dropped_and_knows_the_first_entry() -> None:
    life = Life(LyingFiles())
    life.opened = open_log(life.files, segment_size_bytes=100_000)
    log = life.opened.log
    log.write([log.seal(entries_after(log, 1, [900] * 500))])
    before = log.statistics().anchors
    first = log.drop_before(400, CONFIGURATION)

    assert (8, 4) == (before, log.statistics().anchors)
    for index in range(first, 501):
        assert index == log.read(index, 1)[0].index


def test_a_power_cut_in_a_drop_leaves_it_done_or_not() -> None:
    """Every crash point of one drop, many dice: begun means that the next start finishes it."""
    outcomes = set()
    for seed in range(40):
        for changes in range(8):
            life = Life(LyingFiles(seed=f"{seed}/{changes}"))
            life.open()
            life.append(1, 700, 700, 700, 700)
            life.files.stop_after(changes)
            with suppress(PowerCut):
                life.drop(4)
            life.files.crash()
            life.starts = (1, 4)
            life.open()
            outcomes.add(life.opened.log.first_index)
            count = len([n for n in life.files.list(DIRECTORY) if n.endswith(".log")])
            assert {1: 4, 4: 1}[life.opened.log.first_index] == count

    assert {1, 4} == outcomes


def test_threads_read_while_the_front_is_dropped(tmp_path: Path) -> None:
    opened = open_log(RealFiles(), str(tmp_path), 5_000)
    log = opened.log
    log.write([log.seal(entries_after(log, 1, [500] * 20))])
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        count = 0
        try:
            while not stop.is_set():
                count += 1
                first = max(1, log.first_index - 5 + count % 11)
                try:
                    found = log.read(first, 3_000)
                except LookupError:
                    continue
                mark = f"<{first}@1>".encode()
                assert not found or bytes(found[0].payload).startswith(mark)
                try:
                    position = log.first_position - 1000 + count % 2000
                    log.read_bytes(max(0, position), 100)
                except LookupError:
                    continue
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _number in range(2)]
    for thread in threads:
        thread.start()
    for _group in range(60):
        log.write([log.seal(entries_after(log, 1, [500] * 10))], sync=False)
        log.drop_before(log.last_index - 10, CONFIGURATION)
    stop.set()
    for thread in threads:
        thread.join()
    found = all_entries(log)
    opened.close()

    assert [] == failures
    assert 620 == found[-1].index
