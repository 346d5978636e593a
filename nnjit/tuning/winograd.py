"""Tiles and tasks of Winograd's algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from math import gcd

from nnjit.kernels.contraction import Extent
from nnjit.kernels.simd import VECTOR_BYTES
from nnjit.kernels.tiles import TileShape
from nnjit.kernels.winograd import Tiling
from nnjit.kernels.winograd_transforms import Form
from nnjit.tuning import machine
from nnjit.tuning.contraction_remainder import LONGEST_REMAINDER_RUN
from nnjit.tuning.cost import (
    ENTRY_OVERHEAD,
    FAR_LOAD,
    LONGEST_FAR_RUN,
    NEAR_BYTES,
    cheapest_tile,
    half_tap_cycles,
    halved_tile_fits,
    largest_divisor,
    tap_cycles,
    tile_fits,
)

FAR_KERNELS = 3.0
"""Cycles that reading a vector of transformed kernels from the third cache costs `winograd_channels`."""
CHANNEL_TRANSFORMS = 5.0
"""Cycles that transforming a tile costs it for each entry."""


def choose_tiling(form: Form, extent: Extent, maps: int) -> Tiling:
    """How an output is cut into tiles, and how many of them a task takes: fewer, larger tasks read the kernels less
    often. Sums do not depend on it."""
    across = -(-extent.columns // form.outputs)
    tiles = form.tiles(extent.lines, extent.columns)
    fitting = max(1, machine.task_bytes() // (form.entries * maps * VECTOR_BYTES))
    # Eight tasks are enough for the threads of a small machine to share, if each has four tiles.
    groups = max(min(-(-8 // extent.blocks), tiles // 4), min(-(-machine.get_threads() // extent.blocks), tiles))
    groups = max(groups, -(-tiles // fitting))
    return Tiling(*extent, maps, across, tiles, -(-tiles // groups))


def choose_row_shares(count: int, row_tiles: int) -> int:
    """Into how many tasks the rows of each of `count` blocks, in `winograd_overlap`, or parts, in `winograd_weights`,
    are cut: as few as give every thread one, since each transforms the gradient anew."""
    return min(-(-machine.get_threads() // count), row_tiles)


@cache
def choose_winograd_tile(tiling: Tiling, lanes: int) -> TileShape:
    """The tile for the products of Winograd's algorithm; its rows divide `lanes`. All vectors come from the second
    cache.

    Measured on one core, 64 maps of 16x16: 8x2 and 8x3 3.1 ms, 4x5 3.3 ms, 4x2 and 8x1 3.6 ms. With AVX2 64 maps take
    4.4 ms with 4x1, 3.9 with halves of 4x3; 32 maps 1.01 and 1.03.
    """

    run = largest_divisor(tiling.maps, LONGEST_FAR_RUN)

    def cost(r: int, c: int) -> float:
        return tap_cycles(r, c, FAR_LOAD * c, c) * tiling.maps + r * c * ENTRY_OVERHEAD

    def half_cost(r: int, h: int) -> float:
        return half_tap_cycles(r, h, h, run) * tiling.maps + r * h * ENTRY_OVERHEAD / 2

    halved = machine.vector_registers() == 8 and tiling.maps > 32
    if halved:
        tile = cheapest_tile(tiling.rows, 2 * tiling.group, lanes, halved_tile_fits, half_cost)
    else:
        tile = cheapest_tile(tiling.rows, tiling.group, lanes, tile_fits, cost)
    return replace(tile, column_step=1, run=run, run_step=0, tap_step=lanes, halved=halved)


@cache
def choose_channels_tiling(
    form: Form, extent: Extent, maps: int, channels: int, phases: int, lanes: int
) -> tuple[TileShape, Tiling, int]:
    """The tile of `winograd_channels`, how the image is cut, of `maps` vectors for its `phases` together, and how many
    tasks share the rows of a group of tiles. Sums do not depend on it.

    A task costs transforming its part of the image, its share of the products, and reading as large a share of the
    kernels, which come from afar.
    """
    run = largest_divisor(gcd(channels, lanes), LONGEST_REMAINDER_RUN)
    depth, across = channels * phases, -(-extent.columns // form.outputs)
    tiles, threads = form.tiles(extent.lines, extent.columns), machine.get_threads()
    number = extent.blocks * tiles
    fitting = max(1, machine.task_bytes() // (form.entries * maps * VECTOR_BYTES))

    def candidates() -> Iterator[tuple[float, TileShape, int, int]]:
        fewest = -(-number // fitting)
        for groups in range(fewest, min(fewest + 4 * threads, number) + 1):
            group = -(-number // groups)
            if -(-number // group) != groups:
                continue
            tile = channels_tile(extent.rows, group, depth, run)
            panels = extent.rows // tile.columns
            for shares in range(1, min(panels, 4 * threads) + 1):
                rounds = -(-groups * shares // threads)
                turns = -(-group // tile.rows) * (tile_cost(tile.columns, tile.rows) + 4.0 * tile.rows * tile.columns)
                products = form.entries * -(-panels // shares) * (turns + FAR_KERNELS * depth * tile.columns)
                transforms = form.entries * group * (maps + extent.rows / shares)
                yield rounds * (products + CHANNEL_TRANSFORMS * transforms), tile, group, shares

    def tile_cost(vectors: int, positions: int) -> float:
        far = FAR_LOAD * vectors if depth * vectors * VECTOR_BYTES > NEAR_BYTES else 0.0
        return tap_cycles(positions, vectors, far, vectors, run) * depth

    def channels_tile(groups: int, positions: int, depth: int, run: int) -> TileShape:
        turned = cheapest_tile(groups, positions, groups, tile_fits, tile_cost)
        return TileShape(turned.columns, turned.rows, row_step=lanes, run=run, run_step=phases, tap_step=1)

    _, tile, group, shares = min(candidates(), key=lambda candidate: candidate[0])
    return tile, Tiling(*extent, maps, across, tiles, group), shares
