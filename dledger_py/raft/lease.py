"""Leases: a leader answers readers without asking anybody first (thesis §6.4.1). Off by default
(`RaftConfig.lease_ticks`), because it rests on clocks.

    leader     sends a round at tick s, a majority answers it
               -> until s + lease_ticks nobody else leads, and barriers pass at once
    member     hears its leader -> for one election timeout it helps nobody else to lead

Laws:
- A lease begins when the round was *sent*, never when the answer came: answers may be late.
- Whoever is bound to a leader neither votes for anybody else nor stands for election, whatever it
  has learnt meanwhile of newer terms or broken connections. A member that starts does not know
  what it was bound to, and is bound to nobody for as long. That is what leases cost: without them
  a broken connection to the leader is enough to ask around at once.
- Once a leader has told somebody to take over (`TimeoutNow`), which those bound to it obey, its
  leases are over for the term.
- A lease is at most half an election timeout, less `SLACK_TICKS`: one member's clock may go up to
  twice as fast as another's.
- Ticks are not made up for, so a loop that stood still believes in leases that are long over.
  Whoever drives the core has to notice *before* it asks, and post `ClockStalled`.

Where a lease does not hold, a barrier takes its round as ever (reads.py).
"""

from collections import defaultdict, deque
from typing import TYPE_CHECKING

from attrs import define, field

from dledger_py.raft.config import RaftConfig
from dledger_py.raft.vocabulary import NodeId, Round

if TYPE_CHECKING:
    from dledger_py.raft.raft import Raft
    from dledger_py.raft.roles import Leader

NEVER = -(1 << 60)


def _never() -> dict[NodeId, int]:
    return defaultdict(lambda: NEVER)


@define(eq=False)
class Lease:
    """What a leader knows of the time its rounds were sent."""

    ticks: int
    since: dict[NodeId, int] = field(factory=_never)
    """Tick in which the latest round was sent that a member has answered."""

    rounds: deque[tuple[Round, int]] = field(factory=deque)
    """(first round of a tick, tick), of the last ticks."""

    void: bool = False
    """Whether somebody was told to take over."""

    def begin_tick(self, now: int, last_round: Round) -> None:
        """Rounds after `last_round` are sent at tick `now` or later."""
        self.rounds.append((last_round + 1, now))
        if len(self.rounds) > self.ticks:
            self.rounds.popleft()

    def answered(self, member: NodeId, round: Round) -> None:
        """A member has answered `round`; an old one renews nothing."""
        for first, tick in reversed(self.rounds):
            if round >= first:
                self.since[member] = max(self.since[member], tick)
                return

    def clock_stalled(self) -> None:
        """Nothing is known of the time of any round so far."""
        self.rounds.clear()
        self.since.clear()


def lease_of(config: RaftConfig) -> Lease | None:
    """What a new leader starts with: nobody has answered yet."""
    return Lease(ticks=config.lease_ticks) if config.lease_ticks else None


def holds(raft: "Raft", leader: "Leader") -> bool:
    """Whether nobody else can lead now, and everything acknowledged so far is committed here."""
    lease = leader.lease
    if lease is None or lease.void or raft.commit < leader.start_index:
        return False
    lease.since[raft.node] = raft.now
    return raft.now - raft.configuration.agreed(lease.since) < lease.ticks


@define(eq=False)
class Bond:
    """For how long this member helps nobody to lead, except the one it is bound to."""

    ticks: int
    until: int
    """The last tick of it."""

    to: NodeId | None = None

    def renew(self, leader: NodeId, now: int) -> None:
        """The leader was heard."""
        self.to = leader
        self.until = now + self.ticks

    def forbids(self, candidate: NodeId, now: int) -> bool:
        """Whether `candidate` must not be helped to lead."""
        return now <= self.until and candidate != self.to


def bond_of(config: RaftConfig) -> Bond | None:
    """What a member starts with: before it stopped, it may have bound itself to anybody."""
    timeout = config.election_timeout_ticks
    return Bond(ticks=timeout, until=timeout) if config.lease_ticks else None
