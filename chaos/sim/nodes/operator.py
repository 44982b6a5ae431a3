"""An operator, who takes members out of the group, and brings back whoever is not in it.

Knows what is to be from the faults, and what is from the leader's log; asks through the protocol,
and goes on asking: an answer may be lost, and a leader may be deposed in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from attrs import define, field, frozen

from chaos.sim.nodes.members import Member, peer_address_of

if TYPE_CHECKING:
    from chaos.sim.nodes.world import World

LOOK_S = 0.3


@frozen
class _Step:
    change: str
    """add or remove."""
    node: str


@define(eq=False)
class Operator:
    """One run's."""

    world: World
    sent_away: dict[str, None] = field(factory=dict)
    """Members that are to be none for now."""
    lost: dict[str, int] = field(factory=dict)
    """The members whose folders were emptied, and the births of what was in them."""
    _removed: dict[str, None] = field(factory=dict)
    """Those of them that were taken out since: once must do."""
    _asking: bool = False
    was_asked: bool = False
    """Whether the group was ever to be another one than all."""
    _term: int = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(LOOK_S)
            leader = self._leader()
            step = self._next(leader) if leader is not None else None
            if leader is not None and step is not None:
                address = peer_address_of(step.node) if step.change == "add" else ""
                self._asking = self.was_asked = True
                await self.world.clients[0].change(leader.name, step.change, step.node, address)
                self._asking = False

    def _leader(self) -> Member | None:
        """Not one that was deposed and does not know it, if anybody newer has been seen."""
        leader = self.world.leader()
        if leader is None or leader.broker is None:
            return None
        term = leader.broker.ledger.view.term
        if term < self._term:
            return None
        self._term = term
        return leader

    def _next(self, leader: Member) -> _Step | None:
        assert leader.broker is not None
        members = leader.broker.ledger.members
        for name in self.world.members:
            if name not in members.names:
                if name in self.lost:
                    self._removed[name] = None
                if name not in self.sent_away:
                    return _Step("add", name)
            elif name in self.sent_away or (name in self.lost and name not in self._removed):
                return _Step("remove", name)
        return None

    def is_whole(self) -> bool:
        """Whether every member has its vote, on the folder that it has now, as far as is known."""
        leader = self._leader()
        if leader is None or leader.broker is None or self.sent_away or self._asking:
            return False
        members = leader.broker.ledger.members
        return (
            not members.changing
            and set(members.voters) == set(self.world.members)
            and all(
                members.birth_of(name) not in (0, self.lost.get(name, 0)) for name in members.names
            )
        )

    def birth_of(self, name: str) -> int:
        """Of this member's folder, as the group knows it."""
        leader = self._leader()
        assert leader is not None
        assert leader.broker is not None
        return leader.broker.ledger.members.birth_of(name)
