"""What this machine can do at most: multiply-adds and bytes per second, the two limits of a roofline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnjit.bench.timing import run_times
from nnjit.kernels import limits
from nnjit.kernels.program import Call, Program
from nnjit.kernels.simd import VECTOR_BYTES, lanes
from nnjit.kernels.threads import get_threads, set_threads
from nnjit.kernels.tiles import TileShape
from nnjit.parameters import aligned_zeros
from nnjit.tuning.machine import vector_registers

PEAK_TILES = {32: TileShape(4, 6, 1, 1), 8: TileShape(6, 1, 1, 1), 4: TileShape(5, 1, 1, 1)}
"""Tiles that reach the peak, by `vector_registers`. They stay what they are when passes choose other ones, so that
shares of the peak mean the same."""
TAPS = 32
"""Products that a tile sums in a round: at most 32 kB of operands with any tile."""
ROUNDS = 1000
"""Rounds of a task: about 0.3 ms."""
TASKS_PER_THREAD = 8
MEMORY_BYTES = 256 * 2**20
"""Of an array that bandwidth is measured over: more than the caches hold, of most machines."""
MEMORY_TASKS = 256
LANES = lanes(np.float32)
CHUNK = 128
"""Vectors that a task of `data_program` touches."""
CHUNK_BYTES = CHUNK * VECTOR_BYTES


@dataclass(frozen=True)
class Bandwidth:
    """Bytes per second; a copy counts what it reads and what it writes."""

    read: float
    write: float
    copy: float


@dataclass(frozen=True)
class Limits:
    """The limits of a number of threads."""

    threads: int
    peak_gflops: float
    """1e9 operations per second in float32; a multiply-add is two."""
    bandwidth: Bandwidth


def peak_gflops(dtype: Any, seconds: float) -> float:
    """The highest rate, in 1e9 operations per second, that a register tile reached with as many threads as are set."""
    tile = PEAK_TILES[vector_registers()]
    tasks = TASKS_PER_THREAD * get_threads()
    w = aligned_zeros((TAPS * tile.rows,), dtype)
    x = aligned_zeros((TAPS * tile.columns, lanes(dtype)), dtype)
    out = aligned_zeros((tasks * tile.rows * tile.columns, lanes(dtype)), dtype)
    w[:], x[:] = 0.5, 0.25
    multiply_adds = ROUNDS * TAPS * out.size
    call = Call(limits.multiply_add, tasks, (tile, np.full(1, ROUNDS), w, x, out), multiply_adds)
    return 2e-9 * multiply_adds / _fastest(call, seconds)


def bandwidth(seconds: float, size: int = MEMORY_BYTES) -> Bandwidth:
    """The highest rates over arrays of `size` bytes, a multiple of 64 KiB, with as many threads as are set."""
    vectors = size // VECTOR_BYTES
    x, out = (aligned_zeros((vectors, LANES), np.float32) for _ in range(2))
    x[:] = 1  # memory that nothing was written to is one page of zeros
    chunk = vectors // MEMORY_TASKS
    sums = aligned_zeros((MEMORY_TASKS, LANES), np.float32)
    read = Call(limits.read, MEMORY_TASKS, (chunk, x, sums), x.size)
    write = Call(limits.write, MEMORY_TASKS, (chunk, out), x.size)
    copy = Call(limits.copy, MEMORY_TASKS, (chunk, x, out), x.size)
    seconds /= 3
    return Bandwidth(
        size / _fastest(read, seconds), size / _fastest(write, seconds), 2 * size / _fastest(copy, seconds)
    )


def data_program(read: Sequence[int], written: Sequence[int]) -> Program:
    """Reads arrays of so many bytes and overwrites others: what a pass over such data does beside its arithmetic. A run
    finds them where the run before it left them."""
    calls = []
    for size in read:
        tasks = -(-size // CHUNK_BYTES)
        array, sums = (aligned_zeros((count, LANES), np.float32) for count in (tasks * CHUNK, tasks))
        array[:] = 1  # memory that nothing was written to is one page of zeros
        calls.append(Call(limits.read, tasks, (CHUNK, array, sums), array.size))
    for size in written:
        tasks = -(-size // CHUNK_BYTES)
        array = aligned_zeros((tasks * CHUNK, LANES), np.float32)
        calls.append(Call(limits.write, tasks, (CHUNK, array), array.size))
    return Program(calls)


def machine_limits(seconds: float) -> list[Limits]:
    """The limits of one thread, and of all that are set if they are more; about `seconds` for each."""
    before = get_threads()
    found = []
    try:
        for threads in sorted({1, before}):
            set_threads(threads)
            found.append(Limits(threads, peak_gflops(np.float32, seconds / 4), bandwidth(seconds * 3 / 4)))
    finally:
        set_threads(before)
    return found


def _fastest(call: Call, seconds: float) -> float:
    """The least time that a call took: a limit is what no run passes."""
    program = Program([call])
    return min(run_times(lambda _: program.run(), seconds))
