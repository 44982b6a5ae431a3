"""Who belongs to the cluster: the configuration, how one becomes the next, and its bytes in the
log (§6; thesis chapter 4).

    AddLearner,  (voters) -> (voters, learner)                 one entry: no majority changes
    Describe
    Promote,
    Remove,      (old) -> (new, old) joint -> (new)            two entries; the leader appends the
    Replace                                                    second when the first is committed

Laws:
- A configuration is in force from the moment its entry is in the log, committed or not, and no
  longer than that: when the entry is cut, so is its configuration (`LogView.configuration`). Were
  it used from its commitment on, two members could count by two configurations whose majorities
  do not meet.
- In a joint configuration every decision takes a majority of both sets, so that neither the old
  nor the new voters can decide alone.
- A new voter was a learner first: it has the log already when its vote begins to count.
- Learners get entries; they are not asked for votes and count for nothing. (Asked nevertheless,
  they answer: whoever asks has an entry that makes them voters, which they may not have yet.)

Deliberately elsewhere: when a change may begin and how it goes on (changes.py).
"""

from collections.abc import Container, Mapping
from struct import Struct
from struct import error as struct_error

from attrs import define, evolve, frozen

from dledger_py.raft import quorum
from dledger_py.raft.vocabulary import (
    AddLearner,
    Change,
    Describe,
    NodeId,
    Promote,
    Remove,
    Replace,
)

MEMBERS_MAX = 64
"""Members of each kind in one configuration. Beyond nine voters every entry only gets slower;
learners may be some more.
"""

NAME_BYTES_MAX = 255
"""A node's name in UTF-8: its length is one byte."""

VERSION = 1
"""First byte of an encoded configuration; raised when an old member could misread a new one."""

DETAILS_BYTES_MAX = 1024
"""What may be remembered of one member."""

_COUNTS = Struct(">BBBBB")
_LENGTH = Struct(">H")


class Forbidden(ValueError):
    """The change makes no sense in this configuration. Kind: refused; nothing happened."""


