"""A fixed list of kernel calls as one compiled function.

Binding a network gives calls whose arguments never change: the same buffers, sizes and parameters at every step. So
each call is linked once into a function of the task number alone, with addresses and sizes as constants, and one
compiled driver runs the whole list. A step is then a single call from Python: 0.3 us, and 6 ns more for each kernel
call in it, where calling the kernels one by one costs 1.5 us each; sharing a call's tasks among threads costs under
1 us more, and work too small to be worth it stays on the calling thread. What does change between steps (the batch's
position, the learning rate) stands in small arrays that kernels read.
"""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import typeof, types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import typeof_impl
from numpy.typing import NDArray

from nnjit.kernels.compiler import JIT, compiled
from nnjit.kernels.threads import TEAM, run_calls

PARALLEL_WORK = 300_000
"""Work below which a call runs on one thread: about 5 us, ten times what it costs when another thread takes part."""
_WORD = ir.IntType(64)
_NOTHING = ir.Constant(ir.IntType(8).as_pointer(), None)
"""What compiled code takes for an argument that says all in its type, and as the owner of an array's memory."""


class Call(NamedTuple):
    """A kernel, how many tasks it has, its arguments after the task number, and an estimate of its work.

    The unit of work is a multiply-add in a register tile; what mostly loads and stores costs 5 to 30 of them an entry.
    """

    kernel: Any
    tasks: int
    arguments: tuple[Any, ...]
    work: int


class Moving:
    """A call's argument: an array that may be another one, of the same shape and dtype, in every run of a program.

    So inputs come from where they are, and outputs go where they are wanted. It is an argument of its own, not part of
    a tuple.
    """

    def __init__(self, like: NDArray[Any]) -> None:
        """For arrays like that one, which it is until it is moved."""
        self.shape, self.dtype = like.shape, like.dtype
        self.address = np.zeros(1, np.int64)
        self.array = like
        self.move(like)

    def move(self, array: NDArray[Any]) -> None:
        """Make `array` the one that kernels read or fill. It may have fewer rows, if they are told so otherwise.

        Raises ValueError if it has another dtype, or its entries do not lie side by side, in whole words.
        """
        flags = array.flags
        if array.dtype != self.dtype or not (flags.c_contiguous and flags.aligned):
            raise ValueError(
                f"expected an array of {self.dtype} without gaps, got {array.dtype}, strides {array.strides}"
            )
        self.array = array
        self.address[0] = array.ctypes.data


@typeof_impl.register(Moving)
def _typeof_moving(value: Moving, context: Any) -> types.Type:
    return typeof(value.array)


