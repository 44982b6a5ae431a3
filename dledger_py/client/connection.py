"""One multiplexed connection to a name server or broker, for clients, tools and brokers alike.

    async with open_connection("127.0.0.1", 10911) as connection:
        reply = await connection.call(GetMaxOffset(topic="t", queue_id=0))

The laws.

* Any number of tasks may call at once; answers come in any order and are matched by opaque.
* Requests written in one turn of the event loop leave in one send.  A send per request costs
  several times the rest of this module.
* One sweeper looks after all deadlines, every `SWEEP_S`; a cancel scope per call would cost as
  much as the call.  So a deadline may be noticed up to `SWEEP_S` late.
* A cancelled call leaves the connection usable: its answer, when it comes, is dropped.
* A server that answered nothing at all since a call of `SILENT_S` or more was made is gone: the
  connection is aborted, so that calls which may wait for longer (held pulls) do not wait for the
  dead, and what did not arrive does not arrive any more.
* The end of the connection fails every pending call with `ConnectionLost`: indefinite.
  `Unreachable` (never connected) and `ClientClosed` (nothing written) are definite.
* Bytes that are not the protocol end the connection at once: `GarbageReceived`.

Who reconnects is elsewhere (`pool`); what to try again is in `retry`.
"""

import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel
import msgspec
from anyio.abc import ByteStream, SocketAttribute
from attrs import frozen

from dledger_py.client import calls
from dledger_py.client._tasks import open_tasks
from dledger_py.client.errors import (
    CallTimedOut,
    ClientClosed,
    ClientError,
    ConnectionLost,
    GarbageReceived,
    MalformedAnswer,
    ResponseError,
    Unreachable,
)
from dledger_py.client.surroundings import Dial, dial
from dledger_py.remoting.wire import schema
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.frame import (
    ONE_WAY,
    Frame,
    FrameError,
    Framer,
    encode_frame,
    encode_request,
    encode_response,
)

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 3.0
"""Java's connect timeout."""

CALL_TIMEOUT_S = 3.0
"""Java's and Go's timeout of one request."""

SILENT_S = 2.0
"""A call must have waited this long before its timeout says something about the connection.
Java closes the socket whenever a synchronous call times out; this is milder."""

SWEEP_S = 0.05
"""How often deadlines are looked at: late by at most this, 20 wake-ups a second while busy."""

READ_BYTES = 256 * 1024
"""One receive takes at most this: a pull answer of the usual largest size."""

OUT_BYTES_MAX = 8 * 1024 * 1024
"""Bytes waiting to be sent before callers wait, too: two messages of the largest size."""

PENDING_MAX = 65_535
"""Calls waiting for an answer before further callers wait; Java's number of permits."""

FLUSH_S = 1.0
"""How long a connection that is closed in good order waits for its last bytes to leave."""

_OPAQUE_MAX = 2**31 - 1

_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: a close drops what is unsent or unacknowledged, and resets the connection."""

HeaderT = TypeVar("HeaderT", bound="schema.Header | None")

OnRequest = Callable[["Connection", Frame], None]
"""Called on the loop for each request the server sends.  Must not block, and what it raises is
its own bug: it ends the block the connection is used in.  Whoever wants to answer does it with
`Connection.answer_nowait`, now or later."""


@frozen
class Reply(Generic[HeaderT]):
    """A server's answer to a call."""

    header: HeaderT
    body: bytes
    code: int
    remark: str | None


@frozen
class ConnectionStatistics:
    """What a connection is doing."""

    pending: int
    out_bytes: int
    sends: int
    requests: int


