"""Gradients of a convolution's weights with maps in the lanes: the sums of `contraction_weights.py`, another layout.

    dw[r, k] = sum over n, i, j and samples of d[n, r, i, j] * x[n, i, j, k]

Where both factors are vectors of samples, a load serves few multiply-adds, and each sum is added up over lanes in the
end. Here the vectors of d are transposed first, a panel at a time, once for all taps: then a vector holds L maps of one
sample, and a load serves as many multiply-adds as in the forward pass. With kernels of 1x1 either factor may be the one
that is transposed; d stands for it. Measured on one core over the 16 layers that `choose_lanes` gives to it:
84 % of the attainable rate where `contract_lanes` has 71 %, with AVX2 83 and 73 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.contraction import first_rows
from nnjit.kernels.lane_sums import tile_add_sums, tile_add_vectors
from nnjit.kernels.simd import entry, full, load, prefetch_near, store
from nnjit.kernels.sums import once
from nnjit.kernels.tiles import (
    SAMPLES,
    TileShape,
    tile_add_to,
    tile_fma_samples,
    tile_store,
    tile_sum,
    tile_zeros,
)
from nnjit.kernels.transposition import tile_across


def transposed_places(tile: TileShape, rows: int, taps: int, lanes: int) -> NDArray[np.int64]:
    """Where the lanes of parts as `contract_transposed` leaves them go in a matrix (rows, taps): (vectors, L).

    -1 for those that an earlier lane has too, since groups, panels and tiles that would pass the end start earlier.
    """
    tiles = first_rows(taps, tile.rows)[:, None] + np.arange(tile.rows)
    places = _panels(tile, rows, lanes)[:, None, None] * taps + tiles[None, :, :, None, None]
    return once(places).reshape(-1, lanes)


def panel_places(tile: TileShape, rows: int, lanes: int) -> NDArray[np.int64]:
    """Likewise those of row_parts, in (rows,)."""
    return once(_panels(tile, rows, lanes)).reshape(-1, lanes)


def _panels(tile: TileShape, rows: int, lanes: int) -> NDArray[np.int64]:
    """The rows of each panel's vectors: (panels, tile.columns, L)."""
    groups = first_rows(rows, lanes)[:, None] + np.arange(lanes)
    return groups[first_rows(len(groups), tile.columns)[:, None] + np.arange(tile.columns)]


