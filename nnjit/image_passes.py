"""Passes through an image, forwards or to the input, bound to kernels: direct sums over taps, or Winograd's algorithm.

What an output sums over is data (`Taps`), so that one pass is like another; `convolution.py` says what it is in each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.buffers import Buffer
from nnjit.kernels.activations import Epilogue
from nnjit.kernels.contraction import Extent, View, Weights, contract, contract_pooled, line_pair_vectors
from nnjit.kernels.contraction_bands import band_vectors, contract_bands
from nnjit.kernels.contraction_channels import channels_vectors, contract_channels
from nnjit.kernels.contraction_packed import contract_packed, packed_tasks, packed_vectors
from nnjit.kernels.contraction_remainder import contract_remainder, remainder_vectors
from nnjit.kernels.packing import pack_rows, packing_work, spans_of
from nnjit.kernels.program import Call
from nnjit.kernels.tiles import TileShape
from nnjit.kernels.winograd import kernels_vectors, scratch_vectors, winograd, winograd_kernels
from nnjit.kernels.winograd_overlap import Cutout, overlap_scratch_vectors, winograd_overlap
from nnjit.kernels.winograd_transforms import Form
from nnjit.parameters import aligned_zeros
from nnjit.site import Site, apart_call, zeros_call
from nnjit.tuning.contraction import choose_tasks, choose_tile
from nnjit.tuning.contraction_bands import choose_band, choose_band_share, edge_bands
from nnjit.tuning.contraction_packed import (
    choose_packed_shares,
    choose_packed_tile,
    choose_packed_tiles,
    last_packed_tile,
)
from nnjit.tuning.contraction_remainder import choose_remainder_tile, last_remainder_tile
from nnjit.tuning.lines import last_tile, used_by_tiles
from nnjit.tuning.packing import choose_packing_shares
from nnjit.tuning.winograd import choose_row_shares, choose_tiling, choose_winograd_tile


class Filters(NamedTuple):
    """The weights as one pass sees them: entry (row, map, u, v) lies at row * row_step + map * map_step + width * u +
    v."""

    scalars: NDArray[Any]
    row_step: int
    map_step: int


class Taps(NamedTuple):
    """What one output sums over: where each weight and each entry of the image lies, from where the output's row and
    position have theirs."""

    w: NDArray[np.int64]
    x: NDArray[np.int64]
    group: int
    """How many taps a line of the kernel has."""
    lines: NDArray[np.int64]
    """`contraction.Weights.lines`."""
    columns: NDArray[np.int64]
    """(columns, 2): of each line of the kernel, the first and last taps that a column of the output uses."""
    run: int
    """How many taps in a row read vectors equally far apart."""
    run_step: int
    """How far that is: 1, or 0 where it depends on the image."""
    apart: bool = False
    """Whether lines of the output read no line of the image that another one reads."""
    strides: bool = False
    """Whether the next line of the output starts to read more than a line further."""
    once: bool = False
    """Whether positions of the output read no position of the image that another one reads."""


class MapTaps(NamedTuple):
    """Likewise, map by map, where the next line or position of the output reads the next line or position of the
    image."""

    w: NDArray[np.int64]
    """(maps, lines of the kernel, entries of a line)."""
    x: NDArray[np.int64]
    """(maps,): where the first entry of each lies."""
    lines: NDArray[np.int64]
    """`contraction.Weights.lines`."""
    columns: NDArray[np.int64]
    """(columns, 2): of each line of the kernel, the first and last entries that a column of the output uses."""

    @property
    def zeros(self) -> tuple[int, int]:
        """How many zeros before the image, and after it, a line of the output reads."""
        (first, _), (_, last) = self.columns[0], self.columns[-1]
        return int(first), int(self.w.shape[2] - last if last else 0)


class Phases(NamedTuple):
    """Results that sum over the same entries of the image, each with weights of its own.

    Together they read it once (gradients to the input on one core: 4x4 with a stride of 4 from 96 filters to 3 maps 607
    to 404 us, with AVX2 919 to 676; 2x2 with a stride of 2 from 128 to 64 2.66 to 2.09 ms, where packing serves more
    rows; 3x3 with a stride of 3 from 32 to 16 813 to 589 us; 4x4 with a stride of 2 from 32 to 16 2.09 to 1.89 ms).
    """

    weights: NDArray[np.int64]
    """(phases,): how far their weights lie from those that the taps tell."""
    places: NDArray[np.int64]
    """(phases, 2): how far they lie from the result that the ends tell, and what they are finished with from y."""


ONE_PHASE = Phases(np.zeros(1, np.int64), np.zeros((1, 2), np.int64))


class Ends(NamedTuple):
    """Where a pass through the image starts and ends: its bias, its result, and what is done to that before it is
    stored."""

    bias: NDArray[Any]
    out: View
    extent: Extent
    epilogue: Epilogue
    y: View
    winners: NDArray[Any] | None = None
    """If the result is pooled before it is stored, which entry of its window each is."""
    phases: Phases = ONE_PHASE
    """It may be several results. By Winograd's algorithm, which takes the weights of each from its maps, they need not
    sum over the same."""

    def of_blocks(self, first: int, blocks: int) -> Ends:
        """The ends of some blocks alone, from `first` on."""
        out, y = (view._replace(start=view.start + first * view.block) for view in (self.out, self.y))
        winners = self.winners
        if winners is not None:
            each = len(winners) // self.extent.blocks
            winners = winners[first * each : (first + blocks) * each]
        return self._replace(out=out, y=y, extent=self.extent._replace(blocks=blocks), winners=winners)


class Sums(NamedTuple):
    """A pass through the image as it stands, or those phases of it that sum over the same."""

    taps: Taps
    ends: Ends
    map_taps: MapTaps | None = None
    """The same taps in another order, if whole blocks go map by map."""

    def of_blocks(self, first: int, blocks: int) -> Sums:
        """The sums of some blocks alone, from `first` on."""
        return self._replace(ends=self.ends.of_blocks(first, blocks))


class Order(NamedTuple):
    """The order in which a contraction reads its weights: those of each tile of rows, tap by tap."""

    taps: NDArray[np.int64]
    """(K,): where the scalars of a row lie."""
    phases: Phases
    of_tile: int
    """Rows of a tile."""

    def shape(self, rows: int) -> tuple[int, int, int]:
        """(phases * row tiles, K, rows of a tile), that of the weights in order."""
        return len(self.phases.weights) * -(-rows // self.of_tile), len(self.taps), self.of_tile


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
    orders, contractions = zip(*(_contraction(site, part, x) for part in sums), strict=True)
    calls, packed = _packed_rows(site, filters, orders, rows)
    together = together or blocks
    for first in range(0, blocks, together):
        some = min(together, blocks - first)
        image = x._replace(start=x.start + first * x.block)
        if cleared is not None:
            calls.append(zeros_call(cleared, first, some))
        for part, contraction, weights in zip(sums, contractions, packed, strict=True):
            calls.append(contraction(weights, part.ends.of_blocks(first, some), image))
    return calls


def _contraction(site: Site, sums: Sums, x: View) -> tuple[Order, Contraction]:
    """How those sums are computed, and the order of the weights for it."""
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


def remainder_sums(site: Site, filters: Filters, sums: Sequence[Sums], x: View, samples: int) -> list[Call]:
    """The sums for the last block, of which only `samples` lanes hold a sample: those are taken out of the lanes first,
    and put back into them."""
    last, rows = sums[0].ends.extent.blocks - 1, sums[0].ends.extent.rows
    taking, image = apart_call(site, x._replace(start=x.start + last * x.block), samples)
    parts = [part.of_blocks(last, 1) for part in sums]
    in_lanes = [_rows_in_lanes(site, part, rows, image, whole=False) for part in parts]
    packing, packed = _packed_rows(site, filters, [each.order for each in in_lanes], rows)
    calls = [taking, *packing]
    for part, each, weights in zip(parts, in_lanes, packed, strict=True):
        each = each.of_samples(samples)
        vectors = remainder_vectors(each.tile, part.ends.extent, each.lines)
        operands = each.operands(site, part, weights, image, vectors)
        calls.append(Call(contract_remainder, each.tasks(weights), operands, samples * each.work(weights)))
    return calls


def channel_sums(site: Site, filters: Filters, sums: Sequence[Sums], rows: int, x: View) -> list[Call]:
    """The sums for `rows` channels of images that have those in lanes, as x has, whose view is of scalars."""
    in_lanes = [_rows_in_lanes(site, part, rows, x, whole=True) for part in sums]
    calls, packed = _packed_rows(site, filters, [each.order for each in in_lanes], rows, whole=True)
    for part, each, weights in zip(sums, in_lanes, packed, strict=True):
        blocks = part.ends.extent.blocks
        vectors = channels_vectors(each.tile, part.ends.extent, each.lines if each.lines > 1 else 0)
        operands = each.operands(site, part, weights, x, vectors)
        calls.append(Call(contract_channels, each.tasks(weights) * blocks, operands, blocks * each.work(weights)))
    return calls


class RowsInLanes(NamedTuple):
    """How sums are computed with rows of the output in the lanes."""

    order: Order
    tile: TileShape
    last: TileShape | None
    columns: NDArray[np.int64]
    """`contraction.Weights.columns`."""
    lines: int
    """Of the output, that a task sums."""
    of_lines: int
    """How many times as many tasks as tiles of rows a sample has."""
    met: int
    """Taps that meet the image, of all positions together."""

    def tasks(self, packed: NDArray[Any]) -> int:
        """For a sample, if the weights are in order there."""
        return len(packed) * self.of_lines

    def work(self, packed: NDArray[Any]) -> int:
        """Likewise."""
        return len(packed) * self.order.of_tile * self.met

    def of_samples(self, samples: int) -> RowsInLanes:
        """The same for tiles of so many samples."""
        last = replace(self.last, samples=samples) if self.last is not None else None
        return self._replace(tile=replace(self.tile, samples=samples), last=last)

    def operands(self, site: Site, sums: Sums, packed: NDArray[Any], x: View, vectors: int) -> tuple[Any, ...]:
        """What the kernel takes, which needs `vectors` vectors of scratch memory."""
        passed, ends, _ = sums
        weights = Weights(packed.reshape(-1, site.lanes), passed.group, passed.lines, self.columns)
        images = (ends.extent, ends.phases.places, weights, x, passed.x)
        results = (ends.bias, ends.out, ends.epilogue, ends.y, _winners(site, ends))
        return (self.tile, self.last, *images, *results, site.workspace.by_thread(vectors))


def _rows_in_lanes(site: Site, sums: Sums, rows: int, x: View, *, whole: bool) -> RowsInLanes:
    """How sums for `rows` rows are computed so; `whole`: whether tiles do not overlap."""
    passed, ends, _ = sums
    used = tuple((int(first), int(last)) for first, last in passed.columns)
    run = passed.run if passed.run_step else 1
    tile = choose_remainder_tile(rows, site.lanes, len(passed.x), run, x.column, used, whole=whole)
    order = Order(passed.w, ends.phases, tile.output_rows)
    columns = np.array(used_by_tiles(used, tile.rows), np.int64)
    lines = 1 if ends.winners is None else 2
    met = math.prod(int((spans[:, 1] - spans[:, 0]).sum()) for spans in (passed.lines, passed.columns))
    last = last_remainder_tile(tile, ends.extent.columns)
    return RowsInLanes(order, tile, last, columns, lines, ends.extent.lines // lines, met)


def _winners(site: Site, ends: Ends) -> NDArray[Any]:
    """The winners of what is pooled, none if nothing is."""
    return np.zeros((0, site.lanes), np.uint8) if ends.winners is None else ends.winners


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


def _packed_rows(
    site: Site, filters: Filters, orders: Sequence[Order], rows: int, *, whole: bool = False
) -> tuple[list[Call], list[NDArray[Any]]]:
    """The calls that put the weights of `rows` rows in those orders, none if that is done beforehand, and where they
    leave them, for each order in its shape. If tiles are `whole`, they do not overlap, and the last one may have rows
    that there are not. Orders for tiles of as many rows are made together.
    """
    alike: dict[int, list[Order]] = {}
    for order in orders:
        alike.setdefault(order.of_tile, []).append(order)
    sizes = [sum(math.prod(order.shape(rows)) for order in same) for same in alike.values()]
    # Each part starts where vectors do.
    starts = np.cumsum([0] + [-(-size // site.lanes) * site.lanes for size in sizes]).tolist()
    total = starts.pop()
    memory = aligned_zeros((total,), site.dtype) if site.fixed else site.workspace.passed_on(total)
    calls, packed = [], {}
    for (of_tile, same), start, size in zip(alike.items(), starts, sizes, strict=True):
        part = memory[start : start + size]
        places, slots, first = [], [], 0
        for order in same:
            shape = order.shape(rows)
            packed[id(order)] = part[first * of_tile :][: math.prod(shape)].reshape(shape)
            phases, taps = len(order.phases.weights), len(order.taps)
            row_tiles = shape[0] // phases
            places.append(np.add.outer(order.phases.weights, order.taps).reshape(-1))
            of_first = first + np.add.outer(np.arange(phases) * row_tiles * taps, np.arange(taps)).reshape(-1)
            slots.append(np.stack([of_first, np.full(phases * taps, taps)], axis=1))
            first += shape[0] * taps
        spans = spans_of(np.concatenate(places), site.lanes, np.concatenate(slots))
        row_tiles = -(-rows // of_tile)
        shares = choose_packing_shares(row_tiles, len(spans.firsts) + len(spans.apart))
        operands = (shares, rows, of_tile, whole, filters.scalars, filters.row_step, spans, part)
        calls.append(Call(pack_rows, row_tiles * shares, operands, row_tiles * packing_work(spans, of_tile)))
    in_order = [packed[id(order)] for order in orders]
    if not site.fixed:
        return calls, in_order
    site.preparation += calls
    return [], in_order


def _as_one_line(extent: Extent, x: View, ends: Ends) -> tuple[Extent, View, Ends]:
    """What a pass computes, as a single line where lines follow each other without a gap, as in a convolution by
    1x1."""
    if any(view.line != extent.columns * view.column for view in (x, ends.out, ends.y)):
        return extent, x, ends
    whole = extent._replace(lines=1, columns=extent.lines * extent.columns)
    return whole, x, ends._replace(extent=whole)


class PhaseMaps(NamedTuple):
    """The maps of which a pass by Winograd's algorithm takes each phase as a map of its own, with a stride of 1."""

    maps: int
    """How many they are, each with as many phases as there are `starts`."""
    starts: NDArray[np.int64]
    """(phases,): where their corners lie, counted from the first one's."""
    taps: NDArray[np.int64]
    """(phases, taps of the form): where their kernels' entries lie in the weights, -1 for those that are 0."""

    @property
    def number(self) -> int:
        """The maps that the pass sums over."""
        return self.maps * len(self.starts)


