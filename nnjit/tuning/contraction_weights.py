"""Tiles and tasks of `contract_lanes`."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import gcd

from nnjit.kernels.tiles import TileShape
from nnjit.tuning import machine
from nnjit.tuning.cost import FAR_LOAD, cheapest_tile_of_lines, tap_cycles, tile_fits
from nnjit.tuning.lines import line_cost

STEP_OF_AMD, ROW_OF_AMD = 0.2, 3.0
"""Cycles that a vector of the next position costs at most with Zen 5, and a row beyond the fourth."""


@cache
def choose_lanes_tile(rows: int, taps: int, run: int = 1, step: int = 1) -> TileShape:
    """The tile for the gradient of rows x taps weights, which sums over samples and positions; `run` taps in a row read
    vectors that follow each other, those of the next position `step` vectors further.

    Every tile reads the deltas of its rows anew, each row from an address of its own; taps are shifts of lines that
    stay near, the less the longer the step is: 96 maps of 14x14 to 12 by 3x3 with a stride of 3 74 GFLOP/s on one core
    with 4x6, 102 with 12x2, but with a stride of 2 to 8 from 32 165 with 4x6, 148 with 8x3. Measured on one core: 4x6
    at 106 to 176 GFLOP/s, 8x3 at 62 to 165. With AVX2 over 18 layers halves of 4x3 reach 72 % of the peak, 2x5 64 %,
    3x3 62 %, 5x2 61 %; 1.4 loads a cycle were the most that was seen there. 6 rows of 5x5 taps: 3x5, whose runs need
    one address, 172 GFLOP/s, 3x7 164; a single row: 1x10 136, 1x15 115. Where a core does more loads, deltas cost less:
    3 maps of 32x32 by 3x3 to 32 8x3 at 69 % of the peak, 3x7 at 65, of 64x64 to 16 76, 4x6 67.

    With Zen 5 more than four addresses cost more than any step: by 3x3 with a stride of 3, 96 maps to 12 108 GFLOP/s
    with 12x2, 81 with 8x3, 136 with 4x6; 32 of 20x20 to 8 127 with 8x3, 182 with 4x6; 24 of 30x30 to 12 129 with 12x2,
    161 with 5x4, 184 with 4x5; with a stride of 1 64 maps to 8 by 4x4 147 with 8x3, 211 with 5x4, 264 with 4x6.
    """
    halved = machine.vector_registers() < 32
    delta = 1.0 if machine.loads() < 1.5 or machine.of_amd() else 0.2
    far = FAR_LOAD * ((min(step, run) - 1) / (run - 1)) ** 2 if run > 1 else FAR_LOAD
    beyond = 0.0
    if machine.of_amd():
        far, beyond = min(far, STEP_OF_AMD), ROW_OF_AMD

    def cost(r: int, c: int, share: float) -> float:
        addresses = 0.15 * c / gcd(c, run)
        if halved:
            return max(r * c / 2, (r + c) / 1.4, 4.0) + 1.0 + addresses
        # Six addresses are in TAP_OVERHEAD.
        return tap_cycles(r, c, delta * r + far * c + beyond * max(0, r - 4), c) - 0.9 + addresses

    def fits(r: int, c: int) -> bool:
        return r * c + c < 2 * machine.vector_registers() if halved else tile_fits(r, c) and c <= 10

    tile = cheapest_tile_of_lines(rows, taps, None, fits, line_cost((), taps, cost))
    return replace(tile, run=gcd(tile.columns, run), halved=halved)


def choose_part_shares(parts: int, tiles: int) -> int:
    """Into how many tasks the `tiles` tiles of each of `parts` parts are divided: two for every thread together, or as
    many as there are parts, if those are more."""
    return min(max(1, 2 * machine.get_threads() // parts), tiles)
