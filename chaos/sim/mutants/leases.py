"""Planted bugs in leases: in what they rest on, time, and in what others owe to whoever has one."""

from typing import Any

from chaos.sim.mutants.mutant import Mutant
from chaos.sim.world import Node, World
from dledger_py.raft import lease, reads, transfer
from dledger_py.raft.config import RaftConfig
from dledger_py.raft.lease import Bond, Lease
from dledger_py.raft.raft import Raft
from dledger_py.raft.roles import Leader
from dledger_py.raft.vocabulary import ClockStalled, NodeId


def believe_the_clock(raft: Raft, event: ClockStalled) -> None:
    """The loop stood still; so what."""


def bound_to_nothing(self: Bond, candidate: NodeId, now: int) -> bool:
    return False


def start_unbound(config: RaftConfig) -> Bond | None:
    timeout = config.election_timeout_ticks
    return Bond(ticks=timeout, until=0) if config.lease_ticks else None


def holds_before_an_own_commit(raft: Raft, leader: Leader) -> bool:
    own = leader.lease
    if own is None or own.void:
        return False
    own.since[raft.node] = raft.now
    return raft.now - raft.configuration.agreed(own.since) < own.ticks


def begin_with_the_answer(self: Lease, member: NodeId, round: int) -> None:
    self.since[member] = max(self.since[member], self.rounds[-1][1] if self.rounds else 0)


honest_urge = transfer.urge


def urge_and_keep_the_lease(raft: Raft, leader: Leader, wanted: Any) -> None:
    honest_urge(raft, leader, wanted)
    if leader.lease is not None:
        leader.lease.void = False


honest_start_ticking = World._start_ticking


def tick_as_one_likes(self: World, node: Node) -> None:
    """Clocks go at rates that differ by up to a factor of 36."""
    honest_start_ticking(self, node)
    node.tick_us = int(self.knobs.tick_us * self.random.choice((1 / 6, 6)))


LEASES: tuple[Mutant, ...] = (
    Mutant(
        name="lease survives a clock that stood still",
        profile="lease",
        seeds=20,
        patches=((reads, "clock_stalled", believe_the_clock),),
    ),
    Mutant(
        name="whoever heard a leader helps others all the same",
        profile="lease",
        seeds=40,
        patches=((Bond, "forbids", bound_to_nothing),),
    ),
    Mutant(
        name="restart forgets whom it was bound to",
        profile="lease",
        seeds=60,
        patches=((lease, "bond_of", start_unbound),),
    ),
    Mutant(
        name="lease before an own entry is committed",
        profile="lease",
        seeds=40,
        patches=((lease, "holds", holds_before_an_own_commit),),
    ),
    Mutant(
        name="lease begins when the answer comes",
        profile="lease",
        seeds=40,
        first_seed=50,
        patches=((Lease, "answered", begin_with_the_answer),),
    ),
    Mutant(
        name="lease kept although somebody was told to take over",
        profile="lease",
        seeds=40,
        first_seed=80,
        patches=((transfer, "urge", urge_and_keep_the_lease),),
    ),
    Mutant(
        name="clocks differ by more than a lease allows for",
        profile="lease",
        seeds=40,
        first_seed=70,
        patches=((World, "_start_ticking", tick_as_one_likes),),
    ),
)
