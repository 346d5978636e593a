"""The gradient to the weights of convolutions by Winograd's algorithm: F(3x3, 4x4), F(5x5, 4x4) and their kin.

A 4x4 tile d of the gradient of the output acts as a kernel on the tile x of the input that it comes from, and the
gradient to the kernel is what comes out: Ct [(E d Et) * (Bt x B)] C, with the products summed over all tiles and
samples before they are transformed back. The points are those of the pass through the image, so Bt is the same; E holds
their powers 0 to 3, C as many of their powers as the kernel has taps, and the factors that the forward pass has in G.

As in `contraction_transposed.py`, the transformed gradients are transposed, so that the products have maps in their
lanes. A task's transformed tiles stay in the second cache. With 64 maps of 16x16 it takes half as long as direct sums.
"""

from __future__ import annotations

from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.lane_sums import tile_add_vectors
from nnjit.kernels.simd import full, load, store, store_run
from nnjit.kernels.tiles import SAMPLES, tile_add_to, tile_fma_samples, tile_store, tile_sum, tile_zeros
from nnjit.kernels.transposition import tile_across
from nnjit.kernels.winograd import Tiling, scratch_layout, scratch_vectors, tile_corner, transform_inputs
from nnjit.kernels.winograd_transforms import Form, transform_gradient, transform_weights


def weights_scratch_vectors(form: Form, tiling: Tiling, rows: int, lanes: int) -> int:
    """Vectors of scratch memory that a thread needs: as for `winograd`, with the transformed gradient of `rows` rows in
    the place of products, and a tile of the gradient for as many rows as a vector has lanes."""
    return scratch_vectors(form, tiling, rows) + form.outputs**2 * lanes


@subroutine
def _transform_gradients(form, tiling, columns, present, d, first, first_tile, tiles, memory, to, plane, corner):
    """memory[to + p * plane + ((panel * tiling.group + t) * L + sample) * columns + c, :] = entry p of E d Et of L rows
    and tile first_tile + t, with d[first] the first row's corner, for the samples that are there; panels hold `columns`
    groups of L rows each."""
    width = memory.shape[1]
    area = form.outputs * form.outputs
    groups = (tiling.rows + width - 1) // width
    panels = (groups + columns - 1) // columns
    tile = corner + area * width
    for column in range(panels * columns):
        panel = column // columns
        group = min(panel * columns, groups - columns) + column % columns
        row_first = first + min(group * width, tiling.rows - width) * d.row
        for t in range(tiles):
            at = row_first + tile_corner(form, tiling, d, first_tile + t)
            for i in range(form.outputs):
                for j in range(form.outputs):
                    across = tile_across(d.vectors, at + i * d.line + j * d.column, d.row)
                    tile_store(across, memory, corner + (form.outputs * i + j) * width, 1, 0, 0)
            place = to + (panel * tiling.group + t) * width * columns + column % columns
            for s in range(present):
                for j in range(form.outputs):
                    values = transform_gradient(form, memory, corner + j * width + s, form.outputs * width)
                    store_run(memory, tile + j, form.outputs, values)
                for a in range(form.points):
                    values = transform_gradient(form, memory, tile + form.outputs * a, 1)
                    store_run(memory, place + s * columns + form.points * a * plane, plane, values)


@subroutine
def _panel_sum(tile, vectors, columns, panel, first):
    """The sum of panel[first], panel[first + columns], ...: over samples, in one column.

    As many sums as the tile has rows, of which `vectors` is a multiple, run side by side, since each addition waits for
    the one before it.
    """
    total = tile_zeros(tile, panel)
    for k in range(0, vectors, tile.rows):
        total = tile_add_vectors(total, 0, panel, first + k * columns, columns)
    return tile_sum(total)


