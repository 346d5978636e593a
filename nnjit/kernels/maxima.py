"""The maximum of vectors and which of them it was: what pooling needs, alone or at the end of a convolution."""

from __future__ import annotations

from nnjit.kernels.compiler import subroutine
from nnjit.kernels.simd import full, load, where


@subroutine
def larger(value, position, best, winner):
    """The larger of best and value and the position that it has; NaN if there is one."""
    better = value > best
    best = where(better, value, best)
    return where(value == value, best, value), where(better, full(best, position), winner)


@subroutine
def best_of_four(x, at, line, column):
    """The largest of x[at], x[at + column], and both a line further, and its place among them, 0 to 3."""
    best = load(x, at)
    winner = full(best, 0)
    best, winner = larger(load(x, at + column), 1, best, winner)
    best, winner = larger(load(x, at + line), 2, best, winner)
    return larger(load(x, at + line + column), 3, best, winner)
