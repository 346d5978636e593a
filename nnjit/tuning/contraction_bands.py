"""Where `contract_bands` takes the place of `contract`, its tiles, and how its tasks share them."""

from __future__ import annotations

from functools import cache

from nnjit.kernels.bands import BandShape
from nnjit.kernels.contraction_bands import Share
from nnjit.kernels.simd import VECTOR_BYTES
from nnjit.tuning import machine
from nnjit.tuning.cost import LINE_LOAD, LOADS, tile_fits

MOST_FEW = 6
"""Maps of an output that are few for `contract_bands`: their sums fit the registers of every CPU."""
FAR_WINDOW = 150_000
"""Bytes that a line of the output reads, from which on `contract` waits for the second cache and the third."""
FEW_PRODUCTS = 18
"""Products of a vector of the image, with all maps of the output, that are worth going over it map by map."""
MOST_BORDER = 1.35
"""How many times as many taps as meet the image it may take across, where `contract` leaves out the others."""


def choose_bands(rows: int, maps: int, kernel: tuple[int, int], columns: int, needed: int) -> bool:
    """Whether a pass through an image, with a stride of 1, takes `maps` maps one after the other, for an output of
    `rows` maps and of lines of `columns` positions, which use `needed` taps of a line of the kernel together.

    Sizes alone decide, since sums run in another order. Measured on one core, as a share of the peak, by `contract` and
    by `contract_bands`, with AVX-512 and with AVX2: from 64 maps of 32x32 by 3x3 to 1 map 36 and 40, 40 and 60; to 2 36
    and 54, 45 and 64; to 3 30 and 65, 33 and 76; to 4 40 and 75, 58 and 82; to 6 81 and 89, 68 and 87; from 32 maps to
    3 57 and 64, 67 and 74, from 16 60 and 55, 76 and 77; from 64 to 3 by 9x9 57 and 96, 53 and 92; from 32 maps of
    64x64 to 1 by 5x5 55 and 63, 53 and 65. Gradients to the input of 3 maps by 7x7 with a stride of 2 from 32 filters
    73 and 76, 60 and 77; of 1 map by 9x9 from 64 42 and 58, 39 and 50.
    """
    height, width = kernel
    window = maps * height * (columns + width - 1) * VECTOR_BYTES
    few = rows <= MOST_FEW and min(kernel) > 1 and rows * height * width >= FEW_PRODUCTS
    return few and window >= FAR_WINDOW and columns * width <= MOST_BORDER * needed


PIECE_MAPS = 8
"""Maps of a piece: with 4 to 16 the speed is the same within 3 %, with 2 and with 32 a tenth to a third less."""
BAND_VECTORS = 4096
"""Vectors of sums that a task of `contract_bands` keeps at most, which go through the second cache with each piece."""


@cache
def choose_band(maps: int, kernel: tuple[int, int], lines: int, columns: int) -> BandShape:
    """The tile for an output of `maps` maps of lines x columns: the one with which all tiles cost least.

    Measured on one core, as a share of the peak: to 3 maps by 5x5 2 lines of 4 columns 88 %, 1 of 7 84; by 9x9 86 and
    78; to 1 map by 9x9 3 of 7 57, 2 of 10 53.
    """
    height, width = kernel
    pieces, per_cycle = (1, LOADS) if machine.vector_registers() == 32 else (32 / machine.vector_registers(), 2)

    def cost(shape: BandShape) -> float:
        vectors = (shape.lines + height - 1) * (shape.columns + width - 1)
        products = shape.rows * shape.columns * height * width / 2 * pieces
        loads = (vectors * pieces + shape.rows * height * width) / per_cycle
        sums = 2 * shape.rows * shape.columns * pieces / PIECE_MAPS
        tiles = -(-lines // shape.lines) * -(-columns // shape.columns)
        return tiles * (max(products, loads) + LINE_LOAD * vectors * pieces + sums)

    shapes = [
        BandShape(i, maps, j, height, width)
        for i in range(1, min(lines, height) + 1)
        for j in range(1, min(columns, 24) + 1)
        if i * j == 1 or tile_fits(i * maps, j)
    ]
    return min(shapes, key=cost)


def choose_share(tile: BandShape, bands: int, columns: int, others: int) -> Share:
    """How the tasks of `contract_bands` share `bands` bands of each of `others` phases and blocks: at least four for a
    thread, if there are as many bands."""
    size = -(-columns // tile.columns) * tile.rows * tile.columns
    return Share(max(1, min(bands, bands * others // (4 * machine.get_threads()), BAND_VECTORS // size)), PIECE_MAPS)
