"""SQL92 filters: a table from page 04 §7, a model that shares nothing with them, and any text."""

import gc
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.filters.conditions import DEPTH_MAX, PARTS_MAX
from broker.filters.errors import FilterError
from broker.filters.sql import KEPT_MAX, LENGTH_MAX, compile_sql
from tests.broker import filter_model
from tests.broker.filter_model import Number

PROPERTIES = {
    "a": "x",
    "b": "x",
    "n": "5",
    "d": "3.5",
    "big": "3000000000",
    "t": "TRUE",
    "f": "no",
    "quote": "it's",
    "TAGS": "TagA",
    "_$1": "odd",
    "nan": "NaN",
    "zero": "0.0",
    "minus": "-0.0",
    "hex": " 0x1p3d ",
    "ten": "0010",
    "huge": "0x1p9999",
    "low": "-0x1p9999",
}
"""`m` and `m2` are missing."""

TRUE = [
    "a = 'x'",
    "a <> 'y'",
    "a = b",
    "n = 5",
    "5 = n",
    "n = 5L",
    "n = 5.0",
    "n <> 6",
    "n > 4 AND n >= 5 AND n < 6 AND n <= 5",
    "4 < n",
    "n > -1",
    "n > - - 4",
    "+n = 5",
    "d > 3.0",
    "d > 3.4e0 and d < .4E1 and d < 4.",
    "n > d",  # two properties: doubles
    "big > 2999999999",
    "big > 1.0",
    "ten = 10",
    "hex = 8.0",
    "nan > 1e308",
    "huge > 1e308 and low < -1e308",
    "minus < zero",
    "5 = 5.0",
    "2147483648 > 1 and 2147483648 > 1.5",
    "n BETWEEN 5 AND 5",
    "n BETWEEN -1 AND 6",
    "n NOT BETWEEN 6 AND 7",
    "a IN ('y', 'x')",
    "a not in ('y')",
    "quote = 'it''s'",
    "quote CONTAINS '''s'",
    "a CONTAINS 'x'",
    "TAGS STARTSWITH 'Tag'",
    "TAGS ENDSWITH 'gA'",
    "a NOT CONTAINS 'y'",
    "a NOT STARTSWITH 'y'",
    "a NOT ENDSWITH 'y'",
    "t = TRUE",
    "f = FALSE",
    "f <> TRUE",
    "m IS NULL",
    "a IS NOT NULL",
    "m = m2",
    "'x' <> m",
    "(m > 1) IS NULL",
    "(a = 'x') = TRUE",
    "(a = 'y') = (b = 'y')",
    "TRUE",
    "NOT FALSE",
    "NULL IS NULL",
    "-a IS NULL",
    "_$1 = 'odd'",
    "NOT a",  # a bare property is never true, so this always is
    "NOT m OR TRUE",
    "m > 1 OR n > 1",
    "a = 'y' OR a = 'x' AND n = 5",
    "(a = 'y' OR a = 'x') AND n = 5",
    "A = 'x' OR a = 'x'",
    "a='x'and n=5or m=1",
    "a = 'x' -- the rest of the line = 'y'\n AND n = 5",
    "/* one * two **/ a /**/ = /***/ 'x' --",
    "a\t=\r\n\f'x'",
    "Not False aNd tRUE",
]

NOT_TRUE = [
    "a = 'X'",
    "A = 'x'",
    "a",
    "t",
    "m",
    "NOT m",
    "NULL",
    "FALSE",
    "NOT NULL",
    "m = 'x'",
    "m <> 'x'",
    "NOT (m = 'x')",
    "'x' = m",
    "NOT ('x' <> m)",
    "m > 1",
    "NOT (m > 1)",
    "n > m",
    "m BETWEEN 1 AND 2",
    "m NOT BETWEEN 1 AND 2",
    "m IN ('x')",
    "m NOT IN ('x')",
    "m CONTAINS 'x'",
    "m NOT CONTAINS 'x'",
    "m NOT STARTSWITH 'x'",
    "m NOT ENDSWITH 'x'",
    "a CONTAINS ''",
    "a NOT CONTAINS ''",
    "5 CONTAINS '5'",
    "5 NOT CONTAINS '5'",
    "m IS NOT NULL",
    "a IS NULL",
    "m <> m2",
    "d = 3",  # 3.5 is no Integer: an error
    "NOT (d = 3)",
    "d = 3 OR TRUE",
    "d > 3",
    "a > 1",
    "a > 1.0",
    "a > b",  # no doubles
    "big > 5",  # does not fit the literal's type
    "TRUE = t",
    "(a = 'x') = 'true'",
    "NOT ((a = 'x') = 'true')",
    "(a = 'x') = 1",
    "minus = zero",
    "-(TRUE = t) IS NULL",  # the error comes first
    "NOT a = 'x'",  # NOT binds to a alone, and a boolean is compared with a string
    "-a = 1",
    "m AND TRUE",
    "a = 'x' AND m > 1",
    "n BETWEEN 6 AND -7",  # only literals are compared beforehand
]


