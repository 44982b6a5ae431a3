"""Planted bugs around logs that lose their beginning, and copies for who fell behind."""

from random import Random

from attrs import evolve

from chaos.sim import disk as disks
from chaos.sim.disk import Copy, SimDisk, State
from chaos.sim.mutants.mutant import Mutant
from chaos.sim.retention import Retention
from chaos.sim.world import Node
from dledger_py.raft import far_behind, replication, rules
from dledger_py.raft.log_view import LogView
from dledger_py.raft.progress import Progress
from dledger_py.raft.raft import Raft
from dledger_py.raft.roles import Follower, Leader
from dledger_py.raft.rules import RULES, STALE
from dledger_py.raft.vocabulary import (
    AppendAccepted,
    AppendRefused,
    HardState,
    NodeId,
    TooFarBehind,
)


def reach_of_all(self: Retention, node: Node) -> int:
    return len(node.log) + 1


honest_drop_before = SimDisk.drop_before


def drop_and_keep_the_old_state(self: SimDisk, first_index: int, state: State) -> None:
    honest_drop_before(self, first_index, self.state)


def drop_and_forget_configurations(self: SimDisk, first_index: int, state: State) -> None:
    configuration = self.configuration
    honest_drop_before(self, first_index, state)
    self.configuration = configuration


honest_copy_of = Retention.copy_of


def copy_of_all(self: Retention, source: Node) -> Copy:
    return evolve(honest_copy_of(self, source), entries=tuple(source.disk.log))


honest_install = SimDisk.install


def install_as_committed(self: SimDisk, copy: Copy) -> None:
    honest_install(self, copy)
    self.commit = copy.last_index


def install_without_configuration(self: SimDisk, copy: Copy) -> None:
    configuration = self.configuration
    honest_install(self, copy)
    self.configuration = configuration


def always_fits(self: Retention, node: Node, copy: Copy) -> bool:
    return True


def forget_the_vote(hard: HardState, commit: int, last_term: int) -> HardState:
    return HardState(term=max(hard.term, last_term), vote=None, commit=commit)


def forget_the_term(hard: HardState, commit: int, last_term: int) -> HardState:
    return HardState(term=last_term, vote=None, commit=commit)


def refuse_what_was_dropped(self: LogView, index: int, term: int) -> bool:
    return self.matches(index, term)


def answer_every_refusal(raft: Raft, sender: NodeId, message: AppendRefused) -> None:
    rules.back_off(raft, sender, message)
    leader = raft.role
    assert type(leader) is Leader
    replication.send_empty(raft, leader, leader.followers[sender])


honest_send_empty = replication.send_empty


def leave_alone_who_is_far_behind(raft: Raft, leader: Leader, progress: Progress) -> None:
    if not far_behind.lacks_dropped(raft, progress):
        honest_send_empty(raft, leader, progress)


def bear_it(raft: Raft, leader: NodeId, first_index: int) -> None:
    """Nobody is told."""


def claim_the_start_of_the_leaders_log(raft: Raft, sender: NodeId, message: TooFarBehind) -> None:
    raft.follow(sender)
    match = message.first_index - 1
    raft.promise(sender, AppendAccepted(term=raft.term, match=match, round=message.round))


honest_crash = SimDisk.crash


def crash_and_forget_the_vote(self: SimDisk, random: Random) -> None:
    honest_crash(self, random)
    self.vote = None


def crash_and_forget_the_term(self: SimDisk, random: Random) -> None:
    honest_crash(self, random)
    self.term = self.log_view().last_term


def crash_and_cut_what_was_synced(self: SimDisk, random: Random) -> None:
    honest_crash(self, random)
    if self.last_index > self.committed and random.random() < 0.5:
        del self.log[-1:]


def crash_and_believe_in_all(self: SimDisk, random: Random) -> None:
    honest_crash(self, random)
    self.commit = self.last_index


honest_finish_flush = SimDisk.finish_flush


