"""The world: members, their disks, the network between them, clients, and time.

Laws:
- One seed, one run: every source of chance is a `Random` derived from the seed by name, events at
  equal times happen in the order they were scheduled, and nothing iterates over a set. `trace` is
  a checksum of all that happened.
- The world performs effects as a driver would, but late, repeated, reordered, or not at all where
  that is allowed.
- After `faulty_us` everything is healed, and the members have to elect, agree and answer.

Deliberately elsewhere: what goes wrong and when (nemesis.py), what must hold (invariants.py).
"""

from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from random import Random
from typing import Any
from zlib import crc32

from chaos.sim.disk import SimDisk
from chaos.sim.invariants import Checker, Violation, apply
from chaos.sim.profiles import (
    ELECTION_TIMEOUT_US,
    Knobs,
    draw,
    healed,
)
from chaos.sim.retention import Retention
from dledger_py.raft.config import RaftConfig
from dledger_py.raft.membership import Configuration, decode
from dledger_py.raft.raft import Raft
from dledger_py.raft.roles import Leader
from dledger_py.raft.vocabulary import (
    Append,
    Change,
    ChangeMembers,
    ChangeRefused,
    Commit,
    Effect,
    ElectableChanged,
    EntriesRead,
    Entry,
    Event,
    FellBehind,
    HardState,
    Index,
    Kind,
    Lost,
    MembersChanged,
    Message,
    NodeId,
    NotLeader,
    Persist,
    Persisted,
    Propose,
    Proposed,
    ReadBarrier,
    ReadEntries,
    ReadReady,
    Received,
    RoleChanged,
    RoleName,
    Send,
    Settle,
    Term,
    Tick,
    TransferFailed,
    TransferLeadership,
    Transferred,
    Transferring,
)

STORY_EVENTS = 60
"""How many of the last events a failure tells."""

REST_TIMEOUTS = 24
"""Election timeouts (each up to doubled by chance) a healed world has to come to rest in; a
leader must be there after 20.
"""

TRANSFER_TIMEOUTS = 2
"""A transfer is settled within one election timeout, and one more if leadership ended meanwhile."""

CALM_TERMS_MAX = 4
"""Terms a healed world may spend until it rests."""


class Node:
    """One member: a core while it is up, its disk, and the checker's book on it."""

    def __init__(self, world: "World", name: NodeId) -> None:
        self.world = world
        self.name = name
        self.disk = SimDisk(world.founders)
        self.up = False
        self.incarnation = 0
        self.electable = True
        self.tick_us = world.knobs.tick_us
        self.still_until = 0
        """It stands still: what happens to it waits until then."""
        self.core: Raft
        self.restart()

    def restart(self) -> None:
        """Start from what the disk kept."""
        world = self.world
        disk = self.disk
        self.up = True
        self.still_until = 0
        self.incarnation += 1
        # The book of its log is whole: what went before it is what was committed there.
        dropped = world.checker.committed[: disk.first_index - 1]
        self.log: list[Entry] = [*dropped, *disk.log]
        self.configurations = [(0, Configuration(voters=world.founders))]
        self.note_configurations(self.log)
        try:
            self.core = Raft(
                config=world.config(self.name),
                log=disk.log_view(),
                hard=HardState(term=disk.term, vote=disk.vote, commit=disk.committed),
                random=Random(f"{world.seed}/{self.name}/{self.incarnation}").randrange,
                electable=self.electable,
            )
        except ValueError as error:
            raise Violation(f"{self.name} cannot start from its disk: {error}") from error
        self.commit = self.core.commit
        self.applied = disk.state.index
        self.state = disk.state.state
        self.led: Leader | None = None
        self.matches: dict[NodeId, Index] = {}
        self.waiting: dict[Index, tuple[int, Term]] = {}
        self.reads: dict[int, Index] = {}
        self.transfers: dict[int, int] = {}
        """Ticket and tick of every transfer asked for and not settled."""
        self.changes: dict[int, Change] = {}

    @property
    def listens(self) -> bool:
        """Whether it is there for clients."""
        return self.up and self.world.now >= self.still_until

    def note_configurations(self, entries: Iterable[Entry]) -> None:
        """Keep the book of the configurations in this member's log: all of them, unlike the core,
        and without asking it.
        """
        for entry in entries:
            if entry.kind == Kind.CONFIG:
                self.configurations.append((entry.index, decode(entry.payload)))

    def forget_configurations(self, first: Index) -> None:
        """The log was cut at `first`."""
        while self.configurations[-1][0] >= first:
            self.configurations.pop()


