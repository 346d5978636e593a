"""Sums of products for the last samples of a batch, too few to be worth a block of their own: rows in the lanes.

    out[r, i, j] = bias[r] + sum over k of w[r, k] * x[i, j, k]       w vectors, x, out scalars

It is what `contract` computes, in the same order, but a vector holds the weights of L rows instead of a product of L
samples, so that the work is that of the samples that are there. First their images are taken out of the lanes of their
block, which leaves each where its own numbers lie side by side: in the block a scalar takes a line of the cache, of
which the other lanes are of no use. The results, a line at a time, are put back into lanes.

A step of LeNet-5 with 17 samples took 44 us a sample on one core, with this and its kin 32; with 16 it takes 25.
"""

from __future__ import annotations

from nnjit.kernels.activations import finish
from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.contraction import Extent
from nnjit.kernels.maxima import best_of_four
from nnjit.kernels.simd import entry, load, prefetch, store, store_integers
from nnjit.kernels.tiles import TileShape, tile_finish, tile_fma, tile_load, tile_store
from nnjit.kernels.transposition import lanes_across, tile_of_lanes


def remainder_vectors(tile: TileShape, extent: Extent, lines: int) -> int:
    """Vectors of scratch memory that `contract_remainder` needs for a thread, of which a task owns `lines` lines: their
    sums, and a tile's biases."""
    return (tile.samples * lines * extent.columns + max(tile.rows, tile.lanes)) * tile.columns


FETCHED_AHEAD = 256
"""How far ahead in the weights those lie that are fetched, in vectors."""


@subroutine(forceinline=True)
def _sum_positions(tile, number, line, w, w_first, scalars, x_at, x_taps, near, biases, to):
    """near[to + p * tile.columns + c] = the sums of vector c of the rows for the positions p of tile `number` of a
    line, the first of which reads from scalars[x_at] on."""
    total = tile_load(tile, near, biases)
    for u in range(w.lines[line, 0], w.lines[line, 1]):
        for k in range(u * w.group + w.columns[number, 0], u * w.group + w.columns[number, 1], tile.run):
            w_at = w_first + k * tile.columns
            for v in range(tile.task_fetches):
                prefetch(w.packed, w_at + FETCHED_AHEAD + v)
            total = tile_fma(tile, total, scalars, x_at + entry(x_taps, k), w.packed, w_at, 1, 0, 0)
    tile_store(total, near, to, tile.columns, 1, 0)