@kernel
def contract_transposed(
    task, thread, tile, taps_tile, extent, cut, d, x, starts, x_taps, samples, parts, row_parts, tap_parts, scratch
):
    """parts[p, r, k] = sum over the lines of part p, columns and samples of d[n, r, i, j] * x[n, i, j, x_taps[k]]
    row_parts[p, r] = that sum of d[n, r, i, j]  tap_parts[p, k] = that sum of x[n, i, j, x_taps[k]]

    d View (N, R, I, J), R at least L  x View (N, K, I, J), its columns side by side if there are sums of taps
    x_taps (K,), in scalars: within a run of the tile each is L more than the last
    starts (2 * N * I,): where line i of block n starts in d, and where in x
    parts (parts, panels * tap tiles * tile.rows * tile.columns, L), tile by tile, fully overwritten
    row_parts (parts, panels * tile.columns, L), likewise, or (parts, 0, L)
    tap_parts (parts, tap tiles * tile.rows), likewise, or (parts, 0); then tap k is row k of x
    taps_tile: one column of `tile`, for the sums of taps, which go beside the products (with a loop of their own before
    them 1x1 from 32 maps to 64 took 327 us on one core, now 309), for the first panel in use; None without them
    scratch (threads, vectors, L): a panel, the lines of a piece for as many groups of L maps as a tile has columns
    Lanes without a sample hold 0 in d or in x, whichever is the gradient. A task owns a share of a part's tiles. The
    tile knows the column_step of x.
    """
    scalars = x.vectors.reshape(-1)
    part = task // cut.shares
    share = task % cut.shares
    lines = extent.blocks * extent.lines
    width = parts.shape[2]
    groups = (extent.rows + width - 1) // width
    panels = (groups + tile.columns - 1) // tile.columns
    tap_tiles = (len(x_taps) + tile.rows - 1) // tile.rows
    first_tile = panels * tap_tiles * share // cut.shares
    last_tile = panels * tap_tiles * (share + 1) // cut.shares
    entries = tile.rows * tile.columns
    sums, row_sums, tap_sums, panel = parts[part], row_parts[part], tap_parts[part], scratch[thread]
    for k in range(first_tile * entries, last_tile * entries):
        store(sums, k, full(sums, 0.0))
    first_line = lines * part // cut.parts
    last_line = lines * (part + 1) // cut.parts
    whole_lines = samples // width * extent.lines
    for start in range(first_line, last_line, cut.lines):
        stop = min(start + cut.lines, last_line)
        # Counted along, since divisions take as long as several products (26 layers 1.008 times as fast).
        column, tap_tile = first_tile // tap_tiles * tile.columns, first_tile % tap_tiles
        for number in range(first_tile, last_tile):
            if tap_tile == tap_tiles:
                column, tap_tile = column + tile.columns, 0
            row = min(min(column, groups - tile.columns) * width, extent.rows - width)
            if number == first_tile or tap_tile == 0:
                summed = tap_tile == 0 and len(row_sums) > 0
                if summed and start == first_line:
                    for c in range(tile.columns):
                        store(row_sums, column + c, full(row_sums, 0.0))
                _fill_panel(tile, extent, d, row, starts, start, stop, panel, row_sums, column, summed)
            tap = min(tap_tile * tile.rows, len(x_taps) - tile.rows)
            # Each tile has some rows of the panel that follows brought near, where this piece or the next one has it
            # (1x1 from 32 maps to 64: 56 to 65 % of the peak without, 68 to 69 % with that; in a loop of their own
            # before the products 415 us, between those 407).
            next_start, next_column = start, column + tile.columns
            if number - tap_tile + tap_tiles >= last_tile:
                next_start, next_column = stop, first_tile // tap_tiles * tile.columns
            panel_rows = min(tile.columns * width, extent.rows)
            next_row = min(next_column * width, extent.rows - panel_rows)
            first_ahead = next_row + tap_tile * tile.task_fetches * (width // SAMPLES)
            last_ahead = next_row + panel_rows
            next_tile, taps_start = tap_tile + 1, start
            if number + 1 == last_tile:
                next_tile, taps_start = first_tile % tap_tiles, stop
            elif next_tile == tap_tiles:
                next_tile = 0
            next_tap = min(next_tile * tile.rows, len(x_taps) - tile.rows)
            total, of_taps = tile_zeros(tile, panel), tile_zeros(taps_tile, panel)
            at = 0
            for line in range(start, stop):
                x_at = entry(starts, 2 * line + 1) * width
                row_at = entry(starts, 2 * line + 1) + tap * x.row
                present = width if line < whole_lines else samples % width
                d_ahead = entry(starts, 2 * min(line - start + next_start, last_line - 1))
                x_ahead = entry(starts, 2 * min(line - start + taps_start, last_line - 1) + 1) * width
                for _ in range(extent.columns):
                    of_taps = tile_add_vectors(of_taps, 0, x.vectors, row_at, x.row)
                    row_at += tile.column_step
                    # Taps that are no run share few vectors (1x1 from 64 maps to 128: 70 to 75 % of the peak, with AVX2
                    # 5x5 with a stride of 2 78 to 81; of a run it takes 1 to 4 % instead).
                    if tile.run == 1:
                        for r in range(tile.rows):
                            prefetch_near(scalars, x_ahead + entry(x_taps, next_tap + r))
                    ahead = first_ahead
                    for s in range(0, present, SAMPLES):
                        for _ in range(tile.task_fetches):
                            if ahead < last_ahead:
                                prefetch_near(d.vectors, d_ahead + ahead * d.row)
                            ahead += 1
                        d_at = at + s * tile.columns
                        total = tile_fma_samples(tile, total, scalars, x_at + s, x_taps, tap, panel, d_at, 1)
                    d_ahead += d.column
                    x_at += tile.column_step * width
                    x_ahead += tile.column_step * width
                    at += width * tile.columns
            tile_add_to(total, sums, number * entries)
            if number < tap_tiles and len(tap_sums):
                first = number * tile.rows
                if start == first_line:
                    tap_sums[first : first + tile.rows] = 0
                tile_add_sums(of_taps, tap_sums, first)
            tap_tile += 1


@subroutine
def _fill_panel(tile, extent, d, first_row, starts, start, stop, panel, row_sums, first_sum, summed):
    """panel[position, sample, c, :] = d's maps from first_row + c * L on, at some lines' positions.

    If `summed`, row_sums[first_sum + c] gets their sum added, which costs less here than to read the panel again
    (weights of 9x9 from one map to 64 619 to 601 us, of 4x4 with a stride of 4 from 3 to 32 70 to 66).
    """
    width = panel.shape[1]
    for c in range(tile.columns):
        row = min(first_row + c * width, extent.rows - width)
        at = c
        total = full(panel, 0.0)
        for line in range(start, stop):
            d_at = entry(starts, 2 * line) + row * d.row
            for j in range(extent.columns):
                across = tile_across(d.vectors, d_at + j * d.column, d.row)
                tile_store(across, panel, at, tile.columns, 0, 0)
                if summed:
                    total = total + tile_sum(across)
                at += width * tile.columns
        if summed:
            store(row_sums, first_sum + c, load(row_sums, first_sum + c) + total)
