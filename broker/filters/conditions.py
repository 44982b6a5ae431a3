"""What each part of a filter expression means: functions over properties, built bottom-up.

Truth has three values; null is None. Conditions evaluate to True, False or None, and so may be
compared like any value. Operands are evaluated from left to right, as far as they are needed: an
error behind what decides already is never reached. What RocketMQ refuses is refused here too, with
the place.

Laws: parts never change, so any thread may evaluate them. A part is at most `DEPTH_MAX` deep, so
evaluation cannot exhaust the stack, and has at most `PARTS_MAX` parts; chains of AND and of OR are
one part each, however long.

Source: protocol page 04 §7; ComparisonExpression, LogicExpression, UnaryExpression (RocketMQ).
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from broker.filters.errors import FilterError
from broker.filters.values import (
    INTEGER_MAX,
    LONG_MAX,
    Integer,
    Long,
    compare,
    compare_doubles,
    parse_double,
)

DEPTH_MAX: Final = 64  # parts inside each other; a person writes five
PARTS_MAX: Final = 1_024  # operands and operators: some 250 comparisons

Properties = Mapping[str, str]
Evaluate = Callable[[Properties], Any]
Holds = Callable[[int, int], bool]

_ORDERS: Final[Mapping[str, Holds]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_SEARCHES: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "CONTAINS": operator.contains,
    "STARTSWITH": str.startswith,
    "ENDSWITH": str.endswith,
}


@frozen(kw_only=True)
class Part:
    """A part of an expression, and what may be asked of it before there is a message."""

    evaluate: Evaluate
    line: int
    column: int
    is_condition: bool = False
    """It is true, false or null by itself."""
    is_literal: bool = False
    value: Any = None
    """Of a literal, or a negated one."""
    name: str | None = None
    """Of a property."""
    size: int = 1
    depth: int = 1


def _fault(part: Part, reason: str) -> FilterError:
    return FilterError(reason, part.line, part.column)


def _made(token: Any, evaluate: Evaluate, parts: Sequence[Part], *, value: Any = None) -> Part:
    """A part made of others. Raises: FilterError past a bound."""
    size, depth = 1, 0
    for part in parts:
        size += part.size
        if part.depth > depth:
            depth = part.depth
    if size > PARTS_MAX:
        reason = f"more than {PARTS_MAX} operands and operators up to here"
        raise FilterError(reason, token.line, token.column)
    if depth >= DEPTH_MAX:
        raise FilterError(f"nested more than {DEPTH_MAX} deep", token.line, token.column)
    return Part(
        evaluate=evaluate,
        line=token.line,
        column=token.column,
        is_condition=token.type != "MINUS",
        value=value,
        size=size,
        depth=depth + 1,
    )


def _literal(token: Any, value: Any, *, is_condition: bool = False) -> Part:
    return Part(
        evaluate=lambda _: value,
        line=token.line,
        column=token.column,
        is_condition=is_condition,
        is_literal=True,
        value=value,
    )


def _unquoted(token: str) -> str:
    return token[1:-1].replace("''", "'")


class Meanings:
    """One method for each rule of the grammar; gets what the rule's parts became, and its words."""

    # --- operands --------------------------------------------------------------------------------

    def property(self, found: list[Any]) -> Part:
        (token,) = found
        name = str(token)
        return Part(
            evaluate=lambda properties: properties.get(name),
            line=token.line,
            column=token.column,
            name=name,
        )

    def string(self, found: list[Any]) -> Part:
        return _literal(found[0], _unquoted(found[0]))

    def whole(self, found: list[Any]) -> Part:
        (token,) = found
        digits = token.rstrip("lL")
        if len(digits) > 1 and digits[0] == "0":
            raise FilterError("a number begins with 0", token.line, token.column)
        if len(digits) > 19 or int(digits) > LONG_MAX:
            raise FilterError("the number is outside of 64 bits", token.line, token.column)
        number = int(digits)
        return _literal(token, Integer(number) if number <= INTEGER_MAX else Long(number))

    def decimal(self, found: list[Any]) -> Part:
        (token,) = found
        number = float(token)
        if number in (0.0, float("inf")):
            size = "large" if number else "small"
            raise FilterError(f"the number is too {size} for a double", token.line, token.column)
        return _literal(token, number)

    def boolean(self, found: list[Any]) -> Part:
        return _literal(found[0], found[0].type == "TRUE", is_condition=True)

    def null(self, found: list[Any]) -> Part:
        return _literal(found[0], None, is_condition=True)

    def negative(self, found: list[Any]) -> Part:
        """Of anything but a number it is null: properties are strings."""
        token, part = found
        inner = part.evaluate
        if isinstance(part.value, bool | str | None):

            def evaluate(properties: Properties) -> None:
                inner(properties)  # which may be an error

            return _made(token, evaluate, (part,))
        value = type(part.value)(-part.value)
        return _made(token, lambda _: value, (part,), value=value)

    # --- logic -----------------------------------------------------------------------------------

    def start(self, found: list[Any]) -> Part:
        return _condition(found[0])

    def or_(self, found: list[Any]) -> Part:
        return _chain(found, decisive=True)

    def and_(self, found: list[Any]) -> Part:
        return _chain(found, decisive=False)

    def not_(self, found: list[Any]) -> Part:
        token, part = found[0], _condition(found[1])
        return _made(token, _negation(part.evaluate), (part,))

    # --- comparisons -----------------------------------------------------------------------------

    def equal(self, found: list[Any]) -> Part:
        left, token, right = found
        return _made(token, _equality(left, right), (left, right))

    def unequal(self, found: list[Any]) -> Part:
        left, token, right = found
        return _made(token, _negation(_equality(left, right)), (left, right))

    def ordered(self, found: list[Any]) -> Part:
        left, token, right = found
        return _made(token, _order(left, right, _ORDERS[token]), (left, right))

    def between(self, found: list[Any]) -> Part:
        part, token, low, _, high = found
        above, below = _order(part, low, operator.ge), _order(part, high, operator.le)
        # Two literals are numbers by now.
        if low.is_literal and high.is_literal and compare(low.value, high.value) > 0:
            raise _fault(low, "BETWEEN: the first bound is above the second")
        evaluate = _junction((above, below), decisive=False)
        return _made(token, evaluate, (part, low, high))

    def not_between(self, found: list[Any]) -> Part:
        part, token, _, low, _, high = found
        below, above = _order(part, low, operator.lt), _order(part, high, operator.gt)
        evaluate = _junction((below, above), decisive=True)
        return _made(token, evaluate, (part, low, high))

    def is_null(self, found: list[Any]) -> Part:
        part, token = found[:2]
        inner = part.evaluate
        return _made(token, lambda properties: inner(properties) is None, (part,))

    def is_not_null(self, found: list[Any]) -> Part:
        part, token = found[:2]
        inner = part.evaluate
        return _made(token, lambda properties: inner(properties) is not None, (part,))

    def within(self, found: list[Any]) -> Part:
        part, token, *texts = found
        return _made(token, _membership(part, texts, wanted=True), (part,))

    def not_within(self, found: list[Any]) -> Part:
        part, token, _, *texts = found
        return _made(token, _membership(part, texts, wanted=False), (part,))

    def search(self, found: list[Any]) -> Part:
        part, token, text = found
        return _made(token, _search(part, token.type, text, wanted=True), (part,))

    def search_not(self, found: list[Any]) -> Part:
        part, token, kind, text = found
        return _made(token, _search(part, kind.type, text, wanted=False), (part,))


