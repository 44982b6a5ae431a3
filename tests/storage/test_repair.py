"""Rebuilding what rotted from bytes that others have: everything comes back, or nothing changes."""

import pytest

from dledger_py.storage import BadBatch, Corrupt, DirectoryInUse, HardState, WrongIdentity
from dledger_py.storage.formats import (
    HEADER_BLOCK_BYTES,
    Identity,
    segment_name,
)
from dledger_py.storage.lying import LyingFiles, PowerCut
from dledger_py.storage.repair import REPAIR_NAME, Contradicted, open_repair
from tests.storage.log_scenes import DIRECTORY, ME, Life, all_entries, open_log
from tests.storage.test_recovery import segments_of, small_life

HARD_STATE = f"{DIRECTORY}/hard-state"


def log_bytes(files: LyingFiles) -> bytes:
    """What an intact member would hand out: here, all of its log is committed."""
    opened = open_log(files.copy("bytes"))
    return bytes(opened.log.read_bytes(0, opened.log.end_position))


def mend(files: LyingFiles, raw: bytes, piece_bytes: int = 97) -> int:
    """Repair from `raw`, in small pieces; how many bytes were asked for."""
    asked = 0
    repair = open_repair(files, DIRECTORY, ME)
    try:
        for mending in repair.mendings:
            mending.begin()
            while not mending.complete:
                piece = raw[mending.wanted : mending.wanted + piece_bytes]
                assert piece, "more is wanted than the others have"
                asked += len(piece)
                mending.take(piece)
            mending.finish()
    finally:
        repair.close()
    return asked


def contents(files: LyingFiles) -> dict[str, bytes]:
    """The entries of all segments: what must be the same on every member."""
    names = (name for name in files.list(DIRECTORY) if name.endswith(".log"))
    return {name: files.content(f"{DIRECTORY}/{name}")[HEADER_BLOCK_BYTES:] for name in names}


def refuses(files: LyingFiles) -> Corrupt | None:
    try:
        open_log(files).close()
    except Corrupt as error:
        return error
    return None


@pytest.mark.parametrize("sealed", [False, True])
def test_a_flipped_bit_in_any_entry_is_mended_byte_by_byte(sealed: bool) -> None:
    life = small_life(sealed=sealed)
    raw, whole = log_bytes(life.files), contents(life.files)
    mended = 0
    for path in segments_of(life):
        # 7 and 40 have no common factor: every byte of an entry's header comes up.
        for offset in range(HEADER_BLOCK_BYTES, len(life.files.content(path)), 7):
            files = life.files.copy(offset)
            files.flip_bit(path, offset, offset % 8)
            if refuses(files.copy("look")) is None:
                continue
            mended += 1
            asked = mend(files, raw)

            assert refuses(files) is None
            assert whole == contents(files)
            assert asked <= len(raw) // 2 + 97, "what is good here was fetched all the same"

    assert mended > 200


def test_damage_in_several_places_is_mended_and_what_is_good_is_not_fetched() -> None:
    life = Life(LyingFiles())
    life.open()
    for size in range(100, 130):
        life.append(1, size)
    life.idle()
    life.files.kill()
    files, raw, whole = life.files, log_bytes(life.files), contents(life.files)
    first, second, *_others, last = segments_of(life)
    for path, offset in ((first, 60), (second, 10), (second, 500), (last, 44)):
        files.flip_bit(path, HEADER_BLOCK_BYTES + offset)
    asked = mend(files, raw)

    assert refuses(files) is None
    assert whole == contents(files)
    assert asked < 4 * (170 + 97)
    assert life.states[-1] == all_entries(open_log(files).log)


@pytest.mark.parametrize("what", ["header", "gone", "short", "empty"])
def test_a_lost_file_in_the_middle_becomes_part_of_the_one_before(what: str) -> None:
    life = small_life(sealed=True)
    files, raw = life.files, log_bytes(life.files)
    first, middle, last = segments_of(life)
    if what == "header":
        files.flip_bit(middle, 20)
    elif what == "gone":
        files.forget(middle)
    elif what == "short":
        files.put(middle, files.content(middle)[:-30])
    else:
        files.put(middle, b"")
    assert refuses(files) is not None
    mend(files, raw)

    assert refuses(files) is None
    assert life.states[-1] == all_entries(open_log(files).log)
    kept = [first, middle, last] if what == "short" else [first, last]
    assert kept == segments_of(life)


