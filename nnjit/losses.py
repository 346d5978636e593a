"""Cost functions: the mean over the samples of a batch of what each class says about one sample."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nnjit.component import Component
from nnjit.equations import Equation, Equations, entry_of, over
from nnjit.layers.base import Shape, ShapeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nnjit.buffers import Buffer
    from nnjit.kernels.program import Call


@dataclass
class LossSite:
    """A loss's place after a network that is bound to a batch size."""

    out: Buffer
    target: Buffer
    """Of the shape of `out`; a class label is a one-hot vector."""
    dout: Buffer
    costs: NDArray[Any]
    """(blocks, L): the cost of each sample."""
    scores: NDArray[Any]
    """(blocks, L): the metric of each sample."""
    count: NDArray[Any]
    """(1,) int64: samples in the batch."""
    calls: list[Call] = field(default_factory=list)


class Loss(Component):
    """A cost of one sample's output against its target."""

    needs_labels: ClassVar[bool] = False
    """Whether targets can only be class labels."""
    threshold: ClassVar[float] = 0.5
    """The output above which a network with one output says yes."""

    def check_output(self, shape: Shape) -> None:
        """Raise ShapeError when the loss cannot take outputs of `shape`."""

    def answers(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """What predictions show for `outputs` (N, ...): as they are, or the probabilities that they stand for."""
        return outputs

    def equations(self, shape: Shape) -> Equations | None:
        """The cost of one output of `shape` and its gradient, as `nnjit explain` shows them; None if nobody has
        written them."""
        return None

    @abstractmethod
    def bind(self, site: LossSite) -> None:
        """Record the calls that write the costs and `dout`, the gradient of their mean."""


class _SquaredError(Loss):
    def _bind(self, site: LossSite, factor: float) -> None:
        import numpy as np

        from nnjit.kernels.losses import squared_error
        from nnjit.kernels.program import Call

        extent, dtype = site.out.extent, site.costs.dtype
        views = (site.out.view, site.target.view, site.dout.view)
        arguments = (extent, *views, site.costs, site.count, np.full(1, factor, dtype))
        work = site.costs.size * extent.rows * extent.lines * extent.columns
        site.calls.append(Call(squared_error, extent.blocks, arguments, work))


class HalfSquaredError(_SquaredError):
    """C = 1/2 * sum over f of (out[f] - target[f])**2; class labels count as one-hot vectors."""

    type: Literal["half_squared_error"] = "half_squared_error"

    def equations(self, shape: Shape) -> Equations:
        entry = entry_of(shape)
        return Equations(
            (Equation(f"C = sum((out{entry} - target{entry}) ** 2, {over(shape)}) / 2"),),
            (Equation(f"dout{entry} = out{entry} - target{entry}"),),
        )

    def bind(self, site: LossSite) -> None:
        self._bind(site, 1.0)


class MeanSquaredError(_SquaredError):
    """C = mean over f of (out[f] - target[f])**2; class labels count as one-hot vectors."""

    type: Literal["mean_squared_error"] = "mean_squared_error"

    def equations(self, shape: Shape) -> Equations:
        entry, count = entry_of(shape), math.prod(shape)
        return Equations(
            (Equation(f"C = sum((out{entry} - target{entry}) ** 2, {over(shape)}) / {count}"),),
            (Equation(f"dout{entry} = 2 * (out{entry} - target{entry}) / {count}"),),
        )

    def bind(self, site: LossSite) -> None:
        extent = site.out.extent
        self._bind(site, 2.0 / (extent.rows * extent.lines * extent.columns))


class SoftmaxCrossEntropy(Loss):
    """C = -log softmax(out)[label], from logits: the network ends in a dense layer without softmax."""

    type: Literal["softmax_cross_entropy"] = "softmax_cross_entropy"
    needs_labels = True

    def check_output(self, shape: Shape) -> None:
        if len(shape) != 1 or shape[0] < 2:
            raise ShapeError(f"expected an output of one score per class, shape (F,) with F at least 2, got {shape}")

    def answers(self, outputs: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        exponentials = np.exp(outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True))
        shares: NDArray[Any] = exponentials / exponentials.sum(axis=1, keepdims=True)
        return shares.astype(outputs.dtype)

    def equations(self, shape: Shape) -> Equations:
        (classes,) = shape
        return Equations(
            (
                Equation(
                    f"m = max(out[f], f={classes})",
                    f"Softmax makes shares of the scores, $exp(out[f]) / sum(exp(out[g]), g={classes})$. They stay the "
                    "same when the largest score is taken off each, and then no exp can overflow (Goodfellow et al. "
                    "2016, Deep Learning, section 4.1).",
                    (),
                ),
                Equation(f"total = sum(exp(out[g] - m), g={classes})", shape=()),
                Equation("s[f] = exp(out[f] - m) / total", shape=shape),
                Equation(
                    f"C = -sum(target[f] * (out[f] - m - log(total)), f={classes})",
                    "The target is 1 for the class and 0 for the others. The cost is "
                    f"$-sum(target[f] * log(s[f]), f={classes})$, with the logarithm taken before a share can round "
                    "to 0.",
                ),
            ),
            (Equation("dout[f] = s[f] - target[f]", "Softmax and logarithm together leave a plain difference."),),
        )

    def bind(self, site: LossSite) -> None:
        from nnjit.kernels.losses import softmax_cross_entropy
        from nnjit.kernels.program import Call

        extent = site.out.extent
        views = (site.out.view, site.target.view, site.dout.view)
        work = 20 * site.costs.size * extent.rows
        arguments = (extent, *views, site.costs, site.count)
        site.calls.append(Call(softmax_cross_entropy, extent.blocks, arguments, work))


class BinaryCrossEntropy(Loss):
    """C = -sum over f of t*log(s) + (1-t)*log(1-s), s = sigmoid(out[f]), from logits; class labels count as one-hot
    vectors, or as 0 and 1 for a network with one output."""

    type: Literal["binary_cross_entropy"] = "binary_cross_entropy"
    threshold = 0.0

    def answers(self, outputs: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        # Exponentials of negative numbers alone cannot overflow.
        small = np.exp(-np.abs(outputs.astype(np.float64)))
        probabilities: NDArray[Any] = np.where(outputs < 0, small, 1.0) / (1.0 + small)
        return probabilities.astype(outputs.dtype)

    def equations(self, shape: Shape) -> Equations:
        entry = entry_of(shape)
        z, t, s = f"out{entry}", f"target{entry}", f"s{entry}"
        return Equations(
            (
                Equation(f"{s} = 1 / (1 + exp(-{z}))", "The sigmoid makes probabilities of the scores.", shape),
                Equation(
                    f"C = sum(max({z}, 0) - {t} * {z} + log(1 + exp(-abs({z}))), {over(shape)})",
                    f"The cost is $-sum({t} * log({s}) + (1 - {t}) * log(1 - {s}), {over(shape)})$, with the "
                    "logarithms taken before a probability can round to 0 or 1.",
                ),
            ),
            (Equation(f"dout{entry} = {s} - {t}", "Sigmoid and logarithm together leave a plain difference."),),
        )

    def bind(self, site: LossSite) -> None:
        from nnjit.kernels.losses import binary_cross_entropy
        from nnjit.kernels.program import Call

        extent = site.out.extent
        views = (site.out.view, site.target.view, site.dout.view)
        work = 40 * site.costs.size * extent.rows * extent.lines * extent.columns
        arguments = (extent, *views, site.costs, site.count)
        site.calls.append(Call(binary_cross_entropy, extent.blocks, arguments, work))
