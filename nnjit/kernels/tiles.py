"""Register tiles: rows x columns of vectors that one loop accumulates, kept in registers by the compiler.

A tile is what reaches the machine's peak: each vector that is loaded serves `rows` multiply-adds, each scalar `columns`
of them. The tile's shape is part of a type (`TileShape` in the arguments of a kernel), so every shape is a kernel
compiled for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import models, register_model

from nnjit.kernels.activations import finish
from nnjit.kernels.constants import constant
from nnjit.kernels.simd import (
    VectorType,
    call_llvm,
    element_pointer,
    lane_sum,
    lanes,
    load_vector,
    lowered_by,
    splat,
    store_vector,
)


@constant
@dataclass(frozen=True)
class TileShape:
    """The form of a tile; in a kernel's arguments it selects the code that is compiled."""

    rows: int
    columns: int
    row_step: int = 1
    """How far apart the rows' scalars lie. Known when the kernel is compiled, rows are constant offsets from one
    address (an address each costs registers: 8x3 ran at 100 GFLOP/s with steps told at run time, at 154 with
    constants)."""
    column_step: int = 0
    """How far apart the columns' vectors lie, or 0 if that is told at run time."""
    run: int = 1
    """How many taps in a row one address serves."""
    run_step: int = 1
    """How far apart the vectors lie that the taps of a run read, or 0 if that is told at run time."""
    tap_step: int = 0
    """How far apart the scalars of a run's taps lie; 0 for one row after the other, as `pack_rows` leaves them."""
    halved: bool = False
    """Whether a tile takes half of each vector, in sums over lanes on CPUs whose registers hold few: with twice as many
    sums in them, each vector that is loaded serves more (with AVX2 a tile of 4x3 halves has 7 loads for 12
    multiply-adds, one of 3x2 vectors 10: 32 maps of 16x16 from 87 to 101 GFLOP/s)."""


class TileType(types.Type):
    """Numba's type of a tile of vectors."""

    def __init__(self, dtype, rows, columns, halved=False):
        self.rows = rows
        self.columns = columns
        self.halved = halved
        self.vector = VectorType(dtype, halved)
        super().__init__(name=f"Tile({self.vector}, {rows}, {columns})")


@register_model(TileType)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, tile):
        vector = manager.lookup(tile.vector).get_value_type()
        super().__init__(manager, tile, ir.ArrayType(vector, tile.rows * tile.columns))


def _vector_step(context, builder, vector, step, times):
    """The bytes' worth of `times` steps of whole vectors, counted in elements for pointer arithmetic."""
    return builder.mul(step, ir.Constant(step.type, times * vector.count))


def _tile_rows(typing_context, shape, start, first):
    tile = TileType(start.dtype, shape.value.rows, shape.value.columns)

    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, start, arguments[1], first, arguments[2])
        form = context.get_value_type(tile.vector)
        value = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for row in range(tile.rows):
            scalar = builder.load(builder.gep(pointer, [ir.Constant(ir.IntType(64), row)]))
            vector = splat(builder, form, scalar)
            for column in range(tile.columns):
                value = builder.insert_value(value, vector, row * tile.columns + column)
        return value

    return tile(shape, start, first), generate


@lowered_by(_tile_rows)
def tile_rows(shape, start, first):
    """A tile whose row r holds start[first + r] everywhere; start (F,)."""
    rows = start[first : first + shape.rows]
    return np.broadcast_to(rows[:, None, None], (shape.rows, shape.columns, lanes(start.dtype))).copy()


