"""Consuming in a group: what is handed out, what is committed, who reads what."""

import io
import logging
from datetime import UTC, datetime

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from dledger_py.client import (
    Client,
    Consumer,
    ConsumerFailed,
    Message,
    Queue,
    connect,
    retry,
    sharing,
)
from dledger_py.client.retry import BackOff
from dledger_py.remoting.wire.frame import Frame, encode_response
from tests.client.fake_broker import (
    BEAT,
    COMMIT,
    NOTIFY,
    PULL,
    QUERY_OFFSET,
    SEND,
    UNREGISTER,
    Cluster,
    FakeBroker,
    FakeNameServer,
    Store,
    connected,
    running_cluster,
)
from tests.client.fake_servers import Peer, on_both_loops, running


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of seconds would be waited for."""
    monkeypatch.setattr(sharing, "UNBALANCED_S", 0.01)
    monkeypatch.setattr(retry, "REDELIVERY_BACK_OFF", BackOff(0.001, 0.01))
    monkeypatch.setattr(retry, "CONSUME_BACK_OFF", BackOff(0.001, 0.01))


def fill(cluster: Cluster, count: int, queue_id: int = 0, tag: str | None = None) -> None:
    for number in range(count):
        properties = f"TAGS\x01{tag}\x02" if tag else ""
        cluster.store.append("t", queue_id, b"%d" % number, properties)


async def take(messages: Consumer, count: int) -> list[Message]:
    """Receive and acknowledge."""
    found = []
    async for message in messages:
        message.ack()
        found.append(message)
        if len(found) == count:
            break
    return found


@on_both_loops
async def test_a_group_reads_every_message_and_commits_when_it_ends() -> None:
    async with connected(queues=2) as (cluster, mq):
        fill(cluster, 50, 0)
        fill(cluster, 30, 1)
        async with mq.consumer("g", ["t"], from_="first") as messages:
            found = await take(messages, 80)

        assert sorted((each.queue.queue_id, each.queue_offset) for each in found) == [
            *((0, offset) for offset in range(50)),
            *((1, offset) for offset in range(30)),
        ]
        assert cluster.store.committed == {("g", "t", 0): 50, ("g", "t", 1): 30}
        assert len(cluster.broker.requests_of(UNREGISTER)) == 1


@on_both_loops
async def test_a_message_that_arrives_later_ends_a_held_pull() -> None:
    async with connected() as (cluster, mq), mq.consumer("g", "t") as messages:
        await cluster.broker.wait_for(lambda: bool(cluster.broker.held))
        await mq.send("t", b"fresh", tag="paid", keys=["k"])
        await cluster.broker.wake()

        (message,) = await take(messages, 1)

    assert (message.body, message.tag, message.keys) == (b"fresh", "paid", ("k",))
    assert message.message_id == cluster.store.unique_ids[0]


@on_both_loops
async def test_what_is_not_acknowledged_is_not_committed() -> None:
    async with connected() as (cluster, mq):
        fill(cluster, 10)
        async with mq.consumer("g", "t", from_="first") as messages:
            async for message in messages:
                if message.queue_offset != 3:
                    message.ack()
                if message.queue_offset == 9:
                    break

        assert cluster.store.committed == {("g", "t", 0): 3}
        async with mq.consumer("g", "t") as messages:
            again = await take(messages, 7)

    assert [message.queue_offset for message in again] == [3, 4, 5, 6, 7, 8, 9]


@on_both_loops
async def test_a_failed_block_gives_the_message_back_and_the_loop_goes_on() -> None:
    async with connected() as (cluster, mq):
        fill(cluster, 3)
        seen: list[tuple[int, int]] = []
        async with mq.consumer("g", "t", from_="first") as messages:
            async for message in messages:
                async with message.ack_on_success():
                    seen.append((message.queue_offset, message.delivery_attempt))
                    if message.queue_offset == 1 and message.delivery_attempt < 3:
                        raise ValueError("not yet")
                if len(seen) == 5:
                    break

        assert sorted(seen) == [(0, 1), (1, 1), (1, 2), (1, 3), (2, 1)]
        assert cluster.store.committed == {("g", "t", 0): 3}


@on_both_loops
async def test_a_failure_is_logged_with_its_traceback() -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logging.getLogger("dledger_py.client").addHandler(handler)
    try:
        async with connected() as (cluster, mq):
            fill(cluster, 1)
            async with mq.consumer("g", "t", from_="first") as messages:
                async for message in messages:
                    async with message.ack_on_success(retry_after=60):
                        raise ValueError("boom")
                    break
    finally:
        logging.getLogger("dledger_py.client").removeHandler(handler)

    assert " failed at attempt 1\n" in text.getvalue()
    assert "ValueError: boom" in text.getvalue()


@on_both_loops
async def test_a_cancelled_block_gives_the_message_back_and_passes_the_cancellation_on() -> None:
    async with connected() as (cluster, mq):
        fill(cluster, 1)
        attempts = []
        async with mq.consumer("g", "t", from_="first") as messages:
            async for message in messages:
                with anyio.CancelScope() as scope:
                    async with message.ack_on_success():
                        attempts.append(message.delivery_attempt)
                        if len(attempts) == 1:
                            scope.cancel()
                        await anyio.lowlevel.checkpoint()
                assert scope.cancelled_caught == (len(attempts) == 1)
                if len(attempts) == 2:
                    break

        assert attempts == [1, 1]
        assert cluster.store.committed == {("g", "t", 0): 1}


@on_both_loops
async def test_no_more_than_concurrency_are_handed_out() -> None:
    async with connected() as (cluster, mq):
        fill(cluster, 10)
        async with mq.consumer("g", "t", from_="first", concurrency=2) as messages:
            first = await anext(messages)
            await anext(messages)
            with anyio.move_on_after(0.02) as scope:
                await anext(messages)
            assert scope.cancelled_caught

            first.ack()
            assert (await anext(messages)).queue_offset == 2


@on_both_loops
async def test_tags_are_compared_again_by_the_client() -> None:
    """The fake broker filters nothing, like a broker whose hashes all collide."""
    async with connected() as (cluster, mq):
        for number in range(9):
            tag = ("paid", "shipped", "lost")[number % 3]
            cluster.store.append("t", 0, tag.encode(), f"TAGS\x01{tag}\x02")
        async with mq.consumer("g", {"t": "paid || shipped"}, from_="first") as messages:
            found = await take(messages, 6)

        assert {message.tag for message in found} == {"paid", "shipped"}
        assert cluster.store.committed == {("g", "t", 0): 9}
        assert cluster.broker.requests_of(PULL)[0].fields["subscription"] == "paid || shipped"


@on_both_loops
async def test_two_consumers_share_the_queues_and_the_rest_when_one_leaves() -> None:
    async with running_cluster(queues=4) as cluster:
        cluster.names.route("%RETRY%g", cluster.broker)  # so that nothing but a word rebalances

        def read_by(consumer: Consumer) -> list[Queue]:
            return [queue for queue in consumer.queues if queue.topic == "t"]

        async def told(consumer: Consumer, count: int) -> None:
            while len(read_by(consumer)) != count:
                await cluster.broker.notify(NOTIFY, {"consumerGroup": "g"})
                await anyio.lowlevel.checkpoint()

        async with connect(cluster.names.address) as mq1, mq1.consumer("g", "t") as one:
            await told(one, 4)
            async with connect(cluster.names.address) as mq2, mq2.consumer("g", "t") as two:
                await told(two, 2)
                await told(one, 2)

                both = sorted([*read_by(one), *read_by(two)])
                assert both == list(await mq1.queues("t"))
            await told(one, 4)


@on_both_loops
async def test_one_client_is_one_member_of_a_group() -> None:
    async with connected() as (_, mq), mq.consumer("g", "t"):
        with pytest.raises(ValueError, match="'g' is being consumed by this client already"):
            async with mq.consumer("g", "t"):
                pytest.fail("joined twice")


@pytest.mark.parametrize("from_, expected", [("last", 5), ("first", 0)])
def test_a_new_group_begins_where_it_is_told_to(from_: str, expected: int) -> None:
    async def main() -> None:
        async with connected() as (cluster, mq):
            fill(cluster, 5)
            async with mq.consumer("g", "t", from_=from_):  # type: ignore[arg-type]
                await cluster.broker.wait_for(lambda: bool(cluster.broker.requests_of(PULL)))

            assert int(cluster.broker.requests_of(PULL)[0].fields["queueOffset"]) == expected

    anyio.run(main)


@on_both_loops
async def test_a_new_group_can_begin_at_a_time() -> None:
    async with connected() as (cluster, mq):
        fill(cluster, 5)
        at = datetime.fromtimestamp(1_700_000_000.003, UTC)
        async with mq.consumer("g", "t", from_=at):
            await cluster.broker.wait_for(lambda: bool(cluster.broker.requests_of(PULL)))

        assert int(cluster.broker.requests_of(PULL)[0].fields["queueOffset"]) == 3


@on_both_loops
async def test_an_offset_that_moved_is_followed_and_committed() -> None:
    async with connected() as (cluster, mq):
        fill(cluster, 10)
        cluster.store.first_offset = 6
        cluster.store.committed["g", "t", 0] = 2
        async with mq.consumer("g", "t") as messages:
            found = await take(messages, 4)

        assert [message.queue_offset for message in found] == [6, 7, 8, 9]
        assert cluster.store.committed["g", "t", 0] == 10


@on_both_loops
async def test_a_member_that_lags_behind_does_not_rewind_the_group() -> None:
    async with connected() as (cluster, mq):
        fill(cluster, 10)
        answer = cluster.broker.pull
        lag = [
            {"nextBeginOffset": "4", "minOffset": "0", "maxOffset": "4"},
        ]

        def lagging(peer: Peer, frame: Frame) -> bytes | None:
            if frame.fields["queueOffset"] == "10" and lag:
                return encode_response(frame, 21, lag.pop())
            return answer(peer, frame)

        cluster.broker.handlers[PULL] = lagging
        async with mq.consumer("g", "t", from_="first") as messages:
            await take(messages, 10)
            await cluster.broker.wait_for(lambda: bool(cluster.broker.held))
            cluster.store.append("t", 0, b"fresh")
            await cluster.broker.wake()

            (message,) = await take(messages, 1)
            assert message.queue_offset == 10


@on_both_loops
async def test_a_lost_broker_connection_is_survived_and_greeted_again() -> None:
    async with connected() as (cluster, mq):
        fill(cluster, 5)
        async with mq.consumer("g", "t", from_="first") as messages:
            await take(messages, 5)
            await cluster.broker.wait_for(lambda: bool(cluster.broker.held))
            beats = len(cluster.broker.requests_of(BEAT))
            await cluster.broker.drop_all()
            await cluster.broker.wait_for(
                lambda: len(cluster.broker.requests_of(BEAT)) > beats and bool(cluster.broker.held)
            )
            cluster.store.append("t", 0, b"fresh")
            await cluster.broker.wake()

            (message,) = await take(messages, 1)
            assert message.body == b"fresh"
            assert list(cluster.broker.groups["g"]) == [mq.client_id]


@on_both_loops
async def test_all_members_of_a_broker_group_hear_the_heartbeat() -> None:
    names, store = FakeNameServer(), Store()
    leader, follower = FakeBroker(store), FakeBroker(store)
    async with running(names, leader, follower):
        names.route("t", leader, follower)
        async with connect(names.address) as mq, mq.consumer("g", "t"):
            await leader.wait_for(lambda: bool(leader.requests_of(BEAT)))
            await follower.wait_for(lambda: bool(follower.requests_of(BEAT)))
            await leader.wait_for(lambda: bool(leader.requests_of(PULL)))

            assert list(leader.groups["g"]) == list(follower.groups["g"]) == [mq.client_id]
            assert len(leader.requests_of(BEAT)) == len(follower.requests_of(BEAT)) == 1


@on_both_loops
async def test_retries_come_from_the_retry_topic_under_their_own_topic() -> None:
    async with connected() as (cluster, mq):
        cluster.names.route("%RETRY%g", cluster.broker)
        cluster.store.append("%RETRY%g", 0, b"again", "RETRY_TOPIC\x01t\x02TAGS\x01x\x02")
        async with mq.consumer("g", {"t": "paid"}) as messages:
            (message,) = await take(messages, 1)

    assert message.topic == "t"
    assert message.queue.topic == "%RETRY%g"


@on_both_loops
async def test_a_topic_that_does_not_exist_yet_is_waited_for() -> None:
    async with connected() as (cluster, mq), mq.consumer("g", "new", from_="first") as messages:
        cluster.store.append("new", 0, b"first")
        cluster.names.route("new", cluster.broker)

        (message,) = await take(messages, 1)
        assert message.body == b"first"


@on_both_loops
async def test_a_subscription_that_is_refused_ends_the_iteration() -> None:
    async with connected() as (cluster, mq):
        cluster.broker.handlers[PULL] = lambda peer, frame: encode_response(
            frame, 23, remark="parse the consumer's subscription failed"
        )
        async with mq.consumer("g", "t") as messages:
            with pytest.raises(ConsumerFailed, match="23: parse"):
                await anext(messages)


@on_both_loops
async def test_the_users_exception_leaves_the_consumer_as_it_is_and_commits() -> None:
    async with connected() as (cluster, mq):
        fill(cluster, 3)

        async def fail() -> None:
            async with mq.consumer("g", "t", from_="first") as messages:
                await take(messages, 2)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

        assert cluster.store.committed == {("g", "t", 0): 2}


@on_both_loops
async def test_a_cancelled_consumer_still_commits() -> None:
    async with connected() as (cluster, mq):
        fill(cluster, 3)
        commit, refusals = cluster.broker.handlers[COMMIT], [14]

        def refuse_once(peer: Peer, frame: Frame) -> bytes | None:
            if refusals:
                return encode_response(frame, refusals.pop(), remark="no leader")
            return commit(peer, frame)

        cluster.broker.handlers[COMMIT] = refuse_once
        with anyio.CancelScope() as scope:
            async with mq.consumer("g", "t", from_="first") as messages:
                await take(messages, 2)
                scope.cancel()
                await anyio.sleep_forever()

        assert scope.cancelled_caught
        assert cluster.store.committed == {("g", "t", 0): 2}


@on_both_loops
async def test_a_client_cancelled_with_its_consumer_still_commits() -> None:
    """What the consumer's clean-up needs must not be cancelled before it."""
    async with running_cluster() as cluster:
        fill(cluster, 3)
        with anyio.CancelScope() as scope:
            async with (
                connect(cluster.names.address) as mq,
                mq.consumer("g", "t", from_="first") as messages,
            ):
                await take(messages, 2)
                scope.cancel()
                await anyio.sleep_forever()

        assert cluster.store.committed == {("g", "t", 0): 2}


