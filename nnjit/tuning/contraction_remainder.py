"""What `contract_remainder` takes and in which tiles, tasks of `contract_remainder_weights`."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from nnjit.kernels.tiles import TileShape
from nnjit.kernels.winograd import Tiling
from nnjit.kernels.winograd_transforms import Form
from nnjit.tuning import machine
from nnjit.tuning.algorithms import TRANSFORMS
from nnjit.tuning.cost import (
    ENTRY_OVERHEAD,
    FAR_LOAD,
    LONGEST_FAR_RUN,
    cheapest_tile,
    largest_divisor,
    tap_cycles,
    tile_fits,
)
from nnjit.tuning.lines import used_share

LEAST_GAIN = 1.25
"""How many times as much a block must cost."""


def choose_remainder(samples: int, lanes: int, rows: int, taps: int, met: int, vectors: tuple[int, int]) -> int:
    """How many of the last of `samples` samples a pass through the image by direct sums leaves to `contract_remainder`:
    those that do not fill a block, or 0 if a block costs less. Each of `rows` rows is a sum over `taps` taps, of which
    all positions meet `met`; it is written in so many `vectors` as the second number says, the first is how many are
    read for all rows.

    Measured on one core over 18 layers, forwards and to the input, the remainder of one sample took 0.2 to 0.7 of the
    time of a block, of two samples 0.3 to 0.9, of four 0.4 to 0.9, where this chooses it.
    """
    remainder = samples % lanes
    block = 1.2 * rows * met + 4 * rows * vectors[1]
    return remainder if LEAST_GAIN * remainder_cost(remainder, lanes, rows, taps, met, vectors) < block else 0


def remainder_cost(samples: int, lanes: int, rows: int, taps: int, met: int, vectors: tuple[int, int]) -> float:
    """What `contract_remainder` costs, in multiply-adds of vectors in a tile; operands as in `choose_remainder`."""
    groups, (read, written) = -(-rows // lanes), vectors
    each = groups * met * (1.5 if groups > 1 else 2.0) + 3 * rows * written
    return samples * each + 8 * (read + rows * written) + 2.5 * groups * lanes * taps


LONGEST_REMAINDER_RUN = 8
"""Taps of a run at most."""


@cache
def choose_remainder_tile(
    rows: int, lanes: int, taps: int, run: int, column_step: int, used: tuple[tuple[int, int], ...]
) -> TileShape:
    """The tile for lines of `rows` rows, which sums `taps` products. `run` taps in a row read vectors that follow each
    other, the next position reads them `column_step` further; `used` are the first and last taps of a line that each
    position uses.
    """
    run = largest_divisor(run, LONGEST_REMAINDER_RUN)

    def cost(r: int, c: int) -> float:
        return tap_cycles(r, c, 0.0, c, run) * taps * used_share(used, r) + r * c * ENTRY_OVERHEAD

    tile = cheapest_tile(len(used), -(-rows // lanes), None, tile_fits, cost)
    tile = replace(tile, row_step=column_step, column_step=1)
    return replace(tile, run=run, run_step=tile.columns, tap_step=1, lanes=lanes)


def choose_products_remainder(samples: int, lanes: int, rows: int, maps: int, form: Form) -> int:
    """Likewise with Winograd's algorithm for `rows` rows of sums over `maps` maps. There the products alone are those
    of the samples that there are, tiles are transformed in all lanes.

    The unit of cost is that of `choose_form`. Measured likewise, forwards and to the input: 32 maps to 32 0.79 and 0.61
    of the time of a block, 32 to 64 0.66, 64 to 128 0.67 and 0.54, 128 to 128 0.48.
    """
    remainder, groups = samples % lanes, -(-rows // lanes)
    transforms = TRANSFORMS[form] * (rows + maps)
    apart = 1.6 * remainder * groups * maps + (16 + 4 * remainder) * rows + transforms
    return remainder if LEAST_GAIN * apart < 1.1 * rows * maps + transforms else 0


MOST_COLUMNS = 4
"""Vectors of rows of such a tile at most: all tiles of a group have their products for these rows in scratch memory."""


@cache
def choose_products_tile(tiling: Tiling, lanes: int, shares: int = 1) -> TileShape:
    """The tile for the products of Winograd's algorithm with rows in the lanes; its columns divide all vectors of
    rows, into `shares` tiles at least if there are so many."""
    groups = -(-tiling.rows // lanes)
    most = max(1, min(MOST_COLUMNS, groups // shares))
    run = largest_divisor(tiling.maps, LONGEST_FAR_RUN)

    def cost(r: int, c: int) -> float:
        return tap_cycles(r, c, FAR_LOAD * c, c, run) * tiling.maps + r * c * ENTRY_OVERHEAD

    def fits(r: int, c: int) -> bool:
        return groups % c == 0 and c <= most and tile_fits(r, c)

    tile = cheapest_tile(tiling.group, groups, None, fits, cost)
    return replace(tile, row_step=lanes, run=run, run_step=1, tap_step=tiling.group * lanes, lanes=lanes)


SHARE_TAPS = 64
"""Taps of a task at most, whose sums are transposed together."""


def choose_remainder_share(tile: TileShape, panels: int, tap_tiles: int) -> int:
    """How many of the `tap_tiles` tiles of taps of each panel a task takes."""
    return max(1, min(SHARE_TAPS // tile.rows, panels * tap_tiles // machine.wanted_tasks()))