def by_winograd(
    site: Site,
    form: Form,
    filters: Filters,
    maps: Sequence[PhaseMaps],
    x: View,
    ends: Ends,
    sizes: Sequence[tuple[int, int]] = (),
) -> list[Call]:
    """A pass through the image by Winograd's algorithm: the kernels are transformed, then used, for each phase of the
    ends those of its `maps`. Phases have their own `sizes`, not larger than the ends' extent."""
    extent = ends.extent
    packing, u = _transformed_kernels(site, form, filters, extent.rows, maps)
    number = maps[0].number
    tiling = choose_tiling(form, extent, number)
    tile = choose_winograd_tile(tiling, site.lanes)
    scratch = site.workspace.by_thread(scratch_vectors(form, tiling, tile.rows))
    phases = np.hstack([ends.phases.places, np.array(sizes or [extent[2:]], np.int64)])
    result = (ends.bias, ends.out, phases, ends.epilogue, ends.y, _winners(site, ends))
    operands = (form, tile, tiling, u, x, maps[0].starts, *result, scratch)
    work = form.work(math.prod(extent) * len(maps) * number * site.lanes)
    return [*packing, Call(winograd, tiling.blocks * tiling.groups, operands, work)]


def by_overlap(
    site: Site, form: Form, filters: Filters, summed: Extent, maps: PhaseMaps, d: View, cutout: Cutout, ends: Ends
) -> list[Call]:
    """A pass from the tiles of `summed`, all maps of d, to the image that is a part of what they cover, by the adjoint
    of Winograd's algorithm."""
    rows = ends.extent.rows
    packing, u = _transformed_kernels(site, form, filters, rows, [maps])
    tiling = choose_tiling(form, summed._replace(blocks=ends.extent.blocks, rows=rows), maps.number)
    tiling = tiling._replace(group=tiling.tiles)
    tile = choose_winograd_tile(tiling, site.lanes)
    shares = choose_row_shares(tiling.blocks, -(-rows // tile.rows))
    scratch = site.workspace.by_thread(overlap_scratch_vectors(form, tiling, tile))
    operands = (form, tile, tiling, shares, cutout, u, d, ends.out, ends.epilogue, ends.y, scratch)
    work = form.work(tiling.blocks * rows * summed.lines * summed.columns * maps.number * site.lanes)
    return [*packing, Call(winograd_overlap, tiling.blocks * shares, operands, work)]


def _transformed_kernels(
    site: Site, form: Form, filters: Filters, rows: int, maps: Sequence[PhaseMaps]
) -> tuple[list[Call], NDArray[Any]]:
    """The calls that transform the kernels of so many `rows`, for each phase of the result those of its maps, none if
    that is done beforehand, and where they leave them."""
    number, scratch = maps[0].number, site.workspace.by_thread(form.entries)
    shape = len(maps), kernels_vectors(form, rows, number, site.lanes), site.lanes
    transformed = aligned_zeros(shape, site.dtype) if site.fixed else site.workspace.passed_on(*shape)
    calls = []
    for phase, u in zip(maps, transformed, strict=True):
        where = (filters.scalars, filters.row_step, filters.map_step, phase.taps)
        operands = (form, Extent(1, rows, number, 1), *where, u, scratch)
        calls.append(Call(winograd_kernels, -(-rows // site.lanes) * number, operands, 10 * u.size))
    if not site.fixed:
        return calls, transformed.reshape(-1)
    site.preparation += calls
    return [], transformed.reshape(-1)
