"""Routes: who answers what, and what the peer gets when nobody does."""

import json
import struct
from collections.abc import Sequence
from typing import Any

import pytest

from dledger_py.remoting.commands.json_bodies import MalformedBody
from dledger_py.remoting.commands.offsets import GetMaxOffset, GetMinOffset, OffsetReply
from dledger_py.remoting.commands.sending import (
    SendMessage,
    SendReply,
    render_send_reply,
    send_reply_template,
)
from dledger_py.remoting.rooms import (
    Answer,
    Caller,
    Later,
    Refused,
    Routes,
    handles,
    refusal,
    respond,
    routes,
)
from dledger_py.remoting.wire.codes import ResponseCode
from dledger_py.remoting.wire.frame import BINARY, Frame, Framer
from dledger_py.remoting.wire.schema import Request, decode, encode


class FakePort:
    """A connection that keeps the responses it was given."""

    id = 1
    remote = ("10.0.0.9", 54321)
    packed_remote = b"\x0a\x00\x00\x09\x00\x00\xd4\x31"
    local = ("10.0.0.1", 10911)

    def __init__(self) -> None:
        self.closed = False
        self.attributes: dict[str, Any] = {}
        self.data = b""
        self.settled_bytes: list[int] = []

    def respond(self, request_size: int, head: bytes, body: bytes) -> None:
        self.settled_bytes.append(request_size)
        self.data += head + body

    def respond_all(self, request_bytes: int, heads: Sequence[bytes]) -> None:
        raise NotImplementedError

    def request(self, request: Request[Any], body: bytes = b"", *, on_reply: Any = None) -> None:
        raise NotImplementedError

    def on_close(self, callback: Any) -> None:
        raise NotImplementedError

    @property
    def responses(self) -> list[Frame]:
        return Framer().feed(self.data)


class TopicGone(Refused):
    code = ResponseCode.TOPIC_NOT_EXIST


class Room:
    def __init__(self) -> None:
        self.waiting: list[Later[SendReply]] = []

    @handles(GetMaxOffset)
    def max_offset(self, request: GetMaxOffset, caller: Caller) -> Answer[OffsetReply]:
        if request.topic == "gone":
            raise TopicGone("topic gone does not exist")
        if request.topic == "bug":
            raise KeyError("bug")
        if request.topic == "bad":
            raise MalformedBody("body is not JSON")
        return Answer(OffsetReply(offset=request.queue_id), b"body")

    @handles(SendMessage)
    def send(self, request: SendMessage, caller: Caller) -> Later[SendReply]:
        later: Later[SendReply] = caller.later()
        self.waiting.append(later)
        return later


def request(topic: str = "T", **members: Any) -> Frame:
    fields = {"topic": topic, "queueId": "7"}
    values: dict[str, Any] = {"code": 30, "opaque": 5, "fields": fields, "size": 100}
    return Frame(**values | members)


def answered(frame: Frame, table: Routes | None = None) -> Frame:
    port = FakePort()
    assert (table or routes([Room()])).answer(port, frame) is None
    (response,) = port.responses
    assert response.opaque == frame.opaque
    assert port.settled_bytes == [frame.size]
    return response


def test_a_request_reaches_its_method() -> None:
    response = answered(request())

    assert (response.code, response.fields, response.body) == (0, {"offset": "7"}, b"body")


def test_every_value_of_an_answer_is_a_json_string() -> None:
    """Go drops the whole frame otherwise."""
    port = FakePort()
    reply = SendReply(msg_id="m", queue_id=1, queue_offset=2, trace_on=True)
    respond(port, request(), Answer(reply))
    (header_size,) = struct.unpack_from(">I", port.data, 4)

    assert json.loads(port.data[8 : 8 + header_size])["extFields"] == {
        "msgId": "m",
        "queueId": "1",
        "queueOffset": "2",
        "TRACE_ON": "true",
    }


def test_a_refusal_carries_its_code() -> None:
    response = answered(request("gone"))

    assert response.code == 17
    assert response.remark == "topic gone does not exist"


def test_a_malformed_body_is_a_system_error() -> None:
    assert answered(request("bad")).remark == "body is not JSON"


@pytest.mark.parametrize(
    "fields, remark",
    [
        ({"topic": "T"}, "GetMaxOffset.queueId: missing"),
        ({"topic": "T", "queueId": "x"}, "GetMaxOffset.queueId: 'x' is not a 32-bit integer"),
    ],
)
def test_a_bad_header_is_a_system_error_that_names_the_field(
    fields: dict[str, str], remark: str
) -> None:
    response = answered(request(fields=fields))

    assert (response.code, response.remark) == (1, remark)


