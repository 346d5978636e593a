"""Gradients of a dense layer's weights and biases: the strips of `contraction_strips.py`, over samples.

    dw[r, f] = sum over n of x[n, r] * d[n, f]      x scalars, d, dw vectors of features

The samples of d stand in the lanes where its features have to be. So a task transposes a piece of its columns, which
are vectors of features, into memory that stays in the second cache, and all rows of its strip find it there. As a pass
of its own, with the biases' sums as a third one, that took two more passes over all of d: with 1,024 samples a layer
from 50 to 1,000 took 1.23 ms instead of 0.32, on two cores.
"""

from __future__ import annotations

from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.contraction_strips import Strip, add_piece, area_of, strip_columns, strip_vectors
from nnjit.kernels.simd import full, load, store
from nnjit.kernels.tiles import TileShape, tile_store, tile_sum
from nnjit.kernels.transposition import tile_across


def strip_weights_vectors(tile: TileShape, strip: Strip, groups: int) -> int:
    """Vectors of scratch memory that `contract_strips_weights` needs for a thread: a piece of d, then its sums."""
    return strip_columns(tile, strip, groups) * strip.taps + strip_vectors(tile, strip, groups)


@kernel
def contract_strips_weights(
    task, thread, tile, last, strip, rows, groups, samples, w, d, zeros, dw, epilogue, db, scratch
):
    """dw[r, g] = sum over n of w[r, n] * (d[n, g * L], d[n, g * L + 1], ...), a vector of features
    db[f] = sum over n of d[n, f]

    last: the tile for the last groups, where tiles leave some
    w Scalars (R, N)  d View (blocks, groups * L)  zeros (R,)  dw View (R, groups), fully overwritten
    db (groups * L,), likewise, or (0,)  epilogue: that of no activation
    scratch (threads, vectors, L): `strip_weights_vectors` for the calling thread
    Lanes without a sample hold 0 in d. A task owns a strip of a line.
    """
    memory = scratch[thread]
    area = area_of(task, tile, strip, rows, groups)
    of_tile = (area.last_tile - area.first_tile) * tile.rows
    first_sum = (area.last_column - area.first_column + tile.columns - 1) // tile.columns * tile.columns * strip.taps
    summed = area.first_tile == 0 and len(db) > 0
    for first in range(0, samples, strip.taps):
        piece = first, min(first + strip.taps, samples), samples
        for group in range(area.first_column, area.last_column, tile.columns):
            at, kept = (group - area.first_column) * strip.taps, first_sum + of_tile * (group - area.first_column)
            to = dw.start + group * dw.column
            ends = memory, kept, zeros, dw, to, epilogue, dw, to
            if last is not None and group + tile.columns > groups:
                _fill_panel(last, d, piece, group, memory, at, db, summed)
                add_piece(last, area, rows, w, piece, memory, at, last.columns, 1, *ends)
            else:
                _fill_panel(tile, d, piece, group, memory, at, db, summed)
                add_piece(tile, area, rows, w, piece, memory, at, tile.columns, 1, *ends)


@subroutine
def _fill_panel(tile, d, piece, first_group, panel, first, db, summed):
    """panel[first + n * columns + c] = the L features of group first_group + c of the piece's sample n

    If `summed`, db[f] gets their sum over those samples added, or is it for the first of them.
    """
    lanes = panel.shape[1]
    for c in range(tile.columns):
        feature = (first_group + c) * lanes
        total = full(panel, 0.0)
        if summed and piece[0] > 0:
            total = load(db, feature)
        at = first + c
        for block in range(piece[0] // lanes, (piece[1] + lanes - 1) // lanes):
            across = tile_across(d.vectors, d.start + block * d.block + feature * d.row, d.row)
            tile_store(across, panel, at, tile.columns, 0, 0)
            if summed:
                total = total + tile_sum(across)
            at += lanes * tile.columns
        if summed:
            store(db, feature, total)
