"""Majorities against an oracle that tries every subset."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from dledger_py.raft.quorum import agreed, is_majority
from dledger_py.raft.vocabulary import NodeId

MEMBERS = tuple(NodeId(f"n{number}") for number in range(7))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7))
def test_agreed_is_the_greatest_number_some_majority_has_reached(numbers: list[int]) -> None:
    members = MEMBERS[: len(numbers)]
    reached = dict(zip(members, numbers, strict=True))
    majority = len(members) // 2 + 1
    oracle = max(
        min(reached[member] for member in subset) for subset in combinations(members, majority)
    )

    assert oracle == agreed(members, reached)


@given(st.integers(1, 7), st.sets(st.sampled_from(MEMBERS)))
def test_two_majorities_always_share_a_member(size: int, granted: set[NodeId]) -> None:
    members = MEMBERS[:size]
    others = set(members) - granted

    assert not (is_majority(members, granted) and is_majority(members, others))
    assert is_majority(members, members)
    assert not is_majority(members, ())


def test_members_outside_the_set_do_not_count() -> None:
    assert not is_majority(MEMBERS[:3], {MEMBERS[0], MEMBERS[5], MEMBERS[6]})