def test_an_unknown_code_is_not_supported() -> None:
    response = answered(request(code=31415))

    assert (response.code, response.remark) == (3, " request type 31415 not supported")


def test_a_bug_is_answered_and_shown_to_the_server() -> None:
    port = FakePort()
    with pytest.raises(KeyError):
        routes([Room()]).answer(port, request("bug"))

    (response,) = port.responses
    assert (response.code, response.remark) == (1, "KeyError: 'bug'")


@pytest.mark.parametrize("topic, code", [("T", 30), ("gone", 30), ("bad", 30), ("T", 31415)])
def test_a_one_way_request_is_never_answered(topic: str, code: int) -> None:
    port = FakePort()
    routes([Room()]).answer(port, request(topic, code=code, flag=2))

    assert port.data == b""
    assert port.settled_bytes == [100]


SEND_FIELDS = {"a": "pg", "b": "T", "e": "0"}


@pytest.mark.parametrize("code", [310, 320])
def test_a_later_answer_comes_later(code: int) -> None:
    room, port = Room(), FakePort()
    frame = request(code=code, fields=SEND_FIELDS)
    routes([room]).answer(port, frame)
    assert port.data == b""

    room.waiting[0].answer(Answer(SendReply(msg_id="m", queue_id=0, queue_offset=9)))

    (response,) = port.responses
    assert (response.opaque, response.fields["queueOffset"]) == (5, "9")
    assert port.settled_bytes == [100]
    with pytest.raises(AssertionError, match="once"):
        room.waiting[0].refuse(TopicGone())


def test_a_later_refusal_carries_its_code() -> None:
    room, port = Room(), FakePort()
    routes([room]).answer(port, request(code=310, fields=SEND_FIELDS))
    room.waiting[0].refuse(Refused("not now", code=14))

    assert [(found.code, found.remark) for found in port.responses] == [(14, "not now")]


def test_a_later_answer_to_a_one_way_request_is_dropped() -> None:
    room, port = Room(), FakePort()
    routes([room]).answer(port, request(code=310, fields=SEND_FIELDS, flag=2))
    room.waiting[0].answer(Answer(SendReply(msg_id="m", queue_id=0, queue_offset=9)))

    assert port.data == b""
    assert port.settled_bytes == [100]


def test_a_later_answer_speaks_the_requests_serialisation() -> None:
    room, port = Room(), FakePort()
    frame = request(code=310, fields=SEND_FIELDS, serialization=BINARY)
    routes([room]).answer(port, frame)
    room.waiting[0].answer(Answer(SendReply(msg_id="m", queue_id=0, queue_offset=9)))

    assert port.data[4] == 1
    assert port.responses[0].fields == {"msgId": "m", "queueId": "0", "queueOffset": "9"}


@pytest.mark.parametrize("region", ["DefaultRegion", '100% "best" %d\x01'])
def test_a_rendered_answer_is_the_same_as_a_header(region: str) -> None:
    template = send_reply_template(region, True)
    rendered = render_send_reply(template, b"0A", 3, 2**40, 'uniq"\x01%')
    header = SendReply(
        msg_id="0A",
        queue_id=3,
        queue_offset=2**40,
        transaction_id='uniq"\x01%',
        msg_region=region,
        trace_on=True,
    )

    assert json.loads(rendered) == encode(header)
    for serialization in (0, BINARY):
        port = FakePort()
        respond(port, request(serialization=serialization), Answer(rendered=rendered))
        assert decode(SendReply, port.responses[0].fields) == header


def test_two_methods_for_one_request_are_refused() -> None:
    with pytest.raises(TypeError, match="handled twice"):
        routes([Room(), Room()])


def test_a_required_request_must_be_handled() -> None:
    with pytest.raises(TypeError, match="nobody handles GetMinOffset"):
        routes([Room()], required=[GetMinOffset, SendMessage])


def test_a_method_takes_the_request_it_handles() -> None:
    with pytest.raises(TypeError, match="handles GetMinOffset, takes"):

        @handles(GetMinOffset)
        def wrong(self: Any, request: GetMaxOffset, caller: Caller) -> Answer[OffsetReply]:
            raise NotImplementedError


def test_an_exception_that_is_no_refusal_names_its_class() -> None:
    assert refusal(ValueError("x")).remark == "ValueError: x"
    assert refusal(ValueError("x")).code == 1
