"""What real clients asked a broker once, byte for byte, is answered as it was then.

`record.py` has written it down, with the shapes of the answers. So this needs none of the clients.
"""

from __future__ import annotations

import base64
import json
import struct
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from dledger_py.remoting.commands.topics import CreateTopic
from tests.broker.broker_kit import PATIENCE_S, brokers, dial
from tests.interop.shapes import shape

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
ONE_WAY = 2


class Peer:
    """The client's end of one connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._rest = b""

    async def ask(self, header: bytes, body: bytes) -> None:
        size = struct.pack(">II", 4 + len(header) + len(body), len(header))
        await self.stream.send_all(size + header + body)

    async def answer(self, opaque: int) -> dict[str, object]:
        """The shape of the answer; what the broker asks by itself meanwhile is left alone."""
        while True:
            header, body = await self._frame()
            told = json.loads(header)
            if told["flag"] & 1 and told["opaque"] == opaque:
                return shape(told, body)

    async def _frame(self) -> tuple[bytes, bytes]:
        size, header_size = struct.unpack(">II", await self._take(8))
        rest = await self._take(size - 4)
        return rest[:header_size], rest[header_size:]

    async def _take(self, size: int) -> bytes:
        while len(self._rest) < size:
            chunk = await self.stream.receive_some()
            assert chunk, "the broker has closed the connection"
            self._rest += chunk
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
async def test_what_a_client_asked_is_answered_as_then(path: Path, tmp_path: Path) -> None:
    told = json.loads(path.read_text())  # noqa: ASYNC240
    async with brokers(tmp_path, 1) as group:
        await group.start()
        leader = await group.wait_leader()
        async with dial(leader) as tool:
            for topic in told["topics"]:
                await tool.call(
                    CreateTopic(topic=topic, read_queue_nums=16, write_queue_nums=16, perm=6)
                )
        async with AsyncExitStack() as opened:
            peers: dict[int, Peer] = {}
            for exchange in told["exchanges"]:
                number = exchange["connection"]
                if number not in peers:
                    stream = await trio.open_tcp_stream(*leader.address)
                    peers[number] = Peer(await opened.enter_async_context(stream))
                await _again(peers[number], exchange)


async def _again(peer: Peer, exchange: dict[str, Any]) -> None:
    header = exchange["header"].encode()
    asked = json.loads(header)
    await peer.ask(header, base64.b64decode(exchange["body"]))
    if asked["flag"] & ONE_WAY:
        return
    with trio.fail_after(PATIENCE_S):
        answer = await peer.answer(asked["opaque"])

    assert exchange["answer"] == answer, exchange["header"]


def test_there_are_recordings() -> None:
    assert RECORDED
