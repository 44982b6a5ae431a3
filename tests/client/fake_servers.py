"""A server under a test's control, and the way tests run on both event loops.

`FakeServer` speaks frames on a loopback port the system chose.  What it answers is a table of
functions by request code; what it received is there to be looked at.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream, TaskStatus

from dledger_py.remoting.wire.frame import Frame, Framer, encode_request, encode_response

TEST_TIMEOUT_S = 20

Handler = Callable[["Peer", Frame], bytes | None]


def on_both_loops(test: Callable[[], Awaitable[None]]) -> Callable[[str], None]:
    """Run an async test once under trio and once under asyncio."""

    async def bounded() -> None:
        with anyio.fail_after(TEST_TIMEOUT_S):
            await test()

    @wraps(test)
    def run(backend: str) -> None:
        anyio.run(bounded, backend=backend)

    del run.__wrapped__  # pytest would read its signature
    return pytest.mark.parametrize("backend", ["trio", "asyncio"])(run)


class Peer:
    """One connection as the server sees it."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self._one_sender = anyio.Lock()

    async def send(self, data: bytes) -> None:
        async with self._one_sender:
            await self.stream.send(data)

    async def close(self) -> None:
        await anyio.aclose_forcefully(self.stream)


class FakeServer:
    """Answers by table; remembers every frame that came."""

    def __init__(self) -> None:
        self.handlers: dict[int, Handler] = {}
        self.requests: list[Frame] = []
        self.peers: list[Peer] = []
        self.ends: list[type[Exception]] = []
        """How connections ended: BrokenResourceError is a reset, EndOfStream a goodbye."""
        self.port = 0
        self._news = anyio.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def requests_of(self, code: int) -> list[Frame]:
        return [frame for frame in self.requests if frame.code == code]

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds; looked at after each request and each lost connection."""
        while not condition():
            await self._news.wait()

    def tell_news(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def drop_all(self) -> None:
        """Close every connection, and go on listening."""
        for peer in list(self.peers):
            await peer.close()

    async def notify(self, code: int, fields: dict[str, str]) -> None:
        """Send a one-way request to every client."""
        for peer in self.peers:
            await peer.send(encode_request(code, 1, fields, one_way=True))

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
        self.port = listener.extra(SocketAttribute.local_port)
        async with listener:
            task_status.started()
            await listener.serve(self._serve)

    async def _serve(self, stream: SocketStream) -> None:
        peer = Peer(stream)
        self.peers.append(peer)
        framer = Framer()
        try:
            async with stream:
                while True:
                    data = await stream.receive()
                    answers = [self._answer(peer, frame) for frame in framer.feed(data)]
                    self.tell_news()
                    if out := b"".join(filter(None, answers)):
                        await peer.send(out)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError) as end:
            self.ends.append(type(end))
        finally:
            self.peers.remove(peer)
            self.gone(peer)
            self.tell_news()

    def gone(self, peer: Peer) -> None:
        """*peer*'s connection has ended."""

    def _answer(self, peer: Peer, frame: Frame) -> bytes | None:
        self.requests.append(frame)
        if frame.is_response:
            return None
        handler = self.handlers.get(frame.code)
        if handler is None:
            return encode_response(frame, 3, remark=f" request type {frame.code} not supported")
        answer = handler(peer, frame)
        return None if frame.is_one_way else answer


@asynccontextmanager
async def running(*servers: FakeServer) -> AsyncIterator[None]:
    """The servers, listening, for as long as the block lasts."""
    async with anyio.create_task_group() as tasks:
        for server in servers:
            await tasks.start(server.serve)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
