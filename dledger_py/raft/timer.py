"""When a member that hears no leader asks around (§5.2): a count of ticks, and chance.

Laws:
- Silence is sat out for one to two election timeouts, at random, so that votes seldom split.
- Who knows, and need not guess from silence, that nobody leads does not wait that long: members
  take turns in their order, and chance breaks what order cannot (a clock ahead).
- Asking early does no harm, since a campaign needs a majority of pre-votes first.

Deliberately elsewhere: what is asked then (raft.py).
"""

from collections.abc import Callable

from dledger_py.raft.config import RaftConfig

TURN_TICKS = 4
"""Between two members' turns to ask for a vote: several round trips and a write to a busy disk."""


class ElectionTimer:
    """The election timer of one member."""

    __slots__ = ("_heartbeat_ticks", "_random", "_timeout_ticks", "elapsed", "timeout")

    def __init__(self, config: RaftConfig, random: Callable[[int], int]) -> None:
        self._timeout_ticks = config.election_timeout_ticks
        self._heartbeat_ticks = config.heartbeat_ticks
        self._random = random
        self.elapsed = 0
        """Ticks since the leader was heard, or a vote given."""
        self.timeout = 0
        """Of these, how many are waited before asking around."""

    def restart(self) -> None:
        """Sit out one to two election timeouts from now on."""
        self.elapsed = 0
        self.timeout = self._timeout_ticks + self._random(self._timeout_ticks)

    def take_turn(self, turn: int) -> None:
        """Nobody leads: ask within a few ticks, as number `turn` in the order of the members, so
        that one of them has been elected before the next would ask.
        """
        self.elapsed = 0
        self.timeout = 1 + turn * TURN_TICKS + self._random(2)

    def retry_soon(self) -> None:
        """Do not sit out a split vote: all candidates would wait a whole timeout for nobody."""
        spread = max(self._heartbeat_ticks, self._timeout_ticks // 4)
        self.timeout = min(self.timeout, self.elapsed + 1 + self._random(spread))
