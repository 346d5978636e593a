"""exp, sigmoid, tanh, log and log(1 + x) on vectors: how far they are from the truth, and their special values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from nnjit.kernels import lane_math
from nnjit.kernels.compiler import driver
from nnjit.kernels.simd import lanes, load, store

Array = NDArray[Any]

exp, sigmoid, tanh, log1p, log_positive = (
    lane_math.exp,
    lane_math.sigmoid,
    lane_math.tanh,
    lane_math.log1p,
    lane_math.log_positive,
)

NAMES = ("exp", "sigmoid", "tanh", "log1p", "log_positive")
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@driver
def evaluate(x, out):
    """out[f, k, :] = function f of x[k, :], in the order of NAMES; x (vectors, L)  out (5, vectors, L)"""
    for k in range(x.shape[0]):
        v = load(x, k)
        store(out, (0, k), exp(v))
        store(out, (1, k), sigmoid(v))
        store(out, (2, k), tanh(v))
        store(out, (3, k), log1p(v))
        store(out, (4, k), log_positive(v))


def values(name: str, x: Array) -> Array:
    """One of the functions of the numbers x (count,)."""
    padded = np.concatenate([x, np.ones(-len(x) % lanes(x.dtype), x.dtype)]).reshape(-1, lanes(x.dtype))
    out = np.zeros((len(NAMES), *padded.shape), x.dtype)
    evaluate(padded, out)
    return out[NAMES.index(name)].ravel()[: len(x)]


def exact(name: str, x: Array) -> Array:
    """The same in a wider type."""
    wide = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    with np.errstate(all="ignore"):
        if name == "sigmoid":
            return 1 / (1 + np.exp(-wide))
        return {"exp": np.exp, "tanh": np.tanh, "log1p": np.log1p, "log_positive": np.log}[name](wide)


def units_in_the_last_place(name: str, x: Array) -> Array:
    """The error of each value, in steps between neighbouring numbers of x's dtype at the true value."""
    truth = exact(name, x)
    return np.abs(values(name, x) - truth) / np.spacing(np.abs(truth).astype(x.dtype))


# The span in which each function changes, and the bound on its error. The worst seen are 0.99, 2.05, 2.49, 1.88, 1.83.
SPANS = {
    "exp": {np.float32: (-103.0, 88.7), np.float64: (-745.0, 709.7)},
    "sigmoid": {np.float32: (-88.0, 20.0), np.float64: (-708.0, 40.0)},
    "tanh": {np.float32: (-10.0, 10.0), np.float64: (-20.0, 20.0)},
    "log1p": {np.float32: (0.0, 1.0), np.float64: (0.0, 1.0)},
    "log_positive": {np.float32: (1.0, 1000.0), np.float64: (1.0, 1000.0)},
}
BOUNDS = {"exp": 1.5, "sigmoid": 2.5, "tanh": 3.0, "log1p": 2.5, "log_positive": 2.5}


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_errors_stay_below_a_few_units_in_the_last_place(name: str, dtype: Any) -> None:
    if dtype == np.float64 and np.finfo(np.longdouble).eps > np.finfo(np.float64).eps / 64:
        pytest.skip("long double is no wider than double on this machine")
    rng = np.random.default_rng(3)
    low, high = SPANS[name][dtype]
    uniform = rng.uniform(low, high, 16_000)
    sizes = np.exp(rng.uniform(-60, 0, 4_000)) * min(high, 1.0)
    near = 1 + sizes if name == "log_positive" else sizes * rng.choice([-1, 1], len(sizes)) if low < 0 else sizes
    x = np.concatenate([uniform, near]).astype(dtype)
    errors = units_in_the_last_place(name, x)
    worst = int(errors.argmax())
    assert errors[worst] <= BOUNDS[name], f"{errors[worst]} at {x[worst]!r}"


def test_the_measure_sees_a_shift_of_four_units(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.linspace(0.1, 0.9, 32, dtype=np.float32)
    correct = values("exp", x)
    monkeypatch.setitem(globals(), "values", lambda name, x: correct + 4 * np.spacing(correct))
    assert units_in_the_last_place("exp", x).min() > 2.9


SPECIAL = {
    "exp": [(0.0, 1.0), (-0.0, 1.0), (-np.inf, 0.0), (np.inf, np.inf), (-1e30, 0.0), (1e30, np.inf)],
    "sigmoid": [(0.0, 0.5), (-np.inf, 0.0), (np.inf, 1.0), (-1e30, 0.0), (1e30, 1.0)],
    "tanh": [(0.0, 0.0), (-0.0, 0.0), (-np.inf, -1.0), (np.inf, 1.0), (-1e30, -1.0), (1e30, 1.0)],
    "log1p": [(0.0, 0.0)],
    "log_positive": [(1.0, 0.0)],
}


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_special_values(name: str, dtype: Any) -> None:
    x, expected = np.array(SPECIAL[name], dtype).T
    assert_array_equal(values(name, np.ascontiguousarray(x)), expected)


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_nan_and_in_its_lane(name: str, dtype: Any) -> None:
    x = np.linspace(0, 1, lanes(dtype), dtype=dtype)
    x[3] = np.nan
    assert_array_equal(np.isnan(values(name, x)), np.isnan(x))


@DTYPES
@pytest.mark.parametrize(("name", "low", "high"), [("sigmoid", 0, 1), ("tanh", -1, 1)])
def test_sigmoid_and_tanh_rise_within_their_limits(name: str, low: int, high: int, dtype: Any) -> None:
    out = values(name, np.linspace(-800, 800, 20_001, dtype=dtype))
    assert (np.diff(out) >= 0).all()
    assert (out[0], out[-1]) == (low, high)


@DTYPES
def test_tanh_is_odd_to_the_bit(dtype: Any) -> None:
    x = np.random.default_rng(4).uniform(0, 5, 1000).astype(dtype)
    assert_array_equal(values("tanh", -x), -values("tanh", x))


@DTYPES
def test_exp_reaches_the_ends_of_the_type(dtype: Any) -> None:
    """Up to the largest number and down into the subnormal ones, without a gap before infinity or zero."""
    info = np.finfo(dtype)
    ends = np.log(np.array([info.max, info.smallest_subnormal], np.longdouble))
    inside = np.array([ends[0] - 1e-4, ends[1] + 1e-4], dtype)
    outside = np.array([ends[0] + 1e-4, ends[1] - 1], dtype)
    assert (np.isfinite(values("exp", inside)) & (values("exp", inside) > 0)).all()
    assert_array_equal(values("exp", outside), [np.inf, 0.0])
