"""Which tile a kernel uses: the one place where sizes and the CPU decide, never a timing (results must not depend on
noise).

What the CPU or the threads decide (tiles, shares, the tiles of a task) leaves every sum in the same order. What changes
bits, a form of Winograd's algorithm, the parts and pieces of a sum, follows from sizes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from math import gcd, inf, log
from typing import Literal

import numpy as np
from numba.core.registry import cpu_target
from numpy.typing import NDArray

from nnjit.kernels.bands import BandShape
from nnjit.kernels.contraction import Extent
from nnjit.kernels.contraction_bands import Share
from nnjit.kernels.contraction_strips import Strip
from nnjit.kernels.contraction_weights import Cut
from nnjit.kernels.simd import VECTOR_BYTES
from nnjit.kernels.threads import get_threads
from nnjit.kernels.tiles import SAMPLES, TileShape
from nnjit.kernels.winograd import Tiling
from nnjit.kernels.winograd_transforms import F43, F45, Form

TAP_OVERHEAD = 1.5
"""Cycles that a tap costs beside its loads and multiply-adds (addresses, the loop)."""
LOADS = 1.1
"""Loads a cycle with AVX-512: of vectors, of scalars for all lanes, and what is fetched ahead.

Ice Lake does no more, with all data in the first cache: 8x2 at 85 % of the peak, 11x2 and 12x2 at 94, 16x1 at 53, tiles
of three columns and more at 97 to 100. 5x5 with a stride of 2 from 16 maps to 32 runs at 78 % there with 11x2, at 88
with 8x3; gradients to weights of 64 maps by 3x3 at 80 % with 12x2, at 85 with 6x4, by 1x1 from 64 to 128 at 61 with
8x2, at 70 with 6x4. Other processors do more loads (8x2 at 97 %).
"""
ENTRY_OVERHEAD = 4.0
"""Cycles that starting, storing and finishing a tile costs, per vector of it."""
FAR_LOAD = 1.0
"""Cycles that a vector costs more when it comes from the second cache."""
LINE_LOAD = 0.6
"""Likewise when it comes from there once for each tile of rows, since a line of the image does not stay nearer
(forwards from 16 maps to 32: 2x2 with a stride of 2 4x4 at 71 % of the peak, 11x2 at 80; 3x3 with a stride of 3 8x2 at
65, 11x2 at 68)."""
FETCHING_ROWS, FETCHING_ROWS_APART = 6, 8
"""Of tiles that fetch ahead, where taps share vectors and where they do not: with fewer multiply-adds for each vector,
it takes 3 to 15 % instead."""
NEAR_BYTES = 24 * 1024
"""What a tile, or all of a line, may read again and again and still find in the first cache: half of it."""

LONGEST_RUN = 16
"""Taps of a run at most, since a run is code without a loop."""
LONGEST_FAR_RUN = 4
"""Likewise where steps are told at run time, which takes registers for addresses: 1x1 from 64 maps to 64 at 71 % of
the peak without runs, at 90 % with runs of 4, at 49 % with 8."""


@cache
def vector_registers() -> int:
    """How many 64-byte vectors the CPU's registers hold: 32 with AVX-512, 8 with AVX or NEON, else 4."""
    _, name, features = cpu_target.target_context.codegen().magic_tuple()[:3]
    enabled = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    if "avx512f" in enabled:
        return 32
    return 8 if enabled & {"avx", "avx2", "neon"} else 4


