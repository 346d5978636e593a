"""The transforms of Winograd's algorithm in one dimension: F(5, 2) and F(4, 3) with six points, F(5, 4), F(4, 5),
F(3, 6) and F(2, 7) with eight.

m outputs of a correlation with r taps read m + r - 1 inputs; At [(G g) * (Bt d)] computes them by as many products
instead of m * r. The points are 0, 1, -1, 2, -2, with eight also 1/2 and -1/2, and infinity. With E_n the matrix of the
points' powers 0 to n - 1 (infinity has a 1 at power n - 1 alone) and S the points' factors, G = S E_r and At is E_m
transposed. For the gradient to the taps, where the gradient of the outputs acts as the taps, E_m and E_r transposed S
take the places of G and At; Bt is the same in all. The adjoint, from outputs to inputs, is B [(G g) * (E_m d)]. In two
dimensions each transform is applied to columns and to lines.

In float32, the largest error in 32 maps was 3 to 4 millionths of the largest output, with 2x2 kernels 9, where direct
sums err by 0.5 to 1.4 (normally distributed numbers); of the gradient to the input 2 to 6, to the weights 2 to 8. Eight
points without the halves, with 4 and -4 for them: 700.

Source: Lavin & Gray 2015, arXiv:1509.09308, section 4; Toom-Cook's construction gives Bt and S from the points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, NamedTuple

from nnjit.kernels.constants import constant
from nnjit.kernels.simd import run_transform


@constant
@dataclass(frozen=True)
class Form:
    """F(m x m, r x r): tiles of `outputs` x `outputs` entries, kernels of `taps` x `taps`."""

    outputs: int
    taps: int

    @property
    def points(self) -> int:
        """Entries of a transformed tile in each dimension, and positions of the input that a tile reads."""
        return self.outputs + self.taps - 1

    @property
    def entries(self) -> int:
        """Entries of a transformed tile."""
        return self.points**2

    def tiles(self, lines: int, columns: int) -> int:
        """Tiles that cover an output of lines x columns."""
        return -(-lines // self.outputs) * -(-columns // self.outputs)

    def work(self, pairs: int) -> int:
        """The products for so many `pairs` of an output and a map, and a third more for the transforms."""
        return 4 * pairs * self.entries // (3 * self.outputs**2)


# Six points: 0, 1, -1, 2, -2, infinity


def _input_6(d):
    """Bt d."""
    d0, d1, d2, d3, d4, d5 = d
    even, odd = d4 - 4.0 * d2, d3 - 4.0 * d1
    near, far = d4 - d2, 2.0 * (d3 - d1)
    return 4.0 * d0 - 5.0 * d2 + d4, even + odd, even - odd, near + far, near - far, 4.0 * d1 - 5.0 * d3 + d5


def _input_adjoint_6(m):
    """B m."""
    m0, m1, m2, m3, m4, m5 = m
    sum_1, sum_2 = m1 + m2, m3 + m4
    difference_1, difference_2 = m1 - m2, m3 - m4
    return (
        4.0 * m0,
        4.0 * (m5 - difference_1) - 2.0 * difference_2,
        -5.0 * m0 - 4.0 * sum_1 - sum_2,
        difference_1 + 2.0 * difference_2 - 5.0 * m5,
        m0 + sum_1 + sum_2,
        m5,
    )


def _factors_6(m):
    """S m."""
    m0, m1, m2, m3, m4, m5 = m
    one, two = -1.0 / 6.0, 1.0 / 24.0
    return 0.25 * m0, one * m1, one * m2, two * m3, two * m4, m5


# Eight points: 0, 1, -1, 2, -2, 1/2, -1/2, infinity


def _input_8(d):
    """Bt d."""
    d0, d1, d2, d3, d4, d5, d6, d7 = d
    even_1, odd_1 = d2 - 4.25 * d4 + d6, d1 - 4.25 * d3 + d5
    even_2, odd_2 = 0.25 * d2 - 1.25 * d4 + d6, 0.5 * d1 - 2.5 * d3 + 2.0 * d5
    even_3, odd_3 = 4.0 * d2 - 5.0 * d4 + d6, 2.0 * d1 - 2.5 * d3 + 0.5 * d5
    return (
        d0 - d6 + 5.25 * (d4 - d2),
        even_1 + odd_1,
        even_1 - odd_1,
        even_2 + odd_2,
        even_2 - odd_2,
        even_3 + odd_3,
        even_3 - odd_3,
        d7 - d1 + 5.25 * (d3 - d5),
    )


def _input_adjoint_8(m):
    """B m."""
    m0, m1, m2, m3, m4, m5, m6, m7 = m
    sum_1, sum_2, sum_3 = m1 + m2, m3 + m4, m5 + m6
    difference_1, difference_2, difference_3 = m1 - m2, m3 - m4, m5 - m6
    return (
        m0,
        difference_1 + 0.5 * difference_2 + 2.0 * difference_3 - m7,
        sum_1 + 0.25 * sum_2 + 4.0 * sum_3 - 5.25 * m0,
        5.25 * m7 - 4.25 * difference_1 - 2.5 * (difference_2 + difference_3),
        5.25 * m0 - 4.25 * sum_1 - 1.25 * sum_2 - 5.0 * sum_3,
        difference_1 + 2.0 * difference_2 + 0.5 * difference_3 - 5.25 * m7,
        sum_1 + sum_2 + sum_3 - m0,
        m7,
    )


def _factors_8(m):
    """S m."""
    m0, m1, m2, m3, m4, m5, m6, m7 = m
    one, two, half = -2.0 / 9.0, 1.0 / 90.0, 32.0 / 45.0
    return m0, one * m1, one * m2, two * m3, two * m4, half * m5, half * m6, m7


# Powers of any points


def _sum(v, terms):
    """The sum of factor * v[k] over `terms`, pairs of k and factor."""
    parts = [v[k] if factor == 1.0 else factor * v[k] for k, factor in terms]
    return reduce(add, parts)


def _points(pairs, count):
    """The function of d that gives E_count d, for the points 0, each of `pairs` with its negative, and infinity."""

    def at_points(d):
        values = [d[0]]
        for point in pairs:
            even, odd = (_sum(d, [(k, point**k) for k in range(first, count, 2)]) for first in (0, 1))
            values += [even + odd, even - odd]
        return *values, d[count - 1]

    return at_points


def _powers(pairs, count):
    """The function of m that gives E_count transposed m, for the same points."""
    first, last = 0, 2 * len(pairs) + 1
    negatives = range(2, last, 2)

    def powers(m):
        # In the place of what belongs to a point and to its negative stand their sum and their difference.
        parts = [m[first]]
        for k in negatives:
            parts += [m[k - 1] + m[k], m[k - 1] - m[k]]
        parts.append(m[last])
        sums = []
        for power in range(count):
            terms = [(k if power % 2 else k - 1, point**power) for k, point in zip(negatives, pairs, strict=True)]
            if power == 0:
                terms.insert(0, (first, 1.0))
            if power == count - 1:
                terms.append((last, 1.0))
            sums.append(_sum(parts, terms))
        return tuple(sums)

    return powers


# The transforms of a form


class _Functions(NamedTuple):
    """A form's matrices as functions on tuples of vectors."""

    input: Callable[..., Any]
    input_adjoint: Callable[..., Any]
    factors: Callable[..., Any]
    outputs_at_points: Callable[..., Any]
    taps_at_points: Callable[..., Any]
    powers_of_outputs: Callable[..., Any]
    powers_of_taps: Callable[..., Any]


