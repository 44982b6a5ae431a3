"""What may be cut and what is refused: damage of every kind, at every byte."""

import re

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from dledger_py.storage import Corrupt, DirectoryInUse, Identity, WrongIdentity, recover
from dledger_py.storage.formats import (
    ATTEST_BYTES,
    ATTEST_OFFSETS,
    HARD_FILE_BYTES,
    HEADER_BLOCK_BYTES,
    SECTOR_BYTES,
    SEGMENT_HEADER_BYTES,
    SUCCESSOR_OFFSET,
    decode_segment_header,
    encode_segment_header,
    segment_name,
)
from dledger_py.storage.lying import LyingFiles
from tests.storage.log_scenes import DIRECTORY, ME, Entries, Life, all_entries, open_log

HARD_STATE = f"{DIRECTORY}/hard-state"


def path_of(start: int) -> str:
    return f"{DIRECTORY}/{segment_name(start)}"


def small_life(*, sealed: bool) -> Life:
    """Three segments; unless sealed, the last group is durable but not attested yet."""
    life = Life(LyingFiles())
    life.open()
    life.save(4, "n1")
    life.append(1, 100, 0, 700)
    life.append(2, 30, 750)
    life.append(2, 60)
    life.append(3, 50, 12)
    if sealed:
        life.idle()
    life.files.kill()
    return life


def segments_of(life: Life) -> list[str]:
    return [f"{DIRECTORY}/{n}" for n in life.files.list(DIRECTORY) if n.endswith(".log")]


def recovered_entries(files: LyingFiles) -> Entries | Corrupt:
    try:
        opened = open_log(files)
    except Corrupt as error:
        return error
    assert (4, "n1") == (opened.hard_state.term, opened.hard_state.vote)
    return all_entries(opened.log)


def test_small_life_has_three_segments_and_a_group_that_is_not_attested() -> None:
    life = small_life(sealed=False)

    assert 3 == len(segments_of(life))
    statistics = life.opened.log.statistics()
    assert statistics.attested_position < statistics.durable_position


@pytest.mark.parametrize("sealed", [False, True])
def test_a_flipped_bit_anywhere_never_silently_loses_what_was_attested(sealed: bool) -> None:
    """Every byte of every kind: headers, payloads, attest slots, hard state."""
    life = small_life(sealed=sealed)
    whole = life.states[-1]
    attested = whole if sealed else whole[:-2]
    refused = 0
    for path in [*segments_of(life), HARD_STATE]:
        content = life.files.content(path)
        for offset in interesting_offsets(path, len(content)):
            files = life.files.copy(offset)
            files.flip_bit(path, offset, offset % 8)
            damaged = files.content(path)
            found = recovered_entries(files)
            if isinstance(found, Corrupt):
                refused += 1
                assert damaged == files.content(path)
                continue
            # A slot that rotted takes its own claim with it, one group; the bytes are all there.
            assert found[: len(attested)] == attested, (path, offset)
            assert whole[: len(found)] == found
    assert refused > 1000


def interesting_offsets(path: str, size: int) -> list[int]:
    if path == HARD_STATE:
        return [at for at in range(size) if at % 2048 < 300]
    header = [*range(SEGMENT_HEADER_BYTES)]
    marks = (*ATTEST_OFFSETS, SUCCESSOR_OFFSET)
    slots = [offset + at for offset in marks for at in range(ATTEST_BYTES)]
    return [*header, *slots, 300, 4000, *range(HEADER_BLOCK_BYTES, size)]


@pytest.mark.parametrize("sealed", [False, True])
def test_a_file_cut_anywhere_never_silently_loses_what_was_attested(sealed: bool) -> None:
    life = small_life(sealed=sealed)
    whole = life.states[-1]
    attested = whole if sealed else whole[:-2]
    outcomes = set()
    for path in [*segments_of(life), HARD_STATE]:
        content = life.files.content(path)
        for size in range(len(content)):
            files = life.files.copy(size)
            files.put(path, content[:size])
            found = recovered_entries(files)
            outcomes.add(isinstance(found, Corrupt))
            if not isinstance(found, Corrupt):
                assert found[: len(attested)] == attested, (path, size)
                assert whole[: len(found)] == found
    assert ({True} if sealed else {True, False}) == outcomes


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(st.lists(st.integers(0, 900), min_size=1, max_size=5), min_size=1, max_size=8),
    st.integers(0, 2**32),
    st.binary(min_size=1, max_size=700),
    st.booleans(),
)
def test_garbage_written_anywhere_is_refused_or_cut_behind_the_attested_end(
    groups: list[list[int]], place: int, garbage: bytes, sealed: bool
) -> None:
    life = Life(LyingFiles())
    life.open()
    for term, sizes in enumerate(groups, 1):
        life.append(term, *sizes)
    if sealed:
        life.idle()
    attested = life.opened.log.statistics().attested_position
    ends = [entry.position for entry in life.opened.log.read(1, 10**6)]
    kept = sum(1 for position in ends if position < attested)
    whole = life.states[-1]
    life.files.kill()
    paths = segments_of(life)
    path = paths[place % len(paths)]
    content = bytearray(life.files.content(path))
    at = HEADER_BLOCK_BYTES + place % (len(content) - HEADER_BLOCK_BYTES + 1)
    content[at : at + len(garbage)] = garbage
    life.files.put(path, bytes(content))
    try:
        opened = open_log(life.files)
    except Corrupt:
        return
    found = all_entries(opened.log)

    assert whole[:kept] == found[:kept]
    assert whole[: len(found)] == found


