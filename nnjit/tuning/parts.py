"""How many parts a sum over positions has: the same on every machine, since it belongs to the order of the sum."""

from __future__ import annotations

PART_POSITIONS = 64
"""Positions that a part of a sum has at least; fewer, and adding up its lanes would take as long as its products."""
MOST_PARTS = 8
"""Parts of a sum: enough for the threads of a small machine, each of which then reads what it wrote itself."""
MOST_PARTS_BYTES = 16_000_000
"""What all parts of a sum may take together."""


def choose_parts(lines: int, columns: int, part_bytes: int) -> int:
    """Of a sum over `lines` lines of `columns` positions, where a part takes `part_bytes`."""
    return power_of_two(min(lines, lines * columns // PART_POSITIONS, MOST_PARTS_BYTES // part_bytes, MOST_PARTS))


def power_of_two(most: int) -> int:
    """The largest power of two up to `most`, at least 1."""
    return 1 << max(most, 1).bit_length() - 1
