"""What `inspect` says is what the next start does; and it changes nothing."""

from itertools import islice
from pathlib import Path

import pytest
from attrs import evolve

from dledger_py.storage import Corrupt, DirectoryInUse, RealFiles, Recovered, WrongIdentity
from dledger_py.storage.formats import (
    ATTEST_BYTES,
    ATTEST_OFFSETS,
    HEADER_BLOCK_BYTES,
    SEGMENT_HEADER_BYTES,
    START_OFFSETS,
    SUCCESSOR_OFFSET,
    decode_segment_header,
    encode_segment_header,
    segment_name,
)
from dledger_py.storage.inspection import Inspection, NoLog, Severity, dump, inspect
from dledger_py.storage.lying import LyingFiles
from tests.storage.log_scenes import DIRECTORY, ME, Life, all_entries, open_log

HARD_STATE = f"{DIRECTORY}/hard-state"


def life_of(*, sealed: bool, dropped: bool = False) -> Life:
    """Segments of several entries; unless sealed, the last group is not attested."""
    life = Life(LyingFiles())
    life.open()
    life.save(4, "n1")
    life.append(1, 100, 0, 700)
    life.append(2, 30, 750)
    life.append(2, 60)
    life.append(3, 50, 12)
    if dropped:
        life.drop(5)
    if sealed:
        life.idle()
    life.files.kill()
    return life


def segments_of(files: LyingFiles) -> list[str]:
    return [f"{DIRECTORY}/{n}" for n in files.list(DIRECTORY) if n.endswith(".log")]


def opened_or_refused(files: LyingFiles) -> Recovered | Corrupt:
    try:
        return open_log(files)
    except Corrupt as error:
        return error


def check_verdict(files: LyingFiles, what: object) -> Severity | None:
    """Compare with what opening does; the worst severity found."""
    files.trace.clear()
    found = inspect(files, DIRECTORY)
    assert [] == files.trace, "looking changes nothing"
    opened = opened_or_refused(files)
    if isinstance(opened, Corrupt):
        damage = [(f.file, f.reason) for f in found.findings if f.severity is Severity.DAMAGE]
        assert (opened.file, opened.reason) in damage, (what, opened, damage)
        return Severity.DAMAGE
    assert found.sound, (what, found.first_damage)
    assert (opened.cut is None) == (found.torn_tail is None), what
    if opened.cut is not None:
        assert found.torn_tail is not None
        assert (opened.cut.file, opened.cut.offset, opened.log.last_index + 1) == (
            found.torn_tail.file,
            found.torn_tail.offset,
            found.torn_tail.index,
        )
        return Severity.TORN
    if found.segments:
        assert (opened.log.first_index, opened.log.last_index) == (
            found.segments[0].first_index,
            found.segments[-1].last_index,
        )
    return Severity.NOTE if found.findings else None


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_flipped_bit_anywhere_is_judged_as_the_next_start_does(
    sealed: bool, dropped: bool
) -> None:
    life = life_of(sealed=sealed, dropped=dropped)
    seen = set()
    for path in [*segments_of(life.files), HARD_STATE]:
        for offset in interesting_offsets(path, len(life.files.content(path))):
            files = life.files.copy(offset)
            files.flip_bit(path, offset, offset % 8)
            seen.add(check_verdict(files, (path, offset)))

    assert {None, Severity.NOTE, Severity.DAMAGE} <= seen
    assert (Severity.TORN in seen) == (not sealed)


def interesting_offsets(path: str, size: int) -> list[int]:
    if path == HARD_STATE:
        return [at for at in range(size) if at % 2048 < 300][::3]
    marks = (*ATTEST_OFFSETS, SUCCESSOR_OFFSET, *START_OFFSETS)
    slots = [offset + at for offset in marks for at in range(ATTEST_BYTES)]
    return [*range(SEGMENT_HEADER_BYTES), *slots, 4000, *range(HEADER_BLOCK_BYTES, size, 5)]


