"""Where Winograd's algorithm takes the place of direct sums, its tiles and tasks."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from nnjit.kernels.contraction import Extent
from nnjit.kernels.simd import VECTOR_BYTES
from nnjit.kernels.tiles import TileShape
from nnjit.kernels.winograd import Tiling
from nnjit.kernels.winograd_transforms import F43, F45, Form
from nnjit.tuning import machine
from nnjit.tuning.cost import (
    ENTRY_OVERHEAD,
    FAR_LOAD,
    LONGEST_FAR_RUN,
    cheapest_tile,
    half_tap_cycles,
    halved_tile_fits,
    largest_divisor,
    tap_cycles,
    tile_fits,
)

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
    cost = form.entries * tiles_of(form, sizes) * (1.1 * rows * maps + TRANSFORMS[form] * (rows + maps))
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
    tiles = tiles_of(form, outputs)
    overlaps = tiles < tiles_of(form, sizes) and form.entries * maps * tiles * VECTOR_BYTES <= machine.SCRATCH_BYTES
    chosen = choose_form(kernel, stride, rows, maps, outputs if overlaps else sizes, products)
    return chosen, overlaps and chosen is not None


def tiles_of(form: Form, sizes: tuple[int, int]) -> int:
    return -(-sizes[0] // form.outputs) * -(-sizes[1] // form.outputs)


def choose_tiling(form: Form, extent: Extent, maps: int) -> Tiling:
    """How an output is cut into tiles, and how many of them a task takes: fewer, larger tasks read the kernels less
    often. Sums do not depend on it."""
    across = -(-extent.columns // form.outputs)
    tiles = tiles_of(form, (extent.lines, extent.columns))
    fitting = max(1, machine.SCRATCH_BYTES // (form.entries * maps * VECTOR_BYTES))
    # Eight tasks are enough for the threads of a small machine to share, if each has four tiles.
    groups = max(min(-(-8 // extent.blocks), tiles // 4), min(-(-machine.get_threads() // extent.blocks), tiles))
    groups = max(groups, -(-tiles // fitting))
    return Tiling(*extent, maps, across, tiles, -(-tiles // groups))


def choose_shares(blocks: int, row_tiles: int) -> int:
    """Into how many tasks `winograd_overlap` cuts the rows of each of `blocks` blocks: as few as give every thread one,
    since each transforms the gradient anew."""
    return min(-(-machine.get_threads() // blocks), row_tiles)


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
