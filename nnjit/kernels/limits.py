"""Kernels that do nothing but reach a limit of the machine: its rate of multiply-adds, its memory's bandwidth."""

from __future__ import annotations

from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import full, load, store
from nnjit.kernels.tiles import tile_fma, tile_store, tile_zeros


@kernel
def multiply_add(task, tile, rounds, w, x, out):
    """out[task, r, c] = rounds * sum over k of w[k, r] * x[k, c]; few enough numbers that all stay in the first cache

    rounds (1,) int64  w (K * tile.rows,)  x (K * tile.columns, L)  out (tasks * tile.rows * tile.columns, L)
    A task owns out[task].
    """
    taps = len(w) // tile.rows
    total = tile_zeros(tile, x)
    for _ in range(rounds[0]):
        for k in range(taps):
            total = tile_fma(tile, total, w, k * tile.rows, x, k * tile.columns, 1, 1, 0)
    tile_store(total, out, task * tile.rows * tile.columns, tile.columns, 1, 0)


@kernel
def read(task, chunk, x, out):
    """out[task] = the sum of a chunk of x

    x (tasks * chunk, L)  out (tasks, L)
    A task owns out[task]. Four sums, so that none waits for its last addition; `chunk` is a multiple of 4.
    """
    a = full(x, 0.0)
    b = full(x, 0.0)
    c = full(x, 0.0)
    d = full(x, 0.0)
    for i in range(task * chunk, (task + 1) * chunk, 4):
        a = a + load(x, i)
        b = b + load(x, i + 1)
        c = c + load(x, i + 2)
        d = d + load(x, i + 3)
    store(out, task, (a + b) + (c + d))


@kernel
def write(task, chunk, out):
    """out[i] = 1

    out (tasks * chunk, L), fully overwritten
    A task owns a chunk.
    """
    one = full(out, 1.0)
    for i in range(task * chunk, (task + 1) * chunk):
        store(out, i, one)


@kernel
def copy(task, chunk, x, out):
    """out[i] = x[i]

    x, out (tasks * chunk, L), out fully overwritten
    A task owns a chunk.
    """
    for i in range(task * chunk, (task + 1) * chunk):
        store(out, i, load(x, i))
