"""How many messages passed in the last minute, hour and day: what tools show of topics and groups.

Counts are kept in slots of ten seconds, ten minutes and an hour. Only what passed costs anything:
there is a slot where there was a message, and what had none for a day is forgotten. They count from
the start of the process, on this member, a slot late.
"""

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from attrs import define, field, frozen

SLOTS: Final = ((10, 6), (600, 6), (3600, 24))
"""Of the minute, the hour and the day: seconds of a slot, number of slots."""

NOTED_EVERY_S: Final = SLOTS[0][0]

HISTORIES_MAX: Final = 100_000
"""Topics, or pairs of topic and group, that are remembered: more than that stay unknown for as long
as nobody is forgotten. Some hundred bytes each, 3 KB if something passes all the time."""

KeyT = TypeVar("KeyT")


@frozen(kw_only=True)
class Passed:
    """Messages in the last minute, hour and day."""

    minute: int = 0
    hour: int = 0
    day: int = 0


@define(eq=False)
class History:
    """The counts of one subject, by slot: the number of a slot is its begin over its length."""

    _counts: tuple[dict[int, int], ...] = field(factory=lambda: tuple({} for _ in SLOTS))

    def add(self, count: int, now_s: int) -> None:
        """So many more messages passed."""
        for (slot_s, slots), counts in zip(SLOTS, self._counts, strict=True):
            now = now_s // slot_s
            if now not in counts:
                for old in [slot for slot in counts if slot <= now - slots]:
                    del counts[old]
            counts[now] = counts.get(now, 0) + count

    def passed(self, now_s: int) -> Passed:
        """What passed until now."""
        minute, hour, day = (
            sum(count for slot, count in counts.items() if slot > now_s // slot_s - slots)
            for (slot_s, slots), counts in zip(SLOTS, self._counts, strict=True)
        )
        return Passed(minute=minute, hour=hour, day=day)


@define(eq=False)
class Histories(Generic[KeyT]):
    """The histories of many subjects."""

    _by_key: dict[KeyT, History] = field(factory=dict)
    _swept: int = 0

    def add(self, key: KeyT, count: int, now_s: int) -> None:
        """So many more messages of this subject passed."""
        history = self._by_key.get(key)
        if history is None:
            if len(self._by_key) >= HISTORIES_MAX:
                return
            history = self._by_key[key] = History()
        history.add(count, now_s)

    def passed(self, key: KeyT, now_s: int) -> Passed | None:
        """What passed of a subject until now; None if nothing did for a day."""
        history = self._by_key.get(key)
        return history.passed(now_s) if history else None

    def sweep(self, now_s: int) -> None:
        """Once an hour, forget what had nothing for a day."""
        hour = now_s // 3600
        if hour != self._swept:
            self._swept = hour
            for key in [k for k, each in self._by_key.items() if not each.passed(now_s).day]:
                del self._by_key[key]

    def forget(self, key: KeyT) -> None:
        """The subject is gone."""
        self._by_key.pop(key, None)

    def __iter__(self) -> Iterator[KeyT]:
        return iter(self._by_key)
