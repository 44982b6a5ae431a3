"""The stage on which golden scripts play, and the option that rewrites them."""

from collections.abc import Callable
from itertools import count

import attrs
import pytest

from dledger_py.raft.config import RaftConfig
from dledger_py.raft.far_behind import hard_state_with, may_replace
from dledger_py.raft.log_view import LogView
from dledger_py.raft.membership import Configuration, decode
from dledger_py.raft.raft import Raft
from dledger_py.raft.roles import Leader
from dledger_py.raft.vocabulary import (
    MESSAGES,
    AddLearner,
    Append,
    Change,
    ChangeMembers,
    ClockStalled,
    Dropped,
    Effect,
    ElectableChanged,
    EntriesRead,
    Entry,
    Event,
    HardState,
    Kind,
    Message,
    NodeId,
    PeerUnreachable,
    Persist,
    Persisted,
    Promote,
    Propose,
    ReadBarrier,
    ReadEntries,
    Received,
    Remove,
    Replace,
    RoleChanged,
    Send,
    Settle,
    Tick,
    TransferLeadership,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-scripts",
        action="store_true",
        help="rewrite the expected output of tests/raft/scripts, and fail once to be looked at",
    )


@attrs.frozen
class Disk:
    """What one member has durably. The log starts behind entry `before`, which is of `term_before`
    and was committed.
    """

    hard: HardState = attrs.field(factory=HardState)
    entries: tuple[Entry, ...] = ()
    before: int = 0
    term_before: int = 0
    configuration: tuple[int, Configuration] | None = None
    """In force before the log starts, and its index."""

    def log_view(self, *, in_memory: bool) -> LogView:
        runs: list[tuple[int, int]] = []
        for entry in self.entries:
            if not runs or runs[-1][1] != entry.term:
                runs.append((entry.index, entry.term))
        told = [self.configuration] if self.before and self.configuration else []
        return LogView(
            first_index=self.before + 1,
            last_index=self.before + len(self.entries),
            terms=runs,
            previous_term=self.term_before,
            tail=self.entries if in_memory else (),
            configurations=told
            + [
                (entry.index, decode(entry.payload))
                for entry in self.entries
                if entry.kind == Kind.CONFIG
            ],
        )

    def dropped(self, before: int) -> "Disk":
        """Without the entries up to `before`."""
        gone = self.entries[: before - self.before]
        configuration = self.configuration
        for entry in gone:
            if entry.kind == Kind.CONFIG:
                configuration = (entry.index, decode(entry.payload))
        return attrs.evolve(
            self,
            entries=self.entries[len(gone) :],
            before=before,
            term_before=gone[-1].term,
            configuration=configuration,
        )


