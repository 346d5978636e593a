"""Register tiles: rows x columns of vectors that one loop accumulates, kept in registers by the compiler.

A tile is what reaches the machine's peak: each vector that is loaded serves `rows` multiply-adds, each scalar `columns`
of them. The tile's shape is part of a type (`TileShape` in the arguments of a kernel), so every shape is a kernel
compiled for it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import NativeValue, models, overload_attribute, register_model, typeof_impl, unbox

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
    sum_of_lanes,
)


class TileShape(NamedTuple):
    """Rows and columns of a tile; in a kernel's arguments it selects the code that is compiled."""

    rows: int
    columns: int


class TileShapeType(types.Type):
    """Numba's type of one tile shape; its values carry nothing at run time."""

    def __init__(self, rows, columns):
        self.rows = rows
        self.columns = columns
        super().__init__(name=f"TileShape({rows}, {columns})")


class TileType(types.Type):
    """Numba's type of a tile of vectors."""

    def __init__(self, dtype, rows, columns):
        self.rows = rows
        self.columns = columns
        self.vector = VectorType(dtype)
        super().__init__(name=f"Tile({dtype}, {rows}, {columns})")


register_model(TileShapeType)(models.OpaqueModel)


@register_model(TileType)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager, tile):
        vector = manager.lookup(tile.vector).get_value_type()
        super().__init__(manager, tile, ir.ArrayType(vector, tile.rows * tile.columns))


@typeof_impl.register(TileShape)
def _type_tile_shape(shape, context):
    return TileShapeType(shape.rows, shape.columns)


@unbox(TileShapeType)
def _unbox_tile_shape(shape_type, instance, c):
    return NativeValue(c.context.get_dummy_value())


@overload_attribute(TileShapeType, "rows")
def _tile_shape_rows(shape):
    rows = shape.rows
    return lambda shape: rows


@overload_attribute(TileShapeType, "columns")
def _tile_shape_columns(shape):
    columns = shape.columns
    return lambda shape: columns


def _vector_step(context, builder, vector, step, times):
    """The bytes' worth of `times` steps of whole vectors, counted in elements for pointer arithmetic."""
    return builder.mul(step, ir.Constant(step.type, times * vector.count))


def _tile_rows(typing_context, shape, start, first):
    tile = TileType(start.dtype, shape.rows, shape.columns)

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
    return np.broadcast_to(rows[:, None, None], (*shape, lanes(start.dtype))).copy()


