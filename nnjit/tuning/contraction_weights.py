"""What stands in the lanes while the gradient of a convolution's weights is computed; tiles and cuts of
`contract_lanes`."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import gcd, inf, log
from typing import Literal

from nnjit.kernels.contraction_weights import Cut
from nnjit.kernels.simd import VECTOR_BYTES
from nnjit.kernels.tiles import SAMPLES, TileShape
from nnjit.tuning import machine
from nnjit.tuning.cost import FAR_LOAD, cheapest_tile, tap_cycles, tile_fits
from nnjit.tuning.parts import choose_parts


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
    halved = machine.vector_registers() < 32

    def cost(r: int, c: int) -> float:
        addresses = 0.15 * c / gcd(c, run)
        if halved:
            return max(r * c / 2, (r + c) / 1.4, 4.0) + 1.0 + addresses
        # Six addresses are in TAP_OVERHEAD.
        return tap_cycles(r, c, r + (FAR_LOAD * c if run == 1 else 0.0), c) - 0.9 + addresses

    def fits(r: int, c: int) -> bool:
        return r * c + c < 2 * machine.vector_registers() if halved else tile_fits(r, c) and c <= 10

    tile = cheapest_tile(rows, taps, None, fits, cost)
    return replace(tile, run=gcd(tile.columns, run), halved=halved)


NEAR_VECTORS = 450
"""Vectors of a piece of `contract_lanes` that a tile reads, for its rows and its runs of taps: they stay in the first
cache."""
PIECE_BYTES = 1_200_000
"""What all rows and maps of a piece may take together, so that it stays in the second cache (128 maps of 8x8:
141 GFLOP/s with 500,000, 178 with 1,500,000)."""


def choose_cut(lines: int, columns: int, line_vectors: int, part_bytes: int, kernel: int, stride: int) -> Cut:
    """How the sum for the gradient to the weights is cut: `lines` lines of all images, of `columns` positions, where a
    line of input and gradient takes `line_vectors` vectors, and a part `part_bytes`; kernel and stride across.

    Measured on one core over 18 layers, as a share of the peak, for pieces of 48, 64, 96 and 128 positions whatever the
    kernel: 67, 69, 69 and 67 % (with AVX2 73, 74, 73 and 71 %); by 1x1 and by 3x3 with strides of 3, 45 to 52 % from
    96 on.
    """
    parts = choose_parts(lines, columns, part_bytes)
    part = -(-lines // parts)
    # A tile of 4 x 6 stands for all, whatever the CPU's: a position of its rows, and of what its taps read anew.
    wanted = NEAR_VECTORS / (4 + -(-6 // kernel) * min(stride, kernel))
    # Pieces of a part are as equal as can be. Two tasks for every thread, or as many as parts, if those are more; sums
    # do not depend on that.
    sizes = {-(-part // pieces) for pieces in range(1, part + 1)}
    fitting = max(1, PIECE_BYTES // (line_vectors * VECTOR_BYTES))
    piece = min((size for size in sizes if size <= fitting), key=lambda size: abs(log(size * columns / wanted)))
    return Cut(parts, piece, max(1, 2 * machine.get_threads() // parts))