class Connection:
    """A connection that is open, or was: see `closed`.  Made by `open_connection` only."""

    def __init__(self, stream: ByteStream, address: str, on_request: OnRequest | None) -> None:
        self.address = address
        self.local_host = str(stream.extra(SocketAttribute.local_address)[0])
        self._stream = stream
        self._on_request = on_request
        self._opaque = 0
        self._make_call, self._now = calls.of_this_loop()
        self._pending: dict[int, calls.Call] = {}
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._to_write = anyio.Event()
        self._to_sweep = anyio.Event()
        self._room = anyio.Event()
        self._idle = anyio.Event()
        self._ended = anyio.Event()
        self._reason: Callable[[], ClientError] | None = None
        self._heard_at = self._now()
        self._sends = 0
        self._requests = 0

    @property
    def closed(self) -> bool:
        """Whether the connection has ended; it never comes back."""
        return self._reason is not None

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, whoever ended it."""
        await self._ended.wait()

    def statistics(self) -> ConnectionStatistics:
        """Counters and lengths of this moment."""
        return ConnectionStatistics(
            pending=len(self._pending),
            out_bytes=self._out_bytes,
            sends=self._sends,
            requests=self._requests,
        )

    # --- calling ---------------------------------------------------------------------------------

    async def call(
        self,
        request: schema.Request[HeaderT],
        body: bytes = b"",
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        accept: Collection[int] = (0,),
    ) -> Reply[HeaderT]:
        """Send *request* and wait for its answer.

        **Raises** ResponseError if the answer's code is not among *accept*, CallTimedOut and
        ConnectionLost (indefinite), ClientClosed if the connection had ended before.
        """
        opaque = self.next_opaque()
        data = encode_request(request.code, opaque, schema.encode(request), body)
        frame = await self.exchange(opaque, data, timeout_s)
        if frame.code not in accept:
            raise ResponseError(frame.code, frame.remark)
        kind = schema.reply_type(type(request))
        try:
            header = schema.decode(kind, frame.fields) if kind is not None else None
        except schema.MalformedHeader as error:
            raise MalformedAnswer(self.address, str(error)) from error
        # The brackets of Request[...] say that this is the type; `schema` keeps them together.
        return Reply(header, frame.body, frame.code, frame.remark)  # type: ignore[arg-type]

    async def call_frame(self, frame: Frame, *, timeout_s: float = CALL_TIMEOUT_S) -> Frame:
        """Relay *frame* as it is, under an opaque of ours, and return the answer as it came.

        Every code is an answer here; the answer's opaque is ours, not the frame's.
        """
        opaque = self.next_opaque()
        data = encode_frame(msgspec.structs.replace(frame, opaque=opaque))
        return await self.exchange(opaque, data, timeout_s)

    async def exchange(self, opaque: int, data: bytes, timeout_s: float) -> Frame:
        """Send *data*, one whole request with *opaque*, and wait for the frame that answers it."""
        if self._out_bytes > OUT_BYTES_MAX or len(self._pending) >= PENDING_MAX:
            await self._wait_room(timeout_s)
        now = self._now()
        call = self._make_call(now, now + timeout_s)
        self._write_nowait(data)
        if not self._pending:
            self._to_sweep.set()
        self._pending[opaque] = call
        try:
            return await call.wait()
        except BaseException:  # an answer took it out already
            self._pending.pop(opaque, None)
            raise

    async def tell(self, request: schema.Request[HeaderT], body: bytes = b"") -> None:
        """Send *request* one-way: nobody answers, and nobody knows whether it arrived.

        **Blocks** only while too many bytes wait to be sent.
        """
        if self._out_bytes > OUT_BYTES_MAX:
            await self._wait_room(CALL_TIMEOUT_S)
        self.tell_nowait(request, body)

    def tell_nowait(self, request: schema.Request[HeaderT], body: bytes = b"") -> None:
        """Send *request* one-way, without waiting for room.

        **Raises** ClientClosed or ConnectionLost if the connection has ended.
        """
        fields = schema.encode(request)
        data = encode_request(request.code, self.next_opaque(), fields, body, one_way=True)
        self._write_nowait(data)

    async def tell_encoded(self, data: bytes) -> None:
        """Send *data*, one whole one-way request."""
        if self._out_bytes > OUT_BYTES_MAX:
            await self._wait_room(CALL_TIMEOUT_S)
        self._write_nowait(data)

    def answer_nowait(
        self,
        to: Frame,
        code: int = 0,
        fields: dict[str, str] | None = None,
        body: bytes = b"",
        remark: str | None = None,
    ) -> None:
        """Answer the server's request *to*; nothing is sent if it was one-way."""
        if not to.flag & ONE_WAY and not self.closed:
            self._write_nowait(encode_response(to, code, fields, body, remark))

    async def flush(self) -> None:
        """Wait until all that was told has been handed to the operating system."""
        while not self.closed and (self._out or not self._idle.is_set()):
            if self._idle.is_set():  # the writer has not woken up yet
                await anyio.lowlevel.checkpoint()
            else:
                await self._idle.wait()

    def next_opaque(self) -> int:
        """A request id that no pending call has."""
        opaque = self._opaque
        while True:
            opaque = opaque + 1 if opaque < _OPAQUE_MAX else 1
            if opaque not in self._pending:
                self._opaque = opaque
                return opaque

    def _write_nowait(self, data: bytes) -> None:
        if self._reason is not None:
            raise self._reason()
        if not self._out:
            self._to_write.set()
        self._out.append(data)
        self._out_bytes += len(data)
        self._requests += 1

    async def _wait_room(self, timeout_s: float) -> None:
        with anyio.move_on_after(timeout_s):
            while self._out_bytes > OUT_BYTES_MAX or len(self._pending) >= PENDING_MAX:
                if self._reason is not None:
                    raise self._reason()
                if self._room.is_set():  # else others wait for it already
                    self._room = anyio.Event()
                await self._room.wait()
            return
        raise CallTimedOut(f"{self.address} took no more requests for {timeout_s:g} s")

    # --- the tasks -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read, write and watch deadlines until the connection ends.  Never raises for its end."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, tasks.cancel_scope)
                tasks.start_soon(self._sweep, tasks.cancel_scope)
                await self._read()
                tasks.cancel_scope.cancel()
        finally:
            self.end(lambda: ConnectionLost(f"the connection to {self.address} was given up"))
            await anyio.aclose_forcefully(self._stream)

    def end(self, reason: Callable[[], ClientError]) -> None:
        """Fail everything that waits, with *reason*; each call gets an exception of its own."""
        if self._reason is not None:
            return
        self._reason = reason
        for call in self._pending.values():
            call.fail(reason())
        self._pending.clear()
        self._out.clear()
        self._out_bytes = 0
        self._room.set()
        self._ended.set()

    def abort(self, reason: Callable[[], ClientError]) -> None:
        """End at once, and take back what was written and has not arrived yet: behind a cut it
        would arrive when that is mended, long after anybody waits for it."""
        raw = self._stream.extra(SocketAttribute.raw_socket, None)
        if raw is not None and not self.closed:
            with suppress(OSError):  # broken already: then there is nothing to take back
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.end(reason)

    async def _read(self) -> None:
        framer = Framer()
        while True:
            try:
                data = await self._stream.receive(READ_BYTES)
                self._heard_at = self._now()
                frames = framer.feed(data)
            except FrameError as error:
                self._take(error.frames)
                self._end_by_garbage(error.reason)
                return
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                self.end(lambda: ConnectionLost(f"{self.address} closed the connection"))
                return
            self._take(frames)

    def _end_by_garbage(self, why: str) -> None:
        logger.warning("%s sent bytes that are no frame: %s", self.address, why)
        self.end(lambda: GarbageReceived(f"{self.address} sent bytes that are no frame: {why}"))

    def _take(self, frames: list[Frame]) -> None:
        waiting = self._pending
        for frame in frames:
            if frame.flag & 1:
                call = waiting.pop(frame.opaque, None)
                if call is not None:  # None: cancelled, timed out, or nobody asked
                    call.answer(frame)
            else:
                self._serve(frame)
        if not self._room.is_set():
            self._room.set()

    def _serve(self, frame: Frame) -> None:
        if self._on_request is None:
            remark = f" request type {frame.code} not supported"
            self.answer_nowait(frame, ResponseCode.REQUEST_CODE_NOT_SUPPORTED, remark=remark)
            return
        self._on_request(self, frame)

    async def _write(self, everything: anyio.CancelScope) -> None:
        while True:
            if not self._out:
                self._idle.set()
                self._to_write = anyio.Event()
                await self._to_write.wait()
                self._idle = anyio.Event()
            data = b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            self._sends += 1
            if not self._room.is_set():
                self._room.set()
            try:
                await self._stream.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                why = f"the connection to {self.address} broke: {error.__cause__ or error}"
                self.end(lambda: ConnectionLost(why))  # noqa: B023 - left at once
                everything.cancel()
                return

    async def _sweep(self, everything: anyio.CancelScope) -> None:
        while True:
            if not self._pending:
                self._to_sweep = anyio.Event()
                await self._to_sweep.wait()
            await anyio.sleep(SWEEP_S)
            now = self._now()
            late = [opaque for opaque, call in self._pending.items() if call.due <= now]
            silent = False
            for opaque in late:
                call = self._pending.pop(opaque)
                call.fail(CallTimedOut(f"{self.address} did not answer in time"))
                silent |= self._heard_at < call.asked_at <= now - SILENT_S
            if silent:
                silent_s = now - self._heard_at
                why = f"{self.address} has been silent for {silent_s:.1f} s"
                self.abort(lambda: ConnectionLost(why))  # noqa: B023 - left at once
                everything.cancel()
                return


