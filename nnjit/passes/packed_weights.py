"""The calls that put weights in the order in which contractions read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.packing import pack_rows, packing_work, spans_of
from nnjit.kernels.program import Call
from nnjit.parameters import aligned_zeros
from nnjit.passes.images import Filters, Phases
from nnjit.site import Site
from nnjit.tuning.packing import choose_packing_shares, choose_rows_by_fours


class Order(NamedTuple):
    """The order in which a contraction reads its weights: those of each tile of rows, tap by tap."""

    taps: NDArray[np.int64]
    """(K,): where the scalars of a row lie."""
    phases: Phases
    of_tile: int
    """Rows of a tile."""

    def shape(self, rows: int) -> tuple[int, int, int]:
        """(phases * row tiles, K, rows of a tile), that of the weights in order."""
        return len(self.phases.weights) * -(-rows // self.of_tile), len(self.taps), self.of_tile


def packed_rows(
    site: Site, filters: Filters, orders: Sequence[Order], rows: int, *, whole: bool = False
) -> tuple[list[Call], list[NDArray[Any]]]:
    """The calls that put the weights of `rows` rows in those orders, none if that is done beforehand, and where they
    leave them, for each order in its shape. If tiles are `whole`, they do not overlap, and the last one may have rows
    that there are not. Orders for tiles of as many rows are made together.
    """
    alike: dict[int, list[Order]] = {}
    for order in orders:
        alike.setdefault(order.of_tile, []).append(order)
    sizes = [sum(math.prod(order.shape(rows)) for order in same) for same in alike.values()]
    # Each part starts where vectors do.
    starts = np.cumsum([0] + [-(-size // site.lanes) * site.lanes for size in sizes]).tolist()
    total = starts.pop()
    memory = aligned_zeros((total,), site.dtype) if site.fixed else site.workspace.passed_on(total)
    calls, packed = [], {}
    for (of_tile, same), start, size in zip(alike.items(), starts, sizes, strict=True):
        part = memory[start : start + size]
        places, slots, first = [], [], 0
        for order in same:
            shape = order.shape(rows)
            packed[id(order)] = part[first * of_tile :][: math.prod(shape)].reshape(shape)
            phases, taps = len(order.phases.weights), len(order.taps)
            row_tiles = shape[0] // phases
            places.append(np.add.outer(order.phases.weights, order.taps).reshape(-1))
            of_first = first + np.add.outer(np.arange(phases) * row_tiles * taps, np.arange(taps)).reshape(-1)
            slots.append(np.stack([of_first, np.full(phases * taps, taps)], axis=1))
            first += shape[0] * taps
        spans = spans_of(np.concatenate(places), site.lanes, np.concatenate(slots))
        row_tiles = -(-rows // of_tile)
        shares = choose_packing_shares(row_tiles, len(spans.firsts) + len(spans.apart))
        operands = (
            shares,
            rows,
            of_tile,
            whole,
            choose_rows_by_fours(),
            filters.scalars,
            filters.row_step,
            spans,
            part,
        )
        calls.append(Call(pack_rows, row_tiles * shares, operands, row_tiles * packing_work(spans, of_tile)))
    in_order = [packed[id(order)] for order in orders]
    if not site.fixed:
        return calls, in_order
    site.preparation += calls
    return [], in_order
