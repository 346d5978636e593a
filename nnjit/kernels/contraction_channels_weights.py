"""Gradients of a convolution's weights from images of few samples, which have their channels in the lanes.

    dw[r, k] = sum over i, j and samples of d[r, i, j] * x[i, j, k]       d vectors of L rows, x, dw scalars

Both stand there as `contract_channels` leaves them: a position's vectors of d serve as many multiply-adds as a tile has
taps, and nothing is transposed but the result.
"""

from __future__ import annotations

from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import full, load, store
from nnjit.kernels.tiles import TileShape, tile_add_to, tile_fma_samples, tile_zeros
from nnjit.kernels.weight_rows import write_rows


def channels_weights_vectors(tile: TileShape, share: int, lanes: int) -> int:
    """Vectors of scratch memory that `contract_channels_weights` needs for a thread: the sums of `share` tiles of taps,
    and a tile that is transposed."""
    return share * tile.rows * tile.columns + lanes


@kernel
def contract_channels_weights(task, thread, tile, extent, piece, share, d, x, x_taps, dw, db, scratch):
    """dw[r * K + k] = the sum over i, j and samples of d[r, i, j] * x[i, j, x_taps[k]], and db[r] of d[r, i, j]

    extent: samples, R, I, J  d View (N, R, I, J), whose rows are vectors of channels
    x View (N, -, I, J) of scalars  x_taps (K,): within a run of the tile each is tile.row_step more than the last
    dw (R * K or more,)  db (R or more,), or (0,)
    piece: lines whose products are summed before they are added to those of the lines before
    scratch (threads, vectors, L): `channels_weights_vectors` for the calling thread
    A task owns `share` tiles of taps of a panel's rows, which are tile.columns vectors. All of its tiles go over a
    piece before the next one, which so stays near.
    """
    sums = scratch[thread]
    lanes = sums.shape[1]
    scalars = x.vectors.reshape(-1)
    taps = len(x_taps)
    groups = (extent.rows + lanes - 1) // lanes
    tap_tiles = (taps + tile.rows - 1) // tile.rows
    shares = (tap_tiles + share - 1) // share
    panel = task // shares
    first_tile = task % shares * share
    last_tile = min(first_tile + share, tap_tiles)
    group = min(panel * tile.columns, groups - tile.columns)
    of_tile = tile.rows * tile.columns
    for k in range((last_tile - first_tile) * of_tile):
        store(sums, k, full(sums, 0.0))
    for sample in range(extent.blocks):
        for start in range(0, extent.lines, piece):
            for number in range(first_tile, last_tile):
                tap = min(number * tile.rows, taps - tile.rows)
                total = tile_zeros(tile, sums)
                for line in range(start, min(start + piece, extent.lines)):
                    d_at = d.start + sample * d.block + line * d.line + group * d.row
                    x_at = x.start + sample * x.block + line * x.line
                    for _ in range(extent.columns):
                        total = tile_fma_samples(tile, total, scalars, x_at, x_taps, tap, d.vectors, d_at, d.row)
                        d_at += d.column
                        x_at += x.column
                tile_add_to(total, sums, (number - first_tile) * of_tile)
    space = share * of_tile
    write_rows(tile, extent.rows, panel, group, extent.rows, first_tile, last_tile, sums, sums, space, dw, taps, False)
    if first_tile == 0 and len(db):
        for c in range(panel * tile.columns - group, tile.columns):
            total = full(sums, 0.0)
            for sample in range(extent.blocks):
                for line in range(extent.lines):
                    at = d.start + sample * d.block + line * d.line + (group + c) * d.row
                    of_line = full(sums, 0.0)
                    for j in range(extent.columns):
                        of_line = of_line + load(d.vectors, at + j * d.column)
                    total = total + of_line
            row = (group + c) * lanes
            store(sums, 0, total)
            for r in range(min(lanes, extent.rows - row)):
                db[row + r] = sums[0, r]
