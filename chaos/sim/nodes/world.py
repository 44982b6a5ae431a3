"""A simulated cluster through one run: a group of brokers, a name server, clients; faults, then
healing, then rest.

Laws:
- One seed, one run: everything that happens follows from the seed and the plan, in this process
  and in any other. `trace` is a checksum of what was sent, logged and answered, with its times.
- After `seconds` everything is healed. Then a send must succeed within `CALM_S`, and all members
  must come to the same log, the same state and the same consume queues.

Elsewhere: what goes wrong and when (plan), how (nemesis), what must hold (checks).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple, Unpack

import trio
from attrs import define, field

from broker.config import LedgerSettings
from chaos.checkers.messages import CHECKERS
from chaos.recorder import Recorder
from chaos.sim.nodes.checks import Checks
from chaos.sim.nodes.clients import Clients
from chaos.sim.nodes.folder import Folders
from chaos.sim.nodes.host import Machine
from chaos.sim.nodes.members import (
    NAME_SERVER,
    Member,
    address_of,
    config_of,
    live_as_name_server,
)
from chaos.sim.nodes.network import Network, Weather
from chaos.sim.nodes.operator import Operator
from chaos.sim.nodes.scheduling import Agenda, dice
from chaos.sim.nodes.story import Story, Violation
from dledger_py.ledger.fetch_client import ANSWER_S
from dledger_py.ledger.machine import RoleView

CALM_S = 10.0
"""A healed cluster answers a send within this."""

WHOLE_S = 20.0 + ANSWER_S
"""And whoever was taken out of the group, or lost its folder, has a vote again within this."""

AGREE_S = 10.0 + ANSWER_S
"""And all its members are where the leader is within this, once nobody writes: one that mends its
log may have to wait for a member that lost its power before it asks another."""

DELIVER_S = 90.0
"""And every acknowledged message was delivered: clients look for new routes every 30 s."""

SERVICE_RESTART_S = 0.5
"""Until a member that ended after the healing is started again."""

COMPARE_S = 1.0
"""How often states are compared."""


Ts = TypeVarTuple("Ts")


@define(eq=False)
class World:
    """See the module. Made and run inside of `scheduling.run`."""

    agenda: Agenda
    seed: str
    names: tuple[str, ...]
    folders: Folders
    nursery: trio.Nursery
    story: Story
    members: dict[str, Member] = field(factory=dict)
    clients: list[Clients] = field(factory=list)
    checks: Checks = field(init=False)
    recorder: Recorder = field(factory=Recorder)
    faults: trio.Nursery = field(init=False)
    """Where faults are inflicted, as long as there may be any."""
    network: Network = field(init=False)
    names_machine: Machine = field(init=False)
    starts: int = 0
    rotten: Member | None = None
    """Whose disk may be damaged, or was emptied."""
    operator: Operator = field(init=False)
    _names_wanted: trio.Event = field(factory=trio.Event)
    failure: Violation | None = None

    def __attrs_post_init__(self) -> None:
        chance = dice(self.seed, "knobs")
        random.seed(f"{self.seed}/client jitter")
        weather = Weather(
            delay_s=(0.0002, chance.choice((0.001, 0.003, 0.03))),
            buffer_bytes=chance.choice((4 << 10, 64 << 10, 1 << 20)),
            short_send=chance.choice((0.0, 0.02, 0.3)),
        )
        settings = LedgerSettings(
            peers={name: f"{address_of(name)}:10912" for name in self.names},
            tick_ms=chance.choice((50, 100)),
            heartbeat_ms=200,
            election_timeout_ms=chance.choice((600, 1000)),
            segment_size_bytes=chance.choice((16 << 10, 64 << 10, 1 << 20)),
            snapshot_every_bytes=chance.choice((20_000, 100_000, 1 << 30)),
        )
        self.checks = Checks(self.members)
        self.network = Network(self.agenda, dice(self.seed, "network"), weather)
        self.network.tap = self._guarded(self.checks.overhear)
        for name in self.names:
            config = config_of(name, self.names, self.folders.root, settings)
            machine = self._machine(name, address_of(name))
            self.members[name] = Member(machine, config, self.story, self._made)
        self.operator = Operator(self)
        self.names_machine = self._machine("ns", NAME_SERVER[0])
        pause_s = chance.choice((0.1, 0.4, 1.0))
        for number in range(2):
            self.clients.append(
                Clients(
                    self._machine(f"c{number}", f"10.0.2.{number + 1}"),
                    self.recorder,
                    self.story,
                    dice(self.seed, f"client {number}"),
                    pause_s,
                    producers=2,
                )
            )

    def _machine(self, name: str, address: str) -> Machine:
        return Machine(name, address, self.network, self.seed)

    # ---- the run

    async def run(self, inflict: Callable[[World], Awaitable[None]], seconds: float) -> None:
        """**Raises** Violation."""
        self.start_names()
        self.nursery.start_soon(self._keep_name_server)
        for member in self.members.values():
            self.start(member)
        for clients in self.clients:
            await self.nursery.start(clients.run)
        self.nursery.start_soon(self._compare_for_ever)
        self.nursery.start_soon(self.operator.run)
        with trio.move_on_at(seconds):
            async with trio.open_nursery() as self.faults:
                await inflict(self)
                await trio.sleep_forever()
        await self._rest()
        self._judge()

    async def _rest(self) -> None:
        self.story.add("-", "healed")
        await self.heal()
        await self._within(CALM_S, "send is acknowledged", self._any_send())
        for clients in self.clients:
            clients.stopped = True
        await self._within(CALM_S, "answer to each send", self._all_answered)
        await self._within(WHOLE_S, "group with all its members", self.operator.is_whole)
        await self._within(AGREE_S, "agreement", self._agreed)
        for member in self.members.values():
            self.checks.compare_state(member)
        self.checks.compare_queues(list(self.members.values()))
        recorder = self.recorder
        await self._within(
            DELIVER_S, "delivery", lambda: recorder.acknowledged <= recorder.received
        )
        with trio.move_on_after(DELIVER_S) as patience:
            await self.clients[0].inspect()
        if patience.cancelled_caught:
            raise Violation(f"W9: the queues cannot be read within {DELIVER_S:g} s of calm")
        self._raise()

    def _judge(self) -> None:
        history = self.recorder.history()
        for checker in CHECKERS:
            for finding in checker(history):
                raise Violation(f"{checker.__name__}: {finding}")

    async def heal(self) -> None:
        """Everything works again, but for damaged disks."""
        self.network.clear()
        self.start_names()
        for member in self.members.values():
            machine = member.machine
            machine.disk.heal()
            machine.disk_delay_s = 0.001
            if member.process is not None and member.process.tasks.paused:
                member.process.tasks.go_on()
        for member in self.members.values():
            self.nursery.start_soon(self._keep_running, member)

    async def close(self) -> None:
        """End everybody, the impolite way."""
        for member in self.members.values():
            if member.process is not None:
                member.process.die()
        if self.names_machine.process is not None:
            self.names_machine.process.die()
        for clients in self.clients:
            clients.die()
        self.nursery.cancel_scope.cancel()

    async def _within(self, limit_s: float, what: str, holds: Callable[[], bool]) -> None:
        began = trio.current_time()
        while not holds():
            self._raise()
            if trio.current_time() - began > limit_s:
                raise Violation(f"W9: no {what} within {limit_s:g} s of calm: {self._where()}")
            await trio.sleep(0.05)

    def _any_send(self) -> Callable[[], bool]:
        before = [clients.acknowledged for clients in self.clients]
        return lambda: all(
            clients.acknowledged > count
            for clients, count in zip(self.clients, before, strict=True)
        )

    def _all_answered(self) -> bool:
        return not any(clients.sending for clients in self.clients)

    def _agreed(self) -> bool:
        ledgers = [member.broker.ledger for member in self.members.values() if member.broker]
        statistics = [ledger.statistics() for ledger in ledgers]
        indices = [each and (each.applied_index, each.raft.last_index) for each in statistics]
        return all(each and each == indices[0] and each[0] == each[1] for each in indices)

    def _where(self) -> str:
        parts = []
        for member in self.members.values():
            broker = member.broker
            found = broker.ledger.statistics() if broker is not None and member.alive else None
            if found is None:
                parts.append(f"{member.name} is down")
            else:
                parts.append(
                    f"{member.name} {found.view.role}@{found.view.term}"
                    f" applied {found.applied_index} of {found.raft.last_index}"
                )
        return ", ".join(parts)

    # ---- members

    async def restart(self, member: Member) -> None:
        """Begin a new life once the last one has ended, unless there is one."""
        if not member.alive:
            await member.ended.wait()
            self.start(member)

    async def _keep_running(self, member: Member) -> None:
        """As a service manager would, one that is stopping at the moment among them."""
        while True:
            await self.restart(member)
            await member.ended.wait()
            await trio.sleep(SERVICE_RESTART_S)

    def start(self, member: Member) -> None:
        """Begin a new life, unless there is one."""
        if member.ended.is_set():
            member.ended = trio.Event()
            self.starts += 1
            self.nursery.start_soon(self._live, member)

    async def _live(self, member: Member) -> None:
        try:
            await member.live()
        except Violation as violation:
            self._fail(violation)

    def empty(self, member: Member) -> None:
        """All that a member had is gone, while it does not run."""
        folder = member.config.data_dir
        member.machine.disk.empty(str(folder))
        self.folders.empty(folder)
        self.checks.emptied(member.name)

    def leader(self) -> Member | None:
        leaders = [member for member in self.members.values() if member.leads]
        return max(leaders, key=lambda one: one.broker.ledger.view.term) if leaders else None  # type: ignore[union-attr]

    def _made(self, member: Member) -> None:
        broker = member.broker
        assert broker is not None
        process = member.process
        self.checks.started(member)
        assert process is not None
        chance = process.random
        process.on_powerless = lambda: self.folders.crash(broker.config.data_dir, chance)

        def turn() -> None:
            if process is member.process and member.alive:
                self._guarded(self.checks.turn)(member)

        def role_changed(view: RoleView) -> None:
            if process is member.process and member.alive:
                self._guarded(self.checks.role_changed)(member, view)

        broker.ledger.after_turn(turn)
        broker.ledger.on_role_change(role_changed)

    async def _keep_name_server(self) -> None:
        while True:
            await self._names_wanted.wait()
            await self._live_as_name_server()

    async def _live_as_name_server(self) -> None:
        try:
            await live_as_name_server(self.names_machine, self.story, self.folders.root)
        except Violation as violation:
            self._fail(violation)

    def start_names(self) -> None:
        self._names_wanted.set()

    def kill_names(self) -> None:
        if self._names_wanted.is_set():  # else it is down, and waited for already
            self._names_wanted = trio.Event()
        if self.names_machine.process is not None:
            self.names_machine.process.die()

    # ---- checks

    async def _compare_for_ever(self) -> None:
        while True:
            await trio.sleep(COMPARE_S)
            for member in self.members.values():
                self._guarded(self.checks.compare_state)(member)

    def _guarded(self, check: Callable[[Unpack[Ts]], None]) -> Callable[[Unpack[Ts]], None]:
        """A check that is called from inside of a member, which must not swallow its finding."""

        def run(*args: *Ts) -> None:
            try:
                check(*args)
            except Violation as violation:
                self._fail(violation)

        return run

    def _fail(self, violation: Violation) -> None:
        if self.failure is None:
            self.failure = violation
            self.story.add("-", str(violation))
            self.nursery.cancel_scope.cancel()

    def _raise(self) -> None:
        if self.failure is not None:
            raise self.failure
