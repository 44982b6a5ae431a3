"""Read barriers (thesis §6.4): when may a reader trust this leader's state?

A barrier notes the commit index, and passes once a majority has answered an append sent *after*
it was asked, which shows that nobody else led at that moment, and once an entry of the leader's
own term is committed, which shows that the commit index is not older than what earlier leaders
acknowledged.

Laws:
- A barrier is confirmed only by rounds above the one it was asked in. Rounds are unique within a
  term and a term is led by one incarnation of one node, so an answer to somebody else's question
  cannot confirm it.
- With leases (lease.py) a barrier may pass without a round.
- At most one round of heartbeats is in the air for readers; barriers asked meanwhile share the
  next. Ordinary appends confirm as well.
"""

from typing import TYPE_CHECKING

from dledger_py.raft import lease, replication
from dledger_py.raft.roles import Leader
from dledger_py.raft.vocabulary import ClockStalled, NotLeader, ReadReady, Settle, Ticket

if TYPE_CHECKING:
    from dledger_py.raft.raft import Raft


def ask(raft: "Raft", leader: Leader, ticket: Ticket) -> None:
    """Let a barrier pass by lease, or queue it; the first in the queue starts a round."""
    if lease.holds(raft, leader):
        raft.say(Settle(ticket=ticket, outcome=ReadReady(index=raft.commit)))
        return
    leader.reads.append((ticket, leader.round, max(raft.commit, leader.start_index)))
    if len(leader.reads) == 1:
        leader.read_round = leader.round
        replication.send_to_all(raft, leader)
        settle_confirmed(raft, leader)  # Alone, this node is its own majority.


def settle_confirmed(raft: "Raft", leader: Leader) -> None:
    """Let pass what a majority has confirmed, and start the next round if barriers wait for it."""
    if raft.commit < leader.start_index:
        return
    confirmed = raft.configuration.agreed(leader.answered)
    waiting = leader.reads
    while waiting and waiting[0][1] < confirmed:
        ticket, _, index = waiting.popleft()
        raft.say(Settle(ticket=ticket, outcome=ReadReady(index=index)))
    if waiting and waiting[0][1] > leader.read_round:
        leader.read_round = leader.round
        replication.send_to_all(raft, leader)


def clock_stalled(raft: "Raft", event: ClockStalled) -> None:
    """The leases counted on that clock."""
    leader = raft.role
    if type(leader) is Leader and leader.lease is not None:
        leader.lease.clock_stalled()


def refuse_all(raft: "Raft", leader: Leader) -> None:
    """Leadership is lost: a read has no effect, so this is a definite no."""
    while leader.reads:
        ticket, _, _ = leader.reads.popleft()
        raft.say(Settle(ticket=ticket, outcome=NotLeader(leader=None)))
