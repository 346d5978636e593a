"""The comparison: analytic gradients from the backward kernels, numeric ones from central differences of the cost.

The numeric derivative of entry w is (C(w + h) - C(w - h)) / 2h, with an error of about h**2 from truncation and of eps
* C / h from rounding. The relative error is |a - n| / max(|a|, |n|, floor). The floor is the size below which rounding
alone would pass the tolerance: floor = 8 * eps * max(|C|, 1) / (h * tolerance). So two tiny gradients pass, and an
entry wrong by 1 % is still seen down to 100 * tolerance * floor.

An entry whose two evaluations differ in a decision (the side of a relu, the winner of a max) has no derivative to
compare with: it is tried again with smaller steps, and if it still crosses it is counted as a kink, neither passed nor
failed. More than `max_kinks` of a tensor's checked entries being kinks is a failure. An entry that is off by more than
the tolerance is tried again with Richardson's extrapolation before it counts as failed, since its error may be that of
the difference.

A random direction. With `Settings.fast` the cost is differentiated along one direction v of unit length, drawn from the
normal distribution, and compared with g . v: two evaluations for a tensor of any size. A gradient that is wrong as a
whole (a sign, a scale) is seen as by entries. A fault of a share d = 1 % in entry k alone shifts g . v by d * g[k] *
v[k] and is missed when that is within the tolerance t of g . v. v[k] and g . v / |g| are normal with correlation
s = |g[k]| / |g|, so their ratio has the distribution of Cauchy with centre s and scale r = sqrt(1 - s**2), and

    P(missed) = (atan((c - s) / r) + atan((c + s) / r)) / pi,  c = t / (d * s)

For a typical entry, s = 1 / sqrt(n), that is about 2/pi * t/d * sqrt(n): for t = 1e-6, 0.6 % of 10,000 entries and 6 %
of a million; for an entry of a thousandth of that size, most are missed. Once v is drawn, whether a fault in entry k
would show is known without chance, floor included, so the report counts it: the share of the entries with a gradient in
which a fault of 1 % would have been missed is the probability of missing one in an entry drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.gradcheck.probe import Probe, Tensor

STEPS = {"float64": 1e-4, "float32": 1e-2}
"""The first step h, times max(1, |w|)."""
TOLERANCES = {"float64": 1e-6, "float32": 2e-2}
"""The largest relative error that passes: what truncation and rounding leave at these steps, with a margin of about
10."""
FAULT = 0.01
"""The relative error of an entry that a check should see."""
RETRIES = {"float64": 4, "float32": 1}
"""How many times the step is divided by 8 when an entry crosses a kink; in float32 rounding soon hides everything."""


@dataclass(frozen=True)
class Settings:
    """How to check. `entries`: at most so many of each tensor, all if None. `tolerance`: the dtype's own if None."""

    entries: int | None = 200
    tolerance: float | None = None
    seed: int = 0
    max_kinks: float = 0.5
    fast: bool = False
    """Whether one random direction of each tensor stands for its entries."""

    def tolerance_for(self, dtype: Any) -> float:
        """The largest relative error that passes in `dtype`."""
        return self.tolerance or TOLERANCES[np.dtype(dtype).name]


@dataclass
class TensorReport:
    """The result for one tensor; the worst entry is that with the largest relative error."""

    name: str
    shape: tuple[int, ...]
    entries: int
    checked: int = 0
    failed: int = 0
    kinks: int = 0
    worst_index: tuple[int, ...] | None = None
    analytic: float = 0.0
    numeric: float = 0.0
    error: float = 0.0
    too_many_kinks: bool = False
    blind: bool = True
    """Whether every gradient was so small that a fault of 1 % would have passed: then little was proved."""
    missed: float | None = None
    """Of a random direction: the share of the entries in which a fault of 1 % would have passed."""

    @property
    def skipped(self) -> int:
        """Entries that were not looked at."""
        return self.entries - self.checked

    @property
    def passed(self) -> bool:
        """Whether no entry failed and not too many were kinks."""
        return not self.failed and not self.too_many_kinks

    def add(self, found: Comparison, index: tuple[int, ...] | None, tolerance: float) -> None:
        """Count a comparison, of the entry at `index`."""
        self.checked += 1
        if found.numeric is None:
            self.kinks += 1
            return
        self.blind = self.blind and max(abs(found.analytic), abs(found.numeric)) < 100 * tolerance * found.floor
        self.failed += not found.error <= tolerance
        first = self.checked - self.kinks == 1
        if first or (not found.error <= self.error and not math.isnan(self.error)):
            self.worst_index = index
            self.analytic, self.numeric, self.error = found.analytic, found.numeric, found.error


