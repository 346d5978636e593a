"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One check's result."""

    check: str
    verdict: Verdict
    reason: str
    """What was seen, in numbers."""
    remedy: str = ""
    """What to do about it; empty if it is ok."""


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
