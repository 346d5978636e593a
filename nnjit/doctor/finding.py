"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["ok", "warning", "problem", "skipped"]
"""Skipped: there are too few samples to tell."""

ENOUGH = 10
"""Samples from which on it means something that all of them have a thing in common."""


@dataclass(frozen=True)
class Finding:
    """One check's result."""

    check: str
    verdict: Verdict
    reason: str
    """What was seen, in numbers."""
    remedy: str = ""
    """What to do about it; empty if it is ok or skipped."""

    def unless_few(self, samples: int) -> Finding:
        """This finding, or that nothing is found: what holds for all of so few samples may be chance."""
        if self.verdict == "ok" or samples >= ENOUGH:
            return self
        few = f"{counted(samples, 'sample')} {'is' if samples == 1 else 'are'} too few to tell"
        return Finding(self.check, "skipped", f"{self.reason}; {few}")


def graded(value: float, warning: float, problem: float) -> Verdict:
    """The verdict on a number that should be small: beyond `warning` or beyond `problem`; NaN is a problem."""
    if not value <= problem:
        return "problem"
    return "warning" if value > warning else "ok"


def within(value: float, good: tuple[float, float], bearable: tuple[float, float]) -> Verdict:
    """The verdict on a number that should lie within `good` and must lie within `bearable`."""
    if good[0] <= value <= good[1]:
        return "ok"
    return "warning" if bearable[0] <= value <= bearable[1] else "problem"


def counted(count: int, noun: str) -> str:
    """A number of things: 1 sample, 2 samples."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
