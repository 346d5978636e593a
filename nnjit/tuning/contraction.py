"""Tiles of `contract`, and over how many blocks it goes at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from nnjit.kernels.simd import VECTOR_BYTES
from nnjit.kernels.tiles import TileShape
from nnjit.tuning import machine
from nnjit.tuning.cost import (
    ENTRY_OVERHEAD,
    FAR_LOAD,
    LINE_LOAD,
    LONGEST_FAR_RUN,
    LONGEST_RUN,
    NEAR_BYTES,
    cheapest_tile_of_lines,
    half_tap_cycles,
    halved_tile_fits,
    held_vectors,
    largest_divisor,
    tap_cycles,
    tile_fits,
)
from nnjit.tuning.lines import line_cost

FETCHING_ROWS, FETCHING_ROWS_APART = 6, 8
"""Of tiles that fetch ahead, where taps share vectors and where they do not: with fewer multiply-adds for each vector,
it takes 3 to 15 % instead."""

UNFOLLOWED_MAPS, ROWS_OF_NEW_MAPS = 12, 48
"""Of how many maps a 1x1 convolution fetches the next lines where the processor follows few of them, and with how many
rows at most. Measured with Zen 3 on one core: from 8 maps of 64x64 to 16 1.66 to 2.45 ms, from 12 of 56x56 to 12 2.14
to 1.74, from 16 of 64x64 to 8 3.37 to 2.84, from 64 of 28x28 to 16 3.58 to 2.22; to 64 from 16 2.05 to 2.29."""

SPARED_ROW_OF_AMD = 0.05
"""Cycles of a tap that a row costs less with Zen 5 than `tap_cycles` says (gradients to the input on one core, 4x4 with
a stride of 2 from 24 filters to 48 maps 143 us with 12x2, 136 with 16x1, 3x3 with one of 2 from 96 to 32 260 and 250;
over 68 passes whose tiles that changes 1.005 times as fast)."""


@cache
def choose_tile(
    rows: int,
    columns: int,
    taps: int,
    column_step: int,
    run: int = 1,
    run_step: int = 1,
    used: tuple[tuple[int, int], ...] = (),
    halves: bool = False,
    line_vectors: int = 0,
    apart: bool = False,
    strides: bool = False,
    alone: bool = False,
) -> TileShape:
    """The tile for an output of rows x columns that sums `taps` products, with columns `column_step` apart.

    `run` is how many taps in a row read vectors `run_step` apart, 0 if that is told at run time. `used` are the first
    and last taps of a line that each column uses, where not all columns use all. `halves` says that a tile's columns
    may be halves of vectors, if the CPU's registers hold few. All columns of an image's line together read
    `line_vectors` vectors, as do the tiles of the next rows after them; no other line reads those if lines are `apart`.
    If the output `strides`, its next line starts to read more than a line further. The sums are `alone` if no others
    read the image, as those of the other phases of a gradient do.
    """
    one_run = line_vectors > 0 and run == taps
    few_streams = machine.follows_few_streams() and alone
    new_lines = apart or strides and machine.vector_registers() == 32 or few_streams
    # A run of maps, each with a line of its own.
    new_maps = few_streams and one_run and not run_step and taps >= UNFOLLOWED_MAPS and rows <= ROWS_OF_NEW_MAPS
    shifted = column_step == run_step == 1
    run = largest_divisor(run, LONGEST_RUN if run_step else LONGEST_FAR_RUN)

    if halves and machine.vector_registers() == 8:
        twice = tuple(span for span in used for _ in range(2))

        def half_cost(r: int, h: int, share: float) -> float:
            read = (h + 2 * (run - 1)) / run if run_step else float(h)
            return half_tap_cycles(r, h, read, run) * taps * share + r * h * ENTRY_OVERHEAD / 2

        tile = cheapest_tile_of_lines(
            rows, 2 * columns, None, halved_tile_fits, line_cost(twice, 2 * columns, half_cost)
        )
        if tile.columns % 2 == 0:
            tile = TileShape(tile.rows, tile.columns // 2, 1, column_step, run, run_step)
        else:
            tile = replace(tile, run=run, column_step=column_step, run_step=2 * run_step, halved=True)
        return _fetching(tile, rows, taps, one_run, new_lines, new_maps)

    spared = SPARED_ROW_OF_AMD if machine.of_amd() and machine.vector_registers() == 32 else 0.0

    def cost(r: int, c: int, share: float) -> float:
        vectors = (c + run - 1) / run if shifted else float(c)
        # Runs of maps, filters or samples read each vector once.
        near = taps * vectors * VECTOR_BYTES <= NEAR_BYTES and run_step > 0
        line_near = line_vectors * VECTOR_BYTES <= NEAR_BYTES
        fetched = vectors if _fetches(TileShape(r, c, 1, column_step, run, run_step), taps, one_run) else 0.0
        waiting = 2.0 if one_run and not fetched else 1.0
        far = vectors * ((0.0 if line_near else LINE_LOAD) if near else waiting * FAR_LOAD)
        cycles = tap_cycles(r, c, far, vectors, run, fetched) - spared * r
        return cycles * taps * share + r * c * ENTRY_OVERHEAD

    def fits(r: int, c: int) -> bool:
        return tile_fits(r, c, run if shifted else 0, held_vectors(c, column_step, run) if run_step else c)

    tile = cheapest_tile_of_lines(rows, columns, None, fits, line_cost(used, columns, cost))
    tile = replace(tile, run=run, column_step=column_step, run_step=run_step)
    return _fetching(tile, rows, taps, one_run, new_lines, new_maps)


def _fetching(tile: TileShape, rows: int, taps: int, one_run: bool, new_lines: bool, new_maps: bool) -> TileShape:
    """The tile with what it fetches ahead: of its next columns, and of the next line.

    The first is worth it where a tile reads more than the first cache holds, or where all taps are one run: then each
    reads a map of its own, and the processor itself follows few of them at once. Measured on one core, forwards: from
    64 maps to 64 by 3x3 87 to 92 % of the peak, 128 to 128 89 to 94, by 1x1 from 64 maps to 32 60 to 76 (backwards from
    128 to 64, which fill the second cache, 78 to 75); products of Winograd's algorithm no difference.

    Lines that are apart are new to the tiles of the first rows. So those of all rows fetch the next line between them:
    3x3 with a stride of 3 from 16 maps to 32 70 to 77 %, with AVX2 66 to 72; 2x2 with a stride of 2 from 64 to 128 with
    AVX2 59 to 67. With a stride of 2 that is worth it as well for lines that share some: 3x3 from 32 maps to 64 78 to
    84 %, 5x5 from 16 to 32 87 to 89, 7x7 from 3 to 32 87 to 89; but not with AVX2, which has more tiles of rows (83 to
    67, 70 to 67, 85 to 86).

    Where the processor follows few streams, that is worth it for any line which only these sums read. With Zen 3 on one
    core, forwards: 3x3 with a stride of 2 from 32 maps of 56x56 to 12 6.2 to 3.7 ms, 4x4 with one of 2 from 48 of 24x24
    to 4 2.1 to 1.2, 3x3 from 16 of 40x40 to 4 2.1 to 1.4, 1x1 from 96 of 28x28 to 6 2.3 to 1.0; over the 60 passes of
    77 random layers whose tiles that changes 1.07 times as fast (of six that lost, measured again, one loses 9 %: 5x5
    with a stride of 3 from 24 of 40x40 to 8; the others 4 at most).
    """
    # The vectors that a run reads for its columns and not for the next ones, if there are none between them.
    fresh = -(-tile.columns * tile.column_step // tile.units)
    contiguous = tile.run >= tile.column_step if tile.run_step else new_maps and tile.column_step == 1
    line_fetches = -(-fresh // -(-rows // tile.rows)) if new_lines and contiguous else 0
    return replace(tile, fetches=_fetches(tile, taps, one_run), line_fetches=line_fetches)


def _fetches(tile: TileShape, taps: int, one_run: bool) -> bool:
    """Whether it fetches what its next columns read."""
    shifted = tile.column_step == 1 and tile.run_step == tile.units
    columns = tile.columns / tile.units
    vectors = (columns + tile.run - 1) / tile.run if shifted else columns
    far = tile.run_step > 0 and taps * vectors * VECTOR_BYTES > NEAR_BYTES
    return tile.rows >= (FETCHING_ROWS if shifted else FETCHING_ROWS_APART) and (one_run or far)


def choose_blocks(block_vectors: int) -> int:
    """Over how many blocks, of `block_vectors` vectors, all phases of a strided convolution's gradient to the input go
    before they take the next ones: what the phases read then comes from the threads' second caches.

    Measured on one core: 16 maps of 32x32 from 32, four blocks, at 68 % of the peak in one go, at 72 % one by one.
    """
    return max(1, machine.get_threads() * machine.task_bytes() // (block_vectors * VECTOR_BYTES))


TASK_WORK = 200_000
"""About how many multiply-adds a task of `contract` has: with tasks of a single tile, its operands and what it is about
took as long as short sums. Gradients to the input on one core with Zen 5: 5x5 with a stride of 2 from 2 filters to 32
maps of 14x14 76 to 44 us, to 64 of 16x16 88 to 61; with one of 3 from 12 to 48 of 24x24 524 to 448; 3x3 from 8 to 32 of
20x20 99 to 84. Twice as many, 2 to 4 % less again, but threads would wait longer for the last one."""


def choose_tasks(work: int, tiles: int) -> int:
    """How many tasks share `tiles` tiles of rows of all lines, with `work` multiply-adds together."""
    return min(max(machine.wanted_tasks(), work // TASK_WORK), tiles)