class Stage:
    """Cores, a network and disks on which nothing moves by itself. Each method is a command."""

    def __init__(self) -> None:
        self.cores: dict[str, Raft] = {}
        self.wires: list[tuple[str, str, Message]] = []
        self.written: dict[str, list[Persist]] = {}
        self.disks: dict[str, Disk] = {}
        self.reads: dict[str, list[ReadEntries]] = {}
        self.cut_off: dict[str, None] = {}
        self.founders: tuple[NodeId, ...] = ()
        self.lines: list[str] = []
        self._tickets = count(1)
        self._settings: dict[str, int] = {}

    def play(self, line: str) -> None:
        """Play one command: its name, then words; `key=value` words are keywords."""
        name, *words = line.split()
        keywords = dict(word.split("=") for word in words if "=" in word)
        getattr(self, name.replace("-", "_"))(*[w for w in words if "=" not in w], **keywords)

    def cluster(self, *names: str, **settings: str) -> None:
        """Members with empty logs; settings are fields of RaftConfig."""
        self.wires.clear()
        self.cut_off.clear()
        self._settings = {"election_timeout_ticks": 10, "heartbeat_ticks": 2}
        self._settings |= {name: int(value) for name, value in settings.items()}
        self.founders = tuple(NodeId(name) for name in names)
        for dropped in [name for name in self.cores if name not in names]:
            del self.cores[dropped], self.disks[dropped], self.written[dropped]
        for name in names:
            self.disks[name] = self._empty_disk()
        for name in names:
            self.restart(name)

    def _empty_disk(self) -> Disk:
        return Disk(configuration=(0, Configuration(voters=self.founders)))

    def joiner(self, name: str) -> None:
        """A node that is no member yet."""
        self.disks[name] = self._empty_disk()
        self.restart(name)

    def log(self, name: str, *spots: str, term: str = "0", commit: str = "0") -> None:
        """Restart a member with a log such as `1@1 2@1 3@4`, written index@term."""
        entries = entries_at(*spots)
        last = entries[-1].term if entries else 0
        hard = HardState(term=max(int(term), last), vote=None, commit=int(commit))
        self.disks[name] = attrs.evolve(self._empty_disk(), hard=hard, entries=entries)
        self.restart(name)

    def restart(self, name: str) -> None:
        """Start from the disk; what was not synced is gone."""
        in_memory = self._settings.get("tail_bytes_max") != 0
        self.written[name] = []
        self.reads[name] = []
        self.cores[name] = Raft(
            config=RaftConfig(
                node=NodeId(name),
                members=self.founders,
                joining=name not in self.founders,
                **self._settings,
            ),
            log=self.disks[name].log_view(in_memory=in_memory),
            hard=self.disks[name].hard,
            random=lambda n: 0,
        )

    def tick(self, name: str, times: str = "1") -> None:
        for _ in range(int(times)):
            self.step(name, Tick())

    def propose(self, name: str, size: str = "1") -> None:
        self.step(name, Propose(ticket=next(self._tickets), payload=bytes(int(size))))

    def read(self, name: str) -> None:
        self.step(name, ReadBarrier(ticket=next(self._tickets)))

    def stall(self, name: str) -> None:
        """A member finds that its clock stood still."""
        self.step(name, ClockStalled())

    def transfer(self, name: str, to: str) -> None:
        """Ask a member to hand its leadership over."""
        self.step(name, TransferLeadership(ticket=next(self._tickets), to=NodeId(to)))

    def change(self, name: str, verb: str, *nodes: str) -> None:
        """Ask a member to `add`, `promote`, `remove` or `replace` nodes."""
        changes: dict[str, Callable[..., Change]] = {
            "add": lambda node: AddLearner(node=node),
            "promote": lambda node: Promote(node=node),
            "remove": lambda node: Remove(node=node),
            "replace": lambda old, new: Replace(old=old, new=new),
        }
        ticket = next(self._tickets)
        self.step(name, ChangeMembers(ticket=ticket, change=changes[verb](*nodes)))

    def members(self, *names: str) -> None:
        """Show which configuration is in force."""
        for name in names:
            core = self.cores[name]
            shown = brief_configuration(core.configuration)
            self.lines.append(
                f"{name}@{core.term} goes by {shown} at {core.log.configuration_index}"
            )

    def unreachable(self, name: str, peer: str) -> None:
        self.step(name, PeerUnreachable(peer=NodeId(peer)))

    def electable(self, name: str, value: str) -> None:
        self.step(name, ElectableChanged(electable=value == "yes"))

    def sync(self, *names: str, up_to: str = "0") -> None:
        """Writes (only those up to number `up_to`) become durable; of all if none is named."""
        for name in names or tuple(self.cores):
            last = int(up_to) or 1 << 30
            due = [persist for persist in self.written[name] if persist.write <= last]
            self.written[name] = self.written[name][len(due) :]
            for persist in due:
                disk = self.disks[name]
                entries = disk.entries
                if persist.first is not None:
                    entries = entries[: persist.first - 1 - disk.before] + persist.entries
                hard = HardState(term=persist.term, vote=persist.vote)
                self.disks[name] = attrs.evolve(disk, hard=hard, entries=entries)
            if due:
                self.step(name, Persisted(write=due[-1].write))

    def load(self, name: str) -> None:
        """Answer what a leader wants to read from its disk."""
        wanted, self.reads[name] = self.reads[name], []
        for each in wanted:
            disk = self.disks[name]
            at = each.first - 1 - disk.before
            entries = disk.entries[at : at + 2] if at >= 0 else ()
            self.step(name, EntriesRead(peer=each.peer, first=each.first, entries=entries))

    def drop_before(self, name: str, first: str) -> None:
        """A member's disk drops what it has applied, up to `first`."""
        self.disks[name] = self.disks[name].dropped(int(first) - 1)
        self.step(name, Dropped(first_index=int(first)))

    def copy(self, source: str, name: str) -> None:
        """Stop a member and start it with a copy of what another knows to be committed, if its own
        log may be replaced by that.
        """
        given = self.disks[source]
        commit = self.cores[source].commit
        entries = given.entries[: commit - given.before]
        own = self.disks[name]
        if not may_replace(
            own.log_view(in_memory=False), given.before + 1, given.term_before, commit
        ):
            self.lines.append(f"{name} keeps its log")
            return
        last_term = entries[-1].term if entries else given.term_before
        hard = hard_state_with(own.hard, commit, last_term)
        self.disks[name] = attrs.evolve(given, hard=hard, entries=entries)
        self.restart(name)

    def deliver(self, *names: str) -> None:
        """Deliver what is on the wires now, to those named or to all; what it causes waits."""
        wires, self.wires = self.wires, []
        for to, sender, message in wires:
            if names and to not in names:
                self.wires.append((to, sender, message))
            else:
                self.step(to, Received(sender=NodeId(sender), message=message))

    def drop(self, *names: str) -> None:
        """Lose what is on the wires, to the members named or to all."""
        self.wires = [wire for wire in self.wires if names and wire[0] not in names]

    def repeat(self) -> None:
        """Everything on the wires arrives twice."""
        self.wires = [wire for wire in self.wires for _ in range(2)]

    def reverse(self) -> None:
        self.wires.reverse()

    def cut(self, *names: str) -> None:
        """Cut members off: nothing gets through to or from them."""
        self.cut_off |= dict.fromkeys(names)

    def join(self) -> None:
        self.cut_off.clear()

    def settle(self) -> None:
        """Sync and deliver until nothing moves."""
        while self.wires or any(self.written.values()):
            self.sync()
            self.deliver()

    def quiet(self, command: str, *words: str) -> None:
        """Play a command and show nothing."""
        shown = len(self.lines)
        self.play(" ".join((command, *words)))
        del self.lines[shown:]

    def inject(self, to: str, sender: str, kind: str, **fields: str) -> None:
        """Hand a message made here to a member; `entry=2@3` puts an entry into an append."""
        types = {each.__name__: each for each in MESSAGES}
        spots = fields.pop("entry", "")
        values: dict[str, object] = {name: int(value) for name, value in fields.items()}
        if kind == "Append":
            values = {
                "entries": entries_at(spots),
                "prev_index": 0,
                "prev_term": 0,
                "commit": 0,
                **values,
            }
        self.step(to, Received(sender=NodeId(sender), message=types[kind](**values)))  # type: ignore[arg-type]

    def status(self, *names: str) -> None:
        for name in names or tuple(self.cores):
            core = self.cores[name]
            seen = core.statistics()
            self.lines.append(
                f"{name}@{core.term} {seen.role} leader={seen.leader} last={seen.last_index}"
                f"@{core.log.last_term} durable={seen.durable_index} commit={seen.commit_index}"
            )
            self.lines.extend(
                f"  {peer.peer} {peer.state} match={peer.match} next={peer.next}"
                for peer in seen.peers
            )

    def step(self, name: str, event: Event) -> list[Effect]:
        """Take a step, perform its effects on the stage, and show them."""
        core = self.cores[name]
        effects = core.step(event)
        for effect in effects:
            self.lines.append(f"{name}@{core.term} {brief(effect)}")
            if isinstance(effect, Send):
                if name not in self.cut_off and effect.to not in self.cut_off:
                    self.wires.append((effect.to, name, effect.message))
            elif isinstance(effect, Persist):
                self.written[name].append(effect)
            elif isinstance(effect, ReadEntries):
                self.reads[name].append(effect)
        return effects

    def leader(self) -> Raft:
        """The one core that leads the highest term."""
        cores = [core for core in self.cores.values() if type(core.role) is Leader]
        return max(cores, key=lambda core: core.term)


