"""Register tiles: each operation against its formula, and that no choice of tile changes a bit of a sum."""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import Any, Literal

import numpy as np
import pytest
from battery import DTYPES, Stack, compiled_only
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from nnjit import convolution, weight_gradients
from nnjit.kernels import tuning
from nnjit.kernels.activations import Epilogue
from nnjit.kernels.compiler import kernel
from nnjit.kernels.contraction import Extent, View, Weights, contract, pack_rows
from nnjit.kernels.contraction_transposed import contract_transposed, transposed_places
from nnjit.kernels.contraction_weights import Cut, contract_lanes, tile_places
from nnjit.kernels.lane_sums import tile_add_sums, tile_add_vectors, tile_fma_vectors
from nnjit.kernels.program import Call, Program
from nnjit.kernels.simd import lanes, store
from nnjit.kernels.sums import SUMS_VECTORS, add_parts
from nnjit.kernels.tiles import (
    SAMPLES,
    TileShape,
    fresh_steps,
    tile_add,
    tile_add_to,
    tile_fma,
    tile_fma_samples,
    tile_rows,
    tile_store,
    tile_sum,
    tile_zeros,
)
from nnjit.kernels.tuning import (
    choose_chunks,
    choose_cut,
    choose_groups_cut,
    choose_lanes,
    choose_lanes_tile,
    choose_tile,
    choose_transposed_cut,
    choose_transposed_tile,
    vector_registers,
)
from nnjit.kernels.winograd_transforms import F43, F45
from nnjit.layers.activations import Relu, Tanh
from nnjit.layers.conv2d import Conv2d
from nnjit.layers.dense import Dense
from nnjit.layers.flatten import Flatten
from nnjit.network import Network

Array = NDArray[Any]

SHAPES = [
    TileShape(1, 1),
    TileShape(1, 3, 1, 2),
    TileShape(3, 1, 3),
    TileShape(2, 4, 3, 1),
    TileShape(4, 5),
    # Runs: of few rows, of many, of columns further apart.
    TileShape(1, 4, 1, 1, run=2),
    TileShape(3, 4, 1, 1, run=2),
    TileShape(1, 3, 2, 2, run=3),
    TileShape(2, 2, 1, 2, run=2),
    # Runs of which the steps are told, of the columns, the taps or both; scalars further apart.
    TileShape(2, 3, 1, 1, run=2, run_step=0),
    TileShape(2, 2, run=3, run_step=1),
    TileShape(2, 2, 3, run=2, run_step=0, tap_step=5),
    TileShape(2, 6, 1, 1, run=3, halved=True),
    TileShape(3, 1, 1, 1, halved=True),
    # What the next columns read is fetched ahead, as far as it lies inside the array or not.
    TileShape(3, 4, 1, 1, run=2, fetches=True),
    TileShape(2, 3, 1, 1, run=2, run_step=0, fetches=True),
    TileShape(2, 6, 1, 1, run=3, halved=True, fetches=True),
    TileShape(2, 2, 1, 2, run=2, line_fetches=3),
    TileShape(2, 6, 1, 1, run=3, halved=True, line_fetches=2),
]


@kernel
def run_tile(task, tile, start, w, x, out):
    """One tile from its start to its end; see the test for what comes out."""
    total = tile_rows(tile, start, 1)
    total = tile_fma(tile, total, w, 2, x, 1, 2, 3, 99)
    tile_store(total, out, 1, 5, 1, 0)


@kernel
def run_tile_of_vectors(task, tile, x, taps, sums, row_sums):
    """Likewise for sums over lanes."""
    total = tile_zeros(tile, x)
    total = tile_fma_vectors(tile, total, 0, x, 2, 3, x, 4, taps, 1)
    rows = tile_add_vectors(tile_zeros(tile, x), 0, x, 2, 3)
    if tile.halved:
        total = tile_add(total, tile_fma_vectors(tile, tile_zeros(tile, x), 1, x, 2, 3, x, 4, taps, 1))
        rows = tile_add_vectors(rows, 1, x, 2, 3)
    tile_add_sums(total, sums, 2)
    tile_add_sums(rows, row_sums, 2)


