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
    slots = np.random.default_rng(len(places)).permutation(3 * len(places))[: 2 * len(places)].reshape(-1, 2)
    spans = spans_of(np.array(places, np.int64), width, slots)
    found, in_order = places_of(spans)
    order = np.argsort(slots[:, 0])
    assert_array_equal(found, np.array(places, np.int64)[order])
    assert_array_equal(in_order, slots[order])
    assert all((of_span[:, 0] >= 0).sum() >= LEAST_DENSE for of_span in spans.slots)


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
@pytest.mark.parametrize("of_tile", [3, 7, 11, 20, 32])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("shares", "by_fours"), [(1, 8), (3, 4)])
@DTYPES
def test_packed_rows(of_tile: int, whole: bool, shares: int, by_fours: int, places: Any, dtype: Any) -> None:
    """Rows of two phases, 21 in tiles of fewer rows than a vector has lanes, of more, and of more than there are; the
    last rows end where the weights do, which no vector may pass. The second phase's taps lie between the first one's,
    and its slots behind those for all tiles."""
    rows, size = 21, int(places.max()) + 1
    w = np.random.default_rng(0).standard_normal((rows, size, 2)).astype(dtype)
    tiles, taps = -(-rows // of_tile), len(places)
    out = np.full((2, tiles, taps, of_tile), np.nan, dtype)
    slots = np.stack([[*range(taps), *range(tiles * taps, (tiles + 1) * taps)], np.full(2 * taps, taps)], axis=1)
    spans = spans_of(np.concatenate([2 * places, 2 * places + 1]), lanes(dtype), slots)
    operands = (shares, rows, of_tile, whole, by_fours, w.reshape(-1), 2 * size, spans, out.reshape(-1))
    Program([Call(pack_rows, tiles * shares, operands, 1)]).run()
    for number in range(tiles):
        first = number * of_tile
        if not whole:
            first = max(min(first, rows - of_tile), 0)
        there = w[first : first + of_tile, places]
        assert_array_equal(out[:, number, :, : len(there)], there.transpose(2, 1, 0))


@pytest.mark.parametrize("of_tile", [3, 11, 20, 32])
@DTYPES
def test_rows_side_by_side(of_tile: int, dtype: Any) -> None:
    """The taps of convolutions by 1x1 to the input lie apart, their rows do not."""
    rows, taps = 21, 7
    w = np.random.default_rng(0).standard_normal((taps, rows)).astype(dtype)
    tiles = -(-rows // of_tile)
    out = np.full((tiles, taps, of_tile), np.nan, dtype)
    operands = (
        2,
        rows,
        of_tile,
        True,
        4,
        w.reshape(-1),
        1,
        spans_of(np.arange(taps) * rows, lanes(dtype)),
        out.reshape(-1),
    )
    Program([Call(pack_rows, 2 * tiles, operands, 1)]).run()
    for number in range(tiles):
        there = w[:, number * of_tile : (number + 1) * of_tile]
        assert_array_equal(out[number, :, : there.shape[1]], there)
