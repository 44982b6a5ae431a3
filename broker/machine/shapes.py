"""Typed values ↔ plain CBOR values, both ways and nothing else.

Laws: records are arrays in field order; only integers, strings, booleans, null and arrays occur.
There is one encoding of a value: canonical CBOR, and decoding refuses every other (longer integers,
indefinite lengths, trailing bytes, tags, maps) by encoding again and comparing. A field is appended
by a new version of its command, never inserted. Elsewhere: which shape has which tag (`codec`).
"""

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import cbor2
from attrs import frozen

from broker.machine.errors import MalformedCommand

Plain = Any  # what CBOR may hold; a Shape turns it into something with a type

DEPTH_MAX: Final = 8  # the deepest of ours: command > configs > config > attributes > pair = 5

T = TypeVar("T")


@frozen
class Shape(Generic[T]):
    """How values of one type look in CBOR. `from_plain` raises `MalformedCommand`."""

    to_plain: Callable[[T], Plain]
    from_plain: Callable[[Plain], T]


def encode(value: Plain) -> bytes:
    """The one encoding of a plain value."""
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes) -> Plain:
    """The plain value of exactly these bytes; arrays come as tuples.

    **Raises** `MalformedCommand` for anything `encode` would not have written.
    """
    try:
        value = cbor2.loads(
            data,
            max_depth=DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            immutable=True,
        )
        again = cbor2.dumps(value, canonical=True)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise MalformedCommand(f"not CBOR of ours: {error}") from error
    if again != data:
        raise MalformedCommand("CBOR is not canonical, or bytes follow it")
    return value


def scalar(kind: type[T]) -> Shape[T]:
    """A value of exactly this type: `bool` is no `int` here."""

    def check(plain: Plain) -> T:
        if type(plain) is not kind:
            raise MalformedCommand(f"expected {kind.__name__}, found {type(plain).__name__}")
        return plain

    return Shape(lambda value: value, check)


def _i64(value: int) -> int:
    # In the log it would stop every member, now and at each start; here only who wants to write it.
    assert -(2**63) <= value < 2**63, f"{value} does not fit into 64 bits"
    return value


def _check_i64(plain: Plain) -> int:
    if type(plain) is not int or not -(2**63) <= plain < 2**63:
        raise MalformedCommand("expected an integer of 64 bits")
    return plain


TEXT: Final = scalar(str)
FLAG: Final = scalar(bool)
INT: Final[Shape[int]] = Shape(_i64, _check_i64)


def optional(shape: Shape[T]) -> Shape[T | None]:
    """A value, or null."""
    return Shape(
        lambda value: None if value is None else shape.to_plain(value),
        lambda plain: None if plain is None else shape.from_plain(plain),
    )


def many(shape: Shape[T]) -> Shape[tuple[T, ...]]:
    """Any number of values of one shape."""
    return Shape(
        lambda values: [shape.to_plain(value) for value in values],
        lambda plain: tuple(shape.from_plain(item) for item in _array(plain)),
    )


def row(*shapes: Shape[Any]) -> Shape[Any]:
    """A tuple with one value per shape. `Any`: no type says *one item for each of these*."""

    def from_plain(plain: Plain) -> tuple[Any, ...]:
        items = _array(plain, len(shapes))
        return tuple(shape.from_plain(item) for shape, item in zip(shapes, items, strict=True))

    return Shape(
        lambda values: [s.to_plain(value) for s, value in zip(shapes, values, strict=True)],
        from_plain,
    )


def record(make: Callable[..., T], **fields: Shape[Any]) -> Shape[T]:
    """An attrs class, as the array of its fields in the order given here."""

    def from_plain(plain: Plain) -> T:
        items = _array(plain, len(fields))
        return make(
            **{
                name: shape.from_plain(item)
                for (name, shape), item in zip(fields.items(), items, strict=True)
            }
        )

    return Shape(
        lambda value: [shape.to_plain(getattr(value, name)) for name, shape in fields.items()],
        from_plain,
    )


def _array(plain: Plain, length: int | None = None) -> tuple[Plain, ...]:
    if type(plain) is not tuple:
        raise MalformedCommand(f"expected an array, found {type(plain).__name__}")
    if length is not None and len(plain) != length:
        raise MalformedCommand(f"expected {length} fields, found {len(plain)}")
    return plain
