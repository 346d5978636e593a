"""Tiles, strips and lines of `contract_strips`, for dense layers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from nnjit.kernels.contraction_strips import Strip
from nnjit.kernels.tiles import TileShape
from nnjit.tuning import machine
from nnjit.tuning.cost import LONGEST_FAR_RUN, cheapest_tile, largest_divisor, tap_cycles, tile_fits
from nnjit.tuning.sums import power_of_two


@cache
def choose_strips_tile(rows: int, columns: int, run: int, group_rows: int | None = None) -> TileShape:
    """The tile for `contract_strips`, whose columns need an address each; `run` taps in a row read vectors equally far
    apart. With `group_rows`, its rows must divide that.

    Measured on one core as a share of the peak, 784 inputs and 512 outputs, 128 samples: to the input 6x4 94 %, 5x4 92,
    4x4 89, 12x2 84, 8x3 72; to the weights 6x4 87, 12x2 75; forwards, where rows divide 16, 4x4 82, 8x2 77.
    """
    run = largest_divisor(run, LONGEST_FAR_RUN)

    def cost(r: int, c: int) -> float:
        return tap_cycles(r, c, 2.5 * max(c - 4, 0) / run, c, run)

    return replace(cheapest_tile(rows, columns, group_rows, tile_fits, cost), run=run)


STRIP_TILES = 8
"""Tiles of rows in a strip at most: with 4 and 8 of them passes to the input run at 80 and 85 % of the peak (1,024 to
1,024, 256 samples), at 94 % with both from 784 to 512."""
STRIP_TAPS = 128
"""Taps of a piece: with four columns they take 32 KiB of the first cache. To 784 inputs from 512, 128 samples: 64 taps
88 %, 96 89 %, 128 94 %, 192 91 %."""


def choose_strip(tile: TileShape, row_tiles: int, lines: int) -> Strip:
    """How `contract_strips` goes over `row_tiles` tiles of rows of `lines` lines: in at least four tasks for a thread,
    if there are as many tiles, and in pieces of whole runs."""
    tiles = power_of_two(min(STRIP_TILES, row_tiles * lines // machine.wanted_tasks()))
    return Strip(tiles, STRIP_TAPS // tile.run * tile.run)


def choose_width(tile: TileShape, groups: int) -> int:
    """How many of the `groups` vectors of outputs a line has for the gradient of a dense layer's weights: whole tiles,
    and at least a line for each thread, if they can be divided so."""
    fitting = (width for width in range(tile.columns, groups + 1, tile.columns) if groups % width == 0)
    return max((width for width in fitting if groups // width >= machine.get_threads()), default=groups)
