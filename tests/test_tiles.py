"""Register tiles: each operation against its formula, and that no choice of tile changes a bit of a sum."""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import Any

import numpy as np
import pytest
from battery import DTYPES, compiled_only
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from nnjit.kernels.activations import Epilogue
from nnjit.kernels.compiler import driver
from nnjit.kernels.contraction import Extent, View, Weights, contract, first_rows
from nnjit.kernels.contraction_strips import Scalars, Strip, contract_strips, strip_tasks, strip_vectors
from nnjit.kernels.contraction_strips_weights import contract_strips_weights, strip_weights_vectors
from nnjit.kernels.contraction_transposed import contract_transposed, panel_places, transposed_places
from nnjit.kernels.contraction_weights import Cut, contract_lanes, tile_turns
from nnjit.kernels.lane_sums import tile_add_sums, tile_add_vectors, tile_fma_vectors
from nnjit.kernels.packing import pack_rows, spans_of
from nnjit.kernels.program import Call, Program
from nnjit.kernels.simd import lanes, store
from nnjit.kernels.sums import SUMS_VECTORS, add_parts, row_places
from nnjit.kernels.threads import get_threads
from nnjit.kernels.tiles import (
    SAMPLES,
    TileShape,
    tile_add,
    tile_add_to,
    tile_fma,
    tile_fma_samples,
    tile_load,
    tile_rows,
    tile_store,
    tile_sum,
    tile_zeros,
)
from nnjit.kernels.weight_rows import add_tile_parts, add_transposed_parts
from nnjit.kernels.winograd_transforms import FORMS
from nnjit.passes.images import ONE_PHASE
from nnjit.tuning.lines import last_tile

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
    TileShape(2, 3, 1, 1, run=2, run_step=0, line_fetches=2),
    TileShape(2, 6, 1, 1, run=3, halved=True, line_fetches=2),
]


@driver
def run_tile(task, tile, start, w, x, out):
    """One tile from its start to its end; see the test for what comes out."""
    total = tile_rows(tile, start, 1)
    total = tile_fma(tile, total, w, 2, x, 1, 2, 3, 99)
    tile_store(total, out, 1, 5, 1, 0)


@driver
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
    no_rows = tile_add_vectors(tile_zeros(None, x), 0, x, 2, 3)
    tile_add_sums(no_rows, sums, 2)


@driver
def run_tile_of_samples(task, tile, x, taps, d, out, sums):
    """Likewise for sums over samples, whose scalars lie side by side."""
    total = tile_fma_samples(tile, tile_zeros(tile, d), x, 3, taps, 1, d, 2, 1)
    tile_add_to(total, out, 1)
    store(sums, 0, tile_sum(total))


@DTYPES
@pytest.mark.parametrize("tile", [shape for shape in SHAPES if not shape.halved], ids=str)
def test_sums_over_samples_follow_their_formulas(tile: TileShape, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    L = lanes(dtype)
    tile = replace(tile, run=gcd(tile.rows, tile.run), row_step=L)
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


@driver
def add_lanes(task, tile, x, sums):
    tile_add_sums(tile_load(tile, x, 0), sums, 0)


@DTYPES
def test_lanes_are_added_in_one_tree(dtype: Any) -> None:
    x = np.random.default_rng(2).standard_normal((21, lanes(dtype))).astype(dtype)
    sums = np.zeros(len(x), dtype)
    Program([Call(add_lanes, 1, (TileShape(7, 3), x, sums), 1)]).run()
    tree = x
    while tree.shape[1] > 1:
        half = tree.shape[1] // 2
        tree = tree[:, :half] + tree[:, half:]
    assert_array_equal(sums, tree[:, 0])
    # Another order gives other bits: the test can tell.
    assert (sums != np.cumsum(x, axis=1)[:, -1]).any()


# 5 rows and 7 columns: tiles that divide them, tiles that overlap at the ends, the whole, one number; some that know
# the step of their columns, and runs of taps, with few rows and with many; those that fetch have weights in the order
# of taps.
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
    TileShape(2, 3, 1, 1, run=3, tap_fetches=1),
    TileShape(4, 2, 1, 1, halved=True, tap_fetches=2),
    TileShape(1, 9, 1, 1, run=3),
    TileShape(2, 9, 1, 1, run=3, tap_fetches=3),
]


