"""Transactions while leaders come and go: three real brokers in one process."""

from typing import Any

import pytest
import trio

from broker.serving import check_back
from dledger_py.client.connection import Connection
from dledger_py.client.errors import ResponseError
from dledger_py.remoting.commands.clients import Heartbeat
from dledger_py.remoting.commands.heartbeats import HeartbeatData, ProducerData, encode_heartbeat
from dledger_py.remoting.commands.transactions import (
    COMMIT,
    ROLLBACK,
    CheckTransactionState,
    EndTransaction,
)
from dledger_py.remoting.wire.frame import Frame
from dledger_py.remoting.wire.message import decode_record, decode_records
from dledger_py.remoting.wire.schema import decode
from tests.broker.broker_kit import BrokerGroup, Member, brokers, dial, pull, send
from tests.broker.transactions_kit import GROUP, half_send, verdict


async def prepare(client: Connection, body: bytes = b"pay") -> Any:
    request = half_send()
    return (await client.call(request, body)).header


async def bodies_everywhere(group: BrokerGroup) -> list[list[bytes]]:
    """What each running member gives a consumer."""
    await group.wait_applied_alike()
    found = []
    for member in group.members.values():
        if not member.ended.is_set():
            async with dial(member) as client:
                pulled = await pull(client, "orders", queue_id=1)
            found.append([record.body for record in decode_records(pulled.body)])
    return found


def digests(group: BrokerGroup) -> set[bytes]:
    return {
        member.broker.machine.state_digest()
        for member in group.members.values()
        if not member.ended.is_set()
    }


async def test_a_half_message_outlives_the_leader_that_took_it(tmp_path) -> None:
    async with brokers(tmp_path, 3) as group:
        await group.start()
        first = await group.wait_leader()
        follower = (await group.wait_followers())[0]
        async with dial(follower) as client:
            await send(client, "orders", b"plain", queue_id=1)
            reply = await prepare(client)
            other = await prepare(client, b"not to be")
            before = await pull(client, "orders", queue_id=1)
            await group.stop(first.node)
            await group.wait_leader()
            await client.call(verdict(reply))
            await client.call(verdict(other, ROLLBACK))
            with pytest.raises(ResponseError) as contradicted:
                await client.call(verdict(other, COMMIT))
        await group.start(first.node)
        await group.wait_followers()
        found = await bodies_everywhere(group)
        states = digests(group)

    assert [b"plain"] == [record.body for record in decode_records(before.body)]
    assert 1 == contradicted.value.code
    assert [[b"plain", b"pay"]] * 3 == found
    assert 1 == len(states)


async def asked(member: Member) -> tuple[CheckTransactionState, Frame]:
    """What a producer of the group is asked that beats this member."""
    heard, found = trio.Event(), []

    def hear(_connection: Connection, frame: Frame) -> None:
        found.append((decode(CheckTransactionState, frame.fields), frame))
        heard.set()

    data = HeartbeatData(client_id="p", producer_data_set=(ProducerData(group_name=GROUP),))
    async with dial(member, on_request=hear) as client:
        await client.call(Heartbeat(), encode_heartbeat(data))
        await heard.wait()
    return found[0]


def answer_to(check: CheckTransactionState) -> EndTransaction:
    """As clients make it of the check's header."""
    return EndTransaction(
        producer_group=GROUP,
        tran_state_table_offset=check.tran_state_table_offset,
        commit_log_offset=check.commit_log_offset,
        commit_or_rollback=COMMIT,
        from_transaction_check=True,
        msg_id=check.msg_id or "",
        transaction_id=check.transaction_id,
    )


async def test_the_answer_to_a_check_counts_with_the_next_leader(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(check_back, "LOOK_S", 0.02)
    times = {"transaction_timeout_ms": 1, "transaction_check_interval_ms": 50}
    async with brokers(tmp_path, 3, **times) as group:
        await group.start()
        first = await group.wait_leader()
        await group.wait_followers()
        async with dial(first) as client:
            await prepare(client)
        check, frame = await asked(first)
        counted = first.broker.machine.transactions.state()[0][4]
        await group.stop(first.node)
        second = await group.wait_leader()
        # The next leader goes on counting, and asks whoever beats it.
        again, _frame = await asked(second)
        recounted = second.broker.machine.transactions.state()[0][4]
        others = [m for m in group.members.values() if m not in (first, second)]
        async with dial(others[0]) as client:
            await client.call(answer_to(check))
            await client.call(answer_to(again))
        found = await bodies_everywhere(group)
        states = digests(group)

    record = decode_record(frame.body)
    assert (b"pay", "orders", 1) == (record.body, record.topic, record.queue_id)
    assert check.commit_log_offset == again.commit_log_offset
    assert 1 <= counted < recounted
    assert [[b"pay"]] * 2 == found
    assert 1 == len(states)


async def test_what_is_pending_survives_a_start_from_the_disk(tmp_path) -> None:
    async with brokers(tmp_path, 1) as group:
        await group.start()
        member = await group.wait_leader()
        async with dial(member) as client:
            reply = await prepare(client)
        await group.stop(member.node)
        await group.start(member.node)
        member = await group.wait_leader()
        async with dial(member) as client:
            await client.call(verdict(reply))
            with pytest.raises(ResponseError) as contradicted:
                await client.call(verdict(reply, ROLLBACK))
        found = await bodies_everywhere(group)

    assert "it is committed" in (contradicted.value.remark or "")
    assert [[b"pay"]] == found
