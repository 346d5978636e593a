"""Programs: lists of kernel calls, linked into one compiled function."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from enum import IntEnum
from pathlib import Path

import numba
import numpy as np
import pytest
from battery import compiled_only
from numpy.testing import assert_array_equal

from nnjit.kernels import program, threads
from nnjit.kernels.activations import Epilogue
from nnjit.kernels.compiler import compiled, kernel, sole_writer
from nnjit.kernels.contraction import Extent
from nnjit.kernels.program import Call, Moving, Program
from nnjit.kernels.threads import get_threads, most_threads, set_threads


@kernel
def double_and_add(task, value, out):
    """out[task] = 2 * out[task] + value"""
    out[task] = 2 * out[task] + value


@kernel
def note_everything(task, extent, nested, flag, number, ratio, epilogue, out):
    """One argument of every sort that kernels take."""
    if flag:
        out[task] = extent.rows * nested[0].columns + nested[1][0] + number * ratio


@kernel
def add_doubled(task, out):
    """Adds an array that it would need memory for."""
    out[0] += (out * 2.0)[task]


@compiled_only("in Python anything may take memory")
def test_a_kernel_that_takes_memory_does_not_compile() -> None:
    with pytest.raises(numba.TypingError):
        Program([Call(add_doubled, 1, (np.zeros(3),), 1)])


def test_calls_run_in_order_over_all_their_tasks() -> None:
    out = np.array([1.0, 2.0, 3.0, 4.0])
    Program([Call(double_and_add, 4, (1.0, out), 1), Call(double_and_add, 2, (5.0, out), 1)]).run()
    assert_array_equal(out, [11, 15, 7, 9])


def test_a_part_of_the_calls_can_run() -> None:
    out = np.zeros(1)
    calls = Program([Call(double_and_add, 1, (float(value), out), 1) for value in (1, 2, 3)])
    calls.run(1)
    assert out[0] == 2 * 2 + 3
    calls.run(0, 1)
    assert out[0] == 2 * 7 + 1
    calls.run(1, 1)
    assert out[0] == 15


def test_a_moving_array_is_where_it_was_moved_to_last() -> None:
    first, second = np.ones(2), np.full(3, 10.0)
    out = Moving(first)
    program = Program([Call(double_and_add, 2, (1.0, out), 1)])
    program.run()
    out.move(second)
    program.run()
    program.run()
    assert_array_equal(first, [3, 3])
    assert_array_equal(second, [43, 43, 10])


def test_an_array_that_kernels_could_not_walk_through_is_refused() -> None:
    out = Moving(np.ones(2))
    odd = np.frombuffer(bytearray(17), np.float64, offset=1)
    for wrong in (np.ones(2, np.float32), np.ones(4)[::2], odd):
        with pytest.raises(ValueError, match="expected an array of float64 without gaps, got float"):
            out.move(wrong)


@kernel
def use_scratch(task, thread, out, scratch):
    """out[task] = the first number of the calling thread's memory"""
    out[task] = scratch[thread, 0]


def test_scratch_memory_for_fewer_threads_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call(use_scratch, 2, (np.ones(2), np.zeros((1, 1))), 1)
    monkeypatch.setattr(program.TEAM, "size", 1)
    Program([call]).run()
    assert not call.arguments[0].any()
    monkeypatch.setattr(program.TEAM, "size", 2)
    with pytest.raises(ValueError, match="use_scratch: scratch memory for 1 threads, but 2 are set"):
        Program([call])


@compiled_only("it is about the cache of compiled kernels")
def test_kernels_from_the_cache_come_without_what_the_compiler_needs(tmp_path: Path) -> None:
    script = """if True:
        import sys
        import numpy as np
        from nnjit.kernels.limits import write
        from nnjit.kernels.program import Call, Program
        out = np.zeros((4, 16), np.float32)
        Program([Call(write, 2, (2, out), 1)]).run()
        print(out.all(), "numba.np.linalg" in sys.modules)
    """
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", script]
    printed = [subprocess.check_output(command, env=environment, text=True).split() for _ in range(2)]
    assert printed == [["True", "True"], ["True", "False"]]


def test_an_empty_program_does_nothing() -> None:
    Program([]).run()


def test_arguments_of_every_sort_arrive() -> None:
    out = np.zeros(2)
    nested = (Extent(1, 2, 3, 4), (np.int64(7), 8.0))
    Program([Call(note_everything, 2, (Extent(5, 6, 7, 8), nested, True, 3, 0.5, Epilogue("relu"), out), 1)]).run()
    assert_array_equal(out, [6 * 4 + 7 + 1.5] * 2)


def test_strided_arrays_are_read_where_they_are() -> None:
    out = np.zeros(6)
    Program([Call(double_and_add, 3, (1.0, out[::2]), 1)]).run()
    assert_array_equal(out, [1, 0, 1, 0, 1, 0])


@kernel
def note_fields(task, arrays, fields):
    """fields[task] = what is known of arrays[1]: entries, bytes of one, address, shape, strides"""
    x = arrays[1]
    fields[task, 0] = x.size
    fields[task, 1] = x.itemsize
    fields[task, 2] = x.ctypes.data
    for axis in range(x.ndim):
        fields[task, 3 + axis] = x.shape[axis]
        fields[task, 3 + x.ndim + axis] = x.strides[axis]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, np.bool_])
def test_every_field_of_an_array_arrives(dtype: type) -> None:
    x = np.zeros((4, 6, 5), dtype)[1:3, ::-2]
    fields = np.zeros((1, 9), np.int64)
    Program([Call(note_fields, 1, ((0.5, x, 7), fields), 1)]).run()
    assert_array_equal(fields[0], [x.size, x.itemsize, x.ctypes.data, *x.shape, *x.strides])


