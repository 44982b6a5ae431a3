"""Tells the name servers who this member is and which topics the group has.

One task and one connection per name server, kept open: a name server forgets a broker the moment
its connection ends, which is what makes a killed leader disappear from routes at once. Each
registration carries everything, so nothing is lost by a missed one; they are sent every `period_s`,
and at once when the role or the topics have changed.

The leader registers as id 0, a follower as its own number. The term travels as `stateVersion`: a
name server keeps the highest, so a deposed leader cannot take id 0 back. The folders that the group
knows travel, too: our name servers refuse a member of another group of the same name while one of
the first is there.

Source: protocol page 10 (§1, 2, 5).
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Never

import structlog
import trio
from attrs import define, field, frozen

from broker.machine.topics import Topics
from broker.wire_records import topic_table_on_wire
from dledger_py.actors import Inbox
from dledger_py.client.connection import Connection, open_connection
from dledger_py.client.errors import ClientError, ResponseError, Unreachable
from dledger_py.client.surroundings import Dial, dial
from dledger_py.ledger.config import split_address
from dledger_py.ledger.machine import RoleView
from dledger_py.remoting.commands.registrations import RegisterBody, crc_of, encode_registration
from dledger_py.remoting.commands.routing import RegisterBroker
from dledger_py.remoting.wire.schema import Request

log = structlog.get_logger()

LEADER_ID: Final = 0
REDIAL_S: Final = 0.2  # a name server that is down costs five attempts a second
ASK_TIMEOUT_S: Final = 1.0  # consumers wait three seconds for what it is asked for
RETRY_S: Final = 1.0  # for a member that was refused, or could not tell of which group it is
EXPIRY_PERIODS: Final = 4  # a name server waits so many periods before it forgets a silent broker


@frozen(kw_only=True)
class RegistrarStatistics:
    """Name servers that took the latest registration."""

    name_servers: int
    registered: int


@define(eq=False, kw_only=True)
class Registrar:
    """The actor that registers this member."""

    name_servers: tuple[str, ...]
    cluster_name: str
    broker_name: str
    broker_id: int  # while it follows
    address: str
    topics: Topics
    view: Callable[[], RoleView]
    period_s: float
    ledger_cluster: str
    ledger_folders: Callable[[], tuple[int, ...]]
    """What tells this group from another of the same name; none as long as this member does not
    know."""
    dial: Dial = dial
    _changes: int = 0
    _changed: trio.Event = field(factory=trio.Event)
    _registered: dict[str, int] = field(factory=dict)  # name server → change it has heard of
    _silent: set[str] = field(factory=set)  # name servers whose failure was logged
    _refused: dict[str, str] = field(factory=dict)  # name server → why, as it was logged
    _any_registered: trio.Event = field(factory=trio.Event)
    _connections: dict[str, Connection] = field(factory=dict)

    def changed(self) -> None:
        """The role or the topics are others: register now."""
        self._changes += 1
        self._changed.set()
        self._changed = trio.Event()

    async def wait_registered(self) -> None:
        """Until one name server has taken a registration; at once if there is none to ask."""
        if self.name_servers:
            await self._any_registered.wait()

    async def ask(self, request: Request[Any]) -> bytes:
        """What the first name server answers that can be reached: the body. Raises: ClientError."""
        failure: ClientError = Unreachable("name servers", "none of them is connected")
        for connection in tuple(self._connections.values()):
            try:
                return (await connection.call(request, timeout_s=ASK_TIMEOUT_S)).body
            except ResponseError:
                raise
            except ClientError as error:
                failure = error
        raise failure

    def statistics(self) -> RegistrarStatistics:
        return RegistrarStatistics(
            name_servers=len(self.name_servers),
            registered=sum(heard == self._changes for heard in self._registered.values()),
        )

    async def run(self, inbox: Inbox[Never]) -> None:
        """Keep all name servers informed until a stop is asked for."""
        async with trio.open_nursery() as nursery:
            for name_server in self.name_servers:
                nursery.start_soon(self._serve, name_server)
            inbox.ready()
            await inbox.wait_closed()
            nursery.cancel_scope.cancel()

    async def _serve(self, name_server: str) -> None:
        host, port = split_address(name_server, of="namesrv")
        while True:
            try:
                async with open_connection(host, port, dial=self.dial) as connection:
                    self._connections[name_server] = connection
                    await self._keep_registered(name_server, connection)
            except ClientError as error:
                if name_server not in self._silent:  # one line per outage, not five a second
                    log.warning("registrar.failed", name_server=name_server, reason=str(error))
                self._silent.add(name_server)
            self._registered.pop(name_server, None)
            self._connections.pop(name_server, None)
            await trio.sleep(REDIAL_S)

    async def _keep_registered(self, name_server: str, connection: Connection) -> None:
        if name_server in self._refused:
            await trio.sleep(RETRY_S)  # if it has been restarted, whom it took before come first
        while not connection.closed:
            changes, changed = self._changes, self._changed
            wait_s = self.period_s
            if len(self.topics) > 1:  # name servers refuse a first registration of one topic
                request, body = self._registration()
                if not await self._is_taken(name_server, connection, request, body):
                    await trio.sleep(RETRY_S)
                    continue
                if self._registered.get(name_server) != changes:
                    log.info(
                        "registrar.registered",
                        name_server=name_server,
                        broker_id=request.broker_id,
                        term=self.view().term,
                        topics=len(self.topics),
                    )
                self._registered[name_server] = changes
                self._silent.discard(name_server)
                self._any_registered.set()
                wait_s = self.period_s if request.ledger_folders else RETRY_S
            with trio.move_on_after(wait_s):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_then_cancel, nursery, connection.wait_closed)
                    nursery.start_soon(_then_cancel, nursery, changed.wait)

    async def _is_taken(
        self, name_server: str, connection: Connection, request: RegisterBroker, body: bytes
    ) -> bool:
        """Whether the name server takes this; one line for why it does not. Raises: ClientError."""
        try:
            await connection.call(request, body)
        except ResponseError as error:
            self._registered.pop(name_server, None)
            reason = error.remark or str(error)
            if self._refused.get(name_server) != reason:
                log.warning("registrar.refused", name_server=name_server, reason=reason)
            self._refused[name_server] = reason
            return False
        self._refused.pop(name_server, None)
        return True

    def _registration(self) -> tuple[RegisterBroker, bytes]:
        view = self.view()
        table = topic_table_on_wire(self.topics, view.term)
        body = encode_registration(RegisterBody(topic_config_serialize_wrapper=table))
        leads = view.role == "leader" and view.ready
        request = RegisterBroker(
            broker_name=self.broker_name,
            broker_addr=self.address,
            cluster_name=self.cluster_name,
            broker_id=LEADER_ID if leads else self.broker_id,
            ha_server_addr=self.address,
            heartbeat_timeout_millis=int(self.period_s * 1000) * EXPIRY_PERIODS,
            body_crc32=crc_of(body),
            ledger_cluster=self.ledger_cluster,
            ledger_folders=",".join(f"{birth:x}" for birth in self.ledger_folders()),
        )
        return request, body


async def _then_cancel(nursery: trio.Nursery, wait: Callable[[], Awaitable[None]]) -> None:
    await wait()
    nursery.cancel_scope.cancel()