def test_a_torn_tail_is_cut_and_reported() -> None:
    life = small_life(sealed=False)
    path = segments_of(life)[-1]
    content = life.files.content(path)
    life.files.put(path, content[:-1])
    opened = open_log(life.files)

    assert life.states[-1][:-1] == all_entries(opened.log)
    assert opened.cut is not None
    assert (path, 51) == (opened.cut.file, opened.cut.size_bytes)
    assert len(content) - 52 == opened.cut.offset
    assert opened.log.end_position == opened.cut.position
    assert "inside an entry" in opened.cut.reason


def test_zeros_behind_the_last_entry_are_its_end_and_no_cut() -> None:
    life = small_life(sealed=True)
    path = segments_of(life)[-1]
    content = life.files.content(path)
    life.files.put(path, content + bytes(5000))
    opened = open_log(life.files)

    assert opened.cut is None
    assert life.states[-1] == all_entries(opened.log)
    assert len(content) == len(life.files.content(path))


def test_a_committed_entry_is_never_cut_even_if_its_group_was_not_attested() -> None:
    life = small_life(sealed=False)
    opened = open_log(life.files.copy(0))
    life.files = opened_files = life.files.copy(1)
    opened = open_log(opened_files)
    opened.hard_state_file.save(4, "n1", opened.log.last_index)
    opened_files.kill()
    # Roll the slots back to where nothing speaks for the last group, then tear it.
    path = segments_of(life)[-1]
    old = small_life(sealed=False).files.content(path)
    opened_files.put(path, old[:-1])

    with pytest.raises(Corrupt, match="entries up to 8 were committed"):
        open_log(opened_files)


def test_a_missing_file_is_named_and_refused() -> None:
    names = segments_of(small_life(sealed=True))
    for missing, reason in [
        (names[0], "starts at position 9"),
        (names[1], "a file is missing or too short"),
        (names[2], "marked as followed by another file"),
        (HARD_STATE, "term and vote are missing"),
    ]:
        life = small_life(sealed=True)
        life.files.forget(missing)
        with pytest.raises(Corrupt, match=reason):
            open_log(life.files)


def test_a_damaged_header_of_the_last_file_is_no_newborn_when_entries_follow() -> None:
    life = small_life(sealed=True)
    path = segments_of(life)[-1]
    life.files.flip_bit(path, 50)
    with pytest.raises(Corrupt, match="crc of the segment header") as raised:
        open_log(life.files)

    assert path == raised.value.file


def test_a_file_begun_elsewhere_than_where_the_log_ends_is_a_gap() -> None:
    life = Life(LyingFiles())
    life.open()
    life.append(1, 10)
    life.files.kill()
    life.files.put(path_of(50), b"")
    open_log(life.files.copy(0))
    life.files.put(path_of(70), b"")
    life.files.forget(path_of(50))

    with pytest.raises(Corrupt, match="next file was begun at position 70"):
        open_log(life.files)


def test_a_file_must_continue_the_very_log_before_it() -> None:
    life = Life(LyingFiles())
    life.open()
    life.append(1, 700)
    life.append(1, 700)
    life.cut(-1, 2)
    life.files.kill()
    last = segments_of(life)[-1]
    block = life.files.content(last)
    header = decode_segment_header(block, last)
    other = encode_segment_header(evolve(header, before=evolve(header.before, term=2)))
    life.files.put(last, other + block[len(other) :])

    with pytest.raises(Corrupt, match=r"continues End\(.*term=2.*but the log before it is End"):
        open_log(life.files)


