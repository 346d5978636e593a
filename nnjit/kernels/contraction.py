"""Sums of products: the one loop that convolutions and dense layers share, forwards and backwards.

    contract          out[n, r, i, j] = bias[r] + sum over k of w[r, k] * x[n, i, j, k]       w scalars, x, out vectors
    contract_lanes    dw[r, k] = sum over n, i, j and lanes of d[n, r, i, j] * x[n, i, j, k]  dw scalars, d, x vectors

What x[n, i, j, k] means is data: a view gives the vector that (n, i, j) starts at, a table of taps what tap k adds to
it. Stride, dilation, padding (a zero border round the image) and the phases of a strided convolution's backward pass
need no code of their own, and every sum runs over k in the order of the table, whatever the tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.activations import finish
from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import load, store
from nnjit.kernels.tiles import (
    tile_fma,
    tile_fma_vectors,
    tile_rows,
    tile_store,
    tile_store_sums,
    tile_zeros,
)


class View(NamedTuple):
    """Where the vector for block n, row r, line i, column j lies.

    It is vectors[start + n * block + r * row + i * line + j * column].
    """

    vectors: Any
    """The buffer as (vectors, L)."""
    start: int
    block: int
    row: int
    line: int
    column: int


class Weights(NamedTuple):
    """Where the scalar for tap k and row r of a tile lies: scalars[firsts[tile number] + taps[k] + r *
    TileShape.row_step]."""

    scalars: Any
    """The parameters, or any buffer, as a flat array."""
    firsts: Any
    """(row tiles,) int64."""
    taps: Any
    """(K,) int64."""
    spans: Any
    """(lines, 2) int64: the first tap that a line of the output uses and the one after its last; the others would meet
    nothing but the zeros round the image."""


class Extent(NamedTuple):
    """Sizes of the output: blocks, rows (features or maps), lines and columns (of an image)."""

    blocks: int
    rows: int
    lines: int
    columns: int


def first_rows(rows: int, tile_rows: int) -> NDArray[np.int64]:
    """The first row of every tile: a tile that would pass the last row starts earlier and computes some rows twice."""
    return np.minimum(np.arange(0, rows, tile_rows, dtype=np.int64), max(rows - tile_rows, 0))


@kernel
def contract(task, tile, extent, w, x, x_taps, bias, out, epilogue, y):
    """out[n, r, i, j] = epilogue(bias[r] + sum over k of w[r, k] * x[n, i, j, x_taps[k]], y[n, r, i, j])

    w Weights (R, K)  x View (N, -, I, J)  x_taps (K,)  bias (R,)  out, y View (N, R, I, J), out fully overwritten
    A task owns a block, a tile of rows and a line. A tile that would pass the last row or column starts earlier instead
    and computes some entries twice; it leaves the rows of the tile before it alone, since out holds sums until the
    epilogue has passed over them.
    """
    # Rows vary fastest: the tasks that follow each other read the same lines of x, which then come from a near cache.
    row_tiles = len(w.firsts)
    row_tile = task % row_tiles
    row = min(row_tile * tile.rows, extent.rows - tile.rows)
    line = task // row_tiles % extent.lines
    block = task // (row_tiles * extent.lines)
    shared = row_tile * tile.rows - row
    w_first = w.firsts[row_tile]
    x_first = x.start + block * x.block + line * x.line
    out_first = out.start + block * out.block + row * out.row + line * out.line
    y_first = y.start + block * y.block + row * y.row + line * y.line
    first_tap = w.spans[line, 0]
    last_tap = w.spans[line, 1]
    for start in range(0, extent.columns, tile.columns):
        column = min(start, extent.columns - tile.columns)
        x_column = x_first + column * x.column
        total = tile_rows(tile, bias, row)
        for k in range(first_tap, last_tap):
            total = tile_fma(tile, total, w.scalars, w_first + w.taps[k], x.vectors, x_column + x_taps[k], x.column)
        tile_store(total, out.vectors, out_first + column * out.column, out.row, out.column, shared)
    for r in range(shared, tile.rows):
        for j in range(extent.columns):
            at = out_first + r * out.row + j * out.column
            value = finish(epilogue, load(out.vectors, at), y.vectors, y_first + r * y.row + j * y.column)
            store(out.vectors, at, value)


@kernel
def pack_rows(task, tile, rows, w, row_step, taps, out):
    """out[t, k, r] = w[(first row of tile t + r) * row_step + taps[k]], which puts the scalars that a tile reads in
    order

    w (scalars,)  taps (K,)  out (row tiles, K, tile.rows), fully overwritten
    A task owns a tile of rows.
    """
    first = min(task * tile.rows, rows - tile.rows)
    for k in range(len(taps)):
        for r in range(tile.rows):
            out[task, k, r] = w[(first + r) * row_step + taps[k]]


@kernel
def contract_lanes(task, tile, extent, d, x, x_taps, dw):
    """dw[r, k] = sum over n, i, j and lanes of d[n, r, i, j] * x[n, i, j, x_taps[k]]

    d View (N, R, I, J)  x View (N, -, I, J)  x_taps (K,)  dw (R * K,), fully overwritten
    A task owns a tile of rows and taps, and runs over all samples; lanes are added once, at the end.
    """
    taps = len(x_taps)
    tap_tiles = (taps + tile.columns - 1) // tile.columns
    tap = min(task % tap_tiles * tile.columns, taps - tile.columns)
    row = min(task // tap_tiles * tile.rows, extent.rows - tile.rows)
    total = tile_zeros(tile, d.vectors)
    for block in range(extent.blocks):
        for line in range(extent.lines):
            d_first = d.start + block * d.block + row * d.row + line * d.line
            x_first = x.start + block * x.block + line * x.line
            for column in range(extent.columns):
                d_at = d_first + column * d.column
                x_at = x_first + column * x.column
                total = tile_fma_vectors(total, d.vectors, d_at, d.row, x.vectors, x_at, x_taps, tap)
    tile_store_sums(total, dw, row * taps + tap, taps)
