"""What any file system under the log must make possible: the conformance suite, as a function."""

from collections.abc import Callable
from contextlib import suppress

import pytest

from dledger_py.storage import BadBatch, Corrupt, Log, split_raw
from dledger_py.storage.files import DirectoryInUse, FileSystem
from dledger_py.storage.formats import decode_segment_header
from tests.storage.log_scenes import CONFIGURATION, Entry, all_entries, entries_after, open_log


def check_log_store(make_files: Callable[[], tuple[FileSystem, str]]) -> None:
    """`make_files` gives a file system and an unused directory in it, anew at each call."""
    for check in (
        _check_files,
        _check_append_and_reopen,
        _check_cut,
        _check_drop,
        _check_reads,
        _check_scrub,
        _check_raw,
        _check_one_owner,
    ):
        check(*make_files())


def _check_files(files: FileSystem, directory: str) -> None:
    files.make_directory(directory)
    path = f"{directory}/a"
    with pytest.raises(FileNotFoundError):
        files.open(path)
    file = files.create(path)
    with pytest.raises(FileExistsError):
        files.create(path)
    file.pwrite(b"hello", 3)
    file.pwrite(memoryview(b"!"), 8)
    file.fdatasync()
    file.fsync()
    files.fsync_directory(directory)

    assert 9 == file.size()
    assert b"\0\0\0hello!" == file.pread(100, 0)
    buffer = bytearray(4)
    assert 4 == file.pread_into(memoryview(buffer), 3)
    assert b"hell" == buffer
    assert 1 == file.pread_into(memoryview(buffer), 8)
    assert 0 == file.pread_into(memoryview(buffer), 9)
    file.truncate(5)
    assert b"\0\0\0he" == files.open(path).pread(100, 0)
    file.close()
    assert ["a"] == files.list(directory)
    files.remove(path)
    with pytest.raises(FileNotFoundError):
        files.remove(path)
    assert [] == files.list(directory)


def _check_append_and_reopen(files: FileSystem, directory: str) -> None:
    opened = open_log(files, directory)
    log = opened.log
    assert opened.created
    assert (1, 0, 0, 0) == (log.first_index, log.last_index, log.last_term, log.end_position)
    written: tuple[Entry, ...] = ()
    for term, sizes in [(1, [0]), (1, [10, 700, 20]), (4, [701] * 3), (4, [3] * 40)]:
        entries = entries_after(log, term, sizes)
        batch = log.seal(entries)
        assert (entries[0].index, entries[-1].index) == (batch.first_index, batch.last_index)
        log.write([batch])
        written += entries
    assert written == all_entries(log)
    assert ((1, 1), (5, 4)) == log.terms
    assert log.durable_index == log.last_index == 47
    opened.hard_state_file.save(7, "n2", 40)
    end = (log.last_term, log.last_crc, log.end_position)
    anchors = log.statistics().anchors
    opened.close()

    again = open_log(files, directory)
    assert not again.created
    assert again.cut is None
    assert written == all_entries(again.log)
    assert end == (again.log.last_term, again.log.last_crc, again.log.end_position)
    assert ((1, 1), (5, 4)) == again.log.terms
    assert anchors == again.log.statistics().anchors
    assert (7, "n2", 40) == (
        again.hard_state.term,
        again.hard_state.vote,
        again.hard_state_file.load().commit,
    )
    again.close()


def _check_cut(files: FileSystem, directory: str) -> None:
    opened = open_log(files, directory)
    log = opened.log
    log.write([log.seal(entries_after(log, 1, [300] * 10))])
    assert log.statistics().segments > 3
    assert log.cut(11) is None
    with pytest.raises(LookupError, match="only 1 to 10 exist"):
        log.cut(12)
    unwritten = log.seal(entries_after(log, 2, [50] * 4))
    first, second = log.cut(13), log.cut(4)
    assert first is not None
    assert second is not None
    assert (3, ((1, 1),)) == (log.last_index, log.terms)
    new = log.seal(entries_after(log, 3, [20, 20]))
    assert 3 == len(log.read(1, 10**6)), "readers see the cut before the files do"
    log.write([unwritten], None, sync=False)
    log.write([], first, sync=False)
    assert 3 == len(log.read(1, 10**6))
    log.write([new], second)

    assert 5 == len(log.read(1, 10**6))
    assert ((1, 1), (4, 3)) == log.terms
    assert 2 == log.statistics().segments
    expected = all_entries(log)
    assert (3, b"<4@3><4@3>") == (expected[3].term, expected[3].payload[:10])
    opened.close()
    again = open_log(files, directory)
    assert expected == all_entries(again.log)
    everything = again.log.cut(1)
    again.log.write([], everything)
    assert (0, 0, 0) == (again.log.last_index, again.log.end_position, again.log.last_crc)
    assert () == again.log.terms
    again.close()
    opened = open_log(files, directory)
    assert 0 == opened.log.last_index
    assert not opened.created
    opened.close()