@kernel
def ignore(task, value):
    """Takes anything."""


class Color(IntEnum):
    RED = 1


@compiled_only("Python takes any argument")
@pytest.mark.parametrize(
    ("value", "message"),
    [("text", "ignore: compiled code takes 10 values, got 4"), (Color.RED, "Type of #4 arg mismatch")],
)
def test_an_argument_of_another_sort_is_refused(value: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Program([Call(ignore, 1, (value,), 1)])


def test_a_program_keeps_its_arrays() -> None:
    linked = Program([Call(double_and_add, 1, (1.0, np.zeros(1)), 1)])
    gc.collect()
    linked.run()
    assert linked.calls[0].arguments[1][0] == 1


@kernel
def note_thread(task, thread, ran_on, counts):
    """ran_on[task] = thread + 1, and counts[task] += 1, after work of some 20 us"""
    value = 0.0
    for k in range(20_000):
        value += 1.0 / (k + task + 1)
    ran_on[task] = thread + 1 if value > 0 else 0
    counts[task] += 1


def threads_used(work: int, runs: int) -> set[int]:
    """The threads that took tasks of a call, in so many runs at most; each task has run once in each of them."""
    ran_on, counts = np.zeros(32, np.int64), np.zeros(32, np.int64)
    linked = Program([Call(note_thread, 32, (ran_on, counts), work)])
    used: set[int] = set()
    for run in range(runs):
        linked.run()
        assert_array_equal(counts, run + 1)
        used |= set(ran_on.tolist())
        if len(used) > 1:
            break
    return used


@compiled_only("only compiled programs use threads")
@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_large_calls_are_shared_by_threads(restored_threads: None) -> None:
    """Who takes a task is left to chance: a thread that has no core just then takes none."""
    set_threads(2)
    assert threads_used(program.PARALLEL_WORK, runs=1000) == {1, 2}


@compiled_only("only compiled programs use threads")
@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_what_runs_calls_is_compiled_before_a_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(threads, "compiled", lambda function, kinds: done.append(function.__name__))
    monkeypatch.setattr(threads.Team, "_live", lambda team, number: done.append(f"thread {number}"))
    team = threads.Team()
    team.size = 2
    team.gather()
    team.dismiss()
    assert done == ["run_calls", "_serve", "thread 1"]


@compiled_only("only compiled programs use threads")
def test_what_runs_calls_is_compiled_for_the_types_that_it_gets() -> None:
    linked = Program([Call(note_thread, 32, (np.zeros(32, np.int64), np.zeros(32, np.int64)), 0)])
    linked.run()
    assert len(threads.run_calls.overloads) == 1
    assert len(threads._serve.overloads) <= 1


@pytest.mark.parametrize(("work", "threads"), [(program.PARALLEL_WORK - 1, most_threads()), (program.PARALLEL_WORK, 1)])
def test_small_calls_and_single_threads_stay_where_they_are(work: int, threads: int, restored_threads: None) -> None:
    set_threads(threads)
    assert threads_used(work, runs=10) == {1}


@pytest.mark.parametrize("count", [0, most_threads() + 1])
def test_a_number_of_threads_that_there_is_not_is_refused(count: int) -> None:
    before = get_threads()
    with pytest.raises(ValueError) as caught:
        set_threads(count)
    assert str(caught.value) == f"expected 1 to {most_threads()} threads, got {count}"
    assert get_threads() == before


@compiled_only("programs run as Python there")
def test_programs_in_several_threads_of_python_do_not_disturb_each_other() -> None:
    counts = np.zeros((4, 32), np.int64)
    programs = [
        Program([Call(note_thread, 32, (np.zeros(32, np.int64), row), program.PARALLEL_WORK)]) for row in counts
    ]

    def run_often(linked: Program) -> None:
        for _ in range(20):
            linked.run()

    runners = [threading.Thread(target=run_often, args=(linked,)) for linked in programs]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert_array_equal(counts, 20)


class Compiling:
    """What `compiled` needs of a dispatcher, without its cost."""

    def __init__(self, name: str) -> None:
        def py_func() -> None: ...

        py_func.__qualname__ = name
        self.py_func = py_func
        self.overloads: dict[tuple[str, ...], str] = {}
        self.begun = threading.Event()

    def compile(self, kinds: tuple[str, ...]) -> None:
        self.begun.set()
        self.overloads[kinds] = "code"


def test_a_kernel_waits_for_who_compiles_it_and_for_nobody_else() -> None:
    """As in another process, since each opens the lock anew."""
    pytest.importorskip("fcntl", reason="without it, processes do not wait")
    busy, other = Compiling("busy"), Compiling("other")
    threads = [threading.Thread(target=compiled, args=(each, ("float32",)), daemon=True) for each in (busy, other)]
    with sole_writer(busy.py_func):
        for thread in threads:
            thread.start()
        assert other.begun.wait(10)
        assert not busy.begun.wait(0.2)
    assert busy.begun.wait(10)
    for thread in threads:
        thread.join()
    with sole_writer(busy.py_func):
        assert compiled(busy, ("float32",)) == "code"  # what is there already waits for nobody


@compiled_only("in Python a kernel is a function")
def test_a_compiled_kernel_says_that_python_cannot_call_it() -> None:
    with pytest.raises(TypeError, match="double_and_add: a compiled kernel runs in a Program"):
        double_and_add(0, 1.0, np.zeros(1))


def test_one_task_of_a_call_can_run() -> None:
    out = np.ones(3)
    calls = Program([Call(double_and_add, 3, (float(value), out), 1) for value in (1, 2)])
    calls.run_task(1, 2)
    assert_array_equal(out, [1, 1, 4])
