"""Weights in the order in which a tile of rows reads them.

Rows of weights lie apart, taps side by side: to put the rows of each tap side by side is to transpose, L taps of L rows
at a time in registers, or of four rows where a tile has few. Measured on one core with Zen 5, as opposed to one scalar
after the other: 64 filters of 96 maps by 5x5 in tiles of 11 rows 110 to 29 us, of 48 maps by 4x4 42 to 15; 16 maps from
64 by 4x4 for the gradient to the input 30 to 9.

The phases of a strided convolution's gradient to the input have their taps between each other's, so they are put in
order together. 16 samples of 64 maps of 8x8 from 96 filters by 3x3 with a stride of 3, on a core with Zen 5: 64 to 26
us of 112 to 77; from 16 filters by 7x7 57 to 20 of 98 to 56. All threads do it: two take 94 to 40 and 82 to 33 us for
the whole pass.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.simd import VECTOR_BYTES, load, load_apart, store_first
from nnjit.kernels.transposition import QUAD, quad_of_rows, quad_store_lanes, tile_of_rows, tile_store_lanes

LEAST_DENSE = 3
"""Taps of a span that are worth transposing it: with Zen 5 it takes 20 ns, one of them by itself 9."""
SPAN_WORK, APART_WORK = 2500, 1000
"""What a span, and a tap apart, costs for L rows, in multiply-adds: 20 and 9 ns."""


class Spans(NamedTuple):
    """The taps of a row of weights, by where they lie: L places side by side are a span.

    A tap goes to a slot, which holds it for all rows of a tile; that for the next tile lies some slots further.
    """

    firsts: Any
    """(S,) int64: where each starts."""
    slots: Any
    """(S, L, 2) int64: the slot of the tap at each place for the first tile, -1 if there is none, and how much further
    each next tile has its own."""
    apart: Any
    """(A, 3) int64: place, slot and how much further, of those that lie in no span, since it would hold few."""


def spans_of(places: NDArray[np.int64], lanes: int, slots: NDArray[np.int64] | None = None) -> Spans:
    """The spans of `lanes` places that cover taps whose scalars lie at those, all different; `slots` (K, 2): theirs, by
    default one after the other in each tile."""
    if slots is None:
        slots = np.stack([np.arange(len(places)), np.full(len(places), len(places))], axis=1)
    order = np.argsort(places)
    ordered = places[order].tolist()
    firsts, of_spans, apart = [], [], []
    start = 0
    while start < len(ordered):
        stop = bisect_left(ordered, ordered[start] + lanes, start)
        held = order[start:stop]
        if len(held) < LEAST_DENSE:
            apart += [(places[k], *slots[k]) for k in held]
        else:
            firsts.append(ordered[start])
            of_spans.append(np.tile(np.array([-1, 0], np.int64), (lanes, 1)))
            of_spans[-1][places[held] - ordered[start]] = slots[held]
        start = stop
    shapes: Sequence[tuple[Any, Any]] = ((firsts, -1), (of_spans, (-1, lanes, 2)), (apart, (-1, 3)))
    return Spans(*(np.array(values, np.int64).reshape(shape) for values, shape in shapes))


def packing_work(spans: Spans, of_tile: int) -> int:
    """The work of `pack_rows` for one tile of so many rows."""
    vectors = -(-of_tile // spans.slots.shape[1])
    return vectors * (SPAN_WORK * len(spans.firsts) + APART_WORK * len(spans.apart))


def places_of(spans: Spans) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the scalars of the taps of those spans lie, and their slots, in the order of these: the inverse of
    `spans_of`."""
    numbers, lanes = np.nonzero(spans.slots[:, :, 0] >= 0)
    places = np.concatenate([spans.firsts[numbers] + lanes, spans.apart[:, 0]])
    slots = np.concatenate([spans.slots[numbers, lanes], spans.apart[:, 1:]])
    order = np.argsort(slots[:, 0])
    return places[order], slots[order]


@kernel
def pack_rows(task, shares, rows, of_tile, whole, by_fours, w, row_step, spans, out):
    """out[(slot of tap k for tile t) * of_tile + r] = w[(first row of tile t + r) * row_step + place of tap k], which
    puts the scalars that a tile reads in order; some number for rows that there are not

    of_tile: the rows of a tile  whole: whether every tile starts behind the rows of the one before it; if not, one that
    would pass the last row starts earlier
    by_fours: how many rows at most are transposed four at a time instead of as many as a vector has lanes
    w (scalars,)  spans Spans (S, L)  out (slots * of_tile,), fully overwritten if every slot is one of a tap's
    A task owns a tile of rows for one of so many `shares` of the taps.
    """
    number, share = task // shares, task % shares
    first = number * of_tile
    if not whole:
        first = max(min(first, rows - of_tile), 0)
    last = min(of_tile, rows - first) - 1
    start = first * row_step
    lanes = VECTOR_BYTES // w.itemsize
    held, apart = len(spans.firsts), len(spans.apart)
    for span in range(held * share // shares, held * (share + 1) // shares):
        at = start + spans.firsts[span]
        if at + last * row_step + lanes <= len(w):
            r = 0
            while r < of_tile:
                row, most, left = at + min(r, last) * row_step, max(last - r, 0), of_tile - r
                if left <= by_fours:
                    quad = quad_of_rows(w, row, row_step, most)
                    quad_store_lanes(quad, out, r, of_tile, spans.slots, span, number, min(left, QUAD))
                    r += QUAD
                else:
                    across = tile_of_rows(w, row, row_step, most)
                    tile_store_lanes(across, out, r, of_tile, spans.slots, span, number, min(left, lanes))
                    r += lanes
            continue
        # It would read past the end of the weights.
        for lane in range(lanes):
            slot = spans.slots[span, lane, 0]
            if slot >= 0:
                to = (slot + number * spans.slots[span, lane, 1]) * of_tile
                _pack_tap(w, at + lane, row_step, last, out, to, of_tile, lanes)
    for k in range(apart * share // shares, apart * (share + 1) // shares):
        to = (spans.apart[k, 1] + number * spans.apart[k, 2]) * of_tile
        _pack_tap(w, start + spans.apart[k, 0], row_step, last, out, to, of_tile, lanes)


@subroutine(forceinline=True)
def _pack_tap(w, at, row_step, last, out, to, of_tile, lanes):
    """out[to + r] = w[at + r * row_step], that of row `last` from there on."""
    for r in range(0, of_tile, lanes):
        if row_step == 1 and last + 1 == of_tile and at + r + lanes <= len(w):
            part = load(w, at + r)
        else:
            part = load_apart(w, at + min(r, last) * row_step, row_step, max(last - r, 0) + 1)
        store_first(out, to + r, part, min(of_tile - r, lanes))