@dataclass
class Report:
    """The results for one network."""

    title: str
    tensors: list[TensorReport] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every tensor passed."""
        return all(tensor.passed for tensor in self.tensors)


def check(
    probe: Probe,
    settings: Settings = Settings(),  # noqa: B008
    title: str = "",
    positions: set[int] | None = None,
) -> Report:
    """Check every tensor of a probe, or of the layers at `positions` alone. The network keeps its parameters."""
    one = _check_direction if settings.fast else _check_tensor
    report = Report(title)
    for number, (tensor, gradient) in enumerate(analytic_gradients(probe, positions)):
        rng = np.random.default_rng([settings.seed, number])
        report.tensors.append(one(probe, tensor, gradient, settings, rng))
    return report


def analytic_gradients(probe: Probe, positions: set[int] | None) -> list[tuple[Tensor, NDArray[np.float64]]]:
    """The tensors of the layers at `positions`, of all if None, with their gradients from the backward pass.

    An activation that the layer before it applies has no tensors of its own: that layer's gradients pass through it.
    """
    probe.backward()
    if positions is not None:
        first = [stage.position for stage in probe.network.stages]
        positions = {max(start for start in first if start <= position) for position in positions}
    return [
        (tensor, tensor.gradient[tensor.gradient_places].astype(np.float64))
        for tensor in probe.tensors()
        if positions is None or tensor.position in positions
    ]


def _check_tensor(
    probe: Probe, tensor: Tensor, gradient: NDArray[np.float64], settings: Settings, rng: np.random.Generator
) -> TensorReport:
    report = TensorReport(tensor.name, tensor.shape, len(tensor.places))
    tolerance = settings.tolerance_for(probe.network.dtype)
    # Layer inputs are overwritten by the passes over earlier tensors; a full pass brings them back.
    cost = probe.cost()
    for entry in select_entries(gradient, settings.entries, rng):
        found = compare(Line.through(probe, tensor, entry), float(gradient[entry]), cost, tolerance)
        index = tuple(int(k) for k in np.unravel_index(entry, tensor.shape))
        report.add(found, index, tolerance)
    report.too_many_kinks = report.kinks > settings.max_kinks * report.checked
    return report


def _check_direction(
    probe: Probe, tensor: Tensor, gradient: NDArray[np.float64], settings: Settings, rng: np.random.Generator
) -> TensorReport:
    """One random direction of unit length instead of entries."""
    report = TensorReport(tensor.name, tensor.shape, len(tensor.places))
    tolerance = settings.tolerance_for(probe.network.dtype)
    cost = probe.cost()
    direction = rng.normal(size=len(gradient))
    direction /= np.linalg.norm(direction)
    parts = gradient * direction
    found = compare(Line.along(probe, tensor, direction), float(parts.sum()), cost, tolerance)
    report.add(found, None, tolerance)
    report.too_many_kinks = found.numeric is None
    hidden = FAULT * np.abs(parts) <= tolerance * max(abs(found.analytic), found.floor)
    there = gradient != 0
    report.missed = float(hidden[there].mean()) if there.any() else 1.0
    return report


def relative_error(analytic: float, numeric: float, floor: float) -> float:
    """|a - n| / max(|a|, |n|, floor); NaN if either is NaN."""
    return abs(analytic - numeric) / max(abs(analytic), abs(numeric), floor)


def select_entries(gradient: NDArray[Any], limit: int | None, rng: np.random.Generator) -> Sequence[int]:
    """All entries, or `limit` of them: the largest gradient, the first and the last, the others drawn at random."""
    total = len(gradient)
    if limit is None or total <= limit:
        return range(total)
    wanted = [int(np.argmax(np.abs(gradient))), 0, total - 1, *(int(entry) for entry in rng.permutation(total))]
    return sorted(list(dict.fromkeys(wanted))[:limit])


class Line:
    """The cost along a straight line through entries of a tensor: the points are w + h * direction.

    `scale` relates the entries that move to those whose gradient was asked for.
    """

    def __init__(
        self, probe: Probe, tensor: Tensor, entries: NDArray[np.int64], direction: NDArray[np.float64], scale: float
    ) -> None:
        self.probe = probe
        self.tensor = tensor
        self.places = tensor.places[entries]
        self.direction = direction
        self.scale = scale

    @classmethod
    def through(cls, probe: Probe, tensor: Tensor, entry: int) -> Line:
        """The line along one entry."""
        slope = SLOPES[tensor.slope](tensor.memory[tensor.places[entry : entry + 1]].astype(np.float64))
        return cls(probe, tensor, np.array([entry]), np.ones(1), float(slope[0]))

    @classmethod
    def along(cls, probe: Probe, tensor: Tensor, direction: NDArray[np.float64]) -> Line:
        """The line along a direction of all entries."""
        slopes = SLOPES[tensor.slope](tensor.memory[tensor.places].astype(np.float64))
        return cls(probe, tensor, np.arange(len(tensor.places)), slopes * direction, 1.0)

    def first_step(self) -> float:
        """The step to begin with, in proportion to the largest entry that moves."""
        largest = float(np.abs(self.tensor.memory[self.places]).max())
        return STEPS[np.dtype(self.probe.network.dtype).name] * max(1.0, largest)

    def numeric(self, step: float) -> float | None:
        """The central difference at one step; None when the two evaluations decide differently somewhere, NaN when the
        step is too small to change an entry."""
        if self.scale == 0 or not self.direction.any():
            # The gradient is that before a relu which is off: zero, whatever the entry may decide further on.
            return 0.0
        memory, stage = self.tensor.memory, self.tensor.stage
        values = memory[self.places]
        costs, decisions, points = [], [], []
        for side in (step, -step):
            memory[self.places] = values + side * self.direction
            points.append(memory[self.places].astype(np.float64))
            costs.append(self.probe.cost(stage))
            decisions.append(self.probe.decisions(stage))
        memory[self.places] = values
        if any(not np.array_equal(a, b) for a, b in zip(*decisions, strict=True)):
            return None
        # The step that was really made: w + h is rounded to the dtype.
        made = float((points[0] - points[1]) @ self.direction / (self.direction @ self.direction))
        return (costs[0] - costs[1]) / made * self.scale if made else math.nan

    def extrapolated(self, step: float) -> float | None:
        """Richardson's extrapolation of the differences at h and h / 2, whose error is of order h**4; None at a
        kink."""
        coarse, fine = self.numeric(step), self.numeric(step / 2)
        return None if coarse is None or fine is None else (4 * fine - coarse) / 3


class Difference:
    """Differences with respect to single entries of a tensor, for those who choose entry and step themselves."""

    def __init__(self, probe: Probe, tensor: Tensor) -> None:
        self.probe = probe
        self.tensor = tensor

    def first_step(self, entry: int) -> float:
        """The step to begin with."""
        return Line.through(self.probe, self.tensor, entry).first_step()

    def extrapolated(self, entry: int, step: float) -> float | None:
        """Richardson's extrapolation, None at a kink."""
        return Line.through(self.probe, self.tensor, entry).extrapolated(step)


