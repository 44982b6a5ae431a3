"""What an opening takes from a summary is what reading the segment tells; and when it does not."""

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from dledger_py.storage import Corrupt, Recovered, forget_summaries, recover
from dledger_py.storage.anchors import ANCHOR_SPACING_BYTES
from dledger_py.storage.formats import (
    ATTEST_BYTES,
    HEADER_BLOCK_BYTES,
    Attest,
    End,
    attest_offset,
    encode_attest,
    segment_name,
)
from dledger_py.storage.lying import LyingFiles
from dledger_py.storage.summaries import (
    Summary,
    decode,
    encode,
    read_summary,
    summary_name,
    summary_starts,
    write_summary,
)
from tests.storage.log_scenes import (
    DIRECTORY,
    ME,
    Entries,
    Entry,
    Life,
    all_entries,
    entries_after,
    retention_script,
    script,
)

SEGMENT_BYTES = 4 * ANCHOR_SPACING_BYTES
FIRST = f"{DIRECTORY}/{segment_name(0)}"

NUMBERS = st.integers(0, 2**64 - 1)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5).map(tuple)
ENDS = st.builds(End, NUMBERS, NUMBERS, NUMBERS, st.integers(0, 2**32 - 1))
SUMMARIES = st.builds(
    Summary,
    before=ENDS,
    end=ENDS,
    anchors=PAIRS,
    terms=PAIRS,
    configurations=st.lists(st.tuples(NUMBERS, st.binary(max_size=9)), max_size=3).map(tuple),
)


def opened(files: LyingFiles, *, check_all: bool = False) -> Recovered:
    return recover(files, DIRECTORY, ME, SEGMENT_BYTES, check_all=check_all)


def large_life() -> LyingFiles:
    """Several segments of several anchors each; terms and members change in the middle of them."""
    files = LyingFiles()
    log = opened(files).log
    for term in range(1, 8):
        for entry in entries_after(log, term, [30_000] * 5):
            log.write([log.seal([entry])])
        index = log.last_index + 1
        log.write([log.seal([Entry(index, term, 2, b"members as of %d" % index)])])
    log.close()
    return files


def told(of: Recovered) -> tuple[Entries, object, object, object]:
    """All that an opening learns of a log."""
    log = of.log
    terms = [log.term_at(index) for index in range(log.first_index - 1, log.last_index + 1)]
    return all_entries(log), log.terms, of.configurations, terms


@given(SUMMARIES)
def test_a_summary_is_read_as_it_was_written(summary: Summary) -> None:
    assert summary == decode(encode(summary))


@given(SUMMARIES, st.integers(0), st.integers(0, 7))
def test_one_that_is_torn_or_rotten_is_none(summary: Summary, place: int, bit: int) -> None:
    content = bytearray(encode(summary))
    place %= len(content)
    assert decode(bytes(content[:place])) is None
    content[place] ^= 1 << bit
    assert decode(bytes(content)) is None


def test_an_opening_reads_only_the_last_segment_and_learns_the_same() -> None:
    files = large_life()
    whole = opened(files.copy(1), check_all=True)
    quick = opened(files)
    last = quick.log.boundaries[-1]

    assert 3 == len(quick.log.boundaries)
    assert quick.log.end_position - last.position == quick.checked_bytes
    assert whole.log.end_position == whole.checked_bytes
    assert told(whole) == told(quick)
    assert whole.log.statistics().anchors == quick.log.statistics().anchors


@pytest.mark.parametrize("steps", [script, retention_script])
def test_after_each_step_of_a_life_the_next_opening_learns_what_reading_would_tell(steps) -> None:
    life = Life(LyingFiles())
    for step in steps():
        step(life)
        left = life.files.copy(1)
        left.kill()
        left_too = left.copy(1)
        quick = recover(left, DIRECTORY, ME, 700)
        whole = recover(left_too, DIRECTORY, ME, 700, check_all=True)

        assert told(whole) == told(quick)


def test_segments_without_one_are_read_and_get_one() -> None:
    files = large_life()
    forget_summaries(files, DIRECTORY)
    assert [] == summary_starts(files, DIRECTORY)
    first = opened(files)
    first.log.close()
    again = opened(files)

    assert first.log.end_position == first.checked_bytes
    assert SEGMENT_BYTES > again.checked_bytes
    assert told(opened_copy(files)) == told(again)


def opened_copy(files: LyingFiles) -> Recovered:
    copy = files.copy(1)
    copy.kill()
    return opened(copy, check_all=True)


def test_rot_in_a_sealed_segment_is_found_where_it_is_read_and_then_by_the_opening() -> None:
    files = large_life()
    files.flip_bit(FIRST, HEADER_BLOCK_BYTES + 70_000, 3)
    log = opened(files).log
    with pytest.raises(Corrupt, match="crc"):
        log.read(1, 200_000)
    with pytest.raises(Corrupt, match="crc"):
        log.scrub(60_000, 64_000)
    log.close()
    forget_summaries(files, DIRECTORY)
    with pytest.raises(Corrupt, match="crc"):
        opened(files)


