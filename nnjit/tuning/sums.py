"""How sums over positions and samples are cut, for the gradients of weights. Sizes alone decide, since each cut belongs
to the order of a sum: nothing here may ask for the CPU or the threads.
"""

from __future__ import annotations

from nnjit.kernels.contraction_weights import Cut
from nnjit.kernels.simd import VECTOR_BYTES
from nnjit.kernels.winograd import Tiling

PART_POSITIONS = 64
"""Positions that a part of a sum has at least; fewer, and adding up its lanes would take as long as its products."""
MOST_PARTS = 8
"""Parts of a sum: enough for the threads of a small machine, each of which then reads what it wrote itself."""
MOST_PARTS_BYTES = 16_000_000
"""What all parts of a sum may take together."""


def _parts(lines: int, columns: int, part_bytes: int) -> int:
    """Of a sum over `lines` lines of `columns` positions, where a part takes `part_bytes`."""
    return power_of_two(min(lines, lines * columns // PART_POSITIONS, MOST_PARTS_BYTES // part_bytes, MOST_PARTS))


def power_of_two(most: int) -> int:
    """The largest power of two up to `most`, at least 1."""
    return 1 << max(most, 1).bit_length() - 1


NEAR_VECTORS = 380
"""Vectors of a piece of `contract_lanes` that a tile reads, for its rows and its runs of taps: they stay in the first
cache, of which 32 KiB are the least that processors have. With Zen 3 on one core, over 35 random layers 1.025 times as
fast as with 450, as with 270 (3x3 from 32 maps of 32x32 to 8 4.55 to 3.73 ms, with a stride of 2 from 32 of 56x56 to 12
3.58 to 2.82). With Zen 5, over 67 layers, 280 and 450 are within 1 % of it."""
PIECE_BYTES = 1_200_000
"""What all rows and maps of a piece may take together, so that it stays in the second cache (128 maps of 8x8:
141 GFLOP/s with 500,000, 178 with 1,500,000)."""


def choose_lanes_cut(lines: int, columns: int, line_vectors: int, part_bytes: int, kernel: int, stride: int) -> Cut:
    """How the sum of `contract_lanes` is cut: `lines` lines of all images, of `columns` positions, where a
    line of input and gradient takes `line_vectors` vectors, and a part `part_bytes`; kernel and stride across.

    Measured on one core over 18 layers, as a share of the peak, for pieces of 48, 64, 96 and 128 positions whatever the
    kernel: 67, 69, 69 and 67 % (with AVX2 73, 74, 73 and 71 %); by 1x1 and by 3x3 with strides of 3, 45 to 52 % from
    96 on.
    """
    parts = _parts(lines, columns, part_bytes)
    part = -(-lines // parts)
    # A tile of 4 x 6 stands for all, whatever the CPU's: a position of its rows, and of what its taps read anew.
    wanted = NEAR_VECTORS / (4 + -(-6 // kernel) * min(stride, kernel))
    # Pieces of a part are as equal as can be.
    fitting = max(1, PIECE_BYTES // (line_vectors * VECTOR_BYTES))
    sizes = sorted({-(-part // pieces) for pieces in range(1, part + 1)})
    return Cut(parts, min((size for size in sizes if size <= fitting), key=lambda size: _times(size * columns, wanted)))


LINE_POSITIONS = 64
"""How long lines are made at most that may have any length (weight gradients by 1x1, with AVX2: 48 and 64 positions at
66 % of the peak, 96 and more at 49 %, since a piece of a sum takes whole lines)."""
SEGMENT_POSITIONS = 8
"""About how many positions a segment of a line has, of which `contract_transposed` takes whole ones."""
PANEL_POSITIONS = 16
"""How many positions it transposes at a time: in two columns 32 KiB, two thirds of the first cache. With 8 to 32
positions 1x1 from 32 maps to 64 runs at 136 to 144 GFLOP/s, 128 maps of 8x8 at 188 to 198."""


def long_segment(positions: int, columns: int) -> int:
    """The length of the segments that `contract_lanes` takes of `positions` in a row, in lines of `columns`: long ones,
    since a segment costs as much as one to three positions."""
    return max(length for length in _divisors(positions) if length <= max(LINE_POSITIONS, columns))


def short_segment(positions: int) -> int:
    """Likewise for `contract_transposed`, where segments are the grain of panels and pieces."""
    return min(_divisors(positions), key=lambda length: _times(length, SEGMENT_POSITIONS))


def choose_transposed_cut(lines: int, columns: int, part_bytes: int) -> Cut:
    """How the sum of `contract_transposed` over `lines` segments of `columns` positions is cut, where a part takes
    `part_bytes`."""
    parts = _parts(lines, columns, part_bytes)
    return Cut(parts, max(1, round(PANEL_POSITIONS / columns)))


PIECE_PRODUCTS = 128
"""About how many products `contract_remainder_weights` sums before it adds them to those before: as precise as longer
sums in parts, and adding them costs little."""


def choose_remainder_piece(line_products: int) -> int:
    """How many lines of `line_products` products that are."""
    return max(1, round(PIECE_PRODUCTS / line_products))


WEIGHTS_TILES = 4
"""How many tiles `winograd_weights` takes at a time, after which sums are added to those of the part: the same on every
CPU, since it belongs to the order of the sum. Measured on one core, 64 maps of 16x16: 2.6 ms, with two or three tiles
2.5 to 2.7, with six or eight 2.9 to 3.1, when what is transformed takes more than half of the second cache."""


def choose_weights_tiling(tiling: Tiling) -> Tiling:
    """The tiling of the gradient of the output, in groups of tiles."""
    return tiling._replace(group=min(WEIGHTS_TILES, tiling.tiles))


NEAR_PARTS_BYTES = 1_200_000
"""What more than two parts of `winograd_weights` may take together, so that a second cache of 2 MiB holds them while
they are added up."""
MOST_GROUPS_PARTS = 4
"""Its parts, each of which has more numbers than there are weights: 9 times as many for 2x2 kernels, 4 for 3x3, 1.3 for
7x7, 5.8 for 5x5 with a stride of 2."""


def choose_groups_cut(groups: int, part_bytes: int) -> Cut:
    """How the sum over `groups` groups of tiles is cut, where a part takes `part_bytes`: for example 36 numbers for
    the 9 weights of a 3x3 kernel.

    Measured on one core, 128 maps of 8x8: adding up two parts takes 0.4 ms, four 0.8 ms.
    """
    most = min(MOST_GROUPS_PARTS, max(2, NEAR_PARTS_BYTES // part_bytes))
    return Cut(power_of_two(min(groups, most, MOST_PARTS_BYTES // part_bytes)), 1)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _times(a: float, b: float) -> float:
    """How many times as large one of them is as the other."""
    return max(a / b, b / a)
