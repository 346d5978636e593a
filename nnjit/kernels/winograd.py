"""Convolutions with a fraction of the multiplications: Winograd's F(4x4, 3x3), F(4x4, 5x5) and their kin.

Each 4x4 tile of the output is At [(G g Gt) * (Bt d B)] A, with d the tile of the input that it reads, g the kernel, and
the product taken entry by entry and summed over the input maps: 36 products instead of 144 for a 3x3 kernel, 64 instead
of 400 for a 5x5 kernel. Written for all tiles, each of these entries is a matrix product over the input maps, which is
what `contract` does as well; the transforms are additions of vectors. The gradient to the input is the same with the
kernel rotated over the padded gradient of the output. The gradient to the weights has a file of its own.

A stride leaves tiles less to share. But each phase of the input by the stride meets entries of the kernel of its own,
one position after the other: as a map by itself it has a stride of 1 and a kernel as many times smaller. So a 5x5
kernel with a stride of 2 takes 144 products instead of 400 (from 32 maps of 24x24 to 64 on one core 588 instead of 970
us). Likewise the phases of the gradient to the input each have a kernel over the gradient of the output, whose
transformed tiles serve all of them (for that layer 651 us, 788 where each phase transformed its own; direct sums 999).

Planes of vectors lie an odd number of vectors apart: a multiple of 4 KiB apart they share a few lines of the first
cache (76 instead of 660 GFLOP/s in a trial).

The constants cost accuracy: `winograd_transforms` says how much, and a test bounds it.
Sources: Lavin & Gray 2015, arXiv:1509.09308, section 4.1; polyphase decomposition: Vaidyanathan 1990, "Multirate
digital filters, filter banks, polyphase networks, and applications", section II.
"""

from __future__ import annotations

from typing import NamedTuple

from nnjit.kernels.activations import finish
from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.maxima import best_of_four
from nnjit.kernels.simd import full, load, load_apart, prefetch, prefetch_to_write, store, store_integers, store_run
from nnjit.kernels.tiles import tile_fma, tile_store, tile_zeros
from nnjit.kernels.winograd_transforms import Form, transform_input, transform_kernel, transform_output


