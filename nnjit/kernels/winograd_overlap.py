"""The gradient to the input of convolutions of stride 1 as the adjoint of Winograd's algorithm, by overlap and add.

Forwards a 4x4 tile of the output is At [(G g Gt) * (Bt d B)] A. Backwards a 4x4 tile d of the gradient of the output
sends B [(G g Gt) * (E d Et)] Bt to the positions of the input that it came from, E being A, the powers 0 to 3 of the
points; what the tiles send to the same position adds up. Without padding the output has fewer tiles than the input,
which `winograd` with a rotated kernel goes over: 4 instead of 9 for 5x5 kernels on an image of 12x12.

Source: the transposition of Lavin & Gray 2015, arXiv:1509.09308, section 4.1.
"""

from __future__ import annotations

from typing import NamedTuple

from nnjit.kernels.activations import finish
from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.simd import full, load, store, store_run
from nnjit.kernels.tiles import TileShape
from nnjit.kernels.winograd import Tiling, multiply_entries, scratch_layout, scratch_vectors, tile_corner
from nnjit.kernels.winograd_transforms import Form, transform_gradient, transform_input_adjoint


class Cutout(NamedTuple):
    """The part of a plane covered by tiles that is an image: from line `above` and column `left` on."""

    above: int
    left: int
    lines: int
    columns: int


@subroutine
def sums_size(form, tiling):
    """Lines and columns of the plane that the tiles of one row add up to."""
    overlap = form.taps - 1
    return form.outputs * (tiling.tiles // tiling.across) + overlap, form.outputs * tiling.across + overlap


def overlap_scratch_vectors(form: Form, tiling: Tiling, tile: TileShape) -> int:
    """Vectors of scratch memory that a thread needs: what `winograd` needs, and the plane of one row behind it."""
    height, width = sums_size(form, tiling)
    return scratch_vectors(form, tiling, tile.rows) + int(height * width)


@subroutine
def _transform_outputs(form, tiling, d, first, memory, plane, corner):
    """memory[p * plane + k * tiling.group + t] = entry p of E d Et of map k and tile t, with d[first] the corner of map
    0; `corner` is where a tile may be kept in memory meanwhile."""
    size = form.points
    for k in range(tiling.maps):
        for t in range(tiling.tiles):
            at = first + k * d.row + tile_corner(form, tiling, d, t)
            for i in range(form.outputs):
                values = transform_gradient(form, d.vectors, at + i * d.line, d.column)
                store_run(memory, corner + size * i, 1, values)
            for b in range(size):
                values = transform_gradient(form, memory, corner + b, size)
                store_run(memory, k * tiling.group + t + b * plane, size * plane, values)


@kernel
def winograd_overlap(task, thread, form, tile, tiling, shares, cutout, u, d, out, epilogue, y, scratch):
    """out[n, c, i, j] = epilogue(sum over f, a, b of g[c, f, a, b] * d[n, f, i + above - a, j + left - b],
    y[n, c, i, j])

    tiling Tiling: all tiles of d in one group; its rows are C, its maps F
    u (scalars,): the transformed kernels as `winograd_kernels` writes them  d View (N, F, I, J), zeros as far as whole
    tiles reach  out, y View (N, C, H, W), out fully overwritten: the `cutout` of I + form.taps - 1 lines
    scratch (threads, vectors, L): `overlap_scratch_vectors` for the calling thread
    A task owns one of `shares` shares of the rows of a block; each share transforms all of d.
    """
    block = task // shares
    share = task % shares
    memory = scratch[thread]
    size = form.points
    plane, products, product_plane, corner = scratch_layout(form, tiling, tile.rows)
    sums = corner + form.entries
    height, width = sums_size(form, tiling)
    _transform_outputs(form, tiling, d, d.start + block * d.block, memory, plane, corner)
    row_tiles = (tiling.rows + tile.rows - 1) // tile.rows
    for row_tile in range(row_tiles * share // shares, row_tiles * (share + 1) // shares):
        row = row_tile * tile.rows
        multiply_entries(form, tile, tiling, u, 0, row, tiling.tiles, memory, plane, products, product_plane)
        for r in range(min(tile.rows, tiling.rows - row)):
            for k in range(height * width):
                store(memory, sums + k, full(memory, 0.0))
            for t in range(tiling.tiles):
                at = products + r * tiling.group + t
                for b in range(size):
                    values = transform_input_adjoint(form, memory, at + b * product_plane, size * product_plane)
                    store_run(memory, corner + b, size, values)
                first = sums + form.outputs * (t // tiling.across * width + t % tiling.across)
                for i in range(size):
                    store_run(memory, corner + size * i, 1, transform_input_adjoint(form, memory, corner + size * i, 1))
                    for j in range(size):
                        total = load(memory, first + i * width + j) + load(memory, corner + size * i + j)
                        store(memory, first + i * width + j, total)
            out_map = out.start + block * out.block + (row + r) * out.row
            y_map = y.start + block * y.block + (row + r) * y.row
            for i in range(cutout.lines):
                for j in range(cutout.columns):
                    value = load(memory, sums + (cutout.above + i) * width + cutout.left + j)
                    value = finish(epilogue, value, y.vectors, y_map + i * y.line + j * y.column)
                    store(out.vectors, out_map + i * out.line + j * out.column, value)
