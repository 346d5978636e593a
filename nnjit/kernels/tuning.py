"""Which tile a kernel uses: the one place where sizes and the CPU decide, never a timing (results must not depend on
noise).

Whatever is chosen, every sum runs in the same order, so the choice changes no bit.
"""

from __future__ import annotations

from functools import cache

from numba.core.registry import cpu_target

from nnjit.kernels.contraction import Extent
from nnjit.kernels.simd import VECTOR_BYTES
from nnjit.kernels.tiles import TileShape
from nnjit.kernels.winograd import Tiling

TAP_OVERHEAD = 1.5
"""Cycles that a tap costs beside its loads and multiply-adds (addresses, the loop)."""
ENTRY_OVERHEAD = 4.0
"""Cycles that starting, storing and finishing a tile costs, per vector of it."""
FAR_LOAD = 0.7
"""Cycles that a vector costs more when it comes from the second cache, which it does once the taps span more than half
the first."""
NEAR_TAPS = 300
"""Taps up to which a tile's input stays in the first cache (48 KiB; neighbouring taps share lines)."""


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
    """The tile for an output of rows x columns that sums `taps` products. With `group_rows`, its rows must divide that.

    A tile of R x C vectors takes R*C/2 cycles a tap for its multiply-adds, (R + C)/2 for its loads and at least 4 for
    the latency of one addition; the output needs ceil(rows/R) * ceil(columns/C) tiles. Registers beyond R*C + C are
    left to the compiler, which spills when fewer than 4 are (measured: 4x6 runs at 120 GFLOP/s, 4x5 at 164, one core).
    """
    registers = vector_registers()
    pieces = 32 / registers
    best, best_cost = TileShape(1, 1), float("inf")
    for r in range(1, min(rows, 16, group_rows or rows) + 1):
        if group_rows is not None and group_rows % r:
            continue
        for c in range(1, min(columns, 8) + 1):
            if r * c > 1 and r * c > (24 if registers == 32 else 6):
                continue
            far = FAR_LOAD * c if taps > NEAR_TAPS else 0.0
            # With one or two rows, one multiply-add a cycle was the most that was seen.
            rate = 2 if r > 2 else 1
            cycles = max(r * c / rate * pieces, (r + c * pieces) / 2, 4.0) + TAP_OVERHEAD + far
            tiles = -(-rows // r) * -(-columns // c)
            cost = tiles * (cycles * taps + r * c * ENTRY_OVERHEAD)
            if cost < best_cost:
                best, best_cost = TileShape(r, c), cost
    return best


def prefers_winograd(
    kernel: tuple[int, int], stride: tuple[int, int], rows: int, maps: int, sizes: tuple[int, ...]
) -> bool:
    """Whether Winograd's algorithm is used: 3x3, stride 1, enough maps that its transforms are outweighed. Sizes of the
    output alone decide, never the CPU, since the result's last bits depend on it."""
    return kernel == (3, 3) and stride == (1, 1) and rows >= 16 and maps >= 16 and min(sizes) >= 4


SCRATCH_BYTES = 1_200_000
"""Transformed input that a task of Winograd's algorithm works on: with its products it fits a second cache of 2 MiB."""


def choose_tiling(extent: Extent, maps: int) -> Tiling:
    """How an output is cut into tiles, and how many lines of tiles a task takes."""
    down, across = -(-extent.lines // 4), -(-extent.columns // 4)
    fitting = SCRATCH_BYTES // (36 * maps * across * VECTOR_BYTES)
    # Eight tasks are enough for the threads of a small machine to share; fewer, larger ones read the kernels less
    # often.
    group = max(1, min(down, fitting, down * extent.blocks // 8))
    return Tiling(extent.rows, extent.lines, extent.columns, maps, down, across, group)


def chunk_of(vectors: int) -> int:
    """How many vectors a task of an element-wise pass takes: 16 KiB of each array, so that tasks outnumber threads."""
    return min(max(vectors, 1), 256)
