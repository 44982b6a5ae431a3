"""One accepted connection: what it still owes, what still owes it, what waits to be sent.

It owns no task and makes no decision about the loop: the server's data plane reads, dispatches
and flushes; this is the book it keeps per socket. Handlers see it as `rooms.Connection`.

Back-pressure: a connection is *full* while too many of its requests are unanswered or too many
bytes wait for it to read. A full connection is not read from until it is below half of every limit;
frames already received wait in its backlog, so that one read of small requests for large answers
cannot outrun the limit either.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from attrs import frozen

from dledger_py.remoting.wire.frame import JSON, Frame, Framer, encode_request
from dledger_py.remoting.wire.message import pack_host, unpack_host
from dledger_py.remoting.wire.schema import Request, encode
from dledger_py.runtime.host import Socket

# Requests of ours that await a client's response. Relays of admin calls; Java allows 65535.
REPLIES_AWAITED_MAX: Final = 1024

_OPAQUE_MAX: Final = 2**31 - 1


@frozen(kw_only=True)
class ServerLimits:
    """What one server takes on; beyond it connections are paused or refused, never buffered."""

    # File descriptors are the real limit; 10,000 clients are ten times RocketMQ's usual advice.
    connections_max: int = 10_000
    # A consumer holds one pull per queue; Java's clients allow themselves 65535 calls.
    unanswered_max: int = 16_384
    # Bodies of sends on their way through the log: four frames of the largest size.
    unanswered_bytes_max: int = 64 * 1024 * 1024
    # Answers a slow reader has not taken: 32 full pull answers.
    out_bytes_max: int = 8 * 1024 * 1024
    # Held requests that all come due at once may pass the limit above; beyond this one the
    # connection is closed.
    out_bytes_fatal: int = 128 * 1024 * 1024
    # Incomplete frames, all connections together: 16 of the largest size.
    partial_bytes_max: int = 256 * 1024 * 1024
    # As Netty's idle handler in RocketMQ: neither read nor written for this long.
    idle_timeout_s: float = 120.0


class Plane(Protocol):
    """What a connection needs of the server."""

    limits: ServerLimits

    def mark_dirty(self, connection: "InboundConnection") -> None:
        """Look at this connection at the next flush."""


class InboundConnection:
    """A client's connection. Attributes without a word below are `rooms.Connection`'s."""

    __slots__ = (
        "_awaited",
        "_close_callbacks",
        "_next_opaque",
        "_plane",
        "attributes",
        "backlog",
        "blocked",
        "closed",
        "dirty",
        "framer",
        "id",
        "last_active_tick",
        "local",
        "out",
        "out_bytes",
        "packed_remote",
        "paused",
        "remote",
        "serialization",
        "socket",
        "unanswered",
        "unanswered_bytes",
    )

    def __init__(self, number: int, sock: Socket, peer: Any, plane: Plane) -> None:
        self.id = number
        self.socket = sock
        self.packed_remote = pack_host(peer[0], peer[1])  # as records hold it
        self.remote = unpack_host(self.packed_remote)
        local = sock.getsockname()
        self.local: tuple[str, int] = (local[0], local[1])
        self.closed = False
        self.attributes: dict[str, Any] = {}
        self.framer = Framer()
        self.serialization = JSON  # what this peer writes, hence can read
        self.last_active_tick = 0
        # Frames received while full, and whether reading is paused.
        self.backlog: deque[Frame] = deque()
        self.paused = False
        # Bytes on their way out, whether the socket refused some, and whether a flush is due.
        self.out: deque[bytes | memoryview] = deque()
        self.out_bytes = 0
        self.blocked = False
        self.dirty = False
        self.unanswered = 0
        self.unanswered_bytes = 0
        self._plane = plane
        self._awaited: dict[int, Callable[[Frame | None], None]] = {}
        self._next_opaque = 1
        self._close_callbacks: list[Callable[[], None]] = []

    @property
    def peer(self) -> str:
        """For log lines."""
        return f"{self.remote[0]}:{self.remote[1]}"

    # --- what handlers use

    def respond(self, request_size: int, head: bytes, body: bytes) -> None:
        """Queue a response and take the request off the books."""
        if self.closed:
            return
        self.unanswered -= 1
        self.unanswered_bytes -= request_size
        if head:
            self._put(head, body)
        elif self.paused and not self.dirty:
            self._plane.mark_dirty(self)

    def respond_all(self, request_bytes: int, heads: Sequence[bytes]) -> None:
        """Queue responses without bodies and take as many requests off the books."""
        if self.closed:
            return
        self.unanswered -= len(heads)
        self.unanswered_bytes -= request_bytes
        self._put(b"".join(heads), b"")

    def request(
        self,
        request: Request[Any],
        body: bytes = b"",
        *,
        on_reply: Callable[[Frame | None], None] | None = None,
    ) -> int:
        """As `Connection.request`: at most REPLIES_AWAITED_MAX answers are awaited."""
        if self.closed or (on_reply is not None and self._owes_too_much()):
            if on_reply is not None:
                on_reply(None)
            return 0
        opaque = self._next_opaque
        self._next_opaque = opaque % _OPAQUE_MAX + 1
        if on_reply is not None:
            self._awaited[opaque] = on_reply
        fields = encode(request)
        frame = encode_request(
            request.code,
            opaque,
            fields,
            body,
            one_way=on_reply is None,
            serialization=self.serialization,
        )
        self._put(frame, b"")
        return opaque

    def forget(self, number: int) -> None:
        self._awaited.pop(number, None)

    def on_close(self, callback: Callable[[], None]) -> None:
        if self.closed:
            callback()
        else:
            self._close_callbacks.append(callback)

    # --- what the data plane uses

    def is_full(self) -> bool:
        limits = self._plane.limits
        return (
            self.unanswered >= limits.unanswered_max
            or self.unanswered_bytes >= limits.unanswered_bytes_max
            or self.out_bytes >= limits.out_bytes_max
        )

    def is_relieved(self) -> bool:
        """Below half of every limit: reading may go on."""
        limits = self._plane.limits
        return (
            self.unanswered * 2 <= limits.unanswered_max
            and self.unanswered_bytes * 2 <= limits.unanswered_bytes_max
            and self.out_bytes * 2 <= limits.out_bytes_max
        )

    def take_reply(self, frame: Frame) -> None:
        """A response: to a request of ours, or to nothing we know, which is ignored."""
        callback = self._awaited.pop(frame.opaque, None)
        if callback is not None:
            callback(frame)

    def end(self) -> list[Callable[[], None]]:
        """Mark as closed; return what is to be called about it."""
        self.closed = True
        self.backlog.clear()
        replies = [_with_none(callback) for callback in self._awaited.values()]
        self._awaited.clear()
        callbacks, self._close_callbacks = self._close_callbacks, []
        return replies + callbacks

    def next_chunk(self, size_max: int) -> bytes | memoryview:
        """Take what one send should try: all there is, up to about `size_max`."""
        out = self.out
        if len(out) == 1:
            return out.popleft()
        if self.out_bytes <= size_max:
            chunk = b"".join(out)
            out.clear()
            return chunk
        parts = [out.popleft()]
        size = len(parts[0])
        while out and size + len(out[0]) <= size_max:
            size += len(out[0])
            parts.append(out.popleft())
        return b"".join(parts) if len(parts) > 1 else parts[0]

    def _owes_too_much(self) -> bool:
        """A client that reads nothing is not asked either: what waits for it is bounded."""
        return (
            len(self._awaited) >= REPLIES_AWAITED_MAX
            or self.out_bytes >= self._plane.limits.out_bytes_max
        )

    def _put(self, head: bytes, body: bytes) -> None:
        self.out.append(head)
        self.out_bytes += len(head)
        if body:
            self.out.append(body)
            self.out_bytes += len(body)
        if not self.dirty:
            self._plane.mark_dirty(self)


def _with_none(callback: Callable[[Frame | None], None]) -> Callable[[], None]:
    return lambda: callback(None)
