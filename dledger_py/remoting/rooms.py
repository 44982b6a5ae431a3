"""From a request class to the method that answers it.

    class Offsets:
        @handles(QueryMaxOffset)
        def max_offset(self, request: QueryMaxOffset, caller: Caller) -> Answer[OffsetReply]: ...

A handler returns an `Answer`; or a `Later`, taken from `caller.later()`, that somebody settles
when the time has come; or raises `Refused`. `async` handlers are for what really waits on someone
else: each gets a task of its own, so none of the hot requests may be one.

    class UsualSends:
        @quick(RequestCode.SEND_MESSAGE_V2)
        def take(self, connection: Port, frame: Frame) -> bool: ...

A quick way stands in front of the handler of its code: it takes the requests it knows how to serve
without an object per message and leaves all others, untouched, by returning False.

Laws
- Routes are derived from the rooms; two methods for one class are an error at start.
- No handler sets the code of a refusal: it raises, and `refusal` below spells it.
- A request gets at most one answer; a one-way request and a closed connection get none.

The bytes of an answer leave through `Port`, which the server implements and tests fake.
"""

import inspect
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from attrs import define, field, frozen

from dledger_py.remoting.wire.codes import RequestCode, ResponseCode
from dledger_py.remoting.wire.frame import ONE_WAY, RESPONSE, Frame, encode_head, render_fields
from dledger_py.remoting.wire.schema import (
    Decode,
    Header,
    Malformed,
    Request,
    encode,
    spellings,
)

ReplyT = TypeVar("ReplyT", bound="Header | None")
P = ParamSpec("P")
TakeT = TypeVar("TakeT", bound=Callable[..., bool])


class Refused(Exception):
    """It did not happen, and `code` and `remark` say why (definite).

    Servers derive one class per refusal they know and give it its code.
    """

    code: int = ResponseCode.SYSTEM_ERROR
    fields: ClassVar[Mapping[str, str]] = {}
    """Header fields of the answer."""

    def __init__(self, remark: str = "", *, code: int | None = None) -> None:
        super().__init__(remark)
        self.remark = remark
        if code is not None:
            self.code = code


@define(eq=False)
class Answer(Generic[ReplyT]):
    """A response: header fields, a body, a code.

    `rendered` replaces `header` on the hot path: the same fields as a JSON object, all values
    strings, made from a template.
    """

    header: ReplyT = None  # type: ignore[assignment]  # no header is the usual case
    body: bytes = b""
    code: int = ResponseCode.SUCCESS
    remark: str | None = None
    rendered: bytes = b""


class Connection(Protocol):
    """A client's connection as handlers see it. Soft state may hang on `attributes`."""

    id: int
    remote: tuple[str, int]
    packed_remote: bytes  # as stored messages hold it
    local: tuple[str, int]
    closed: bool
    attributes: dict[str, Any]

    def request(
        self,
        request: Request[Any],
        body: bytes = b"",
        *,
        on_reply: Callable[[Frame | None], None] | None = None,
    ) -> int:
        """Send the client a request: one-way, or with `on_reply` called once with its response,
        or with None when the connection ends first. None comes at once, and nothing is sent, if the
        connection is closed, the client owes too many answers, or it does not read what it is sent.
        Never blocks. Returns the number of the request, for `forget`."""

    def forget(self, number: int) -> None:
        """Nobody waits for the answer to this request any more: `on_reply` is not called for it."""

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, at the moment the connection ends (at once if it has)."""


class Port(Connection, Protocol):
    """What answers need beyond that: a way out."""

    def respond(self, request_size: int, head: bytes, body: bytes) -> None:
        """Queue a response (empty for a one-way request) and take the request off the books."""

    def respond_all(self, request_bytes: int, heads: Sequence[bytes]) -> None:
        """Queue responses without bodies, to as many requests of this many bytes in all."""


class Caller:
    """Who asks: the connection and the raw frame of one request."""

    __slots__ = ("connection", "frame")

    def __init__(self, connection: Port, frame: Frame) -> None:
        self.connection = connection
        self.frame = frame

    @property
    def version(self) -> int:
        """The peer's protocol version, an MQVersion ordinal."""
        return self.frame.version

    @property
    def language(self) -> str:
        """The name of a LanguageCode, or whatever the peer wrote."""
        return self.frame.language

    def later(self) -> "Later[Any]":
        """A promise to answer; the handler returns it."""
        frame = self.frame
        return Later(self.connection, frame.opaque, frame.flag, frame.serialization, frame.size)


