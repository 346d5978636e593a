"""Explicit SIMD for Numba: a vector of L lanes as a value.

Plain loops over lanes vectorise only when the compiler can prove what it needs, and a change elsewhere can undo it.
Here a vector is a type of its own whose machine form is an LLVM vector, so kernels written as ordinary loops over
vectors run at the machine's speed by construction, in float32 (16 lanes) and float64 (8 lanes) alike. Every operation
is declared with its NumPy twin: with NUMBA_DISABLE_JIT=1 the twin runs instead, a wrong index raises, and a debugger
can step.
"""

from __future__ import annotations

import operator

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable
from numba.np.arrayobj import make_array

from nnjit.kernels.compiler import JIT, subroutine

VECTOR_BYTES = 64


def lanes(dtype) -> int:
    """Lanes of a vector of `dtype`: 16 for float32, 8 for float64, the same on every CPU."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


# ---------------------------------------------------------------------------------------------------------------- types


class VectorType(types.Type):
    """Numba's type of a vector of lanes, or of half of them."""

    def __init__(self, dtype, halved=False):
        self.dtype = dtype
        self.count = VECTOR_BYTES * 8 // dtype.bitwidth // (1 + halved)
        super().__init__(name=f"Vector({dtype}, {self.count})")


class MaskType(types.Type):
    """Numba's type of one truth value per lane."""

    def __init__(self, count):
        self.count = count
        super().__init__(name=f"Mask({count})")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        element = manager.lookup(vector.dtype).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.count))


@register_model(MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager, mask):
        super().__init__(manager, mask, ir.VectorType(ir.IntType(1), mask.count))


def lowered_by(generate):
    """Make a function an intrinsic whose code `generate` emits; the function itself is the twin that runs without
    JIT."""

    def choose(twin):
        if not JIT:
            return twin
        operation = intrinsic(generate)
        operation.__doc__ = twin.__doc__
        return operation

    return choose


# ------------------------------------------------------------------------------------------------------ code generation


