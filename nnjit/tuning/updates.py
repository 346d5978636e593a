"""How an optimizer's update is cut into tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CHUNK_VECTORS = 256
"""Vectors that a task of an element-wise pass takes at most: 16 KiB of each array, so that tasks outnumber threads."""


def choose_chunks(tensors: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """How the vectors of tensors, from first to one after the last, are cut into tasks: (tasks, 2), in the order of
    their places within each tensor, so that a thread's share is the same part of every tensor."""
    chunks = [
        ((start - first) / (last - first), start, min(start + CHUNK_VECTORS, last))
        for first, last in tensors
        for start in range(first, last, CHUNK_VECTORS)
    ]
    return np.array([(start, stop) for _, start, stop in sorted(chunks)], np.int64).reshape(-1, 2)
