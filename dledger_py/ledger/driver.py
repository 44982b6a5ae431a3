"""The synchronous monitor around the core: an event in, every effect performed, nothing awaited.

`post` runs on the event loop and returns when the core has taken the event and all its effects
are on their way: entries sealed and handed to the log writer, messages given to sockets,
committed entries applied. A proposal thus reaches the disk and the followers without one task
switch; why this is no mailbox is told in docs/decisions.

Laws:
- One event at a time. A `post` from inside an effect (a settled caller proposes again) is queued
  and taken in the same burst.
- What a burst has to say and to write leaves at its end, together: one send per peer.
- Within the effects of one event, entries are sealed before messages that carry them are sent.
- Nobody is settled inside their own call of `propose` or `read_barrier`.
- An exception in the core, an effect, the machine or a callback ends the process: the burst
  stops, the caller goes on unharmed, and the driver's own task raises FailStop. After that every
  event is ignored.

Elsewhere: what the events mean (raft), threads and sockets (log_writer, peer_link), settling
(proposals).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Never

import structlog
import trio

from dledger_py.actors import Actor, Child, Inbox, Restart
from dledger_py.ledger import errors
from dledger_py.ledger.applier import Applier
from dledger_py.ledger.links import Links
from dledger_py.ledger.log_tail import LogTail, TailEntry
from dledger_py.ledger.log_writer import Drop, LogWriter, Write
from dledger_py.ledger.machine import Applied, RoleName, RoleView
from dledger_py.ledger.members import Members
from dledger_py.ledger.peer_frames import Hello, decode_message, encode_head
from dledger_py.ledger.peer_link import PeerLink
from dledger_py.ledger.reopening import FellBehind, stop_for
from dledger_py.ledger.settlements import Settlements
from dledger_py.raft import vocabulary as raft
from dledger_py.raft.membership import encode
from dledger_py.raft.raft import Raft
from dledger_py.storage import Batch, Log
from dledger_py.storage.formats import ENTRY_HEADER_BYTES, KIND_NOOP

log = structlog.get_logger()

_ROLE_NAMES: dict[raft.RoleName, RoleName] = {
    raft.RoleName.FOLLOWER: "follower",
    raft.RoleName.PRE_CANDIDATE: "candidate",
    raft.RoleName.CANDIDATE: "candidate",
    raft.RoleName.LEADER: "leader",
}


READ_NOW_BYTES = 64 << 10
"""One read of this size from the page cache keeps the loop for some 20 µs."""

GIVE_WAY_S = 2.0
"""Time for another member to take over: a transfer takes milliseconds where one is up to date."""

_TICK = raft.Tick()

_VOTE_REQUESTS = frozenset((raft.PreVote, raft.RequestVote, raft.RequestVoteNow))


def _take_it_on_trust() -> None:
    """Without leases nobody counts on time."""


class Driver:
    """Owns the core. `run` is its task: it only waits, for a stop or for a failure to report."""

    def __init__(
        self,
        *,
        core: Raft,
        node: str,
        hard: raft.HardState,
        log: Log,
        tail: LogTail,
        settlements: Settlements,
        links: Links,
        members: Members,
        read_entries: Callable[[raft.ReadEntries], bool],
        on_role: Callable[[RoleView], None],
        on_members: Callable[[], None],
        hang_up: Callable[[str], None],
    ) -> None:
        """`hang_up` closes the connection that a member has dialled, if it has."""
        self._core = core
        self._node = node
        self._saved = (hard.term, hard.vote)
        self._log = log
        self._tail = tail
        self._settlements = settlements
        settlements.guard = self.guard
        self._links = links
        self._members = members
        self._on_members = on_members
        self._hang_up = hang_up
        self._stranger = ("", 0)
        self._configuration = core.configuration
        self._wanted = True
        self._electable = True
        self._read_entries = read_entries
        self._on_role = on_role
        self._writer: LogWriter
        self._applier: Applier
        self._events: deque[tuple[raft.Event, bytes]] = deque()
        self._busy = False
        self.look_at_clock: Callable[[], None] = _take_it_on_trust
        """Called before a reader may be let pass by lease."""
        self._failure: Exception | None = None
        self._over = trio.Event()
        self._deposed = trio.Event()
        self._event: raft.Event = _TICK
        self._body = b""
        self._writes: list[Write] = []
        self._talkative: dict[PeerLink, None] = {}
        self._sent: raft.Append | None = None
        self._sent_parts: Sequence[bytes | memoryview] = ()
        self.view = RoleView(role="follower", term=hard.term, leader=None, ready=False)
        # The term and commit index of the first append of this run.
        self._first_heard: tuple[int, int] | None = None
        self.joined = trio.Event()
        """Set once `current` has become true."""
        # Any: each performer takes the one effect type it is listed under.
        self._performers: dict[type[raft.Effect], Callable[[Any], None]] = {
            raft.Persist: self._persist,
            raft.Send: self._send,
            raft.Commit: self._commit,
            raft.Proposed: self._proposed,
            raft.Settle: self._settle,
            raft.RoleChanged: self._role_changed,
            raft.ReadEntries: self._read,
            raft.FellBehind: self._fell_behind,
        }

    def connect(self, writer: LogWriter, applier: Applier) -> None:
        """Close the circle: these two report to the driver and are driven by it."""
        self._writer = writer
        self._applier = applier

    async def run(self, inbox: Inbox[Never]) -> None:
        """**Raises** FailStop once an event could not be carried through."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_closed, inbox)
            inbox.ready()
            await self._over.wait()
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            story = f"consensus cannot go on: {self._failure!r}"
            raise stop_for(self._failure, story) from self._failure

    async def _stop_when_closed(self, inbox: Inbox[Never]) -> None:
        await inbox.wait_closed()
        self._over.set()

    @property
    def current(self) -> bool:
        """Whether the machine shows at least what was committed when this member joined in.

        The leader's word alone is not enough: it may itself have just been elected, and knows what
        is committed only once an entry of its own term is.
        """
        if self.view.role == "leader":
            return self.view.ready
        if self._first_heard is None:
            return False
        term, commit = self._first_heard
        return self._applier.applied_term >= term and self._applier.applied_index >= commit

    # ---- events

    def post(self, event: raft.Event, body: bytes = b"") -> None:
        """Take one event. `body` is the bytes of the entries in it, if it has any. Never raises."""
        self._events.append((event, body))
        if not self._busy:
            self._burst()

    def propose(self, payload: bytes, settle: Callable[[Any], None]) -> None:
        if self._failure is not None:
            self._settlements.refuse(settle, errors.NotLeader(None))
            return
        ticket = self._settlements.admit(len(payload), settle)
        if ticket is not None:
            self._post_for_caller(raft.Propose(ticket=ticket, payload=payload))

    def read_barrier(self, settle: Callable[[Any], None]) -> None:
        if self._failure is not None:
            self._settlements.refuse(settle, errors.NotLeader(None))
            return
        self.look_at_clock()
        ticket = self._settlements.admit_barrier(settle)
        self._post_for_caller(raft.ReadBarrier(ticket=ticket))

    def transfer(self, to: str, settle: Callable[[Any], None]) -> None:
        if self._failure is not None:
            self._settlements.refuse(settle, errors.NotLeader(None))
            return
        ticket = self._settlements.admit_barrier(settle)
        self._post_for_caller(raft.TransferLeadership(ticket=ticket, to=raft.NodeId(to)))

    def change(self, change: raft.Change, settle: Callable[[Any], None]) -> None:
        if self._failure is not None:
            self._settlements.refuse(settle, errors.NotLeader(None))
            return
        ticket = self._settlements.admit_barrier(settle)
        self._post_for_caller(raft.ChangeMembers(ticket=ticket, change=change))

    def drop_before(self, index: int) -> None:
        """Let go of the entries before this one, file by file; they are applied and written down
        elsewhere."""
        at, configuration = self._core.log.committed_configuration(self._core.commit)
        self._writer.drop(Drop(index, (at, encode(configuration)), self._dropped))

    def _dropped(self, first_index: int) -> None:
        self.post(raft.Dropped(first_index=first_index))

    @property
    def alone(self) -> bool:
        """Whether no other member was heard for an election timeout."""
        return self._core.timer.is_alone(self._core.now)

    def set_electable(self, electable: bool) -> None:
        """What this member's user has to say about its leading."""
        self._wanted = electable
        self._judge_electability()

    def _judge_electability(self) -> None:
        electable = self._wanted and self._members.has_vote
        if electable != self._electable:
            self._electable = electable
            self.post(raft.ElectableChanged(electable=electable))

    def _post_for_caller(self, event: raft.Event) -> None:
        self._events.append((event, b""))
        if not self._busy:
            self._settlements.deferring = True
            try:
                self._burst()
            finally:
                self._settlements.deferring = False

    def receive(self, peer: str, frames: Sequence[tuple[bytes, bytes]]) -> None:
        """Take the frames of one member. **Raises** FrameError; what came before it was taken."""
        sender = raft.NodeId(peer)
        try:
            for header, body in frames:
                message = decode_message(header, body)
                if type(message) in _VOTE_REQUESTS and not self._members.has_vote:
                    continue
                if (
                    self._first_heard is None
                    and type(message) is raft.Append
                    and message.term >= self._core.term
                ):
                    self._first_heard = (message.term, message.commit)
                self._events.append((raft.Received(sender=sender, message=message), body))
        finally:
            if not self._busy:
                self._burst()
            if not self.joined.is_set() and self.current:
                self.joined.set()

    def found(self, hello: Hello) -> None:
        """A peer has dialled us, so it is worth dialling."""
        self._members.greet(hello)
        if hello.address:
            self._links.welcome(hello.sender, hello.address)
        link = self._links.get(hello.sender)
        if link is not None:
            link.dial_now()
        self._judge_electability()
        self._on_members()

    def found_stranger(self, hello: Hello) -> None:
        """A member comes from another folder than is known. If it leads, it is not heard: let the
        others, whose hellos tell of the group, say theirs again; once for each such folder."""
        stranger = (hello.sender, hello.birth)
        if self._core.leader is None and stranger != self._stranger:
            self._stranger = stranger
            for each in self._members.others():
                self._hang_up(each)

    def lost(self, peer: str) -> None:
        """A connection from or to a peer broke."""
        self._links.part(peer)
        self.post(raft.PeerUnreachable(peer=raft.NodeId(peer)))

    def tick(self) -> None:
        self.post(_TICK)

    def clock_stalled(self) -> None:
        """Ticks have not come that should have."""
        self.post(raft.ClockStalled())

    def persisted(self, write: int) -> None:
        self.post(raft.Persisted(write=write))

    def end_slice(self) -> None:
        """The applier's task answered callers outside of any burst."""
        if not self._busy:
            self._burst()

    def guard(self, answer: Callable[[], None]) -> None:
        """Run what answers callers outside of any burst."""
        try:
            answer()
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Stop taking events; the driver's task tells the supervisor."""
        if self._failure is None:
            self._failure = error
            self._events.clear()
            self._over.set()

    def _burst(self) -> None:
        events = self._events
        if self._failure is not None:
            events.clear()
            return
        performers = self._performers
        self._busy = True
        try:
            while True:
                while events:
                    self._event, self._body = events.popleft()
                    for effect in self._core.step(self._event):
                        performers[type(effect)](effect)
                if self._core.configuration is not self._configuration:
                    self._use_configuration()
                self._let_go()
                self._settlements.end_turn()
                if not events:
                    break
        except Exception as error:
            self.fail(error)
        finally:
            self._busy = False

    def _let_go(self) -> None:
        """Send and write what the burst came to: one system call per peer, one hand-over.

        Messages first: the others write meanwhile, and a writer thread, once awake, wants the
        interpreter that we still need.
        """
        for link in self._talkative:
            link.flush()
        self._talkative.clear()
        if self._writes:
            self._writer.submit(self._writes)
            self._writes = []

    def _use_configuration(self) -> None:
        """The log has another configuration at its end now than before."""
        self._configuration = self._core.configuration
        index = self._core.log.configuration_index
        for announced in self._members.use(self._configuration, index):
            self._hang_up(announced)
        self._links.follow(self._members.others())
        self._judge_electability()
        self._on_members()

    async def give_way(self) -> None:
        """Lead no more: let another member take over, if one does so soon."""
        deposed = self._deposed = trio.Event()
        self.post(raft.ElectableChanged(electable=False))
        if self.view.role == "leader":
            with trio.move_on_after(GIVE_WAY_S):
                await deposed.wait()

    # ---- effects

    def _persist(self, effect: raft.Persist) -> None:
        cut = None
        batch = None
        if effect.first is not None:
            if effect.first <= self._log.last_index:
                cut = self._log.cut(effect.first)
                self._tail.cut(effect.first)
            batch = self._seal(effect.entries)
            self._remember(effect.entries, batch)
        hard = None
        if (effect.term, effect.vote) != self._saved:
            self._saved = (effect.term, effect.vote)
            hard = (effect.term, effect.vote, self._applier.target)
        self._writes.append(Write(effect.write, hard, cut, batch))

    def _seal(self, entries: tuple[raft.Entry, ...]) -> Batch:
        """Ours are given their bytes here; a leader's keep theirs, all or the last of what came."""
        event = self._event
        if type(event) is not raft.Received or type(event.message) is not raft.Append:
            return self._log.seal(entries)
        size = len(self._body)
        if entries is not event.message.entries:
            size = sum(ENTRY_HEADER_BYTES + len(entry.payload) for entry in entries)
            assert entries[-1] is event.message.entries[-1]
        return self._log.seal_raw(
            self._body if size == len(self._body) else memoryview(self._body)[-size:]
        )

    def _remember(self, entries: tuple[raft.Entry, ...], batch: Batch) -> None:
        data = batch.data
        start_position = batch.start_position
        end = 0
        for entry in entries:
            start = end
            end = start + ENTRY_HEADER_BYTES + len(entry.payload)
            self._tail.append(
                TailEntry(
                    entry.index, entry.term, entry.kind, start_position + start, data, start, end
                )
            )
        assert end == len(data)

    def _send(self, effect: raft.Send) -> None:
        message = effect.message
        if type(message) is not raft.Append:
            self._tell(effect.to, (encode_head(message),))
            return
        if message is not self._sent:  # one append for several followers is encoded once
            body = self._body_of(message)
            self._sent = message
            self._sent_parts = (encode_head(message, sum(map(len, body))), *body)
        self._tell(effect.to, self._sent_parts)

    def _tell(self, to: str, parts: Sequence[bytes | memoryview]) -> None:
        link = self._links.get(to)
        if link is not None:  # else a stranger's, whose connection broke meanwhile
            link.send(parts)
            self._talkative[link] = None

    def _body_of(self, message: raft.Append) -> Sequence[bytes | memoryview]:
        """The entries' bytes: from this event's body if they were read for it, else from memory."""
        entries = message.entries
        if not entries:
            return ()
        if type(self._event) is raft.EntriesRead and entries is self._event.entries:
            return (self._body,)
        parts = self._tail.raw(entries[0].index, len(entries))
        return self._read_now(entries[0].index, entries[-1].index) if parts is None else parts

    def _read_now(self, first: int, last: int) -> Sequence[bytes | memoryview]:
        """Entries that have left the tail, but not yet the core's, which learns later than the
        tail what is on the disk. Rare, and a moment after the write they are in the page cache."""
        parts: list[bytes | memoryview] = []
        index = first
        while index <= last:
            if self._tail.get(index) is not None:
                parts += self._tail.raw(index, last - index + 1) or ()
                break
            stored = self._log.read(index, READ_NOW_BYTES)
            assert stored, f"entry {index} is neither in memory nor on the disk"
            stored = stored[: last - index + 1]
            parts += [entry.raw for entry in stored]
            index += len(stored)
        return parts

    def _commit(self, effect: raft.Commit) -> None:
        self._applier.advance(effect.up_to)

    def _proposed(self, effect: raft.Proposed) -> None:
        self._settlements.proposed(effect.ticket, effect.index, effect.term)

    def _settle(self, effect: raft.Settle) -> None:
        match effect.outcome:
            case raft.ReadReady(index=index):
                self._settlements.confirmed(effect.ticket, index, self._applier.applied_index)
            case raft.NotLeader(leader=leader):
                self._settlements.lost(effect.ticket, errors.NotLeader(leader))
            case raft.Busy():
                self._settlements.lost(effect.ticket, errors.Busy("too much is uncommitted"))
            case raft.Transferring(to=to):
                self._settlements.lost(effect.ticket, errors.NotLeader(to))
            case raft.Transferred():
                self._settlements.confirmed(effect.ticket, 0, self._applier.applied_index)
            case raft.TransferFailed(reason=reason):
                self._settlements.lost(effect.ticket, errors.TransferFailed(reason))
            case raft.MembersChanged(index=index):
                self._settlements.confirmed(effect.ticket, index, self._applier.applied_index)
            case raft.ChangeRefused(reason=reason, passing=passing):
                refusal = errors.ChangeRefused(reason, passing=passing)
                self._settlements.lost(effect.ticket, refusal)
            case raft.Lost(index=index, term=term):
                story = f"leadership was lost after entry {index} of term {term} was appended"
                self._settlements.lost(effect.ticket, errors.Indefinite(story))

    def _role_changed(self, effect: raft.RoleChanged) -> None:
        role = _ROLE_NAMES[effect.role]
        same = role == "leader" == self.view.role and effect.term == self.view.term
        self._show(
            RoleView(
                role=role,
                term=effect.term,
                leader=effect.leader,
                ready=same and self.view.ready,
            )
        )

    def _read(self, effect: raft.ReadEntries) -> None:
        if not self._read_entries(effect):
            # Unreadable for now: the core asks again with a later heartbeat.
            self.post(raft.EntriesRead(peer=effect.peer, first=effect.first, entries=()))

    def _fell_behind(self, effect: raft.FellBehind) -> None:
        log.warning(
            "raft.fell_behind",
            node=self._node,
            leader=effect.leader,
            last_index=self._log.last_index,
            leader_first_index=effect.first_index,
        )
        self.fail(
            FellBehind(
                f"{self._node} has entries up to {self._log.last_index}, but its leader only those"
                f" from {effect.first_index} on: a copy of another member's log is needed"
            )
        )

    # ---- what the applier reports

    def applied(self, index: int, term: int, kind: int, applied: Applied | None) -> None:
        """One entry was applied: its proposer is answered, and a new leader's first makes it
        ready."""
        if not self.joined.is_set() and self.current:
            self.joined.set()
        if applied is not None:
            if applied.effects:
                self._settlements.touch()
            self._settlements.applied(index, term, applied.reply)
            return
        self._settlements.touch()  # no caller may be answered, but the index is another one
        self._settlements.applied(index, term, None)
        view = self.view
        if kind == KIND_NOOP and view.role == "leader" and view.term == term:
            self._show(RoleView(role="leader", term=term, leader=self._node, ready=True))

    def _show(self, view: RoleView) -> None:
        before = self.view
        if view == before:
            return
        self.view = view
        if before.role == "leader" != view.role:
            self._deposed.set()
        if view.ready:
            self.joined.set()
        log.info(
            "raft.role_changed",
            node=self._node,
            role=view.role,
            term=view.term,
            leader=view.leader,
            ready=view.ready,
        )
        self._on_role(view)
        self._on_members()


class Vital:
    """Actor: another actor, without which a ledger is worse than none. Its crash is a FailStop."""

    def __init__(self, name: str, actor: Actor[Any]) -> None:
        self._name = name
        self._actor = actor

    async def run(self, inbox: Inbox[Any]) -> None:
        """**Raises** FailStop for whatever the actor raises."""
        try:
            await self._actor.run(inbox)
        except Exception as error:
            story = f"the {self._name} cannot go on: {_alone(error)!r}"
            raise stop_for(error, story) from error


def _alone(error: BaseException) -> BaseException:
    """What a nursery's group has, if it is one error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def vital(name: str, actor: Actor[Any]) -> Child[Any]:
    """The place of such an actor under a supervisor; it is never restarted."""
    return Child(name, lambda: Vital(name, actor), restart=Restart.NEVER)