def brief(effect: Effect) -> str:
    """One line per effect, for scripts."""
    match effect:
        case Send(to=to, message=message):
            return f"-> {to} {brief_message(message)}"
        case Persist(write=write, vote=vote, first=first, entries=entries):
            at = f" at {first} [{spots(entries)}]" if first is not None else ""
            return f"write #{write} vote={vote}{at}"
        case RoleChanged(role=role, leader=leader):
            return f"is {role}, leader={leader}"
        case Settle(ticket=ticket, outcome=outcome):
            return f"settle {ticket} {outcome}"
        case _:
            return str(effect)


def brief_message(message: Message) -> str:
    hidden = ("entries", "prev_index", "prev_term") if isinstance(message, Append) else ()
    names = [attribute.name for attribute in attrs.fields(type(message))]
    fields = {name: getattr(message, name) for name in names if name not in hidden}
    words = " ".join(f"{name}={value}" for name, value in fields.items())
    if isinstance(message, Append):
        prev = f"prev={message.prev_index}@{message.prev_term}"
        return f"Append {prev} [{spots(message.entries)}] {words}"
    return f"{type(message).__name__} {words}"


def entries_at(*spots: str) -> tuple[Entry, ...]:
    return tuple(
        Entry(index=int(index), term=int(term), kind=Kind.COMMAND, payload=b"")
        for index, term in (spot.split("@") for spot in spots if spot)
    )


def spots(entries: tuple[Entry, ...]) -> str:
    """`index@term`, and for a configuration `(new voters / old voters + learners)`."""
    words = []
    for entry in entries:
        word = f"{entry.index}@{entry.term}"
        if entry.kind == Kind.CONFIG:
            word += brief_configuration(decode(entry.payload))
        words.append(word)
    return " ".join(words)


def brief_configuration(configuration: Configuration) -> str:
    old = f" / {' '.join(configuration.voters_old)}" if configuration.is_joint else ""
    learners = f" + {' '.join(configuration.learners)}" if configuration.learners else ""
    return f"({' '.join(configuration.voters)}{old}{learners})"


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def led() -> Callable[..., Stage]:
    """Build a stage whose n1 leads term 1 and whose no-op is committed everywhere."""

    def build(members: int = 3, **settings: str) -> Stage:
        stage = Stage()
        stage.cluster(*(f"n{number + 1}" for number in range(members)), **settings)
        stage.tick("n1", "10")
        stage.settle()
        stage.tick("n1", "2")
        stage.settle()
        stage.lines.clear()
        return stage

    return build
