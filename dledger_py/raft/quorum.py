"""What a majority of a member set agrees on. Pure functions.

Everything is said in terms of a member set, so that a joint configuration (§6) becomes the
stricter of two answers: `all(is_majority(...))` and `min(agreed(...))` over its two sets.
"""

from collections.abc import Container, Mapping, Sequence

from dledger_py.raft.vocabulary import NodeId


def is_majority(members: Sequence[NodeId], granted: Container[NodeId]) -> bool:
    """Whether more than half of `members` are in `granted`."""
    return sum(member in granted for member in members) > len(members) // 2


def agreed(members: Sequence[NodeId], reached: Mapping[NodeId, int]) -> int:
    """Return the greatest number that more than half of `members` have reached.

    Of matching indices this is what is replicated on a majority (§5.3), of ticks the last contact
    with one, of rounds the last one a majority has answered. Example: 3, 7, 9 agree on 7; 3, 5,
    7, 9 agree on 5.
    """
    ordered = sorted([reached[member] for member in members])
    return ordered[(len(ordered) - 1) // 2]
