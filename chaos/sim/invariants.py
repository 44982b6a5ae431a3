"""What must hold after every event, whatever goes wrong. Each check names the invariant it stands
for.

The checker keeps its own books from the effects it sees (every member's log as asked of its disk,
every committed entry, every vote and promise) and judges durability by the simulated disks. It
trusts the core only for what it says of itself: role, term, commit index, matches.

    I1 one leader per term              I2 one vote per member and term
    I3 promised terms never fall        I4 commit never falls
    I5 commit within the log            I6 nothing committed is cut
    I7 committed entries agree          I8 leaders have what was committed
    I9 equal index and term: same log   I10 leaders do not cut
    I11 promises are durable            I12 commits are of the own term
    I13 matches are true and durable    I14 applied in order, once
    I15 one change of membership at a time, by majorities of the latest configuration in the log
    I16 nothing needed is dropped       I17 bounded messages
    I18 reads are fresh
    I19-I22 liveness, in world.py       I23 transfers do not stick, also there
"""

from typing import TYPE_CHECKING
from zlib import crc32

from chaos.sim.disk import Copy
from dledger_py.raft.membership import Configuration, decode
from dledger_py.raft.roles import Leader
from dledger_py.raft.vocabulary import (
    AddLearner,
    Append,
    AppendAccepted,
    Change,
    Entry,
    Index,
    Kind,
    NodeId,
    Persist,
    Promote,
    Remove,
    Replace,
    RequestVote,
    RequestVoteNow,
    Send,
    Term,
    TooFarBehind,
    VoteGranted,
)

if TYPE_CHECKING:
    from chaos.sim.world import Node

STEP_SENDS_MAX = 200
"""Sends one event may cause: a window (64) for each of two followers, and a little."""

IN_THE_AIR_MAX = 6_000
"""Messages and other events pending in the world: far above what windows and rates allow, far
below a storm.
"""


SENDS_PER_SECOND_MAX = 7_500
"""Messages per follower that all members together may send in one simulated second. Honest runs
come near only when every follower fetches two thousand entries one by one, out of order, at three
to four messages each: in proportion to what it lacks, where a storm grows with what is said."""


TOLD_PER_SECOND_MAX = 200
"""Times one leader may tell one follower in one simulated second that it is too far behind: with
every heartbeat (40, if clocks run fast) and for the sake of readers, not for every answer.
"""


class Violation(Exception):
    """An invariant is broken."""


