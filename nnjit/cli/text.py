"""How commands write numbers."""

from __future__ import annotations


def in_bytes(count: int) -> str:
    """A number of bytes to three digits, in the unit that suits it."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"
