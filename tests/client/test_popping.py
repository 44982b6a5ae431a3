"""Popping: whose a message is, by what it is acknowledged, and when it is nobody's any more."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from attrs import define, field

from dledger_py.client import Client, ConsumerFailed, Sql, retry
from dledger_py.client.retry import BackOff
from dledger_py.remoting.commands.heartbeats import ConsumeType, decode_heartbeat
from dledger_py.remoting.commands.json_bodies import decode_body
from dledger_py.remoting.commands.popping import BatchAck, BatchAcks, decode_handle
from dledger_py.remoting.wire.frame import Frame, encode_response
from tests.client.fake_broker import BEAT, Cluster, connected
from tests.client.fake_servers import Peer, on_both_loops

POP, ACK, CHANGE, ACK_ALL, SEND_BACK = 200050, 200051, 200053, 200151, 36


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "CONSUME_BACK_OFF", BackOff(0.001, 0.01))


@define
class Desk:
    """Gives each message of queue 0 once, three at a time, and holds pops that find none."""

    cluster: Cluster
    given: int = 0
    invisible_ms: int = 60_000
    told: list[tuple[int, dict[str, str]]] = field(factory=list)
    batches: list[tuple[BatchAck, ...]] = field(factory=list)
    refuse: int = 0
    knows_batches: bool = True
    unanswered: list[tuple[Peer, Frame]] | None = None
    """Acknowledgements of one message, where they are not answered."""

    def __attrs_post_init__(self) -> None:
        self.cluster.broker.handlers |= {POP: self.pop}
        for code in (ACK, CHANGE, SEND_BACK):
            self.cluster.broker.handlers[code] = self.take
        self.cluster.broker.handlers[ACK_ALL] = self.take_all
        for number in range(6):
            self.cluster.store.append("t", 0, b"%d" % number, f"UNIQ_KEY\x01u{number}\x02")

    def pop(self, peer: Peer, frame: Frame) -> bytes | None:
        if self.refuse:
            return encode_response(frame, self.refuse, remark="line 1, column 3")
        queue = self.cluster.store.queues["t", 0]
        upto = min(len(queue), self.given + min(3, int(frame.fields["maxMsgNums"])))
        if upto == self.given:
            return None
        offsets = ",".join(map(str, range(self.given, upto)))
        where = {
            "popTime": "1700000000000",
            "invisibleTime": str(self.invisible_ms),
            "reviveQid": "3",
            "restNum": "0",
            "startOffsetInfo": f"0 0 {self.given}",
            "msgOffsetInfo": f"0 0 {offsets}",
        }
        body = b"".join(queue[self.given : upto])
        self.given = upto
        return encode_response(frame, 0, where, body)

    def take_all(self, peer: Peer, frame: Frame) -> bytes:
        self.batches.append(decode_body(BatchAcks, frame.body).acks)
        return encode_response(frame, 0 if self.knows_batches else 3)

    async def answer(self) -> None:
        """What was not answered; from now on all is."""
        unanswered, self.unanswered = self.unanswered or [], None
        for peer, frame in unanswered:
            answer = self.take(peer, frame)
            assert answer is not None
            await peer.send(answer)

    def take(self, peer: Peer, frame: Frame) -> bytes | None:
        if self.unanswered is not None and frame.code == ACK:
            self.unanswered.append((peer, frame))
            return None
        self.told.append((frame.code, frame.fields))
        where = {"popTime": "1700000000001", "invisibleTime": "1", "reviveQid": "0"}
        return encode_response(frame, 0, where)

    def of(self, code: int) -> list[dict[str, str]]:
        return [fields for told, fields in self.told if told == code]


@asynccontextmanager
async def desk() -> AsyncIterator[tuple[Desk, Client]]:
    async with connected() as (cluster, mq):
        yield Desk(cluster), mq


@on_both_loops
async def test_a_message_is_acknowledged_by_its_handle() -> None:
    async with desk() as (made, mq):
        async with mq.pop_consumer("g", {"t": Sql("a > 1")}, invisible_s=30) as messages:
            ids = []
            async for message in messages:
                async with message.ack_on_success():
                    ids.append(message.message_id)
                await made.cluster.broker.wait_for(lambda: len(made.of(ACK)) == len(ids))
                if len(ids) == 6:
                    break

        assert ids == [f"u{number}" for number in range(6)]
        assert [int(each["offset"]) for each in made.of(ACK)] == [*range(6)]
        handle = decode_handle(made.of(ACK)[4]["extraInfo"])
        assert (handle.first_offset, handle.offset, handle.queue_id) == (3, 4, 0)
        assert (handle.pop_ms, handle.revive_qid) == (1_700_000_000_000, 3)
        assert {each["topic"] for each in made.of(ACK)} == {"t"}
        asked = made.cluster.broker.requests_of(POP)[0].fields
        assert (asked["exp"], asked["expType"], asked["queueId"]) == ("a > 1", "SQL92", "-1")
        assert (asked["invisibleTime"], asked["initMode"]) == ("30000", "0")
        told = decode_heartbeat(made.cluster.broker.requests_of(BEAT)[0].body)
        assert told.consumer_data_set[0].consume_type is ConsumeType.CONSUME_POP


@on_both_loops
async def test_what_is_done_with_at_once_is_acknowledged_together() -> None:
    async with desk() as (made, mq), mq.pop_consumer("g", "t") as messages:
        made.unanswered = []
        (await anext(messages)).ack()
        await made.cluster.broker.wait_for(lambda: len(made.cluster.broker.requests_of(ACK)) == 1)
        for _ in range(5):
            (await anext(messages)).ack()
        await anyio.wait_all_tasks_blocked()
        await made.answer()
        await made.cluster.broker.wait_for(lambda: bool(made.batches))

        (rows,) = made.batches
        first, second = sorted(rows, key=lambda row: row.first_offset)
        assert (first.first_offset, second.first_offset) == (0, 3)
        assert (first.offsets(), second.offsets()) == ([1, 2], [3, 4, 5])
        assert (first.group, first.topic, first.origin, first.queue_id) == ("g", "t", "0", 0)
        assert (first.pop_ms, first.revive_qid) == (1_700_000_000_000, 3)
        assert [each["offset"] for each in made.of(ACK)] == ["0"]


@on_both_loops
async def test_a_broker_that_knows_no_batches_is_told_one_by_one() -> None:
    async with desk() as (made, mq):
        made.knows_batches = False
        async with mq.pop_consumer("g", "t") as messages:
            made.unanswered = []
            (await anext(messages)).ack()
            await made.cluster.broker.wait_for(lambda: bool(made.unanswered))
            for _ in range(2):
                (await anext(messages)).ack()
            await anyio.wait_all_tasks_blocked()
            await made.answer()
            await made.cluster.broker.wait_for(lambda: len(made.of(ACK)) == 3)
            made.unanswered = []
            (await anext(messages)).ack()
            await made.cluster.broker.wait_for(lambda: bool(made.unanswered))
            for _ in range(2):
                (await anext(messages)).ack()
            await anyio.wait_all_tasks_blocked()
            await made.answer()
        assert sorted(each["offset"] for each in made.of(ACK)) == [*"012345"]
        assert len(made.batches) == 1


@on_both_loops
async def test_what_failed_is_asked_for_later_and_what_is_hopeless_is_buried() -> None:
    async with desk() as (made, mq):
        async with mq.pop_consumer("g", "t") as messages:
            (await anext(messages)).nack(retry_after=7)
            (await anext(messages)).nack()
            third = await anext(messages)
            third.reject()
            third.ack()  # only the first word counts
        assert sorted(int(each["invisibleTime"]) for each in made.of(CHANGE)) == [7_000, 10_000]
        (buried,) = made.of(SEND_BACK)
        assert (buried["delayLevel"], buried["offset"]) == ("-1", "2000")
        assert [each["offset"] for each in made.of(ACK)] == ["2"]


@on_both_loops
async def test_no_more_than_concurrency_are_out() -> None:
    async with desk() as (made, mq), mq.pop_consumer("g", "t", concurrency=2) as messages:
        first = await anext(messages)
        await anext(messages)
        with anyio.move_on_after(0.02) as scope:
            await anext(messages)
        assert scope.cancelled_caught
        assert made.given == 2

        first.ack()
        assert (await anext(messages)).message_id == "u2"


@on_both_loops
async def test_what_waited_here_for_too_long_is_somebody_elses() -> None:
    async with desk() as (made, mq):
        made.invisible_ms = 0
        async with mq.pop_consumer("g", "t") as messages:
            with anyio.move_on_after(0.1) as scope:
                await anext(messages)
        assert scope.cancelled_caught
        assert made.given == 6
        assert made.told == []


@on_both_loops
async def test_a_retry_is_acknowledged_where_it_stands() -> None:
    async with desk() as (made, mq):
        made.cluster.store.queues["t", 0].clear()
        handle = "5 1700000000000 60000 3 1 broker-a 2 9"
        made.cluster.store.append("t", 0, b"again", f"POP_CK\x01{handle}\x02", 1)
        async with mq.pop_consumer("g", "t") as messages:
            message = await anext(messages)
            message.ack()
        (ack,) = made.of(ACK)
        assert (ack["topic"], ack["queueId"], ack["offset"]) == ("%RETRY%g_t", "2", "9")
        assert ack["extraInfo"] == handle
        assert message.delivery_attempt == 2


@on_both_loops
async def test_a_broken_expression_ends_the_iteration() -> None:
    async with desk() as (made, mq):
        made.refuse = 23
        async with mq.pop_consumer("g", {"t": Sql("a >")}) as messages:
            with pytest.raises(ConsumerFailed, match="line 1, column 3"):
                await anext(messages)


@pytest.mark.parametrize("how", [{"invisible_s": 0.5}, {"invisible_s": 301}, {"concurrency": 0}])
def test_what_cannot_be_popped_is_a_value_error(how: dict[str, float]) -> None:
    async def main() -> None:
        async with connected() as (_, mq):
            with pytest.raises(ValueError, match="expected"):
                mq.pop_consumer("g", "t", **how)  # type: ignore[arg-type]

    anyio.run(main)
