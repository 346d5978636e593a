"""A fixed list of kernel calls as one compiled function.

Binding a network gives calls whose arguments never change: the same buffers, sizes and parameters at every step. So
each call is linked once into a function of the task number alone, with addresses and sizes as constants, and one
compiled driver runs the whole list. A step is then a single call from Python: 0.3 us, and 6 ns more for each kernel
call in it, where calling the kernels one by one costs 1.5 us each; sharing a call's tasks among threads costs under
1 us more, and work too small to be worth it stays on the calling thread. What does change between steps (the batch's
position, the learning rate) stands in small arrays that kernels read.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import typeof, types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.np.arrayobj import make_array, populate_array

from nnjit.kernels.compiler import JIT, compiled, sole_writer
from nnjit.kernels.threads import TEAM, run_calls

PARALLEL_WORK = 300_000
"""Work below which a call runs on one thread: about 5 us, ten times what it costs when another thread takes part."""


class Call(NamedTuple):
    """A kernel, how many tasks it has, its arguments after the task number, and an estimate of its work.

    The unit of work is a multiply-add in a register tile; what mostly loads and stores costs 5 to 30 of them an entry.
    """

    kernel: Any
    tasks: int
    arguments: tuple[Any, ...]
    work: int


class Program:
    """Kernel calls that run one after the other, each over all its tasks.

    The arrays among the arguments must keep their memory; the program holds references to them.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = tuple(calls)
        self._library: Any = None
        addresses = [0] * len(self.calls)
        if JIT:
            with sole_writer():
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
        for call in self.calls[first:last]:
            thread = (0,) if takes_thread(call.kernel) else ()
            for task in range(call.tasks):
                call.kernel(task, *thread, *call.arguments)


def takes_thread(kernel: Any) -> bool:
    """Whether a kernel asks for the number of the thread that runs it, for scratch memory: its second argument is
    `thread`."""
    names = list(inspect.signature(getattr(kernel, "py_func", kernel)).parameters)
    return len(names) > 1 and names[1] == "thread"


def _constant(context: Any, builder: ir.IRBuilder, value: Any, kind: types.Type) -> ir.Value:
    """A call's argument as a constant of the compiled code."""
    integer = ir.IntType(64)
    if isinstance(kind, types.Array):
        view = make_array(kind)(context, builder)
        populate_array(
            view,
            data=ir.Constant(integer, value.ctypes.data).inttoptr(context.get_data_type(kind.dtype).as_pointer()),
            shape=cgutils.pack_array(builder, [ir.Constant(integer, size) for size in value.shape]),
            strides=cgutils.pack_array(builder, [ir.Constant(integer, step) for step in value.strides]),
            itemsize=ir.Constant(integer, value.itemsize),
            meminfo=None,
        )
        return view._getvalue()
    if isinstance(kind, types.BaseTuple):
        of: Any = kind
        items = [_constant(context, builder, item, item_kind) for item, item_kind in zip(value, of, strict=True)]
        return context.make_tuple(builder, kind, items)
    if isinstance(kind, types.Integer | types.Boolean | types.Float):
        return context.get_constant(kind, value)
    return context.get_dummy_value()


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
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 2), f"call_{number}")
        builder = ir.IRBuilder(function.append_basic_block())
        values = list(function.args[:numbers])
        values += [
            _constant(context, builder, value, kind)
            for value, kind in zip(call.arguments, kinds[numbers:], strict=True)
        ]
        target_type = context.call_conv.get_function_type(types.none, kinds)
        address = code.library.get_pointer_to_function(code.fndesc.llvm_func_name)
        target = builder.inttoptr(ir.Constant(ir.IntType(64), address), target_type.as_pointer())
        result, error = (cgutils.alloca_once(builder, argument.pointee) for argument in target_type.args[:2])
        builder.call(target, [result, error, *context.get_arg_packer(kinds).as_arguments(builder, values)])
        builder.ret_void()
    library.add_ir_module(module)
    library.finalize()
    return library, [library.get_pointer_to_function(f"call_{number}") for number in range(len(calls))]