class Later(Generic[ReplyT]):
    """An answer still owed. Settled once, from anywhere on the loop; a second time is our bug."""

    __slots__ = ("_connection", "_flag", "_opaque", "_serialization", "_size", "settled")

    def __init__(
        self, connection: Port, opaque: int, flag: int, serialization: int, size: int
    ) -> None:
        self._connection = connection
        self._opaque = opaque
        self._flag = flag
        self._serialization = serialization
        self._size = size
        self.settled = False

    @property
    def abandoned(self) -> bool:
        """The connection is gone: nobody waits for the answer any more."""
        return self._connection.closed

    def answer(self, answer: Answer[ReplyT]) -> None:
        """Send the answer; silently dropped for a one-way request or a closed connection."""
        assert not self.settled, "a request is answered once"
        self.settled = True
        if self._flag & ONE_WAY:
            self._connection.respond(self._size, b"", b"")
            return
        body = answer.body
        head = render_head(answer, self._opaque, self._serialization)
        self._connection.respond(self._size, head, body)

    def refuse(self, error: Exception) -> None:
        """Send what `error` means to the peer."""
        self.answer(refusal(error))


def respond(connection: Port, frame: Frame, answer: Answer[Any]) -> None:
    """Answer `frame` at once; no promise object is made."""
    if frame.flag & ONE_WAY:
        connection.respond(frame.size, b"", b"")
        return
    head = render_head(answer, frame.opaque, frame.serialization)
    connection.respond(frame.size, head, answer.body)


def render_head(answer: Answer[Any], opaque: int, serialization: int) -> bytes:
    """The bytes of an answer that come before its body."""
    fields = answer.rendered
    if not fields and answer.header is not None:
        fields = render_fields(encode(answer.header))
    return encode_head(
        answer.code, RESPONSE, opaque, fields, answer.remark, len(answer.body), serialization
    )


def refusal(error: BaseException) -> Answer[Any]:
    """The answer an exception means: Refused says it itself, the rest is SYSTEM_ERROR."""
    if isinstance(error, Refused):
        rendered = render_fields(dict(error.fields)) if error.fields else b""
        return Answer(code=error.code, remark=error.remark, rendered=rendered)
    if isinstance(error, Malformed):
        return Answer(code=ResponseCode.SYSTEM_ERROR, remark=str(error))
    remark = f"{type(error).__name__}: {error}"
    return Answer(code=ResponseCode.SYSTEM_ERROR, remark=remark)


def not_supported(code: int) -> Answer[Any]:
    """What Java answers to a code nobody handles, the leading blank included."""
    return Answer(
        code=ResponseCode.REQUEST_CODE_NOT_SUPPORTED,
        remark=f" request type {code} not supported",
    )


# --- routes -------------------------------------------------------------------------------------

_HANDLES: Final = "__handles__"
_QUICK: Final = "__quick__"

Take = Callable[[Port, Frame], bool]


def quick(code: RequestCode) -> Callable[[TakeT], TakeT]:
    """Mark a method as the quick way of `code`: true if it took the request, whole."""

    def mark(method: TakeT) -> TakeT:
        setattr(method, _QUICK, code)
        return method

    return mark


