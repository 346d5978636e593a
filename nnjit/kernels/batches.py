"""From rows of a data set to lanes of a batch, and other changes of layout."""

from __future__ import annotations

from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.simd import VECTOR_BYTES, full, load, load_apart, load_numbers, store
from nnjit.kernels.tiles import tile_store
from nnjit.kernels.transposition import (
    lanes_across,
    tile_across,
    tile_of_lanes,
    tile_of_samples,
    tile_store_corner,
    tile_store_samples,
)


@subroutine(forceinline=True)
def _scaling(shift, factor, entry):
    """The vectors by which the L entries of a sample from `entry` on are shifted and multiplied."""
    if shift.shape[0] == 1:
        return full(shift, shift[0]), full(factor, factor[0])
    return load(shift, entry), load(factor, entry)


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
    if used > 0 and extent.columns >= lanes:
        # L entries of L samples at a time, transposed in registers (12.5 us for 10 samples of 784 bytes entry by entry,
        # 2.0 us so).
        for start in range(0, extent.columns, lanes):
            j = min(start, extent.columns - lanes)
            offset, scale = _scaling(shift, factor, entry + j)
            tile = tile_of_samples(data, order, first, used, entry + j, offset, scale)
            tile_store(tile, vectors, at + j * out.column, out.column, 0, 0)
        return
    for j in range(extent.columns):
        to = at + j * out.column
        k = 0 if shift.shape[0] == 1 else entry + j
        for lane in range(used):
            vectors[to, lane] = data[order[first + lane], entry + j]
        store(vectors, to, (load(vectors, to) - shift[k]) * factor[k])
        for lane in range(used, lanes):
            vectors[to, lane] = 0


@kernel
def gather_apart(task, extent, data, order, position, shift, factor, out):
    """out[n, c, i, j] = (data[order[position[0] + n], c, i, j] - shift) * factor for the samples that there are

    data (samples, C*I*J) of any numeric dtype  order (samples,) int64  position (2,) int64: first sample, number of
    samples
    shift, factor (1,) or (C*I*J,)  out View (C, I, J), whose vectors are (samples, numbers) and whose columns lie side
    by side; fully overwritten in those samples
    A task owns a row and a line.
    """
    line = task % extent.lines
    row = task // extent.lines
    at = out.start + row * out.row + line * out.line
    entry = (row * extent.lines + line) * extent.columns
    vectors, scalars = out.vectors, out.vectors.reshape(-1)
    lanes = VECTOR_BYTES // vectors.itemsize
    for sample in range(min(position[1], len(vectors))):
        source = order[position[0] + sample]
        to = sample * vectors.shape[1] + at
        if extent.columns < lanes:
            for j in range(extent.columns):
                k = 0 if shift.shape[0] == 1 else entry + j
                scalars[to + j] = data[source, entry + j]
                scalars[to + j] = (scalars[to + j] - shift[k]) * factor[k]
            continue
        for start in range(0, extent.columns, lanes):
            j = min(start, extent.columns - lanes)
            offset, scale = _scaling(shift, factor, entry + j)
            store(scalars, to + j, (load_numbers(offset, data, (source, entry + j)) - offset) * scale)


@kernel
def scatter(task, extent, x, position, out):
    """out[n, c, i, j] = x[n, c, i, j] for the samples that there are: the way back of `gather`, to plain arrays

    x View (N, C, I, J)  position (2,) int64: first sample, number of samples  out (samples, C*I*J), overwritten in
    those samples
    A task owns a block, a row and a line.
    """
    line = task % extent.lines
    row = task // extent.lines % extent.rows
    block = task // (extent.lines * extent.rows)
    lanes = x.vectors.shape[1]
    used = min(max(position[1] - block * lanes, 0), lanes)
    at = x.start + block * x.block + row * x.row + line * x.line
    numbers = out.shape[1]
    scalars = out.reshape(-1)
    to = block * lanes * numbers + (row * extent.lines + line) * extent.columns
    if extent.columns < lanes:
        for j in range(extent.columns):
            for lane in range(used):
                scalars[to + lane * numbers + j] = x.vectors[at + j * x.column, lane]
        return
    for start in range(0, extent.columns, lanes):
        j = min(start, extent.columns - lanes)
        across = tile_across(x.vectors, at + j * x.column, x.column)
        tile_store_corner(across, scalars, to + j, numbers, 0, used, lanes)


