"""What a server asks of the machine it runs on: clocks, chance, threads and sockets.

Servers take a `Host` when they are made and ask nobody else, so that a simulation can put whole
members into one process, where a seed decides what time it is and what comes next. `RealHost` is
this machine, and adds nothing to what it hands on: its sockets and its readiness set are the
standard library's own.

Elsewhere: files (`dledger_py.storage.files`); what users' clients take from outside
(`dledger_py.client.surroundings`), which load nothing of this.
"""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple, Unpack

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Work = Generator[float | None, T | None, None]
"""The work of a thread: it yields how long it waits for what is put before it (None: for ever) and
is sent that, or None if nothing came in time."""


class Worker(Protocol[T]):
    """A thread of one's own that works through what is put before it."""

    def put(self, item: T) -> None:
        """Any thread; never blocks."""
        ...

    def start(self, work: Work[T]) -> None:
        """On the loop, once. The thread ends with its work, which must not raise."""
        ...

    def take_nowait(self) -> T | None:
        """What else was put by now, for the work itself; None if nothing was."""
        ...

    def call_soon(self, fn: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        """Have the loop call this, in order; from the work itself. **Raises** RunFinishedError."""
        ...


class Socket(Protocol):
    """The calls of a non-blocking stream socket that are used here, with the errors they have."""

    def fileno(self) -> int: ...
    def setblocking(self, flag: bool, /) -> None: ...
    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...
    def bind(self, address: Any, /) -> None: ...
    def listen(self, backlog: int, /) -> None: ...
    def accept(self) -> tuple[Socket, Any]: ...
    def getsockname(self) -> Any: ...
    def recv(self, size: int, /) -> bytes: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def send(self, content: bytes | memoryview, /) -> int: ...
    def sendmsg(self, parts: Sequence[bytes | memoryview], /) -> int: ...
    def close(self) -> None: ...


class Poller(Protocol):
    """A readiness set, level-triggered: `select.epoll`."""

    def fileno(self) -> int: ...
    def register(self, fd: int, eventmask: int) -> None: ...
    def modify(self, fd: int, eventmask: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


class Host(Protocol):
    """A machine, as one process on it sees it."""

    @property
    def random(self) -> random.Random:
        """For jitter, randomised timeouts and names that must not repeat."""
        ...

    def now_ns(self) -> int:
        """The wall clock: data to be stamped into things. It jumps, and no deadline rests on it."""
        ...

    def monotonic_s(self) -> float:
        """For deadlines and durations outside of the loop's own clock. Any thread."""
        ...

    def monotonic_ns(self) -> int: ...

    async def run_in_thread(
        self,
        fn: Callable[[Unpack[Ts]], T],
        *args: *Ts,
        abandon_on_cancel: bool = False,
    ) -> T:
        """What may block, in a worker thread: `trio.to_thread.run_sync`."""
        ...

    def disk_is_quick(self) -> bool:
        """Whether the loop may use the disk by itself, as far as this machine knows: what was
        measured decides besides."""
        ...

    def worker(self, name: str) -> Worker[Any]:
        """A thread to be started. A daemon: a process whose disk hangs must be able to end."""
        ...

    def socket(self, family: int) -> Socket:
        """A new stream socket. **Raises** OSError."""
        ...

    async def resolve(self, host: str, port: int) -> tuple[int, Any]:
        """Family and address to listen at. **Raises** OSError."""
        ...

    async def dial(self, host: str, port: int) -> Socket:
        """A connected socket, non-blocking. **Raises** OSError."""
        ...

    def poller(self) -> Poller: ...

    async def wait_readable(self, what: Socket | int) -> None:
        """`trio.lowlevel.wait_readable`, for a socket or a poller's descriptor."""
        ...

    async def wait_writable(self, what: Socket | int) -> None: ...

    def notify_closing(self, what: Socket | int) -> None:
        """Wake whoever waits for this socket, with ClosedResourceError, before it is closed."""
        ...


class RealHost:
    """This machine."""

    def __init__(self, seeded: random.Random | None = None) -> None:
        self.random = seeded or random.Random()

    # As they are, not wrapped: the hot path pays for an attribute and nothing else.
    now_ns = staticmethod(time.time_ns)
    monotonic_s = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)
    run_in_thread = staticmethod(trio.to_thread.run_sync)
    wait_readable = staticmethod(trio.lowlevel.wait_readable)
    wait_writable = staticmethod(trio.lowlevel.wait_writable)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)
    poller = staticmethod(select.epoll)

    def disk_is_quick(self) -> bool:
        return True

    def worker(self, name: str) -> RealWorker[Any]:
        return RealWorker(name)

    def socket(self, family: int) -> Socket:
        return socket.socket(family, socket.SOCK_STREAM)

    async def resolve(self, host: str, port: int) -> tuple[int, Any]:
        found = await trio.socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        return family, address

    async def dial(self, host: str, port: int) -> Socket:
        stream = await trio.open_tcp_stream(host, port)
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        return sock


class RealWorker(Generic[T]):
    """A thread of the operating system and a queue before it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: SimpleQueue[T] = SimpleQueue()
        self._token: trio.lowlevel.TrioToken | None = None

    def put(self, item: T) -> None:
        self._queue.put(item)

    def start(self, work: Work[T]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        threading.Thread(target=self._run, args=(work,), name=self._name, daemon=True).start()

    def take_nowait(self) -> T | None:
        try:
            return self._queue.get_nowait()
        except Empty:
            return None

    def call_soon(self, fn: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        assert self._token is not None
        self._token.run_sync_soon(fn, *args)

    def _run(self, work: Work[T]) -> None:
        with suppress(StopIteration):
            wait_s = next(work)
            while True:
                try:
                    item = self._queue.get(timeout=wait_s)
                except Empty:
                    wait_s = work.send(None)
                else:
                    wait_s = work.send(item)