@frozen(kw_only=True)
class Configuration:
    """The members of a cluster. `voters_old` is empty except in a joint configuration, where it
    holds the voters before the change and `voters` those after it. `details` is what the driver
    wanted remembered of members, one pair at most for each.

    **Raises** ValueError if a name stands twice, or there is no voter.
    """

    voters: tuple[NodeId, ...]
    learners: tuple[NodeId, ...] = ()
    voters_old: tuple[NodeId, ...] = ()
    details: tuple[tuple[NodeId, bytes], ...] = ()

    def __attrs_post_init__(self) -> None:
        if not self.voters:
            raise ValueError("a configuration needs at least one voter")
        for names in (self.voters + self.learners, self.voters_old + self.learners):
            if len(dict.fromkeys(names)) != len(names):
                raise ValueError(f"{names} names a node twice")
        described = [node for node, _ in self.details]
        if len(dict.fromkeys(described)) != len(described):
            raise ValueError(f"{described} are described twice")
        if not set(described).issubset(self.members):
            raise ValueError(f"{described} are not all members")

    @property
    def is_joint(self) -> bool:
        return bool(self.voters_old)

    @property
    def electors(self) -> tuple[NodeId, ...]:
        """Everyone with a vote, in the old set or the new."""
        return tuple(dict.fromkeys(self.voters + self.voters_old))

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Everyone who gets entries."""
        return self.electors + self.learners

    def is_majority(self, granted: Container[NodeId]) -> bool:
        """Whether `granted` can decide: in a joint configuration, by both sets (§6)."""
        return quorum.is_majority(self.voters, granted) and (
            not self.voters_old or quorum.is_majority(self.voters_old, granted)
        )

    def agreed(self, reached: Mapping[NodeId, int]) -> int:
        """Return the greatest number those who can decide have reached; see `quorum.agreed`."""
        number = quorum.agreed(self.voters, reached)
        if self.voters_old:
            return min(number, quorum.agreed(self.voters_old, reached))
        return number

    def changed(self, change: Change) -> "Configuration":
        """Return the configuration to append for `change`: joint if the voters change.

        **Raises** Forbidden, with the reason.
        """
        if self.is_joint:
            raise Forbidden("another change is under way")
        voters, learners = self.voters, self.learners
        match change:
            case AddLearner(node=node, details=details):
                _require(node not in self.members, f"{node} is a member already")
                _require(len(learners) < MEMBERS_MAX, f"there are {MEMBERS_MAX} learners already")
                _require(0 < len(node.encode()) <= NAME_BYTES_MAX, f"{node!r} is no name")
                _require(len(details) <= DETAILS_BYTES_MAX, f"too much to remember of {node}")
                told = ((node, details),) if details else ()
                return evolve(self, learners=(*learners, node), details=self.details + told)
            case Remove(node=node) if node in learners:
                return evolve(
                    self,
                    learners=_without(learners, node),
                    details=_except_of(self.details, (node,)),
                )
            case Remove(node=node):
                _require(node in voters, f"{node} is not a member")
                _require(len(voters) > 1, f"{node} is the last voter")
                return self._joint(_without(voters, node), learners)
            case Promote(node=node):
                _require(node in learners, f"{node} is not a learner")
                _require(len(voters) < MEMBERS_MAX, f"there are {MEMBERS_MAX} voters already")
                return self._joint((*voters, node), _without(learners, node))
            case Replace(old=old, new=new):
                _require(old in voters, f"{old} is not a voter")
                _require(new in learners, f"{new} is not a learner")
                return self._joint((*_without(voters, old), new), _without(learners, new))
            case Describe(details=details):
                nodes = tuple(node for node, _ in details)
                _require(set(nodes).issubset(self.members), f"{nodes} are not all members")
                longest = max((len(each) for _, each in details), default=0)
                _require(longest <= DETAILS_BYTES_MAX, f"too much to remember of {nodes}")
                return evolve(self, details=(*_except_of(self.details, nodes), *details))

    def left(self) -> "Configuration":
        """The configuration that a joint one leads to."""
        gone = tuple(node for node in self.voters_old if node not in self.voters + self.learners)
        return evolve(self, voters_old=(), details=_except_of(self.details, gone))

    def _joint(self, voters: tuple[NodeId, ...], learners: tuple[NodeId, ...]) -> "Configuration":
        return evolve(self, voters=voters, learners=learners, voters_old=self.voters)


def encode(configuration: Configuration) -> bytes:
    """Return the payload of a CONFIG entry: version, four counts, then the names, each behind
    its length in one byte; then the details, each behind its name so written and a length in two.
    """
    groups = (configuration.voters, configuration.learners, configuration.voters_old)
    counts = [len(group) for group in groups]
    parts = [_COUNTS.pack(VERSION, *counts, len(configuration.details))]
    parts += (_encode_name(name) for group in groups for name in group)
    for name, details in configuration.details:
        parts += (_encode_name(name), _LENGTH.pack(len(details)), details)
    return b"".join(parts)


def _encode_name(name: NodeId) -> bytes:
    raw = name.encode()
    return bytes((len(raw),)) + raw


def decode(payload: bytes | memoryview) -> Configuration:
    """**Raises** ValueError if these are not the bytes of a configuration."""
    reading = _Reading(bytes(payload))
    try:
        version, voters, learners, voters_old, described = _COUNTS.unpack(
            reading.take(_COUNTS.size)
        )
        if version != VERSION:
            raise ValueError(f"configuration of version {version}: only {VERSION} is known")
        groups = [
            tuple(reading.name() for _ in range(count)) for count in (voters, learners, voters_old)
        ]
        details = []
        for _ in range(described):
            name = reading.name()
            (length,) = _LENGTH.unpack(reading.take(_LENGTH.size))
            details.append((name, reading.take(length)))
    except (IndexError, struct_error):
        raise ValueError(f"configuration cut short at {len(reading.data)} bytes") from None
    if reading.at != len(reading.data):
        raise ValueError(f"{len(reading.data) - reading.at} bytes behind a configuration")
    return Configuration(
        voters=groups[0], learners=groups[1], voters_old=groups[2], details=tuple(details)
    )


@define
class _Reading:
    """Bytes, read from front to back."""

    data: bytes
    at: int = 0

    def take(self, count: int) -> bytes:
        stop = self.at + count
        if stop > len(self.data):
            raise IndexError
        taken = self.data[self.at : stop]
        self.at = stop
        return taken

    def name(self) -> NodeId:
        return NodeId(self.take(self.take(1)[0]).decode())


def _without(names: tuple[NodeId, ...], name: NodeId) -> tuple[NodeId, ...]:
    return tuple(each for each in names if each != name)


def _except_of(
    details: tuple[tuple[NodeId, bytes], ...], nodes: tuple[NodeId, ...]
) -> tuple[tuple[NodeId, bytes], ...]:
    return tuple(pair for pair in details if pair[0] not in nodes)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Forbidden(otherwise)