@kernel
def scatter_apart(task, extent, x, position, out):
    """out[n, c, i, j] = x[n, c, i, j] for the samples that there are

    x View (C, I, J), whose vectors are (samples, numbers) and whose columns lie side by side  position (2,) int64:
    first sample, number of samples  out (samples, C*I*J), overwritten in those samples
    A task owns a row and a line.
    """
    line = task % extent.lines
    row = task // extent.lines
    at = x.start + row * x.row + line * x.line
    entry = (row * extent.lines + line) * extent.columns
    for sample in range(position[1]):
        for j in range(extent.columns):
            out[sample, entry + j] = x.vectors[sample, at + j]


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


APART_VECTORS = 512
"""Vectors of a block that a task of `samples_apart` takes; the last one takes what is left as well."""


def apart_tasks(vectors: int) -> int:
    """The tasks of `samples_apart` for so many vectors."""
    return max(1, vectors // APART_VECTORS)


@kernel
def samples_apart(task, tile, x, out):
    """out[s, v] = x[v, s] for the first tile.samples lanes

    x (vectors, L)  out (samples, vectors), fully overwritten
    A task owns APART_VECTORS vectors or more.
    """
    lanes = x.shape[1]
    if len(x) < lanes:
        for v in range(len(x)):
            for sample in range(tile.samples):
                out[sample, v] = x[v, sample]
        return
    first = task * APART_VECTORS
    stop = first + APART_VECTORS if first + 2 * APART_VECTORS <= len(x) else len(x)
    for at in range(first, stop, lanes):
        start = min(at, stop - lanes)
        tile_store_samples(tile, tile_across(x, start, 1), out, start)


@kernel
def lanes_of_channels(task, tile, extent, x, out):
    """out[c, i, j] = x[n, i, j, c] in the lane of sample n, 0 in lanes without a sample

    extent: C, I, J of a block  x View (tile.samples, -, I, J), whose rows are vectors of channels
    out View (C, I, J), fully overwritten
    A task owns L channels and a line.
    """
    lanes = x.vectors.shape[1]
    line = task % extent.lines
    row = task // extent.lines * lanes
    rows = min(lanes, extent.rows - row)
    for j in range(extent.columns):
        at = x.start + row // lanes * x.row + line * x.line + j * x.column
        to = out.start + row * out.row + line * out.line + j * out.column
        if rows == lanes:
            tile_store(tile_of_lanes(tile, x.vectors, at, x.block), out.vectors, to, out.row, 0, 0)
            continue
        for r in range(rows):
            store(out.vectors, to + r * out.row, lanes_across(tile, x.vectors, at, r, x.block))


@kernel
def channels_of_lanes(task, tile, extent, x, out):
    """out[n, i, j, c] = x[c, i, j] of the lane of sample n; some number where there are no more channels

    extent: C, I, J of a block  x View (C, I, J)
    out View (tile.samples, -, I, J), whose rows are vectors of channels, fully overwritten
    A task owns L channels and a line.
    """
    lanes = x.vectors.shape[1]
    scalars = x.vectors.reshape(-1)
    line = task % extent.lines
    row = task // extent.lines * lanes
    for j in range(extent.columns):
        at = (x.start + row * x.row + line * x.line + j * x.column) * lanes
        to = out.start + row // lanes * out.row + line * out.line + j * out.column
        for sample in range(tile.samples):
            value = load_apart(scalars, at + sample, x.row * lanes, extent.rows - row)
            store(out.vectors, to + sample * out.block, value)


@kernel
def channels_apart(task, tile, extent, x, out):
    """out[n, c, i, j] = x[n, i, j, c]

    extent: C, I, J of a sample  x View (tile.samples, -, I, J), whose rows are vectors of channels
    out View (C, I, J), whose vectors are (tile.samples, numbers) and whose columns lie side by side, fully overwritten
    A task owns L channels and a line.
    """
    lanes = x.vectors.shape[1]
    scalars = out.vectors.reshape(-1)
    line = task % extent.lines
    row = task // extent.lines * lanes
    for sample in range(tile.samples):
        at = x.start + sample * x.block + row // lanes * x.row + line * x.line
        to = sample * out.vectors.shape[1] + out.start + row * out.row + line * out.line
        if extent.columns < lanes:
            for j in range(extent.columns):
                for r in range(min(lanes, extent.rows - row)):
                    scalars[to + r * out.row + j] = x.vectors[at + j, r]
            continue
        for start in range(0, extent.columns, lanes):
            j = min(start, extent.columns - lanes)
            tile_store_corner(tile_across(x.vectors, at + j, 1), scalars, to + j, out.row, 0, extent.rows - row, lanes)
