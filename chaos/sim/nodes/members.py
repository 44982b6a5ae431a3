"""The members of one simulated group and their name server: how they start, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio
from attrs import define, field

from broker.app import Broker
from broker.config import BrokerConfig, LedgerSettings
from broker.ground import Ground
from chaos.sim.nodes.host import Machine, Process, surroundings
from chaos.sim.nodes.scheduling import TASKS
from chaos.sim.nodes.story import Story, Violation
from dledger_py.actors import fail_stop_in
from namesrv.app import NameServer
from namesrv.config import NamesrvConfig

NAME_SERVER = ("10.0.1.1", 9876)
CLIENT_PORT = 10911
PEER_PORT = 10912


def _set_event() -> trio.Event:
    event = trio.Event()
    event.set()
    return event


@define(eq=False)
class Member:
    """One member through all its lives."""

    machine: Machine
    config: BrokerConfig
    story: Story
    on_made: Callable[[Member], None]
    """Called with every new broker, before it runs."""
    process: Process | None = None
    broker: Broker | None = None
    ended: trio.Event = field(factory=_set_event)
    """Whether there is no life under way, not even one that is being wound up."""
    fail_stops: int = 0

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive

    @property
    def leads(self) -> bool:
        return self.alive and self.broker is not None and self.broker.leadership.leads

    async def live(self) -> None:
        """One life, from its start to its end, however that comes."""
        self.process = process = self.machine.boot()
        process.on_power_cut = Process.lose_power
        TASKS.set(process.tasks)
        ground = Ground(host=process, files=process.files, surroundings=surroundings(process))
        try:
            with process.scope:
                self.broker = Broker(self.config, ground=ground)
                self.on_made(self)
                await self.broker.run()
        except BaseException as error:
            if only_cancelled(error):  # the world ends
                raise
            self._judge_end(process, error)
        finally:
            process.die()
            self.ended.set()

    def _judge_end(self, process: Process, error: BaseException) -> None:
        """A dead process may end in any way; one that is alive only by a FailStop."""
        if not process.alive:
            return
        stop = fail_stop_in(error)
        if stop is None:
            raise Violation(f"{self.name} crashed: {error!r}") from error
        self.fail_stops += 1
        self.story.add(self.name, f"stopped itself: {stop}")


def config_of(
    name: str, names: tuple[str, ...], folder: Path, settings: LedgerSettings
) -> BrokerConfig:
    members = {each: f"{address_of(each)}:{CLIENT_PORT}" for each in names}
    return BrokerConfig(
        node=name,
        listen=members[name],
        members=members,
        data_dir=folder / name,
        namesrv=(f"{NAME_SERVER[0]}:{NAME_SERVER[1]}",),
        vip=False,
        ledger=settings,
        disk_floor_bytes=1 << 20,
    )


def peer_address_of(name: str) -> str:
    """Where it listens for its peers."""
    return f"{address_of(name)}:{PEER_PORT}"


def address_of(name: str) -> str:
    """n0 has 10.0.0.1, and so on."""
    return f"10.0.0.{int(name[1:]) + 1}"


async def live_as_name_server(machine: Machine, story: Story, folder: Path) -> None:
    """One life of the name server."""
    process = machine.boot()
    TASKS.set(process.tasks)
    config = NamesrvConfig(listen=f"{NAME_SERVER[0]}:{NAME_SERVER[1]}", data_dir=folder / "names")
    try:
        with process.scope:
            await NameServer(config, host=process).run()
    except BaseException as error:
        if only_cancelled(error):
            raise
        if process.alive:
            raise Violation(f"the name server crashed: {error!r}") from error
    finally:
        process.die()


def only_cancelled(error: BaseException) -> bool:
    """Whether nothing happened but that somebody outside ended it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)
