"""Gradients of a convolution's weights: sums over samples and positions.

    dw[r, k] = sum over n, i, j and lanes of d[n, r, i, j] * x[n, i, j, k]

Views and taps are those of `contraction.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.lane_sums import tile_add_sums, tile_add_vectors, tile_fma_vectors
from nnjit.kernels.simd import entry, prefetch, prefetch_near
from nnjit.kernels.tiles import TileShape, tile_add, tile_zeros


class Cut(NamedTuple):
    """How a sum over the lines of all images is cut.

    The numbers of parts and of lines in a piece belong to the order of the sum: sizes alone decide about them. Shares
    do not, threads may.
    """

    parts: int
    """Sums that are computed apart and added at the end: part p has lines N * p // parts to N * (p + 1) // parts, so
    that the thread that wrote those lines mostly reads them."""
    lines: int
    """How many lines of its part a task takes at a time, for all its weights: a piece that stays in the near caches."""
    shares: int = 1
    """Into how many tasks the weights of a part are divided."""


def tile_turns(tile: TileShape, rows: int, taps: int, together: int) -> NDArray[np.int64]:
    """(4 * T,): for each of the T tiles that cover rows x taps weights, in the order in which `contract_lanes` takes
    them: where its sums lie, its first row, its first tap, and the turn from which on tiles have other taps.

    So many tiles of rows go `together`: they follow each other for some taps, before the next taps. The order is no
    part of that of a sum. It stands in a table since addresses wait for divisions: with those in the kernel, on one
    core with Zen 5, 5x5 with a stride of 3 from 48 maps of 24x24 to 12 took 445 us, now 382, 3x3 with one of 3 from 96
    of 14x14 to 12 94, now 78, 3x3 with one of 2 from 6 of 48x48 to 24 117, now 105.
    """
    row_tiles, tap_tiles = -(-rows // tile.rows), -(-taps // tile.columns)
    turns: list[tuple[int, ...]] = []
    for first in range(0, row_tiles, together):
        last = min(first + together, row_tiles)
        for k in range(tap_tiles):
            following = len(turns) + last - first
            for r in range(first, last):
                at = (r * tap_tiles + k) * tile.rows * tile.columns
                turns.append((at, min(r * tile.rows, rows - tile.rows), k * tile.columns, following))
    return np.array(turns, np.int64).reshape(-1)


@kernel
def contract_lanes(task, tile, last, bias_tile, extent, cut, d, x, starts, turns, x_taps, x_fresh, parts, bias_parts):
    """parts[p, r, k] = sum over the lines of part p, columns and lanes of d[n, r, i, j] * x[n, i, j, x_taps[k]]
    bias_parts[p, r] = that sum of d[n, r, i, j]

    d View (N, R, I, J), its columns side by side  x View (N, -, I, J)  x_taps (K,)
    x_fresh (F,): the taps that read what no earlier line or column has read
    starts (2 * N * I,): where line i of block n starts in d, and where in x, instead of what their views say of it
    turns (4 * T,), as from `tile_turns`
    last: the tile for the last taps, where tiles of the others leave some (3 maps to 16 by 3x3 1.06 times as fast as
    with tiles that overlap, by 4x4 with a stride of 2 to 64 1.07; with AVX2 no difference)
    parts (parts, row tiles * tap tiles * tile.rows * tile.columns or more), tile by tile as `add_tile_parts` takes
    them, fully overwritten; a tile that would pass the last row starts earlier, so some entries stand there twice
    bias_parts (parts, row tiles * tile.rows or more), likewise, or (parts, 0)  bias_tile: one column of `tile`
    A task owns a share of a part's tiles, all taps for some rows one after the other; those rows are all if the tile
    fetches. The tile knows the column_step of x.
    """
    part = task // cut.shares
    share = task % cut.shares
    lines = extent.blocks * extent.lines
    tiles = len(turns) // 4
    first_turn = tiles * share // cut.shares
    last_turn = tiles * (share + 1) // cut.shares
    sums, bias_sums = parts[part], bias_parts[part]
    for turn in range(first_turn, last_turn):
        at = entry(turns, 4 * turn)
        for k in range(at, at + tile.rows * tile.columns):
            sums[k] = 0
    first_line = lines * part // cut.parts
    last_line = lines * (part + 1) // cut.parts
    for start in range(first_line, last_line, cut.lines):
        stop = min(start + cut.lines, last_line)
        next_piece = 2 * min(cut.lines, last_line - stop)
        for turn in range(first_turn, last_turn):
            at, row, tap = entry(turns, 4 * turn), entry(turns, 4 * turn + 1), entry(turns, 4 * turn + 2)
            if tile.tap_fetches:
                # The tiles of all rows share the taps of the next ones, in this piece or in the next.
                row_tiles = (extent.rows + tile.rows - 1) // tile.rows
                following, ahead_first = entry(turns, 4 * turn + 3), 1
                fetched = turn + row_tiles - following
                if following >= last_turn:
                    following, ahead_first = first_turn, 1 + next_piece
                next_tap = entry(turns, 4 * following + 2) + fetched * tile.tap_fetches
                next_tap = min(next_tap, len(x_taps) - tile.tap_fetches)
                ahead = (x.vectors, ahead_first, 0, tile.column_step, next_tap)
            else:
                # Each tile also has a row of d or a tap of x brought near where the next piece of this part reads it;
                # what another thread wrote for its own part stays there.
                fresh = turn - first_turn
                if fresh < extent.rows:
                    ahead = (d.vectors, next_piece, fresh * d.row, 1, 0)
                else:
                    fresh_tap = entry(x_fresh, min(fresh - extent.rows, len(x_fresh) - 1))
                    ahead = (x.vectors, next_piece + 1, fresh_tap, tile.column_step, 0)
            images = (d, x, row, starts, start, stop, x_taps, tap, ahead)
            if last is not None and tap + tile.columns > len(x_taps):
                _add_products(last, extent.columns, *images, sums, at)
            else:
                _add_products(tile, extent.columns, *images, sums, at)
            # After the last taps of these rows, which then are near, but for many in the order of taps (before the
            # first ones 3 maps to 32 by 3x3 took 520 us on one core, now 489, 1 to 20 by 5x5 169 and 163).
            if tap + tile.columns >= len(x_taps) and len(bias_sums):
                bias = (row + tile.rows - 1) // tile.rows * tile.rows
                if start == first_line:
                    for r in range(tile.rows):
                        bias_sums[bias + r] = 0
                total = line_sums(bias_tile, 0, extent.columns, d, row, starts, 0, start, stop)
                if tile.halved:
                    total = tile_add(total, line_sums(bias_tile, 1, extent.columns, d, row, starts, 0, start, stop))
                tile_add_sums(total, bias_sums, bias)


@subroutine(forceinline=True)
def _add_products(tile, columns, d, x, row, starts, first_line, last_line, x_taps, tap, ahead, sums, at):
    """sums[at + entry of the tile] += its sums over lanes and some lines. Called as a function it takes 4 to 6 % more
    with AVX2."""
    total = _products(tile, 0, columns, d, x, row, starts, first_line, last_line, x_taps, tap, ahead)
    if tile.halved:
        second = _products(tile, 1, columns, d, x, row, starts, first_line, last_line, x_taps, tap, ahead)
        total = tile_add(total, second)
    tile_add_sums(total, sums, at)


@subroutine
def _products(tile, half, columns, d, x, row, starts, first_line, last_line, x_taps, tap, ahead):
    """The sums of a tile of `contract_lanes` over some lines.

    ahead: what is to be brought near: an array, where its entry of `starts` is from that of d, how far from there it
    begins, the step of its columns, and the first of the taps to fetch, 0 where the tile fetches none and one vector is
    brought for each position (with the sums of `line_sums` 20 maps from one by 5x5 118 to 140 GFLOP/s, 32 from 3 by 3x3
    120 to 137)
    """
    vectors, ahead_first, ahead_at, ahead_step, ahead_tap = ahead
    total = tile_zeros(tile, d.vectors)
    for line in range(first_line, last_line):
        d_at = entry(starts, 2 * line) + row * d.row
        x_at = entry(starts, 2 * line + 1)
        next_at = entry(starts, 2 * line + ahead_first) + ahead_at
        for j in range(columns):
            if half == 0:
                if tile.tap_fetches:
                    for k in range(tile.tap_fetches):
                        prefetch_near(vectors, next_at + j * ahead_step + entry(x_taps, ahead_tap + k))
                else:
                    prefetch(vectors, next_at + j * ahead_step)
            x_column = x_at + j * tile.column_step
            total = tile_fma_vectors(tile, total, half, d.vectors, d_at + j, d.row, x.vectors, x_column, x_taps, tap)
    return total


@subroutine
def line_sums(tile, half, columns, d, row, starts, side, first_line, last_line):
    """The sums over some lines of as many rows of d as the tile has; line l of d starts at starts[2 * l + side], its
    columns side by side.

    Two sums for each row run side by side, since each addition waits for the one before it.
    """
    even = tile_zeros(tile, d.vectors)
    odd = tile_zeros(tile, d.vectors)
    for line in range(first_line, last_line):
        d_at = entry(starts, 2 * line + side) + row * d.row
        for j in range(0, columns - 1, 2):
            even = tile_add_vectors(even, half, d.vectors, d_at + j, d.row)
            odd = tile_add_vectors(odd, half, d.vectors, d_at + j + 1, d.row)
        if columns % 2:
            even = tile_add_vectors(even, half, d.vectors, d_at + columns - 1, d.row)
    return tile_add(even, odd)
