"""Going on elsewhere: one member in one queue, or a whole group."""

import json
from datetime import UTC, datetime

import pytest

from dledger_py.client import Consumer, NoQueue, Queue, ResponseError, sharing
from dledger_py.client.subscriptions import From
from dledger_py.remoting.wire.frame import Frame, encode_response
from tests.client.fake_broker import Cluster, connected
from tests.client.fake_servers import Peer, on_both_loops

RESET = 222
PLACE = Queue("t", "broker-a", 0)
AT = datetime.fromtimestamp(1_700_000_000.003, UTC)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "UNBALANCED_S", 0.01)


def fill(cluster: Cluster, count: int = 6) -> None:
    for number in range(count):
        cluster.store.append("t", 0, b"%d" % number)


async def offsets(messages: Consumer, count: int) -> list[int]:
    found = []
    for _ in range(count):
        message = await anext(messages)
        found.append(message.queue_offset)
        message.ack()
    return found


@pytest.mark.parametrize(
    "to, expected", [(4, [4, 5]), (0, [0, 1]), ("first", [0, 1]), (AT, [3, 4])]
)
def test_a_member_goes_on_where_it_is_told_to(to: int | From, expected: list[int]) -> None:
    @on_both_loops
    async def goes_on() -> None:
        async with connected() as (cluster, mq):
            fill(cluster)
            async with mq.consumer("g", "t", from_="first") as messages:
                assert await offsets(messages, 2) == [0, 1]
                left = await anext(messages)
                await messages.seek(PLACE, to)
                left.ack()  # means nothing any more
                assert await offsets(messages, 2) == expected

            assert cluster.store.committed["g", "t", 0] == expected[-1] + 1

    goes_on("trio")
    goes_on("asyncio")


@on_both_loops
async def test_the_last_message_is_the_next_one_to_come() -> None:
    async with connected() as (cluster, mq):
        fill(cluster)
        async with mq.consumer("g", "t", from_="first") as messages:
            await offsets(messages, 1)
            await messages.seek(PLACE, "last")
            await cluster.broker.wait_for(lambda: bool(cluster.broker.held))
            fill(cluster, 1)
            await cluster.broker.wake()
            assert await offsets(messages, 1) == [6]


@on_both_loops
async def test_a_held_pull_does_not_keep_a_member_from_going_back() -> None:
    async with connected() as (cluster, mq):
        fill(cluster)
        async with mq.consumer("g", "t", from_="first") as messages:
            await offsets(messages, 6)
            await cluster.broker.wait_for(lambda: bool(cluster.broker.held))
            await messages.seek(PLACE, 5)
            assert await offsets(messages, 1) == [5]


@on_both_loops
async def test_only_what_is_assigned_can_be_moved() -> None:
    async with connected() as (cluster, mq):
        fill(cluster)
        async with mq.consumer("g", "t", from_="first") as messages:
            await anext(messages)
            with pytest.raises(NoQueue, match="is not assigned to this member now"):
                await messages.seek(Queue("t", "broker-a", 7), 0)
            with pytest.raises(ValueError, match="0 or more"):
                await messages.seek(PLACE, -1)
            with pytest.raises(ValueError, match="'last', 'first' or"):
                await messages.seek(PLACE, "middle")  # type: ignore[arg-type]


@pytest.mark.parametrize("to, told", [("first", "0"), ("last", "-1"), (AT, "1700000000003")])
def test_a_group_is_moved_by_its_broker(to: From, told: str) -> None:
    asked: list[Frame] = []

    def reset(peer: Peer, frame: Frame) -> bytes:
        asked.append(frame)
        key = json.dumps({"brokerName": "broker-a", "queueId": 1, "topic": "t"})
        return encode_response(frame, 0, body=b'{"offsetTable":{%s:7}}' % key.encode())

    @on_both_loops
    async def moved() -> None:
        async with connected(queues=2) as (cluster, mq):
            cluster.broker.handlers[RESET] = reset
            assert await mq.reset_offset("g", "t", to) == {Queue("t", "broker-a", 1): 7}

    moved("trio")
    moved("asyncio")
    fields = asked[0].fields
    assert (fields["group"], fields["topic"], fields["timestamp"]) == ("g", "t", told)
    assert len(asked) == 2


@on_both_loops
async def test_a_group_nobody_knows_cannot_be_moved() -> None:
    async with connected() as (cluster, mq):
        cluster.broker.handlers[RESET] = lambda peer, frame: encode_response(
            frame, 26, remark="no such group"
        )
        with pytest.raises(ResponseError, match="26: no such group"):
            await mq.reset_offset("g", "t", "first")
