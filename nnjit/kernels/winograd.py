"""3x3 convolutions of stride 1 with a quarter of the multiplications: Winograd's F(4x4, 3x3).

Each 4x4 tile of the output is At [(G g Gt) * (Bt d B)] A, with d the 6x6 tile of the input, g the kernel, and the
product taken entry by entry and summed over the input maps: 36 products instead of 144. Written for all tiles, each of
the 36 entries is a matrix product over the input maps, which is what `contract` does as well; the transforms are
additions of vectors. The gradient to the input is the same with the kernel rotated over the padded gradient of the
output. The gradient to the weights, `winograd_weights`, is in the next file.

The constants cost accuracy: in float32 results err by some 1e-6 of the largest (direct: some 1e-7). A test bounds it.
Source: Lavin & Gray 2015, arXiv:1509.09308, section 4.1.
"""

from __future__ import annotations

from typing import NamedTuple

from numba.extending import register_jitable

from nnjit.kernels.activations import finish
from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import entry, full, load, prefetch, prefetch_to_write, set_entry, store
from nnjit.kernels.tiles import tile_fma, tile_store, tile_zeros


class Tiling(NamedTuple):
    """How an output of `rows` maps of lines x columns is cut into tiles of 4x4, summed over `maps` input maps."""

    rows: int
    lines: int
    columns: int
    maps: int
    down: int
    """Tiles from top to bottom."""
    across: int
    """Tiles from left to right."""
    group: int
    """Lines of tiles that one task takes, so that their transformed input (36, maps, group * across) fits the cache."""


@register_jitable
def transform_input(d0, d1, d2, d3, d4, d5):
    """Bt d for one line or column of a 6x6 tile."""
    even = d4 - 4.0 * d2
    odd = d3 - 4.0 * d1
    near = d4 - d2
    far = 2.0 * (d3 - d1)
    return 4.0 * d0 - 5.0 * d2 + d4, even + odd, even - odd, near + far, near - far, 4.0 * d1 - 5.0 * d3 + d5


@register_jitable
def transform_kernel(g0, g1, g2):
    """G g for one line or column of a 3x3 kernel."""
    outer = (g0 + g2) * (-1.0 / 6.0)
    inner = g1 * (1.0 / 6.0)
    wide = g0 * (1.0 / 24.0) + g2 * (1.0 / 6.0)
    slope = g1 * (1.0 / 12.0)
    return g0 * 0.25, outer - inner, outer + inner, wide + slope, wide - slope, g2


@register_jitable
def transform_output(m0, m1, m2, m3, m4, m5):
    """At m for one line or column of a 6x6 tile."""
    sum_1 = m1 + m2
    difference_1 = m1 - m2
    sum_2 = m3 + m4
    difference_2 = m3 - m4
    return (
        m0 + sum_1 + sum_2,
        difference_1 + 2.0 * difference_2,
        sum_1 + 4.0 * sum_2,
        difference_1 + 8.0 * difference_2 + m5,
    )


@register_jitable
def load_six(x, first, step):
    """x[first], x[first + step], ..., six vectors."""
    return (
        load(x, first),
        load(x, first + step),
        load(x, first + 2 * step),
        load(x, first + 3 * step),
        load(x, first + 4 * step),
        load(x, first + 5 * step),
    )


@register_jitable
def store_six(x, first, step, values):
    """x[first + k * step] = values[k] for six vectors."""
    store(x, first, values[0])
    store(x, first + step, values[1])
    store(x, first + 2 * step, values[2])
    store(x, first + 3 * step, values[3])
    store(x, first + 4 * step, values[4])
    store(x, first + 5 * step, values[5])


@register_jitable
def prefetch_window(x, first, lines):
    """Have four columns of `lines` lines from x[first] on brought near: what a tile reads for the next map, too far
    away for the CPU to foresee. (A step of vgg-small took 58 instead of 64 ms on one core when the next map's input and
    output were fetched ahead.)"""
    for a in range(lines):
        for j in range(4):
            prefetch(x.vectors, first + a * x.line + j * x.column)


