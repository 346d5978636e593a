"""Weights in the order of tiles: against NumPy's indexing, whatever the places of their taps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from battery import DTYPES
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from nnjit.kernels.packing import LEAST_DENSE, pack_rows, places_of, spans_of
from nnjit.kernels.program import Call, Program
from nnjit.kernels.simd import lanes

PLACES = st.lists(st.integers(0, 300), max_size=40, unique=True)


@given(places=PLACES, width=st.sampled_from([8, 16]))
def test_spans_hold_every_tap_once(places: list[int], width: int) -> None:
    spans = spans_of(np.array(places, np.int64), width)
    assert_array_equal(places_of(spans), places)
    assert sorted([*spans.taps[spans.taps >= 0], *spans.apart[:, 1]]) == list(range(len(places)))
    assert all((of_span >= 0).sum() >= LEAST_DENSE for of_span in spans.taps)


@pytest.mark.parametrize(
    "places",
    [
        np.array([0, 2, 1]),  # apart
        np.array([2, 1, 0, 7, 4, 5, 6]),  # one span
        np.array([40, 3, 21, 0, 1, 20, 22, 23, 2, 24, 50]),  # spans and some apart
        np.arange(51)[::-1],
    ],
    ids=len,
)
@pytest.mark.parametrize("of_tile", [3, 11, 20, 32])
@pytest.mark.parametrize("whole", [False, True])
@DTYPES
def test_packed_rows(of_tile: int, whole: bool, places: Any, dtype: Any) -> None:
    """Two phases of 21 rows in tiles of fewer rows than a vector has lanes, of more, and of more than there are; the
    last rows end where the weights do, which no vector may pass."""
    rows, size = 21, int(places.max()) + 1
    w = np.random.default_rng(0).standard_normal((2, rows, size)).astype(dtype)
    tiles = -(-rows // of_tile)
    out = np.full((2 * tiles, len(places), of_tile), np.nan, dtype)
    starts = np.array([0, rows * size], np.int64)
    operands = (rows, whole, w.reshape(-1), starts, size, spans_of(places, lanes(dtype)), out)
    Program([Call(pack_rows, len(out), operands, 1)]).run()
    for phase in range(2):
        for number in range(tiles):
            first = number * of_tile
            if not whole:
                first = max(min(first, rows - of_tile), 0)
            there = w[phase, first : first + of_tile, places]
            assert_array_equal(out[phase * tiles + number, :, : there.shape[1]], there)
