"""What each role does with each message: one short function per decision, and the table that says
which applies where.

Laws:
- The terms were compared before the table is asked: here, message and receiver are in the same
  term. `STALE` says what is done with messages of older terms; a newer term has been adopted by
  then.
- The table has exactly one rule for every (role, message) pair. `ignore` and `impossible` are
  decisions too.
- Rules decide; they change the core only through its verbs (`say`, `promise`, `follow`, `store`,
  ...).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from dledger_py.raft import far_behind, reads, replication, transfer
from dledger_py.raft.roles import Candidate, Follower, Leader, PreCandidate, Role
from dledger_py.raft.vocabulary import (
    Append,
    AppendAccepted,
    AppendRefused,
    Entry,
    Index,
    Message,
    NodeId,
    PreVote,
    PreVoteGranted,
    PreVoteRefused,
    RequestVote,
    RequestVoteNow,
    Round,
    Term,
    TimeoutNow,
    TooFarBehind,
    VoteGranted,
    VoteRefused,
)

if TYPE_CHECKING:
    from dledger_py.raft.raft import Raft


class Impossible(AssertionError):
    """Stop: this cannot happen unless an invariant is broken, and going on could only spread the
    damage.
    """


# Any: the table pairs each rule with the one message type it is written for, which a dict's type
# cannot express.
Rule: TypeAlias = Callable[["Raft", NodeId, Any], None]


# -------------------------------------------------------------------------------------- elections


def consider_pre_vote(raft: "Raft", sender: NodeId, message: PreVote) -> None:
    """Thesis §9.6: grant unless we hear a leader, or know a better log (§5.4.1). Changes nothing
    here.
    """
    if not raft.hears_leader(sender) and raft.log.is_as_good_as_ours(
        message.last_index, message.last_term
    ):
        raft.promise(sender, PreVoteGranted(term=raft.term))
    else:
        raft.promise(sender, PreVoteRefused(term=raft.term))


def refuse_pre_vote(raft: "Raft", sender: NodeId, message: PreVote) -> None:
    """There is a leader: this node."""
    raft.promise(sender, PreVoteRefused(term=raft.term))


def count_pre_vote(raft: "Raft", sender: NodeId, message: PreVoteGranted) -> None:
    """Thesis §9.6: with a majority, campaign in earnest."""
    role = raft.role
    assert type(role) is PreCandidate
    role.granted[sender] = None
    if raft.configuration.is_majority(role.granted):
        raft.campaign()


def consider_vote(raft: "Raft", sender: NodeId, message: RequestVote | RequestVoteNow) -> None:
    """§5.2: one vote per term, first come first served; §5.4.1: not for a log worse than ours."""
    free = raft.vote == sender or (raft.vote is None and raft.leader is None)
    if type(message) is RequestVote and raft.is_bound(sender):
        free = False  # the term may be new to us, and the leader we heard still rely on us
    if free and raft.log.is_as_good_as_ours(message.last_index, message.last_term):
        raft.vote_for(sender)
        raft.promise(sender, VoteGranted(term=raft.term))
    else:
        raft.promise(sender, VoteRefused(term=raft.term))


def refuse_vote(raft: "Raft", sender: NodeId, message: RequestVote | RequestVoteNow) -> None:
    """This node's vote in this term is its own (§5.2)."""
    raft.promise(sender, VoteRefused(term=raft.term))


def count_vote(raft: "Raft", sender: NodeId, message: VoteGranted) -> None:
    """§5.2: with a majority, lead."""
    role = raft.role
    assert type(role) is Candidate
    role.granted[sender] = None
    raft.lead_if_elected(role)


def retry_soon(raft: "Raft", sender: NodeId, message: VoteRefused) -> None:
    """§5.2: the vote may be split; ask again after a short, random time."""
    raft.timer.retry_soon()


def campaign_now(raft: "Raft", sender: NodeId, message: TimeoutNow) -> None:
    """Thesis §3.10: the leader wants it, so there is nobody to ask first."""
    if raft.may_lead(called=True):
        raft.campaign(called=True)


# ------------------------------------------------------------------------------------ replication


