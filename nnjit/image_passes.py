"""Passes through an image, forwards or to the input, bound to kernels: direct sums over taps, or Winograd's algorithm.

What an output sums over is data (`Taps`), so that one pass is like another; `convolution.py` says what it is in each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.activations import Epilogue
from nnjit.kernels.contraction import Extent, View, Weights, contract, contract_pooled, line_pair_vectors
from nnjit.kernels.contraction_bands import band_vectors, contract_bands
from nnjit.kernels.contraction_channels import channels_vectors, contract_channels
from nnjit.kernels.contraction_packed import contract_packed, packed_tasks, packed_vectors
from nnjit.kernels.contraction_remainder import contract_remainder, remainder_vectors
from nnjit.kernels.packing import pack_rows, spans_of
from nnjit.kernels.program import Call
from nnjit.kernels.tiles import TileShape
from nnjit.kernels.winograd import kernels_vectors, scratch_vectors, winograd, winograd_kernels
from nnjit.kernels.winograd_overlap import Cutout, overlap_scratch_vectors, winograd_overlap
from nnjit.kernels.winograd_transforms import Form
from nnjit.parameters import aligned_zeros
from nnjit.site import Site, apart_call
from nnjit.tuning.contraction import choose_tile
from nnjit.tuning.contraction_bands import choose_band, choose_band_share, edge_bands
from nnjit.tuning.contraction_packed import choose_packed_tile, choose_packed_tiles, last_packed_tile
from nnjit.tuning.contraction_remainder import choose_remainder_tile, last_remainder_tile
from nnjit.tuning.lines import last_tile, used_by_tiles
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


def direct_sums(site: Site, filters: Filters, sums: Sums, x: View) -> list[Call]:
    """The calls for those sums: the weights are put in the order in which a tile reads them, then contracted."""
    passed, ends, _ = sums
    work = math.prod(ends.extent) * len(ends.phases.weights) * len(passed.x) * site.lanes
    if sums.map_taps is not None:
        return _by_bands(site, filters, sums.map_taps, x, ends, work)
    taps, extent = len(passed.x), ends.extent
    if passed.once and ends.winners is None:
        lines = _as_one_line(extent, x, ends)
        if packed_tile := choose_packed_tile(extent.rows, lines[0].columns, taps, len(ends.phases.weights)):
            return _packed_contraction(site, filters, passed, packed_tile, *lines, work)
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
    calls, packed = _packed_rows(site, filters, passed.w, ends.phases, tile.rows, extent.rows)
    last = last_tile(tile, extent.columns * tile.units)
    columns = np.array(used_by_tiles(used, tile.columns), np.int64)
    weights = Weights(packed.reshape(-1), passed.group, passed.lines, columns)
    arguments = (weights, x._replace(row=0), passed.x, ends.bias, ends.out, ends.epilogue)
    tasks = len(packed) * extent.lines * extent.blocks
    if ends.winners is None:
        return [*calls, Call(contract, tasks, (tile, last, extent, ends.phases.places, *arguments, ends.y), work)]
    scratch = site.workspace.by_thread(line_pair_vectors(tile, extent))
    operands = (tile, last, extent, *arguments, ends.winners, scratch)
    return [*calls, Call(contract_pooled, tasks // 2, operands, work)]


def _line_vectors(taps: NDArray[np.int64], step: int, columns: int) -> int:
    """How many vectors a line of the output reads, of which each of `columns` positions reads `taps`, `step` further
    than the one before it: each tap starts a row of them, and the next one in that row may start before its end."""
    order = np.lexsort((taps, taps % step))
    gaps = np.diff(taps[order])
    fresh = np.where(gaps % step, columns, np.minimum(gaps // step, columns))
    return columns + int(fresh.sum()) if len(taps) else 0


def _packed_contraction(
    site: Site, filters: Filters, passed: Taps, tile: TileShape, extent: Extent, x: View, ends: Ends, work: int
) -> list[Call]:
    """The same where each vector of the image is read by one position of the output."""
    taps = len(passed.x)
    column_tiles = -(-extent.columns // tile.columns)
    tiles = choose_packed_tiles(tile, taps, column_tiles, extent.blocks * extent.lines)
    calls, packed = _packed_rows(site, filters, passed.w, ends.phases, tile.rows, extent.rows)
    scratch = site.workspace.by_thread(packed_vectors(tile, taps, tiles))
    images = (x._replace(row=0), passed.x, ends.bias, ends.out, ends.epilogue, ends.y)
    last = last_packed_tile(tile, extent.columns)
    operands = (tile, last, extent, ends.phases.places, tiles, packed.reshape(-1), *images, scratch)
    return [*calls, Call(contract_packed, packed_tasks(tile, extent, tiles), operands, work)]


def remainder_sums(site: Site, filters: Filters, sums: Sequence[Sums], x: View, samples: int) -> list[Call]:
    """The sums for the last block, of which only `samples` lanes hold a sample: those are taken out of the lanes first,
    and put back into them."""
    last = sums[0].ends.extent.blocks - 1
    taking, image = apart_call(site, x._replace(start=x.start + last * x.block), samples)
    calls = [taking]
    for part in sums:
        calls += _remainder_contraction(site, filters, part.of_blocks(last, 1), image, samples)
    return calls


def _remainder_contraction(site: Site, filters: Filters, sums: Sums, x: View, samples: int) -> list[Call]:
    """Likewise, once the samples are apart."""
    calls, rows = _rows_in_lanes(site, filters, sums, sums.ends.extent.rows, x, whole=False)
    rows = rows._replace(tile=replace(rows.tile, samples=samples))
    if rows.last is not None:
        rows = rows._replace(last=replace(rows.last, samples=samples))
    vectors = remainder_vectors(rows.tile, sums.ends.extent, rows.lines)
    operands = rows.operands(site, sums, x, vectors)
    return [*calls, Call(contract_remainder, rows.tasks, operands, samples * rows.work)]


def channel_sums(site: Site, filters: Filters, sums: Sums, rows: int, x: View) -> list[Call]:
    """The sums for `rows` channels of images that have those in lanes, as x has, whose view is of scalars."""
    extent = sums.ends.extent
    calls, packed = _rows_in_lanes(site, filters, sums, rows, x, whole=True)
    vectors = channels_vectors(packed.tile, extent, packed.lines if packed.lines > 1 else 0)
    operands = packed.operands(site, sums, x, vectors)
    return [*calls, Call(contract_channels, packed.tasks * extent.blocks, operands, extent.blocks * packed.work)]


class RowsInLanes(NamedTuple):
    """Sums with rows of the output in the lanes, ready for a kernel."""

    tile: TileShape
    last: TileShape | None
    weights: Weights
    lines: int
    """Of the output, that a task sums."""
    tasks: int
    """For a sample."""
    work: int
    """Likewise."""

    def operands(self, site: Site, sums: Sums, x: View, vectors: int) -> tuple[Any, ...]:
        """What the kernel takes, which needs `vectors` vectors of scratch memory."""
        passed, ends, _ = sums
        images = (ends.extent, ends.phases.places, self.weights, x, passed.x)
        results = (ends.bias, ends.out, ends.epilogue, ends.y, _winners(site, ends))
        return (self.tile, self.last, *images, *results, site.workspace.by_thread(vectors))


def _rows_in_lanes(
    site: Site, filters: Filters, sums: Sums, rows: int, x: View, *, whole: bool
) -> tuple[list[Call], RowsInLanes]:
    """The calls that put the weights of `rows` rows in order, if need be, and what they are for; `whole`: whether tiles
    do not overlap."""
    passed, ends, _ = sums
    used = tuple((int(first), int(last)) for first, last in passed.columns)
    run = passed.run if passed.run_step else 1
    tile = choose_remainder_tile(rows, site.lanes, len(passed.x), run, x.column, used, whole=whole)
    calls, packed = _packed_rows(site, filters, passed.w, ends.phases, tile.output_rows, rows, whole=whole)
    columns = np.array(used_by_tiles(used, tile.rows), np.int64)
    weights = Weights(packed.reshape(-1, site.lanes), passed.group, passed.lines, columns)
    lines = 1 if ends.winners is None else 2
    met = math.prod(int((spans[:, 1] - spans[:, 0]).sum()) for spans in (passed.lines, passed.columns))
    tasks, work = len(packed) * ends.extent.lines // lines, packed.shape[0] * packed.shape[2] * met
    return calls, RowsInLanes(tile, last_remainder_tile(tile, ends.extent.columns), weights, lines, tasks, work)


def _winners(site: Site, ends: Ends) -> NDArray[Any]:
    """The winners of what is pooled, none if nothing is."""
    return np.zeros((0, site.lanes), np.uint8) if ends.winners is None else ends.winners


def _by_bands(site: Site, filters: Filters, passed: MapTaps, x: View, ends: Ends, work: int) -> list[Call]:
    """Sums over a piece of the maps at a time, to an output of few."""
    extent, phases = ends.extent, ends.phases
    maps, height, width = passed.w.shape
    tile = choose_band(extent.rows, (height, width), extent.lines, extent.columns, passed.zeros)
    edges = edge_bands(tile, extent.columns, passed.zeros)
    bands = -(-extent.lines // tile.lines)
    share = choose_band_share(tile, bands, extent.columns, extent.blocks * len(phases.weights))
    calls, packed = _packed_rows(site, filters, passed.w.reshape(-1), phases, extent.rows, extent.rows)
    lines = np.array([_lines_of_band(passed.lines, tile.lines, band) for band in range(bands)], np.int64)
    scratch = site.workspace.by_thread(band_vectors(tile, share, extent))
    images = (x._replace(row=0), passed.x, ends.bias, ends.out, ends.epilogue, ends.y)
    operands = (tile, edges, share, extent, phases.places, lines, packed.reshape(-1), *images, scratch)
    tasks = extent.blocks * len(phases.weights) * -(-bands // share.bands)
    return [*calls, Call(contract_bands, tasks, operands, work)]


def _lines_of_band(used: NDArray[np.int64], size: int, band: int) -> tuple[int, int]:
    """The first line of the image and the one after the last, counted from the first line of a band of `size` lines,
    that its lines use; `used`: those of the kernel that each line of the output uses."""
    first = min(band * size, len(used) - size)
    met = [used[first + i] + i for i in range(size) if used[first + i, 1] > used[first + i, 0]]
    return (int(met[0][0]), int(met[-1][1])) if met else (0, 0)


def _packed_rows(
    site: Site,
    filters: Filters,
    taps: NDArray[np.int64],
    phases: Phases,
    of_tile: int,
    rows: int,
    *,
    whole: bool = False,
) -> tuple[list[Call], NDArray[Any]]:
    """The call that puts the weights in the order in which a tile of `of_tile` rows reads them, none if that is done
    beforehand, and where it leaves them: (phases * row tiles, taps, of_tile). If tiles are `whole`, they do not
    overlap, and the last one may have rows that there are not.
    """
    shape = len(phases.weights) * -(-rows // of_tile), len(taps), of_tile
    packed = aligned_zeros(shape, site.dtype) if site.fixed else site.workspace.passed_on(*shape)
    operands = (rows, whole, filters.scalars, phases.weights, filters.row_step, spans_of(taps, site.lanes), packed)
    packing = Call(pack_rows, len(packed), operands, 10 * packed.size)
    if not site.fixed:
        return [packing], packed
    site.preparation.append(packing)
    return [], packed


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
