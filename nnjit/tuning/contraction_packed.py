"""Where `contract_packed` is faster than `contract`, its tiles, and how many of them a task takes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import gcd

from nnjit.kernels.tiles import TileShape
from nnjit.tuning import machine
from nnjit.tuning.cost import (
    ENTRY_OVERHEAD,
    LINE_LOAD,
    LONGEST_FAR_RUN,
    cheapest_tile_of_lines,
    largest_divisor,
    tap_cycles,
    tile_fits,
)
from nnjit.tuning.lines import last_tile, line_cost

PACKED_ROWS, PACKED_ROWS_OF_PHASES = 64, 32
"""How many rows make copying what they read worth it to `contract_packed`, and how many of several phases, whose tiles
have few rows each."""
PACKED_ROWS_OF_AMD, PACKED_ROWS_OF_PHASES_OF_AMD = 128, 256
"""Likewise with AMD's processors, for one phase, and for several of FEW_ROWS rows or more."""
FEW_ROWS = 8
"""Phases of fewer rows copy as elsewhere: their tiles load more for each product."""
PACKED_COLUMNS, PACKED_VECTORS = 32, 4096
"""What a task of it copies: so many columns that lines of an image are read some way along (1x1 from 64 maps to 256: 4
columns at 42 % of the peak, 16 and 32 at 70 to 79), in so many vectors that they stay in the second cache."""


@cache
def choose_packed_tile(rows: int, columns: int, taps: int, phases: int) -> TileShape | None:
    """The tile for `contract_packed`, None where `contract` is faster: by AVX-512 alone, if rows of all phases together
    are many.

    Measured on one core with Ice Lake, as a share of the peak, by `contract` and by this: 1x1 from 64 maps of 8x8 to
    128, in the second cache, 62 and 80 %; from 64 maps of 16x16 to 128, four blocks, 61 and 69, to the input 48 and 73;
    from 64 maps of 8x8 to 256 50 and 77; from 32 maps of 16x16 to 64 49 and 55, to the input (32 rows) 46 and 41; from
    64 of 25x25 to 32 64 and 55, to 48 of 16x16 63 and 54. To the input by 4x4 with a stride of 4, 16 phases of two rows
    47 and 57, of three 52 and 61.

    With Zen 5, by 1x1 from 96 maps of 28x28 to 96 93 and 81, from 128 to 128 90 and 89, from 256 of 14x14 to 256 87 and
    93; to the input by 3x3 with a stride of 3 of 16 maps 82 and 74, of 32 84 and 80, of 64 82 and 84, by 2x2 with a
    stride of 2 of 64 86 and 91, by 4x4 with a stride of 4 of 3 73 and 82.

    If there is one phase, what the next task copies is fetched meanwhile: 1x1 from 64 maps of 16x16 to 128 1.96 to 1.89
    ms, to the input 2.22 to 1.99; but 4x4 with a stride of 4, 16 phases, 62 to 59 % of the peak.
    """
    if machine.vector_registers() < 32 or phases * rows < _least_rows(rows, phases):
        return None
    run = largest_divisor(taps, LONGEST_FAR_RUN)

    def cost(r: int, c: int, share: float) -> float:
        return tap_cycles(r, c, LINE_LOAD * c, c, run) * taps * share + r * c * ENTRY_OVERHEAD

    tile = cheapest_tile_of_lines(rows, columns, None, tile_fits, line_cost((), columns, cost))
    # So many in a run that all have come when the last tile of rows is done.
    fetches = -(-run * tile.columns // -(-rows // tile.rows)) if phases == 1 else 0
    return replace(tile, column_step=1, run=run, run_step=tile.columns, task_fetches=fetches, result_fetches=True)


def _least_rows(rows: int, phases: int) -> int:
    """How many rows of all phases, each of so many `rows`, make copying worth it."""
    if machine.of_amd() and (phases == 1 or rows >= FEW_ROWS):
        return PACKED_ROWS_OF_AMD if phases == 1 else PACKED_ROWS_OF_PHASES_OF_AMD
    return PACKED_ROWS if phases == 1 else PACKED_ROWS_OF_PHASES


def last_packed_tile(tile: TileShape, columns: int) -> TileShape | None:
    """The tile for the last of a line's `columns`, None if tiles leave none: they lie side by side as well."""
    last = last_tile(tile, columns)
    return replace(last, run_step=last.columns) if last else None


def choose_packed_tiles(tile: TileShape, taps: int, column_tiles: int, lines: int) -> int:
    """How many tiles of columns a task of `contract_packed` takes, of `column_tiles` in each of `lines` lines of all
    blocks: at least four tasks for a thread, if there are as many tiles."""
    fitting = min(PACKED_COLUMNS // tile.columns, PACKED_VECTORS // (taps * tile.columns))
    return max(1, min(fitting, column_tiles, column_tiles * lines // machine.wanted_tasks()))


SHARED_ROW_TILES = 4
"""Tiles of rows that a task has at least, beside which copying its columns costs little."""


def choose_packed_shares(tasks: int, row_tiles: int) -> int:
    """How many tasks share the tiles of rows of all phases, of which there are so many, if `tasks` tasks with all of
    them are few: as many as it takes for every thread to have as much to do.

    Measured on two cores with Zen 5, 16 samples of 64 maps of 8x8 by 3x3 with a stride of 3 to 96, three tasks: the
    forward pass 49 to 40 us, the gradient to the input 47 to 40.
    """
    threads = machine.get_threads()
    if tasks >= machine.wanted_tasks():
        return 1
    return max(1, min(threads // gcd(tasks, threads), row_tiles // SHARED_ROW_TILES))
