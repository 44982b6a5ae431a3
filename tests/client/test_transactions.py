"""Transactions: what a block becomes, and what is answered when the broker asks."""

import io
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from attrs import define, field

from dledger_py.client import (
    Client,
    CommitUncertain,
    Message,
    SendUncertain,
    TransactionState,
    connect,
)
from dledger_py.client import transactions as transactions_module
from dledger_py.remoting.commands.heartbeats import decode_heartbeat
from dledger_py.remoting.wire.frame import Frame, Framer, encode_request, encode_response
from dledger_py.remoting.wire.message import decode_record
from dledger_py.remoting.wire.properties import decode
from tests.client.fake_broker import BEAT, SEND, Cluster, FakeBroker, running_cluster
from tests.client.fake_servers import Peer, on_both_loops, running

END, CHECK, CLUSTER_INFO = 37, 39, 106
COMMIT, ROLLBACK = "8", "12"
HALF = "half"


@define
class Desk:
    """A broker that keeps half messages, and asks about them when told to."""

    cluster: Cluster
    halves: dict[int, bytes] = field(factory=dict)
    ended: list[tuple[int, str, bool]] = field(factory=list)
    """(log position, verdict, whether it was asked for)"""
    lost: int = 0
    """So many verdicts get no answer."""
    code: int = 0

    def __attrs_post_init__(self) -> None:
        self.cluster.broker.handlers |= {SEND: self.prepare, END: self.end}
        names = self.cluster.names
        body = '{"brokerAddrTable":{"broker-a":{"brokerName":"broker-a","brokerAddrs":{"0":"%s"}}}}'
        names.handlers[CLUSTER_INFO] = lambda peer, frame: encode_response(
            frame, 0, body=(body % self.cluster.broker.address).encode()
        )

    def prepare(self, peer: Peer, frame: Frame) -> bytes:
        assert frame.fields["f"] == "4"
        answer = self.cluster.broker.store_one(peer, frame)
        record = self.cluster.store.queues["t", 0][-1]
        self.halves[decode_record(record).physical_offset] = record
        return answer

    def end(self, peer: Peer, frame: Frame) -> bytes | None:
        fields = frame.fields
        checked = fields["fromTransactionCheck"] == "true"
        self.ended.append((int(fields["commitLogOffset"]), fields["commitOrRollback"], checked))
        if self.lost:
            self.lost -= 1
            return None
        return encode_response(frame, self.code, remark="no such half" if self.code else None)

    async def ask(self, position: int) -> None:
        """Ask everybody who is connected."""
        fields = {"tranStateTableOffset": "0", "commitLogOffset": str(position), "bname": "b"}
        for peer in self.cluster.broker.peers:
            request = encode_request(CHECK, 1, fields, self.halves[position], one_way=True)
            await peer.send(request)

    @property
    def verdicts(self) -> list[str]:
        return [verdict for _, verdict, _ in self.ended]


@asynccontextmanager
async def desk(**how: Any) -> AsyncIterator[tuple[Desk, Client]]:
    async with running_cluster() as cluster:
        made = Desk(cluster)
        async with connect(cluster.names.address, **how) as mq:
            yield made, mq


def properties_of_half(made: Desk) -> dict[str, str]:
    return decode(decode_record(next(iter(made.halves.values()))).properties)


@on_both_loops
async def test_a_block_that_ends_well_commits() -> None:
    async with desk(producer_group="payers") as (made, mq):
        async with mq.transaction("t", b"pay", tag="new", keys=["o-1"]) as transaction:
            assert made.ended == []

        assert made.ended == [(0, COMMIT, False)]
        found = properties_of_half(made)
        assert (found["TRAN_MSG"], found["PGROUP"]) == ("true", "payers")
        assert (found["TAGS"], found["KEYS"]) == ("new", "o-1")
        assert found["UNIQ_KEY"] == transaction.message_id


@on_both_loops
async def test_a_block_that_fails_rolls_back_and_its_error_goes_on() -> None:
    async with desk() as (made, mq):
        with pytest.raises(ZeroDivisionError):
            async with mq.transaction("t", b"pay"):
                raise ZeroDivisionError

        assert made.ended == [(0, ROLLBACK, False)]