def _check_drop(files: FileSystem, directory: str) -> None:
    opened = open_log(files, directory)
    log = opened.log
    for term, sizes in [(1, [300] * 4), (2, [300] * 3), (3, [300, 300, 10, 500]), (3, [700, 20])]:
        log.write([log.seal(entries_after(log, term, sizes))])
    entries = all_entries(log)
    assert [1, 4, 7, 10, 13] == firsts_of_segments(files, directory)
    everything = log.read_bytes(0, log.end_position)
    positions = [entry.position for entry in log.read(1, 10**6)]
    terms = [log.term_at(index) for index in range(14)]
    assert ((1, 1, 0), (0, 0, 0, 0)) == (
        (log.drop_before(0, CONFIGURATION), log.drop_before(3, CONFIGURATION), log.first_position),
        (log.start.index, log.start.term, log.start.position, log.start.crc),
    )

    assert 4 == log.drop_before(6, CONFIGURATION), (
        "entry 6 is in the middle of a segment, which stays"
    )
    assert 10 == log.drop_before(10, CONFIGURATION), "entry 10 begins one, which stays"

    def check(log: Log) -> None:
        assert (10, 13, positions[9]) == (log.first_index, log.last_index, log.first_position)
        assert [10, 13] == firsts_of_segments(files, directory)
        assert entries[9:] == all_entries(log)
        assert ((10, 3),) == log.terms
        assert terms[9:] == [log.term_at(index) for index in range(9, 14)]
        crc = int.from_bytes(everything[positions[8] + 36 : positions[8] + 40])
        assert (9, 3, positions[9], crc) == (
            log.start.index,
            log.start.term,
            log.start.position,
            log.start.crc,
        )
        start = positions[9]
        assert everything[start:] == log.read_bytes(start, log.end_position - start)
        for index in (1, 9, 14):
            with pytest.raises(LookupError, match=f"entry {index}: only 10 to 13 exist"):
                log.read(index, 100)
            with pytest.raises(LookupError, match="only 10 to 13 exist"):
                log.cut(index) if index < 14 else log.term_at(index)
        with pytest.raises(LookupError, match="only 10 to 13 exist"):
            log.term_at(8)
        with pytest.raises(LookupError, match=rf"only {start} \(entry 10\) to"):
            log.read_bytes(start - 1, 1)

    check(log)
    opened.close()
    opened = open_log(files, directory)
    check(opened.log)
    log = opened.log
    assert 13 == log.drop_before(14, CONFIGURATION), "never the active segment"
    cut = log.cut(13)
    assert (12, 3, ()) == (log.last_index, log.last_term, log.terms)
    new = log.seal(entries_after(log, 5, [10, 20]))
    log.write([new], cut)
    assert ((13, 5),) == log.terms
    opened.close()
    opened = open_log(files, directory)
    assert (13, 14, ((13, 5),)) == (
        opened.log.first_index,
        opened.log.last_index,
        opened.log.terms,
    )
    opened.log.write([], opened.log.cut(13))
    opened.close()
    opened = open_log(files, directory)
    log = opened.log
    assert (13, 12, 3, ()) == (log.first_index, log.last_index, log.term_at(12), log.terms)
    log.write([log.seal(entries_after(log, 3, [700, 7]))])
    assert (13, 14, ((13, 3),)) == (log.first_index, log.last_index, log.terms)
    assert 2 == len(all_entries(log))
    opened.close()


def firsts_of_segments(files: FileSystem, directory: str) -> list[int]:
    """The first index of each segment file, from their headers."""
    found = []
    for name in files.list(directory):
        if name.endswith(".log"):
            file = files.open(f"{directory}/{name}")
            found.append(decode_segment_header(file.pread(4096, 0), name).before.index + 1)
            file.close()
    return found


