"""Who belongs to the group, as this member's log has it, and what is known of them.

The group is told by the configuration in force (`dledger_py.raft.membership`): before anybody
changed it, by the settings of its founders. Each member describes itself in its hello, and the
leader writes that into the configuration, so that a member is known to all by where it is and by
the *birth* of its data folder. Laws:

- *An emptied folder is a stranger.* A member whose birth is not the one written down is not
  heard, and told so: it has forgotten its votes and what it acknowledged. It comes back by being
  removed and added again, as a learner.
- *A folder that is not written down has no vote* once the group is *settled*, which is when any
  folders are: nobody could tell it from an emptied one. It drops requests for votes and does not
  stand for election; it takes entries, so that it is written down soon. Founders are written down
  all at once, so that no majority of them is ever without a vote.
- *Who was away is told of folders by those it knows.* The leader may have been replaced meanwhile:
  without its folder it is not heard, and its log would say which it is. So each hello tells the
  latest committed configuration. That the old folder was removed is committed, then: who lacks
  that can win no election with the vote of the new one.
- *Who is announced says it anew.* What a name said before may be the word of a folder that is no
  more: it is forgotten, and the connection that it came by is to be closed.
- Who is not of the group may speak, and is answered: a member may be behind, and not know its new
  leader yet; one that was removed asks for votes that the core does not give it.

Elsewhere: which changes are legal and how they commit (raft); writing descriptions down and making
learners voters (member_keeper); the ways to the members (links).
"""

from __future__ import annotations

import structlog
from attrs import define, field, frozen

from dledger_py.ledger.config import LedgerConfig
from dledger_py.ledger.details import Details, decode
from dledger_py.ledger.errors import FrameError
from dledger_py.ledger.peer_frames import Hello
from dledger_py.raft.membership import Configuration
from dledger_py.raft.membership import decode as decode_configuration
from dledger_py.raft.vocabulary import NodeId
from dledger_py.storage import Birth

log = structlog.get_logger()


@frozen(kw_only=True)
class MemberView:
    """One member, for operators."""

    name: str
    role: str
    """voter, learner, joining (about to be a voter) or leaving (about to be none)."""
    address: str
    contact: str
    stays_learner: bool


