"""Where Winograd's algorithm computes the gradient of the weights, its groups of tiles and its cuts."""

from __future__ import annotations

from nnjit.kernels.contraction_weights import Cut
from nnjit.kernels.simd import VECTOR_BYTES
from nnjit.kernels.winograd import Tiling
from nnjit.kernels.winograd_transforms import Form
from nnjit.tuning import machine
from nnjit.tuning.parts import MOST_PARTS_BYTES, power_of_two
from nnjit.tuning.winograd import FORMS, LEAST_GAIN, TRANSFORMS, tiles_of

WEIGHTS_TILES = 4
"""How many tiles `winograd_weights` takes at a time, after which sums are added to those of the part: the same on every
CPU, since it belongs to the order of the sum. Measured on one core, 64 maps of 16x16: 2.6 ms, with two or three tiles
2.5 to 2.7, with six or eight 2.9 to 3.1, when what is transformed takes more than half of the second cache."""


def choose_weights_form(
    kernel: tuple[int, int], stride: tuple[int, int], rows: int, maps: int, sizes: tuple[int, int]
) -> Form | None:
    """The form for the gradient of the weights, None for direct sums; costs are those of `choose_form`.

    Direct sums run over all positions, with samples in the lanes (multiply-adds cost 1.3) or with maps in them (1.1);
    transposing costs 6, adding up 0.5 for each of the transformed entries, of which there are more. `rows` fill a
    vector at least.
    """
    form = FORMS.get(kernel)
    lanes = VECTOR_BYTES // 4
    if form is None or stride != (1, 1) or rows < lanes:
        return None
    padded = -(-rows // lanes) * lanes
    tiles, area, positions = tiles_of(form, sizes), form.taps**2, sizes[0] * sizes[1]
    sums = 0.5 * rows * maps * -(-tiles // WEIGHTS_TILES)
    cost = form.entries * (tiles * (1.1 * padded * maps + TRANSFORMS[form] * (rows + maps) + 6 * rows) + sums)
    return form if maps * area * positions * min(1.3 * rows, 1.1 * padded) > LEAST_GAIN * cost else None


def choose_weights_tiling(tiling: Tiling) -> Tiling:
    """The tiling of the gradient of the output, in groups of tiles."""
    return tiling._replace(group=min(WEIGHTS_TILES, tiling.tiles))


def choose_groups_cut(groups: int, part_bytes: int) -> Cut:
    """How the sum over `groups` groups of tiles is cut, where a part takes `part_bytes`: 36 numbers for the 9 weights
    of a 3x3 kernel, or 64 for the 25 of a 5x5 kernel.

    Measured on one core, 128 maps of 8x8: adding up two parts takes 0.4 ms, four 0.8 ms.
    """
    parts = power_of_two(min(groups, max(2, machine.SCRATCH_BYTES // part_bytes), 4, MOST_PARTS_BYTES // part_bytes))
    return Cut(parts, 1, -(-machine.get_threads() // parts))
