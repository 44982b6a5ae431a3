"""Planted bugs in changing the membership and handing leadership over."""

from typing import Any

from chaos.sim.mutants.mutant import Mutant
from dledger_py.raft import changes, quorum, transfer
from dledger_py.raft.log_view import LogView
from dledger_py.raft.membership import Configuration
from dledger_py.raft.raft import Raft
from dledger_py.raft.roles import Leader
from dledger_py.raft.vocabulary import (
    NodeId,
)


def never_give_up(raft: Raft, wanted: transfer.Transfer) -> None:
    """The target may be dead; who cares."""


honest_commit_up_to = Raft.commit_up_to


def use_committed_configuration(self: Raft) -> None:
    history = self.log._configurations
    committed = [each for index, each in history if index <= self.commit]
    configuration = committed[-1] if committed else history[0][1]
    self.configuration = configuration
    self.members = configuration.electors
    self.peers = tuple(each for each in configuration.members if each != self.node)


def commit_and_use_configuration(self: Raft, index: int) -> None:
    before = self.configuration
    honest_commit_up_to(self, index)
    self._use_configuration()
    role = self.role
    if type(role) is Leader and self.configuration is not before:
        changes.serve(self, role)
        changes.go_on(self, role)


def committed_from_the_start(raft: Raft, leader: Leader) -> bool:
    return True


def only_own_term_matters(raft: Raft, leader: Leader) -> str:
    return "" if changes.own_term_is_committed(raft, leader) else "not yet"


def agreed_by_learners_too(self: Configuration, reached: dict[NodeId, int]) -> int:
    return quorum.agreed(self.voters + self.learners, reached)


def agreed_by_the_new_alone(self: Configuration, reached: dict[NodeId, int]) -> int:
    return quorum.agreed(self.voters, reached)


def majority_of_the_new_alone(self: Configuration, granted: Any) -> bool:
    return quorum.is_majority(self.voters, granted)


def never_joint(self: Configuration, voters: Any, learners: Any) -> Configuration:
    return Configuration(voters=voters, learners=learners)


def only_voters_stand(self: LogView, node: NodeId, commit: int) -> bool:
    assert self.configuration is not None
    return node in self.configuration.electors


honest_cut = LogView.cut


def cut_but_keep_configurations(self: LogView, first: int) -> None:
    history = list(self._configurations)
    honest_cut(self, first)
    self._configurations = history
    self._use_latest()


MEMBERSHIP: tuple[Mutant, ...] = (
    Mutant(
        name="a transfer to a dead member is never given up",
        profile="change",
        seeds=20,
        patches=((transfer, "watch", never_give_up),),
    ),
    Mutant(
        name="configuration used when committed, not when appended",
        profile="change",
        seeds=20,
        patches=(
            (Raft, "_use_configuration", use_committed_configuration),
            (Raft, "commit_up_to", commit_and_use_configuration),
        ),
    ),
    Mutant(
        name="configuration kept although its entry was cut",
        profile="change",
        seeds=40,
        patches=((LogView, "cut", cut_but_keep_configurations),),
    ),
    Mutant(
        name="change begun before an entry of the own term is committed",
        profile="change",
        seeds=20,
        patches=((changes, "own_term_is_committed", committed_from_the_start),),
    ),
    Mutant(
        name="change begun while another is uncommitted",
        profile="change",
        seeds=20,
        patches=((changes, "_not_now", only_own_term_matters),),
    ),
    Mutant(
        name="voters changed in one step",
        profile="change",
        seeds=20,
        patches=((Configuration, "_joint", never_joint),),
    ),
    Mutant(
        name="learners counted for commits",
        profile="change",
        seeds=20,
        patches=((Configuration, "agreed", agreed_by_learners_too),),
    ),
    Mutant(
        name="joint commits by the new voters alone",
        profile="change",
        seeds=40,
        patches=((Configuration, "agreed", agreed_by_the_new_alone),),
    ),
    Mutant(
        name="whoever appended its own removal stands for no election",
        profile="change",
        seeds=40,
        members=1,
        patches=((LogView, "may_elect", only_voters_stand),),
    ),
    Mutant(
        name="joint elections by the new voters alone",
        profile="change",
        seeds=40,
        patches=((Configuration, "is_majority", majority_of_the_new_alone),),
    ),
)
