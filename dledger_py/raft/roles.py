"""The four roles: data only. What they do with a message is in rules.py, with time in raft.py."""

from collections import deque
from typing import TypeAlias

from attrs import define, field

from dledger_py.raft.lease import Lease
from dledger_py.raft.progress import Progress
from dledger_py.raft.statistics import PeerStatistics
from dledger_py.raft.vocabulary import (
    Index,
    NodeId,
    RoleName,
    Round,
    Ticket,
    WriteId,
)


@define(eq=False)
class Follower:
    """Passive (§5.2): answers leaders and candidates."""

    name = RoleName.FOLLOWER


@define(eq=False)
class PreCandidate:
    """Has given up its leader and asks whether a campaign could be won (thesis §9.6)."""

    name = RoleName.PRE_CANDIDATE
    granted: dict[NodeId, None] = field(factory=dict)


@define(eq=False)
class Candidate:
    """Campaigns in its own term; its vote for itself counts once `vote_write` is durable."""

    name = RoleName.CANDIDATE
    vote_write: WriteId
    called: bool = False
    """Whether the leader itself has called for this campaign (thesis §3.10)."""

    granted: dict[NodeId, None] = field(factory=dict)


@define(eq=False)
class Leader:
    """Leads its term. The dictionaries have one key per member, and for this node even if it is
    none any more.
    """

    name = RoleName.LEADER
    start_index: Index
    """The no-op of this term: nothing is known to be committed before it is (§8)."""

    followers: dict[NodeId, Progress]
    match: dict[NodeId, Index]
    """Up to where each member's log equals ours and is durable there; falls within a term only when
    the member itself says that it does not."""

    heard: dict[NodeId, int]
    """Tick of the last answer in this term."""

    answered: dict[NodeId, Round]
    round: Round = 0
    proposals: deque[tuple[Index, Ticket, int]] = field(factory=deque)
    """(index, ticket, size) of what was proposed here and is not yet committed."""

    uncommitted_bytes: int = 0
    reads: deque[tuple[Ticket, Round, Index]] = field(factory=deque)
    """(ticket, last round before it was asked, index to apply first)."""

    settled: bool = False
    """Whether the configuration in force is known to be committed and final, with us in it."""

    lease: Lease | None = None
    """Unless leases are off."""

    read_round: Round = 0
    """The last round before the heartbeats that were sent for the sake of readers."""

    def peer_statistics(self, now: int) -> tuple[PeerStatistics, ...]:
        """How the followers are served, for metrics."""
        return tuple(
            PeerStatistics(
                peer=peer,
                state=progress.manner.value,
                match=self.match[peer],
                next=progress.next,
                in_flight_messages=len(progress.in_flight),
                in_flight_bytes=progress.in_flight_bytes,
                ticks_since_contact=now - self.heard[peer],
            )
            for peer, progress in self.followers.items()
        )


Role: TypeAlias = Follower | PreCandidate | Candidate | Leader

ROLES: tuple[type[Role], ...] = (Follower, PreCandidate, Candidate, Leader)