def _functions(form):
    if form.points == 6:
        pairs, by_points = (1.0, 2.0), (_input_6, _input_adjoint_6, _factors_6)
    else:
        pairs, by_points = (1.0, 2.0, 0.5), (_input_8, _input_adjoint_8, _factors_8)
    sizes = form.outputs, form.taps
    return _Functions(*by_points, *(_points(pairs, n) for n in sizes), *(_powers(pairs, n) for n in sizes))


FORMS = {form.taps: form for form in (Form(5, 2), Form(4, 3), Form(5, 4), Form(4, 5), Form(3, 6), Form(2, 7))}
"""The forms by their taps."""
_FUNCTIONS = {form: _functions(form) for form in FORMS.values()}


@run_transform
def transform_input(form):
    """Bt d, d[k] = x[first + k * step]: form.points vectors from as many."""
    return form.points, _FUNCTIONS[form].input


@run_transform
def transform_input_adjoint(form):
    """B m, m[k] = x[first + k * step]: form.points vectors from as many."""
    return form.points, _FUNCTIONS[form].input_adjoint


@run_transform
def transform_kernel(form):
    """G g, g[k] = x[first + k * step]: form.points vectors from form.taps."""
    functions = _FUNCTIONS[form]
    return form.taps, lambda g: functions.factors(functions.taps_at_points(g))


@run_transform
def transform_output(form):
    """At m, m[k] = x[first + k * step]: form.outputs vectors from form.points."""
    return form.points, _FUNCTIONS[form].powers_of_outputs


@run_transform
def transform_gradient(form):
    """E_m d, d[k] = x[first + k * step]: form.points vectors from form.outputs."""
    return form.outputs, _FUNCTIONS[form].outputs_at_points


@run_transform
def transform_weights(form):
    """E_r transposed S m, m[k] = x[first + k * step]: form.taps vectors from form.points."""
    functions = _FUNCTIONS[form]
    return form.points, lambda m: functions.powers_of_taps(functions.factors(m))
