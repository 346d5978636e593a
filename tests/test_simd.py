"""Every operation on vectors of lanes against its formula in NumPy: compiled, and as the twin that runs without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from battery import compiled_only
from numba import njit
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from nnjit.kernels import simd
from nnjit.kernels.compiler import driver
from nnjit.kernels.constants import constant
from nnjit.kernels.simd import (
    absolute,
    exponent,
    first_lanes,
    fma,
    full,
    lanes,
    load,
    load_apart,
    load_numbers,
    maximum,
    round_to_even,
    run_transform,
    scale_by_power,
    store,
    store_first,
    store_integers,
    store_run,
    where,
)

Array = NDArray[Any]

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])

# One kernel runs them all, since each would take a compilation of its own; row k of its output is the k-th of these.
OPERATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "add a number": lambda a, b: a + a.dtype.type(0.1),
    "subtract from a number": lambda a, b: a.dtype.type(0.1) - a,
    "divide by a whole number": lambda a, b: a / a.dtype.type(3),
    "a whole number divided": lambda a, b: a.dtype.type(3) / a,
    "greater": lambda a, b: np.where(a > b, a, 0),
    "less": lambda a, b: np.where(a < b, a, 0),
    "equal": lambda a, b: np.where(a == b, 1, 0),
    "greater than a number": lambda a, b: np.where(a > 0.5, a, b),
    "maximum": lambda a, b: np.where(a > b, a, b),
    "absolute": lambda a, b: np.abs(a),
    "round to even": lambda a, b: np.rint(a),
    "full": lambda a, b: np.full_like(a, 0.1),
    "first lanes": lambda a, b: np.where(np.arange(len(a)) < 3, a, b),
    "no lanes": lambda a, b: b,
    "all lanes": lambda a, b: a,
}


@driver
def operate(x, y, out):
    a = load(x, 0)
    b = load(y, 0)
    zero = full(x, 0.0)
    store(out, 0, a + b)
    store(out, 1, a - b)
    store(out, 2, a * b)
    store(out, 3, a / b)
    store(out, 4, a + 0.1)
    store(out, 5, 0.1 - a)
    store(out, 6, a / 3)
    store(out, 7, 3 / a)
    store(out, 8, where(a > b, a, zero))
    store(out, 9, where(a < b, a, zero))
    store(out, 10, where(a == b, full(x, 1), zero))
    store(out, 11, where(a > 0.5, a, b))
    store(out, 12, maximum(a, b))
    store(out, 13, absolute(a))
    store(out, 14, round_to_even(a))
    store(out, 15, full(a, 0.1))
    store(out, 16, where(first_lanes(a, 3), a, b))
    store(out, 17, where(first_lanes(a, -8), a, b))
    store(out, 18, where(first_lanes(a, 1000), a, b))


def special_and_random(dtype: Any) -> tuple[Array, Array]:
    """Vectors (vectors, L): every pair of special values, and random ones."""
    special = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -3.5, np.inf, -np.inf, np.nan, 1e30, -1e-30], dtype)
    a, b = (grid.ravel() for grid in np.meshgrid(special, special))
    rng = np.random.default_rng(1)
    spare = -len(a) % lanes(dtype)
    random = rng.standard_normal((2, spare + 4 * lanes(dtype))).astype(dtype)
    whole = [np.concatenate(pair).reshape(-1, lanes(dtype)) for pair in ((a, random[0]), (b, random[1]))]
    return whole[0], whole[1]


@DTYPES
def test_operations_give_the_bits_of_numpy(dtype: Any) -> None:
    for a, b in zip(*special_and_random(dtype), strict=True):
        out = np.zeros((len(OPERATIONS), len(a)), dtype)
        operate(a[None], b[None], out)
        with np.errstate(all="ignore"):
            for row, (name, formula) in enumerate(OPERATIONS.items()):
                expected = formula(a, b).astype(dtype)
                number = ~np.isnan(expected)
                assert_array_equal(out[row], expected, err_msg=name)
                assert_array_equal(np.signbit(out[row])[number], np.signbit(expected)[number], err_msg=name)


def test_lanes_fill_64_bytes() -> None:
    assert (lanes(np.float32), lanes(np.float64)) == (16, 8)


@driver
def move(x, image, flat, out, out_image, out_flat):
    store(out, 2, load(x, 1))
    store(out_image, (0, 1, 2), load(image, (1, 2, 0)))
    store(out_flat, 3, load(flat, 5))


@DTYPES
def test_load_and_store_take_rows_indices_and_positions(dtype: Any) -> None:
    L = lanes(dtype)
    x, image = np.arange(2 * L, dtype=dtype).reshape(2, L), np.arange(12 * L, dtype=dtype).reshape(2, 3, 2, L)
    flat = np.arange(3 * L, dtype=dtype)
    out, out_image, out_flat = np.zeros((4, L), dtype), np.zeros((1, 2, 3, L), dtype), np.zeros(2 * L, dtype)
    move(x, image, flat, out, out_image, out_flat)
    assert_array_equal(out, [0 * x[0], 0 * x[0], x[1], 0 * x[0]])
    assert_array_equal(out_image[0, 1, 2], image[1, 2, 0])
    assert np.count_nonzero(out_image) == L
    assert_array_equal(out_flat, [*[0] * 3, *range(5, 5 + L), *[0] * (L - 3)])


@pytest.mark.parametrize("masks", [False, True], ids=["by halves", "by masks"])
@DTYPES
def test_the_first_lanes_are_stored_and_no_others(masks: bool, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CPUs with masks do it, and as those without; neither comes from the cache, which would not know."""
    monkeypatch.setattr(simd, "has_masks", lambda context: masks)

    @njit
    def store_some(x, out, count):
        store_first(out, 3, load(x, 0), count)

    L = lanes(dtype)
    x = np.arange(1, 1 + L, dtype=dtype)
    for count in range(L + 1):
        out, expected = np.zeros((2, 3 + 2 * L), dtype)
        store_some(x[None], out, count)
        expected[3 : 3 + count] = x[:count]
        assert_array_equal(out, expected)