def _tile_zeros(typing_context, shape, like):
    tile = TileType(like.dtype, shape.rows, shape.columns)

    def generate(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(shape, like), generate


@lowered_by(_tile_zeros)
def tile_zeros(shape, like):
    """A tile of zeros with the dtype of the array `like`."""
    return np.zeros((*shape, lanes(like.dtype)), like.dtype)


def _multiply_add(context, builder, tile, value, rows, columns):
    """Add the outer product of `rows` and `columns`, lists of functions that emit a vector, to a tile."""
    column_vectors = [emit() for emit in columns]
    for r, emit in enumerate(rows):
        row_vector = emit()
        for c, column_vector in enumerate(column_vectors):
            k = r * tile.columns + c
            total = builder.extract_value(value, k)
            total = call_llvm(builder, "fma", row_vector.type, [row_vector, column_vector, total])
            value = builder.insert_value(value, total, k)
    return value


def _tile_fma(typing_context, tile, w, w_first, w_step, x, x_first, x_step):
    signature = tile(tile, w, types.intp, types.intp, x, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        value, w_value, w_at, w_stride, x_value, x_at, x_stride = arguments
        w_pointer = element_pointer(context, builder, w, w_value, types.intp, w_at)
        x_pointer = element_pointer(context, builder, x, x_value, types.intp, x_at)
        form = context.get_value_type(tile.vector)

        def row(r):
            offset = builder.mul(w_stride, ir.Constant(w_stride.type, r))
            return splat(builder, form, builder.load(builder.gep(w_pointer, [offset])))

        def column(c):
            pointer = builder.gep(x_pointer, [_vector_step(context, builder, tile.vector, x_stride, c)])
            return load_vector(context, builder, tile.vector, pointer)

        rows = [lambda r=r: row(r) for r in range(tile.rows)]
        columns = [lambda c=c: column(c) for c in range(tile.columns)]
        return _multiply_add(context, builder, tile, value, rows, columns)

    return signature, generate


@lowered_by(_tile_fma)
def tile_fma(tile, w, w_first, w_step, x, x_first, x_step):
    """tile[r, c] += w[w_first + r * w_step] * x[x_first + c * x_step, :]; w (scalars,), x (vectors, L)."""
    rows, columns, _ = tile.shape
    scalars = w[w_first + w_step * np.arange(rows)]
    vectors = x[x_first + x_step * np.arange(columns)]
    return tile + scalars[:, None, None] * vectors


def _tile_fma_vectors(typing_context, tile, d, d_first, d_step, x, x_first, taps, tap):
    signature = tile(tile, d, types.intp, types.intp, x, types.intp, taps, types.intp)

    def generate(context, builder, signature, arguments):
        value, d_value, d_at, d_stride, x_value, x_at, taps_value, tap_at = arguments
        d_pointer = element_pointer(context, builder, d, d_value, types.intp, d_at)
        x_pointer = element_pointer(context, builder, x, x_value, types.intp, x_at)
        taps_pointer = element_pointer(context, builder, taps, taps_value, types.intp, tap_at)

        def row(r):
            pointer = builder.gep(d_pointer, [_vector_step(context, builder, tile.vector, d_stride, r)])
            return load_vector(context, builder, tile.vector, pointer)

        def column(c):
            step = builder.load(builder.gep(taps_pointer, [ir.Constant(ir.IntType(64), c)]))
            pointer = builder.gep(x_pointer, [_vector_step(context, builder, tile.vector, step, 1)])
            return load_vector(context, builder, tile.vector, pointer)

        rows = [lambda r=r: row(r) for r in range(tile.rows)]
        columns = [lambda c=c: column(c) for c in range(tile.columns)]
        return _multiply_add(context, builder, tile, value, rows, columns)

    return signature, generate


@lowered_by(_tile_fma_vectors)
def tile_fma_vectors(tile, d, d_first, d_step, x, x_first, taps, tap):
    """tile[r, c] += d[d_first + r * d_step, :] * x[x_first + taps[tap + c], :]; d, x (vectors, L), taps (T,)."""
    rows, columns, _ = tile.shape
    left = d[d_first + d_step * np.arange(rows)]
    right = x[x_first + taps[tap : tap + columns]]
    return tile + left[:, None, :] * right


def _tile_store(typing_context, tile, out, first, row_step, column_step):
    signature = types.void(tile, out, types.intp, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        value, out_value, at, row_stride, column_stride = arguments
        pointer = element_pointer(context, builder, out, out_value, types.intp, at)
        for r in range(tile.rows):
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
def tile_store(tile, out, first, row_step, column_step):
    """out[first + r * row_step + c * column_step, :] = tile[r, c]; out (vectors, L)."""
    rows, columns, _ = tile.shape
    out[first + row_step * np.arange(rows)[:, None] + column_step * np.arange(columns)] = tile


def _tile_store_sums(typing_context, tile, out, first, row_step, taps, tap):
    signature = types.void(tile, out, types.intp, types.intp, taps, types.intp)

    def generate(context, builder, signature, arguments):
        value, out_value, at, row_stride, taps_value, tap_at = arguments
        pointer = element_pointer(context, builder, out, out_value, types.intp, at)
        taps_pointer = element_pointer(context, builder, taps, taps_value, types.intp, tap_at)
        for c in range(tile.columns):
            step = builder.load(builder.gep(taps_pointer, [ir.Constant(ir.IntType(64), c)]))
            for r in range(tile.rows):
                offset = builder.add(builder.mul(row_stride, ir.Constant(row_stride.type, r)), step)
                total = sum_of_lanes(builder, builder.extract_value(value, r * tile.columns + c))
                builder.store(total, builder.gep(pointer, [offset]))
        return context.get_dummy_value()

    return signature, generate


@lowered_by(_tile_store_sums)
def tile_store_sums(tile, out, first, row_step, taps, tap):
    """out[first + r * row_step + taps[tap + c]] = the sum over lanes of tile[r, c]; out (scalars,), taps (T,)."""
    rows, columns, _ = tile.shape
    for r in range(rows):
        for c in range(columns):
            out[first + r * row_step + taps[tap + c]] = lane_sum(tile[r, c])