@kernel
def run_tile_of_samples(task, tile, x, taps, d, out, sums):
    """Likewise for sums over samples, whose scalars lie side by side."""
    total = tile_fma_samples(tile, tile_zeros(tile, d), x, 3, taps, 1, d, 2)
    tile_add_to(total, out, 1)
    store(sums, 0, tile_sum(total))


@DTYPES
@pytest.mark.parametrize("tile", [shape for shape in SHAPES if not shape.halved], ids=str)
def test_sums_over_samples_follow_their_formulas(tile: TileShape, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    L = lanes(dtype)
    tile = replace(tile, run=gcd(tile.rows, tile.run))
    x, d = rng.standard_normal(12 * L).astype(dtype), rng.standard_normal((2 + SAMPLES * tile.columns, L)).astype(dtype)
    # Only the first tap of a run is read.
    taps = np.array([77, 5, 2 * L, L + 1, 7, 3 * L, 0], np.int64)
    out, sums = np.ones((2 + tile.rows * tile.columns, L), dtype), np.zeros((1, L), dtype)
    Program([Call(run_tile_of_samples, 1, (tile, x, taps, d, out, sums), 1)]).run()
    expected = np.zeros((tile.rows, tile.columns, L))
    for r in range(tile.rows):
        first = 3 + taps[1 + r - r % tile.run] + r % tile.run * L
        vectors = d[2:].reshape(SAMPLES, tile.columns, L).astype(float)
        expected[r] = np.einsum("s,scl->cl", x[first : first + SAMPLES].astype(float), vectors)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    assert_allclose(out[1:-1], 1 + expected.reshape(-1, L), rtol=tolerance, atol=tolerance)
    assert_allclose(sums[0], expected.sum((0, 1)), rtol=tolerance, atol=tolerance)
    assert (out[0] == 1).all() and (out[-1] == 1).all()


@DTYPES
@pytest.mark.parametrize("tile", SHAPES, ids=str)
def test_operations_follow_their_formulas(tile: TileShape, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    L = lanes(dtype)
    start, w, x = (rng.standard_normal(size).astype(dtype) for size in ((5,), (16,), (25, L)))
    taps = np.array([9, 5, 0, 3, 6, 1, 2], np.int64)
    out, sums, row_sums = np.zeros((21, L), dtype), np.ones(40, dtype), np.ones(40, dtype)
    calls = [
        Call(run_tile_of_vectors, 1, (tile, x, taps, sums, row_sums), 1),
        Call(run_tile, 1, (tile, start, w, x, out), 1),
    ]
    Program(calls).run()

    halves, out = x.reshape(-1, L // tile.units), out.reshape(-1, L // tile.units)
    expected, expected_sums, expected_row_sums = np.zeros_like(out), np.ones_like(sums), np.ones_like(sums)
    # The shape's own steps, or those that the call gives.
    column_step, run_step = tile.column_step or 2, tile.run_step or 3
    for r in range(tile.rows):
        for c in range(tile.columns):
            expected[1 + 5 * r + c] = start[1 + r]
            for v in range(tile.run):
                scalar = w[2 + v * (tile.tap_step or tile.rows) + tile.row_step * r]
                expected[1 + 5 * r + c] += scalar * halves[1 + column_step * c + run_step * v]
            tap = taps[1 + c - c % tile.run] + c % tile.run
            expected_sums[2 + tile.columns * r + c] += (x[2 + 3 * r] * x[4 + tap]).sum()
            expected_row_sums[2 + tile.columns * r + c] += x[2 + 3 * r].sum()
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    assert_allclose(out, expected, rtol=tolerance, atol=tolerance)
    assert_allclose(sums, expected_sums, rtol=10 * tolerance, atol=10 * tolerance)
    assert_allclose(row_sums, expected_row_sums, rtol=10 * tolerance, atol=10 * tolerance)


# 5 rows and 7 columns: tiles that divide them, tiles that overlap at the ends, the whole, one number; some that know
# the step of their columns, and runs of taps, with few rows and with many.
BLOCKS, ROWS, LINES, COLUMNS, TAPS = 2, 5, 3, 7, 9
TILES = [
    TileShape(1, 1),
    TileShape(2, 3),
    TileShape(3, 2, 1, 1),
    TileShape(5, 7),
    TileShape(4, 5),
    TileShape(4, 3, 1, 1, run=3),
    TileShape(1, 6, 1, 1, run=3),
    TileShape(2, 3, run=3, run_step=0),
    TileShape(2, 3, 1, 1, run=3, halved=True),
    TileShape(4, 2, 1, 1, halved=True),
    TileShape(4, 3, 1, 1, run=3, run_step=0, halved=True),
]


def contraction(tile: TileShape, dtype: Any) -> dict[str, bytes]:
    """The bits of both contractions, computed with `tile`."""
    rng = np.random.default_rng(2)
    L = lanes(dtype)
    x = rng.standard_normal((BLOCKS * 60, L)).astype(dtype)
    d = rng.standard_normal((BLOCKS * ROWS * LINES * COLUMNS, L)).astype(dtype)
    w, bias = rng.standard_normal(ROWS * TAPS).astype(dtype), rng.standard_normal(ROWS).astype(dtype)
    x_taps = (np.array([[20], [0], [9]], np.int64) + np.arange(3)).reshape(-1)
    out, dw = np.full_like(d, np.nan), np.full_like(w, np.nan)
    extent = Extent(BLOCKS, ROWS, LINES, COLUMNS)
    x_view = View(x, 1, 60, 0, COLUMNS, 1)
    plane = View(d, 0, ROWS * LINES * COLUMNS, LINES * COLUMNS, COLUMNS, 1)
    out_view = plane._replace(vectors=out)
    # The kernel has three lines of three taps; all columns use all taps of a line.
    lines = np.array([[0, 3], [1, 3], [0, 2]])
    columns = np.array([[0, 3]] * COLUMNS * tile.units)
    row_tiles = -(-ROWS // tile.rows)
    forward_tile = replace(tile, run_step=tile.run_step * tile.units)
    packed = np.full((row_tiles, TAPS, tile.rows), np.nan, dtype)
    pack = (forward_tile, ROWS, w, TAPS, np.arange(TAPS), packed)
    firsts, steps = np.arange(row_tiles) * TAPS * tile.rows, np.arange(TAPS) * tile.rows
    weights = Weights(packed.reshape(-1), firsts, steps, 3, lines, columns)
    forward = (forward_tile, extent, weights, x_view, x_taps, bias, out_view, Epilogue("relu"), out_view)
    # Two parts of three lines each, in pieces of two lines and one; a part's tiles shared by two tasks.
    cut = Cut(2, 2, 2)
    steady, bias_tile = replace(tile, column_step=1), TileShape(tile.rows, 1, halved=tile.halved)
    places, bias_places = tile_places(tile, ROWS, TAPS, L), tile_places(bias_tile, ROWS, 1, L)
    parts, bias_parts = (np.full((2, in_tiles.size), np.nan, dtype) for in_tiles in (places, bias_places))
    db = np.full(ROWS, np.nan, dtype)
    n, i = (axis.reshape(-1) for axis in np.mgrid[:BLOCKS, :LINES])
    starts = np.stack([view.start + n * view.block + i * view.line for view in (plane, x_view)], axis=1)
    backward = (
        steady,
        bias_tile,
        extent,
        cut,
        plane,
        x_view,
        starts.reshape(-1),
        x_taps,
        x_taps[-1:],
        parts,
        bias_parts,
    )
    calls = [
        Call(pack_rows, row_tiles, pack, 1),
        Call(contract, BLOCKS * LINES * row_tiles, forward, 1),
        Call(contract_lanes, 4, backward, 1),
        Call(add_parts, -(-len(places) // SUMS_VECTORS), (parts.reshape(2, -1, L), places, dw), 1),
        Call(add_parts, -(-len(bias_places) // SUMS_VECTORS), (bias_parts.reshape(2, -1, L), bias_places, db), 1),
    ]
    Program(calls).run()
    assert np.isfinite(out).all() and np.isfinite(dw).all()
    assert_allclose(db, d.reshape(BLOCKS, ROWS, -1).sum((0, 2)), rtol=1e-4)
    return {"out": out.tobytes(), "dw": dw.tobytes(), "db": db.tobytes()}


@DTYPES
def test_every_tile_gives_the_same_bits(dtype: Any) -> None:
    expected = contraction(TILES[0], dtype)
    for tile in TILES[1:]:
        assert contraction(tile, dtype) == expected, tile


TRANSPOSED_TILES = [
    TileShape(1, 1, column_step=2),
    TileShape(5, 2, column_step=2),
    TileShape(6, 1, column_step=2, run=3),
    TileShape(3, 3, column_step=2, run=3),
    TileShape(9, 2, column_step=2, run=1),
]


def transposed(tile: TileShape, shares: int, dtype: Any) -> dict[str, bytes]:
    """The bits of the gradients of 3x3 kernels with a stride of 2, maps in the lanes, computed with `tile`.

    Five groups of maps, of which the last begins within the one before it; in the last block most samples are absent.
    """
    rng = np.random.default_rng(4)
    L = lanes(dtype)
    rows, size, side = 4 * L + 3, 7, 3
    samples = (BLOCKS - 1) * L + 2
    x = rng.standard_normal((BLOCKS, size, size, L)).astype(dtype)
    d = rng.standard_normal((BLOCKS, rows, side, side, L)).astype(dtype)
    d[-1, ..., 2:] = 0
    u, v, n, i = (axis.reshape(-1) for axis in (*np.mgrid[:3, :3], *np.mgrid[:BLOCKS, :side]))
    starts = np.stack([(n * rows * side + i) * side, (n * size + 2 * i) * size], axis=1)
    places, bias_places = transposed_places(tile, rows, 9, L)
    cut = Cut(2, 2, shares)
    parts, bias_parts = (np.full((2, *order.shape), np.nan, dtype) for order in (places, bias_places))
    scratch = np.full((1, cut.lines * side * L * tile.columns, L), np.nan, dtype)
    dw, db = np.full(rows * 9, np.nan, dtype), np.full(rows, np.nan, dtype)
    extent, plane = Extent(BLOCKS, rows, side, side), View(d.reshape(-1, L), 0, 0, side * side, 0, 1)
    images = (plane, View(x.reshape(-1, L), 0, 0, 0, 0, 2), starts.reshape(-1), (u * size + v) * L, samples)
    sums = (parts, bias_parts, np.zeros((2, 0), dtype))
    operands = (tile, (TileShape(4, 1), TileShape(tile.rows, 1)), extent, cut, *images, *sums, scratch)
    calls = [
        Call(contract_transposed, 2 * shares, operands, 1),
        Call(add_parts, -(-len(places) // SUMS_VECTORS), (parts, places, dw), 1),
        Call(add_parts, -(-len(bias_places) // SUMS_VECTORS), (bias_parts, bias_places, db), 1),
    ]
    Program(calls).run()
    windows = np.stack([x[:, u : u + 2 * side : 2, v : v + 2 * side : 2] for u, v in np.ndindex(3, 3)])
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    expected = np.einsum("nrijl,knijl->rk", d.astype(float), windows.astype(float))
    assert_allclose(dw, expected.reshape(-1), rtol=tolerance, atol=10 * tolerance)
    assert_allclose(db, d.astype(float).sum((0, 2, 3, 4)), rtol=tolerance, atol=10 * tolerance)
    return {"dw": dw.tobytes(), "db": db.tobytes()}


@DTYPES
def test_every_tile_gives_the_same_bits_with_maps_in_the_lanes(dtype: Any) -> None:
    expected = transposed(TRANSPOSED_TILES[0], 1, dtype)
    for tile in TRANSPOSED_TILES[1:]:
        for shares in (1, 2):
            assert transposed(tile, shares, dtype) == expected, (tile, shares)


def products_of_rows(tile: TileShape, shares: int, dtype: Any) -> dict[str, bytes]:
    """The bits of the products of L + 2 rows of one image with 7 of another over all positions, and of the sums of
    both."""
    rng = np.random.default_rng(5)
    L = lanes(dtype)
    rows, taps, side = L + 2, 7, 3
    d, x = (rng.standard_normal((BLOCKS, count, side, side, L)).astype(dtype) for count in (rows, taps))
    n, i = (axis.reshape(-1) for axis in np.mgrid[:BLOCKS, :side])
    starts = np.stack([(n * count * side + i) * side for count in (rows, taps)], axis=1)
    places, row_places = transposed_places(tile, rows, taps, L)
    tap_places = tile_places(TileShape(tile.rows, 1), taps, 1, L)
    cut = Cut(2, 2, shares)
    every = (places, row_places, tap_places)
    parts, row_parts, tap_parts = (np.full((2, *order.shape), np.nan, dtype) for order in every)
    found = [np.full(count, np.nan, dtype) for count in (rows * taps, rows, taps)]
    planes = [View(values.reshape(-1, L), 0, 0, side * side, 0, 1) for values in (d, x)]
    scratch = np.full((1, cut.lines * side * L * tile.columns, L), np.nan, dtype)
    images = (*planes, starts.reshape(-1), side * side * L * np.arange(taps), BLOCKS * L)
    sums = (parts, row_parts, tap_parts.reshape(2, -1))
    sums_tiles = (TileShape(4, 1), TileShape(tile.rows, 1))
    operands = (tile, sums_tiles, Extent(BLOCKS, rows, side, side), cut, *images, *sums, scratch)
    calls = [Call(contract_transposed, 2 * shares, operands, 1)]
    for order, of, out in zip(every, (parts, row_parts, tap_parts), found, strict=True):
        calls.append(Call(add_parts, -(-len(order) // SUMS_VECTORS), (of, order, out), 1))
    Program(calls).run()
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    expected = np.einsum("nrijl,nkijl->rk", d.astype(float), x.astype(float)).reshape(-1)
    row_sums, tap_sums = (values.astype(float).sum((0, 2, 3, 4)) for values in (d, x))
    for out, right in zip(found, (expected, row_sums, tap_sums), strict=True):
        assert_allclose(out, right, rtol=tolerance, atol=10 * tolerance)
    return {name: out.tobytes() for name, out in zip(("products", "rows", "taps"), found, strict=True)}


@DTYPES
def test_rows_and_taps_of_maps_in_the_lanes_have_the_same_sums_with_every_tile(dtype: Any) -> None:
    tiles = [
        replace(tile, rows=min(tile.rows, 7), columns=min(tile.columns, 2), run=1, column_step=1)
        for tile in TRANSPOSED_TILES
    ]
    expected = products_of_rows(tiles[0], 1, dtype)
    for tile in tiles[1:]:
        for shares in (1, 2):
            assert products_of_rows(tile, shares, dtype) == expected, (tile, shares)


@compiled_only("it is about how Numba types a tile's shape")
def test_each_shape_is_a_type_of_its_own() -> None:
    from numba import typeof

    assert typeof(TileShape(2, 3)) == typeof(TileShape(2, 3))
    assert len({typeof(TileShape(*steps)) for steps in np.ndindex((2,) * 10)}) == 1024
    assert typeof(F43) != typeof(F45)
    assert len({typeof(Epilogue(name, backward)) for name in ("", "relu") for backward in (False, True)}) == 4


# The choice of a tile


@pytest.mark.parametrize("registers", [4, 8, 32])
@given(
    rows=st.integers(1, 200),
    columns=st.integers(1, 200),
    taps=st.integers(1, 1000),
    group_rows=st.sampled_from([None, 8, 16]),
    run=st.integers(1, 9),
    steps=st.tuples(st.integers(0, 3), st.integers(0, 1)),
)
def test_a_chosen_tile_fits(
    registers: int,
    rows: int,
    columns: int,
    taps: int,
    group_rows: int | None,
    run: int,
    steps: tuple[int, int],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "vector_registers", lambda: registers)
        tile = choose_tile.__wrapped__(rows, columns, taps, group_rows, run, *steps)
        lanes_tile = choose_lanes_tile.__wrapped__(rows, run * taps, run)
        turned = choose_transposed_tile.__wrapped__(run * taps, columns, run)
    assert 1 <= tile.rows <= rows and 1 <= tile.columns <= columns
    assert group_rows is None or group_rows % tile.rows == 0
    assert run % tile.run == 0 and (tile.column_step, tile.run_step) == steps
    # With fewer registers than 8 vectors any tile of use spills.
    assert tile.rows * tile.columns <= max(registers, 8) - 2
    assert 1 <= lanes_tile.rows <= rows and 1 <= lanes_tile.columns <= run * taps
    assert lanes_tile.halved == (registers < 32) and run % lanes_tile.run == lanes_tile.columns % lanes_tile.run == 0
    assert 1 <= turned.rows <= run * taps and 1 <= turned.columns <= columns
    assert run % turned.run == turned.rows % turned.run == 0
    assert (turned.rows + 1) * turned.columns < max(registers, 8)
    registers *= 1 + lanes_tile.halved
    assert (lanes_tile.rows + 1) * lanes_tile.columns < registers


@given(rows=st.integers(1, 200), columns=st.integers(1, 200), run=st.integers(1, 9), run_step=st.integers(0, 1))
def test_halves_of_vectors_are_columns_only_where_registers_are_few(
    rows: int, columns: int, run: int, run_step: int
) -> None:
    for registers in (4, 8, 32):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tuning, "vector_registers", lambda registers=registers: registers)
            tile = choose_tile.__wrapped__(rows, columns, 7 * run, None, run, 1, run_step, halves=True)
        assert 1 <= tile.rows <= rows and 1 <= tile.columns <= columns * tile.units and run % tile.run == 0
        assert tile.run_step == run_step * tile.units
        if registers == 8:
            assert (tile.rows + 1) * tile.columns * (2 // tile.units) < 16
        else:
            assert not tile.halved


@pytest.mark.parametrize(
    ("tile", "steps"),
    [
        (TileShape(8, 4, 1, 1, run=3), [6, 7, 8, 9]),  # vectors 4 and 5 are its own
        (TileShape(8, 2, 1, 2, run=3), [5, 6, 7, 8]),
        (TileShape(8, 2, 1, 3, run=2), [6, 7, 9, 10]),
        (TileShape(8, 3, 1, 1, run=1), [3, 4, 5]),
        (TileShape(8, 4, 1, 1, run=1, halved=True), [4, 6]),
    ],
    ids=str,
)
def test_a_tile_fetches_what_the_next_columns_read_and_it_has_not(tile: TileShape, steps: list[int]) -> None:
    assert [step.constant for step in fresh_steps(None, tile, ir.Constant(ir.IntType(64), 99))] == steps


def test_tiles_that_read_much_with_many_rows_fetch_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "vector_registers", lambda: 32)

    def fetches(rows: int, taps: int, run: int = 3, column_step: int = 1, run_step: int = 1, size: int = 512) -> bool:
        return choose_tile.__wrapped__(rows, 16, taps, None, run, column_step, run_step, line_vectors=size).fetches

    # 3x3 from 64 maps, from 16, to 3.
    assert fetches(64, 576) and not fetches(16, 144) and not fetches(3, 576)
    # 1x1, a strided gradient's two taps of 64 maps, dense.
    assert fetches(32, 32, 32, 1, 0) and not fetches(32, 128, 64, 1, 0) and not fetches(64, 600, 600, 0, 1)
    assert not fetches(64, 16, 16, 1, 0, size=0)


def test_the_tiles_of_all_rows_fetch_the_next_line_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for registers in (8, 32):
        monkeypatch.setattr(tuning, "vector_registers", lambda registers=registers: registers)
        for rows, run, halves in ((32, 3, False), (5, 4, False), (64, 2, True)):
            sizes = (rows, 16, 20 * run, None, run, 1 if halves else run, 1)
            tile = choose_tile.__wrapped__(*sizes, halves=halves, apart=True)
            fetched = tile.line_fetches * -(-rows // tile.rows)
            wanted = tile.columns * (1 if halves else run) / tile.units
            assert fetched - -(-rows // tile.rows) < wanted <= fetched
            assert choose_tile.__wrapped__(*sizes, halves=halves).line_fetches == 0
    # Steps are not known, or there are gaps between what columns read.
    assert choose_tile.__wrapped__(32, 16, 60, None, 60, 1, 0, apart=True).line_fetches == 0
    assert choose_tile.__wrapped__(32, 16, 60, None, 2, 3, 1, apart=True).line_fetches == 0


def test_a_layer_tells_what_its_lines_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tiles of forward passes show that choose by it."""
    monkeypatch.setattr(tuning, "vector_registers", lambda: 32)
    monkeypatch.setattr(convolution, "choose_tile", choose_tile.__wrapped__)

    def tile(kernel: int, stride: int, maps: int = 16) -> TileShape:
        layer = Conv2d(filters=32, kernel=(kernel, kernel), stride=(stride, stride), algorithm="direct")
        bound = Network([layer], (maps, 16, 16), np.dtype(np.float32), 0).bind(16)
        (found,) = [call.arguments[0] for call in bound.forward if call.kernel is contract]
        return found

    assert tile(2, 2).line_fetches == tile(3, 3).line_fetches == 2 and tile(3, 2).line_fetches == 0
    assert tile(2, 2).rows > 8 and tile(1, 1).fetches and not tile(2, 2, 3).fetches


def test_a_line_that_does_not_stay_near_is_read_by_tiles_of_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """2x2 with a stride of 2, from 16 maps to 32."""
    monkeypatch.setattr(tuning, "vector_registers", lambda: 32)
    near, far = (choose_tile.__wrapped__(32, 8, 64, None, 2, 2, 1, line_vectors=size) for size in (100, 512))
    assert near.rows < far.rows


def test_a_long_sum_gets_enough_accumulators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two multiply-adds a cycle, each ready after four, keep eight sums busy."""
    monkeypatch.setattr(tuning, "vector_registers", lambda: 32)
    tile = choose_tile.__wrapped__(64, 56, 500)
    assert tile.rows * tile.columns >= 8


def test_maps_are_in_the_lanes_where_they_fill_them_and_taps_are_worth_it() -> None:
    def chosen(filters: int, channels: int, area: int = 1, samples: int = 64, shared: bool = True) -> str:
        return choose_lanes(filters, channels, area, samples, 16, shared)

    assert chosen(15, 100, 9) == chosen(15, 100, 9, shared=False) == "samples"
    assert (
        chosen(32, 16, 9) == "filters" and chosen(32, 3, 9) == "samples" and chosen(32, 8, 4, shared=False) == "filters"
    )
    # 40 maps in three groups; lanes without samples are left out.
    assert chosen(40, 50, 9) == "samples" and chosen(40, 50, 9, samples=10) == "filters"
    # The fewer maps are transposed, if the taps of the others read the same positions.
    assert chosen(64, 32, shared=False) == "channels" and chosen(32, 64, shared=False) == "filters"
    assert chosen(64, 32, 9) == "filters" and chosen(64, 20, shared=False) == "filters"


def test_a_weight_gradient_is_cut_into_parts_that_are_worth_it() -> None:
    assert choose_transposed_cut(128, 8, 600)[:2] == (8, 2)
    assert choose_transposed_cut(128, 30, 600)[:2] == (8, 1)
    assert choose_transposed_cut(7, 8, 600).parts == choose_transposed_cut(128, 8, 9_000_000).parts == 1
    lenet5 = choose_cut(4 * 28, 28, 200, 600, 5, 1)
    assert (lenet5.parts, lenet5.lines) == (8, 3)
    assert choose_cut(1, 63, 200, 600, 5, 1).parts == 1
    assert choose_cut(10_000, 28, 200, 9_000_000, 5, 1).parts == 1
    assert choose_cut(10_000, 28, 1_000_000, 600, 5, 1).lines == 1
    assert choose_groups_cut(64, 600).parts == 4
    assert choose_groups_cut(64, 1_000_000).parts == 2
    assert choose_groups_cut(64, 20_000_000).parts == 1


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("algorithm", ["auto", "direct"])
def test_no_cpu_cuts_a_sum_differently(kernel: int, algorithm: Literal["auto", "direct"]) -> None:
    """The parts and pieces of a sum belong to its order; padding, which tiles decide about, does not count."""
    for filters, maps in [(16, 128), (32, 64), (64, 32), (128, 16), (272, 202), (33, 50)]:
        found = set()
        for registers in (4, 8, 32):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tuning, "vector_registers", lambda registers=registers: registers)
                patch.setattr(weight_gradients, "choose_transposed_tile", choose_transposed_tile.__wrapped__)
                patch.setattr(weight_gradients, "choose_lanes_tile", choose_lanes_tile.__wrapped__)
                layer = Conv2d(filters=filters, kernel=(kernel, kernel), algorithm=algorithm)
                network = Network([layer], (maps, 12, 12), np.dtype(np.float32), 0)
                calls = network.bind(32).sites[0].backward_parameters
            found |= {argument for call in calls for argument in call.arguments if isinstance(argument, Cut)}
        assert len({(cut.parts, cut.lines) for cut in found}) == 1


def test_a_piece_of_a_sum_is_shorter_where_each_position_reads_more() -> None:
    def lines(kernel: int, stride: int) -> int:
        return choose_cut(512, 4, 200, 600, kernel, stride).lines

    assert lines(3, 1) > lines(3, 2) > lines(3, 3)
    assert lines(3, 1) > lines(1, 1) == lines(1, 3)


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


@compiled_only("it is about compiled tiles")
@pytest.mark.parametrize("stride", [1, 2])
def test_the_tiles_of_every_cpu_give_a_network_the_same_bits(stride: int) -> None:
    """Whole and half vectors, runs of taps, maps and features, joined lines, maps in the lanes: 3x3, then 1x1, then
    2x2 with a stride of 2, then dense."""
    layers = [
        Conv2d(filters=6, kernel=(3, 3), stride=(stride, stride), padding="same"),
        Relu(),
        Conv2d(filters=8, kernel=(1, 1)),
        Tanh(),
        Conv2d(filters=16, kernel=(2, 2), stride=(2, 2)),
        Flatten(),
        Dense(units=6),
    ]
    found, turned = [], set()
    for registers in (4, 8, 32):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tuning, "vector_registers", lambda registers=registers: registers)
            patch.setattr(tuning, "choose_tile", choose_tile.__wrapped__)
            patch.setattr(convolution, "choose_tile", choose_tile.__wrapped__)
            patch.setattr(weight_gradients, "choose_lanes_tile", choose_lanes_tile.__wrapped__)
            patch.setattr(weight_gradients, "choose_transposed_tile", choose_transposed_tile.__wrapped__)
            stack = Stack(layers, (5, 9, 8), np.dtype(np.float32))
        calls = (*stack.bound.forward, *stack.bound.backward)
        assert any(call.kernel is contract and call.arguments[0].halved for call in calls) == (registers == 8)
        tiles = [call.arguments[0] for call in stack.bound.backward if call.kernel is contract_lanes]
        assert [tile.halved for tile in tiles] == [registers < 32] * 2
        transposing = [call.arguments[0] for call in stack.bound.backward if call.kernel is contract_transposed]
        assert len(transposing) == 1
        turned |= {transposing[0]}
        found.append(stack.run(*stack.random()).bits())
    assert found[0] == found[1] == found[2]
    assert len(turned) >= 2


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_phases_over_few_blocks_and_over_all_give_the_same_bits(padding: Literal["valid", "same"]) -> None:
    layer = Conv2d(filters=3, kernel=(3, 3), stride=(2, 2), padding=padding)
    found = []
    for blocks in (1, 2, 9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(convolution, "choose_blocks", lambda block_vectors, blocks=blocks: blocks)
            stack = Stack([layer], (2, 7, 6), np.dtype(np.float64), batch_size=21)
        calls = [call for call in stack.bound.backward if call.kernel is contract]
        assert len(calls) == 4 * -(-3 // blocks)
        found.append(stack.run(*stack.random(21)).bits())
    assert found[0] == found[1] == found[2]