def test_a_mark_that_a_crash_during_a_cut_had_erased_is_set_again() -> None:
    life = small_life(sealed=True)
    _first, second, _last = segments_of(life)
    content = life.files.content(second)
    blank = bytes(SECTOR_BYTES)
    end = SUCCESSOR_OFFSET + SECTOR_BYTES
    life.files.put(second, content[:SUCCESSOR_OFFSET] + blank + content[end:])
    open_log(life.files).close()

    assert content[SUCCESSOR_OFFSET:end] == life.files.content(second)[SUCCESSOR_OFFSET:end]


def test_a_log_that_was_deleted_beside_its_votes_is_refused() -> None:
    life = small_life(sealed=True)
    for path in segments_of(life):
        life.files.forget(path)

    with pytest.raises(Corrupt, match="knows term 4, but its log has no readable segment"):
        open_log(life.files)


def test_an_older_version_of_the_same_length_is_refused() -> None:
    """A disk that brings back what a cut had replaced: same positions, older term."""
    life = Life(LyingFiles())
    life.open()
    life.append(1, 10)
    life.append(1, 20)
    life.idle()
    before = life.files.content(path_of(0))[HEADER_BLOCK_BYTES:]
    life.cut(2, 2, 20)
    life.idle()
    life.files.kill()
    now = life.files.content(path_of(0))
    assert len(now) == HEADER_BLOCK_BYTES + len(before)
    life.files.put(path_of(0), now[:HEADER_BLOCK_BYTES] + before)

    with pytest.raises(Corrupt, match="an old version of these bytes is back"):
        open_log(life.files)


def test_a_newer_version_is_refused_and_never_cut() -> None:
    life = small_life(sealed=False)
    path = segments_of(life)[-1]
    from dledger_py.storage import formats

    saved = formats.ENTRY_VERSION
    try:
        formats.ENTRY_VERSION = 1
        newer = Life(LyingFiles())
        newer.open()
        newer.append(1, 10)
        newer.files.kill()
    finally:
        formats.ENTRY_VERSION = saved
    with pytest.raises(Corrupt, match=r"unknown version 1.*Start the version that wrote"):
        open_log(newer.files)

    content = bytearray(life.files.content(path))
    content[8:10] = b"\0\2"
    from crc32c import crc32c

    checked = bytes(content[: SEGMENT_HEADER_BYTES - 4])
    content[SEGMENT_HEADER_BYTES - 4 : SEGMENT_HEADER_BYTES] = crc32c(checked).to_bytes(4, "big")
    life.files.put(path, bytes(content))
    with pytest.raises(Corrupt, match=r"segment version 2.*Start the version that wrote"):
        open_log(life.files)


@pytest.mark.parametrize("field", ["cluster", "group", "member"])
def test_somebody_elses_directory_is_refused(field: str) -> None:
    life = small_life(sealed=True)
    life.files.trace.clear()
    names = {"cluster": ME.cluster, "group": ME.group, "member": ME.member}
    other = Identity(**{**names, field: "other"})
    with pytest.raises(WrongIdentity, match=r"belongs to cluster 'cluster-a'.*this process is"):
        recover(life.files, DIRECTORY, other)

    assert [] == life.files.trace
    open_log(life.files)


def test_a_directory_belongs_to_one_process() -> None:
    life = Life(LyingFiles())
    life.open()
    with pytest.raises(DirectoryInUse, match="another process"):
        open_log(life.files)
    life.opened.close()
    open_log(life.files)


def test_a_refused_directory_is_left_as_it_was_and_unlocked() -> None:
    life = small_life(sealed=True)
    path = segments_of(life)[0]
    life.files.flip_bit(path, HEADER_BLOCK_BYTES + 50)
    before = {name: life.files.content(name) for name in [*segments_of(life), HARD_STATE]}
    for _again in range(2):
        with pytest.raises(Corrupt, match=re.escape(path)):
            open_log(life.files)

    assert before == {name: life.files.content(name) for name in before}


def test_one_rotten_copy_of_term_and_vote_is_mended_two_in_a_slot_are_refused() -> None:
    life = small_life(sealed=True)
    assert HARD_FILE_BYTES == len(life.files.content(HARD_STATE))
    for slot in (0, 4096):
        files = life.files.copy(slot)
        files.flip_bit(HARD_STATE, slot + 20)
        assert not isinstance(recovered_entries(files), Corrupt)
        files.kill()
        files = life.files.copy(slot)
        files.flip_bit(HARD_STATE, slot + 20)
        files.flip_bit(HARD_STATE, slot + 2048 + 30)
        with pytest.raises(Corrupt, match="no copy of term and vote"):
            open_log(files)