@on_both_loops
async def test_a_cancelled_block_rolls_back() -> None:
    async with desk() as (made, mq):
        with anyio.CancelScope() as scope:
            async with mq.transaction("t", b"pay"):
                scope.cancel()
                await anyio.sleep_forever()

        assert scope.cancelled_caught
        assert made.ended == [(0, ROLLBACK, False)]


@on_both_loops
async def test_a_commit_that_is_cancelled_was_told() -> None:
    async with desk() as (made, mq):
        with anyio.CancelScope() as scope:
            async with mq.transaction("t", b"pay"):
                scope.cancel()
        assert scope.cancelled_caught

        await made.cluster.broker.wait_for(lambda: bool(made.ended))
        assert made.ended == [(0, COMMIT, False)]


@on_both_loops
async def test_a_block_can_roll_back_without_an_error() -> None:
    async with desk() as (made, mq):
        async with mq.transaction("t", b"pay") as transaction:
            transaction.roll_back()

        assert made.ended == [(0, ROLLBACK, False)]


@on_both_loops
async def test_a_block_does_not_begin_without_its_half_and_the_verdict_is_rolled_back() -> None:
    async with desk(timeout_s=1, producer_group="payers") as (made, mq):

        def swallow(peer: Peer, frame: Frame) -> None:
            made.prepare(peer, frame)

        made.cluster.broker.handlers[SEND] = swallow
        with pytest.raises(SendUncertain):
            async with mq.transaction("t", b"pay"):
                pytest.fail("there is no half message")

        await made.ask(0)
        await made.cluster.broker.wait_for(lambda: bool(made.ended))
        assert made.ended == [(0, ROLLBACK, True)]


@on_both_loops
async def test_a_half_that_is_stored_weakly_is_rolled_back() -> None:
    async with desk() as (made, mq):

        def weakly(peer: Peer, frame: Frame) -> bytes:
            (stored,) = Framer().feed(made.prepare(peer, frame))
            return encode_response(frame, 10, stored.fields)

        made.cluster.broker.handlers[SEND] = weakly
        with pytest.raises(SendUncertain, match="status 10"):
            async with mq.transaction("t", b"pay"):
                pytest.fail("the half message may vanish")

        assert made.ended == [(0, ROLLBACK, False)]


@on_both_loops
async def test_a_commit_nobody_confirms_is_uncertain_and_told_again_when_asked() -> None:
    async with desk(timeout_s=1) as (made, mq):
        made.lost = 1
        with pytest.raises(CommitUncertain, match="keep what the block did") as raised:
            async with mq.transaction("t", b"pay") as transaction:
                pass
        assert raised.value.unique_id == transaction.message_id
        assert not raised.value.retryable

        await made.ask(0)
        await made.cluster.broker.wait_for(lambda: len(made.ended) == 2)
        assert made.ended == [(0, COMMIT, False), (0, COMMIT, True)]


@on_both_loops
async def test_a_half_that_is_gone_is_not_asked_for_until_the_deadline() -> None:
    async with desk(timeout_s=60) as (made, mq):
        made.code = 1
        with pytest.raises(CommitUncertain, match="1: no such half"):
            async with mq.transaction("t", b"pay"):
                pass

        assert made.verdicts == [COMMIT] * transactions_module.REFUSALS_MAX


@on_both_loops
async def test_a_lost_member_is_left_for_the_next_one() -> None:
    """The verdict goes to whoever serves the group of the half message."""
    async with desk() as (made, mq):
        other = FakeBroker(made.cluster.store)
        other.handlers[END] = made.end
        async with running(other):
            made.cluster.names.route("t", made.cluster.broker, other)
            async with mq.transaction("t", b"pay"):
                made.cluster.broker.handlers[END] = lambda peer, frame: encode_response(
                    frame, 14, remark="no leader"
                )

        assert made.ended == [(0, COMMIT, False)]


@on_both_loops
async def test_while_the_block_runs_the_answer_is_not_known() -> None:
    async def check(message: Message) -> TransactionState:
        pytest.fail("the client knows that it is under way")

    async with desk(producer_group="payers", check=check) as (made, mq):
        async with mq.transaction("t", b"pay"):
            await made.ask(0)
            await mq._membership.beat()  # answered after the question was heard
            await anyio.wait_all_tasks_blocked()
            assert made.ended == []

        assert made.ended == [(0, COMMIT, False)]


