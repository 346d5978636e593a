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
RETRIES = {"float64": 4, "float32": 1}
"""How many times the step is divided by 8 when an entry crosses a kink; in float32 rounding soon hides everything."""


@dataclass(frozen=True)
class Settings:
    """How to check. `entries`: at most so many of each tensor, all if None. `tolerance`: the dtype's own if None."""

    entries: int | None = 200
    tolerance: float | None = None
    seed: int = 0
    max_kinks: float = 0.5


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

    @property
    def skipped(self) -> int:
        """Entries that were not looked at."""
        return self.entries - self.checked

    @property
    def passed(self) -> bool:
        """Whether no entry failed and not too many were kinks."""
        return not self.failed and not self.too_many_kinks


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
    probe.backward()
    tensors = [tensor for tensor in probe.tensors() if positions is None or tensor.position in positions]
    gradients = [tensor.gradient[tensor.gradient_places].astype(np.float64) for tensor in tensors]
    report = Report(title)
    for number, (tensor, gradient) in enumerate(zip(tensors, gradients, strict=True)):
        # Layer inputs are overwritten by the passes over earlier tensors; a full pass brings them back.
        probe.cost()
        rng = np.random.default_rng([settings.seed, number])
        report.tensors.append(_check_tensor(probe, tensor, gradient, settings, rng))
    return report


def _check_tensor(
    probe: Probe, tensor: Tensor, gradient: NDArray[np.float64], settings: Settings, rng: np.random.Generator
) -> TensorReport:
    report = TensorReport(tensor.name, tensor.shape, len(tensor.places))
    dtype = np.dtype(probe.network.dtype)
    tolerance = settings.tolerance or TOLERANCES[dtype.name]
    compared = Difference(probe, tensor)
    for entry in select_entries(gradient, settings.entries, rng):
        report.checked += 1
        analytic = float(gradient[entry])
        step = compared.first_step(entry)
        numeric = compared.numeric(entry, step)
        for _ in range(RETRIES[dtype.name]):
            if numeric is not None:
                break
            step /= 8
            numeric = compared.numeric(entry, step)
        if numeric is None:
            report.kinks += 1
            continue
        floor = 8 * float(np.finfo(dtype).eps) * max(abs(compared.cost), 1.0) / (step * tolerance)
        error = relative_error(analytic, numeric, floor)
        report.blind = report.blind and max(abs(analytic), abs(numeric)) < 100 * tolerance * floor
        if error > tolerance / 100:
            finer = compared.extrapolated(entry, step)
            if finer is not None and relative_error(analytic, finer, floor) < error:
                numeric, error = finer, relative_error(analytic, finer, floor)
        report.failed += not error <= tolerance
        if report.worst_index is None or (not error <= report.error and not math.isnan(report.error)):
            report.worst_index = tuple(int(k) for k in np.unravel_index(entry, tensor.shape))
            report.analytic, report.numeric, report.error = analytic, numeric, error
    report.too_many_kinks = report.kinks > settings.max_kinks * report.checked
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


class Difference:
    """Central differences of the cost with respect to a tensor's entries."""

    def __init__(self, probe: Probe, tensor: Tensor) -> None:
        self.probe = probe
        self.tensor = tensor
        self.cost = probe.cost()

    def first_step(self, entry: int) -> float:
        """The step for an entry, in proportion to its size."""
        value = float(self.tensor.memory[self.tensor.places[entry]])
        return STEPS[np.dtype(self.probe.network.dtype).name] * max(1.0, abs(value))

    def numeric(self, entry: int, step: float) -> float | None:
        """The central difference at one step; None when the two evaluations decide differently somewhere."""
        memory, place = self.tensor.memory, self.tensor.places[entry]
        value = memory[place]
        slope = SLOPES[self.tensor.slope](float(value))
        if slope == 0:
            # The gradient is that before a relu which is off: zero, whatever this entry may decide further on.
            return 0.0
        costs, decisions, points = [], [], []
        for side in (step, -step):
            memory[place] = value + side
            points.append(float(memory[place]))
            costs.append(self.probe.cost(self.tensor.stage))
            decisions.append(self.probe.decisions(self.tensor.stage))
        memory[place] = value
        if any(not np.array_equal(a, b) for a, b in zip(*decisions, strict=True)):
            return None
        # The step that was really made: w + h is rounded to the dtype.
        return (costs[0] - costs[1]) / (points[0] - points[1]) * slope

    def extrapolated(self, entry: int, step: float) -> float | None:
        """Richardson's extrapolation of the differences at h and h / 2, whose error is of order h**4; None at a
        kink."""
        coarse, fine = self.numeric(entry, step), self.numeric(entry, step / 2)
        return None if coarse is None or fine is None else (4 * fine - coarse) / 3


SLOPES: dict[str, Callable[[float], float]] = {
    "": lambda y: 1.0,
    "relu": lambda y: float(y > 0),
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
}
"""Derivatives of activations from their output, written apart from the kernels: where a kernel multiplies a layer's
input gradient by one, the numeric derivative is multiplied by this."""
