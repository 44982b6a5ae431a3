"""What a subscription asks for: all messages, some tags, or those an SQL92 expression is true for.

Source: protocol page 04 (§5-7); FilterAPI.java, FilterFactory.java.
"""

from functools import lru_cache
from typing import Final

from broker.errors import ExpressionUnreadable, SubscriptionUnreadable
from broker.filters.errors import FilterError
from broker.filters.sql import SqlFilter, compile_sql
from dledger_py.remoting.commands.heartbeats import (
    SQL_EXPRESSION,
    TAG_EXPRESSION,
    tag_subscription,
)

Wants = frozenset[int] | SqlFilter | None
"""The hashes of tags, or an expression; None for all."""

_REMEMBERED_MAX: Final = 1024  # characters; an expression may have millions


def wanted(expression_type: str | None, expression: str | None) -> Wants:
    """What a subscription asks for. Raises: the refusal, saying what is wrong with it."""
    if expression_type == SQL_EXPRESSION:
        try:
            return compile_sql(expression or "")
        except FilterError as error:
            raise ExpressionUnreadable(str(error)) from error
    if len(expression or "") > _REMEMBERED_MAX:
        return _codes_of(expression_type, expression)
    return _codes(expression_type, expression)


def is_by_tag(expression_type: str | None) -> bool:
    """Whether consumers compare what they get with the expression again."""
    return expression_type in (None, "", TAG_EXPRESSION)


def _codes_of(expression_type: str | None, expression: str | None) -> frozenset[int] | None:
    """The tag hashes a subscription asks for; None for all.

    Hashed here from the text: Go's own hashes differ from Java's for tags outside ASCII.
    """
    if not is_by_tag(expression_type):
        raise ExpressionUnreadable(f"expressions are of type TAG or SQL92, not {expression_type}")
    if expression in (None, "", "*"):
        return None
    codes = frozenset(tag_subscription("", expression).code_set)
    if not codes:
        raise SubscriptionUnreadable(expression or "")
    return codes


_codes = lru_cache(maxsize=4096)(_codes_of)  # one subscription is read at every pull of every queue
