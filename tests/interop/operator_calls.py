"""What a tool asks of a running consumer through a broker: who it is, what it does, to consume one
message now. An answer that is not the consumer's own is a fault.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import trio

from dledger_py.admin import Admin
from dledger_py.client.connection import Connection, open_connection, parse_address
from dledger_py.remoting.commands.json_bodies import decode_body, parse
from dledger_py.remoting.commands.operations import GetConsumerConnections
from dledger_py.remoting.commands.queries import ViewMessage
from dledger_py.remoting.commands.relays import (
    ConsumeDirectly,
    GetConsumerRunningInfo,
    GetConsumerStatus,
)
from dledger_py.remoting.commands.sending import SendMessage
from dledger_py.remoting.commands.statistics import ConsumerConnections
from dledger_py.remoting.wire.message import parse_offset_message_id
from dledger_py.remoting.wire.properties import KEYS, TAGS, encode

DIRECT_KEY = "direct-000000"
STORED_TIMEOUT_S = 15.0
CONSUMED = ("CR_SUCCESS", 0)
"""Java writes the name, Go the number."""


async def ask_consumers(namesrv: str, topic: str, group: str) -> list[str]:
    """What is wrong with the answers of the group's consumers, asked through every member."""
    route = await Admin(namesrv).topic_route(topic)
    found: list[str] = []
    for broker in route.broker_datas:
        addresses = [address for _, address in sorted(broker.broker_addrs.items())]
        async with _opened(addresses[0]) as leader:
            msg_id = await _send(leader, topic)
        for address in addresses:
            async with _opened(address) as connection:
                await _wait_stored(connection, msg_id)
                found += await _ask_through(connection, topic, group, msg_id)
    return found


async def send_one(namesrv: str, topic: str) -> None:
    """A message that is no request, to the leader of one of the topic's brokers."""
    route = await Admin(namesrv).topic_route(topic)
    async with _opened(route.broker_datas[0].broker_addrs[0]) as leader:
        await _send(leader, topic)


async def _send(connection: Connection, topic: str) -> str:
    request = SendMessage(
        producer_group="interop-tool",
        topic=topic,
        queue_id=0,
        properties=encode({KEYS: DIRECT_KEY, TAGS: "interop"}),
    )
    return (await connection.call(request, b"body of " + DIRECT_KEY.encode())).header.msg_id


async def _wait_stored(connection: Connection, msg_id: str) -> None:
    """A follower has the message a moment later."""
    request = ViewMessage(offset=parse_offset_message_id(msg_id)[2])
    with trio.fail_after(STORED_TIMEOUT_S):
        while (await connection.call(request, accept=(0, 1))).code != 0:  # noqa: ASYNC110
            await trio.sleep(0.05)


async def _ask_through(connection: Connection, topic: str, group: str, msg_id: str) -> list[str]:
    online = await connection.call(GetConsumerConnections(consumer_group=group))
    clients = decode_body(ConsumerConnections, online.body).connection_set
    subscribed = b'"topic":"%b"' % topic.encode()
    found = [] if len(clients) == 1 else [f"{len(clients)} consumers are online, 1 is expected"]
    for client in clients:
        running = await connection.call(
            GetConsumerRunningInfo(consumer_group=group, client_id=client.client_id)
        )
        # Each language has a dialect of its own here, and brokers do not look into it. Go's client
        # fails to write some figures (NaN), and says so.
        known = "json marshal error" in (running.remark or "")
        if not known and not (b'"subscriptionSet"' in running.body and subscribed in running.body):
            found.append(
                f"307: the consumer does not say that it reads {topic}:"
                f" {running.body!r}, {running.remark}"
            )
        direct = await connection.call(
            ConsumeDirectly(consumer_group=group, client_id=client.client_id, msg_id=msg_id)
        )
        if parse(direct.body).get("consumeResult") not in CONSUMED:
            found.append(f"309: the consumer says {direct.body!r}")
    status = await connection.call(GetConsumerStatus(topic=topic, group=group))
    table = parse(status.body)["consumerTable"]
    if sorted(table) != sorted(client.client_id for client in clients):
        found.append(f"223: not every consumer says where it is: {table}")
    if not all(table.values()):
        found.append(f"223: a consumer says it is nowhere: {table}")
    return found


def _opened(address: str) -> AbstractAsyncContextManager[Connection]:
    host, port = parse_address(address)
    return open_connection(host, port)