def element_pointer(context, builder, array_type, array, index_type, index):
    """The address of array[index], or of array[index, 0] when the index leaves out the last axis."""
    view = make_array(array_type)(context, builder, array)
    strides = cgutils.unpack_tuple(builder, view.strides, array_type.ndim)
    if isinstance(index_type, types.BaseTuple):
        items = list(zip(cgutils.unpack_tuple(builder, index), index_type, strict=True))
    else:
        items = [(index, index_type)]
    offset = context.get_constant(types.intp, 0)
    for axis, (item, item_type) in enumerate(items):
        item = context.cast(builder, item, item_type, types.intp)
        # The last axis is contiguous in every array of the program, and holds a vector where an index leaves it out.
        # Saying so lets the compiler fold the products (with `entry`: a dense layer from 144 to 164 GFLOP/s).
        step = strides[axis]
        floats = array_type.layout == "C" and isinstance(array_type.dtype, types.Float)
        if axis == array_type.ndim - 1:
            step = context.get_constant(types.intp, array_type.dtype.bitwidth // 8)
        elif floats and axis == array_type.ndim - 2 and len(items) == axis + 1:
            step = context.get_constant(types.intp, VECTOR_BYTES)
        offset = builder.add(offset, builder.mul(item, step))
    return cgutils.pointer_add(builder, view.data, offset)


def load_vector(context, builder, vector_type, pointer):
    """The vector that stands at a pointer; the address need only be a multiple of the element's size."""
    form = context.get_value_type(vector_type)
    value = builder.load(builder.bitcast(pointer, form.as_pointer()))
    value.align = vector_type.dtype.bitwidth // 8
    return value


def store_vector(context, builder, vector_type, value, pointer):
    """Store a vector at a pointer; the address need only be a multiple of the element's size."""
    form = context.get_value_type(vector_type)
    instruction = builder.store(value, builder.bitcast(pointer, form.as_pointer()))
    instruction.align = vector_type.dtype.bitwidth // 8


def has_masks(context):
    """Whether the CPU that is compiled for stores some lanes of a 64-byte vector as fast as all of them."""
    return "+avx512f" in context.codegen().magic_tuple()[2].split(",")


def store_first_lanes(context, builder, value, pointer, used):
    """Store the first `used` lanes of a vector at a pointer to its first; the address need only be a multiple of the
    element's size.

    Without AVX-512, by halves: AMD's processors take 12 cycles to store some lanes of 32 bytes by a mask (Fog,
    Instruction tables, VMASKMOVPS). With Zen 3 on one core, the weights of 64 maps to 16 by 7x7 with a stride of 3 were
    put in order in 217 us, now 61; 8 parts of the gradient of those of 48 to 24 by 4x4 were added in 92, now 27.
    """
    count = value.type.count
    bits = 32 if isinstance(value.type.element, ir.FloatType) else 64
    if count * bits == 8 * VECTOR_BYTES and has_masks(context):
        mask = mask_of_first(builder, count, used)
        place, number = value.type.as_pointer(), ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [value.type, place, number, mask.type])
        name = f"llvm.masked.store.v{count}f{bits}.p0"
        function = cgutils.get_or_insert_function(builder.module, function_type, name)
        builder.call(function, [value, builder.bitcast(pointer, place), number(bits // 8), mask])
        return

    def store_whole(part, at):
        instruction = builder.store(part, builder.bitcast(at, part.type.as_pointer()))
        instruction.align = bits // 8

    with builder.if_else(builder.icmp_signed(">=", used, used.type(count))) as (whole, some):
        with whole:
            store_whole(value, pointer)
        with some:
            place, step = builder.bitcast(pointer, value.type.element.as_pointer()), count // 2
            while step:
                order = ir.VectorType(ir.IntType(32), step)
                low, high = (
                    builder.shuffle_vector(value, value, ir.Constant(order, list(range(first, first + step))))
                    for first in (0, step)
                )
                wanted = builder.icmp_signed("!=", builder.and_(used, used.type(step)), used.type(0))
                with builder.if_then(wanted):
                    store_whole(low, place)
                place = builder.select(wanted, builder.gep(place, [used.type(step)]), place)
                value = builder.select(wanted, high, low)
                step //= 2


def mask_of_first(builder, count, used):
    """A mask for `count` lanes that is true in the first `used` of them."""
    numbers = ir.VectorType(ir.IntType(64), count)
    return builder.icmp_signed("<", ir.Constant(numbers, list(range(count))), splat(builder, numbers, used))


def splat(builder, form, scalar):
    """A scalar in every lane of a vector of type `form`."""
    one = builder.insert_element(ir.Constant(form, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), form.count), None)
    return builder.shuffle_vector(one, ir.Constant(form, ir.Undefined), mask)


def call_llvm(builder, name, form, arguments):
    """Call the LLVM intrinsic `name` for vectors of type `form`."""
    bits = 32 if isinstance(form.element, ir.FloatType) else 64
    function_type = ir.FunctionType(form, [form] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.{name}.v{form.count}f{bits}")
    return builder.call(function, arguments)


# ----------------------------------------------------------------------------------------------------------- operations


def _load(typing_context, x, index):
    vector = VectorType(x.dtype)

    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, x, arguments[0], index, arguments[1])
        return load_vector(context, builder, vector, pointer)

    return vector(x, index), generate


@lowered_by(_load)
def load(x, index):
    """The vector x[index, :] of an array whose last axis is lanes; or x[index : index + L] for a flat array."""
    return x[index].copy() if np.ndim(x[index]) else x[index : index + lanes(x.dtype)].copy()


def _store(typing_context, x, index, value):
    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, x, arguments[0], index, arguments[1])
        store_vector(context, builder, value, arguments[2], pointer)
        return context.get_dummy_value()

    return types.void(x, index, value), generate


@lowered_by(_store)
def store(x, index, value):
    """x[index, :] = value; or x[index : index + L] = value for a flat array."""
    if np.ndim(x[index]):
        x[index] = value
    else:
        x[index : index + lanes(x.dtype)] = value


def _store_first(typing_context, x, index, value, count):
    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, x, arguments[0], index, arguments[1])
        used = context.cast(builder, arguments[3], count, types.int64)
        store_first_lanes(context, builder, arguments[2], pointer, used)
        return context.get_dummy_value()

    return types.void(x, index, value, count), generate


@lowered_by(_store_first)
def store_first(x, index, value, count):
    """x[index : index + count] = the first `count` lanes of value; x (scalars,)."""
    x[index : index + count] = value[:count]


