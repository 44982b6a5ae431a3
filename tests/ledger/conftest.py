"""A group of ledgers in one process: real sockets on loopback, real actors, chosen ports."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, field

from dledger_py.actors import Child, Restart, Supervisor
from dledger_py.ledger.config import LedgerConfig
from dledger_py.ledger.ledger import Ledger
from dledger_py.ledger.machine import Applied, Committed
from dledger_py.ledger.peer_link import open_listener
from dledger_py.storage import FileSystem

PATIENCE_S = 20.0
"""Every wait here ends by an event; this is only how long a broken build takes to fail."""


@define(eq=False)
class Recorder:
    """A machine that remembers what it was given, and answers with how much that is."""

    commands: list[bytes] = field(factory=list)
    positions: list[int] = field(factory=list)
    performed: list[Any] = field(factory=list)

    def apply(self, committed: Committed) -> Applied:
        if bytes(committed.payload) == b"poison":
            raise RuntimeError("no such command")
        self.commands.append(bytes(committed.payload))
        self.positions.append(committed.position)
        return Applied(reply=len(self.commands), effects=(("seen", committed.index),))

    def perform(self, committed: Committed, applied: Applied) -> None:
        self.performed.extend(applied.effects)


@define(eq=False)
class Member:
    """One running ledger, or one that ran."""

    name: str
    ledger: Ledger
    machine: Recorder
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    ended: trio.Event = field(factory=trio.Event)
    error: BaseException | None = None
    supervisor: Supervisor = field(init=False)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        self.supervisor = Supervisor(
            f"around {self.name}", (Child("ledger", lambda: self.ledger, restart=Restart.NEVER),)
        )
        try:
            with self.scope:
                await self.supervisor.serve(task_status=task_status)
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()


@define(eq=False)
class Group:
    """Members on reserved ports; each can be started, stopped and started again."""

    nursery: trio.Nursery
    folder: Path
    names: tuple[str, ...]
    settings: dict[str, Any]
    files: Callable[[str], FileSystem | None]
    machine: Callable[[], Recorder] = Recorder
    own_settings: Callable[[str], dict[str, Any]] = lambda name: {}
    peers: dict[str, str] = field(factory=dict)
    members: dict[str, Member] = field(factory=dict)
    _sockets: dict[str, socket.socket] = field(factory=dict)
    _news: trio.Event = field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        for name in self.names:
            sock = open_listener("127.0.0.1", 0)
            self._sockets[name] = sock
            self.peers[name] = f"127.0.0.1:{sock.getsockname()[1]}"

    def make(self, name: str, **settings: Any) -> Member:
        """A member that is not running yet."""
        config = LedgerConfig(
            node=name,
            peers=settings.pop("peers", self.peers),
            data_dir=str(self.folder / name),
            **{
                # The machine's disk may hang for half a second now and then, and a leader whose
                # disk hangs gives way. A test in which a member's silence has to be noticed sets
                # a short one; a broken connection is noticed at once anyway.
                "election_timeout_ms": 10_000,
                "heartbeat_ms": 40,
                **self.settings,
                **self.own_settings(name),
                **settings,
            },
        )
        machine = self.machine()
        ledger = Ledger(
            config,
            machine,
            perform=machine.perform,
            files=self.files(name),
            # The ledger closes it, so a member that is started again opens its own.
            listener=None if name in self.members else self._sockets[name],
        )
        ledger.on_role_change(lambda view: self._tell())
        ledger.after_turn(self._tell)
        member = self.members[name] = Member(name, ledger, machine)
        return member

    async def start(self, *names: str, **settings: Any) -> None:
        for name in names or self.names:
            member = self.make(name, **settings)
            await self.nursery.start(member.run)
            if member.error is not None:
                raise member.error

    async def stop(self, name: str) -> None:
        """Politely: the log is sealed and closed."""
        member = self.members[name]
        member.scope.cancel()
        await member.ended.wait()

    async def wait_until(self, condition: Callable[[], Any]) -> Any:
        """Look again whenever any member's role changes or anything is applied anywhere."""
        with trio.fail_after(PATIENCE_S):
            while not (found := condition()):
                self._news = trio.Event()
                await self._news.wait()
        return found

    async def wait_leader(self, *, but: str | None = None) -> Member:
        """A member that leads and is ready."""

        def leader() -> Member | None:
            for member in self.members.values():
                view = member.ledger.view
                alive = not member.ended.is_set() and not member.scope.cancel_called
                if alive and member.name != but and view.role == "leader" and view.ready:
                    return member
            return None

        found = await self.wait_until(leader)
        assert isinstance(found, Member)
        return found

    async def wait_connected(self) -> None:
        """Until every member has dialled every other."""
        running = [member.ledger.parts for member in self.members.values()]
        while not all(link.statistics().connected for p in running for link in p.links.all()):
            await trio.lowlevel.checkpoint()

    async def wait_heard(self) -> None:
        """Until every running member has heard every other's hello."""
        running = [m.ledger for m in self.members.values() if not m.ended.is_set()]
        while not all(ledger.members.all_heard for ledger in running):
            await trio.lowlevel.checkpoint()

    async def wait_applied(self, count: int, *names: str) -> None:
        """Until these members (or all running) have applied `count` commands."""
        running = [
            self.members[name]
            for name in names or self.names
            if not self.members[name].ended.is_set()
        ]
        await self.wait_until(lambda: all(len(m.machine.commands) >= count for m in running))

    def follower(self) -> Member:
        return next(m for m in self.members.values() if m.ledger.view.role != "leader")

    def _tell(self) -> None:
        self._news.set()

    def keep_away(self, name: str) -> None:
        """Do not even listen for this member until it is started: what is said to it is lost."""
        self._sockets[name].close()
        self.make(name)  # which is why it opens a listener of its own when it is made again

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()


@pytest.fixture
def open_group(tmp_path: Path) -> Callable[..., Any]:
    """`async with open_group(3) as group`: members n0, n1, … that are not running yet."""

    @asynccontextmanager
    async def opened(
        size: int = 3,
        *,
        files: Callable[[str], FileSystem | None] = lambda name: None,
        machine: Callable[[], Recorder] = Recorder,
        own_settings: Callable[[str], dict[str, Any]] = lambda name: {},
        **settings: Any,
    ) -> AsyncIterator[Group]:
        names = tuple(f"n{number}" for number in range(size))
        with ExitStack() as at_last:  # listeners are closed when nobody waits at them any more
            async with trio.open_nursery() as nursery:
                group = Group(nursery, tmp_path, names, settings, files, machine, own_settings)
                at_last.callback(group.close)
                try:
                    with trio.fail_after(PATIENCE_S):
                        yield group
                finally:
                    for member in group.members.values():
                        member.scope.cancel()

    return opened
