"""Popping in order: one message of a queue at a time, and what failed is not overtaken."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from attrs import define, field

from dledger_py.client import Client, retry
from dledger_py.client.pop_order import PopOrder
from dledger_py.client.queues import Queue
from dledger_py.client.retry import BackOff
from dledger_py.remoting.commands.json_bodies import decode_body
from dledger_py.remoting.commands.popping import BatchAcks, decode_handle
from dledger_py.remoting.wire.frame import Frame, encode_response
from tests.client.fake_broker import Cluster, connected
from tests.client.fake_servers import Peer, on_both_loops

POP, ACK, CHANGE, ACK_ALL, SEND_BACK = 200050, 200051, 200053, 200151, 36
QUEUE = Queue("t", "broker-a", 0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "CONSUME_BACK_OFF", BackOff(0.001, 0.01))


@define
class OrderDesk:
    """Gives queue 0 in order, three messages at a time; more once all of them are acknowledged, or
    the same again once all that are not were given back. Like a broker it holds pops meanwhile."""

    cluster: Cluster
    taken: int = 0
    out: dict[int, int] = field(factory=dict)
    """Offsets that are not acknowledged: how often each was popped before."""
    back: set[int] = field(factory=set)
    """Those that were given back."""
    held: list[tuple[Peer, Frame]] = field(factory=list)
    changes: list[tuple[int, int]] = field(factory=list)
    """Offsets and the times asked for, in ms."""
    attempts: list[str] = field(factory=list)
    taker: str = ""
    """The attempt that got what is out."""
    deaf: int = 0
    """So many pops are answered with a failure, though messages were taken."""

    def __attrs_post_init__(self) -> None:
        self.cluster.broker.handlers |= {
            POP: self.pop,
            ACK: self.ack,
            ACK_ALL: self.ack_all,
            CHANGE: self.change,
            SEND_BACK: lambda peer, frame: encode_response(frame, 0),
        }
        for number in range(6):
            self.cluster.store.append("t", 0, b"%d" % number, f"UNIQ_KEY\x01u{number}\x02")

    def pop(self, peer: Peer, frame: Frame) -> bytes | None:
        assert frame.fields["order"] == "true"
        self.attempts.append(frame.fields["attemptId"])
        return self.give(peer, frame)

    def give(self, peer: Peer, frame: Frame) -> bytes | None:
        again = bool(self.out) and frame.fields["attemptId"] == self.taker
        queue = self.cluster.store.queues["t", 0]
        if self.out and not again and self.out.keys() != self.back:
            self.held.append((peer, frame))
            return None
        if not self.out:
            upto = min(len(queue), self.taken + min(3, int(frame.fields["maxMsgNums"])))
            self.out = dict.fromkeys(range(self.taken, upto), 0)
            self.taken = upto
        elif not again:
            self.out = {offset: before + 1 for offset, before in self.out.items()}
        if not self.out:
            self.held.append((peer, frame))
            return None
        self.taker = frame.fields["attemptId"]
        self.back.clear()
        if self.deaf:
            self.deaf -= 1
            return encode_response(frame, 1, remark="leadership changed")
        counts = ";".join(f"0 qo0%{offset} {before}" for offset, before in self.out.items())
        where = {
            "popTime": "1700000000000",
            "invisibleTime": "60000",
            "reviveQid": "999",
            "restNum": "0",
            "startOffsetInfo": f"0 0 {min(self.out)}",
            "msgOffsetInfo": f"0 0 {','.join(map(str, self.out))}",
            "orderCountInfo": counts,
        }
        return encode_response(frame, 0, where, b"".join(queue[offset] for offset in self.out))

    def ack(self, peer: Peer, frame: Frame) -> bytes:
        return self._acked(frame, [decode_handle(frame.fields["extraInfo"]).offset])

    def ack_all(self, peer: Peer, frame: Frame) -> bytes:
        rows = decode_body(BatchAcks, frame.body).acks
        return self._acked(frame, [offset for row in rows for offset in row.offsets()])

    def _acked(self, frame: Frame, offsets: list[int]) -> bytes:
        for offset in offsets:
            self.out.pop(offset, None)
        return encode_response(frame, 0)

    def change(self, peer: Peer, frame: Frame) -> bytes:
        offset = int(frame.fields["offset"])
        self.back.add(offset)
        self.changes.append((offset, int(frame.fields["invisibleTime"])))
        where = {"popTime": "1700000000001", "invisibleTime": "1", "reviveQid": "999"}
        return encode_response(frame, 0, where)

    async def wait_acknowledged(self, offset: int) -> None:
        """Of those that were taken."""
        await self.cluster.broker.wait_for(lambda: offset < self.taken and offset not in self.out)

    async def wake(self) -> None:
        """Answer the pops that are held, if there is anything for them now."""
        held, self.held = self.held, []
        for peer, frame in held:
            answer = self.give(peer, frame)
            if answer is not None:
                await peer.send(answer)


@asynccontextmanager
async def desk() -> AsyncIterator[tuple[OrderDesk, Client]]:
    async with connected() as (cluster, mq):
        yield OrderDesk(cluster), mq


@on_both_loops
async def test_the_messages_of_a_queue_are_out_one_by_one() -> None:
    async with desk() as (made, mq), mq.pop_consumer("g", "t", ordered=True) as messages:
        for number in range(6):
            message = await anext(messages)
            with anyio.move_on_after(0.02) as scope:
                await anext(messages)
            assert scope.cancelled_caught
            assert message.message_id == f"u{number}"
            message.ack()
            await made.wait_acknowledged(number)
            await made.wake()
        assert made.out == {}


@on_both_loops
async def test_what_failed_comes_again_before_what_was_popped_after_it() -> None:
    async with desk() as (made, mq), mq.pop_consumer("g", "t", ordered=True) as messages:
        (await anext(messages)).ack()
        failed = await anext(messages)
        failed.nack(retry_after=7)
        await made.wait_acknowledged(0)
        await made.cluster.broker.wait_for(lambda: len(made.changes) == 2)
        assert sorted(made.changes) == [(1, 7_000), (2, 1)]
        await made.wake()
        again = [await anext(messages)]
        again[0].ack()
        again.append(await anext(messages))

        assert [each.message_id for each in again] == ["u1", "u2"]
        assert (again[0].reconsume_times, again[0].delivery_attempt) == (1, 2)
        assert (failed.reconsume_times, failed.delivery_attempt) == (0, 1)


@on_both_loops
async def test_what_is_hopeless_is_buried_and_its_queue_goes_on() -> None:
    async with desk() as (made, mq), mq.pop_consumer("g", "t", ordered=True) as messages:
        (await anext(messages)).reject()
        assert (await anext(messages)).message_id == "u1"
        await made.wait_acknowledged(0)
        assert len(made.cluster.broker.requests_of(SEND_BACK)) == 1


@on_both_loops
async def test_a_pop_that_was_not_answered_is_asked_for_again_by_the_same_name() -> None:
    async with desk() as (made, mq):
        made.deaf = 2
        async with mq.pop_consumer("g", "t", ordered=True) as messages:
            first = await anext(messages)
        assert (first.message_id, first.reconsume_times) == ("u0", 0)
        assert len({*made.attempts[:3]}) == 1
        assert len({*made.attempts}) == len(made.attempts) - 2


@on_both_loops
async def test_a_member_that_leaves_gives_back_what_it_did_not_hand_out() -> None:
    async with desk() as (made, mq):
        async with mq.pop_consumer("g", "t", ordered=True) as messages:
            (await anext(messages)).ack()
        assert sorted(made.changes) == [(1, 15_000), (2, 1)]


@on_both_loops
async def test_those_behind_another_count_for_the_concurrency() -> None:
    how = {"ordered": True, "concurrency": 2}
    async with desk() as (made, mq), mq.pop_consumer("g", "t", **how) as messages:
        assert (await anext(messages)).message_id == "u0"
        await anyio.wait_all_tasks_blocked()
        assert (made.taken, len(made.attempts)) == (2, 1)


def test_what_is_popped_later_replaces_what_is_here() -> None:
    """As where the time of the first pop was over."""
    order: PopOrder[str] = PopOrder()
    assert "a" == order.put(QUEUE, ["a", "b", "c"])
    assert "x" == order.put(QUEUE, ["x", "y"])

    assert (None, []) == (order.done(QUEUE, "a"), order.let_go(QUEUE, "a"))
    assert 1 == order.behind
    assert "y" == order.done(QUEUE, "x")
    assert [] == order.let_go(QUEUE, "y")
    assert 0 == order.behind
    assert None is order.done(QUEUE, "y")
