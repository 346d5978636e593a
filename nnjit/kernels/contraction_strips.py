"""Sums of products for dense layers: strips of rows, lines of columns, taps in pieces.

    out[r, j] = bias[r] + sum over k of w[r, k] * x[k, j]       w scalars, x, out vectors

It is what `contract` computes, in the same order, but the columns of a dense layer, which are the blocks of a batch,
share no taps, and all taps of one are more than the first cache holds. So a task goes over a piece of the taps for all
its rows and columns before it takes the next one, and keeps the sums of its tiles in memory meanwhile: what the piece
reads of x serves all rows of the strip, what it reads of w all columns of the line, and all three stay in the second
cache however large the layer and the batch are (Goto and van de Geijn, "Anatomy of High-Performance Matrix
Multiplication", 2008).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.contraction import fetch_result_row, finish_rows
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

    rows: int
    """Tiles of rows in a strip."""
    lines: int
    """Into how many lines the columns are cut, in whole tiles."""
    taps: int
    """Taps in a piece: whole runs of the tile; whole blocks where they are samples."""
    by_lines: bool
    """Whether the tasks of a line follow each other, or those of a strip: each thread then has lines of its own, or
    strips."""


class Area(NamedTuple):
    """What a task owns: tiles first_tile .. last_tile - 1 of rows, columns first_column .. last_column - 1."""

    first_tile: int
    last_tile: int
    first_column: int
    last_column: int


def strip_tasks(tile: TileShape, strip: Strip, rows: int) -> int:
    """The tasks of a contraction in strips."""
    row_tiles = -(-rows // tile.rows)
    return -(-row_tiles // strip.rows) * strip.lines


def strip_columns(tile: TileShape, strip: Strip, columns: int) -> int:
    """The columns of the longest line, in whole tiles."""
    column_tiles = -(-columns // tile.columns)
    return -(-column_tiles // strip.lines) * tile.columns


def strip_vectors(tile: TileShape, strip: Strip, columns: int) -> int:
    """Vectors of scratch memory that a thread needs for the sums of a strip."""
    return strip.rows * tile.rows * strip_columns(tile, strip, columns)


@subroutine
def area_of(task, tile, strip, rows, columns):
    """The Area of a task."""
    row_tiles = (rows + tile.rows - 1) // tile.rows
    column_tiles = (columns + tile.columns - 1) // tile.columns
    strips = (row_tiles + strip.rows - 1) // strip.rows
    line, number = (task // strips, task % strips) if strip.by_lines else (task % strip.lines, task // strip.lines)
    first_tile = number * strip.rows
    first_column = column_tiles * line // strip.lines * tile.columns
    last_column = column_tiles * (line + 1) // strip.lines * tile.columns
    return Area(first_tile, min(first_tile + strip.rows, row_tiles), first_column, min(last_column, columns))


@subroutine(forceinline=True)
def add_piece(tile, area, rows, w, piece, x, x_at, x_row, x_column, memory, kept, bias, out, out_at, epilogue, y, y_at):
    """Add a piece of the taps to the sums of a tile of columns, for all rows of an area; finish and store them after
    the last one.

    piece: its first tap, the one after its last, and how many taps there are  x: from x_at on, that of tap k and column
    c lies (k - first tap) * x_row + c * x_column further on
    memory (vectors, L): the sums, from `kept` on  out_at, y_at: where row 0 of these columns lies
    """
    first_tap, last_tap, taps = piece
    for row_tile in range(area.first_tile, area.last_tile):
        row = min(row_tile * tile.rows, rows - tile.rows)
        shared = row_tile * tile.rows - row
        out_row, y_row = out_at + row * out.row, y_at + row * y.row
        if first_tap == 0:
            total = tile_rows(tile, bias, row)
        else:
            total = tile_load(tile, memory, kept)
        fetched = shared if tile.result_fetches and last_tap == taps else tile.rows
        for k in range(first_tap, last_tap, tile.run):
            if fetched < tile.rows:
                fetch_result_row(tile, out, out_row, epilogue, y, y_row, fetched)
                fetched += 1
            w_at = w.firsts[row_tile] + entry(w.taps, k)
            total = tile_fma(tile, total, w.scalars, w_at, x, x_at + (k - first_tap) * x_row, x_column, x_row, 0)
        if last_tap < taps:
            tile_store(total, memory, kept, tile.columns, 1, 0)
        else:
            if epilogue.short:
                total = tile_finish(epilogue, total, y.vectors, y_row, y.row, y.column)
            tile_store(total, out.vectors, out_row, out.row, out.column, shared)
        kept += tile.rows * tile.columns


@kernel
def contract_strips(task, thread, tile, last, strip, rows, columns, taps, w, x, bias, out, epilogue, y, scratch):
    """out[r, j] = epilogue(bias[r] + sum over k of w[r, k] * x[k, j], y[r, j])

    last: the tile for the last columns, where tiles leave some
    w Scalars (R, K)  x View (K, J)  bias (R,)  out, y View (R, J), out fully overwritten
    scratch (threads, vectors, L): `strip_vectors` for the calling thread
    Runs of taps are as in `contract`; a tile that would pass the last row starts earlier. A task owns a strip of a
    line.
    """
    memory = scratch[thread]
    area = area_of(task, tile, strip, rows, columns)
    of_tile = (area.last_tile - area.first_tile) * tile.rows
    for first_tap in range(0, taps, strip.taps):
        piece = first_tap, min(first_tap + strip.taps, taps), taps
        x_piece = x.start + first_tap * x.row
        for column in range(area.first_column, area.last_column, tile.columns):
            x_at, kept = x_piece + column * x.column, of_tile * (column - area.first_column)
            sums = x.vectors, x_at, x.row, x.column, memory, kept, bias, out, out.start + column * out.column
            y_at = y.start + column * y.column
            if last is not None and column + tile.columns > columns:
                add_piece(last, area, rows, w, piece, *sums, epilogue, y, y_at)
            else:
                add_piece(tile, area, rows, w, piece, *sums, epilogue, y, y_at)
    if not (epilogue.short or epilogue.empty):
        row, width = area.first_tile * tile.rows, area.last_column - area.first_column
        out_at = out.start + row * out.row + area.first_column * out.column
        y_at = y.start + row * y.row + area.first_column * y.column
        finish_rows(epilogue, min(of_tile, rows - row), width, out, out_at, y, y_at)