def run_transform(choose):
    """The function of (form, x, first, step) that gives f((x[first], x[first + step], ...)), a tuple of vectors, where
    `choose(form)` gives how many are read, and f; form a `constant`, x (vectors, L).

    f adds, subtracts and multiplies by numbers, nothing else: Python runs it once, on stand-ins that emit the code,
    which takes a few milliseconds. Numba compiles each function for itself, and Winograd's transforms were 20 to 40 of
    them: the kernels of vgg-small took 39 s to compile instead of 27.
    """

    def _transform_run(typing_context, form, x, first, step):
        count, function = choose(form.value)
        vectors = types.UniTuple(VectorType(x.dtype), len(function((0.0,) * count)))

        def generate(context, builder, signature, arguments):
            _, x_value, at, stride = arguments
            run = []
            for k in range(count):
                index = builder.add(at, builder.mul(stride, context.get_constant(types.intp, k)))
                pointer = element_pointer(context, builder, x, x_value, types.intp, index)
                run.append(_Emitter(builder, load_vector(context, builder, vectors.dtype, pointer)))
            return context.make_tuple(builder, vectors, [result.value for result in function(tuple(run))])

        return vectors(form, x, types.intp, types.intp), generate

    def transform_run(form, x, first, step):
        count, function = choose(form)
        return function(tuple(load(x, first + k * step) for k in range(count)))

    transform_run.__doc__ = choose.__doc__
    return lowered_by(_transform_run)(transform_run)


class _Emitter:
    """A vector of code that is being emitted: an operator on two, or on one and a number, emits its instruction."""

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def _emit(self, name, left, right):
        sides = [
            side.value if isinstance(side, _Emitter) else ir.Constant(self.value.type, [side] * self.value.type.count)
            for side in (left, right)
        ]
        return _Emitter(self.builder, getattr(self.builder, name)(*sides))

    def __add__(self, other):
        return self._emit("fadd", self, other)

    def __sub__(self, other):
        return self._emit("fsub", self, other)

    def __mul__(self, other):
        return self._emit("fmul", self, other)

    def __rmul__(self, other):
        return self._emit("fmul", other, self)


def _store_run(typing_context, x, first, step, values):
    def generate(context, builder, signature, arguments):
        for k, value in enumerate(cgutils.unpack_tuple(builder, arguments[3])):
            index = builder.add(arguments[1], builder.mul(arguments[2], context.get_constant(types.intp, k)))
            pointer = element_pointer(context, builder, x, arguments[0], types.intp, index)
            store_vector(context, builder, values.dtype, value, pointer)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, values), generate


@lowered_by(_store_run)
def store_run(x, first, step, values):
    """x[first + k * step] = values[k] for a tuple of vectors; x (vectors, L)."""
    for k, value in enumerate(values):
        store(x, first + k * step, value)


def _load_apart(typing_context, table, first, step, count):
    vector = VectorType(table.dtype)

    def generate(context, builder, signature, arguments):
        table_value, at, stride, used = arguments
        value = ir.Constant(context.get_value_type(vector), ir.Undefined)
        last = builder.sub(used, context.get_constant(types.intp, 1))
        for lane in range(vector.count):
            number = context.get_constant(types.intp, lane)
            number = builder.select(builder.icmp_signed("<", number, used), number, last)
            index = builder.add(at, builder.mul(number, stride))
            scalar = builder.load(element_pointer(context, builder, table, table_value, types.intp, index))
            value = builder.insert_element(value, scalar, ir.Constant(ir.IntType(32), lane))
        return value

    return vector(table, types.intp, types.intp, types.intp), generate


@lowered_by(_load_apart)
def load_apart(table, first, step, count):
    """The vector of table[first], table[first + step], ..., the last of `count` of them in all lanes from there on;
    table (scalars,), count at least 1."""
    return table[first + step * np.minimum(np.arange(lanes(table.dtype)), count - 1)]


def _entry(typing_context, table, index):
    def generate(context, builder, signature, arguments):
        return builder.load(element_pointer(context, builder, table, arguments[0], index, arguments[1]))

    return table.dtype(table, index), generate


@lowered_by(_entry)
def entry(table, index):
    """table[index] for an index that is known not to be negative, which spares the question (in a tile's loop it takes
    turns from the multiply-adds)."""
    return table[index]


def fetch(builder, pointer, write=0, locality=3):
    """Have the cache line at a pointer brought near, to be overwritten if `write` is 1; locality 3: into the first
    cache, 2: into the second."""
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    function_type = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(pointer, byte), number(write), number(locality), number(1)])


