"""The notation of formulas: how it is typeset, what it evaluates to, and how numbers are filled in."""

from __future__ import annotations

import ast
import math
from typing import Any

import numpy as np
import pytest

from nnjit.explain.evaluate import Defined, filled_in, value_at
from nnjit.explain.figures import figure
from nnjit.explain.formula import PREFIX, Formula, Style, Symbol, substitute
from nnjit.explain.html import MathmlStyle
from nnjit.explain.markdown import LatexStyle
from nnjit.explain.text import TextStyle

NAMES = {"x": Symbol("a", 1), "out": Symbol("z", 2), "dout": Symbol("z", 2, True), "dx": Symbol("a", 1, True)}

# (formula, as text, as LaTeX)
TYPESET = [
    ("out[f] = x[f]", "z⁽²⁾[f] = a⁽¹⁾[f]", r"{z}_{f}^{(2)} = {a}_{f}^{(1)}"),
    ("dx[d] = dout[d]", "∂C/∂a⁽¹⁾[d] = δ⁽²⁾[d]", r"\frac{\partial C}{\partial {a}_{d}^{(1)}} = {\delta }_{d}^{(2)}"),
    ("y = sum(b[i, j], i=2, j=3)", "y = Σ(i=0..1, j=0..2) b[i, j]", r"y = \sum_{i=0}^{1} \sum_{j=0}^{2} {b}_{i,\,j}"),
    ("y = max(b[i], i=2)", "y = max(i=0..1) b[i]", r"y = \underset{i=0 \ldots 1}{\mathrm{max}}\, {b}_{i}"),
    ("y = 1 / (1 + exp(-b))", "y = 1 / (1 + exp(-b))", r"y = \frac{1}{1 + \exp (-b)}"),
    ("y = (b - c) ** 2", "y = (b - c)²", r"y = {(b - c)}^{2}"),
    ("y = b * (c > 0)", "y = b·[c > 0]", r"y = b\cdot [c > 0]"),
    ("y = -sum(b[i], i=2)", "y = -Σ(i=0..1) b[i]", r"y = -\sum_{i=0}^{1} {b}_{i}"),
    ("y = c - sum(b[i], i=2)", "y = c - Σ(i=0..1) b[i]", r"y = c - \sum_{i=0}^{1} {b}_{i}"),
    ("y = sum(b[i], i=2) * c", "y = (Σ(i=0..1) b[i])·c", r"y = (\sum_{i=0}^{1} {b}_{i})\cdot c"),
    ("y = b - (c + d)", "y = b - (c + d)", "y = b - (c + d)"),
    ("y = b - (-c)", "y = b - (-c)", "y = b - (-c)"),
    ("y = b * (c - d) / 3", "y = b·(c - d) / 3", r"y = \frac{b\cdot (c - d)}{3}"),
    ("floor((7 - 3) / 2) = 2", "⌊(7 - 3) / 2⌋ = 2", r"\left\lfloor \frac{7 - 3}{2}\right\rfloor  = 2"),
    ("y = b[f // 6, f % 3]", "y = b[⌊f / 6⌋, f mod 3]", r"y = {b}_{\lfloor f / 6\rfloor ,\,f\bmod 3}"),
    ("y = count[c] + 0.0000001", "y = count[c] + 1.000000e-07", r"y = {\mathrm{count}}_{c} + 1.000000 \cdot 10^{-7}"),
    # A stride of 1 and a padding of 0 leave nothing behind in indices; elsewhere what is written stays.
    ("y = b[i * 1 + u - 0, (p - -2) / 1] * 1", "y = b[i + u, p + 2]·1", r"y = {b}_{i + u,\,p + 2}\cdot 1"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "text", "latex"), TYPESET, ids=lambda value: value)
def test_typeset(written: str, text: str, latex: str) -> None:
    formula = Formula.parse(written, NAMES)
    assert TextStyle().formula(formula) == text
    assert LatexStyle().formula(formula) == latex


