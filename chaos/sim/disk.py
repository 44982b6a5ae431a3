"""A disk that keeps what was synced and, at a crash, a random prefix of what was not.

Laws:
- Writes become durable in order. A write's term and vote are durable before its entries; of its
  entries any prefix may survive.
- `log`, `term` and `vote` are the durable image; the checks judge promises by it and not by what
  the core believes.
"""

from collections import deque
from random import Random

from dledger_py.raft.vocabulary import Entry, Index, NodeId, Persist, Term


class SimDisk:
    """One member's disk; it outlives the member's incarnations."""

    def __init__(self) -> None:
        self.term: Term = 0
        self.vote: NodeId | None = None
        self.commit: Index = 0
        self.log: list[Entry] = []
        self.queue: deque[Persist] = deque()
        self.flushing: deque[Persist] = deque()

    def start_flush(self) -> bool:
        """Take all that is queued into one flush; False if one is running or there is nothing to
        do.
        """
        if self.flushing or not self.queue:
            return False
        self.flushing, self.queue = self.queue, deque()
        return True

    def finish_flush(self) -> int:
        """The flush is done: return the last write it made durable."""
        write = 0
        while self.flushing:
            persist = self.flushing.popleft()
            self._store(persist, len(persist.entries))
            write = persist.write
        return write

    def crash(self, random: Random) -> None:
        """Lose what was not synced, from a random place on."""
        pending = [*self.flushing, *self.queue]
        self.flushing.clear()
        self.queue.clear()
        if not pending:
            return
        survivors = random.randrange(len(pending) + 1)
        for persist in pending[:survivors]:
            self._store(persist, len(persist.entries))
        if survivors < len(pending) and random.random() < 0.5:
            torn = pending[survivors]
            self._store(torn, random.randrange(len(torn.entries) + 1))

    def read(self, first: Index, max_bytes: int) -> tuple[Entry, ...]:
        """Return durable entries from `first` on, at least one."""
        entries: list[Entry] = []
        for entry in self.log[first - 1 :]:
            if entries and max_bytes <= 0:
                break
            entries.append(entry)
            max_bytes -= len(entry.payload)
        return tuple(entries)

    def has(self, index: Index, term: Term) -> bool:
        """Whether the durable log holds an entry of `term` at `index`."""
        return index == 0 or (index <= len(self.log) and self.log[index - 1].term == term)

    def _store(self, persist: Persist, entries: int) -> None:
        self.term = persist.term
        self.vote = persist.vote
        if persist.first is not None:
            del self.log[persist.first - 1 :]
            self.log.extend(persist.entries[:entries])
