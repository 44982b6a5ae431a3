"""Header classes: names, types, spellings, and what is wrong with a bad field."""

from typing import Any, get_type_hints

import attrs
import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from dledger_py.remoting.commands.clients import UnregisterClient
from dledger_py.remoting.commands.offsets import GetMaxOffset, OffsetReply
from dledger_py.remoting.commands.pulling import PullMessage, PullReply
from dledger_py.remoting.commands.routing import RegisterBroker
from dledger_py.remoting.commands.sending import SendMessage, SendReply
from dledger_py.remoting.wire import schema
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import (
    Int32,
    MalformedHeader,
    Request,
    decode,
    decode_request,
    encode,
    reply_type,
    spellings,
)

LONG_FIELDS = {
    "producerGroup": "pg",
    "topic": "TopicTest",
    "defaultTopic": "TBW102",
    "defaultTopicQueueNums": "4",
    "queueId": "2",
    "sysFlag": "0",
    "bornTimestamp": "1700000000000",
    "flag": "0",
    "properties": "TAGS\x01TagA\x02",
    "reconsumeTimes": "0",
    "unitMode": "false",
    "batch": "false",
}
LETTERS = dict(zip("abcdefghijkm", LONG_FIELDS.values(), strict=True))


def test_names_are_derived_and_exceptions_declared() -> None:
    assert encode(GetMaxOffset(topic="T", queue_id=3)) == {
        "topic": "T",
        "queueId": "3",
        "committed": "true",
    }
    assert encode(UnregisterClient(client_id="c")) == {"clientID": "c"}


def test_a_short_spelling_is_the_same_command() -> None:
    long = decode_request(10, LONG_FIELDS)
    short = decode_request(310, LETTERS)

    assert isinstance(long, SendMessage)
    assert short == long
    assert encode(long, 310) == LETTERS | {"k": "false", "m": "false"}
    assert encode(long) == LONG_FIELDS


def test_the_code_of_a_batch_says_that_it_is_one() -> None:
    batch = decode_request(320, LETTERS)

    assert isinstance(batch, SendMessage)
    assert batch.batch
    assert encode(batch, 320)["m"] == "true"


def test_what_is_absent_is_the_default() -> None:
    request = decode_request(310, {"a": "pg", "b": "T", "e": "-1"})

    assert request == SendMessage(producer_group="pg", topic="T", queue_id=-1)


@pytest.mark.parametrize(
    "text, expected",
    [
        *(("true", True), ("TRUE", True), ("True", True), ("1", True)),
        *(("false", False), ("0", False), ("yes", False), ("", False)),
    ],
)
def test_only_true_and_the_one_of_cpp_are_true(text: str, expected: bool) -> None:
    request = decode(GetMaxOffset, {"topic": "T", "queueId": "0", "committed": text})

    assert request.committed is expected


@pytest.mark.parametrize(
    "fields, complaint",
    [
        ({"queueId": "0"}, "GetMaxOffset.topic: missing"),
        ({"topic": "T"}, "GetMaxOffset.queueId: missing"),
        ({"topic": "T", "queueId": ""}, "GetMaxOffset.queueId: '' is not a 32-bit integer"),
        ({"topic": "T", "queueId": "x"}, "GetMaxOffset.queueId: 'x' is not a 32-bit integer"),
        ({"topic": "T", "queueId": "2147483648"}, "GetMaxOffset.queueId: '2147483648' is not"),
        ({"topic": "T", "queueId": "9" * 5000}, "GetMaxOffset.queueId: '9999"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, str], complaint: str) -> None:
    with pytest.raises(MalformedHeader) as caught:
        decode(GetMaxOffset, fields)

    assert str(caught.value).startswith(complaint)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63)])
def test_a_long_takes_64_bits(value: int) -> None:
    assert decode(OffsetReply, {"offset": str(value)}).offset == value


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_a_long_takes_no_more(value: int) -> None:
    with pytest.raises(MalformedHeader, match="64-bit"):
        decode(OffsetReply, {"offset": str(value)})


def test_a_hot_request_is_filled_field_by_field() -> None:
    """It is made without its __init__, so each attribute must be set all the same."""
    request = decode_request(11, {"consumerGroup": "g", "topic": "T", "queueId": "1",
                                  "queueOffset": "7", "maxMsgNums": "32"})  # fmt: skip

    assert request == PullMessage(
        consumer_group="g", topic="T", queue_id=1, queue_offset=7, max_msg_nums=32
    )


def test_a_request_knows_its_reply() -> None:
    assert reply_type(PullMessage) is PullReply
    assert reply_type(SendMessage) is SendReply
    assert reply_type(UnregisterClient) is None


def test_a_code_belongs_to_one_class() -> None:
    with pytest.raises(TypeError, match="code 30 is GetMaxOffset already, not Another"):

        @frozen(kw_only=True)
        class Another(Request[None]):
            code = RequestCode.GET_MAX_OFFSET


def test_a_request_says_what_answers_it() -> None:
    with pytest.raises(TypeError, match="does not say"):

        @frozen(kw_only=True)
        class Silent(Request):  # type: ignore[type-arg]
            code = RequestCode.QUERY_ASSIGNMENT


_VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(st.characters(codec="utf-8")),
    int: st.integers(-(2**63), 2**63 - 1),
    Int32: st.integers(-(2**31), 2**31 - 1),
    bool: st.booleans(),
}


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, Request[Any]]:
    one = draw(st.sampled_from([known for known in spellings() if known.code not in (320,)]))
    hints = get_type_hints(one.request, include_extras=True)
    values = {}
    for field in attrs.fields(one.request):
        kind, optional = schema.value_type(hints[field.name])
        values[field.name] = draw(_VALUES[kind] | st.none() if optional else _VALUES[kind])
    return one.code, one.request(**values)


@given(requests())
def test_every_declared_request_comes_back_equal(sent: tuple[int, Request[Any]]) -> None:
    code, request = sent

    assert decode_request(code, encode(request, code)) == request


def test_optional_loose_fields_may_be_there() -> None:
    fields = {
        "brokerName": "b",
        "brokerAddr": "10.0.0.1:10911",
        "clusterName": "c",
        "brokerId": "0",
        "__ZONE_NAME": "z",
        "nobodyKnowsThis": "1",
    }

    assert decode(RegisterBroker, fields).zone_name == "z"
