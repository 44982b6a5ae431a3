"""The sockets between members: one connection for each direction.

Each member dials every other and only *sends* on what it dialled; it only *reads* what it
accepted. So a member's word to one peer is one ordered stream with one owner, and the two
directions break and heal on their own. Whoever sees either of them break reports the peer lost at
once: a killed process is noticed by its connections, not by an election timeout.

Laws:
- `PeerLink.flush` never waits. What the socket takes at once is gone before it returns; the rest
  is kept up to a bound, beyond which frames are dropped and counted. Consensus tolerates loss,
  not delay.
- Frames are never torn by a drop: one that was begun is finished or dies with its connection.
- What comes in is bounded by the frame reader; who comes in is checked by the hello before
  anything else of theirs is looked at. A stranger costs one small buffer for `HELLO_TIMEOUT_S`.
- Who is refused behind a hello is told why, as the last word on the connection; and both sides log
  it once, not at each dial that follows.

Non-blocking sockets are used directly: trio's own `send` always visits
the scheduler, and here most sends need no waiting at all. Elsewhere: the bytes (peer_frames), the
meaning.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Never, Protocol

import structlog
import trio
from attrs import frozen

from dledger_py.actors import Inbox
from dledger_py.ledger.conversation import Conversation
from dledger_py.ledger.credentials import Credentials
from dledger_py.ledger.errors import FrameError
from dledger_py.ledger.fetch_frames import (
    LAST_WORD_MAX_BYTES,
    decode_last_word,
    encode_last_word,
)
from dledger_py.ledger.peer_frames import FrameReader, Hello, decode_hello
from dledger_py.runtime.host import Host, RealHost, Socket
from dledger_py.runtime.tls import READ_MIN_BYTES, NotTls, TlsError, listed

log = structlog.get_logger()

RECEIVE_BYTES = 256 << 10
"""One buffer for all readers, since each is emptied before the next is read: a few appends at a
time."""

PARTS_LIMIT = 16
"""More parts than this are joined before they are sent: the copy is cheaper than the kernel's walk
along them, and their number stays below its limit of 1024."""

HELLO_TIMEOUT_S = 5.0
"""A dialler says hello at once; one that does not in this time is no member."""

STRANGERS_LIMIT = 64
"""Accepted connections that have not said a good hello yet. Those that have are few: one for each
member of a group."""

SILENT_DROP_S = 5.0
"""Unacknowledged bytes older than this break a connection (TCP_USER_TIMEOUT). Otherwise, after a
long partition, the kernel's own back-off could keep a healed link silent for a minute."""

STEADY_S = 1.0
"""A connection that lived this long resets the pause between dials. One that was closed at once was
refused, and dialling again at full speed would only flood two logs."""

REPEATED_S = 60.0
"""A machine that is refused for the same reason again within this time is told of at DEBUG."""

REFUSALS_KEPT = 64
"""Refusals remembered for that; beyond, all are forgotten and told again."""


@frozen(kw_only=True)
class LinkStatistics:
    """One peer's outgoing connection."""

    peer: str
    connected: bool
    buffered_bytes: int
    frames_sent: int
    frames_dropped: int
    dials: int


