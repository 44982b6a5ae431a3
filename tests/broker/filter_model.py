"""SQL92 filters a second time: a tree, its text, and what page 04 §7 says it is worth.

Written from the page and slow; it shares nothing with what it judges. A tree is a tuple: its
operator, then its operands.
"""

import re
import struct
from typing import Any

from attrs import frozen


class Failure(Exception):
    """The evaluation ends here, and nothing matches."""


@frozen
class Number:
    """A literal of one of Java's types: "int", "long" or "double"."""

    kind: str
    value: Any


def matches(tree: Any, properties: dict[str, str]) -> bool:
    try:
        return truth(tree, properties) is True
    except Failure:
        return False


def truth(tree: Any, properties: dict[str, str]) -> bool | None:
    """A tree as a condition: a property is one that is never true."""
    value = worth(tree, properties)
    if tree[0] == "property" and value is not None:
        return False
    assert value is None or isinstance(value, bool), tree
    return value


def worth(tree: Any, properties: dict[str, str]) -> Any:
    match tree:
        case ("property", name):
            return properties.get(name)
        case ("literal", value):
            return value
        case ("minus", inner):
            value = worth(inner, properties)
            return Number(value.kind, -value.value) if isinstance(value, Number) else None
        case ("not", inner):
            return inverted(truth(inner, properties))
        case ("and", left, right):
            first = truth(left, properties)
            if first is False:
                return False
            second = truth(right, properties)
            if second is False:
                return False
            return None if first is None or second is None else True
        case ("or", left, right):
            first = truth(left, properties)
            if first is True:
                return True
            second = truth(right, properties)
            if second is True:
                return True
            return None if first is None or second is None else False
        case ("=", left, right):
            return equal(worth(left, properties), worth(right, properties))
        case ("<>", left, right):
            return inverted(equal(worth(left, properties), worth(right, properties)))
        case (">" | ">=" | "<" | "<=", left, right):
            first = worth(left, properties)
            if first is None:
                return None
            second = worth(right, properties)
            return None if second is None else ordered(tree[0], first, second)
        case ("between", value, low, high):
            return worth(("and", (">=", value, low), ("<=", value, high)), properties)
        case ("not between", value, low, high):
            return worth(("or", ("<", value, low), (">", value, high)), properties)
        case ("in" | "not in", inner, texts):
            value = worth(inner, properties)
            return None if value is None else (value in texts) == (tree[0] == "in")
        case ("is null", inner):
            return worth(inner, properties) is None
        case ("is not null", inner):
            return worth(inner, properties) is not None
        case (kind, inner, text):
            value = worth(inner, properties) if text else None
            if not isinstance(value, str):
                return False
            found = {
                "contains": text in value,
                "startswith": value[: len(text)] == text,
                "endswith": value[-len(text) :] == text,
            }[kind.removeprefix("not ")]
            return found != kind.startswith("not ")
    raise AssertionError(tree)


def inverted(value: bool | None) -> bool | None:
    return None if value is None else not value


def equal(left: Any, right: Any) -> bool | None:
    match left, right:
        case None, None:
            return True
        case None, _:
            return None
        case _, None:
            return False
        case (str(), str()) | (bool(), bool()):
            return bool(left == right)
        case str(), bool():
            return (left.lower() == "true") == right
        case bool(), str():
            raise Failure
        case (bool(), _) | (_, bool()):
            return False
        case str(), Number():
            return sort_key(read(left, right.kind)) == sort_key(right.value)
        case Number(), str():
            return sort_key(read(right, left.kind)) == sort_key(left.value)
        case _:
            return bool(float(left.value) == float(right.value))


def ordered(sign: str, left: Any, right: Any) -> bool:
    match left, right:
        case str(), str():
            keys = sort_key(read(left, "double")), sort_key(read(right, "double"))
        case str(), _:
            keys = sort_key(read(left, right.kind)), sort_key(right.value)
        case _, str():
            keys = sort_key(left.value), sort_key(read(right, left.kind))
        case _:
            keys = sort_key(left.value), sort_key(right.value)
    a, b = keys
    return {">": a > b, ">=": a >= b, "<": a < b, "<=": a <= b}[sign]


def read(text: str, kind: str) -> Any:
    if kind == "double":
        if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text.strip(" \t"), re.ASCII):
            return float(text)
        if text.strip(" \t") == "NaN":
            return float("nan")
        raise Failure
    size = 32 if kind == "int" else 64
    if not re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        raise Failure
    number = int(text)
    if not -(2 ** (size - 1)) <= number < 2 ** (size - 1):
        raise Failure
    return number


def sort_key(number: Any) -> int:
    """Doubles in Java's order, by their bits; it puts NaN last and -0.0 in front of 0.0."""
    if number != number:
        return 2**63
    (bits,) = struct.unpack(">q", struct.pack(">d", float(number)))
    return bits if bits >= 0 else -(bits & (2**63 - 1)) - 1


# --- text ---------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def text_of(tree: Any) -> str:
    """With every pair of parentheses that could matter."""
    match tree:
        case ("property", name):
            return str(name)
        case ("literal", None):
            return "NULL"
        case ("literal", bool() as value):
            return str(value)
        case ("literal", str() as value):
            return quoted(value)
        case ("literal", value):
            return repr(value.value)
        case ("minus", inner):
            return f"- {inside(inner)}"
        case ("not", inner):
            return f"NOT {inside(inner)}"
        case ("between" | "not between", value, low, high):
            return f"{inside(value)} {tree[0]} {inside(low)} AND {inside(high)}"
        case ("in" | "not in", inner, texts):
            return f"{inside(inner)} {tree[0]} ({', '.join(map(quoted, texts))})"
        case ("is null" | "is not null", inner):
            return f"{inside(inner)} {tree[0]}"
        case (str() as kind, inner, str() as text):
            return f"{inside(inner)} {kind} {quoted(text)}"
        case (kind, left, right):
            return f"{inside(left)} {kind} {inside(right)}"
    raise AssertionError(tree)


def inside(tree: Any) -> str:
    text = text_of(tree)
    return text if tree[0] in ("property", "literal") else f"({text})"
