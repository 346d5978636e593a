"""Means and deviations of training samples, and the shift and factor that standardize with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_NUMBERS = 1 << 20
ROUNDING = 1e-10
"""A deviation below this share of the mean is rounding: the entry is constant."""


def moments(array: NDArray[Any], rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance (over N, not N - 1) of each entry of `array` (N, ...) over `rows`, both (entries,).

    Blocks are merged in the order of `rows`, so that the same samples always give the same bits.
    Source: Chan, Golub & LeVeque 1979, Stanford STAN-CS-79-773, equation 2.1.
    """
    entries = array[0].size
    step = max(1, BLOCK_NUMBERS // entries)
    mean, squares = np.zeros(entries), np.zeros(entries)
    for start in range(0, len(rows), step):
        block = array[rows[start : start + step]].reshape(-1, entries).astype(np.float64)
        block_mean = block.mean(axis=0)
        delta = block_mean - mean
        share = len(block) / (start + len(block))
        squares += ((block - block_mean) ** 2).sum(axis=0) + delta**2 * (start * share)
        mean += delta * share
    return mean, squares / len(rows)


def standardizing(
    array: NDArray[Any], rows: NDArray[np.int64], over_all: bool = False, constant: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shift and factor with which (x - shift) * factor has mean 0 and deviation 1 over `rows`.

    Each is (entries,), or (1,) over everything if `over_all`; an entry that never changes gets the factor
    `constant`.
    """
    mean, variance = moments(array, rows)
    if over_all:
        # The spread round the common mean is that within the entries plus that of their means.
        variance = np.atleast_1d(variance.mean() + mean.var())
        mean = np.atleast_1d(mean.mean())
    deviation = np.sqrt(variance)
    changes = deviation > ROUNDING * np.abs(mean)
    return mean, np.divide(1.0, deviation, out=np.full_like(mean, constant), where=changes)