def accept(raft: "Raft", sender: NodeId, message: Append) -> None:
    """§5.3, figure 2 (AppendEntries, receiver): check, cut only what conflicts, append, commit
    what is verified, acknowledge.
    """
    raft.follow(sender)
    if not raft.log.agrees(message.prev_index, message.prev_term):
        refuse_at(raft, sender, message.prev_index, message.prev_term, message.round)
        return
    entries = message.entries
    if entries and message.prev_index != raft.log.last_index:
        entries = without_known(raft, entries)
    if entries:
        raft.store(entries)
    # Not min(leader's commit, our last index): beyond what this message has verified, ours may be
    # another log.
    verified = message.prev_index + len(message.entries)
    raft.commit_up_to(min(message.commit, verified))
    # What is committed here the leader has as well (§5.4.3); it need not send it again.
    match = max(verified, raft.commit)
    raft.promise(sender, AppendAccepted(term=raft.term, match=match, round=message.round))


def heed(raft: "Raft", sender: NodeId, message: TooFarBehind) -> None:
    """A heartbeat of a leader that cannot serve us (far_behind.py), unless we have got as far as
    its log starts by now.
    """
    raft.follow(sender)
    before = message.first_index - 1
    if raft.log.agrees(before, message.previous_term):
        raft.commit_up_to(before)
        raft.promise(sender, AppendAccepted(term=raft.term, match=raft.commit, round=message.round))
    else:
        far_behind.fell_behind(raft, sender, message.first_index)
        refuse_at(raft, sender, before, message.previous_term, message.round)


