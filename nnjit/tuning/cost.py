"""What a register tile costs on a core, and the one with which a whole output costs least."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from nnjit.kernels.tiles import TileShape
from nnjit.tuning import machine

TAP_OVERHEAD = 1.5
"""Cycles that a tap costs beside its loads and multiply-adds (addresses, the loop)."""
ENTRY_OVERHEAD = 4.0
"""Cycles that starting, storing and finishing a tile costs, per vector of it."""
FAR_LOAD = 1.0
"""Cycles that a vector costs more when it comes from the second cache."""
LINE_LOAD = 0.6
"""Likewise when it comes from there once for each tile of rows, since a line of the image does not stay nearer
(forwards from 16 maps to 32: 2x2 with a stride of 2 4x4 at 71 % of the peak, 11x2 at 80; 3x3 with a stride of 3 8x2 at
65, 11x2 at 68)."""
NEAR_BYTES = 24 * 1024
"""What a tile, or all of a line, may read again and again and still find in the first cache: half of it."""
LONGEST_RUN = 16
"""Taps of a run at most, since a run is code without a loop."""
LONGEST_FAR_RUN = 4
"""Likewise where steps are told at run time, which takes registers for addresses: 1x1 from 64 maps to 64 at 71 % of
the peak without runs, at 90 % with runs of 4, at 49 % with 8."""


def tap_cycles(r: int, c: int, far: float, vectors: float, run: int = 1, fetched: float = 0.0) -> float:
    """Cycles of a tap, one of a run, for a tile of r x c vectors: its multiply-adds, two a cycle, its loads of
    `vectors` vectors and what is fetched ahead, or at least the latency of one addition; and what far loads cost beside
    that. With one or two rows, one multiply-add a cycle was the most that was seen, or 1.4 where taps share vectors;
    with Zen 5 and two rows then two (forwards on one core 3x3 from a map of 48x48 to 8 110 us with 4x6, 97 with 2x12,
    2x2 from 3 to 32 151 with 4x5, 133 with 2x10; over 54 passes whose tiles that changes 1.03 times as fast; one loses,
    to the input of 96 maps of 40x40 by 3x3 with a stride of 2 from 4 filters 1.65 to 1.80 ms)."""
    pieces = machine.register_pieces()
    shared = 2 if r == 2 and pieces == 1 and machine.of_amd() else 1.4
    rate = 2 if r > 2 else shared if vectors < c else 1
    loads = (r + vectors * pieces + fetched) / machine.loads()
    return max(r * c / rate * pieces, loads, 4.0) + TAP_OVERHEAD / run + 0.15 * r + far


def half_tap_cycles(r: int, h: int, read: float, run: int) -> float:
    """Likewise for a tile of r x h halves of vectors in registers that hold one each, which loads `read` of them.

    Measured on one core with AVX2: 4x3 halves at 122 GFLOP/s where 4x1 vectors ran at 105, 2x5 at 104 where 4x3 did at
    114 (16 maps of 32x32 by 3x3).
    """
    return max(r * h / 2, (r + read) / 1.4, 5.6) + 1.0 / run + 0.1 * r


def halved_tile_fits(r: int, h: int) -> bool:
    """Whether the sums of such a tile fit 16 registers, beside its columns and a scalar."""
    return (r + 1) * h < 16


def tile_fits(r: int, c: int, run: int = 0, held: float = 0) -> bool:
    """Whether the sums of a tile of r x c vectors fit the registers, beside its columns, or `held` vectors if those are
    more, and one row, a scalar in all lanes, or, where `tile_fma` has runs and few rows, beside a run of scalars for
    each row and one column; where registers are half as wide, a scalar takes half a vector.

    Measured on one core: 3x8 runs at 96 GFLOP/s, 3x7 at 108; with AVX2 3x2 at 65, 6x1 at 86.
    """
    few = 0 < r * run < c
    held = max(c, held)
    if machine.vector_registers() == 32:
        return r * c <= 24 and r * c + (r * run + 1 if few else held) < 32
    return r * c + (r * run / 2 + 0.5 if few else held) + 0.5 <= 8


@cache
def held_vectors(c: int, column_step: int, run: int) -> int:
    """How many vectors of a line a tile of c columns holds at a time, `column_step` apart, for a run of taps that read
    vectors side by side: the compiler keeps what one tap has loaded for those after it which read it too (forwards by
    5x5 with a stride of 2 from 2 maps to 64 4x4 at 94 % of the peak, 4x6, which keeps eleven, at 72).
    """
    reads = _reads(c, column_step, run)
    return max(len(set().union(*reads[: v + 1]) & set().union(*reads[v:])) for v in range(run))


@cache
def shared_reads(c: int, column_step: int, run: int) -> int:
    """How many of what one tap of a run has read for c columns, `column_step` apart, the taps after it read again at
    most, if each tap reads one further than the one before."""
    reads = _reads(c, column_step, run)
    return max(len(set().union(*reads[:v]) & set().union(*reads[v:])) for v in range(run))


def _reads(c: int, column_step: int, run: int) -> list[set[int]]:
    """What each tap of a run reads for c columns."""
    return [{v + k * column_step for k in range(c)} for v in range(run)]


def cheapest_tile(
    rows: int,
    columns: int,
    group_rows: int | None,
    fits: Callable[[int, int], bool],
    cost: Callable[[int, int], float],
) -> TileShape:
    """The tile with which ceil(rows / r) * ceil(columns / c) tiles cost least, among those that fit the registers."""
    return cheapest_tile_of_lines(rows, columns, group_rows, fits, lambda r, c: -(-columns // c) * cost(r, c))


def cheapest_tile_of_lines(
    rows: int,
    columns: int,
    group_rows: int | None,
    fits: Callable[[int, int], bool],
    line_cost: Callable[[int, int], float],
) -> TileShape:
    """The tile with which ceil(rows / r) lines of `columns` cost least, each of them in tiles of c columns."""
    shapes = [
        (r, c)
        for r in range(1, min(rows, 16, group_rows or rows) + 1)
        for c in range(1, min(columns, 24) + 1)
        if (group_rows is None or group_rows % r == 0) and fits(r, c)
    ]
    return TileShape(*min(shapes, key=lambda shape: -(-rows // shape[0]) * line_cost(*shape)))


def largest_divisor(number: int, most: int) -> int:
    return max(divisor for divisor in range(1, most + 1) if number % divisor == 0)
