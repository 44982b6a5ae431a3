"""What must hold of whole members, looked at from outside of them.

    W1 one leader per term                    W2 one vote per member and term, across restarts
    W3 no member's term falls                 W4 committed bytes agree, and stay
    W5 leaders have what was committed        W6 equal index: equal state
    W7 acknowledged to a leader: on the disk  W8 consume queues agree
    W9 liveness, in world.py                  W10 applied: on the disks of a majority

Votes and terms are read off the wire, as the other members do; the log by its bytes, from the
simulated files. What clients must see is judged by `chaos.checkers`, liveness by the world.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from attrs import define, field

from broker.machine.snapshot import Place, capture
from chaos.sim.nodes.members import PEER_PORT, Member
from chaos.sim.nodes.story import Violation
from dledger_py.ledger.ledger import Ledger
from dledger_py.ledger.machine import RoleView
from dledger_py.ledger.peer_frames import (
    LANE_RAFT,
    FrameReader,
    Hello,
    decode_hello,
    decode_message,
)
from dledger_py.raft.vocabulary import (
    Append,
    AppendAccepted,
    Message,
    RequestVote,
    RequestVoteNow,
    VoteGranted,
)

if TYPE_CHECKING:
    from chaos.sim.nodes.network import SimSocket


@define(eq=False)
class _Wire:
    """One dialled peer connection, read along."""

    reader: FrameReader = field(factory=FrameReader)
    hello: Hello | None = None
    term: int = 0


@define(eq=False)
class Checks:
    """The memory of one run."""

    members: dict[str, Member]
    committed: bytearray = field(factory=bytearray)
    """The log from its beginning, as far as any member has applied it."""
    elections: int = 0
    highest_term: int = 0
    states_compared: int = 0
    frames: int = 0
    _leaders: dict[int, str] = field(factory=dict)
    _votes: dict[tuple[str, int], str] = field(factory=dict)
    _terms: dict[str, tuple[int, int]] = field(factory=dict)
    """Per member: its newest incarnation, and the highest term heard of any before that."""
    _heard: dict[str, int] = field(factory=dict)
    _wires: dict[int, _Wire] = field(factory=dict)
    _checked: dict[Member, int] = field(factory=dict)
    _emptied: dict[str, None] = field(factory=dict)
    _durable: dict[str, tuple[int, int]] = field(factory=dict)
    """Per member: index and term of the entry that it acknowledged last, in this life."""
    _states: dict[int, tuple[str, int]] = field(factory=dict)
    _rot: list[tuple[str, int, int, int]] = field(factory=list)
    """A member, a position of its log, the byte that was there, and what has become of it."""

    # ---- the wire

    def overhear(self, sock: SimSocket, content: bytes) -> None:
        """A member sends this to another. **Raises** Violation."""
        if sock.peer_address[1] != PEER_PORT:
            return
        wire = self._wires.setdefault(sock.number, _Wire())
        if wire.hello is not None and wire.hello.lane != LANE_RAFT:
            return
        for header, body in wire.reader.feed(memoryview(content)):
            if wire.hello is None:
                wire.hello = decode_hello(header, body)
            else:
                self.frames += 1
                self._check_message(wire, wire.hello, decode_message(header, body))

    def _check_message(self, wire: _Wire, hello: Hello, message: Message) -> None:
        name, term = hello.sender, message.term
        incarnation, before = self._terms.get(name, (hello.incarnation, 0))
        if incarnation != hello.incarnation:
            before = self._heard[name]
            self._terms[name] = hello.incarnation, before
        else:
            self._terms.setdefault(name, (incarnation, before))
        if term < max(before, wire.term):
            raise Violation(f"W3: {name} spoke of term {max(before, wire.term)}, now of {term}")
        wire.term = term
        self._heard[name] = max(self._heard.get(name, 0), term)
        if isinstance(message, VoteGranted):
            self._check_vote(name, term, hello.receiver)
        elif isinstance(message, RequestVote | RequestVoteNow):
            self._check_vote(name, term, name)
        elif isinstance(message, Append):
            self._check_leader(name, term)
        elif isinstance(message, AppendAccepted) and message.match:
            self._check_durable(self.members[name], message.match)

    def _check_vote(self, name: str, term: int, candidate: str) -> None:
        known = self._votes.setdefault((name, term), candidate)
        if known != candidate:
            raise Violation(f"W2: {name} voted for {known} and {candidate} in term {term}")

    def _check_leader(self, name: str, term: int) -> None:
        known = self._leaders.setdefault(term, name)
        if known != name:
            raise Violation(f"W1: {known} and {name} lead in term {term}")

    def _check_durable(self, member: Member, match: int) -> None:
        """By the disk itself: it has the bytes of this entry, come what may."""
        assert member.broker is not None
        log = member.broker.ledger.log
        entry = match, log.term_at(match)
        if self._durable.get(member.name) == entry:
            return  # most are heartbeats' answers, which say it once more
        self._durable[member.name] = entry
        raw = bytes(log.read(match, 1)[0].raw)
        if not member.machine.disk.survives(str(member.config.data_dir), raw):
            raise Violation(f"W7: {member.name} acknowledged entry {match} before it was durable")

    # ---- roles and logs

    def rotted(self, name: str, position: int, good: int, bad: int) -> None:
        """A byte of this member's log is another one. Until the member has noticed, it goes on."""
        self._rot.append((name, position, good, bad))

    def _written(self, member: Member, first: int, size: int) -> bytearray:
        """Its log as it wrote it, whatever rotted there since."""
        assert member.broker is not None
        found = member.broker.ledger.log.read_bytes(first, size)
        for name, position, good, bad in reversed(self._rot):
            at = position - first
            if name == member.name and 0 <= at < size and found[at] == bad:
                found[at] = good
        return found

    def role_changed(self, member: Member, view: RoleView) -> None:
        if view.role != "leader":
            return
        self._check_leader(member.name, view.term)
        if not view.ready:
            self.elections += 1
            if view.term > self.highest_term:
                self.highest_term = view.term
                self._check_complete(member, view)

    def _check_complete(self, member: Member, view: RoleView) -> None:
        assert member.broker is not None
        log = member.broker.ledger.log
        end = len(self.committed)
        if log.end_position < end:
            raise Violation(
                f"W5: {member.name} leads in term {view.term} with a log of {log.end_position}"
                f" bytes, but {end} are committed"
            )
        first = max(self._checked.get(member, 0), log.first_position)
        if self._written(member, first, end - first) != self.committed[first:]:
            raise Violation(
                f"W5: {member.name} leads in term {view.term} without what is committed"
            )

    def started(self, member: Member) -> None:
        """A new life: everything is looked at again."""
        self._checked[member] = 0
        self._durable.pop(member.name, None)

    def emptied(self, name: str) -> None:
        """A member has forgotten everything, its terms among it; its votes are remembered here."""
        self._terms.pop(name, None)
        self._heard.pop(name, None)
        self._emptied[name] = None

    def turn(self, member: Member) -> None:
        """A member has applied something. **Raises** Violation."""
        broker = member.broker
        assert broker is not None
        checked = max(self._checked[member], broker.ledger.first_position)
        position = broker.ledger.committed_position
        if position <= checked:
            return
        found = self._written(member, checked, position - checked)
        committed = self.committed
        known = committed[checked : checked + len(found)]
        if known != found[: len(known)]:
            raise Violation(f"W4: {member.name} committed other bytes than others behind {checked}")
        if len(known) < len(found):
            self._check_majority(broker.ledger)
        committed += found[len(known) :]
        self._checked[member] = position

    def _check_majority(self, ledger: Ledger) -> None:
        """Nobody has applied as much yet as this one: is it committed?"""
        index = ledger.applied_index
        raw = bytes(ledger.log.read(index, 1)[0].raw)
        if ledger.members.changing:
            return
        having = [
            name
            for name in ledger.members.voters
            if name in self._emptied  # it may have had it
            or self.members[name].machine.disk.survives(
                str(self.members[name].config.data_dir), raw
            )
        ]
        if 2 * len(having) <= len(ledger.members.voters):
            raise Violation(
                f"W10: {ledger.config.node} applied entry {index}, which is on the disks of"
                f" {having or 'nobody'} only"
            )

    # ---- states

    def compare_queues(self, members: list[Member]) -> None:
        """Everybody's consume queues say the same, and what the machine says."""
        queues: dict[tuple[str, int], tuple[str, bytes]] = {}
        for member in members:
            broker = member.broker
            assert broker is not None
            for topic in broker.machine.topics.names():
                for queue_id in broker.machine.queues.written(topic):
                    first = broker.machine.queues.min_offset(topic, queue_id)
                    end = broker.machine.queues.next_offset(topic, queue_id)
                    units = broker.queues.range(topic, queue_id, first, end - first)
                    name, known = queues.setdefault((topic, queue_id), (member.name, units))
                    if known != units or len(units) != (end - first) * 20:
                        raise Violation(
                            f"W8: queue {queue_id} of {topic} is another on {member.name}"
                            f" than on {name}: {len(units)} and {len(known)} bytes"
                            f" for offsets {first} to {end}"
                        )

    def compare_state(self, member: Member) -> None:
        """The state at this member's applied index is the same as anybody's who was there."""
        broker = member.broker
        if not member.alive or broker is None or broker.ledger.statistics() is None:
            return
        applier = broker.ledger.parts.applier
        index = applier.applied_index
        if not index:
            return
        at = Place(index=index, term=applier.applied_term, position=applier.applied_position)
        state = 0
        for chunk in capture(broker.machine, at).chunks():
            state = crc32(chunk, state)
        name, known = self._states.setdefault(index, (member.name, state))
        if known != state:
            raise Violation(f"W6: at entry {index} {member.name} has another state than {name}")
        if name != member.name:
            self.states_compared += 1
