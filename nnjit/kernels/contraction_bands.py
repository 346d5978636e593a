"""Sums of products for outputs of few maps from many: the last layers of networks from image to image, the gradient to
an image's colours.

    out[n, r, i, j] = bias[r] + sum over m, u, v of w[r, m, u, v] * x[n, m, i + u, j + v]    w scalars, x, out vectors

The order of the sum is not that of `contract`, which goes over all maps in each line of the kernel. Few rows of a tile
then share what is read, which is more than stays in a near cache: from 64 maps to 3 by 3x3 it ran at 30 % of the peak,
this runs at 65. A task goes over a piece of the maps for all its positions before it takes the next one, and keeps its
sums in memory meanwhile; a tile takes a whole kernel of a map at a time. The tiles at the ends of a line leave out the
zeros that they meet (gradients to the input on one core: of 1 map by 9x9 without padding 58 to 70 % of the peak, by 5x5
54 to 61).
"""

from __future__ import annotations

from typing import NamedTuple

from nnjit.kernels.activations import finish
from nnjit.kernels.bands import BandShape, band_fma
from nnjit.kernels.compiler import kernel
from nnjit.kernels.contraction import Extent
from nnjit.kernels.simd import entry, full, load, store
from nnjit.kernels.tiles import tile_load, tile_store


class Share(NamedTuple):
    """What a task takes at a time; sums do not depend on it."""

    bands: int
    """Bands of a task."""
    maps: int
    """Maps of a piece."""


class Edges(NamedTuple):
    """The tiles at the ends of a line that leave out the zeros round the image which they meet; the others do not.

    Two at each end, since kernels may be wider than tiles (gradients to the input without padding, on one core with
    AVX2: of 1 map by 9x9 in tiles of four columns 1.09 times as fast as with one, by 7x7 and 5x5 1.05 and 1.04).
    """

    first: BandShape
    second: BandShape
    last_but_one: BandShape
    last: BandShape


def band_vectors(tile: BandShape, share: Share, extent: Extent) -> int:
    """Vectors of scratch memory that `contract_bands` needs for a thread."""
    return share.bands * -(-extent.columns // tile.columns) * tile.rows * tile.columns


@kernel
def contract_bands(
    task, thread, tile, edges, share, extent, phases, lines, w, x, x_maps, bias, out, epilogue, y, scratch
):
    """out[p, n, r, i, j] = epilogue(bias[r] + sum over m, u, v of w[p, m, u, v, r] * x[n, m, i + u, j + v],
    y[p, n, r, i, j])

    edges Edges: the tiles at the start of a line and at its end
    phases (P, 2): how far the results of each lie from those that out tells, and from y
    lines (bands, 2): the first line of the image, counted from a band's first line, that its lines read, and the one
    after the last; the others hold nothing but the zeros round the image
    w (P * M * tile.height * tile.width * R,)  x View (N, -, I, J)  x_maps (M,): where each map lies in a block of x
    bias (R,)  out, y View (N, R, I, J), out fully overwritten; R is tile.maps
    scratch (threads, vectors, L): `band_vectors` for the calling thread
    A task owns a block, a phase and some bands. A tile that would pass the last line or column starts earlier instead
    and computes some entries twice; lines of the band before it are left alone.
    """
    sums = scratch[thread]
    of_map = tile.height * tile.width * tile.maps
    tasks = (len(lines) + share.bands - 1) // share.bands
    phase = task % len(phases)
    first_band = task // len(phases) % tasks * share.bands
    last_band = min(first_band + share.bands, len(lines))
    block = task // (len(phases) * tasks)
    x_block = x.start + block * x.block
    column_tiles = (extent.columns + tile.columns - 1) // tile.columns
    for number in range((last_band - first_band) * column_tiles * tile.lines):
        for r in range(tile.maps):
            for c in range(tile.columns):
                store(sums, (number * tile.maps + r) * tile.columns + c, full(sums, entry(bias, r)))
    for first_map in range(0, len(x_maps), share.maps):
        at = 0
        for band in range(first_band, last_band):
            line = min(band * tile.lines, extent.lines - tile.lines)
            for column_tile in range(column_tiles):
                column = min(column_tile * tile.columns, extent.columns - tile.columns)
                total = tile_load(tile, sums, at)
                for m in range(first_map, min(first_map + share.maps, len(x_maps))):
                    w_at = (phase * len(x_maps) + m) * of_map
                    x_at = x_block + entry(x_maps, m) + line * x.line + column
                    operands = (w, w_at, x.vectors, x_at, x.line, lines[band, 0], lines[band, 1])
                    if column_tile == 0 and (edges.first.left or edges.first.right):
                        total = band_fma(edges.first, total, *operands)
                    elif column_tile == column_tiles - 1 and (edges.last.left or edges.last.right):
                        total = band_fma(edges.last, total, *operands)
                    elif column_tile == 1 and (edges.second.left or edges.second.right):
                        total = band_fma(edges.second, total, *operands)
                    elif column_tile == column_tiles - 2 and (edges.last_but_one.left or edges.last_but_one.right):
                        total = band_fma(edges.last_but_one, total, *operands)
                    else:
                        total = band_fma(tile, total, *operands)
                tile_store(total, sums, at, tile.columns, 1, 0)
                at += tile.rows * tile.columns
    out_block = phases[phase, 0] + out.start + block * out.block
    y_block = phases[phase, 1] + y.start + block * y.block
    at = 0
    for band in range(first_band, last_band):
        line = min(band * tile.lines, extent.lines - tile.lines)
        for column_tile in range(column_tiles):
            column = min(column_tile * tile.columns, extent.columns - tile.columns)
            for i in range(line, line + tile.lines):
                for r in range(tile.maps):
                    for j in range(column, column + tile.columns):
                        if i >= band * tile.lines:
                            y_at = y_block + r * y.row + i * y.line + j * y.column
                            value = finish(epilogue, load(sums, at), y.vectors, y_at)
                            store(out.vectors, out_block + r * out.row + i * out.line + j * out.column, value)
                        at += 1
