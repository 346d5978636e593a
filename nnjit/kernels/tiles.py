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
    fetch,
    lanes,
    load_vector,
    lowered_by,
    splat,
    store_vector,
)

SAMPLES = 4
"""How many samples `tile_fma_samples` goes over before addresses are loaded anew, where blocks are full."""


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
    """Whether columns are halves of vectors, on CPUs whose registers hold few: with twice as many sums in them, each
    vector that is loaded serves more (with AVX2 a tile of 4x3 halves has 7 loads for 12 multiply-adds, one of 3x2
    vectors 10: gradients to weights of 32 maps of 16x16 from 87 to 101 GFLOP/s, forward passes with 4x3 instead of
    4x1 105 to 122). Steps of columns and runs then count halves."""
    fetches: bool = False
    """Whether vectors that the next columns read are brought into the first cache; needs a column_step. See
    `nnjit/tuning/contraction.py`."""
    line_fetches: int = 0
    """How many vectors of the next line a run brings into the second cache, of each of its taps if run_step is 0."""
    task_fetches: int = 0
    """Likewise, of what is copied next: for the next task of `contract_packed`, into the next panel of
    `contract_transposed`; or of the weights, in `contract_remainder`."""
    tap_fetches: int = 0
    """How many taps of the next tile `contract_lanes` brings into the first cache: all rows then follow for some taps,
    otherwise all taps for some rows."""
    result_fetches: bool = False
    """Whether what it will be stored to is brought into the first cache meanwhile, a row for each run of taps.

    Stores to lines that are not there keep a core waiting, and so does fetching them all at once (a trial in C, 8x3
    sums of 64 taps: to store them in a stream of 8 MB took 516 us more than not to, if fetched at once 207, in turns
    62). Measured on one core: 1x1 from 64 maps of 16x16 to 128 2.16 to 1.88 ms, to the input 2.39 to 2.02; 3x3 with a
    stride of 2 from 16 to 32 to the input 1.31 to 1.17; whole steps of SRCNN 1.02 to 1.04 times as fast, of a network
    of strided and 1x1 convolutions 1.06."""
    samples: int = SAMPLES
    """How many samples there are in a block, or how many of them `tile_fma_samples` goes over."""
    apart: bool = False
    """Whether results stay where each sample's numbers lie side by side, instead of in lanes."""
    lanes: int = 0
    """How many rows of the output stand in the lanes, 0 if samples do. Rows and columns then change parts: the tile's
    columns are vectors of rows, its rows positions, whose scalars are those of one sample."""

    @property
    def units(self) -> int:
        """How many columns a vector has."""
        return 1 + self.halved

    @property
    def output_rows(self) -> int:
        """How many rows of the output it has."""
        return self.columns * self.lanes if self.lanes else self.rows


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


def _column_pointer(context, builder, vector, array_type, array, at):
    """The address of column `at` of an array (vectors, L) whose vectors are cut into columns of type `vector`."""
    start = element_pointer(context, builder, array_type, array, types.intp, context.get_constant(types.intp, 0))
    return builder.gep(start, [builder.mul(at, context.get_constant(types.intp, vector.count))])


def vector_step(context, builder, vector, step, times):
    """The bytes' worth of `times` steps of whole vectors, counted in elements for pointer arithmetic."""
    return builder.mul(step, ir.Constant(step.type, times * vector.count))


