"""Layouts round trip, and the walk accepts nothing but what was sealed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dledger_py.storage import batch
from dledger_py.storage.formats import (
    EMPTY,
    HEADER_BLOCK_BYTES,
    START_OFFSETS,
    Attest,
    Corrupt,
    End,
    HardRecord,
    HardState,
    Identity,
    SegmentHeader,
    count_starts,
    decode_attests,
    decode_hard_state,
    decode_segment_header,
    encode_entry,
    encode_hard_slot,
    encode_header_block,
    encode_start,
    segment_name,
    segment_start,
    walk,
)
from tests.storage.log_scenes import ME, Entry

numbers = st.integers(0, 2**64 - 1)
ids = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: len(text.encode()) <= 64
)
identities = st.builds(Identity, cluster=ids, group=ids, member=ids)
ends = st.builds(End, numbers, numbers, numbers, st.integers(0, 2**32 - 1))


@settings(deadline=None)  # the machine may be busy
@given(identities, ends, st.integers(0, 2**64 - 2), numbers, numbers, numbers)
def test_header_blocks_round_trip(
    identity: Identity, before: End, seq: int, position: int, index: int, term: int
) -> None:
    header = SegmentHeader(identity=identity, before=before)
    block = encode_header_block(header, Attest(seq, position, index, term))

    assert 4096 == len(block)
    assert header == decode_segment_header(block, "file")
    assert {Attest(seq, position, index, term), Attest(seq + 1, position, index, term)} == set(
        decode_attests(block)
    )


@settings(deadline=None)  # the machine may be busy
@given(identities, st.lists(st.tuples(numbers, st.none() | ids, numbers), min_size=2, max_size=5))
def test_the_newest_hard_state_counts(
    identity: Identity, saves: list[tuple[int, str | None, int]]
) -> None:
    slots = [b"", b""]
    for seq, save in enumerate(saves):
        record = HardRecord(identity=identity, seq=seq, state=HardState(*save))
        slots[seq % 2] = encode_hard_slot(record)

    assert record == decode_hard_state(b"".join(slots), "file")


@settings(deadline=None)  # the machine may be busy
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.binary(max_size=30)),
        min_size=1,
        max_size=6,
    )
)
def test_sealed_entries_are_walked_whole_and_in_any_pieces(
    steps: list[tuple[int, int, bytes]],
) -> None:
    term, entries = 1, []
    for index, (more, kind, payload) in enumerate(steps, 1):
        term += more
        entries.append(Entry(index, term, kind, payload))
    sealed = batch.seal(EMPTY, entries)
    walked = walk(sealed.data, EMPTY)

    assert walked.bad is None
    assert sealed.end == walked.end
    assert [(e.index, e.term, e.kind, e.payload) for e in entries] == [
        (index, term, kind, sealed.data[start + 40 : stop])
        for index, term, kind, start, stop in walked.entries
    ]
    assert sealed.starts == batch.seal_raw(EMPTY, memoryview(sealed.data)).starts
    assert sealed.terms == batch.seal_raw(EMPTY, sealed.data).terms
    for size in range(len(sealed.data)):
        part = walk(sealed.data[:size], EMPTY)
        whole = [stop for *_rest, stop in walked.entries if stop <= size]
        assert len(whole) == len(part.entries)
        assert (part.bad is None) == (size == part.at)
        if part.bad is not None:
            assert size < part.bad.at + part.bad.needed <= len(sealed.data)
        rest = walk(sealed.data, part.end, part.at)
        assert walked.end == rest.end


def test_an_entry_of_another_place_is_not_taken() -> None:
    first = batch.seal(EMPTY, [Entry(1, 1, 1, b"abc")])
    second = batch.seal(first.end, [Entry(2, 1, 1, b"abc")])
    end = first.end
    assert walk(second.data, end).bad is None
    for other in (
        End(end.index + 1, end.term, end.position, end.crc),
        End(end.index, end.term, end.position + 1, end.crc),
        End(end.index, end.term, end.position, end.crc ^ 1),
        End(end.index, end.term + 1, end.position, end.crc),
    ):
        assert walk(second.data, other).bad is not None


def test_a_batch_knows_where_its_entries_lie() -> None:
    end = batch.seal(EMPTY, [Entry(1, 1, 1, b"abc")]).end
    sealed = batch.seal(end, [Entry(2, 1, 1, b"d"), Entry(3, 2, 1, b"ef"), Entry(4, 2, 0, b"")])

    assert (2, 4, 43, 166) == (
        sealed.first_index,
        sealed.last_index,
        sealed.start_position,
        sealed.end_position,
    )
    assert ((2, 1), (3, 2)) == sealed.terms
    assert b"ef" == sealed.raw(3, 3)[40:]
    assert sealed.data == sealed.raw(2, 4)
    at = sealed.payload_position_of(3) - sealed.start_position
    assert b"ef" == sealed.data[at : at + 2]


def test_entries_must_follow_each_other() -> None:
    for entries in ([Entry(2, 1, 1, b"")], [Entry(1, 1, 1, b""), Entry(3, 1, 1, b"")]):
        with pytest.raises(AssertionError):
            batch.seal(EMPTY, entries)
    with pytest.raises(AssertionError):
        encode_entry(End(1, 5, 40, 0), 4, 1, b"")


@pytest.mark.parametrize("name", ["", "a\0b", "ä" * 33])
def test_ids_fit_their_fields(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 64 bytes"):
        Identity(cluster=name, group="g", member="m")
    if name:
        with pytest.raises(ValueError, match="1 to 64 bytes"):
            encode_hard_slot(HardRecord(identity=ME, seq=0, state=HardState(1, name, 0)))


def test_segment_names_sort_as_positions_do() -> None:
    for position in (0, 1, 4096, 2**64 - 1):
        assert position == segment_start(segment_name(position))
    for name in ("LOCK", "hard-state", "1.log", segment_name(1) + ".bak", "0" * 20):
        assert segment_start(name) is None
    with pytest.raises(Corrupt, match="file ends"):
        decode_segment_header(b"short", "file")


def test_start_marks_must_stay_readable_for_ever() -> None:
    mark = bytes.fromhex(
        "57a27006" "0000000000000000" "0000000000000bfe" "0000000000000009" "0000000000000003"
        "a9eafbce"
    )  # fmt: skip
    assert mark == encode_start(End(9, 3, 3070, 0xDEADBEEF))
    block = bytearray(HEADER_BLOCK_BYTES)
    assert 0 == count_starts(block, 3070)
    for count, offset in enumerate(START_OFFSETS, 1):
        block[offset : offset + len(mark)] = mark
        assert count == count_starts(block, 3070)

    assert 0 == count_starts(block, 3071)
    assert 0 == count_starts(block[:2048], 3070)
    for at in range(len(mark)):
        damaged = bytearray(block)
        damaged[2048 + at] ^= 1
        assert 1 == count_starts(damaged, 3070)
