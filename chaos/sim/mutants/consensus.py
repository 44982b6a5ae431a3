"""Planted bugs in elections, replication, commitment and reading."""

from typing import Any

from chaos.sim.mutants.mutant import Mutant
from dledger_py.raft import quorum, reads, replication, rules
from dledger_py.raft.log_view import LogView
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


honest_commit_up_to = Raft.commit_up_to


def commit_what_was_said(self: Raft, index: int) -> None:
    if index < self.commit:
        self.commit = index
    honest_commit_up_to(self, index)


def campaign_without_asking(self: Raft) -> None:
    self.timer.restart()
    if self.may_lead():
        self.campaign()


def count_old_match(raft: Raft, sender: NodeId, message: AppendAccepted) -> None:
    if type(raft.role) is Leader and message.match <= raft.log.last_index:
        rules.count_match(raft, sender, message)


def let_matches_fall(raft: Raft, sender: NodeId, message: AppendAccepted) -> None:
    leader = raft.role
    assert type(leader) is Leader
    leader.match[sender] = min(leader.match[sender], message.match)
    rules.count_match(raft, sender, message)


def adopt_without_writing(self: Raft, term: int) -> None:
    self._enter(term)
    self._become(Follower(), None)


def go_back_one_by_one(self: LogView, index: int, term: int) -> int:
    return min(index, self.last_index)


CONSENSUS: tuple[Mutant, ...] = (
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
        seeds=40,
        patches=((STALE, VoteGranted, count_old_vote),),
    ),
    Mutant(
        name="late write vouches for what replaced it (ABA)",
        profile="hell",
        seeds=40,
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
        name="commit index goes back with a late append",
        profile="hell",
        seeds=20,
        patches=((Raft, "commit_up_to", commit_what_was_said),),
    ),
    Mutant(
        name="campaign without a pre-vote",
        profile="swarm",
        seeds=40,
        patches=((Raft, "_seek_election", campaign_without_asking),),
    ),
    Mutant(
        name="acknowledgements of an older term counted",
        profile="hell",
        seeds=40,
        first_seed=760,
        patches=((STALE, AppendAccepted, count_old_match),),
    ),
    Mutant(
        name="match falls with a late acknowledgement",
        profile="hell",
        seeds=20,
        patches=((RULES, (Leader, AppendAccepted), let_matches_fall),),
        harmless="a match that is too low is still true; the commit index does not fall with it,"
        " and the next acknowledgement raises it again",
    ),
    Mutant(
        name="newer term adopted without writing it down",
        profile="hell",
        seeds=20,
        patches=((Raft, "_adopt", adopt_without_writing),),
    ),
    Mutant(
        name="refusal hints at the refused entry itself",
        profile="hell",
        seeds=20,
        patches=((LogView, "last_not_above", go_back_one_by_one),),
        harmless="the leader goes back one entry per refusal: slower, and as right",
    ),
)
