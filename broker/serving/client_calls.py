"""Calls to clients on behalf of others: a reply handed on, a tool's question to a consumer.

A client is called by the member it is connected to. Consumers beat every member, requesters only
the one that their route names as the leader, and routes are old at times; so a member that does not
know a client asks the others, all at once, to make the call. The first that knows it answers; a
request that came by another member is never passed on again.

Laws
- A client that does not answer costs its caller `ANSWER_S` and nobody else anything: what is under
  way is bounded in number and bytes, and per client (see `Connection.request`).
- Nothing is stored, and nothing is tried twice by us. Two members may both know a client, and one
  may have made the call although its answer was lost: then who tries again calls twice.

Source: Broker2Client.java, of which the time comes; asking other members is ours.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio
from attrs import define

from broker.errors import CLIENT_UNKNOWN, ClientGone, ClientSilent, TooManyCalls
from broker.serving.client_table import Client
from broker.serving.leadership import FORWARDED_BY
from dledger_py.remoting.rooms import Answer, Caller
from dledger_py.remoting.wire.frame import Frame, render_fields
from dledger_py.remoting.wire.schema import Request

ANSWER_S: Final = 10.0  # what a client is given to answer; Java's for all of these
OTHERS_S: Final = ANSWER_S + 1.0  # another member gives the client as long, and then says so
IN_HAND_MAX: Final = 8_192  # calls under way; each is a task
IN_HAND_BYTES_MAX: Final = 128 * 1024 * 1024  # of what is handed on; eight of the largest frames


@define(eq=False, kw_only=True)
class ClientCalls:
    """One per member, so that its bounds hold for all who call."""

    others: Callable[[], Iterable[str]]
    """The other members of the group."""
    ask_member: Callable[[str, Caller, float], Awaitable[Frame | None]]
    _in_hand: int = 0
    _in_hand_bytes: int = 0

    @contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Account for a call and what it hands on. Raises: TooManyCalls."""
        if self._in_hand >= IN_HAND_MAX or self._in_hand_bytes + size_bytes > IN_HAND_BYTES_MAX:
            raise TooManyCalls
        self._in_hand += 1
        self._in_hand_bytes += size_bytes
        try:
            yield
        finally:
            self._in_hand -= 1
            self._in_hand_bytes -= size_bytes

    async def call(self, client: Client, request: Request[Any], body: bytes = b"") -> Frame:
        """What the client answers, whatever its code. Raises: ClientSilent, ClientGone."""
        answered = trio.Event()
        answer: Frame | None = None

        def on_reply(frame: Frame | None) -> None:
            nonlocal answer
            answer = frame
            answered.set()

        number = client.connection.request(request, body, on_reply=on_reply)
        try:
            with trio.move_on_after(ANSWER_S):
                await answered.wait()
        finally:
            client.connection.forget(number)
        if answer is not None:
            return answer
        raise ClientGone(client.client_id) if answered.is_set() else ClientSilent(client.client_id)

    async def elsewhere(self, caller: Caller) -> Answer[Any] | None:
        """What a member answers that knows the client; None if no other does."""
        if FORWARDED_BY in caller.frame.fields:
            return None
        found: Frame | None = None

        async def ask(member: str) -> None:
            nonlocal found
            frame = await self.ask_member(member, caller, OTHERS_S)
            if frame is not None and CLIENT_UNKNOWN not in frame.fields:
                found = found or frame
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for member in self.others():
                nursery.start_soon(ask, member)
        return None if found is None else handed_on(found)


def handed_on(frame: Frame) -> Answer[Any]:
    """The answer of somebody else as ours."""
    return Answer(
        body=frame.body,
        code=frame.code,
        remark=frame.remark,
        rendered=render_fields(frame.fields),
    )
