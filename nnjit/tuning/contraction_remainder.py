"""Tiles of `contract_remainder` and `contract_channels`, tasks of the sums for the weights beside them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from nnjit.kernels.simd import VECTOR_BYTES
from nnjit.kernels.tiles import TileShape
from nnjit.tuning import machine
from nnjit.tuning.cost import (
    ENTRY_OVERHEAD,
    FAR_LOAD,
    NEAR_BYTES,
    cheapest_tile_of_lines,
    largest_divisor,
    shared_reads,
    tap_cycles,
    tile_fits,
)
from nnjit.tuning.lines import line_cost

LONGEST_REMAINDER_RUN = 8
"""Taps of a run at most."""
HELD_OF_FEW = 2
"""Scalars that the compiler keeps of one tap for the next at most where registers are few."""


@cache
def choose_remainder_tile(
    rows: int,
    lanes: int,
    taps: int,
    run: int,
    column_step: int,
    used: tuple[tuple[int, int], ...],
    *,
    whole: bool = False,
) -> TileShape:
    """The tile for lines of `rows` rows, which sums `taps` products. `run` taps in a row read vectors that follow each
    other, the next position reads them `column_step` further; `used` are the first and last taps of a line that each
    position uses. If tiles are to be `whole`, they divide the vectors of rows.

    Where the taps of a run read some of the same scalars, side by side in lines that are apart, the compiler keeps them
    in registers, beside the sums: with sums in all of these most were stored and loaded for each tap. Measured on one
    core with Zen 5, forwards for one sample: 5x5 from 32 maps of 28x28 to 2 117 us with 24x1, 61 with 12x1; 3x3 from 24
    of 24x24 to 12 35 with 24x1, 20 with 13x1; 5x5 with a stride of 2 from 32 of 24x24 to 64 71 with 12x2, 66 with 6x2;
    over 119 passes whose tiles that changes 1.21 times as fast. With AVX2, which has room for few, over 108 passes 1.33
    times. Some lose where tiles of few positions are left: 7x7 with a stride of 2 from 24 of 24x24 to 4 23 us with
    12x1, 30 with 6x1.

    Weights that do not stay in the second cache are fetched ahead: one image of 8x8 of 512 maps to 512 by 3x3 on two
    cores 1320 to 950 us.
    """
    groups, run = -(-rows // lanes), largest_divisor(run, LONGEST_REMAINDER_RUN)

    def cost(vectors: int, positions: int, share: float) -> float:
        far = FAR_LOAD * vectors if taps * vectors * VECTOR_BYTES > NEAR_BYTES else 0.0
        cycles = tap_cycles(positions, vectors, far, vectors, run)
        return cycles * taps * share + positions * vectors * ENTRY_OVERHEAD

    def fits(vectors: int, positions: int) -> bool:
        held = max(0, shared_reads(positions, column_step, run) - 1)
        if machine.vector_registers() < 32:
            held = min(held, HELD_OF_FEW)
        return tile_fits(positions, vectors, held=vectors + held / machine.register_pieces())

    # Positions are the columns of the output and the rows of the tile.
    line = line_cost(used, len(used), cost)
    turned = cheapest_tile_of_lines(groups, len(used), groups if whole else None, fits, line)
    tile = TileShape(turned.columns, turned.rows, row_step=column_step, column_step=1)
    far = groups * taps * VECTOR_BYTES > machine.task_bytes()
    fetches = run * tile.columns if far else 0
    return replace(tile, run=run, run_step=tile.columns, tap_step=1, task_fetches=fetches, lanes=lanes)


def last_remainder_tile(tile: TileShape, positions: int) -> TileShape | None:
    """The tile for the last of a line's `positions`, None if tiles leave none."""
    left = positions % tile.rows
    return replace(tile, rows=left) if left else None


SHARE_TAPS = 64
"""Taps of a task at most, whose sums are transposed together."""


def choose_tap_share(tile: TileShape, panels: int, tap_tiles: int) -> int:
    """How many of the `tap_tiles` tiles of taps of each panel a task takes."""
    return max(1, min(SHARE_TAPS // tile.rows, panels * tap_tiles // machine.wanted_tasks()))
