"""Which tile a kernel uses: the one place where sizes and the CPU decide, never a timing (results must not depend on
noise).

Whatever is chosen, every sum runs in the same order, so the choice changes no bit.
"""

from __future__ import annotations

from functools import cache

from numba.core.registry import cpu_target

from nnjit.kernels.tiles import TileShape

CALL_COST = 6.0
"""Cycles that starting and storing a tile costs, per entry of it, compared with one multiply-add."""


@cache
def vector_registers() -> int:
    """How many 64-byte vectors the CPU's registers hold: 32 with AVX-512, 8 with AVX or NEON, else 4."""
    _, name, features = cpu_target.target_context.codegen().magic_tuple()[:3]
    enabled = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    if "avx512f" in enabled:
        return 32
    return 8 if enabled & {"avx", "avx2", "neon"} else 4


@cache
def choose_tile(rows: int, columns: int, taps: int, group_rows: int | None = None) -> TileShape:
    """The tile for an output of rows x columns that sums `taps` products.

    A tile of R x C vectors takes R*C/2 cycles a tap for its multiply-adds, (R + C)/2 for its loads, at least 4 for the
    latency of one addition, and covers the output with ceil(rows/R) * ceil(columns/C) copies. With `group_rows`, R must
    divide it.
    """
    registers = vector_registers()
    best = TileShape(1, 1)
    best_cost = float("inf")
    for r in range(1, min(rows, 24, group_rows or rows) + 1):
        if group_rows is not None and group_rows % r:
            continue
        for c in range(1, min(columns, 12) + 1):
            if r * c + (c if registers >= 32 and r > 1 else 0) > registers - 2 and r * c > 1:
                continue
            wide = 32 / registers  # registers' worth of a vector, hence instructions per operation
            cycles = max(r * c / 2 * wide, (r + c * wide) / 2, 4.0)
            tiles = -(-rows // r) * -(-columns // c)
            cost = tiles * (cycles * taps + r * c * CALL_COST)
            if cost < best_cost * 0.999:
                best, best_cost = TileShape(r, c), cost
    return best


def chunk_of(vectors: int) -> int:
    """How many vectors a task of an element-wise pass takes: 16 KiB of each array, so that tasks outnumber threads."""
    return min(max(vectors, 1), 256)
