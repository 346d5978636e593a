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
    tap_cycles,
    tile_fits,
)
from nnjit.tuning.lines import line_cost

LONGEST_REMAINDER_RUN = 8
"""Taps of a run at most."""


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

    Weights that do not stay in the second cache are fetched ahead: one image of 8x8 of 512 maps to 512 by 3x3 on two
    cores 1320 to 950 us.
    """
    groups, run = -(-rows // lanes), largest_divisor(run, LONGEST_REMAINDER_RUN)

    def cost(vectors: int, positions: int, share: float) -> float:
        far = FAR_LOAD * vectors if taps * vectors * VECTOR_BYTES > NEAR_BYTES else 0.0
        cycles = tap_cycles(positions, vectors, far, vectors, run)
        return cycles * taps * share + positions * vectors * ENTRY_OVERHEAD

    def fits(vectors: int, positions: int) -> bool:
        return tile_fits(positions, vectors)

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
