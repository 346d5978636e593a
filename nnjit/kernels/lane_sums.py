"""Tiles of sums over lanes: both factors are vectors, and each entry comes to one scalar at the end."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types

from nnjit.kernels.simd import VectorType, element_pointer, load_vector, lowered_by
from nnjit.kernels.tiles import add_product


def _loader(context, builder, tile, half, x, value, first):
    """The function of an offset in vectors, and a constant to add, that emits the load of x[first + offset], or of the
    given half of it."""
    whole = VectorType(tile.vector.dtype).count
    start = element_pointer(context, builder, x, value, types.intp, first)
    if tile.halved:
        start = builder.gep(start, [builder.mul(half, context.get_constant(types.intp, tile.vector.count))])

    def load_at(offset, further=0):
        pointer = builder.gep(start, [builder.mul(offset, ir.Constant(offset.type, whole))])
        pointer = builder.gep(pointer, [ir.Constant(offset.type, further * whole)])
        return load_vector(context, builder, tile.vector, pointer)

    return load_at


def _tile_fma_vectors(typing_context, shape, tile, half, d, d_first, d_step, x, x_first, taps, tap):
    signature = tile(shape, tile, types.intp, d, types.intp, types.intp, x, types.intp, taps, types.intp)
    run = shape.value.run

    def generate(context, builder, signature, arguments):
        _, value, half_value, d_value, d_at, d_stride, x_value, x_at, taps_value, tap_at = arguments
        load_d = _loader(context, builder, tile, half_value, d, d_value, d_at)
        load_x = _loader(context, builder, tile, half_value, x, x_value, x_at)
        first_tap = element_pointer(context, builder, taps, taps_value, types.intp, tap_at)

        vectors = []
        for c in range(tile.columns):
            run_start = builder.load(builder.gep(first_tap, [context.get_constant(types.intp, c - c % run)]))
            vectors.append(load_x(run_start, c % run))
        for r in range(tile.rows):
            row = load_d(builder.mul(d_stride, context.get_constant(types.intp, r)))
            for c in range(tile.columns):
                value = add_product(builder, tile, value, r, c, row, vectors[c])
        return value

    return signature, generate


@lowered_by(_tile_fma_vectors)
def tile_fma_vectors(shape, tile, half, d, d_first, d_step, x, x_first, taps, tap):
    """tile[r, c] += d[d_first + r * d_step, :] * x[x_first + taps[tap + c], :]

    d, x (vectors, L), of which a halved tile takes half 0 or 1  taps (T,): within a run each is one more than the last
    """
    rows, columns, width = tile.shape
    half_lanes = slice(half * width, (half + 1) * width)
    left = d[d_first + d_step * np.arange(rows), half_lanes]
    first = np.arange(columns) // shape.run * shape.run
    right = x[x_first + taps[tap + first] + np.arange(columns) - first, half_lanes]
    return tile + left[:, None, :] * right


def _tile_add_vectors(typing_context, tile, half, d, first, step):
    def generate(context, builder, signature, arguments):
        value, half_value, d_value, at, stride = arguments
        load_d = _loader(context, builder, tile, half_value, d, d_value, at)
        for r in range(tile.rows):
            vector = load_d(builder.mul(stride, context.get_constant(types.intp, r)))
            for c in range(tile.columns):
                k = r * tile.columns + c
                value = builder.insert_value(value, builder.fadd(builder.extract_value(value, k), vector), k)
        return value

    return tile(tile, types.intp, d, types.intp, types.intp), generate


@lowered_by(_tile_add_vectors)
def tile_add_vectors(tile, half, d, first, step):
    """tile[r, c] += d[first + r * step, :]; d (vectors, L), of which a halved tile takes half 0 or 1."""
    rows, _, width = tile.shape
    return tile + d[first + step * np.arange(rows), None, half * width : (half + 1) * width]


def _lane_sums(builder, vectors):
    """A vector of as many lanes as there are vectors, at most as many as those have, with the sum over lanes of each.

    Halves of two vectors are added at once, so 16 sums take 15 additions instead of 64. Each sum is a tree: the second
    half of the lanes is added to the first, and so on.
    """
    form = vectors[0].type
    lane_numbers = range(form.count)
    wanted = len(vectors)
    vectors = vectors + [ir.Constant(form, None)] * ((1 << (wanted - 1).bit_length()) - wanted)
    owners = [[k] * form.count for k in range(len(vectors))]  # the sum that each lane is a part of
    half = form.count // 2
    while half:
        upper = [bool(lane & half) for lane in lane_numbers]
        if len(vectors) == 1:
            vectors = [builder.fadd(vectors[0], _chosen(builder, vectors * 2, [lane ^ half for lane in lane_numbers]))]
        else:
            middle = len(vectors) // 2
            near = [lane + form.count * upper[lane] for lane in lane_numbers]
            far = [(lane ^ half) + form.count * upper[lane] for lane in lane_numbers]
            pairs = list(zip(vectors[:middle], vectors[middle:], strict=True))
            vectors = [builder.fadd(_chosen(builder, pair, near), _chosen(builder, pair, far)) for pair in pairs]
            owners = [
                [(a, b)[upper[lane]][lane] for lane in lane_numbers]
                for a, b in zip(owners[:middle], owners[middle:], strict=True)
            ]
        half //= 2
    return _chosen(builder, vectors * 2, [owners[0].index(k) for k in range(wanted)])


def _chosen(builder, pair, lanes):
    """The given lanes of two vectors, the second's counted after those of the first."""
    return builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _tile_add_sums(typing_context, tile, out, first):
    signature = types.void(tile, out, types.intp)

    def generate(context, builder, signature, arguments):
        value, out_value, at = arguments
        pointer = element_pointer(context, builder, out, out_value, types.intp, at)
        count = tile.vector.count
        entries = [builder.extract_value(value, k) for k in range(tile.rows * tile.columns)]
        for start in range(0, len(entries), count):
            group = entries[start : start + count]
            sums = _lane_sums(builder, group)
            place = builder.gep(pointer, [context.get_constant(types.intp, start)])
            place = builder.bitcast(place, sums.type.as_pointer())
            total = builder.load(place)
            total.align = tile.vector.dtype.bitwidth // 8
            total = builder.store(builder.fadd(total, sums), place)
            total.align = tile.vector.dtype.bitwidth // 8
        return context.get_dummy_value()

    return signature, generate


@lowered_by(_tile_add_sums)
def tile_add_sums(tile, out, first):
    """out[first + r * columns + c] += the sum over lanes of tile[r, c]; out (scalars,)."""
    rows, columns, lanes = tile.shape
    half = lanes // 2
    while half:
        tile = tile[..., :half] + tile[..., half : 2 * half]
        half //= 2
    out[first : first + rows * columns] += tile.reshape(-1)
