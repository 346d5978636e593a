"""The comparison: analytic gradients from the backward kernels, numeric ones from central differences of the cost.

The gradient is that of the very kernels that training uses, in the dtype that was asked for; the differences are taken
in float64, of a float64 network that has been given exactly the same parameters, inputs and targets. In float32 they
would need steps so large that every deep network crosses kinks, and would still know little. The relative error of an
entry is |a - n| / max(|a|, |n|, floor), and floor = (rounding of the difference + rounding of the gradient) /
tolerance: below it, rounding alone could exceed the tolerance. The first is 8 * eps * max(|C|, 1) / h, or more where
the cost's own rounding is measured to be more; the second is measured too (`rounding`) and counts in float32. So two
tiny gradients pass, and an entry wrong by 1 % is seen as long as it is above 100 * tolerance * floor; how many are not
is counted.

An entry whose evaluations decide otherwise than the gradient's pass (the side of a relu, the winner of a max) has no
derivative to compare with: it is tried again with smaller steps, and if it still does it is counted as a kink, neither
passed nor failed. That includes a float32 pass that decides otherwise than float64 at the very point. More than
`max_kinks` of a tensor's comparisons meeting kinks is a failure. An entry that is off by more than the tolerance is
tried again with Richardson's extrapolation before it counts as failed, since its error may be that of the difference.

Random directions. With `Settings.fast` the cost is differentiated along directions v of unit length, drawn from the
normal distribution, and compared with g . v: two evaluations each, for a tensor of any size. A gradient that is wrong
as a whole (a sign, a scale) is seen as by entries. A fault of a share d = 1 % in entry k alone shifts g . v by d * g[k]
* v[k] and is missed when that is within the tolerance t of g . v. v[k] and g . v / |g| are normal with correlation
s = |g[k]| / |g|, so their ratio has the distribution of Cauchy with centre s and scale r = sqrt(1 - s**2), and

    P(missed by one) = (atan((c - s) / r) + atan((c + s) / r)) / pi,  c = t / (d * s)

For a typical entry, s = 1 / sqrt(n), that is about 2/pi * t/d * sqrt(n): for t = 1e-6, 0.6 % of 10,000 entries and 6 %
of a million; all of several directions miss it with that probability to the power of their number. For an entry of a
thousandth of that size, most miss it. Once the directions are drawn, whether a fault in entry k would show is known
without chance, rounding included, so the report counts it: the share of the entries with a gradient in which a fault of
1 % would have been missed is the probability of missing one in an entry drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.gradcheck.difference import Gradient, Line, rounding_of_difference
from nnjit.gradcheck.probe import Probe
from nnjit.gradcheck.rounding import measure

TOLERANCES = {"float64": 1e-6, "float32": 1e-5}
"""The largest relative error that passes: what truncation of the difference and the rounding of a sum leave, with a
margin of about 10."""
FAULT = 0.01
"""The relative error of an entry that a check should see."""
DIRECTIONS = 8
"""How many random directions of a tensor are checked instead of its entries, when that is asked for."""
RETRIES = 4
"""How many times the step is divided by 8 when an entry crosses a kink."""


@dataclass(frozen=True)
class Settings:
    """How to check. `entries`: at most so many of each tensor, all if None. `tolerance`: the dtype's own if None."""

    entries: int | None = 200
    tolerance: float | None = None
    seed: int = 0
    max_kinks: float = 0.5
    fast: bool = False
    """Whether random directions of each tensor stand for its entries."""

    def tolerance_for(self, dtype: Any) -> float:
        """The largest relative error that passes in `dtype`."""
        return self.tolerance or TOLERANCES[np.dtype(dtype).name]


@dataclass
class TensorReport:
    """The result for one tensor: of comparisons of an entry each or, if `fast`, of a direction of all entries each.

    The worst comparison is that with the largest relative error.
    """

    name: str
    shape: tuple[int, ...]
    entries: int
    fast: bool = False
    compared: int = 0
    failed: int = 0
    kinks: int = 0
    worst_index: tuple[int, ...] | None = None
    analytic: float = 0.0
    numeric: float = 0.0
    error: float = 0.0
    too_many_kinks: bool = False
    seen: int = 0
    """Entries in which a fault of 1 % would have failed: of those that were checked, or of all along directions."""
    hidden: int = 0
    """Likewise, entries with a gradient in which it would have passed, for rounding or for a kink."""

    @property
    def checked(self) -> int:
        """Entries that were looked at."""
        return self.entries if self.fast else self.compared

    @property
    def skipped(self) -> int:
        """Entries that were not."""
        return self.entries - self.checked

    @property
    def missed(self) -> float:
        """The probability of missing a fault of 1 % in one entry, drawn at random from those counted; 1 if there are
        none."""
        counted = self.seen + self.hidden
        return self.hidden / counted if counted else 1.0

    @property
    def passed(self) -> bool:
        """Whether no comparison failed and not too many met kinks."""
        return not self.failed and not self.too_many_kinks

    def add(self, found: Comparison, tolerance: float, index: tuple[int, ...] | None = None) -> None:
        """Count a comparison, of the entry at `index`."""
        self.compared += 1
        if found.numeric is None:
            self.kinks += 1
            return
        self.failed += not found.error <= tolerance
        first = self.compared - self.kinks == 1
        if first or (not found.error <= self.error and not math.isnan(self.error)):
            self.worst_index = index
            self.analytic, self.numeric, self.error = found.analytic, found.numeric, found.error

    def count(self, gradient: NDArray[np.float64], allowed: NDArray[np.float64]) -> None:
        """Count the faults that would be seen in entries of a gradient, each of which may be off by what is
        `allowed`."""
        seen = FAULT * np.abs(gradient) > allowed
        self.seen += int(seen.sum())
        self.hidden += int((~seen & (gradient != 0)).sum())