class _Mark(Protocol[ReplyT]):
    """What `handles` returns: it takes only methods whose answers fit the request."""

    @overload
    def __call__(self, method: Callable[P, Answer[ReplyT]], /) -> Callable[P, Answer[ReplyT]]: ...
    @overload
    def __call__(self, method: Callable[P, Later[ReplyT]], /) -> Callable[P, Later[ReplyT]]: ...
    @overload
    def __call__(
        self, method: Callable[P, Awaitable[Answer[ReplyT]]], /
    ) -> Callable[P, Awaitable[Answer[ReplyT]]]: ...
    @overload
    def __call__(
        self, method: Callable[P, Answer[ReplyT] | Later[ReplyT]], /
    ) -> Callable[P, Answer[ReplyT] | Later[ReplyT]]: ...


def handles(request: type[Request[ReplyT]]) -> _Mark[ReplyT]:
    """Mark a method as the one that answers `request`.

    Raises: TypeError if its first parameter is annotated with another class.
    """

    def mark(method: Any) -> Any:
        parameters = list(inspect.signature(method).parameters.values())
        if len(parameters) != 3:
            raise TypeError(f"{method.__qualname__} must take (self, request, caller)")
        annotated = parameters[1].annotation
        if isinstance(annotated, str):
            annotated = typing.get_type_hints(method).get(parameters[1].name)
        if annotated is not request:
            raise TypeError(f"{method.__qualname__} handles {request.__name__}, takes {annotated}")
        setattr(method, _HANDLES, request)
        return method

    return cast("_Mark[ReplyT]", mark)


@frozen
class Route:
    """How requests of one code are read and who answers them."""

    request: type[Request[Any]]
    decode: Decode
    method: Callable[[Any, Caller], Any]
    is_async: bool


@frozen
class Routes:
    """Routes by request code."""

    by_code: Mapping[int, Route] = field(factory=dict)
    quick: Mapping[int, Take] = field(factory=dict)

    def answer(self, connection: Port, frame: Frame) -> Awaitable[Any] | None:
        """Dispatch one request: settle it at once, or hand back what will give the answer.

        Raises: what a handler raised and is no refusal, after the peer got SYSTEM_ERROR.
        """
        route = self.by_code.get(frame.code)
        if route is None:
            respond(connection, frame, not_supported(frame.code))
            return None
        take = self.quick.get(frame.code)
        try:
            if take is not None and take(connection, frame):
                return None
            result = route.method(route.decode(frame.fields), Caller(connection, frame))
        except (Refused, Malformed) as error:
            respond(connection, frame, refusal(error))
            return None
        except Exception as error:
            respond(connection, frame, refusal(error))
            raise
        if type(result) is Answer:
            respond(connection, frame, result)
        elif route.is_async:
            waiting: Awaitable[Any] = result
            return waiting
        else:
            assert type(result) is Later, f"{route.request.__name__} got {result!r}"
        return None


def routes(rooms: Iterable[object], *, required: Iterable[type[Request[Any]]] = ()) -> Routes:
    """The routes that `rooms` offer, every spelling of their requests included.

    Raises: TypeError if two methods handle one class, or nobody one of `required`.
    """
    methods: dict[type, Callable[[Any, Caller], Any]] = {}
    takes: dict[int, Take] = {}
    for room in rooms:
        for name in dir(type(room)):
            code = getattr(getattr(type(room), name, None), _QUICK, None)
            if code is not None:
                takes[code] = getattr(room, name)
            request = getattr(getattr(type(room), name, None), _HANDLES, None)
            if request is None:
                continue
            if request in methods:
                raise TypeError(f"{request.__name__} is handled twice, once by {room!r}")
            methods[request] = getattr(room, name)
    missing = [request.__name__ for request in required if request not in methods]
    if missing:
        raise TypeError(f"nobody handles {', '.join(missing)}")
    table = {
        spelling.code: Route(
            spelling.request,
            spelling.decode,
            methods[spelling.request],
            inspect.iscoroutinefunction(methods[spelling.request]),
        )
        for spelling in spellings()
        if spelling.request in methods
    }
    return Routes(table, takes)
