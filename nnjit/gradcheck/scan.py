"""One entry's differences over many steps, which tell a wrong gradient from a difference that is no good.

The error of the central difference falls with h**2 while truncation rules and rises with 1/h once rounding does: a V. A
wrong gradient has a floor instead: the differences agree with one another, and not with it. So the verdict comes from
the differences alone. At each step h a Romberg tableau of the differences at h, h/2 and h/4 gives

    T[i][0] = D(h / 2**i),  T[i][k] = (4**k * T[i][k-1] - T[i-1][k-1]) / (4**k - 1)

whose last entry T[2][2] has a truncation error of order h**6; |T[2][2] - T[1][1]| estimates it, and rounding adds up to
8 * eps * max(|C|, 1) / (h / 4). The step where the sum of both is smallest says what the derivative is, and how surely.
The gradient has a rounding of its own (`rounding`), which float32 shows and no step mends.
Source: Press et al. 2007, Numerical Recipes, section 5.7 (Ridders' method).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnjit.gradcheck.check import Report, Settings, TensorReport, analytic_gradients
from nnjit.gradcheck.difference import STEP, Line, rounding_of_difference
from nnjit.gradcheck.probe import Probe

SCANNED = tuple(10.0**-k for k in range(2, 10))
"""The steps, times max(1, |w|)."""


@dataclass(frozen=True)
class Row:
    """The differences at one step; None where a kink was crossed, NaN where w + h is w."""

    step: float
    plain: float | None
    extrapolated: float | None
    plain_error: float | None
    """|a - n| / max(|a|, |n|), without a floor."""
    extrapolated_error: float | None
    truncation: float
    """Estimated, of the extrapolated difference."""
    rounding: float
    """A bound, likewise."""

    @property
    def uncertainty(self) -> float:
        """By how much the extrapolated difference may be off; infinite where there is none."""
        total = self.truncation + self.rounding
        return total if math.isfinite(total) else math.inf


@dataclass(frozen=True)
class Scan:
    """The scan of one entry: `cause` is right, wrong gradient, rounding, truncation or kink; `verdict` explains it."""

    name: str
    index: tuple[int, ...]
    analytic: float
    tolerance: float
    rows: list[Row]
    best_step: float | None
    """The step at which the extrapolated difference is surest; None if there is none."""
    cause: str
    verdict: str


def scan(probe: Probe, report: Report, settings: Settings, positions: set[int] | None = None) -> list[Scan]:
    """A scan of the worst entry of each tensor of `report`, which came from the same probe, settings and positions."""
    tolerance = settings.tolerance_for(probe.network.dtype)
    reports = {item.name: item for item in report.tensors}
    found = []
    for gradient in analytic_gradients(probe, positions):
        tensor, cost = gradient.tensor, gradient.probe.cost()
        entry = _entry(reports[tensor.name], gradient.values)
        line = Line.through(gradient, entry)
        rows = [_row(line, step * line.first_step() / STEP, cost) for step in SCANNED]
        index = tuple(int(k) for k in np.unravel_index(entry, tensor.shape))
        found.append(judge(tensor.name, index, line.analytic, line.rounding, tolerance, rows))
    return found


def _entry(report: TensorReport, gradient: NDArray[np.float64]) -> int:
    """The worst entry; that with the largest gradient if every one was a kink."""
    if report.worst_index is None:
        return int(np.argmax(np.abs(gradient)))
    return int(np.ravel_multi_index(report.worst_index, report.shape))


def _row(line: Line, step: float, cost: float) -> Row:
    column = [line.numeric(step / 2**k) for k in range(3)]
    bound = rounding_of_difference(cost, step / 4)
    plain, analytic = column[0], line.analytic
    if any(value is None for value in column):
        return Row(step, plain, None, _error(analytic, plain), None, math.inf, bound)
    diagonal = romberg([value for value in column if value is not None])
    last = diagonal[-1]
    return Row(step, plain, last, _error(analytic, plain), _error(analytic, last), abs(last - diagonal[-2]), bound)


def romberg(differences: list[float]) -> list[float]:
    """The diagonal T[0][0], T[1][1], ... of the tableau of differences at h, h/2, h/4, ..."""
    diagonal = differences[:1]
    column = differences
    for k in range(1, len(differences)):
        column = [(4**k * fine - coarse) / (4**k - 1) for coarse, fine in zip(column, column[1:], strict=False)]
        diagonal.append(column[0])
    return diagonal


def _error(analytic: float, numeric: float | None) -> float | None:
    if numeric is None:
        return None
    largest = max(abs(analytic), abs(numeric))
    return abs(analytic - numeric) / largest if largest else 0.0


def judge(
    name: str, index: tuple[int, ...], analytic: float, rounded: float, tolerance: float, rows: list[Row]
) -> Scan:
    """The scan with its verdict; `rounded` is by how much rounding may have moved the gradient itself."""
    best = min(rows, key=lambda row: row.uncertainty)
    if best.extrapolated is None or best.extrapolated_error is None or math.isinf(best.uncertainty):
        verdict = "a kink within every step: there is no derivative to compare with"
        return Scan(name, index, analytic, tolerance, rows, None, "kink", verdict)
    off = abs(analytic - best.extrapolated)
    at = f"h = {best.step:.0e}"
    sure = f"{best.extrapolated:.6e} +- {best.uncertainty:.0e}"
    if best.extrapolated_error <= tolerance:
        cause, verdict = "right", f"the gradient agrees with {sure}, found at {at}{_elsewhere(rows, tolerance)}"
    elif off > 2 * (best.uncertainty + rounded) or math.isnan(off):
        cause = "wrong gradient"
        verdict = (
            f"the differences agree on {sure}, found at {at}; smaller or larger steps do not bring the gradient nearer"
        )
    elif rounded > best.uncertainty:
        cause = "rounding"
        verdict = f"the gradient is known no better than +- {rounded:.0e}; {sure} at {at} proves nothing"
    else:
        cause = "rounding" if best.rounding > best.truncation else "truncation"
        verdict = f"the differences know no more than {sure}, at {at}, because of {cause}: that proves nothing"
    return Scan(name, index, analytic, tolerance, rows, best.step, cause, verdict)


def _elsewhere(rows: list[Row], tolerance: float) -> str:
    """Where plain differences of a right gradient are off by more than the tolerance, and why."""
    kinks = [row.step for row in rows if row.plain is None]
    off = [row for row in rows if row.plain_error is not None and not row.plain_error <= tolerance]
    # The plain difference is off by truncation where extrapolation mends it, else by rounding.
    truncated = [row.step for row in off if row.extrapolated_error is not None and row.extrapolated_error <= tolerance]
    rounded = [row.step for row in off if row.step not in truncated]
    said = []
    if truncated:
        said.append(f"truncation from h = {min(truncated):.0e} on")
    if rounded:
        said.append(f"rounding from h = {max(rounded):.0e} down")
    if kinks:
        said.append(f"a kink from h = {min(kinks):.0e} on")
    return f"; plain differences are off by {', '.join(said)}" if said else ""
