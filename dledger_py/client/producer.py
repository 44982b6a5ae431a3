"""Sending: one message, a batch, or one-way.

The laws.

* Every attempt of one send carries the same unique id, so a broker that remembers ids, or a
  consumer, can tell a repeat from a second message.
* A deadline covers the whole send: finding the route, connecting, all attempts, all pauses.  Within
  it, every failure that may pass is tried again; the route is asked for at once.
* What was never answered clearly ends as `SendUncertain`, whatever came after it; what was refused
  each time ends as `SendRefused`.

The request is rendered from a template per queue: building a header object and encoding it costs
three times as much, for every message.  What a code means is in `retry`, where a message goes in
`queue_choice`, which member is asked in `members`.
"""

import random
from collections import defaultdict
from collections.abc import Callable

import anyio
import msgspec
from attrs import define

from dledger_py.client import calls, queue_choice, retry
from dledger_py.client.connection import Connection
from dledger_py.client.errors import (
    ClientClosed,
    ClientError,
    Indefinite,
    NoRoute,
    SendRefused,
    SendUncertain,
    Unreachable,
    no_such_queue,
    worded,
)
from dledger_py.client.members import Members
from dledger_py.client.messages import Receipt
from dledger_py.client.pool import Pool
from dledger_py.client.queues import Queue
from dledger_py.client.retry import Verdict
from dledger_py.client.route_tables import DEFAULT_TOPIC, DEFAULT_TOPIC_QUEUES, TopicRoute
from dledger_py.client.routes import Routes
from dledger_py.remoting.wire.codes import RequestCode, ResponseCode
from dledger_py.remoting.wire.frame import ONE_WAY, Frame, request_renderer

ANSWERED_ROUTE_ASK_S = 1.0
"""How often a better route is asked for while sends go by the template topic's, or by one that
names no leader."""

_render = msgspec.json.encode

# The compact spelling of a send (a = producer group, b = topic, ...): codes 310 and 320.
_FIELDS = (
    b'{"a":%b,"b":%b,"c":"%b","d":"%d","e":"%d","f":"%d","g":"%%d","h":"0","i":%%b,'
    b'"j":"0","k":"false","m":"%b","n":%b}'
)


@define
class Sealed:
    """A send that can be attempted any number of times, each the same.

    Not frozen: one is made per message, and freezing costs a microsecond.
    """

    code: int
    topic: str
    unique_id: str
    properties: bytes
    body: bytes
    key: str | None
    queue_id: int | None
    sys_flag: int = 0


def receipt_of(sealed: Sealed, frame: Frame, queue: Queue) -> Receipt:
    """What the answer *frame* says.  **Raises** SendUncertain if it cannot be read."""
    fields = frame.fields
    try:
        return Receipt(
            message_id=sealed.unique_id,
            offset_message_id=fields["msgId"],
            topic=sealed.topic,
            broker=queue.broker,
            queue_id=int(fields["queueId"]),
            queue_offset=int(fields["queueOffset"]),
            recall_handle=fields.get("recallHandle"),
            status=frame.code,
        )
    except (KeyError, ValueError) as error:
        why = f"the broker's answer lacks or garbles a field: {error!r}"
        raise SendUncertain(sealed.topic, sealed.unique_id, why) from error


class _Attempts:
    """What the attempts of one send have come to so far.

    It begins as the class is: most sends write nothing into it.
    """

    failures = 0
    uncertain = False
    unknown_only = True
    reason = "there was no time to try"
    avoid: str | None = None

    def note(self, reason: str, *, uncertain: bool, unknown_topic: bool = False) -> None:
        self.failures += 1
        self.uncertain |= uncertain
        self.unknown_only &= unknown_topic
        self.reason = reason

    def ended(self, sealed: Sealed, *, retryable: bool, hint: str = "") -> ClientError:
        if self.uncertain:
            return SendUncertain(sealed.topic, sealed.unique_id, self.reason)
        return SendRefused(
            sealed.topic, sealed.unique_id, self.reason, retryable=retryable, hint=hint
        )


