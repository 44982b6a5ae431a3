"""Messages that failed go back to the broker: who counts, who delivers again, what is committed."""

import anyio
import pytest
from attrs import define, field

from dledger_py.client import Client, Message, retry, sharing
from dledger_py.client import consumer as consumer_module
from dledger_py.client.retry import BackOff, delay_level
from dledger_py.remoting.wire.frame import Frame, encode_response
from tests.client.fake_broker import Cluster, connected
from tests.client.fake_servers import Peer, on_both_loops

SEND_BACK = 36
RETRIES = "%RETRY%g"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "UNBALANCED_S", 0.01)
    monkeypatch.setattr(retry, "REDELIVERY_BACK_OFF", BackOff(0.001, 0.01))


@define
class Returns:
    """A broker that takes messages back, or does not."""

    cluster: Cluster
    code: int = 0
    answers: bool = True
    fields: list[dict[str, str]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.cluster.broker.handlers[SEND_BACK] = self.take
        for number in range(3):
            self.cluster.store.append("t", 0, b"%d" % number, f"UNIQ_KEY\x01u{number}\x02")

    def take(self, peer: Peer, frame: Frame) -> bytes | None:
        self.fields.append(frame.fields)
        if not self.answers:
            return None
        return encode_response(frame, self.code, remark="no such group" if self.code else None)

    @property
    def levels(self) -> list[tuple[str, str]]:
        return [(each["originMsgId"], each["delayLevel"]) for each in self.fields]

    @property
    def committed(self) -> int | None:
        return self.cluster.store.committed.get(("g", "t", 0))


async def consumed(mq: Client, count: int, fail: str = "u1", **how: object) -> list[Message]:
    """Consume in a loop that fails for one message."""
    found = []
    async with mq.consumer("g", "t", from_="first", **how) as messages:  # type: ignore[arg-type]
        async for message in messages:
            found.append(message)
            async with message.ack_on_success():
                if message.message_id == fail:
                    raise ValueError("no")
            if len(found) == count:
                break
    return found


@on_both_loops
async def test_a_failed_message_goes_back_and_the_offset_passes_it() -> None:
    async with connected() as (cluster, mq):
        returns = Returns(cluster)
        await consumed(mq, 3)

        (sent,) = returns.fields
        assert (sent["offset"], sent["group"], sent["delayLevel"]) == ("1000", "g", "0")
        assert (sent["originMsgId"], sent["originTopic"]) == ("u1", "t")
        assert "maxReconsumeTimes" not in sent
        assert returns.committed == 3


@on_both_loops
async def test_the_consumer_says_how_often() -> None:
    async with connected() as (cluster, mq):
        returns = Returns(cluster)
        await consumed(mq, 3, max_reconsume_times=0)

        assert [each["maxReconsumeTimes"] for each in returns.fields] == ["0"]


@on_both_loops
async def test_words_about_a_failure_become_levels() -> None:
    async with connected() as (cluster, mq):
        returns = Returns(cluster)
        async with mq.consumer("g", "t", from_="first") as messages:
            (await anext(messages)).nack()
            (await anext(messages)).nack(retry_after=7)
            third = await anext(messages)
            third.reject()
            third.ack()  # only the first word counts

        assert sorted(returns.levels) == [("u0", "0"), ("u1", "3"), ("u2", "-1")]
        assert returns.committed == 3


@on_both_loops
async def test_what_the_broker_does_not_take_back_is_delivered_again_from_here() -> None:
    async with connected() as (cluster, mq):
        returns = Returns(cluster, code=26)
        fails = [True, True]
        seen = []
        async with mq.consumer("g", "t", from_="first") as messages:
            async for message in messages:
                seen.append((message.message_id, message.delivery_attempt))
                async with message.ack_on_success(retry_after=0):
                    if message.message_id == "u1" and fails:
                        fails.pop()
                        raise ValueError("no")
                if len(seen) == 5:
                    break

        assert sorted(seen) == [("u0", 1), ("u1", 1), ("u1", 2), ("u1", 3), ("u2", 1)]
        assert len(returns.fields) == 2
        assert returns.committed == 3


@on_both_loops
async def test_a_message_on_its_way_back_counts_and_holds_its_offset() -> None:
    async with connected() as (cluster, mq):
        returns = Returns(cluster, answers=False)
        async with mq.consumer("g", "t", from_="first", concurrency=1) as messages:
            (await anext(messages)).nack()
            with anyio.move_on_after(0.02) as scope:
                await anext(messages)
            assert scope.cancelled_caught

            returns.answers = True
            await cluster.broker.drop_all()  # the answer that never came is asked for again
            assert (await anext(messages)).message_id == "u1"

        assert [level for _, level in returns.levels] == ["0", "0"]
        assert returns.committed == 1


@on_both_loops
async def test_leaving_waits_for_what_is_on_its_way_back() -> None:
    async with connected() as (cluster, mq):
        returns = Returns(cluster)
        async with mq.consumer("g", "t", from_="first") as messages:
            (await anext(messages)).nack()

        assert returns.levels == [("u0", "0")]
        assert returns.committed == 1


@on_both_loops
async def test_what_is_said_after_leaving_means_nothing() -> None:
    async with connected() as (cluster, mq):
        returns = Returns(cluster)
        async with mq.consumer("g", "t", from_="first") as messages:
            left = [await anext(messages) for _ in range(3)]
        left[0].nack()
        left[1].reject()
        left[2].ack()

        assert returns.fields == []
        assert returns.committed == 0


def test_leaving_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "CLOSE_S", 0.05)

    async def main() -> None:
        async with connected() as (cluster, mq):
            returns = Returns(cluster, answers=False)
            async with mq.consumer("g", "t", from_="first") as messages:
                (await anext(messages)).nack()
                await cluster.broker.wait_for(lambda: bool(returns.fields))

            assert returns.committed == 0

    anyio.run(main)