def _check_reads(files: FileSystem, directory: str) -> None:
    opened = open_log(files, directory, 200_000)
    log = opened.log
    for size in (10, 70_000, 1000, 130_000, 5):
        log.write([log.seal(entries_after(log, 1, [size] * 7))])
    entries = all_entries(log)
    for entry in entries:
        (found,) = log.read(entry.index, 1)
        assert (entry.index, entry.payload) == (found.index, bytes(found.payload))
        raw = log.read_bytes(found.payload_position, len(entry.payload))
        assert entry.payload == raw
        stored = log.read(entry.index, 150_000)
        assert sum(len(e.raw) for e in stored) <= 150_000 or len(stored) == 1
        assert entries[entry.index - 1 : stored[-1].index] == tuple(
            Entry(e.index, e.term, e.kind, bytes(e.payload)) for e in stored
        )
        run = log.read_run(entry.index, 150_000)
        assert [(e.index, e.term, e.kind, e.position, bytes(e.raw)) for e in stored] == [
            (index, term, kind, run.position + start, bytes(run.data[start:stop]))
            for index, term, kind, start, stop in run.entries
        ]
    everything = log.read_bytes(0, log.end_position)
    assert b"".join(bytes(e.raw) for e in log.read(1, 10**8)) == everything
    assert everything[5:9] == log.read_bytes(5, 4, nowait=False)
    with suppress(BlockingIOError):
        assert everything[5:9] == log.read_bytes(5, 4, nowait=True)
    for first in (0, log.last_index + 1):
        with pytest.raises(LookupError):
            log.read(first, 100)
    for position, length in [(-1, 1), (log.end_position, 1), (0, log.end_position + 1)]:
        with pytest.raises(LookupError):
            log.read_bytes(position, length)
    log.seal(entries_after(log, 1, [5]))
    assert () == log.read(log.last_index, 100), "sealed, not written"
    file = files.open(f"{directory}/{files.list(directory)[0]}", write=True)
    content = file.pread(1, 4096 + 45)
    file.pwrite(bytes([content[0] ^ 1]), 4096 + 45)
    file.close()
    with pytest.raises(Corrupt, match="crc of entry 1"):
        log.read(1, 100)


def _check_scrub(files: FileSystem, directory: str) -> None:
    opened = open_log(files, directory, 150_000)
    log = opened.log
    assert log.scrub(0, 100).at_end
    for size in (10, 70_000, 1000, 130_000, 5):
        log.write([log.seal(entries_after(log, 1, [size] * 7))])
    ends = [entry.position + len(entry.raw) for entry in log.read(1, 10**7)]
    for max_bytes in (1, 1000, 100_000, 10**7):
        position, stops, at_end = 0, [], False
        while not at_end:
            part = log.scrub(position, max_bytes)
            assert position == part.start_position < part.stop_position
            position, at_end = part.stop_position, part.at_end
            stops.append(position)
        assert set(stops) <= set(ends)
        assert ends[-1] == position
        assert max_bytes > 1 or stops == ends, "an entry at a time"
    assert ends[7] == log.scrub(ends[6] + 100, 1).stop_position
    assert ends[0] == log.scrub(-5, 1).stop_position
    first = log.drop_before(13, CONFIGURATION)
    assert first > 1
    passed_over = log.scrub(0, 1)
    assert (ends[first - 2], ends[first - 1]) == (
        passed_over.start_position,
        passed_over.stop_position,
    )
    damaged = ends[24] + 77  # in entry 26
    start = max(
        int(n[:20]) for n in files.list(directory) if n[:1] == "0" and int(n[:20]) < damaged
    )
    file = files.open(f"{directory}/{start:020d}.log", write=True)
    at = 4096 + damaged - start
    file.pwrite(bytes([file.pread(1, at)[0] ^ 1]), at)
    file.close()
    assert ends[24] == log.scrub(ends[23], 1).stop_position
    with pytest.raises(Corrupt, match="crc of entry 26"):
        log.scrub(ends[24], 1)
    assert log.scrub(ends[33], 1).at_end
    opened.close()


def _check_raw(files: FileSystem, directory: str) -> None:
    leader, follower = open_log(files, directory), open_log(files, directory + "-follower")
    sealed = leader.log.seal(entries_after(leader.log, 3, [10, 700, 20, 900, 1]))
    leader.log.write([sealed])
    first = follower.log.seal_raw(memoryview(sealed.data)[: sealed.starts[2]])
    rest = sealed.raw(3, 5)
    follower.log.write([first, follower.log.seal_raw(rest)])

    assert all_entries(leader.log) == all_entries(follower.log)
    size = leader.log.end_position
    assert leader.log.read_bytes(0, size) == follower.log.read_bytes(0, size)
    assert leader.log.terms == follower.log.terms
    assert [3, 4, 5] == [entry.index for entry in split_raw(bytes(rest), 2, 3)]
    more = leader.log.seal(entries_after(leader.log, 4, [10, 10]))
    for bad in (more.data[:-1], more.data[50:], more.data + b"x", b"", sealed.data):
        with pytest.raises(BadBatch):
            follower.log.seal_raw(bad)
    for at in range(len(more.data)):
        damaged = bytearray(more.data)
        damaged[at] ^= 4
        with pytest.raises(BadBatch):
            follower.log.seal_raw(damaged)
    assert 5 == follower.log.last_index
    assert more.end == follower.log.seal_raw(more.data).end
    leader.close()
    follower.close()


def _check_one_owner(files: FileSystem, directory: str) -> None:
    opened = open_log(files, directory)
    with pytest.raises(DirectoryInUse):
        open_log(files, directory)
    opened.close()
    open_log(files, directory).close()