@define(eq=False)
class Members:
    """The members of one group. Event loop only."""

    config: LedgerConfig
    own: Details
    """What this member says of itself."""
    folder: Birth
    _configuration: Configuration
    _index: int
    """Where that stands in the log."""
    _details: dict[str, Details] = field(factory=dict, init=False)
    _heard: dict[str, Details] = field(factory=dict, init=False)
    """What members said of themselves in their latest hello to this one."""
    _told_index: int = field(init=False, default=0)
    _told_births: dict[str, int] = field(factory=dict, init=False)
    """Those of a later configuration that this member's log does not have yet."""
    _admitted: bool = field(init=False, default=False)
    _others_settled: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self._heard[self.config.node] = self.own
        self._admitted = self.folder.older
        self.use(self._configuration, self._index)

    # ---- what the log says

    def use(self, configuration: Configuration, index: int) -> tuple[str, ...]:
        """This configuration, at `index`, is in force. Returns the others whom it announces: those
        that were no members, or known by a folder, and of whose folder nothing is written down.

        **Raises** ValueError if it was written by a newer version.
        """
        before = {name for name in self.names if not self.birth_of(name)}
        self._configuration = configuration
        self._index = index
        self._details = {node: decode(raw) for node, raw in configuration.details}
        me = self.config.node
        if self.birth_of(me) == self.own.birth:
            self._admitted = True
        unknown = [name for name in self.names if name != me and not self.birth_of(name)]
        announced = tuple(name for name in unknown if name not in before)
        for name in announced:
            self._heard.pop(name, None)
        return announced

    @property
    def settled(self) -> bool:
        """Whether births of members stand in the log. One that is announced has none yet."""
        return any(details.birth for details in self._details.values())

    @property
    def has_vote(self) -> bool:
        """Whether this member may vote and stand for election, as far as its folder goes."""
        return self._admitted or not (self.settled or self._others_settled)

    @property
    def names(self) -> tuple[str, ...]:
        """Everyone who gets entries."""
        return self._configuration.members

    @property
    def voters(self) -> tuple[str, ...]:
        """Everyone with a vote once no change is under way."""
        return self._configuration.voters

    @property
    def learners(self) -> tuple[str, ...]:
        return self._configuration.learners

    @property
    def changing(self) -> bool:
        """Whether the voters are being changed."""
        return self._configuration.is_joint

    def others(self) -> dict[str, tuple[str, ...]]:
        """Where the other members may listen, as far as that is known."""
        others = (name for name in self.names if name != self.config.node)
        return {name: found for name in others if (found := self.addresses_of(name))}

    def addresses_of(self, name: str) -> tuple[str, ...]:
        """Where this member may listen for its peers, best first.

        What this member was told in its own settings comes before what the log says: there may be
        another way from here to there. But the settings may be older than a member's move.
        """
        told = [self.config.peers.get(name), self._written_address(name)]
        return tuple(dict.fromkeys(address for address in told if address))

    def _written_address(self, name: str) -> str | None:
        details = self._details.get(name)
        return details.address if details is not None else None

    def contact_of(self, name: str) -> str | None:
        """What this member's user told of it, if it is a member that has been heard of."""
        details = self._details.get(name)
        return (details.contact or None) if details is not None else None

    def birth_of(self, name: str) -> int:
        """The birth of this member's folder; 0 if none is written down."""
        details = self._details.get(name)
        return details.birth if details is not None else 0

    def known_birth_of(self, name: str) -> int:
        """The same, if others do not know better."""
        if self._told_index > self._index and name in self._told_births:
            return self._told_births[name]
        return self.birth_of(name)

    def folders(self) -> tuple[int, ...]:
        """By which folders the group can be told from one that was founded under the same names:
        those that are written down, or this member's if it is alone. None before any is.

        Folders are replaced one at a time, so two members of one group know one in common.
        """
        if self.names == (self.config.node,):
            return (self.own.birth,)
        births = {details.birth for details in self._details.values()} - {0}
        return tuple(sorted(births))

    def stays_learner(self, name: str) -> bool:
        details = self._details.get(name)
        return details is not None and details.stays_learner

    @property
    def is_alone_and_unknown(self) -> bool:
        """Whether this is a group of one, of which nobody has written down the folder."""
        me = self.config.node
        return self.names == (me,) and self.birth_of(me) != self.own.birth

    def views(self) -> tuple[MemberView, ...]:
        """All members, by name."""
        return tuple(self._view(name) for name in sorted(self.names))

    def _view(self, name: str) -> MemberView:
        configuration = self._configuration
        role = "learner"
        if name in configuration.voters:
            before = configuration.voters_old or configuration.voters
            role = "voter" if name in before else "joining"
        elif name in configuration.voters_old:
            role = "leaving"
        return MemberView(
            name=name,
            role=role,
            address=self._written_address(name) or self.config.peers.get(name, ""),
            contact=self.contact_of(name) or "",
            stays_learner=self.stays_learner(name),
        )

    # ---- what members say

    def hello_to(self, peer: str, incarnation: int, committed: tuple[int, bytes]) -> Hello:
        """What this member says to a peer it has dialled. `committed` is the latest configuration
        known to be, encoded, and where it stands."""
        index, configuration = committed
        return Hello(
            cluster=self.config.cluster,
            group=self.config.group,
            sender=self.config.node,
            receiver=peer,
            incarnation=incarnation,
            birth=self.own.birth,
            receiver_birth=self.known_birth_of(peer),
            settled=self.settled,
            address=self.own.address,
            contact=self.own.contact,
            configuration_index=index,
            configuration=configuration if index else b"",
        )

    def unwelcome(self, hello: Hello) -> str | None:
        """Why whoever says this must not be heard, for a log line; None if it may be."""
        config = self.config
        if hello.cluster != config.cluster:
            return f"{hello.sender!r} is of cluster {hello.cluster!r}, not of {config.cluster!r}"
        if hello.group != config.group:
            return f"{hello.sender!r} is of group {hello.group!r}, not of {config.group!r}"
        if hello.receiver != config.node:
            return f"{hello.sender!r} looks for {hello.receiver!r}, this is {config.node!r}"
        if hello.sender == config.node:
            return f"another process says that it is {config.node!r}, too"
        if hello.receiver_birth and hello.receiver_birth != self.own.birth:
            if self.birth_of(config.node) == self.own.birth:
                return (
                    f"{hello.sender!r} knows an older data folder of {config.node!r}: it is of the"
                    " group as it was before this member was replaced, restored or rescued"
                )
            log.error(
                "member.folder_unknown",
                node=config.node,
                told_by=hello.sender,
                advice=f"the group knows another data folder of {config.node}: this one was"
                " emptied or exchanged. Put the old one back, or have the member replaced"
                f" (dledger admin replaceMember -m {config.node})",
            )
            return f"{hello.sender!r} knows another data folder of {config.node!r}"
        return None

    def unknown_folder(self, hello: Hello) -> str | None:
        """Why this member is not heard, whatever it says; None if its folder is the one that is
        known, or none is."""
        if self.known_birth_of(hello.sender) in (0, hello.birth):
            return None
        return (
            f"{hello.sender!r} has another data folder than the group knows: it was emptied or"
            " exchanged, and has forgotten what it voted for"
        )

    def greet(self, hello: Hello) -> None:
        """Remember what a member says of itself, until the leader has written it down, and of the
        group. **Raises** FrameError for a configuration that cannot be read."""
        if hello.configuration_index > max(self._index, self._told_index) and (
            hello.receiver_birth == self.own.birth
            and hello.birth == self.known_birth_of(hello.sender) != 0
        ):
            self._told_births = _births(hello)
            self._told_index = hello.configuration_index
        self._others_settled |= hello.settled
        if hello.receiver_birth == self.own.birth:
            self._admitted = True
        if hello.address:
            self._heard[hello.sender] = Details(
                address=hello.address, birth=hello.birth, contact=hello.contact
            )

    @property
    def all_heard(self) -> bool:
        """Whether every voter has said something of itself."""
        return all(name in self._heard for name in self.voters)

    def undescribed(self) -> tuple[tuple[NodeId, Details], ...]:
        """Members of which something else is written down than they say; none in a group of one,
        which nobody dials."""
        if len(self.names) == 1:
            return ()
        found = []
        for name in self._configuration.members:
            heard = self._heard.get(name)
            if heard is None:
                continue
            written = self._details.get(name)
            stays = written is not None and written.stays_learner
            told = Details(
                address=heard.address,
                birth=heard.birth,
                contact=heard.contact,
                stays_learner=stays,
            )
            if told != written:
                found.append((name, told))
        return tuple(found)


def _births(hello: Hello) -> dict[str, int]:
    try:
        told = decode_configuration(hello.configuration)
        return {name: decode(raw).birth for name, raw in told.details}
    except ValueError as error:
        raise FrameError(
            f"{hello.sender!r} tells of the group what cannot be read: {error}"
        ) from error
