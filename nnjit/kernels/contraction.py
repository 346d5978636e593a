"""Sums of products: the loop of convolutions, forwards and to the input.

    out[n, r, i, j] = bias[r] + sum over k of w[r, k] * x[n, i, j, k]       w scalars, x, out vectors

What x[n, i, j, k] means is data: a view gives the vector that (n, i, j) starts at, a table of taps what tap k adds to
it. Stride, dilation, padding (a zero border round the image) and the phases of a strided convolution's backward pass
need no code of their own, and every sum runs over k in the order of the table, whatever the tile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.activations import finish
from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.maxima import best_of_four
from nnjit.kernels.simd import entry, load, store, store_integers
from nnjit.kernels.tiles import (
    tile_fetch_row,
    tile_fetch_row_to_write,
    tile_finish,
    tile_fma,
    tile_rows,
    tile_store,
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
    """The weights of a sum, and which taps each output uses."""

    packed: Any
    """(phases * row tiles * K * rows of a tile,), as `pack_rows` leaves them."""
    group: int
    """How many taps a line of the kernel has; K is a multiple of it."""
    lines: Any
    """(lines, 2) int64: the first line of the kernel that a line of the output uses and the one after its last; the
    others would meet nothing but the zeros round the image."""
    columns: Any
    """(column tiles, 2) int64: likewise the first and last taps of each such line that a tile of columns uses."""


class Extent(NamedTuple):
    """Sizes of the output: blocks, rows (features or maps), lines and columns (of an image)."""

    blocks: int
    rows: int
    lines: int
    columns: int


def first_rows(rows: int, tile_rows: int) -> NDArray[np.int64]:
    """The first row of every tile: a tile that would pass the last row starts earlier and computes some rows twice."""
    return np.minimum(np.arange(0, rows, tile_rows, dtype=np.int64), max(rows - tile_rows, 0))


def grid(*ranges: Iterable[int]) -> list[NDArray[np.int64]]:
    """The flattened coordinates of all combinations, the last range fastest."""
    grids = np.meshgrid(*(np.array(list(values), np.int64) for values in ranges), indexing="ij")
    return [grid.reshape(-1) for grid in grids]


@subroutine
def finish_rows(epilogue, rows, columns, out, first, y, y_first):
    """Pass `epilogue` over the sums that `columns` columns of `rows` rows hold, from out[first] and y[y_first] on."""
    for r in range(rows):
        for j in range(columns):
            at = first + r * out.row + j * out.column
            value = finish(epilogue, load(out.vectors, at), y.vectors, y_first + r * y.row + j * y.column)
            store(out.vectors, at, value)


@subroutine(forceinline=True)
def fetch_result_row(tile, out, out_first, epilogue, y, y_first, row):
    """Fetch what row `row` of a tile is stored to, the first row to out[out_first] and on, and what it is finished with
    from y[y_first] on."""
    tile_fetch_row_to_write(tile, out.vectors, out_first + row * out.row * tile.units, out.column)
    if epilogue.backward and tile.units == 1:
        tile_fetch_row(tile, y.vectors, y_first + row * y.row, y.column)


@subroutine(forceinline=True)
def view_from(view, start):
    """The same view, but for where it starts."""
    return View(view.vectors, start, view.block, view.row, view.line, view.column)


@subroutine(forceinline=True)
def contract_tile(tile, number, column, w, w_first, x, x_taps, ahead, bias, row, shared, line, out, epilogue, y):
    """Tile `number` of a line, from `column` on (of columns of the tile, which may be halves): the sums of its rows,
    the first of which is `row`. x, out and y start with the line; the first `shared` rows are not stored."""
    units = tile.units
    run_step = (entry(x_taps, 1) - entry(x_taps, 0)) * units if tile.run > 1 else 0
    x_column = x.start * units + column * x.column
    out_column, y_column = out.start * units + column * out.column, y.start + column * y.column
    total = tile_rows(tile, bias, row)
    fetched = shared if tile.result_fetches else tile.rows
    for u in range(w.lines[line, 0], w.lines[line, 1]):
        for k in range(u * w.group + w.columns[number, 0], u * w.group + w.columns[number, 1], tile.run):
            w_at = w_first + k * tile.rows
            x_at = x_column + entry(x_taps, k) * units
            if fetched < tile.rows:
                fetch_result_row(tile, out, out_column, epilogue, y, y_column, fetched)
                fetched += 1
            total = tile_fma(tile, total, w.packed, w_at, x.vectors, x_at, x.column, run_step, ahead)
    if epilogue.short and units == 1:
        total = tile_finish(epilogue, total, y.vectors, y_column, y.row, y.column)
    tile_store(total, out.vectors, out_column, out.row * units, out.column, shared)


@subroutine(forceinline=True)
def contract_line(tile, last, extent, w, x, x_taps, bias, out, epilogue, y, block, line, row_tile, alone):
    """A tile of rows of a line, the first of which out and y start with. Among those of all phases it is number
    `row_tile`, among those of its own number `alone`.

    LLVM makes it a part of its callers' code: as a function that is called it finds its operands in memory (to 64 maps
    by 9x9 722 instead of 662 us on one core). Inlined by Numba it is no faster, and `contract` takes 1.6 instead of
    1.1 s to compile.
    """
    row = min(alone * tile.rows, extent.rows - tile.rows)
    shared = alone * tile.rows - row
    w_first = row_tile * len(x_taps) * tile.rows
    x = view_from(x, x.start + block * x.block + line * x.line)
    # The tiles of all rows read the same line: each fetches its share of the next one.
    ahead = (x.line + tile.line_fetches * row_tile) * tile.units
    columns = extent.columns * tile.units
    full = columns // tile.columns
    for number in range(full):
        column = number * tile.columns
        contract_tile(tile, number, column, w, w_first, x, x_taps, ahead, bias, row, shared, line, out, epilogue, y)
    if last is not None:
        column = full * tile.columns
        contract_tile(last, full, column, w, w_first, x, x_taps, ahead, bias, row, shared, line, out, epilogue, y)
    if not (epilogue.short and tile.units == 1 or epilogue.empty):
        out_at, y_at = out.start + shared * out.row, y.start + shared * y.row
        finish_rows(epilogue, tile.rows - shared, extent.columns, out, out_at, y, y_at)


@kernel
def contract(task, tile, last, tasks, extent, phases, w, x, x_taps, bias, out, epilogue, y):
    """out[p, n, r, i, j] = epilogue(bias[r] + sum over k of w[p, r, k] * x[n, i, j, x_taps[k]], y[p, n, r, i, j])

    last: the tile for the last columns of a line, where its tiles leave some, which has only those (3x3 with a stride
    of 2 to 13x13 from 24 maps to 32 1.08 times as fast as with tiles that overlap, 7x7 with a stride of 3 to 7x7 1.24)
    phases (P, 2): how far the results of each lie from those that out tells, and from y
    w Weights (P, R, K)  x View (N, -, I, J)  x_taps (K,)  bias (R,)  out, y View (N, R, I, J), out fully overwritten
    Taps come in runs of tile.run: those of a run lie tile.run_step apart in x, or as far as the first two taps if that
    is 0.
    The `tasks` of the call divide all tiles of rows evenly: first those of all phases of a line, then those of the next
    one, which read much of what those before have brought near. A tile that would pass the last row starts earlier
    instead and computes some rows twice; it leaves the rows of the tile before it alone, since out holds sums until a
    long epilogue has passed over them. A short one is applied in registers (LeNet-5's first layer: 101 to 95 us), but
    for halves. The columns of a halved tile are halves of vectors; those of x and out then lie side by side.
    """
    of_phase = (extent.rows + tile.rows - 1) // tile.rows
    row_tiles = len(phases) * of_phase
    tiles = extent.blocks * extent.lines * row_tiles
    first = tiles * task // tasks
    line, row_tile = first // row_tiles, first % row_tiles
    block, line = line // extent.lines, line % extent.lines
    phase, alone = row_tile // of_phase, row_tile % of_phase
    for _ in range(first, tiles * (task + 1) // tasks):
        row = min(alone * tile.rows, extent.rows - tile.rows)
        to = view_from(out, phases[phase, 0] + out.start + block * out.block + row * out.row + line * out.line)
        of = view_from(y, phases[phase, 1] + y.start + block * y.block + row * y.row + line * y.line)
        row_tile = phase * of_phase + alone
        contract_line(tile, last, extent, w, x, x_taps, bias, to, epilogue, of, block, line, row_tile, alone)
        alone += 1
        if alone == of_phase:
            phase, alone = phase + 1, 0
        if phase == len(phases):
            line, phase = line + 1, 0
        if line == extent.lines:
            block, line = block + 1, 0


def line_pair_vectors(tile, extent: Extent) -> int:
    """Vectors of scratch memory that `contract_pooled` needs for a thread."""
    return int(tile.rows * (2 * extent.columns | 1))


@kernel
def contract_pooled(task, thread, tile, last, tasks, extent, w, x, x_taps, bias, out, epilogue, winners, scratch):
    """out[n, r, i, j] = the largest entry at lines 2i, 2i + 1 and columns 2j, 2j + 1 of what `contract` computes for
    `extent`, without y; winners: which of the four it was, as `pooling.max_pool_forward` counts them

    w Weights (R, K)  x View (N, -, 2*I, 2*J)  x_taps (K,)  bias (R,)
    out View (N, R, I, J)  winners (N*R*I*J, L) of unsigned integers, both fully overwritten
    scratch (threads, vectors, L): `line_pair_vectors` for the calling thread
    The `tasks` of the call divide all tiles of rows, as in `contract`. The lines that one pools stay near.
    """
    lines, columns = extent.lines // 2, extent.columns // 2
    row_tiles = (extent.rows + tile.rows - 1) // tile.rows
    tiles = extent.blocks * lines * row_tiles
    first = tiles * task // tasks
    row_tile, line, block = first % row_tiles, first // row_tiles % lines, first // (row_tiles * lines)
    near = View(scratch[thread], 0, 0, 2 * extent.columns | 1, extent.columns, 1)
    for _ in range(first, tiles * (task + 1) // tasks):
        row = min(row_tile * tile.rows, extent.rows - tile.rows)
        shared = row_tile * tile.rows - row
        for u in range(2):
            of_two = view_from(near, u * near.line)
            upper = 2 * line + u
            contract_line(
                tile, last, extent, w, x, x_taps, bias, of_two, epilogue, of_two, block, upper, row_tile, row_tile
            )
        for r in range(shared, tile.rows):
            out_at = out.start + block * out.block + (row + r) * out.row + line * out.line
            number = ((block * extent.rows + row + r) * lines + line) * columns
            for j in range(columns):
                best, winner = best_of_four(near.vectors, r * near.row + 2 * j, near.line, 1)
                store(out.vectors, out_at + j * out.column, best)
                store_integers(winners, number + j, winner)
        row_tile += 1
        if row_tile == row_tiles:
            line, row_tile = line + 1, 0
        if line == lines:
            block, line = block + 1, 0
