"""Formulas as numbers: the value of one entry, and the same formula with its numbers filled in."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from nnjit.explain.figures import figure
from nnjit.explain.formula import Formula, indices_of, limits_of

WHOLE, TERMS = 27, 12
"""A sum of up to so many terms is written out, as a kernel of 3x3x3 or 5x5 gives it; of others, so many terms."""

Environment: TypeAlias = Mapping[str, Any]
"""Arrays by name, and the values of indices and other numbers."""


class Defined:
    """An array, or a number of shape (), that a formula defines, evaluated where it is read."""

    def __init__(self, formula: Formula, shape: tuple[int, ...], environment: Environment) -> None:
        self.shape = shape
        self._formula = formula
        self._environment = environment
        self._known: dict[tuple[int, ...], float] = {}

    def __getitem__(self, place: tuple[int, ...]) -> float:
        if place not in self._known:
            self._known[place] = value_at(self._formula, place, self._environment)
        return self._known[place]

    def read(self, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The entries from index 0 on that fill `shape`."""
        return np.array([self[place] for place in np.ndindex(shape)]).reshape(shape)


def value_at(formula: Formula, place: tuple[int, ...], environment: Environment) -> float:
    """The right side of a formula at one entry of its left side."""
    value = evaluate(formula.sides[-1], {**environment, **dict(zip(formula.indices, place, strict=True))})
    return 0.0 if value is None else float(value)


def filled_in(formula: Formula, place: tuple[int, ...], environment: Environment) -> Formula:
    """The formula at one entry, with numbers for what it reads, and its value; terms that are 0 are left out."""
    inside = {**environment, **dict(zip(formula.indices, place, strict=True))}
    left, right = formula.sides[0], _fill(formula.sides[-1], inside)
    if isinstance(left, ast.Subscript):
        left = ast.Subscript(left.value, ast.Tuple([ast.Constant(index) for index in place]))
    value = ast.Constant(value_at(formula, place, environment))
    between = () if isinstance(right, ast.Constant) else (right,)
    return Formula((left, *between, value), formula.names)


def evaluate(node: ast.expr, environment: Environment) -> float | None:
    """The value of a part of a formula; None if it is absent."""
    match node:
        case ast.Constant(value=value):
            return value  # type: ignore[return-value]
        case ast.Name(id=name):
            number = environment[name]
            return number[()] if isinstance(number, Defined) else number
        case ast.Subscript(value=ast.Name(id=name)):
            return _read(environment[name], [evaluate(index, environment) for index in indices_of(node)])
        case ast.UnaryOp(operand=operand):
            value = evaluate(operand, environment)
            return None if value is None else -value
        case ast.BinOp(left=left, op=op, right=right):
            a, b = evaluate(left, environment), evaluate(right, environment)
            if isinstance(op, ast.Add | ast.Sub):
                return OPERATIONS[type(op)](a or 0, b or 0)
            return None if a is None or b is None else OPERATIONS[type(op)](a, b)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            a, b = evaluate(left, environment), evaluate(right, environment)
            return None if a is None or b is None else int(OPERATIONS[type(op)](a, b))
        case ast.Call(func=ast.Name(id=name), args=[body], keywords=[_, *_]):
            return OVER_INDICES[name]([evaluate(body, inside) for inside in _places(node, environment)])
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return FUNCTIONS[name](*(evaluate(argument, environment) or 0 for argument in arguments))
    raise ValueError(f"no value for {ast.unparse(node)!r}")


def _read(array: Any, place: list[float | None]) -> float | None:
    """The entry at `place`; None outside the array and at what is no whole number."""
    if any(index is None or index != int(index) for index in place):
        return None
    whole = tuple(int(index or 0) for index in place)
    inside = all(0 <= index < size for index, size in zip(whole, array.shape, strict=True))
    return float(array[whole]) if inside else None


def _places(call: ast.Call, environment: Environment) -> Iterator[Environment]:
    """The environment at each value of the indices that a sum runs over, the last index fastest."""
    names, sizes = zip(*limits_of(call), strict=True)
    for place in product(*map(range, sizes)):
        yield {**environment, **dict(zip(names, place, strict=True))}


