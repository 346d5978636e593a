"""The gradient to the weights of convolutions of stride 1 by Winograd's algorithm: F(3x3, 4x4) and F(5x5, 4x4).

A 4x4 tile d of the gradient of the output acts as a kernel on the tile x of the input that it comes from, and the
gradient to the kernel is what comes out: Ct [(E d Et) * (Bt x B)] C, with the products summed over all tiles and
samples before they are transformed back. The points are those of the pass through the image, so Bt is the same; E holds
their powers 0 to 3, C as many of their powers as the kernel has taps, and the factors that the forward pass has in G.

A task's transformed tiles stay in the second cache, and lanes are summed after each of its groups of tiles. On one core
64 maps of 16x16 run at 344 GFLOP/s, direct sums at 169 (`benchmarks/convolutions.md`).
"""

from __future__ import annotations

from numba.extending import register_jitable

from nnjit.kernels.compiler import kernel
from nnjit.kernels.lane_sums import tile_add_sums, tile_fma_vectors
from nnjit.kernels.simd import full, lane_sum, load, store, store_run
from nnjit.kernels.tiles import tile_zeros
from nnjit.kernels.winograd import prefetch_window, tile_corner, transform_inputs
from nnjit.kernels.winograd_transforms import transform_gradient, transform_weights


@register_jitable
def _transform_gradients(form, tiling, d, first, rows, first_tile, tiles, memory, to, plane, corner):
    """memory[to + p * plane + r * tiling.group + t] = entry p of E d Et of row r and tile first_tile + t, with d[first]
    the first row's corner."""
    for r in range(rows):
        for t in range(tiles):
            at = first + r * d.row + tile_corner(form, tiling, d, first_tile + t)
            prefetch_window(d, at + d.row, form.outputs, form.outputs)
            for b in range(form.outputs):
                values = transform_gradient(form, d.vectors, at + b * d.column, d.line)
                store_run(memory, corner + b, form.points, values)
            for a in range(form.points):
                values = transform_gradient(form, memory, corner + form.points * a, 1)
                store_run(memory, to + r * tiling.group + t + form.points * a * plane, plane, values)


@register_jitable
def _add_products(tile, tiling, tiles, memory, d_at, d_step, x_at, steps, sums, at):
    """sums[at + ...] += the sums over `tiles` tiles and lanes of the products of a tile of rows and all maps."""
    for start in range(0, tiling.maps, tile.columns):
        k = min(start, tiling.maps - tile.columns)
        total = tile_zeros(tile, memory)
        for t in range(tiles):
            total = tile_fma_vectors(tile, total, 0, memory, d_at + t, d_step, memory, x_at + t, steps, k)
        tile_add_sums(total, sums, at)
        at += tile.rows * tile.columns


@kernel
def winograd_weights(task, thread, form, tile, tiling, cut, d, x, steps, parts, bias_parts, scratch):
    """parts[s, p, f, k] = sum over the tiles t of part s and lanes of (E d Et)[p, f, t] * (Bt x B)[p, k, t]
    bias_parts[s, f] = sum over those tiles and lanes of d[f, t]

    d View (N, F, I, J), zeros as far as whole tiles reach
    x View (N, K, H, W), which may be read form.taps - 1 lines and columns further  steps (K,): k * tiling.group
    parts (parts, form.entries, S), in each plane tile by tile, fully overwritten; a tile that would pass the last row
    or map starts earlier, so some entries stand there twice  bias_parts (parts, F), fully overwritten, or (parts, 0)
    scratch (threads, vectors, L): `scratch_vectors` for the calling thread
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
    plane = tiling.maps * tiling.group | 1
    gradient_plane = rows * tiling.group | 1
    gradients = form.entries * plane
    corner = gradients + form.entries * gradient_plane
    groups = (tiling.tiles + tiling.group - 1) // tiling.group
    first_group = tiling.blocks * groups * part // cut.parts
    last_group = tiling.blocks * groups * (part + 1) // cut.parts
    for number in range(first_group, last_group):
        block = number // groups
        first_in_group = number % groups * tiling.group
        tiles = min(tiling.group, tiling.tiles - first_in_group)
        x_first = x.start + block * x.block
        d_first = d.start + block * d.block + first_row * d.row
        transform_inputs(form, tiling, x, x_first, first_in_group, tiles, memory, plane, corner)
        _transform_gradients(
            form, tiling, d, d_first, rows, first_in_group, tiles, memory, gradients, gradient_plane, corner
        )
        for p in range(form.entries):
            sums = parts[part, p]
            if number == first_group:
                for k in range(first_tile * map_tiles * entries, last_tile * map_tiles * entries):
                    sums[k] = 0
            for row_tile in range(first_tile, last_tile):
                row = min(row_tile * tile.rows, tiling.rows - tile.rows) - first_row
                d_at = gradients + p * gradient_plane + row * tiling.group
                at = row_tile * map_tiles * entries
                _add_products(tile, tiling, tiles, memory, d_at, tiling.group, p * plane, steps, sums, at)
        if bias_parts.shape[1]:
            # The entry of the points 1 and 1 is the sum of a tile.
            sums_at = gradients + (form.points + 1) * gradient_plane
            for r in range(first_tile * tile.rows - first_row, rows):
                total = full(memory, 0.0)
                for t in range(tiles):
                    total = total + load(memory, sums_at + r * tiling.group + t)
                before = bias_parts[part, first_row + r] if number > first_group else 0
                bias_parts[part, first_row + r] = before + lane_sum(total)


BACK_VECTORS = 16
"""Vectors of each plane that a task of `winograd_weights_back` takes: 1 KiB, so that planes are read in runs."""


@kernel
def winograd_weights_back(task, form, parts, places, dw):
    """dw[places[v, l] + form.taps * i + j] = entry (i, j) of Ct m C, m[p] = sum over s of parts[s, p, v, l], where
    places[v, l] >= 0

    parts (parts, form.entries, V, L): overwritten in passing
    places (V, L) int64: where a kernel's entries start, each once  dw (scalars,)
    A task owns BACK_VECTORS vectors of each plane.
    """
    vectors, lanes = places.shape
    first = task * BACK_VECTORS
    last = min(first + BACK_VECTORS, vectors)
    for p in range(form.entries):
        for v in range(first, last):
            total = load(parts, (0, p, v))
            for s in range(1, len(parts)):
                total = total + load(parts, (s, p, v))
            store(parts, (0, p, v), total)
    for v in range(first, last):
        m = parts[0, :, v]
        for b in range(form.points):
            store_run(m, b, form.points, transform_weights(form, m, b, form.points))
        for i in range(form.taps):
            store_run(m, form.points * i, 1, transform_weights(form, m, form.points * i, 1))
        for lane in range(lanes):
            if places[v, lane] >= 0:
                for i in range(form.taps):
                    for j in range(form.taps):
                        dw[places[v, lane] + form.taps * i + j] = m[form.points * i + j, lane]
