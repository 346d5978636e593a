"""Sums of products where each vector of the image goes into one position of the output alone: kernels of 1x1, and
others that are no larger than their stride.

    out[n, r, i, j] = bias[r] + sum over k of w[r, k] * x[n, i, j, k]       w scalars, x, out vectors

It is what `contract` computes, in the same order, but a tile's columns share no taps there, and each tap lies in a map
of its own, on a page of its own: more of them than a processor follows. So a task first copies what its columns read
side by side, and all its rows find it there.
"""

from __future__ import annotations

from numba.extending import register_jitable

from nnjit.kernels.activations import finish
from nnjit.kernels.compiler import kernel
from nnjit.kernels.contraction import Extent, fetch_result_row, finish_rows
from nnjit.kernels.simd import entry, load, prefetch, store
from nnjit.kernels.tiles import TileShape, tile_finish, tile_fma, tile_rows, tile_store


def packed_vectors(tile: TileShape, taps: int, tiles: int) -> int:
    """Vectors of scratch memory that `contract_packed` needs for a thread: what is copied, and a tile's sums."""
    return (taps * tiles + tile.rows) * tile.columns


def packed_tasks(tile: TileShape, extent: Extent, tiles: int) -> int:
    """Its tasks."""
    return extent.blocks * extent.lines * -(-extent.columns // (tile.columns * tiles))


@register_jitable
def first_copied(task, parts, width, extent, x):
    """Where the first column lies in x that a task copies, if each of the `parts` of a line has `width`."""
    line = task // parts
    return x.start + line // extent.lines * x.block + line % extent.lines * x.line + task % parts * width * x.column


@kernel
def contract_packed(task, thread, tile, extent, phases, tiles, w, x, x_taps, bias, out, epilogue, y, scratch):
    """out[p, n, r, i, j] = epilogue(bias[r] + sum over k of w[p, r, k] * x[n, i, j, x_taps[k]], y[p, n, r, i, j])

    phases (P, 2): how far the results of each lie from those that out tells, and from y
    w (P * row tiles * K * tile.rows,): the scalars as `pack_rows` leaves them  x View (N, -, I, J)  x_taps (K,)
    bias (R,)  out, y View (N, R, I, J), out fully overwritten  scratch (threads, vectors, L): `packed_vectors` for the
    calling thread; its columns are the tile's, side by side, one tap after the other
    A task owns `tiles` tiles of columns of a line. A tile that would pass the last row starts earlier, as in
    `contract`; of one that passes the last column, some columns are left out, since those before it may be another
    task's.
    """
    near = scratch[thread]
    taps = len(x_taps)
    row_tiles = (extent.rows + tile.rows - 1) // tile.rows
    column_tiles = (extent.columns + tile.columns - 1) // tile.columns
    parts = (column_tiles + tiles - 1) // tiles
    first = task % parts * tiles
    last = min(first + tiles, column_tiles)
    line = task // parts % extent.lines
    block = task // (parts * extent.lines)
    x_line = x.start + block * x.block + line * x.line
    out_line = out.start + block * out.block + line * out.line
    y_line = y.start + block * y.block + line * y.line
    sums = taps * (last - first) * tile.columns
    # A tap's columns lie in a row: the processor reads ahead there.
    for k in range(taps):
        x_tap = x_line + entry(x_taps, k)
        for number in range(first, last):
            to = ((number - first) * taps + k) * tile.columns
            for c in range(tile.columns):
                column = min(number * tile.columns + c, extent.columns - 1)
                store(near, to + c, load(x.vectors, x_tap + column * x.column))
    # What the next task copies is fetched meanwhile, one vector after the other.
    width = tiles * tile.columns
    ahead = first_copied(task + 1, parts, width, extent, x)
    next_tap, next_column = 0, 0
    for row_tile in range(len(phases) * row_tiles):
        phase, alone = row_tile // row_tiles, row_tile % row_tiles
        row = min(alone * tile.rows, extent.rows - tile.rows)
        shared = alone * tile.rows - row
        for number in range(first, last):
            column = number * tile.columns
            present = min(tile.columns, extent.columns - column)
            total = tile_rows(tile, bias, row)
            out_at = phases[phase, 0] + out_line + row * out.row + column * out.column
            y_at = phases[phase, 1] + y_line + row * y.row + column * y.column
            fetched = shared if tile.result_fetches else tile.rows
            for k in range(0, taps, tile.run):
                if fetched < tile.rows:
                    fetch_result_row(tile, out, out_at, epilogue, y, y_at, fetched)
                    fetched += 1
                for _ in range(tile.task_fetches):
                    if next_tap < taps:
                        prefetch(x.vectors, ahead + entry(x_taps, next_tap) + next_column * x.column)
                        next_column += 1
                        if next_column == width:
                            next_column, next_tap = 0, next_tap + 1
                w_at = (row_tile * taps + k) * tile.rows
                x_at = ((number - first) * taps + k) * tile.columns
                total = tile_fma(tile, total, w, w_at, near, x_at, 1, tile.columns, 0)
            if present == tile.columns:
                if epilogue.short:
                    total = tile_finish(epilogue, total, y.vectors, y_at, y.row, y.column)
                tile_store(total, out.vectors, out_at, out.row, out.column, shared)
                continue
            tile_store(total, near, sums, tile.columns, 1, 0)
            for r in range(shared, tile.rows):
                for c in range(present):
                    value = load(near, sums + r * tile.columns + c)
                    if epilogue.short:
                        value = finish(epilogue, value, y.vectors, y_at + r * y.row + c * y.column)
                    store(out.vectors, out_at + r * out.row + c * out.column, value)
    if not (epilogue.short or epilogue.empty):
        column = first * tile.columns
        columns = min(last * tile.columns, extent.columns) - column
        for phase in range(len(phases)):
            out_at = phases[phase, 0] + out_line + column * out.column
            y_at = phases[phase, 1] + y_line + column * y.column
            finish_rows(epilogue, extent.rows, columns, out, out_at, y, y_at)
