"""How a leader changes the membership (§6; thesis chapter 4).

A change is appended like any entry; what makes it special is when it may begin and what follows
its commitment:

    AddLearner           entry committed -> done
    voters change        joint committed -> final appended -> final committed -> done
    we are not in it     final committed -> done, and we step down

Laws:
- One change at a time: none begins while the latest configuration is joint or not committed.
- None begins before an entry of the leader's own term is committed. Until then a leader cannot
  know whether the configuration it counts by was superseded (Ongaro's erratum of 2015).
- Whoever leads finishes a joint configuration it finds in its log, whoever began it.
- A leader that is no voter any more counts nobody of itself: the entry that removes it is
  committed by the others alone, and only then does it step down (thesis §4.2.2). It asks the
  foremost of them to take over.
"""

from typing import TYPE_CHECKING

from attrs import define

from dledger_py.raft import membership
from dledger_py.raft.membership import Configuration
from dledger_py.raft.progress import Manner, Progress
from dledger_py.raft.roles import Leader
from dledger_py.raft.vocabulary import (
    ChangeMembers,
    ChangeRefused,
    Entry,
    Index,
    Kind,
    Lost,
    MembersChanged,
    NodeId,
    NotLeader,
    Promote,
    Replace,
    Settle,
    Ticket,
    Transferring,
)

if TYPE_CHECKING:
    from dledger_py.raft.raft import Raft


@define(eq=False)
class Pending:
    """The one change this leader has begun and not settled."""

    ticket: Ticket
    index: Index
    """The latest entry appended for it."""


def begin(raft: "Raft", event: ChangeMembers) -> None:
    """Append the first configuration of a change, or say at once why not."""
    leader = raft.role
    ticket = event.ticket
    if type(leader) is not Leader:
        raft.say(Settle(ticket=ticket, outcome=NotLeader(leader=raft.leader)))
        return
    if raft.transfer is not None:
        raft.say(Settle(ticket=ticket, outcome=Transferring(to=raft.transfer.to)))
        return
    if reason := _not_now(raft, leader):
        refusal = ChangeRefused(reason=reason, passing=True)
        raft.say(Settle(ticket=ticket, outcome=refusal))
        return
    try:
        configuration = raft.configuration.changed(event.change)
        if type(event.change) in (Promote, Replace):
            newcomer = configuration.voters[-1]
            if not is_caught_up(raft, leader, newcomer):
                raise membership.Forbidden(f"{newcomer} has not caught up")
    except membership.Forbidden as error:
        raft.say(Settle(ticket=ticket, outcome=ChangeRefused(reason=str(error))))
        return
    raft.change = Pending(ticket=ticket, index=raft.log.last_index + 1)
    append(raft, leader, configuration)


def _not_now(raft: "Raft", leader: Leader) -> str:
    """Why no change may begin yet, whatever it is; empty if one may."""
    if not own_term_is_committed(raft, leader):
        return "nothing of this leader's term is committed yet"
    if raft.log.configuration_index > raft.commit or raft.configuration.is_joint:
        return "another change is under way"
    return ""


def own_term_is_committed(raft: "Raft", leader: Leader) -> bool:
    """Ongaro's erratum of 2015 to thesis §4.1."""
    return raft.commit >= leader.start_index


def is_caught_up(raft: "Raft", leader: Leader, learner: NodeId) -> bool:
    """Whether making it a voter would not hold commitment up (thesis §4.2.1): it is served
    without a hitch, answered within an election timeout, and lacks no more than one append holds.
    One that was fed from the disk is served so once it has all there is: nothing more may follow.
    """
    lag = raft.log.last_index - leader.match[learner]
    silence = raft.now - leader.heard[learner]
    manner = leader.followers[learner].manner
    return (
        (manner is Manner.STREAMING or (manner is Manner.CATCHING_UP and not lag))
        and leader.match[learner] > 0
        and lag <= raft.config.append_entries_max
        and silence <= raft.config.election_timeout_ticks
    )


def append(raft: "Raft", leader: Leader, configuration: Configuration) -> None:
    """Put a configuration into the log, and thus in force."""
    entry = Entry(
        index=raft.log.last_index + 1,
        term=raft.term,
        kind=Kind.CONFIG,
        payload=membership.encode(configuration),
    )
    raft.lead_with(leader, entry)


def serve(raft: "Raft", leader: Leader) -> None:
    """Serve those the new configuration adds, from its entry on, and no more those it drops."""
    leader.settled = False
    start = raft.log.configuration_index
    window = raft.config.window_messages
    for peer in raft.peers:
        if peer not in leader.followers:
            leader.followers[peer] = Progress(peer, start, window, window)
            leader.match[peer] = leader.answered[peer] = 0
            leader.heard[peer] = raft.now
    for gone in [peer for peer in leader.followers if peer not in raft.peers]:
        del leader.followers[gone], leader.match[gone]
        del leader.answered[gone], leader.heard[gone]


def go_on(raft: "Raft", leader: Leader) -> None:
    """Something was committed while the configuration in force was not known to be settled."""
    if raft.log.configuration_index > raft.commit:
        return
    configuration = raft.configuration
    if configuration.is_joint:
        if raft.change is not None:
            raft.change.index = raft.log.last_index + 1
        append(raft, leader, configuration.left())
        return
    leader.settled = True
    if raft.change is not None:
        ticket = raft.change.ticket
        raft.change = None
        index = raft.log.configuration_index
        raft.say(Settle(ticket=ticket, outcome=MembersChanged(index=index)))
    if raft.node not in configuration.voters:
        raft.step_down()  # thesis §4.2.2


def leadership_ended(raft: "Raft", pending: Pending) -> None:
    """A later leader may finish the change, or cut it off."""
    raft.change = None
    term = raft.log.term_at(pending.index)
    raft.say(Settle(ticket=pending.ticket, outcome=Lost(index=pending.index, term=term)))
