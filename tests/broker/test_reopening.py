"""A process goes on when a ledger has to be opened again: everything in it is made anew."""

import pytest
import trio
from attrs import evolve
from structlog.testing import capture_logs

from broker import node
from broker.node import Node, live
from dledger_py.actors import FailStop
from dledger_py.client import ClientError
from dledger_py.ledger import scrubber
from dledger_py.ledger.reopening import Reopen
from dledger_py.storage import anchors
from tests.broker.broker_kit import BrokerGroup, brokers, dial, pull, send

TOPIC = "TopicTest"


@pytest.fixture(autouse=True)
def short_tails(monkeypatch):
    """Little is read of a segment that is not the last one."""
    monkeypatch.setattr(anchors, "ANCHOR_SPACING_BYTES", 500)


class Nodes:
    """The processes of a group: each runs one node after another."""

    def __init__(self, group: BrokerGroup) -> None:
        self.group = group
        self.made: dict[str, list[Node]] = {name: [] for name in group.names}
        self.ready: list[str] = []
        self.news = trio.Event()
        self._scopes: dict[str, trio.CancelScope] = {}
        self._ended: dict[str, trio.Event] = {}

    def start(self, name: str) -> None:
        self._ended[name] = trio.Event()
        self.group.nursery.start_soon(self._live, name)

    async def stop(self, name: str) -> None:
        self._scopes[name].cancel()
        await self._ended[name].wait()
        self.ready.remove(name)

    async def _live(self, name: str) -> None:
        with trio.CancelScope() as self._scopes[name]:
            await live(lambda: self._make(name))
        self._ended[name].set()

    async def wait_leader(self, *names: str) -> str:
        """The one of these that leads, and has made the topics that every broker has."""

        def leading() -> list[str]:
            brokers = {name: self.broker(name) for name in names if self.made[name]}
            return [
                name
                for name, broker in brokers.items()
                if broker.leadership.leads and len(broker.machine.topics) > 10
            ]

        while not leading():
            await trio.lowlevel.checkpoint()
        return leading()[0]

    def broker(self, name: str):
        return self.made[name][-1].brokers[0]

    async def until(self, condition) -> None:
        while not condition():
            await self.news.wait()

    def _make(self, name: str) -> Node:
        config = self.group.config(name)
        small = evolve(config.ledger, segment_size_bytes=3000)  # the rot is not in the last one
        config = evolve(config, ledger=small)
        config.data_dir.mkdir(exist_ok=True)
        made = Node(config, on_ready=lambda: self._one_ready(name))
        made.brokers[0].ledger.on_role_change(lambda view: self._tell())
        self.made[name].append(made)
        return made

    def _one_ready(self, name: str) -> None:
        self.ready.append(name)
        self._tell()

    def _tell(self) -> None:
        self.news.set()
        self.news = trio.Event()


async def test_a_member_whose_log_rotted_while_it_ran_serves_all_messages_again(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(scrubber, "PASS_S", 0.0)
    async with brokers(tmp_path, 3) as group:
        nodes = Nodes(group)
        victim = await _start_and_store(nodes)
        with capture_logs() as logs:
            _rot(tmp_path / victim, b"message 7!")
            await nodes.until(lambda: nodes.ready.count(victim) == 2)
        await _check_mended(nodes, victim, logs)
        group.nursery.cancel_scope.cancel()


async def test_a_message_that_rotted_is_handed_out_once_it_is_mended(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        nodes = Nodes(group)
        victim = await _start_and_store(nodes)
        with capture_logs() as logs:
            _rot(tmp_path / victim, b"message 7!")
            async with dial(Dialled(nodes.broker(victim))) as connection:
                with pytest.raises(ClientError):
                    await pull(connection, TOPIC)
            await nodes.until(lambda: nodes.ready.count(victim) == 2)
        await _check_mended(nodes, victim, logs)
        group.nursery.cancel_scope.cancel()


async def _start_and_store(nodes: Nodes) -> str:
    """Twenty messages, on the disks of all three members. Returns one of those that follow."""
    names = nodes.group.names
    for name in names:
        nodes.start(name)
    await nodes.until(lambda: len(nodes.ready) == 3)
    leader = await nodes.wait_leader(*names)
    victim = next(name for name in names if name != leader)
    async with dial(Dialled(nodes.broker(leader))) as connection:
        for number in range(20):
            await send(connection, TOPIC, b"message %d!" % number)
    ledger = nodes.broker(victim).ledger
    index = nodes.broker(leader).ledger.applied_index
    while ledger.applied_index < index:
        await trio.lowlevel.checkpoint()
    return victim


async def _check_mended(nodes: Nodes, victim: str, logs) -> None:
    async with dial(Dialled(nodes.broker(victim))) as connection:
        reply = await pull(connection, TOPIC)

    assert [b"message %d!" % number in reply.body for number in range(20)] == [True] * 20
    events = [each["event"] for each in logs]
    assert events.index("broker.reopened") < events.index("log.repaired")
    assert 2 == len(nodes.made[victim])
    assert [1, 1] == [len(nodes.made[name]) for name in nodes.group.names if name != victim]


class Dialled:
    def __init__(self, broker) -> None:
        self.address = broker.server.addresses[0]


def _rot(folder, wanted: bytes) -> None:
    (path,) = (each for each in folder.glob("*.log") if wanted in each.read_bytes())
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(wanted))
        file.write(b"M")


class Ending:
    """A node that ends like this."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def run(self, task_status) -> None:
        task_status.started()
        if self.error is not None:
            raise self.error


async def test_a_stop_that_is_for_good_is_for_good() -> None:
    made = []

    def make():
        made.append(Ending(FailStop("the disk is full")))
        return made[-1]

    with pytest.raises(FailStop, match="disk is full"):
        await live(make)
    assert 1 == len(made)


async def test_what_opening_does_not_mend_ends_the_process(autojump_clock) -> None:
    made = []

    def make():
        made.append(Ending(Reopen("again")))
        return made[-1]

    with pytest.raises(Reopen):
        await live(make)
    assert node.REOPENINGS_MAX + 1 == len(made)


async def test_openings_far_apart_are_no_reason_to_end(autojump_clock) -> None:
    made = []

    class Slow(Ending):
        async def run(self, task_status) -> None:
            await trio.sleep(node.REOPENINGS_S / node.REOPENINGS_MAX + 1)
            await super().run(task_status)

    def make():
        made.append(Slow(Reopen("again") if len(made) < 20 else None))
        return made[-1]

    await live(make)
    assert 21 == len(made)
