"""The kernel calls of a convolution: which zeros they need round their operands, and how each pass is computed.

Forwards it is a contraction over (channel, u, v); to the weights, over samples and positions; to the input, one
contraction over (filter, u, v) for each phase of the stride: the positions that the same kernel entries reach. Where
`nnjit/tuning/algorithms.py` chooses it, Winograd's algorithm is used instead, phase by phase too.
`direct.py`, `rows_in_lanes.py` and `winograd.py` bind the passes through an image, `weight_gradients.py` the sums for
the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.buffers import Border
from nnjit.kernels.contraction import Extent, View, grid
from nnjit.kernels.simd import lanes
from nnjit.kernels.winograd_overlap import Cutout
from nnjit.kernels.winograd_transforms import Form
from nnjit.layers.base import Shape
from nnjit.layers.window import Axis
from nnjit.parameters import aligned_zeros
from nnjit.passes.direct import direct_sums
from nnjit.passes.images import Ends, Filters, MapTaps, Phases, Sums, Taps
from nnjit.passes.rows_in_lanes import channel_sums, remainder_sums
from nnjit.passes.weight_gradients import WeightGradients
from nnjit.passes.winograd import PhaseMaps, by_overlap, by_winograd, channels_by_winograd
from nnjit.site import Site, zeros_call
from nnjit.tuning.algorithms import (
    ChannelsPass,
    ImagePass,
    LaneCosts,
    WeightsPass,
    channels_form_cost,
    choose_bands,
    choose_channels_form,
    choose_form,
    choose_input_form,
    choose_remainder,
    choose_taps_first,
    choose_weights_form,
    count_phases,
    form_cost,
    form_for,
    image_lane_costs,
    input_form_cost,
    weights_lane_costs,
)
from nnjit.tuning.contraction import choose_blocks

FLOATS = lanes(np.float32)
"""Lanes for which forms are chosen, also in double precision."""


class Phase(NamedTuple):
    """Input positions phase, phase + stride, ... on one axis: how many there are, the kernel entries that reach them,
    and how far from the number of such a position the output position lies that it reads by each."""

    phase: int
    positions: int
    taps: list[int]
    offsets: list[int]

    @property
    def first(self) -> int:
        """The first output position that is read."""
        return min(self.offsets, default=0)

    @property
    def last(self) -> int:
        """The last one."""
        return max(self.offsets, default=0) + self.positions - 1


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
        if self.direct:
            return None
        sizes = (self.axes[0].size, self.axes[1].size)
        return choose_form(self.kernel, self.stride, self.filters, self.shape[0], sizes, self._products)

    @property
    def _forward_form_cost(self) -> float | None:
        """What a block of the forward pass costs by that algorithm, None for direct sums."""
        form, maps = self._forward_form, self.shape[0] * count_phases(self.kernel, self.stride)
        return form_cost(form, self.filters, maps, (self.axes[0].size, self.axes[1].size)) if form else None

    def _channels_form(self, samples: int) -> Form | None:
        """The form for the forward pass of so many samples with channels in lanes, None for direct sums."""
        if self.direct:
            return None
        return choose_channels_form(
            self.kernel, self.stride, samples, FLOATS, self._forward_pass, self._forward_channels
        )

    @property
    def _forward_channels(self) -> ChannelsPass:
        """That pass by Winograd's algorithm."""
        sizes = self.axes[0].size, self.axes[1].size
        return ChannelsPass(self.filters, self.shape[0], count_phases(self.kernel, self.stride), ((1, sizes),))

    def _channels_input_form(self, samples: int) -> Form | None:
        """Likewise for the gradient to the input."""
        if self.direct:
            return None
        return choose_channels_form(self.kernel, self.stride, samples, FLOATS, self._input_pass, self._input_channels)

    @property
    def _input_channels(self) -> ChannelsPass:
        """Likewise."""
        height, width = (-(-size // step) for size, step in zip(self.shape[1:], self.stride, strict=True))
        return ChannelsPass(self.shape[0], self.filters, 1, tuple((phases, (height, width)) for phases in self._shared))

    @property
    def pools_pairs(self) -> bool:
        """Whether the forward pass can pool 2x2 windows before it stores them: no tile of it cuts one."""
        return self._forward_form is None or self._forward_form.outputs % 2 == 0

    @property
    def _by_maps(self) -> bool:
        """Whether direct sums of the forward pass go over one map after the other."""
        columns = self.axes[1].size
        needed = _needed(_spans(columns, self.stride[1], self._offsets(1), self.shape[2]))
        return self.stride == (1, 1) and choose_bands(self.filters, self.shape[0], self.kernel, columns, needed)

    @property
    def _input_form(self) -> tuple[Form | None, bool]:
        """The form for the gradient to the input, None for direct sums, and whether it goes over the tiles of the
        output."""
        if self.direct:
            return None, False
        sizes, outputs = (self.shape[1], self.shape[2]), (self.axes[0].size, self.axes[1].size)
        products = self._products
        of = self.kernel, self.stride, self.shape[0], self.filters
        return choose_input_form(*of, sizes, outputs, products, self._shared)

    @property
    def _shared(self) -> list[int]:
        """How many phases at a time share the tiles of Winograd's algorithm."""
        form = form_for(self.kernel, self.stride)
        return [len(upper) * len(lower) for upper, lower in self._tiled_phases(form)] if form else []

    def _tiled_phases(self, form: Form) -> list[tuple[list[Phase], list[Phase]]]:
        """The phases of both axes that go over the same tiles."""
        return list(product(self._together(0, form), self._together(1, form)))

    def _together(self, k: int, form: Form) -> list[list[Phase]]:
        """The phases of axis k that any tap reaches, those together that a tile can serve: all of them, if its taps
        hold all that they read from the first position on, or each by itself."""
        phases = [phase for phase in self._phases(k) if phase.taps]
        read = [offset for phase in phases for offset in phase.offsets]
        # With a step longer than the kernel there may be none.
        together = bool(read) and max(read) - min(read) < form.taps
        return [phases] if together else [[phase] for phase in phases]

    @property
    def _input_form_cost(self) -> float | None:
        """What a block of the gradient to the input costs by that algorithm, None for direct sums."""
        form, overlaps = self._input_form
        if form is None:
            return None
        if overlaps:
            outputs = self.axes[0].size, self.axes[1].size
            return form_cost(form, self.shape[0], self.filters, outputs, overlaps=True)
        sizes = self.shape[1], self.shape[2]
        return input_form_cost(form, self.shape[0], self.filters, sizes, self.stride, self._shared)

    @property
    def _weights_form(self) -> Form | None:
        """The form for the gradient to the weights, None for direct sums."""
        if self.direct:
            return None
        sizes = (self.axes[0].size, self.axes[1].size)
        return choose_weights_form(self.kernel, self.stride, self.filters, self.shape[0], sizes)

    @property
    def _products(self) -> int:
        """The products of direct sums for a pair of maps, which leave out taps that meet the border."""
        met = [
            sum(last - first for first, last in _spans(on.size, self.stride[k], self._offsets(k), self.shape[1 + k]))
            for k, on in enumerate(self.axes)
        ]
        return int(met[0] * met[1])

    def lane_costs(self, samples: int, width: int, training: bool, first: bool) -> LaneCosts:
        """What a batch of `samples` costs with samples and with channels in lanes, forwards or in training; to the
        `first` layer samples come apart, and no gradient goes on."""
        form = None if first else self._channels_form(samples)
        in_lanes = channels_form_cost(form, samples, width, self._forward_channels) if form else None
        costs = image_lane_costs(samples, width, self._forward_pass, in_lanes)
        if not training:
            return costs
        sizes = self.axes[0].size, self.axes[1].size
        of = WeightsPass(self.filters, self.shape[0], self.kernel, self.stride, sizes, self._weights_form)
        costs += weights_lane_costs(samples, width, of)
        if first:
            return costs
        form = self._channels_input_form(samples)
        in_lanes = channels_form_cost(form, samples, width, self._input_channels) if form else None
        return costs + image_lane_costs(samples, width, self._input_pass, in_lanes)

    def takes_apart(self, samples: int, width: int) -> int:
        """How many of the last of `samples` samples the forward pass computes by themselves."""
        return choose_remainder(samples, width, self._forward_pass)

    @property
    def _forward_pass(self) -> ImagePass:
        """The forward pass as algorithms are chosen for it."""
        written = self.axes[0].size * self.axes[1].size
        read = self.shape[0] * self.input_border(0).plane(*self.shape[1:])
        return self._image_pass(self.filters, self.shape[0], read, written, self._forward_form_cost)

    @property
    def _input_pass(self) -> ImagePass:
        """Likewise the gradient to the input."""
        read = self.filters * self.gradient_border(True, 0).plane(self.axes[0].size, self.axes[1].size)
        written = self.shape[1] * self.shape[2]
        return self._image_pass(self.shape[0], self.filters, read, written, self._input_form_cost)

    def _image_pass(self, rows: int, maps: int, read: int, written: int, winograd: float | None) -> ImagePass:
        taps = maps * self.kernel[0] * self.kernel[1]
        return ImagePass(rows, taps, maps * self._products, read, written, winograd)

    def _offsets(self, k: int) -> list[int]:
        """How far from position i * stride of the input the taps of output i lie, on axis k."""
        return [u - self.axes[k].before for u in range(self.kernel[k])]

    def input_border(self, alone: int) -> Border:
        """The zeros that the forward pass reads round the input: of so many samples with channels in lanes, or of
        samples in lanes if those are none."""
        zeros = []
        forms = (self._channels_form(alone), None) if alone else (self._forward_form, self._weights_form)
        for k, on in enumerate(self.axes):
            last = (on.size - 1) * self.stride[k] + self.kernel[k] - 1 - on.before
            for form in filter(None, forms):
                phases = min(self.kernel[k], self.stride[k])
                last = max(last, (_whole(form, on.size) + form.taps - 2) * self.stride[k] + phases - 1 - on.before)
            zeros += [on.before, max(0, last - (self.shape[1 + k] - 1))]
        return Border(*zeros)

    def gradient_border(self, to_input: bool, alone: int) -> Border:
        """The zeros that the backward pass, `to_input` or only to the weights, reads round the gradient of the output:
        of so many samples with channels in lanes, or of samples in lanes if those are none."""
        zeros = []
        weights_form = None if alone else self._weights_form
        form, overlaps = (self._channels_input_form(alone), False) if alone else self._input_form
        if not to_input:
            form, overlaps = None, False
        for k, on in enumerate(self.axes):
            phases = self._phases(k) if to_input and not overlaps else []
            first = min((phase.first for phase in phases), default=0)
            last = max((phase.last for phase in phases), default=0)
            if form and not overlaps:
                for together in self._together(k, form):
                    start, positions = min(on.first for on in together), max(on.positions for on in together)
                    last = max(last, start + _whole(form, positions) + form.taps - 2)
            for whole in filter(None, (form if overlaps else None, weights_form)):
                last = max(last, _whole(whole, on.size) - 1)
            zeros += [max(0, -first), max(0, last - (on.size - 1))]
        return Border(*zeros)

    def bind(self, site: Site) -> None:
        """Record the calls of all passes."""
        channels, area = self.shape[0], self.kernel[0] * self.kernel[1]
        (down, right), (vertical, horizontal) = self.stride, self.axes
        extent, x = self._computed(site), site.x.view
        if site.out.channels_in_lanes:
            x = site.x.scalars
        places = site.x.row_places(np.arange(channels))
        weight = site.parameters["weight"]
        zeros = aligned_zeros((max(channels, self.filters) + site.lanes,), site.dtype)
        bias = site.parameters.get("bias", zeros)
        work = site.batch_size * self.filters * extent.lines * extent.columns * channels * area

        window, vectors = (
            view._replace(
                start=view.start - vertical.before * view.line - horizontal.before * view.column,
                line=down * view.line,
                column=right * view.column,
            )
            for view in (x, site.x.view)
        )
        # First what takes most of the workspace.
        if site.dout is not None:
            form = self._weights_form
            maps = self._phase_maps(form, channels, site.x.view) if form else None
            weights = WeightGradients(channels, self.filters, self.kernel, self.stride, form, maps)
            if site.out.channels_in_lanes:
                weights.bind_channels_in_lanes(site, extent, window)
            else:
                weights.bind(site, extent, window, work)
            if site.dx is not None:
                self._bind_input(site, zeros)
        filters = Filters(weight, channels * area, area)
        ends = Ends(bias, site.out.view, extent, site.epilogue, site.out.view, site.winners)
        if site.out.channels_in_lanes:
            form = self._channels_form(site.batch_size) if site.x.channels_in_lanes else None
            if form and (site.winners is None or form.outputs % 2 == 0):
                maps = self._phase_maps(form, channels, site.x.view)
                site.forward += channels_by_winograd(site, form, filters, self.filters, [maps], vectors, ends)
                return
            sums = Sums(self._forward_taps(x, places, extent, site.x.row_run), ends)
            site.forward += channel_sums(site, filters, [sums], self.filters, window)
            return
        map_taps = self._forward_map_taps(x, extent) if self._by_maps and site.winners is None else None
        sums = Sums(self._forward_taps(x, places, extent), ends, map_taps)
        form, apart = self._forward_form, self.takes_apart(site.batch_size, site.lanes)
        whole = extent.blocks - (apart > 0)
        if whole:
            ends = ends.of_blocks(0, whole)
            if form:
                maps = self._phase_maps(form, channels, site.x.view)
                site.forward += by_winograd(site, form, filters, [maps], window, ends)
            else:
                site.forward += direct_sums(site, filters, [sums._replace(ends=ends)], window)
        if apart:
            site.forward += remainder_sums(site, filters, [sums], window, apart)

    def _phase_maps(self, form: Form, maps: int, x: View) -> PhaseMaps:
        """What the phases of x by the stride are to a form of Winograd's algorithm: entry u of the kernel is entry
        u // stride of that for phase u % stride."""
        (height, width), (down, right) = self.kernel, self.stride
        phases = list(product(range(min(height, down)), range(min(width, right))))
        starts = np.array([a * x.line + b * x.column for a, b in phases], np.int64)
        taps = [_form_taps(form, width, range(a, height, down), range(b, width, right)) for a, b in phases]
        return PhaseMaps(maps, starts, np.array(taps, np.int64))

    def _computed(self, site: Site) -> Extent:
        """The sizes of what the sums are computed for: the output, or if it is pooled, what falls into a window."""
        extent = site.out.extent
        if site.winners is None:
            return extent
        return extent._replace(lines=2 * extent.lines, columns=2 * extent.columns)

    def _forward_taps(self, x: View, rows: NDArray[np.int64], extent: Extent, side_by_side: int = 0) -> Taps:
        """What an output sums over; `rows`: what each channel adds to where x lies; `side_by_side`: how many lie so."""
        channels, (height, width) = self.shape[0], self.kernel
        lines = _spans(extent.lines, self.stride[0], self._offsets(0), self.shape[1])
        columns, run = np.tile([0, channels * width], (extent.columns, 1)), (width, 1) if width > 1 else (channels, 0)
        if side_by_side:
            u, v, c = grid(range(height), range(width), range(channels))
            columns = channels * _spans(extent.columns, self.stride[1], self._offsets(1), self.shape[2])
            group, run = channels * width, (side_by_side, 1)
        elif self._by_maps:
            # The order of `_forward_map_taps`, in which the sums for a pooling of its own are computed.
            c, u, v = grid(range(channels), range(height), range(width))
            group, lines = len(c), np.tile([0, 1], (extent.lines, 1))
            columns = np.tile([0, group], (extent.columns, 1))
        else:
            # Lines of the kernel come first, so that the ones which meet the border are the first or the last taps.
            u, c, v = grid(range(height), range(channels), range(width))
            group = channels * width
        return Taps(
            c * height * width + u * width + v,
            rows[c] + u * x.line + v * x.column,
            group,
            lines,
            columns,
            *run,
            height <= self.stride[0],
            self.stride[0] > 1,
            height <= self.stride[0] and width <= self.stride[1],
        )

    def _forward_map_taps(self, x: View, extent: Extent) -> MapTaps:
        """The same map by map."""
        channels, (height, width) = self.shape[0], self.kernel
        w = np.arange(channels * height * width, dtype=np.int64).reshape(channels, height, width)
        lines = _spans(extent.lines, 1, self._offsets(0), self.shape[1])
        columns = _spans(extent.columns, 1, self._offsets(1), self.shape[2])
        return MapTaps(w, np.arange(channels, dtype=np.int64) * x.row, lines, columns)

    def _bind_input(self, site: Site, zeros: NDArray[Any]) -> None:
        """The gradient of the input."""
        assert site.dout is not None and site.dx is not None
        channels, area = self.shape[0], self.kernel[0] * self.kernel[1]
        dout, dx = site.dout.view, site.dx.view
        filters = Filters(site.parameters["weight"], area, channels * area)
        alike, unreached = self._alike_phases()
        sums = [self._input_sums(site, zeros, pairs) for pairs in alike]
        if site.dx.channels_in_lanes:
            if unreached:
                site.backward_input.append(zeros_call(site.dx, 0, site.dx.blocks))
            if form := self._channels_input_form(site.batch_size):
                for tiled in self._tiled_inputs(site, form, zeros):
                    site.backward_input += channels_by_winograd(site, form, filters, channels, *tiled)
            elif sums:
                site.backward_input += channel_sums(site, filters, sums, channels, site.dout.scalars)
            return
        form, overlaps = self._input_form
        # Over the tiles of the output the gradient has no zeros round it, which sums would read.
        apart = 0 if overlaps or not sums else choose_remainder(site.batch_size, site.lanes, self._input_pass)
        blocks = site.dx.extent.blocks
        whole = blocks - (apart > 0)
        if form and overlaps:
            ends = Ends(zeros, dx, site.dx.extent, site.dx_epilogue, site.x.view).of_blocks(0, whole)
            cutout = Cutout(self.axes[0].before, self.axes[1].before, *self.shape[1:])
            maps = self._phase_maps(form, self.filters, dout)
            site.backward_input += by_overlap(site, form, filters, site.dout.extent, maps, dout, cutout, ends)
        elif form and whole:
            if unreached:
                site.backward_input.append(zeros_call(site.dx, 0, whole))
            for kernels, window, ends, sizes in self._tiled_inputs(site, form, zeros):
                site.backward_input += by_winograd(
                    site, form, filters, kernels, window, ends.of_blocks(0, whole), sizes
                )
        elif whole and not sums:
            site.backward_input.append(zeros_call(site.dx, 0, whole))
        elif whole:
            parts = [part.of_blocks(0, whole) for part in sums]
            together = choose_blocks(dout.row * self.filters) if len(sums) > 1 else whole
            cleared = site.dx if unreached else None
            site.backward_input += direct_sums(site, filters, parts, dout, together, cleared)
        if apart:
            if unreached:
                site.backward_input.append(zeros_call(site.dx, whole, 1))
            site.backward_input += remainder_sums(site, filters, sums, dout, apart)

    def _tiled_inputs(
        self, site: Site, form: Form, zeros: NDArray[Any]
    ) -> Iterator[tuple[list[PhaseMaps], View, Ends, list[tuple[int, int]]]]:
        """The gradients to the input by Winograd's algorithm, of phases that go over the same tiles: their kernels,
        where the tiles start, and their ends and sizes."""
        assert site.dout is not None
        dout = site.dout.view
        for uppers, lowers in self._tiled_phases(form):
            line, column = (min(phase.first for phase in together) for together in (uppers, lowers))
            window = dout._replace(start=dout.start + line * dout.line + column * dout.column)
            pairs, start = list(product(uppers, lowers)), np.zeros(1, np.int64)
            taps = [self._input_form_taps(form, *pair, line, column) for pair in pairs]
            kernels = [PhaseMaps(self.filters, start, of_phase[None]) for of_phase in taps]
            sizes = [(upper.positions, lower.positions) for upper, lower in pairs]
            yield kernels, window, self._input_ends(site, zeros, pairs), sizes

    def _input_form_taps(self, form: Form, upper: Phase, lower: Phase, line: int, column: int) -> NDArray[np.int64]:
        """Where the weights of a gradient of these phases lie that reads from that line and column on."""
        lines, columns = [-1] * (upper.first - line) + upper.taps, [-1] * (lower.first - column) + lower.taps
        return _form_taps(form, self.kernel[1], lines, columns)

    def _input_ends(self, site: Site, zeros: NDArray[Any], pairs: list[tuple[Phase, Phase]]) -> Ends:
        """Where the gradient of these phases goes, with the sizes of the first, which are the largest."""
        assert site.dx is not None
        dx, (upper, lower) = site.dx.view, pairs[0]
        # Numbers of the network that come apart are no activation's.
        y = dx if site.x.apart else site.x.view
        reached = site.dx.extent._replace(lines=upper.positions, columns=lower.positions)
        to, made = (_at_phases(view, upper, lower, self.stride) for view in (dx, y))
        return Ends(zeros, to, reached, site.dx_epilogue, made, phases=self._phases_from(pairs, dx, y))

    def _input_sums(self, site: Site, zeros: NDArray[Any], pairs: list[tuple[Phase, Phase]]) -> Sums:
        """What the gradient of these phases, which read the same, sums over."""
        assert site.dout is not None and site.dx is not None
        in_lanes, (upper, lower) = site.dx.channels_in_lanes, pairs[0]
        dout = site.dout.scalars if in_lanes else site.dout.view
        places = site.dout.row_places(np.arange(self.filters))
        taps = self._input_taps(dout, places, upper, lower, site.dout.row_run)
        map_taps = None if in_lanes else self._input_map_taps(dout, upper, lower)
        return Sums(taps, self._input_ends(site, zeros, pairs), map_taps)

    def _alike_phases(self) -> tuple[list[list[tuple[Phase, Phase]]], bool]:
        """The phases of both axes that any tap reaches, those together that read the same positions of the output's
        gradient; and whether there are others, whose gradient is 0."""
        alike: dict[Any, list[tuple[Phase, Phase]]] = {}
        for pair in product(self._phases(0), self._phases(1)):
            alike.setdefault(tuple((on.positions, *on.offsets) for on in pair), []).append(pair)
        reached = [pairs for pairs in alike.values() if all(on.taps for on in pairs[0])]
        return reached, len(reached) < len(alike)

    def _phases_from(self, pairs: list[tuple[Phase, Phase]], dx: View, y: View) -> Phases:
        """Where these phases have their weights and places, counted from the first."""
        upper, lower = pairs[0]
        down = np.array([pair[0].phase - upper.phase for pair in pairs], np.int64)
        right = np.array([pair[1].phase - lower.phase for pair in pairs], np.int64)
        places = [down * view.line + right * view.column for view in (dx, y)]
        return Phases(down * self.kernel[1] + right, np.stack(places, axis=1))

    def _input_taps(self, dout: View, rows: NDArray[np.int64], upper: Phase, lower: Phase, side_by_side: int) -> Taps:
        """What the gradient of an input position of these phases sums over; `rows`: what each filter adds to where
        dout lies; `side_by_side`: how many lie so."""
        vertical, horizontal = self.axes
        channels, (kernel_height, kernel_width) = self.shape[0], self.kernel
        down_by, right_by = np.array(upper.offsets, np.int64), np.array(lower.offsets, np.int64)
        columns = _spans(lower.positions, 1, right_by, horizontal.size)
        indices = range(len(upper.taps)), range(len(lower.taps)), range(self.filters)
        width = len(lower.taps)
        taps_first = side_by_side > 0 or choose_taps_first(channels, width, lower.positions, _needed(columns))
        if taps_first:
            u, v, f = grid(*indices)
            columns = columns * self.filters
        else:
            u, f, v = grid(indices[0], indices[2], indices[1])
            columns = np.tile([0, self.filters * width], (lower.positions, 1))
        run, run_step = (self.filters, 0) if width == 1 or taps_first else (width, 1)
        if side_by_side:
            run, run_step = side_by_side, 1
        u_taps, v_taps = np.array(upper.taps, np.int64), np.array(lower.taps, np.int64)
        return Taps(
            f * channels * kernel_height * kernel_width + u_taps[u] * kernel_width + v_taps[v],
            rows[f] + down_by[u] * dout.line + right_by[v] * dout.column,
            self.filters * width,
            _spans(upper.positions, 1, down_by, vertical.size),
            columns,
            run if len(u) else 1,
            run_step,
            once=len(u_taps) == len(v_taps) == 1,
        )

    def _input_map_taps(self, dout: View, upper: Phase, lower: Phase) -> MapTaps | None:
        """The same filter by filter, where that is faster: each tap reads one position on from the one before it."""
        vertical, horizontal = self.axes
        channels, (kernel_height, kernel_width) = self.shape[0], self.kernel
        kernel = len(upper.taps), len(lower.taps)
        columns = _spans(lower.positions, 1, lower.offsets, horizontal.size)
        if not choose_bands(channels, self.filters, kernel, lower.positions, _needed(columns)):
            return None
        f, u, v = np.ix_(np.arange(self.filters), np.array(upper.taps), np.array(lower.taps))
        w = f * channels * kernel_height * kernel_width + u * kernel_width + v
        x = f.reshape(-1) * dout.row + upper.first * dout.line + lower.first * dout.column
        return MapTaps(w, x, _spans(upper.positions, 1, upper.offsets, vertical.size), columns)

    def _phases(self, k: int) -> list[Phase]:
        """The phases of axis k."""
        size, on, kernel, stride = self.shape[1 + k], self.axes[k], self.kernel[k], self.stride[k]
        phases = []
        for phase in range(min(stride, size)):
            # The last tap first: it reads the first position.
            taps = [u for u in reversed(range(kernel)) if (phase + on.before - u) % stride == 0]
            positions = (size - 1 - phase) // stride + 1
            # Position phase + stride * q, tap u: output position q + (phase + before - u) / stride.
            offsets = [(phase + on.before - u) // stride for u in taps]
            phases.append(Phase(phase, positions, taps, offsets))
        return phases


def _needed(spans: NDArray[np.int64]) -> int:
    """All offsets of `_spans` together."""
    return int((spans[:, 1] - spans[:, 0]).sum())


def _whole(form: Form, size: int) -> int:
    """The positions that whole tiles cover, for at least `size`."""
    return -(-size // form.outputs) * form.outputs


def _form_taps(form: Form, width: int, lines: Sequence[int], columns: Sequence[int]) -> NDArray[np.int64]:
    """Where the entries in these lines and columns of a kernel of so many columns lie, in that order, as the taps of a
    form: -1 for those that are none."""
    taps = np.full((form.taps, form.taps), -1, np.int64)
    for a, u in enumerate(lines):
        for b, v in enumerate(columns):
            if u >= 0 and v >= 0:
                taps[a, b] = u * width + v
    return taps.reshape(-1)


def _at_phases(view: View, upper: Phase, lower: Phase, stride: tuple[int, int]) -> View:
    """The view of one phase's positions alone."""
    start = view.start + upper.phase * view.line + lower.phase * view.column
    return view._replace(start=start, line=stride[0] * view.line, column=stride[1] * view.column)


def _spans(positions: int, step: int, offsets: Iterable[int], size: int) -> NDArray[np.int64]:
    """For each position i of the output the first and one after the last of the offsets, which rise or fall, with
    position i * step + offset inside an image of `size` positions."""
    spans = np.zeros((positions, 2), np.int64)
    for i in range(positions):
        inside = [k for k, offset in enumerate(offsets) if 0 <= i * step + offset < size]
        if inside:
            spans[i] = inside[0], inside[-1] + 1
    return spans
