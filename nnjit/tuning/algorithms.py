"""Which algorithm a pass uses, and in which order it sums where there are two. Sizes alone decide, since the last bits
depend on it: nothing here may ask for the CPU or the threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Literal, NamedTuple

from nnjit.kernels.simd import VECTOR_BYTES
from nnjit.kernels.tiles import SAMPLES
from nnjit.kernels.winograd_transforms import FORMS, Form
from nnjit.tuning.sums import WEIGHTS_TILES

# Winograd's algorithm instead of direct sums.

TRANSFORMS, WEIGHTS_TRANSFORMS = {6: 10, 8: 12}, {6: 8, 8: 12}
"""What transforming a tile of so many points costs for each of its entries, in multiply-adds: in passes through an
image, and for the gradient to the weights."""
SUMS_BACK = 1.0
"""What transforming a sum back adds for each block of samples, so many products. (With a batch of 32 from 48 maps to 64
of 2x2 by 7x7, 324 us on one core, by direct sums 273; without it they were chosen.)"""
OVERLAP_TRANSFORMS = 1.5
"""How many times as much as elsewhere transforms cost that add up to overlapping tiles. (To 24 maps of 16x16 from 16 by
7x7, 625 us, by direct sums 565.)"""
LEAST_GAIN = 1.25
"""How many times as much direct sums must cost, which are more accurate."""
ODD_GAIN = 1.5
"""Likewise for a forward pass with tiles of an odd side, which cannot pool. (With LEAST_GAIN two layers of 16 maps by
4x4, each with a pooling, took 1.51 instead of 1.41 ms for a step on two cores, two of 32 and 64 maps 5.1 instead of
6.2.)"""
NEAR_BYTES = 1_200_000
"""What a task reads again and again may take in a second cache of 2 MiB."""
KERNEL_BYTES = 4
"""What an entry of a transformed kernel takes in float32."""
FAR_KERNEL = 0.7
"""What it costs at least to read one from the third cache, in products. (From 64 maps to 64 by 7x7 with a stride of 2
to 7x7 positions, one tile at a time, 3.3 ms on one core, by direct sums 2.7.)"""
FAR_IMAGE = 1.8
"""How many times as much it costs to transform an image that leaves the second cache. (From 256 maps of 16x16 to 16 by
3x3, 2.47 ms on one core, by direct sums 2.96; the other way 1.51 and 2.76.)"""
FAR_TILES = 4.0
"""Likewise for the gradient to the weights, if the transformed tiles leave it. (From 64 maps of 16x16 to 16 by 6x6 with
a stride of 2, 1.57 ms, by direct sums 1.17.)"""
FEW_ROWS = 6
"""Maps of an output for which products cost the same as for fewer. (To 3 maps of 64x64 from 32 by 7x7 with a stride of
2, 1.91 ms, by direct sums 1.52.)"""
OVERLAP_BYTES = 3_000_000
"""What all tiles of a block's gradient may take, transformed, so that most of them stay in a second cache of 2 MiB.
(Without padding from 64 maps of 12x12 to 64 by 3x3, 2.4 MB: 2.51 to 1.52 ms on one core; by 5x5, 3.82 to 3.26.)"""


def count_phases(kernel: tuple[int, int], stride: tuple[int, int]) -> int:
    """How many of an image's phases by the stride a kernel reads."""
    return min(kernel[0], stride[0]) * min(kernel[1], stride[1])


