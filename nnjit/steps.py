"""Programs over a split of the data: one training step, one evaluation, one prediction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.buffers import Buffer
from nnjit.data.dataset import Split
from nnjit.kernels.batches import gather, gather_apart, gather_labels, scatter, scatter_apart
from nnjit.kernels.contraction import Extent, View
from nnjit.kernels.losses import add_up
from nnjit.kernels.program import Call, Moving, Program
from nnjit.kernels.simd import lanes
from nnjit.losses import Loss, LossSite
from nnjit.metrics import Metric
from nnjit.network import BoundNetwork, Network
from nnjit.optimizers import Optimizer, OptimizerSite
from nnjit.parameters import aligned_zeros

EVALUATION_BATCH = 256
"""Samples per call when nothing is trained; results do not depend on it."""


@dataclass(frozen=True)
class Scaling:
    """A number that the network sees is (raw - shift) * factor; both (1,) or (numbers of a sample,), float64."""

    shift: NDArray[np.float64]
    factor: NDArray[np.float64]


LONGEST_LINE, LONGEST_LINE_APART = 128, 1024
"""Entries of a line that a task brings into lanes, or for few samples to where they stay apart. (Two images of 64 maps
of 56x56: in lines of 56 105 us on two cores, of 784 48 and 53.)"""


class Feed:
    """Batches of a split's samples in lanes.

    `order` (samples,) int64 holds the rows in the order in which they come; `select` moves to a batch.
    """

    def __init__(self, split: Split) -> None:
        self.split = split
        self.order = split.rows.copy()
        self._position = np.zeros(2, np.int64)
        self.count = self._position[1:]
        """(1,): samples in the selected batch."""

    def select(self, first: int, count: int) -> None:
        """Make samples order[first : first + count] the batch."""
        self._position[0] = first
        self._position[1] = count

    @property
    def rows(self) -> NDArray[np.int64]:
        """(count,): the rows of the selected batch."""
        first, count = self._position
        return self.order[first : first + count]

    def inputs(self, scaling: Scaling, x: Buffer) -> Call:
        """The call that brings the batch's inputs to x."""
        return self.gather(self.split.inputs, scaling, x)

    def targets(self, scaling: Scaling, target: Buffer) -> Call:
        """The call that brings the batch's targets to `target`: numbers as they are, labels as one-hot vectors, or as 0
        and 1 for a network with one output."""
        targets = self.split.targets
        assert targets is not None
        if targets.ndim == 1 and target.shape != (1,):
            (classes,) = target.shape
            arguments = (classes, targets, self.order, self._position, target.view)
            work = target.blocks * target.view.vectors.shape[1] * classes
            return Call(gather_labels, target.blocks, arguments, work)
        return self.gather(targets, scaling, target)

    def gather(self, values: NDArray[Any] | Moving, scaling: Scaling, to: Buffer) -> Call:
        """The call that brings the batch's rows of `values` (rows, *shape), or (rows, numbers) if it is Moving, to a
        buffer."""
        data: Any = values
        if not isinstance(values, Moving):
            data = np.asarray(values).reshape(len(values), -1)
            data.flags.writeable = False
        dtype, lanes = to.view.vectors.dtype, to.view.vectors.shape[1]
        extent, view = _in_lines(to)
        tasks = extent.blocks * extent.rows * extent.lines
        shift, factor = scaling.shift.astype(dtype), scaling.factor.astype(dtype)
        arguments = (extent, data, self.order, self._position, shift, factor, view)
        if to.apart:
            return Call(gather_apart, tasks, arguments, 4 * tasks * extent.columns * len(view.vectors))
        return Call(gather, tasks, arguments, 10 * tasks * extent.columns * lanes)

    def scatter(self, values: Buffer, to: Moving) -> Call:
        """The call that takes the batch's samples out of lanes, or from where they are apart, to (rows, numbers)."""
        extent, view = _in_lines(values)
        tasks = extent.blocks * extent.rows * extent.lines
        arguments = (extent, view, self._position, to)
        if values.apart:
            return Call(scatter_apart, tasks, arguments, 4 * tasks * extent.columns * len(view.vectors))
        return Call(scatter, tasks, arguments, 10 * tasks * extent.columns * view.vectors.shape[1])


