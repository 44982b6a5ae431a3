"""SQL92 filters: compiled once from their text, then asked message by message.

Laws: compiling raises `FilterError` and nothing else, whatever the text, in time bounded by
`LENGTH_MAX`; asking never raises. Equal texts share one filter while it is among those used last,
of `KEPT_MAX` characters in all; what was wrong with a text is remembered likewise, so that a client
that repeats its mistake costs nothing. One thread compiles, any may ask.

Source: protocol page 04 §7; SqlFilter.java, ConsumerFilterManager.java.
"""

from typing import Final

from attrs import define, field, frozen

from broker.filters.conditions import Evaluate, Meanings, Properties
from broker.filters.errors import FilterError
from broker.filters.grammar import read
from broker.filters.values import Incomparable

LENGTH_MAX: Final = 8_192  # characters; the worst of this length takes 0.1 s to read
KEPT_MAX: Final = 512 * 1024  # characters; a filter takes up to 100 bytes for each of them
_OVERHEAD: Final = 64  # characters' worth of keeping anything at all

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
    found = _KEPT.get(text)
    if isinstance(found, FilterError):
        raise FilterError(found.reason, found.line, found.column)
    return found


@define(eq=False)
class _Kept:
    """Filters and mistakes by their text, the ones used last at the end."""

    _found: dict[str, SqlFilter | FilterError] = field(factory=dict)
    _size: int = 0

    def get(self, text: str) -> SqlFilter | FilterError:
        found = self._found.pop(text, None)
        if found is None:
            found = _compiled(text)
            self._size += len(text) + _OVERHEAD
        self._found[text] = found
        while self._size > KEPT_MAX:
            oldest = next(iter(self._found))
            del self._found[oldest]
            self._size -= len(oldest) + _OVERHEAD
        return found


_KEPT: Final = _Kept()


def _compiled(text: str) -> SqlFilter | FilterError:
    if not text.strip():
        return FilterError("the expression is empty", 1, 1)
    try:
        return SqlFilter(text, read(text, _MEANINGS).evaluate)
    except FilterError as error:
        # Not the error itself: behind it is the parser's, with all that was on its stack.
        return FilterError(error.reason, error.line, error.column)
