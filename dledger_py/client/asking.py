"""One request about one queue, to whichever member of its broker group serves it.

What sends are to `producer`, everything else is to this: reads, offsets, commits.  All of it may be
repeated freely, so an attempt that was never answered is simply made again.
"""

import random
from collections.abc import Callable

import anyio

from dledger_py.client import retry
from dledger_py.client.connection import HeaderT, Reply
from dledger_py.client.errors import (
    CallTimedOut,
    ClientClosed,
    ClientError,
    NoRoute,
    ResponseError,
    Unreachable,
)
from dledger_py.client.members import Members
from dledger_py.client.pool import Pool
from dledger_py.client.queues import Queue
from dledger_py.client.retry import Verdict
from dledger_py.client.route_tables import BrokerGroup
from dledger_py.client.routes import Routes
from dledger_py.remoting.wire.schema import Request


class Asker:
    """Asks about queues, following routes and avoiding members that failed."""

    def __init__(self, pool: Pool, routes: Routes, members: Members) -> None:
        self._pool = pool
        self._routes = routes
        self._members = members

    async def once(
        self,
        queue: Queue,
        request: Request[HeaderT],
        timeout_s: float,
        accept: tuple[int, ...] = (0,),
        body: bytes = b"",
    ) -> Reply[HeaderT]:
        """One attempt.  A failure that another member may cure turns to that member, and asks
        for the route, before it is raised."""
        route = await self._routes.get(queue.topic)
        group = route.groups.get(queue.broker)
        if group is None:
            route = await self._routes.refresh(queue.topic, route)
            raise NoRoute(queue.topic, f"it has no broker group {queue.broker!r} now")
        address = self._members.address(group)
        try:
            connection = self._pool.opened(address) or await self._pool.get(address)
            return await connection.call(request, body, timeout_s=timeout_s, accept=accept)
        except ClientClosed:
            raise
        except ResponseError as error:
            if retry.member_failed(error.code):
                await self._turn_away(queue.topic, group, address)
            raise
        except ClientError:
            await self._turn_away(queue.topic, group, address)
            raise

    async def _turn_away(self, topic: str, group: BrokerGroup, address: str) -> None:
        self._members.failed(group, address)
        try:
            await self._routes.refresh(topic, self._routes.known(topic))
        except ClientClosed:
            raise
        except ClientError:
            pass  # the failure that brought us here says more than this one

    async def ask(
        self,
        queue: Queue,
        request: Request[HeaderT],
        timeout_s: float,
        accept: tuple[int, ...] = (0,),
        judge: Callable[[int], Verdict] = retry.judge_read,
        body: bytes = b"",
    ) -> Reply[HeaderT]:
        """Attempt until it is answered or *timeout_s* has passed; *judge* says what a result code
        is worth.

        **Raises** the last failure; CallTimedOut if there was none yet.
        """
        due = anyio.current_time() + timeout_s
        failures = 0
        failure: ClientError | None = None
        while (left_s := due - anyio.current_time()) > 0:
            with anyio.move_on_after(left_s):
                try:
                    budget_s = min(left_s, retry.ATTEMPT_TIMEOUT_S)
                    return await self.once(queue, request, budget_s, accept, body)
                except ResponseError as error:
                    if judge(error.code) is Verdict.GIVE_UP:
                        raise
                    failure = error
                except (CallTimedOut, Unreachable, ClientError) as error:
                    if not error.retryable:
                        raise
                    failure = error
                failures += 1
                await anyio.sleep(retry.SEND_BACK_OFF.pause_s(failures, random.random()))
        if failure is None:
            failure = CallTimedOut(f"no answer about {queue} within {timeout_s:g} s")
        raise failure