class Tiling(NamedTuple):
    """How `blocks` of `rows` maps of lines x columns, summed over `maps` input maps, are cut into tiles."""

    blocks: int
    rows: int
    lines: int
    columns: int
    maps: int
    across: int
    """Tiles from left to right."""
    tiles: int
    """Tiles of a map, numbered from left to right, then from top to bottom."""
    group: int
    """Tiles that are transformed together, so that their transformed input (entries of a tile, maps, group) fits the
    cache; the last group of a map may have fewer."""

    @property
    def groups(self) -> int:
        """Groups of a map."""
        return -(-self.tiles // self.group)


@subroutine
def prefetch_window(x, first, lines, columns):
    """Have `columns` columns of `lines` lines from x[first] on brought near: what a tile reads for the next map, too
    far away for the CPU to foresee. (A step of vgg-small took 58 instead of 64 ms on one core when the next map's input
    and output were fetched ahead.)"""
    for a in range(lines):
        for j in range(columns):
            prefetch(x.vectors, first + a * x.line + j * x.column)


@subroutine
def tile_corner(form, tiling, x, t):
    """Where tile t starts in a plane of x."""
    return form.outputs * (t // tiling.across * x.line + t % tiling.across * x.column)


@subroutine
def map_corner(x, starts, k):
    """How far map k of x, a phase of one of its rows, starts from the first one."""
    return k // len(starts) * x.row + starts[k % len(starts)]


@subroutine
def transform_inputs(form, tiling, first_map, last_map, x, starts, first, first_tile, tiles, memory, plane, corner):
    """memory[p * plane + k * tiling.group + t] = entry p of Bt d B of map k and tile first_tile + t, for `tiles` tiles
    and the maps from first_map to last_map - 1, with x[first] the corner of map 0.

    `corner` is where a tile may be kept in memory while it is transformed.
    """
    size = form.points
    for k in range(first_map, last_map):
        # Out here, since the compiler leaves divisions inside.
        this_map, next_map = first + map_corner(x, starts, k), first + map_corner(x, starts, k + 1)
        for t in range(tiles):
            corner_of_tile = tile_corner(form, tiling, x, first_tile + t)
            at, ahead = this_map + corner_of_tile, next_map + corner_of_tile
            prefetch_window(x, ahead + (form.taps - 1) * x.column, size, form.outputs)
            for a in range(size):
                values = transform_input(form, x.vectors, at + a * x.line, x.column)
                store_run(memory, corner + size * a, 1, values)
            for b in range(size):
                values = transform_input(form, memory, corner + b, size)
                store_run(memory, k * tiling.group + t + b * plane, size * plane, values)


@subroutine
def kernels_plane(rows, maps, lanes):
    """How far entries of a transformed kernel lie apart, in vectors, where there are rows x maps of them."""
    return (rows + lanes - 1) // lanes * maps | 1


@subroutine
def scratch_layout(form, tiling, rows):
    """How far entries of a transformed input lie apart in a thread's scratch memory, where the products of `rows` rows
    start behind it, how far their entries lie apart, and where there is room for a tile behind those."""
    plane, product_plane = tiling.maps * tiling.group | 1, rows * tiling.group | 1
    products = form.entries * plane
    return plane, products, product_plane, products + form.entries * product_plane


def kernels_vectors(form: Form, rows: int, maps: int, lanes: int) -> int:
    """Vectors that the transformed kernels take."""
    return int(form.entries * kernels_plane(rows, maps, lanes))


def scratch_vectors(form: Form, tiling: Tiling, rows: int) -> int:
    """Vectors of scratch memory that a thread needs."""
    return int(scratch_layout(form, tiling, rows)[-1] + form.entries)


@kernel
def winograd_kernels(task, thread, form, extent, w, row_step, map_step, taps, u, scratch):
    """u[p, k, f] = entry p of G g Gt, with g[a, b] = w[f * row_step + k // P * map_step + taps[k % P, a, b]], or 0
    where that is -1

    extent Extent: rows F, lines K  w (scalars,)  taps (P, form.taps**2): of each of the phases that a map has
    u (vectors, L): form.entries planes of F / L * K vectors, F padded to whole vectors, an odd number of vectors from
    one plane to the next; fully overwritten but for the gaps
    scratch (threads, vectors, L): form.entries vectors for the calling thread
    A task owns L rows of one map.
    """
    memory = scratch[thread]
    lanes = u.shape[1]
    group = task // extent.lines
    map_ = task % extent.lines
    plane = kernels_plane(extent.rows, extent.lines, lanes)
    size = form.points
    area = form.taps * form.taps
    phase = map_ % len(taps)
    first = group * lanes * row_step + map_ // len(taps) * map_step
    for tap in range(area):
        place, source = tap // form.taps * size + tap % form.taps, taps[phase, tap]
        if source < 0:
            store(memory, place, full(memory, 0.0))
        else:
            store(memory, place, load_apart(w, first + source, row_step, extent.rows - group * lanes))
    for b in range(form.taps):
        store_run(memory, b, size, transform_kernel(form, memory, b, size))
    at = group * extent.lines + map_
    for a in range(size):
        store_run(u, at + size * a * plane, plane, transform_kernel(form, memory, size * a, 1))


@subroutine(forceinline=True)
def multiply_entries(form, tile, tiling, u, phase, row, tiles, memory, plane, products, product_plane):
    """memory[products + p * product_plane + r * tiling.group + t] = sum over k of entry p of kernel (row + r, k) *
    memory[p * plane + k * tiling.group + t], for `tiles` tiles and the tile.rows rows from `row` on, which divide L; u
    as `winograd_kernels` writes it for each phase."""
    lanes = memory.shape[1]
    u_plane = kernels_plane(tiling.rows, tiling.maps, lanes)
    step = tiling.group * tile.units
    for p in range(form.entries):
        u_at = ((phase * form.entries + p) * u_plane + row // lanes * tiling.maps) * lanes + row % lanes
        for t_start in range(0, tiles * tile.units, tile.columns):
            # In a group with fewer tiles, the last columns may hold what nobody reads.
            t = min(t_start, step - tile.columns)
            total = tile_zeros(tile, memory)
            v_at = p * plane * tile.units + t
            for k in range(0, tiling.maps, tile.run):
                total = tile_fma(tile, total, u, u_at + k * lanes, memory, v_at + k * step, 1, step, 0)
            tile_store(total, memory, (products + p * product_plane) * tile.units + t, step, 1, 0)


@subroutine
def pool_tile(form, tiling, memory, corner, lines, columns, out, out_first, winners, number):
    """The largest entries of the 2x2 windows of the tile of lines x columns that stands in memory[corner], transposed:
    to out from out_first on, and to winners from `number` which of the four each is."""
    for i in range(lines // 2):
        for j in range(columns // 2):
            best, winner = best_of_four(memory, corner + form.points * 2 * j + 2 * i, 1, form.points)
            store(out.vectors, out_first + i * out.line + j * out.column, best)
            store_integers(winners, number + i * (tiling.columns // 2) + j, winner)


@subroutine(forceinline=True)
def put_tile(
    form, tiling, memory, first, plane, corner, offset, block, row, number, phases, phase, out, out_map, epilogue, y,
    y_map, winners,
):  # fmt: skip
    """Transform the products of tile `number` of a row of a block back, entry p of them memory[first + p * plane], add
    `offset`, and store what lies in the output of the phase: finished, and pooled if there are `winners`.

    out_map, y_map: where the row's plane starts in out and in y  corner: where memory has room for a tile
    """
    for a in range(form.points):
        values = transform_output(form, memory, first + form.points * a * plane, plane)
        store_run(memory, corner + a, form.points, values)
    for j in range(form.outputs):
        at = corner + form.points * j
        store_run(memory, at, 1, transform_output(form, memory, at, 1))
    line = form.outputs * (number // tiling.across)
    column = form.outputs * (number % tiling.across)
    lines = min(form.outputs, phases[phase, 2] - line)
    columns = min(form.outputs, phases[phase, 3] - column)
    if len(winners) > 0:
        for i in range(lines):
            for j in range(columns):
                at = corner + form.points * j + i
                store(memory, at, finish(epilogue, load(memory, at) + offset, memory, at))
        window = (block * tiling.rows + row) * (tiling.lines // 2) + line // 2
        window = window * (tiling.columns // 2) + column // 2
        pooled_at = out_map + line // 2 * out.line + column // 2 * out.column
        pool_tile(form, tiling, memory, corner, lines, columns, out, pooled_at, winners, window)
        return
    out_at = out_map + tile_corner(form, tiling, out, number)
    y_at = y_map + tile_corner(form, tiling, y, number)
    for i in range(form.outputs):
        for j in range(form.outputs):
            prefetch_to_write(out.vectors, out_at + out.row + i * out.line + j * out.column)
    if epilogue.backward:
        prefetch_window(y, y_at + y.row, form.outputs, form.outputs)
    for i in range(lines):
        for j in range(columns):
            value = load(memory, corner + form.points * j + i) + offset
            value = finish(epilogue, value, y.vectors, y_at + i * y.line + j * y.column)
            store(out.vectors, out_at + i * out.line + j * out.column, value)


@kernel
def winograd(task, thread, form, tile, tiling, u, x, starts, bias, out, phases, epilogue, y, winners, scratch):
    """out[q, n, f, i, j] = epilogue(bias[f] + sum over k, a, b of g[q, f, k, a, b] * x[n, k, i + a, j + b], y[q, n, f,
    i, j]) for each phase q of the output

    u (scalars,): the transformed kernels as `winograd_kernels` writes them for each of these phases
    phases (Q, 4): how far out and y of each lie from those of the first, and its lines and columns
    x View (N, K / P, H, W), with starts (P,) where each of the phases lies that are maps of their own; it may be read
    where its tiles lie: as far as whole tiles reach and form.taps - 1 lines and columns further
    bias (F,)  out, y View (N, F, I, J), out fully overwritten
    winners (0, L), or (N * F * (I // 2) * (J // 2), L) of unsigned integers: then out (N, F, I // 2, J // 2) gets the
    largest entry of each 2x2 window, winners which of the four it was, as `pooling.max_pool_forward` counts them
    scratch (threads, vectors, L): `scratch_vectors` for the calling thread
    A task owns a block and a group of tiles.
    """
    groups = (tiling.tiles + tiling.group - 1) // tiling.group
    block = task // groups
    first_tile = task % groups * tiling.group
    tiles = min(tiling.group, tiling.tiles - first_tile)
    memory = scratch[thread]
    plane, products, product_plane, corner = scratch_layout(form, tiling, tile.rows)
    x_first = x.start + block * x.block
    transform_inputs(form, tiling, 0, tiling.maps, x, starts, x_first, first_tile, tiles, memory, plane, corner)
    for phase in range(len(phases)):
        for row in range(0, tiling.rows, tile.rows):
            multiply_entries(form, tile, tiling, u, phase, row, tiles, memory, plane, products, product_plane)
            for r in range(min(tile.rows, tiling.rows - row)):
                offset = full(memory, bias[row + r])
                out_map = out.start + phases[phase, 0] + block * out.block + (row + r) * out.row
                y_map = y.start + phases[phase, 1] + block * y.block + (row + r) * y.row
                for t in range(tiles):
                    at = products + r * tiling.group + t
                    put_tile(
                        form, tiling, memory, at, product_plane, corner, offset, block, row + r, first_tile + t, phases,
                        phase, out, out_map, epilogue, y, y_map, winners,
                    )  # fmt: skip