def _prefetch_for(write, locality=2):
    def _prefetch(typing_context, x, index):
        def generate(context, builder, signature, arguments):
            fetch(builder, element_pointer(context, builder, x, arguments[0], index, arguments[1]), write, locality)
            return context.get_dummy_value()

        return types.void(x, index), generate

    return _prefetch


@lowered_by(_prefetch_for(write=0))
def prefetch(x, index):
    """Have x[index] brought into the second cache, to be read soon; changes nothing, and the index may lie outside."""


@lowered_by(_prefetch_for(write=0, locality=3))
def prefetch_near(x, index):
    """Likewise, into the first cache."""


@lowered_by(_prefetch_for(write=1))
def prefetch_to_write(x, index):
    """Like `prefetch`, for what is about to be overwritten."""


def to_floats(builder, value, kind, form):
    """A vector of numbers of Numba's type `kind` as floats, a vector of type `form`."""
    if isinstance(kind, types.Integer):
        return builder.sitofp(value, form) if kind.signed else builder.uitofp(value, form)
    if value.type == form:
        return value
    wider = isinstance(form.element, ir.DoubleType)
    return builder.fpext(value, form) if wider else builder.fptrunc(value, form)


def _load_numbers(typing_context, like, x, index):
    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, x, arguments[1], index, arguments[2])
        form = context.get_value_type(like)
        raw = ir.VectorType(context.get_data_type(x.dtype), like.count)
        value = builder.load(builder.bitcast(pointer, raw.as_pointer()))
        value.align = x.dtype.bitwidth // 8
        return to_floats(builder, value, x.dtype, form)

    return like(like, x, index), generate


@lowered_by(_load_numbers)
def load_numbers(like, x, index):
    """x[index, :] of an array (vectors, L) of any numeric dtype as a vector like `like`; or L numbers of an array
    (rows, numbers) from index (row, number) on."""
    if np.ndim(x[index]):
        return x[index].astype(like.dtype)
    row, number = index
    return x[row, number : number + len(like)].astype(like.dtype)


def _store_integers(typing_context, x, index, value):
    def generate(context, builder, signature, arguments):
        pointer = element_pointer(context, builder, x, arguments[0], index, arguments[1])
        narrow = ir.VectorType(ir.IntType(x.dtype.bitwidth), value.count)
        instruction = builder.store(builder.fptoui(arguments[2], narrow), builder.bitcast(pointer, narrow.as_pointer()))
        instruction.align = x.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(x, index, value), generate


@lowered_by(_store_integers)
def store_integers(x, index, value):
    """x[index, :] = value for an array (vectors, L) of unsigned integers and whole numbers that they hold."""
    x[index] = value


def _full(typing_context, x, value):
    vector = x if isinstance(x, VectorType) else VectorType(x.dtype)

    def generate(context, builder, signature, arguments):
        scalar = context.cast(builder, arguments[1], value, vector.dtype)
        return splat(builder, context.get_value_type(vector), scalar)

    return vector(x, value), generate


@lowered_by(_full)
def full(x, value):
    """A vector of the dtype of x (an array or a vector) with `value` in every lane."""
    return np.full(lanes(x.dtype), value, x.dtype)


def _fma(typing_context, a, b, c):
    def generate(context, builder, signature, arguments):
        return call_llvm(builder, "fma", arguments[0].type, arguments)

    return a(a, a, a), generate


@lowered_by(_fma)
def fma(a, b, c):
    """a * b + c, rounded once (the twin rounds twice)."""
    return a * b + c


def _where(typing_context, mask, a, b):
    def generate(context, builder, signature, arguments):
        return builder.select(*arguments)

    return a(mask, a, a), generate


@lowered_by(_where)
def where(mask, a, b):
    """a where the mask is true, else b."""
    return np.where(mask, a, b)


def _first_lanes(typing_context, v, count):
    mask = MaskType(v.count)

    def generate(context, builder, signature, arguments):
        return mask_of_first(builder, v.count, context.cast(builder, arguments[1], count, types.int64))

    return mask(v, count), generate


@lowered_by(_first_lanes)
def first_lanes(v, count):
    """A mask that is true in lanes 0 .. count - 1."""
    return np.arange(len(v)) < count


