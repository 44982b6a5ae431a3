"""JSON bodies read and written by the attrs classes that describe them.

    @frozen(kw_only=True)
    class TopicList:
        topic_list: tuple[str, ...] = ()
        broker_addr: str | None = None

    decode_body(TopicList, b'{"topicList":["T"]}')

Writing is compact: no white space (Go cuts broker addresses out of the text), members in
alphabetical order as Java's, None left out, map keys quoted. It is strict but for maps keyed by
message queues: those keys are objects as they are (fastjson), since Java's clients from 5.5.0 on
and Go's take no quoted ones.

Reading takes all dialects: unknown members are ignored; null and missing are the default; numbers
as strings and strings as numbers; enum members by name or ordinal; bare numeric map keys and
objects as map keys (fastjson). What is missing without a default raises `MalformedBody`. What is no
JSON is looked at token by token: bodies of requests only up to `DIALECT_BYTES_MAX`.
"""

import re
from collections.abc import Callable, Mapping
from enum import IntEnum
from types import UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
from msgspec import DecodeError, Raw
from msgspec.json import Decoder
from msgspec.json import encode as json_encode

from dledger_py.remoting.wire.headers_json import text as java_text
from dledger_py.remoting.wire.schema import Int32, Malformed, wire_name

BodyT = TypeVar("BodyT")

_decode_json: Final = Decoder().decode

DIALECT_BYTES_MAX: Final = 1 << 20
"""Of a body in fastjson's dialect. It takes 0.4 s; tools, which wait for one answer at a time, read
more."""


class MalformedBody(Malformed):
    """The body is not JSON, or lacks a member; the request was refused."""


def encode_body(body: object) -> bytes:
    """The JSON text of an attrs record."""
    return json_encode(_writer(type(body))(body))


def decode_body(
    body_type: type[BodyT], body: bytes, *, dialect_bytes_max: int = DIALECT_BYTES_MAX
) -> BodyT:
    """`body` read as `body_type`. Raises: MalformedBody naming class and member."""
    result: BodyT = _reader(body_type)(parse(body, dialect_bytes_max), body_type.__name__)
    return result


def parse(body: bytes, dialect_bytes_max: int = DIALECT_BYTES_MAX) -> Any:
    """JSON in any dialect as plain values. Raises: MalformedBody."""
    try:
        try:
            return _decode_json(body)
        except DecodeError:
            if len(body) > dialect_bytes_max:
                raise
            return _decode_json(strict(body))
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBody(f"body is not JSON: {error}") from error


# --- writing -------------------------------------------------------------------------------------


_Writer = Callable[[Any], dict[str, Any]]

_WRITERS: dict[type, _Writer] = {}


def plain(value: Any) -> Any:
    """`value` as JSON knows it; a map keyed by records, which JSON does not know, as its text."""
    if value is None or isinstance(value, str | bool | float):
        return value
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        if attrs.has(type(next(iter(value), None))):
            return _map_of_records(value)
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list | frozenset | set):
        return [plain(item) for item in value]
    return _writer(type(value))(value)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else str(int(key))


def _map_of_records(value: Mapping[Any, Any]) -> Raw:
    items = (encode_body(key) + b":" + json_encode(plain(item)) for key, item in value.items())
    return Raw(b"{" + b",".join(items) + b"}")


def _writer(body_type: type) -> _Writer:
    """The writer of a class, made once."""
    writer = _WRITERS.get(body_type)
    if writer is None:
        writer = _WRITERS[body_type] = _make_writer(body_type)
    return writer


def _make_writer(body_type: type) -> _Writer:
    names = sorted((wire_name(field), field.name) for field in attrs.fields(body_type))

    def write(body: Any) -> dict[str, Any]:
        members = ((name, getattr(body, attribute)) for name, attribute in names)
        return {name: plain(value) for name, value in members if value is not None}

    return write


# --- reading -------------------------------------------------------------------------------------

_Reader = Callable[[Any, str], Any]  # value, where it stands

_READERS: dict[Any, _Reader] = {}


def _reader(kind: Any) -> _Reader:
    """The reader of a class or annotation, made once."""
    reader = _READERS.get(kind)
    if reader is None:
        reader = _READERS[kind] = _make_reader(kind)
    return reader


def _make_reader(kind: Any) -> _Reader:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        (inner,) = (member for member in get_args(kind) if member is not type(None))
        return _reader(inner)
    if origin is tuple:
        return _array_reader(get_args(kind)[0])
    if origin in (Mapping, dict) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _map_reader(*get_args(kind))
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        return _enum_reader(kind)
    return _record_reader(kind)


