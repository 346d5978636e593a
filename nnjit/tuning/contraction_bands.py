"""Tiles of `contract_bands`, and how its tasks share them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from nnjit.kernels.bands import BandShape
from nnjit.kernels.contraction_bands import Edges, Share
from nnjit.tuning import machine
from nnjit.tuning.cost import LINE_LOAD, tile_fits

PIECE_MAPS = 8
"""Maps of a piece: with 4 to 16 the speed is the same within 3 %, with 2 and with 32 a tenth to a third less."""
BAND_VECTORS = 4096
"""Vectors of sums that a task of `contract_bands` keeps at most, which go through the second cache with each piece."""


@cache
def choose_band(maps: int, kernel: tuple[int, int], lines: int, columns: int, zeros: tuple[int, int]) -> BandShape:
    """The tile for an output of `maps` maps of lines x columns, which read `zeros` before each line of the image and
    after it: the tile with which all tiles cost least.

    Measured on one core, as a share of the peak: to 3 maps by 5x5 2 lines of 4 columns 88 %, 1 of 7 84; by 9x9 86 and
    78; to 1 map by 9x9 3 of 7 57, 2 of 10 53; the gradient to 1 map by 5x5 without padding 2 of 7 65, 1 of 14 79.
    """
    height, width = kernel
    pieces = machine.register_pieces()

    def cost(shape: BandShape) -> float:
        return -(-lines // shape.lines) * sum(map(tile_cost, _bands_of_line(shape, columns, zeros)))

    @cache
    def tile_cost(shape: BandShape) -> float:
        columns = shape.columns + width - 1 - shape.left - shape.right
        met = sum(len(shape.columns_met(v)) for v in range(width))
        lines = shape.lines + height - 1
        cycles = 0.0
        for q in range(lines):
            reading = maps * len(shape.lines_reading(q))
            loads = (columns * pieces + reading * width) / machine.loads()
            # Each product of a sum waits for the one before it (with AVX2 to 1 map by 9x9 1 line of 3 columns 57 % of
            # the peak, of 4 columns 64, 6 lines of 1 55).
            cycles += max(reading * met / 2 * pieces, loads, 4.0 * width)
        sums = 2 * shape.rows * shape.columns * pieces / PIECE_MAPS
        return cycles + LINE_LOAD * lines * columns * pieces + sums

    shapes = [
        BandShape(i, maps, j, height, width)
        for i in range(1, min(lines, height) + 1)
        for j in range(1, min(columns, 24) + 1)
        if i * j == 1 or tile_fits(i * maps, j)
    ]
    return min(shapes, key=cost)


def edge_bands(tile: BandShape, columns: int, zeros: tuple[int, int]) -> Edges:
    """Those tiles of a line of `columns` positions which leave out the `zeros` before the image and after it; each that
    is another one of them, or that there is not, as the tile itself."""
    of_line = _bands_of_line(tile, columns, zeros)
    number = len(of_line)
    return Edges(
        of_line[0],
        of_line[1] if number > 2 else tile,
        of_line[-2] if number > 3 else tile,
        of_line[-1] if number > 1 else tile,
    )


def _bands_of_line(tile: BandShape, columns: int, zeros: tuple[int, int]) -> list[BandShape]:
    """All tiles of a line, of which the first two and the last two leave out zeros."""
    (left, right), number = zeros, -(-columns // tile.columns)
    of_line = [tile] * number
    for k in {0, 1, number - 2, number - 1} & set(range(number)):
        before = min(k * tile.columns, columns - tile.columns)
        behind = columns - tile.columns - before
        of_line[k] = replace(tile, left=max(0, left - before), right=max(0, right - behind))
    return of_line


def choose_band_share(tile: BandShape, bands: int, columns: int, others: int) -> Share:
    """How the tasks of `contract_bands` share `bands` bands of each of `others` phases and blocks: at least four for a
    thread, if there are as many bands."""
    size = -(-columns // tile.columns) * tile.rows * tile.columns
    return Share(max(1, min(bands, bands * others // machine.wanted_tasks(), BAND_VECTORS // size)), PIECE_MAPS)