@on_both_loops
async def test_what_the_check_says_is_told() -> None:
    """A process that comes back is asked though it has not sent anything."""
    seen: list[tuple[bytes, str, str]] = []

    async def check(message: Message) -> TransactionState:
        seen.append((message.body, message.topic, message.keys[0]))
        return TransactionState[message.keys[0]]

    async with running_cluster() as cluster:
        made = Desk(cluster)
        for number, state in enumerate(("COMMIT", "ROLLBACK", "UNKNOWN")):
            properties = f"PGROUP\x01payers\x02UNIQ_KEY\x01u{number}\x02KEYS\x01{state}\x02"
            offset = cluster.store.append("t", 0, b"pay", properties)
            made.halves[offset * 1000] = cluster.store.queues["t", 0][-1]
        async with connect(cluster.names.address, producer_group="payers", check=check) as mq:
            await cluster.broker.wait_for(lambda: bool(cluster.broker.requests_of(BEAT)))
            for position in made.halves:
                await made.ask(position)
            await cluster.broker.wait_for(lambda: len(made.ended) == 2)
            await mq._membership.beat()  # answered after the last question was heard
            await anyio.wait_all_tasks_blocked()

    assert sorted(made.ended) == [(0, COMMIT, True), (1000, ROLLBACK, True)]
    assert sorted(seen) == [(b"pay", "t", state) for state in ("COMMIT", "ROLLBACK", "UNKNOWN")]
    beat = decode_heartbeat(cluster.broker.requests_of(BEAT)[0].body)
    assert [each.group_name for each in beat.producer_data_set] == ["payers"]


@pytest.mark.parametrize("answer", ["boom", None, True])
def test_a_check_that_fails_leaves_it_open(answer: object) -> None:
    called = []

    async def check(message: Message) -> Any:
        called.append(message)
        if answer == "boom":
            raise ValueError(answer)
        return answer

    async def main() -> None:
        text = io.StringIO()
        handler = logging.StreamHandler(text)
        logging.getLogger("dledger_py.client").addHandler(handler)
        try:
            async with running_cluster() as cluster:
                made = Desk(cluster)
                cluster.store.append("t", 0, b"pay", "PGROUP\x01payers\x02UNIQ_KEY\x01u\x02")
                made.halves[0] = cluster.store.queues["t", 0][-1]
                async with connect(
                    cluster.names.address, producer_group="payers", check=check
                ) as mq:
                    await cluster.broker.wait_for(lambda: bool(cluster.broker.requests_of(BEAT)))
                    await made.ask(0)
                    await mq._membership.beat()  # answered after the question was heard
                    await anyio.wait_all_tasks_blocked()
                assert made.ended == []
        finally:
            logging.getLogger("dledger_py.client").removeHandler(handler)
        assert len(called) == 1
        assert "the check of transaction u" in text.getvalue()

    anyio.run(main)


@on_both_loops
async def test_questions_about_another_group_are_not_ours() -> None:
    async with desk(timeout_s=1, producer_group="payers") as (made, mq):
        made.cluster.store.append("t", 0, b"x", "PGROUP\x01others\x02UNIQ_KEY\x01u\x02")
        made.halves[0] = made.cluster.store.queues["t", 0][-1]
        await mq._membership.beat([made.cluster.broker.address])
        mq._transactions._ended["u"] = TransactionState.COMMIT
        await made.ask(0)
        await mq._membership.beat()
        await anyio.wait_all_tasks_blocked()

        assert made.ended == []


def test_a_check_needs_a_group_of_its_own() -> None:
    async def check(message: Message) -> TransactionState:
        return TransactionState.UNKNOWN

    async def main() -> None:
        async with connect("127.0.0.1:1", check=check):
            pytest.fail("anybody may be in the default group")

    with pytest.raises(ValueError, match="needs a producer_group= of its own"):
        anyio.run(main)


@on_both_loops
async def test_the_oldest_verdicts_are_forgotten() -> None:
    async with desk() as (_, mq):
        transactions_module.ENDED_MAX, before = 2, transactions_module.ENDED_MAX
        try:
            for _ in range(4):
                async with mq.transaction("t", b"pay"):
                    pass
        finally:
            transactions_module.ENDED_MAX = before

        assert len(mq._transactions._ended) == 2
        assert not mq._transactions._open
