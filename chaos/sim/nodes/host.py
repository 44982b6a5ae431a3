"""A simulated machine, and the processes that live on it one after the other.

`Process` implements `runtime.host.Host` for one life of a server. When it dies, by a kill or with
its machine's power, none of its tasks gets to do anything more that others could notice: its
sockets are closed, its files are dead, and whoever waits for anything gets a PowerCut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from random import Random
from typing import Any, TypeVar, TypeVarTuple, Unpack

import anyio
import trio
from anyio.abc import ByteStream, SocketAttribute
from attrs import define, field

from chaos.sim.nodes.disk import ProcessFiles
from chaos.sim.nodes.network import Address, Network, SimPoller, SimSocket
from chaos.sim.nodes.parking import Parked, Parking
from chaos.sim.nodes.scheduling import TASKS, Agenda, Tasks, dice
from dledger_py.client.surroundings import Surroundings
from dledger_py.runtime.host import Socket, Work
from dledger_py.storage.lying import LyingFiles, PowerCut

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH_NS = 1_750_000_000 * 10**9
"""What the wall clock says at the beginning of every run."""

QUICK_DISK_S = 0.001
"""A disk that answers so soon is one that a member may believe to be quick."""

_IN, _OUT = 1, 4  # EPOLLIN, EPOLLOUT


@define(eq=False)
class Machine:
    """Its address, its clock and its disk; on or off."""

    name: str
    address: str
    network: Network
    seed: str
    disk: LyingFiles = field(init=False)
    disk_delay_s: float = QUICK_DISK_S
    """Longest pause before and behind whatever a thread does."""
    clock_off_s: float = 0.0
    """How wrong the wall clock is."""
    lives: int = 0
    process: Process | None = None

    def __attrs_post_init__(self) -> None:
        self.disk = LyingFiles(seed=f"{self.seed}/{self.name}/disk")

    @property
    def agenda(self) -> Agenda:
        return self.network.agenda

    def boot(self) -> Process:
        """A new process. The one before must be dead."""
        assert self.process is None or not self.process.alive
        self.lives += 1
        self.network.switch_on(self.address)
        self.process = Process(self, dice(self.seed, f"{self.name}/{self.lives}"))
        return self.process


class Process:
    """One life of a server or client. Implements `runtime.host.Host`."""

    def __init__(self, machine: Machine, random: Random) -> None:
        self.machine = machine
        self.random = random
        self.alive = True
        self.tasks = Tasks(machine.name)
        self.parked = Parked()
        self.scope = trio.CancelScope()
        self.context = copy_context()
        """For what is done outside of any task."""
        self.context.run(TASKS.set, self.tasks)
        self.on_powerless: Callable[[], None] = lambda: None
        """Called once the power is gone, for what is not on the machine's disk."""
        self.on_power_cut: Callable[[Process], None] = Process.die
        self._network = machine.network
        self._sockets: dict[int, SimSocket] = {}
        self._pollers: dict[int, SimPoller] = {}

    def die(self) -> None:
        """SIGKILL: the kernel closes what was open, and keeps the page cache."""
        if self.alive:
            self._end()
            for sock in list(self._sockets.values()):
                sock.close()
            self.machine.disk.kill()

    def lose_power(self) -> None:
        """Nobody closes anything, and the disk has what the disk has."""
        if self.alive:
            self._end()
            self._network.switch_off(self.machine.address)
            self.machine.disk.crash()
            self.on_powerless()

    def _end(self) -> None:
        self.alive = False
        self.tasks.go_on()
        self.parked.end_all()

    @property
    def files(self) -> ProcessFiles:
        """The machine's disk, for as long as this process lives."""
        return ProcessFiles(self.machine.disk, self.check_alive)

    # ---- Host

    def now_ns(self) -> int:
        now_s = self.machine.agenda.now + self.machine.clock_off_s
        return EPOCH_NS + int(now_s * 1e6) * 1000

    def monotonic_s(self) -> float:
        return self.machine.agenda.now

    def monotonic_ns(self) -> int:
        return int(self.machine.agenda.now * 1e6) * 1000

    async def run_in_thread(
        self,
        fn: Callable[[Unpack[Ts]], T],
        *args: *Ts,
        abandon_on_cancel: bool = False,
    ) -> T:
        await self.pause(self.disk_pause_s(), cancellable=abandon_on_cancel)
        try:
            return fn(*args)
        except PowerCut:
            self.on_power_cut(self)
            raise

    async def pause(self, pause_s: float, *, cancellable: bool = True) -> None:
        """Let time pass, as for something outside of this process. **Raises** PowerCut."""
        self.check_alive()
        parking = Parking()
        self.machine.agenda.at(self.machine.agenda.now + pause_s, parking.wake)
        await parking.wait(self.parked, cancellable=cancellable)

    def disk_is_quick(self) -> bool:
        """Now and then, so that both ways of writing take turns; not where the power is to fail in
        the middle of a write, which only threads notice here."""
        machine = self.machine
        return (
            machine.disk_delay_s <= QUICK_DISK_S
            and not machine.disk.stop_is_armed
            and self.random.random() < 0.5
        )

    def worker(self, name: str) -> SimWorker:
        return SimWorker(self)

    def socket(self, family: int) -> SimSocket:
        return self.own(self._network.socket(self.machine.address))

    async def resolve(self, host: str, port: int) -> tuple[int, Address]:
        await trio.lowlevel.checkpoint()
        return 2, (host, port)

    async def dial(self, host: str, port: int) -> SimSocket:
        sock = await self._network.dial(self.machine.address, (host, port), self.pause)
        return self.own(sock)

    def poller(self) -> SimPoller:
        number = self._network.socket(self.machine.address).number
        poller = SimPoller(self._network, number, find=self._find)
        self._pollers[number] = poller
        return poller

    async def wait_readable(self, what: Socket | int) -> None:
        await self._wait(what, _IN)

    async def wait_writable(self, what: Socket | int) -> None:
        await self._wait(what, _OUT)

    def notify_closing(self, what: Socket | int) -> None:
        pass  # closing a simulated socket wakes whoever waits for it

    # ---- within

    def disk_pause_s(self) -> float:
        return self.random.random() * self.machine.disk_delay_s

    def check_alive(self) -> None:
        if not self.alive:
            raise PowerCut

    def own(self, sock: SimSocket) -> SimSocket:
        sock.owner = self
        self._sockets[sock.number] = sock
        return sock

    def disown(self, sock: SimSocket) -> None:
        self._sockets.pop(sock.number, None)

    def _find(self, fd: int) -> SimSocket:
        return self._sockets[fd]

    async def _wait(self, what: Socket | int, mask: int) -> None:
        self.check_alive()
        if isinstance(what, int):
            found: SimSocket | SimPoller = self._pollers[what]
        else:
            assert isinstance(what, SimSocket)
            found = what
        if found.events() & mask:
            await trio.lowlevel.checkpoint()
        else:
            await found.parking.wait(self.parked, mask)
        if isinstance(found, SimSocket) and found.closed:
            raise trio.ClosedResourceError