@pytest.mark.parametrize("damage", ["entry", "header"])
def test_a_power_cut_at_any_point_leaves_what_can_be_repaired_again(damage: str) -> None:
    life = small_life(sealed=True)
    raw = log_bytes(life.files)
    first, middle, last = segments_of(life)
    for path, offset in ((first, 4200), (middle, 20 if damage == "header" else 4300), (last, 4140)):
        life.files.flip_bit(path, offset)
    cuts = 0
    for seed in range(4):
        changes = 0
        while True:
            files = life.files.copy(f"{seed}/{changes}")
            files.stop_after(changes)
            try:
                mend(files, raw)
            except PowerCut:
                cuts += 1
                files.crash()
                mend(files, raw)
            else:
                break
            finally:
                changes += 1
            assert refuses(files) is None
            assert life.states[-1] == all_entries(open_log(files).log)

    assert cuts > 40


def test_wrong_bytes_are_refused_and_the_right_ones_taken_afterwards() -> None:
    life = small_life(sealed=True)
    files, raw, whole = life.files, log_bytes(life.files), contents(life.files)
    files.flip_bit(segments_of(life)[1], HEADER_BLOCK_BYTES + 70)
    repair = open_repair(files, DIRECTORY, ME)
    (mending,) = repair.mendings
    mending.begin()
    at = mending.wanted
    for wrong in (raw[at + 1 : at + 900], bytes(200), _flipped(raw[at : at + 2000])):
        with pytest.raises(BadBatch):
            mending.take(wrong)
        assert at == mending.wanted
    mending.take(b"\0" + raw[at + 1 : at + 7])
    with pytest.raises(BadBatch):  # the beginning was wrong, and nobody could tell
        mending.take(raw[at + 7 :])
    assert at == mending.wanted
    mending.take(raw[at : at + 7])
    mending.take(raw[at + 7 :])
    mending.finish()
    repair.close()

    assert refuses(files) is None
    assert whole == contents(files)


def _flipped(raw: bytes) -> bytes:
    return raw[:100] + bytes([raw[100] ^ 1]) + raw[101:]


def test_the_last_file_must_reach_what_was_attested() -> None:
    life = small_life(sealed=True)
    files, raw = life.files, log_bytes(life.files)
    last = segments_of(life)[-1]
    for offset in range(HEADER_BLOCK_BYTES, len(files.content(last)), 20):
        files.flip_bit(last, offset)
    repair = open_repair(files, DIRECTORY, ME)
    (mending,) = repair.mendings
    mending.begin()
    mending.take(raw[mending.wanted : -70])

    assert not mending.complete
    mending.take(raw[mending.wanted :])
    assert mending.complete
    mending.finish()
    repair.close()
    assert refuses(files) is None


def of_another_term(term: int, *sizes: int) -> bytes:
    """The first two entries of `small_life`, and then others."""
    life = Life(LyingFiles())
    life.open()
    life.append(1, 100, 0)
    life.append(term, *sizes)
    return log_bytes(life.files)


def test_a_committed_entry_of_a_later_term_ends_a_tail_that_never_was() -> None:
    """What was attested behind it contradicts it, and hence was not committed."""
    life = Life(LyingFiles())
    life.open()
    life.append(1, 100, 0, 200, 90, 80)
    life.idle()
    life.files.kill()
    files = life.files
    (path,) = segments_of(life)
    files.flip_bit(path, HEADER_BLOCK_BYTES + 140 + 40 + 60)
    mend(files, of_another_term(7, 30))
    opened = open_log(files)

    assert [(1, 1), (3, 7)] == list(opened.log.terms)
    assert 3 == opened.log.last_index


def test_entries_of_a_later_term_raise_the_term() -> None:
    """A member whose log were ahead of its term would refuse to start, for good."""
    life = Life(LyingFiles())
    life.open()
    life.append(1, 100, 0, 200, 90, 80)
    life.opened.hard_state_file.save(6, "n2", 2)
    life.idle()
    life.files.kill()
    files = life.files
    (path,) = segments_of(life)
    files.flip_bit(path, HEADER_BLOCK_BYTES + 140 + 40 + 60)
    mend(files, of_another_term(7, 30))
    files.crash()

    assert HardState(7, None, 2) == open_log(files).hard_state


