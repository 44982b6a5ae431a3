"""What operators ask of a single consumer: the broker hands the question on, and the answer back.

Source: protocol pages 02 (f) and 06 §9; AdminBrokerProcessor.java, Broker2Client.java.
"""

from typing import Any, Final

import trio
from attrs import define, evolve

from broker.errors import (
    ClientGone,
    ClientSilent,
    ClientUnknown,
    InvalidParameter,
    NotOnline,
    TooManyCalls,
)
from broker.rooms.lookups import Lookups
from broker.serving.client_calls import ClientCalls, handed_on
from broker.serving.client_table import Client, ClientTable
from dledger_py.remoting.commands.json_bodies import MalformedBody, decode_body, encode_body
from dledger_py.remoting.commands.queries import ViewMessage
from dledger_py.remoting.commands.relays import (
    ConsumeDirectly,
    ConsumerStatus,
    GetConsumerRunningInfo,
    GetConsumerStatus,
    GetStatusFromClient,
)
from dledger_py.remoting.commands.statistics import MessageQueue
from dledger_py.remoting.rooms import Answer, Caller, handles
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.message import MalformedRecord, parse_offset_message_id

ASKED_MAX: Final = 256  # consumers asked for one table
TABLE_BYTES_MAX: Final = 8 * 1024 * 1024  # of what they answered; half of the largest frame


@define(eq=False, kw_only=True)
class Relays:
    """Codes 223, 307 and 309; says 221, 307 and 309 to the clients."""

    broker_name: str
    table: ClientTable
    calls: ClientCalls
    lookups: Lookups

    @handles(GetConsumerRunningInfo)
    async def running_info(self, request: GetConsumerRunningInfo, caller: Caller) -> Answer[None]:
        """What the consumer says it is doing."""
        with self.calls.holding(caller.frame.size):
            client = self._consumer(request.consumer_group, request.client_id)
            if client is None:
                return await self._elsewhere(request.consumer_group, request.client_id, caller)
            return handed_on(await self.calls.call(client, request))

    @handles(ConsumeDirectly)
    async def consume(self, request: ConsumeDirectly, caller: Caller) -> Answer[None]:
        """Let the consumer consume the message once, now; what became of it."""
        client_id = request.client_id or ""
        try:
            _host, _port, position = parse_offset_message_id(request.msg_id)
        except MalformedRecord as error:
            raise InvalidParameter(str(error)) from error
        with self.calls.holding(caller.frame.size):
            client = self._consumer(request.consumer_group, client_id)
            if client is None:
                return await self._elsewhere(request.consumer_group, client_id, caller)
            message = (await self.lookups.view(ViewMessage(offset=position), caller)).body
            with self.calls.holding(len(message)):
                named = evolve(request, broker_name=self.broker_name)
                return handed_on(await self.calls.call(client, named, message))

    @handles(GetConsumerStatus)
    async def status(self, request: GetConsumerStatus, caller: Caller) -> Answer[None]:
        """Where the group's consumers say they are; those that say nothing are left out."""
        group = self.table.consumer_group(request.group)
        if group is None:
            raise NotOnline(request.group)
        wanted = request.client_addr
        clients = [c for c in group.clients.values() if not wanted or c.client_id == wanted]
        if len(clients) > ASKED_MAX:
            raise InvalidParameter(
                f"group '{request.group}' has {len(clients)} consumers here, at most {ASKED_MAX}"
                " are asked at once: name one by its client id"
            )
        question = GetStatusFromClient(topic=request.topic, group=request.group)
        table: dict[str, dict[MessageQueue, int]] = {}
        left_bytes = TABLE_BYTES_MAX

        async def ask(client: Client) -> None:
            nonlocal left_bytes
            try:
                with self.calls.holding(caller.frame.size):
                    frame = await self.calls.call(client, question)
                if frame.code != ResponseCode.SUCCESS or len(frame.body) > left_bytes:
                    return
                left_bytes -= len(frame.body)
                said = decode_body(ConsumerStatus, frame.body)
            except (ClientSilent, ClientGone, TooManyCalls, MalformedBody):
                return
            table[client.client_id] = dict(said.message_queue_table)

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(ask, client)
        return Answer(body=encode_body(ConsumerStatus(consumer_table=table)))

    def _consumer(self, group: str, client_id: str) -> Client | None:
        known = self.table.consumer_group(group)
        return known.clients.get(client_id) if known is not None else None

    async def _elsewhere(self, group: str, client_id: str, caller: Caller) -> Answer[Any]:
        answer = await self.calls.elsewhere(caller)
        if answer is None:
            raise ClientUnknown(f"The Consumer <{group}> <{client_id}> not online")
        return answer
