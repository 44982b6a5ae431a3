"""Logs that lose their beginning, and members that need what was lost.

Retention decides for all, as a leader would: up to here nobody should need the log any more. Each
member drops that much when it comes to it, and no more than it has applied. Whoever was down, cut
off or slow for too long then hears that it fell behind, and gets a copy of somebody's log: of the
leader that said so, mostly, or of whoever has one.

Deliberately elsewhere: when retention decides (nemesis.py), what a copy is (disk.py).
"""

from random import Random
from typing import TYPE_CHECKING

from chaos.sim.disk import Copy, State
from dledger_py.raft.far_behind import may_replace
from dledger_py.raft.vocabulary import Dropped, FellBehind, Index, NodeId

if TYPE_CHECKING:
    from chaos.sim.world import Node, World

COPY_US = 400_000
"""A copy takes up to this long; leaders come and go meanwhile."""


class Retention:
    """Drops and copies in one world."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._random = Random(f"{world.seed}/retention")
        self.first_index: Index = 1
        """Decided: what lies before it may go."""
        self.drops = 0
        self.installs = 0

    def decide(self, leader: "Node") -> None:
        """A leader finds that some of its log is old; now and then all that is applied."""
        up_to = leader.applied + 1
        first = up_to if self._random.random() < 0.3 else self._random.randrange(1, up_to + 1)
        if first > self.first_index:
            self.first_index = first
            for node in self._world.nodes.values():
                delay = self._random.randrange(1, 500_000)
                self._world.at(delay, self._drop, node)

    def _drop(self, node: "Node") -> None:
        first = min(self.first_index, self._reach(node))
        if not node.up or first <= node.disk.first_index:
            return
        self.drops += 1
        self._world.checker.check_drop(node, first)
        node.disk.drop_before(first, State(index=node.applied, state=node.state))
        self._world.post(node, Dropped(first_index=first))

    def _reach(self, node: "Node") -> Index:
        return node.applied + 1

    def fell_behind(self, node: "Node", incarnation: int, effect: FellBehind) -> None:
        """A member needs a copy. Half of them stop at once, as they should; the others go on for
        as long as the copying takes and hear of other leaders, so that `may_replace` is asked.
        """
        world = self._world
        if not node.up or node.incarnation != incarnation:
            return
        if self._random.random() < 0.5:
            world.crash(node)
        delay = self._random.randrange(1, COPY_US)
        world.at(delay, self._arrived, node, incarnation, effect.leader)

    def _arrived(self, node: "Node", incarnation: int, leader: NodeId) -> None:
        if node.incarnation != incarnation:
            return  # It came back by itself; if it is still behind, it is told again.
        if node.up:
            self._world.crash(node)
        copy = self._copy(node, leader)
        if copy is not None and self.fits(node, copy):
            self.installs += 1
            self.install(node, copy)
        self._world.restart(node)

    def _copy(self, node: "Node", leader: NodeId) -> Copy | None:
        nodes = self._world.nodes
        if not nodes[leader].up or self._random.random() < 0.3:
            others = [each for each in nodes.values() if each.up and each is not node]
            return self.copy_of(self._random.choice(others)) if others else None
        return self.copy_of(nodes[leader])

    def copy_of(self, source: "Node") -> Copy:
        """What `source` can give: no more than it knows to be committed."""
        return source.disk.copy(State(index=source.applied, state=source.state))

    def fits(self, node: "Node", copy: Copy) -> bool:
        """Whether the copy may replace the log of a member as its disk has it now."""
        return may_replace(
            node.disk.log_view(), copy.first_index, copy.previous_term, copy.last_index
        )

    def install(self, node: "Node", copy: Copy) -> None:
        """Give the copy to the disk of a member that is down."""
        self._world.checker.check_install(node, copy)
        node.disk.install(copy)