def without_known(raft: "Raft", entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Return the part of `entries` from the first one on that the log lacks or contradicts (§5.3).

    A late or repeated append holds nothing new and therefore must not cut anything.
    """
    log = raft.log
    for place, entry in enumerate(entries):
        if entry.index > log.last_index:
            return entries[place:]
        if entry.index >= log.first_index and log.term_at(entry.index) != entry.term:
            return entries[place:]
    return ()


def refuse_at(raft: "Raft", sender: NodeId, index: Index, term: Term, round: Round) -> None:
    """§5.3: no entry of `term` at `index`; say how far the logs could agree at best, so that the
    leader goes back by whole terms.
    """
    hint = raft.log.last_not_above(index, term)
    raft.promise(
        sender,
        AppendRefused(
            term=raft.term,
            prev_index=index,
            hint_index=hint,
            hint_term=raft.log.term_at(hint),
            round=round,
        ),
    )


def refuse_old_append(raft: "Raft", sender: NodeId, message: Append | TooFarBehind) -> None:
    """§5.1: the sender's term is over. It may lead ours by the time it hears, so nothing of the
    old append is repeated: its rounds were counted in the old term, and would confirm readers of
    the new one.
    """
    raft.promise(
        sender, AppendRefused(term=raft.term, prev_index=0, hint_index=0, hint_term=0, round=0)
    )


def count_match(raft: "Raft", sender: NodeId, message: AppendAccepted) -> None:
    """§5.3, §5.4.2: a follower's durable match may advance the commit index and lets more be
    sent.
    """
    leader = raft.role
    assert type(leader) is Leader
    match = message.match
    if match > raft.log.last_index:
        raise Impossible(f"{sender} matches {match}, our log ends at {raft.log.last_index}")
    note_answer(raft, leader, sender, message.round)
    progress = leader.followers[sender]
    progress.accepted(match)
    if match > leader.match[sender]:
        leader.match[sender] = match
        raft.commit_if_agreed(leader)
        if raft.role is not leader or sender not in leader.followers:
            return  # What was committed has removed us, or the sender.
        if raft.transfer is not None and raft.transfer.to == sender:
            transfer.urge(raft, leader, raft.transfer)
    if progress.next <= raft.log.last_index:
        replication.send_more(raft, leader, progress)
    if leader.reads:
        reads.settle_confirmed(raft, leader)


def back_off(raft: "Raft", sender: NodeId, message: AppendRefused) -> None:
    """§5.3: the follower does not match at `prev_index`: probe lower, by whole terms, but not below
    what is known to match.

    That, however, may be gone: what was acknowledged and then damaged on the disk is cut as a torn
    write by the next start (storage/recovery.py), and replicated again. A late refusal takes the
    match down as well; a match that is too low is still true, and commits nothing.
    """
    leader = raft.role
    assert type(leader) is Leader
    note_answer(raft, leader, sender, message.round)
    progress = leader.followers[sender]
    match = leader.match[sender]
    fresh = message.round > progress.probed_round and message.prev_index >= match
    if fresh:
        best = min(
            raft.log.last_not_above(message.hint_index, message.hint_term), message.prev_index - 1
        )
        if message.prev_index == match:
            leader.match[sender] = match = best
        progress.probe_from(max(match, best) + 1, leader.round)
        if not far_behind.lacks_dropped(raft, progress):  # or it is told with the next heartbeat
            replication.send_empty(raft, leader, progress)
    if leader.reads:
        reads.settle_confirmed(raft, leader)


def note_answer(raft: "Raft", leader: Leader, sender: NodeId, round: Round) -> None:
    """Any answer of this term shows that the follower still follows (thesis §6.2, §6.4)."""
    leader.heard[sender] = raft.now
    if leader.lease is not None:
        leader.lease.answered(sender, round)
    if round > leader.answered[sender]:
        leader.answered[sender] = round


# ------------------------------------------------------------------------------ no rule is a rule


def ignore(raft: "Raft", sender: NodeId, message: Message) -> None:
    """A late answer to a question nobody asks any more; its term was already looked at."""


def impossible(raft: "Raft", sender: NodeId, message: Message) -> None:
    """Two leaders in one term, or an answer to a leader that never was: stop the process."""
    raise Impossible(f"{raft.role.name} of term {raft.term} got {message} from {sender}")


RULES: dict[tuple[type[Role], type[Message]], Rule] = {
    (Follower, PreVote): consider_pre_vote,
    (Follower, PreVoteGranted): ignore,
    (Follower, PreVoteRefused): ignore,
    (Follower, RequestVote): consider_vote,
    (Follower, RequestVoteNow): consider_vote,
    (Follower, VoteGranted): ignore,
    (Follower, VoteRefused): ignore,
    (Follower, Append): accept,
    (Follower, AppendAccepted): ignore,  # this node led the term and has stepped down
    (Follower, AppendRefused): ignore,
    (Follower, TooFarBehind): heed,
    (Follower, TimeoutNow): campaign_now,
    (PreCandidate, PreVote): consider_pre_vote,
    (PreCandidate, PreVoteGranted): count_pre_vote,
    (PreCandidate, PreVoteRefused): ignore,  # asked again with the next heartbeat
    (PreCandidate, RequestVote): consider_vote,
    (PreCandidate, RequestVoteNow): consider_vote,
    (PreCandidate, VoteGranted): ignore,
    (PreCandidate, VoteRefused): ignore,
    (PreCandidate, Append): accept,  # the leader is alive after all
    (PreCandidate, AppendAccepted): ignore,
    (PreCandidate, AppendRefused): ignore,
    (PreCandidate, TooFarBehind): heed,
    (PreCandidate, TimeoutNow): campaign_now,
    (Candidate, PreVote): consider_pre_vote,
    (Candidate, PreVoteGranted): ignore,
    (Candidate, PreVoteRefused): ignore,
    (Candidate, RequestVote): refuse_vote,
    (Candidate, RequestVoteNow): refuse_vote,
    (Candidate, VoteGranted): count_vote,
    (Candidate, VoteRefused): retry_soon,
    (Candidate, Append): accept,  # somebody else won
    (Candidate, AppendAccepted): impossible,
    (Candidate, AppendRefused): ignore,  # to an append of an older term, which this node led
    (Candidate, TooFarBehind): heed,  # somebody else won
    (Candidate, TimeoutNow): ignore,  # follows that leader first; it is told again
    (Leader, PreVote): refuse_pre_vote,
    (Leader, PreVoteGranted): ignore,
    (Leader, PreVoteRefused): ignore,
    (Leader, RequestVote): refuse_vote,
    (Leader, RequestVoteNow): refuse_vote,
    (Leader, VoteGranted): ignore,
    (Leader, VoteRefused): ignore,
    (Leader, Append): impossible,
    (Leader, AppendAccepted): count_match,
    (Leader, AppendRefused): back_off,
    (Leader, TooFarBehind): impossible,
    (Leader, TimeoutNow): impossible,
}

STALE: dict[type[Message], Rule] = {
    # Requests are refused with our term, or whoever is behind would never learn why it is not
    # heard: a node in a higher term with a shorter log could neither win nor be led.
    PreVote: refuse_pre_vote,
    RequestVote: refuse_vote,
    RequestVoteNow: refuse_vote,
    Append: refuse_old_append,
    TooFarBehind: refuse_old_append,
    TimeoutNow: ignore,  # the election it wanted has been held
    PreVoteGranted: ignore,
    PreVoteRefused: ignore,
    VoteGranted: ignore,
    VoteRefused: ignore,
    AppendAccepted: ignore,
    AppendRefused: ignore,
}