def _in_lines(buffer: Buffer) -> tuple[Extent, View]:
    """A buffer cut into lines of up to LONGEST_LINE entries, so that tasks are neither tiny nor one; an image as it is,
    but for planes of samples that are apart, if nothing stands between their lines."""
    extent, view = buffer.extent, buffer.view
    if len(buffer.shape) != 3:
        width = _longest_line(extent.rows, LONGEST_LINE)
        return Extent(extent.blocks, extent.rows // width, 1, width), view._replace(row=width, column=1)
    if buffer.apart and view.line == extent.columns:
        plane = extent.lines * extent.columns
        width = _longest_line(plane, LONGEST_LINE_APART)
        return extent._replace(lines=plane // width, columns=width), view._replace(line=width)
    return extent, view


def _longest_line(entries: int, most: int) -> int:
    """The most of so many entries that lines of equal length can have."""
    return max(width for width in range(1, min(entries, most) + 1) if entries % width == 0)


class Scored:
    """The part that training and evaluation share: a bound network, its loss and metric, and their sums.

    `totals` (4,) float64: sums over samples of the cost, of the metric's score, their number, and the last batch's
    cost.
    """

    def __init__(
        self, bound: BoundNetwork, loss: Loss, metric: Metric, split: Split, inputs: Scaling, targets: Scaling
    ) -> None:
        self.bound = bound
        self.feed = Feed(split)
        self.metric = metric
        self.totals = np.zeros(4)
        shape, dtype = bound.network.output_shape, bound.network.dtype
        target = Buffer.allocate(bound.blocks, shape, dtype)
        costs, scores = (aligned_zeros((bound.blocks, target.view.vectors.shape[1]), dtype) for _ in range(2))
        dout = bound.dout or Buffer.allocate(bound.blocks, shape, dtype)
        self.site = LossSite(bound.out, target, dout, costs, scores, self.feed.count)
        loss.bind(self.site)
        self.calls = [
            self.feed.inputs(inputs, bound.x),
            self.feed.targets(targets, target),
            *bound.forward,
            *self.site.calls,
            metric.call(self.site),
            Call(add_up, 1, (costs, scores, self.feed.count, self.totals), costs.size),
        ]

    def results(self) -> dict[str, float]:
        """The mean loss and the metric over the samples since `totals` was set to zero."""
        cost, score, samples, _ = self.totals
        if not samples:
            return {"loss": math.nan, self.metric.name: math.nan}
        return {"loss": float(cost / samples), self.metric.name: self.metric.value(float(score / samples))}


class TrainingStep(Scored):
    """One step of training as one program: batch, forward, loss, backward, update."""

    def __init__(
        self,
        network: Network,
        batch_size: int,
        loss: Loss,
        metric: Metric,
        optimizer: Optimizer,
        split: Split,
        inputs: Scaling,
        targets: Scaling,
        *,
        keep_gradients: bool = False,
    ) -> None:
        bound = network.bind(batch_size, keep_gradients=keep_gradients)
        super().__init__(bound, loss, metric, split, inputs, targets)
        layout = network.layout
        self.batch_size = batch_size
        self.rate = np.full(1, optimizer.learning_rate, layout.dtype)
        self.state = {name: layout.zeros() for name in optimizer.state}
        assert bound.gradients is not None
        site = OptimizerSite(
            weights=network.weights.reshape(-1, layout.lanes),
            gradients=bound.gradients.reshape(-1, layout.lanes),
            state={name: array.reshape(-1, layout.lanes) for name, array in self.state.items()},
            rate=self.rate,
            decayed=layout.decayed // layout.lanes,
            tensors=layout.vectors,
        )
        self.program = Program([*self.calls, *bound.backward, optimizer.bind(site)])

    @property
    def batches(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return -(-len(self.feed.order) // self.batch_size)

    def run(self, batch: int) -> float:
        """Train on one batch of the epoch; the sum of its costs."""
        first = batch * self.batch_size
        self.feed.select(first, min(self.batch_size, len(self.feed.order) - first))
        self.program.run()
        return float(self.totals[3])


class Evaluation(Scored):
    """The loss and metric of a network over a split, from the parameters as they are when it runs."""

    def __init__(
        self, network: Network, loss: Loss, metric: Metric, split: Split, inputs: Scaling, targets: Scaling
    ) -> None:
        # Whole blocks: the remainder of a batch has kernels of its own, which cost more to compile than they save here.
        block = lanes(network.dtype)
        self.batch_size = -(-min(EVALUATION_BATCH, len(split)) // block) * block
        bound = network.bind(self.batch_size, training=False)
        super().__init__(bound, loss, metric, split, inputs, targets)
        self.program = Program(self.calls)

    def run(self) -> dict[str, float]:
        """The mean loss and the metric."""
        self.totals[:] = 0
        for _ in self.costs():
            pass
        return self.results()

    def costs(self) -> Iterator[float]:
        """Run batch by batch; the sum of each batch's costs."""
        for first in range(0, len(self.feed.order), self.batch_size):
            self.feed.select(first, min(self.batch_size, len(self.feed.order) - first))
            self.program.run()
            yield float(self.totals[3])


class Prediction:
    """The outputs of a network, as its parameters are now, for inputs that come in blocks.

    Weights are put in the order of the kernels' tiles once: vgg-small answers to one image on two cores in
    348 instead of 483 us. Inputs are read where they are, and outputs written where they stay, in batches that pass
    all layers while they are near: 1,024 samples through layers from 1000 to 30 to 50 to 1000 took 2.30 ms with copies
    and in one batch, now 0.82.
    """

    def __init__(self, network: Network, dtype: Any, inputs: Scaling, batch_size: int = EVALUATION_BATCH) -> None:
        """For inputs of a dtype, in batches of up to `batch_size` samples, or EVALUATION_BATCH if those are fewer."""
        batch_size = min(batch_size, EVALUATION_BATCH)
        rows = np.zeros((batch_size, math.prod(network.shapes[0])), dtype)
        rows.flags.writeable = False
        self._rows = Moving(rows)
        self._feed = Feed(Split(rows, None, np.arange(batch_size)))
        self._bound = network.bind(batch_size, training=False, fixed=True)
        Program(self._bound.preparation).run()
        out = self._bound.out
        self._answers = Moving(np.zeros((batch_size, math.prod(out.shape)), network.dtype))
        ends = [] if out.channels_in_lanes else [self._feed.scatter(out, self._answers)]
        self.program = Program([self._feed.gather(self._rows, inputs, self._bound.x), *self._bound.forward, *ends])

    def run(self, block: NDArray[Any]) -> NDArray[Any]:
        """Outputs (samples, *shape) for inputs (samples, *shape)."""
        batch_size, numbers = self._rows.shape
        rows = np.ascontiguousarray(block, self._rows.dtype).reshape(-1, numbers)
        if not rows.flags.aligned:
            rows = rows.copy()
        answers = np.empty((len(rows), self._answers.shape[1]), self._answers.dtype)
        for first in range(0, len(rows), batch_size):
            part, answer = rows[first : first + batch_size], answers[first : first + batch_size]
            self._rows.move(part)
            self._answers.move(answer)
            self._feed.select(0, len(part))
            self.program.run()
            if self._bound.out.channels_in_lanes:
                answer[:] = self._bound.out.read(len(part)).reshape(answer.shape)
        return answers.reshape(-1, *self._bound.out.shape)
