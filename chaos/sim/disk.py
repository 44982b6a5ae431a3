"""A disk that keeps what was synced and, at a crash, a random prefix of what was not.

Laws:
- Writes become durable in order. A write's term and vote are durable before its entries; of its
  entries any prefix may survive.
- `log`, `term` and `vote` are the durable image; the checks judge promises by it and not by what
  the core believes.
- A log may begin anywhere. What went before it is known by the terms alone, and these are there
  for the checks, not for the core.
"""

from collections import deque
from random import Random

from attrs import frozen

from dledger_py.raft.far_behind import hard_state_with
from dledger_py.raft.log_view import LogView
from dledger_py.raft.membership import Configuration, decode
from dledger_py.raft.vocabulary import Entry, HardState, Index, Kind, NodeId, Persist, Term


@frozen(kw_only=True)
class State:
    """A durable state of the machine: everything up to `index` applied."""

    index: Index
    state: int


@frozen(kw_only=True)
class Copy:
    """What one member gives another that fell behind: its log as far as it is known to be
    committed, and what belongs to it.
    """

    past: tuple[Term, ...]
    entries: tuple[Entry, ...]
    configuration: tuple[Index, Configuration]
    state: State

    @property
    def first_index(self) -> Index:
        return len(self.past) + 1

    @property
    def previous_term(self) -> Term:
        return self.past[-1] if self.past else 0

    @property
    def last_index(self) -> Index:
        return len(self.past) + len(self.entries)

    @property
    def last_term(self) -> Term:
        return self.entries[-1].term if self.entries else self.previous_term


class SimDisk:
    """One member's disk; it outlives the member's incarnations."""

    def __init__(self, founders: tuple[NodeId, ...]) -> None:
        self.term: Term = 0
        self.vote: NodeId | None = None
        self.commit: Index = 0
        self.log: list[Entry] = []
        self.past: list[Term] = []
        self.configuration: tuple[Index, Configuration] = (0, Configuration(voters=founders))
        """In force before the log starts, and its index."""
        self.state = State(index=0, state=0)
        self.queue: deque[Persist] = deque()
        self.flushing: deque[Persist] = deque()

    @property
    def first_index(self) -> Index:
        return len(self.past) + 1

    @property
    def last_index(self) -> Index:
        return len(self.past) + len(self.log)

    @property
    def committed(self) -> Index:
        """What was noted as committed, in one way or another."""
        return max(self.commit, self.state.index)

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

    def log_view(self) -> LogView:
        """The log as recovery would show it to a core."""
        runs: list[tuple[Index, Term]] = []
        configurations = [self.configuration] if self.past else []
        for entry in self.log:
            if not runs or runs[-1][1] != entry.term:
                runs.append((entry.index, entry.term))
            if entry.kind == Kind.CONFIG:
                configurations.append((entry.index, decode(entry.payload)))
        return LogView(
            first_index=self.first_index,
            last_index=self.last_index,
            terms=runs,
            previous_term=self.past[-1] if self.past else 0,
            configurations=configurations,
        )

    def read(self, first: Index, max_bytes: int) -> tuple[Entry, ...]:
        """Return durable entries from `first` on, at least one; none if it was dropped."""
        entries: list[Entry] = []
        if first < self.first_index:
            return ()
        for entry in self.log[first - self.first_index :]:
            if entries and max_bytes <= 0:
                break
            entries.append(entry)
            max_bytes -= len(entry.payload)
        return tuple(entries)

    def has(self, index: Index, term: Term) -> bool:
        """Whether the durable log holds an entry of `term` at `index`, or held it until it was
        dropped.
        """
        past = self.past
        if index <= len(past):
            return index == 0 or past[index - 1] == term
        return index <= self.last_index and self.log[index - len(past) - 1].term == term

    def drop_before(self, first_index: Index, state: State) -> None:
        """Drop the beginning of the log, once `state`, which covers it, is durable."""
        count = first_index - self.first_index
        for entry in self.log[:count]:
            if entry.kind == Kind.CONFIG:
                self.configuration = (entry.index, decode(entry.payload))
            self.past.append(entry.term)
        del self.log[:count]
        self.state = state

    def copy(self, state: State) -> Copy:
        """What a member at `state`, all of it committed, has to give."""
        return Copy(
            past=tuple(self.past),
            entries=tuple(self.log[: state.index - len(self.past)]),
            configuration=self.configuration,
            state=state,
        )

    def install(self, copy: Copy) -> None:
        """Take the copy's log for ours; term and vote stay."""
        hard = HardState(term=self.term, vote=self.vote)
        hard = hard_state_with(hard, copy.state.index, copy.last_term)
        self.term, self.vote, self.commit = hard.term, hard.vote, hard.commit
        self.past = list(copy.past)
        self.log = list(copy.entries)
        self.configuration = copy.configuration
        self.state = copy.state

    def _store(self, persist: Persist, entries: int) -> None:
        self.term = persist.term
        self.vote = persist.vote
        if persist.first is not None:
            del self.log[persist.first - self.first_index :]
            self.log.extend(persist.entries[:entries])
