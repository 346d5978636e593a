"""Sums over samples and positions: bias gradients, and what parts of a sum come to."""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import full, lane_sum, load, store


@kernel
def sum_rows(task, extent, d, db):
    """db[r] = sum over n, i, j and lanes of d[n, r, i, j]

    d View (N, R, I, J)  db (R,), fully overwritten
    A task owns a row.
    """
    db[task] = sum_lines(extent, d, task, 0, extent.blocks * extent.lines)


@register_jitable
def sum_lines(extent, d, row, start, stop):
    """The sum over columns and lanes of lines start .. stop - 1 of d[:, row], the lines of all blocks numbered in
    order."""
    total = full(d.vectors, 0.0)
    for n in range(start, stop):
        at = d.start + n // extent.lines * d.block + row * d.row + n % extent.lines * d.line
        for j in range(extent.columns):
            total = total + load(d.vectors, at + j * d.column)
    return lane_sum(total)


def in_vectors(places: NDArray[np.int64], lanes: int) -> NDArray[np.int64]:
    """Places (n,) as whole vectors (V, L); -1 in the lanes that are left."""
    return np.pad(places, (0, -len(places) % lanes), constant_values=-1).reshape(-1, lanes)


SUMS_VECTORS = 32
"""Vectors that a task of `add_parts` takes."""


@kernel
def add_parts(task, parts, places, out):
    """out[places[v, l]] = sum over p of parts[p, v, l], where places[v, l] >= 0

    parts (P, V, L): overwritten in passing  places (V, L) int64, each place once  out (scalars,)
    A task owns SUMS_VECTORS vectors.
    """
    vectors, lanes = places.shape
    for v in range(task * SUMS_VECTORS, min((task + 1) * SUMS_VECTORS, vectors)):
        total = load(parts, (0, v))
        for p in range(1, len(parts)):
            total = total + load(parts, (p, v))
        store(parts, (0, v), total)
        for lane in range(lanes):
            if places[v, lane] >= 0:
                out[places[v, lane]] = parts[0, v, lane]
