"""Message trace, read as RocketMQ's tools would."""

import io
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from dledger_py.admin.traces import Trace, trace_of
from dledger_py.client import Client, Outgoing, SendRefused, connect, sharing, tracing
from dledger_py.client.tracing import TOPIC
from dledger_py.remoting.wire.frame import encode_response
from dledger_py.remoting.wire.message import decode_record
from dledger_py.remoting.wire.properties import decode
from tests.client.fake_broker import SEND, Cluster, running_cluster
from tests.client.fake_servers import on_both_loops


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "UNBALANCED_S", 0.01)


@asynccontextmanager
async def traced(**how: Any) -> AsyncIterator[tuple[Cluster, Client]]:
    async with running_cluster() as cluster:
        cluster.names.route(TOPIC, cluster.broker)
        async with connect(cluster.names.address, producer_group="shop", trace=True, **how) as mq:
            yield cluster, mq


def told(cluster: Cluster, message_id: str) -> Trace:
    """The trace of a message, found by key as tools find it."""
    records = [decode_record(each) for each in cluster.store.queues.get((TOPIC, 0), [])]
    bodies = [
        each.body for each in records if message_id in decode(each.properties)["KEYS"].split()
    ]
    return trace_of(message_id, bodies)


@on_both_loops
async def test_a_message_is_traced_from_its_send_to_its_end() -> None:
    async with traced() as (cluster, mq):
        receipt = await mq.send("t", b"body", tag="paid", keys=["o-1"])
        async with mq.consumer("g", "t", from_="first") as messages:
            (await anext(messages)).ack()
        await mq._tracer.flush()  # type: ignore[union-attr]
        found = told(cluster, receipt.message_id)

    assert found.unreadable == 0
    (sent,) = found.sent
    assert (sent.topic, sent.group, sent.tags, sent.keys) == ("t", "shop", "paid", "o-1")
    assert (sent.body_bytes, sent.kind, sent.success) == (4, "normal", True)
    assert sent.offset_message_id == receipt.offset_message_id
    assert sent.broker_address == "127.0.0.1:10911"
    (consumed,) = found.consumed
    assert (consumed.group, consumed.outcome, consumed.retry_times) == ("g", "success", 0)
    assert told(cluster, "o-1").unreadable == 0


@on_both_loops
async def test_what_failed_is_told_as_failed() -> None:
    async with traced() as (cluster, mq):
        receipt = await mq.send("t", b"body")
        async with (
            mq.consumer("g", "t", from_="first") as messages,
            (await anext(messages)).ack_on_success(),
        ):
            raise ValueError("no")
        cluster.broker.handlers[SEND] = lambda peer, frame: encode_response(frame, 13, remark="no")
        with pytest.raises(SendRefused) as refused:
            await mq.send("t", b"body")
        cluster.broker.handlers[SEND] = cluster.broker.store_one
        await mq._tracer.flush()  # type: ignore[union-attr]

        assert [each.outcome for each in told(cluster, receipt.message_id).consumed] == ["failed"]
        (sent,) = told(cluster, refused.value.unique_id).sent
        assert (sent.success, sent.broker_address) == (False, "")


@on_both_loops
async def test_kinds_batches_transactions_and_recalls() -> None:
    async with traced() as (cluster, mq):
        cluster.broker.handlers[37] = lambda peer, frame: encode_response(frame, 0)
        cluster.broker.handlers[370] = lambda peer, frame: encode_response(frame, 0)
        ordered = await mq.send("t", b"x", group="o-1")
        delayed = await mq.send("t", b"x", delay=timedelta(seconds=9))
        batch = await mq.send_batch("t", [b"12", Outgoing(body=b"123", keys="k")])
        async with mq.transaction("t", b"x") as transaction:
            pass
    records = [decode_record(each) for each in cluster.store.queues[TOPIC, 0]]
    assert [decode(each.properties).get("TAGS") for each in records] == [None]

    def of(message_id: str) -> Trace:
        return told(cluster, message_id)

    assert [of(each.message_id).sent[0].kind for each in (ordered, delayed)] == ["order", "delay"]
    assert [of(each.message_id).sent[0].body_bytes for each in batch] == [2, 3]
    assert [of(each.message_id).sent[0].offset_message_id for each in batch] == [
        each.offset_message_id for each in batch
    ]
    assert of("k").unreadable == 0
    half = of(transaction.message_id)
    assert half.sent[0].kind == "half"
    assert [(each.state, each.after_check) for each in half.transactions] == [
        ("COMMIT_MESSAGE", False)
    ]


@on_both_loops
async def test_many_records_go_in_several_messages() -> None:
    async with traced() as (cluster, mq):
        receipts = await mq.send_batch(
            "t", [Outgoing(body=b"x", keys=(f"{number}" * 90,)) for number in range(250)]
        )
    assert all(len(told(cluster, each.message_id).sent) == 1 for each in receipts)
    keys = [
        len(decode(decode_record(each).properties)["KEYS"])
        for each in cluster.store.queues[TOPIC, 0]
    ]
    assert len(keys) > 2
    assert max(keys) <= tracing.KEYS_CHARACTERS


@on_both_loops
async def test_a_trace_that_cannot_be_sent_is_complained_of_once_and_fails_nothing() -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logging.getLogger("dledger_py.client").addHandler(handler)
    try:
        async with traced() as (cluster, mq):

            def refuse(peer: Any, frame: Any) -> bytes:
                if frame.fields["b"] == TOPIC:
                    return encode_response(frame, 16, remark="no permission")
                return cluster.broker.store_one(peer, frame)

            cluster.broker.handlers[SEND] = refuse
            for _ in range(3):
                await mq.send("t", b"x")
                await mq._tracer.flush()  # type: ignore[union-attr]
    finally:
        logging.getLogger("dledger_py.client").removeHandler(handler)

    assert text.getvalue().count("message trace is lost") == 1
    assert len(cluster.store.queues["t", 0]) == 3


@on_both_loops
async def test_without_being_asked_nothing_is_traced() -> None:
    async with (
        running_cluster() as cluster,
        connect(cluster.names.address) as mq,
        mq.consumer("g", "t", from_="first") as messages,
    ):
        await mq.send("t", b"x")
        await cluster.broker.wake()
        (await anext(messages)).ack()
    assert {frame.fields["b"] for frame in cluster.broker.requests_of(SEND)} == {"t"}
