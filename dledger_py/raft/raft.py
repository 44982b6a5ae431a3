"""The door of consensus: `Raft.step(event)` returns the effects to perform, in order.

Laws:
- No clock, no dice, no I/O, no log lines: time is counted in ticks, chance is handed in, the rest
  is effects.
- There are two ways to speak. `say` leaves at once. `promise` leaves when every write issued so
  far is durable, and is dropped if the term has moved on: votes, requests for votes and
  acknowledgements are promises, and so is every refusal, since it names a term. Only a leader's
  appends are said, so that it replicates while its own disk is busy.
- A leader counts itself only for what its own disk holds, and `Commit` never runs ahead of that
  disk.
- A leader whose disk does not answer, or who has heard no majority, for one election timeout
  steps down and falls silent.
- Nothing iterates over a set; members are visited in the order of the configuration.

Given effects in order, the performer may carry them out in any order, except that writes stay in
order.

Deliberately elsewhere: what each role does with each message (rules.py), feeding followers
(replication.py), read barriers (reads.py), durability (writes.py), handing leadership over
(transfer.py), changing the membership (changes.py), followers that need what was dropped
(far_behind.py).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from dledger_py.raft import changes, lease, reads, replication, transfer
from dledger_py.raft.config import RaftConfig
from dledger_py.raft.log_view import ENTRY_OVERHEAD_BYTES, LogView
from dledger_py.raft.membership import Configuration
from dledger_py.raft.progress import Progress
from dledger_py.raft.roles import Candidate, Follower, Leader, PreCandidate, Role
from dledger_py.raft.rules import RULES, STALE, Impossible
from dledger_py.raft.statistics import RaftStatistics
from dledger_py.raft.timer import ElectionTimer
from dledger_py.raft.vocabulary import (
    REQUESTS,
    Busy,
    ChangeMembers,
    ClockStalled,
    Commit,
    Dropped,
    Effect,
    ElectableChanged,
    EntriesRead,
    Entry,
    Event,
    HardState,
    Index,
    Kind,
    Lost,
    Message,
    NodeId,
    NotLeader,
    PeerUnreachable,
    Persist,
    Persisted,
    PreVote,
    Propose,
    Proposed,
    ReadBarrier,
    Received,
    RequestVote,
    RequestVoteNow,
    RoleChanged,
    RoleName,
    Round,
    Send,
    Settle,
    Term,
    Tick,
    TransferLeadership,
    Transferring,
    WriteId,
)
from dledger_py.raft.writes import Promises, Writes

ALWAYS: Round = 1 << 62
"""The round this node itself has answered: it needs no message to know what it thinks."""


class Raft:
    """One member's consensus. Built from what was recovered; starts as a follower without a
    leader.
    """

    __slots__ = (
        "_announced",
        "_effects",
        "_electable",
        "_handlers",
        "_promises",
        "_role_news",
        "_told",
        "_writes",
        "behind_in_term",
        "bond",
        "change",
        "commit",
        "config",
        "configuration",
        "leader",
        "log",
        "members",
        "node",
        "now",
        "peers",
        "role",
        "term",
        "timer",
        "transfer",
        "vote",
    )

    def __init__(
        self,
        *,
        config: RaftConfig,
        log: LogView,
        hard: HardState,
        random: Callable[[int], int],
        electable: bool = True,
    ) -> None:
        """`random(n)` returns a number in `range(n)`: `random.Random(seed).randrange` will do.

        Everything in `log` and `hard` is durable. What `hard.commit` covers is announced by the
        first `step`.
        """
        if hard.commit > log.last_index:
            raise ValueError(f"committed up to {hard.commit}, but the log ends at {log.last_index}")
        if hard.term < log.last_term:
            raise ValueError(f"term is {hard.term}, but the log ends in term {log.last_term}")
        self.config = config
        self.node = config.node
        self.log = log
        self.term: Term = hard.term
        self.vote: NodeId | None = hard.vote
        # What was dropped was committed, even if nobody noted it.
        self.commit: Index = max(hard.commit, log.first_index - 1)
        log.begin_with(Configuration(voters=config.members))
        self._use_configuration()
        self.role: Role = Follower()
        self.leader: NodeId | None = None
        self.transfer: transfer.Transfer | None = None
        self.change: changes.Pending | None = None
        self.behind_in_term: Term = 0
        self.now = 0
        self.bond = lease.bond_of(config)
        self.timer = ElectionTimer(config, random)
        self._electable = electable
        self._writes = Writes(log.last_index)
        self._promises = Promises()
        self._announced: Index = log.first_index - 1
        self._role_news = False
        self._told = RoleChanged(role=RoleName.FOLLOWER, term=hard.term, leader=None)
        self._effects: list[Effect] = []
        # Any: each handler takes the one event type it is listed under.
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            Tick: self._on_tick,
            Received: self._on_received,
            Propose: self._on_propose,
            Persisted: self._on_persisted,
            ReadBarrier: self._on_read_barrier,
            PeerUnreachable: self._on_peer_unreachable,
            EntriesRead: self._on_entries_read,
            Dropped: self._on_dropped,
            ClockStalled: partial(reads.clock_stalled, self),
            ElectableChanged: self._on_electable_changed,
            TransferLeadership: partial(transfer.start, self),
            ChangeMembers: partial(changes.begin, self),
        }
        self.timer.take_turn(self._turn())
        self._announce()

    def step(self, event: Event) -> list[Effect]:
        """Take one event and return what to do, in order.

        **Raises** `Impossible` (an AssertionError) if an invariant is broken: stop the process.
        """
        self._handlers[type(event)](event)
        effects = self._effects
        self._effects = []
        if self._role_news:
            self._role_news = False
            news = RoleChanged(role=self.role.name, term=self.term, leader=self.leader)
            if news != self._told:
                self._told = news
                effects.insert(0, news)
        return effects

    # --------------------------------------------------------------------------------------- events

    def _on_tick(self, event: Tick) -> None:
        self.now += 1
        if self.transfer is not None:
            transfer.watch(self, self.transfer)
        role = self.role
        if type(role) is Leader:
            self._lead_on(role)
            return
        timer = self.timer
        timer.elapsed += 1
        if timer.elapsed >= timer.timeout:
            self._seek_election()
        elif timer.elapsed % self.config.heartbeat_ticks == 0:
            self._ask_again(role)

    def _on_received(self, event: Received) -> None:
        """§5.1: compare terms once, in front of all rules."""
        sender = event.sender
        message = event.message
        if sender not in self.peers and type(message) not in REQUESTS:
            return
        self.timer.heard_at = self.now
        if message.term != self.term:
            if message.term < self.term:
                STALE[type(message)](self, sender, message)
                return
            if type(message) in (PreVote, RequestVote) and self.hears_leader(sender):
                # Whoever asks would only disturb a cluster that works (§6). If it is really
                # ahead, it will refuse our leader's appends with its term, and so be heard.
                return
            self._adopt(message.term)
        RULES[type(self.role), type(message)](self, sender, message)

    def _on_propose(self, event: Propose) -> None:
        role = self.role
        if type(role) is not Leader:
            self.say(Settle(ticket=event.ticket, outcome=NotLeader(leader=self.leader)))
            return
        if self.transfer is not None:
            self.say(Settle(ticket=event.ticket, outcome=Transferring(to=self.transfer.to)))
            return
        size = len(event.payload) + ENTRY_OVERHEAD_BYTES
        waiting = role.uncommitted_bytes
        if waiting and waiting + size > self.config.uncommitted_bytes_max:
            self.say(Settle(ticket=event.ticket, outcome=Busy()))
            return
        index = self.log.last_index + 1
        role.proposals.append((index, event.ticket, size))
        role.uncommitted_bytes = waiting + size
        entry = Entry(index=index, term=self.term, kind=Kind.COMMAND, payload=event.payload)
        self._effects.append(Proposed(ticket=event.ticket, index=index, term=self.term))
        self.lead_with(role, entry)

    def _on_persisted(self, event: Persisted) -> None:
        self._writes.finish(event.write)
        role = self.role
        if type(role) is Leader:
            role.match[self.node] = self._writes.durable_index
            self.commit_if_agreed(role)
        elif type(role) is Candidate:
            self._count_own_vote(role)
        self._announce()
        if self._promises:
            for to, message in self._promises.due(self._writes.durable_write):
                self.say(Send(to=to, message=message))
        self.log.trim(self._writes.durable_index, self.config.tail_bytes_max)

    def _on_read_barrier(self, event: ReadBarrier) -> None:
        role = self.role
        if type(role) is Leader:
            reads.ask(self, role, event.ticket)
        else:
            self.say(Settle(ticket=event.ticket, outcome=NotLeader(leader=self.leader)))

    def _on_peer_unreachable(self, event: PeerUnreachable) -> None:
        """A leader stops streaming into the void; a follower need not wait a whole election
        timeout.
        """
        peer = event.peer
        role = self.role
        if type(role) is Leader:
            if peer in role.followers:
                start = max(role.match[peer] + 1, self.log.first_index)
                role.followers[peer].probe_from(start, role.round)
            if self.transfer is not None and self.transfer.to == peer:
                transfer.fail(self, f"the connection to {peer} broke")
        elif self.leader == peer:
            self.leader = None
            self._role_news = True
            self.timer.take_turn(self._turn(without=peer))

    def _on_entries_read(self, event: EntriesRead) -> None:
        role = self.role
        if type(role) is Leader:
            replication.send_read(self, role, event)

    def _on_dropped(self, event: Dropped) -> None:
        if event.first_index - 1 > self._announced:
            raise Impossible(f"{event}: entries are applied up to {self._announced}")
        self.log.drop_before(event.first_index)

    def _on_electable_changed(self, event: ElectableChanged) -> None:
        self._electable = event.electable
        if not event.electable and type(self.role) is not Follower:
            self.step_down()

    # ------------------------------------------------------------------------- speaking and writing

    def say(self, effect: Effect) -> None:
        """Let an effect leave at once."""
        self._effects.append(effect)

    def promise(self, to: NodeId, message: Message) -> None:
        """Send a message once every write issued so far is durable, unless the term moves on
        first.
        """
        if self._writes:
            self._promises.add(self._writes.issued, to, message)
        else:
            self._effects.append(Send(to=to, message=message))

    def store(self, entries: tuple[Entry, ...]) -> None:
        """Append a leader's entries; cut the log first if they contradict it (§5.3)."""
        first = entries[0].index
        if first <= self.log.last_index:
            if first <= self.commit:
                raise Impossible(f"{entries[0]} contradicts what is committed up to {self.commit}")
            self.log.cut(first)
            self._writes.cut(first)
        for entry in entries:
            self.log.append(entry)
        if self.log.configuration is not self.configuration:
            self._use_configuration()
        self._persist(first, entries)

    def _persist(self, first: Index | None, entries: tuple[Entry, ...]) -> WriteId:
        write = self._writes.issue(self.log.last_index, self.now)
        self._effects.append(
            Persist(write=write, term=self.term, vote=self.vote, first=first, entries=entries)
        )
        return write

    def _use_configuration(self) -> None:
        """§6: the latest configuration in the log is in force, committed or not."""
        configuration = self.log.configuration
        assert configuration is not None, "the log began with one"
        self.configuration: Configuration = configuration
        self.members: tuple[NodeId, ...] = configuration.electors
        self.peers = tuple(each for each in configuration.members if each != self.node)
        self.log.settle_configurations(self.commit)

    # ----------------------------------------------------------------------------------- commitment

    def commit_if_agreed(self, leader: Leader) -> None:
        """§5.4.2: advance to what a majority holds, if that is of our own term; all before it
        goes along (figure 8).
        """
        index = self.configuration.agreed(leader.match)
        if index > self.commit and self.log.term_at(index) == self.term:
            self.commit_up_to(index)

    def commit_up_to(self, index: Index) -> None:
        """Everything up to `index` is committed in the cluster; it is announced as far as our own
        disk has it.
        """
        if index <= self.commit:
            return
        self.commit = index
        role = self.role
        if type(role) is Leader:
            proposals = role.proposals
            while proposals and proposals[0][0] <= index:
                role.uncommitted_bytes -= proposals.popleft()[2]
            if role.reads:
                reads.settle_confirmed(self, role)
        self._announce()
        if type(role) is Leader and not role.settled:
            changes.go_on(self, role)

    def _announce(self) -> None:
        up_to = self.commit
        if up_to > self._announced:
            up_to = min(up_to, self._writes.durable_index)
        if up_to > self._announced:
            self._announced = up_to
            self._effects.append(Commit(up_to=up_to))

    # ------------------------------------------------------------------------------------ elections

    def hears_leader(self, asker: NodeId) -> bool:
        """Whether this node leads, or has heard its leader within the shortest election timeout.

        §6, thesis §4.2.3. A leader that asks for votes does not lead any more: it does not count.
        """
        if self.is_bound(asker):
            return True
        if self.leader is None or self.leader == asker:
            return False
        return self.leader == self.node or self.timer.elapsed < self.config.election_timeout_ticks

    def is_bound(self, candidate: NodeId) -> bool:
        """Whether a leader may still rely on this member not to help `candidate` (lease.py)."""
        return self.bond is not None and self.bond.forbids(candidate, self.now)

    def vote_for(self, candidate: NodeId) -> None:
        """Cast this term's vote, once; only a vote that is given restarts the timer."""
        if self.vote is None:
            self.vote = candidate
            self._persist(None, ())
        if type(self.role) is not Follower:
            self._become(Follower(), None)
        self.timer.restart()

    def _seek_election(self) -> None:
        """The election timeout has passed: ask around before disturbing anybody (thesis §9.6)."""
        self.timer.restart()
        if not self.may_lead():
            self._become(Follower(), None)
            return
        role = PreCandidate()
        role.granted[self.node] = None
        self._become(role, None)
        self._ask_again(role)
        if self.configuration.is_majority(role.granted):
            self.campaign()

    def may_lead(self, *, called: bool = False) -> bool:
        """Whether this member may stand for election: it has a vote, as far as is known, its disk
        is well and answers, and no leader relies on it, unless `called` by that.
        """
        if self.is_bound(self.node) and not called:
            return False
        stalled = self._writes.waiting_ticks(self.now) > self.config.election_timeout_ticks
        return self._electable and not stalled and self.log.may_elect(self.node, self.commit)

    def campaign(self, *, called: bool = False) -> None:
        """§5.2: a new term, a vote for ourselves, and requests for the others' votes, all of them
        promises. `called` by the leader (thesis §3.10), the requests are heard by everyone.
        """
        self._enter(self.term + 1)
        self.vote = self.node
        role = Candidate(vote_write=self._persist(None, ()), called=called)
        self._become(role, None)
        self.timer.restart()
        self._ask_again(role)

    def _ask_again(self, role: Role) -> None:
        """Ask those who have not said yes; repeated with every heartbeat, since messages get lost
        and minds change.
        """
        last_index = self.log.last_index
        last_term = self.log.last_term
        message: Message
        if type(role) is PreCandidate:
            message = PreVote(term=self.term, last_index=last_index, last_term=last_term)
        elif type(role) is Candidate:
            kind = RequestVoteNow if role.called else RequestVote
            message = kind(term=self.term, last_index=last_index, last_term=last_term)
        else:
            return
        for member in self.members:
            if member != self.node and member not in role.granted:
                self.promise(member, message)

    def _count_own_vote(self, role: Candidate) -> None:
        if self.node not in role.granted and self._writes.durable_write >= role.vote_write:
            role.granted[self.node] = None
            self.lead_if_elected(role)

    def lead_if_elected(self, role: Candidate) -> None:
        """§5.2: lead once a majority has granted; the no-op of §8 makes earlier terms' entries
        committable.
        """
        if not self.configuration.is_majority(role.granted):
            return
        start = self.log.last_index + 1
        window = self.config.window_messages
        leader = Leader(
            start_index=start,
            followers={peer: Progress(peer, start, window, window) for peer in self.peers},
            match=dict.fromkeys(self.configuration.members, 0),
            heard=dict.fromkeys(self.configuration.members, self.now),
            answered=dict.fromkeys(self.configuration.members, 0),
            lease=lease.lease_of(self.config),
        )
        leader.match[self.node] = self._writes.durable_index
        leader.answered[self.node] = ALWAYS
        self._become(leader, self.node)
        if self.transfer is not None:
            transfer.leader_known(self, self.transfer, self.node)
        self.lead_with(leader, Entry(index=start, term=self.term, kind=Kind.NOOP, payload=b""))

    # -------------------------------------------------------------------------------------- leading

    def lead_with(self, leader: Leader, entry: Entry) -> None:
        """§5.3: append an entry of our own, to our disk and to the followers at the same time."""
        self.log.append(entry)
        if self.log.configuration is not self.configuration:
            self._use_configuration()
            changes.serve(self, leader)
        self._persist(entry.index, (entry,))
        replication.send_new(self, leader, entry)

    def _lead_on(self, leader: Leader) -> None:
        """A tick of a leader: still fit to lead? Then keep the followers warm."""
        leader.heard[self.node] = self.now
        if leader.lease is not None:
            leader.lease.begin_tick(self.now, leader.round)
        timeout = self.config.election_timeout_ticks
        alone = self.now - self.configuration.agreed(leader.heard) > timeout
        stalled = self._writes.waiting_ticks(self.now) > timeout
        if alone or stalled:
            self.step_down()
            return
        replication.send_heartbeats(self, leader)

    def step_down(self) -> None:
        """Give leadership, or the candidacy for it, up within the term."""
        role = self.role
        if type(role) is Leader:
            transfer.call_foremost(self, role)
        self._become(Follower(), None)
        self.timer.restart()

    # ------------------------------------------------------------------------------ terms and roles

    def follow(self, leader: NodeId) -> None:
        """§5.2: an append of our term comes from its one leader."""
        if self.leader != leader:
            if self.leader is not None:
                raise Impossible(f"term {self.term} is led by {self.leader} and by {leader}")
            self._become(Follower(), leader)
            self.timer.follow(self._turn(without=leader))
            if self.transfer is not None:
                transfer.leader_known(self, self.transfer, leader)
        self.timer.elapsed = 0
        if self.bond is not None:
            self.bond.renew(leader, self.now)

    def _adopt(self, term: Term) -> None:
        """§5.1: a newer term. The election timer runs on, or a node that only raises terms could
        keep all others passive.
        """
        led = type(self.role) is Leader
        self._enter(term)
        self._persist(None, ())
        self._become(Follower(), None)
        if led:
            self.timer.restart()

    def _enter(self, term: Term) -> None:
        assert term > self.term
        self.term = term
        self.vote = None
        self._promises.clear()

    def _become(self, role: Role, leader: NodeId | None) -> None:
        previous = self.role
        self.role = role
        self.leader = leader
        self._role_news = True
        if type(previous) is Leader:
            reads.refuse_all(self, previous)
            if self.transfer is not None:
                transfer.leadership_ended(self, self.transfer)
            for index, ticket, _ in previous.proposals:
                lost = Lost(index=index, term=self.log.term_at(index))
                self.say(Settle(ticket=ticket, outcome=lost))
            if self.change is not None:
                changes.leadership_ended(self, self.change)

    def _turn(self, without: NodeId | None = None) -> int:
        """This node's place among the members that could lead now."""
        left = [member for member in self.members if member != without]
        return left.index(self.node) if self.node in left else len(left)

    # ----------------------------------------------------------------------------------- statistics

    def statistics(self) -> RaftStatistics:
        """A snapshot for metrics; costs as much as a few steps."""
        role = self.role
        leader = role if type(role) is Leader else None
        return RaftStatistics(
            node=self.node,
            role=role.name,
            term=self.term,
            leader=self.leader,
            electable=self._electable,
            first_index=self.log.first_index,
            last_index=self.log.last_index,
            durable_index=self._writes.durable_index,
            commit_index=self.commit,
            announced_index=self._announced,
            tail_bytes=self.log.tail_bytes,
            uncommitted_bytes=leader.uncommitted_bytes if leader else 0,
            writes_in_flight=len(self._writes),
            promises_waiting=len(self._promises),
            reads_waiting=len(leader.reads) if leader else 0,
            transferring_to=self.transfer.to if self.transfer else None,
            voters=self.configuration.voters,
            voters_old=self.configuration.voters_old,
            learners=self.configuration.learners,
            peers=leader.peer_statistics(self.now) if leader else (),
        )
