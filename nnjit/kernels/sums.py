"""Sums over samples and positions: bias gradients."""

from __future__ import annotations

from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import full, lane_sum, load


@kernel
def sum_rows(task, extent, d, db):
    """db[r] = sum over n, i, j and lanes of d[n, r, i, j]

    d View (N, R, I, J)  db (R,), fully overwritten
    A task owns a row.
    """
    total = full(d.vectors, 0.0)
    for block in range(extent.blocks):
        at = d.start + block * d.block + task * d.row
        for i in range(extent.lines):
            for j in range(extent.columns):
                total = total + load(d.vectors, at + i * d.line + j * d.column)
    db[task] = lane_sum(total)
