"""One connection between two members on which one side asks and the other answers.

Unlike on the lane of Raft, which is one stream of frames in one direction, here each side waits for
the other, and nothing is dropped. Sockets, their readiness and clocks come from the host.

Elsewhere: what is asked and answered (fetch_frames), who may ask (peer_link).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from dledger_py.ledger.peer_frames import FrameReader
from dledger_py.runtime.host import Host, Socket

RECEIVE_BYTES = 64 << 10


class Conversation:
    """Frames in order, both ways. Whoever made the socket closes it."""

    def __init__(
        self,
        sock: Socket,
        host: Host,
        reader: FrameReader,
        received: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """`received` are frames that `reader` has completed already."""
        self._socket = sock
        self._host = host
        self._reader = reader
        self._received = deque(received)

    async def send(self, *parts: bytes) -> None:
        """Send what makes up a frame; returns once the system has all of it. **Raises** OSError."""
        for part in parts:
            rest = memoryview(part)
            while rest:
                try:
                    rest = rest[self._socket.send(rest) :]
                except BlockingIOError:
                    await self._host.wait_writable(self._socket)

    async def receive(self) -> tuple[bytes, bytes] | None:
        """The next frame's header and body; None when the other side has closed. **Raises**
        FrameError, OSError."""
        while not self._received:
            try:
                # First, as TLS may have read ahead what nothing will be readable for.
                content = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                await self._host.wait_readable(self._socket)
                continue
            if not content:
                return None
            self._received += self._reader.feed(memoryview(content))
        return self._received.popleft()
