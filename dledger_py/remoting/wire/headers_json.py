"""The JSON header: one strict fast path, one tolerant slow path.

The fast path decodes straight into `Frame` and fails on any dialect; then the tolerant path
reads the same bytes untyped. Dialects it serves: raw numbers and booleans in extFields (ali-ons,
some of C++), null members (Go's empty header), language as a number, numbers as strings.
Source: RemotingCommand.decode on fastjson, which accepts all of these.
"""

from contextlib import suppress
from typing import Any, Final

from msgspec import DecodeError, ValidationError
from msgspec.json import Decoder
from msgspec.json import encode as json_encode

from dledger_py.remoting.wire.codes import LanguageCode
from dledger_py.remoting.wire.headers import Frame, FrameError

_decode_strict: Final = Decoder(Frame).decode
_decode_untyped: Final = Decoder().decode


def decode(header: bytes | memoryview) -> Frame:
    """The frame a JSON header describes, without its body.

    Raises: FrameError for what is not a JSON object, or numbers beyond 32 bits.
    """
    try:
        return _decode_strict(header)
    except ValidationError:
        return _decode_dialect(header)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"header is not JSON: {error}") from error


def encode(frame: Frame) -> bytes:
    """The header of `frame`, members in Java's order, absent ones left out."""
    members: dict[str, Any] = {"code": frame.code}
    if frame.fields:
        members["extFields"] = frame.fields
    members |= {"flag": frame.flag, "language": frame.language, "opaque": frame.opaque}
    if frame.remark is not None:
        members["remark"] = frame.remark
    return json_encode(members | {"serializeTypeCurrentRPC": "JSON", "version": frame.version})


def _decode_dialect(header: bytes | memoryview) -> Frame:
    try:
        members = _decode_untyped(header)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"header is not JSON: {error}") from error
    if not isinstance(members, dict):
        raise FrameError(f"header is a JSON {type(members).__name__}, not an object")
    return Frame(
        code=_int32(members, "code"),
        flag=_int32(members, "flag"),
        opaque=_int32(members, "opaque"),
        version=_int32(members, "version"),
        language=_language(members.get("language")),
        remark=None if members.get("remark") is None else text(members["remark"]),
        fields=_fields(members.get("extFields")),
    )


def _int32(members: dict[str, Any], name: str) -> int:
    value = members.get(name)
    if value is None:
        return 0
    if isinstance(value, str) and len(value) <= 11:
        with suppress(ValueError):
            value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31:
        return value
    raise FrameError(f"header member {name} is {str(value)[:40]!r}: a 32-bit integer is expected")


def _language(value: Any) -> str:
    """Unknown languages are no failure, in Java neither."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and 0 <= value < len(LanguageCode):
        return LanguageCode(value).name
    return LanguageCode.OTHER.name


def _fields(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FrameError(f"header member extFields is a JSON {type(value).__name__}, not an object")
    return {key: text(item) for key, item in value.items() if item is not None}


def text(value: Any) -> str:
    """A JSON value in Java's textual form: decimal integers, `true` and `false` in lower case."""
    if isinstance(value, str):
        return value
    if value is True:
        return "true"
    if value is False:
        return "false"
    return json_encode(value).decode()
