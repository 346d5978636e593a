"""Sums of products for images of few samples: channels in the lanes, of the operand and of the result.

    out[n, i, j, r] = bias[r] + sum over k of w[r, k] * x[n, i, j, k]       w, out vectors of rows, x scalars

It is what `contract` computes, but a vector holds L rows of a position instead of a row of L samples. Where samples do
not fill the lanes, those would be computed, and read and written, in vain. What a tile sums stands as the next layer
reads it, so that nothing is transposed between layers.

Measured on two cores, a step of training with one image of 128x128, 3x3 kernels and 32 to 128 maps, 26.6 to 8.7 ms; of
56x56 with 1x1 and 3x3 kernels and 64 to 256 maps 46.6 to 8.9 (`benchmarks/small_batches.py`).
"""

from __future__ import annotations

from nnjit.kernels.activations import finish
from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.contraction import Extent, finish_rows, view_from
from nnjit.kernels.maxima import best_of_four
from nnjit.kernels.simd import entry, load, prefetch, store, store_integers
from nnjit.kernels.tiles import TileShape, tile_finish, tile_fma, tile_load, tile_store

FETCHED_AHEAD = 256
"""How far ahead in the weights those lie that are fetched, in vectors."""


def channels_vectors(tile: TileShape, extent: Extent, lines: int) -> int:
    """Vectors of scratch memory that `contract_channels` needs for a thread: a tile's biases, and if a task pools the
    sums of some `lines`, those."""
    return (tile.rows + lines * extent.columns) * tile.columns


@subroutine(forceinline=True)
def _sum_positions(tile, number, line, w, w_first, scalars, x_at, x_taps, near, out, to, steps, epilogue, y, y_at):
    """out[to + p * steps[0] + c * steps[1]] = the sums of vector c of the rows for the positions p of tile `number` of
    a line, the first of which reads from scalars[x_at] on; near holds their biases."""
    total = tile_load(tile, near, 0)
    for u in range(w.lines[line, 0], w.lines[line, 1]):
        for k in range(u * w.group + w.columns[number, 0], u * w.group + w.columns[number, 1], tile.run):
            w_at = w_first + k * tile.columns
            for v in range(tile.task_fetches):
                prefetch(w.packed, w_at + FETCHED_AHEAD + v)
            total = tile_fma(tile, total, scalars, x_at + entry(x_taps, k), w.packed, w_at, 1, 0, 0)
    if epilogue.short:
        total = tile_finish(epilogue, total, y.vectors, y_at, y.column, y.row)
    tile_store(total, out, to, steps[0], steps[1], 0)


@subroutine(forceinline=True)
def _sum_line(
    tile, last, columns, line, w, w_first, scalars, x_at, x_column, x_taps, near, out, to, steps, epilogue, y
):
    """The same for all tiles of a line; y starts with it."""
    full = columns // tile.rows
    y_at = y.start
    for number in range(full):
        _sum_positions(tile, number, line, w, w_first, scalars, x_at, x_taps, near, out, to, steps, epilogue, y, y_at)
        x_at += tile.rows * x_column
        to += tile.rows * steps[0]
        y_at += tile.rows * y.column
    if last is not None:
        _sum_positions(last, full, line, w, w_first, scalars, x_at, x_taps, near, out, to, steps, epilogue, y, y_at)


@kernel
def contract_channels(task, thread, tile, last, extent, phases, w, x, x_taps, bias, out, epilogue, y, winners, scratch):
    """out[p, n, r, i, j] = epilogue(bias[r] + sum over k of w[p, r, k] * x[n, i, j, x_taps[k]], y[p, n, r, i, j])

    last: the tile for the last positions of a line, where its tiles leave some, which has only those
    phases (P, 2): how far the results of each lie from those that out tells, and from y
    w Weights (P, R * L, K), packed for tiles of tile.output_rows rows, as vectors  bias (R * L,) or more
    x View (N, -, I, J) of scalars  x_taps (K,)
    out, y View (N, R, I, J), whose rows are vectors of channels, out fully overwritten
    winners (0, L), or (N * R * (I // 2) * (J // 2), L) of unsigned integers: then out (N, R, I // 2, J // 2) gets the
    largest entry of each 2x2 window, winners which of the four it was, as `pooling.max_pool_forward` counts them;
    without y
    scratch (threads, vectors, L): `channels_vectors` for the calling thread
    The rows of the tile are positions of a line, tile.row_step apart, its columns vectors of rows, which they divide. A
    task owns such a tile's rows of a phase, and a line of a sample, or the two that are pooled.
    """
    near = scratch[thread]
    lanes = near.shape[1]
    pools = len(winners) > 0
    lines = 2 if pools else 1
    of_phase = extent.rows // tile.columns
    row_tiles, groups = len(phases) * of_phase, extent.blocks * (extent.lines // lines)
    # What follows each other reads the same weights where those come from afar, otherwise the same lines.
    row_tile, group = task % row_tiles, task // row_tiles
    if tile.task_fetches:
        row_tile, group = task // groups, task % groups
    phase, row = row_tile // of_phase, row_tile % of_phase * tile.columns
    sample, first_line = group // (extent.lines // lines), group % (extent.lines // lines) * lines
    scalars = x.vectors.reshape(-1)
    for c in range(tile.columns):
        value = load(bias, (row + c) * lanes)
        for position in range(tile.rows):
            store(near, position * tile.columns + c, value)
    w_first = row_tile * len(x_taps) * tile.columns
    x_at = x.start + sample * x.block + first_line * x.line
    y_line = view_from(y, phases[phase, 1] + y.start + sample * y.block + row * y.row + first_line * y.line)
    out_at = phases[phase, 0] + out.start + sample * out.block + row * out.row + first_line // lines * out.line
    if not pools:
        _sum_line(
            tile, last, extent.columns, first_line, w, w_first, scalars, x_at, x.column, x_taps, near, out.vectors,
            out_at, (out.column, out.row), epilogue, y_line,
        )  # fmt: skip
        if not (epilogue.short or epilogue.empty):
            finish_rows(epilogue, tile.columns, extent.columns, out, out_at, y_line, y_line.start)
        return
    sums, of_line = tile.rows * tile.columns, extent.columns * tile.columns
    for u in range(2):
        _sum_line(
            tile, last, extent.columns, first_line + u, w, w_first, scalars, x_at + u * x.line, x.column, x_taps, near,
            near, sums + u * of_line, (tile.columns, 1), epilogue, y_line,
        )  # fmt: skip
    if not (epilogue.short or epilogue.empty):
        for at in range(sums, sums + 2 * of_line):
            store(near, at, finish(epilogue, load(near, at), near, at))
    columns = extent.columns // 2
    for c in range(tile.columns):
        number = ((sample * extent.rows + row + c) * (extent.lines // 2) + first_line // 2) * columns
        for j in range(columns):
            best, winner = best_of_four(near, sums + 2 * j * tile.columns + c, of_line, tile.columns)
            store(out.vectors, out_at + c * out.row + j * out.column, best)
            store_integers(winners, number + j, winner)
