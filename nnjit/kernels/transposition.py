"""Vectors turned into lanes and back: L vectors of L lanes as a tile of L rows, transposed in registers."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from nnjit.kernels.simd import (
    VectorType,
    element_pointer,
    lanes,
    load_vector,
    lowered_by,
    store_first_lanes,
    store_vector,
    to_floats,
)
from nnjit.kernels.tiles import TileType, vector_step

PIECE_BYTES = 16
"""What shuffles move lanes within at full speed: a register of SSE, which wider ones are made of."""


def shuffled(builder, left, right, order):
    """The vector of those lanes of two, counted through both."""
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


def _transposed(builder, vectors, done=1):
    """The transpose of as many vectors as they have lanes: halves are exchanged, then quarters, down to pieces of 16
    bytes, whose vectors are interleaved.

    `done`: into how many pieces the vectors are cut that stand in their places already.
    """
    count = len(vectors)
    vectors = list(vectors)
    piece = PIECE_BYTES * 8 // (32 if isinstance(vectors[0].type.element, ir.FloatType) else 64)

    step = count // done // 2
    while step >= piece:
        near = [lane + (count - step if lane & step else 0) for lane in range(count)]
        far = [lane + (count if lane & step else step) for lane in range(count)]
        for k in range(count):
            if not k & step:
                pair = vectors[k], vectors[k + step]
                vectors[k], vectors[k + step] = (shuffled(builder, *pair, order) for order in (near, far))
        step //= 2
    for start in range(0, count, piece):
        vectors[start : start + piece] = _interleaved(builder, vectors[start : start + piece])
    return vectors


def _interleaved(builder, group):
    """Of as many vectors as a piece has lanes, vector k with lane k of each in every piece.

    Of each piece, the first half of one vector and of another in turns, and the second halves: exchanges down to single
    lanes take shuffles that read their order from a register (0.48 to 0.37 ns a vector).
    """
    count, piece = group[0].type.count, len(group)
    first = [lane // piece * piece + lane % piece // 2 + lane % 2 * count for lane in range(count)]
    second = [lane + piece // 2 for lane in first]
    for _ in range(piece.bit_length() - 1):
        pairs = zip(group[: piece // 2], group[piece // 2 :], strict=True)
        group = [shuffled(builder, *pair, order) for pair in pairs for order in (first, second)]
    return group


def _tile_of_samples(typing_context, data, order, first, used, entry, shift, factor):
    tile = TileType(shift.dtype, shift.count, 1)
    signature = tile(data, order, types.intp, types.intp, types.intp, shift, factor)

    def generate(context, builder, signature, arguments):
        data_value, order_value, first_value, used_value, entry_value, shifts, factors = arguments
        form = context.get_value_type(shift)
        raw_form = ir.VectorType(context.get_data_type(data.dtype), shift.count)
        last = builder.sub(used_value, context.get_constant(types.intp, 1))
        place = types.UniTuple(types.intp, 2)
        samples = []
        for lane in range(shift.count):
            number = context.get_constant(types.intp, lane)
            there = builder.icmp_signed("<", number, used_value)
            at = builder.add(first_value, builder.select(there, number, last))
            pointer = element_pointer(context, builder, order, order_value, types.intp, at)
            row = builder.load(pointer)
            pair = context.make_tuple(builder, place, [row, entry_value])
            start = element_pointer(context, builder, data, data_value, place, pair)
            raw = builder.load(builder.bitcast(start, raw_form.as_pointer()))
            raw.align = 1
            value = to_floats(builder, raw, data.dtype, form)
            value = builder.fmul(builder.fsub(value, shifts), factors)
            samples.append(builder.select(there, value, ir.Constant(form, None)))
        value = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for k, vector in enumerate(_transposed(builder, samples)):
            value = builder.insert_value(value, vector, k)
        return value

    return signature, generate


@lowered_by(_tile_of_samples)
def tile_of_samples(data, order, first, used, entry, shift, factor):
    """A tile whose row e holds (data[order[first + lane], entry + e] - shift[e]) * factor[e], 0 in lanes from `used`
    on.

    data (samples, D) of any numeric dtype  order (samples,) int64  used at least 1  shift, factor vectors
    """
    width = len(shift)
    rows = order[first : first + min(used, width)]
    values = (data[rows, entry : entry + width].astype(shift.dtype) - shift) * factor
    tile = np.zeros((width, 1, width), shift.dtype)
    tile[:, 0, : len(rows)] = values.T
    return tile


PIECES = 2
"""Into how many pieces `tile_across` cuts each vector while it loads it: pieces go straight to their places, which
leaves fewer steps to the ports that move lanes, but takes more loads. Measured on one core with Zen 5 for whole
vectors, halves and quarters: 0.36, 0.37 and 0.57 ns a vector, with AVX2 0.63, 0.76 and 0.74; with exchanges
down to single lanes, on a Xeon, 0.88, 0.74 and 0.80, with AVX2 1.34, 1.33 and 1.01."""


def _across(context, builder, vector, rows):
    """L vectors of numbers, loaded from the addresses `rows`, as a transposed tile; zeros if there are fewer."""
    width = vector.count // PIECES
    piece_form = ir.VectorType(context.get_value_type(vector).element, width)

    def piece(row, number):
        if row >= len(rows):
            return ir.Constant(piece_form, None)
        start = builder.gep(rows[row], [context.get_constant(types.intp, number * width)])
        value = builder.load(builder.bitcast(start, piece_form.as_pointer()))
        value.align = vector.dtype.bitwidth // 8
        return value

    def joined(pieces):
        if len(pieces) == 1:
            return pieces[0]
        sides = joined(pieces[: len(pieces) // 2]), joined(pieces[len(pieces) // 2 :])
        return shuffled(builder, *sides, list(range(2 * sides[0].type.count)))

    loaded = [joined([piece(k % width + q * width, k // width) for q in range(PIECES)]) for k in range(vector.count)]
    value = ir.Constant(context.get_value_type(TileType(vector.dtype, vector.count, 1)), ir.Undefined)
    for k, row in enumerate(_transposed(builder, loaded, PIECES)):
        value = builder.insert_value(value, row, k)
    return value


def _tile_across(typing_context, x, first, step):
    vector = VectorType(x.dtype)

    def generate(context, builder, signature, arguments):
        x_value, at, stride = arguments
        pointer = element_pointer(context, builder, x, x_value, types.intp, at)
        rows = [builder.gep(pointer, [vector_step(context, builder, vector, stride, k)]) for k in range(vector.count)]
        return _across(context, builder, vector, rows)

    return TileType(x.dtype, vector.count, 1)(x, types.intp, types.intp), generate


@lowered_by(_tile_across)
def tile_across(x, first, step):
    """A tile whose row l holds lane l of the vectors x[first], x[first + step], ...: L vectors, transposed."""
    width = x.shape[1]
    return x[first + step * np.arange(width)].T[:, None, :].copy()


def _tile_of_lanes(typing_context, shape, x, first, step):
    vector = VectorType(x.dtype)

    def generate(context, builder, signature, arguments):
        _, x_value, at, stride = arguments
        pointer = element_pointer(context, builder, x, x_value, types.intp, at)
        samples = range(shape.value.samples)
        rows = [builder.gep(pointer, [vector_step(context, builder, vector, stride, s)]) for s in samples]
        return _across(context, builder, vector, rows)

    return TileType(x.dtype, vector.count, 1)(shape, x, types.intp, types.intp), generate


@lowered_by(_tile_of_lanes)
def tile_of_lanes(shape, x, first, step):
    """A tile whose row l holds lane l of x[first], x[first + step], ... in its first shape.samples lanes, 0 in the
    others; x (vectors, L)."""
    value = np.zeros((x.shape[1], 1, x.shape[1]), x.dtype)
    value[:, 0, : shape.samples] = x[first + step * np.arange(shape.samples)].T
    return value


def _tile_of_rows(typing_context, w, first, step, last):
    vector = VectorType(w.dtype)

    def generate(context, builder, signature, arguments):
        rows = _row_pointers(context, builder, w, *arguments, vector.count)
        return _across(context, builder, vector, rows)

    return TileType(w.dtype, vector.count, 1)(w, types.intp, types.intp, types.intp), generate


def _row_pointers(context, builder, w, value, first, step, last, count):
    """The addresses of w[first], w[first + step], ..., of the one for `last` steps from there on."""
    pointer = element_pointer(context, builder, w, value, types.intp, first)
    rows = []
    for k in range(count):
        number = context.get_constant(types.intp, k)
        number = builder.select(builder.icmp_signed("<", number, last), number, last)
        rows.append(builder.gep(pointer, [builder.mul(number, step)]))
    return rows


@lowered_by(_tile_of_rows)
def tile_of_rows(w, first, step, last):
    """A tile whose row l holds w[first + l], w[first + step + l], ..., the one for `last` steps in all lanes from
    there on; w (scalars,)."""
    width = lanes(w.dtype)
    return w[first + np.arange(width)[:, None, None] + step * np.minimum(np.arange(width), last)]


QUAD = 4
"""Rows that `quad_of_rows` transposes."""


def _quad_of_rows(typing_context, w, first, step, last):
    vector = VectorType(w.dtype)
    quad = TileType(w.dtype, QUAD, 1)

    def generate(context, builder, signature, arguments):
        rows = _row_pointers(context, builder, w, *arguments, QUAD)
        loaded = [load_vector(context, builder, vector, row) for row in rows]
        value = ir.Constant(context.get_value_type(quad), ir.Undefined)
        for k, row in enumerate(_interleaved(builder, loaded)):
            value = builder.insert_value(value, row, k)
        return value

    return quad(w, types.intp, types.intp, types.intp), generate


@lowered_by(_quad_of_rows)
def quad_of_rows(w, first, step, last):
    """A tile of QUAD vectors, of which vector k has in its lanes l * QUAD + r, for r < QUAD, w[first + l * QUAD + k +
    min(r, last) * step]; w (scalars,)."""
    width = lanes(w.dtype)
    places = np.arange(width).reshape(-1, QUAD).T[:, :, None] + step * np.minimum(np.arange(QUAD), last)
    return w[first + places.reshape(QUAD, 1, width)]


def _stored_to_slots(width_of, place_of):
    """The intrinsic that stores parts of the vectors of a tile, for each lane of slots the part of `width_of(vector)`
    numbers from number `place_of(lane, vector)` on.

    A loop over what was written to the stack: emitted for each part by itself, `pack_rows` was no faster and took 1.1
    instead of 1.0 s to compile.
    """

    def _store(typing_context, tile, out, first, step, slots, number, moved, count):
        signature = types.void(tile, out, types.intp, types.intp, slots, types.intp, types.intp, types.intp)
        vector = tile.vector

        def generate(context, builder, signature, arguments):
            value, out_value, at, stride, slots_value, row, times, used = arguments
            pointer = element_pointer(context, builder, out, out_value, types.intp, at)
            form = context.get_value_type(vector)
            space = cgutils.alloca_once(builder, form, tile.rows)
            for k in range(tile.rows):
                store_vector(
                    context, builder, vector, builder.extract_value(value, k), cgutils.gep_inbounds(builder, space, k)
                )
            numbers = builder.bitcast(space, form.element.as_pointer())
            part = ir.VectorType(form.element, width_of(vector.count)).as_pointer()
            place = types.UniTuple(types.intp, 3)
            with cgutils.for_range(builder, context.get_constant(types.intp, vector.count)) as loop:
                index = context.make_tuple(builder, place, [row, loop.index, context.get_constant(types.intp, 0)])
                entry = element_pointer(context, builder, slots, slots_value, place, index)
                slot, further = (
                    builder.load(builder.gep(entry, [context.get_constant(types.intp, k)])) for k in (0, 1)
                )
                with builder.if_then(builder.icmp_signed(">=", slot, context.get_constant(types.intp, 0))):
                    slot = builder.add(slot, builder.mul(further, times))
                    to = builder.gep(pointer, [builder.mul(slot, stride)])
                    start = builder.gep(numbers, [place_of(builder, loop.index, vector.count)])
                    stored = builder.load(builder.bitcast(start, part))
                    stored.align = vector.dtype.bitwidth // 8
                    store_first_lanes(context, builder, stored, to, used)
            return context.get_dummy_value()

        return signature, generate

    return _store


def _whole(builder, lane, count):
    return builder.mul(lane, lane.type(count))


@lowered_by(_stored_to_slots(lambda count: count, _whole))
def tile_store_lanes(tile, out, first, step, slots, number, moved, count):
    """out[first + (slot + moved * further) * step + i] = tile[l][i] for i < count and every row l with a slot that is
    not negative; slots (numbers, L, 2): those of the rows and how much further they are moved  out (scalars,)."""
    for vector, (slot, further) in zip(tile[:, 0], slots[number], strict=True):
        if slot >= 0:
            at = first + (slot + moved * further) * step
            out[at : at + count] = vector[:count]


def _piece(builder, lane, count):
    quad = lane.type(QUAD)
    return builder.add(
        builder.mul(builder.srem(lane, quad), lane.type(count)), builder.mul(builder.sdiv(lane, quad), quad)
    )


@lowered_by(_stored_to_slots(lambda count: QUAD, _piece))
def quad_store_lanes(tile, out, first, step, slots, number, moved, count):
    """Likewise for what `quad_of_rows` gives, with l the place that a piece was loaded from; count at most QUAD."""
    pieces = tile.reshape(QUAD, -1, QUAD).transpose(1, 0, 2).reshape(-1, 1, QUAD)
    tile_store_lanes(pieces, out, first, step, slots, number, moved, count)


def _lanes_across(typing_context, shape, x, first, lane, step):
    vector = VectorType(x.dtype)

    def generate(context, builder, signature, arguments):
        _, x_value, at, column, stride = arguments
        value = ir.Constant(context.get_value_type(vector), None)
        for sample in range(shape.value.samples):
            index = builder.add(at, builder.mul(stride, context.get_constant(types.intp, sample)))
            pointer = element_pointer(context, builder, x, x_value, types.intp, index)
            value = builder.insert_element(
                value, builder.load(builder.gep(pointer, [column])), ir.Constant(ir.IntType(32), sample)
            )
        return value

    return vector(shape, x, types.intp, types.intp, types.intp), generate


@lowered_by(_lanes_across)
def lanes_across(shape, x, first, lane, step):
    """The vector of that lane of x[first], x[first + step], ... in its first shape.samples lanes, 0 in the others; x
    (vectors, L)."""
    value = np.zeros(x.shape[1], x.dtype)
    value[: shape.samples] = x[first + step * np.arange(shape.samples), lane]
    return value


def _tile_store_corner(typing_context, tile, out, first, step, first_row, rows, columns):
    numbers = [types.intp] * 5
    signature = types.void(tile, out, *numbers)

    def generate(context, builder, signature, arguments):
        value, out_value, at, stride, skipped, last, used = arguments
        pointer = element_pointer(context, builder, out, out_value, types.intp, at)
        for row in range(tile.rows):
            number = context.get_constant(types.intp, row)
            after = builder.icmp_signed("<=", skipped, number)
            with builder.if_then(builder.and_(after, builder.icmp_signed("<", number, last))):
                to = builder.gep(pointer, [builder.mul(number, stride)])
                store_first_lanes(context, builder, builder.extract_value(value, row), to, used)
        return context.get_dummy_value()

    return signature, generate


@lowered_by(_tile_store_corner)
def tile_store_corner(tile, out, first, step, first_row, rows, columns):
    """out[first + r * step + i] = tile[r][i] for first_row <= r < rows and i < columns; out (scalars,)."""
    for row in range(first_row, min(rows, len(tile))):
        at = first + row * step
        out[at : at + min(columns, tile.shape[2])] = tile[row, 0, :columns]


def _tile_store_samples(typing_context, shape, tile, out, first):
    def generate(context, builder, signature, arguments):
        _, value, out_value, at = arguments
        for sample in range(shape.value.samples):
            index = context.make_tuple(
                builder, types.UniTuple(types.intp, 2), [context.get_constant(types.intp, sample), at]
            )
            place = element_pointer(context, builder, out, out_value, types.UniTuple(types.intp, 2), index)
            store_vector(context, builder, tile.vector, builder.extract_value(value, sample), place)
        return context.get_dummy_value()

    return types.void(shape, tile, out, types.intp), generate


@lowered_by(_tile_store_samples)
def tile_store_samples(shape, tile, out, first):
    """out[s, first : first + L] = tile[s] for the first shape.samples rows of the tile; out (samples, scalars). The
    compiler leaves out what the others alone would take."""
    for sample in range(shape.samples):
        out[sample, first : first + tile.shape[2]] = tile[sample, 0]
