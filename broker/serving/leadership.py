"""Who may write here, and what becomes of a write that reached another member.

Clients keep a route for up to 30 seconds, so after a change of leader they go on sending to the
old address. A follower therefore hands such a request on to the leader, frame and all, and hands
the answer back; where there is no leader yet, the request waits for one as long as `wait_ms`. Only
then is it refused, with the code that makes every client try again. A member that is cut off
refuses at once, so that clients who reach the others lose no time with it.

Laws: a forwarded frame says so, and is never forwarded again. A request is sent a second time only
if the first leader certainly did nothing with it: nothing was written to it, or it answered
SERVICE_NOT_AVAILABLE, which our members say of definite refusals only. Where that is not certain,
the client is told; and it is told soon: a leader that was deposed has little time left to answer,
since one that is frozen or cut off never will. What was given up is taken back, as far as it has
not arrived: the client tries again elsewhere, and a commit that came after that again would undo
later ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, Final, Never

import trio
from attrs import define, field, frozen
from msgspec.structs import replace

from broker.errors import LASTING, NoLeader, OutcomeUnknown, TooBusy
from dledger_py.actors import Inbox
from dledger_py.client.connection import Connection, open_connection
from dledger_py.client.errors import ClientClosed, ConnectionLost, Indefinite, Unreachable
from dledger_py.client.surroundings import Dial, dial
from dledger_py.ledger.config import split_address
from dledger_py.ledger.machine import RoleView
from dledger_py.remoting.rooms import Answer, Caller, Later, Port, refusal
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.frame import Frame, render_fields

FORWARDED_BY: Final = "__forwardedBy"  # the member that handed the request on
BORN_HOST: Final = "__bornHost"  # host:port of the client that sent it there

IN_HAND_MAX: Final = 10_000  # forwarded or waiting requests
IN_HAND_BYTES_MAX: Final = 256 * 1024 * 1024  # as the server allows incomplete frames altogether
ANSWER_TIMEOUT_S: Final = 3.0  # from when a request came: what clients themselves allow a send
LAST_WORD_S: Final = 0.05  # time for the answers of a deposed leader: it settles all it has at once
DIAL_S: Final = 0.5  # time for a connection to the leader, if waiting for one allows no more
REDIAL_S: Final = 0.05  # pause after a leader that could not be reached or was none


@frozen(kw_only=True)
class LeadershipStatistics:
    """Requests handed on to the leader, and those that wait for one, since the start."""

    forwarded: int
    refused: int
    in_hand: int


@define(eq=False)
class Leadership:
    """The gate in front of every write; an actor, because it keeps connections to the leader."""

    node: str
    address_of: Callable[[str], str | None]
    """Where clients reach another member, if that is known."""
    wait_ms: int
    view: Callable[[], RoleView]
    alone: Callable[[], bool]
    """Whether no other member was heard for so long that no leader is to be expected."""
    redispatch: Callable[[Port, Frame], None]
    """Answer a request as if it had come just now; used when this member has become the leader."""
    flush: Callable[[], None]
    """Send what is answered: a forwarded request ends outside of the server's turns."""
    dial: Dial = dial
    leads: bool = field(default=False, init=False)
    """Whether this member may decide now: it leads, and has applied all that came before."""
    _changed: trio.Event = field(factory=trio.Event)
    _nursery: trio.Nursery | None = None
    _connections: dict[str, Connection] = field(factory=dict)
    _dialling: dict[str, trio.Lock] = field(factory=dict)
    _asked: dict[trio.CancelScope, str] = field(factory=dict)  # questions to members that led
    _in_hand: int = 0
    _in_hand_bytes: int = 0
    _forwarded: int = 0
    _refused: int = 0

    def relay(self, caller: Caller) -> Later[Any]:
        """Hand the request on to the leader; returns the promise of its answer.

        Raises: NoLeader for a request that another member forwarded already, TooBusy.
        """
        if FORWARDED_BY in caller.frame.fields:
            raise NoLeader(f"member {self.node} does not lead")
        size = caller.frame.size
        if (
            self._nursery is None
            or self._in_hand >= IN_HAND_MAX
            or self._in_hand_bytes + size > IN_HAND_BYTES_MAX
        ):
            raise TooBusy
        later = caller.later()
        self._in_hand += 1
        self._in_hand_bytes += size
        self._nursery.start_soon(self._carry, caller, later)
        return later

    async def ask(self, member: str, caller: Caller, timeout_s: float) -> Frame | None:
        """What another member answers to this request, whether it leads or not; None if it could
        not be asked or did not answer in time, and then it may have done what was asked.
        """
        if self._nursery is None:
            return None
        connection = None
        try:
            with trio.move_on_after(DIAL_S):
                connection = await self._connection(member)
            if connection is None:
                return None
            return await connection.call_frame(self._forwarded_frame(caller), timeout_s=timeout_s)
        except (Unreachable, Indefinite, ClientClosed):
            return None

    def role_changed(self) -> None:
        """The role or the leader is another: whoever waits looks again. To be called at once."""
        view = self.view()
        self.leads = view.role == "leader" and view.ready
        self._changed.set()
        self._changed = trio.Event()
        leader = view.leader
        for asking, member in self._asked.items():
            if member == leader:
                asking.deadline = inf
            else:
                asking.deadline = min(asking.deadline, trio.current_time() + LAST_WORD_S)

    def statistics(self) -> LeadershipStatistics:
        return LeadershipStatistics(
            forwarded=self._forwarded, refused=self._refused, in_hand=self._in_hand
        )

    async def run(self, inbox: Inbox[Never]) -> None:
        """Carry requests until a stop is asked for."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            inbox.ready()
            await inbox.wait_closed()
            self._nursery = None
            nursery.cancel_scope.cancel()

    async def _carry(self, caller: Caller, later: Later[Any]) -> None:
        try:
            answer = await self._answer(caller, later)
        finally:
            self._in_hand -= 1
            self._in_hand_bytes -= caller.frame.size
        if answer is not None:
            later.answer(answer)
            self.flush()

    async def _answer(self, caller: Caller, later: Later[Any]) -> Answer[Any] | None:
        """What to answer; None if this member became the leader and answers by itself, or nobody
        waits any more."""
        came_at = trio.current_time()
        deadline = came_at + self.wait_ms / 1000
        refused: Answer[Any] = refusal(NoLeader())
        while not later.abandoned:
            changed, leader = self._changed, self.view().leader
            if self.leads:
                self.redispatch(caller.connection, caller.frame)
                return None
            if leader is None and self.alone():
                self._refused += 1
                return refused
            if leader is None or leader == self.node:
                with trio.move_on_at(deadline):
                    await changed.wait()
            else:
                answer, final = await self._ask(leader, caller, came_at, deadline)
                if final:
                    return answer
                refused = answer or refused
                with trio.move_on_after(REDIAL_S):
                    await changed.wait()
            if trio.current_time() >= deadline:
                self._refused += 1
                return refused
        return None

    async def _ask(
        self, leader: str, caller: Caller, came_at: float, deadline: float
    ) -> tuple[Answer[Any] | None, bool]:
        """The leader's answer, and whether it is the last one: if not, the leader certainly did
        nothing with the request, and another may."""
        connection = self._connections.get(leader)
        if connection is None or connection.closed:
            connection = None
            try:
                with (
                    self._while_leading(leader),
                    trio.move_on_at(max(deadline, trio.current_time() + DIAL_S)),
                ):
                    connection = await self._connection(leader)
            except Unreachable:
                pass
        if connection is None or connection.closed:
            return None, False
        self._forwarded += 1
        left_s = max(came_at + ANSWER_TIMEOUT_S - trio.current_time(), LAST_WORD_S)
        reply = None
        try:
            with self._while_leading(leader):
                reply = await connection.call_frame(self._forwarded_frame(caller), timeout_s=left_s)
        except (Indefinite, ClientClosed):  # closed on our side: it may have been written before
            pass
        if reply is None:
            connection.abort(lambda: ConnectionLost(f"{leader} did not answer"))
            return refusal(OutcomeUnknown()), True
        answer: Answer[Any] = Answer(
            body=reply.body,
            code=reply.code,
            remark=reply.remark,
            rendered=render_fields(reply.fields),
        )
        return answer, reply.code != ResponseCode.SERVICE_NOT_AVAILABLE or LASTING in reply.fields

    def _forwarded_frame(self, caller: Caller) -> Frame:
        """The request as another member gets it: it says whom it came by, and from where."""
        host, port = caller.connection.remote[:2]
        fields = caller.frame.fields | {FORWARDED_BY: self.node, BORN_HOST: f"{host}:{port}"}
        return replace(caller.frame, fields=fields, flag=0)

    @contextmanager
    def _while_leading(self, member: str) -> Iterator[None]:
        """Give the block up `LAST_WORD_S` after this member has ceased to lead."""
        with trio.CancelScope() as asking:
            self._asked[asking] = member
            try:
                yield
            finally:
                del self._asked[asking]

    async def _connection(self, member: str) -> Connection:
        """The connection to a member; one is dialled if need be. Raises: Unreachable."""
        assert self._nursery is not None
        async with self._dialling.setdefault(member, trio.Lock()):
            connection = self._connections.get(member)
            if connection is None or connection.closed:
                connection = await self._nursery.start(self._keep_connection, member)
                self._connections[member] = connection
            return connection

    async def _keep_connection(self, member: str, task_status: trio.TaskStatus[Connection]) -> None:
        address = self.address_of(member)
        if address is None:
            raise Unreachable(member, "its address for clients is not known yet")
        host, port = split_address(address, of=member)
        async with open_connection(host, port, dial=self.dial) as connection:
            task_status.started(connection)
            await connection.wait_closed()
