"""The gradient to the weights of 3x3 convolutions of stride 1 by Winograd's algorithm: F(3x3, 4x4).

A 4x4 tile d of the gradient of the output acts as a kernel on the 6x6 tile x of the input, and the 3x3 gradient is what
comes out: Ct [(E d Et) * (Bt x B)] C, with the products summed over all tiles and samples before they are transformed
back. The points are those of F(4x4, 3x3), so Bt is the same; E holds their powers 0 to 3, C their powers 0 to 2 and the
factors that the forward transform has in G.

A task's transformed tiles stay in the second cache, and lanes are summed after each of its groups of tiles. In a step
of vgg-small, 64 maps of 16x16 (64 samples) take 3.7 ms on one core; direct sums took 8.4.
"""

from __future__ import annotations

from numba.extending import register_jitable

from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import full, lane_sum, load, store
from nnjit.kernels.tiles import tile_add_sums, tile_fma_vectors, tile_zeros
from nnjit.kernels.winograd import Tiling, load_six, odd, prefetch_window, store_six, tile_corner, transform_inputs

SUM = 7
"""Which of the 36 entries of a transformed tile is the sum of the tile: that of the points 1 and 1."""


@register_jitable
def transform_gradient(d0, d1, d2, d3):
    """E d for one line or column of a 4x4 tile."""
    even = d0 + d2
    odd_ = d1 + d3
    wide = d0 + 4.0 * d2
    slope = 2.0 * d1 + 8.0 * d3
    return d0, even + odd_, even - odd_, wide + slope, wide - slope, d3


@register_jitable
def transform_weights(m0, m1, m2, m3, m4, m5):
    """Ct m for one line or column of a 6x6 tile."""
    sum_1 = (m1 + m2) * (-1.0 / 6.0)
    difference_1 = (m1 - m2) * (-1.0 / 6.0)
    sum_2 = (m3 + m4) * (1.0 / 24.0)
    difference_2 = (m3 - m4) * (1.0 / 12.0)
    return 0.25 * m0 + sum_1 + sum_2, difference_1 + difference_2, sum_1 + 4.0 * sum_2 + m5


@register_jitable
def load_four(x, first, step):
    """x[first], x[first + step], ..., four vectors."""
    return load(x, first), load(x, first + step), load(x, first + 2 * step), load(x, first + 3 * step)


def weights_scratch_vectors(tiling: Tiling, rows: int) -> int:
    """Vectors of scratch memory that a thread needs for `rows` rows: transformed input, transformed gradient, and one
    tile."""
    tiles = tiling.group * tiling.across
    return int(36 * odd(tiling.maps * tiles) + 36 * odd(rows * tiles) + 36)


@register_jitable
def _transform_gradients(tiling, d, first, rows, first_line, tiles, memory, to, plane, corner):
    """memory[to + p * plane + r * tiles of a group + t] = entry p of E d Et of row r and tile t, with d[first] the
    first row's corner."""
    step = tiling.group * tiling.across
    for r in range(rows):
        for t in range(tiles):
            at = first + r * d.row + tile_corner(tiling, d, first_line, t)
            prefetch_window(d, at + d.row, 4)
            for b in range(4):
                values = transform_gradient(*load_four(d.vectors, at + b * d.column, d.line))
                store_six(memory, corner + b, 4, values)
            for a in range(6):
                values = transform_gradient(*load_four(memory, corner + 4 * a, 1))
                store_six(memory, to + r * step + t + 6 * a * plane, plane, values)


@register_jitable
def _add_products(tile, tiling, tiles, memory, d_at, d_step, x_at, steps, sums, at):
    """sums[at + ...] += the sums over `tiles` tiles and lanes of the products of a tile of rows and all maps."""
    for start in range(0, tiling.maps, tile.columns):
        k = min(start, tiling.maps - tile.columns)
        total = tile_zeros(tile, memory)
        for t in range(tiles):
            total = tile_fma_vectors(total, memory, d_at + t, d_step, memory, x_at + t, steps, k)
        tile_add_sums(total, sums, at)
        at += tile.rows * tile.columns


