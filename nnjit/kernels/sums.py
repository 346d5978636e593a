"""What the parts of a sum come to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import load, store


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