class World:
    """A cluster and all that happens to it."""

    def __init__(self, *, seed: int, profile: str, members: int, seconds: float = 20.0) -> None:
        self.seed = seed
        self.knobs: Knobs = draw(profile, Random(f"{seed}/{profile}/knobs"), seconds)
        self.names = tuple(NodeId(f"n{number}") for number in range(members + self.knobs.spares))
        self.founders = self.names[:members]
        self.random = Random(f"{seed}/network")
        self.clients = Random(f"{seed}/clients")
        self.now = 0
        self.events = 0
        self.trace = 0
        self.elections = 0
        self.blocked: dict[tuple[NodeId, NodeId], int] = {}
        self.acked: dict[bytes, Index] = {}
        self.acked_index: Index = 0
        self.failed: dict[bytes, None] = {}
        self.reads_passed = 0
        self.reads_at_once = 0
        self.transfers_done = 0
        self.changes_done = 0
        self.faults: dict[str, int] = {}
        self.story: deque[tuple[int, NodeId, Event, list[Any]]] = deque(maxlen=STORY_EVENTS)
        self.on_elected: Callable[[Node], None] | None = None
        self._sequence = 0
        self._values: dict[int, bytes] = {}
        self._tickets = 0
        # Any: the arguments of whatever is to be called.
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self.checker = Checker(self.names)
        self.retention = Retention(self)
        self.transfer_ticks_max = TRANSFER_TIMEOUTS * self.knobs.election_timeout_ticks + 1
        self.nodes = {name: Node(self, name) for name in self.names}
        for node in self.nodes.values():
            self._start_ticking(node)
        self.at(self.random.randrange(100_000), self._propose_some)
        if self.knobs.read_rate:
            self.at(self.random.randrange(100_000), self._read_some)

    def config(self, name: NodeId) -> RaftConfig:
        """The settings of one member."""
        knobs = self.knobs
        return RaftConfig(
            node=name,
            members=self.founders,
            joining=name not in self.founders,
            election_timeout_ticks=knobs.election_timeout_ticks,
            heartbeat_ticks=knobs.heartbeat_ticks,
            append_entries_max=knobs.append_entries_max,
            append_bytes_max=knobs.append_bytes_max,
            window_messages=knobs.window_messages,
            window_bytes=knobs.window_bytes,
            tail_bytes_max=knobs.tail_bytes_max,
            uncommitted_bytes_max=knobs.uncommitted_bytes_max,
            lease_ticks=knobs.lease_ticks,
        )

    # ----------------------------------------------------------------------------------------- time

    def at(self, delay_us: int, call: Callable[..., None], *args: Any) -> None:
        """Call `call(*args)` after `delay_us`."""
        self._sequence += 1
        heappush(self._queue, (self.now + delay_us, self._sequence, call, args))

    def run_until(self, until_us: int) -> None:
        """Let time pass. **Raises** Violation."""
        queue = self._queue
        while queue and queue[0][0] <= until_us:
            self.now, _, call, args = heappop(queue)
            call(*args)
            if len(queue) > 1_000:
                self.checker.check_air(len(queue))
        self.now = until_us

    def run(self) -> None:
        """The whole run: faults, healing, rest. **Raises** Violation."""
        self.run_until(self.knobs.faulty_us)
        self.knobs = healed(self.knobs)
        self._heal()
        term = max(node.core.term for node in self.nodes.values())
        self.run_until(self.now + 2 * 10 * ELECTION_TIMEOUT_US)
        self._check_led()
        self.run_until(self.now + (REST_TIMEOUTS - 20) * ELECTION_TIMEOUT_US)
        self._check_rest(term)

    def count(self, fault: str) -> None:
        """Something has gone wrong."""
        self.faults[fault] = self.faults.get(fault, 0) + 1

    def post(self, node: Node, event: Event) -> None:
        """Give an event to a member that is up, perform the effects, check everything."""
        core = node.core
        self.events += 1
        try:
            effects = core.step(event)
        except AssertionError as broken:
            self.story.append((self.now, node.name, event, [broken]))
            raise Violation(f"the core of {node.name} stopped: {broken}") from broken
        self.story.append((self.now, node.name, event, effects))
        sends = up_to = 0
        for effect in effects:
            kind = type(effect)
            if kind is Send:
                sends += 1
                self.checker.check_send(node, effect)  # type: ignore[arg-type]
                self._send(node.name, effect)  # type: ignore[arg-type]
            elif kind is Persist:
                self._persist(node, effect)  # type: ignore[arg-type]
            elif kind is Commit:
                up_to = effect.up_to  # type: ignore[union-attr]
            else:
                self._perform(node, effect)
        if sends:
            self.checker.check_sends(self.now, sends)
        self.checker.check_step(node, sends)
        if up_to > node.applied:
            self._apply(node, up_to)
        seen = f"{self.now} {node.name} {kind_of(event)} {core.term} {core.commit} {len(node.log)}"
        self.trace = crc32(seen.encode(), self.trace)

    # -------------------------------------------------------------------------------------- effects

    def _perform(self, node: Node, effect: Effect) -> None:
        match effect:
            case Proposed(ticket=ticket, index=index, term=term):
                node.waiting[index] = (ticket, term)
            case Settle():
                self._settle(node, effect)
            case RoleChanged(role=RoleName.LEADER):
                self.elections += 1
                if self.on_elected is not None:
                    self.on_elected(node)
            case ReadEntries(first=first):
                if not node.disk.first_index <= first <= node.disk.last_index:
                    raise Violation(f"{node.name} wants to read {first}, which is not on its disk")
                delay = self.random.randrange(2 * self.knobs.sync_us)
                self.at(delay, self._read, node, node.incarnation, effect)
            case FellBehind():
                self.at(0, self.retention.fell_behind, node, node.incarnation, effect)
            case _:
                pass

    def _send(self, sender: NodeId, send: Send) -> None:
        if self.blocked and self.blocked.get((sender, send.to)):
            self.count("messages cut off")
            return
        knobs = self.knobs
        chance = self.random.random
        copies = 1
        if knobs.loss and chance() < knobs.loss:
            self.count("messages lost")
            copies = 0
        if knobs.repeat and chance() < knobs.repeat:
            self.count("messages repeated")
            copies += 1
        for _ in range(copies):
            delay = knobs.delay_us * (0.5 + chance())
            if knobs.late and chance() < knobs.late:
                self.count("messages late")
                delay = knobs.late_us * chance()
            self.at(int(delay), self._deliver, self.nodes[send.to], sender, send.message)

    def _deliver(self, node: Node, sender: NodeId, message: Message) -> None:
        if self.now < node.still_until:
            self.at(node.still_until - self.now, self._deliver, node, sender, message)
        elif node.up:
            self.post(node, Received(sender=sender, message=message))

    def _persist(self, node: Node, persist: Persist) -> None:
        self.checker.check_persist(node, persist)
        if persist.first is not None:
            del node.log[persist.first - 1 :]
            node.log.extend(persist.entries)
            node.forget_configurations(persist.first)
            node.note_configurations(persist.entries)
        node.disk.queue.append(persist)
        self._flush(node)

    def _flush(self, node: Node) -> None:
        if node.disk.start_flush():
            knobs = self.knobs
            delay = knobs.sync_us * (0.5 + self.random.random())
            if knobs.sync_stall and self.random.random() < knobs.sync_stall:
                self.count("flushes stalled")
                delay = 2 * ELECTION_TIMEOUT_US * self.random.random()
            self.at(int(delay), self._flushed, node, node.incarnation)

    def _flushed(self, node: Node, incarnation: int) -> None:
        if self.now < node.still_until:
            self.at(node.still_until - self.now, self._flushed, node, incarnation)
        elif node.up and node.incarnation == incarnation:
            write = node.disk.finish_flush()
            self._flush(node)
            self.post(node, Persisted(write=write))

    def _read(self, node: Node, incarnation: int, wanted: ReadEntries) -> None:
        if node.up and node.incarnation == incarnation:
            entries = node.disk.read(wanted.first, wanted.max_bytes)
            if self.now < self.knobs.faulty_us and self.random.random() < 0.1:
                self.count("reads failed")
                entries = ()
            read = EntriesRead(peer=wanted.peer, first=wanted.first, entries=entries)
            self.post(node, read)

    def _apply(self, node: Node, up_to: Index) -> None:
        for index in range(node.applied + 1, up_to + 1):
            entry = node.log[index - 1]
            node.state = apply(node.state, entry)
            node.applied = index
            self.checker.check_apply(node, index)
            if index in node.waiting:
                ticket, term = node.waiting.pop(index)
                if term != entry.term:
                    raise Violation(f"{node.name} forgot to settle ticket {ticket} at {index}")
                self.acked[self._values[ticket]] = index
                self.acked_index = max(self.acked_index, index)
        if self.random.random() < 0.2:
            node.disk.commit = up_to

    def _settle(self, node: Node, settle: Settle) -> None:
        ticket = settle.ticket
        outcome = settle.outcome
        if ticket in node.transfers:
            self._settle_transfer(node, settle)
        elif ticket in node.changes:
            self._settle_change(node, settle)
        elif ticket in node.reads:
            floor = node.reads.pop(ticket)
            if type(outcome) is ReadReady:
                self.reads_passed += 1
                if outcome.index < floor:
                    raise Violation(
                        f"I18: {node.name} lets a read pass at {outcome.index},"
                        f" {floor} was acknowledged before it was asked"
                    )
        elif type(outcome) is Lost:
            if node.waiting.pop(outcome.index) != (ticket, outcome.term):
                raise Violation(f"{node.name} settles {settle}, which it had not proposed")
        else:
            self.failed[self._values[ticket]] = None

    def _settle_transfer(self, node: Node, settle: Settle) -> None:
        asked_at = node.transfers.pop(settle.ticket)
        outcome = settle.outcome
        if node.core.now - asked_at > self.transfer_ticks_max:
            raise Violation(f"I23: {node.name} settled a transfer after {node.core.now - asked_at}")
        if type(outcome) is Transferred and outcome.leader != node.name:
            self.transfers_done += 1
            self.checker.check_transferred(node, outcome.leader)
        elif type(outcome) not in (Transferred, TransferFailed, NotLeader):
            raise Violation(f"{node.name} settles a transfer with {outcome}")

    def _settle_change(self, node: Node, settle: Settle) -> None:
        change = node.changes.pop(settle.ticket)
        outcome = settle.outcome
        if type(outcome) is MembersChanged:
            self.changes_done += 1
            self.checker.check_changed(node, change, outcome.index)
        elif type(outcome) not in (ChangeRefused, NotLeader, Transferring, Lost):
            raise Violation(f"{node.name} settles a change with {outcome}")

    # -------------------------------------------------------------------------------------- clients

    def _propose_some(self) -> None:
        knobs = self.knobs
        burst = 1 + self.clients.randrange(knobs.burst_max)
        node = self._somebody()
        for _ in range(burst if node.listens else 0):
            self._tickets += 1
            value = self._tickets.to_bytes(4, "big")
            value += bytes(self.clients.randrange(knobs.payload_bytes_max))
            self._values[self._tickets] = value
            self.post(node, Propose(ticket=self._tickets, payload=value))
        self._again(self.clients.expovariate(knobs.propose_rate / burst), self._propose_some)

    def _read_some(self) -> None:
        node = self._somebody()
        for _ in range(self.clients.choice((1, 1, 3)) if node.listens else 0):
            self.read(node)
        self._again(self.clients.expovariate(self.knobs.read_rate), self._read_some)

    def _again(self, pause_s: float, call: Callable[[], None]) -> None:
        """Call it once more after a pause, unless the world is to come to rest before that."""
        at = self.now + int(pause_s * 1_000_000)
        if at < self.knobs.faulty_us + 10 * ELECTION_TIMEOUT_US:
            self.at(at - self.now, call)

    def read(self, node: Node) -> None:
        """A client asks for what has been acknowledged before."""
        self._tickets += 1
        node.reads[self._tickets] = self.acked_index
        passed = self.reads_passed
        self.post(node, ReadBarrier(ticket=self._tickets))
        self.reads_at_once += self.reads_passed - passed

    def _somebody(self) -> Node:
        """Mostly one who thinks it leads, of whatever term; sometimes anybody."""
        nodes = list(self.nodes.values())
        leaders = [node for node in nodes if node.up and type(node.core.role) is Leader]
        return self.clients.choice(leaders if leaders and self.clients.random() < 0.9 else nodes)

    # -------------------------------------------------------------------------------------- members

    def transfer(self, node: Node, to: NodeId) -> None:
        """An operator asks a member to hand its leadership over."""
        self._tickets += 1
        node.transfers[self._tickets] = node.core.now
        self.post(node, TransferLeadership(ticket=self._tickets, to=to))

    def change_members(self, node: Node, change: Change) -> None:
        """An operator asks a member for a change of the membership."""
        self._tickets += 1
        node.changes[self._tickets] = change
        self.post(node, ChangeMembers(ticket=self._tickets, change=change))

    def crash(self, node: Node) -> None:
        """The member is gone, and with it what its disk had not synced."""
        node.up = False
        node.disk.crash(self.random)

    def restart(self, node: Node) -> None:
        """The member comes back with what its disk kept."""
        if not node.up:
            node.restart()
            self.checker.check_start(node)
            self._start_ticking(node)

    def _start_ticking(self, node: Node) -> None:
        skew = self.knobs.skew
        node.tick_us = int(self.knobs.tick_us * self.random.uniform(1 / skew, skew))
        self.at(self.random.randrange(node.tick_us), self._tick, node, node.incarnation)

    def _tick(self, node: Node, incarnation: int) -> None:
        if self.now < node.still_until:
            self.at(node.still_until - self.now, self._tick, node, incarnation)
        elif node.up and node.incarnation == incarnation:
            self.post(node, Tick())
            if any(node.core.now - at > self.transfer_ticks_max for at in node.transfers.values()):
                raise Violation(f"I23: {node.name} does not settle a transfer")
            self.at(node.tick_us, self._tick, node, incarnation)

    def _heal(self) -> None:
        self.blocked.clear()
        self.on_elected = None
        for node in self.nodes.values():
            self.restart(node)
            node.tick_us = self.knobs.tick_us
            node.electable = True
            self.post(node, ElectableChanged(electable=True))

    # ----------------------------------------------------------------------------------------- rest

    def _check_led(self) -> None:
        for node in self.nodes.values():
            role = node.core.role
            if type(role) is Leader and node.core.commit >= role.start_index:
                return
        raise Violation("I19: a healed world has no leader that can commit")

    def _check_rest(self, term: Term) -> None:
        committed = self.checker.committed
        final = self._final_configuration()
        for node in self.nodes.values():
            if node.applied != len(committed) and node.name in final.members:
                raise Violation(f"I20: {node.name} applied {node.applied} of {len(committed)}")
            if node.waiting or node.reads or node.transfers or node.changes:
                owed = [*node.waiting.values(), *node.reads, *node.transfers, *node.changes]
                raise Violation(f"{node.name} still owes {owed}")
            if node.core.term > term + CALM_TERMS_MAX:
                raise Violation(f"I22: {node.name} went from term {term} to {node.core.term}")
        for value, index in self.acked.items():
            if committed[index - 1].payload != value:
                raise Violation(f"I21: what was acknowledged at {index} is not there")
        commands = [entry for entry in committed if entry.kind == Kind.COMMAND]
        payloads = [bytes(entry.payload) for entry in commands]
        if len(dict.fromkeys(payloads)) != len(payloads):
            raise Violation("I21: a value was committed twice")
        for payload in payloads:
            if payload in self.failed:
                raise Violation(f"a refused proposal was committed: {payload!r}")

    def _final_configuration(self) -> Configuration:
        """The one a healed world has come to rest in: committed, not joint, and led by it."""
        final = Configuration(voters=self.founders)
        for entry in self.checker.committed:
            if entry.kind == Kind.CONFIG:
                final = decode(entry.payload)
        if final.is_joint:
            raise Violation(f"I15: a healed world rests in the joint {final}")
        for node in self.nodes.values():
            if type(node.core.role) is Leader and node.core.configuration != final:
                raise Violation(f"I15: {node.name} leads {node.core.configuration}, not {final}")
        return final

    def tell(self) -> str:
        """The last events, for people."""
        lines = []
        for now, name, event, effects in self.story:
            lines.append(f"{now / 1_000_000:10.6f} {name} {brief(event)}")
            lines.extend(f"{'':14}=> {brief(effect)}" for effect in effects)
        return "\n".join(lines)


def kind_of(event: Event) -> str:
    """A short name for the trace; messages by their own type."""
    if type(event) is Received:
        return f"{event.sender} {type(event.message).__name__}"
    return type(event).__name__


def brief(thing: object) -> str:
    """A line without payloads."""
    if isinstance(thing, Received):
        return f"{thing.sender} -> {brief(thing.message)}"
    if isinstance(thing, Send):
        return f"-> {thing.to} {brief(thing.message)}"
    if isinstance(thing, Append | Persist):
        spots = [f"{entry.index}@{entry.term}" for entry in thing.entries]
        shown = spots if len(spots) < 4 else [spots[0], "...", spots[-1]]
        rest = [
            f"{name}={getattr(thing, name)}"
            for name in (
                "write",
                "term",
                "vote",
                "first",
                "prev_index",
                "prev_term",
                "commit",
                "round",
            )
            if hasattr(thing, name)
        ]
        return f"{type(thing).__name__}({', '.join(rest)}) [{' '.join(shown)}]"
    return str(thing)