def _condition(part: Part) -> Part:
    """The part as something that is true or not. Raises: FilterError for a value."""
    if part.is_condition:
        return part
    if part.name is None:
        raise _fault(part, "a value is no condition: compare it with something")
    name = part.name

    def evaluate(properties: Properties) -> bool | None:
        return False if name in properties else None  # no property is a boolean

    return Part(evaluate=evaluate, line=part.line, column=part.column, is_condition=True)


def _chain(found: list[Any], *, decisive: bool) -> Part:
    parts = [_condition(part) for part in found[::2]]
    evaluate = _junction([part.evaluate for part in parts], decisive=decisive)
    return _made(found[1], evaluate, parts)


def _junction(conditions: Sequence[Evaluate], *, decisive: bool) -> Evaluate:
    """OR, which true decides, or AND, which false does."""

    def evaluate(properties: Properties) -> bool | None:
        unknown = False
        truth: bool | None
        for condition in conditions:
            truth = condition(properties)
            if truth is decisive:
                return decisive
            if truth is None:
                unknown = True
        return None if unknown else not decisive

    return evaluate


def _negation(condition: Evaluate) -> Evaluate:
    def evaluate(properties: Properties) -> bool | None:
        truth: bool | None = condition(properties)
        return not truth if truth is not None else None

    return evaluate


def _equality(left: Part, right: Part) -> Evaluate:
    for part in (left, right):
        if part.is_literal and part.value is None:
            raise _fault(part, "nothing equals NULL: write IS NULL")
    if left.is_literal and right.is_literal and left.is_condition and not right.is_condition:
        raise _fault(right, "a boolean cannot be compared with this")
    if left.name is not None and isinstance(right.value, str):
        return _same_text(left.name, right.value)
    of_left, of_right = left.evaluate, right.evaluate

    def evaluate(properties: Properties) -> bool | None:
        a, b = of_left(properties), of_right(properties)
        if a is None:
            return True if b is None else None
        return compare(a, b) == 0 if b is not None else False

    return evaluate


def _same_text(name: str, text: str) -> Evaluate:
    """The most frequent comparison, at a third of the cost."""

    def evaluate(properties: Properties) -> bool | None:
        value = properties.get(name)
        return value == text if value is not None else None

    return evaluate


def _order(left: Part, right: Part, holds: Holds) -> Evaluate:
    for part in (left, right):
        is_number = isinstance(part.value, int | float) and not isinstance(part.value, bool)
        if part.is_condition or (part.is_literal and not is_number):
            raise _fault(part, "only numbers and properties have an order")
    of_left, of_right = left.evaluate, right.evaluate

    def evaluate(properties: Properties) -> bool | None:
        a = of_left(properties)
        if a is None:
            return None
        b = of_right(properties)
        if b is None:
            return None
        if isinstance(a, str) and isinstance(b, str):
            return holds(compare_doubles(parse_double(a), parse_double(b)), 0)
        return holds(compare(a, b), 0)

    return evaluate


def _membership(part: Part, texts: Sequence[str], *, wanted: bool) -> Evaluate:
    if part.name is None:
        raise _fault(part, "IN needs a property on its left")
    name, among = part.name, frozenset(map(_unquoted, texts))

    def evaluate(properties: Properties) -> bool | None:
        value = properties.get(name)
        return None if value is None else (value in among) is wanted

    return evaluate


def _search(part: Part, kind: str, text: str, *, wanted: bool) -> Evaluate:
    """False for null, for what is no string, and for an empty text: also of the NOT forms."""
    inner, needle, found = part.evaluate, _unquoted(text), _SEARCHES[kind]
    if not needle:
        return lambda _: False

    def evaluate(properties: Properties) -> bool:
        value = inner(properties)
        return isinstance(value, str) and found(value, needle) is wanted

    return evaluate
