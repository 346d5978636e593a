"""The kernel calls of direct sums over taps, with samples in the lanes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.buffers import Buffer
from nnjit.kernels.contraction import Extent, View, Weights, contract, contract_pooled, line_pair_vectors
from nnjit.kernels.contraction_bands import band_vectors, contract_bands
from nnjit.kernels.contraction_packed import contract_packed, packed_tasks, packed_vectors
from nnjit.kernels.program import Call
from nnjit.kernels.tiles import TileShape
from nnjit.passes.images import Ends, Filters, MapTaps, Phases, Sums, Taps
from nnjit.passes.packed_weights import Order, packed_rows
from nnjit.site import Site, zeros_call
from nnjit.tuning.contraction import choose_tasks, choose_tile
from nnjit.tuning.contraction_bands import choose_band, choose_band_share, edge_bands
from nnjit.tuning.contraction_packed import (
    choose_packed_shares,
    choose_packed_tile,
    choose_packed_tiles,
    last_packed_tile,
)
from nnjit.tuning.lines import last_tile, used_by_tiles

Contraction = Callable[[NDArray[Any], Ends, View], Call]
"""The call for sums whose weights are in order, from where an image starts to those ends."""


def direct_sums(
    site: Site,
    filters: Filters,
    sums: Sequence[Sums],
    x: View,
    together: int = 0,
    cleared: Buffer | None = None,
) -> list[Call]:
    """The calls for sums that read the same image: their weights are put in the order in which tiles read them, then
    contracted, for all sums over so many blocks `together` before the next ones (0: all). What is `cleared` gets zeros
    first, of the same blocks."""
    blocks, rows = sums[0].ends.extent.blocks, sums[0].ends.extent.rows
    orders, contractions = zip(*(_contraction(site, part, x, len(sums)) for part in sums), strict=True)
    calls, packed = packed_rows(site, filters, orders, rows)
    together = together or blocks
    for first in range(0, blocks, together):
        some = min(together, blocks - first)
        image = x._replace(start=x.start + first * x.block)
        if cleared is not None:
            calls.append(zeros_call(cleared, first, some))
        for part, contraction, weights in zip(sums, contractions, packed, strict=True):
            calls.append(contraction(weights, part.ends.of_blocks(first, some), image))
    return calls


def _contraction(site: Site, sums: Sums, x: View, alike: int) -> tuple[Order, Contraction]:
    """How those sums are computed, one of `alike` that read the same image, and the order of the weights for it."""
    passed, ends, _ = sums
    if sums.map_taps is not None:
        return _by_bands(site, sums.map_taps, ends)
    taps, extent = len(passed.x), ends.extent
    if passed.once and ends.winners is None:
        columns = _as_one_line(extent, x, ends)[0].columns
        if packed_tile := choose_packed_tile(extent.rows, columns, taps, len(ends.phases.weights)):
            return _packed_contraction(site, passed, packed_tile, ends.phases)
    used = tuple((int(first), int(last)) for first, last in passed.columns)
    tile = choose_tile(
        extent.rows,
        extent.columns,
        taps,
        run=passed.run,
        column_step=x.column,
        run_step=passed.run_step,
        used=used,
        halves=x.column == 1 and (ends.winners is not None or ends.out.column == 1),
        line_vectors=_line_vectors(passed.x, x.column, extent.columns),
        apart=passed.apart,
        strides=passed.strides,
        alone=alike == len(ends.phases.weights) == 1,
    )
    tile = replace(tile, result_fetches=ends.winners is None)
    if tile.halved:
        used = tuple(span for span in used for _ in range(2))
    last = last_tile(tile, extent.columns * tile.units)
    columns_used = np.array(used_by_tiles(used, tile.columns), np.int64)

    def contraction(packed: NDArray[Any], ends: Ends, x: View) -> Call:
        weights = Weights(packed.reshape(-1), passed.group, passed.lines, columns_used)
        arguments = (weights, x._replace(row=0), passed.x, ends.bias, ends.out, ends.epilogue)
        extent, work = ends.extent, _work(site, ends, taps)
        lines = extent.blocks * extent.lines // (1 if ends.winners is None else 2)
        tasks = choose_tasks(work, lines * len(packed))
        if ends.winners is None:
            return Call(contract, tasks, (tile, last, tasks, extent, ends.phases.places, *arguments, ends.y), work)
        scratch = site.workspace.by_thread(line_pair_vectors(tile, extent))
        operands = (tile, last, tasks, extent, *arguments, ends.winners, scratch)
        return Call(contract_pooled, tasks, operands, work)

    return Order(passed.w, ends.phases, tile.rows), contraction


def _work(site: Site, ends: Ends, taps: int) -> int:
    """The multiply-adds of sums over so many taps to those ends."""
    return math.prod(ends.extent) * len(ends.phases.weights) * taps * site.lanes


def _line_vectors(taps: NDArray[np.int64], step: int, columns: int) -> int:
    """How many vectors a line of the output reads, of which each of `columns` positions reads `taps`, `step` further
    than the one before it: each tap starts a row of them, and the next one in that row may start before its end."""
    order = np.lexsort((taps, taps % step))
    gaps = np.diff(taps[order])
    fresh = np.where(gaps % step, columns, np.minimum(gaps // step, columns))
    return columns + int(fresh.sum()) if len(taps) else 0


def _packed_contraction(site: Site, passed: Taps, tile: TileShape, phases: Phases) -> tuple[Order, Contraction]:
    """The same where each vector of the image is read by one position of the output."""
    taps = len(passed.x)

    def contraction(packed: NDArray[Any], ends: Ends, x: View) -> Call:
        work = _work(site, ends, taps)
        extent, x, ends = _as_one_line(ends.extent, x, ends)
        tiles = choose_packed_tiles(tile, taps, -(-extent.columns // tile.columns), extent.blocks * extent.lines)
        scratch = site.workspace.by_thread(packed_vectors(tile, taps, tiles))
        images = (x._replace(row=0), passed.x, ends.bias, ends.out, ends.epilogue, ends.y)
        last = last_packed_tile(tile, extent.columns)
        shares = choose_packed_shares(packed_tasks(tile, extent, tiles, 1), len(packed))
        operands = (tile, last, extent, ends.phases.places, tiles, shares, packed.reshape(-1), *images, scratch)
        return Call(contract_packed, packed_tasks(tile, extent, tiles, shares), operands, work)

    return Order(passed.w, phases, tile.rows), contraction


def _by_bands(site: Site, passed: MapTaps, ends: Ends) -> tuple[Order, Contraction]:
    """Sums over a piece of the maps at a time, to an output of few."""
    extent, phases = ends.extent, ends.phases
    _, height, width = passed.w.shape
    tile = choose_band(extent.rows, (height, width), extent.lines, extent.columns, passed.zeros)
    edges = edge_bands(tile, extent.columns, passed.zeros)
    bands = -(-extent.lines // tile.lines)
    lines = np.array([_lines_of_band(passed.lines, tile.lines, band) for band in range(bands)], np.int64)

    def contraction(packed: NDArray[Any], ends: Ends, x: View) -> Call:
        extent, phases = ends.extent, ends.phases
        share = choose_band_share(tile, bands, extent.columns, extent.blocks * len(phases.weights))
        scratch = site.workspace.by_thread(band_vectors(tile, share, extent))
        images = (x._replace(row=0), passed.x, ends.bias, ends.out, ends.epilogue, ends.y)
        operands = (tile, edges, share, extent, phases.places, lines, packed.reshape(-1), *images, scratch)
        tasks = extent.blocks * len(phases.weights) * -(-bands // share.bands)
        return Call(contract_bands, tasks, operands, _work(site, ends, passed.w.size))

    return Order(passed.w.reshape(-1), phases, extent.rows), contraction


def _lines_of_band(used: NDArray[np.int64], size: int, band: int) -> tuple[int, int]:
    """The first line of the image and the one after the last, counted from the first line of a band of `size` lines,
    that its lines use; `used`: those of the kernel that each line of the output uses."""
    first = min(band * size, len(used) - size)
    met = [used[first + i] + i for i in range(size) if used[first + i, 1] > used[first + i, 0]]
    return (int(met[0][0]), int(met[-1][1])) if met else (0, 0)


def _as_one_line(extent: Extent, x: View, ends: Ends) -> tuple[Extent, View, Ends]:
    """What a pass computes, as a single line where lines follow each other without a gap, as in a convolution by
    1x1."""
    if any(view.line != extent.columns * view.column for view in (x, ends.out, ends.y)):
        return extent, x, ends
    whole = extent._replace(lines=1, columns=extent.lines * extent.columns)
    return whole, x, ends._replace(extent=whole)
