"""What a pass through an image is, forwards or to the input: the weights as it sees them, what an output sums over, and
where it starts and ends.

What an output sums over is data (`Taps`), so that one pass is like another; `convolution.py` says what it is in each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.activations import Epilogue
from nnjit.kernels.contraction import Extent, View


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

    def pooled_winners(self, lanes: int) -> NDArray[Any]:
        """The winners of what is pooled, none if nothing is."""
        return np.zeros((0, lanes), np.uint8) if self.winners is None else self.winners

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