class Checker:
    """The world's memory of what has happened, and the judge of what happens next."""

    def __init__(self, members: tuple[NodeId, ...]) -> None:
        self.committed: list[Entry] = []
        self.committed_in: list[Term] = []
        self.states: list[int] = [0]
        self._second = 0
        self._sent = 0
        self._sends_max = SENDS_PER_SECOND_MAX * max(1, len(members) - 1)
        self._told: dict[tuple[NodeId, NodeId], int] = {}
        self._leaders: dict[Term, tuple[NodeId, int]] = {}
        self._votes: dict[tuple[NodeId, Term], NodeId] = {}
        self._promised: dict[NodeId, Term] = dict.fromkeys(members, 0)
        self._entries: dict[tuple[Index, Term], tuple[Term, bytes | memoryview]] = {}

    def check_start(self, node: "Node") -> None:
        """A member has restarted from its disk."""
        promised = self._promised[node.name]
        self._require(node.core.term >= promised, "I3", node, f"promised term {promised}")
        vote = self._votes.get((node.name, node.core.term), node.core.vote)
        self._require(node.core.vote == vote, "I2", node, f"has voted for {vote} and forgot")
        for entry, known in zip(node.log[: node.commit], self.committed, strict=False):
            self._require(entry.term == known.term, "I7", node, "starts with {}", entry)
        self._require(node.commit <= len(self.committed), "I5", node, "starts ahead of all")
        state = node.disk.state
        covered = state.index >= node.disk.first_index - 1
        self._require(covered, "I16", node, f"{state} does not reach the log")
        self._require(state.state == self.states[state.index], "I14", node, f"starts with {state}")

    def check_drop(self, node: "Node", first_index: Index) -> None:
        """A member drops what lies before `first_index`."""
        committed = first_index - 1 <= min(node.commit, node.disk.last_index)
        self._require(committed, "I16", node, f"drops what is before {first_index}")
        self._require(first_index - 1 <= node.applied, "I16", node, "drops what is not applied")

    def check_install(self, node: "Node", copy: Copy) -> None:
        """A member's log gives way to a copy of another's."""
        up_to = copy.state.index
        terms = [*copy.past, *(entry.term for entry in copy.entries)]
        known = [entry.term for entry in self.committed[:up_to]]
        self._require(terms[:up_to] == known, "I16", node, f"gets a copy up to {up_to}")
        for entry in self.committed[copy.last_index :]:
            held = node.disk.has(entry.index, entry.term)
            self._require(not held, "I16", node, "loses {}, which is committed", entry)

    def check_persist(self, node: "Node", persist: Persist) -> None:
        """A member asks for a write; called before the book of its log is changed."""
        if persist.first is None:
            self._require(not persist.entries, "form", node, "entries without a place")
            return
        log = node.log
        first = persist.first
        self._require(1 <= first <= len(log) + 1, "form", node, f"write at {first}")
        if first <= len(log):
            self._require(first > node.commit, "I6", node, f"cuts at {first}")
            self._require(type(node.core.role) is not Leader, "I10", node, f"cuts at {first}")
        prev_term = log[first - 2].term if first > 1 else 0
        for place, entry in enumerate(persist.entries):
            self._require(entry.index == first + place, "form", node, f"gap at {entry.index}")
            known = self._entries.setdefault((entry.index, entry.term), (prev_term, entry.payload))
            same = known == (prev_term, entry.payload)
            self._require(same, "I9", node, "{} differs from what others have there", entry)
            prev_term = entry.term
            if entry.kind == Kind.CONFIG and type(node.core.role) is Leader:
                self._check_configuration(node, entry)

    def check_send(self, node: "Node", send: Send) -> None:
        """A member speaks."""
        message = send.message
        disk = node.disk
        term = message.term
        self._require(disk.term >= term, "I11", node, "{}: term {} is durable", message, disk.term)
        self._require(term >= self._promised[node.name], "I3", node, "{}", message)
        self._promised[node.name] = term
        if type(message) is AppendAccepted:
            match = message.match
            durable = match <= len(node.log) and (
                match == 0 or disk.has(match, node.log[match - 1].term)
            )
            self._require(durable, "I11", node, "{}: {} is durable", message, disk.last_index)
        elif type(message) in (VoteGranted, RequestVote, RequestVoteNow):
            vote = send.to if type(message) is VoteGranted else node.name
            known = self._votes.setdefault((node.name, term), vote)
            self._require(known == vote, "I2", node, "votes for {} and {} in {}", known, vote, term)
            durable = disk.term > term or disk.vote == vote
            self._require(durable, "I11", node, "{}: vote for {} is durable", message, disk.vote)
        elif type(message) in (Append, TooFarBehind):
            # Within one step a leader may send, and learn that it is no member any more.
            led = self._leaders.get(term) == (node.name, node.incarnation)
            leaving = led and node.name not in node.configurations[-1][1].voters
            leads = type(node.core.role) is Leader
            self._require(leads or leaving, "I1", node, "{}", message)
            if type(message) is TooFarBehind:
                told = self._told.get((node.name, send.to), 0) + 1
                self._told[node.name, send.to] = told
                self._require(told <= TOLD_PER_SECOND_MAX, "I17", node, "says {} again", message)

    def check_sends(self, now_us: int, sends: int) -> None:
        """So many messages were just sent."""
        second = now_us // 1_000_000
        if second != self._second:
            self._second = second
            self._sent = 0
            self._told.clear()
        self._sent += sends
        if self._sent > self._sends_max:
            raise Violation(f"I17: {self._sent} messages in one second")

    def check_step(self, node: "Node", sends: int) -> None:
        """A member has taken a step and its effects are in the books."""
        core = node.core
        log = node.log
        if core.log.last_index != len(log) or sends > STEP_SENDS_MAX:
            self._require(sends <= STEP_SENDS_MAX, "I17", node, f"{sends} messages in one step")
            self._require(False, "form", node, f"says {core.log.last_index}, asked for {len(log)}")
        if core.commit != node.commit:
            self._check_commit(node)
        if core.log.configuration_index != node.configurations[-1][0]:
            self._require(False, "I15", node, f"in the log are {node.configurations}")
        role = core.role
        if type(role) is Leader:
            if role is not node.led:
                self._check_leader(node)
                node.led = role
            self._check_matches(node, role)

    def check_apply(self, node: "Node", index: Index) -> None:
        """A member applies the entry at `index`, the next one; its state is a hash over all it
        has applied.
        """
        entry = node.log[index - 1]
        self._require(node.disk.has(index, entry.term), "I14", node, "{} is not durable", entry)
        self._require(index <= node.commit, "I14", node, "{} is not committed", entry)
        self._require(node.state == self.states[index], "I14", node, "states differ at {}", index)

    def check_transferred(self, node: "Node", leader: NodeId) -> None:
        """A member says that leadership has moved."""
        known = self._leaders.get(node.core.term)
        moved = known is not None and known[0] == leader
        self._require(moved, "I23", node, f"calls {leader} the leader, but {known} leads")

    def check_changed(self, node: "Node", change: Change, index: Index) -> None:
        """A member says that a change of the membership is done."""
        self._require(index <= node.core.commit, "I15", node, f"{change} is not committed")
        after = decode(node.log[index - 1].payload)
        match change:
            case AddLearner(node=name):
                done = name in after.learners
            case Promote(node=name):
                done = name in after.voters
            case Remove(node=name):
                done = name not in after.members
            case Replace(old=old, new=new):
                done = new in after.voters and old not in after.members
        self._require(done and not after.is_joint, "I15", node, f"{change} led to {after}")

    def check_air(self, pending: int) -> None:
        """How much is under way in the world."""
        if pending > IN_THE_AIR_MAX:
            raise Violation(f"I17: {pending} events pending")

    def _check_commit(self, node: "Node") -> None:
        core = node.core
        commit = core.commit
        log = node.log
        self._require(commit > node.commit, "I4", node, f"commit was {node.commit}")
        self._require(commit <= len(log), "I5", node, f"the log ends at {len(log)}")
        for index in range(node.commit + 1, commit + 1):
            entry = log[index - 1]
            if index <= len(self.committed):
                known = self.committed[index - 1]
                same = known.term == entry.term and known.payload == entry.payload
                self._require(same, "I7", node, "{}, others committed {}", entry, known)
            else:
                self.committed.append(entry)
                self.committed_in.append(core.term)
                self.states.append(apply(self.states[-1], entry))
        node.commit = commit
        if type(core.role) is Leader:
            term = log[commit - 1].term
            self._require(term == core.term, "I12", node, f"{commit} is of term {term}")
            nodes = node.world.nodes.values()
            holders = [each.name for each in nodes if each.disk.has(commit, term)]
            decide = can_decide(node.configurations[-1][1], holders)
            self._require(decide, "I11", node, f"{commit} is durable on {holders}")

    def _check_leader(self, node: "Node") -> None:
        core = node.core
        identity = (node.name, node.incarnation)
        known = self._leaders.setdefault(core.term, identity)
        self._require(known == identity, "I1", node, f"{known} has led term {core.term}")
        votes = [
            name
            for name in node.world.names
            if name == node.name or self._votes.get((name, core.term)) == node.name
        ]
        decide = can_decide(node.configurations[-1][1], votes)
        self._require(decide, "I15", node, f"leads by the votes of {votes}")
        log = node.log
        for index, entry in enumerate(self.committed, 1):
            if self.committed_in[index - 1] < core.term:
                has = index <= len(log) and log[index - 1].term == entry.term
                self._require(has, "I8", node, "lacks {}, committed before", entry)

    def _check_configuration(self, node: "Node", entry: Entry) -> None:
        """A leader appends a configuration; the book of its log does not have it yet."""
        core = node.core
        index, before = node.configurations[-1]
        after = decode(entry.payload)
        self._require(index <= core.commit, "I15", node, f"{before} at {index} is uncommitted")
        own = core.commit > 0 and node.log[core.commit - 1].term == core.term
        self._require(own, "I15", node, f"{after} before an entry of its term is committed")
        if before.is_joint:
            lawful = (after.voters, after.voters_old) == (before.voters, ())
        elif after.is_joint:
            newcomers = [name for name in after.voters if name not in before.voters]
            taught = all(name in before.learners for name in newcomers)
            lawful = after.voters_old == before.voters and taught
        else:
            lawful = after.voters == before.voters
        self._require(lawful, "I15", node, f"{before} must not become {after}")

    def _check_matches(self, node: "Node", role: Leader) -> None:
        matches = node.matches
        for name, match in role.match.items():
            if match != matches.get(name):
                matches[name] = match
                disk = node.world.nodes[name].disk
                if disk.term == node.core.term and match > 0:
                    true = match <= len(node.log) and disk.has(match, node.log[match - 1].term)
                    self._require(true, "I13", node, f"counts {name} up to {match}")

    def _require(
        self, holds: bool, invariant: str, node: "Node", what: str, *about: object
    ) -> None:
        """`about` is put into `what` only when it is needed: most of what is checked holds."""
        if not holds:
            what = what.format(*about) if about else what
            core = node.core
            raise Violation(
                f"{invariant}: {node.name} ({core.role.name}, term {core.term},"
                f" commit {core.commit}, log {core.log.last_index}): {what}"
            )


def can_decide(configuration: Configuration, names: list[NodeId]) -> bool:
    """Whether `names` are a majority, of both sets if the configuration is joint; counted here
    once more, so that the core's own counting is judged too.
    """
    groups = [configuration.voters, configuration.voters_old]
    return all(2 * sum(one in names for one in group) > len(group) for group in groups if group)


def apply(state: int, entry: Entry) -> int:
    """The state machine: a running checksum of everything applied."""
    return crc32(entry.payload, state ^ entry.term)