def _tile_zeros(typing_context, shape, like):
    tile = TileType(like.dtype, shape.value.rows, shape.value.columns, shape.value.halved)

    def generate(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(shape, like), generate


@lowered_by(_tile_zeros)
def tile_zeros(shape, like):
    """A tile of zeros with the dtype of the array `like`."""
    return np.zeros((shape.rows, shape.columns, lanes(like.dtype) // (1 + shape.halved)), like.dtype)


def _add_product(builder, tile, value, r, c, left, right):
    """Add left * right to entry (r, c) of a tile."""
    k = r * tile.columns + c
    total = call_llvm(builder, "fma", left.type, [left, right, builder.extract_value(value, k)])
    return builder.insert_value(value, total, k)


def _tile_fma(typing_context, shape, tile, w, w_first, x, x_first, x_step, x_run_step):
    signature = tile(shape, tile, w, types.intp, x, types.intp, types.intp, types.intp)
    assert not tile.halved
    run, column_step, run_step = shape.value.run, shape.value.column_step, shape.value.run_step
    tap_step = shape.value.tap_step or tile.rows
    rows, columns = range(tile.rows), range(tile.columns)

    def generate(context, builder, signature, arguments):
        _, value, w_value, w_at, x_value, x_at, x_stride, x_run_stride = arguments
        w_pointer = element_pointer(context, builder, w, w_value, types.intp, w_at)
        x_pointer = element_pointer(context, builder, x, x_value, types.intp, x_at)
        form = context.get_value_type(tile.vector)
        if column_step:
            x_stride = context.get_constant(types.intp, column_step)
        if run_step:
            x_run_stride = context.get_constant(types.intp, run_step)

        @cache
        def scalar(v, r):
            offset = context.get_constant(types.intp, v * tap_step + r * shape.value.row_step)
            return splat(builder, form, builder.load(builder.gep(w_pointer, [offset])))

        def vector(step):
            pointer = builder.gep(x_pointer, [_vector_step(context, builder, tile.vector, step, 1)])
            return load_vector(context, builder, tile.vector, pointer)

        def vector_of(v, c):
            along = builder.mul(x_run_stride, context.get_constant(types.intp, v))
            return vector(builder.add(along, builder.mul(x_stride, context.get_constant(types.intp, c))))

        # A vector that several taps of the run read is loaded once, unless columns lie further apart, which would keep
        # it in a register for too long.
        # Either the columns stay in registers and each scalar is used up at once, or all scalars of the run stay there
        # and each vector is used up.
        known = cache(lambda offset: vector(context.get_constant(types.intp, offset)))
        shifted = column_step == run_step == 1
        if shifted and tile.rows * run < tile.columns:
            for offset in range(tile.columns + run - 1):
                for v, r in product(range(run), rows):
                    c = offset - v
                    if c in columns:
                        value = _add_product(builder, tile, value, r, c, scalar(v, r), known(offset))
            return value
        for v in range(run):
            vectors = [known(c + v) if shifted else vector_of(v, c) for c in columns]
            for r, c in product(rows, columns):
                value = _add_product(builder, tile, value, r, c, scalar(v, r), vectors[c])
        return value

    return signature, generate


@lowered_by(_tile_fma)
def tile_fma(shape, tile, w, w_first, x, x_first, x_step, x_run_step):
    """tile[r, c] += the sum over the taps v of a run of w[w_first + v * tap_step + r * shape.row_step] *
    x[x_first + c * x_step + v * x_run_step, :]; w (scalars,), x (vectors, L).

    A `shape` that knows its column_step or run_step has it in the place of x_step or x_run_step.
    """
    step, run_step = shape.column_step or x_step, shape.run_step or x_run_step
    for v in range(shape.run):
        scalars = w[w_first + v * (shape.tap_step or shape.rows) + shape.row_step * np.arange(shape.rows)]
        vectors = x[x_first + step * np.arange(shape.columns) + v * run_step]
        tile = tile + scalars[:, None, None] * vectors
    return tile


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
                value = _add_product(builder, tile, value, r, c, row, vectors[c])
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


def _tile_add(typing_context, a, b):
    def generate(context, builder, signature, arguments):
        value = ir.Constant(context.get_value_type(a), ir.Undefined)
        for k in range(a.rows * a.columns):
            total = builder.fadd(*(builder.extract_value(argument, k) for argument in arguments))
            value = builder.insert_value(value, total, k)
        return value

    return a(a, a), generate


@lowered_by(_tile_add)
def tile_add(a, b):
    """a + b."""
    return a + b


def _tile_store(typing_context, tile, out, first, row_step, column_step, skipped):
    assert not tile.halved
    signature = types.void(tile, out, types.intp, types.intp, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        value, out_value, at, row_stride, column_stride, skipped_value = arguments
        pointer = element_pointer(context, builder, out, out_value, types.intp, at)
        for r in range(tile.rows):
            wanted = builder.icmp_signed("<=", skipped_value, context.get_constant(types.intp, r))
            with builder.if_then(wanted, likely=True):
                for c in range(tile.columns):
                    offset = builder.add(
                        _vector_step(context, builder, tile.vector, row_stride, r),
                        _vector_step(context, builder, tile.vector, column_stride, c),
                    )
                    entry = builder.extract_value(value, r * tile.columns + c)
                    store_vector(context, builder, tile.vector, entry, builder.gep(pointer, [offset]))
        return context.get_dummy_value()

    return signature, generate


@lowered_by(_tile_store)
def tile_store(tile, out, first, row_step, column_step, skipped):
    """out[first + r * row_step + c * column_step, :] = tile[r, c] for r >= skipped; out (vectors, L)."""
    rows, columns, _ = tile.shape
    places = first + row_step * np.arange(rows)[:, None] + column_step * np.arange(columns)
    out[places[skipped:]] = tile[skipped:]


def _tile_finish(typing_context, epilogue, tile, y, first, row_step, column_step):
    signature = tile(epilogue, tile, y, types.intp, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        dummy, value, y_value, at, row_stride, column_stride = arguments
        finished = tile.vector(epilogue, tile.vector, y, types.intp)
        for r in range(tile.rows):
            for c in range(tile.columns):
                k = r * tile.columns + c
                offset = builder.add(
                    builder.mul(row_stride, ir.Constant(row_stride.type, r)),
                    builder.mul(column_stride, ir.Constant(column_stride.type, c)),
                )
                values = [dummy, builder.extract_value(value, k), y_value, builder.add(at, offset)]
                value = builder.insert_value(value, context.compile_internal(builder, _finish, finished, values), k)
        return value

    return signature, generate


def _finish(epilogue, v, y, at):
    return finish(epilogue, v, y, at)


@lowered_by(_tile_finish)
def tile_finish(epilogue, tile, y, first, row_step, column_step):
    """The tile with epilogue(tile[r, c], y[first + r * row_step + c * column_step]) in its places; y (vectors, L)."""
    rows, columns, _ = tile.shape
    places = first + row_step * np.arange(rows)[:, None] + column_step * np.arange(columns)
    return np.array([[finish(epilogue, tile[r, c], y, places[r, c]) for c in range(columns)] for r in range(rows)])


def _transposed(builder, vectors):
    """The transpose of as many vectors as they have lanes: halves are exchanged, then quarters, down to single
    lanes."""
    count = len(vectors)
    vectors = list(vectors)
    step = count // 2
    while step:
        near = [lane + (count - step if lane & step else 0) for lane in range(count)]
        far = [lane + (count if lane & step else step) for lane in range(count)]
        masks = [ir.Constant(ir.VectorType(ir.IntType(32), count), order) for order in (near, far)]
        for k in range(count):
            if not k & step:
                pair = vectors[k], vectors[k + step]
                vectors[k], vectors[k + step] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        step //= 2
    return vectors


def _to_float(builder, value, kind, form):
    """A vector of numbers of Numba's type `kind` as floats."""
    if isinstance(kind, types.Integer):
        return builder.sitofp(value, form) if kind.signed else builder.uitofp(value, form)
    if value.type == form:
        return value
    wider = isinstance(form.element, ir.DoubleType)
    return builder.fpext(value, form) if wider else builder.fptrunc(value, form)


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
            value = _to_float(builder, raw, data.dtype, form)
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


def _tile_across(typing_context, x, first, step):
    vector = VectorType(x.dtype)
    tile = TileType(x.dtype, vector.count, 1)
    signature = tile(x, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        x_value, at, stride = arguments
        pointer = element_pointer(context, builder, x, x_value, types.intp, at)
        rows = [
            load_vector(
                context, builder, vector, builder.gep(pointer, [_vector_step(context, builder, vector, stride, k)])
            )
            for k in range(vector.count)
        ]
        value = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for k, row in enumerate(_transposed(builder, rows)):
            value = builder.insert_value(value, row, k)
        return value

    return signature, generate


@lowered_by(_tile_across)
def tile_across(x, first, step):
    """A tile whose row l holds lane l of the vectors x[first], x[first + step], ...: L vectors, transposed."""
    width = x.shape[1]
    return x[first + step * np.arange(width)].T[:, None, :].copy()


def _lane_sums(builder, vectors):
    """A vector of as many lanes as there are vectors, at most as many as those have, with the sum over lanes of each.

    Halves of two vectors are added at once, so 16 sums take 15 additions instead of 64; each sum runs in the order of
    `simd.lane_sum`.
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
    rows, columns, _ = tile.shape
    for k in range(rows * columns):
        out[first + k] += lane_sum(tile[k // columns, k % columns])
