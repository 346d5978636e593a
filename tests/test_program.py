"""Programs: lists of kernel calls, linked into one compiled function."""

from __future__ import annotations

import gc
from typing import Any

import numba
import numpy as np
import pytest
from battery import compiled_only
from numpy.testing import assert_array_equal

from nnjit.kernels import program
from nnjit.kernels.activations import Epilogue
from nnjit.kernels.compiler import kernel
from nnjit.kernels.contraction import Extent
from nnjit.kernels.program import Call, Program
from nnjit.kernels.threads import set_threads


@kernel
def double_and_add(task, value, out):
    """out[task] = 2 * out[task] + value"""
    out[task] = 2 * out[task] + value


@kernel
def note_everything(task, extent, nested, flag, number, ratio, epilogue, out):
    """One argument of every sort that kernels take."""
    if flag:
        out[task] = extent.rows * nested[0].columns + nested[1][0] + number * ratio


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


def test_a_program_keeps_its_arrays() -> None:
    linked = Program([Call(double_and_add, 1, (1.0, np.zeros(1)), 1)])
    gc.collect()
    linked.run()
    assert linked.calls[0].arguments[1][0] == 1


@numba.njit  # not cached: it asks the threading layer of this process
def note_thread(task, threads):
    """threads[task] = the thread that ran the task, plus one"""
    threads[task] = numba.get_thread_id() + 1


@compiled_only("only compiled programs use threads")
@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize(
    ("work", "threads", "used"),
    [
        (program.PARALLEL_WORK, 2, 2),
        (program.PARALLEL_WORK - 1, 2, 1),  # too small to be worth a region
        (program.PARALLEL_WORK, 1, 1),
    ],
)
def test_large_calls_run_on_all_threads(work: int, threads: int, used: int, restored_threads: Any) -> None:
    set_threads(threads)
    ran_on = np.zeros(8, np.int64)
    Program([Call(note_thread, 8, (ran_on,), work)]).run()
    assert ran_on.all()
    assert len(np.unique(ran_on)) == used
