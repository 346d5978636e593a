"""Into how many tasks weights are put in order."""

from __future__ import annotations

from nnjit.tuning import machine

SHARED_SPANS = 16
"""Spans, or taps apart, that a task has at least: what it costs to start one is then little beside them."""


def choose_packing_shares(row_tiles: int, spans: int) -> int:
    """How many tasks share the taps of a tile of rows, of which there are so many spans, or taps apart."""
    return max(1, min(-(-machine.wanted_tasks() // row_tiles), spans // SHARED_SPANS))
