"""Winograd's algorithm for images of few samples, which have their channels in the lanes.

Transforms go from vector to vector, whatever stands in the lanes: of a tile of the image they are those of `winograd`,
for L channels at a time. What differs is the sum over channels, for each entry of a transformed tile a product of
matrices: as in `contract_channels`, scalars of the image's transformed tiles meet vectors of the kernels' rows.

The transformed kernels, several times as large as the weights, seldom stay near, and there are few tiles to use them
for. So tasks share rows as well as tiles, though each of them transforms its part of the image anew: that takes less
the more rows there are, which make the kernels large.

Measured on two cores of a Zen 5 against direct sums, predictions of `benchmarks/configs/images/vgg-128.yaml` for one
image 1.86 to 0.80 ms, a step of training 5.95 to 4.28.
"""

from __future__ import annotations

from typing import NamedTuple

from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.simd import load
from nnjit.kernels.tiles import tile_fma, tile_store, tile_zeros
from nnjit.kernels.winograd import kernels_plane, put_tile, scratch_layout, transform_inputs


class InLanes(NamedTuple):
    """How the vectors of an image with channels in lanes are summed over and shared."""

    channels: int
    """Of the image, that are summed over."""
    shares: int
    """Tasks that share the rows of each group of tiles."""


@subroutine(forceinline=True)
def multiply_channels(
    form, tile, tiling, in_lanes, phases, u, phase, row, tiles, memory, plane, products, product_plane
):
    """memory[products + p * product_plane + c * tiling.group + t] = sum over k of entry p of kernels (row + c, k) * the
    lane of channel k of memory[p * plane + its map * tiling.group + t], for `tiles` tiles and tile.columns vectors of
    rows from `row` on; u (vectors, L) as `winograd_kernels` writes it for each phase of the output.

    phases: how many the image has, each a map of its own
    """
    lanes = memory.shape[1]
    scalars = memory.reshape(-1)
    depth = in_lanes.channels * phases
    u_plane = kernels_plane(tiling.rows * lanes, depth, lanes)
    for p in range(form.entries):
        u_first = (phase * form.entries + p) * u_plane + row * depth
        for t_start in range(0, tiles, tile.rows):
            # In a group with fewer tiles, the last rows may hold what nobody reads.
            t = min(t_start, tiling.group - tile.rows)
            total = tile_zeros(tile, memory)
            for channel in range(0, in_lanes.channels, tile.run):
                group, lane = channel // lanes, channel % lanes
                for k in range(phases):
                    v_at = (p * plane + (group * phases + k) * tiling.group + t) * lanes + lane
                    total = tile_fma(tile, total, scalars, v_at, u, u_first + channel * phases + k, depth, 1, 0)
            tile_store(total, memory, products + p * product_plane + t, 1, tiling.group, 0)


@subroutine
def transform_images(form, tiling, x, starts, first, last, memory, plane, corner):
    """What `transform_inputs` does for tiles first .. last - 1 of all images, one image's after the other's."""
    number = first
    while number < last:
        block, tile = number // tiling.tiles, number % tiling.tiles
        tiles = min(tiling.tiles - tile, last - number)
        at, image = number - first, x.start + block * x.block
        part = memory[at:]
        transform_inputs(form, tiling, 0, tiling.maps, x, starts, image, tile, tiles, part, plane, corner - at)
        number += tiles


@kernel
def winograd_channels(
    task, thread, form, tile, tiling, in_lanes, u, x, starts, bias, out, phases, epilogue, y, winners, scratch
):
    """What `winograd` computes, for images whose rows and maps are vectors of channels.

    tiling: its rows R and maps are such vectors, maps for each of the phases of x; groups of tiles go on from one image
    to the next  u (vectors, L)  bias (R * L,) or more
    x View (N, K / L, H, W), with starts (P,)  out, y View (N, R, I, J)  phases (Q, 4)
    winners (0, L), or (N * R * (I // 2) * (J // 2), L)
    scratch (threads, vectors, L): `scratch_vectors` of tile.columns rows for the calling thread
    The rows of the tile are tiles of the images, its columns vectors of rows, which they divide. A task owns a group of
    tiles and a share of the rows.
    """
    share, group = task % in_lanes.shares, task // in_lanes.shares
    first = group * tiling.group
    last = min(first + tiling.group, tiling.blocks * tiling.tiles)
    memory = scratch[thread]
    lanes = memory.shape[1]
    plane, products, product_plane, corner = scratch_layout(form, tiling, tile.columns)
    transform_images(form, tiling, x, starts, first, last, memory, plane, corner)
    panels = tiling.rows // tile.columns
    for phase in range(len(phases)):
        for panel in range(panels * share // in_lanes.shares, panels * (share + 1) // in_lanes.shares):
            row = panel * tile.columns
            multiply_channels(
                form, tile, tiling, in_lanes, len(starts), u, phase, row, last - first, memory, plane, products,
                product_plane,
            )  # fmt: skip
            for c in range(tile.columns):
                offset = load(bias, (row + c) * lanes)
                for number in range(first, last):
                    block = number // tiling.tiles
                    out_map = out.start + phases[phase, 0] + block * out.block + (row + c) * out.row
                    y_map = y.start + phases[phase, 1] + block * y.block + (row + c) * y.row
                    at = products + c * tiling.group + number - first
                    put_tile(
                        form, tiling, memory, at, product_plane, corner, offset, block, row + c, number % tiling.tiles,
                        phases, phase, out, out_map, epilogue, y, y_map, winners,
                    )  # fmt: skip
