"""Headers declared once: an attrs class per request and reply, with its reader and its writer.

    @frozen(kw_only=True)
    class QueryOffset(Request[OffsetReply]):
        code: ClassVar = RequestCode.QUERY_CONSUMER_OFFSET
        consumer_group: str
        queue_id: Int32
        set_zero_if_not_found: bool = True

Laws
- Wire names are derived (`queue_id` → `queueId`); exceptions sit in the field: `wire("clientID")`.
- A field without a default must be there; a missing or unreadable one raises `MalformedHeader`,
  which names class and field. Values are strings on the wire, whatever their type here.
- One code, one class: a second class for a code fails at import. `spelled` adds a further code to
  a class, with other names if need be (SEND_MESSAGE_V2 is a spelling of SendMessage, no command).
- Readers and writers are generated functions, one per class and spelling, as attrs generates
  `__init__`: a loop over fields costs three times as much, and this runs for every message.

What a JSON *body* looks like is not here but in one module per subject under `commands`.
"""

from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Generic,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import attrs
from attrs import define, frozen

from dledger_py.remoting.wire.codes import RequestCode

# Java's int and long; mypy sees plain int. An unmarked `int` is a long.
Int32 = Annotated[int, 32]
Int64 = Annotated[int, 64]

_WIRE_NAME: Final = "wire_name"

Decode = Callable[[Mapping[str, str]], Any]
Encode = Callable[[Any], dict[str, str]]


class Malformed(Exception):
    """A request that cannot be understood; it was refused, nothing happened."""


class MalformedHeader(Malformed):
    """A header field is missing or unreadable."""

    def __init__(self, header: type, wire_name: str, problem: str) -> None:
        super().__init__(f"{header.__name__}.{wire_name}: {problem}")
        self.header = header
        self.wire_name = wire_name


@define(kw_only=True)
class Header:
    """The named fields of a request or a reply.

    The bases are not frozen, so that the two hot requests need not be: a frozen class of 14 fields
    takes 0.8 µs longer to make. All other headers are frozen.
    """

    @classmethod
    def __attrs_init_subclass__(cls) -> None:
        """Runs once per class, after attrs built it."""
        if "code" in cls.__dict__:
            _register(cls)


ReplyT_co = TypeVar("ReplyT_co", bound="Header | None", covariant=True)
HeaderT = TypeVar("HeaderT", bound=Header)


@define(kw_only=True)
class Request(Header, Generic[ReplyT_co]):
    """A request header; `Request[None]` is answered without header fields."""

    code: ClassVar[RequestCode]


@define(kw_only=True)
class Reply(Header):
    """A response header."""


@frozen
class Spelling:
    """A code under which a request class travels, with its wire names by attribute."""

    code: int
    request: type[Request[Any]]
    names: Mapping[str, str]
    decode: Decode
    encode: Encode


_SPELLINGS: dict[int, Spelling] = {}
_PLAIN: dict[type, tuple[Decode, Encode]] = {}


def wire(name: str, *, default: Any = attrs.NOTHING) -> Any:
    """A field whose name on the wire cannot be derived from ours."""
    return attrs.field(default=default, metadata={_WIRE_NAME: name})


def spelled(
    request: type[Request[Any]],
    code: RequestCode,
    fixed: Mapping[str, Any] | None = None,
    /,
    **names: str,
) -> None:
    """Let `code` mean `request` too.

    `names` gives attributes by wire name (`a="producer_group"`); the others keep their own.
    `fixed` gives attributes that the code itself decides, whatever the fields say.
    """
    _add(code, request, {attribute: name for name, attribute in names.items()}, fixed or {})


def spelling(code: int) -> Spelling | None:
    """How requests of this code are read; None for a code nobody declared."""
    return _SPELLINGS.get(code)


def spellings() -> Iterator[Spelling]:
    """All declared codes in ascending order: what the protocol table is printed from."""
    return iter(sorted(_SPELLINGS.values(), key=lambda spelling: spelling.code))