def _record_reader(kind: type) -> _Reader:
    hints = get_type_hints(kind, include_extras=True)
    fields = [
        (field.name, wire_name(field), field.default is attrs.NOTHING, _reader(hints[field.name]))
        for field in attrs.fields(kind)
    ]

    def read(value: Any, where: str) -> Any:
        members = _object(value, where)
        arguments = {}
        for attribute, name, required, read_member in fields:
            member = members.get(name)
            if member is not None:
                arguments[attribute] = read_member(member, f"{where}.{name}")
            elif required:
                raise MalformedBody(f"{where}.{name}: missing")
        return kind(**arguments)

    return read


def _array_reader(kind: Any) -> _Reader:
    read_item = _reader(kind)

    def read(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise MalformedBody(f"{where}: an array is expected")
        return tuple([read_item(item, where) for item in value if item is not None])

    return read


def _map_reader(key_kind: Any, value_kind: Any) -> _Reader:
    read_value = _reader(value_kind)
    read_key = _reader(key_kind)

    def read(value: Any, where: str) -> dict[Any, Any]:
        return {
            read_key(key, where): read_value(item, f"{where}[{key[:60]}]")
            for key, item in _object(value, where).items()
            if item is not None
        }

    return read


def _enum_reader(kind: type[IntEnum]) -> _Reader:
    def read(value: Any, where: str) -> IntEnum:
        try:
            if isinstance(value, str) and not value.isdecimal():
                return kind[value]
            return kind(int(value))
        except (KeyError, ValueError, TypeError) as error:
            raise MalformedBody(f"{where}: {value!r:.40} is no {kind.__name__}") from error

    return read


def _object(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, str) and value.startswith("{"):
        value = parse(value.encode())  # a message queue as map key, in quotes
    if not isinstance(value, dict):
        raise MalformedBody(f"{where}: an object is expected")
    return value


def _read_int32(value: Any, where: str) -> int:
    number = _read_int(value, where)
    if not -(2**31) <= number < 2**31:
        raise MalformedBody(f"{where}: {number} does not fit into 32 bits")
    return number


def _read_int(value: Any, where: str) -> int:
    if isinstance(value, int):
        number = int(value)
    else:
        try:
            number = int(value) if isinstance(value, str) and len(value) <= 20 else int("")
        except ValueError as error:
            raise MalformedBody(f"{where}: {value!r:.40} is not an integer") from error
    if not -(2**63) <= number < 2**63:
        raise MalformedBody(f"{where}: {number} does not fit into 64 bits")
    return number


def _read_float(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise MalformedBody(f"{where}: {value!r:.40} is not a number") from error


def _read_text(value: Any, where: str) -> str:
    return java_text(value)


def _read_bool(value: Any, where: str) -> bool:
    return java_text(value).lower() == "true"


def _read_any(value: Any, where: str) -> Any:
    return value


_SIMPLE: Final[dict[Any, _Reader]] = {
    str: _read_text,
    int: _read_int,
    Int32: _read_int32,
    float: _read_float,
    bool: _read_bool,
    Any: _read_any,
    object: _read_any,  # what we keep as it is and never look into
}


# --- fastjson's map keys -------------------------------------------------------------------------

# A string that does not end is one token to the end all the same: were it none, each quote in it
# would be looked behind once more.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)


def strict(body: bytes) -> bytes:
    """Map keys quoted that fastjson leaves bare: `{0:…}` and `{{"queueId":0}:…}`.

    Anything else that is not JSON is passed through for the parser to refuse. **Raises**
    MalformedBody for an object that is a key within a key: nobody writes that, and quoting what is
    quoted already would double it each time.
    """
    out: list[str] = []
    open_braces: list[tuple[str, int]] = []  # bracket, where its text begins in `out`
    key_next = within_key = False
    for token in _TOKEN.findall(body.decode(errors="replace")):
        if token in ("{", "["):
            # An object where a key belongs: remember where it began, quote it when it ends.
            if key_next and within_key:
                raise MalformedBody("body is not JSON: an object is a key within a key")
            within_key = within_key or key_next
            open_braces.append(("key" if key_next else token, len(out)))
            out.append(token)
            key_next = token == "{"
        elif token in ("}", "]"):
            out.append(token)
            kind, start = open_braces.pop() if open_braces else ("", 0)
            if kind == "key":
                out[start:] = [json_encode("".join(out[start:])).decode()]
                within_key = False
            key_next = False
        elif token == ",":
            out.append(token)
            key_next = bool(open_braces) and open_braces[-1][0] != "["
        else:
            bare_key = key_next and token != ":" and not token.startswith('"')
            out.append(f'"{token}"' if bare_key else token)
            key_next = False
    return "".join(out).encode()