@cache
def choose_tile(
    rows: int,
    columns: int,
    taps: int,
    column_step: int,
    run: int = 1,
    run_step: int = 1,
    used: tuple[tuple[int, int], ...] = (),
    halves: bool = False,
    line_vectors: int = 0,
    apart: bool = False,
    strides: bool = False,
) -> TileShape:
    """The tile for an output of rows x columns that sums `taps` products, with columns `column_step` apart.

    `run` is how many taps in a row read vectors `run_step` apart, 0 if that is told at run time. `used` are the first
    and last taps of a line that each column uses, where not all columns use all. `halves` says that a tile's columns
    may be halves of vectors, if the CPU's registers hold few. All columns of an image's line together read
    `line_vectors` vectors, as do the tiles of the next rows after them; no other line reads those if lines are `apart`.
    If the output `strides`, its next line starts to read more than a line further.
    """
    one_run = line_vectors > 0 and run == taps
    new_lines = apart or strides and vector_registers() == 32
    most = max((last - first for first, last in used), default=0)
    shifted = column_step == run_step == 1
    run = _largest_divisor(run, LONGEST_RUN if run_step else LONGEST_FAR_RUN)

    def share(spans: tuple[tuple[int, int], ...], c: int) -> float:
        tiles = used_by_tiles(spans, c) if most else []
        return sum(last - first for first, last in tiles) / (most * len(tiles)) if tiles else 1.0

    if halves and vector_registers() == 8:
        twice = tuple(span for span in used for _ in range(2))

        def half_cost(r: int, h: int) -> float:
            read = (h + 2 * (run - 1)) / run if run_step else float(h)
            return _half_cycles(r, h, read, run) * taps * share(twice, h) + r * h * ENTRY_OVERHEAD / 2

        tile = _cheapest(rows, 2 * columns, None, _halves_fit, half_cost)
        if tile.columns % 2 == 0:
            tile = TileShape(tile.rows, tile.columns // 2, 1, column_step, run, run_step)
        else:
            tile = replace(tile, run=run, column_step=column_step, run_step=2 * run_step, halved=True)
        return _fetching(tile, rows, taps, one_run, new_lines)

    def cost(r: int, c: int) -> float:
        vectors = (c + run - 1) / run if shifted else float(c)
        # Runs of maps, filters or samples read each vector once.
        near = taps * vectors * VECTOR_BYTES <= NEAR_BYTES and run_step > 0
        line_near = line_vectors * VECTOR_BYTES <= NEAR_BYTES
        fetched = vectors if _fetches(TileShape(r, c, 1, column_step, run, run_step), taps, one_run) else 0.0
        waiting = 2.0 if one_run and not fetched else 1.0
        far = vectors * ((0.0 if line_near else LINE_LOAD) if near else waiting * FAR_LOAD)
        return _cycles(r, c, far, vectors, run, fetched) * taps * share(used, c) + r * c * ENTRY_OVERHEAD

    tile = _cheapest(rows, columns, None, lambda r, c: _fits(r, c, run if shifted else 0), cost)
    tile = replace(tile, run=run, column_step=column_step, run_step=run_step)
    return _fetching(tile, rows, taps, one_run, new_lines)


def _fetching(tile: TileShape, rows: int, taps: int, one_run: bool, new_lines: bool) -> TileShape:
    """The tile with what it fetches ahead: of its next columns, and of the next line.

    The first is worth it where a tile reads more than the first cache holds, or where all taps are one run: then each
    reads a map of its own, and the processor itself follows few of them at once. Measured on one core, forwards: from
    64 maps to 64 by 3x3 87 to 92 % of the peak, 128 to 128 89 to 94, by 1x1 from 64 maps to 32 60 to 76 (backwards from
    128 to 64, which fill the second cache, 78 to 75); products of Winograd's algorithm no difference.

    Lines that are apart are new to the tiles of the first rows. So those of all rows fetch the next line between them:
    3x3 with a stride of 3 from 16 maps to 32 70 to 77 %, with AVX2 66 to 72; 2x2 with a stride of 2 from 64 to 128 with
    AVX2 59 to 67. With a stride of 2 that is worth it as well for lines that share some: 3x3 from 32 maps to 64 78 to
    84 %, 5x5 from 16 to 32 87 to 89, 7x7 from 3 to 32 87 to 89; but not with AVX2, which has more tiles of rows (83 to
    67, 70 to 67, 85 to 86).
    """
    # The vectors that a run reads for its columns and not for the next ones, if there are none between them.
    fresh = -(-tile.columns * tile.column_step // tile.units)
    contiguous = tile.run_step > 0 and tile.run >= tile.column_step
    line_fetches = -(-fresh // -(-rows // tile.rows)) if new_lines and contiguous else 0
    return replace(tile, fetches=_fetches(tile, taps, one_run), line_fetches=line_fetches)


def _fetches(tile: TileShape, taps: int, one_run: bool) -> bool:
    """Whether it fetches what its next columns read."""
    shifted = tile.column_step == 1 and tile.run_step == tile.units
    columns = tile.columns / tile.units
    vectors = (columns + tile.run - 1) / tile.run if shifted else columns
    far = tile.run_step > 0 and taps * vectors * VECTOR_BYTES > NEAR_BYTES
    return tile.rows >= (FETCHING_ROWS if shifted else FETCHING_ROWS_APART) and (one_run or far)


@cache
def choose_strips_tile(rows: int, columns: int, run: int, group_rows: int | None = None) -> TileShape:
    """The tile for `contract_strips`, whose columns need an address each; `run` taps in a row read vectors equally far
    apart. With `group_rows`, its rows must divide that.

    Measured on one core as a share of the peak, 784 inputs and 512 outputs, 128 samples: to the input 6x4 94 %, 5x4 92,
    4x4 89, 12x2 84, 8x3 72; to the weights 6x4 87, 12x2 75; forwards, where rows divide 16, 4x4 82, 8x2 77.
    """
    run = _largest_divisor(run, LONGEST_FAR_RUN)

    def cost(r: int, c: int) -> float:
        return _cycles(r, c, 2.5 * max(c - 4, 0) / run, c, run)

    return replace(_cheapest(rows, columns, group_rows, _fits, cost), run=run)


PACKED_ROWS, PACKED_ROWS_OF_PHASES = 64, 32
"""How many rows make copying what they read worth it to `contract_packed`, and how many of several phases, whose tiles
have few rows each."""
MOST_PADDED = 1.1
"""How many times as many multiply-adds as there are tiles which pass the end may make it."""
PACKED_COLUMNS, PACKED_VECTORS = 32, 4096
"""What a task of it copies: so many columns that lines of an image are read some way along (1x1 from 64 maps to 256: 4
columns at 42 % of the peak, 16 and 32 at 70 to 79), in so many vectors that they stay in the second cache."""


@cache
def choose_packed_tile(rows: int, columns: int, taps: int, phases: int) -> TileShape | None:
    """The tile for `contract_packed`, None where `contract` is faster: by AVX-512 alone, if rows of all phases together
    are many.

    Measured on one core with Ice Lake, as a share of the peak, by `contract` and by this: 1x1 from 64 maps of 8x8 to
    128, in the second cache, 62 and 80 %; from 64 maps of 16x16 to 128, four blocks, 61 and 69, to the input 48 and 73;
    from 64 maps of 8x8 to 256 50 and 77; from 32 maps of 16x16 to 64 49 and 55, to the input (32 rows) 46 and 41; from
    64 of 25x25 to 32 64 and 55, to 48 of 16x16 63 and 54. To the input by 4x4 with a stride of 4, 16 phases of two rows
    47 and 57, of three 52 and 61.
    """
    if vector_registers() < 32 or phases * rows < (PACKED_ROWS if phases == 1 else PACKED_ROWS_OF_PHASES):
        return None
    run = _largest_divisor(taps, LONGEST_FAR_RUN)

    def cost(r: int, c: int) -> float:
        return _cycles(r, c, LINE_LOAD * c, c, run) * taps + r * c * ENTRY_OVERHEAD

    tile = _cheapest(rows, columns, None, _fits, cost)
    padded = -(-rows // tile.rows) * tile.rows * -(-columns // tile.columns) * tile.columns
    if padded > MOST_PADDED * rows * columns:
        return None
    return replace(tile, column_step=1, run=run, run_step=tile.columns)


def choose_packed_tiles(tile: TileShape, taps: int, column_tiles: int, lines: int) -> int:
    """How many tiles of columns a task of `contract_packed` takes, of `column_tiles` in each of `lines` lines of all
    blocks: at least four tasks for a thread, if there are as many tiles."""
    fitting = min(PACKED_COLUMNS // tile.columns, PACKED_VECTORS // (taps * tile.columns))
    return max(1, min(fitting, column_tiles, column_tiles * lines // (4 * get_threads())))


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
    pieces, per_cycle = (1, LOADS) if vector_registers() == 32 else (32 / vector_registers(), 2)

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
        if i * j == 1 or _fits(i * maps, j)
    ]
    return min(shapes, key=cost)


def choose_share(tile: BandShape, bands: int, columns: int, others: int) -> Share:
    """How the tasks of `contract_bands` share `bands` bands of each of `others` phases and blocks: at least four for a
    thread, if there are as many bands."""
    size = -(-columns // tile.columns) * tile.rows * tile.columns
    return Share(max(1, min(bands, bands * others // (4 * get_threads()), BAND_VECTORS // size)), PIECE_MAPS)


STRIP_TILES = 8
"""Tiles of rows in a strip at most: with 4 and 8 of them passes to the input run at 80 and 85 % of the peak (1,024 to
1,024, 256 samples), at 94 % with both from 784 to 512."""
STRIP_TAPS = 128
"""Taps of a piece: with four columns they take 32 KiB of the first cache. To 784 inputs from 512, 128 samples: 64 taps
88 %, 96 89 %, 128 94 %, 192 91 %."""


def choose_strip(tile: TileShape, row_tiles: int, lines: int) -> Strip:
    """How `contract_strips` goes over `row_tiles` tiles of rows of `lines` lines: in at least four tasks for a thread,
    if there are as many tiles, and in pieces of whole runs."""
    tiles = _parts(min(STRIP_TILES, row_tiles * lines // (4 * get_threads())))
    return Strip(tiles, STRIP_TAPS // tile.run * tile.run)


def choose_width(tile: TileShape, groups: int) -> int:
    """How many of the `groups` vectors of outputs a line has for the gradient of a dense layer's weights: whole tiles,
    and at least a line for each thread, if they can be divided so."""
    fitting = (width for width in range(tile.columns, groups + 1, tile.columns) if groups % width == 0)
    return max((width for width in fitting if groups // width >= get_threads()), default=groups)


def _largest_divisor(number: int, most: int) -> int:
    return max(divisor for divisor in range(1, most + 1) if number % divisor == 0)


def choose_blocks(block_vectors: int) -> int:
    """Over how many blocks, of `block_vectors` vectors, all phases of a strided convolution's gradient to the input go
    before they take the next ones: what the phases read then comes from the threads' second caches.

    Measured on one core: 16 maps of 32x32 from 32, four blocks, at 68 % of the peak in one go, at 72 % one by one.
    """
    return max(1, get_threads() * SCRATCH_BYTES // (block_vectors * VECTOR_BYTES))


def used_by_tiles(used: tuple[tuple[int, int], ...], columns: int) -> list[tuple[int, int]]:
    """The taps that at least one column of each tile uses, from those that each column uses."""
    tiles = []
    for start in range(0, len(used), columns):
        start = min(start, len(used) - columns)
        wanted = [span for span in used[start : start + columns] if span[1] > span[0]]
        tiles.append((min((span[0] for span in wanted), default=0), max((span[1] for span in wanted), default=0)))
    return tiles


@cache
def choose_lanes_tile(rows: int, taps: int, run: int = 1) -> TileShape:
    """The tile for the gradient of rows x taps weights, which sums over samples and positions; `run` taps in a row read
    vectors that follow each other.

    Every tile reads the deltas of its rows anew, each row from an address of its own; taps are shifts of lines that
    stay near, unless the kernel is 1 wide. Measured on one core: 4x6 at 106 to 176 GFLOP/s, 8x3 at 62 to 165. With
    AVX2 over 18 layers halves of 4x3 reach 72 % of the peak, 2x5 64 %, 3x3 62 %, 5x2 61 %; 1.4 loads a cycle were the
    most that was seen there. 6 rows of 5x5 taps: 3x5, whose runs need one address, 172 GFLOP/s, 3x7 164; a single row:
    1x10 136, 1x15 115.
    """
    halved = vector_registers() < 32

    def cost(r: int, c: int) -> float:
        addresses = 0.15 * c / gcd(c, run)
        if halved:
            return max(r * c / 2, (r + c) / 1.4, 4.0) + 1.0 + addresses
        # Six addresses are in TAP_OVERHEAD.
        return _cycles(r, c, r + (FAR_LOAD * c if run == 1 else 0.0), c) - 0.9 + addresses

    def fits(r: int, c: int) -> bool:
        return r * c + c < 2 * vector_registers() if halved else _fits(r, c) and c <= 10

    tile = _cheapest(rows, taps, None, fits, cost)
    return replace(tile, run=gcd(tile.columns, run), halved=halved)


@cache
def choose_transposed_tile(taps: int, groups: int, run: int) -> TileShape:
    """The tile for the gradient of the weights of `groups` vectors of maps x taps, which sums over positions and
    samples; `run` taps in a row lie in vectors that follow each other.

    Measured on one core without runs, as a share of the peak: 8x2 97 %, 9x2 88 %, 12x2 87 %, 14x2 86 %, since more
    than eight addresses do not stay in registers; with runs 9x2 and 12x2 98 %. With AVX2 6x1 83 to 99 %, 5x1 85 to
    97 %, 4x1 79 to 83 %, 2x2 78 to 84 %.
    """
    pieces, loads = (1, LOADS) if vector_registers() == 32 else (2, 1.3)

    def cost(r: int, c: int) -> float:
        addresses = r // gcd(r, run)
        cycles = max(r * c / 2 * pieces, (r + c * pieces) / loads, 5.0)
        # A row's scalars are 16 to a line of the cache, a column is all of it.
        return cycles + (0.15 if addresses > 8 else 0.03) * addresses + 0.03 * r * c + 0.3 * c * pieces + 0.2

    def fits(r: int, c: int) -> bool:
        return _fits(r, c) or (vector_registers() == 32 and (r, c) == (14, 2) and run == 7)

    tile = _cheapest(taps, groups, None, fits, cost)
    return replace(tile, run=gcd(tile.rows, run))


def choose_lanes(
    filters: int, channels: int, area: int, samples: int, lanes: int, shared: bool
) -> Literal["samples", "filters", "channels"]:
    """What stands in the lanes while the gradient of the weights is computed: samples with `contract_lanes`, filters or
    channels with `contract_transposed`, for kernels of `area` entries; `shared` says that several taps read the same
    vectors.

    The unit of cost is a cycle of a core with AVX-512. Fitted there to 25 layers: a product of vectors costs 0.63
    with samples in the lanes where taps share vectors, 0.8 where not; with maps in them 0.54, or 0.6 with a single
    group, for each sample that is there, and transposing a vector 4.5. Sizes alone decide, since sums run in another
    order.
    """
    blocks = -(-samples // lanes)
    full_blocks, rest = divmod(samples, lanes)
    present = full_blocks * lanes + -(-rest // SAMPLES) * SAMPLES

    def transposed(maps: int, taps: int) -> float:
        groups = -(-maps // lanes)
        products = present * groups * taps * (0.54 if groups > 1 else 0.6)
        return products + 4.5 * maps * blocks if maps >= lanes else inf

    costs: dict[Literal["samples", "filters", "channels"], float] = {
        "samples": (0.63 if shared else 0.8) * filters * channels * area * blocks,
        "filters": transposed(filters, channels * area),
        # With larger kernels, other taps would read other positions of what is transposed.
        "channels": transposed(channels, filters) if area == 1 else inf,
    }
    return min(costs, key=lambda wide: costs[wide])


def _cycles(r: int, c: int, far: float, vectors: float, run: int = 1, fetched: float = 0.0) -> float:
    """Cycles of a tap, one of a run, for a tile of r x c vectors: its multiply-adds, two a cycle, its loads of
    `vectors` vectors and what is fetched ahead, or at least the latency of one addition; and what far loads cost beside
    that. With one or two rows, one multiply-add a cycle was the most that was seen, or 1.4 where taps share vectors."""
    pieces = 32 / vector_registers()
    rate = 2 if r > 2 else 1.4 if vectors < c else 1
    loads = (r + vectors * pieces + fetched) / (LOADS if pieces == 1 else 2)
    return max(r * c / rate * pieces, loads, 4.0) + TAP_OVERHEAD / run + 0.15 * r + far


def _half_cycles(r: int, h: int, read: float, run: int) -> float:
    """Likewise for a tile of r x h halves of vectors in registers that hold one each, which loads `read` of them.

    Measured on one core with AVX2: 4x3 halves at 122 GFLOP/s where 4x1 vectors ran at 105, 2x5 at 104 where 4x3 did at
    114 (16 maps of 32x32 by 3x3).
    """
    return max(r * h / 2, (r + read) / 1.4, 5.6) + 1.0 / run + 0.1 * r


def _halves_fit(r: int, h: int) -> bool:
    """Whether the sums of such a tile fit 16 registers, beside its columns and a scalar."""
    return (r + 1) * h < 16


def _fits(r: int, c: int, run: int = 0) -> bool:
    """Whether the sums of a tile of r x c vectors fit the registers, beside its columns and one row, a scalar in all
    lanes, or, where `tile_fma` has runs and few rows, beside a run of scalars for each row and one column; where
    registers are half as wide, a scalar takes half a vector.

    Measured on one core: 3x8 runs at 96 GFLOP/s, 3x7 at 108; with AVX2 3x2 at 65, 6x1 at 86.
    """
    few = 0 < r * run < c
    if vector_registers() == 32:
        return r * c <= 24 and r * c + (r * run if few else c) < 31
    return r * c + (r * run / 2 + 0.5 if few else c) + 0.5 <= 8


def _cheapest(
    rows: int,
    columns: int,
    group_rows: int | None,
    fits: Callable[[int, int], bool],
    cost: Callable[[int, int], float],
) -> TileShape:
    """The tile with which ceil(rows / r) * ceil(columns / c) tiles cost least, among those that fit the registers."""
    shapes = [
        (r, c)
        for r in range(1, min(rows, 16, group_rows or rows) + 1)
        for c in range(1, min(columns, 24) + 1)
        if (group_rows is None or group_rows % r == 0) and fits(r, c)
    ]
    return TileShape(*min(shapes, key=lambda shape: -(-rows // shape[0]) * -(-columns // shape[1]) * cost(*shape)))


FORMS = {(3, 3): F43, (5, 5): F45}
"""The forms of Winograd's algorithm, by kernel."""
TRANSFORMS = {F43: 8, F45: 12}
"""What transforming a tile costs for each of its entries, in multiply-adds."""
LEAST_GAIN = 1.25
"""How many times as much direct sums must cost, which are more accurate."""


def choose_form(
    kernel: tuple[int, int], stride: tuple[int, int], rows: int, maps: int, sizes: tuple[int, int], products: int
) -> Form | None:
    """The form of Winograd's algorithm for a pass through the image, None for direct sums, which take `products`
    products for each pair of maps.

    The unit of cost is a multiply-add of vectors in a tile; between the transforms one costs 1.1. Measured on one core
    over 23 layers, direct sums took 0.5 times as long as Winograd's algorithm for 5x5 kernels from 1 map to 32, 1.4
    from 6 to 16 (but 0.98 in a step of LeNet-5), 2.9 from 32 to 32. Sizes alone decide, never the CPU, since the
    result's last bits depend on it.
    """
    form = FORMS.get(kernel)
    if form is None or stride != (1, 1):
        return None
    cost = form.entries * _tiles(form, sizes) * (1.1 * rows * maps + TRANSFORMS[form] * (rows + maps))
    return form if products * rows * maps > LEAST_GAIN * cost else None


def choose_input_form(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    rows: int,
    maps: int,
    sizes: tuple[int, int],
    outputs: tuple[int, int],
    products: int,
) -> tuple[Form | None, bool]:
    """Likewise for the gradient to the input, of `sizes`, and whether it goes over the tiles of the gradient of the
    output, of `outputs`: where those are fewer, and all of them, transformed, fit the second cache."""
    form = FORMS.get(kernel)
    if form is None:
        return None, False
    tiles = _tiles(form, outputs)
    overlaps = tiles < _tiles(form, sizes) and form.entries * maps * tiles * VECTOR_BYTES <= SCRATCH_BYTES
    chosen = choose_form(kernel, stride, rows, maps, outputs if overlaps else sizes, products)
    return chosen, overlaps and chosen is not None


def choose_weights_form(
    kernel: tuple[int, int], stride: tuple[int, int], rows: int, maps: int, sizes: tuple[int, int]
) -> Form | None:
    """Likewise for the gradient to the weights, where direct sums run over all positions, with samples in the lanes
    (multiply-adds cost 1.3) or with maps in them (1.1); and transposing costs 6, adding up 0.5 for each of the
    transformed entries, of which there are more. `rows` fill a vector at least."""
    form = FORMS.get(kernel)
    lanes = VECTOR_BYTES // 4
    if form is None or stride != (1, 1) or rows < lanes:
        return None
    padded = -(-rows // lanes) * lanes
    tiles, area, positions = _tiles(form, sizes), form.taps**2, sizes[0] * sizes[1]
    sums = 0.5 * rows * maps * -(-tiles // WEIGHTS_TILES)
    cost = form.entries * (tiles * (1.1 * padded * maps + TRANSFORMS[form] * (rows + maps) + 6 * rows) + sums)
    return form if maps * area * positions * min(1.3 * rows, 1.1 * padded) > LEAST_GAIN * cost else None


def _tiles(form: Form, sizes: tuple[int, int]) -> int:
    return -(-sizes[0] // form.outputs) * -(-sizes[1] // form.outputs)


SCRATCH_BYTES = 1_200_000
"""Transformed input that a task of Winograd's algorithm works on: with its products it fits a second cache of 2 MiB."""


def choose_tiling(form: Form, extent: Extent, maps: int) -> Tiling:
    """How an output is cut into tiles, and how many of them a task takes: fewer, larger tasks read the kernels less
    often. Sums do not depend on it."""
    across = -(-extent.columns // form.outputs)
    tiles = _tiles(form, (extent.lines, extent.columns))
    fitting = max(1, SCRATCH_BYTES // (form.entries * maps * VECTOR_BYTES))
    # Eight tasks are enough for the threads of a small machine to share, if each has four tiles.
    groups = max(min(-(-8 // extent.blocks), tiles // 4), min(-(-get_threads() // extent.blocks), tiles))
    groups = max(groups, -(-tiles // fitting))
    return Tiling(*extent, maps, across, tiles, -(-tiles // groups))


def choose_shares(blocks: int, row_tiles: int) -> int:
    """Into how many tasks `winograd_overlap` cuts the rows of each of `blocks` blocks: as few as give every thread one,
    since each transforms the gradient anew."""
    return min(-(-get_threads() // blocks), row_tiles)


@cache
def choose_winograd_tile(tiling: Tiling, lanes: int) -> TileShape:
    """The tile for the products of Winograd's algorithm; its rows divide `lanes`. All vectors come from the second
    cache.

    Measured on one core, 64 maps of 16x16: 8x2 and 8x3 3.1 ms, 4x5 3.3 ms, 4x2 and 8x1 3.6 ms. With AVX2 64 maps take
    4.4 ms with 4x1, 3.9 with halves of 4x3; 32 maps 1.01 and 1.03.
    """

    run = _largest_divisor(tiling.maps, LONGEST_FAR_RUN)

    def cost(r: int, c: int) -> float:
        return _cycles(r, c, FAR_LOAD * c, c) * tiling.maps + r * c * ENTRY_OVERHEAD

    def half_cost(r: int, h: int) -> float:
        return _half_cycles(r, h, h, run) * tiling.maps + r * h * ENTRY_OVERHEAD / 2

    halved = vector_registers() == 8 and tiling.maps > 32
    if halved:
        tile = _cheapest(tiling.rows, 2 * tiling.group, lanes, _halves_fit, half_cost)
    else:
        tile = _cheapest(tiling.rows, tiling.group, lanes, _fits, cost)
    return replace(tile, column_step=1, run=run, run_step=0, tap_step=lanes, halved=halved)


WEIGHTS_TILES = 4
"""How many tiles `winograd_weights` takes at a time, after which sums are added to those of the part: the same on every
CPU, since it belongs to the order of the sum. Measured on one core, 64 maps of 16x16: 2.6 ms, with two or three tiles
2.5 to 2.7, with six or eight 2.9 to 3.1, when what is transformed takes more than half of the second cache."""


def choose_weights_tiling(tiling: Tiling) -> Tiling:
    """The tiling for the gradient to the weights."""
    return tiling._replace(group=min(WEIGHTS_TILES, tiling.tiles))


NEAR_VECTORS = 450
"""Vectors of a piece of `contract_lanes` that a tile reads, for its rows and its runs of taps: they stay in the first
cache."""
PIECE_BYTES = 1_200_000
"""What all rows and maps of a piece may take together, so that it stays in the second cache (128 maps of 8x8:
141 GFLOP/s with 500,000, 178 with 1,500,000)."""
PART_POSITIONS = 64
"""Positions that a part of a sum has at least; fewer, and adding up its lanes would take as long as its products."""
MOST_PARTS = 8
"""Parts of a sum: enough for the threads of a small machine, each of which then reads what it wrote itself."""
MOST_PARTS_BYTES = 16_000_000
"""What all parts of a sum may take together."""


def choose_cut(lines: int, columns: int, line_vectors: int, part_bytes: int, kernel: int, stride: int) -> Cut:
    """How the sum for the gradient to the weights is cut: `lines` lines of all images, of `columns` positions, where a
    line of input and gradient takes `line_vectors` vectors, and a part `part_bytes`; kernel and stride across.

    Measured on one core over 18 layers, as a share of the peak, for pieces of 48, 64, 96 and 128 positions whatever the
    kernel: 67, 69, 69 and 67 % (with AVX2 73, 74, 73 and 71 %); by 1x1 and by 3x3 with strides of 3, 45 to 52 % from
    96 on.
    """
    parts = _parts(min(lines, lines * columns // PART_POSITIONS, MOST_PARTS_BYTES // part_bytes, MOST_PARTS))
    part = -(-lines // parts)
    # A tile of 4 x 6 stands for all, whatever the CPU's: a position of its rows, and of what its taps read anew.
    wanted = NEAR_VECTORS / (4 + -(-6 // kernel) * min(stride, kernel))
    # Pieces of a part are as equal as can be. Two tasks for every thread, or as many as parts, if those are more; sums
    # do not depend on that.
    sizes = {-(-part // pieces) for pieces in range(1, part + 1)}
    fitting = max(1, PIECE_BYTES // (line_vectors * VECTOR_BYTES))
    piece = min((size for size in sizes if size <= fitting), key=lambda size: abs(log(size * columns / wanted)))
    return Cut(parts, piece, max(1, 2 * get_threads() // parts))


SEGMENT_POSITIONS = 8
"""About how many positions a segment of a line has, of which `contract_transposed` takes whole ones."""
PANEL_POSITIONS = 16
"""How many positions it transposes at a time: in two columns 32 KiB, two thirds of the first cache. With 8 to 32
positions 1x1 from 32 maps to 64 runs at 136 to 144 GFLOP/s, 128 maps of 8x8 at 188 to 198."""


def choose_transposed_cut(lines: int, columns: int, part_bytes: int) -> Cut:
    """How the sum of `contract_transposed` over `lines` segments of `columns` positions is cut, where a part takes
    `part_bytes`."""
    parts = _parts(min(lines, lines * columns // PART_POSITIONS, MOST_PARTS_BYTES // part_bytes, MOST_PARTS))
    return Cut(parts, max(1, round(PANEL_POSITIONS / columns)), max(1, 2 * get_threads() // parts))


def choose_groups_cut(groups: int, part_bytes: int) -> Cut:
    """Likewise for `winograd_weights` over groups of tiles, where a part takes `part_bytes`: 36 numbers for the 9
    weights of a 3x3 kernel, or 64 for the 25 of a 5x5 kernel.

    Measured on one core, 128 maps of 8x8: adding up two parts takes 0.4 ms, four 0.8 ms.
    """
    parts = _parts(min(groups, max(2, SCRATCH_BYTES // part_bytes), 4, MOST_PARTS_BYTES // part_bytes))
    return Cut(parts, 1, -(-get_threads() // parts))


def _parts(most: int) -> int:
    """The largest power of two up to `most`, at least 1."""
    return 1 << max(most, 1).bit_length() - 1


CHUNK_VECTORS = 256
"""Vectors that a task of an element-wise pass takes at most: 16 KiB of each array, so that tasks outnumber threads."""


def choose_chunks(tensors: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """How the vectors of tensors, from first to one after the last, are cut into tasks: (tasks, 2), in the order of
    their places within each tensor, so that a thread's share is the same part of every tensor."""
    chunks = [
        ((start - first) / (last - first), start, min(start + CHUNK_VECTORS, last))
        for first, last in tensors
        for start in range(first, last, CHUNK_VECTORS)
    ]
    return np.array([(start, stop) for _, start, stop in sorted(chunks)], np.int64).reshape(-1, 2)
