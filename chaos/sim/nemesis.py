"""What goes wrong and when: crashes, partitions, broken connections, sick disks, an assassin of
leaders, and operators who hand leadership over and change the membership while all that happens.
"""

from collections.abc import Callable
from random import Random

from chaos.sim.world import Node, World
from dledger_py.raft.roles import Leader
from dledger_py.raft.vocabulary import (
    AddLearner,
    Change,
    ClockStalled,
    ElectableChanged,
    NodeId,
    PeerUnreachable,
    Promote,
    Remove,
    Replace,
)


class Nemesis:
    """Plans faults in a world until it is healed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = Random(f"{world.seed}/nemesis")
        world.on_elected = self._stalk
        self._plan(world.knobs.crash_rate, self._crash_somebody)
        self._plan(world.knobs.partition_rate, self._partition)
        self._plan(world.knobs.unelectable_rate, self._sicken)
        self._plan(world.knobs.unreachable / 10, self._false_alarm)
        self._plan(world.knobs.transfer_rate, self._hand_over)
        self._plan(world.knobs.change_rate, self._change_members)
        self._plan(world.knobs.retention_rate, self._retain)
        self._plan(world.knobs.stall_rate, self._stall)
        self._plan(world.knobs.ambush_rate, self._ambush)

    def _plan(self, rate: float, strike: Callable[[], None]) -> None:
        if rate:
            delay = int(self._random.expovariate(rate) * 1_000_000)
            self._world.at(delay, self._strike, rate, strike)

    def _strike(self, rate: float, strike: Callable[[], None]) -> None:
        if self._world.now < self._world.knobs.faulty_us:
            strike()
            self._plan(rate, strike)

    def _crash_somebody(self) -> None:
        self._crash(self._random.choice(list(self._world.nodes.values())))

    def _crash(self, node: Node) -> None:
        world = self._world
        if node.up and world.now < world.knobs.faulty_us:
            world.count("crashes")
            world.crash(node)
            down = int(world.knobs.down_us * self._random.uniform(0.1, 2))
            world.at(down, world.restart, node)
            for peer in world.names:
                if peer != node.name:
                    self._report(world.nodes[peer], node.name)

    def _stalk(self, node: Node) -> None:
        """A new leader: perhaps let it live for a few round trips only."""
        world = self._world
        if self._random.random() < world.knobs.assassin:
            trip = 2 * world.knobs.delay_us + world.knobs.sync_us
            delay = int(trip * self._random.uniform(0.2, 4))
            world.at(delay, self._crash_incarnation, node, node.incarnation)

    def _crash_incarnation(self, node: Node, incarnation: int) -> None:
        if node.incarnation == incarnation:
            self._crash(node)

    def _partition(self) -> None:
        """Cut the members in two, or one off, or a random set of links; perhaps one way only."""
        world = self._world
        if len(world.names) == 1:
            return  # Nobody to be cut off from.
        if any(world.blocked.values()) and self._random.random() < 0.8:
            return  # Mostly one at a time: cutting off a leader tells more if the others agree.
        names = list(world.names)
        self._random.shuffle(names)
        shape = self._random.randrange(4)
        if shape == 3:  # Cut a leader off: it does not know yet, and the others elect another.
            leading = [name for name in names if type(world.nodes[name].core.role) is Leader]
            names = [*leading[:1], *(name for name in names if name not in leading[:1])]
        cut = 1 if shape in (0, 3) else self._random.randrange(1, len(names))
        links = [(a, b) for a in names[:cut] for b in names[cut:]]
        if shape == 2:  # A ring, a bridge, or whatever comes out.
            pairs = [(a, b) for a in names for b in names if a < b]
            links = [pair for pair in pairs if self._random.random() < 0.5]
        one_way = self._random.random() < world.knobs.one_way
        if not one_way:
            links += [(b, a) for a, b in links]
        elif self._random.random() < 0.5:
            links = [(b, a) for a, b in links]
        world.count("partitions one way" if one_way else "partitions")
        for link in links if not one_way else ():
            self._report(world.nodes[link[0]], link[1])
        self._cut(links)

    def _cut(self, links: list[tuple[NodeId, NodeId]]) -> None:
        """Nothing gets over these links for a while."""
        world = self._world
        for link in links:
            world.blocked[link] = world.blocked.get(link, 0) + 1
        length = int(world.knobs.partition_us * self._random.uniform(0.2, 2))
        world.at(length, self._rejoin, links)

    def _rejoin(self, links: list[tuple[NodeId, NodeId]]) -> None:
        blocked = self._world.blocked
        for link in links:
            if blocked.get(link):
                blocked[link] -= 1

    def _sicken(self) -> None:
        """A disk is ill for a while: its member must not lead."""
        world = self._world
        node = self._random.choice(list(world.nodes.values()))
        world.count("disks sick")
        self._set_electable(node, False)
        world.at(int(self._random.uniform(0.1, 3) * 1_000_000), self._set_electable, node, True)

    def _set_electable(self, node: Node, electable: bool) -> None:
        node.electable = electable
        if node.up:
            self._world.post(node, ElectableChanged(electable=electable))

    def _hand_over(self) -> None:
        """To anybody, itself and the dead included."""
        node = self._mostly_a_leader()
        if node.up:
            self._world.transfer(node, self._random.choice(list(self._world.names)))

    def _change_members(self) -> None:
        """Mostly something that is possible as far as the member asked knows."""
        node = self._mostly_a_leader()
        if not node.up:
            return
        pick = self._random.choice
        chance = self._random.random()
        names = list(self._world.names)
        known = node.core.configuration
        others = [name for name in names if name not in known.members]
        voter = pick(known.voters)
        change: Change = Remove(node=pick(names))
        if known.learners and chance < 0.3:
            change = Replace(old=voter, new=pick(known.learners))
        elif known.learners and chance < 0.6:
            change = Promote(node=pick(known.learners))
        elif others and (chance < 0.7 or len(known.voters) < 3):
            change = AddLearner(node=pick(others))
        elif chance < 0.95:
            change = Remove(node=voter)
        self._world.change_members(node, change)

    def _retain(self) -> None:
        """A leader finds its log too long."""
        node = self._mostly_a_leader()
        if node.up:
            self._world.retention.decide(node)

    def _stall(self) -> None:
        """A member stands still, stopped or busy with something else, and its clock with it."""
        world = self._world
        node = self._mostly_a_leader()
        if node.listens:
            world.count("stalls")
            length = int(self._random.uniform(0.05, 2.5) * 1_000_000)
            node.still_until = world.now + length
            world.at(length, self._go_on, node, node.incarnation)

    def _go_on(self, node: Node, incarnation: int) -> None:
        """It finds that out before anything else, and a client is there at once."""
        if node.up and node.incarnation == incarnation:
            self._world.post(node, ClockStalled())
            self._world.read(node)

    def _ambush(self) -> None:
        """A leader hands over, or all others restart; and it is cut off before it hears of that."""
        world = self._world
        leader = self._mostly_a_leader()
        others = [name for name in world.names if name != leader.name]
        if not leader.listens or not others:
            return
        world.count("ambushes")
        links = [link for other in others for link in ((leader.name, other), (other, leader.name))]
        if self._random.random() < 0.5:
            world.transfer(leader, self._random.choice(others))
            trip = 2 * world.knobs.delay_us + world.knobs.sync_us
            world.at(int(trip * self._random.random()), self._cut, links)
            return
        self._cut(links)
        for other in others:
            node = world.nodes[other]
            if node.up:
                world.crash(node)
                world.at(self._random.randrange(1, 10_000), world.restart, node)

    def _mostly_a_leader(self) -> Node:
        nodes = list(self._world.nodes.values())
        leaders = [node for node in nodes if node.up and type(node.core.role) is Leader]
        return self._random.choice(leaders if leaders and self._random.random() < 0.9 else nodes)

    def _false_alarm(self) -> None:
        names = list(self._world.names)
        if len(names) > 1:
            a, b = self._random.sample(names, 2)
            self._world.count("false alarms")
            self._report(self._world.nodes[a], b)

    def _report(self, node: Node, peer: NodeId) -> None:
        if self._random.random() < self._world.knobs.unreachable:
            self._world.at(self._random.randrange(20_000), self._tell, node, peer)

    def _tell(self, node: Node, peer: NodeId) -> None:
        if node.up:
            self._world.post(node, PeerUnreachable(peer=peer))
