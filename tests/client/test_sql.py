"""Consuming and pulling by SQL92 expressions."""

import json

import pytest

from dledger_py.client import ConsumerFailed, Sql, sharing
from dledger_py.remoting.commands.heartbeats import decode_heartbeat
from dledger_py.remoting.wire.frame import encode_response
from tests.client.fake_broker import BEAT, PULL, connected
from tests.client.fake_servers import on_both_loops

CHECK = 46
WRONG = "parse the consumer's subscription failed: line 1, column 9: a number is expected"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "UNBALANCED_S", 0.01)


@on_both_loops
async def test_the_expression_is_told_in_heartbeats_and_pulls_and_chosen_by_the_broker() -> None:
    async with connected() as (cluster, mq):
        cluster.store.append("t", 0, b"x", "TAGS\x01any\x02amount\x017\x02")
        checked = []

        def check(peer: object, frame: object) -> bytes:
            checked.append(json.loads(frame.body)["subscriptionData"])  # type: ignore[attr-defined]
            return encode_response(frame, 0)  # type: ignore[arg-type]

        cluster.broker.handlers[CHECK] = check
        consumer = mq.consumer("g", {"t": Sql("amount > 5"), "u": "a || b"}, from_="first")
        async with consumer as messages:
            message = await anext(messages)
            message.ack()
        assert message.properties["amount"] == "7"

        (asked,) = checked
        assert (asked["subString"], asked["expressionType"]) == ("amount > 5", "SQL92")
        (told,) = decode_heartbeat(cluster.broker.requests_of(BEAT)[0].body).consumer_data_set
        assert {
            (each.topic, each.sub_string, each.expression_type, frozenset(each.tags_set))
            for each in told.subscription_data_set
        } == {
            ("t", "amount > 5", "SQL92", frozenset()),
            ("u", "a || b", "TAG", frozenset("ab")),
            ("%RETRY%g", "*", "TAG", frozenset()),
        }
        pulled = cluster.broker.requests_of(PULL)[0].fields
        assert (pulled["subscription"], pulled["expressionType"]) == ("amount > 5", "SQL92")


@pytest.mark.parametrize("code", [23, 27, 1])
def test_a_broken_expression_is_told_with_the_brokers_words(code: int) -> None:
    @on_both_loops
    async def refused() -> None:
        async with connected() as (cluster, mq):
            cluster.broker.handlers[CHECK] = lambda peer, frame: encode_response(
                frame, code, remark=WRONG
            )
            async with mq.consumer("g", {"t": Sql("amount >")}) as messages:
                with pytest.raises(ConsumerFailed, match=r"'amount >' .* line 1, column 9") as told:
                    await anext(messages)

        assert "docs/filters.md" in told.value.hint
        assert not cluster.broker.requests_of(PULL)

    refused("trio")
    refused("asyncio")


@on_both_loops
async def test_a_broker_that_cannot_check_tells_it_by_the_first_pull() -> None:
    async with connected() as (cluster, mq):
        cluster.broker.handlers[PULL] = lambda peer, frame: encode_response(frame, 23, remark=WRONG)
        async with mq.consumer("g", {"t": Sql("amount >")}) as messages:
            with pytest.raises(ConsumerFailed, match="line 1, column 9"):
                await anext(messages)


@on_both_loops
async def test_pulls_take_expressions() -> None:
    async with connected() as (cluster, mq):
        await mq.pull("t", 0, 0, tags=Sql("a IS NULL"))

        pulled = cluster.broker.requests_of(PULL)[0].fields
        assert (pulled["subscription"], pulled["expressionType"]) == ("a IS NULL", "SQL92")


@pytest.mark.parametrize("expression", ["", "  ", None])
def test_an_expression_says_something(expression: str) -> None:
    with pytest.raises(ValueError, match="one like"):
        Sql(expression)
