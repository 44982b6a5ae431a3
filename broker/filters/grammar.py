"""The grammar of filter expressions, for an LALR(1) parser.

Laws: reading takes time in proportion to the text, and no stack of ours however deep it nests.
Words are reserved whatever their case and wherever they stand. The whole text has to be one
expression: RocketMQ's parser stops where one ends and ignores what follows, so that a mistake
there changes what a consumer gets without a word.

The library costs more to import than a broker needs to start with, so it comes with the first
expression. Source: protocol page 04 §7; SelectorParser.jj.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from broker.filters.errors import FilterError

if TYPE_CHECKING:
    from lark import Lark, Token

WORDS: Final = frozenset(
    ("AND", "OR", "NOT", "IS", "NULL", "IN", "BETWEEN", "CONTAINS", "STARTSWITH", "ENDSWITH")
) | {"TRUE", "FALSE"}

_GRAMMAR: Final = r"""
start: or_
?or_: and_ (OR and_)*
?and_: equality (AND equality)*
?equality: comparison
    | equality EQUAL comparison -> equal
    | equality UNEQUAL comparison -> unequal
    | equality IS NULL -> is_null
    | equality IS NOT NULL -> is_not_null
?comparison: unary
    | comparison (GREATER | GREATER_EQUAL | LESS | LESS_EQUAL) unary -> ordered
    | comparison (CONTAINS | STARTSWITH | ENDSWITH) STRING -> search
    | comparison NOT (CONTAINS | STARTSWITH | ENDSWITH) STRING -> search_not
    | comparison BETWEEN unary AND unary -> between
    | comparison NOT BETWEEN unary AND unary -> not_between
    | comparison IN "(" STRING ("," STRING)* ")" -> within
    | comparison NOT IN "(" STRING ("," STRING)* ")" -> not_within
?unary: primary
    | "+" unary
    | MINUS unary -> negative
    | NOT unary -> not_
?primary: "(" or_ ")"
    | NAME -> property
    | STRING -> string
    | WHOLE -> whole
    | DECIMAL -> decimal
    | TRUE -> boolean
    | FALSE -> boolean
    | NULL -> null

%declare AND OR NOT IS NULL IN BETWEEN CONTAINS STARTSWITH ENDSWITH TRUE FALSE
EQUAL: "="
UNEQUAL: "<>"
GREATER: ">"
GREATER_EQUAL: ">="
LESS: "<"
LESS_EQUAL: "<="
MINUS: "-"
NAME: /[A-Za-z_$][A-Za-z0-9_$]*/
STRING: /'[^']*(''[^']*)*'/
DECIMAL.2: /([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+/
WHOLE: /[0-9]+[lL]?/
BLANKS: /[ \t\r\n\f]+/
LINE_COMMENT.2: /--[^\r\n]*/
BLOCK_COMMENT.2: /\/\*([^*]|\*(?!\/))*\*\//
%ignore BLANKS
%ignore LINE_COMMENT
%ignore BLOCK_COMMENT
"""


def read(text: str, meanings: Any) -> Any:
    """What `meanings` (a Lark transformer) makes of the text.

    Raises: FilterError where the text stops being an expression; whatever `meanings` raises.
    """
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    try:
        return _parser(meanings).parse(text)
    except UnexpectedCharacters as error:
        raise FilterError(
            _bad_start(text, error.pos_in_stream or 0), error.line, error.column
        ) from None
    except UnexpectedToken as error:
        raise _misplaced(text, error.token) from None


@cache
def _parser(meanings: Any) -> "Lark":
    """The tables are built once for each set of meanings; there is one."""
    from lark import Lark

    return Lark(
        _GRAMMAR,
        parser="lalr",
        lexer="basic",
        transformer=meanings,
        lexer_callbacks={"NAME": _word_or_name},
        maybe_placeholders=False,
    )


def _word_or_name(token: "Token") -> "Token":
    upper = token.upper()
    return token.update(type=upper) if upper in WORDS else token


def _misplaced(text: str, token: "Token") -> FilterError:
    if token.type == "$END":
        line = text.count("\n") + 1
        return FilterError("the expression ends too early", line, len(text) - text.rfind("\n"))
    shown = token if len(token) <= 40 else f"{token[:40]}…"
    assert token.line is not None
    assert token.column is not None
    return FilterError(f"{shown!s} is not expected here", token.line, token.column)


def _bad_start(text: str, at: int) -> str:
    if text[at] == "'":
        return "a string has no end"
    if text[at] == '"':
        return "strings are in single quotes"
    if text.startswith("/*", at):
        return "a comment has no end"
    return f"the character {text[at]!r} is not expected here"