@kernel
def winograd_weights(task, thread, tile, tiling, cut, blocks, d, x, steps, parts, bias_parts, scratch):
    """parts[s, p, f, k] = sum over the tiles t of part s and lanes of (E d Et)[p, f, t] * (Bt x B)[p, k, t]
    bias_parts[s, f] = sum over those tiles and lanes of d[f, t]

    d View (N, F, I, J), zeros to 4 * down lines and 4 * across columns  x View (N, K, H, W), which may be read
    4 * down + 2 lines deep and 4 * across + 2 columns wide  steps (K,): k * tiles of a group
    parts (parts, 36, S), in each plane tile by tile, fully overwritten; a tile that would pass the last row or map
    starts earlier, so some entries stand there twice  bias_parts (parts, F), fully overwritten, or (parts, 0)
    scratch (threads, vectors, L): `weights_scratch_vectors` for the calling thread
    A task owns a share of a part's rows; cut.lines counts groups of tiles, one at a time.
    """
    part = task // cut.shares
    share = task % cut.shares
    row_tiles = (tiling.rows + tile.rows - 1) // tile.rows
    map_tiles = (tiling.maps + tile.columns - 1) // tile.columns
    first_tile = row_tiles * share // cut.shares
    last_tile = row_tiles * (share + 1) // cut.shares
    first_row = min(first_tile * tile.rows, tiling.rows - tile.rows)
    rows = min(last_tile * tile.rows, tiling.rows) - first_row
    entries = tile.rows * tile.columns
    memory = scratch[thread]
    group_tiles = tiling.group * tiling.across
    plane = odd(tiling.maps * group_tiles)
    gradient_plane = odd(rows * group_tiles)
    gradients = 36 * plane
    corner = gradients + 36 * gradient_plane
    groups = (tiling.down + tiling.group - 1) // tiling.group
    first_group = blocks * groups * part // cut.parts
    last_group = blocks * groups * (part + 1) // cut.parts
    for number in range(first_group, last_group):
        block = number // groups
        first_line = number % groups * tiling.group
        tiles = min(tiling.group, tiling.down - first_line) * tiling.across
        x_first = x.start + block * x.block
        d_first = d.start + block * d.block + first_row * d.row
        transform_inputs(tiling, x, x_first, first_line, tiles, memory, group_tiles, plane, corner)
        _transform_gradients(tiling, d, d_first, rows, first_line, tiles, memory, gradients, gradient_plane, corner)
        for p in range(36):
            sums = parts[part, p]
            if number == first_group:
                for k in range(first_tile * map_tiles * entries, last_tile * map_tiles * entries):
                    sums[k] = 0
            for row_tile in range(first_tile, last_tile):
                row = min(row_tile * tile.rows, tiling.rows - tile.rows) - first_row
                d_at = gradients + p * gradient_plane + row * group_tiles
                at = row_tile * map_tiles * entries
                _add_products(tile, tiling, tiles, memory, d_at, group_tiles, p * plane, steps, sums, at)
        if bias_parts.shape[1]:
            for r in range(first_tile * tile.rows - first_row, rows):
                total = full(memory, 0.0)
                for t in range(tiles):
                    total = total + load(memory, gradients + SUM * gradient_plane + r * group_tiles + t)
                before = bias_parts[part, first_row + r] if number > first_group else 0
                bias_parts[part, first_row + r] = before + lane_sum(total)


BACK_VECTORS = 16
"""Vectors of each plane that a task of `winograd_weights_back` takes: 1 KiB, so that planes are read in runs."""


@kernel
def winograd_weights_back(task, parts, places, dw):
    """dw[places[v, l] + 3 * i + j] = entry (i, j) of Ct m C, m[p] = sum over s of parts[s, p, v, l], where
    places[v, l] >= 0

    parts (parts, 36, V, L): overwritten in passing  places (V, L) int64: where a kernel's nine entries start, each once
    dw (scalars,)  A task owns BACK_VECTORS vectors of each plane.
    """
    vectors, lanes = places.shape
    first = task * BACK_VECTORS
    last = min(first + BACK_VECTORS, vectors)
    for p in range(36):
        for v in range(first, last):
            total = load(parts, (0, p, v))
            for s in range(1, len(parts)):
                total = total + load(parts, (s, p, v))
            store(parts, (0, p, v), total)
    for v in range(first, last):
        m = parts[0, :, v]
        for b in range(6):
            values = transform_weights(*load_six(m, b, 6))
            store(m, b, values[0])
            store(m, b + 6, values[1])
            store(m, b + 12, values[2])
        for a in range(3):
            values = transform_weights(*load_six(m, 6 * a, 1))
            store(m, 6 * a, values[0])
            store(m, 6 * a + 1, values[1])
            store(m, 6 * a + 2, values[2])
        for lane in range(lanes):
            if places[v, lane] >= 0:
                for i in range(3):
                    for j in range(3):
                        dw[places[v, lane] + 3 * i + j] = m[6 * i + j, lane]
