"""Zeros: round the planes of an image, for memory that other images use as well, and in all of it."""

from __future__ import annotations

from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import full, store


@kernel
def clear_border(task, extent, out):
    """out = 0 before, between and after the lines of the planes of `extent`

    out View (N, R, I, J), whose entries are left alone
    A task owns what lies after each line of a plane; that of a block's first plane also what lies before it.
    """
    block = task // extent.rows
    row = task % extent.rows
    first = block * out.block
    plane = first + out.start + row * out.row
    if row == 0:
        for at in range(first, plane):
            store(out.vectors, at, full(out.vectors, 0.0))
    for i in range(extent.lines):
        line = plane + i * out.line
        after = line + out.line
        if i + 1 == extent.lines:
            after = plane + out.row if row + 1 < extent.rows else first + out.block
        for at in range(line + extent.columns, after):
            store(out.vectors, at, full(out.vectors, 0.0))


@kernel
def clear_planes(task, extent, out):
    """out = 0, before, between and after its lines too

    out View (N, R, I, J)
    A task owns a plane, with what lies after it; that of a block's first plane also what lies before it. LLVM makes one
    call of the loop, which does not read what it overwrites (28 GB/s on one core, single stores 10).
    """
    block = task // extent.rows
    row = task % extent.rows
    first = block * out.block + (out.start + row * out.row if row else 0)
    after = block * out.block + (out.start + (row + 1) * out.row if row + 1 < extent.rows else out.block)
    for at in range(first, after):
        store(out.vectors, at, full(out.vectors, 0.0))
