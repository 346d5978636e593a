"""The kernel calls for the gradients of a convolution's weights and biases: sums over samples and positions, cut into
parts that threads compute apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.contraction import Extent, View, grid
from nnjit.kernels.contraction_channels_weights import channels_weights_vectors, contract_channels_weights
from nnjit.kernels.contraction_remainder_weights import (
    contract_remainder_weights,
    remainder_weights_vectors,
    rows_of_samples,
)
from nnjit.kernels.contraction_transposed import contract_transposed, panel_places, transposed_places
from nnjit.kernels.contraction_weights import Cut, contract_lanes, tile_turns
from nnjit.kernels.program import Call
from nnjit.kernels.sums import SUMS_VECTORS, add_parts, row_places
from nnjit.kernels.tiles import SAMPLES, TileShape
from nnjit.kernels.weight_rows import add_tile_parts, add_transposed_parts
from nnjit.kernels.winograd_transforms import Form
from nnjit.kernels.winograd_weights import (
    BACK_VECTORS,
    weights_scratch_vectors,
    winograd_weights,
    winograd_weights_back,
)
from nnjit.parameters import aligned_zeros
from nnjit.passes.winograd import PhaseMaps
from nnjit.site import Site
from nnjit.tuning.algorithms import WeightsPass, choose_lanes, choose_weights_remainder, taps_share
from nnjit.tuning.contraction_remainder import choose_tap_share
from nnjit.tuning.contraction_transposed import choose_transposed_tile
from nnjit.tuning.contraction_weights import choose_lanes_tile, choose_part_shares, choose_together
from nnjit.tuning.lines import last_tile
from nnjit.tuning.sums import (
    choose_groups_cut,
    choose_lanes_cut,
    choose_remainder_piece,
    choose_transposed_cut,
    choose_weights_tiling,
    long_segment,
    short_segment,
)
from nnjit.tuning.winograd import choose_row_shares, choose_tiling


@dataclass(frozen=True)
class WeightGradients:
    """The gradients of the weights and the biases of a convolution."""

    channels: int
    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    form: Form | None
    """Of Winograd's algorithm, None for direct sums."""
    maps: PhaseMaps | None
    """The channels as that algorithm takes them."""

    def bind(self, site: Site, summed: Extent, window: View, work: int) -> None:
        """Record the calls; `summed`: the positions of the output that are summed over, `window`: where the input lies
        that an output position's first tap reads."""
        sizes = summed.lines, summed.columns
        of = WeightsPass(self.filters, self.channels, self.kernel, self.stride, sizes, self.form)
        remainder = choose_weights_remainder(site.batch_size, site.lanes, of)
        whole = summed._replace(blocks=summed.blocks - (remainder > 0))
        share = work * remainder // site.batch_size
        if whole.blocks and self.form and self.maps:
            self._bind_winograd(site, self.form, self.maps, whole, window)
        elif whole.blocks:
            self._bind_direct(site, whole, window, work - share)
        if remainder:
            self._bind_remainder(site, summed, window, remainder)

    def bind_channels_in_lanes(self, site: Site, summed: Extent, window: View) -> None:
        """Likewise for images with channels in lanes; `window`: of scalars."""
        assert site.dout is not None
        (height, width), x = self.kernel, site.x.scalars
        c, u, v = grid(range(self.channels), range(height), range(width))
        x_taps = site.x.row_places(c) + u * x.line + v * x.column
        run, step = (width, x.column) if width > 1 else (site.x.row_run if height == 1 else 0, 1)
        groups = -(-self.filters // site.lanes)
        tile = choose_transposed_tile(len(x_taps), groups, width)
        tile = replace(tile, run=gcd(tile.rows, max(run, 1)), samples=1, row_step=step)
        panels, tap_tiles = -(-groups // tile.columns), -(-len(x_taps) // tile.rows)
        extent = summed._replace(rows=self.filters)
        piece, share = choose_remainder_piece(extent.columns), choose_tap_share(tile, panels, tap_tiles)
        bias = site.gradients.get("bias", aligned_zeros((0,), site.dtype))
        scratch = site.workspace.by_thread(channels_weights_vectors(tile, share, site.lanes))
        operands = (tile, extent, piece, share, site.dout.view, window, x_taps, site.gradients["weight"], bias, scratch)
        work = extent.blocks * extent.lines * extent.columns * (groups * len(x_taps) + 2 * groups) * site.lanes
        tasks = panels * -(-tap_tiles // share)
        site.backward_parameters.append(Call(contract_channels_weights, tasks, operands, work))

    def _taps(self, site: Site, window: View) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where the entries of the input that each weight meets lie from those of the first one, and which of them read
        what no earlier line or column has read."""
        (height, width), (down, right) = self.kernel, self.stride
        c, u, v = grid(range(self.channels), range(height), range(width))
        x_taps = c * window.row + u * site.x.view.line + v * site.x.view.column
        return x_taps, (u >= height - down) & (v >= width - right)

    def _bind_remainder(self, site: Site, summed: Extent, window: View, remainder: int) -> None:
        """What the last `remainder` samples add."""
        assert site.dout is not None
        last = summed.blocks - 1
        x_taps, _ = self._taps(site, window)
        d, x = (view._replace(start=view.start + last * view.block) for view in (site.dout.view, window))
        groups = -(-self.filters // site.lanes)
        tile = replace(
            choose_transposed_tile(len(x_taps), groups, self.kernel[1]), samples=remainder, row_step=site.lanes
        )
        panels = -(-groups // tile.columns)
        extent = summed._replace(blocks=1, rows=self.filters)
        positions = panels * extent.lines * extent.columns
        rows = site.workspace.passed_on(positions * remainder * tile.columns, site.lanes)
        across = (tile, extent, d, rows)
        site.backward_parameters.append(Call(rows_of_samples, panels * extent.lines, across, 20 * rows.size))
        bias = site.gradients.get("bias", aligned_zeros((0,), site.dtype))
        piece = choose_remainder_piece(extent.columns * remainder)
        tap_tiles = -(-len(x_taps) // tile.rows)
        share = choose_tap_share(tile, panels, tap_tiles)
        scratch = site.workspace.by_thread(remainder_weights_vectors(tile, share, site.lanes))
        images = (rows, x._replace(block=0), x_taps * site.lanes, site.gradients["weight"], bias)
        operands = (tile, extent, last > 0, piece, share, *images, scratch)
        tasks = panels * -(-tap_tiles // share)
        work = (positions * remainder * tile.columns + 2 * len(bias)) * len(x_taps) * site.lanes
        site.backward_parameters.append(Call(contract_remainder_weights, tasks, operands, work))

    def _bind_direct(self, site: Site, summed: Extent, window: View, work: int) -> None:
        """Direct sums."""
        assert site.dout is not None
        (height, width), (_, right) = self.kernel, self.stride
        x_taps, fresh = self._taps(site, window)
        samples = min(summed.blocks * site.lanes, site.batch_size)
        shared = taps_share(self.kernel, self.stride)
        wide = choose_lanes(self.filters, self.channels, height * width, samples, site.lanes, shared)
        if wide != "samples":
            self._bind_transposed(site, summed, window, x_taps, wide == "channels", work)
            return
        x_fresh = x_taps[fresh]
        tile = replace(choose_lanes_tile(self.filters, len(x_taps), width, right), column_step=window.column)
        bias_tile = TileShape(tile.rows, 1, halved=tile.halved)
        views = (site.dout.view, window)
        whole = _whole_lines(summed, views)
        extent, starts = _segments(whole, long_segment(whole.columns, summed.columns), views)
        line = self.filters * extent.columns + self.channels * window.line
        part_bytes = self.filters * len(x_taps) * site.dtype.itemsize
        cut = choose_lanes_cut(len(starts), extent.columns, line, part_bytes, width, right)
        together = choose_together(tile, self.filters, cut.lines * extent.columns)
        turns = tile_turns(tile, self.filters, len(x_taps), together)
        tiles = len(turns) // 4
        cut = cut._replace(shares=choose_part_shares(cut.parts, tiles))
        bias_places = row_places(bias_tile, self.filters, site.lanes)
        # A vector is read from each number on.
        vectors = -(-tiles * tile.rows * tile.columns // site.lanes) + 1
        parts = site.workspace.passed_on(cut.parts, vectors * site.lanes)
        bias_parts = self._bias_parts(site, cut, bias_places)
        images = (site.dout.view, window, starts.reshape(-1), turns, x_taps)
        last = last_tile(tile, len(x_taps))
        operands = (tile, last, bias_tile, extent, cut, *images, x_fresh, parts, bias_parts.reshape(cut.parts, -1))
        site.backward_parameters.append(Call(contract_lanes, cut.parts * cut.shares, operands, work))
        adding = (tile, self.filters, len(x_taps), parts, site.gradients["weight"])
        row_tiles = -(-self.filters // tile.rows)
        site.backward_parameters.append(Call(add_tile_parts, row_tiles, adding, 5 * (parts.size + parts[0].size)))
        self._add_bias_parts(site, bias_parts, bias_places)

    def _bind_transposed(
        self, site: Site, summed: Extent, window: View, x_taps: NDArray[np.int64], of_input: bool, work: int
    ) -> None:
        """Likewise with maps in the lanes: filters, or channels if it is the input that is transposed."""
        assert site.dout is not None
        lanes, dout = site.lanes, site.dout.view
        maps, across, along, taps = self.filters, dout, window, x_taps
        if of_input:
            maps, across, along, taps = self.channels, window, dout, dout.row * np.arange(self.filters)
        groups = -(-maps // lanes)
        tile = choose_transposed_tile(len(taps), groups, self.kernel[1])
        steps = -(-len(taps) // tile.rows) * lanes // SAMPLES
        tile = replace(
            tile,
            row_step=lanes,
            column_step=along.column,
            task_fetches=max(1, round(min(tile.columns * lanes, maps) / steps)),
        )
        taps_tile = TileShape(tile.rows, 1)
        panels, tap_tiles = -(-groups // tile.columns), -(-len(taps) // tile.rows)
        whole = _whole_lines(summed._replace(rows=maps), (across, along))
        extent, starts = _segments(whole, short_segment(whole.columns), (across, along))
        part_bytes = groups * lanes * len(taps) * site.dtype.itemsize
        cut = choose_transposed_cut(len(starts), extent.columns, part_bytes)
        cut = cut._replace(shares=choose_part_shares(cut.parts, panels * tap_tiles))
        bias_places = row_places(taps_tile, self.filters, lanes) if of_input else panel_places(tile, maps, lanes)
        parts = site.workspace.passed_on(cut.parts, panels * tap_tiles * tile.rows * tile.columns, lanes)
        bias_parts = self._bias_parts(site, cut, bias_places)
        row_parts, tap_parts = bias_parts, bias_parts[:, :0].reshape(cut.parts, 0)
        if of_input:
            row_parts, tap_parts = bias_parts[:, :0], bias_parts.reshape(cut.parts, -1)
        scratch = site.workspace.by_thread(cut.lines * extent.columns * lanes * tile.columns)
        images = (across, along, starts.reshape(-1), taps * lanes, site.batch_size)
        summing = taps_tile if tap_parts.size else None
        operands = (tile, summing, extent, cut, *images, parts, row_parts, tap_parts, scratch)
        site.backward_parameters.append(Call(contract_transposed, cut.parts * cut.shares, operands, work))
        share = choose_tap_share(tile, panels, tap_tiles)
        sizes, memory = (maps, len(taps), share), site.workspace.by_thread(lanes)
        adding = (tile, *sizes, of_input, parts, site.gradients["weight"], memory)
        adding_work = 5 * (parts.size + parts[0].size)
        site.backward_parameters.append(
            Call(add_transposed_parts, panels * -(-tap_tiles // share), adding, adding_work)
        )
        self._add_bias_parts(site, bias_parts, bias_places)

    def _bind_winograd(self, site: Site, form: Form, maps: PhaseMaps, summed: Extent, window: View) -> None:
        """Likewise by Winograd's algorithm."""
        assert site.dout is not None
        channels, starts, taps = maps.number, maps.starts, maps.taps
        lanes, groups = site.lanes, -(-self.filters // site.lanes)
        tiling = choose_weights_tiling(choose_tiling(form, summed, channels))
        tile = choose_transposed_tile(channels, groups, 1)
        places = transposed_places(tile, self.filters, channels, lanes)
        bias_places = panel_places(tile, self.filters, lanes)
        part_bytes = form.entries * groups * lanes * channels * site.dtype.itemsize
        cut = choose_groups_cut(summed.blocks * tiling.groups, part_bytes)
        cut = cut._replace(shares=choose_row_shares(cut.parts, -(-channels // tile.rows)))
        parts = site.workspace.passed_on(cut.parts, form.entries, *places.shape)
        bias_parts = self._bias_parts(site, cut, bias_places)
        rows = len(bias_places) * lanes
        scratch = site.workspace.by_thread(weights_scratch_vectors(form, tiling, rows, lanes))
        steps = np.arange(channels, dtype=np.int64) * tiling.group * lanes
        images = (site.dout.view, window, starts, steps, site.batch_size)
        operands = (form, tile, TileShape(SAMPLES, 1), tiling, cut, *images, parts, bias_parts, scratch)
        work = form.work(math.prod(summed) * lanes * channels)
        site.backward_parameters.append(Call(winograd_weights, cut.parts * cut.shares, operands, work))
        area = self.kernel[0] * self.kernel[1]
        kernels = np.where(places < 0, places, places // len(starts) * area)
        # All lanes of a vector belong to the same map.
        phases = places.max(axis=1) % len(starts)
        back = (form, parts, kernels, phases, taps, site.gradients["weight"])
        site.backward_parameters.append(
            Call(winograd_weights_back, -(-len(places) // BACK_VECTORS), back, 20 * parts[0].size)
        )
        self._add_bias_parts(site, bias_parts, bias_places)

    def _bias_parts(self, site: Site, cut: Cut, places: NDArray[np.int64]) -> NDArray[Any]:
        """Memory for the parts of the gradients of the biases, if there are any."""
        return aligned_zeros((cut.parts, len(places) if "bias" in site.gradients else 0, site.lanes), site.dtype)

    def _add_bias_parts(self, site: Site, parts: NDArray[Any], places: NDArray[np.int64]) -> None:
        if "bias" in site.gradients:
            operands, tasks = (parts, places, site.gradients["bias"]), -(-len(places) // SUMS_VECTORS)
            site.backward_parameters.append(Call(add_parts, tasks, operands, 20 * places.size + 5 * parts.size))


def _whole_lines(extent: Extent, views: Sequence[View]) -> Extent:
    """The extent with lines that follow each other without a gap in each view, as in a convolution by 1x1, as one."""
    if all(view.line == extent.columns * view.column for view in views):
        return extent._replace(lines=1, columns=extent.lines * extent.columns)
    return extent


def _segments(whole: Extent, columns: int, views: Sequence[View]) -> tuple[Extent, NDArray[np.int64]]:
    """All positions cut into lines of `columns`, which divide those of `whole`, and where each starts in each view:
    (lines, views)."""
    each = whole.columns // columns
    n, i, k = grid(range(whole.blocks), range(whole.lines), range(each))
    starts = [view.start + n * view.block + i * view.line + k * columns * view.column for view in views]
    return whole._replace(lines=whole.lines * each, columns=columns), np.stack(starts, axis=1)
