"""exp, tanh, sigmoid, log and log(1 + x) on vectors, by our own polynomials.

A library's scalar functions would leave the lanes and could differ between systems by a bit. These take a few
multiply-adds a vector, err by a few units in the last place (a test measures them), and give the same bits everywhere.
The polynomials are plain Taylor series: on the reduced ranges the first term left out is below half a unit in the last
place.
"""

from __future__ import annotations

import math

from numba.extending import overload

from nnjit.kernels.compiler import JIT, subroutine
from nnjit.kernels.simd import VectorType, absolute, exponent, fma, full, round_to_even, scale_by_power, where

LOG2_E = 1.0 / math.log(2.0)
# log(2) as a sum of two numbers, the first with so few bits that its product with a whole number |n| < 2048 is exact.
LOG_2_HIGH = {32: float.fromhex("0x1.62e4000000000p-1"), 64: float.fromhex("0x1.62e42fefa4000p-1")}
LOG_2_LOW = {32: float.fromhex("0x1.7f7d1cf79abcap-20"), 64: float.fromhex("-0x1.8432a1b0e2634p-43")}

# Terms r**k / k! of exp(r) on |r| <= log(2) / 2, highest first, down to k = 2.
EXP_TERMS = {
    32: tuple(1.0 / math.factorial(k) for k in range(7, 1, -1)),
    64: tuple(1.0 / math.factorial(k) for k in range(13, 1, -1)),
}
# Terms s**(2k) / (2k + 1) of atanh(s) / s, highest first, down to k = 1: on |s| <= 0.1716 for log, |s| <= 1/3 for
# log1p.
LOG_TERMS = {
    32: tuple(1.0 / (2 * k + 1) for k in range(5, 0, -1)),
    64: tuple(1.0 / (2 * k + 1) for k in range(11, 0, -1)),
}
LOG1P_TERMS = {
    32: tuple(1.0 / (2 * k + 1) for k in range(8, 0, -1)),
    64: tuple(1.0 / (2 * k + 1) for k in range(17, 0, -1)),
}
# exp(x) is 0 below the first and infinite above the second.
EXP_RANGE = {32: (-104.0, 89.0), 64: (-746.0, 710.0)}


def per_dtype(table):
    """A function of a vector that gives the entry of `table` for its dtype (32 or 64), a constant once compiled."""

    def choose(v):
        return table[v.dtype.itemsize * 8]

    if JIT:

        @overload(choose)
        def _choose(v):
            if isinstance(v, VectorType):
                entry = table[v.dtype.bitwidth]
                return lambda v: entry
            return None

    return choose


log_2_high = per_dtype(LOG_2_HIGH)
log_2_low = per_dtype(LOG_2_LOW)
exp_terms = per_dtype(EXP_TERMS)
log_terms = per_dtype(LOG_TERMS)
log1p_terms = per_dtype(LOG1P_TERMS)
exp_range = per_dtype(EXP_RANGE)


@subroutine
def polynomial(x, terms):
    """terms[0] * x**(n-1) + ... + terms[n-1], by Horner's rule."""
    total = full(x, terms[0])
    for k in range(1, len(terms)):
        total = fma(total, x, full(x, terms[k]))
    return total


@subroutine
def _reduce_exp(x):
    """(n, r) with x = n * log(2) + r, n whole and |r| <= log(2) / 2; x is clamped to where exp is 0 or infinite."""
    low, high = exp_range(x)
    x = where(x < low, full(x, low), x)
    x = where(x > high, full(x, high), x)
    n = round_to_even(x * LOG2_E)
    r = fma(n, full(x, -log_2_high(x)), x)
    return n, fma(n, full(x, -log_2_low(x)), r)


@subroutine
def exp(x):
    """exp(x); NaN where x is NaN."""
    n, r = _reduce_exp(x)
    tail = fma(polynomial(r, exp_terms(x)) * r, r, r)
    return scale_by_power(tail + 1.0, n)


@subroutine
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + exp(0.0 - x))


@subroutine
def tanh(x):
    """tanh(x) = -m / (m + 2) with m = exp(-2|x|) - 1, which loses no digits near 0, and the sign of x."""
    n, r = _reduce_exp(absolute(x) * -2.0)
    tail = fma(polynomial(r, exp_terms(x)) * r, r, r)
    power = scale_by_power(full(x, 1.0), n)
    m = fma(power, tail, power - 1.0)
    size = (0.0 - m) / (m + 2.0)
    return where(x < 0.0, 0.0 - size, size)


@subroutine
def log1p(x):
    """log(1 + x) for 0 <= x <= 1."""
    s = x / (x + 2.0)
    square = s * s
    return 2.0 * fma(polynomial(square, log1p_terms(x)) * square, s, s)


@subroutine
def log_positive(x):
    """log(x) for a normal x of at least 1, as a sum of exponentials is that contains exp(0)."""
    n = exponent(x)
    m = scale_by_power(x, 0.0 - n)
    large = m > 1.4142135623730951
    m = where(large, m * 0.5, m)
    n = where(large, n + 1.0, n)
    s = (m - 1.0) / (m + 1.0)
    square = s * s
    tail = 2.0 * fma(polynomial(square, log_terms(x)) * square, s, s)
    return fma(n, full(x, log_2_high(x)), fma(n, full(x, log_2_low(x)), tail))
