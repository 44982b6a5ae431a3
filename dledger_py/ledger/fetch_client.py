"""Asking another member for its committed log and its newest snapshot.

One connection, one question at a time. Whatever goes wrong (nobody there, refused, silent, bytes
that are no answer, an answer to another question) is `FetchFailed`: the asker tries another member,
or this one again later, and goes on at the byte it has reached.

Elsewhere: what is made of the bytes, and the proof that they are the right ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio
from attrs import define

from dledger_py.ledger.conversation import Conversation
from dledger_py.ledger.credentials import Credentials
from dledger_py.ledger.errors import FrameError
from dledger_py.ledger.fetch_frames import (
    PIECE_MAX_BYTES,
    Answer,
    DescribeLog,
    LogDescribed,
    LogRead,
    ReadLog,
    ReadSnapshot,
    Request,
    SnapshotRead,
    Unavailable,
    decode_answer,
    encode_request,
)
from dledger_py.ledger.peer_frames import FrameReader, Hello, encode_hello
from dledger_py.ledger.peer_link import prepare
from dledger_py.runtime.host import Host, Socket

DIAL_S = 5.0
ANSWER_S = 30.0
"""An answer waits its turn under the other side's rate, which a slow setting can make seconds."""

ANSWER_LIMIT_BYTES = PIECE_MAX_BYTES + (64 << 10)
"""Largest frame that comes back: a piece, or a configuration, and the numbers before it."""


class FetchFailed(Exception):
    """Nothing was got from this member. Kind: refused; another one may have it, or this one
    later."""


@define(eq=False)
class Fetch:
    """A connection to one member's fetch lane. Made by `open_fetch`."""

    peer: str
    _conversation: Conversation

    async def describe(self) -> LogDescribed:
        """What it could hand out. **Raises** FetchFailed."""
        answer = await self._ask(DescribeLog())
        if isinstance(answer, LogDescribed):
            return answer
        raise self._wrong(answer)

    async def read_log(self, position: int) -> bytes:
        """Committed log bytes from `position` on, at least one. **Raises** FetchFailed."""
        answer = await self._ask(ReadLog(position=position, max_bytes=PIECE_MAX_BYTES))
        if isinstance(answer, LogRead) and answer.position == position:
            return answer.raw
        raise self._wrong(answer)

    async def read_snapshot(self, index: int, offset: int) -> bytes:
        """A piece of a snapshot's body, at least one byte. **Raises** FetchFailed."""
        answer = await self._ask(
            ReadSnapshot(index=index, offset=offset, max_bytes=PIECE_MAX_BYTES)
        )
        if isinstance(answer, SnapshotRead) and (answer.index, answer.offset) == (index, offset):
            return answer.piece
        raise self._wrong(answer)

    async def _ask(self, request: Request) -> Answer:
        try:
            with trio.fail_after(ANSWER_S):
                await self._conversation.send(encode_request(request))
                frame = await self._conversation.receive()
            if frame is None:
                raise FetchFailed(f"{self.peer} closed the connection")
            return decode_answer(*frame)
        except trio.TooSlowError as error:
            raise FetchFailed(f"{self.peer} did not answer within {ANSWER_S:g} s") from error
        except (FrameError, OSError) as error:
            raise FetchFailed(f"{self.peer}: {error}") from error

    def _wrong(self, answer: Answer) -> FetchFailed:
        if isinstance(answer, Unavailable):
            return FetchFailed(f"{self.peer}: {answer.reason}")
        return FetchFailed(f"{self.peer} answered another question")


@asynccontextmanager
async def open_fetch(
    hello: Hello,
    addresses: Iterable[tuple[str, int]],
    host: Host,
    credentials: Credentials | None = None,
) -> AsyncIterator[Fetch]:
    """A connection to the fetch lane of `hello.receiver`, at the first of these addresses where it
    is met. **Raises** FetchFailed."""
    peer = hello.receiver
    sock = await _dial(peer, addresses, host, credentials)
    try:
        conversation = Conversation(sock, host, FrameReader(ANSWER_LIMIT_BYTES, first=False))
        try:
            await conversation.send(encode_hello(hello))
        except OSError as error:
            raise FetchFailed(f"{peer}: {error}") from error
        yield Fetch(peer, conversation)
    finally:
        host.notify_closing(sock)
        sock.close()


async def _dial(
    peer: str,
    addresses: Iterable[tuple[str, int]],
    host: Host,
    credentials: Credentials | None,
) -> Socket:
    reasons = []
    for name, port in addresses:
        try:
            with trio.fail_after(DIAL_S):
                sock = await host.dial(name, port)
                prepare(sock)
                if credentials is None:
                    return sock
                return await credentials.meet(sock, peer, host)
        except (OSError, trio.TooSlowError) as error:
            reasons.append(f"{name}:{port}: {error}")
    raise FetchFailed(f"cannot reach {peer} at " + "; ".join(reasons))