class SimWorker:
    """A thread that is a chain of appointments. Its disk takes its time before and behind what it
    does, so that work gathers in front of it as it does in front of a real one."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._agenda = process.machine.agenda
        self._queue: deque[Any] = deque()
        self._calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._work: Work[Any] | None = None
        self._busy = True
        self._idles = 0

    def put(self, item: Any) -> None:
        self._queue.append(item)
        if not self._busy:
            self._begin()

    def start(self, work: Work[Any]) -> None:
        self._work = work
        self._wait(next(work))

    def take_nowait(self) -> Any:
        return self._queue.popleft() if self._queue else None

    def call_soon(self, fn: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        self._calls.append((fn, args))

    def _wait(self, wait_s: float | None) -> None:
        self._busy = False
        self._idles += 1
        if self._queue:
            self._begin()
        elif wait_s is not None:
            self._agenda.at(self._agenda.now + wait_s, self._time_out, self._idles)

    def _time_out(self, idle: int) -> None:
        if not self._busy and idle == self._idles:
            self._busy = True
            self._step()

    def _begin(self) -> None:
        self._busy = True
        self._agenda.at(self._agenda.now + self._process.disk_pause_s(), self._step)

    def _step(self) -> None:
        """Do one piece of work, outside of any task, as a thread does."""
        process = self._process
        if process.tasks.paused:
            process.tasks.keep_call(self._step)
            return
        if not process.alive:
            return
        wait_s: float | None = None
        over = False
        try:
            assert self._work is not None
            wait_s = process.context.run(self._work.send, self.take_nowait())
        except StopIteration:
            over = True
        if process.machine.disk.stopped:
            process.on_power_cut(process)
        elif self._calls:
            self._agenda.at(self._agenda.now + process.disk_pause_s(), self._report, wait_s, over)
        elif not over:
            self._wait(wait_s)

    def _report(self, wait_s: float | None, over: bool) -> None:
        process = self._process
        if process.tasks.paused:
            process.tasks.keep_call(lambda: self._report(wait_s, over))
            return
        if not process.alive:
            return
        calls, self._calls = self._calls, []
        for fn, args in calls:
            process.context.run(fn, *args)
        if not over:
            self._wait(wait_s)


class SimStream(ByteStream):
    """A connection as a client has it."""

    def __init__(self, process: Process, sock: SimSocket) -> None:
        self._process = process
        self._socket = sock

    @property
    def extra_attributes(self) -> dict[Any, Callable[[], Any]]:
        return {
            SocketAttribute.local_address: lambda: self._socket.address,
            SocketAttribute.raw_socket: lambda: self._socket,
        }

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while True:
            try:
                await self._process.wait_readable(self._socket)
                content = self._socket.recv(max_bytes)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:
                raise anyio.ClosedResourceError from None
            except OSError as error:
                raise anyio.BrokenResourceError from error
            if not content:
                raise anyio.EndOfStream
            return content

    async def send(self, item: bytes) -> None:
        await trio.lowlevel.checkpoint()
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await self._process.wait_writable(self._socket)
            except OSError as error:
                raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        raise NotImplementedError("our clients close both directions at once")

    async def aclose(self) -> None:
        self._socket.close()
        await trio.lowlevel.checkpoint()


def surroundings(process: Process) -> Surroundings:
    """What a client of this process takes from outside."""

    async def dial(host: str, port: int) -> ByteStream:
        return SimStream(process, await process.dial(host, port))

    return Surroundings(
        dial=dial,
        now_s=lambda: process.now_ns() / 1e9,
        pid=lambda: process.machine.lives,
        randbits=process.random.getrandbits,
    )
