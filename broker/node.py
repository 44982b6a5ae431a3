"""One process: a member of a broker group, or of each of several.

    node
    ├─ reception      the one listener for peers, where there are several groups
    ├─ broker-a       a whole member: ledger, queues, rooms, a port for clients (see `app`)
    ├─ broker-b
    └─ farewell       hands the leadership of all groups over before a planned stop; a single member
                      does so by itself

Members of different groups have nothing in common but the loop, the listener for peers and the
disk: each has a folder of its own, and a thread that writes its log. They start and serve side by
side, and none waits for another. But they end together: what ends one for good, a failed write or a
damaged log, ends the process. The others are on the same disk, and an operator looks after one
process, not after half of one.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, Never

import structlog
import trio
from attrs import define

from broker.app import Broker
from broker.config import BrokerConfig
from broker.ground import Ground
from broker.serving.farewell import Farewell
from dledger_py.actors import (
    Actor,
    Child,
    FailStop,
    Inbox,
    RestartsExhausted,
    Supervisor,
    TreeNode,
)
from dledger_py.ledger.config import split_address
from dledger_py.ledger.credentials import Credentials
from dledger_py.ledger.peer_link import open_listener
from dledger_py.ledger.reception import Reception
from dledger_py.ledger.reopening import Reopen
from dledger_py.runtime import process

log = structlog.get_logger()

REOPENINGS_MAX: Final = 5
REOPENINGS_S: Final = 600
"""Openings that should mend something, in so many seconds. More, and it is not what opening mends:
the process ends, and says so."""


class Node:
    """Makes the members of one process and runs them under one supervisor."""

    def __init__(
        self,
        config: BrokerConfig,
        *,
        on_ready: Callable[[], None] | None = None,
        ground: Ground | None = None,
    ) -> None:
        """`on_ready` is called when all members answer clients. Raises: FailStop."""
        ground = ground or Ground()
        groups = config.by_group()
        self._on_ready = on_ready
        self._unready = len(groups)
        self.reception = _reception(config, ground) if len(groups) > 1 else None
        self.brokers = tuple(
            Broker(each, on_ready=self._one_ready, ground=ground, reception=self.reception)
            for each in groups
        )
        ledgers = tuple(broker.ledger for broker in self.brokers)
        self.supervisor = Supervisor(
            "node",
            (
                *(() if self.reception is None else (_child("reception", self.reception),)),
                *(_child(b.config.broker_name, _Member(b)) for b in self.brokers),
                *(() if self.reception is None else (_child("farewell", Farewell(ledgers)),)),
            ),
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled, which is a polite stop. Raises: FailStop."""
        try:
            await self.supervisor.serve(task_status=task_status)
        finally:
            if self.reception is not None:
                self.reception.listener.close()

    def tree(self) -> TreeNode:
        """The actors as they are now."""
        return self.supervisor.tree()

    def _one_ready(self) -> None:
        self._unready -= 1
        if not self._unready and self._on_ready is not None:
            self._on_ready()


@define(eq=False)
class _Member:
    """A member as an actor of the process. Ready at once: groups start side by side."""

    broker: Broker

    async def run(self, inbox: Inbox[Never]) -> None:
        group = self.broker.config.broker_name
        inbox.ready()
        with structlog.contextvars.bound_contextvars(group=group):
            try:
                await self.broker.live(inbox)
            except RestartsExhausted as error:
                raise FailStop(f"the member of group {group} cannot go on: {error}") from error

    def tree(self) -> TreeNode:
        return self.broker.tree()


async def live(
    make: Callable[[], Node], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a node until cancelled, and a new one in its place whenever a ledger has to be opened
    again: neither its machine nor the queues' files can be rewound. Raises: FailStop."""
    begun_s: deque[float] = deque(maxlen=REOPENINGS_MAX)
    while True:
        try:
            await make().run(task_status)
            return
        except Reopen as error:
            if len(begun_s) == REOPENINGS_MAX and begun_s[0] > trio.current_time() - REOPENINGS_S:
                raise
            begun_s.append(trio.current_time())
            log.warning("broker.reopened", reason=str(error))
            task_status = trio.TASK_STATUS_IGNORED


async def serve(config: BrokerConfig) -> None:
    """Run a process until cancelled, which is a polite stop. Raises: FailStop."""

    def ready() -> None:
        addresses = [
            f"{host}:{port}" for broker in node.brokers for host, port in broker.server.addresses
        ]
        process.freeze_heap()
        process.announce_ready(node=config.node, addresses=addresses)
        log.info("broker.started", node=config.node, addresses=addresses, flush=config.flush)

    process.return_freed_memory()
    for group in config.by_group():
        _make_folder(group.data_dir)
    node: Node

    def make() -> Node:
        nonlocal node
        node = Node(config, on_ready=ready)
        return node

    await live(make)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FailStop(f"the data folder cannot be made: {error}") from error


def _reception(config: BrokerConfig, ground: Ground) -> Reception:
    address = config.ledger.peers[config.node]
    files = config.ledger.tls
    credentials = Credentials(config.node, files) if files is not None else None
    try:
        listener = open_listener(*split_address(address, of=config.node), ground.host)
    except OSError as error:
        raise FailStop(
            f"{config.node} cannot listen for its peers at {address}: {error}"
        ) from error
    return Reception(listener, ground.host, credentials)


def _child(name: str, actor: Actor[Never]) -> Child[Never]:
    return Child(name, lambda: actor)
