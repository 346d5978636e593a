"""Sums over samples and positions: bias gradients, and what parts of a sum come to."""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import entry, full, lane_sum, load, store


@kernel
def sum_samples(task, d, step, samples, db):
    """db[f] = sum over n of d[n, f]

    d (samples * step, L): from n * step on, a sample's features, in whole vectors  db (F,), fully overwritten
    A task owns a vector of features.
    """
    total = load(d, task)
    for n in range(1, samples):
        total = total + load(d, n * step + task)
    store(db, task * d.shape[1], total)


@register_jitable
def sum_lines(starts, columns, d, row, first_line, last_line):
    """The sum over columns and lanes of lines first_line .. last_line - 1 of d[:, row]; starts[line, 0] is where a line
    of row 0 starts.

    Four sums run side by side, since each addition waits for the one before it (LeNet-5's first weight gradient: 125 to
    120 us on one core).
    """
    first = full(d.vectors, 0.0)
    second = first
    third = first
    fourth = first
    whole = columns // 4 * 4
    for line in range(first_line, last_line):
        at = entry(starts, (line, 0)) + row * d.row
        for j in range(0, whole, 4):
            first = first + load(d.vectors, at + j * d.column)
            second = second + load(d.vectors, at + (j + 1) * d.column)
            third = third + load(d.vectors, at + (j + 2) * d.column)
            fourth = fourth + load(d.vectors, at + (j + 3) * d.column)
        for j in range(whole, columns):
            first = first + load(d.vectors, at + j * d.column)
    return lane_sum((first + second) + (third + fourth))


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
