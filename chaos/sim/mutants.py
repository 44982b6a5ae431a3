"""Planted bugs: the simulator is worth what it catches.

Each mutant replaces one decision of the core by one that has been got wrong somewhere, for as
long as `planted` lasts. A mutant that survives its seeds means that a fault profile or a check
has gone blind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from chaos.sim.run import Result, run
from dledger_py.raft import changes, quorum, reads, replication, rules, transfer
from dledger_py.raft.log_view import LogView
from dledger_py.raft.membership import Configuration
from dledger_py.raft.raft import Raft
from dledger_py.raft.roles import Candidate, Follower, Leader, PreCandidate
from dledger_py.raft.rules import RULES, STALE
from dledger_py.raft.vocabulary import (
    Append,
    AppendAccepted,
    AppendRefused,
    Commit,
    Entry,
    Message,
    NodeId,
    ReadReady,
    RequestVote,
    Send,
    Settle,
    VoteGranted,
    VoteRefused,
)
from dledger_py.raft.writes import Writes

# Any: a mutant replaces attributes of classes and modules as well as rows of the rule tables.
Patch = tuple[Any, Any, Any]


@frozen(kw_only=True)
class Mutant:
    """A planted bug, the profile that should find it, and within how many seeds."""

    name: str
    profile: str
    seeds: int
    patches: tuple[Patch, ...]
    members: int = 3
    seconds: float = 20.0


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Plant a bug; dig it out again at the end."""
    undo: list[Patch] = []
    for owner, name, value in mutant.patches:
        if isinstance(owner, dict):
            undo.append((owner, name, owner[name]))
            owner[name] = value
        else:
            undo.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in reversed(undo):
            if isinstance(owner, dict):
                owner[name] = value
            else:
                setattr(owner, name, value)


def hunt(mutant: Mutant, first_seed: int = 0) -> Result | None:
    """Run seeds until the mutant is caught; None if it survives all of them."""
    with planted(mutant):
        for seed in range(first_seed, first_seed + mutant.seeds):
            result = run(seed, mutant.profile, mutant.members, mutant.seconds)
            if result.violation:
                return result
    return None


# ------------------------------------------------------------------------------- the planted bugs


def said_at_once(*kinds: type[Message]) -> Any:
    """A `promise` that does not wait for the disk with messages of `kinds`."""
    honest = Raft.promise

    def promise(self: Raft, to: NodeId, message: Message) -> None:
        if type(message) in kinds:
            self.say(Send(to=to, message=message))
        else:
            honest(self, to, message)

    return promise


honest_lead_with = Raft.lead_with


def lead_counting_unsynced(self: Raft, leader: Leader, entry: Entry) -> None:
    honest_lead_with(self, leader, entry)
    leader.match[self.node] = entry.index
    self.commit_if_agreed(leader)