@register_jitable
def odd(vectors):
    """At least `vectors`, and odd: planes a multiple of 4 KiB apart share a few lines of the first cache (76 instead of
    660 GFLOP/s in a trial)."""
    return vectors | 1


@register_jitable
def tile_corner(tiling, x, first_line, t):
    """Where tile t of a group starts in a plane of x."""
    return 4 * ((first_line + t // tiling.across) * x.line + t % tiling.across * x.column)


@register_jitable
def transform_inputs(tiling, x, first, first_line, tiles, memory, step, plane, corner):
    """memory[p * plane + k * step + t] = entry p of Bt d B of map k and tile t, with x[first] the first map's corner.

    `corner` is where a tile may be kept in memory while it is transformed.
    """
    for k in range(tiling.maps):
        for t in range(tiles):
            at = first + k * x.row + tile_corner(tiling, x, first_line, t)
            prefetch_window(x, at + x.row + 2 * x.column, 6)
            for a in range(6):
                store_six(memory, corner + 6 * a, 1, transform_input(*load_six(x.vectors, at + a * x.line, x.column)))
            for b in range(6):
                values = transform_input(*load_six(memory, corner + b, 6))
                store_six(memory, k * step + t + b * plane, 6 * plane, values)


def scratch_vectors(tiling: Tiling, tile_rows: int) -> int:
    """Vectors of scratch memory that a thread needs: transformed input, products, and one tile."""
    tiles = tiling.group * tiling.across
    return int(36 * odd(tiling.maps * tiles) + 36 * odd(tile_rows * tiles) + 36)


@kernel
def winograd_kernels(task, extent, w, row_step, map_step, rotated, u):
    """u[p, k, f] = entry p of G g Gt, with g[a, b] = w[f * row_step + k * map_step + 3 * a + b], or g rotated by 180
    degrees

    extent Extent: rows F, lines K  w (scalars,)  u (36 * F / L * K, L), F padded to whole vectors by zeros,
    fully overwritten. A task owns L rows of one map.
    """
    lanes = u.shape[1]
    groups = (extent.rows + lanes - 1) // lanes
    group = task // extent.lines
    map_ = task % extent.lines
    at = group * extent.lines + map_
    step = groups * extent.lines
    # The nine entries of each kernel are brought together where three of its results will stand.
    for tap in range(9):
        source = map_ * map_step + (8 - tap if rotated else tap)
        for lane in range(lanes):
            f = group * lanes + lane
            value = entry(w, source + f * row_step) if f < extent.rows else 0
            set_entry(u, (at + tap * step, lane), value)
    left = transform_kernel(load(u, at), load(u, at + 3 * step), load(u, at + 6 * step))
    middle = transform_kernel(load(u, at + step), load(u, at + 4 * step), load(u, at + 7 * step))
    right = transform_kernel(load(u, at + 2 * step), load(u, at + 5 * step), load(u, at + 8 * step))
    store_six(u, at, step, transform_kernel(left[0], middle[0], right[0]))
    store_six(u, at + 6 * step, step, transform_kernel(left[1], middle[1], right[1]))
    store_six(u, at + 12 * step, step, transform_kernel(left[2], middle[2], right[2]))
    store_six(u, at + 18 * step, step, transform_kernel(left[3], middle[3], right[3]))
    store_six(u, at + 24 * step, step, transform_kernel(left[4], middle[4], right[4]))
    store_six(u, at + 30 * step, step, transform_kernel(left[5], middle[5], right[5]))


@kernel
def winograd(task, thread, tile, tiling, u, x, bias, out, epilogue, y, scratch):
    """out[n, f, i, j] = epilogue(bias[f] + sum over k, a, b of g[f, k, a, b] * x[n, k, i + a, j + b], y[n, f, i, j])

    u (scalars,): the transformed kernels, 36 x F / L x K x L  x View (N, K, H, W), which may be read 4 * down + 2 lines
    deep and 4 * across + 2 columns wide  bias (F,)  out, y View (N, F, I, J), out fully overwritten
    scratch (threads, vectors, L): `scratch_vectors` for the calling thread; tile.rows divides L
    A task owns a block and `group` lines of tiles.
    """
    groups = (tiling.down + tiling.group - 1) // tiling.group
    block = task // groups
    first_line = task % groups * tiling.group
    down = min(tiling.group, tiling.down - first_line)
    tiles = down * tiling.across
    memory = scratch[thread]
    lanes = memory.shape[1]
    plane = odd(tiling.maps * tiles)
    product_plane = odd(tile.rows * tiles)
    products = 36 * plane
    corner = products + 36 * product_plane
    row_groups = (tiling.rows + lanes - 1) // lanes
    transform_inputs(tiling, x, x.start + block * x.block, first_line, tiles, memory, tiles, plane, corner)
    for row in range(0, tiling.rows, tile.rows):
        for p in range(36):
            u_at = (p * row_groups + row // lanes) * tiling.maps * lanes + row % lanes
            for t_start in range(0, tiles, tile.columns):
                t = min(t_start, tiles - tile.columns)
                total = tile_zeros(tile, memory)
                v_at = p * plane + t
                for k in range(tiling.maps):
                    total = tile_fma(tile, total, u, u_at + k * lanes, memory, v_at + k * tiles, 1)
                tile_store(total, memory, products + p * product_plane + t, tiles, 1, 0)
        for r in range(min(tile.rows, tiling.rows - row)):
            offset = full(memory, bias[row + r])
            for t in range(tiles):
                line = 4 * (first_line + t // tiling.across)
                column = 4 * (t % tiling.across)
                at = products + r * tiles + t
                for a in range(6):
                    values = transform_output(*load_six(memory, at + 6 * a * product_plane, product_plane))
                    store(memory, corner + a, values[0])
                    store(memory, corner + 6 + a, values[1])
                    store(memory, corner + 12 + a, values[2])
                    store(memory, corner + 18 + a, values[3])
                out_at = out.start + block * out.block + (row + r) * out.row + line * out.line + column * out.column
                y_at = y.start + block * y.block + (row + r) * y.row + line * y.line + column * y.column
                for i in range(4):
                    for j in range(4):
                        prefetch_to_write(out.vectors, out_at + out.row + i * out.line + j * out.column)
                if epilogue.backward:
                    prefetch_window(y, y_at + y.row, 4)
                for b in range(min(4, tiling.columns - column)):
                    values = transform_output(*load_six(memory, corner + 6 * b, 1))
                    if line + 4 <= tiling.lines:
                        _put(values[0] + offset, 0, b, out, out_at, epilogue, y, y_at)
                        _put(values[1] + offset, 1, b, out, out_at, epilogue, y, y_at)
                        _put(values[2] + offset, 2, b, out, out_at, epilogue, y, y_at)
                        _put(values[3] + offset, 3, b, out, out_at, epilogue, y, y_at)
                    else:
                        _put(values[0] + offset, 0, b, out, out_at, epilogue, y, y_at)
                        if line + 1 < tiling.lines:
                            _put(values[1] + offset, 1, b, out, out_at, epilogue, y, y_at)
                        if line + 2 < tiling.lines:
                            _put(values[2] + offset, 2, b, out, out_at, epilogue, y, y_at)


@register_jitable
def _put(value, i, j, out, out_at, epilogue, y, y_at):
    """Finish and store the entry (i, j) of an output tile."""
    value = finish(epilogue, value, y.vectors, y_at + i * y.line + j * y.column)
    store(out.vectors, out_at + i * out.line + j * out.column, value)