def decode(header: type[HeaderT], fields: Mapping[str, str]) -> HeaderT:
    """`fields` read as `header` under its own names. Raises: MalformedHeader."""
    result: HeaderT = _plain(header)[0](fields)
    return result


def decode_request(code: int, fields: Mapping[str, str]) -> Request[Any]:
    """`fields` read as the class declared for `code`. Raises: MalformedHeader, KeyError."""
    result: Request[Any] = _SPELLINGS[code].decode(fields)
    return result


def encode(header: Header, code: int | None = None) -> dict[str, str]:
    """The fields of `header` as strings, None ones left out; in the spelling of `code` if given."""
    if code is not None:
        return _SPELLINGS[code].encode(header)
    return _plain(type(header))[1](header)


def reply_type(request: type[Request[Any]]) -> type[Header] | None:
    """The class between the brackets of `Request[...]`."""
    for base in getattr(request, "__orig_bases__", ()):
        if get_origin(base) is Request:
            (reply,) = get_args(base)
            return None if reply is type(None) else reply
    raise TypeError(f"{request.__name__} does not say Request[reply]")


def wire_name(field: "attrs.Attribute[Any]") -> str:
    """The name a field of a header or a JSON body has on the wire."""
    return field.metadata.get(_WIRE_NAME) or _camel(field.name)


def wire_names(header: type[Header]) -> dict[str, str]:
    """Wire names by attribute."""
    return {field.name: wire_name(field) for field in attrs.fields(header)}


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _register(request: type[Any]) -> None:
    reply_type(request)
    _add(request.code, request, {}, {})


def _add(
    code: int, request: type[Request[Any]], names: Mapping[str, str], fixed: Mapping[str, Any]
) -> None:
    known = _SPELLINGS.get(code)
    if known is not None:
        raise TypeError(f"code {code} is {known.request.__name__} already, not {request.__name__}")
    all_names = wire_names(request) | dict(names)
    decode, encode = _generate(request, all_names, fixed)
    _SPELLINGS[code] = Spelling(code, request, all_names, decode, encode)


def _plain(header: type[Header]) -> tuple[Decode, Encode]:
    pair = _PLAIN.get(header)
    if pair is None:
        pair = _PLAIN[header] = _generate(header, wire_names(header), {})
    return pair


# --- reading and writing one class ---------------------------------------------------------------

# Most integers of a header are tiny; looking one up costs a third of reading and checking it.
_SMALL: Final = {str(number): number for number in range(-1, 256)}

_BITS: Final[dict[Any, int]] = {int: 64, Int32: 32, Int64: 64}


