"""When a member that hears no leader asks around (§5.2): a count of ticks, and chance.

Laws:
- Who has followed a leader sits its silence out for one election timeout, and who knows, and need
  not guess from silence, that nobody leads does not wait at all. Then members take turns in their
  order, since they all begin to count at one moment; chance breaks what order cannot (a clock
  ahead).
- Otherwise, nothing is known of when others began to count: one to two election timeouts are sat
  out, at random, so that votes seldom split.
- Asking early does no harm, since a campaign needs a majority of pre-votes first.

Deliberately elsewhere: what is asked then (raft.py).
"""

from collections.abc import Callable

from dledger_py.raft.config import RaftConfig

TURN_TICKS = 4
"""Between two members' turns to ask for a vote: several round trips and a write to a busy disk."""


class ElectionTimer:
    """The election timer of one member."""

    __slots__ = ("_heartbeat_ticks", "_random", "_timeout_ticks", "elapsed", "heard_at", "timeout")

    def __init__(self, config: RaftConfig, random: Callable[[int], int]) -> None:
        self._timeout_ticks = config.election_timeout_ticks
        self._heartbeat_ticks = config.heartbeat_ticks
        self._random = random
        self.elapsed = 0
        """Ticks since the leader was heard, or a vote given."""
        self.timeout = 0
        """Of these, how many are waited before asking around."""
        self.heard_at = 0
        """The tick in which any member at all was heard last."""

    def restart(self) -> None:
        """Sit out one to two election timeouts from now on."""
        self.elapsed = 0
        self.timeout = self._timeout_ticks + self._random(self._timeout_ticks)

    def take_turn(self, turn: int) -> None:
        """Nobody leads: ask within a few ticks, as number `turn` in the order of the members, so
        that one of them has been elected before the next would ask.
        """
        self.elapsed = 0
        self.timeout = self._turn(turn)

    def follow(self, turn: int) -> None:
        """A leader is known: sit out an election timeout of its silence, then take this turn. With
        chance alone, two followers sit out 1.3 timeouts on average, and up to two.
        """
        self.elapsed = 0
        self.timeout = self._timeout_ticks + self._turn(turn)

    def is_alone(self, now: int) -> bool:
        """Whether nobody at all was heard for an election timeout: no leader is to be expected."""
        return now - self.heard_at > self._timeout_ticks

    def retry_soon(self) -> None:
        """Do not sit out a split vote: all candidates would wait a whole timeout for nobody."""
        spread = max(self._heartbeat_ticks, self._timeout_ticks // 4)
        self.timeout = min(self.timeout, self.elapsed + 1 + self._random(spread))

    def _turn(self, turn: int) -> int:
        return 1 + turn * TURN_TICKS + self._random(2)
