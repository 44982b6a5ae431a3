"""Framing: the published vectors, every way of cutting them, and what is no frame at all."""

import struct

import pytest

from dledger_py.remoting.wire.frame import (
    BINARY,
    FRAME_SIZE_MAX,
    JSON,
    Frame,
    FrameError,
    Framer,
    encode_frame,
    encode_request,
    encode_response,
)

ROUTE_JSON = bytes.fromhex("0000008700000083") + (
    b'{"code":105,"extFields":{"topic":"TopicTest"},"flag":0,"language":"JAVA","opaque":1,'
    b'"serializeTypeCurrentRPC":"JSON","version":479}'
)
ROUTE_BINARY = bytes.fromhex(
    "0000002d 01000029 0069 00 01df 00000001 00000000 00000000 00000014"
    "0005 746f706963 00000009 546f70696354657374"
)
NO_ROUTE_REMARK = "No topic route info in name server for the topic: TopicTest"
NO_ROUTE_BINARY = (
    bytes.fromhex("00000054 01000050 0011 00 01df 00000001 00000001 0000003b")
    + NO_ROUTE_REMARK.encode()
    + bytes(4)
)
SEND_V2_BINARY = bytes.fromhex(
    "000000c6 010000bd 0136 00 01df 00000002 00000000 00000000 000000a8"
    "0001 61 00000002 7067              0001 62 00000009 546f70696354657374"
    "0001 63 00000006 544257313032      0001 64 00000001 34"
    "0001 65 00000001 32                0001 66 00000001 30"
    "0001 67 0000000d 31373030303030303030303030"
    "0001 68 00000001 30                0001 69 00000014 54414753 01 54616741 02 57414954 01"
    "74727565 02 0001 6a 00000001 30    0001 6b 00000005 66616c7365"
    "0001 6d 00000005 66616c7365        0005 626e616d65 00000008 62726f6b65722d61"
    "68656c6c6f"
)
SEND_V2_FIELDS = {
    "a": "pg",
    "b": "TopicTest",
    "c": "TBW102",
    "d": "4",
    "e": "2",
    "f": "0",
    "g": "1700000000000",
    "h": "0",
    "i": "TAGS\x01TagA\x02WAIT\x01true\x02",
    "j": "0",
    "k": "false",
    "m": "false",
    "bname": "broker-a",
}


def described(data: bytes, **members: object) -> Frame:
    """The frame these bytes should be read as."""
    return Frame(**{"version": 479, "size": len(data)} | members)  # type: ignore[arg-type]


VECTORS = {
    "route_json": (
        ROUTE_JSON,
        described(ROUTE_JSON, code=105, opaque=1, fields={"topic": "TopicTest"}),
    ),
    "route_binary": (
        ROUTE_BINARY,
        described(
            ROUTE_BINARY, code=105, opaque=1, fields={"topic": "TopicTest"}, serialization=BINARY
        ),
    ),
    "no_route_binary": (
        NO_ROUTE_BINARY,
        described(
            NO_ROUTE_BINARY,
            code=17,
            opaque=1,
            flag=1,
            remark=NO_ROUTE_REMARK,
            serialization=BINARY,
        ),
    ),
    "send_v2_binary": (
        SEND_V2_BINARY,
        described(
            SEND_V2_BINARY,
            code=310,
            opaque=2,
            fields=SEND_V2_FIELDS,
            body=b"hello",
            serialization=BINARY,
        ),
    ),
}
ALL_DATA = b"".join(data for data, _ in VECTORS.values())
ALL_FRAMES = [frame for _, frame in VECTORS.values()]

vectors = pytest.mark.parametrize("data, frame", VECTORS.values(), ids=VECTORS)


@vectors
def test_a_published_frame_is_read_and_written_back(data: bytes, frame: Frame) -> None:
    assert Framer().feed(data) == [frame]
    assert encode_frame(frame) == data


@vectors
def test_a_frame_may_arrive_byte_by_byte(data: bytes, frame: Frame) -> None:
    framer = Framer()
    frames = [found for at in range(len(data)) for found in framer.feed(data[at : at + 1])]

    assert frames == [frame]
    assert framer.pending_bytes == 0


@vectors
def test_the_beginning_of_the_next_frame_is_kept(data: bytes, frame: Frame) -> None:
    framer = Framer()

    assert framer.feed(data + data[:11]) == [frame]
    assert framer.pending_bytes == 11
    assert framer.feed(data[11:]) == [frame]
    assert framer.pending_bytes == 0


@pytest.mark.parametrize("step", [1, 2, 3, 7, 8, 9, 64, 139, 140, 1000])
def test_many_frames_may_be_cut_anywhere(step: int) -> None:
    framer = Framer()
    found = []
    for at in range(0, len(ALL_DATA), step):
        found += framer.feed(ALL_DATA[at : at + step])

    assert found == ALL_FRAMES