@pytest.mark.parametrize("text", TRUE)
def test_an_expression_is_true(text) -> None:
    assert compile_sql(text).matches(PROPERTIES)


@pytest.mark.parametrize("text", NOT_TRUE)
def test_an_expression_is_false_or_null_or_an_error(text) -> None:
    assert not compile_sql(text).matches(PROPERTIES)


def test_what_decides_hides_an_error_behind_it_and_none_in_front_of_it() -> None:
    assert compile_sql("a = 'x' OR d = 1").matches(PROPERTIES)
    assert not compile_sql("d = 1 OR a = 'x'").matches(PROPERTIES)
    assert compile_sql("NOT (a = 'y' AND d = 1)").matches(PROPERTIES)
    assert not compile_sql("NOT (d = 1 AND a = 'y')").matches(PROPERTIES)


REFUSED = {
    "": (1, 1, "empty"),
    " \n": (1, 1, "empty"),
    "a =": (1, 4, "ends too early"),
    "a = 'x' AND\n": (2, 1, "ends too early"),
    "a = 'x' b": (1, 9, "b is not expected"),
    "a = 'x'\n AND ) b": (2, 6, ") is not expected"),
    "(a = 'x'": (1, 9, "ends too early"),
    "a = 'x": (1, 5, "no end"),
    "a = 1 /* x": (1, 7, "no end"),
    'a = "x"': (1, 5, "single quotes"),
    "a = ä": (1, 5, "'ä' is not expected"),
    "a LIKE 'x%'": (1, 3, "LIKE is not expected"),
    "a + 1 = 2": (1, 3, "+ is not expected"),
    "a == 1": (1, 4, "= is not expected"),
    "a != 1": (1, 3, "'!' is not expected"),
    "lower(a) = 'x'": (1, 6, "( is not expected"),
    "in = 1": (1, 1, "in is not expected"),
    "5": (1, 1, "no condition"),
    "'x' AND TRUE": (1, 1, "no condition"),
    "NOT 'x'": (1, 5, "no condition"),
    "-a": (1, 1, "no condition"),
    "a > 'x'": (1, 5, "order"),
    "'x' <= a": (1, 1, "order"),
    "a > TRUE": (1, 5, "order"),
    "a > NULL": (1, 5, "order"),
    "(a = 1) > 1": (1, 4, "order"),
    "a > 1 > 2": (1, 3, "order"),
    "a = NULL": (1, 5, "IS NULL"),
    "NULL <> a": (1, 1, "IS NULL"),
    "TRUE = 'x'": (1, 8, "boolean"),
    "a BETWEEN 'a' AND 'b'": (1, 11, "order"),
    "a BETWEEN NULL AND 1": (1, 11, "order"),
    "a BETWEEN 3 AND 2": (1, 11, "above"),
    "a BETWEEN 3.5 AND 3": (1, 11, "above"),
    "a IN (1)": (1, 7, "1 is not expected"),
    "a IN ()": (1, 7, ") is not expected"),
    "'a' IN ('a')": (1, 1, "property"),
    "NOT a IN ('x')": (1, 1, "property"),
    "a CONTAINS 1": (1, 12, "1 is not expected"),
    "a CONTAINS b": (1, 12, "b is not expected"),
    "a = 9223372036854775808": (1, 5, "64 bits"),
    "a = " + "9" * 5000: (1, 5, "64 bits"),
    "a = 007": (1, 5, "begins with 0"),
    "a = 0.0": (1, 5, "too small"),
    "a = 1e-400": (1, 5, "too small"),
    "a = 1e400": (1, 5, "too large"),
    "a = 'x'" + " " * LENGTH_MAX: (1, 1, "at most"),
    "a = 'x' AND " + "b" * 50 + " c" * 2: (1, 64, "c is not expected"),
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:30])
def test_an_error_says_what_is_wrong_and_where(text) -> None:
    line, column, reason = REFUSED[text]
    with pytest.raises(FilterError) as caught:
        compile_sql(text)

    assert (line, column) == (caught.value.line, caught.value.column)
    assert reason in str(caught.value)


