"""Frames: length, serialisation, header, body. Whole, byte by byte, or many at once.

Layout (big endian): u32 length of all that follows · u8 serialisation · u24 header length ·
header · body. Source: RemotingCommand, NettyDecoder, RocketMQSerializable.

Laws
- `Framer.feed` copies what it keeps: the caller may reuse its receive buffer at once.
- Memory is bounded by what was really received plus one frame; a length prefix allocates nothing.
- The header a peer sees is strict JSON with every extFields value a *string* (Go's reader drops
  the whole frame otherwise), in Java's member order.
- A peer that wrote a JSON header is never sent a binary one (C++ and ali-ons cannot read it).

The typed view of `Frame.fields` is `schema`; the JSON dialects of old clients are `headers_json`,
the binary header is `headers_binary`.
"""

from collections.abc import Callable
from struct import Struct as Layout
from typing import Final

from msgspec.json import encode as json_encode

from dledger_py.remoting.wire import headers_binary, headers_json
from dledger_py.remoting.wire.codes import OUR_VERSION
from dledger_py.remoting.wire.headers import BINARY, JSON, Frame, FrameError

__all__ = [
    "BINARY",
    "FRAME_SIZE_MAX",
    "JSON",
    "ONE_WAY",
    "RESPONSE",
    "Frame",
    "FrameError",
    "Framer",
    "encode_frame",
    "encode_head",
    "encode_request",
    "encode_response",
    "head_renderer",
    "render_fields",
    "request_renderer",
]

# The whole frame, its four length bytes included; Java refuses more on both sides
# (com.rocketmq.remoting.frameMaxLength).
FRAME_SIZE_MAX: Final = 16 * 1024 * 1024

RESPONSE: Final = 1  # flag bit 0
ONE_WAY: Final = 2  # flag bit 1: no answer wanted, not even an error

_PREFIX = Layout(">II")
_TLS_HANDSHAKE = 0x16


