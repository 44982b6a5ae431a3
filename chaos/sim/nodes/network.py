"""Sockets that are not the kernel's: TCP as far as our servers and clients can tell.

A connection is two sockets. What one is given reaches the other in order, in the pieces chance
makes of it, after the delay of that direction of the link; a direction that is cut holds it back
until it is healed, or until the sender's TCP_USER_TIMEOUT. Buffers are small, so that sends are
partial. `Network` knows machines by their addresses only.

Laws: bytes are never lost, repeated or reordered within a connection; a connection may break at any
moment, then both sides learn it as a kernel would tell them: what had arrived can still be read
after an orderly end, and is gone after a reset.

`trace` is a checksum of every byte that arrived, with its time and its way.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Protocol
from zlib import crc32

from attrs import define, field, frozen

from chaos.sim.nodes.parking import Parking
from chaos.sim.nodes.scheduling import Agenda

GRAIN_S = 0.0005
"""Arrivals are rounded up to this: things that happen at once cost one turn of the loop."""

SYN_AGAIN_S = (1.0, 3.0, 7.0)
"""When a dial that was not answered is tried again, as Linux does."""

BACK_OFF_MAX_S = 2.0
"""Longest wait of a held-back segment after its way is free again."""

_IN, _OUT, _BROKEN = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR | select.EPOLLHUP

Address = tuple[str, int]
Way = tuple[str, str]
"""From one machine's address to another's."""


@frozen(kw_only=True)
class Weather:
    """What the network is like in one run."""

    delay_s: tuple[float, float] = (0.0002, 0.002)
    buffer_bytes: int = 64 << 10
    short_send: float = 0.02
    """How often a send takes only part of what would fit."""


class Network:
    """All links, and all that is under way."""

    def __init__(self, agenda: Agenda, random: Random, weather: Weather) -> None:
        self.agenda = agenda
        self.weather = weather
        self.trace = 0
        self.bytes = 0
        self._random = random
        self._cut: dict[Way, int] = {}
        self._slow: dict[Way, tuple[float, float]] = {}
        self._off: dict[str, None] = {}
        self._listeners: dict[Address, SimSocket] = {}
        self._connected: dict[SimSocket, None] = {}
        self._held: dict[SimSocket, None] = {}
        self._untold: dict[SimSocket, tuple[SimSocket, Way]] = {}
        # They send to what is gone, and cannot be told so: by whom, and which way.
        self._ports: dict[str, int] = {}
        self._descriptor = 1000
        self.tap: Callable[[SimSocket, bytes], None] | None = None
        """Sees what every dialler is about to have sent."""

    # ---- what happens to it

    def cut(self, way: Way) -> None:
        """Nothing arrives this way any more. Cuts add up."""
        self._cut[way] = self._cut.get(way, 0) + 1

    def mend(self, way: Way) -> None:
        self._cut[way] -= 1
        if not self._cut[way]:
            del self._cut[way]
            self._let_through()

    def slow_down(self, way: Way, delay_s: tuple[float, float]) -> None:
        self._slow[way] = delay_s

    def speed_up(self, way: Way) -> None:
        self._slow.pop(way, None)

    def break_connections(self, one: str, other: str) -> int:
        """Reset every connection between two machines, both ends at once."""
        between = [
            sock
            for sock in self._connected
            if (sock.machine, sock.peer_address[0]) in ((one, other), (other, one))
        ]
        for sock in between:
            sock.fail(errno.ECONNRESET)
        return len(between)

    def switch_off(self, machine: str) -> None:
        """The machine loses its power: nobody is told, and nothing reaches it."""
        self._off[machine] = None
        for sock in [sock for sock in self._connected if sock.machine == machine]:
            sock.lose_power()
        for address in [address for address in self._listeners if address[0] == machine]:
            del self._listeners[address]

    def switch_on(self, machine: str) -> None:
        """The machine is back, and refuses what belongs to connections it knows nothing of."""
        self._off.pop(machine, None)
        self._let_through()

    def clear(self) -> None:
        """Everything is as it should be again."""
        self._cut.clear()
        self._slow.clear()
        self._let_through()

    # ---- what sockets ask of it

    def socket(self, machine: str, timeout_s: float = 900.0) -> SimSocket:
        self._descriptor += 1
        return SimSocket(self, machine, self._descriptor, user_timeout_s=timeout_s)

    def bind(self, sock: SimSocket, address: Address) -> Address:
        if address in self._listeners:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self._listeners[address] = sock
        return address

    def unbind(self, sock: SimSocket) -> None:
        if self._listeners.get(sock.address) is sock:
            del self._listeners[sock.address]

    async def dial(
        self, machine: str, to: Address, pause: Callable[[float], Awaitable[None]]
    ) -> SimSocket:
        """**Raises** ConnectionRefusedError; waits long for a machine that does not answer."""
        way, back = (machine, to[0]), (to[0], machine)
        for again_s in SYN_AGAIN_S:
            await pause(self._delay_s(way) + self._delay_s(back))
            if way not in self._cut and back not in self._cut and to[0] not in self._off:
                break
            await pause(again_s)
        else:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        listener = self._listeners.get(to)
        if listener is None or len(listener.backlog) >= listener.backlog_max:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        port = self._ports[machine] = self._ports.get(machine, 20_000) + 1
        here, there = self.socket(machine), self.socket(to[0])
        here.connect(there, (machine, port), to, dialled=True)
        there.connect(here, to, (machine, port), dialled=False)
        listener.backlog.append(there)
        listener.changed()
        return here

    def carry(self, sock: SimSocket, content: bytes | None) -> None:
        """Bring bytes, or the end of the stream, to the other side of a connection."""
        way = (sock.machine, sock.peer_address[0])
        at = max(sock.last_arrival, self.agenda.now + self._delay_s(way))
        sock.last_arrival = at = -(-at // GRAIN_S) * GRAIN_S
        self.agenda.at(at, self._arrive, sock, way, content)

    def reset(self, sock: SimSocket) -> None:
        """Tell the other side that this one knows of no such connection."""
        way = (sock.machine, sock.peer_address[0])
        self.agenda.at(self.agenda.now + self._delay_s(way), self._arrive_reset, sock, way)

    def chance(self) -> float:
        return self._random.random()

    def enter(self, sock: SimSocket) -> None:
        self._connected[sock] = None

    def leave(self, sock: SimSocket) -> None:
        self._connected.pop(sock, None)
        self._held.pop(sock, None)
        self._untold.pop(sock, None)

    # ---- within

    def _delay_s(self, way: Way) -> float:
        return self._random.uniform(*self._slow.get(way, self.weather.delay_s))

    def _stuck(self, way: Way) -> bool:
        return way in self._cut or way[1] in self._off or way[0] in self._off

    def _arrive(self, sock: SimSocket, way: Way, content: bytes | None) -> None:
        if sock.lost:
            return
        if sock.held or self._stuck(way):
            if sock.aborts and sock.gone:
                return
            if not sock.held:
                self._held[sock] = None
                sock.held_since = self.agenda.now
                due = self.agenda.now + sock.user_timeout_s
                self.agenda.at(due, self._give_up, sock, sock.held_since)
            sock.held.append(content)
            return
        self._hand_over(sock, way, content)

    def _hand_over(self, sock: SimSocket, way: Way, content: bytes | None) -> None:
        if sock.error:
            return
        size = len(content) if content is not None else 0
        head = f"{self.agenda.now:.6f} {way[0]}>{way[1]} {sock.peer_address[1]} {size}"
        self.trace = crc32(content or b"", crc32(head.encode(), self.trace))
        self.bytes += size
        peer = sock.peer
        assert peer is not None
        if peer.gone:
            self.reset(peer)
        else:
            peer.take(content)

    def _arrive_reset(self, sock: SimSocket, way: Way) -> None:
        peer = sock.peer
        assert peer is not None
        if self._stuck(way):  # what was sent is not acknowledged: it is sent again, for a while
            if peer not in self._untold and not peer.error and not peer.gone:
                self._untold[peer] = sock, way
                self.agenda.at(self.agenda.now + peer.user_timeout_s, self._give_up_untold, peer)
            return
        self.trace = crc32(f"{self.agenda.now:.6f} {way} reset".encode(), self.trace)
        peer.fail(errno.ECONNRESET)

    def _tell(self, gone: SimSocket) -> None:
        """The other side has spoken again to what is not there any more."""
        if gone.peer is not None and not gone.peer.gone:
            self.reset(gone)

    def _give_up(self, sock: SimSocket, since: float) -> None:
        if sock.held and sock.held_since == since:
            sock.held.clear()
            self._held.pop(sock, None)
            sock.fail(errno.ETIMEDOUT)

    def _give_up_untold(self, sock: SimSocket) -> None:
        if self._untold.pop(sock, None) is not None:
            sock.fail(errno.ETIMEDOUT)

    def _let_through(self) -> None:
        now = self.agenda.now
        for sock, (gone, way) in list(self._untold.items()):
            if not self._stuck(way):
                del self._untold[sock]
                self.agenda.at(now + BACK_OFF_MAX_S * self._random.random(), self._tell, gone)
        for sock in list(self._held):
            if not self._stuck((sock.machine, sock.peer_address[0])):
                waited_s = min(now - sock.held_since, BACK_OFF_MAX_S)
                self.agenda.at(now + waited_s * self._random.random(), self._retransmit, sock)

    def _retransmit(self, sock: SimSocket) -> None:
        way = (sock.machine, sock.peer_address[0])
        if sock not in self._held or self._stuck(way):
            return
        del self._held[sock]
        held, sock.held = sock.held, []
        for content in held:
            self._hand_over(sock, way, content)


class Owner(Protocol):
    """A process, which closes what it holds when it ends."""

    def own(self, sock: SimSocket) -> SimSocket: ...
    def disown(self, sock: SimSocket) -> None: ...


@define(eq=False)
class SimSocket:
    """One end of a connection, or a listener. Implements `runtime.host.Socket`."""

    network: Network
    machine: str
    number: int
    user_timeout_s: float = field(kw_only=True)
    address: Address = ("", 0)
    peer_address: Address = ("", 0)
    peer: SimSocket | None = None
    owner: Owner | None = None
    dialled: bool = False
    listening: bool = False
    backlog: deque[SimSocket] = field(factory=deque)
    backlog_max: int = 0
    closed: bool = False
    gone: bool = False
    """Nobody is behind it: closed, or its machine was switched off."""
    lost: bool = False
    """Its machine was switched off, and what it had to send with it."""
    aborts: bool = False
    """Whether its end resets the connection, and what is stuck on the way is dropped."""
    error: int = 0
    ended: bool = False
    inbox: bytearray = field(factory=bytearray)
    unread: int = 0
    """Bytes this side has sent that the other one has not read yet."""
    last_arrival: float = 0.0
    held: list[bytes | None] = field(factory=list)
    held_since: float = 0.0
    parking: Parking = field(factory=Parking)
    pollers: dict[SimPoller, None] = field(factory=dict)

    # ---- Socket

    def fileno(self) -> int:
        return -1 if self.closed else self.number

    def setblocking(self, flag: bool, /) -> None:
        assert not flag

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None:
        if isinstance(value, bytes):
            assert (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER)
            self.aborts = True
        elif (level, option) == (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT):
            self.user_timeout_s = value / 1000

    def bind(self, address: Any, /) -> None:
        self.address = self.network.bind(self, (address[0], address[1]))

    def listen(self, backlog: int, /) -> None:
        self.listening = True
        self.backlog_max = backlog

    def accept(self) -> tuple[SimSocket, Address]:
        self._check()
        if not self.backlog:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        sock = self.backlog.popleft()
        assert self.owner is not None
        self.owner.own(sock)
        return sock, sock.peer_address

    def getsockname(self) -> Address:
        return self.address

    def recv(self, size: int, /) -> bytes:
        self._check()
        inbox = self.inbox
        if not inbox:
            if self.ended:
                return b""
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        content = bytes(inbox[:size])
        del inbox[:size]
        peer = self.peer
        assert peer is not None
        peer.unread -= len(content)
        peer.changed()
        return content

    def recv_into(self, buffer: memoryview, /) -> int:
        content = self.recv(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def send(self, content: bytes | memoryview, /) -> int:
        self._check()
        network = self.network
        room = network.weather.buffer_bytes - self.unread
        if room <= 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if network.chance() < network.weather.short_send:
            room = min(room, 1 + int(network.chance() * len(content)))
        taken = bytes(content[:room])
        self.unread += len(taken)
        if self.dialled and network.tap is not None:
            network.tap(self, taken)
        network.carry(self, taken)
        return len(taken)

    def sendmsg(self, parts: Sequence[bytes | memoryview], /) -> int:
        return self.send(b"".join(parts))

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self.owner is not None:
            self.owner.disown(self)
        self.vanish()
        if self.listening:
            self.network.unbind(self)
            for sock in self.backlog:
                sock.close()
        elif self.peer is not None and not self.error:
            if self.inbox or self.aborts:
                self.network.reset(self)
            else:
                self.network.carry(self, None)
        self.parking.wake()

    # ---- what the network does with it

    def connect(self, peer: SimSocket, here: Address, there: Address, *, dialled: bool) -> None:
        self.peer, self.address, self.peer_address = peer, here, there
        self.dialled = dialled
        self.network.enter(self)

    def take(self, content: bytes | None) -> None:
        if content is None:
            self.ended = True
        else:
            self.inbox += content
        self.changed()

    def fail(self, code: int) -> None:
        """The connection is broken."""
        if not self.error and not self.gone:
            self.error = code
            self.inbox.clear()
            self.network.leave(self)
            self.changed()

    def vanish(self) -> None:
        """Nobody is here any more; what was sent is still under way."""
        self.gone = True
        if self.aborts:
            self.held.clear()
        if not self.held:
            self.network.leave(self)

    def lose_power(self) -> None:
        self.gone = self.lost = True
        self.held.clear()
        self.network.leave(self)

    def events(self) -> int:
        """What epoll would say."""
        if self.listening:
            return _IN if self.backlog else 0
        if self.error:
            return _IN | _OUT | _BROKEN
        readable = _IN if self.inbox or self.ended else 0
        return readable | (_OUT if self.unread < self.network.weather.buffer_bytes else 0)

    def changed(self) -> None:
        if self.parking or self.pollers:
            events = self.events()
            self.parking.wake(events)
            for poller in self.pollers:
                poller.changed(self, events)

    def _check(self) -> None:
        if self.closed or self.gone:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self.error:
            raise OSError(self.error, os.strerror(self.error))


@define(eq=False)
class SimPoller:
    """An epoll set. Implements `runtime.host.Poller`."""

    network: Network
    number: int
    parking: Parking = field(factory=Parking)
    _sockets: dict[int, tuple[SimSocket, int]] = field(factory=dict)
    find: Callable[[int], SimSocket] = field(kw_only=True)

    def fileno(self) -> int:
        return self.number

    def register(self, fd: int, eventmask: int) -> None:
        sock = self.find(fd)
        self._sockets[fd] = (sock, eventmask)
        sock.pollers[self] = None
        self.changed(sock, sock.events())

    def modify(self, fd: int, eventmask: int) -> None:
        sock, _ = self._sockets[fd]
        self._sockets[fd] = (sock, eventmask)
        self.changed(sock, sock.events())

    def unregister(self, fd: int) -> None:
        sock, _ = self._sockets.pop(fd)
        sock.pollers.pop(self, None)

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        assert timeout == 0
        ready = []
        for fd, (sock, mask) in self._sockets.items():
            events = sock.events() & (mask | _BROKEN)
            if events and not sock.closed:
                ready.append((fd, events))
        return ready[:maxevents]

    def close(self) -> None:
        for sock, _ in self._sockets.values():
            sock.pollers.pop(self, None)
        self._sockets.clear()

    def events(self) -> int:
        return _IN if self.poll(0, 1) else 0

    def changed(self, sock: SimSocket, events: int) -> None:
        if self.parking and events & (self._sockets[sock.number][1] | _BROKEN):
            self.parking.wake(_IN)
