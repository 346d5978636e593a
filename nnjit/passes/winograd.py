"""The kernel calls of passes through an image by Winograd's algorithm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.contraction import Extent, View
from nnjit.kernels.program import Call
from nnjit.kernels.winograd import kernels_vectors, scratch_vectors, winograd, winograd_kernels
from nnjit.kernels.winograd_channels import InLanes, winograd_channels
from nnjit.kernels.winograd_overlap import Cutout, overlap_scratch_vectors, winograd_overlap
from nnjit.kernels.winograd_transforms import Form
from nnjit.parameters import aligned_zeros
from nnjit.passes.images import Ends, Filters
from nnjit.site import Site
from nnjit.tuning.winograd import choose_channels_tiling, choose_row_shares, choose_tiling, choose_winograd_tile


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
    result = (ends.bias, ends.out, phases, ends.epilogue, ends.y, ends.pooled_winners(site.lanes))
    operands = (form, tile, tiling, u, x, maps[0].starts, *result, scratch)
    work = form.work(math.prod(extent) * len(maps) * number * site.lanes)
    return [*packing, Call(winograd, tiling.blocks * tiling.groups, operands, work)]


def channels_by_winograd(
    site: Site,
    form: Form,
    filters: Filters,
    rows: int,
    maps: Sequence[PhaseMaps],
    x: View,
    ends: Ends,
    sizes: Sequence[tuple[int, int]] = (),
) -> list[Call]:
    """The same for `rows` channels of images that have those in lanes, as x has; the `maps` are channels too."""
    extent, channels, starts = ends.extent, maps[0].maps, maps[0].starts
    packing, u = _transformed_kernels(site, form, filters, rows, maps)
    vectors = -(-channels // site.lanes) * len(starts)
    tile, tiling, shares = choose_channels_tiling(form, extent, vectors, channels, len(starts), site.lanes)
    scratch = site.workspace.by_thread(scratch_vectors(form, tiling, tile.columns))
    phases = np.hstack([ends.phases.places, np.array(sizes or [extent[2:]], np.int64)])
    result = (ends.bias, ends.out, phases, ends.epilogue, ends.y, ends.pooled_winners(site.lanes))
    weights = u.reshape(-1, site.lanes)
    operands = (form, tile, tiling, InLanes(channels, shares), weights, x, starts, *result, scratch)
    work = form.work(math.prod(extent) * len(maps) * maps[0].number * site.lanes)
    groups = -(-tiling.blocks * tiling.tiles // tiling.group)
    return [*packing, Call(winograd_channels, groups * shares, operands, work)]


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