def value_type(hint: Any) -> tuple[Any, bool]:
    """The type without `| None`, and whether None was among them."""
    if get_origin(hint) in (Union, UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        assert len(members) == 1, hint
        return members[0], True
    return hint, False


def _generate(
    header: type[Header], names: Mapping[str, str], fixed: Mapping[str, Any]
) -> tuple[Decode, Encode]:
    """Compile the reader and the writer of one class.

    For `queue_id: Int32` and `topic: str | None = None` they are:

        def decode(fields):
            get = fields.get
            try:
                v0 = fields["queueId"]
                t0 = v0
                v0 = small(t0)
                if v0 is None:
                    v0 = int(t0)
                    if not -2147483648 <= v0 < 2147483648: raise ValueError
                v1 = get("topic")
                if v1 is None: v1 = default1
            except (KeyError, ValueError) as error:
                explain(fields, error)
            return make(queue_id=v0, topic=v1)

        def encode(header):
            fields = {}
            fields["queueId"] = str(header.queue_id)
            if header.topic is not None: fields["topic"] = header.topic
            return fields
    """
    hints = get_type_hints(header, include_extras=True)
    scope: dict[str, Any] = {"make": header, "new": header.__new__, "small": _SMALL.get}
    checks: list[_Check] = []
    reads, writes = ["pass"], []
    for number, field in enumerate(attrs.fields(header)):
        kind, optional = value_type(hints[field.name])
        writes.append(_writing(field.name, names[field.name], kind, optional))
        if field.name in fixed:
            scope[f"v{number}"] = fixed[field.name]
        else:
            required = field.default is attrs.NOTHING
            scope[f"default{number}"] = field.default
            reads += _reading(number, names[field.name], kind, required)
            checks.append((names[field.name], required, _BITS.get(kind)))

    def explain(fields: Mapping[str, str], error: Exception) -> NoReturn:
        _explain(header, checks, fields, error)

    scope["explain"] = explain
    source = (
        "def decode(fields):\n"
        "    get = fields.get\n"
        "    try:\n"
        f"        {_indented(reads, 8)}\n"
        "    except (KeyError, ValueError) as error:\n"
        "        explain(fields, error)\n"
        f"    {_indented(_making(header, names), 4)}\n"
        "def encode(header):\n"
        "    fields = {}\n"
        f"    {_indented(writes, 4)}\n"
        "    return fields\n"
    )
    exec(compile(source, f"<{header.__name__}>", "exec"), scope)
    return scope["decode"], scope["encode"]


def _making(header: type[Header], names: Mapping[str, str]) -> list[str]:
    """The call that makes the object; a mutable one is filled directly, at half the cost."""
    variables = [(name, f"v{number}") for number, name in enumerate(names)]
    if header.__setattr__ is object.__setattr__ and not hasattr(header, "__attrs_post_init__"):
        filling = [f"made.{name} = {variable}" for name, variable in variables]
        return ["made = new(make)", *filling, "return made"]
    return [f"return make({', '.join(f'{name}={variable}' for name, variable in variables)})"]


def _indented(lines: list[str], by: int) -> str:
    return f"\n{' ' * by}".join(lines)


def _reading(number: int, wire_name: str, kind: Any, required: bool) -> list[str]:
    value = f"v{number}"
    found = f"fields[{wire_name!r}]" if required else f"get({wire_name!r})"
    lines = [f"{value} = {found}"]
    if kind is bool:
        # As Java's Boolean.parseBoolean, and 1: C++ 1.x writes so that a body is a batch, which
        # Java's brokers do not see.
        lines.append(f'{value} = {value} == "true" or {value}.lower() in ("true", "1")')
    elif kind is not str:
        text = f"t{number}"
        bound = 1 << _BITS[kind] - 1
        lines += [
            f"{text} = {value}",
            f"{value} = small({text})",
            f"if {value} is None:",
            f"    {value} = int({text})",
            f"    if not -{bound} <= {value} < {bound}: raise ValueError",
        ]
    if required:
        return lines
    converted = [f"    {line}" for line in lines[1:]]
    lines = [lines[0], f"if {value} is None: {value} = default{number}"]
    return [*lines, "else:", *converted] if converted else lines


def _writing(name: str, wire_name: str, kind: Any, optional: bool) -> str:
    value = f"header.{name}"
    if kind is bool:
        text = f'"true" if {value} else "false"'
    elif kind is str:
        text = value
    else:
        text = f"str({value})"
    write = f"fields[{wire_name!r}] = {text}"
    return f"if {value} is not None: {write}" if optional else write


_Check = tuple[str, bool, int | None]  # wire name, required, bits of an integer


def _explain(
    header: type[Header], checks: list[_Check], fields: Mapping[str, str], error: Exception
) -> NoReturn:
    """Find what the generated reader stumbled over."""
    for wire_name, required, bits in checks:
        text = fields.get(wire_name)
        if text is None:
            if required:
                raise MalformedHeader(header, wire_name, "missing") from error
        elif bits is not None and not _fits(text, bits):
            problem = f"{text[:40]!r} is not a {bits}-bit integer"
            raise MalformedHeader(header, wire_name, problem) from error
    raise error


def _fits(text: str, bits: int) -> bool:
    try:
        value = int(text)
    except ValueError:
        return False
    return value.bit_length() < bits or value == -(1 << bits - 1)