@dataclass(frozen=True)
class Comparison:
    """An analytic derivative along a line and the numeric one, which is None if a kink was crossed at every step."""

    analytic: float
    numeric: float | None
    error: float = 0.0
    floor: float = 0.0


def compare(line: Line, analytic: float, cost: float, tolerance: float) -> Comparison:
    """The comparison along a line, with smaller steps where kinks are in the way and extrapolation where it differs."""
    dtype = np.dtype(line.probe.network.dtype)
    step = line.first_step()
    numeric = line.numeric(step)
    for _ in range(RETRIES[dtype.name]):
        if numeric is not None:
            break
        step /= 8
        numeric = line.numeric(step)
    if numeric is None:
        return Comparison(analytic, None)
    floor = rounding(dtype, cost, step) / tolerance
    error = relative_error(analytic, numeric, floor)
    if error > tolerance / 100:
        finer = line.extrapolated(step)
        if finer is not None and relative_error(analytic, finer, floor) < error:
            numeric, error = finer, relative_error(analytic, finer, floor)
    return Comparison(analytic, numeric, error, floor)


def rounding(dtype: Any, cost: float, step: float) -> float:
    """What rounding of the cost may add to a difference at `step`."""
    return 8 * float(np.finfo(dtype).eps) * max(abs(cost), 1.0) / step


SLOPES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "": np.ones_like,
    "relu": lambda y: (y > 0).astype(np.float64),
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
}
"""Derivatives of activations from their output, written apart from the kernels: where a kernel multiplies a layer's
input gradient by one, the numeric derivative is multiplied by this."""
