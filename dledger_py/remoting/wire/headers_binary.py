"""The binary ("ROCKETMQ") header: 21 fixed bytes, a remark, a map of strings.

Source: RocketMQSerializable. Codes travel in 16 bits, so those of the pop family arrive
truncated and are mapped back (`TRUNCATED_CODES`); Java leaves them broken. An empty string does not
survive: Java writes no such entry and reads zero lengths as null, and so do we.
"""

from collections.abc import Iterator
from struct import Struct as Layout
from struct import error as StructError

from msgspec.json import decode as json_decode

from dledger_py.remoting.wire.codes import OUR_VERSION, TRUNCATED_CODES, LanguageCode
from dledger_py.remoting.wire.headers import BINARY, Frame, FrameError

_FIXED = Layout(">hBhiii")  # code, language, version, opaque, flag, remark length
_LENGTH = Layout(">i")
_KEY_LENGTH = Layout(">h")
_LANGUAGES = {code.value: code.name for code in LanguageCode}
_NUMBERS = {code.name: code.value for code in LanguageCode}
_OTHER = LanguageCode.OTHER

assert _FIXED.size + _LENGTH.size == 21


def decode(header: memoryview) -> Frame:
    """The frame a binary header describes, without its body. Raises: FrameError."""
    try:
        code, language, version, opaque, flag, remark_size = _FIXED.unpack_from(header)
        at = _FIXED.size
        remark = str(_slice(header, at, remark_size), "utf-8") if remark_size else None
        at += remark_size
        (ext_size,) = _LENGTH.unpack_from(header, at)
        ext = _slice(header, at + 4, ext_size)
        fields = dict(_entries(ext))
    except (StructError, UnicodeDecodeError) as error:
        raise FrameError(f"binary header: {error}") from error
    if not flag & 1:
        code = TRUNCATED_CODES.get(code, code)
    return Frame(code, flag, opaque, version, _LANGUAGES.get(language, "OTHER"), remark, fields)


def encode(code: int, flag: int, opaque: int, fields: bytes, remark: str | None) -> bytes:
    """A header of ours; `fields` is a rendered JSON object, as the JSON templates take it."""
    entries: dict[str, str] = json_decode(fields, type=dict[str, str]) if fields else {}
    return _encode(code, LanguageCode.PYTHON, OUR_VERSION, opaque, flag, remark, entries)


def encode_frame(frame: Frame) -> bytes:
    """The header of `frame` with its own language and version."""
    language = _NUMBERS.get(frame.language, _OTHER)
    return _encode(
        frame.code, language, frame.version, frame.opaque, frame.flag, frame.remark, frame.fields
    )


def _encode(
    code: int,
    language: int,
    version: int,
    opaque: int,
    flag: int,
    remark: str | None,
    fields: dict[str, str],
) -> bytes:
    said = remark.encode() if remark else b""
    parts: list[bytes] = []
    for key, value in fields.items():
        if key and value:
            name, content = key.encode(), value.encode()
            parts += (_KEY_LENGTH.pack(len(name)), name, _LENGTH.pack(len(content)), content)
    ext = b"".join(parts)
    fixed = _FIXED.pack(_int16(code), language, _int16(version), opaque, flag, len(said))
    return b"".join((fixed, said, _LENGTH.pack(len(ext)), ext))


def _int16(value: int) -> int:
    """The low 16 bits as a signed number, as Java's cast to short does."""
    return (value & 0xFFFF) - ((value & 0x8000) << 1)


def _slice(header: memoryview, at: int, size: int) -> memoryview:
    if size < 0 or at + size > len(header):
        raise FrameError(f"binary header: {size} bytes at {at}, but it ends at {len(header)}")
    return header[at : at + size]


def _entries(ext: memoryview) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(ext):
        (key_size,) = _KEY_LENGTH.unpack_from(ext, at)
        key = _slice(ext, at + 2, key_size)
        at += 2 + key_size
        (value_size,) = _LENGTH.unpack_from(ext, at)
        value = _slice(ext, at + 4, value_size)
        at += 4 + value_size
        if key_size and value_size:
            yield str(key, "utf-8"), str(value, "utf-8")


assert BINARY == 1
