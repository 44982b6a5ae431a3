"""The log as consensus sees it: where it starts and ends, the term of every index, the
configurations in it, and the most recent entries.

Laws:
- The term of every index from `first_index - 1` on is known here without reading a disk: terms
  are kept as runs, one pair per term and not per entry, so their number is that of elections, not
  of messages.
- The tail holds the newest entries. It is bounded in bytes, except that entries which are not yet
  durable always stay, because no disk could give them back.
- The latest configuration in the log is the one in force (§6), from its append until it is cut.
- The log is cut only by `cut`, whose caller has checked that nothing committed is lost, and loses
  its beginning only by `drop_before`, whose caller has checked that all of it is committed. What
  a log no longer holds is therefore the same on every member.

Deliberately elsewhere: what is durable (writes.py) and what is committed (raft.py).
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise

from dledger_py.raft.membership import Configuration, decode
from dledger_py.raft.vocabulary import Entry, Index, Kind, NodeId, Term

ENTRY_OVERHEAD_BYTES = 64
"""Counted per entry besides its payload, so that a flood of empty entries is bounded as well.
About an `Entry`'s own size.
"""


class LogView:
    """Indices, terms and the tail of one member's log. Built by whoever has recovered the log
    from disk.
    """

    __slots__ = (
        "_configurations",
        "_run_starts",
        "_run_terms",
        "_tail",
        "configuration",
        "configuration_index",
        "first_index",
        "last_index",
        "last_term",
        "tail_bytes",
        "tail_first",
    )

    def __init__(
        self,
        *,
        first_index: Index = 1,
        last_index: Index = 0,
        terms: Iterable[tuple[Index, Term]] = (),
        previous_term: Term = 0,
        tail: Sequence[Entry] = (),
        configurations: Iterable[tuple[Index, Configuration]] = (),
    ) -> None:
        """Describe a recovered log, all of it durable.

        `terms` are runs `(first index of the run, term)` in order, the first at `first_index`;
        `previous_term` is the term of entry `first_index - 1` (0 for a log that starts at 1);
        `tail` may hold the newest entries, or nothing; `configurations` are those of the CONFIG
        entries by index, in order (`membership.decode`), before them perhaps one at index 0 or
        below `first_index`: what was in force before this log starts.
        """
        runs = list(terms)
        if last_index >= first_index and (not runs or runs[0][0] != first_index):
            raise ValueError(f"term runs {runs[:1]} must start at first_index {first_index}")
        if any(b[0] <= a[0] or b[1] <= a[1] for a, b in pairwise(runs)):
            raise ValueError(f"term runs must rise in index and term: {runs}")
        if tail and (tail[-1].index != last_index or tail[0].index != last_index - len(tail) + 1):
            raise ValueError(f"tail {tail[0].index}..{tail[-1].index} must end at {last_index}")
        history = list(configurations)
        places = [index for index, _ in history]
        if any(b <= a for a, b in pairwise(places)) or max(places, default=0) > last_index:
            raise ValueError(f"configurations at {places} must rise, and end by {last_index}")
        self._configurations: list[tuple[Index, Configuration]] = history
        self.first_index = first_index
        self.last_index = last_index
        self._run_starts: list[Index] = [first_index - 1, *(start for start, _ in runs)]
        self._run_terms: list[Term] = [previous_term, *(term for _, term in runs)]
        self.last_term = self._run_terms[-1]
        self._tail: list[Entry] = list(tail)
        self.tail_first: Index = last_index - len(self._tail) + 1
        self.tail_bytes = sum(size_of(entry) for entry in self._tail)
        self._use_latest()

    def begin_with(self, configuration: Configuration) -> None:
        """Say what is in force where the log has no configuration; ignored if it was told so.

        **Raises** ValueError if entries were dropped: one of them may have been a configuration.
        """
        if not self._configurations or self._configurations[0][0] >= self.first_index:
            if self.first_index > 1:
                raise ValueError(
                    f"the log starts at {self.first_index}: the configuration in force before it"
                    " must be told"
                )
            self._configurations.insert(0, (self.first_index - 1, configuration))
            self._use_latest()

    def settle_configurations(self, commit: Index) -> None:
        """Forget configurations that no cut can bring back: all before the latest committed."""
        history = self._configurations
        while len(history) > 1 and history[1][0] <= commit:
            del history[0]

    def committed_configuration(self, commit: Index) -> tuple[Index, Configuration]:
        """The latest committed configuration, and where it stands: no cut goes behind it."""
        self.settle_configurations(commit)
        return self._configurations[0]

    def may_elect(self, node: NodeId, commit: Index) -> bool:
        """Whether `node` has a vote, or had one until an entry that is not known to be committed.

        Thesis §4.2.2: a leader may lose its leadership between appending the entry that removes
        it and replicating it. Its log is then the best, the others need its vote and must not
        give it theirs for less: unless it stands for election, nobody can win one.
        """
        self.settle_configurations(commit)
        return any(node in each.electors for _, each in self._configurations)

    def _use_latest(self) -> None:
        self.configuration: Configuration | None = None
        self.configuration_index: Index = 0
        if self._configurations:
            self.configuration_index, self.configuration = self._configurations[-1]

    def term_at(self, index: Index) -> Term:
        """Return the term of entry `index`, which is between `first_index - 1` and `last_index`."""
        starts = self._run_starts
        if index >= starts[-1]:
            assert index <= self.last_index, f"index {index}: the log ends at {self.last_index}"
            return self._run_terms[-1]
        place = bisect_right(starts, index) - 1
        assert place >= 0, f"index {index}: the log starts at {self.first_index}"
        return self._run_terms[place]

    def matches(self, index: Index, term: Term) -> bool:
        """Whether this log has an entry of `term` at `index` (§5.3, the consistency check)."""
        return self.first_index - 1 <= index <= self.last_index and self.term_at(index) == term

    def agrees(self, index: Index, term: Term) -> bool:
        """Whether this log is that of a leader of our term up to `index`, where the leader's entry
        is of `term`. What was dropped was committed, so the leader has the same.
        """
        return index < self.first_index - 1 or self.matches(index, term)

    def last_not_above(self, index: Index, term: Term) -> Index:
        """Return the greatest index, at most `index`, whose term is at most `term`: `index` itself
        if it lies before this log, and `first_index - 1` if it would have to.
        """
        index = min(index, self.last_index)
        place = bisect_right(self._run_starts, index) - 1
        if place < 0:
            return index
        if self._run_terms[place] <= term:
            return index
        while self._run_terms[place] > term:
            if place == 0:
                return self.first_index - 1
            index = self._run_starts[place] - 1
            place -= 1
        return index

    def is_as_good_as_ours(self, last_index: Index, last_term: Term) -> bool:
        """Whether a log with that end is at least as up-to-date as this one (§5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def append(self, entry: Entry) -> None:
        """Append one entry right after the last."""
        index = entry.index
        term = entry.term
        assert index == self.last_index + 1, f"entry {index} does not follow {self.last_index}"
        if term != self.last_term:
            assert term > self.last_term, f"entry {index}: term {term} after {self.last_term}"
            self._run_starts.append(index)
            self._run_terms.append(term)
            self.last_term = term
        self.last_index = index
        self._tail.append(entry)
        self.tail_bytes += len(entry.payload) + ENTRY_OVERHEAD_BYTES
        if entry.kind == Kind.CONFIG:
            self._configurations.append((index, decode(entry.payload)))
            self._use_latest()

    def cut(self, first: Index) -> None:
        """Remove entry `first` and all after it."""
        assert self.first_index <= first <= self.last_index, (
            f"cut at {first}: the log is {self.first_index}..{self.last_index}"
        )
        keep = max(first - self.tail_first, 0)
        self.tail_bytes -= sum(size_of(entry) for entry in self._tail[keep:])
        del self._tail[keep:]
        while self._run_starts[-1] >= first:
            self._run_starts.pop()
            self._run_terms.pop()
        if self.configuration_index >= first:
            while self._configurations and self._configurations[-1][0] >= first:
                self._configurations.pop()
            self._use_latest()
        self.last_term = self._run_terms[-1]
        self.last_index = first - 1
        self.tail_first = self.last_index - len(self._tail) + 1

    def drop_before(self, first_index: Index) -> None:
        """Forget the entries before `first_index`, which may be one behind the last. Of the
        configurations among them the last stays known.
        """
        if first_index <= self.first_index:
            return
        assert first_index <= self.last_index + 1, (
            f"drop before {first_index}: the log is {self.first_index}..{self.last_index}"
        )
        place = bisect_right(self._run_starts, first_index - 1) - 1
        del self._run_starts[:place], self._run_terms[:place]
        self._run_starts[0] = first_index - 1
        self.first_index = first_index
        gone = first_index - self.tail_first
        if gone > 0:
            self.tail_bytes -= sum(size_of(entry) for entry in self._tail[:gone])
            del self._tail[:gone]
            self.tail_first = first_index

    def entries(self, first: Index, entries_max: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries from `first` on, which must be in the tail: at least one, then as many
        as fit.
        """
        start = first - self.tail_first
        assert start >= 0, f"entry {first}: the tail starts at {self.tail_first}"
        if first == self.last_index:
            return (self._tail[-1],)
        chosen = self._tail[start : start + entries_max]
        room = bytes_max
        for place, entry in enumerate(chosen):
            room -= len(entry.payload)
            if room < 0 and place > 0:
                del chosen[place:]
                break
        return tuple(chosen)

    def trim(self, durable_index: Index, bytes_max: int) -> None:
        """Forget old durable entries once the tail is an eighth over `bytes_max`: seldom, so that
        it stays cheap.
        """
        if self.tail_bytes <= bytes_max + (bytes_max >> 3):
            return
        droppable = min(durable_index - self.tail_first + 1, len(self._tail))
        excess = self.tail_bytes - bytes_max
        dropped = 0
        while dropped < droppable and excess > 0:
            excess -= size_of(self._tail[dropped])
            dropped += 1
        if dropped > 0:
            del self._tail[:dropped]
            self.tail_first += dropped
            self.tail_bytes = bytes_max + excess


def size_of(entry: Entry) -> int:
    """What an entry counts for in every budget of the core."""
    return len(entry.payload) + ENTRY_OVERHEAD_BYTES