@pytest.mark.parametrize("sealed", [False, True])
def test_a_file_cut_anywhere_is_judged_as_the_next_start_does(sealed: bool) -> None:
    life = life_of(sealed=sealed)
    for path in [*segments_of(life.files), HARD_STATE]:
        content = life.files.content(path)
        for size in {*range(0, len(content), 7), 0, 4096, 4095, len(content) - 1}:
            files = life.files.copy(size)
            files.put(path, content[:size])
            check_verdict(files, (path, size))


def test_missing_files_are_judged_as_the_next_start_does() -> None:
    for dropped in (False, True):
        names = [*segments_of(life_of(sealed=True, dropped=dropped).files), HARD_STATE]
        for bits in range(1, 2 ** len(names) - 1):
            files = life_of(sealed=True, dropped=dropped).files
            for at, name in enumerate(names):
                if bits >> at & 1:
                    files.forget(name)
            assert Severity.DAMAGE is check_verdict(files, (dropped, bits))


def test_every_crash_while_a_directory_is_created_is_sound() -> None:
    for name, content in [("hard-state", b""), ("hard-state", bytes(9000))]:
        files = LyingFiles()
        files.make_directory(DIRECTORY)
        files.put(f"{DIRECTORY}/{name}", content)
        assert Severity.NOTE is check_verdict(files, name)
    for content in (b"", bytes(300), bytes(5000)):
        life = Life(LyingFiles())
        life.open()
        life.files.kill()
        life.files.put(f"{DIRECTORY}/{segment_name(0)}", content)
        assert Severity.NOTE is check_verdict(life.files, content)
        life = life_of(sealed=True)
        end = life.opened.log.end_position
        life.files.put(f"{DIRECTORY}/{segment_name(end)}", content)
        assert Severity.NOTE is check_verdict(life.files, content)
        life.files.put(f"{DIRECTORY}/{segment_name(end + 1)}", content)
        life.files.kill()
        assert Severity.DAMAGE is check_verdict(life.files, content)


def test_what_the_next_start_mends_without_a_loss_is_a_note_or_nothing() -> None:
    life = life_of(sealed=True)
    first, last = segments_of(life.files)[0], segments_of(life.files)[-1]
    zeros = life.files.copy("zeros")
    zeros.put(last, zeros.content(last) + bytes(3000))
    assert check_verdict(zeros, "zeros behind the last entry") is None

    unmarked = life.files.copy("unmarked")
    content = unmarked.content(first)
    blank = bytes(ATTEST_BYTES)
    end = SUCCESSOR_OFFSET + ATTEST_BYTES
    unmarked.put(first, content[:SUCCESSOR_OFFSET] + blank + content[end:])
    assert Severity.NOTE is check_verdict(unmarked, "a cut that a crash interrupted")

    dropped = life_of(sealed=True, dropped=True).files
    dropped.put(first, b"rotten")
    assert Severity.NOTE is check_verdict(dropped, "a drop that a crash interrupted")
    assert first not in segments_of(dropped)


def test_a_file_that_continues_nothing_is_damage_even_if_it_is_empty() -> None:
    life = Life(LyingFiles())
    life.open()
    life.files.kill()
    life.files.forget(f"{DIRECTORY}/{segment_name(0)}")
    life.files.put(f"{DIRECTORY}/{segment_name(90)}", b"")

    assert Severity.DAMAGE is check_verdict(life.files, "a file alone")


def test_a_file_of_another_member_is_damage() -> None:
    life = life_of(sealed=True)
    path = segments_of(life.files)[1]
    content = life.files.content(path)
    header = decode_segment_header(content, path)
    other = evolve(header, identity=evolve(ME, member="n7"))
    life.files.put(path, encode_segment_header(other) + content[SEGMENT_HEADER_BYTES:])
    damage = inspect(life.files, DIRECTORY).first_damage
    assert damage is not None
    assert "member 'n7'" in damage.reason

    with pytest.raises(WrongIdentity):
        open_log(life.files)


