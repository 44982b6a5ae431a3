"""The offset to commit: examples, and the law over random orders of settling."""

from hypothesis import given
from hypothesis import strategies as st

from dledger_py.client.progress import Progress


def test_with_nothing_in_hand_the_next_offset_is_committed() -> None:
    progress = Progress(7)

    assert (progress.commit_offset, progress.span, progress.in_hand) == (7, 0, 0)


def test_the_oldest_unsettled_message_holds_the_commit_back() -> None:
    progress = Progress(0)
    progress.took([0, 1, 2], 3)

    progress.settle(2)
    progress.settle(1)
    assert (progress.commit_offset, progress.in_hand, progress.span) == (0, 1, 3)

    progress.settle(0)
    assert (progress.commit_offset, progress.in_hand, progress.span) == (3, 0, 0)


def test_offsets_skipped_by_a_filter_hold_nothing_back() -> None:
    progress = Progress(0)
    progress.took([4], 10)

    progress.settle(4)

    assert progress.commit_offset == 10


@given(st.permutations(range(12)), st.integers(0, 12))
def test_the_commit_never_passes_an_unsettled_message(order: list[int], settled: int) -> None:
    progress = Progress(0)
    progress.took(list(range(12)), 12)
    for offset in order[:settled]:
        progress.settle(offset)

    assert progress.commit_offset == min(order[settled:], default=12)