@constant
@dataclass(frozen=True)
class Reach:
    """How many vectors a run reads."""

    vectors: int


@run_transform
def combine(reach):
    """Some sums, differences and products by numbers."""
    return reach.vectors, lambda v: (v[0] - 2.0 * v[1], v[2] * 0.5 + v[0], v[1] - v[2])


@driver
def move_runs(reach, x, flat, out, gathered):
    store_run(out, 1, 2, combine(reach, x, 5, -2))
    store(gathered, 0, load_apart(flat, 2, 3, 1000))
    store(gathered, 1, load_apart(flat, 2, 3, 4))


@DTYPES
def test_runs_and_vectors_of_scalars_apart_take_steps(dtype: Any) -> None:
    L = lanes(dtype)
    x, flat = np.arange(6 * L, dtype=dtype).reshape(6, L), np.arange(4 * L, dtype=dtype)
    out, gathered = np.zeros((6, L), dtype), np.zeros((2, L), dtype)
    move_runs(Reach(3), x, flat, out, gathered)
    zeros = 0 * x[0]
    assert_array_equal(out, [zeros, x[5] - 2 * x[3], zeros, 0.5 * x[1] + x[5], zeros, x[3] - x[1]])
    # From the fourth lane on the last of four scalars stands.
    assert_array_equal(gathered, [2 + 3 * np.arange(L), [2, 5, 8, *[11] * (L - 3)]])


@driver
def multiply_add(x, y, z, out):
    store(out, 0, fma(load(x, 0), load(y, 0), load(z, 0)))


@compiled_only("the twin rounds the product as well")
@DTYPES
def test_fma_rounds_once(dtype: Any) -> None:
    # (1 + e)**2 - 1 - 2e is e**2, which a rounded product loses.
    e = np.finfo(dtype).eps
    x = np.full((1, lanes(dtype)), 1 + e, dtype)
    z = np.full((1, lanes(dtype)), -1 - 2 * e, dtype)
    out = np.zeros_like(x)
    multiply_add(x, x, z, out)
    assert_array_equal(out, np.full_like(x, e * e))
    assert_array_equal(x * x + z, np.zeros_like(x))


@driver
def shift_exponent(x, n, scaled, found):
    for k in range(x.shape[0]):
        store(scaled, k, scale_by_power(load(x, k), load(n, k)))
        store(found, k, exponent(load(x, k)))


@DTYPES
def test_scaling_by_powers_of_two_over_the_whole_range(dtype: Any) -> None:
    lowest, highest = (-252, 254) if dtype == np.float32 else (-2044, 2046)
    powers = np.arange(lowest, highest + 1)
    powers = np.pad(powers, (0, -len(powers) % lanes(dtype)))
    for value in (1.0, 1.37, -1.9, 0.0, np.inf):
        x = np.full(len(powers), value, dtype).reshape(-1, lanes(dtype))
        n = powers.astype(dtype).reshape(x.shape)
        scaled, found = np.zeros_like(x), np.zeros_like(x)
        shift_exponent(x, n, scaled, found)
        with np.errstate(all="ignore"):
            expected = np.ldexp(x, powers.reshape(x.shape))
        tiny = np.abs(expected) < np.finfo(dtype).tiny
        assert_array_equal(scaled[~tiny], expected[~tiny])
        # Below the normal numbers the two half steps may round twice.
        assert np.abs(scaled[tiny] - expected[tiny]).max(initial=0) <= np.finfo(dtype).smallest_subnormal


@DTYPES
def test_scaling_keeps_nan_and_takes_nan_for_the_power(dtype: Any) -> None:
    x = np.full((1, lanes(dtype)), np.nan, dtype)
    scaled, found = np.zeros_like(x), np.zeros_like(x)
    shift_exponent(x, x, scaled, found)
    assert np.isnan(scaled).all()


@DTYPES
def test_exponent_of_normal_numbers(dtype: Any) -> None:
    info = np.finfo(dtype)
    numbers = [1, 2, 3, 4, 0.75, 0.5, 1 - info.epsneg, 1 + info.eps, info.tiny, info.max, 1e10, 1e-10]
    x = np.array((numbers * 2)[: 2 * 8 if dtype == np.float64 else 16], dtype).reshape(-1, lanes(dtype))
    scaled, found = np.zeros_like(x), np.zeros_like(x)
    shift_exponent(x, np.zeros_like(x), scaled, found)
    assert_array_equal(found, np.frexp(x)[1] - 1)


@driver
def through_bytes(x, stored, out):
    value = load(x, 0)
    store_integers(stored, 1, value)
    store(out, 0, load_numbers(value, stored, 1))


@DTYPES
def test_bytes_hold_whole_numbers_to_255(dtype: Any) -> None:
    L = lanes(dtype)
    for first in range(0, 256, L):
        x = np.arange(first, first + L, dtype=dtype)[None]
        stored, out = np.full((3, L), 7, np.uint8), np.zeros_like(x)
        through_bytes(x, stored, out)
        assert_array_equal(stored, [[7] * L, x[0], [7] * L])
        assert_array_equal(out, x)
