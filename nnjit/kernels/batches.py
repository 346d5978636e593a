"""From rows of a data set to lanes of a batch, and other changes of layout."""

from __future__ import annotations

from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import full, load, store


@kernel
def gather(task, extent, data, order, position, shift, factor, out):
    """out[n, c, i, j] = (data[order[position[0] + n], c, i, j] - shift) * factor, 0 in lanes without a sample

    data (samples, C*I*J) of any numeric dtype  order (samples,) int64  position (2,) int64: first sample, number of
    samples
    shift, factor (1,) or (C*I*J,)  out View (N, C, I, J), fully overwritten
    A task owns a block, a row and a line.
    """
    line = task % extent.lines
    row = task // extent.lines % extent.rows
    block = task // (extent.lines * extent.rows)
    vectors = out.vectors
    lanes = vectors.shape[1]
    used = min(max(position[1] - block * lanes, 0), lanes)
    first = position[0] + block * lanes
    at = out.start + block * out.block + row * out.row + line * out.line
    entry = (row * extent.lines + line) * extent.columns
    for j in range(extent.columns):
        to = at + j * out.column
        k = 0 if shift.shape[0] == 1 else entry + j
        for lane in range(used):
            vectors[to, lane] = data[order[first + lane], entry + j]
        store(vectors, to, (load(vectors, to) - shift[k]) * factor[k])
        for lane in range(used, lanes):
            vectors[to, lane] = 0


@kernel
def gather_labels(task, classes, labels, order, position, out):
    """out[n, f] = 1 if labels[order[position[0] + n]] == f, else 0; 0 in lanes without a sample

    labels (samples,) integers  order (samples,) int64  position (2,) int64  out View (N, classes), fully overwritten
    A task owns a block.
    """
    vectors = out.vectors
    lanes = vectors.shape[1]
    at = out.start + task * out.block
    for f in range(classes):
        store(vectors, at + f * out.row, full(vectors, 0.0))
    for lane in range(min(max(position[1] - task * lanes, 0), lanes)):
        label = labels[order[position[0] + task * lanes + lane]]
        vectors[at + label * out.row, lane] = 1


@kernel
def samples_to_rows(task, extent, x, out):
    """out[n, f] = x[n, f] with the features innermost instead of the samples

    x View (N, F)  out (samples, F padded to whole vectors), its first F columns overwritten
    A task owns a sample.
    """
    lanes = x.vectors.shape[1]
    lane = task % lanes
    at = x.start + task // lanes * x.block
    for f in range(extent.rows):
        out[task, f] = x.vectors[at + f * x.row, lane]
