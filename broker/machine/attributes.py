"""Topic attributes: the known keys, their values, and changes to them.

A change is `+key=value` to add or alter, `-key` to remove, several joined with commas; rooms parse
it with `parse_changes`, the machine decides with `altered` against the attributes the topic has by
then.

**Source**: RocketMQ's `TopicAttributes.java` and `AttributeUtil.java`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from attrs import frozen

Attributes = tuple[tuple[str, str], ...]
"""Sorted by key, so that equal attributes are equal values."""

Change = tuple[str, str | None]
"""(key, new value), or (key, None) to remove it."""

CHANGES_MAX: Final = 16  # four keys are known; a longer list can only be a mistake


class InvalidAttributes(ValueError):
    """Refused: the change is not understood or not allowed; nothing happened."""


@frozen(kw_only=True)
class Attribute:
    """What one attribute may hold."""

    default: str
    values: frozenset[str] = frozenset()
    """The legal values; empty for a whole number."""
    changeable: bool


KNOWN: Mapping[str, Attribute] = {
    "queue.type": Attribute(
        default="SimpleCQ", values=frozenset({"SimpleCQ", "BatchCQ"}), changeable=False
    ),
    "cleanup.policy": Attribute(
        default="DELETE", values=frozenset({"DELETE", "COMPACTION"}), changeable=False
    ),
    "message.type": Attribute(
        default="NORMAL",
        values=frozenset({"NORMAL", "FIFO", "DELAY", "TRANSACTION", "MIXED", "UNSPECIFIED"}),
        changeable=True,
    ),
    "reserve.time": Attribute(default="-1", changeable=True),
}

_RESERVE_TIME_MIN = -1
_RESERVE_TIME_MAX = 2**63 - 1


def parse_changes(text: str) -> tuple[Change, ...]:
    """The changes a request spells as `+key=value,-key`; blanks around pieces are ignored.

    **Raises** `InvalidAttributes` for anything else, or a key named twice.
    """
    changes: dict[str, str | None] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        sign, rest = piece[0], piece[1:]
        key, equals, value = rest.partition("=")
        key, value = key.strip(), value.strip()
        if sign not in "+-" or not key or bool(equals) != (sign == "+") or (equals and not value):
            raise InvalidAttributes(f"attribute change {piece!r}: expected +key=value or -key")
        if key in changes:
            raise InvalidAttributes(f"attribute {key!r} is named twice")
        changes[key] = value if sign == "+" else None
    return tuple(changes.items())


def altered(current: Attributes | None, changes: Sequence[Change]) -> Attributes:
    """The attributes after the changes; `current` is None for a topic that is being created.

    **Raises** `InvalidAttributes` if a key is unknown, a value illegal, an unchangeable attribute
    would change, or one that is not set would be removed.
    """
    after = dict(current or ())
    if len(changes) > CHANGES_MAX:
        raise InvalidAttributes(f"{len(changes)} attribute changes, {CHANGES_MAX} allowed")
    for key, value in changes:
        known = KNOWN.get(key)
        if known is None:
            raise InvalidAttributes(f"attribute {key!r} is unknown")
        if value is None:
            if key not in after:
                raise InvalidAttributes(f"attribute {key!r} is not set, so it cannot be removed")
            _check_change(known, key, after.pop(key), known.default)
            continue
        _check_value(known, key, value)
        if current is not None:
            _check_change(known, key, after.get(key, known.default), value)
        after[key] = value
    return tuple(sorted(after.items()))


def _check_value(known: Attribute, key: str, value: str) -> None:
    if known.values:
        if value not in known.values:
            expected = ", ".join(sorted(known.values))
            raise InvalidAttributes(f"attribute {key!r} is {value!r}: expected one of {expected}")
        return
    try:
        number = int(value)
    except ValueError:
        raise InvalidAttributes(f"attribute {key!r} is {value!r}: expected a number") from None
    if not _RESERVE_TIME_MIN <= number <= _RESERVE_TIME_MAX:
        raise InvalidAttributes(f"attribute {key!r} is {value!r}: expected -1 or more")


def _check_change(known: Attribute, key: str, before: str, after: str) -> None:
    if before != after and not known.changeable:
        raise InvalidAttributes(f"attribute {key!r} cannot change from {before!r} to {after!r}")
