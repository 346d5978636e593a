"""How numbers are shown: nine decimals, as worked examples are published."""

from __future__ import annotations

import math


def figure(value: float) -> str:
    """A number with nine decimals; fewer if it has at most six, and as a power of ten if it is very large or small."""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if round(value, 6) == value and abs(value) < 1e6:
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return f"{value:.9f}" if 1e-4 <= abs(value) < 1e4 else f"{value:.6e}"
