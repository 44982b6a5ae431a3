"""What a run of one client must have shown: pure functions over what its programs said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from attrs import define, field

Place = tuple[int, int]
"""Queue and offset, of one broker."""

NOT_TOLD = -1
"""The queue, where the client tells the offset only."""


@define
class History:
    """What a producer and a consumer said. Times are those of the driver, in seconds."""

    acked: dict[str, Place] = field(factory=dict)
    acked_by: dict[str, str] = field(factory=dict)
    """Key to broker."""
    acked_at: list[float] = field(factory=list)
    replied: set[str] = field(factory=set)
    """Requests whose reply came."""
    prepared: dict[str, int] = field(factory=dict)
    """Half messages: key to number. Those with an even one are committed, the others rolled back;
    two of four only when the producer is asked."""
    checked: set[str] = field(factory=set)
    committed: dict[tuple[str, object], set[Place]] = field(factory=dict)
    """Key and log position of the half message, to where its message was received."""
    failed: dict[str, str] = field(factory=dict)
    received: dict[str, set[Place]] = field(factory=dict)
    deliveries: int = 0
    errors: list[str] = field(factory=list)
    recognised: bool = True
    """Whether messages have ids by which a group knows that it has stored them."""
    chosen: Callable[[str], bool] = lambda key: True
    """Whether the consumer asked for the message of this key."""

    def take(self, line: dict[str, object], now: float) -> None:
        """Remember one line of a program."""
        match line:
            case {
                "event": "acked",
                "key": str(key),
                "broker": str(broker),
                "queue": int(queue),
                "offset": int(offset),
            }:
                self.acked[key] = (queue, offset)
                self.acked_by[key] = broker
                self.acked_at.append(now)
            case {"event": "replied", "key": str(key)}:
                self.replied.add(key)
                self.acked_at.append(now)
            case {"event": "prepared", "key": str(key), "number": int(number)}:
                self.prepared[key] = number
                self.acked_at.append(now)
            case {"event": "checked", "key": str(key)}:
                self.checked.add(key)
            case {"event": "failed", "key": str(key), "error": error}:
                earlier = self.failed.get(key)  # both sides of a conversation may report it
                self.failed[key] = f"{earlier}; {error}" if earlier else str(error)
            case {"event": "received", "key": str(key), "queue": int(queue), "offset": int(offset)}:
                self.received.setdefault(key, set()).add((queue, offset))
                if half := line.get("half"):
                    self.committed.setdefault((key, half), set()).add((queue, offset))
                self.deliveries += 1
            case {"event": "error", "error": error}:
                self.errors.append(str(error))
            case {"event": "ready" | "done"}:
                pass
            case _:
                self.errors.append(f"not understood: {line}")

    @property
    def missing(self) -> list[str]:
        """Acknowledged and asked for, but not received where the sender was told."""
        return [
            key for key, at in self.acked.items() if self.chosen(key) and not self._came(key, at)
        ]

    def _came(self, key: str, at: Place) -> bool:
        places = self.received.get(key, set())
        queue, offset = at
        return at in places or (
            queue == NOT_TOLD and offset in {offset for _queue, offset in places}
        )

    @property
    def repeated(self) -> list[str]:
        """Stored more than once by one group, though it could be recognised. Of several groups,
        each may have one."""
        if not self.recognised:
            return []
        return [key for key, places in self.received.items() if len(places) > max(1, self.brokers)]

    @property
    def unasked(self) -> list[str]:
        """Received, though the consumer did not ask for them."""
        return [key for key in self.received if not self.chosen(key)]

    @property
    def not_committed(self) -> list[str]:
        """To be committed, and not received."""
        return [
            key
            for key, number in self.prepared.items()
            if not number % 2 and key not in self.received
        ]

    @property
    def not_checked(self) -> list[str]:
        """Left to a check that nobody heard of."""
        return [
            key
            for key, number in self.prepared.items()
            if number % 4 > 1 and key not in self.checked
        ]

    @property
    def brokers(self) -> int:
        """How many brokers took messages."""
        return len(set(self.acked_by.values()))

    @property
    def longest_pause_s(self) -> float:
        """The longest time between two acknowledgements."""
        pairs = zip(self.acked_at, self.acked_at[1:], strict=False)
        return max((after - before for before, after in pairs), default=0.0)


def faults(history: History, *, wanted: int, failures_allowed: bool) -> list[str]:
    """What is wrong with the history; nothing if it is as promised."""
    found = list(history.errors)
    if len(history.acked) < wanted:
        found.append(f"only {len(history.acked)} of {wanted} sends were acknowledged")
    if history.failed and not failures_allowed:
        found.append(f"{len(history.failed)} sends failed: {_some(history.failed.values())}")
    if history.missing:
        found.append(f"{len(history.missing)} acknowledged and lost: {_some(history.missing)}")
    if history.unasked:
        found.append(f"{len(history.unasked)} received and not asked for: {_some(history.unasked)}")
    if history.repeated:
        found.append(f"{len(history.repeated)} stored twice: {_some(history.repeated)}")
    places = Counter(
        (history.acked_by[key], *at) for key, at in history.acked.items() if at[0] != NOT_TOLD
    )
    shared = [str(place) for place, times in places.items() if times > 1]
    if shared:
        found.append(f"one place, several messages (broker, queue, offset): {_some(shared)}")
    return found


def conversation_faults(history: History, *, wanted: int, failures_allowed: bool) -> list[str]:
    """What is wrong where one asks and another replies; nothing if it is as promised.

    A request that failed may have been consumed, and its reply come too late.
    """
    found = list(history.errors)
    if len(history.replied) < wanted:
        found.append(f"only {len(history.replied)} of {wanted} requests were replied to")
    if history.failed and not failures_allowed:
        found.append(f"{len(history.failed)} requests failed: {_some(history.failed.values())}")
    unheard = [key for key in history.replied if key not in history.received]
    if unheard:
        found.append(f"{len(unheard)} replies to requests nobody got: {_some(unheard)}")
    return found


def transaction_faults(history: History, *, wanted: int, failures_allowed: bool) -> list[str]:
    """What is wrong with the history of a transactional producer."""
    found = list(history.errors)
    if len(history.prepared) < wanted:
        found.append(f"only {len(history.prepared)} of {wanted} sends were acknowledged")
    if history.failed and not failures_allowed:
        found.append(f"{len(history.failed)} sends failed: {_some(history.failed.values())}")
    if history.not_committed:
        lost = history.not_committed
        found.append(f"{len(lost)} committed and lost: {_some(lost)}")
    if history.not_checked:
        found.append(f"{len(history.not_checked)} never checked: {_some(history.not_checked)}")
    withdrawn = [key for key in history.received if history.prepared.get(key, 0) % 2]
    if withdrawn:
        found.append(f"{len(withdrawn)} rolled back and consumed: {_some(withdrawn)}")
    # A send that was tried again after an unknown outcome may have left two half messages.
    twice = [key for (key, _half), places in history.committed.items() if len(places) > 1]
    if twice:
        found.append(f"{len(twice)} stored twice: {_some(twice)}")
    return found


def _some(items: Iterable[str]) -> str:
    first = sorted(set(items))
    return ", ".join(first[:3]) + (f", and {len(first) - 3} more" if len(first) > 3 else "")