@on_both_loops
async def test_a_cancelled_block_is_no_failure() -> None:
    async with connected() as (cluster, mq):
        returns = Returns(cluster)
        async with mq.consumer("g", "t", from_="first", concurrency=1) as messages:
            with anyio.CancelScope() as scope:
                async with (await anext(messages)).ack_on_success():
                    scope.cancel()
                    await anyio.sleep_forever()
            ids = []
            for _ in range(3):
                message = await anext(messages)
                ids.append(message.message_id)
                message.ack()

        assert sorted(ids) == ["u0", "u1", "u2"]
        assert returns.fields == []


@on_both_loops
async def test_what_comes_back_is_counted_by_the_broker() -> None:
    async with connected() as (cluster, mq):
        cluster.names.route(RETRIES, cluster.broker)
        cluster.store.append(RETRIES, 0, b"again", "RETRY_TOPIC\x01t\x02UNIQ_KEY\x01u9\x02", 2)
        async with mq.consumer("g", "t") as messages:
            message = await anext(messages)
            message.ack()

        assert (message.topic, message.queue.topic) == ("t", RETRIES)
        assert (message.reconsume_times, message.delivery_attempt) == (2, 3)


@pytest.mark.parametrize(
    "after_s, level",
    [(0, 1), (1, 1), (1.01, 2), (10, 3), (30.5, 5), (60, 5), (600, 14), (7200, 18), (10**9, 18)],
)
def test_a_span_is_rounded_up_to_a_level(after_s: float, level: int) -> None:
    assert level == delay_level(after_s)


@pytest.mark.parametrize("span", [-1, float("nan")])
def test_spans_below_zero_are_none(span: float) -> None:
    async def main() -> None:
        async with connected() as (cluster, mq):
            Returns(cluster)
            async with mq.consumer("g", "t", from_="first") as messages:
                with pytest.raises(ValueError, match="0 or more"):
                    (await anext(messages)).nack(retry_after=span)

    anyio.run(main)
