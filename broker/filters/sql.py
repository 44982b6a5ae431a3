"""SQL92 filters: compiled once from their text, then asked message by message.

Laws: compiling raises `FilterError` and nothing else, whatever the text, in time bounded by
`LENGTH_MAX`; asking never raises. Equal texts share one filter while it is among the
`FILTERS_MAX` used last; what was wrong with a text is remembered likewise, so that a client that
repeats its mistake costs nothing. One thread compiles, any may ask.

Source: protocol page 04 §7; SqlFilter.java, ConsumerFilterManager.java.
"""

from functools import lru_cache
from typing import Final

from attrs import field, frozen

from broker.filters.conditions import Evaluate, Meanings, Properties
from broker.filters.errors import FilterError
from broker.filters.grammar import read
from broker.filters.values import Incomparable

LENGTH_MAX: Final = 8_192  # characters; the worst of this length takes 0.1 s to read
FILTERS_MAX: Final = 512  # a group has one for each topic; the largest take some 100 KiB

_MEANINGS: Final = Meanings()


@frozen
class SqlFilter:
    """A compiled expression; equal to another of the same text."""

    text: str
    _evaluate: Evaluate = field(eq=False, repr=False)

    def matches(self, properties: Properties) -> bool:
        """Whether the expression is true for a message with these properties.

        False also if it is null, or if evaluating it fails: that is an error of the whole
        expression, even under OR and NOT.
        """
        try:
            return self._evaluate(properties) is True
        except Incomparable:
            return False


def compile_sql(text: str) -> SqlFilter:
    """The filter of an expression. Raises: FilterError saying what is wrong, and where.

    **Blocks**: for 0.1 s the first time, while the parser is loaded.
    """
    if len(text) > LENGTH_MAX:  # not worth remembering
        raise FilterError(f"{len(text)} characters, at most {LENGTH_MAX} are read", 1, 1)
    found = _compiled(text)
    if isinstance(found, FilterError):
        raise FilterError(found.reason, found.line, found.column)
    return found


@lru_cache(maxsize=FILTERS_MAX)
def _compiled(text: str) -> SqlFilter | FilterError:
    if not text.strip():
        return FilterError("the expression is empty", 1, 1)
    try:
        return SqlFilter(text, read(text, _MEANINGS).evaluate)
    except FilterError as error:
        return error.with_traceback(None)