@kernel
def winograd_weights(
    task, thread, form, tile, bias_tile, tiling, cut, d, x, starts, steps, samples, parts, bias_parts, scratch
):
    """parts[s, p, f, k] = sum over the tiles t of part s and samples of (E d Et)[p, f, t] * (Bt x B)[p, k, t]
    bias_parts[s, f] = sum over those tiles and samples of d[f, t]

    d View (N, F, I, J), F at least L, zeros as far as whole tiles reach
    x View (N, K / P, H, W), with starts (P,) where each of the phases lies that are maps of their own; it may be read
    form.taps - 1 lines and columns further  steps (K,): k * tiling.group * L
    parts (parts, form.entries, panels * map tiles * tile.rows * tile.columns, L), in each plane tile by tile, fully
    overwritten; rows of a tile are maps k, its columns groups of L rows f, see `transposed_places`
    bias_parts (parts, panels * tile.columns, L), likewise, or (parts, 0, L)  bias_tile: SAMPLES x 1
    scratch (threads, vectors, L): `weights_scratch_vectors`
    Lanes without a sample hold 0 in d. A task owns a share of a part's maps, the first one the biases too; each share
    transforms all gradients. cut.lines counts groups of tiles, one at a time.
    """
    part = task // cut.shares
    share = task % cut.shares
    memory = scratch[thread]
    scalars = memory.reshape(-1)
    width = memory.shape[1]
    groups_of_rows = (tiling.rows + width - 1) // width
    panels = (groups_of_rows + tile.columns - 1) // tile.columns
    map_tiles = (tiling.maps + tile.rows - 1) // tile.rows
    first_tile = map_tiles * share // cut.shares
    last_tile = map_tiles * (share + 1) // cut.shares
    first_map = min(first_tile * tile.rows, tiling.maps - tile.rows)
    last_map = min(last_tile * tile.rows, tiling.maps)
    entries = tile.rows * tile.columns
    panel_vectors = tiling.group * width * tile.columns
    rows = panels * tile.columns * width
    plane, gradients, gradient_plane, corner = scratch_layout(form, tiling, rows)
    groups = (tiling.tiles + tiling.group - 1) // tiling.group
    first_group = tiling.blocks * groups * part // cut.parts
    last_group = tiling.blocks * groups * (part + 1) // cut.parts
    for number in range(first_group, last_group):
        block = number // groups
        present = min((samples - block * width + SAMPLES - 1) // SAMPLES * SAMPLES, width)
        first_in_group = number % groups * tiling.group
        tiles = min(tiling.group, tiling.tiles - first_in_group)
        x_first = x.start + block * x.block
        d_first = d.start + block * d.block
        transform_inputs(
            form, tiling, first_map, last_map, x, starts, x_first, first_in_group, tiles, memory, plane, corner
        )
        _transform_gradients(
            form,
            tiling,
            tile.columns,
            present,
            d,
            d_first,
            first_in_group,
            tiles,
            memory,
            gradients,
            gradient_plane,
            corner,
        )
        for p in range(form.entries):
            sums = parts[part, p]
            for panel in range(panels):
                panel_at = gradients + p * gradient_plane + panel * panel_vectors
                for map_tile in range(first_tile, last_tile):
                    k = min(map_tile * tile.rows, tiling.maps - tile.rows)
                    total = tile_zeros(tile, memory)
                    for t in range(tiles):
                        x_at = (p * plane + t) * width
                        d_at = panel_at + t * width * tile.columns
                        for s in range(0, present, SAMPLES):
                            at = d_at + s * tile.columns
                            total = tile_fma_samples(tile, total, scalars, x_at + s, steps, k, memory, at, 1)
                    at = (panel * map_tiles + map_tile) * entries
                    if number == first_group:
                        tile_store(total, sums, at, tile.columns, 1, 0)
                    else:
                        tile_add_to(total, sums, at)
        if share == 0 and bias_parts.shape[1]:
            # The entry of the points 1 and 1 is the sum of a tile.
            sums_at = gradients + (form.points + 1) * gradient_plane
            for column in range(panels * tile.columns):
                at = sums_at + column // tile.columns * panel_vectors + column % tile.columns
                total = full(memory, 0.0) if number == first_group else load(bias_parts, (part, column))
                for t in range(tiles):
                    total = total + _panel_sum(bias_tile, present, tile.columns, memory, at + t * width * tile.columns)
                store(bias_parts, (part, column), total)


BACK_VECTORS = 16
"""Vectors of each plane that a task of `winograd_weights_back` takes: 1 KiB, so that planes are read in runs."""


@kernel
def winograd_weights_back(task, form, parts, places, phases, taps, dw):
    """dw[places[v, l] + taps[phases[v], i, j]] = entry (i, j) of Ct m C, m[p] = sum over s of parts[s, p, v, l], where
    neither of both is -1

    parts (parts, form.entries, V, L): overwritten in passing
    places (V, L) int64: where a kernel's entries start, once for each phase  phases (V,): which one it is
    taps (phases, form.taps**2)  dw (scalars,)
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
        for i in range(form.taps):
            for j in range(form.taps):
                tap = taps[phases[v], form.taps * i + j]
                if tap < 0:
                    continue
                for lane in range(lanes):
                    if places[v, lane] >= 0:
                        dw[places[v, lane] + tap] = m[form.points * i + j, lane]
