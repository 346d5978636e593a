"""Register tiles: each operation against its formula, and that no choice of tile changes a bit of a sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from battery import DTYPES, compiled_only
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from nnjit.kernels import tuning
from nnjit.kernels.activations import Epilogue
from nnjit.kernels.compiler import kernel
from nnjit.kernels.contraction import (
    Cut,
    Extent,
    View,
    Weights,
    contract,
    contract_lanes,
    first_rows,
    tile_places,
)
from nnjit.kernels.program import Call, Program
from nnjit.kernels.simd import lanes
from nnjit.kernels.sums import SUMS_VECTORS, add_parts
from nnjit.kernels.tiles import (
    TileShape,
    tile_add_sums,
    tile_fma,
    tile_fma_vectors,
    tile_rows,
    tile_store,
    tile_zeros,
)
from nnjit.kernels.tuning import choose_chunks, choose_cut, choose_groups_cut, choose_tile, vector_registers
from nnjit.kernels.winograd_transforms import F43, F45

Array = NDArray[Any]

SHAPES = [TileShape(1, 1), TileShape(1, 3, 1, 2), TileShape(3, 1, 3), TileShape(2, 4, 3, 1), TileShape(4, 5)]


@kernel
def run_tile(task, tile, start, w, x, taps, out, sums):
    """One tile through every operation; see the test for what comes out."""
    total = tile_rows(tile, start, 1)
    total = tile_fma(tile, total, w, 2, x, 1, 2)
    tile_store(total, out, 1, 5, 1, 0)
    total = tile_zeros(tile, x)
    total = tile_fma_vectors(total, x, 2, 3, x, 4, taps, 1)
    tile_add_sums(total, sums, 2)


@DTYPES
@pytest.mark.parametrize("tile", SHAPES, ids=str)
def test_operations_follow_their_formulas(tile: TileShape, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    L = lanes(dtype)
    start, w, x = (rng.standard_normal(size).astype(dtype) for size in ((5,), (12,), (20, L)))
    taps = np.array([9, 5, 0, 3, 6, 1], np.int64)
    out, sums = np.zeros((21, L), dtype), np.ones(40, dtype)
    Program([Call(run_tile, 1, (tile, start, w, x, taps, out, sums), 1)]).run()

    expected, expected_sums = np.zeros_like(out), np.ones_like(sums)
    column_step = tile.column_step or 2  # the shape's own step, or the one that the call gives
    for r in range(tile.rows):
        for c in range(tile.columns):
            expected[1 + 5 * r + c] = start[1 + r] + w[2 + tile.row_step * r] * x[1 + column_step * c]
            expected_sums[2 + tile.columns * r + c] += (x[2 + 3 * r] * x[4 + taps[1 + c]]).sum()
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    assert_allclose(out, expected, rtol=tolerance, atol=tolerance)
    assert_allclose(sums, expected_sums, rtol=10 * tolerance, atol=10 * tolerance)


# 5 rows and 7 columns: tiles that divide them, tiles that overlap at the ends, the whole, one number; one that knows
# the step of its columns. All know that of their rows, the number of taps.
BLOCKS, ROWS, LINES, COLUMNS, TAPS = 2, 5, 3, 7, 9
TILES = [
    TileShape(1, 1, TAPS),
    TileShape(2, 3, TAPS),
    TileShape(3, 2, TAPS, 1),
    TileShape(5, 7, TAPS),
    TileShape(4, 5, TAPS),
]


def contraction(tile: TileShape, dtype: Any) -> dict[str, bytes]:
    """The bits of both contractions, computed with `tile`."""
    rng = np.random.default_rng(2)
    L = lanes(dtype)
    x = rng.standard_normal((BLOCKS * 60, L)).astype(dtype)
    d = rng.standard_normal((BLOCKS * ROWS * LINES * COLUMNS, L)).astype(dtype)
    w, bias = rng.standard_normal(ROWS * TAPS).astype(dtype), rng.standard_normal(ROWS).astype(dtype)
    x_taps = rng.permutation(25)[:TAPS].astype(np.int64)
    out, dw = np.full_like(d, np.nan), np.full_like(w, np.nan)
    extent = Extent(BLOCKS, ROWS, LINES, COLUMNS)
    x_view = View(x, 1, 60, 0, COLUMNS, 1)
    plane = View(d, 0, ROWS * LINES * COLUMNS, LINES * COLUMNS, COLUMNS, 1)
    out_view = plane._replace(vectors=out)
    # The kernel has three lines of three taps; all columns use all taps of a line.
    lines = np.array([[0, 3], [1, 3], [0, 2]])
    columns = np.array([[0, 3]] * COLUMNS)
    weights = Weights(w, TAPS * first_rows(ROWS, tile.rows), np.arange(TAPS), 3, lines, columns)
    forward = (tile, extent, weights, x_view, x_taps, bias, out_view, Epilogue("relu"), out_view)
    # Two parts of three lines each, in pieces of two lines and one; a part's tiles shared by two tasks.
    cut = Cut(2, 2, 2)
    places = tile_places(tile, ROWS, TAPS, L)
    parts, bias_parts = np.full((2, places.size), np.nan, dtype), np.full((2, ROWS), np.nan, dtype)
    n, i = (axis.reshape(-1) for axis in np.mgrid[:BLOCKS, :LINES])
    starts = np.stack([view.start + n * view.block + i * view.line for view in (plane, x_view)], axis=1)
    backward = (tile, extent, cut, plane, x_view, starts, x_taps, parts, bias_parts)
    row_tiles = -(-ROWS // tile.rows)
    calls = [
        Call(contract, BLOCKS * LINES * row_tiles, forward, 1),
        Call(contract_lanes, 4, backward, 1),
        Call(add_parts, -(-len(places) // SUMS_VECTORS), (parts.reshape(2, -1, L), places, dw), 1),
    ]
    Program(calls).run()
    assert np.isfinite(out).all() and np.isfinite(dw).all()
    assert_allclose(bias_parts.sum(0), d.reshape(BLOCKS, ROWS, -1).sum((0, 2)), rtol=1e-4)
    return {"out": out.tobytes(), "dw": dw.tobytes(), "db": bias_parts.tobytes()}


@DTYPES
def test_every_tile_gives_the_same_bits(dtype: Any) -> None:
    expected = contraction(TILES[0], dtype)
    for tile in TILES[1:]:
        assert contraction(tile, dtype) == expected, tile


@compiled_only("it is about how Numba types a tile's shape")
def test_each_shape_is_a_type_of_its_own() -> None:
    from numba import typeof

    assert typeof(TileShape(2, 3)) == typeof(TileShape(2, 3))
    assert len({typeof(TileShape(*steps)) for steps in np.ndindex(2, 2, 2, 2)}) == 16
    assert typeof(F43) != typeof(F45)
    assert len({typeof(Epilogue(name, backward)) for name in ("", "relu") for backward in (False, True)}) == 4


# The choice of a tile


@pytest.mark.parametrize("registers", [4, 8, 32])
@given(
    rows=st.integers(1, 200),
    columns=st.integers(1, 200),
    taps=st.integers(1, 1000),
    group_rows=st.sampled_from([None, 8, 16]),
)
def test_a_chosen_tile_fits(registers: int, rows: int, columns: int, taps: int, group_rows: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "vector_registers", lambda: registers)
        tile = choose_tile.__wrapped__(rows, columns, taps, group_rows)
    assert 1 <= tile.rows <= rows and 1 <= tile.columns <= columns
    assert group_rows is None or group_rows % tile.rows == 0
    # With fewer registers than 8 vectors any tile of use spills.
    assert tile.rows * tile.columns <= max(registers, 8) - 2


def test_a_long_sum_gets_enough_accumulators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two multiply-adds a cycle, each ready after four, keep eight sums busy."""
    monkeypatch.setattr(tuning, "vector_registers", lambda: 32)
    tile = choose_tile.__wrapped__(64, 56, 500)
    assert tile.rows * tile.columns >= 8


def test_a_weight_gradient_is_cut_into_parts_that_are_worth_it() -> None:
    lenet5 = choose_cut(4 * 28, 28, 200, 600)
    assert (lenet5.parts, lenet5.lines) == (8, 4)
    assert choose_cut(1, 63, 200, 600).parts == 1
    assert choose_cut(10_000, 28, 200, 9_000_000).parts == 1
    assert choose_cut(10_000, 28, 1_000_000, 600).lines == 1
    assert choose_groups_cut(64, 600).parts == 4
    assert choose_groups_cut(64, 1_000_000).parts == 2
    assert choose_groups_cut(64, 20_000_000).parts == 1


def test_registers_are_known_for_this_cpu() -> None:
    assert vector_registers() in (4, 8, 32)


def test_chunks_cover_every_vector_in_the_order_of_their_place_in_a_tensor() -> None:
    assert choose_chunks([(0, 600), (600, 601), (601, 1001)]).tolist() == [
        [0, 256],
        [600, 601],
        [601, 857],
        [256, 512],
        [857, 1001],
        [512, 600],
    ]
    assert choose_chunks([]).shape == (0, 2)