def test_the_receive_buffer_may_be_reused_at_once() -> None:
    framer = Framer()
    buffer = bytearray(ALL_DATA[:-3])
    with memoryview(buffer) as view:
        frames = framer.feed(view)
    buffer[:] = b"\xff" * len(buffer)

    assert frames + framer.feed(ALL_DATA[-3:]) == ALL_FRAMES


HEADER = ROUTE_JSON[8:]


def framed(header: bytes, *, kind: int = JSON) -> bytes:
    return struct.pack(">II", 4 + len(header), kind << 24 | len(header)) + header


@pytest.mark.parametrize(
    "data, reason",
    [
        (struct.pack(">II", 2**31 - 1, 8), "at most 16777216"),
        (struct.pack(">II", 2**32 - 1, 8), "at most 16777216"),  # a negative length
        (struct.pack(">II", FRAME_SIZE_MAX - 3, 8), "frame of 16777217 bytes"),
        (struct.pack(">II", 0, 0), "header of 0 bytes in a frame of 0"),
        (struct.pack(">II", 100, 97), "header of 97 bytes in a frame of 100"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "TLS"),
        (b"PROXY TCP4 10.0.0.1", "PROXY protocol"),
        (b"GET / HTTP/1.1\r\n\r\n", "at most"),
        (framed(HEADER, kind=2), "serialisation 2"),
        (framed(HEADER[:-1]), "not JSON"),
        (framed(b""), "not JSON"),
        (framed(b"[]"), "not an object"),
        (framed(b"\xff" + HEADER), "not JSON"),
        (framed(b'{"remark":"\xff"}'), "not JSON"),
        (framed(b'{"remark":"\\ud800"}'), "not JSON"),
        (framed(b'{"x":' + b"[" * 50_000), "not JSON"),
        (framed(b'{"code":null,"x":' + b"[" * 50_000), "not JSON"),
        (framed(b'{"opaque":2147483648}'), "member opaque is '2147483648'"),
        (framed(b'{"code":true}'), "member code"),
        (framed(b'{"code":1.5}'), "member code"),
        (framed(b'{"extFields":[]}'), "extFields"),
        (framed(b"", kind=BINARY), "binary header"),
        (framed(ROUTE_BINARY[8:-1], kind=BINARY), "binary header"),
        (framed(ROUTE_BINARY[8:21] + b"\xff\xff\xff\xff" + bytes(4), kind=BINARY), "-1 bytes"),
        (framed(ROUTE_BINARY[8:25] + b"\x7f\xff\xff\xff" + bytes(4), kind=BINARY), "binary"),
        (framed(ROUTE_BINARY[8:29] + b"\xff\xfftopic" + bytes(13), kind=BINARY), "-1 bytes"),
    ],
)
def test_what_is_no_frame_is_refused_after_those_before_it(data: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason) as caught:
        Framer().feed(ROUTE_JSON + data)

    assert caught.value.frames == [VECTORS["route_json"][1]]


def test_a_length_prefix_alone_allocates_nothing() -> None:
    framer = Framer()

    assert framer.feed(struct.pack(">II", FRAME_SIZE_MAX - 4, 8)) == []
    assert framer.pending_bytes == 8


def test_the_largest_frame_allowed_is_read() -> None:
    body = bytes(FRAME_SIZE_MAX - 8 - len(HEADER))
    data = struct.pack(">II", FRAME_SIZE_MAX - 4, len(HEADER)) + HEADER + body
    framer = Framer()
    found = []
    for at in range(0, len(data), 1 << 20):
        found += framer.feed(data[at : at + (1 << 20)])

    assert [len(frame.body) for frame in found] == [len(body)]


def test_a_response_speaks_the_language_of_its_request() -> None:
    for data, request in VECTORS.values():
        answer = encode_response(request, 17, {"a": "1", "b": 'x"\x01'}, b"body", "why")
        (response,) = Framer().feed(answer)

        assert answer[4] == data[4]
        assert response.serialization == request.serialization
        assert response.opaque == request.opaque
        assert response.flag == 1
        assert (response.code, response.remark) == (17, "why")
        assert response.fields == {"a": "1", "b": 'x"\x01'}
        assert response.body == b"body"
        assert response.language == "PYTHON"


def test_a_json_response_has_javas_member_order_and_no_white_space() -> None:
    answer = encode_response(VECTORS["route_json"][1], 0, {"queueId": "3"})

    assert answer[8:] == (
        b'{"code":0,"extFields":{"queueId":"3"},"flag":1,"language":"PYTHON","opaque":1,'
        b'"serializeTypeCurrentRPC":"JSON","version":479}'
    )


def test_a_request_of_ours_may_be_one_way() -> None:
    (frame,) = Framer().feed(encode_request(40, 7, {"consumerGroup": "g"}, one_way=True))

    assert frame.is_one_way
    assert not frame.is_response
    assert (frame.code, frame.opaque, frame.fields) == (40, 7, {"consumerGroup": "g"})
