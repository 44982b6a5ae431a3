"""Where in the log messages stand that were never put.

An entry that brings messages and a condition may be declined: then its messages have no offsets,
though they stand in the log like any others. Which those are cannot be seen from what is left of a
log without its beginning, so it is written down here, for whoever makes the consume queues anew
(`broker.rebuilding`). Rare: a leader was changed or a message was recalled at that very moment.
"""

from bisect import bisect_left

from attrs import define, field


@define
class DeclinedPuts:
    """Log positions of the entries' payloads, ascending; those that the log has let go of are
    gone from here, too."""

    _positions: list[int] = field(factory=list)

    def __contains__(self, position: int) -> bool:
        at = bisect_left(self._positions, position)
        return self._positions[at : at + 1] == [position]

    def add(self, position: int) -> None:
        """The entry whose payload begins there was declined; later than all before."""
        self._positions.append(position)

    def trim(self, position: int) -> None:
        """The log begins there now."""
        del self._positions[: bisect_left(self._positions, position)]

    def state(self) -> list[int]:
        """All of them."""
        return list(self._positions)
