"""Single attempts: what the client would try again by itself is tried once here, and written down.

What a message must not do twice can be judged only where it was tried once. An attempt goes to the
group's leader, as far as known, and ends as done, as refused (it must not have happened), or
unknown. After a failure the next one goes to another member.
"""

import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
from attrs import define, frozen

from chaos.checkers.history import Outcome, Tried
from chaos.recorder import Recorder
from dledger_py.client import ClientError, Indefinite, ResponseError, retry
from dledger_py.client.connection import OnRequest, Reply
from dledger_py.client.members import Members
from dledger_py.client.pool import Pool
from dledger_py.client.route_tables import BrokerGroup
from dledger_py.client.routes import Routes
from dledger_py.client.unique_ids import UniqueIds
from dledger_py.remoting.commands.clients import Heartbeat
from dledger_py.remoting.commands.heartbeats import HeartbeatData, encode_heartbeat
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.wire import properties as props
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.schema import Request

BEAT_PAUSE_S = 0.5  # a new leader is to know its producers soon
PRODUCER_GROUP = "chaos-producers"


def now_ms() -> int:
    """The clock that brokers stamp by."""
    return time.time_ns() // 1_000_000


@frozen
class Ending:
    """How one attempt ended; with the answer, if it was done."""

    outcome: Outcome
    reply: Reply[Any] | None = None

    @property
    def done(self) -> bool:
        return self.outcome is Outcome.DONE


@define(eq=False, kw_only=True)
class Attempts:
    """A client that gives up at once. Made by `open_attempts`."""

    recorder: Recorder
    brokers: Sequence[str]
    pool: Pool
    routes: Routes
    members: Members
    ids: UniqueIds

    async def call(
        self,
        topic: str,
        broker: str,
        request: Request[Any],
        body: bytes = b"",
        *,
        accept: Collection[int] = (0,),
    ) -> Ending:
        """Ask the leader of this group, which has the topic, once. It is done if the answer's code
        is one of those to `accept`."""
        try:
            group = (await self.routes.get(topic)).groups.get(broker)
            if group is None:
                await self.routes.refresh(topic, self.routes.known(topic))
                return Ending(Outcome.REFUSED)
        except ClientError:
            return Ending(Outcome.REFUSED)
        address = self.members.address(group)
        try:
            connection = await self.pool.get(address)
            return Ending(
                Outcome.DONE,
                await connection.call(
                    request, body, timeout_s=retry.ATTEMPT_TIMEOUT_S, accept=accept
                ),
            )
        except ResponseError as error:
            if retry.member_failed(error.code):
                await self._turn_away(topic, group, address)
            unknown = error.code == ResponseCode.SYSTEM_ERROR
            return Ending(Outcome.UNKNOWN if unknown else Outcome.REFUSED)
        except ClientError as error:
            await self._turn_away(topic, group, address)
            unknown = isinstance(error, Indefinite)
            return Ending(Outcome.UNKNOWN if unknown else Outcome.REFUSED)

    async def send(
        self,
        topic: str,
        broker: str,
        queue_id: int,
        value: str,
        *,
        sys_flag: int = 0,
        producer_group: str = PRODUCER_GROUP,
        unique_id: str | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> Ending:
        """Send the value once; with the unique id of an earlier attempt, the same message again."""
        request = SendMessage(
            producer_group=producer_group,
            topic=topic,
            queue_id=queue_id,
            sys_flag=sys_flag,
            born_timestamp=now_ms(),
            properties=props.encode(
                {props.UNIQ_KEY: unique_id or self.ids.make(), **(properties or {})}
            ),
            broker_name=broker,
        )
        ending = await self.call(topic, broker, request, value.encode())
        self.recorder.add(Tried(at_ms=now_ms(), topic=topic, value=value, outcome=ending.outcome))
        return ending

    async def beat(self, topic: str, data: HeartbeatData) -> None:
        """Tell every member of the topic's groups who this is, again and again."""
        body = encode_heartbeat(data)
        while True:
            with trio.move_on_after(BEAT_PAUSE_S):
                async with trio.open_nursery() as beating:
                    for address in await self._addresses(topic):
                        beating.start_soon(self._beat, address, body)
            await trio.sleep(BEAT_PAUSE_S)

    async def _addresses(self, topic: str) -> Sequence[str]:
        try:
            return (await self.routes.get(topic)).addresses
        except ClientError:
            return ()

    async def _beat(self, address: str, body: bytes) -> None:
        try:
            connection = await self.pool.get(address)
            await connection.call(Heartbeat(), body, timeout_s=BEAT_PAUSE_S)
        except ClientError:
            pass  # it is down; the next beat comes soon

    async def _turn_away(self, topic: str, group: BrokerGroup, address: str) -> None:
        self.members.failed(group, address)
        with suppress(ClientError):  # the old route will do for another attempt
            await self.routes.refresh(topic, self.routes.known(topic))


@asynccontextmanager
async def open_attempts(
    name_server: str,
    brokers: Sequence[str],
    recorder: Recorder,
    *,
    on_request: OnRequest | None = None,
) -> AsyncIterator[Attempts]:
    """A client of its own for as long as the block lasts."""
    async with trio.open_nursery() as tasks:
        pool = Pool(tasks, on_request)
        yield Attempts(
            recorder=recorder,
            brokers=brokers,
            pool=pool,
            routes=Routes(pool, (name_server,)),
            members=Members(),
            ids=UniqueIds("127.0.0.1"),
        )
        await pool.close()
        tasks.cancel_scope.cancel()
