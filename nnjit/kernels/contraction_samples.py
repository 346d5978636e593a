"""Sums of products for dense layers and few samples: outputs in the lanes.

    out[s, r] = bias[r] + sum over k of w[r, k] * x[s, k]       w vectors, x scalars

It is what `contraction_strips.py` computes, in the same order, for samples whose numbers lie side by side. With samples
in the lanes most of those would be empty, and a batch would take as long as a block. Weights are stored with outputs in
the lanes: each vector of them is read once and serves all samples.

Measured on two cores, predictions of 784 inputs, twice 512 and 10 outputs for one sample: 110 to 31 us, for eight 87 to
51.
"""

from __future__ import annotations

from nnjit.kernels.activations import finish
from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import load, store
from nnjit.kernels.tiles import TileShape, tile_fma, tile_load, tile_store
from nnjit.kernels.transposition import tile_of_lanes


def samples_vectors(tile: TileShape) -> int:
    """Vectors of scratch memory that `contract_samples` needs for a thread: the results of all samples."""
    return tile.samples * tile.columns


@kernel
def contract_samples(task, thread, tile, rows, w, x, bias, out, epilogue, scratch):
    """out[s, r] = epilogue(bias[r] + sum over k of w[r, k] * x[s, k])

    w (groups * K, L): R outputs of every input, in groups of L, the last of them padded
    x View (K,), whose vectors are (samples, numbers)  bias (groups * L,)
    out View (R,), padded like w: like x, if the tile keeps results apart, else in the lanes of a block, 0 in those
    without a sample
    rows: R  scratch (threads, vectors, L): `samples_vectors` for the calling thread
    tile: its rows, which divide tile.samples, are samples, its columns groups. A task owns such a tile's groups; one
    that would pass the last group starts earlier.
    """
    near = scratch[thread]
    lanes = w.shape[1]
    groups = (rows + lanes - 1) // lanes
    inputs = len(w) // groups
    group = min(task * tile.columns, groups - tile.columns)
    scalars, apart = x.vectors.reshape(-1), x.vectors.shape[1]
    for sample in range(tile.samples):
        for c in range(tile.columns):
            store(near, sample * tile.columns + c, load(bias, (group + c) * lanes))
    for first in range(0, tile.samples, tile.rows):
        x_at, w_at = first * apart + x.start, group * inputs
        total = tile_load(tile, near, first * tile.columns)
        for k in range(0, inputs, tile.run):
            total = tile_fma(tile, total, scalars, x_at + k, w, w_at + k, inputs, 1, 0)
        tile_store(total, near, first * tile.columns, tile.columns, 1, 0)
    for at in range(tile.samples * tile.columns):
        store(near, at, finish(epilogue, load(near, at), near, at))
    # Groups that the task before this one has are left alone.
    for c in range(task * tile.columns - group, tile.columns):
        row = (group + c) * lanes
        if tile.apart:
            results = out.vectors.reshape(-1)
            for sample in range(tile.samples):
                to = sample * out.vectors.shape[1] + out.start + row
                store(results, to, load(near, sample * tile.columns + c))
        else:
            total = tile_of_lanes(tile, near, c, tile.columns)
            tile_store(total, out.vectors, out.start + row * out.row, out.row, 0, 0)
