"""What was asked of the disk, how much of it is durable, and the promises that wait for it.

Laws:
- Writes finish in the order they were issued, and numbers are never reused.
- What a finished write makes durable is decided by its *number*, and the index it covers shrinks
  when the log is cut under it. Otherwise the completion of a write that was since overwritten
  would make the entry that replaced it look durable:

      write 1: entry 5 of term 1      (still on its way to the disk)
      write 2: cut at 5, entry 5 of term 2
      write 1 finishes                entry 5 is not durable: write 1 now covers entry 4 at most

- A promise leaves when every write issued before it is durable, and dies with its term.

Deliberately elsewhere: what is promised (rules.py), what durability leads to (raft.py).
"""

from collections import deque

from dledger_py.raft.vocabulary import (
    AppendAccepted,
    Index,
    Message,
    NodeId,
    Round,
    Term,
    WriteId,
)

PROMISES_MAX = 4096
"""Promises held for one disk. Beyond it new ones are not made, which to the others looks like a
lost message: a disk that hangs must not fill memory. A working disk holds a few dozen at most.
"""


class Writes:
    """The writes in flight and the durable end of the log."""

    __slots__ = ("_in_flight", "durable_index", "durable_write", "issued")

    def __init__(self, durable_index: Index) -> None:
        self.issued: WriteId = 0
        self.durable_write: WriteId = 0
        self.durable_index = durable_index
        # (number, last index it makes durable, tick it was issued at)
        self._in_flight: deque[tuple[WriteId, Index, int]] = deque()

    def __len__(self) -> int:
        return len(self._in_flight)

    def issue(self, last_index: Index, now: int) -> WriteId:
        """Number a write after which the disk will hold the log up to `last_index`."""
        self.issued += 1
        self._in_flight.append((self.issued, last_index, now))
        return self.issued

    def cut(self, first: Index) -> None:
        """The log was cut at `first`: no write issued so far can make entry `first` or a later
        one durable.
        """
        self.durable_index = min(self.durable_index, first - 1)
        self._in_flight = deque(
            (write, min(last_index, first - 1), issued_at)
            for write, last_index, issued_at in self._in_flight
        )

    def finish(self, write: WriteId) -> None:
        """Every write up to `write` is durable."""
        assert write <= self.issued, f"write {write} was never issued, the last was {self.issued}"
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] <= write:
            self.durable_write, last_index, _ = in_flight.popleft()
            if last_index > self.durable_index:
                self.durable_index = last_index

    def waiting_ticks(self, now: int) -> int:
        """How long the oldest write in flight has been waited for."""
        return now - self._in_flight[0][2] if self._in_flight else 0


class Promises:
    """Messages held back until the disk has what they speak of.

    Acknowledgements to one leader that come due together leave as one, and so do those that wait
    for the same write: thus neither a group commit nor a flood of repeated appends multiplies
    messages.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[tuple[WriteId, NodeId, Message]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, write: WriteId, to: NodeId, message: Message) -> None:
        """Hold `message` until `write` is durable."""
        waiting = self._waiting
        if waiting and waiting[-1][0] == write and waiting[-1][1] == to:
            last = waiting[-1][2]
            if last == message:
                return
            if type(last) is AppendAccepted and type(message) is AppendAccepted:
                waiting[-1] = (write, to, merged(last, message.match, message.round))
                return
        if len(waiting) < PROMISES_MAX:
            waiting.append((write, to, message))

    def due(self, write: WriteId) -> list[tuple[NodeId, Message]]:
        """Take out what waited for writes up to `write`."""
        waiting = self._waiting
        messages: list[tuple[NodeId, Message]] = []
        while waiting and waiting[0][0] <= write:
            _, to, message = waiting.popleft()
            if messages and type(message) is AppendAccepted:
                previous_to, previous = messages[-1]
                if previous_to == to and type(previous) is AppendAccepted:
                    messages[-1] = (to, merged(previous, message.match, message.round))
                    continue
            messages.append((to, message))
        return messages

    def clear(self) -> None:
        """The term has moved on: nothing that was promised in it may be said any more."""
        self._waiting.clear()


def merged(earlier: AppendAccepted, match: Index, round: Round) -> AppendAccepted:
    """One acknowledgement that says what two of the same term say."""
    term: Term = earlier.term
    return AppendAccepted(
        term=term, match=max(earlier.match, match), round=max(earlier.round, round)
    )
