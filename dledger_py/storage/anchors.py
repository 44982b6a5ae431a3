"""A sparse index in memory: about one (index, position) per 64 KiB of log. Pure.

16 bytes an anchor, so 100 GiB of log cost 25 MiB; from an anchor one read of 64 KiB finds an
entry. Groups of a busy broker are about that large, so there mostly every entry has one.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from attrs import define, field

ANCHOR_SPACING_BYTES = 64 * 1024


def _numbers() -> array[int]:
    return array("Q")


@define(eq=False)
class Anchors:
    """Not thread-safe; the log guards it."""

    _indexes: array[int] = field(init=False, factory=_numbers)
    _positions: array[int] = field(init=False, factory=_numbers)
    _next: int = field(init=False, default=0)  # the position from which on the next is due

    def note(self, first_index: int, position: int, starts: Sequence[int]) -> None:
        """Entries from first_index on begin at position + each of `starts`."""
        entry = 0
        while (entry := bisect_left(starts, self._next - position, entry)) < len(starts):
            self._indexes.append(first_index + entry)
            self._positions.append(position + starts[entry])
            self._next = self._positions[-1] + ANCHOR_SPACING_BYTES

    def between(self, start: int, stop: int) -> tuple[tuple[int, int], ...]:
        """(index, position) of those at positions from `start` up to, without, `stop`."""
        first, behind = bisect_left(self._positions, start), bisect_left(self._positions, stop)
        return tuple(zip(self._indexes[first:behind], self._positions[first:behind], strict=True))

    def extend(self, first: tuple[int, int], anchors: Sequence[tuple[int, int]]) -> None:
        """Take the (index, position)s of the entries from `first` on, behind all that are here."""
        if not self._positions and tuple(anchors[:1]) != (first,):
            anchors = (first, *anchors)  # the lowest entry must have one
        for index, position in anchors:
            self._indexes.append(index)
            self._positions.append(position)
            self._next = position + ANCHOR_SPACING_BYTES

    def cut(self, position: int) -> None:
        """Forget entries from `position` on."""
        keep = bisect_left(self._positions, position)
        del self._indexes[keep:]
        del self._positions[keep:]
        self._next = self._positions[-1] + ANCHOR_SPACING_BYTES if keep else 0

    def drop(self, index: int, position: int) -> None:
        """Forget entries before `index`, which begins (or will begin) at `position`, and have an
        anchor there: the lowest entry must have one."""
        keep = bisect_left(self._positions, position)
        del self._indexes[:keep]
        del self._positions[:keep]
        if not self._positions or self._positions[0] != position:
            self._indexes.insert(0, index)
            self._positions.insert(0, position)
        self._next = self._positions[-1] + ANCHOR_SPACING_BYTES

    def floor(self, index: int) -> tuple[int, int]:
        """(index, position) of the last anchor at or before an entry of the log."""
        at = bisect_right(self._indexes, index) - 1
        assert at >= 0
        return self._indexes[at], self._positions[at]

    def floor_position(self, position: int) -> tuple[int, int]:
        """(index, position) of the last anchor at or before a position in the log."""
        at = bisect_right(self._positions, position) - 1
        assert at >= 0
        return self._indexes[at], self._positions[at]

    def __len__(self) -> int:
        return len(self._indexes)
