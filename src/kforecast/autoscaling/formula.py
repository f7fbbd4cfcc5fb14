"""KEDA's ``scalingModifiers.formula``: arithmetic over the values of triggers, for all lanes at once.

KEDA evaluates formulas with the language Expr (https://expr-lang.org/docs/language-definition). This module
knows its numbers, booleans and conditions. It refuses everything else by name; nothing is run as code.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Values = Mapping[str, np.ndarray]
Evaluate = Callable[[Values], np.ndarray]
Kind = Literal["number", "bool", "nil"]

_TOKEN = re.compile(
    r"\s*(?:(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|([A-Za-z_]\w*)|(\?\?|\*\*|&&|\|\||[<>=!]=|[-+*/^()<>!?:,\[\]]))"
)
# Precedence of Expr's binary operators.
_BINARY = {"||": 10, "&&": 15, "==": 20, "!=": 20, "<": 20, ">": 20, ">=": 20, "<=": 20}
_BINARY |= {"+": 30, "-": 30, "*": 60, "/": 60, "**": 100, "??": 500}
_UNARY = {"!": 50, "-": 90, "+": 90}
_SYNONYMS = {"and": "&&", "or": "||", "not": "!", "^": "**"}
_LONGEST = 1000
# Each operator of a chain is a call within a call when the formula is evaluated.
_MOST_TOKENS, _DEEPEST = 300, 50


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of a formula. Its values are finite; NaN for ``nil``; infinite where Expr fails."""

    kind: Kind
    value: Evaluate


class Formula:
    """A formula over named values.

    Attributes
    ----------
    names:
        Names of the values in it.

    Raises
    ------
    ValueError
        When it is not understood; the message names the place.
    """

    def __init__(self, text: str) -> None:
        self.names: set[str] = set()
        if len(text) > _LONGEST:
            raise ValueError(f"it has more than {_LONGEST:,} characters")
        self._tokens = _tokens(text)
        if len(self._tokens) > _MOST_TOKENS:
            raise ValueError(f"it has more than {_MOST_TOKENS} numbers, names and signs")
        self._at = self._depth = 0
        node = self._expression(0)
        if self._at < len(self._tokens):
            raise ValueError(f"{self._tokens[self._at]!r} was not expected")
        self._evaluate = _number(node, "its result")

    def __call__(self, values: Values) -> np.ndarray:
        """The result for each lane, float64 ``[lanes]``.

        Parameters
        ----------
        values:
            float64 ``[lanes]`` of each name; NaN for ``nil``. The result is NaN where the formula fails.
        """
        with np.errstate(all="ignore"):
            found = np.asarray(self._evaluate(values), dtype=np.float64)
        lanes = next((len(value) for value in values.values()), 1)
        return np.broadcast_to(np.where(np.isfinite(found), found, np.nan), lanes)

    def _next(self) -> str:
        if self._at == len(self._tokens):
            raise ValueError("it ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def _accept(self, sign: str) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at] == sign
        self._at += found
        return found

    def _expect(self, sign: str) -> None:
        if not self._accept(sign):
            found = repr(self._tokens[self._at]) if self._at < len(self._tokens) else "its end"
            raise ValueError(f"{sign!r} was expected, not {found}")

    def _expression(self, lowest: int) -> _Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        left = self._operand()
        while self._at < len(self._tokens):
            sign = self._tokens[self._at]
            rank = _BINARY.get(sign, -1)
            if rank < lowest:
                break
            self._at += 1
            left = _binary(sign, left, self._expression(rank if sign == "**" else rank + 1))
        if lowest == 0 and self._accept("?"):
            chosen = self._expression(0)
            self._expect(":")
            left = _choice(left, chosen, self._expression(0))
        self._depth -= 1
        return left

    def _operand(self) -> _Node:
        token = self._next()
        if token in _UNARY:
            return _unary(token, self._expression(_UNARY[token]))
        if token == "(":
            inside = self._expression(0)
            self._expect(")")
            return inside
        if token[0].isdigit():
            return _constant("number", float(token))
        if not token[0].isalpha() and token[0] != "_":
            raise ValueError(f"{token!r} was not expected")
        if self._accept("("):
            return _call(token, self._arguments(")"))
        if token in ("true", "false"):
            return _constant("bool", float(token == "true"))
        if token == "nil":
            return _constant("nil", np.nan)
        self.names.add(token)
        return _Node("number", lambda values: values[token])

    def _arguments(self, end: str) -> list[_Node]:
        found: list[_Node] = []
        while not self._accept(end):
            if found:
                self._expect(",")
            if self._accept("["):
                found += self._arguments("]")
            else:
                found.append(self._expression(0))
        return found


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"{text[at:].strip()[:20]!r} is not understood")
        token = match[1] or match[2] or match[3]
        found.append(_SYNONYMS.get(token, token))
        at = match.end()
    if not found:
        raise ValueError("it is empty")
    return found


def _constant(kind: Kind, value: float) -> _Node:
    return _Node(kind, lambda _: np.asarray(value))


def _number(node: _Node, place: str) -> Evaluate:
    if node.kind != "number":
        raise ValueError(f"{place} is not a number")
    return node.value