def _scale_by_power(typing_context, v, n):
    def generate(context, builder, signature, arguments):
        value, power = arguments
        bits, mantissa, bias = (32, 23, 127) if v.dtype == types.float32 else (64, 52, 1023)
        integers = ir.VectorType(ir.IntType(bits), v.count)

        def constant(number):
            return ir.Constant(integers, [number] * v.count)

        # Adding 1.5 * 2**mantissa leaves the whole number in the low bits, also (as some number) when `power` is NaN,
        # where a conversion would be undefined. Two half steps keep each factor a normal number.
        magic = splat(builder, value.type, ir.Constant(value.type.element, 1.5 * 2.0**mantissa))
        whole = builder.bitcast(builder.fadd(power, magic), integers)
        whole = builder.sub(whole, builder.bitcast(magic, integers))
        half = builder.ashr(whole, constant(1))
        for exponent in (half, builder.sub(whole, half)):
            factor = builder.shl(builder.add(exponent, constant(bias)), constant(mantissa))
            value = builder.fmul(value, builder.bitcast(factor, value.type))
        return value

    return v(v, v), generate


@lowered_by(_scale_by_power)
def scale_by_power(v, n):
    """v * 2**n for whole numbers n between -2 * 126 and 2 * 127 (float64: 1022, 1023)."""
    return np.ldexp(v, np.nan_to_num(n).astype(np.int32)).astype(v.dtype)


def _exponent(typing_context, v):
    def generate(context, builder, signature, arguments):
        bits, mantissa, bias = (32, 23, 127) if v.dtype == types.float32 else (64, 52, 1023)
        integers = ir.VectorType(ir.IntType(bits), v.count)
        field = builder.lshr(builder.bitcast(arguments[0], integers), ir.Constant(integers, [mantissa] * v.count))
        power = builder.sub(field, ir.Constant(integers, [bias] * v.count))
        return builder.sitofp(power, arguments[0].type)

    return v(v), generate


@lowered_by(_exponent)
def exponent(v):
    """The whole number n with 2**n <= v < 2**(n + 1), for normal v > 0; some number otherwise."""
    return (np.frexp(v)[1] - 1).astype(v.dtype)


def _round_to_even(typing_context, v):
    def generate(context, builder, signature, arguments):
        return call_llvm(builder, "rint", arguments[0].type, arguments)

    return v(v), generate


@lowered_by(_round_to_even)
def round_to_even(v):
    """The nearest whole number, ties to even."""
    return np.rint(v)


def _absolute(typing_context, v):
    def generate(context, builder, signature, arguments):
        return call_llvm(builder, "fabs", arguments[0].type, arguments)

    return v(v), generate


@lowered_by(_absolute)
def absolute(v):
    """|v|."""
    return np.abs(v)


def maximum(a, b):
    """The larger of a and b; b where a is NaN, NaN where b is."""
    return where(a > b, a, b)


# ------------------------------------------------------------------------------------------------------------ operators


def _define_operator(function, result_of, emit):
    """Give `function` (a Python operator) a meaning for vectors, and for a vector with a number on either side."""

    @type_callable(function)
    def type_operator(context):
        def typer(a, b):
            vector = a if isinstance(a, VectorType) else b
            if isinstance(vector, VectorType) and all(
                side == vector or isinstance(side, types.Number) for side in (a, b)
            ):
                return result_of(vector)
            return None

        return typer

    def lower(context, builder, signature, arguments):
        vector = next(side for side in signature.args if isinstance(side, VectorType))
        form = context.get_value_type(vector)
        sides = [
            value if kind == vector else splat(builder, form, context.cast(builder, value, kind, vector.dtype))
            for value, kind in zip(arguments, signature.args, strict=True)
        ]
        return emit(builder, *sides)

    for left, right in ((VectorType, VectorType), (VectorType, types.Number), (types.Number, VectorType)):
        lower_builtin(function, left, right)(lower)


def _same(vector):
    return vector


def _mask_of(vector):
    return MaskType(vector.count)


if JIT:
    _define_operator(operator.add, _same, lambda builder, a, b: builder.fadd(a, b))
    _define_operator(operator.sub, _same, lambda builder, a, b: builder.fsub(a, b))
    _define_operator(operator.mul, _same, lambda builder, a, b: builder.fmul(a, b))
    _define_operator(operator.truediv, _same, lambda builder, a, b: builder.fdiv(a, b))
    _define_operator(operator.gt, _mask_of, lambda builder, a, b: builder.fcmp_ordered(">", a, b))
    _define_operator(operator.lt, _mask_of, lambda builder, a, b: builder.fcmp_ordered("<", a, b))
    _define_operator(operator.eq, _mask_of, lambda builder, a, b: builder.fcmp_ordered("==", a, b))

    maximum = subroutine(maximum)
