"""Handing leadership over (thesis §3.10): on a planned stop, or to a member that is better placed.

The leader brings the target's log up to its own, tells it to campaign at once, and takes no
proposals meanwhile, because each would put the target behind again:

    refuse proposals -> target matches our last entry -> TimeoutNow -> target's term ends ours

Laws:
- Nothing sticks. After one election timeout the leader gives up, says so, and takes proposals
  again; a target that is dead, slow or cut off costs that much and no more. At once if the
  connection to it broke.
- Giving up takes nothing back: a late TimeoutNow may still move leadership, by an election like
  any other. A transfer can therefore only make a leader lose time, never entries.
- Who has lost its leadership waits one more election timeout for news of the next leader, since
  the end of a term does not show who won.

Deliberately elsewhere: what the target does with TimeoutNow (rules.py).
"""

from typing import TYPE_CHECKING

from attrs import define

from dledger_py.raft.roles import Leader
from dledger_py.raft.vocabulary import (
    NodeId,
    NotLeader,
    Outcome,
    Send,
    Settle,
    Ticket,
    TimeoutNow,
    TransferFailed,
    TransferLeadership,
    Transferred,
)

if TYPE_CHECKING:
    from dledger_py.raft.raft import Raft


@define(eq=False)
class Transfer:
    """The one transfer under way; it outlives the leadership it hands over until it is settled."""

    ticket: Ticket
    to: NodeId
    give_up_at: int
    """Tick."""

    told_at: int | None = None
    """Tick of the last TimeoutNow: it may get lost, and is repeated like a heartbeat."""


def start(raft: "Raft", event: TransferLeadership) -> None:
    """Begin a transfer, or say at once why not."""
    role = raft.role
    ticket = event.ticket
    to = event.to
    if type(role) is not Leader:
        raft.say(Settle(ticket=ticket, outcome=NotLeader(leader=raft.leader)))
    elif raft.transfer is not None:
        _refuse(raft, ticket, f"a transfer to {raft.transfer.to} is under way")
    elif to == raft.node:
        raft.say(Settle(ticket=ticket, outcome=Transferred(leader=to)))
    elif to not in raft.configuration.voters:
        _refuse(raft, ticket, f"{to} is not a voter")
    else:
        give_up_at = raft.now + raft.config.election_timeout_ticks
        raft.transfer = Transfer(ticket=ticket, to=to, give_up_at=give_up_at)
        urge(raft, role, raft.transfer)


def urge(raft: "Raft", leader: Leader, transfer: Transfer) -> None:
    """Tell the target to campaign, if it has all we have and was not told a moment ago."""
    if leader.match.get(transfer.to) != raft.log.last_index:
        return
    told_at = transfer.told_at
    if told_at is None or raft.now - told_at >= raft.config.heartbeat_ticks:
        transfer.told_at = raft.now
        if leader.lease is not None:
            leader.lease.void = True
        raft.say(Send(to=transfer.to, message=TimeoutNow(term=raft.term)))


def call_foremost(raft: "Raft", leader: Leader) -> None:
    """Have another voter campaign at once: the leader falls silent, whatever made it, and should
    not cost the others an election timeout.

    A hint, sent once. Who hears no answers may well be heard; a target that is dead, or does not
    have the best log after all, leaves the others to their timeouts.
    """
    others = [member for member in raft.members if member != raft.node]
    if others:
        foremost = max(others, key=lambda member: leader.match[member])
        raft.say(Send(to=foremost, message=TimeoutNow(term=raft.term)))


def watch(raft: "Raft", transfer: Transfer) -> None:
    """A tick while a transfer is under way."""
    role = raft.role
    if raft.now >= transfer.give_up_at:
        fail(raft, f"{transfer.to} did not take over in time")
    elif type(role) is Leader:
        urge(raft, role, transfer)


def leadership_ended(raft: "Raft", transfer: Transfer) -> None:
    """Our term is over: wait for word of the next leader."""
    transfer.give_up_at = raft.now + raft.config.election_timeout_ticks


def leader_known(raft: "Raft", transfer: Transfer, leader: NodeId) -> None:
    """The next leader is known, and with it how the transfer went."""
    if leader == transfer.to:
        _settle(raft, transfer, Transferred(leader=leader))
    else:
        fail(raft, f"{leader} was elected instead of {transfer.to}")


def fail(raft: "Raft", reason: str) -> None:
    """Give up; if we still lead, proposals are taken again."""
    transfer = raft.transfer
    assert transfer is not None
    _settle(raft, transfer, TransferFailed(reason=reason))


def _settle(raft: "Raft", transfer: Transfer, outcome: Outcome) -> None:
    raft.transfer = None
    raft.say(Settle(ticket=transfer.ticket, outcome=outcome))


def _refuse(raft: "Raft", ticket: Ticket, reason: str) -> None:
    raft.say(Settle(ticket=ticket, outcome=TransferFailed(reason=reason)))