class Program:
    """Kernel calls that run one after the other, each over all its tasks.

    The arrays among the arguments must keep their memory, but for those that are Moving; the program holds references
    to them.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = tuple(calls)
        _check_scratch(self.calls)
        self._library: Any = None
        addresses = [0] * len(self.calls)
        if JIT:
            self._library, addresses = _link(self.calls)
        rows = [
            (address, call.tasks, call.tasks > 1 and call.work >= PARALLEL_WORK)
            for address, call in zip(addresses, self.calls, strict=True)
        ]
        self._table = np.array(rows, dtype=np.int64).reshape(len(rows), 3)
        self._threads = TEAM.size
        TEAM.gather()

    def run(self, first: int = 0, last: int | None = None) -> None:
        """Run calls first .. last - 1, all by default, on as many threads as were set when they were linked."""
        if last is None:
            last = len(self.calls)
        if JIT:
            run_calls(TEAM.words, self._table, first, last, self._threads)
            return
        for number in range(len(self.calls))[first:last]:
            for task in range(self.calls[number].tasks):
                self.run_task(number, task)

    def run_task(self, number: int, task: int) -> None:
        """Run one task of a call by itself, on the calling thread."""
        if JIT:
            ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(int(self._table[number, 0]))(task, 0)
            return
        call = self.calls[number]
        thread = (0,) if takes_thread(call.kernel) else ()
        call.kernel(task, *thread, *(value.array if isinstance(value, Moving) else value for value in call.arguments))


@cache
def takes_thread(kernel: Any) -> bool:
    """Whether a kernel asks for the number of the thread that runs it: its second argument is `thread`, and its last
    one the scratch memory of all threads."""
    names = list(inspect.signature(getattr(kernel, "py_func", kernel)).parameters)
    return len(names) > 1 and names[1] == "thread"


def _check_scratch(calls: Sequence[Call]) -> None:
    """Raise if threads were added after a call got its scratch memory: a kernel would write beyond it."""
    for call in calls:
        if takes_thread(call.kernel) and len(call.arguments[-1]) < TEAM.size:
            name = getattr(call.kernel, "__name__", "a kernel")
            raise ValueError(f"{name}: scratch memory for {len(call.arguments[-1])} threads, but {TEAM.size} are set")


def _values(builder: ir.IRBuilder, value: Any, kind: types.Type) -> list[ir.Value]:
    """A call's argument as the values that compiled code takes for it: the items of a tuple one after the other, the
    fields of an array in Numba's order, one for anything else. All are constants, but for where a Moving array lies.

    Numba's own builders of arrays and tuples, made for what is only known when the code runs, cost 0.3 s at every start
    with the 344 arguments of LeNet-5's two programs.
    """
    context = cpu_target.target_context
    if isinstance(kind, types.BaseTuple):
        of: Any = kind
        return [part for item, item_kind in zip(value, of, strict=True) for part in _values(builder, item, item_kind)]
    model = context.data_model_manager.lookup(kind)
    if isinstance(kind, types.Array):
        pointer = context.get_data_type(kind.dtype).as_pointer()
        if isinstance(value, Moving):
            place = _WORD(value.address.ctypes.data).inttoptr(pointer.as_pointer())
            value, data = value.array, builder.load(place)
        else:
            data = _WORD(value.ctypes.data).inttoptr(pointer)
        fields = {
            "meminfo": [_NOTHING],
            "parent": [_NOTHING],
            "nitems": [_WORD(value.size)],
            "itemsize": [_WORD(value.itemsize)],
            "data": [data],
            "shape": [_WORD(size) for size in value.shape],
            "strides": [_WORD(step) for step in value.strides],
        }
        return [part for name in sorted(fields, key=model.get_field_position) for part in fields[name]]
    if isinstance(kind, types.Integer | types.Boolean):
        return [ir.Constant(model.get_argument_type(), int(value))]
    if isinstance(kind, types.Float):
        return [ir.Constant(model.get_argument_type(), float(value))]
    return [_NOTHING]


@global_compiler_lock
def _link(calls: Sequence[Call]) -> tuple[Any, list[int]]:
    """A library with one function of a task number per call, and the functions' addresses."""
    context = cpu_target.target_context
    library = context.codegen().create_library("program")
    module = library.create_ir_module("program")
    for number, call in enumerate(calls):
        numbers = 2 if takes_thread(call.kernel) else 1
        kinds = (types.intp,) * numbers + tuple(typeof(argument) for argument in call.arguments)
        code = compiled(call.kernel, kinds)
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_WORD] * 2), f"call_{number}")
        builder = ir.IRBuilder(function.append_basic_block())
        target_type = context.call_conv.get_function_type(types.none, kinds)
        address = code.library.get_pointer_to_function(code.fndesc.llvm_func_name)
        target = builder.inttoptr(_WORD(address), target_type.as_pointer())
        result, error = (cgutils.alloca_once(builder, argument.pointee) for argument in target_type.args[:2])
        values = [result, error, *function.args[:numbers]]
        for value, kind in zip(call.arguments, kinds[numbers:], strict=True):
            values += _values(builder, value, kind)
        # That their types are right is seen by `builder.call`, which would let more of them than there should be pass.
        if len(values) != len(target_type.args):
            name = call.kernel.py_func.__name__
            raise TypeError(f"{name}: compiled code takes {len(target_type.args)} values, got {len(values)}")
        builder.call(target, values)
        builder.ret_void()
    library.add_ir_module(module)
    library.finalize()
    return library, [library.get_pointer_to_function(f"call_{number}") for number in range(len(calls))]