class PeerLink:
    """Actor: the way to one peer. Dials, says hello, sends, dials again; for ever."""

    def __init__(
        self,
        peer: str,
        addresses: Sequence[tuple[str, int]],
        hello: Callable[[], bytes],
        *,
        buffer_max_bytes: int,
        connect_timeout_s: float,
        redial_max_s: float,
        on_lost: Callable[[str], None],
        host: Host,
        credentials: Credentials | None = None,
    ) -> None:
        """Without `credentials` members speak plainly."""
        self.peer = peer
        self._addresses = addresses
        self._address = 0  # the place of the one in use
        self._hello = hello
        self._buffer_max_bytes = buffer_max_bytes
        self._connect_timeout_s = connect_timeout_s
        self._redial_max_s = redial_max_s
        self._on_lost = on_lost
        self._host = host
        self._credentials = credentials
        self._socket: Socket | None = None
        self._unsent: list[bytes | memoryview] = []
        self._left: deque[memoryview] = deque()
        self._left_bytes = 0
        self._left_over = trio.Event()
        self._sooner = trio.Event()
        self._frames_sent = 0
        self._frames_dropped = 0
        self._dials = 0
        self._refusal = ""  # the reason told last

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Take the frame that `parts` make up, for the next `flush`; or drop it."""
        if self._socket is None or self._left_bytes > self._buffer_max_bytes:
            self._frames_dropped += 1
            return
        self._frames_sent += 1
        self._unsent += parts

    def flush(self) -> None:
        """Send what was taken, or as much as fits now and the rest soon."""
        parts = self._unsent
        sock = self._socket
        if not parts or sock is None:
            return
        self._unsent = []
        if len(parts) > PARTS_LIMIT:
            parts = [b"".join(parts)]
        if self._left:
            self._keep(parts, 0)
            return
        try:
            sent = sock.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the watcher of this connection sees the same and says so
        if sent < sum(map(len, parts)):
            self._keep(parts, sent)

    def dial_now(self) -> None:
        """End the pause between two dials: the peer was just seen alive."""
        self._sooner.set()

    def statistics(self) -> LinkStatistics:
        return LinkStatistics(
            peer=self.peer,
            connected=self._socket is not None,
            buffered_bytes=self._left_bytes,
            frames_sent=self._frames_sent,
            frames_dropped=self._frames_dropped,
            dials=self._dials,
        )

    async def run(self, inbox: Inbox[Never]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._dial_for_ever)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _dial_for_ever(self) -> None:
        pause_s = self._redial_max_s / 50
        while True:
            self._dials += 1
            began = trio.current_time()
            try:
                sock = await self._dial()
            except OSError as error:
                if isinstance(error, TlsError):
                    self._refused(str(error))
                log.debug("peer.dial_failed", peer=self.peer, reason=str(error))
                self._address = (self._address + 1) % len(self._addresses)
            else:
                await self._serve(sock)
            if trio.current_time() - began > STEADY_S + self._connect_timeout_s:
                pause_s = self._redial_max_s / 50
                self._refusal = ""
            self._sooner = trio.Event()
            # Jittered downwards only, so that the bound is a bound.
            with trio.move_on_after(pause_s * (0.5 + 0.5 * self._host.random.random())):
                await self._sooner.wait()
            pause_s = min(2 * pause_s, self._redial_max_s)

    async def _dial(self) -> Socket:
        host, port = self._addresses[self._address]
        with trio.move_on_after(self._connect_timeout_s):
            sock = await self._host.dial(host, port)
            prepare(sock)
            if self._credentials is None:
                return sock
            return await self._credentials.meet(sock, self.peer, self._host)
        raise OSError(f"no connection to {host}:{port} within {self._connect_timeout_s:g} s")

    async def _serve(self, sock: Socket) -> None:
        self._unsent.clear()
        self._left.clear()
        self._left_bytes = 0
        self._left_over = trio.Event()
        self._socket = sock
        reason = ""
        self._unsent.append(self._hello())
        self.flush()
        log.info("peer.dialled", peer=self.peer)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_left_over, sock, nursery.cancel_scope)
                reason = await wait_end(sock, self._host)
                nursery.cancel_scope.cancel()
        finally:
            self._socket = None
            self._host.notify_closing(sock)
            sock.close()
        if reason:
            self._refused(reason)
        log.info("peer.lost", peer=self.peer, direction="to")
        self._on_lost(self.peer)

    def _refused(self, reason: str) -> None:
        host, port = self._addresses[self._address]
        address = f"{host}:{port}"
        if reason == self._refusal:
            log.debug("peer.dial_refused", peer=self.peer, address=address, reason=reason)
            return
        self._refusal = reason
        log.warning("peer.dial_refused", peer=self.peer, address=address, reason=reason)

    def _keep(self, parts: Sequence[bytes | memoryview], sent: int) -> None:
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
                continue
            rest = memoryview(part)[sent:]
            sent = 0
            self._left.append(rest)
            self._left_bytes += len(rest)
        self._left_over.set()

    async def _write_left_over(self, sock: Socket, scope: trio.CancelScope) -> None:
        left = self._left
        while True:
            if not left:
                self._left_over = trio.Event()
                await self._left_over.wait()
            await self._host.wait_writable(sock)
            while left:
                try:
                    sent = sock.send(left[0])
                except BlockingIOError:
                    break
                except OSError:
                    scope.cancel()
                    return
                self._left_bytes -= sent
                if sent < len(left[0]):
                    left[0] = left[0][sent:]
                    break
                left.popleft()


class Receiver(Protocol):
    """Who the frames are for."""

    def receive(self, peer: str, frames: Sequence[tuple[bytes, bytes]]) -> None:
        """Take frames of one member, in order. **Raises** FrameError to have the connection
        closed."""
        ...

    def found(self, hello: Hello) -> None:
        """A member has dialled and said this good hello."""
        ...

    def lost(self, peer: str) -> None:
        """The connection from this member broke, and it has no newer one."""
        ...


@frozen
class Answering:
    """Who answers on a connection, where the frames behind its hello are questions."""

    serve: Callable[[Hello, Conversation], Awaitable[None]]
    """Returns at the end of the conversation. **Raises** FrameError, OSError."""


_Line = tuple[str, str]
"""A group, and the member of it whose newest connection is read."""


@frozen
class _Greeting:
    """Somebody who has said a hello."""

    sock: Socket
    reader: FrameReader
    hello: Hello
    frames: list[tuple[bytes, bytes]]
    """What came behind it."""
    names: tuple[str, ...] | None
    """Those of the certificate; None where no certificates are asked for."""


class PeerListener:
    """Actor: accepts the other members' connections and reads them."""

    def __init__(
        self,
        listener: Socket,
        admit: Callable[[Hello], Receiver | Answering | str],
        host: Host,
        credentials: Credentials | None = None,
    ) -> None:
        """`admit` says who takes the frames behind a hello, or the reason to refuse it. Without
        `credentials` members speak plainly."""
        self._listener = listener
        self._admit = admit
        self._host = host
        self._credentials = credentials
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._current: dict[_Line, trio.CancelScope] = {}
        self._conversations: dict[trio.CancelScope, str] = {}  # and their groups
        self._strangers = 0
        self._refusals: dict[tuple[str, str], float] = {}  # (machine, reason) and when it was told

    async def run(self, inbox: Inbox[Never]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._accept_for_ever, nursery)
                inbox.ready()
                await inbox.wait_closed()
                nursery.cancel_scope.cancel()
        finally:
            # Closed only at the end of the whole ledger: a restarted listener needs it again.
            self._current.clear()

    def dismiss(self, group: str) -> None:
        """Close what was admitted for this group. Its receiver hears no more of it, not even that
        it is lost."""
        for line in [line for line in self._current if line[0] == group]:
            self._current.pop(line).cancel()
        for scope, of_group in self._conversations.items():
            if of_group == group:
                scope.cancel()

    def hang_up(self, group: str, peer: str) -> None:
        """Close the connection of this member of this group, if there is one: it dials again."""
        if (scope := self._current.get((group, peer))) is not None:
            scope.cancel()

    async def _accept_for_ever(self, nursery: trio.Nursery) -> None:
        while True:
            await self._host.wait_readable(self._listener)
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                # Out of descriptors, or the dialler left again: neither is cured by trying at once.
                log.warning("peer.accept_failed", reason=str(error))
                await trio.sleep(0.1)
                continue
            if self._strangers >= STRANGERS_LIMIT:
                self._tell_refused(str(address), "too many connections")
                sock.close()
                continue
            self._strangers += 1
            nursery.start_soon(self._serve, sock, str(address))

    async def _serve(self, sock: Socket, remote: str) -> None:
        greeting: _Greeting | None = None
        try:
            prepare(sock)
            try:
                greeting = await self._wait_hello(sock)
            finally:
                self._strangers -= 1
            if greeting is not None:
                await self._read(greeting, remote)
        except FrameError as error:
            self._tell_refused(remote, str(error))
            if greeting is not None:
                _say_last(greeting.sock, str(error))
        except TlsError as error:
            self._tell_refused(remote, str(error))
            if isinstance(error, NotTls):
                _say_last(sock, "only TLS is spoken here, and tls_certificate is not set there")
        except OSError as error:
            log.debug("peer.broken", remote=remote, reason=str(error))
        finally:
            self._host.notify_closing(sock)
            sock.close()

    def _tell_refused(self, remote: str, reason: str) -> None:
        machine = remote.partition(",")[0]  # without the port, which is another one each time
        now = trio.current_time()
        told_at = self._refusals.get((machine, reason))
        if told_at is not None and now < told_at + REPEATED_S:
            log.debug("peer.refused", remote=remote, reason=reason)
            return
        if len(self._refusals) >= REFUSALS_KEPT:
            self._refusals.clear()
        self._refusals[machine, reason] = now
        log.warning("peer.refused", remote=remote, reason=reason)

    async def _wait_hello(self, sock: Socket) -> _Greeting | None:
        """The hello and what came with it; nothing if the stranger left again."""
        reader = FrameReader()
        frames: list[tuple[bytes, bytes]] = []
        names: tuple[str, ...] | None = None
        with trio.move_on_after(HELLO_TIMEOUT_S):
            if self._credentials is not None:
                sock = tls = await self._credentials.receive(sock, self._host)
                names = tls.names
            # The hello may have come with the end of the handshake: look before waiting.
            while self._receive(sock, reader, frames):
                if frames:
                    hello = decode_hello(*frames.pop(0))
                    return _Greeting(sock, reader, hello, frames, names)
                await self._host.wait_readable(sock)
            return None
        raise FrameError(f"no hello within {HELLO_TIMEOUT_S:g} s")

    async def _read(self, greeting: _Greeting, remote: str) -> None:
        """Read this connection, if its hello is admitted, until it ends or is replaced."""
        sock, hello, names = greeting.sock, greeting.hello, greeting.names
        reader, frames = greeting.reader, greeting.frames
        if names is not None and hello.sender not in names:
            raise FrameError(f"{hello.sender!r} came with a certificate for {listed(names)}")
        receiver = self._admit(hello)
        if isinstance(receiver, str):
            raise FrameError(receiver)
        if isinstance(receiver, Answering):
            with trio.CancelScope() as scope:
                self._conversations[scope] = hello.group
                try:
                    await receiver.serve(hello, Conversation(sock, self._host, reader, frames))
                finally:
                    del self._conversations[scope]
            return
        peer = hello.sender
        line = (hello.group, peer)
        structlog.contextvars.bind_contextvars(group=hello.group)  # this task has just this one
        log.info("peer.accepted", peer=peer, remote=remote, incarnation=hello.incarnation)
        receiver.found(hello)
        error: Exception | None = None
        with trio.CancelScope() as scope:
            if (older := self._current.get(line)) is not None:
                older.cancel()
            self._current[line] = scope
            try:
                await self._read_frames(sock, reader, receiver, peer, frames, scope)
            except (OSError, FrameError) as raised:
                error = raised
        if self._current.get(line) is scope:
            del self._current[line]
            log.info("peer.lost", peer=peer, direction="from")
            receiver.lost(peer)
        if error is not None:
            raise error

    async def _read_frames(
        self,
        sock: Socket,
        reader: FrameReader,
        receiver: Receiver,
        peer: str,
        frames: list[tuple[bytes, bytes]],
        scope: trio.CancelScope,
    ) -> None:
        while True:
            if frames:
                if scope.cancel_called:  # after this task was woken: it is too late for these
                    return
                receiver.receive(peer, frames)
                frames.clear()
            # Always a visit to the scheduler, also when there is more: a flood starves nobody.
            await self._host.wait_readable(sock)
            if not self._receive(sock, reader, frames):
                return

    def _receive(
        self, sock: Socket, reader: FrameReader, frames: list[tuple[bytes, bytes]]
    ) -> bool:
        """Read what is there. False at the end of the stream."""
        try:
            count = sock.recv_into(self._buffer)
        except BlockingIOError:
            return True
        if count == 0:
            return False
        frames += reader.feed(self._buffer[:count])
        return True


async def wait_end(sock: Socket, host: Host) -> str:
    """Wait until the other side closes or breaks a connection on which it has nothing to say but
    why it does; that, or nothing."""
    heard = b""
    while True:
        await host.wait_readable(sock)
        try:
            content = sock.recv(READ_MIN_BYTES)
        except BlockingIOError:
            continue
        except TlsError as error:
            return str(error)  # with TLS 1.3, a dialler hears only now that it was not accepted
        except OSError:
            break
        if not content:
            break
        heard += content[: LAST_WORD_MAX_BYTES - len(heard)]
    return decode_last_word(heard)


def _say_last(sock: Socket, reason: str) -> None:
    with suppress(OSError):
        sock.send(encode_last_word(reason))


def prepare(sock: Socket) -> None:
    """No waiting in calls, no waiting for full packets, no endless waiting for acknowledgements."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENT_DROP_S * 1000))


def open_listener(address: str, port: int, host: Host | None = None) -> Socket:
    """A listening socket for `PeerListener`; port 0 lets the system choose."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = (host or RealHost()).socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(STRANGERS_LIMIT)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
