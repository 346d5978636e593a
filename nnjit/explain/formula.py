"""Formulas: written once in Python's notation, read into its syntax tree, and typeset in any style.

    out[f] = bias[f] + sum(weight[f, d] * x[d], d=5)

`sum`, `max`, `mean`, `argmax` and `count` with keywords run over indices: d=5 says d = 0, ..., 4. A comparison is 1
where it holds and 0 elsewhere, as Iverson's bracket. What is read outside an array, or at an index that is no whole
number, is absent: 0 in a sum, and left out elsewhere. ` = ` parts the sides.
"""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from nnjit.explain.figures import figure

OVER = ("sum", "max", "mean", "argmax", "count")
"""What runs over indices."""

COMPARE, NEGATIVE, ADD, MULTIPLY, POWER, ATOM = range(6)
"""How tightly a formula's outermost operation binds."""

SIGNS: dict[type[ast.AST], str] = {
    ast.Mult: "·",
    ast.Div: "/",
    ast.Mod: "mod",
    ast.Gt: ">",
    ast.Lt: "<",
    ast.GtE: "≥",
    ast.LtE: "≤",
    ast.Eq: "=",
}


@dataclass(frozen=True)
class Symbol:
    """How an array or number is called: a letter, the layer it belongs to, and whether the cost's derivative with
    respect to it is meant."""

    letter: str
    layer: int | None = None
    derivative: bool = False


Names: TypeAlias = Mapping[str, Symbol]
"""What the names of a formula are shown as; a name that is not there is shown as it is."""


@dataclass(frozen=True)
class Formula:
    """Sides that are equal."""

    sides: tuple[ast.expr, ...]
    names: Names = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, names: Names) -> Formula:
        """The formula that `text` says in the notation above."""
        return cls(
            tuple(_SimplifyIndices().visit(ast.parse(side, mode="eval").body) for side in text.split(" = ")), names
        )

    @property
    def array(self) -> str:
        """The name of the array, or of the number, on the left side."""
        left = self.sides[0]
        name = left.value if isinstance(left, ast.Subscript) else left
        assert isinstance(name, ast.Name)
        return name.id

    @property
    def indices(self) -> list[str]:
        """The names of the left side's indices; empty if that is one number."""
        left = self.sides[0]
        return [ast.unparse(index) for index in indices_of(left)] if isinstance(left, ast.Subscript) else []


def indices_of(entry: ast.Subscript) -> list[ast.expr]:
    """The indices of an entry."""
    return entry.slice.elts if isinstance(entry.slice, ast.Tuple) else [entry.slice]


def limits_of(call: ast.Call) -> list[tuple[str, int]]:
    """The indices that a sum runs over, each with the number of its values; empty for a plain function."""
    return [(str(keyword.arg), ast.literal_eval(keyword.value)) for keyword in call.keywords]


PREFIX = "inner "
"""What `substitute` puts before names, so that the inner formula's stay apart from the outer's."""


def substitute(outer: Formula, array: str, inner: Formula) -> Formula:
    """`outer` with what `inner` says of `array` in the place of its entries.

    The arrays that `inner` reads are called by their names after PREFIX. What its sums run over gets other letters
    where `outer` has the same.
    """
    left, right = outer.sides
    names = {node.id for side in inner.sides for node in ast.walk(side) if isinstance(node, ast.Name)}
    taken = {node.id for node in ast.walk(left) if isinstance(node, ast.Name)}
    free = (letter for letter in "ghklmnrst" if letter not in names | taken)
    limits = [keyword for node in ast.walk(inner.sides[-1]) if isinstance(node, ast.Call) for keyword in node.keywords]
    letters = {str(keyword.arg): next(free) for keyword in limits if keyword.arg in taken}

    class Inner(ast.NodeTransformer):
        def __init__(self, entry: ast.Subscript) -> None:
            self.indices = dict(zip(inner.indices, indices_of(entry), strict=True))

        def visit_Call(self, node: ast.Call) -> ast.expr:
            keywords = [ast.keyword(letters.get(str(k.arg), k.arg), k.value) for k in node.keywords]
            return ast.Call(node.func, [self.visit(argument) for argument in node.args], keywords)

        def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
            assert isinstance(node.value, ast.Name)
            return ast.Subscript(ast.Name(PREFIX + node.value.id), self.visit(node.slice))

        def visit_Name(self, node: ast.Name) -> ast.expr:
            return self.indices.get(node.id, ast.Name(letters.get(node.id, node.id)))

    class Outer(ast.NodeTransformer):
        def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
            assert isinstance(node.value, ast.Name)
            return Inner(node).visit(deepcopy(inner.sides[-1])) if node.value.id == array else node

    inside = {PREFIX + name: inner.names.get(name, Symbol(name)) for name in names}
    return Formula((left, Outer().visit(deepcopy(right))), {**outer.names, **inside})