def _tile_rows(typing_context, shape, start, first):
    tile = TileType(start.dtype, shape.value.rows, shape.value.columns, shape.value.halved)

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
    return np.broadcast_to(rows[:, None, None], (shape.rows, shape.columns, lanes(start.dtype) // shape.units)).copy()


def _tile_load(typing_context, shape, x, first):
    tile = TileType(x.dtype, shape.value.rows, shape.value.columns)

    def generate(context, builder, signature, arguments):
        _, x_value, at = arguments
        pointer = element_pointer(context, builder, x, x_value, types.intp, at)
        value = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for k in range(tile.rows * tile.columns):
            place = builder.gep(pointer, [context.get_constant(types.intp, k * tile.vector.count)])
            value = builder.insert_value(value, load_vector(context, builder, tile.vector, place), k)
        return value

    return tile(shape, x, types.intp), generate


@lowered_by(_tile_load)
def tile_load(shape, x, first):
    """The tile whose entry (r, c) is x[first + r * columns + c, :]; x (vectors, L)."""
    return x[first : first + shape.rows * shape.columns].reshape(shape.rows, shape.columns, -1).copy()


def _tile_zeros(typing_context, shape, like):
    form = (0, 1, False)
    if not isinstance(shape, types.NoneType):
        form = shape.value.rows, shape.value.columns, shape.value.halved
    tile = TileType(like.dtype, *form)

    def generate(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(tile), None)

    return tile(shape, like), generate


@lowered_by(_tile_zeros)
def tile_zeros(shape, like):
    """A tile of zeros with the dtype of the array `like`; of no rows if the shape is None, so that what is done to it
    is nothing."""
    if shape is None:
        return np.zeros((0, 1, lanes(like.dtype)), like.dtype)
    return np.zeros((shape.rows, shape.columns, lanes(like.dtype) // shape.units), like.dtype)


def add_product(builder, tile, value, r, c, left, right):
    """Add left * right to entry (r, c) of a tile."""
    k = r * tile.columns + c
    total = call_llvm(builder, "fma", left.type, [left, right, builder.extract_value(value, k)])
    return builder.insert_value(value, total, k)


def fresh_steps(builder, shape, run_step):
    """How far from a tile's first vector those lie that a run reads for the next columns and not for its own; of two
    halves of a vector, one."""
    width, taps = shape.columns * shape.column_step, range(shape.run)
    columns = [width + c * shape.column_step for c in range(0, shape.columns, shape.units)]
    if shape.run_step:
        own = {c * shape.column_step + v * shape.run_step for c in range(shape.columns) for v in taps}
        fresh = {column + v * shape.run_step for column in columns for v in taps} - own
        return [ir.Constant(run_step.type, offset) for offset in sorted(fresh)]
    along = [builder.mul(run_step, ir.Constant(run_step.type, v)) for v in taps]
    return [builder.add(start, ir.Constant(start.type, column)) for start in along for column in columns]


def _tile_fma(typing_context, shape, tile, w, w_first, x, x_first, x_step, x_run_step, ahead):
    signature = tile(shape, tile, w, types.intp, x, types.intp, types.intp, types.intp, types.intp)
    run, column_step, run_step = shape.value.run, shape.value.column_step, shape.value.run_step
    tap_step = shape.value.tap_step or tile.rows
    rows, columns = range(tile.rows), range(tile.columns)

    def generate(context, builder, signature, arguments):
        _, value, w_value, w_at, x_value, x_at, x_stride, x_run_stride, next_line = arguments
        w_pointer = element_pointer(context, builder, w, w_value, types.intp, w_at)
        x_pointer = _column_pointer(context, builder, tile.vector, x, x_value, x_at)
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
            pointer = builder.gep(x_pointer, [vector_step(context, builder, tile.vector, step, 1)])
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
        for v, k in product(range(1 if run_step else run), range(shape.value.line_fetches)):
            step = builder.add(next_line, context.get_constant(types.intp, k * shape.value.units))
            step = builder.add(step, builder.mul(x_run_stride, context.get_constant(types.intp, v)))
            pointer = builder.gep(x_pointer, [vector_step(context, builder, tile.vector, step, 1)])
            fetch(builder, pointer, locality=2)
        if shape.value.fetches:
            for step in fresh_steps(builder, shape.value, x_run_stride):
                fetch(builder, builder.gep(x_pointer, [vector_step(context, builder, tile.vector, step, 1)]))
        if shifted and tile.rows * run < tile.columns:
            for offset in range(tile.columns + run - 1):
                for v, r in product(range(run), rows):
                    c = offset - v
                    if c in columns:
                        value = add_product(builder, tile, value, r, c, scalar(v, r), known(offset))
            return value
        for v in range(run):
            near = shifted or tile.halved and column_step and run_step
            vectors = [known(c * column_step + v * run_step) if near else vector_of(v, c) for c in columns]
            for r, c in product(rows, columns):
                value = add_product(builder, tile, value, r, c, scalar(v, r), vectors[c])
        return value

    return signature, generate


@lowered_by(_tile_fma)
def tile_fma(shape, tile, w, w_first, x, x_first, x_step, x_run_step, ahead):
    """tile[r, c] += the sum over the taps v of a run of w[w_first + v * tap_step + r * shape.row_step] *
    x[x_first + c * x_step + v * x_run_step, :]; w (scalars,), x (vectors, L).

    A `shape` that knows its column_step or run_step has it in the place of x_step or x_run_step. For a halved tile x is
    (halves, L / 2). ahead: how far from a run's first vector the first lies that line_fetches count.
    """
    step, run_step = shape.column_step or x_step, shape.run_step or x_run_step
    for v in range(shape.run):
        scalars = w[w_first + v * (shape.tap_step or shape.rows) + shape.row_step * np.arange(shape.rows)]
        vectors = x.reshape(-1, tile.shape[2])[x_first + step * np.arange(shape.columns) + v * run_step]
        tile = tile + scalars[:, None, None] * vectors
    return tile


def _tile_fma_samples(typing_context, shape, tile, x, x_first, taps, tap, d, d_first, d_step):
    signature = tile(shape, tile, x, types.intp, taps, types.intp, d, types.intp, types.intp)
    run = shape.value.run

    def generate(context, builder, signature, arguments):
        _, value, x_value, x_at, taps_value, tap_at, d_value, d_at, d_stride = arguments
        x_pointer = element_pointer(context, builder, x, x_value, types.intp, x_at)
        d_pointer = element_pointer(context, builder, d, d_value, types.intp, d_at)
        first_tap = element_pointer(context, builder, taps, taps_value, types.intp, tap_at)
        form = context.get_value_type(tile.vector)

        def constant(number):
            return context.get_constant(types.intp, number)

        runs = [builder.load(builder.gep(first_tap, [constant(r)])) for r in range(0, tile.rows, run)]
        runs = [builder.gep(x_pointer, [start]) for start in runs]
        for s in range(shape.value.samples):
            vectors = []
            for c in range(tile.columns):
                step = vector_step(context, builder, tile.vector, d_stride, c)
                step = builder.add(step, constant(s * tile.columns * tile.vector.count))
                pointer = builder.gep(d_pointer, [step])
                vectors.append(load_vector(context, builder, tile.vector, pointer))
            for r in range(tile.rows):
                place = constant(r % run * shape.value.row_step + s)
                scalar = splat(builder, form, builder.load(builder.gep(runs[r // run], [place])))
                for c in range(tile.columns):
                    value = add_product(builder, tile, value, r, c, scalar, vectors[c])
        return value

    return signature, generate


@lowered_by(_tile_fma_samples)
def tile_fma_samples(shape, tile, x, x_first, taps, tap, d, d_first, d_step):
    """tile[r, c] += the sum over s < shape.samples of x[x_first + taps[tap + r] + s] *
    d[d_first + s * columns + c * d_step, :]

    x (scalars,)  d (vectors, L)  taps (T,): within a run each is shape.row_step more than the last
    """
    rows, columns, _ = tile.shape
    first = np.arange(rows) // shape.run * shape.run
    places = x_first + taps[tap + first] + (np.arange(rows) - first) * shape.row_step
    for s in range(shape.samples):
        vectors = d[d_first + s * columns + d_step * np.arange(columns)]
        tile = tile + x[places + s][:, None, None] * vectors
    return tile


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


def _tile_add_to(typing_context, tile, out, first):
    def generate(context, builder, signature, arguments):
        value, out_value, at = arguments
        pointer = element_pointer(context, builder, out, out_value, types.intp, at)
        for k in range(tile.rows * tile.columns):
            place = builder.gep(pointer, [context.get_constant(types.intp, k * tile.vector.count)])
            total = builder.fadd(load_vector(context, builder, tile.vector, place), builder.extract_value(value, k))
            store_vector(context, builder, tile.vector, total, place)
        return context.get_dummy_value()

    return types.void(tile, out, types.intp), generate


@lowered_by(_tile_add_to)
def tile_add_to(tile, out, first):
    """out[first + r * columns + c, :] += tile[r, c]; out (vectors, L)."""
    rows, columns, width = tile.shape
    out[first : first + rows * columns] += tile.reshape(-1, width)


def _tile_sum(typing_context, tile):
    def generate(context, builder, signature, arguments):
        vectors = [builder.extract_value(arguments[0], k) for k in range(tile.rows * tile.columns)]
        while len(vectors) > 1:
            pairs = zip(vectors[::2], vectors[1::2], strict=False)
            vectors = [builder.fadd(*pair) for pair in pairs] + vectors[len(vectors) // 2 * 2 :]
        return vectors[0]

    return tile.vector(tile), generate


@lowered_by(_tile_sum)
def tile_sum(tile):
    """The sum of a tile's vectors, neighbours first."""
    vectors = tile.reshape(-1, tile.shape[2])
    while len(vectors) > 1:
        even = len(vectors) // 2 * 2
        vectors = np.concatenate([vectors[:even:2] + vectors[1:even:2], vectors[even:]])
    return vectors[0]


def _tile_store(typing_context, tile, out, first, row_step, column_step, skipped):
    signature = types.void(tile, out, types.intp, types.intp, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        value, out_value, at, row_stride, column_stride, skipped_value = arguments
        pointer = _column_pointer(context, builder, tile.vector, out, out_value, at)
        for r in range(tile.rows):
            wanted = builder.icmp_signed("<=", skipped_value, context.get_constant(types.intp, r))
            with builder.if_then(wanted, likely=True):
                for c in range(tile.columns):
                    offset = builder.add(
                        vector_step(context, builder, tile.vector, row_stride, r),
                        vector_step(context, builder, tile.vector, column_stride, c),
                    )
                    entry = builder.extract_value(value, r * tile.columns + c)
                    store_vector(context, builder, tile.vector, entry, builder.gep(pointer, [offset]))
        return context.get_dummy_value()

    return signature, generate


@lowered_by(_tile_store)
def tile_store(tile, out, first, row_step, column_step, skipped):
    """out[first + r * row_step + c * column_step, :] = tile[r, c] for r >= skipped; out (vectors, L), (halves, L / 2)
    for a halved tile."""
    rows, columns, _ = tile.shape
    places = first + row_step * np.arange(rows)[:, None] + column_step * np.arange(columns)
    out.reshape(-1, tile.shape[2])[places[skipped:]] = tile[skipped:]


def _row_fetched(write):
    def _tile_fetch_row(typing_context, shape, x, first, column_step):
        vector = VectorType(x.dtype, shape.value.halved)

        def generate(context, builder, signature, arguments):
            _, x_value, at, stride = arguments
            pointer = _column_pointer(context, builder, vector, x, x_value, at)
            for c in range(0, shape.value.columns, shape.value.units):
                fetch(builder, builder.gep(pointer, [vector_step(context, builder, vector, stride, c)]), write)
            return context.get_dummy_value()

        return types.void(shape, x, types.intp, types.intp), generate

    return _tile_fetch_row


@lowered_by(_row_fetched(write=0))
def tile_fetch_row(shape, x, first, column_step):
    """Have x[first + c * column_step, :] brought into the first cache for each column c of a tile; x (vectors, L),
    (halves, L / 2) for a halved tile."""


@lowered_by(_row_fetched(write=1))
def tile_fetch_row_to_write(shape, x, first, column_step):
    """Likewise, to be overwritten."""


def _tile_finish(typing_context, epilogue, tile, y, first, row_step, column_step):
    signature = tile(epilogue, tile, y, types.intp, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        dummy, value, y_value, at, row_stride, column_stride = arguments
        if tile.halved:
            return value
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
    """The tile with epilogue(tile[r, c], y[first + r * row_step + c * column_step]) in its places; y (vectors, L).

    A halved tile stays as it is: its vectors are finished when they are whole.
    """
    rows, columns, _ = tile.shape
    places = first + row_step * np.arange(rows)[:, None] + column_step * np.arange(columns)
    return np.array([[finish(epilogue, tile[r, c], y, places[r, c]) for c in range(columns)] for r in range(rows)])