def test_mathml() -> None:
    formula = Formula.parse("out[f] = sum(x[d], d=3) / 2", NAMES)
    z = "<msubsup><mi>z</mi><mi>f</mi><mrow>{}</mrow></msubsup>"
    raised = '<mo form="prefix">(</mo><mn>{}</mn><mo form="postfix">)</mo>'
    limits = "<mrow><mi>d</mi><mo>=</mo><mn>0</mn></mrow><mn>2</mn>"
    a = f"<msubsup><mi>a</mi><mi>d</mi><mrow>{raised.format(1)}</mrow></msubsup>"
    total = f"<mrow><munderover><mo>∑</mo>{limits}</munderover>{a}</mrow>"
    right = f'<mrow><mo form="infix">=</mo><mfrac>{total}<mn>2</mn></mfrac></mrow>'
    assert MathmlStyle().formula(formula) == f"<mrow>{z.format(raised.format(2))}{right}</mrow>"


@pytest.mark.parametrize("style", [TextStyle(), LatexStyle(), MathmlStyle()], ids=lambda style: type(style).__name__)
def test_what_has_no_notation_is_refused(style: Style) -> None:
    with pytest.raises(ValueError, match="^no notation for '{b: c}'$"):
        style.formula(Formula.parse("y = {b: c}", {}))


ARRAYS: dict[str, Any] = {
    "x": np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]]),
    "v": np.array([1.0, 2.0]),
    "k": 2.0,
}

# (right side, place, value)
VALUES = [
    ("x[i, j]", (1, 0), 4.0),
    ("x[i, j + 1]", (0, 2), 0.0),
    ("x[i, j - 1]", (0, 0), 0.0),
    ("x[i, j / 2]", (0, 2), -2.0),
    ("x[i, j / 2]", (0, 1), 0.0),
    ("k * x[i, j] - v[i] ** 2", (1, 1), 6.0),
    ("sum(x[a, j], a=2)", (0, 2), -3.0),
    ("sum(x[a, b] * (x[a, b] > 0), a=2, b=3)", (0, 0), 13.0),
    ("max(x[i, j + a], a=2)", (1, 2), -6.0),
    ("mean(x[i, j + a], a=2)", (1, 2), -6.0),
    ("count(x[i, j + a], a=2)", (1, 2), 1.0),
    ("argmax(x[i, j - 1 + a], a=3)", (1, 1), 1.0),
    ("argmax(x[i, j - 2 + a], a=3)", (0, 0), 2.0),
    ("exp(log(v[i])) / sqrt(4)", (1, 0), 1.0),
    ("exp(1000 * v[i])", (0, 0), math.inf),
    ("max(x[i, j], 0) + tanh(0) + min(k, 1)", (0, 1), 1.0),
    ("floor(7 / 2) % 2 + 7 // 2", (0, 0), 4.0),
    # Too large is infinite, without a value is NaN.
    ("(1e200 * x[i, j]) ** 2", (0, 1), math.inf),
    ("(1e200 * x[i, j]) ** 3", (0, 1), -math.inf),
    ("sum(1e308 * v[i] * (a + 1), a=2)", (0, 0), math.inf),
    ("sum(1e308 * k * (1 - 2 * a), a=2)", (0, 0), math.nan),
    ("mean(1e308 * k * (1 - 2 * a), a=2)", (0, 0), math.nan),
    ("exp(710)", (0, 0), math.inf),
    ("exp(709.5)", (0, 0), math.exp(709.5)),
    ("exp(1e308 * k - 1e308 * k)", (0, 0), math.nan),
    ("max(0, 1e308 * k - 1e308 * k)", (0, 0), math.nan),
    ("max(1e308 * k * a, a=2)", (0, 0), math.nan),
    ("log(0) + v[i] / 0", (0, 0), math.nan),
    ("-v[i] / 0", (0, 0), -math.inf),
    ("log(-v[i])", (0, 0), math.nan),
]


@pytest.mark.parametrize(("right", "place", "value"), VALUES)
def test_value(right: str, place: tuple[int, ...], value: float) -> None:
    assert value_at(Formula.parse(f"y[i, j] = {right}", {}), place, ARRAYS) == pytest.approx(
        value, abs=1e-15, nan_ok=True
    )


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(ValueError, match="^no value for '{k: k}'$"):
        value_at(Formula((ast.Name("y"), ast.parse("{k: k}", mode="eval").body)), (), ARRAYS)