def test_rot_in_the_last_entries_of_a_sealed_segment_is_found_at_once() -> None:
    files = large_life()
    size = len(files.content(FIRST))
    files.flip_bit(FIRST, size - 5, 0)
    with pytest.raises(Corrupt, match="crc"):
        opened(files)


def test_what_is_attested_at_the_end_of_a_sealed_segment_is_looked_at() -> None:
    """The last segment is empty, and what was durable is the end of the one before."""
    files = LyingFiles()
    log = opened(files).log
    for entry in entries_after(log, 1, [SEGMENT_BYTES, 10]):
        log.write([log.seal([entry])])
    (end,) = log.boundaries
    log.write([], log.cut(2))
    log.close()
    last = f"{DIRECTORY}/{segment_name(end.position)}"
    content = bytearray(files.content(last))
    for seq in (1000, 1001):
        claim = encode_attest(Attest(seq, end.position, end.index, end.term + 1))
        content[attest_offset(seq) : attest_offset(seq) + ATTEST_BYTES] = claim
    sound = opened(files.copy(1))
    files.put(last, bytes(content))

    assert 0 == sound.checked_bytes
    with pytest.raises(Corrupt, match="an old version of these bytes is back"):
        opened(files)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_sealed_segment_of_another_length_is_refused(change: int) -> None:
    files = large_life()
    content = files.content(FIRST)
    files.put(FIRST, content[:change] if change < 0 else content + b"x")
    with pytest.raises(Corrupt):
        opened(files)


def test_one_of_another_segment_is_not_believed() -> None:
    files = large_life()
    log = opened(files).log
    log.close()
    second = log.boundaries[0].position
    other = read_summary(files, DIRECTORY, second)
    assert other is not None
    write_summary(files, DIRECTORY, evolve(other, before=End(0, 0, 0, 0)))
    again = opened(files)

    assert SEGMENT_BYTES < again.checked_bytes
    assert told(opened_copy(files)) == told(again)


def test_one_from_another_life_of_the_log_is_not_believed() -> None:
    """Of the same sizes; only terms, and so checksums, were others."""
    lives = []
    for terms in ((1, 2), (1, 3)):
        files = LyingFiles()
        log = opened(files).log
        for term in terms:
            for entry in entries_after(log, term, [60_000] * 4):
                log.write([log.seal([entry])])
        log.close()
        lives.append(files)
    path = f"{DIRECTORY}/{summary_name(0)}"
    old, new = lives
    new.put(path, old.content(path))

    assert told(opened_copy(new)) == told(opened(new))


def test_what_was_sealed_behind_a_full_segment_is_not_in_its_summary() -> None:
    """Several groups are written at once, of which the first fills the segment."""
    files = LyingFiles()
    log = opened(files).log
    groups = []
    for term in (1, 2, 3):
        entries = (
            *entries_after(log, term, [50_000] * 6),
            Entry(log.last_index + 7, term, 2, b"members of %d" % term),
        )
        groups.append(log.seal(entries))
    log.write(groups)
    log.close()

    assert told(opened_copy(files)) == told(opened(files))


def test_one_without_a_sealed_segment_is_removed() -> None:
    files = large_life()
    summary = read_summary(files, DIRECTORY, 0)
    assert summary is not None
    last = End(9, 1, opened_copy(files).log.boundaries[-1].position, 0)
    for before in (last, End(9, 1, 12345, 0)):
        write_summary(files, DIRECTORY, evolve(summary, before=before))
    log = opened(files).log

    assert {0, *(each.position for each in log.boundaries[:-1])} == set(
        summary_starts(files, DIRECTORY)
    )


def test_one_that_cannot_be_read_is_none() -> None:
    files = large_life()
    path = f"{DIRECTORY}/{summary_name(0)}"
    files.put(path, files.content(path)[:-1])
    again = opened(files)
    again.log.close()

    assert SEGMENT_BYTES < again.checked_bytes
    assert read_summary(files, DIRECTORY, 0) is not None


def test_those_of_segments_that_went_go_too() -> None:
    files = large_life()
    log = opened(files).log
    log.drop_before(log.boundaries[0].index + 1, (0, b"the founders"))
    left = {log.first_position, *(each.position for each in log.boundaries[:-1])}
    assert left == set(summary_starts(files, DIRECTORY))
    cut = log.cut(log.boundaries[0].index + 3)
    log.write([], cut)
    log.close()
    stay = {log.first_position, *(each.position for each in log.boundaries[:-1])}

    assert stay == set(summary_starts(files, DIRECTORY))
    assert told(opened_copy(files)) == told(opened(files))


def test_a_segment_that_is_full_while_a_cut_is_due_gets_none() -> None:
    """What is known of the log is already without the entries that the files still get."""
    files = LyingFiles()
    log = opened(files).log
    sealed = [log.seal([entry]) for entry in entries_after(log, 1, [30_000] * 10)]
    cut = log.cut(3)
    assert cut is not None
    log.write(sealed)

    assert 1 == len(log.boundaries)
    assert [] == summary_starts(files, DIRECTORY)
    log.write([], cut)
    log.write([log.seal([entry]) for entry in entries_after(log, 2, [30_000] * 10)])
    log.close()

    assert [0] == summary_starts(files, DIRECTORY)
    assert told(opened_copy(files)) == told(opened(files))