def know_nothing(raft: Raft, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    return entries


def anything_goes(self: LogView, last_index: int, last_term: int) -> bool:
    return True


def commit_any_term(self: Raft, leader: Leader) -> None:
    self.commit_up_to(self.configuration.agreed(leader.match))


def accept_and_commit_to_last(raft: Raft, sender: NodeId, message: Append) -> None:
    rules.accept(raft, sender, message)
    if raft.log.matches(message.prev_index, message.prev_term):
        raft.commit_up_to(min(message.commit, raft.log.last_index))


def accept_and_claim_last(raft: Raft, sender: NodeId, message: Append) -> None:
    rules.accept(raft, sender, message)
    raft.promise(
        sender,
        AppendAccepted(term=raft.term, match=raft.log.last_index, round=message.round),
    )


def is_half(members: tuple[NodeId, ...], granted: Any) -> bool:
    return sum(member in granted for member in members) >= len(members) // 2


def agreed_by_half(members: tuple[NodeId, ...], reached: dict[NodeId, int]) -> int:
    return sorted(reached[member] for member in members)[(len(members) + 1) // 2]


def vote_again(raft: Raft, sender: NodeId, message: RequestVote) -> None:
    raft.vote = None
    raft.leader = None
    rules.consider_vote(raft, sender, message)


def count_old_vote(raft: Raft, sender: NodeId, message: VoteGranted) -> None:
    if type(raft.role) is Candidate:
        rules.count_vote(raft, sender, message)


def cut_nothing(self: Writes, first: int) -> None:
    """The ABA race: a write may vouch for entries that replaced what it wrote."""


def read_unconfirmed(raft: Raft, leader: Leader, ticket: int) -> None:
    leader.reads.append((ticket, -1, max(raft.commit, leader.start_index)))
    leader.answered = dict.fromkeys(raft.configuration.members, 0)
    reads.settle_confirmed(raft, leader)


def read_before_own_commit(raft: Raft, leader: Leader) -> None:
    confirmed = raft.configuration.agreed(leader.answered)
    while leader.reads and leader.reads[0][1] < confirmed:
        ticket, _, _ = leader.reads.popleft()
        raft.say(Settle(ticket=ticket, outcome=ReadReady(index=raft.commit)))


def answer_every_answer(raft: Raft, sender: NodeId, message: AppendAccepted) -> None:
    rules.count_match(raft, sender, message)
    leader = raft.role
    assert type(leader) is Leader
    replication.send_empty(raft, leader, leader.followers[sender])


def commit_at_once(self: Raft) -> None:
    if self.commit > self._announced:
        self._announced = self.commit
        self._effects.append(Commit(up_to=self.commit))


def never_probe(raft: Raft, sender: NodeId, message: AppendRefused) -> None:
    """Lost appends are never sent again."""


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


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        name="vote said before it is durable",
        profile="swarm",
        seeds=10,
        patches=((Raft, "promise", said_at_once(VoteGranted)),),
    ),
    Mutant(
        name="append acknowledged before it is durable",
        profile="swarm",
        seeds=10,
        patches=((Raft, "promise", said_at_once(AppendAccepted)),),
    ),
    Mutant(
        name="undurable term in a refusal",
        profile="hell",
        seeds=40,
        patches=((Raft, "promise", said_at_once(AppendRefused, VoteRefused)),),
    ),
    Mutant(
        name="leader counts its own unsynced entries",
        profile="hell",
        seeds=20,
        patches=((Raft, "lead_with", lead_counting_unsynced),),
    ),
    Mutant(
        name="commit announced ahead of the own disk",
        profile="hell",
        seeds=20,
        patches=((Raft, "_announce", commit_at_once),),
    ),
    Mutant(
        name="cut without a conflict",
        profile="swarm",
        seeds=10,
        patches=((rules, "without_known", know_nothing),),
    ),
    Mutant(
        name="vote for a worse log",
        profile="hell",
        seeds=60,
        patches=((LogView, "is_as_good_as_ours", anything_goes),),
    ),
    Mutant(
        name="commit of an older term by counting (figure 8)",
        profile="hell",
        seeds=40,
        patches=((Raft, "commit_if_agreed", commit_any_term),),
    ),
    Mutant(
        name="follower commits up to its last entry",
        profile="hell",
        seeds=20,
        patches=(
            (RULES, (Follower, Append), accept_and_commit_to_last),
            (RULES, (PreCandidate, Append), accept_and_commit_to_last),
            (RULES, (Candidate, Append), accept_and_commit_to_last),
        ),
    ),
    Mutant(
        name="acknowledgement claims the last entry, not what matched",
        profile="hell",
        seeds=20,
        patches=((RULES, (Follower, Append), accept_and_claim_last),),
    ),
    Mutant(
        name="append of an older term accepted",
        profile="hell",
        seeds=40,
        patches=((STALE, Append, rules.accept),),
    ),
    Mutant(
        name="half is a majority in elections",
        profile="swarm",
        seeds=20,
        patches=((quorum, "is_majority", is_half),),
    ),
    Mutant(
        name="half is a majority for commits",
        profile="swarm",
        seeds=10,
        patches=((quorum, "agreed", agreed_by_half),),
    ),
    Mutant(
        name="two votes in one term",
        profile="hell",
        seeds=20,
        patches=((RULES, (Follower, RequestVote), vote_again),),
    ),
    Mutant(
        name="votes of an older term counted",
        profile="hell",
        seeds=100,
        patches=((STALE, VoteGranted, count_old_vote),),
    ),
    Mutant(
        name="late write vouches for what replaced it (ABA)",
        profile="hell",
        seeds=100,
        patches=((Writes, "cut", cut_nothing),),
    ),
    Mutant(
        name="read passes without a confirmed round",
        profile="cut",
        seeds=40,
        patches=((reads, "ask", read_unconfirmed),),
    ),
    Mutant(
        name="read passes before an own entry is committed",
        profile="hell",
        seeds=60,
        patches=((reads, "settle_confirmed", read_before_own_commit),),
    ),
    Mutant(
        name="every acknowledgement answered with an append",
        profile="swarm",
        seeds=40,
        seconds=2.0,
        patches=((RULES, (Leader, AppendAccepted), answer_every_answer),),
    ),
    Mutant(
        name="lost appends never sent again",
        profile="swarm",
        seeds=20,
        patches=((RULES, (Leader, AppendRefused), never_probe),),
    ),
    Mutant(
        name="a transfer to a dead member is never given up",
        profile="change",
        seeds=10,
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
        seeds=100,
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
        seeds=100,
        members=1,
        patches=((LogView, "may_elect", only_voters_stand),),
    ),
    Mutant(
        name="joint elections by the new voters alone",
        profile="change",
        seeds=100,
        patches=((Configuration, "is_majority", majority_of_the_new_alone),),
    ),
)
