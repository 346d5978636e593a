"""What the parts of a sum come to, number by number; those of weights become whole rows in `weight_rows.py`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.compiler import kernel
from nnjit.kernels.contraction import first_rows
from nnjit.kernels.simd import load, store
from nnjit.kernels.tiles import TileShape


def row_places(tile: TileShape, rows: int, lanes: int) -> NDArray[np.int64]:
    """Where the sums of tiles of rows go, one after the other: (V, L) int64.

    -1 for those that an earlier tile has too, since a tile that would pass the last row starts earlier, and for what
    follows them.
    """
    places = once(first_rows(rows, tile.rows)[:, None] + np.arange(tile.rows))
    return np.pad(places, (0, -len(places) % lanes), constant_values=-1).reshape(-1, lanes)


def once(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places in a row, -1 in the stead of those that stand there already."""
    flat = places.reshape(-1)
    _, earliest = np.unique(flat, return_index=True)
    kept = np.full(len(flat), -1, np.int64)
    kept[earliest] = flat[earliest]  # -1 stays -1
    return kept


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