def test_a_vote_is_kept_where_the_term_is_not_raised() -> None:
    life = small_life(sealed=True)
    raw, files = log_bytes(life.files), life.files
    before = open_log(files.copy("look")).hard_state
    files.flip_bit(segments_of(life)[-1], HEADER_BLOCK_BYTES + 50)
    mend(files, raw)

    assert before == open_log(files).hard_state


def test_committed_entries_that_do_not_lead_to_the_next_file_are_a_contradiction() -> None:
    life = small_life(sealed=True)
    files = life.files
    first = segments_of(life)[0]
    files.flip_bit(first, HEADER_BLOCK_BYTES + 140 + 40 + 60)
    before = files.content(first)
    repair = open_repair(files, DIRECTORY, ME)
    (mending,) = repair.mendings
    mending.begin()
    with pytest.raises(Contradicted):
        mending.take(of_another_term(1, 600, 20, 300)[mending.wanted :])
    repair.close()

    assert before == files.content(first)


@pytest.mark.parametrize("what", ["hard state", "first header", "last header", "last file"])
def test_what_others_do_not_have_is_refused_as_before(what: str) -> None:
    life = small_life(sealed=True)
    files = life.files
    first, _middle, last = segments_of(life)
    match what:
        case "hard state":
            for offset in range(0, 8192, 2048):
                files.flip_bit(HARD_STATE, offset + 20)
        case "first header":
            files.flip_bit(first, 20)
        case "last header":
            files.flip_bit(last, 20)
        case _:
            files.forget(last)
    before = {path: files.content(path) for path in segments_of(life)}
    with pytest.raises(Corrupt) as refused:
        open_repair(files, DIRECTORY, ME)

    assert "Nothing was changed" in str(refused.value)
    assert before == {path: files.content(path) for path in segments_of(life)}
    files.lock(f"{DIRECTORY}/LOCK").release()  # it was let go


def test_a_log_that_begins_late_is_mended_too() -> None:
    life = Life(LyingFiles())
    life.open()
    for size in range(100, 130):
        life.append(1, size)
    raw = log_bytes(life.files.copy("whole"))
    life.drop(20)
    life.idle()
    life.files.kill()
    files, whole = life.files, contents(life.files)
    path = segments_of(life)[0]
    assert path != f"{DIRECTORY}/{segment_name(0)}"
    files.flip_bit(path, HEADER_BLOCK_BYTES + 60)
    mend(files, raw)

    assert refuses(files) is None
    assert whole == contents(files)


def test_a_sound_log_needs_nothing_and_a_foreign_or_used_one_is_left_alone() -> None:
    life = small_life(sealed=True)
    repair = open_repair(life.files, DIRECTORY, ME)
    with pytest.raises(DirectoryInUse):
        open_repair(life.files, DIRECTORY, ME)
    repair.close()
    with pytest.raises(WrongIdentity):
        open_repair(life.files, DIRECTORY, Identity(cluster="c", group="g", member="n1"))

    assert () == repair.mendings
    assert REPAIR_NAME not in life.files.list(DIRECTORY)


def test_a_sector_that_cannot_be_read_is_as_good_as_rotten() -> None:
    life = small_life(sealed=True)
    files, raw, whole = life.files, log_bytes(life.files), contents(life.files)
    middle = segments_of(life)[1]

    class Failing:
        """Reads of the middle file's entries fail; the file that replaces it is another one."""

        broken = True

        def __getattr__(self, name):
            return getattr(files, name)

        def rename(self, path, to):
            self.broken = self.broken and to != middle
            files.rename(path, to)

        def open(self, path, *, write=False):
            file = files.open(path, write=write)
            return _Unreadable(file) if path == middle and self.broken else file

    failing = Failing()
    mend(failing, raw)

    assert not failing.broken
    assert refuses(files) is None
    assert whole == contents(files)


class _Unreadable:
    def __init__(self, file):
        self._file = file

    def __getattr__(self, name):
        return getattr(self._file, name)

    def pread_into(self, buffer, offset, *, nowait=False):
        raise OSError(5, "Input/output error")