def form_for(kernel: tuple[int, int], stride: tuple[int, int]) -> Form | None:
    """The form whose kernels hold what each phase of the image meets, with zeros where one meets less."""
    return FORMS.get(max(-(-size // step) for size, step in zip(kernel, stride, strict=True)))


def choose_form(
    kernel: tuple[int, int], stride: tuple[int, int], rows: int, maps: int, sizes: tuple[int, int], products: int
) -> Form | None:
    """The form of Winograd's algorithm for a pass through the image, None for direct sums, which take `products`
    products for each pair of maps.

    With a stride each phase of the image is a map of its own, for kernels of as many taps as it meets: 5x5 with a
    stride of 2 are four of 3x3, 144 products for 16 outputs instead of 400.

    The unit of cost is a multiply-add of vectors in a tile; between the transforms one costs 1.1. Measured on one core
    over 23 layers, direct sums took 0.5 times as long as Winograd's algorithm for 5x5 kernels from 1 map to 32, 1.4
    from 6 to 16 (but 0.98 in a step of LeNet-5), 2.9 from 32 to 32. With 8 instead of 10 for the transforms of 3x3 it
    was chosen where direct sums took 0.84 to 0.98 times as long, to or from 6 maps; now they take 1.02 or more.
    """
    form = form_for(kernel, stride)
    if form is None:
        return None
    cost = form_cost(form, rows, maps * count_phases(kernel, stride), sizes)
    gain = ODD_GAIN if form.outputs % 2 else LEAST_GAIN
    return form if products * rows * maps > gain * cost else None


def form_cost(
    form: Form, rows: int, maps: int, sizes: tuple[int, int], phases: int = 1, overlaps: bool = False
) -> float:
    """What a block costs by Winograd's algorithm, for an output of `sizes`, or so many `phases` of one that share tiles
    of the input.

    Few rows wait for loads. Transformed kernels that leave the second cache are read from the third for all the tiles
    that fit a task, the fewer the more maps there are.
    """
    tiles, fitting = form.tiles(*sizes), max(1, NEAR_BYTES // (form.entries * maps * VECTOR_BYTES))
    each = 1.1
    if form.entries * rows * maps * phases * KERNEL_BYTES > NEAR_BYTES:
        each += FAR_KERNEL / min(tiles, fitting)
    products = each * phases * max(rows, FEW_ROWS) * maps
    to_rows = to_maps = TRANSFORMS[form.points] * (OVERLAP_TRANSFORMS if overlaps else 1.0)
    if maps * tiles * form.outputs**2 * VECTOR_BYTES > NEAR_BYTES:
        to_maps *= FAR_IMAGE
    return form.entries * tiles * (products + to_rows * phases * rows + to_maps * maps)


def choose_input_form(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    rows: int,
    maps: int,
    sizes: tuple[int, int],
    outputs: tuple[int, int],
    products: int,
    shared: Sequence[int],
) -> tuple[Form | None, bool]:
    """Likewise for the gradient to the input, of `sizes`, where so many phases at a time share tiles, and whether it
    goes over the tiles of the gradient of the output, of `outputs`: where those are fewer, and all of them stay near.
    """
    form = form_for(kernel, stride)
    if form is None:
        return None, False
    tiles = form.tiles(*outputs)
    overlaps = stride == (1, 1) and tiles < form.tiles(*sizes)
    overlaps = overlaps and form.entries * maps * tiles * VECTOR_BYTES <= OVERLAP_BYTES
    if overlaps:
        cost = form_cost(form, rows, maps, outputs, overlaps=True)
    else:
        cost = input_form_cost(form, rows, maps, sizes, stride, shared)
    if products * rows * maps <= LEAST_GAIN * cost:
        return None, False
    return form, overlaps


def input_form_cost(
    form: Form,
    rows: int,
    maps: int,
    sizes: tuple[int, int],
    stride: tuple[int, int],
    shared: Sequence[int],
) -> float:
    """What a block of the gradient to the input, of `sizes`, costs, where so many phases at a time share tiles."""
    height, width = (-(-size // step) for size, step in zip(sizes, stride, strict=True))
    return sum(form_cost(form, rows, maps, (height, width), phases) for phases in shared)


def choose_weights_form(
    kernel: tuple[int, int], stride: tuple[int, int], rows: int, maps: int, sizes: tuple[int, int]
) -> Form | None:
    """The form for the gradient of the weights, None for direct sums; costs are those of `choose_form`.

    Direct sums run over all positions, with samples in the lanes (multiply-adds cost 1.3) or with maps in them (1.1);
    transposing costs 6, adding up 0.5 for each of the transformed entries, of which there are more. `rows` fill a
    vector at least.
    """
    form = form_for(kernel, stride)
    if form is None or rows < _padded(1):
        return None
    area, positions = kernel[0] * kernel[1], sizes[0] * sizes[1]
    direct = maps * area * positions * min(1.3 * rows, 1.1 * _padded(rows))
    cost = _weights_form_cost(form, rows, maps * count_phases(kernel, stride), sizes)
    return form if direct > LEAST_GAIN * cost else None


def _weights_form_cost(form: Form, rows: int, maps: int, sizes: tuple[int, int], present: float = 1.0) -> float:
    """What the gradient of the weights costs for a block, of which so large a share of the lanes is present."""
    tiles, products = form.tiles(*sizes), 1.1 * _padded(rows) * maps * present
    sums = rows * maps * (0.5 * -(-tiles // WEIGHTS_TILES) + SUMS_BACK)
    to_rows = to_maps = float(WEIGHTS_TRANSFORMS[form.points])
    if form.entries * maps * min(tiles, WEIGHTS_TILES) * VECTOR_BYTES > NEAR_BYTES:
        to_maps *= FAR_TILES
    return form.entries * (tiles * (products + to_rows * rows + to_maps * maps + 6 * rows) + sums)


def _padded(rows: int) -> int:
    """Rows in whole vectors of float32."""
    lanes = VECTOR_BYTES // 4
    return -(-rows // lanes) * lanes


# The order of direct sums.

MOST_MET, MOST_MET_BY_FEW = 1.15, 1.6
"""How many times as many taps as are needed are better met than left out, by more than two maps and by fewer."""


def choose_taps_first(maps: int, width: int, positions: int, needed: int) -> bool:
    """Whether a sum for a gradient to the input of `maps` maps goes over the taps of a line of the kernel before it
    goes over filters; a line of `positions` positions uses `needed` of its `width` taps.

    Where many columns meet the border, a tile of columns can then leave some taps out (LeNet-5's second layer: 211
    instead of 260 us on one core). With one or two maps it matters more that taps share vectors (two maps from 20 by
    5x5: 105 to 157 GFLOP/s, one 68 to 124, from 64 by 9x9 80 to 111).
    """
    return width * positions > (MOST_MET if maps > 2 else MOST_MET_BY_FEW) * needed


MOST_FEW = 6
"""Maps of an output that are few for `contract_bands`: their sums fit the registers of every CPU."""
FAR_WINDOW = 150_000
"""Bytes that a line of the output reads, from which on `contract` waits for the second cache and the third."""
FEW_PRODUCTS = 9
"""Products of a vector of the image, with all maps of the output, that are worth going over it map by map."""
MOST_BORDER = 1.35
"""How many times as many taps as meet the image a line may have, where `contract` leaves out more of the others."""
FEWEST = 3
"""Maps of an output for which that does not matter: tiles of `contract` have few rows then."""


def choose_bands(rows: int, maps: int, kernel: tuple[int, int], columns: int, needed: int) -> bool:
    """Whether a pass through an image, with a stride of 1, takes `maps` maps one after the other, for an output of
    `rows` maps and of lines of `columns` positions, which use `needed` taps of a line of the kernel together.

    Measured on one core, as a share of the peak, by `contract` and by `contract_bands`, with AVX-512 and with AVX2:
    from 64 maps of 32x32 by 3x3 to 1 map 40 and 51, 47 and 67; to 2 36 and 54, 45 and 64; to 3 30 and 65, 33 and 76; to
    4 40 and 75, 58 and 82; to 6 81 and 89, 68 and 87; from 32 maps to 3 57 and 64, 67 and 74, from 16 60 and 55, 76 and
    77; from 64 to 3 by 9x9 57 and 96, 53 and 92; from 32 maps of 64x64 to 1 by 5x5 55 and 63, 53 and 65. Gradients to
    the input of 3 maps by 7x7 with a stride of 2 from 32 filters 73 and 76, 60 and 77; of 1 map by 9x9 from 64 42 and
    58, 39 and 50. Where most positions are near the border, as in an input of 10x10 with an output of 6x6 by 5x5 from
    64 filters: to 1 map 30 and 82, 36 and 63; to 2 42 and 90, 59 and 69; to 3 55 and 89, 67 and 62; to 4 65 and 90, but
    75 and 57; to 5 73 and 69, 85 and 64.
    """
    height, width = kernel
    window = maps * height * (columns + width - 1) * VECTOR_BYTES
    few = rows <= MOST_FEW and min(kernel) > 1 and rows * height * width >= FEW_PRODUCTS
    return few and window >= FAR_WINDOW and (rows <= FEWEST or columns * width <= MOST_BORDER * needed)


# What stands in the lanes of direct sums.


def taps_share(kernel: tuple[int, int], stride: tuple[int, int]) -> bool:
    """Whether several taps read the same entries of an image."""
    return kernel[0] > stride[0] or kernel[1] > stride[1]


def choose_lanes(
    filters: int, channels: int, area: int, samples: int, lanes: int, shared: bool
) -> Literal["samples", "filters", "channels"]:
    """What stands in the lanes while the gradient of the weights is computed: samples with `contract_lanes`, filters or
    channels with `contract_transposed`, for kernels of `area` entries; `shared` says that several taps read the same
    vectors.

    The unit of cost is a cycle of a core with AVX-512. Fitted there to 25 layers: a product of vectors costs 0.63
    with samples in the lanes where taps share vectors, 0.8 where not; with maps in them 0.54, or 0.6 with a single
    group, for each sample that is there, and transposing a vector 4.5.
    """
    costs = _lanes_costs(filters, channels, area, samples, lanes, shared)
    return min(costs, key=lambda wide: costs[wide])


def _lanes_costs(
    filters: int, channels: int, area: int, samples: int, lanes: int, shared: bool
) -> dict[Literal["samples", "filters", "channels"], float]:
    """What a position of all samples costs with each in the lanes."""
    blocks = -(-samples // lanes)
    full_blocks, rest = divmod(samples, lanes)
    present = full_blocks * lanes + _present(rest, lanes)

    def transposed(maps: int, taps: int) -> float:
        groups = -(-maps // lanes)
        products = present * groups * taps * (0.54 if groups > 1 else 0.6)
        return products + 4.5 * maps * blocks if maps >= lanes else inf

    return {
        "samples": (0.63 if shared else 0.8) * filters * channels * area * blocks,
        "filters": transposed(filters, channels * area),
        # With larger kernels, other taps would read other positions of what is transposed.
        "channels": transposed(channels, filters) if area == 1 else inf,
    }


def _present(samples: int, lanes: int) -> float:
    """How many lanes of a block with so many samples are multiplied on average: whole SAMPLES. (Rounded up, of two
    batches the larger one could have its channels in lanes alone.)"""
    return min(samples + (SAMPLES - 1) / 2, lanes) if samples else 0


# The last samples of a batch, too few to be worth a block of their own.


class ImagePass(NamedTuple):
    """The sums of a pass through an image, for one sample."""

    rows: int
    """Maps of the output."""
    taps: int
    """Of a sum."""
    products: int
    """Of all positions of a row, whose taps that meet the border are left out."""
    read: int
    """Numbers of the image with its zeros."""
    written: int
    """Positions of a row."""
    winograd: float | None
    """What a block costs by that algorithm, None for direct sums."""


def choose_remainder(samples: int, lanes: int, of: ImagePass) -> int:
    """How many of the last of `samples` samples a pass through the image leaves to `contract_remainder`: those that do
    not fill a block, or 0 if a block costs less.

    Fitted to 1, 4, 8 and 12 samples of 150 layers, forwards and to the input, on one core of a Zen 5: to choose so
    takes 1.008 times as long as to choose the faster one each time (1.02 with what had been fitted to an Intel Xeon,
    before tiles of few samples left registers for scalars).
    """
    remainder = samples % lanes
    return remainder if remainder_cost(remainder, lanes, of) < block_cost(of) else 0


def block_cost(of: ImagePass) -> float:
    """What a block of samples costs, in multiply-adds of vectors in a tile."""
    return 1.2 * of.rows * of.products + 5 * of.rows * of.written if of.winograd is None else 1.15 * of.winograd


def remainder_cost(samples: int, lanes: int, of: ImagePass) -> float:
    """What `contract_remainder` costs for so many samples."""
    groups = -(-of.rows // lanes)
    each = (1.1 if groups > 1 else 1.2) * groups * of.products + 1.3 * of.rows * of.written
    return samples * each + 6 * of.read + 6 * of.rows * of.written + 1.2 * groups * lanes * of.taps


def choose_dense_remainder(samples: int, lanes: int) -> int:
    """How many of the last of `samples` samples a dense layer's predictions leave to `contract_samples`, which the
    lanes of a block would hold."""
    remainder = samples % lanes
    return remainder if 4 * remainder <= 3 * lanes else 0


class WeightsPass(NamedTuple):
    """The sums of a gradient to the weights."""

    filters: int
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    sizes: tuple[int, int]
    """Of the output, whose positions are summed over."""
    form: Form | None
    """Of Winograd's algorithm, None for direct sums."""

    @property
    def taps(self) -> int:
        """Weights of a filter."""
        return self.channels * self.kernel[0] * self.kernel[1]

    @property
    def positions(self) -> int:
        """Of the output."""
        return self.sizes[0] * self.sizes[1]


def choose_weights_remainder(samples: int, lanes: int, of: WeightsPass) -> int:
    """How many of the last of `samples` samples the gradient to the weights leaves to `contract_remainder_weights`:
    those that do not fill a block, or 0 if a block costs less.

    Fitted to 1, 4, 8 and 12 samples of 162 layers on one core of a Zen 5: to choose so takes 1.01 times as long as to
    choose the faster one each time (1.039 before, up to 2.7 times for a single sample).
    """
    remainder = samples % lanes
    block, apart = _weights_costs(remainder, lanes, of)
    return remainder if apart < block else 0


def _weights_costs(samples: int, lanes: int, of: WeightsPass) -> tuple[float, float]:
    """What up to a block of samples costs as one and one by one, in cycles as in `choose_lanes`."""
    groups = -(-of.filters // lanes)
    if of.form:
        maps, present = of.channels * count_phases(of.kernel, of.stride), _present(samples, lanes) / lanes
        block = 0.5 * _weights_form_cost(of.form, of.filters, maps, of.sizes, present)
    else:
        area, shared = of.kernel[0] * of.kernel[1], taps_share(of.kernel, of.stride)
        each = 1.1 * min(_lanes_costs(of.filters, of.channels, area, samples, lanes, shared).values())
        block = of.positions * each + 1.5 * of.filters * of.taps
    return block, samples * of.positions * groups * (0.65 * of.taps + 30) + 0.5 * groups * lanes * of.taps


# Channels in the lanes of vectors, instead of samples.
#
# Fitted to 162 layers with 1, 4, 8 and 12 samples on one core of a Zen 5, where a block by Winograd's algorithm and a
# single group of channels are faster beside the rest than on the Intel Xeon to which they had been fitted: costs lie
# between both. To choose so takes 1.006 times as long as to choose the faster one each time, in training and for
# predictions. Steps of vgg-small with 8 samples went from 8.0 to 6.3 ms, predictions of srcnn with 6 from 530 to 350
# us.

PACKED_KERNELS = 1.0, 3.0
"""What a sample's share of packing kernels costs for each of their vectors, and of reading them if they leave the
second cache."""


class LaneCosts(NamedTuple):
    """What all samples of a batch cost, in cycles of a core with AVX-512."""

    samples: float = 0.0
    """With samples in lanes."""
    channels: float = 0.0
    """With channels in lanes."""

    def __add__(self, other: object) -> LaneCosts:
        assert isinstance(other, LaneCosts)
        return LaneCosts(self.samples + other.samples, self.channels + other.channels)


class ChannelsPass(NamedTuple):
    """A pass through an image with channels in lanes by Winograd's algorithm."""

    rows: int
    """Channels of the output."""
    channels: int
    """Of the image."""
    phases: int
    """Of the image, each a map of its own."""
    outputs: tuple[tuple[int, tuple[int, int]], ...]
    """Phases of the output that share tiles, and their sizes."""


IN_LANES_PRODUCT, IN_LANES_TRANSFORM, IN_LANES_KERNEL = 0.55, 6.0, 4.5
"""What a product of vectors costs, and transforming a vector of an image and of kernels, for each of its entries: of
kernels half, since predictions, which have the bits of training, find them transformed.

Fitted to 31 layers with 1 to 12 samples on one core of a Zen 5, forwards and to the input: training takes 1.008 times
as long as with the faster way each time, predictions 1.15 times, since direct sums stay where LEAST_GAIN is not
reached. Of the time of direct sums Winograd's algorithm took there, in training and for predictions: 3x3 from 64 maps
of 32x32 to 64, one sample, 0.40 and 0.34; 128 to 128 of 8x8, one 1.30 and 0.48, four 0.59 and 0.32, twelve 0.41 and
0.33; 256 to 256 of 14x14, one 0.72 and 0.41; 5x5 from 32 of 28x28 to 64, one 0.32 and 0.27."""
IN_LANES_TASK = 500_000
"""What the transformed tiles of a task may take, which reads all kernels once."""
MOST_NEARBY = 16_000_000
"""What kernels may take so that a third cache holds them beside the rest."""
IN_LANES_FAR, IN_LANES_FARTHEST = 1.5, 5.0
"""What reading a vector of kernels costs that leave the second cache, or that one."""


def choose_channels_form(
    kernel: tuple[int, int], stride: tuple[int, int], samples: int, lanes: int, direct: ImagePass, of: ChannelsPass
) -> Form | None:
    """The form for a pass through images with channels in lanes, None for direct sums, which are more accurate."""
    form = form_for(kernel, stride)
    if form is None or not of.outputs:
        return None
    cost = channels_form_cost(form, samples, lanes, of)
    return form if _channels_cost(samples, lanes, direct) > LEAST_GAIN * cost else None


def channels_form_cost(form: Form, samples: int, lanes: int, of: ChannelsPass) -> float:
    """What such a pass costs for all samples, in cycles as in `LaneCosts`."""
    groups, vectors = -(-of.rows // lanes), -(-of.channels // lanes) * of.phases
    fitting = max(1, IN_LANES_TASK // (form.entries * vectors * VECTOR_BYTES))
    total = 0.0
    for phases, sizes in of.outputs:
        kernels, tiles = phases * groups * of.channels * of.phases, samples * form.tiles(*sizes)
        size = form.entries * kernels * VECTOR_BYTES
        far = IN_LANES_FARTHEST if size > MOST_NEARBY else IN_LANES_FAR if size > NEAR_BYTES else 0.0
        total += kernels * (IN_LANES_KERNEL + far * -(-tiles // fitting) + IN_LANES_PRODUCT * tiles)
        total += IN_LANES_TRANSFORM * tiles * (vectors + phases * groups)
    return form.entries * total


def image_lane_costs(samples: int, lanes: int, of: ImagePass, in_lanes: float | None) -> LaneCosts:
    """What a pass through the image costs for fewer samples than a block has, which is `in_lanes` by Winograd's
    algorithm with channels in lanes, None for direct sums."""
    blocks = min(block_cost(of), remainder_cost(samples, lanes, of)) / 1.9
    return LaneCosts(blocks, _channels_cost(samples, lanes, of) if in_lanes is None else in_lanes)


def _channels_cost(samples: int, lanes: int, of: ImagePass) -> float:
    """What direct sums cost for all samples with channels in lanes."""
    groups = -(-of.rows // lanes)
    near, far = PACKED_KERNELS
    packed = groups * of.taps * (far if groups * of.taps * VECTOR_BYTES > NEAR_BYTES else near)
    return samples * (groups * ((0.55 if groups > 1 else 0.7) * of.products + 6 * of.written) + packed)


def weights_lane_costs(samples: int, lanes: int, of: WeightsPass) -> LaneCosts:
    """What the gradient of the weights costs for fewer samples than a block has."""
    groups = -(-of.filters // lanes)
    each = of.positions * groups * ((0.6 if groups > 1 else 0.75) * of.taps + 3)
    return LaneCosts(min(_weights_costs(samples, lanes, of)), samples * each)


def choose_channels_in_lanes(samples: int, lanes: int, costs: LaneCosts) -> bool:
    """Whether `samples` samples have their channels in lanes: they are too few for a block, which would cost more."""
    return samples < lanes and costs.channels < costs.samples