class _SimplifyIndices(ast.NodeTransformer):
    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        return ast.Subscript(node.value, _Simplify().visit(node.slice))


class _Simplify(ast.NodeTransformer):
    """Drops what a stride of 1 and a padding of 0 leave behind: i * 1, u - 0, p / 1; and p - -2 becomes p + 2."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        neutral = 1 if isinstance(node.op, ast.Mult | ast.Div | ast.FloorDiv) else 0
        if isinstance(right, ast.Constant) and right.value == neutral and not isinstance(node.op, ast.Pow | ast.Mod):
            return left  # type: ignore[no-any-return]
        if isinstance(left, ast.Constant) and left.value == neutral and isinstance(node.op, ast.Add | ast.Mult):
            return right  # type: ignore[no-any-return]
        if isinstance(node.op, ast.Sub) and isinstance(right, ast.UnaryOp):
            return ast.BinOp(left, ast.Add(), right.operand)
        return ast.BinOp(left, node.op, right)


class Style(ABC):
    """A way to write formulas down. A method takes parts that are typeset already, and puts them together."""

    stacked: ClassVar[bool]
    """Whether a fraction has its two parts one above the other, which then need no brackets."""

    @abstractmethod
    def number(self, digits: str) -> str:
        """A number, without a sign."""

    @abstractmethod
    def symbol(self, name: str) -> str:
        """The name of a variable, a function or an operation."""

    @abstractmethod
    def sign(self, sign: str) -> str:
        """An operation between two parts, or a comma."""

    @abstractmethod
    def row(self, parts: Sequence[str]) -> str:
        """Parts side by side."""

    @abstractmethod
    def brackets(self, inside: str, pair: str) -> str:
        """Something between the two characters of `pair`."""

    @abstractmethod
    def scripts(self, base: str, below: str, above: str) -> str:
        """A base with what is below and above to its right, of which one may be empty."""

    @abstractmethod
    def fraction(self, top: str, bottom: str) -> str:
        """One part over another."""

    @abstractmethod
    def big(self, name: str, limits: Sequence[tuple[str, str]]) -> str:
        """The sign of a sum, or the name of what else runs over indices, each given with its last value."""

    def formula(self, formula: Formula) -> str:
        """All sides."""
        return self.row(self.pieces(formula))

    def pieces(self, formula: Formula) -> list[str]:
        """All sides, in the pieces between which a line may break: before a `=`, and before a term's sign."""
        found: list[str] = []
        for side in formula.sides:
            first, *others = self._terms(side, formula.names)
            found += [self.row([self.sign("="), first]) if found else first, *others]
        return found

    def _terms(self, node: ast.expr, names: Names, flat: bool = False, least: int = NEGATIVE) -> list[str]:
        """The terms of a sum, each with its sign but the first, which binds at least `least`."""
        match node:
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                first, *others = self._terms(right, names, flat, ADD)
                return [*self._terms(left, names, flat, least), self.row([self.sign("+"), first]), *others]
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                last = self.expression(right, names, _last_term(right), flat)
                return [*self._terms(left, names, flat, least), self.row([self.sign("-"), last])]
        return [self.expression(node, names, least, flat)]

    def expression(self, node: ast.expr, names: Names, least: int = COMPARE, flat: bool = False) -> str:
        """A part of a formula, in brackets if it binds less than `least`; `flat` writes fractions on one line."""
        binds, written = self._typeset(node, names, flat)
        return written if binds >= least else self.brackets(written, "()")

    def _typeset(self, node: ast.expr, names: Names, flat: bool) -> tuple[int, str]:
        def part(node: ast.expr, least: int = COMPARE, flat: bool = flat) -> str:
            return self.expression(node, names, least, flat)

        match node:
            case ast.Constant(value=int() | float() as value):
                digits = figure(abs(value))
                if value < 0:
                    return NEGATIVE, self.row([self.sign("neg"), self.number(digits)])
                return ATOM, self.number(digits)
            case ast.Name(id=name):
                return ATOM, self._named(names.get(name, Symbol(name)), "")
            case ast.Subscript(value=ast.Name(id=name)):
                inside = [part(index, flat=True) for index in indices_of(node)]
                commas = [piece for index in inside for piece in (self.sign(","), index)][1:]
                return ATOM, self._named(names.get(name, Symbol(name)), self.row(commas))
            case ast.UnaryOp(operand=operand):
                return NEGATIVE, self.row([self.sign("neg"), part(operand, _last_term(operand))])
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                return ADD, self.row(self._terms(node, names, flat))
            case ast.BinOp(left=left, op=ast.Div(), right=right) if self.stacked and not flat:
                return POWER, self.fraction(part(left), part(right))
            case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
                return ATOM, self.brackets(part(ast.BinOp(left, ast.Div(), right)), "⌊⌋")
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return POWER, self.scripts(part(left, ATOM), "", part(right))
            case ast.BinOp(left=left, op=op, right=right):
                return MULTIPLY, self.row([part(left, MULTIPLY), self.sign(SIGNS[type(op)]), part(right, POWER)])
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                inside = [part(left), self.sign(SIGNS[type(op)]), part(right)]
                return ATOM, self.brackets(self.row(inside), "[]")
            case ast.Call(func=ast.Name(id="floor"), args=[argument]):
                return ATOM, self.brackets(part(argument), "⌊⌋")
            case ast.Call(func=ast.Name(id=name), args=[body], keywords=[_, *_]):
                limits = [(self.symbol(index), self.number(str(size - 1))) for index, size in limits_of(node)]
                return ADD, self.row([self.big(name, limits), part(body, MULTIPLY)])
            case ast.Call(func=ast.Name(id=name), args=arguments):
                commas = [piece for argument in arguments for piece in (self.sign(","), part(argument))][1:]
                return ATOM, self.row([self.symbol(name), self.brackets(self.row(commas), "()")])
        raise ValueError(f"no notation for {ast.unparse(node)!r}")

    def _named(self, symbol: Symbol, indices: str) -> str:
        layer = "" if symbol.layer is None else self.brackets(self.number(str(symbol.layer)), "()")
        if symbol.derivative and symbol.letter == "z":
            return self._scripted("δ", indices, layer)
        if symbol.derivative:
            bottom = self.row([self.symbol("∂"), self._scripted(symbol.letter, indices, layer)])
            return self.fraction(self.row([self.symbol("∂"), self.symbol("C")]), bottom)
        return self._scripted(symbol.letter, indices, layer)

    def _scripted(self, letter: str, below: str, above: str) -> str:
        written = self.symbol(letter)
        return self.scripts(written, below, above) if below or above else written


def _last_term(node: ast.expr) -> int:
    """How tightly a part must bind after a minus: a sum over indices reaches to its end, so it needs no brackets."""
    return ADD if isinstance(node, ast.Call) and node.keywords else MULTIPLY
