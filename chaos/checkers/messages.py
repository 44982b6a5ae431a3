"""What must hold of messages and offsets, whatever was killed.

Each checker returns its findings as sentences; an empty tuple is a pass. A client that did not hear
the answer sends again: a group recognises that, another group cannot. So duplicates are judged
within a group, and counted over all.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

from attrs import frozen

from chaos.checkers.history import (
    Acknowledged,
    Fault,
    History,
    OffsetCommitted,
    OffsetRead,
    Received,
    Refused,
    Sent,
    Stored,
)

QueueKey = tuple[str, int]  # broker, queue id
Place = tuple[str, int, int]  # broker, queue id, offset


def lost(history: History) -> tuple[str, ...]:
    """An acknowledged message is in the log when everything is over."""
    stored = {event.value for event in history.of(Stored)}
    return tuple(
        f"{event.value}, acknowledged at {_queue(event)} offset {event.offset}, is gone"
        for event in history.of(Acknowledged)
        if event.value not in stored
    )


def displaced(history: History) -> tuple[str, ...]:
    """What was acknowledged, received or stored at a place is the same for every observer."""
    seen: dict[Place, str] = {}
    found = []
    for event in history.events:
        if isinstance(event, Acknowledged | Received | Stored):
            place = (event.broker, event.queue_id, event.offset)
            known = seen.setdefault(place, event.value)
            if known != event.value:
                at = f"{_queue(event)} offset {event.offset}"
                found.append(f"{at} held {known} and {event.value}")
    return tuple(found)


def phantom(history: History) -> tuple[str, ...]:
    """Nothing is read that nobody sent, or whose send was refused and never tried again."""
    sent = {event.value for event in history.of(Sent)}
    refused = {event.value for event in history.of(Refused)}
    found = []
    read = {event.value: None for event in history.events if isinstance(event, Received | Stored)}
    for value in read:
        if value not in sent:
            found.append(f"{value} was read and never sent")
        elif value in refused:
            found.append(f"{value} was refused and is there")
    return tuple(found)


def undelivered(history: History) -> tuple[str, ...]:
    """Every acknowledged message reached a consumer of the group."""
    received = {event.value for event in history.of(Received)}
    return tuple(
        f"{event.value} was acknowledged and never delivered"
        for event in history.of(Acknowledged)
        if event.value not in received
    )


def reordered(history: History) -> tuple[str, ...]:
    """Within a queue, one producer's acknowledged messages stand in the order it sent them.

    A producer sends one at a time, so the place its send was acknowledged at must grow.
    """
    found = []
    last: dict[tuple[str, str, int], Acknowledged] = {}
    for event in history.of(Acknowledged):
        key = (event.producer, event.broker, event.queue_id)
        before = last.get(key)
        if before is not None and event.offset <= before.offset:
            found.append(
                f"{event.producer} sent {before.value} then {event.value}, stored at"
                f" {before.offset} then {event.offset} of {_queue(event)}"
            )
        last[key] = event
    return tuple(found)


def holes(history: History) -> tuple[str, ...]:
    """The offsets of a queue are dense: a reader neither skips nor waits for ever."""
    offsets: dict[str, set[int]] = defaultdict(set)
    for event in history.of(Stored):
        offsets[_queue(event)].add(event.offset)
    return tuple(
        f"{queue} has {len(found)} messages up to offset {max(found)}"
        for queue, found in sorted(offsets.items())
        if len(found) != max(found) + 1
    )


def rewound(history: History) -> tuple[str, ...]:
    """A query sees every commit that was acknowledged before the query began."""
    found = []
    commits: dict[tuple[str, QueueKey], list[OffsetCommitted]] = defaultdict(list)
    for commit in history.of(OffsetCommitted):
        commits[commit.group, (commit.broker, commit.queue_id)].append(commit)
    for read in history.of(OffsetRead):
        known = [
            commit.offset
            for commit in commits[read.group, (read.broker, read.queue_id)]
            if commit.at_ns <= read.began_ns
        ]
        answer = -1 if read.offset is None else read.offset
        if known and answer < max(known):
            found.append(
                f"group {read.group} {_queue(read)} was at {max(known)}"
                f" and a later query answered {read.offset}"
            )
    return tuple(found)


def idle(history: History) -> tuple[str, ...]:
    """Every judge had something to judge: a client whose every call failed proves nothing."""
    needed = (Acknowledged, Received, Stored, OffsetCommitted, OffsetRead)
    return tuple(
        f"there is no {kind.__name__} in the history"
        for kind in needed
        if not any(history.of(kind))
    )


def repeated(history: History) -> tuple[str, ...]:
    """Nothing is stored twice by one group: it knows a repeated send by its UNIQ_KEY, as all
    attempts of one send carry the same. Of other groups it knows nothing."""
    places: dict[tuple[str, str], list[Stored]] = defaultdict(list)
    for event in history.of(Stored):
        places[event.broker, event.value].append(event)
    return tuple(
        f"{value} is stored {len(found)} times, first at {_queue(found[0])} offset"
        f" {found[0].offset}, last at {_queue(found[-1])} offset {found[-1].offset}"
        for (_broker, value), found in places.items()
        if len(found) > 1
    )


def duplicates(history: History) -> int:
    """How many stored messages are repeats of another."""
    times = Counter(event.value for event in history.of(Stored))
    return sum(count - 1 for count in times.values())


@frozen(kw_only=True)
class Gap:
    """The longest pause of writes after one fault."""

    what: str
    nodes: tuple[str, ...]
    seconds: float


def write_gaps(history: History) -> tuple[Gap, ...]:
    """Per fault, the longest time between two acknowledged sends until the next fault, or beyond it
    if there was none in between."""
    faults = list(history.of(Fault))
    acks = sorted(event.at_ns for event in history.of(Acknowledged))
    found = []
    for number, fault in enumerate(faults):
        end = faults[number + 1].at_ns if number + 1 < len(faults) else None
        before = [at for at in acks if at <= fault.at_ns][-1:]
        later = [at for at in acks if at > fault.at_ns]
        after = [at for at in later if end is None or at <= end]
        after = after or later[:1]  # the pause may outlast the next fault
        longest = max((b - a for a, b in pairwise(before + after)), default=0)
        seconds = longest / 1e9 if after else float("inf")
        found.append(Gap(what=fault.what, nodes=fault.nodes, seconds=seconds))
    return tuple(found)


def _queue(event: Acknowledged | Received | Stored | OffsetCommitted | OffsetRead) -> str:
    return f"queue {event.queue_id}" + (f" of {event.broker}" if event.broker else "")


def stalled(gaps: Sequence[Gap], *, at_most_s: float) -> tuple[str, ...]:
    """No pause of writes is longer than this."""
    return tuple(
        f"no send was acknowledged for {gap.seconds:.3f} s after {', '.join(gap.nodes)} was"
        f" {gap.what}; {at_most_s:g} s are allowed"
        for gap in gaps
        if gap.seconds > at_most_s
    )


CHECKERS = (lost, displaced, phantom, undelivered, reordered, holes, repeated, rewound, idle)
"""Every judge, by its name: a finding of any of them fails a run."""
