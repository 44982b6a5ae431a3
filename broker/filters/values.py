"""Values of an expression, and how Java compares them.

A value is null (None), a bool, a str, or a number of one of Java's types: `Integer`, `Long` or
float. Properties are always strings; numbers come from literals alone. Which of the three a literal
is decides how a property is read that it is compared with: `3` reads it as an Integer, so the
property `3.5` is an error, and `3.0` reads it as a double.

Source: protocol page 04 §7; ComparisonExpression.java, and java.lang for what a number looks like.
"""

import re
from typing import Any, Final

INTEGER_MAX: Final = 2**31 - 1
LONG_MAX: Final = 2**63 - 1


class Integer(int):
    """A literal of 32 bits."""

    __slots__ = ()


class Long(int):
    """A literal that needs 64 bits."""

    __slots__ = ()


class Incomparable(Exception):
    """Two values have no order, or a text is not the number it is compared with.

    It ends the evaluation of the whole expression: the message does not match.
    """


# A text has up to 32,767 characters, and one that is no number is found out only at its end: so no
# digit may be taken by one part of a pattern or by the next, which is tried in every combination.
# Java takes every decimal digit of the basic plane; \d would also take those beyond.
_WHOLE: Final = re.compile(r"([+-]?)(?=\d)0*(?!0)((?:(?![\U00010000-\U0010ffff])\d){0,19})")
_DECIMAL: Final = re.compile(
    r"([+-]?(?:NaN|Infinity|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?))[fFdD]?|"
    r"([+-]?0[xX](?:[0-9a-fA-F]+\.?|[0-9a-fA-F]*\.[0-9a-fA-F]+)[pP][+-]?[0-9]+)[fFdD]?"
)
_JAVA_BLANKS: Final = "".join(map(chr, range(0x21)))  # what String.trim takes away


def parse_integer(text: str) -> int:
    """As Integer.valueOf. Raises: Incomparable."""
    return _parse_whole(text, INTEGER_MAX)


def parse_long(text: str) -> int:
    """As Long.valueOf. Raises: Incomparable."""
    return _parse_whole(text, LONG_MAX)


def _parse_whole(text: str, largest: int) -> int:
    if len(text) < 10 and text.isascii() and text.isdigit():  # nearly always
        return int(text)
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise Incomparable
    number = int(found[2] or 0)
    if found[1] == "-":
        number = -number
    if not -largest - 1 <= number <= largest:
        raise Incomparable
    return number


def parse_double(text: str) -> float:
    """As Double.valueOf: with blanks around it, exponents, suffixes, and hexadecimal digits.

    Raises: Incomparable.
    """
    found = _DECIMAL.fullmatch(text.strip(_JAVA_BLANKS))
    if found is None:
        raise Incomparable
    if found[1] is not None:
        return float(found[1])
    try:
        return float.fromhex(found[2])
    except OverflowError:
        return float("-inf" if found[2].startswith("-") else "inf")


def parse_boolean(text: str) -> bool:
    """As Boolean.valueOf: whatever is not "true" is false."""
    return text.lower() == "true"


def compare_doubles(left: float, right: float) -> int:
    """As Double.compareTo: NaN equals itself and is above all, -0.0 is below 0.0."""
    if left < right:
        return -1
    if left > right:
        return 1
    return _rank(left) - _rank(right)


def _rank(number: float) -> int:
    """Where a number stands among those that neither < nor > tells from it."""
    if number != number:
        return 2
    return int(str(number) != "-0.0")


def compare(left: Any, right: Any) -> int:
    """Below, at or above 0 as `left` is less, equal or greater; neither is null.

    Types that have nothing in common count as less, as in Java. Two strings are equal or not; what
    their order would be is not asked here. Raises: Incomparable.
    """
    kinds = type(left), type(right)
    match kinds:
        case (k, m) if k is str and m is not str:
            return _compare_read(left, right)
        case (k, m) if k is bool and m is str:
            raise Incomparable  # Java takes the boolean for the string here, and fails
        case (k, m) if m is str and k is not str:
            return -_compare_read(right, left)
        case (k, m) if k is not m and bool in kinds:
            return -1
        case _ if float in kinds:
            return compare_doubles(float(left), float(right))
        case _:
            return int(left > right) - int(left < right)


def _compare_read(text: str, value: Any) -> int:
    """A string against a value of another type, which says how to read it."""
    if isinstance(value, bool):
        return parse_boolean(text) - value
    if isinstance(value, float):
        return compare_doubles(parse_double(text), value)
    number = parse_integer(text) if isinstance(value, Integer) else parse_long(text)
    return int(number > value) - int(number < value)
