"""Tiles and tasks of Winograd's algorithm."""

from __future__ import annotations

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
"""Cycles that reading a vector of transformed kernels costs a task of `winograd_channels`, mostly from the third
cache."""
CHANNEL_TRANSFORM = 5.0
"""Cycles that transforming a vector of a tile costs it, for each entry."""
GROUP_COST = 0.25
"""What a group of tiles costs `winograd` beside them, mostly to read the kernels, as a part of a tile."""
MANY_TILES = 64
"""Tiles for each thread from which on it matters little whether threads end at the same time."""


def choose_tiling(form: Form, extent: Extent, maps: int) -> Tiling:
    """How an output is cut into tiles, and how many of them a task takes: fewer, larger tasks read the kernels less
    often. Sums do not depend on it.

    Threads had better end at the same time: with two of Zen 5 and 16 samples, 12 maps of 28x28 to 32 by 3x3 took 109 us
    in seven groups of 7 tiles, in nine of 6 93; 16 of 24x24 to 48 139 in eight groups, 115 in twelve; over 13 passes of
    which the groups are others for it 1.06 times as fast.
    """
    across = -(-extent.columns // form.outputs)
    tiles = form.tiles(extent.lines, extent.columns)
    fitting = max(1, machine.task_bytes() // (form.entries * maps * VECTOR_BYTES))
    # Eight tasks are enough for the threads of a small machine to share, if each has four tiles.
    groups = max(min(-(-8 // extent.blocks), tiles // 4), min(-(-machine.get_threads() // extent.blocks), tiles))
    largest = -(-tiles // max(groups, -(-tiles // fitting)))
    even = extent.blocks * tiles >= MANY_TILES * machine.get_threads()
    sizes = [largest] if even else range(largest, largest // 2, -1)
    return Tiling(*extent, maps, across, tiles, min(sizes, key=lambda group: _last_end(extent.blocks, tiles, group)))


def _last_end(blocks: int, tiles: int, group: int) -> float:
    """When the last thread ends if each takes the next group of tiles as soon as it can, in tiles."""
    ends = [0.0] * machine.get_threads()
    for _ in range(blocks):
        for first in range(0, tiles, group):
            next_free = ends.index(min(ends))
            ends[next_free] += min(group, tiles - first) + GROUP_COST
    return max(ends)


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


def choose_channels_tiling(
    form: Form, extent: Extent, maps: int, channels: int, phases: int, lanes: int
) -> tuple[TileShape, Tiling, int]:
    """The tile of `winograd_channels`, how the images are cut, of `maps` vectors for their `phases` together, and how
    many tasks share the rows of a group of tiles. Sums do not depend on it.

    A task costs transforming its part of the images, its share of the products, and reading as large a share of the
    kernels.
    """
    across, tiles = -(-extent.columns // form.outputs), form.tiles(extent.lines, extent.columns)
    depth, number, threads = channels * phases, extent.blocks * tiles, machine.get_threads()
    fewest = -(-number // max(1, machine.task_bytes() // (form.entries * maps * VECTOR_BYTES)))
    choices = []
    for wanted in range(fewest, min(fewest + machine.wanted_tasks(), number) + 1):
        group = -(-number // wanted)
        tile = choose_channels_tile(extent.rows, group, channels, phases, lanes)
        groups, panels, turns = -(-number // group), extent.rows // tile.columns, -(-group // tile.rows)
        panel = turns * _panel_cost(tile.columns, tile.rows, depth, tile.run) + FAR_KERNELS * depth * tile.columns
        for shares in range(1, min(panels, machine.wanted_tasks()) + 1):
            rounds = -(-groups * shares // threads)
            transforms = CHANNEL_TRANSFORM * group * (maps + extent.rows / shares)
            choices.append((rounds * (-(-panels // shares) * panel + transforms), tile, group, shares))
    _, tile, group, shares = min(choices, key=lambda choice: choice[0])
    return tile, Tiling(*extent, maps, across, tiles, group), shares


@cache
def choose_channels_tile(rows: int, tiles: int, channels: int, phases: int, lanes: int) -> TileShape:
    """The tile for groups of so many tiles, whose columns divide the vectors of `rows`."""
    run = largest_divisor(gcd(channels, lanes), LONGEST_REMAINDER_RUN)

    def cost(vectors: int, positions: int) -> float:
        return _panel_cost(vectors, positions, channels * phases, run)

    turned = cheapest_tile(rows, tiles, rows, tile_fits, cost)
    return TileShape(turned.columns, turned.rows, row_step=lanes, run=run, run_step=phases, tap_step=1)


def _panel_cost(vectors: int, positions: int, depth: int, run: int) -> float:
    """What the products of a tile cost, for one entry."""
    far = FAR_LOAD * vectors if depth * vectors * VECTOR_BYTES > NEAR_BYTES else 0.0
    return tap_cycles(positions, vectors, far, vectors, run) * depth + positions * vectors * ENTRY_OVERHEAD