class Producer:
    """Sends what `client` has sealed."""

    def __init__(
        self,
        pool: Pool,
        routes: Routes,
        members: Members,
        group: str,
        now_s: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._routes = routes
        self._members = members
        self._group = group
        self._now_s = now_s
        _, self._now = calls.of_this_loop()
        self._turns: dict[str, queue_choice.Turns] = {}
        self._heads: defaultdict[tuple[int, int, int], dict[Queue, Callable[..., bytes]]] = (
            defaultdict(dict)
        )
        self._asked_at: dict[str, float] = {}

    async def send(self, sealed: Sealed, timeout_s: float) -> tuple[Frame, Queue]:
        """Attempt until it is stored, refused for good, or the time is up."""
        due = self._now() + timeout_s
        left_s = timeout_s
        attempts = _Attempts()
        while True:
            budget_s = retry.attempt_timeout_s(left_s)
            if budget_s is None:
                raise attempts.ended(sealed, retryable=True)
            route = self._routes.known(sealed.topic)
            if route is None:
                route = await self._find_route(sealed, attempts, left_s)
            if route is not None:
                found = await self._attempt(sealed, route, attempts, budget_s)
                if found is not None:
                    return found
            spent_s = self._now() - due + timeout_s
            self._give_up_on_unknown(sealed, attempts, spent_s)
            await self._pause(sealed.topic, route, attempts, due)
            left_s = due - self._now()

    async def tell(self, sealed: Sealed, timeout_s: float) -> None:
        """Write it once, and hope."""
        with anyio.move_on_after(timeout_s):
            route = await self._routes.get(sealed.topic, publish=True)
            queue = self._choose(sealed, route, None)
            connection = await self._pool.get(self._members.address(route.groups[queue.broker]))
            head = self._head(sealed, queue, connection.next_opaque(), ONE_WAY)
            await connection.tell_encoded(head + sealed.body)
            return
        raise SendRefused(
            sealed.topic, sealed.unique_id, f"no broker found in {timeout_s:g} s", retryable=True
        )

    # --- one attempt -----------------------------------------------------------------------------

    async def _find_route(
        self, sealed: Sealed, attempts: _Attempts, left_s: float
    ) -> TopicRoute | None:
        try:
            with anyio.fail_after(left_s):
                return await self._routes.get(sealed.topic, publish=True)
        except ClientClosed:
            raise
        except NoRoute as error:
            attempts.note(str(error), uncertain=False, unknown_topic=True)
        except ClientError as error:
            attempts.note(f"no name server answered: {error}", uncertain=False)
        except TimeoutError:
            if not attempts.failures:  # else what was answered before says more
                attempts.note(f"no name server answered in {left_s:g} s", uncertain=False)
        return None

    async def _attempt(
        self, sealed: Sealed, route: TopicRoute, attempts: _Attempts, budget_s: float
    ) -> tuple[Frame, Queue] | None:
        try:
            queue = self._choose(sealed, route, attempts.avoid)
        except NoRoute as error:
            attempts.note(str(error), uncertain=False)
            return None
        group = route.groups[queue.broker]
        address = self._members.address(group)
        try:
            connection = self._pool.opened(address) or await self._connect(address, budget_s)
            opaque = connection.next_opaque()
            data = self._head(sealed, queue, opaque) + sealed.body
            frame = await connection.exchange(opaque, data, budget_s)
        except ClientClosed:
            raise
        except ClientError as error:
            attempts.note(str(error), uncertain=isinstance(error, Indefinite))
            attempts.avoid = queue.broker
            self._members.failed(group, address)
            return None
        verdict = retry.judge_send(frame.code)
        if verdict is not Verdict.DONE:
            self._refused(sealed, frame, verdict, attempts, route, queue, address)
            return None
        if route.inherited or group.leader is None:
            await self._ask_better_route(route)
        return frame, queue

    def _refused(
        self,
        sealed: Sealed,
        frame: Frame,
        verdict: Verdict,
        attempts: _Attempts,
        route: TopicRoute,
        queue: Queue,
        address: str,
    ) -> None:
        attempts.note(
            f"{address} answered {worded(frame.code, frame.remark)}",
            uncertain=verdict is Verdict.UNCERTAIN,
            unknown_topic=frame.code == ResponseCode.TOPIC_NOT_EXIST,
        )
        bound = sealed.key is not None or len({each.broker for each in route.write_queues}) == 1
        if verdict is Verdict.GIVE_UP or (verdict is Verdict.TRY_ELSEWHERE and bound):
            raise attempts.ended(sealed, retryable=False)
        attempts.avoid = queue.broker
        if retry.member_failed(frame.code):
            self._members.failed(route.groups[queue.broker], address)

    async def _connect(self, address: str, budget_s: float) -> Connection:
        try:
            with anyio.fail_after(budget_s):
                return await self._pool.get(address)
        except TimeoutError as error:
            raise Unreachable(address, f"no connection within {budget_s:g} s") from error

    def _choose(self, sealed: Sealed, route: TopicRoute, avoid: str | None) -> Queue:
        queues = route.write_queues
        if sealed.queue_id is not None:
            queues = tuple(queue for queue in queues if queue.queue_id == sealed.queue_id)
        if not queues:
            wanted = sealed.queue_id
            if wanted is None:
                raise NoRoute(sealed.topic, "none of its queues can be written to")
            raise no_such_queue(sealed.topic, wanted, len(route.write_queues))
        if sealed.key is not None:
            return queue_choice.by_key(queues, sealed.key)
        if len(queues) == 1:
            return queues[0]
        turns = self._turns.get(sealed.topic)
        if turns is None:
            turns = self._turns[sealed.topic] = queue_choice.Turns(random.randrange(1024))
        return turns.choose(queues, avoid)

    def _head(self, sealed: Sealed, queue: Queue, opaque: int, flag: int = 0) -> bytes:
        """All of the frame before its body."""
        known = self._heads[sealed.code, flag, sealed.sys_flag]
        render = known.get(queue)
        if render is None:
            render = known[queue] = self._renderer(queue, sealed, flag)
        return render(len(sealed.body), int(self._now_s() * 1000), sealed.properties, opaque)

    def _renderer(self, queue: Queue, like: Sealed, flag: int) -> Callable[..., bytes]:
        """Renders all that differs between the sends of one kind to one queue: born timestamp,
        properties, opaque."""
        names = [
            _render(name).replace(b"%", b"%%") for name in (self._group, queue.topic, queue.broker)
        ]
        batch = b"true" if like.code == RequestCode.SEND_BATCH_MESSAGE else b"false"
        template = (DEFAULT_TOPIC.encode(), DEFAULT_TOPIC_QUEUES)
        where = (queue.queue_id, like.sys_flag)
        fields = _FIELDS % (*names[:2], *template, *where, batch, names[2])
        return request_renderer(like.code, flag, fields)

    # --- between attempts ------------------------------------------------------------------------

    def _give_up_on_unknown(self, sealed: Sealed, attempts: _Attempts, spent_s: float) -> None:
        if attempts.unknown_only and spent_s >= retry.UNKNOWN_TOPIC_PATIENCE_S:
            raise attempts.ended(
                sealed,
                retryable=True,
                hint="does the topic exist, and has its broker registered with the name server?",
            )

    async def _pause(
        self, topic: str, route: TopicRoute | None, attempts: _Attempts, due: float
    ) -> None:
        """Ask for the route at once; then pause, but not after the first failure of all."""
        left_s = due - self._now()
        if left_s <= 0:
            return
        with anyio.move_on_after(left_s):
            if route is not None:
                await self._ask_again(topic, route)
            if attempts.failures > 1 or route is None:
                pause_s = retry.SEND_BACK_OFF.pause_s(attempts.failures, random.random())
                await anyio.sleep(pause_s)

    async def _ask_again(self, topic: str, route: TopicRoute) -> None:
        try:
            await self._routes.refresh(topic, route, publish=True)
        except ClientClosed:
            raise
        except ClientError:
            pass  # the old route is still worth an attempt; members may have moved on by now

    async def _ask_better_route(self, known: TopicRoute) -> None:
        """The topic exists and somebody leads now: find that route, but not once per message."""
        now = self._now()
        if now - self._asked_at.get(known.topic, -ANSWERED_ROUTE_ASK_S) < ANSWERED_ROUTE_ASK_S:
            return
        self._asked_at[known.topic] = now
        with anyio.move_on_after(ANSWERED_ROUTE_ASK_S):
            await self._ask_again(known.topic, known)