@dataclass
class Report:
    """The results for one network."""

    title: str
    dtype: str
    """Of the gradients; the differences are in float64."""
    tolerance: float
    max_kinks: float
    fast: bool
    note: str = ""
    """What else a reader should know of the point."""
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
    note: str = "",
) -> Report:
    """Check every tensor of a probe, or of the layers at `positions` alone. The network keeps its parameters."""
    one = _check_directions if settings.fast else _check_entries
    dtype = np.dtype(probe.network.dtype)
    tolerance = settings.tolerance_for(dtype)
    report = Report(title, dtype.name, tolerance, settings.max_kinks, settings.fast, note)
    for number, gradient in enumerate(analytic_gradients(probe, positions)):
        rng = np.random.default_rng([settings.seed, number])
        tensor = one(gradient, settings, tolerance, rng)
        tensor.too_many_kinks = tensor.kinks > settings.max_kinks * tensor.compared
        report.tensors.append(tensor)
    return report


def analytic_gradients(probe: Probe, positions: set[int] | None) -> list[Gradient]:
    """The gradients of the tensors of the layers at `positions`, of all if None.

    An activation or a pooling that a layer before it applies has no tensors of its own: that layer's gradients pass
    through it.
    """
    twin = probe.twin()
    rounding = measure(probe, twin)
    # The passes that were disturbed are the probe's; its twin's round by as much less as float64 does.
    spread = rounding.cost * np.finfo(np.float64).eps / np.finfo(probe.network.dtype).eps
    if positions is not None:
        first = [stage.position for stage in probe.network.stages]
        positions = {max(start for start in first if start <= position) for position in positions}
    return [
        Gradient.take(probe, tensor, twin, twin_tensor, rounding.gradients[tensor.name], float(spread))
        for tensor, twin_tensor in zip(probe.tensors(), twin.tensors(), strict=True)
        if positions is None or tensor.position in positions
    ]


def _check_entries(gradient: Gradient, settings: Settings, tolerance: float, rng: np.random.Generator) -> TensorReport:
    """Entry by entry."""
    shape = gradient.tensor.shape
    report = TensorReport(gradient.tensor.name, shape, gradient.values.size)
    # Layer inputs are overwritten by the passes over earlier tensors; a full pass brings them back.
    cost = gradient.probe.cost()
    entries = select_entries(gradient.values, settings.entries, rng)
    allowed = np.zeros(len(entries))
    for number, entry in enumerate(entries):
        found = compare(Line.through(gradient, entry), cost, tolerance)
        report.add(found, tolerance, tuple(int(k) for k in np.unravel_index(entry, shape)))
        allowed[number] = found.allowed(tolerance)
    report.count(gradient.values[entries], allowed)
    return report


def _check_directions(
    gradient: Gradient, settings: Settings, tolerance: float, rng: np.random.Generator
) -> TensorReport:
    """Random directions of unit length instead of entries."""
    size = gradient.values.size
    report = TensorReport(gradient.tensor.name, gradient.tensor.shape, size, fast=True)
    cost = gradient.probe.cost()
    allowed = np.full(size, math.inf)
    for _ in range(DIRECTIONS):
        direction = rng.normal(size=size)
        direction /= np.linalg.norm(direction)
        found = compare(Line.along(gradient, direction), cost, tolerance)
        report.add(found, tolerance)
        # What one entry is off by shows as so many times its part in the direction.
        allowed = np.minimum(allowed, found.allowed(tolerance) / np.abs(direction))
    report.count(gradient.values, allowed)
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


@dataclass(frozen=True)
class Comparison:
    """An analytic derivative along a line and the numeric one, which is None if a kink was crossed at every step."""

    analytic: float
    numeric: float | None
    error: float = 0.0
    floor: float = 0.0

    def allowed(self, tolerance: float) -> float:
        """By how much the two may differ; everything is allowed where there was nothing to compare."""
        return math.inf if self.numeric is None else tolerance * max(abs(self.analytic), self.floor)


def compare(line: Line, cost: float, tolerance: float) -> Comparison:
    """The comparison along a line, with smaller steps where kinks are in the way and extrapolation where it differs."""
    step = line.first_step()
    numeric = line.numeric(step)
    for _ in range(RETRIES):
        if numeric is not None:
            break
        step /= 8
        numeric = line.numeric(step)
    if numeric is None:
        return Comparison(line.analytic, None)
    floor = (rounding_of_difference(cost, step, line.gradient.spread) + line.rounding) / tolerance
    error = relative_error(line.analytic, numeric, floor)
    if error > tolerance / 100:
        finer = line.extrapolated(step)
        if finer is not None and relative_error(line.analytic, finer, floor) < error:
            numeric, error = finer, relative_error(line.analytic, finer, floor)
    return Comparison(line.analytic, numeric, error, floor)