def test_a_mistake_is_the_same_mistake_again() -> None:
    for _ in range(2):
        with pytest.raises(FilterError, match="line 1, column 9: 'the same'"):
            compile_sql("a = 'x' 'the same'")


# --- bounds ---


def test_filters_are_shared_while_they_are_in_use_and_let_go_of_later() -> None:
    long = "n = {} --" + "x" * 8_000
    first, used = compile_sql(long.format(0)), compile_sql("n = 5")
    for number in range(1, KEPT_MAX // 8_000 + 1):
        compile_sql(long.format(number))
        assert compile_sql("n = 5") is used

    assert compile_sql(long.format(0)) is not first


def test_of_a_mistake_only_the_mistake_is_remembered() -> None:
    compiles(")")
    tracemalloc.start()
    for number in range(10):
        compiles("(" * 4_000 + str(number))
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert used < 10 * 20_000  # the parser's stack takes a megabyte for each


def test_parentheses_cost_no_depth_and_no_stack() -> None:
    many = LENGTH_MAX // 2 - 5

    assert compile_sql("(" * many + "a = 'x'" + ")" * many).matches(PROPERTIES)


@pytest.mark.parametrize(
    "deeper", ["NOT ({})", "({}) = TRUE", "({}) IS NOT NULL", "(n=5 AND ({}))"]
)
def test_depth_is_bounded(deeper) -> None:
    text = "n = 5"
    for _ in range(DEPTH_MAX - 2):
        text = deeper.format(text)
    compile_sql(text).matches(PROPERTIES)  # as deep as it may be

    deepest = deeper.format(deeper.format(deeper.format(text)))
    with pytest.raises(FilterError, match="deep"):
        compile_sql(deepest)


def test_chains_are_long_rather_than_deep_and_bounded_too() -> None:
    terms = (PARTS_MAX - 1) // 3

    assert compile_sql("n=4 OR " * (terms - 1) + "n=5").matches(PROPERTIES)
    with pytest.raises(FilterError, match="1024 operands"):
        compile_sql("n=4 OR " * terms + "n=5")


@pytest.mark.parametrize(
    "text",
    [
        "(" * LENGTH_MAX,
        "+" * (LENGTH_MAX - 1) + "a",
        "- " * (LENGTH_MAX // 2 - 1) + "a",
        "NOT " * (LENGTH_MAX // 4 - 1) + "a",
        "'" * (LENGTH_MAX - 1),
        "/*" * (LENGTH_MAX // 2),
        "/" + "*" * (LENGTH_MAX - 1),
        "1" * LENGTH_MAX,
        "1e" + "1" * (LENGTH_MAX - 2),
        "." * LENGTH_MAX,
        "a=1 OR " * (LENGTH_MAX // 7) + "a",
        "a=" * (LENGTH_MAX // 2) + "a",
        "\n" * LENGTH_MAX,
    ],
    ids=lambda text: text[:8],
)
def test_the_worst_texts_take_no_time_to_speak_of(text) -> None:
    began = time.process_time()
    compiles(text)

    assert time.process_time() - began < 2  # some 0.1 s; a power of the length would take minutes


def test_a_value_as_long_as_properties_get_is_no_trouble() -> None:
    for digits in ("9" * 30_000, "0" * 30_000 + "5", "0." + "9" * 30_000, "x" * 30_000):
        for text in ("v > 1", "v > 4000000000", "v > 0.5", "v = TRUE", "v CONTAINS '99999x'"):
            compile_sql(text).matches({"v": digits})

    assert compile_sql("v = 5").matches({"v": "0" * 30_000 + "5"})
    assert not compile_sql("v > 5").matches({"v": "9" * 30_000})


@pytest.mark.parametrize(
    "nearly", ["9" * 32_000 + "x", "0" * 32_000 + "x", "9" * 16_000 + "." + "9" * 16_000 + "ex"]
)
@pytest.mark.parametrize("text", ["v > 0.5", "v > 1", "v > 4000000000"])
def test_a_long_value_that_is_nearly_a_number_takes_no_time_to_speak_of(nearly, text) -> None:
    condition = compile_sql(text)
    began = time.process_time()
    for _ in range(20):
        assert not condition.matches({"v": nearly})

    assert time.process_time() - began < 0.4  # a few ms; a power of the length took minutes


def compiles(text: str) -> bool:
    """Whether it does; if not, then with the one error there is, at a place within the text."""
    try:
        compile_sql(text).matches({})
    except FilterError as error:
        lines = f"{text}\n".split("\n")
        within = 1 <= error.column <= len(lines[error.line - 1]) + 1
        if not within:
            pytest.fail(f"{error}, of {text!r}")
        return False
    return True


# --- any text, any tree ---

PIECES = """
    a b n NOT AND OR IS NULL IN BETWEEN CONTAINS STARTSWITH ENDSWITH TRUE FALSE ( ) , = <> < > <= >=
    + - 1 2L 3.5 .5e3 007 9223372036854775808 0.0 'x' '' ' -- /* */ " ; \u017f \u0131 \u212a
"""
WORDS = st.sampled_from((*PIECES.split(), "\n"))


@given(st.text())
def test_any_text_is_a_filter_or_the_one_error(text) -> None:
    compiles(text)


@given(st.lists(WORDS, max_size=30))
def test_any_words_are_a_filter_or_the_one_error(words) -> None:
    compiles(" ".join(words))
    compiles("".join(words))


NAMES = st.sampled_from("abcde")
TEXTS = st.sampled_from(
    (
        *("", "x", "xy", "it's", "true", "TRUE", "5", "-5", "+5", " 5", "5.0", "3.5", "-0.0", "0"),
        *("NaN", "2147483648", "9223372036854775808", "1e3", "5_0", "inf"),
    )
)
VALUES = TEXTS.filter(bool)  # properties are never empty
NUMBERS = st.one_of(
    st.integers(0, 9).map(lambda n: Number("int", n)),
    st.sampled_from([2**31 - 1]).map(lambda n: Number("int", n)),
    st.sampled_from([2**31, 2**63 - 1]).map(lambda n: Number("long", n)),
    st.sampled_from([0.5, 3.5, 5.0, 1000.0, 1e300, 2.0**63]).map(lambda n: Number("double", n)),
)
LITERALS = st.one_of(TEXTS, NUMBERS, st.booleans(), st.none()).map(lambda v: ("literal", v))
OPERANDS = st.one_of(NAMES.map(lambda name: ("property", name)), LITERALS)


NEGATED = OPERANDS.map(lambda tree: ("minus", tree))
NUMERIC = st.one_of(
    NAMES.map(lambda name: ("property", name)), NUMBERS.map(lambda v: ("literal", v)), NEGATED
)
SEARCHES = [f"{no}{kind}" for no in ("", "not ") for kind in ("contains", "startswith", "endswith")]
COMPARISONS = st.one_of(
    st.tuples(st.sampled_from(["=", "<>"]), OPERANDS, OPERANDS),
    st.tuples(st.sampled_from([">", ">=", "<", "<="]), NUMERIC, NUMERIC),
    st.tuples(st.sampled_from(["between", "not between"]), NUMERIC, NUMERIC, NUMERIC),
    st.tuples(
        st.sampled_from(["in", "not in"]),
        NAMES.map(lambda name: ("property", name)),
        st.lists(TEXTS, min_size=1, max_size=3),
    ),
    st.tuples(st.sampled_from(SEARCHES), OPERANDS, TEXTS),
    st.tuples(st.sampled_from(["is null", "is not null"]), OPERANDS),
)


def larger(trees: st.SearchStrategy) -> st.SearchStrategy:
    mixed = st.one_of(trees, OPERANDS)
    return st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), trees, trees),
        st.tuples(st.sampled_from(["=", "<>"]), mixed, mixed),
        st.tuples(st.sampled_from(["not", "minus", "is null", "is not null"]), trees),
        st.tuples(st.sampled_from(SEARCHES), trees, TEXTS),
    )


TREES = st.recursive(st.one_of(COMPARISONS, OPERANDS), larger, max_leaves=8)


@settings(max_examples=500)
@given(TREES, st.dictionaries(NAMES, VALUES))
def test_a_filter_agrees_with_the_model(tree, properties) -> None:
    text = filter_model.text_of(tree)
    try:
        compiled = compile_sql(text)
    except FilterError:
        return  # a third of the trees: they mean nothing

    assert filter_model.matches(tree, properties) == compiled.matches(properties), text
