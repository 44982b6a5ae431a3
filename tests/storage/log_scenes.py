"""What storage tests share: entries, a directory that is opened, and a scripted life of a log."""

from collections.abc import Callable, Iterator, Sequence

from attrs import define, field, frozen

from dledger_py.storage import HardState, Identity, Log, Recovered, recover
from dledger_py.storage.files import FileSystem
from dledger_py.storage.formats import NEWBORN
from dledger_py.storage.lying import LyingFiles

ME = Identity(cluster="cluster-a", group="group-1", member="n0")
DIRECTORY = "data"

CONFIGURATION = (0, b"the founders")


@frozen
class Entry:
    index: int
    term: int
    kind: int
    payload: bytes


Entries = tuple[Entry, ...]


def payload_of(index: int, term: int, size: int) -> bytes:
    """Never the same for two (index, term): mixed-up entries show."""
    return (f"<{index}@{term}>" * (size // 4 + 1)).encode()[:size]


def entries_after(log: Log, term: int, sizes: Sequence[int]) -> Entries:
    first = log.last_index + 1
    return tuple(
        Entry(first + at, term, 1, payload_of(first + at, term, size))
        for at, size in enumerate(sizes)
    )


def all_entries(log: Log) -> Entries:
    """From first_index on."""
    found: list[Entry] = []
    while log.first_index + len(found) <= log.last_index:
        part = log.read(log.first_index + len(found), 10_000)
        assert part, "the log says there are more entries than can be read"
        found += (Entry(e.index, e.term, e.kind, bytes(e.payload)) for e in part)
    return tuple(found)


def open_log(
    files: FileSystem, directory: str = DIRECTORY, segment_size_bytes: int = 700
) -> Recovered:
    """Small segments, so that short tests roll."""
    return recover(files, directory, ME, segment_size_bytes)


@define
class Life:
    """A log with its model: `states` are the logs a crash right now may leave a prefix of.

    The first of `states` is what was durable when the last synced step was completed; what it
    shares with all later ones must survive. States begin at entry 1, whatever was dropped since:
    a log may begin anywhere from `starts[0]` to `starts[1]`.
    """

    files: LyingFiles
    opened: Recovered = field(init=False)
    states: list[Entries] = field(factory=lambda: [()])
    hard_states: list[HardState] = field(factory=lambda: [NEWBORN])
    starts: tuple[int, int] = (1, 1)

    def open(self) -> None:
        self.opened = open_log(self.files)
        self.check(self.opened)

    def check(self, opened: Recovered) -> None:
        """What was recovered is allowed; from here on it is what is known to be durable."""
        log = opened.log
        first = log.first_index
        shared = common_prefix(self.states)
        assert self.starts[0] <= first <= self.starts[1], "dropped entries are back, or more are"
        found = self.states[-1][: first - 1] + all_entries(log)
        terms = [0, *(entry.term for entry in found)]
        assert terms[first - 1 :] == [log.term_at(i) for i in range(first - 1, log.last_index + 1)]
        assert found[: len(shared)] == shared, "durable entries are lost"
        assert any(state[: len(found)] == found for state in self.states), "unknown entries"
        assert opened.hard_state in self.hard_states, "term, vote or commit went back"
        self.states = [found]
        self.starts = (first, first)
        self.hard_states = [opened.hard_state]

    def append(self, term: int, *sizes: int, sync: bool = True, groups: int = 1) -> None:
        log = self.opened.log
        batches = []
        for _group in range(groups):
            entries = entries_after(log, term, sizes)
            self.states.append(self.states[-1] + entries)
            batches.append(log.seal(entries))
        log.write(batches, sync=sync)
        if sync:
            self.states = self.states[-1:]

    def cut(self, first_index: int, term: int, *sizes: int) -> None:
        """A negative first_index counts from the end: -1 cuts the last entry."""
        log = self.opened.log
        if first_index < 0:
            first_index += log.last_index + 1
        self.states.append(self.states[-1][: first_index - 1])
        cut = log.cut(first_index)
        entries = entries_after(log, term, sizes)
        self.states.append(self.states[-1] + entries)
        log.write([], cut, sync=False)
        self.states = self.states[-2:]  # a cut is durable even so
        if entries:
            log.write([log.seal(entries)])
        self.states = self.states[-1:]

    def drop(self, index: int) -> None:
        """A negative index counts from the end: -1 may drop all but the last entry."""
        log = self.opened.log
        if index < 0:
            index += log.last_index + 1
        self.starts = (log.first_index, max(index, log.first_index))
        first = log.drop_before(index, CONFIGURATION)
        assert self.starts[0] <= first <= self.starts[1]
        self.starts = (first, first)

    def save(self, term: int, vote: str | None) -> None:
        commit = self.opened.log.durable_index
        self.hard_states.append(HardState(term, vote, min(commit, 2)))
        self.opened.hard_state_file.save(term, vote, min(commit, 2))
        self.hard_states = self.hard_states[-1:]

    def idle(self) -> None:
        self.opened.log.seal_idle()
        self.states = self.states[-1:]

    def reopen(self) -> None:
        self.opened.close()
        self.open()


Step = Callable[[Life], None]


def script() -> Iterator[Step]:
    """Appends, rolls (also within a group, and several in one), cuts (within a segment, over
    segments, to a segment's start, of what was never synced, to nothing), votes, reopening."""
    yield lambda life: life.open()
    yield lambda life: life.save(1, "n0")
    yield lambda life: life.append(1, 0)
    yield lambda life: life.append(1, 800, 10)
    yield lambda life: life.cut(1, 1, 20)  # nothing is left
    yield lambda life: life.append(1, 10, 20, 600)
    yield lambda life: life.append(1, 300, 300, 300, 5)  # rolls in the middle of the group
    yield lambda life: life.idle()
    yield lambda life: life.append(2, 100, groups=3)
    yield lambda life: life.save(3, None)
    yield lambda life: life.cut(9, 3, 40)  # behind the start of the last segment
    yield lambda life: life.append(3, 900, 900, 900)  # each fills a segment
    yield lambda life: life.cut(7, 4, 50, 60)  # over several segments
    yield lambda life: life.append(4, 30, sync=False)
    yield lambda life: life.append(4, 700, 31, sync=False)  # rolls without a sync of its own
    yield lambda life: life.cut(10, 5)  # what was never synced
    yield lambda life: life.append(5, 7)
    yield lambda life: life.reopen()
    yield lambda life: life.append(5, 8, 9)
    yield lambda life: life.append(5, 11)
    yield lambda life: life.idle()
    yield lambda life: life.cut(-2, 6, 30)  # what this very segment attests
    yield lambda life: life.append(6, 12)
    yield lambda life: life.append(6, 13)
    yield lambda life: life.cut(-2, 6)
    yield lambda life: life.save(6, "n2")
    yield lambda life: life.append(6, 1500)
    yield lambda life: life.append(6, 10)
    yield lambda life: life.cut(3, 7, 200, 200)
    yield lambda life: life.append(8, 20, 20)
    yield lambda life: life.reopen()


def retention_script() -> Iterator[Step]:
    """Drops: of nothing, of one and of several segments, of all but an active one that is empty
    or was never synced; and cuts, rolls and votes behind them."""
    yield lambda life: life.open()
    yield lambda life: life.drop(1)
    yield lambda life: life.append(1, 300, 300, 300, 5)
    yield lambda life: life.save(2, "n0")
    yield lambda life: life.drop(2)  # in the middle of the first segment
    yield lambda life: life.append(2, 900, 900)  # each fills a segment
    yield lambda life: life.drop(5)  # one segment
    yield lambda life: life.cut(-1, 3, 50)
    yield lambda life: life.append(3, 800, 10, sync=False)
    yield lambda life: life.drop(-1)  # several; the active one was never synced
    yield lambda life: life.append(4, 700, 20)
    yield lambda life: life.cut(-2, 5, 700, 700, 30)
    yield lambda life: life.reopen()
    yield lambda life: life.drop(-1)
    yield lambda life: life.cut(-1, 6)  # nothing is left
    yield lambda life: life.append(6, 40)
    yield lambda life: life.cut(-1, 7, 41)
    yield lambda life: life.save(7, "n2")
    yield lambda life: life.append(7, 30, 20)
    yield lambda life: life.append(8, 700, 701, 702, 8)
    yield lambda life: life.drop(-3)
    yield lambda life: life.drop(-1)  # again, before anything else
    yield lambda life: life.idle()
    yield lambda life: life.reopen()


def common_prefix(states: Sequence[Entries]) -> Entries:
    shortest = min(states, key=len)
    for at, entry in enumerate(shortest):
        if any(state[at] != entry for state in states):
            return shortest[:at]
    return shortest