def _truth(node: _Node, place: str) -> Evaluate:
    if node.kind != "bool":
        raise ValueError(f"{place} is not true or false")
    return node.value


_ARITHMETIC: dict[str, np.ufunc] = {
    **{"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "**": np.power},
}
_COMPARISONS: dict[str, np.ufunc] = {
    **{"==": np.equal, "!=": np.not_equal, "<": np.less, ">": np.greater},
    **{"<=": np.less_equal, ">=": np.greater_equal},
}


def _strict(operation: Callable[..., np.ndarray], *operands: Evaluate) -> Evaluate:
    """An operation that fails on ``nil``, and where its result is not finite."""

    def evaluate(values: Values) -> np.ndarray:
        found = np.broadcast_arrays(*(operand(values) for operand in operands))
        result = operation(*found).astype(np.float64)
        usable = np.isfinite(found).all(axis=0) & np.isfinite(result)
        return np.where(usable, result, np.inf)

    return evaluate


def _either(passed_over: Callable[[np.ndarray], np.ndarray], first: Evaluate, second: Evaluate) -> Evaluate:
    """The first value, or the second one where the first is passed over; each is evaluated once."""

    def evaluate(values: Values) -> np.ndarray:
        found = first(values)
        return np.where(passed_over(found), second(values), found)

    return evaluate


def _binary(sign: str, left: _Node, right: _Node) -> _Node:
    if sign == "??":
        kind = _kind(left, right, "the sides of '??'")
        return _Node(kind, _either(np.isnan, left.value, right.value))
    if sign in ("&&", "||"):
        a, b = _truth(left, f"a side of {sign!r}"), _truth(right, f"a side of {sign!r}")
        decides = float(sign == "||")
        # A left side that decides is enough, whatever the right one is.
        return _Node("bool", _either(lambda one: ~np.isin(one, (decides, np.inf)), a, b))
    if "nil" in (left.kind, right.kind) and sign in ("==", "!="):
        one, is_nil = (right if left.kind == "nil" else left), float(sign == "==")
        return _Node(
            "bool",
            lambda v: np.where(np.isinf(one.value(v)), np.inf, abs(1.0 - is_nil - np.isnan(one.value(v)))),
        )
    if sign in ("==", "!=") and left.kind == right.kind == "bool":
        a, b = left.value, right.value
    else:
        a, b = _number(left, f"a side of {sign!r}"), _number(right, f"a side of {sign!r}")
    kind = "bool" if sign in _COMPARISONS else "number"
    return _Node(kind, _strict(_COMPARISONS.get(sign) or _ARITHMETIC[sign], a, b))


def _unary(sign: str, node: _Node) -> _Node:
    if sign == "!":
        return _Node("bool", _strict(lambda one: 1.0 - one, _truth(node, "the operand of 'not'")))
    number = _number(node, f"the operand of {sign!r}")
    return _Node("number", _strict(np.negative, number) if sign == "-" else number)


def _choice(condition: _Node, chosen: _Node, other: _Node) -> _Node:
    truth = _truth(condition, "the condition before '?'")
    kind = _kind(chosen, other, "the results after '?'")

    def evaluate(values: Values) -> np.ndarray:
        true = truth(values)
        return np.where(np.isinf(true), np.inf, np.where(true > 0, chosen.value(values), other.value(values)))

    return _Node(kind, evaluate)


def _kind(one: _Node, other: _Node, place: str) -> Kind:
    if "nil" not in (one.kind, other.kind) and one.kind != other.kind:
        raise ValueError(f"{place} are a number and a truth")
    return other.kind if one.kind == "nil" else one.kind


def _rounded(found: np.ndarray) -> np.ndarray:
    """Halves away from zero, as Go rounds them."""
    return np.asarray(np.copysign(np.floor(np.abs(found) + 0.5), found))


def _median(*found: np.ndarray) -> np.ndarray:
    return np.asarray(np.median(found, axis=0))


_OF_ONE: dict[str, Callable[..., np.ndarray]] = {
    **{"abs": np.abs, "ceil": np.ceil, "floor": np.floor, "round": _rounded},
}
_OF_MANY: dict[str, Callable[..., np.ndarray]] = {
    "max": lambda *found: np.asarray(np.max(found, axis=0)),
    "min": lambda *found: np.asarray(np.min(found, axis=0)),
    "sum": lambda *found: np.asarray(np.sum(found, axis=0)),
    "mean": lambda *found: np.asarray(np.mean(found, axis=0)),
    "median": _median,
}


def _call(name: str, arguments: list[_Node]) -> _Node:
    numbers = [_number(one, f"an argument of {name}()") for one in arguments]
    if name in _OF_ONE and len(numbers) == 1:
        return _Node("number", _strict(_OF_ONE[name], *numbers))
    if name in _OF_MANY and numbers:
        return _Node("number", _strict(_OF_MANY[name], *numbers))
    known = ", ".join(sorted([*_OF_ONE, *_OF_MANY]))
    raise ValueError(f"{name}() of {len(numbers)} values is not understood; known: {known}")
