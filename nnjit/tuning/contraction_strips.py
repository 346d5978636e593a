"""Tiles, strips and lines of `contract_strips` and `contract_strips_weights`, for dense layers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from nnjit.kernels.contraction_strips import Strip
from nnjit.kernels.tiles import TileShape
from nnjit.tuning import machine
from nnjit.tuning.cost import LONGEST_FAR_RUN, cheapest_tile_of_lines, largest_divisor, tap_cycles, tile_fits
from nnjit.tuning.lines import line_cost


@cache
def choose_strips_tile(rows: int, columns: int, run: int, group_rows: int | None = None) -> TileShape:
    """The tile for `contract_strips`, whose columns need an address each; `run` taps in a row read vectors equally far
    apart. With `group_rows`, its rows must divide that.

    Measured on two cores as a share of the peak, 1,000 inputs and outputs, 1,024 samples: to the input 5x4 91 %, 12x2
    89, 6x4 88, 14x2 87, 8x3 86; to the weights 8x3 84, 12x2 81, 6x4 80, 5x4 79, 14x2 77; forwards, where rows divide
    16, 4x4 and 8x2 86, 8x3 83, 16x1 77.
    """
    run = largest_divisor(run, LONGEST_FAR_RUN)

    def cost(r: int, c: int, share: float) -> float:
        return tap_cycles(r, c, 2.5 * max(c - 4, 0) / run, c, run)

    return replace(cheapest_tile_of_lines(rows, columns, group_rows, tile_fits, line_cost((), columns, cost)), run=run)


STRIP_TILES = 64
"""Tiles of rows in a strip at most: 2,048 to 2,048 with 256 samples, gradient to the weights, with 32 of them at 86 %
of the peak, with 64 at 90; 784 to 4,096 with 1,024 samples to the input 84 and 86."""
LINE_COLUMNS = 8
"""Columns of a line, about: with 4, 8 and 16 of them passes of 1,000 to 1,000 with 1,024 samples take the same time, of
784 to 4,096 to the input 1.05 times as long with 4."""
STRIP_TAPS = 128
"""Taps of a piece: with four columns they take 32 KiB of the first cache. 96 take as long, 192 and 256
forwards 1.07 times (1,000 to 1,000, 1,024 samples), in other passes within 3 %."""
SCALARS = 16
"""How many scalars a vector counts as, when columns are read again and again."""


def choose_strip(tile: TileShape, rows: int, columns: int, *, shared: bool, by_lines: bool | None = None) -> Strip:
    """How the tiles of `rows` x `columns` are cut into tasks, in pieces of whole runs: four for a thread, if the work
    is `shared` and there are as many tiles, such that as little as can be is read again, of columns for each strip and
    of rows for each line."""
    wanted = machine.wanted_tasks() if shared else 1
    row_tiles, column_tiles = -(-rows // tile.rows), -(-columns // tile.columns)
    fewest = -(-column_tiles * tile.columns // max(LINE_COLUMNS, tile.columns))

    def strips(lines: int) -> int:
        return min(max(-(-row_tiles // STRIP_TILES), -(-wanted // lines)), row_tiles)

    def read_again(lines: int) -> tuple[bool, int]:
        return strips(lines) * lines < wanted, strips(lines) * columns * SCALARS + lines * rows

    lines = min(range(fewest, column_tiles + 1), key=read_again)
    # Threads share what they both read, and what one then writes the other has to fetch anew: columns, which the layer
    # before writes, or weights, which the update does (steps of mlp with 512 samples by strips 1.08 times as fast as by
    # lines, of 1000-512-1024-1000 with 1,024 by lines 1.02 times as fast).
    if by_lines is None:
        by_lines = columns * SCALARS > 2 * rows
    return Strip(-(-row_tiles // strips(lines)), lines, STRIP_TAPS // tile.run * tile.run, by_lines)
