"""The server: one task serves all sockets, turn by turn.

A turn: ask a private epoll set which sockets are ready, read each once into one shared buffer,
dispatch every complete frame synchronously, tell the broker that the turn is over (it proposes what
it gathered as one batch), send each connection what it has, in one send. So nothing of Trio is paid
per message, and batches form by themselves: the busier the sockets, the more a turn brings.

Laws
- Everything is bounded: see `ServerLimits`. A connection over its quota is paused, others go on.
- Bytes that are no frame close their connection, with one log line; nobody else notices.
- Handlers run inside the turn and must not block; `async` ones get a task of their own.
- At most TURNS_MAX turns run without letting other tasks run.
- Answers given between turns (a deadline, another task) leave by `flush`, which the giver may call;
  if nobody does, a flusher task does a moment later.

Reserving ports: a parent that wants to hand out ports binds a socket with SO_REUSEADDR and never
listens; a server can then listen there, and a second server still fails (Linux). SO_REUSEPORT is
not used: with it two brokers would share a port without a word.

Not here: TLS, the PROXY protocol; their first bytes are recognised and refused.
"""

import errno
import select
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from typing import Any, Final

import structlog
import trio
from attrs import frozen

from dledger_py.actors.incarnation import FailStop
from dledger_py.remoting.inbound import InboundConnection, ServerLimits
from dledger_py.remoting.rooms import Refused, Routes, refusal, respond
from dledger_py.remoting.wire.frame import Frame, FrameError
from dledger_py.remoting.wire.schema import Malformed
from dledger_py.runtime.host import Host, Poller, RealHost, Socket

__all__ = ["AddressUnavailable", "InboundConnection", "Server", "ServerLimits", "ServerStatistics"]

log = structlog.get_logger()

RECEIVE_SIZE: Final = 256 * 1024  # one buffer for all; a turn's share of one connection
SEND_SIZE: Final = 1024 * 1024  # joined for one send; more would be copied for nothing
SENDS_MAX: Final = 4  # per connection and flush; the rest waits for the socket's readiness
READY_MAX: Final = 256  # sockets per turn
ACCEPTS_MAX: Final = 64  # per listener and turn
TURNS_MAX: Final = 16
BACKLOG: Final = 1024  # as RocketMQ's Netty server

_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class AddressUnavailable(Exception):
    """The server cannot listen where it should (refused: nothing was started)."""


@frozen(kw_only=True)
class ServerStatistics:
    """Since the start, but for the first two."""

    connections: int
    paused: int
    accepted: int
    turned_away: int
    requests: int
    received_bytes: int
    sent_bytes: int


