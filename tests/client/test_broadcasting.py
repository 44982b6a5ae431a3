"""Broadcasting: every member reads everything, and nobody commits."""

import anyio
import anyio.lowlevel
import pytest

from dledger_py.client import connect, retry, sharing
from dledger_py.client.retry import BackOff
from dledger_py.remoting.commands.heartbeats import MessageModel, decode_heartbeat
from tests.client.fake_broker import BEAT, COMMIT, MEMBERS, QUERY_OFFSET, connected, running_cluster
from tests.client.fake_servers import on_both_loops

SEND_BACK = 36


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "UNBALANCED_S", 0.01)
    monkeypatch.setattr(retry, "REDELIVERY_BACK_OFF", BackOff(0.001, 0.01))


@on_both_loops
async def test_every_member_reads_everything() -> None:
    async with running_cluster(queues=2) as cluster:
        for number in range(6):
            cluster.store.append("t", number % 2, b"%d" % number)
        for _ in range(2):
            async with (
                connect(cluster.names.address) as mq,
                mq.consumer("g", "t", from_="first", broadcast=True) as messages,
            ):
                bodies = set()
                async for message in messages:
                    message.ack()
                    bodies.add(message.body)
                    if len(bodies) == 6:
                        break
                assert {queue.topic for queue in messages.queues} == {"t"}

        for code in (COMMIT, QUERY_OFFSET, MEMBERS):
            assert cluster.broker.requests_of(code) == []
        (told,) = decode_heartbeat(cluster.broker.requests_of(BEAT)[0].body).consumer_data_set
        assert told.message_model is MessageModel.BROADCASTING
        assert [each.topic for each in told.subscription_data_set] == ["t"]


@on_both_loops
async def test_what_failed_is_tried_again_here_and_dropped_in_the_end() -> None:
    async with connected() as (cluster, mq):
        for number in range(3):
            cluster.store.append("t", 0, b"%d" % number)
        seen = []
        consumer = mq.consumer("g", "t", from_="first", broadcast=True, max_reconsume_times=1)
        async with consumer as messages:
            async for message in messages:
                seen.append((message.queue_offset, message.delivery_attempt))
                if message.queue_offset == 2:
                    message.reject()
                else:
                    async with message.ack_on_success(retry_after=0):
                        if message.queue_offset == 1:
                            raise ValueError("no")
                if len(seen) == 4:
                    break
            (reader,) = messages._shares._readers.values()
            assert reader.position == 3

        assert sorted(seen) == [(0, 1), (1, 1), (1, 2), (2, 1)]
        assert cluster.broker.requests_of(SEND_BACK) == []


@on_both_loops
async def test_a_queue_that_comes_back_is_read_on() -> None:
    async with connected(queues=2) as (cluster, mq):
        for number in range(3):
            cluster.store.append("t", 1, b"%d" % number)
        routes = mq._services.routes
        again = routes.refresh
        async with mq.consumer("g", "t", from_="first", broadcast=True) as messages:
            (await anext(messages)).ack()
            (await anext(messages)).ack()
            cluster.names.route("t", cluster.broker, queues=1)
            await again("t", routes.known("t"))
            while len(messages.queues) != 1:
                messages.rebalance_soon()
                await anyio.lowlevel.checkpoint()
            cluster.names.route("t", cluster.broker, queues=2)
            await again("t", routes.known("t"))
            messages.rebalance_soon()

            assert (await anext(messages)).queue_offset == 2


def test_there_is_no_order_in_it() -> None:
    async def main() -> None:
        async with connected() as (_, mq):
            with pytest.raises(ValueError, match="one of them"):
                mq.consumer("g", "t", ordered=True, broadcast=True)

    anyio.run(main)
