"""Requests, and the replies that brokers push."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from attrs import define, field

from dledger_py.client import Client, Message, NoReply, ResponseError, SendRefused, sharing
from dledger_py.remoting.commands.heartbeats import decode_heartbeat
from dledger_py.remoting.wire.frame import Frame, encode_request, encode_response
from dledger_py.remoting.wire.properties import append, decode
from tests.client.fake_broker import BEAT, SEND, Cluster, connected
from tests.client.fake_servers import Peer, on_both_loops

SEND_REPLY, PUSH = 324, 326
REPLIES = "c_REPLY_TOPIC"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "UNBALANCED_S", 0.01)


@define
class Desk:
    """A broker that pushes replies when it is told to."""

    cluster: Cluster
    replies: list[Frame] = field(factory=list)
    pushed: list[Frame] = field(factory=list)
    """What the requester answered."""
    refuse: int = 0

    def __attrs_post_init__(self) -> None:
        broker = self.cluster.broker
        self.cluster.names.route(REPLIES, broker)
        store = broker.store_one

        def with_cluster(peer: Peer, frame: Frame) -> bytes:
            frame.fields["i"] = append(frame.fields["i"], "CLUSTER", "c")
            return store(peer, frame)

        broker.handlers |= {SEND: with_cluster, SEND_REPLY: self.reply}

    def reply(self, peer: Peer, frame: Frame) -> bytes:
        self.replies.append(frame)
        if self.refuse:
            return encode_response(frame, self.refuse, remark="channel not found")
        return encode_response(frame, 0, {"msgId": "0", "queueId": "0", "queueOffset": "0"})

    async def push(self, properties: str, body: bytes = b"pong") -> None:
        """Push a reply to every client."""
        fields = {
            "producerGroup": "g",
            "topic": REPLIES,
            "defaultTopic": "TBW102",
            "defaultTopicQueueNums": "4",
            "queueId": "0",
            "sysFlag": "0",
            "flag": "0",
            "bornTimestamp": "1700000000000",
            "bornHost": "127.0.0.1:1",
            "storeHost": "127.0.0.1:2",
            "storeTimestamp": "1700000000001",
            "properties": properties,
        }
        for peer in self.cluster.broker.peers:
            await peer.send(encode_request(PUSH, 77, fields, body))

    @property
    def asked(self) -> dict[str, str]:
        """The properties of the last request."""
        return decode(self.cluster.broker.requests_of(SEND)[-1].fields["i"])

    @property
    def answers(self) -> list[tuple[int, str | None]]:
        return [
            (frame.code, frame.remark)
            for frame in self.cluster.broker.requests
            if frame.is_response and frame.opaque == 77
        ]


@asynccontextmanager
async def desk(timeout_s: float = 10.0) -> AsyncIterator[tuple[Desk, Client]]:
    async with connected(timeout_s=timeout_s) as (cluster, mq):
        yield Desk(cluster), mq


@on_both_loops
async def test_a_request_waits_for_the_reply_with_its_id() -> None:
    replies: list[Message] = []
    async with desk() as (made, mq):

        async def ask() -> None:
            replies.append(await mq.request("t", b"ping", tag="ask", keys=["k"]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await made.cluster.broker.wait_for(lambda: bool(made.cluster.broker.requests_of(SEND)))
            asked = made.asked
            await made.push("CORRELATION_ID\x01another\x02")
            text = f"CORRELATION_ID\x01{asked['CORRELATION_ID']}\x02TAGS\x01x\x02UNIQ_KEY\x01u\x02"
            await made.push(text)
        await made.push(text)
        await made.cluster.broker.wait_for(lambda: len(made.answers) == 3)

    assert (asked["REPLY_TO_CLIENT"], asked["TTL"]) == (mq.client_id, "10000")
    assert (asked["TAGS"], asked["KEYS"]) == ("ask", "k")
    (reply,) = replies
    assert (reply.body, reply.tag, reply.message_id) == (b"pong", "x", "u")
    late = (1, "nobody waits for this reply any more")
    assert made.answers == [late, (0, None), late]
    first = decode_heartbeat(made.cluster.broker.requests_of(BEAT)[0].body)
    order = [frame.code for frame in made.cluster.broker.requests]
    assert order.index(BEAT) < order.index(SEND)
    assert [each.group_name for each in first.producer_data_set] == ["python-producer"]


@on_both_loops
async def test_nobody_replies() -> None:
    async with desk(timeout_s=0.5) as (made, mq):
        with pytest.raises(NoReply, match=r"within 0\.5 s") as raised:
            await mq.request("t", b"ping")

        assert raised.value.unique_id == made.asked["UNIQ_KEY"]
        assert raised.value.retryable
        assert not mq._requests._expected


@on_both_loops
async def test_a_request_that_is_refused_waits_for_nothing() -> None:
    async with desk() as (made, mq):
        made.cluster.broker.handlers[SEND] = lambda peer, frame: encode_response(
            frame, 13, remark="no"
        )
        with pytest.raises(SendRefused):
            await mq.request("t", b"ping")
        assert not mq._requests._expected


@on_both_loops
async def test_the_broker_is_beaten_once_for_a_connection() -> None:
    async with desk(timeout_s=0.5) as (made, mq):
        for _ in range(3):
            with pytest.raises(NoReply):
                await mq.request("t", b"ping")
        beats = len(made.cluster.broker.requests_of(BEAT))
        with pytest.raises(NoReply):
            await mq.request("t", b"ping")
        assert len(made.cluster.broker.requests_of(BEAT)) == beats

        await made.cluster.broker.drop_all()
        while mq._membership._pool.opened(made.cluster.broker.address):
            await anyio.lowlevel.checkpoint()
        made.cluster.broker.requests.clear()
        with pytest.raises(NoReply):
            await mq.request("t", b"ping", timeout_s=2)
        order = [frame.code for frame in made.cluster.broker.requests]
        assert order.index(BEAT) < order.index(SEND)


@on_both_loops
async def test_a_consumer_replies_to_whoever_asked() -> None:
    async with desk() as (made, mq):
        made.cluster.store.append(
            "t",
            0,
            b"ping",
            "CORRELATION_ID\x01c1\x02REPLY_TO_CLIENT\x01someone\x02TTL\x013000\x02CLUSTER\x01c\x02",
        )
        async with mq.consumer("g", "t", from_="first") as messages:
            message = await anext(messages)
            async with message.ack_on_success():
                await message.reply(b"pong", properties={"a": "b"})

        (reply,) = made.replies
        assert (reply.body, reply.fields["topic"]) == (b"pong", REPLIES)
        told = decode(reply.fields["properties"])
        assert told.pop("UNIQ_KEY")
        assert told == {
            "CORRELATION_ID": "c1",
            "REPLY_TO_CLIENT": "someone",
            "TTL": "3000",
            "MSG_TYPE": "reply",
            "a": "b",
            "WAIT": "true",
        }
        assert made.cluster.store.committed["g", "t", 0] == 1


@on_both_loops
async def test_a_requester_that_is_gone_is_told_at_once() -> None:
    async with desk(timeout_s=60) as (made, mq):
        made.refuse = 1
        made.cluster.store.append("t", 0, b"ping", "REPLY_TO_CLIENT\x01x\x02CLUSTER\x01c\x02")
        async with mq.consumer("g", "t", from_="first") as messages:
            message = await anext(messages)
            with pytest.raises(ResponseError, match=r"channel not found .*does not wait any more"):
                await message.reply(b"pong")
            assert len(made.replies) == 1


@on_both_loops
async def test_what_is_no_request_cannot_be_answered() -> None:
    async with desk() as (made, mq):
        made.cluster.store.append("t", 0, b"plain")
        async with mq.consumer("g", "t", from_="first") as messages:
            message = await anext(messages)
            with pytest.raises(ValueError, match="is no request"):
                await message.reply(b"pong")
        assert made.replies == []
