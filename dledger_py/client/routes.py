"""Where topics live: asking name servers, remembering, and asking again.

The laws.

* A route that was found stays in use until a newer one is found: a name server that is down, or
  has just started, takes nothing away (Java and Go do the same).
* Every topic in use is asked for each `REFRESH_S`, and *at once* by whoever failed with its route.
  Callers who fail together share one question.
* One name server is asked as long as it answers; the next one takes over when it does not.
* Only producers may use the template topic's route for a topic nobody has created yet.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from dledger_py.client.connection import parse_address
from dledger_py.client.errors import ClientClosed, ClientError, NoRoute, ResponseError
from dledger_py.client.pool import Pool
from dledger_py.client.route_tables import DEFAULT_TOPIC, TopicRoute, inherit, parse_route
from dledger_py.remoting.commands.json_bodies import decode_body
from dledger_py.remoting.commands.routes import ClusterInfo
from dledger_py.remoting.commands.routing import GetClusterInfo, GetRoute
from dledger_py.remoting.wire.codes import ResponseCode

logger = logging.getLogger(__name__)

AnswerT = TypeVar("AnswerT")

REFRESH_S = 30.0
"""How often routes in use are asked for; every RocketMQ client does it this often."""

ASK_TIMEOUT_S = 1.0
"""One name server's time to answer: it answers from memory, and there may be another one."""


def parse_name_servers(text: str | Sequence[str]) -> tuple[str, ...]:
    """The addresses in "host:port;host:port" (or a sequence of addresses)."""
    pieces = text.replace(",", ";").split(";") if isinstance(text, str) else list(text)
    found = tuple(dict.fromkeys(piece.strip() for piece in pieces if piece.strip()))
    if not found:
        raise ValueError(f"name servers {text!r}: at least one host:port is expected")
    for address in found:
        parse_address(address)
    return found


class _Question:
    """A question under way; whoever else has it waits for the answer."""

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.failure: str | None = None


class Routes:
    """The routes of the topics a client uses."""

    def __init__(self, pool: Pool, name_servers: Sequence[str]) -> None:
        self._pool = pool
        self._name_servers = tuple(name_servers)
        self._turn = 0
        self._known: dict[str, TopicRoute] = {}
        self._asking: dict[str, _Question] = {}

    def known(self, topic: str) -> TopicRoute | None:
        """The route found last, without asking."""
        return self._known.get(topic)

    def all_known(self) -> tuple[TopicRoute, ...]:
        """Every route in use."""
        return tuple(self._known.values())

    async def get(self, topic: str, *, publish: bool = False) -> TopicRoute:
        """The route of *topic*; with *publish*, one that may still have to be created on use.

        **Raises** NoRoute if the name servers know none, Unreachable, CallTimedOut or
        ConnectionLost if none of them answered.
        """
        known = self._known.get(topic)
        if known is not None and (publish or not known.inherited):
            return known
        return await self.refresh(topic, known, publish=publish)

    async def refresh(
        self, topic: str, stale: TopicRoute | None, *, publish: bool = False
    ) -> TopicRoute:
        """A route that is newer than *stale*: found by us, or by another since *stale* was."""
        while True:
            known = self._known.get(topic)
            if known is not None and known is not stale and (publish or not known.inherited):
                return known
            asking = self._asking.get(topic)
            if asking is None:
                return await self._ask_alone(topic, publish)
            await asking.answered.wait()
            if asking.failure is not None:
                raise NoRoute(topic, asking.failure)

    async def _ask_alone(self, topic: str, publish: bool) -> TopicRoute:
        question = self._asking[topic] = _Question()
        try:
            route = self._known[topic] = await self._find(topic, publish)
            return route
        except ClientError as error:
            question.failure = str(error)
            raise
        finally:
            del self._asking[topic]
            question.answered.set()

    async def _find(self, topic: str, publish: bool) -> TopicRoute:
        route = await self._ask(topic)
        if route is not None:
            return route
        kept = self._known.get(topic)
        if kept is not None and not kept.inherited:
            return kept
        if publish:
            template = await self._ask(DEFAULT_TOPIC)
            if template is not None:
                return inherit(topic, template)
            raise NoRoute(topic, f"it does not exist, and {DEFAULT_TOPIC} has no route either")
        raise NoRoute(topic, "it does not exist")

    async def all_brokers(self) -> tuple[str, ...]:
        """The addresses of all members of all broker groups.  **Raises** as `get`."""
        return await self._first_answer(self._ask_brokers, "")

    async def _ask(self, topic: str) -> TopicRoute | None:
        """What the first name server that answers says; None if it knows no route."""
        return await self._first_answer(self._ask_one, topic)

    async def _first_answer(
        self, ask: Callable[[str, str], Awaitable[AnswerT]], topic: str
    ) -> AnswerT:
        failure: ClientError | None = None
        for _ in self._name_servers:
            address = self._name_servers[self._turn % len(self._name_servers)]
            try:
                return await ask(address, topic)
            except ClientClosed:
                raise
            except (ClientError, ValueError) as error:
                failure = error if isinstance(error, ClientError) else NoRoute(topic, str(error))
                self._turn += 1
        assert failure is not None
        raise failure

    async def _ask_brokers(self, address: str, _topic: str) -> tuple[str, ...]:
        connection = await self._pool.get(address)
        reply = await connection.call(GetClusterInfo(), timeout_s=ASK_TIMEOUT_S)
        found = decode_body(ClusterInfo, reply.body)
        return tuple(
            each
            for group in found.broker_addr_table.values()
            for _, each in sorted(group.broker_addrs.items())
        )

    async def _ask_one(self, address: str, topic: str) -> TopicRoute | None:
        connection = await self._pool.get(address)
        request = GetRoute(topic=topic, accept_standard_json_only=True)
        try:
            reply = await connection.call(request, timeout_s=ASK_TIMEOUT_S)
        except ResponseError as error:
            if error.code == ResponseCode.TOPIC_NOT_EXIST:
                return None
            raise
        return parse_route(topic, reply.body)

    async def run(self) -> None:
        """Ask for every route in use, again and again.  Ends with the client."""
        while True:
            await anyio.sleep(REFRESH_S)
            for topic, route in list(self._known.items()):
                try:
                    await self.refresh(topic, route, publish=route.inherited)
                except ClientClosed:
                    return
                except ClientError as error:
                    logger.warning("route of %r could not be refreshed: %s", topic, error)
