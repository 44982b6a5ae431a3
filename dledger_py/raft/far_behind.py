"""A follower that lacks what its leader's log does not hold any more.

    leader     the next entry was dropped -> with every heartbeat TooFarBehind instead of an append
    follower   agrees with the leader's log where it starts?
                 yes: acknowledges, and is served again
                 no:  refuses, and says FellBehind, once per term

Nothing is installed inside a running core. Told `FellBehind`, whoever drives the core stops it,
copies the log of a member that has one (from its start up to what that member knows to be
committed) and a state of the machine to go with it, and starts a core with that log, with the
configuration in force before it, and with the term and vote the old one had. To everybody else
this is a crash and a restart.

Why the copy may replace the log (`may_replace`), even one whose entries were acknowledged:

- What a leader dropped was committed. So the copy, together with what lies before it, is a prefix
  of what every leader from now on has (leader completeness, §5.4.3).
- Our log does not agree with the copy at `first_index - 1`. So it either ends before that place,
  and whatever we acknowledged is in the copy or before it, if it counts at all; or it has another
  entry there, and by log matching (§5.3) none of ours from there on is committed, nor can ever
  be: no leader to come has them.
- The copy ends at a committed entry, so nothing is taken for committed that is not. (Entries
  behind that would do no harm, as long as they are not *taken* for committed: they are what an
  append could have brought. They would only have to be cut again.)
- Term and vote stay, or this member could vote twice in a term. The term may have to rise to that
  of the copy's last entry, and then there was no vote in it yet.

If our log does agree there, it may hold more than the copy, and entries that only we and a leader
hold: replacing it would take back what was acknowledged. So the question is asked of the log as
it is *when it is replaced*, not when `FellBehind` was said.

Deliberately elsewhere: what a member lacks otherwise (replication.py), dropping (`Raft` and
`LogView.drop_before`), how the copy gets here (the ledger).
"""

from typing import TYPE_CHECKING

from dledger_py.raft.log_view import LogView
from dledger_py.raft.progress import Manner, Progress
from dledger_py.raft.roles import Leader
from dledger_py.raft.vocabulary import FellBehind, HardState, Index, NodeId, Term, TooFarBehind

if TYPE_CHECKING:
    from dledger_py.raft.raft import Raft


def lacks_dropped(raft: "Raft", progress: Progress) -> bool:
    """Whether what a follower lacks next is gone from this leader's log; noted if so."""
    if progress.next >= raft.log.first_index:
        return False
    progress.manner = Manner.TOO_FAR_BEHIND
    return True


def notice(raft: "Raft", leader: Leader) -> TooFarBehind:
    """What such a follower is told, in a round of its own."""
    leader.round += 1
    first_index = raft.log.first_index
    return TooFarBehind(
        term=raft.term,
        first_index=first_index,
        previous_term=raft.log.term_at(first_index - 1),
        round=leader.round,
    )


def fell_behind(raft: "Raft", leader: NodeId, first_index: Index) -> None:
    """This member is the one."""
    if raft.behind_in_term != raft.term:
        raft.behind_in_term = raft.term
        raft.say(FellBehind(leader=leader, first_index=first_index))


def may_replace(log: LogView, first_index: Index, previous_term: Term, last_index: Index) -> bool:
    """Whether a copy of committed entries `first_index` to `last_index`, behind an entry of
    `previous_term`, may take the place of `log`; see above.
    """
    return last_index >= first_index - 1 and not log.agrees(first_index - 1, previous_term)


def hard_state_with(hard: HardState, commit: Index, last_term: Term) -> HardState:
    """What a member with `hard` starts with once its log is a copy that ends in `last_term` and is
    committed up to `commit`.
    """
    if last_term > hard.term:
        return HardState(term=last_term, vote=None, commit=commit)
    return HardState(term=hard.term, vote=hard.vote, commit=commit)
