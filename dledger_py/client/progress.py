"""How far one queue has been consumed.  Pure: offsets in, the offset to commit out.

The law: the committed offset is the lowest one still unsettled, or, with nothing in hand, the
next one to read.  It never passes a message that was not acknowledged, so a crash repeats
messages and loses none.
"""

from collections import deque

from attrs import define, field


@define
class Progress:
    """The unsettled messages of one queue, oldest first."""

    next_offset: int
    """The next offset to pull."""

    _open: deque[int] = field(factory=deque)
    _settled: set[int] = field(factory=set)

    def took(self, offsets: list[int], next_offset: int) -> None:
        """Messages at *offsets* (rising) came in hand; pulling goes on at *next_offset*."""
        for offset in offsets:
            assert not self._open or offset > self._open[-1], (offset, self._open[-1])
            self._open.append(offset)
        self.next_offset = next_offset

    def settle(self, offset: int) -> None:
        """The message at *offset* is done with, for good."""
        self._settled.add(offset)
        while self._open and self._open[0] in self._settled:
            self._settled.remove(self._open.popleft())

    @property
    def commit_offset(self) -> int:
        """The offset a successor must start from."""
        return self._open[0] if self._open else self.next_offset

    @property
    def span(self) -> int:
        """How many offsets lie between the oldest unsettled message and the reading position."""
        return self.next_offset - self.commit_offset

    @property
    def in_hand(self) -> int:
        """How many messages are not settled."""
        return len(self._open) - len(self._settled)