def test_damage_in_the_middle_names_the_entry_and_does_not_hide_what_follows() -> None:
    life = life_of(sealed=True)
    paths = segments_of(life.files)
    for path in paths[:2]:
        life.files.flip_bit(path, HEADER_BLOCK_BYTES + 45)
    found = inspect(life.files, DIRECTORY)
    first = found.first_damage

    assert first is not None
    assert (paths[0], HEADER_BLOCK_BYTES, 1) == (first.file, first.offset, first.index)
    assert [False, False, True] == [not s.findings for s in found.segments]
    assert [0, 0, 3] == [segment.entries for segment in found.segments]
    assert "corruption, not a crash" in first.meaning
    assert first.advice.startswith("Keep a copy")


def test_a_sound_directory_is_summed_up() -> None:
    life = life_of(sealed=True, dropped=True)
    found = inspect(life.files, DIRECTORY)

    assert (ME, 4, "n1") == (found.identity, *_state(found))
    assert () == found.findings
    assert [(4, 5, 2, 2, True), (6, 8, 2, 3, False)] == [
        (s.first_index, s.last_index, s.first_term, s.last_term, s.starts_log)
        for s in found.segments
    ]
    log = life.opened.log
    assert log.first_position == found.segments[0].start_position
    assert log.end_position == found.segments[-1].attested_position


def _state(found: Inspection) -> tuple[int, str | None]:
    assert found.hard_state is not None
    return found.hard_state.term, found.hard_state.vote


def test_a_directory_in_use_or_without_a_log_is_not_looked_at(tmp_path: Path) -> None:
    opened = open_log(RealFiles(), str(tmp_path / "a"))
    with pytest.raises(DirectoryInUse):
        inspect(RealFiles(), str(tmp_path / "a"))
    opened.close()
    assert inspect(RealFiles(), str(tmp_path / "a")).sound
    (tmp_path / "empty").mkdir()
    for name, reason in [("none", "no such directory"), ("empty", "no log in it")]:
        for look in (inspect, lambda files, path: list(dump(files, path))):
            with pytest.raises(NoLog, match=reason):
                look(RealFiles(), str(tmp_path / name))
    assert [] == list((tmp_path / "empty").iterdir())


def test_a_dump_shows_every_entry_from_any_on() -> None:
    for dropped in (False, True):
        life = life_of(sealed=False, dropped=dropped)
        log = open_log(life.files.copy(1)).log
        expected = [(e.index, e.term, e.kind, len(e.payload)) for e in all_entries(log)]
        for first in range(1, 10):
            found = list(dump(life.files, DIRECTORY, first, preview_bytes=5))

            assert [each for each in expected if each[0] >= first] == [
                (e.index, e.term, e.kind, e.size_bytes) for e in found
            ]
            for entry in found:
                (stored,) = log.read(entry.index, 1)
                assert (stored.position, bytes(stored.payload[:5])) == (
                    entry.position,
                    entry.preview,
                )
                assert bytes(stored.raw[36:40]) == entry.crc.to_bytes(4, "big")


def test_a_dump_reads_no_more_than_it_shows_and_stops_at_damage() -> None:
    life = life_of(sealed=True)
    path = segments_of(life.files)[1]
    life.files.flip_bit(path, HEADER_BLOCK_BYTES + 40 + 30 + 45)
    assert [1, 2, 3] == [e.index for e in islice(dump(life.files, DIRECTORY), 3)]
    shown = []
    with pytest.raises(Corrupt, match="crc of entry 5"):
        shown.extend(entry.index for entry in dump(life.files, DIRECTORY))
    assert [6, 7, 8] == [entry.index for entry in dump(life.files, DIRECTORY, 6)]
    life.files.forget(path)
    with pytest.raises(Corrupt, match="a file is missing"):
        shown.extend(entry.index for entry in dump(life.files, DIRECTORY))
    assert [1, 2, 3, 4, 1, 2, 3] == shown
