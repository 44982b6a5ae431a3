"""The network between the members of a local cluster, as a thing that can fail.

    async with open_network() as network:
        async with LocalCluster(directory, dialled=network.dialled).running() as cluster:
            network.cut_off("n0", ["n1", "n2"])
            network.heal()

Every member dials the others at ports of this process, one for each pair and purpose, and each such
connection is carried on to where the other really listens. Clients and name servers are not in
between: they reach every member all the time.

Laws:
- A *way* is one direction between two members, whoever dialled: what n0 says to n1.
- A closed way loses nothing and delivers nothing: bytes are held, in order, and connections stay
  open, as with a switch that drops packets and a kernel that sends them again. What was held is
  delivered when the way opens.
- Bytes held here are bounded; beyond, the sender's own socket fills up.
- `break_connections` is the other kind of fault: both ends are told, by a reset.
"""

import math
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import trio
from attrs import define, field

CHUNK_BYTES: Final = 64 * 1024
HELD_CHUNKS_MAX: Final = 64  # of one connection and direction: 4 MiB, beside the sockets' buffers
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time


@define(eq=False)
class Way:
    """What one member says to another: whether and how fast it arrives."""

    delay_s: float = 0.0
    bytes_per_s: float = math.inf
    _open: trio.Event = field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.open()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    def close(self) -> None:
        """Deliver nothing from now on."""
        if self.is_open:
            self._open = trio.Event()

    def open(self) -> None:
        """Deliver what was held, and all that follows."""
        self._open.set()

    async def wait_arrival(self, sent_at: float, size: int) -> None:
        """Until `size` bytes that were sent at this time have come along."""
        await trio.sleep_until(sent_at + self.delay_s)
        await trio.sleep(size / self.bytes_per_s)
        while not self.is_open:  # it may have closed again before we were scheduled
            await self._open.wait()


@define(eq=False)
class Network:
    """All ways, and the connections that go along them."""

    _nursery: trio.Nursery
    _ways: dict[tuple[str, str], Way] = field(factory=dict)
    _listeners: dict[tuple[str, str, str], trio.SocketListener] = field(factory=dict)
    _carried: dict[trio.CancelScope, frozenset[str]] = field(factory=dict)

    def dialled(self, dialler: str, owner: str, address: str) -> str:
        """The address at which `dialler` reaches what `owner` has at `address`: a port of ours."""
        place = (dialler, owner, address)
        if place not in self._listeners:
            listener = self._listeners[place] = _listener(address.rpartition(":")[0])
            self._nursery.start_soon(self._accept, listener, dialler, owner, address)
        host, port = self._listeners[place].socket.getsockname()
        return f"{host}:{port}"

    def way(self, speaker: str, listener: str) -> Way:
        """What `speaker` says to `listener`."""
        return self._ways.setdefault((speaker, listener), Way())

    def cut_off(
        self, node: str, others: Iterable[str], *, outwards: bool = True, inwards: bool = True
    ) -> None:
        """Deliver nothing of what `node` says to the others, or they to it, or both."""
        for other in others:
            if outwards:
                self.way(node, other).close()
            if inwards:
                self.way(other, node).close()

    def heal(self) -> None:
        """Open every way, without delay or limit."""
        for way in self._ways.values():
            way.delay_s = 0.0
            way.bytes_per_s = math.inf
            way.open()

    def break_connections(self, node: str) -> None:
        """Reset all connections this member has with others; new ones may be dialled at once."""
        for scope, ends in self._carried.items():
            if node in ends:
                scope.cancel()

    # --- carrying --------------------------------------------------------------------------------

    async def _accept(
        self, listener: trio.SocketListener, dialler: str, owner: str, address: str
    ) -> None:
        async with listener:
            while True:
                stream = await listener.accept()
                self._nursery.start_soon(self._carry, stream, dialler, owner, address)

    async def _carry(self, near: trio.SocketStream, dialler: str, owner: str, address: str) -> None:
        host, _, port = address.rpartition(":")
        with trio.CancelScope() as scope:
            self._carried[scope] = frozenset((dialler, owner))
            try:
                async with near:
                    await self.way(dialler, owner).wait_arrival(trio.current_time(), 0)
                    async with await trio.open_tcp_stream(host, int(port)) as far:
                        await self._carry_both(near, far, dialler, owner, scope)
            except OSError:
                pass  # nobody listens there: the dialler sees its connection end
            finally:
                del self._carried[scope]

    async def _carry_both(
        self,
        near: trio.SocketStream,
        far: trio.SocketStream,
        dialler: str,
        owner: str,
        scope: trio.CancelScope,
    ) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pump, near, far, self.way(dialler, owner), scope)
                nursery.start_soon(_pump, far, near, self.way(owner, dialler), scope)
        finally:
            if scope.cancel_called:
                for stream in (near, far):
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


@asynccontextmanager
async def open_network() -> AsyncIterator[Network]:
    """A network whose ways are all open; gone with the block, connections and all."""
    async with trio.open_nursery() as nursery:
        yield Network(nursery)
        nursery.cancel_scope.cancel()


async def _pump(
    source: trio.SocketStream, sink: trio.SocketStream, way: Way, broken: trio.CancelScope
) -> None:
    """Carry one direction to its end. A reset on either side resets both."""
    send, receive = trio.open_memory_channel[tuple[float, bytes]](HELD_CHUNKS_MAX)

    async def read() -> None:
        async with send:
            while True:
                chunk = await source.receive_some(CHUNK_BYTES)
                await send.send((trio.current_time(), chunk))
                if not chunk:
                    return

    async def deliver() -> None:
        async with receive:
            async for sent_at, chunk in receive:
                await way.wait_arrival(sent_at, len(chunk))
                if chunk:
                    await sink.send_all(chunk)
                else:
                    await sink.send_eof()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(deliver)
    except* trio.BrokenResourceError:
        broken.cancel()


def _listener(host: str) -> trio.SocketListener:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.bind((host, 0))
    bound.listen()
    return trio.SocketListener(trio.socket.from_stdlib_socket(bound))