FILLED = [
    ("y[i] = k + sum(x[i, a] * v[a], a=2)", (1,), "y[1] = 2 + 4·1 + 5·2 = 16"),
    ("y[i] = sum(x[0, a] * (x[0, a] > 0), a=3)", (0,), "y[0] = 1·[1 > 0] + 3·[3 > 0] = 4"),
    ("y[i] = sum(x[i, a + 2], a=3)", (0,), "y[0] = 3"),
    ("y[i] = max(x[i, a], a=3)", (0,), "y[0] = max(1, -2, 3) = 3"),
    ("y[i] = mean(x[i, a + 1], a=3)", (0,), "y[0] = (-2 + 3) / 2 = 0.5"),
    ("y[i] = -x[0, 1] - v[1]", (0,), "y[0] = -(-2) - 2 = 0"),
    ("y[i] = 0 * k + count(x[i, a], a=9)", (0,), "y[0] = 0·2 + 3 = 3"),
    ("y[i] = sum(v[0] * a, a=28)", (0,), "y[0] = " + " + ".join(f"1·{k}" for k in range(1, 28)) + " = 378"),
    (
        "y[i] = sum(v[0] * a, a=29)",
        (0,),
        "y[0] = " + " + ".join(f"1·{k}" for k in range(1, 13)) + " + … 16 more (328 in all) = 406",
    ),
    ("y[i] = max(v[0], a=28)", (0,), f"y[0] = max({', '.join(['1'] * 12)}, … 16 more) = 1"),
    ("y[i] = v[i]", (1,), "y[1] = 2"),
]


@pytest.mark.parametrize(("written", "place", "text"), FILLED, ids=lambda value: str(value))
def test_filled_in(written: str, place: tuple[int, ...], text: str) -> None:
    assert TextStyle().formula(filled_in(Formula.parse(written, {}), place, ARRAYS)) == text


def test_a_formula_within_another() -> None:
    """The inner sum gets another letter, the inner arrays keep their names, and the value is that in two steps."""
    outer = Formula.parse("dx[f] = dout[f] * out[f] - dout[f]", NAMES)
    inner = Formula.parse("dx[d] = sum(w[f, d] * dout[f], f=2)", {"w": Symbol("w", 4), "dout": Symbol("z", 4, True)})
    formula = substitute(outer, "dout", inner)
    each = "(Σ(g=0..1) w⁽⁴⁾[g, f]·δ⁽⁴⁾[g])"
    assert TextStyle().formula(formula) == f"∂C/∂a⁽¹⁾[f] = {each}·z⁽²⁾[f] - {each[1:-1]}"
    arrays = {"out": ARRAYS["x"][0], f"{PREFIX}w": ARRAYS["x"], f"{PREFIX}dout": ARRAYS["v"]}
    passed = ARRAYS["v"] @ ARRAYS["x"]
    assert [value_at(formula, (f,), arrays) for f in range(3)] == (passed * ARRAYS["x"][0] - passed).tolist()


def test_an_array_of_a_formulas_own_is_read_entry_by_entry() -> None:
    read: list[tuple[int, ...]] = []

    class Spy:
        shape = (2, 3)

        def __getitem__(self, place: tuple[int, ...]) -> float:
            read.append(place)
            return float(ARRAYS["x"][place])

    turned = Defined(Formula.parse("y[i, j] = x[1 - i, 2 - j]", {}), (2, 3), {"x": Spy()})
    assert (turned[0, 0], turned[0, 0]) == (-6.0, -6.0)
    assert read == [(1, 2)]
    assert turned.read((2, 3)).tolist() == ARRAYS["x"][::-1, ::-1].tolist()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (3, "3"),
        (-0.5, "-0.5"),
        (0.1234567891, "0.123456789"),
        (0.5932699921, "0.593269992"),
        (-0.0226025404, "-0.022602540"),
        (1.5e-7, "1.500000e-07"),
        (123456.789012345, "1.234568e+05"),
        (2e6, "2.000000e+06"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_figures(value: float, shown: str) -> None:
    assert figure(value) == shown
