"""KEDA's formulas: values of triggers, nil, and what is refused."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kforecast.autoscaling.formula import Formula

NIL = np.nan
VALUES = {
    "a": np.array([1.0, NIL, 3.0]),
    "b": np.array([2.0, 5.0, 0.0]),
    "trig_one": np.array([NIL, 1.0, 4.0]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", [1, NIL, 3]),
        ("5", [5, 5, 5]),
        ("(b + 1) * 2 - 0.5", [5.5, 11.5, 1.5]),
        ("-b ** 2", [-4, -25, 0]),
        ("2 ^ 3 ^ b", [512, 2.0**243, 2]),
        ("a ?? b", [1, 5, 3]),
        ("trig_one ?? a ?? 7", [1, 1, 4]),
        ("b + a ?? 10", [3, 15, 3]),  # ?? binds before everything else
        ("(b + a) ?? 10", [3, NIL, 3]),  # arithmetic on nil fails
        ("max(a ?? 0, b, 2)", [2, 5, 3]),
        ("min([b, 3]) + sum([1, b]) + mean([b, 4]) + median([1, b, 9])", [10, 18.5, 4]),
        ("b > 1 ? 10 : 20", [10, 10, 20]),
        ("b > 1 and not (b > 4) || b == 0 ? 1 : 0", [1, 0, 1]),
        ("a > 2 ? 1 : 0", [0, NIL, 1]),
        ("a == nil ? -1 : a", [1, -1, 3]),
        ("a != nil && a > 2 ? 1 : 0", [0, 0, 1]),
        ("1 / b", [0.5, 0.2, NIL]),  # infinite: nothing that can be used
        ("round(2.5) + round(-2.5) + ceil(0.2) + floor(0.8) + abs(-3)", [4, 4, 4]),
    ],
)
def test_values(text: str, expected: list[float]) -> None:
    np.testing.assert_array_equal(Formula(text)(VALUES), expected)


def test_names() -> None:
    assert Formula("max(a, b) + c ?? 1").names == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("a +", "it ends too early"),
        ("a b", "'b' was not expected"),
        ("a % b", "'% b' is not understood"),
        ("(a", "')' was expected, not its end"),
        ("a > 1", "its result is not a number"),
        ("(a > 1) + 2", "a side of '+' is not a number"),
        ("a && b ? 1 : 2", "a side of '&&' is not true or false"),
        ("1 ? 2 : 3", "the condition before '?' is not true or false"),
        ("a > 1 ? 1 : true", "the results after '?' are a number and a truth"),
        ("len(a)", "len() of 1 values is not understood; known: abs, ceil, floor"),
        ("abs(a, b)", "abs() of 2 values is not understood"),
        ("count([a, b], {# > 1})", "'{# > 1})' is not understood"),
        ('"text"', "is not understood"),
        ("a.b", "'.b' is not understood"),
        ("__import__('os')", "is not understood"),
        ("(" * 100 + "a" + ")" * 100, "it is nested too deeply"),
        ("-" * 200 + "a", "it is nested too deeply"),
        ("a + " * 500 + "a", "it has more than 1,000 characters"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Formula(text)


@given(st.text("ab12.+-*/^?:()[],<>=!&| \n", max_size=40))
def test_any_text_is_a_formula_or_is_refused(text: str) -> None:
    try:
        formula = Formula(text)
    except ValueError:
        return
    assert formula({name: np.array([2.0, NIL]) for name in {*formula.names, "other"}}).shape == (2,)


@pytest.mark.parametrize("sign", ["??", "+", "=="])
def test_a_long_chain_is_quick_or_refused(sign: str) -> None:
    values = {"a": np.array([1.0, np.nan])}
    chain = f"a{f'{sign}a' * 100}"
    if sign == "==":
        chain = f"(1 == 1{' and a == a or a == a' * 30}) ? a : a"
    Formula(chain)(values)
    with pytest.raises(ValueError, match="more than 300"):
        Formula(f"a{f'{sign}a' * 300}")
