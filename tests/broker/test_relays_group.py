"""Three real brokers: a client connected to one of them is reached through each."""

import pytest

from dledger_py.client.connection import Connection
from dledger_py.client.errors import ResponseError
from dledger_py.remoting.commands.clients import Heartbeat
from dledger_py.remoting.commands.heartbeats import (
    ConsumerData,
    HeartbeatData,
    ProducerData,
    encode_heartbeat,
)
from dledger_py.remoting.commands.operations import TransferLeadership
from dledger_py.remoting.commands.relays import ConsumeDirectly, SendReplyMessage
from dledger_py.remoting.wire.frame import Frame
from dledger_py.remoting.wire.message import decode_record
from dledger_py.remoting.wire.properties import encode as properties_text
from tests.broker.broker_kit import PATIENCE_S, brokers, dial, send

REPLY = SendReplyMessage(
    producer_group="repliers",
    topic="DefaultCluster_REPLY_TOPIC",
    queue_id=0,
    properties=properties_text({"CORRELATION_ID": "1", "REPLY_TO_CLIENT": "c1"}),
)
BEAT = encode_heartbeat(
    HeartbeatData(
        client_id="c1",
        producer_data_set=(ProducerData(group_name="pg"),),
        consumer_data_set=(ConsumerData(group_name="shop"),),
    )
)


async def test_a_reply_reaches_its_requester_through_any_member_whoever_leads(tmp_path) -> None:
    taken: list[Frame] = []

    def take(connection: Connection, frame: Frame) -> None:
        if frame.code == 326:
            taken.append(frame)
            connection.answer_nowait(frame, 0)

    async with brokers(tmp_path, 3) as group:
        await group.start()
        leader = await group.wait_leader()
        await group.wait_followers()
        replies = []
        async with dial(leader, on_request=take) as requester:
            await requester.call(Heartbeat(), BEAT, timeout_s=PATIENCE_S)
            for member in group.members.values():
                async with dial(member) as replier:
                    replies.append(await replier.call(REPLY, member.node.encode()))
            successor = next(each for each in group.members if each != leader.node)
            await requester.call(TransferLeadership(transferee_id=successor))
            await group.wait_until(lambda: group.members[successor].leads)
            async with dial(group.members[successor]) as replier:  # nobody has beaten it yet
                replies.append(await replier.call(REPLY, b"later"))
        async with dial(leader) as replier:
            with pytest.raises(ResponseError) as nobody:
                await replier.call(REPLY, b"too late")

    assert [b"n0", b"n1", b"n2", b"later"] == [frame.body for frame in taken]
    assert ["0"] * 4 == [reply.header.msg_id for reply in replies]
    assert all(frame.fields["bornHost"].startswith("127.0.0.1:") for frame in taken)
    assert 1 == nobody.value.code


async def test_a_consumer_that_one_member_knows_consumes_for_all(tmp_path) -> None:
    consumed: list[Frame] = []

    def consume(connection: Connection, frame: Frame) -> None:
        if frame.code == 309:
            consumed.append(frame)
            connection.answer_nowait(frame, 0, {}, b'{"consumeResult":"CR_SUCCESS"}')

    async with brokers(tmp_path, 3) as group:
        await group.start()
        follower, other = await group.wait_followers()
        async with dial(follower, on_request=consume) as consumer, dial(other) as tool:
            await consumer.call(Heartbeat(), BEAT, timeout_s=PATIENCE_S)
            stored = await send(tool, "orders", b"hello")
            await group.wait_applied_alike()
            answer = await tool.call(
                ConsumeDirectly(consumer_group="shop", client_id="c1", msg_id=stored.header.msg_id)
            )

    (frame,) = consumed
    assert b"hello" == decode_record(frame.body).body
    assert b'{"consumeResult":"CR_SUCCESS"}' == answer.body
