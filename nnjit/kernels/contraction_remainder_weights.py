"""Gradients of a convolution's weights from the last samples of a batch, too few to be worth a block of their own.

    dw[r, k] = sum over i, j and samples of d[r, i, j] * x[i, j, k]       d vectors of L rows, x, dw scalars

Like `contraction_transposed.py` it has maps in the lanes, but only the samples that are there are transposed, and there
are so few products that one sum for each weight is enough.
"""

from __future__ import annotations

from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import full, load, load_apart, store
from nnjit.kernels.tiles import TileShape, tile_add_to, tile_fma_samples, tile_zeros
from nnjit.kernels.weight_rows import write_rows


def remainder_weights_vectors(tile: TileShape, share: int, lanes: int) -> int:
    """Vectors of scratch memory that `contract_remainder_weights` needs for a thread: the sums of `share` tiles of
    taps, and a tile that is transposed."""
    return share * tile.rows * tile.columns + lanes


@kernel
def rows_of_samples(task, tile, extent, d, out):
    """out[panel, i, j, s, c] = the L rows from (g + c) * L on of sample s of d[:, i, j], g the panel's first group of L

    tile: tile.samples samples, tile.columns groups in a panel  d View (R, I, J)
    out (panels * I * J * tile.samples * tile.columns, L), fully overwritten; a panel that would pass the last group
    starts earlier, and where there are no more rows lanes hold some number
    A task owns a panel's line.
    """
    lanes = out.shape[1]
    scalars = d.vectors.reshape(-1)
    groups = (extent.rows + lanes - 1) // lanes
    line = task % extent.lines
    group = min(task // extent.lines * tile.columns, groups - tile.columns)
    to = task * extent.columns * tile.samples * tile.columns
    for j in range(extent.columns):
        at = (d.start + line * d.line + j * d.column) * lanes
        for sample in range(tile.samples):
            for c in range(tile.columns):
                row = (group + c) * lanes
                value = load_apart(scalars, at + row * d.row * lanes + sample, d.row * lanes, extent.rows - row)
                store(out, to, value)
                to += 1


@kernel
def contract_remainder_weights(task, thread, tile, extent, adds, piece, share, d, x, x_taps, dw, db, scratch):
    """dw[r * K + k] = the sum over i, j and samples of d[r, i, j] * x[i, j, x_taps[k]], and db[r] of d[r, i, j]; or
    added to them, if it `adds`

    d (panels * I * J * tile.samples * tile.columns, L), as `rows_of_samples` leaves it  x View (-, I, J)
    x_taps (K,), in scalars: within a run of the tile each is L more than the last
    dw (R * K or more,)  db (R or more,), or (0,)
    piece: lines whose products are summed before they are added to those of the lines before
    scratch (threads, vectors, L): `remainder_weights_vectors` for the calling thread
    A task owns `share` tiles of taps of a panel's rows.
    """
    sums = scratch[thread]
    lanes = d.shape[1]
    scalars = x.vectors.reshape(-1)
    taps = len(x_taps)
    groups = (extent.rows + lanes - 1) // lanes
    tap_tiles = (taps + tile.rows - 1) // tile.rows
    shares = (tap_tiles + share - 1) // share
    panel = task // shares
    first_tile = task % shares * share
    last_tile = min(first_tile + share, tap_tiles)
    group = min(panel * tile.columns, groups - tile.columns)
    of_line = extent.columns * tile.samples * tile.columns
    of_tile = tile.rows * tile.columns
    for k in range((last_tile - first_tile) * of_tile):
        store(sums, k, full(sums, 0.0))
    for number in range(first_tile, last_tile):
        tap = min(number * tile.rows, taps - tile.rows)
        for start in range(0, extent.lines, piece):
            total = tile_zeros(tile, sums)
            for line in range(start, min(start + piece, extent.lines)):
                d_at = (panel * extent.lines + line) * of_line
                x_at = (x.start + line * x.line) * lanes
                for _ in range(extent.columns):
                    total = tile_fma_samples(tile, total, scalars, x_at, x_taps, tap, d, d_at, 1)
                    d_at += tile.samples * tile.columns
                    x_at += x.column * lanes
            tile_add_to(total, sums, (number - first_tile) * of_tile)
    space = share * of_tile
    write_rows(tile, extent.rows, panel, group, extent.rows, first_tile, last_tile, sums, sums, space, dw, taps, adds)
    # Groups that the task before this one has are left alone.
    for c in range(panel * tile.columns - group, tile.columns):
        row = (group + c) * lanes
        rows = min(lanes, extent.rows - row)
        if first_tile == 0 and len(db):
            total = full(sums, 0.0)
            for at in range(panel * extent.lines * of_line + c, (panel + 1) * extent.lines * of_line, tile.columns):
                total = total + load(d, at)
            store(sums, space, total)
            for r in range(rows):
                db[row + r] = db[row + r] + sums[space, r] if adds else sums[space, r]