def _fill(node: ast.expr, environment: Environment) -> ast.expr:
    match node:
        case ast.Subscript() | ast.Name():
            return ast.Constant(evaluate(node, environment) or 0)
        case ast.UnaryOp(op=op, operand=operand):
            return ast.UnaryOp(op, _fill(operand, environment))
        case ast.BinOp(left=left, op=op, right=right):
            first, second = _fill(left, environment), _fill(right, environment)
            if isinstance(op, ast.Add) and isinstance(first, ast.Constant) and first.value == 0:
                return second
            return ast.BinOp(first, op, second)
        case ast.Compare(left=left, ops=ops, comparators=[right]):
            return ast.Compare(_fill(left, environment), ops, [_fill(right, environment)])
        case ast.Call(func=ast.Name(id="argmax" | "count"), keywords=[_, *_]):
            return ast.Constant(evaluate(node, environment))
        case ast.Call(func=ast.Name(id=name), args=[body], keywords=[_, *_]):
            return _fill_terms(name, body, list(_places(node, environment)))
        case ast.Call(func=func, args=arguments):
            return ast.Call(func, [_fill(argument, environment) for argument in arguments], [])
    return node


def _fill_terms(name: str, body: ast.expr, places: list[Environment]) -> ast.expr:
    """A sum, maximum or mean with its terms written out."""
    values = [evaluate(body, inside) for inside in places]
    chosen = [k for k, value in enumerate(values) if value or (name == "max" and value == 0)]
    shown = chosen if len(chosen) <= WHOLE else chosen[:TERMS]
    terms = [_fill(body, places[k]) for k in shown]
    if rest := chosen[len(shown) :]:
        together = "" if name == "max" else f" ({figure(_total([values[k] or 0 for k in rest]))} in all)"
        terms.append(ast.Name(f"… {len(rest)} more{together}"))
    if name == "max":
        return ast.Call(ast.Name("max"), terms, [])
    total: ast.expr = terms[0] if terms else ast.Constant(0)
    for term in terms[1:]:
        total = ast.BinOp(total, ast.Add(), term)
    count = sum(value is not None for value in values)
    return ast.BinOp(total, ast.Div(), ast.Constant(count)) if name == "mean" else total


def _argmax(terms: list[float | None]) -> int:
    """The first of the largest, counted from 0 in the order in which the indices run."""
    return max(range(len(terms)), key=lambda k: -math.inf if (term := terms[k]) is None else term)


def _present(terms: list[float | None]) -> list[float]:
    return [term for term in terms if term is not None]


# Arithmetic as the kernels have it: what is too large is infinite, what has no value is NaN, and neither is an error.


def _divide(a: float, b: float) -> float:
    return a / b if b else a * math.inf


def _power(a: float, b: float) -> float:
    try:
        return float(a**b)
    except OverflowError:
        return math.copysign(math.inf, a) if b % 2 == 1 else math.inf


def _exponential(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _logarithm(x: float) -> float:
    if x > 0:
        return math.log(x)
    return -math.inf if x == 0 else math.nan


def _total(terms: list[float]) -> float:
    """The sum, rounded once."""
    try:
        return math.fsum(terms)
    except (OverflowError, ValueError):  # a partial sum is too large, or infinities of both signs meet
        return float(sum(terms))


def _largest(*terms: float) -> float:
    return math.nan if any(term != term for term in terms) else max(terms, default=0.0)


OPERATIONS: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _divide,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.Gt: operator.gt,
    ast.Lt: operator.lt,
    ast.GtE: operator.ge,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
}

OVER_INDICES: dict[str, Callable[[list[float | None]], float]] = {
    "sum": lambda terms: _total(_present(terms)),
    "max": lambda terms: _largest(*_present(terms)),
    "mean": lambda terms: _divide(_total(_present(terms)), len(_present(terms))),
    "argmax": _argmax,
    "count": lambda terms: len(_present(terms)),
}

FUNCTIONS: dict[str, Callable[..., float]] = {
    "exp": _exponential,
    "log": _logarithm,
    "tanh": math.tanh,
    "sqrt": math.sqrt,
    "abs": abs,
    "max": _largest,
    "min": min,
    "floor": math.floor,
}