@kernel
def contract_remainder(
    task, thread, tile, last, extent, phases, w, x, x_taps, bias, out, epilogue, y, winners, scratch
):
    """out[p, r, i, j] = epilogue(bias[r] + sum over k of w[p, r, k] * x[i, j, x_taps[k]], y[p, r, i, j]) in the first
    tile.samples lanes, 0 in the others

    last: the tile for the last positions of a line, where its tiles leave some, which has only those
    phases (P, 2): how far the results of each lie from those that out tells, and from y
    w Weights (P, R, K), packed for tiles of tile.output_rows rows, as vectors  bias (R,)
    x View (-, I, J) in a block, whose vectors are (samples, vectors of a block), as `samples_apart` leaves them
    x_taps (K,)
    out, y View (R, I, J), out fully overwritten
    winners (0, L), or (R * (I // 2) * (J // 2), L) of unsigned integers: then out (R, I // 2, J // 2) gets the largest
    entry of each 2x2 window, winners which of the four it was, as `pooling.max_pool_forward` counts them; without y
    scratch (threads, vectors, L): `remainder_vectors` for the calling thread
    The rows of the tile are positions of a line, tile.row_step apart, its columns vectors of L rows. A task owns such a
    tile's rows of a phase, and a line, or the two that are pooled.
    """
    near = scratch[thread]
    lanes = near.shape[1]
    pools = len(winners) > 0
    lines = 2 if pools else 1
    wide = tile.output_rows
    of_phase = (extent.rows + wide - 1) // wide
    # What follows each other reads the same weights where those come from afar, otherwise the same lines.
    row_tiles, groups = len(phases) * of_phase, extent.lines // lines
    row_tile, group = task % row_tiles, task // row_tiles
    if tile.task_fetches:
        row_tile, group = task // groups, task % groups
    phase, alone = row_tile // of_phase, row_tile % of_phase
    row = max(min(alone * wide, extent.rows - wide), 0)
    rows, shared = min(wide, extent.rows), alone * wide - row
    first_line = group * lines
    scalars, apart = x.vectors.reshape(-1), x.vectors.shape[1]
    biases = tile.samples * lines * extent.columns * tile.columns
    for c in range(tile.columns):
        for lane in range(lanes):
            near[biases + c, lane] = bias[row + min(c * lanes + lane, rows - 1)]
        for position in range(1, tile.rows):
            store(near, biases + position * tile.columns + c, load(near, biases + c))
    out_first = phases[phase, 0] + out.start + row * out.row + first_line // lines * out.line
    y_first = phases[phase, 1] + y.start + row * y.row + first_line * y.line
    full = extent.columns // tile.rows
    w_first = row_tile * len(x_taps) * tile.columns
    for sample in range(tile.samples):
        for u in range(lines):
            line = first_line + u
            x_at = sample * apart + x.start + line * x.line
            to = (sample * lines + u) * extent.columns * tile.columns
            for number in range(full):
                _sum_positions(tile, number, line, w, w_first, scalars, x_at, x_taps, near, biases, to)
                x_at += tile.rows * x.column
                to += tile.rows * tile.columns
            if last is not None:
                _sum_positions(last, full, line, w, w_first, scalars, x_at, x_taps, near, biases, to)
    columns = extent.columns
    of_sample = lines * columns * tile.columns
    if not (epilogue.empty or epilogue.backward):
        for at in range(tile.samples * of_sample):
            store(near, at, finish(epilogue, load(near, at), near, at))
    if pools:
        columns = columns // 2
        _pool_near(tile, near, columns, of_sample)
    # Winners stand a line further than what is largest.
    winner_at = extent.columns * tile.columns
    whole = 0 if pools else rows // lanes
    for c in range(whole):
        skipped = max(shared - c * lanes, 0)
        for j in range(columns):
            out_at = out_first + c * lanes * out.row + j * out.column
            total = tile_of_lanes(tile, near, j * tile.columns + c, of_sample)
            if epilogue.backward:
                y_at = y_first + c * lanes * y.row + j * y.column
                total = tile_finish(epilogue, total, y.vectors, y_at, y.row, 0)
            tile_store(total, out.vectors, out_at, out.row, 0, skipped)
    for r in range(max(whole * lanes, shared), rows):
        number = ((row + r) * (extent.lines // 2) + first_line // 2) * columns
        for j in range(columns):
            at = j * tile.columns + r // lanes
            value = lanes_across(tile, near, at, r % lanes, of_sample)
            if pools:
                store_integers(winners, number + j, lanes_across(tile, near, at + winner_at, r % lanes, of_sample))
            elif epilogue.backward:
                value = finish(epilogue, value, y.vectors, y_first + r * y.row + j * y.column)
            store(out.vectors, out_first + r * out.row + j * out.column, value)


@subroutine
def _pool_near(tile, near, columns, of_sample):
    """In the place of each sample's two lines of sums, the largest of each of `columns` 2x2 windows, and in that of the
    lower line which of the four it was."""
    for sample in range(tile.samples):
        upper = sample * of_sample
        lower = upper + of_sample // 2
        # They take places behind what is read.
        for j in range(columns):
            for c in range(tile.columns):
                at = upper + 2 * j * tile.columns + c
                best, winner = best_of_four(near, at, lower - upper, tile.columns)
                store(near, upper + j * tile.columns + c, best)
                store(near, lower + j * tile.columns + c, winner)