def finish_what_has_only_been_asked_for(self: SimDisk) -> int:
    write = honest_finish_flush(self)
    return self.queue[-1].write if self.queue else write


RETENTION: tuple[Mutant, ...] = (
    Mutant(
        name="dropped beyond what is committed",
        profile="retain",
        seeds=10,
        patches=((Retention, "_reach", reach_of_all),),
    ),
    Mutant(
        name="dropped before the state that covers it was durable",
        profile="retain",
        seeds=10,
        patches=((SimDisk, "drop_before", drop_and_keep_the_old_state),),
    ),
    Mutant(
        name="configuration before the log start forgotten when dropping",
        profile="retain",
        seeds=40,
        patches=((SimDisk, "drop_before", drop_and_forget_configurations),),
    ),
    Mutant(
        name="configuration before the log start not copied",
        profile="retain",
        seeds=40,
        patches=((SimDisk, "install", install_without_configuration),),
    ),
    Mutant(
        name="copy holds uncommitted entries",
        profile="retain",
        seeds=40,
        patches=((Retention, "copy_of", copy_of_all),),
        harmless="they are what an append could have brought, and are cut like any others; only"
        " what was acknowledged or is taken for committed binds anybody",
    ),
    Mutant(
        name="copy holds uncommitted entries and is taken for committed",
        profile="retain",
        seeds=40,
        patches=((Retention, "copy_of", copy_of_all), (SimDisk, "install", install_as_committed)),
    ),
    Mutant(
        name="copy replaces the log of a member that has caught up",
        profile="retain",
        seeds=40,
        patches=((Retention, "fits", always_fits),),
    ),
    Mutant(
        name="vote forgotten with the old log",
        profile="retain",
        seeds=40,
        patches=((disks, "hard_state_with", forget_the_vote),),
    ),
    Mutant(
        name="term forgotten with the old log",
        profile="retain",
        seeds=40,
        patches=((disks, "hard_state_with", forget_the_term),),
    ),
    Mutant(
        name="too far behind a leader of an older term",
        profile="retain",
        seeds=40,
        first_seed=40,
        patches=((STALE, TooFarBehind, rules.heed),),
    ),
    Mutant(
        name="append from before the log start refused",
        profile="retain",
        seeds=40,
        patches=((LogView, "agrees", refuse_what_was_dropped),),
    ),
    Mutant(
        name="start of the leader's log acknowledged without having it",
        profile="retain",
        seeds=20,
        patches=((RULES, (Follower, TooFarBehind), claim_the_start_of_the_leaders_log),),
    ),
    Mutant(
        name="every refusal answered at once",
        profile="retain",
        seeds=40,
        patches=((RULES, (Leader, AppendRefused), answer_every_refusal),),
    ),
    Mutant(
        name="who is far behind hears nothing",
        profile="retain",
        seeds=40,
        patches=((replication, "send_empty", leave_alone_who_is_far_behind),),
    ),
    Mutant(
        name="who fell behind tells nobody",
        profile="retain",
        seeds=40,
        patches=((far_behind, "fell_behind", bear_it),),
    ),
    Mutant(
        name="restart forgets the vote",
        profile="hell",
        seeds=40,
        patches=((SimDisk, "crash", crash_and_forget_the_vote),),
    ),
    Mutant(
        name="restart takes the last entry's term for its own",
        profile="hell",
        seeds=20,
        patches=((SimDisk, "crash", crash_and_forget_the_term),),
    ),
    Mutant(
        name="recovery cuts a synced entry as torn",
        profile="hell",
        seeds=40,
        patches=((SimDisk, "crash", crash_and_cut_what_was_synced),),
    ),
    Mutant(
        name="recovery takes all of its log for committed",
        profile="hell",
        seeds=20,
        patches=((SimDisk, "crash", crash_and_believe_in_all),),
    ),
    Mutant(
        name="one sync vouches for writes that came during it",
        profile="hell",
        seeds=20,
        patches=((SimDisk, "finish_flush", finish_what_has_only_been_asked_for),),
    ),
)
