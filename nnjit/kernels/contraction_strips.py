"""Sums of products for dense layers: strips of rows, whose taps come in pieces.

    out[r, j] = bias[r] + sum over k of w[r, k] * x[j, k]       w scalars, x, out vectors

It is what `contract` computes, in the same order, but the columns of a dense layer, which are the blocks of a batch,
share no taps, and all taps of one are more than the first cache holds. So a task goes over a piece of the taps for all
its rows and columns before it takes the next one, and keeps the sums of its tiles in memory meanwhile: what the piece
reads of x serves all rows of the strip, what it reads of w all columns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nnjit.kernels.compiler import kernel
from nnjit.kernels.contraction import Extent, finish_rows
from nnjit.kernels.simd import entry
from nnjit.kernels.tiles import TileShape, tile_finish, tile_fma, tile_load, tile_rows, tile_store


class Scalars(NamedTuple):
    """Where the scalar for tap k and row r of a tile lies: scalars[firsts[tile number] + taps[k] + r *
    TileShape.row_step]."""

    scalars: Any
    """The parameters, or any buffer, as a flat array."""
    firsts: Any
    """(row tiles,) int64."""
    taps: Any
    """(K,) int64."""


class Strip(NamedTuple):
    """What a task takes at a time; sums do not depend on it."""

    tiles: int
    """Tiles of rows in a strip."""
    taps: int
    """Taps in a piece, a multiple of the tile's run."""


def strip_vectors(tile: TileShape, strip: Strip, extent: Extent) -> int:
    """Vectors of scratch memory that `contract_strips` needs for a thread."""
    return strip.tiles * -(-extent.columns // tile.columns) * tile.rows * tile.columns


@kernel
def contract_strips(task, thread, tile, strip, extent, w, x, x_taps, bias, out, epilogue, y, scratch):
    """out[r, i, j] = epilogue(bias[r] + sum over k of w[r, k] * x[i, j, x_taps[k]], y[r, i, j])

    w Scalars (R, K)  x View (-, I, J)  x_taps (K,)  bias (R,)  out, y View (R, I, J), out fully overwritten
    scratch (threads, vectors, L): `strip_vectors` for the calling thread
    Runs of taps are as in `contract`, and so are tiles that would pass the last row or column. A task owns a strip of a
    line.
    """
    memory = scratch[thread]
    taps = len(x_taps)
    strips = (len(w.firsts) + strip.tiles - 1) // strip.tiles
    x_line = x.start + task // strips * x.line
    out_line = out.start + task // strips * out.line
    y_line = y.start + task // strips * y.line
    first_tile = task % strips * strip.tiles
    last_tile = min(first_tile + strip.tiles, len(w.firsts))
    column_tiles = (extent.columns + tile.columns - 1) // tile.columns
    run_step = entry(x_taps, 1) - entry(x_taps, 0) if tile.run > 1 else 0
    for first_tap in range(0, taps, strip.taps):
        last_tap = min(first_tap + strip.taps, taps)
        for column_tile in range(column_tiles):
            column = min(column_tile * tile.columns, extent.columns - tile.columns)
            x_column = x_line + column * x.column
            for row_tile in range(first_tile, last_tile):
                row = min(row_tile * tile.rows, extent.rows - tile.rows)
                kept = ((row_tile - first_tile) * column_tiles + column_tile) * tile.rows * tile.columns
                if first_tap == 0:
                    total = tile_rows(tile, bias, row)
                else:
                    total = tile_load(tile, memory, kept)
                for k in range(first_tap, last_tap, tile.run):
                    w_at = w.firsts[row_tile] + entry(w.taps, k)
                    x_at = x_column + entry(x_taps, k)
                    total = tile_fma(tile, total, w.scalars, w_at, x.vectors, x_at, x.column, run_step, 0)
                if last_tap < taps:
                    tile_store(total, memory, kept, tile.columns, 1, 0)
                    continue
                if epilogue.short:
                    y_at = y_line + row * y.row + column * y.column
                    total = tile_finish(epilogue, total, y.vectors, y_at, y.row, y.column)
                shared = row_tile * tile.rows - row
                out_at = out_line + row * out.row + column * out.column
                tile_store(total, out.vectors, out_at, out.row, out.column, shared)
    if not (epilogue.short or epilogue.empty):
        row = first_tile * tile.rows
        rows = min(last_tile * tile.rows, extent.rows) - row
        finish_rows(epilogue, rows, extent.columns, out, out_line + row * out.row, y, y_line + row * y.row)