class Server:
    """Listens, reads, dispatches, sends. One instance runs once."""

    def __init__(
        self,
        routes: Routes,
        listen: Sequence[tuple[str, int]],
        *,
        on_turn_end: Callable[[], None] | None = None,
        limits: ServerLimits | None = None,
        host: Host | None = None,
    ) -> None:
        self.limits = limits or ServerLimits()
        self.addresses: tuple[tuple[str, int], ...] = ()
        self._routes = routes
        self._listen = tuple(listen)
        self._on_turn_end = on_turn_end or _nothing
        self._host = host or RealHost()
        self._epoll: Poller | None = None
        self._buffer = memoryview(bytearray(RECEIVE_SIZE))
        self._listeners: dict[int, Socket] = {}
        self._accepting = True
        self._connections: dict[int, InboundConnection] = {}
        self._dirty: list[InboundConnection] = []
        self._in_turn = False
        self._flushing = False
        self._wakeups = trio.lowlevel.ParkingLot()
        self._tick = 0
        self._partial_bytes = 0
        self._accepted = self._turned_away = 0
        self._requests = self._received_bytes = self._sent_bytes = 0
        self._nursery: trio.Nursery | None = None

    async def run(
        self, task_status: trio.TaskStatus[tuple[tuple[str, int], ...]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled. Started with `addresses`, once every socket listens.

        Raises: AddressUnavailable, naming the address.
        """
        with closing(self._host.poller()) as epoll:
            self._epoll = epoll
            try:
                await self._open_listeners()
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._serve, epoll)
                    nursery.start_soon(self._flush_when_woken)
                    nursery.start_soon(self._sweep)
                    task_status.started(self.addresses)
            finally:
                self._close_all()

    def flush(self) -> None:
        """Send what connections have waiting; nothing to do costs nothing. Never blocks."""
        if self._flushing:
            return
        self._flushing = True
        try:
            while self._dirty:
                dirty, self._dirty = self._dirty, []
                resumed = False
                for connection in dirty:
                    connection.dirty = False
                    self._send(connection)
                    if connection.paused and connection.is_relieved():
                        resumed = self._resume(connection) or resumed
                if resumed:
                    self._on_turn_end()
        finally:
            self._flushing = False

    def mark_dirty(self, connection: InboundConnection) -> None:
        """Called by connections that have something to send or may be resumed."""
        connection.dirty = True
        self._dirty.append(connection)
        if len(self._dirty) == 1 and not self._in_turn and not self._flushing:
            self._wakeups.unpark()

    def statistics(self) -> ServerStatistics:
        return ServerStatistics(
            connections=len(self._connections),
            paused=sum(connection.paused for connection in self._connections.values()),
            accepted=self._accepted,
            turned_away=self._turned_away,
            requests=self._requests,
            received_bytes=self._received_bytes,
            sent_bytes=self._sent_bytes,
        )

    # --- tasks ---------------------------------------------------------------------------------

    async def _serve(self, epoll: Poller) -> None:
        """The data plane."""
        turns = 0
        while True:
            ready = epoll.poll(0, READY_MAX)
            if not ready:
                turns = 0
                await self._host.wait_readable(epoll.fileno())
                continue
            self._turn(ready)
            turns += 1
            if turns >= TURNS_MAX:
                turns = 0
                await trio.lowlevel.checkpoint()

    async def _flush_when_woken(self) -> None:
        while True:
            self.flush()
            await self._wakeups.park()

    async def _sweep(self) -> None:
        """Close idle connections; listen again if descriptors had run out."""
        tick_s = min(1.0, self.limits.idle_timeout_s / 12)
        ticks_max = round(self.limits.idle_timeout_s / tick_s)
        while True:
            await trio.sleep(tick_s)
            self._tick += 1
            for connection in list(self._connections.values()):
                if self._tick - connection.last_active_tick > ticks_max:
                    self._close(connection, "idle")
            self._accept_again()

    async def _answer_later(
        self, connection: InboundConnection, frame: Frame, answer: Awaitable[Any]
    ) -> None:
        """An async handler's task."""
        try:
            result = await answer
        except FailStop:
            raise
        except (Refused, Malformed) as error:
            result = refusal(error)
        except Exception as error:
            _log_failure(connection, frame, error)
            result = refusal(error)
        respond(connection, frame, result)
        self.flush()

    # --- a turn --------------------------------------------------------------------------------

    def _turn(self, ready: list[tuple[int, int]]) -> None:
        self._in_turn = True
        try:
            for fd, events in ready:
                connection = self._connections.get(fd)
                if connection is None:
                    if fd in self._listeners:
                        self._accept(self._listeners[fd])
                    continue
                if events & _OUT:
                    self._unblock(connection)
                if events & _IN:
                    self._read(connection)
                elif events & ~_OUT:
                    self._close(connection, "reset by peer")
            self._on_turn_end()
        finally:
            self._in_turn = False
        self.flush()

    def _read(self, connection: InboundConnection) -> None:
        try:
            size = connection.socket.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._close(connection, f"broken: {error.strerror}")
            return
        if not size:
            self._finish(connection)
            return
        connection.last_active_tick = self._tick
        self._received_bytes += size
        framer = connection.framer
        self._partial_bytes -= framer.pending_bytes
        try:
            frames = framer.feed(self._buffer[:size])
        except FrameError as error:
            self._partial_bytes += framer.pending_bytes
            self._dispatch(connection, error.frames)
            self._close(connection, error.reason, broken=True)
            return
        self._partial_bytes += framer.pending_bytes
        self._dispatch(connection, frames)
        if self._partial_bytes > self.limits.partial_bytes_max:
            reason = "too many bytes of incomplete frames"
            self._close(connection, reason, broken=True)

    def _dispatch(self, connection: InboundConnection, frames: list[Frame]) -> None:
        """Serve `frames`, or keep those that come while the connection is full."""
        self._requests += len(frames)
        backlog = connection.backlog
        for frame in frames:
            if backlog or connection.is_full():
                backlog.append(frame)
            else:
                self._serve_one(connection, frame)
        if backlog and not connection.paused and not connection.closed:
            connection.paused = True
            self._watch(connection)

    def _serve_one(self, connection: InboundConnection, frame: Frame) -> None:
        connection.serialization = frame.serialization
        try:
            if frame.flag & 1:
                connection.take_reply(frame)
                return
            connection.unanswered += 1
            connection.unanswered_bytes += frame.size
            waiting = self._routes.answer(connection, frame)
        except FailStop:
            raise
        except Exception as error:
            _log_failure(connection, frame, error)
            return
        if waiting is not None:
            assert self._nursery is not None
            self._nursery.start_soon(self._answer_later, connection, frame, waiting)

    def _resume(self, connection: InboundConnection) -> bool:
        """Serve what waited; read again if that did not fill it up. True if anything was served."""
        backlog = connection.backlog
        served = bool(backlog)
        while backlog and not connection.is_full():
            self._serve_one(connection, backlog.popleft())
        if not backlog and not connection.closed:
            connection.paused = False
            self._watch(connection)
        return served

    # --- sending -------------------------------------------------------------------------------

    def _send(self, connection: InboundConnection) -> None:
        """Offer the socket what waits; what it does not take waits for its readiness."""
        out = connection.out
        sends = 0
        while out and not connection.blocked:
            chunk = connection.next_chunk(SEND_SIZE)
            try:
                sent = connection.socket.send(chunk)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._close(connection, f"broken: {error.strerror}")
                return
            connection.out_bytes -= sent
            self._sent_bytes += sent
            if sent:
                connection.last_active_tick = self._tick
            if sent < len(chunk):
                out.appendleft(memoryview(chunk)[sent:])
            sends += 1
            if out and (sent < len(chunk) or sends >= SENDS_MAX):
                connection.blocked = True
                self._watch(connection)
        if connection.out_bytes > self.limits.out_bytes_fatal:
            self._close(connection, "reads too slowly", broken=True)
        elif connection.closed and not out:
            self._release(connection)

    def _unblock(self, connection: InboundConnection) -> None:
        connection.blocked = False
        self._watch(connection)
        if not connection.dirty:
            self.mark_dirty(connection)

    def _watch(self, connection: InboundConnection) -> None:
        """Tell epoll what this connection waits for."""
        reading = 0 if connection.paused or connection.closed else _IN
        fd = connection.socket.fileno()
        if fd in self._connections:
            assert self._epoll is not None
            self._epoll.modify(fd, reading | (_OUT if connection.blocked else 0))

    # --- connections come and go ---------------------------------------------------------------

    def _accept(self, listener: Socket) -> None:
        for _ in range(ACCEPTS_MAX):
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                self._stop_accepting(error)
                return
            self._admit(sock, peer)

    def _admit(self, sock: Socket, peer: Any) -> None:
        if len(self._connections) >= self.limits.connections_max:
            self._turned_away += 1
            sock.close()
            # Once per hundred: whoever is turned away comes back at once.
            if self._turned_away % 100 == 1:
                log.warning(
                    "remoting.connection_refused",
                    peer=f"{peer[0]}:{peer[1]}",
                    connections_max=self.limits.connections_max,
                    turned_away=self._turned_away,
                )
            return
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = InboundConnection(self._accepted + 1, sock, peer, self)
        except OSError:  # it is gone already
            sock.close()
            return
        self._accepted += 1
        connection.last_active_tick = self._tick
        self._connections[sock.fileno()] = connection
        assert self._epoll is not None
        self._epoll.register(sock.fileno(), _IN)
        log.debug("remoting.connection_opened", peer=connection.peer, conn=connection.id)

    def _stop_accepting(self, error: OSError) -> None:
        """Level-triggered readiness would spin while no descriptor is free; wait for one."""
        log.warning("remoting.accepting_paused", reason=error.strerror)
        self._accepting = False
        assert self._epoll is not None
        for fd in self._listeners:
            self._epoll.modify(fd, 0)

    def _accept_again(self) -> None:
        if not self._accepting:
            self._accepting = True
            assert self._epoll is not None
            for fd in self._listeners:
                self._epoll.modify(fd, _IN)

    def _finish(self, connection: InboundConnection) -> None:
        """The peer says no more. It still gets the answers that are ready, then it is closed."""
        if connection.out:
            self._end(connection, "closed by peer", broken=False)
            self._watch(connection)
            if not connection.dirty and not connection.blocked:
                self.mark_dirty(connection)
        else:
            self._close(connection, "closed by peer")

    def _close(self, connection: InboundConnection, reason: str, *, broken: bool = False) -> None:
        """Close now, whatever still waits."""
        connection.out.clear()
        connection.out_bytes = 0
        self._end(connection, reason, broken=broken)
        self._release(connection)

    def _end(self, connection: InboundConnection, reason: str, *, broken: bool) -> None:
        """No more requests or answers; tell whoever asked to be told."""
        if connection.closed:
            return
        level = log.warning if broken else log.info
        level(
            "remoting.connection_closed",
            peer=connection.peer,
            conn=connection.id,
            reason=reason,
            unanswered=connection.unanswered,
        )
        for callback in connection.end():
            try:
                callback()
            except FailStop:
                raise
            except Exception:
                log.exception("remoting.close_callback_failed", conn=connection.id)

    def _release(self, connection: InboundConnection) -> None:
        """Give the descriptor back."""
        fd = connection.socket.fileno()
        if self._connections.pop(fd, None) is None:
            return
        self._partial_bytes -= connection.framer.pending_bytes
        assert self._epoll is not None
        self._epoll.unregister(fd)
        connection.socket.close()
        self._accept_again()

    async def _open_listeners(self) -> None:
        for host, port in self._listen:
            listener = await _listen(self._host, host, port)
            listener.setblocking(False)
            self._listeners[listener.fileno()] = listener
            assert self._epoll is not None
            self._epoll.register(listener.fileno(), _IN)
        self.addresses = tuple(listener.getsockname()[:2] for listener in self._listeners.values())
        log.info("remoting.server_started", addresses=self.addresses)

    def _close_all(self) -> None:
        """Last words, then everything closed. The epoll set is still open."""
        self.flush()
        for connection in list(self._connections.values()):
            self._close(connection, "server stopped")
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()


async def _listen(on: Host, host: str, port: int) -> Socket:
    """A listening socket. Raises: AddressUnavailable."""
    try:
        family, address = await on.resolve(host, port)
        listener = on.socket(family)
    except OSError as error:
        raise AddressUnavailable(f"cannot listen on {host}:{port}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with suppress(OSError):
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} is in use, probably by another server"
        else:
            reason = str(error)
        raise AddressUnavailable(f"cannot listen on {host}:{port}: {reason}") from error
    return listener


def _log_failure(connection: InboundConnection, frame: Frame, error: Exception) -> None:
    """An exception that is no refusal is a bug of ours; the peer got SYSTEM_ERROR."""
    log.error(
        "remoting.handler_failed",
        conn=connection.id,
        peer=connection.peer,
        code=frame.code,
        exc_info=error,
    )


def _nothing() -> None:
    """The turn ends, and nobody cares."""
