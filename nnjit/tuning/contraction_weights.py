"""Tiles and tasks of `contract_lanes`."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import gcd

from nnjit.kernels.tiles import TileShape
from nnjit.tuning import machine
from nnjit.tuning.cost import FAR_LOAD, cheapest_tile_of_lines, tap_cycles, tile_fits
from nnjit.tuning.lines import line_cost

STEP_OF_AMD, ROW_OF_AMD, ADDRESS_OF_AMD = 0.2, 3.0, 0.25
"""Cycles that a vector of the next position costs at most with Zen 5, a row beyond the fourth, and an address of
taps."""
ADDRESS = 0.15
"""The latter elsewhere."""

NEAR_ROWS, NEAR_ROWS_OF_HALVES = 12, 8
"""How many rows of a piece stay in the first cache while tiles of taps follow each other."""


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
    161 with 5x4, 184 with 4x5; with a stride of 1 64 maps to 8 by 4x4 147 with 8x3, 211 with 5x4, 264 with 4x6. By 5x5
    one address for five taps is worth a smaller tile: with a stride of 2 from 48 maps of 24x24 to 12 4x5 at 86 % of the
    peak, 3x7 at 81, from 64 of 10x10 to 8 81 and 4x6 at 78; with one of 1 from 48 of 10x10 to 12 86 and 3x7 at 82, but
    from 48 of 12x12 to 8 88 and 4x6 at 91. With Zen 3 likewise halves of 6x2 take 11.7 cycles, of 5x2 12.1, but of 4x3
    9.6, 2x5 8.2 and 3x3 8.1: 5x5 with a stride of 2 from 48 maps of 24x24 to 12 1828 us with 6x2, 1497 with 4x3; 4x4
    from 48 of 12x12 to 24 710 and 610.
    """
    halved = machine.vector_registers() < 32
    delta = 1.0 if machine.loads() < 1.5 or machine.of_amd() else 0.2
    far = FAR_LOAD * ((min(step, run) - 1) / (run - 1)) ** 2 if run > 1 else FAR_LOAD
    beyond, address = 0.0, ADDRESS
    if machine.of_amd():
        far, beyond, address = min(far, STEP_OF_AMD), ROW_OF_AMD, ADDRESS if halved else ADDRESS_OF_AMD

    def cost(r: int, c: int, share: float) -> float:
        addresses = address * c / gcd(c, run)
        if halved:
            return max(r * c / 2, (r + c) / 1.4, 4.0) + 1.0 + addresses + beyond * max(0, r - 4)
        # Six addresses are in TAP_OVERHEAD.
        return tap_cycles(r, c, delta * r + far * c + beyond * max(0, r - 4), c) - 0.9 + addresses

    def fits(r: int, c: int) -> bool:
        return r * c + c < 2 * machine.vector_registers() if halved else tile_fits(r, c) and c <= 10

    tile = cheapest_tile_of_lines(rows, taps, None, fits, line_cost((), taps, cost))
    fetches = _taps_to_fetch(tile, rows, taps, min(step, run) / run, NEAR_ROWS_OF_HALVES if halved else NEAR_ROWS)
    return replace(tile, run=gcd(tile.columns, run), halved=halved, tap_fetches=fetches)


def _taps_to_fetch(tile: TileShape, rows: int, taps: int, fresh: float, near_rows: int) -> int:
    """How many of the next taps a tile fetches, so that all rows follow for some taps; 0 for all taps after some rows.

    `fresh`: the part of a run that reads vectors which the position before did not. Taps come from the second cache
    again for each tile of rows in the one order, rows for each tile of taps in the other, unless `near_rows` hold them
    all. Where taps read mostly the same vectors, fetching a vector for each is in vain (5x5 from 48 maps to 6 with a
    stride of 2 37 to 42 us). Measured on one core with Zen 5: 3x3 with a stride of 3 from 96 maps of 14x14 to 12 115
    to 87 us (AVX2 183 to 153), from 96 of 20x20 to 4 75 to 65; with one of 2 from 96 of 40x40 to 4 2539 to 1151; 4x4
    with one of 3 from 64 of 28x28 to 6 249 to 205 (AVX2 370 to 353); 2x2 with one of 2 from 4 of 56x56 to 64 296 to
    270; 5x5 with one of 3 from 48 of 24x24 to 12 492 to 428, from 24 of 14x14 to 12 52 to 54. With halves 12 rows are
    not near: 1x1 from 64 to 12 336 to 381, the latter two 793 to 848 and 96 to 110.
    """
    row_tiles, tap_tiles = -(-rows // tile.rows), -(-taps // tile.columns)
    vectors = taps * fresh**2
    by_rows = row_tiles * vectors + rows
    by_taps = vectors + (1 if rows <= near_rows else tap_tiles) * rows
    return -(-tile.columns // row_tiles) if fresh > 0.5 and by_taps <= by_rows else 0


TOGETHER_VECTORS = 300
"""Vectors of the rows that go together, in a piece of the sum."""


def choose_together(tile: TileShape, rows: int, positions: int) -> int:
    """How many tiles of rows follow each other for some taps, in pieces of so many `positions`: all if taps are
    fetched, otherwise, with halves, as many as the first cache holds beside the taps.

    Those are then read again for fewer tiles of rows. With Zen 3 on one core: 5x5 with a stride of 3 from 48 maps of
    24x24 to 12 2.85 to 2.42 ms, 3x3 with one of 3 from 96 of 14x14 to 12 381 to 331 us; nine others within 8 %.
    """
    row_tiles = -(-rows // tile.rows)
    if tile.tap_fetches:
        return row_tiles
    return min(row_tiles, max(1, TOGETHER_VECTORS // (tile.rows * positions))) if tile.halved else 1


def choose_part_shares(parts: int, tiles: int) -> int:
    """Into how many tasks the `tiles` tiles of each of `parts` parts are divided: two for every thread together, or as
    many as there are parts, if those are more."""
    return min(max(1, 2 * machine.get_threads() // parts), tiles)
