"""Tiles of `contract_transposed`."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import gcd

from nnjit.kernels.tiles import TileShape
from nnjit.tuning import machine
from nnjit.tuning.cost import cheapest_tile, tile_fits

LOADS = 1.1
"""Loads a cycle with AVX-512, as of Ice Lake: gradients to weights of 64 maps by 3x3 run there at 80 % of the peak with
12x2, at 85 with 6x4, by 1x1 from 64 to 128 at 61 with 8x2, at 70 with 6x4; processors that do more loads gain nothing
with tiles that need them (1x1 from 64 to 128 74 and 77 %)."""

ONE_RUN = 9
"""Rows from which on a tile of a single run, with one address, does not wait for loads: from one map to 64 by 9x9 9x2
at 88 % of the peak, 6x4 at 79."""


@cache
def choose_transposed_tile(taps: int, groups: int, run: int) -> TileShape:
    """The tile for the gradient of the weights of `groups` vectors of maps x taps, which sums over positions and
    samples; `run` taps in a row lie in vectors that follow each other.

    Measured on one core without runs, as a share of the peak: 8x2 97 %, 9x2 88 %, 12x2 87 %, 14x2 86 %, since more
    than eight addresses do not stay in registers; with runs 9x2 and 12x2 98 %. With AVX2 6x1 83 to 99 %, 5x1 85 to
    97 %, 4x1 79 to 83 %, 2x2 78 to 84 %. By 7x7 14x2, two runs and so two addresses, 74 to 77 %, other tiles 68 to 71.
    """
    pieces, loads = (1, LOADS) if machine.vector_registers() == 32 else (2, 1.3)

    def cost(r: int, c: int) -> float:
        addresses = r // gcd(r, run)
        waits = (r + c * pieces) / loads if addresses > 1 or r < ONE_RUN else 0.0
        cycles = max(r * c / 2 * pieces, waits, 5.0)
        # A row's scalars are 16 to a line of the cache, a column is all of it.
        return cycles + (0.15 if addresses > 8 else 0.03) * addresses + 0.03 * r * c + 0.3 * c * pieces + 0.2

    def fits(r: int, c: int) -> bool:
        return tile_fits(r, c) or (machine.vector_registers() == 32 and (r, c) == (14, 2) and run == 7)

    tile = cheapest_tile(taps, groups, None, fits, cost)
    return replace(tile, run=gcd(tile.rows, run))