@on_both_loops
async def test_offsets_are_committed_while_consuming() -> None:
    async with connected() as (cluster, mq):
        fill(cluster, 3)
        sharing.COMMIT_S, before = 0.01, sharing.COMMIT_S
        try:
            async with mq.consumer("g", "t", from_="first") as messages:
                await take(messages, 2)
                # A first commit may fall between the two messages.
                await cluster.broker.wait_for(lambda: cluster.store.committed == {("g", "t", 0): 2})

                assert cluster.broker.requests_of(COMMIT)
        finally:
            sharing.COMMIT_S = before


@on_both_loops
async def test_several_tasks_share_one_consumer() -> None:
    async with connected(queues=2) as (cluster, mq):
        fill(cluster, 40, 0)
        fill(cluster, 40, 1)
        seen: list[bytes] = []

        async def work(tasks: anyio.abc.TaskGroup) -> None:
            async for message in messages:
                async with message.ack_on_success():
                    await anyio.lowlevel.checkpoint()
                    seen.append(message.body)
                if len(seen) == 80:
                    tasks.cancel_scope.cancel()

        async with (
            mq.consumer("g", "t", from_="first") as messages,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(4):
                tasks.start_soon(work, tasks)

        assert sorted(map(int, seen)) == sorted([*range(40), *range(40)])
        assert cluster.store.committed == {("g", "t", 0): 40, ("g", "t", 1): 40}


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"group": "a b"}, "group 'a b'"),
        ({"group": "g" * 121}, "at most 120 characters"),
        ({"subscriptions": {}}, "at least one topic"),
        ({"concurrency": 0}, "at least 1"),
        ({"from_": "middle"}, "'last', 'first' or a datetime"),
        ({"from_": datetime(2026, 1, 1)}, "with a time zone"),  # noqa: DTZ001 - that is the point
    ],
)
def test_what_cannot_be_consumed_is_a_value_error(
    arguments: dict[str, object], complaint: str
) -> None:
    async def main() -> None:
        async with connected() as (_, mq):
            with pytest.raises(ValueError, match=complaint):
                mq.consumer(**{"group": "g", "subscriptions": "t", **arguments})  # type: ignore[arg-type]

    anyio.run(main)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"group": 3}, "group 3 is int: str is expected"),
        ({"subscriptions": {"t": ["a", "b"]}}, "of topic 't': '\\*', tags as in"),
        ({"subscriptions": {5: "*"}}, "topic 5 is int: str is expected"),
    ],
)
def test_what_is_consumed_is_said_in_words(arguments: dict[str, object], complaint: str) -> None:
    async def main() -> None:
        async with connected() as (_, mq):
            with pytest.raises(TypeError, match=complaint):
                mq.consumer(**{"group": "g", "subscriptions": "t", **arguments})  # type: ignore[arg-type]

    anyio.run(main)


async def pulled(mq: Client, offset: int) -> tuple[str, list[int], int]:
    result = await mq.pull("t", 0, offset, 4)
    return result.status.name, [each.queue_offset for each in result.messages], result.next_offset


@on_both_loops
async def test_pulls_read_any_offset_without_a_group() -> None:
    async with connected() as (cluster, mq):
        fill(cluster, 10)

        assert await pulled(mq, 2) == ("FOUND", [2, 3, 4, 5], 6)
        assert await pulled(mq, 10) == ("NOTHING_NEW", [], 10)
        assert await pulled(mq, 99) == ("OFFSET_MOVED", [], 10)
        assert (await mq.min_offset("t", 0), await mq.max_offset("t", 0)) == (0, 10)
        at = datetime.fromtimestamp(1_700_000_000.004, UTC)
        assert await mq.search_offset("t", 0, at) == 4
        assert not cluster.broker.requests_of(QUERY_OFFSET)
        with pytest.raises(RuntimeError, match="nobody to acknowledge it to"):
            (await mq.pull("t", 0, 0)).messages[0].ack()
    assert not cluster.broker.requests_of(SEND)