class Framer:
    """Turns what a connection received into frames; keeps the incomplete rest.

    While the rest of a big frame arrives, pieces are appended, and looked at again only when enough
    bytes are there.
    """

    __slots__ = ("_needed", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = 8

    @property
    def pending_bytes(self) -> int:
        """Bytes of the incomplete frame held back."""
        return len(self._rest)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """All frames that are complete with `data`.

        Raises: FrameError for bytes that are no frame; its `frames` are those complete before
        them. The connection is of no use afterwards.
        """
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._needed:
                return []
            whole = bytes(rest)
            rest.clear()
        else:
            whole = bytes(data)
        frames: list[Frame] = []
        used = self._parse(whole, frames)
        if used < len(whole):
            rest += whole[used:] if used else whole
        return frames

    def _parse(self, data: bytes, frames: list[Frame]) -> int:
        """Append the complete frames in `data`; return how many bytes they took.

        Slices of bytes are cheaper than those of a memoryview, the one copy up front included.
        """
        at = 0
        end = len(data)
        unpack = _PREFIX.unpack_from
        decode_json = headers_json.decode
        while end - at >= 8:
            length, second = unpack(data, at)
            if length > FRAME_SIZE_MAX - 4 or (second & 0xFFFFFF) + 4 > length:
                raise FrameError(_why_not(length, second & 0xFFFFFF), frames)
            stop = at + 4 + length
            if stop > end:
                self._needed = stop - at
                return at
            try:
                if second <= 0xFFFFFF:
                    body = at + 8 + second
                    frame = decode_json(data[at + 8 : body])
                    frame.serialization = JSON
                elif second >> 24 == BINARY:
                    body = at + 8 + (second & 0xFFFFFF)
                    frame = headers_binary.decode(memoryview(data)[at + 8 : body])
                    frame.serialization = BINARY
                else:
                    raise FrameError(f"header serialisation {second >> 24}: only 0 and 1 exist")
            except FrameError as error:
                error.frames = frames
                raise
            frame.size = length + 4
            frame.body = data[body:stop]
            frames.append(frame)
            at = stop
        self._needed = 8
        return at


def _why_not(length: int, header_size: int) -> str:
    if length > FRAME_SIZE_MAX - 4:
        if length >> 24 == _TLS_HANDSHAKE:
            return "a TLS handshake, and TLS is not served here"
        if length == 0x50524F58:  # "PROX"
            return "a PROXY protocol header, which is not served here"
        return f"frame of {length + 4} bytes: at most {FRAME_SIZE_MAX} are allowed"
    return f"header of {header_size} bytes in a frame of {length} bytes after its length"


# Members in Java's order (alphabetical). The language is our own: LanguageCode.PYTHON.
_TAIL = b'"language":"PYTHON","opaque":%%d,%b"serializeTypeCurrentRPC":"JSON","version":%d}'
_PLAIN_TAIL = _TAIL % (b"", OUR_VERSION)
_REMARK_TAIL = _TAIL % (b'"remark":%b,', OUR_VERSION)
_HEAD = b'{"code":%d,"flag":%d,' + _PLAIN_TAIL
_HEAD_FIELDS = b'{"code":%d,"extFields":%b,"flag":%d,' + _PLAIN_TAIL
_HEAD_REMARK = b'{"code":%d,"flag":%d,' + _REMARK_TAIL
_HEAD_FIELDS_REMARK = b'{"code":%d,"extFields":%b,"flag":%d,' + _REMARK_TAIL


def render_fields(fields: dict[str, str]) -> bytes:
    """`fields` as the JSON object that `encode_head` takes; b"" when there are none."""
    return json_encode(fields) if fields else b""


def encode_head(
    code: int,
    flag: int,
    opaque: int,
    fields: bytes,
    remark: str | None,
    body_size: int,
    serialization: int = JSON,
) -> bytes:
    """Everything of a frame before its body, of which only the size is needed.

    `fields` is a rendered JSON object (or b""): the hot answers render it from a template and
    never build a dictionary. A binary peer pays for the detour.
    """
    if serialization == BINARY:
        header = headers_binary.encode(code, flag, opaque, fields, remark)
        size = len(header)
        return _PREFIX.pack(size + body_size + 4, BINARY << 24 | size) + header
    if fields:
        if remark is None:
            header = _HEAD_FIELDS % (code, fields, flag, opaque)
        else:
            header = _HEAD_FIELDS_REMARK % (code, fields, flag, opaque, json_encode(remark))
    elif remark is None:
        header = _HEAD % (code, flag, opaque)
    else:
        header = _HEAD_REMARK % (code, flag, opaque, json_encode(remark))
    size = len(header)
    return _PREFIX.pack(size + body_size + 4, size) + header


def head_renderer(fields: bytes) -> Callable[..., bytes]:
    """What `encode_head` makes of answers that succeed and have no body, for fields that are one
    %-template: a function of the template's values (text as str) and the request's opaque."""
    whole = _head_template(0, RESPONSE, fields).decode()
    prefix = _PREFIX.pack

    def render(*values: object) -> bytes:
        header = (whole % values).encode()
        size = len(header)
        return prefix(size + 4, size) + header

    return render


def request_renderer(code: int, flag: int, fields: bytes) -> Callable[..., bytes]:
    """What `encode_head` makes of requests whose fields are one %-template: a function of the
    body's size, the template's values (text as bytes) and the opaque."""
    whole = _head_template(code, flag, fields)
    prefix = _PREFIX.pack

    def render(body_size: int, *values: object) -> bytes:
        header = whole % values
        size = len(header)
        return prefix(size + body_size + 4, size) + header

    return render


def _head_template(code: int, flag: int, fields: bytes) -> bytes:
    """A header as a %-template: the values of `fields`, then the opaque."""
    before, _, after = (_HEAD_FIELDS % (code, b"\0", flag, 0)).partition(b"\0")
    after = after.replace(b"%", b"%%").replace(b'"opaque":0', b'"opaque":%d')
    return before.replace(b"%", b"%%") + fields + after


def encode_request(
    code: int,
    opaque: int,
    fields: dict[str, str] | None = None,
    body: bytes = b"",
    *,
    one_way: bool = False,
    serialization: int = JSON,
) -> bytes:
    """One whole request. Requests *we* start with opaque 1: ali-ons takes 0 for "absent"."""
    flag = ONE_WAY if one_way else 0
    rendered = render_fields(fields) if fields else b""
    return encode_head(code, flag, opaque, rendered, None, len(body), serialization) + body


def encode_response(
    to: Frame,
    code: int,
    fields: dict[str, str] | None = None,
    body: bytes = b"",
    remark: str | None = None,
) -> bytes:
    """One whole response to the request `to`, in the serialisation it used."""
    rendered = render_fields(fields) if fields else b""
    head = encode_head(code, RESPONSE, to.opaque, rendered, remark, len(body), to.serialization)
    return head + body


def encode_frame(frame: Frame) -> bytes:
    """`frame` as it is, with its own version and language: what a relay or a test sends."""
    encode = headers_binary.encode_frame if frame.serialization == BINARY else headers_json.encode
    header = encode(frame)
    size = len(header)
    prefix = _PREFIX.pack(size + len(frame.body) + 4, frame.serialization << 24 | size)
    return b"".join((prefix, header, frame.body))