@asynccontextmanager
async def open_connection(
    host: str,
    port: int,
    *,
    on_request: OnRequest | None = None,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    dial: Dial = dial,
) -> AsyncIterator[Connection]:
    """A connection for as long as the block lasts.  It is not reopened when it breaks.

    **Raises** Unreachable if it cannot be opened within *connect_timeout_s*.
    """
    address = f"{host}:{port}"
    stream = await _open_stream(dial, host, port, address, connect_timeout_s)
    try:
        connection = Connection(stream, address, on_request)
        async with open_tasks() as tasks:
            tasks.start_soon(connection.run, name=f"connection to {address}")
            try:
                yield connection
                with anyio.move_on_after(FLUSH_S):
                    await connection.flush()
            finally:
                connection.end(ClientClosed)
    finally:
        await anyio.aclose_forcefully(stream)


async def _open_stream(
    dial: Dial, host: str, port: int, address: str, timeout_s: float
) -> ByteStream:
    try:
        with anyio.fail_after(timeout_s):
            return await dial(host, port)
    except TimeoutError as error:
        raise Unreachable(address, f"no connection within {timeout_s:g} s") from error
    except OSError as error:
        reasons = error.__cause__ or error
        if isinstance(reasons, BaseExceptionGroup):
            reasons = reasons.exceptions[0]
        hint = "is it running?" if isinstance(reasons, ConnectionRefusedError) else ""
        raise Unreachable(address, str(reasons), hint=hint) from error


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port"; an IPv6 host may stand in brackets."""
    host, colon, port = address.strip().rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"address {address!r}: host:port is expected")
    return host.strip("[]"), int(port)
