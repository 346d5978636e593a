"""The kernel calls of a convolution: which zeros they need round their operands, and how each pass is computed.

Forwards it is a contraction over (channel, u, v); to the weights, over samples and positions; to the input, one
contraction over (filter, u, v) for each phase of the stride: the positions that the same kernel entries reach. Where
`tuning.choose_form` has a form for it, Winograd's algorithm is used instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.buffers import Border
from nnjit.kernels.activations import Epilogue
from nnjit.kernels.contraction import Extent, View, Weights, contract, pack_rows
from nnjit.kernels.contraction_transposed import contract_transposed, transposed_places
from nnjit.kernels.contraction_weights import Cut, contract_lanes, tile_places
from nnjit.kernels.program import Call
from nnjit.kernels.sums import SUMS_VECTORS, add_parts
from nnjit.kernels.tiles import SAMPLES, TileShape
from nnjit.kernels.tuning import (
    SEGMENT_POSITIONS,
    choose_blocks,
    choose_cut,
    choose_form,
    choose_groups_cut,
    choose_lanes_tile,
    choose_tile,
    choose_tiling,
    choose_transposed,
    choose_transposed_cut,
    choose_transposed_tile,
    choose_weights_form,
    choose_weights_tiling,
    choose_winograd_tile,
    used_by_tiles,
)
from nnjit.kernels.winograd import kernels_vectors, scratch_vectors, winograd, winograd_kernels
from nnjit.kernels.winograd_transforms import Form
from nnjit.kernels.winograd_weights import (
    BACK_VECTORS,
    weights_scratch_vectors,
    winograd_weights,
    winograd_weights_back,
)
from nnjit.layers.base import Shape
from nnjit.layers.window import Axis
from nnjit.parameters import aligned_zeros
from nnjit.site import Site

BIAS_TILE = TileShape(8, 1)
"""Sums of a bias that `contract_transposed` has run side by side."""


class Phase(NamedTuple):
    """Input positions phase, phase + stride, ... on one axis: the kernel entries that reach them, how many positions
    there are, and the first and last output position that they read."""

    phase: int
    taps: list[int]
    positions: int
    first: int
    last: int


class Filters(NamedTuple):
    """The weights as one pass sees them: entry (row, map, u, v) lies at row * row_step + map * map_step + width * u +
    v, or with the kernel rotated."""

    scalars: NDArray[Any]
    row_step: int
    map_step: int
    rotated: bool


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


class Ends(NamedTuple):
    """Where a pass through the image starts and ends: its bias, its result, and what is done to that before it is
    stored."""

    bias: NDArray[Any]
    out: View
    extent: Extent
    epilogue: Epilogue
    y: View


@dataclass(frozen=True)
class Convolution:
    """A convolution of images of `shape` by `filters` kernels."""

    shape: Shape
    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    axes: tuple[Axis, Axis]
    """The vertical and the horizontal axis."""
    direct: bool
    """Whether the sums are computed as they stand, whatever would be faster."""

    @property
    def _forward_form(self) -> Form | None:
        """The form of Winograd's algorithm for the forward pass, None for direct sums."""
        return self._form(self.filters, self.shape[0], (self.axes[0].size, self.axes[1].size))

    @property
    def _input_form(self) -> Form | None:
        """Likewise for the gradient to the input."""
        return self._form(self.shape[0], self.filters, (self.shape[1], self.shape[2]))

    @property
    def _weights_form(self) -> Form | None:
        """Likewise for the gradient to the weights."""
        if self.direct:
            return None
        sizes = (self.axes[0].size, self.axes[1].size)
        return choose_weights_form(self.kernel, self.stride, self.filters, self.shape[0], sizes)

    def _form(self, rows: int, maps: int, sizes: tuple[int, int]) -> Form | None:
        if self.direct:
            return None
        # Taps that meet the border are left out by direct sums.
        met = [
            sum(last - first for first, last in _spans(on.size, self.stride[k], self._offsets(k), self.shape[1 + k]))
            for k, on in enumerate(self.axes)
        ]
        return choose_form(self.kernel, self.stride, rows, maps, sizes, int(met[0] * met[1]))

    def _offsets(self, k: int) -> list[int]:
        """How far from position i * stride of the input the taps of output i lie, on axis k."""
        return [u - self.axes[k].before for u in range(self.kernel[k])]

    def input_border(self) -> Border:
        """The zeros that the forward pass reads round the input."""
        zeros = []
        for k, on in enumerate(self.axes):
            last = (on.size - 1) * self.stride[k] + self.kernel[k] - 1 - on.before
            for form in filter(None, (self._forward_form, self._weights_form)):
                last = max(last, _whole(form, on.size) + form.taps - 2 - on.before)
            zeros += [on.before, max(0, last - (self.shape[1 + k] - 1))]
        return Border(*zeros).apart(*self.shape[1:])

    def gradient_border(self) -> Border:
        """The zeros that the backward pass reads round the gradient of the output."""
        zeros = []
        for k, on in enumerate(self.axes):
            phases = self._phases(k)
            first = min((phase.first for phase in phases), default=0)
            last = max((phase.last for phase in phases), default=0)
            if form := self._input_form:
                last = max(last, first + _whole(form, self.shape[1 + k]) + form.taps - 2)
            if form := self._weights_form:
                last = max(last, _whole(form, on.size) - 1)
            zeros += [max(0, -first), max(0, last - (on.size - 1))]
        return Border(*zeros).apart(*(on.size for on in self.axes))

    def bind(self, site: Site) -> None:
        """Record the calls of all passes."""
        channels, area = self.shape[0], self.kernel[0] * self.kernel[1]
        (down, right), (vertical, horizontal) = self.stride, self.axes
        extent, x = site.out.extent, site.x.view
        weight = site.parameters["weight"]
        zeros = aligned_zeros((max(channels, self.filters) + site.lanes,), site.dtype)
        bias = site.parameters.get("bias", zeros)
        work = site.batch_size * self.filters * extent.lines * extent.columns * channels * area

        window = x._replace(
            start=x.start - vertical.before * x.line - horizontal.before * x.column,
            line=down * x.line,
            column=right * x.column,
        )
        # First what takes most of the workspace.
        if site.dout is not None:
            if form := self._weights_form:
                self._bind_weights_winograd(site, form, window, work)
            else:
                self._bind_weights(site, window, work)
            if site.dx is not None:
                self._bind_input(site, zeros, work)
        filters = Filters(weight, channels * area, area, rotated=False)
        ends = Ends(bias, site.out.view, extent, site.epilogue, site.out.view)
        if form := self._forward_form:
            site.forward += _winograd(site, form, filters, channels, window, ends, work)
        else:
            site.forward += _contraction(site, filters, self._forward_taps(x, extent), window, ends, work)

    def _forward_taps(self, x: View, extent: Extent) -> Taps:
        """What an output sums over."""
        channels, (height, width) = self.shape[0], self.kernel
        # Lines of the kernel come first, so that the ones which meet the border are the first or the last taps.
        u, c, v = _grid(range(height), range(channels), range(width))
        return Taps(
            c * height * width + u * width + v,
            c * x.row + u * x.line + v * x.column,
            channels * width,
            _spans(extent.lines, self.stride[0], self._offsets(0), self.shape[1]),
            np.tile([0, channels * width], (extent.columns, 1)),
            width if width > 1 else channels,
            1 if width > 1 else 0,
        )

    def _bind_weights(self, site: Site, window: View, work: int) -> None:
        """The gradients of the weights and the biases."""
        assert site.dout is not None
        (height, width), (down, right) = self.kernel, self.stride
        c, u, v = _grid(range(self.shape[0]), range(height), range(width))
        x_taps = c * window.row + u * site.x.view.line + v * site.x.view.column
        shared = height > down or width > right
        if choose_transposed(self.filters, len(x_taps), site.batch_size, site.lanes, shared):
            self._bind_weights_transposed(site, window, x_taps, work)
            return
        x_fresh = x_taps[(u >= height - down) & (v >= width - right)]
        tile = replace(choose_lanes_tile(self.filters, len(x_taps), width), column_step=window.column)
        bias_tile = TileShape(tile.rows, 1, halved=tile.halved)
        extent, starts = _segments(site.out.extent, (site.dout.view, window), _longest_segment)
        line = self.filters * extent.columns + self.shape[0] * window.line
        part_bytes = self.filters * len(x_taps) * site.dtype.itemsize
        cut = choose_cut(len(starts), extent.columns, line, part_bytes, width, right)
        places = tile_places(tile, self.filters, len(x_taps), site.lanes)
        tiles = -(-self.filters // tile.rows) * -(-len(x_taps) // tile.columns)
        cut = cut._replace(shares=min(cut.shares, tiles))
        bias_places = tile_places(bias_tile, self.filters, 1, site.lanes)
        parts, bias_parts = self._parts(site, cut, 1, places, bias_places)
        sums, bias_sums = parts.reshape(cut.parts, -1), bias_parts.reshape(cut.parts, -1)
        images = (site.dout.view, window, starts.reshape(-1), x_taps)
        operands = (tile, bias_tile, extent, cut, *images, x_fresh, sums, bias_sums)
        site.backward_parameters.append(Call(contract_lanes, cut.parts * cut.shares, operands, work))
        site.backward_parameters.append(_add_parts(parts[:, 0], places, site.gradients["weight"]))
        self._add_bias_parts(site, bias_parts, bias_places)

    def _bind_weights_transposed(self, site: Site, window: View, x_taps: NDArray[np.int64], work: int) -> None:
        """Likewise with maps in the lanes."""
        assert site.dout is not None
        lanes, groups = site.lanes, -(-self.filters // site.lanes)
        tile = choose_transposed_tile(len(x_taps), groups, self.kernel[1])
        tile = replace(tile, column_step=window.column)
        places, bias_places = transposed_places(tile, self.filters, len(x_taps), lanes)
        extent, starts = _segments(site.out.extent, (site.dout.view, window), _short_segment)
        part_bytes = groups * lanes * len(x_taps) * site.dtype.itemsize
        cut = choose_transposed_cut(len(starts), extent.columns, part_bytes)
        cut = cut._replace(shares=min(cut.shares, len(places) // (tile.rows * tile.columns)))
        parts, bias_parts = self._parts(site, cut, 1, places, bias_places)
        scratch = site.workspace.by_thread(cut.lines * extent.columns * lanes * tile.columns)
        images = (site.dout.view, window.vectors.reshape(-1), (starts * [1, lanes]).reshape(-1), x_taps * lanes)
        operands = (
            tile,
            BIAS_TILE,
            extent,
            cut,
            *images,
            site.batch_size,
            parts[:, 0],
            bias_parts,
            scratch,
        )
        site.backward_parameters.append(Call(contract_transposed, cut.parts * cut.shares, operands, work))
        site.backward_parameters.append(_add_parts(parts[:, 0], places, site.gradients["weight"]))
        self._add_bias_parts(site, bias_parts, bias_places)

    def _bind_weights_winograd(self, site: Site, form: Form, window: View, work: int) -> None:
        """Likewise by Winograd's algorithm."""
        assert site.dout is not None
        channels, extent = self.shape[0], site.out.extent
        lanes, groups = site.lanes, -(-self.filters // site.lanes)
        tiling = choose_weights_tiling(choose_tiling(form, extent, channels))
        tile = choose_transposed_tile(channels, groups, 1)
        places, bias_places = transposed_places(tile, self.filters, channels, lanes)
        part_bytes = form.entries * groups * lanes * channels * site.dtype.itemsize
        cut = choose_groups_cut(extent.blocks * tiling.groups, part_bytes)
        cut = cut._replace(shares=min(cut.shares, -(-channels // tile.rows)))
        parts, bias_parts = self._parts(site, cut, form.entries, places, bias_places)
        rows = len(bias_places) * lanes
        scratch = site.workspace.by_thread(weights_scratch_vectors(form, tiling, rows, lanes))
        steps = np.arange(channels, dtype=np.int64) * tiling.group * lanes
        images = (site.dout.view, window, steps, site.batch_size)
        operands = (form, tile, TileShape(SAMPLES, 1), tiling, cut, *images, parts, bias_parts, scratch)
        site.backward_parameters.append(Call(winograd_weights, cut.parts * cut.shares, operands, _left(form, work)))
        kernels = np.where(places < 0, places, form.taps**2 * places)
        back = (form, parts, kernels, site.gradients["weight"])
        site.backward_parameters.append(
            Call(winograd_weights_back, -(-len(places) // BACK_VECTORS), back, 20 * parts[0].size)
        )
        self._add_bias_parts(site, bias_parts, bias_places)

    def _parts(
        self, site: Site, cut: Cut, planes: int, places: NDArray[np.int64], bias_places: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Memory for the parts of the gradients of the weights and, if there are any, the biases."""
        return (
            site.workspace.passed_on(cut.parts, planes, *places.shape),
            aligned_zeros((cut.parts, len(bias_places) if "bias" in site.gradients else 0, site.lanes), site.dtype),
        )

    def _add_bias_parts(self, site: Site, parts: NDArray[Any], places: NDArray[np.int64]) -> None:
        if "bias" in site.gradients:
            site.backward_parameters.append(_add_parts(parts, places, site.gradients["bias"]))

    def _bind_input(self, site: Site, zeros: NDArray[Any], work: int) -> None:
        """The gradient of the input."""
        assert site.dout is not None and site.dx is not None
        channels, area = self.shape[0], self.kernel[0] * self.kernel[1]
        dout, dx, y, dx_extent = site.dout.view, site.dx.view, site.x.view, site.dx.extent
        filters = Filters(site.parameters["weight"], area, channels * area, rotated=True)
        if form := self._input_form:
            above, left = (size - 1 - on.before for size, on in zip(self.kernel, self.axes, strict=True))
            window = dout._replace(start=dout.start - above * dout.line - left * dout.column)
            ends = Ends(zeros, dx, dx_extent, site.dx_epilogue, y)
            site.backward_input += _winograd(site, form, filters, self.filters, window, ends, work)
            return
        phases = list(product(self._phases(0), self._phases(1)))
        together = choose_blocks(dout.row * self.filters) if len(phases) > 1 else dx_extent.blocks
        for first in range(0, dx_extent.blocks, together):
            blocks = min(together, dx_extent.blocks - first)
            for upper, lower in phases:
                taps = self._input_taps(dout, upper, lower)
                reached = Extent(blocks, channels, upper.positions, lower.positions)
                d, to, made = (view._replace(start=view.start + first * view.block) for view in (dout, dx, y))
                to, made = (_at_phases(view, upper, lower, self.stride) for view in (to, made))
                ends = Ends(zeros, to, reached, site.dx_epilogue, made)
                share = blocks * reached.lines * reached.columns * len(taps.x) * channels * site.lanes
                site.backward_input += _contraction(site, filters, taps, d, ends, share)

    def _input_taps(self, dout: View, upper: Phase, lower: Phase) -> Taps:
        """What the gradient of an input position of these phases sums over."""
        (down, right), (vertical, horizontal) = self.stride, self.axes
        channels, (kernel_height, kernel_width) = self.shape[0], self.kernel
        # Position phase + stride * q, tap u: output position q + (phase + before - u) / stride.
        down_by = np.array([(upper.phase + vertical.before - u) // down for u in upper.taps], np.int64)
        right_by = np.array([(lower.phase + horizontal.before - v) // right for v in lower.taps], np.int64)
        columns = _spans(lower.positions, 1, right_by, horizontal.size)
        # Where many columns meet the border, taps v come before filters, so that a tile of columns can leave some out
        # (LeNet-5's second layer: 211 instead of 260 us on one core). With one or two maps it matters more that taps
        # share vectors (two maps from 20 by 5x5: 105 to 157 GFLOP/s, one 68 to 124, from 64 by 9x9 80 to 111).
        needed = int((columns[:, 1] - columns[:, 0]).sum())
        indices = range(len(upper.taps)), range(len(lower.taps)), range(self.filters)
        width = len(lower.taps)
        meets_border = width * lower.positions > (1.15 if channels > 2 else 1.6) * needed
        if meets_border:
            u, v, f = _grid(*indices)
            columns = columns * self.filters
        else:
            u, f, v = _grid(indices[0], indices[2], indices[1])
            columns = np.tile([0, self.filters * width], (lower.positions, 1))
        run, run_step = (self.filters, 0) if width == 1 or meets_border else (width, 1)
        u_taps, v_taps = np.array(upper.taps, np.int64), np.array(lower.taps, np.int64)
        return Taps(
            f * channels * kernel_height * kernel_width + u_taps[u] * kernel_width + v_taps[v],
            f * dout.row + down_by[u] * dout.line + right_by[v] * dout.column,
            self.filters * width,
            _spans(upper.positions, 1, down_by, vertical.size),
            columns,
            run if len(u) else 1,
            run_step,
        )

    def _phases(self, k: int) -> list[Phase]:
        """The phases of axis k."""
        size, on, kernel, stride = self.shape[1 + k], self.axes[k], self.kernel[k], self.stride[k]
        phases = []
        for phase in range(min(stride, size)):
            # The last tap first: it reads the first position.
            taps = [u for u in reversed(range(kernel)) if (phase + on.before - u) % stride == 0]
            positions = (size - 1 - phase) // stride + 1
            offsets = [(phase + on.before - u) // stride for u in taps]
            first, last = min(offsets, default=0), max(offsets, default=0) + positions - 1
            phases.append(Phase(phase, taps, positions, first, last))
        return phases


def _left(form: Form, work: int) -> int:
    """What of direct sums' work Winograd's algorithm leaves; the transforms add about a third."""
    return 4 * work * form.entries // (3 * (form.outputs * form.taps) ** 2)


def _whole(form: Form, size: int) -> int:
    """The positions that whole tiles cover, for at least `size`."""
    return -(-size // form.outputs) * form.outputs


def _at_phases(view: View, upper: Phase, lower: Phase, stride: tuple[int, int]) -> View:
    """The view of one phase's positions alone."""
    start = view.start + upper.phase * view.line + lower.phase * view.column
    return view._replace(start=start, line=stride[0] * view.line, column=stride[1] * view.column)


LINE_POSITIONS = 64
"""How long lines are made at most that may have any length (weight gradients by 1x1, with AVX2: 48 and 64 positions at
66 % of the peak, 96 and more at 49 %, since a piece of a sum takes whole lines)."""


def _segments(
    extent: Extent, views: Sequence[View], choose: Callable[[list[int], int], int]
) -> tuple[Extent, NDArray[np.int64]]:
    """Lines of equal length, as an extent counts them, into which all positions are cut, and where each starts in each
    view: (lines, views).

    Lines of the image that follow each other without a gap, as in a convolution by 1x1, are one. `choose` takes one of
    the lengths that divide that, told how long the image's lines are.
    """
    whole = extent
    if all(view.line == extent.columns * view.column for view in views):
        whole = extent._replace(lines=1, columns=extent.lines * extent.columns)
    lengths = [length for length in range(1, whole.columns + 1) if whole.columns % length == 0]
    columns = choose(lengths, extent.columns)
    each = whole.columns // columns
    n, i, k = _grid(range(whole.blocks), range(whole.lines), range(each))
    starts = [view.start + n * view.block + i * view.line + k * columns * view.column for view in views]
    return whole._replace(lines=whole.lines * each, columns=columns), np.stack(starts, axis=1)


def _longest_segment(lengths: list[int], columns: int) -> int:
    """For `contract_lanes`, where a line costs as much as one to three columns."""
    return max(length for length in lengths if length <= max(LINE_POSITIONS, columns))


def _short_segment(lengths: list[int], columns: int) -> int:
    """For `contract_transposed`, where segments are the grain of panels and pieces."""
    return min(lengths, key=lambda length: abs(log(length / SEGMENT_POSITIONS)))


def _grid(*ranges: Iterable[int]) -> list[NDArray[np.int64]]:
    """The flattened coordinates of all combinations, the last range fastest."""
    grids = np.meshgrid(*(np.array(list(values), np.int64) for values in ranges), indexing="ij")
    return [grid.reshape(-1) for grid in grids]


def _spans(positions: int, step: int, offsets: Iterable[int], size: int) -> NDArray[np.int64]:
    """For each position i of the output the first and one after the last of the offsets, which rise or fall, with
    position i * step + offset inside an image of `size` positions."""
    spans = np.zeros((positions, 2), np.int64)
    for i in range(positions):
        inside = [k for k, offset in enumerate(offsets) if 0 <= i * step + offset < size]
        if inside:
            spans[i] = inside[0], inside[-1] + 1
    return spans


def _add_parts(parts: NDArray[Any], places: NDArray[np.int64], out: NDArray[Any]) -> Call:
    return Call(add_parts, -(-len(places) // SUMS_VECTORS), (parts, places, out), 20 * places.size + 5 * parts.size)


def _contraction(site: Site, filters: Filters, passed: Taps, x: View, ends: Ends, work: int) -> list[Call]:
    """A pass through the image as it stands: the weights are put in the order in which a tile reads them, then
    contracted."""
    taps, extent, weight = len(passed.x), ends.extent, filters.scalars
    used = tuple((int(first), int(last)) for first, last in passed.columns)
    tile = choose_tile(
        extent.rows,
        extent.columns,
        taps,
        run=passed.run,
        column_step=x.column,
        run_step=passed.run_step,
        used=used,
        halves=x.column == ends.out.column == 1,
    )
    if tile.halved:
        used = tuple(span for span in used for _ in range(2))
    row_tiles = -(-extent.rows // tile.rows)
    packed = site.workspace.passed_on(row_tiles, taps, tile.rows)
    firsts = np.arange(row_tiles, dtype=np.int64) * taps * tile.rows
    steps = np.arange(taps, dtype=np.int64) * tile.rows
    columns = np.array(used_by_tiles(used, tile.columns), np.int64)
    weights = Weights(packed.reshape(-1), firsts, steps, passed.group, passed.lines, columns)
    pack = (tile, extent.rows, weight, filters.row_step, passed.w, packed)
    arguments = (tile, extent, weights, x._replace(row=0), passed.x, ends.bias, ends.out, ends.epilogue, ends.y)
    return [
        Call(pack_rows, row_tiles, pack, 30 * packed.size),
        Call(contract, row_tiles * extent.lines * extent.blocks, arguments, work),
    ]


def _winograd(site: Site, form: Form, filters: Filters, maps: int, x: View, ends: Ends, work: int) -> list[Call]:
    """A pass through the image by Winograd's algorithm: the kernels are transformed, then used."""
    extent, weight = ends.extent, filters.scalars
    tiling = choose_tiling(form, extent, maps)
    tile = choose_winograd_tile(tiling, site.lanes)
    transformed = site.workspace.passed_on(kernels_vectors(form, extent.rows, maps, site.lanes), site.lanes)
    sizes = Extent(1, extent.rows, maps, 1)
    scratch = site.workspace.by_thread(scratch_vectors(form, tiling, tile.rows))
    kernels = (form, sizes, weight, filters.row_step, filters.map_step, filters.rotated, transformed, scratch)
    arguments = (form, tile, tiling, transformed.reshape(-1), x, ends.bias, ends.out, ends.epilogue, ends.y, scratch)
    return [
        Call(winograd_kernels, -(-extent.rows // site.lanes) * maps, kernels, 10 * transformed.size),
        Call(winograd, extent.blocks * tiling.groups, arguments, _left(form, work)),
    ]
