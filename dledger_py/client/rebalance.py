"""Who reads which queue.  Pure: every member computes this alone and must reach the same answer.

The laws.  All members see the same queues and the same members, in whatever order: the function
sorts both.  Each queue has exactly one reader.  Shares differ by at most one and are contiguous.
Members of other languages take part, so this is RocketMQ's AVG strategy and no better one
(Java: `AllocateMessageQueueAveragely`).

When to ask, whom to ask and what to do with a queue gained or lost is in `consumer`.
"""

from collections.abc import Collection

from attrs import frozen

from dledger_py.client.queues import Queue


def averaged(
    queues: Collection[Queue], members: Collection[str], member: str
) -> tuple[Queue, ...] | None:
    """The share of *member*; None when it is not among *members* (keep what you have).

    With seven queues and three members the shares are 0-2, 3-4, 5-6.
    """
    ranked = sorted(set(members))
    if member not in ranked:
        return None
    place = ranked.index(member)
    ordered = sorted(set(queues))
    share, left_over = divmod(len(ordered), len(ranked))
    size = share + (place < left_over)
    start = place * share + min(place, left_over)
    return tuple(ordered[start : start + size])


@frozen
class Change:
    """What an assignment takes away from a member and what it adds."""

    lost: tuple[Queue, ...]
    gained: tuple[Queue, ...]

    def __bool__(self) -> bool:
        return bool(self.lost or self.gained)


def change(held: Collection[Queue], wanted: Collection[Queue]) -> Change:
    """The difference between the queues *held* and those *wanted*, in queue order."""
    held, wanted = set(held), set(wanted)
    return Change(lost=tuple(sorted(held - wanted)), gained=tuple(sorted(wanted - held)))