def contraction(tile: TileShape, dtype: Any, together: int = 1) -> dict[str, bytes]:
    """The bits of both contractions, computed with `tile`, to the weights with so many rows of tiles together, or all
    if it fetches taps."""
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
    pack = (1, ROWS, tile.rows, False, 8, w, TAPS, spans_of(np.arange(TAPS), L), packed.reshape(-1))
    weights = Weights(packed.reshape(-1), 3, lines, columns)
    images = (x_view, x_taps, bias, out_view, Epilogue("relu"), out_view)
    last = last_tile(forward_tile, COLUMNS * tile.units)
    # Tasks that end within a line, and within a block.
    tasks = min(4, BLOCKS * LINES * row_tiles)
    forward = (forward_tile, last, tasks, extent, ONE_PHASE.places, weights, *images)
    # Two parts of three lines each, in pieces of two lines and one; a part's tiles shared by two tasks.
    cut = Cut(2, 2, 2)
    steady, bias_tile = replace(tile, column_step=1), TileShape(tile.rows, 1, halved=tile.halved)
    bias_places = row_places(bias_tile, ROWS, L)
    parts = np.full((2, row_tiles * -(-TAPS // tile.columns) * tile.rows * tile.columns + L), np.nan, dtype)
    bias_parts = np.full((2, bias_places.size), np.nan, dtype)
    db = np.full(ROWS, np.nan, dtype)
    n, i = (axis.reshape(-1) for axis in np.mgrid[:BLOCKS, :LINES])
    starts = np.stack([view.start + n * view.block + i * view.line for view in (plane, x_view)], axis=1)
    backward = (
        steady,
        last_tile(steady, TAPS),
        bias_tile,
        extent,
        cut,
        plane,
        x_view,
        starts.reshape(-1),
        tile_turns(tile, ROWS, TAPS, row_tiles if tile.tap_fetches else together),
        x_taps,
        x_taps[-1:],
        parts,
        bias_parts,
    )
    calls = [
        Call(pack_rows, row_tiles, pack, 1),
        Call(contract, tasks, forward, 1),
        Call(contract_lanes, 4, backward, 1),
        Call(add_tile_parts, row_tiles, (steady, ROWS, TAPS, parts, dw), 1),
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
    # Five rows of tiles: the last ones that go together are one, or two.
    for together in (2, 3):
        assert contraction(TILES[0], dtype, together) == expected


def in_strips(tile: TileShape, strip: Strip, epilogue: Epilogue, dtype: Any) -> bytes:
    """The bits of a contraction of 5 rows and 7 columns over 12 taps."""
    rng = np.random.default_rng(7)
    L = lanes(dtype)
    x = rng.standard_normal((COLUMNS * 12, L)).astype(dtype)
    w, bias = rng.standard_normal(ROWS * 12).astype(dtype), rng.standard_normal(ROWS).astype(dtype)
    out, y = np.full((ROWS * COLUMNS, L), np.nan, dtype), rng.random((ROWS * COLUMNS, L)).astype(dtype)
    to = View(out, 0, 0, COLUMNS, 0, 1)
    tile = replace(tile, row_step=12, tap_step=1)
    firsts, taps = np.minimum(np.arange(0, ROWS, tile.rows), ROWS - tile.rows) * 12, np.arange(12)
    scratch = np.full((get_threads(), strip_vectors(tile, strip, COLUMNS), L), np.nan, dtype)
    factors = Scalars(w, firsts, taps), View(x, 0, 0, 1, 0, 12), bias
    shapes = tile, last_tile(tile, COLUMNS), strip
    operands = (*shapes, ROWS, COLUMNS, 12, *factors, to, epilogue, to._replace(vectors=y), scratch)
    Program([Call(contract_strips, strip_tasks(tile, strip, ROWS), operands, 1)]).run()
    sums = bias[:, None, None] + np.einsum("rk,jkl->rjl", w.reshape(ROWS, 12), x.reshape(COLUMNS, 12, L))
    expected = np.tanh(sums) if epilogue.function == "tanh" else sums * (y.reshape(sums.shape) > 0)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    assert_allclose(out.reshape(sums.shape), expected, rtol=tolerance, atol=10 * tolerance)
    return out.tobytes()


STRIPS = [
    Strip(1, 1, 12, by_lines=True),
    Strip(1, 2, 6, by_lines=False),
    Strip(2, 3, 6, by_lines=True),
    Strip(8, 1, 6, by_lines=False),
    Strip(2, 1, 99, by_lines=False),
]


@DTYPES
@pytest.mark.parametrize("epilogue", [Epilogue("tanh"), Epilogue("relu", backward=True)], ids=str)
def test_strips_and_pieces_give_the_same_bits(epilogue: Epilogue, dtype: Any) -> None:
    """Tiles that overlap at the end of rows and are narrower at that of columns; strips and lines, one and several, of
    which some are smaller."""
    expected = in_strips(TileShape(1, 1), Strip(1, 1, 12, by_lines=True), epilogue, dtype)
    for tile in (TileShape(2, 3), TileShape(2, 2, run=3, result_fetches=True), TileShape(4, 5, run=2, run_step=0)):
        for strip in STRIPS:
            if strip.lines <= -(-COLUMNS // tile.columns):
                assert in_strips(tile, strip, epilogue, dtype) == expected, (tile, strip)


def samples_in_strips(tile: TileShape, strip: Strip, dtype: Any) -> tuple[bytes, bytes]:
    """The bits of the gradients of 5 x 7 L weights and 7 L biases from three blocks, of which the last one is not
    full."""
    rng = np.random.default_rng(8)
    L, inputs, groups = lanes(dtype), ROWS, COLUMNS
    samples = 3 * L - 4
    x, d = (rng.standard_normal((3, size, L)).astype(dtype) for size in (inputs, groups * L))
    d[2, :, L - 4 :] = 0
    dw, db = np.full((inputs * groups, L), np.nan, dtype), np.full(groups * L, np.nan, dtype)
    tile = replace(tile, row_step=L, tap_step=1, column_step=1, run_step=tile.columns)
    last = last_tile(tile, groups)
    last = replace(last, run_step=last.columns) if last else None
    firsts, n = np.minimum(np.arange(0, inputs, tile.rows), inputs - tile.rows) * L, np.arange(samples)
    factors = (
        Scalars(x.reshape(-1), firsts, n // L * inputs * L + n % L),
        View(d.reshape(-1, L), 0, groups * L, 1, 0, 0),
    )
    scratch = np.full((get_threads(), strip_weights_vectors(tile, strip, groups), L), np.nan, dtype)
    to = View(dw, 0, 0, 1, 0, inputs)
    sizes = (inputs, groups, samples)
    operands = (tile, last, strip, *sizes, *factors, np.zeros(inputs, dtype), to, Epilogue(), db, scratch)
    Program([Call(contract_strips_weights, strip_tasks(tile, strip, inputs), operands, 1)]).run()
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    expected = np.einsum("brl,bfl->fr", x, d)
    found = dw.reshape(groups, inputs, L).transpose(0, 2, 1).reshape(-1, inputs)
    assert_allclose(found, expected, rtol=tolerance, atol=10 * tolerance)
    assert_allclose(db, d.sum((0, 2)), rtol=tolerance, atol=10 * tolerance)
    return dw.tobytes(), db.tobytes()


@DTYPES
def test_strips_and_pieces_of_samples_give_the_same_bits(dtype: Any) -> None:
    L = lanes(dtype)
    expected = samples_in_strips(TileShape(1, 1), Strip(1, 1, 3 * L, by_lines=True), dtype)
    for tile in (TileShape(2, 3, run=2), TileShape(2, 2), TileShape(4, 5, run=4)):
        for rows, lines, blocks in ((1, 2, 1), (8, 1, 1), (2, 2, 2), (2, 1, 4)):
            strip = Strip(rows, lines, blocks * L, by_lines=True)
            assert samples_in_strips(tile, strip, dtype) == expected, (tile, strip)


TRANSPOSED_TILES = [
    TileShape(1, 1, column_step=2),
    TileShape(5, 2, column_step=2),
    TileShape(6, 1, column_step=2, run=3),
    TileShape(3, 3, column_step=2, run=3),
    TileShape(9, 2, column_step=2, run=1, task_fetches=2),
]


def transposed(tile: TileShape, shares: int, dtype: Any) -> dict[str, bytes]:
    """The bits of the gradients of 3x3 kernels with a stride of 2, maps in the lanes, computed with `tile`.

    Five groups of maps, of which the last begins within the one before it; in the last block most samples are absent.
    """
    rng = np.random.default_rng(4)
    L = lanes(dtype)
    tile = replace(tile, row_step=L)
    rows, size, side = 4 * L + 3, 7, 3
    samples = (BLOCKS - 1) * L + 2
    x = rng.standard_normal((BLOCKS, size, size, L)).astype(dtype)
    d = rng.standard_normal((BLOCKS, rows, side, side, L)).astype(dtype)
    d[-1, ..., 2:] = 0
    u, v, n, i = (axis.reshape(-1) for axis in (*np.mgrid[:3, :3], *np.mgrid[:BLOCKS, :side]))
    starts = np.stack([(n * rows * side + i) * side, (n * size + 2 * i) * size], axis=1)
    places, bias_places = transposed_places(tile, rows, 9, L), panel_places(tile, rows, L)
    cut = Cut(2, 2, shares)
    parts, bias_parts = (np.full((2, *order.shape), np.nan, dtype) for order in (places, bias_places))
    scratch = np.full((get_threads(), cut.lines * side * L * tile.columns, L), np.nan, dtype)
    dw, db = np.full(rows * 9, np.nan, dtype), np.full(rows, np.nan, dtype)
    extent, plane = Extent(BLOCKS, rows, side, side), View(d.reshape(-1, L), 0, 0, side * side, 0, 1)
    images = (plane, View(x.reshape(-1, L), 0, 0, 0, 0, 2), starts.reshape(-1), (u * size + v) * L, samples)
    sums = (parts, bias_parts, np.zeros((2, 0), dtype))
    operands = (tile, TileShape(tile.rows, 1), extent, cut, *images, *sums, scratch)
    calls = [
        Call(contract_transposed, 2 * shares, operands, 1),
        adding_up(tile, rows, 9, shares, False, parts, dw),
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


def adding_up(tile: TileShape, rows: int, taps: int, share: int, along: bool, parts: Any, dw: Any) -> Call:
    """The call that adds up the parts of `contract_transposed`, by `share` tiles of taps at a time."""
    L = parts.shape[2]
    panels, tap_tiles = len(first_rows(-(-rows // L), tile.columns)), len(first_rows(taps, tile.rows))
    scratch = np.full((get_threads(), L, L), np.nan, dw.dtype)
    operands = (tile, rows, taps, share, along, parts, dw, scratch)
    return Call(add_transposed_parts, panels * -(-tap_tiles // share), operands, 1)


def products_of_rows(tile: TileShape, shares: int, dtype: Any) -> dict[str, bytes]:
    """The bits of the products of L + 2 rows of one image with 7 of another over all positions, and of the sums of
    both."""
    rng = np.random.default_rng(5)
    L = lanes(dtype)
    rows, taps, side = L + 2, 7, 3
    d, x = (rng.standard_normal((BLOCKS, count, side, side, L)).astype(dtype) for count in (rows, taps))
    n, i = (axis.reshape(-1) for axis in np.mgrid[:BLOCKS, :side])
    starts = np.stack([(n * count * side + i) * side for count in (rows, taps)], axis=1)
    places, map_places = transposed_places(tile, rows, taps, L), panel_places(tile, rows, L)
    tap_places = row_places(TileShape(tile.rows, 1), taps, L)
    cut = Cut(2, 2, shares)
    every = (places, map_places, tap_places)
    parts, row_parts, tap_parts = (np.full((2, *order.shape), np.nan, dtype) for order in every)
    found = [np.full(count, np.nan, dtype) for count in (rows * taps, rows, taps)]
    planes = [View(values.reshape(-1, L), 0, 0, side * side, 0, 1) for values in (d, x)]
    scratch = np.full((get_threads(), cut.lines * side * L * tile.columns, L), np.nan, dtype)
    images = (*planes, starts.reshape(-1), side * side * L * np.arange(taps), BLOCKS * L)
    sums = (parts, row_parts, tap_parts.reshape(2, -1))
    operands = (tile, TileShape(tile.rows, 1), Extent(BLOCKS, rows, side, side), cut, *images, *sums, scratch)
    calls = [
        Call(contract_transposed, 2 * shares, operands, 1),
        adding_up(tile, rows, taps, shares, True, parts, found[0]),
    ]
    for order, of, out in ((map_places, row_parts, found[1]), (tap_places, tap_parts, found[2])):
        calls.append(Call(add_parts, -(-len(order) // SUMS_VECTORS), (of, order, out), 1))
    Program(calls).run()
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    expected = np.einsum("nrijl,nkijl->kr", d.astype(float), x.astype(float)).reshape(-1)
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
    assert typeof(FORMS[3]) != typeof(FORMS[5])
    assert len({typeof(Epilogue(name, backward)) for name in ("", "relu") for backward in (False, True)}) == 4
