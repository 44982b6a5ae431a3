"""Telling brokers that this client is there, and which groups it is in.

The laws.

* Every member of every broker group the client has a route to hears a heartbeat each
  `HEARTBEAT_S`, and at once when a group is joined or a connection is new: brokers forget a client
  with its connection, and whoever leads next must know the consumers already.
* Followers count too.  Java beats all members for consumers for the same reason.
* A producer with transactions beats every broker there is: whoever leads next asks those it knows,
  and a process that comes back after a crash is asked before it has sent anything.
"""

import logging
from collections.abc import Callable, Iterable

import anyio
from attrs import frozen

from dledger_py.client.connection import Connection
from dledger_py.client.errors import ClientClosed, ClientError
from dledger_py.client.pool import Pool
from dledger_py.client.routes import Routes
from dledger_py.remoting.commands.clients import Heartbeat, UnregisterClient
from dledger_py.remoting.commands.heartbeats import (
    ConsumerData,
    HeartbeatData,
    ProducerData,
    encode_heartbeat,
)

logger = logging.getLogger(__name__)

HEARTBEAT_S = 30.0
"""Brokers forget a silent client after 120 s."""

BEAT_TIMEOUT_S = 3.0


@frozen
class _Joined:
    data: ConsumerData
    on_change: Callable[[], None]


class Membership:
    """The groups of one client, as its brokers know them."""

    def __init__(self, pool: Pool, routes: Routes, client_id: str, producer_group: str) -> None:
        self.client_id = client_id
        self._pool = pool
        self._routes = routes
        self._producers = (ProducerData(group_name=producer_group),)
        self._joined: dict[str, _Joined] = {}
        self._new: set[str] = set()
        self._beating: set[str] = set()
        self._nudge = anyio.Event()
        self._everywhere = False
        self._others: tuple[str, ...] = ()
        self._met: dict[str, Connection] = {}
        pool.on_opened(self._greet)

    def be_known_everywhere(self) -> None:
        """Beat every broker of the name server from now on, at once for a start."""
        if not self._everywhere:
            self._everywhere = True
            self._nudge.set()

    async def meet(self, addresses: Iterable[str]) -> None:
        """Beat those of *addresses* that have not heard of this client on their connection of now;
        who does not answer is logged and left."""
        strangers = [
            address
            for address in addresses
            if address not in self._met or self._met[address] is not self._pool.opened(address)
        ]
        if strangers:
            await self.beat(strangers)

    def join(self, data: ConsumerData, on_change: Callable[[], None]) -> None:
        """Be in a consumer group; *on_change* hears that its members changed."""
        if data.group_name in self._joined:
            raise ValueError(
                f"group {data.group_name!r} is being consumed by this client already; "
                "a second member of a group needs a client of its own"
            )
        self._joined[data.group_name] = _Joined(data, on_change)

    def changed(self, group: str) -> None:
        """A broker says that the members of *group* changed."""
        if (joined := self._joined.get(group)) is not None:
            joined.on_change()

    async def leave(self, group: str) -> None:
        """Be in *group* no longer, and say so to everyone, once."""
        del self._joined[group]
        async with anyio.create_task_group() as tasks:
            for address in self._brokers():
                tasks.start_soon(self._unregister, address, group)

    async def _unregister(self, address: str, group: str) -> None:
        connection = self._pool.opened(address)
        if connection is None:
            return  # the broker forgot us with the connection
        try:
            request = UnregisterClient(client_id=self.client_id, consumer_group=group)
            await connection.call(request, timeout_s=BEAT_TIMEOUT_S)
        except ClientError as error:
            logger.debug("%s was not told that %r was left: %s", address, group, error)

    async def beat(self, addresses: Iterable[str] | None = None) -> None:
        """Send one heartbeat to each of *addresses*, by default to all; failures are logged."""
        data = HeartbeatData(
            client_id=self.client_id,
            producer_data_set=self._producers,
            consumer_data_set=tuple(joined.data for joined in self._joined.values()),
        )
        body = encode_heartbeat(data)
        # In the order of the routes, so that a run can be repeated exactly.
        targets = tuple(dict.fromkeys(self._brokers() if addresses is None else addresses))
        self._beating.update(targets)
        try:
            with anyio.move_on_after(BEAT_TIMEOUT_S):
                async with anyio.create_task_group() as tasks:
                    for address in targets:
                        tasks.start_soon(self._beat, address, body)
        finally:
            self._beating.difference_update(targets)

    async def _beat(self, address: str, body: bytes) -> None:
        try:
            connection = await self._pool.get(address)
            await connection.call(Heartbeat(), body, timeout_s=BEAT_TIMEOUT_S)
            self._met[address] = connection
        except (ClientError, ValueError) as error:
            logger.debug("%s took no heartbeat: %s", address, error)

    def _brokers(self) -> tuple[str, ...]:
        """Who must know us: everyone for a consumer, for a producer whom it talks to."""
        routed = dict.fromkeys(
            address for route in self._routes.all_known() for address in route.addresses
        )
        if self._everywhere:
            return tuple(routed | dict.fromkeys(self._others))
        if self._joined:
            return tuple(routed)
        return tuple(address for address in routed if self._pool.opened(address))

    async def _all_brokers(self) -> tuple[str, ...]:
        try:
            return await self._routes.all_brokers()
        except ClientClosed:
            raise
        except ClientError as error:
            logger.debug("no name server listed the brokers: %s", error)
            return self._others

    def _greet(self, address: str) -> None:
        if address not in self._beating:
            self._new.add(address)
            self._nudge.set()

    async def run(self) -> None:
        """Beat, again and again.  Ends with the client."""
        next_round = anyio.current_time() + HEARTBEAT_S
        met = False
        while True:
            with anyio.move_on_after(max(0.0, next_round - anyio.current_time())):
                await self._nudge.wait()
            self._nudge = anyio.Event()
            new, self._new = self._new, set()
            try:
                if anyio.current_time() >= next_round or met != self._everywhere:
                    met = self._everywhere
                    next_round = anyio.current_time() + HEARTBEAT_S
                    if self._everywhere:
                        self._others = await self._all_brokers()
                    await self.beat()
                else:
                    await self.beat(address for address in self._brokers() if address in new)
            except ClientClosed:
                return
