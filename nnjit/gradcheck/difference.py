"""Central differences of the cost along a line through entries of a tensor, taken in float64.

The difference at h, (C(w + h) - C(w - h)) / 2h, has an error of about h**2 from truncation and of eps * C / h from
rounding. Two evaluations of which one decides otherwise than the pass whose gradient is checked (the side of a relu,
the winner of a max) have a kink between them: there is no derivative to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.gradcheck.probe import Probe, Tensor

STEP = 1e-4
"""The first step h, times max(1, |w|)."""


@dataclass(frozen=True)
class Gradient:
    """A tensor's gradient by a backward pass, and the float64 network at the same point for its differences."""

    probe: Probe
    """In float64."""
    tensor: Tensor
    """Of `probe`."""
    decisions: list[NDArray[Any]]
    """What the pass decided, in the stages that depend on the tensor."""
    values: NDArray[np.float64]
    """An entry each, in the order of the tensor's shape."""
    slopes: NDArray[np.float64]
    """The derivative of the activation that made each entry, which is a factor of its gradient."""
    rounding: NDArray[np.float64]
    """By how much each value may be off because of rounding."""
    spread: float
    """Root mean square of what rounding adds to the cost of `probe`."""

    @classmethod
    def take(
        cls,
        passed: Probe,
        tensor: Tensor,
        twin: Probe,
        twin_tensor: Tensor,
        rounding: NDArray[np.float64],
        spread: float,
    ) -> Gradient:
        """The gradient of `tensor` by the passes that `passed` has run, for differences of its twin."""
        outputs = tensor.memory[tensor.places].astype(np.float64)
        values = tensor.gradient[tensor.gradient_places].astype(np.float64)
        decisions = passed.decisions(tensor.stage)
        return cls(twin, twin_tensor, decisions, values, SLOPES[tensor.slope](outputs), rounding, spread)


class Line:
    """The cost along a straight line: the points are w + h * direction.

    `analytic` is the derivative by the backward pass and `rounding` by how much it may be off. `scale` relates the
    entries that move to those whose gradient was asked for.
    """

    def __init__(
        self,
        gradient: Gradient,
        entries: NDArray[np.int64],
        direction: NDArray[np.float64],
        scale: float,
        analytic: float,
        rounding: float,
    ) -> None:
        self.gradient = gradient
        self.places = gradient.tensor.places[entries]
        self.direction = direction
        self.scale = scale
        self.analytic = analytic
        self.rounding = rounding

    @classmethod
    def through(cls, gradient: Gradient, entry: int) -> Line:
        """The line along one entry."""
        numbers = (float(of[entry]) for of in (gradient.slopes, gradient.values, gradient.rounding))
        return cls(gradient, np.array([entry]), np.ones(1), *numbers)

    @classmethod
    def along(cls, gradient: Gradient, direction: NDArray[np.float64]) -> Line:
        """The line along a direction of all entries.

        The rounding of entries adds up along a random direction as if it were independent, whether it is or not.
        """
        entries = np.arange(gradient.values.size)
        analytic = float((gradient.values * direction).sum())
        rounding = float(np.linalg.norm(gradient.rounding * direction))
        return cls(gradient, entries, gradient.slopes * direction, 1.0, analytic, rounding)

    def first_step(self) -> float:
        """The step to begin with, in proportion to the largest entry that moves."""
        return STEP * max(1.0, float(np.abs(self.gradient.tensor.memory[self.places]).max()))

    def numeric(self, step: float) -> float | None:
        """The central difference at one step; None when an evaluation decides otherwise than the gradient's pass, NaN
        when the step is too small to change an entry."""
        if self.scale == 0 or not self.direction.any():
            # The gradient is that before a relu which is off: zero, whatever the entry may decide further on.
            return 0.0
        probe, tensor = self.gradient.probe, self.gradient.tensor
        values = tensor.memory[self.places]
        costs, points = [], []
        crossed = False
        for side in (step, -step):
            tensor.memory[self.places] = values + side * self.direction
            points.append(tensor.memory[self.places])
            costs.append(probe.cost(tensor.stage))
            decided = probe.decisions(tensor.stage)
            crossed |= any(not np.array_equal(*pair) for pair in zip(decided, self.gradient.decisions, strict=True))
        tensor.memory[self.places] = values
        if crossed:
            return None
        # The step that was really made, for w + h is rounded.
        made = float((points[0] - points[1]) @ self.direction / (self.direction @ self.direction))
        return (costs[0] - costs[1]) / made * self.scale if made else math.nan

    def extrapolated(self, step: float) -> float | None:
        """Richardson's extrapolation of the differences at h and h / 2, whose error is of order h**4; None at a
        kink."""
        coarse, fine = self.numeric(step), self.numeric(step / 2)
        return None if coarse is None or fine is None else (4 * fine - coarse) / 3


def rounding_of_difference(cost: float, step: float, spread: float = 0.0) -> float:
    """What rounding of the cost may add to a difference at `step`: that of the cost itself as a number or, where it has
    been measured and is more, the root mean square `spread`, for a cost is a small difference of large scores."""
    return 8 * max(float(np.finfo(np.float64).eps) * max(abs(cost), 1.0), spread) / step


SLOPES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "": np.ones_like,
    "relu": lambda y: (y > 0).astype(np.float64),
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
}
"""Derivatives of activations from their output, written apart from the kernels: where a kernel multiplies a layer's
input gradient by one, the numeric derivative is multiplied by this."""
