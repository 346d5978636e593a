"""Sums of products where each vector of the image goes into one position of the output alone: kernels of 1x1, and
others that are no larger than their stride.

    out[n, r, i, j] = bias[r] + sum over k of w[r, k] * x[n, i, j, k]       w scalars, x, out vectors

It is what `contract` computes, in the same order, but a tile's columns share no taps there, and each tap lies in a map
of its own, on a page of its own: more of them than a processor follows. So a task first copies what its columns read
side by side, and all its rows find it there.
"""

from __future__ import annotations

from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.contraction import Extent, fetch_result_row, finish_rows
from nnjit.kernels.simd import entry, load, prefetch, store
from nnjit.kernels.tiles import TileShape, tile_finish, tile_fma, tile_rows, tile_store


def packed_vectors(tile: TileShape, taps: int, tiles: int) -> int:
    """Vectors of scratch memory that `contract_packed` needs for a thread, for what is copied."""
    return taps * tiles * tile.columns


def packed_tasks(tile: TileShape, extent: Extent, tiles: int, shares: int) -> int:
    """Its tasks."""
    return extent.blocks * extent.lines * -(-extent.columns // (tile.columns * tiles)) * shares


@subroutine
def first_copied(task, parts, width, extent, x):
    """Where the first column lies in x that a task copies, if each of the `parts` of a line has `width`."""
    line = task // parts
    return x.start + line // extent.lines * x.block + line % extent.lines * x.line + task % parts * width * x.column


@subroutine(forceinline=True)
def packed_tile(tile, w, w_first, near, near_at, taps, bias, row, shared, out, out_at, epilogue, y, y_at, ahead):
    """A tile's sums of what was copied to near[near_at] and on, stored from out[out_at] on but for the first `shared`
    rows; meanwhile, some of what the next task copies is brought near.

    ahead: x, its taps, from where on and how many columns that task copies, and the tap and column that come next, of
    which it returns those that then do
    """
    x, x_taps, x_first, width, next_tap, next_column = ahead
    total = tile_rows(tile, bias, row)
    fetched = shared if tile.result_fetches else tile.rows
    for k in range(0, taps, tile.run):
        if fetched < tile.rows:
            fetch_result_row(tile, out, out_at, epilogue, y, y_at, fetched)
            fetched += 1
        for _ in range(tile.task_fetches):
            if next_tap < taps:
                prefetch(x.vectors, x_first + entry(x_taps, next_tap) + next_column * x.column)
                next_column += 1
                if next_column == width:
                    next_column, next_tap = 0, next_tap + 1
        w_at, x_at = w_first + k * tile.rows, near_at + k * tile.columns
        total = tile_fma(tile, total, w, w_at, near, x_at, 1, tile.columns, 0)
    if epilogue.short:
        total = tile_finish(epilogue, total, y.vectors, y_at, y.row, y.column)
    tile_store(total, out.vectors, out_at, out.row, out.column, shared)
    return next_tap, next_column


@kernel
def contract_packed(
    task, thread, tile, last, extent, phases, tiles, shares, w, x, x_taps, bias, out, epilogue, y, scratch
):
    """out[p, n, r, i, j] = epilogue(bias[r] + sum over k of w[p, r, k] * x[n, i, j, x_taps[k]], y[p, n, r, i, j])

    last: the tile for the last columns of a line, where its tiles leave some
    phases (P, 2): how far the results of each lie from those that out tells, and from y
    w (P * row tiles * K * tile.rows,): the scalars as `pack_rows` leaves them  x View (N, -, I, J)  x_taps (K,)
    bias (R,)  out, y View (N, R, I, J), out fully overwritten  scratch (threads, vectors, L): `packed_vectors` for the
    calling thread; its columns are the tile's, side by side, one tap after the other
    A task owns `tiles` tiles of columns of a line, for one of so many `shares` of the tiles of rows of all phases: each
    copies the columns. A tile that would pass the last row starts earlier, as in `contract`.
    """
    near = scratch[thread]
    taps = len(x_taps)
    row_tiles = (extent.rows + tile.rows - 1) // tile.rows
    column_tiles = (extent.columns + tile.columns - 1) // tile.columns
    full = extent.columns // tile.columns
    parts = (column_tiles + tiles - 1) // tiles
    share, piece = task % shares, task // shares
    first = piece % parts * tiles
    stop = min(first + tiles, column_tiles)
    line = piece // parts % extent.lines
    block = piece // (parts * extent.lines)
    x_line = x.start + block * x.block + line * x.line
    out_line = out.start + block * out.block + line * out.line
    y_line = y.start + block * y.block + line * y.line
    # A tap's columns lie in a row: the processor reads ahead there.
    for k in range(taps):
        x_tap = x_line + entry(x_taps, k)
        for number in range(first, stop):
            at = x_tap + number * tile.columns * x.column
            to = (number - first) * taps * tile.columns
            if number < full:
                for c in range(tile.columns):
                    store(near, to + k * tile.columns + c, load(x.vectors, at + c * x.column))
            else:
                present = extent.columns - full * tile.columns
                for c in range(present):
                    store(near, to + k * present + c, load(x.vectors, at + c * x.column))
    # What the next task copies is fetched meanwhile, one vector after the other.
    width = tiles * tile.columns
    next_first = first_copied((task + 1) // shares, parts, width, extent, x)
    next_tap, next_column = 0, 0
    all_tiles = len(phases) * row_tiles
    columns = min(stop * tile.columns, extent.columns) - first * tile.columns
    for row_tile in range(all_tiles * share // shares, all_tiles * (share + 1) // shares):
        phase, alone = row_tile // row_tiles, row_tile % row_tiles
        row = min(alone * tile.rows, extent.rows - tile.rows)
        shared = alone * tile.rows - row
        w_at = row_tile * taps * tile.rows
        out_row = phases[phase, 0] + out_line + row * out.row
        y_row = phases[phase, 1] + y_line + row * y.row
        for number in range(first, min(stop, full)):
            ahead = x, x_taps, next_first, width, next_tap, next_column
            near_at, column = (number - first) * taps * tile.columns, number * tile.columns
            out_at, y_at = out_row + column * out.column, y_row + column * y.column
            next_tap, next_column = packed_tile(
                tile, w, w_at, near, near_at, taps, bias, row, shared, out, out_at, epilogue, y, y_at, ahead
            )
        if last is not None and stop > full:
            ahead = x, x_taps, next_first, width, next_tap, next_column
            near_at, column = (full - first) * taps * tile.columns, full * tile.columns
            out_at, y_at = out_row + column * out.column, y_row + column * y.column
            next_tap, next_column = packed_tile(
                last, w, w_at, near, near_at, taps, bias, row, shared, out, out_at, epilogue, y, y_at, ahead
            )
        if not (epilogue.short or epilogue.empty):
            out_at = out_row + shared * out.row + first * tile.columns * out.column
            y_at = y_row + shared * y.row + first * tile.columns * y.column
            finish_rows(epilogue, tile.rows - shared, columns, out, out_at, y, y_at)
