"""How weights are put in order, and by how many tasks."""

from __future__ import annotations

from nnjit.tuning import machine

SHARED_SPANS = 16
"""Spans, or taps apart, that a task has at least: what it costs to start one is then little beside them."""


def choose_packing_shares(row_tiles: int, spans: int) -> int:
    """How many tasks share the taps of a tile of rows, of which there are so many spans, or taps apart."""
    return max(1, min(-(-machine.wanted_tasks() // row_tiles), spans // SHARED_SPANS))


BY_FOURS, BY_FOURS_WITH_MASKS = 8, 4
"""Rows of a tile that are transposed four at a time: few tiles have more with AVX2. With Zen 3 on one core, 64 maps to
16 by 7x7 with a stride of 3 56 to 29 us, 64 to 128 by 3x3 with a stride of 2 for the gradient to the input 103 to 86.
AVX-512 stores some lanes of a vector as fast as all of them: with Zen 5 the former 6.4 us, 9.3 by fours; tiles of 4
rows for the gradient to the input of 64 maps to 8 by 5x5 with a stride of 2 3.8, 2.7 by fours."""


def choose_rows_by_fours() -> int:
    """How many rows at most `pack_rows` transposes four at a time, instead of as many as a vector has lanes."""
    return BY_FOURS_WITH_MASKS if machine.vector_registers() == 32 else BY_FOURS
