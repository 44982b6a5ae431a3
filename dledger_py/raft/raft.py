"""The door of consensus: `Raft.step(event)` returns the effects to perform, in order."""

from collections.abc import Callable

from dledger_py.raft.config import RaftConfig
from dledger_py.raft.log_view import LogView
from dledger_py.raft.vocabulary import Effect, Event, HardState, RaftStatistics


class Raft:
    """One member's consensus. Built from what was recovered; starts as a follower that knows no leader."""

    def __init__(
        self,
        *,
        config: RaftConfig,
        log: LogView,
        hard: HardState,
        random: Callable[[int], int],
        electable: bool = True,
    ) -> None:
        """`random(n)` returns a number in `range(n)`: `random.Random(seed).randrange` will do."""
        raise NotImplementedError

    def step(self, event: Event) -> list[Effect]:
        """Take one event; **Raises** `Impossible` if an invariant is broken: the process must stop."""
        raise NotImplementedError

    def statistics(self) -> RaftStatistics:
        """A snapshot for metrics."""
        raise NotImplementedError
