"""Weights in the order in which a tile of rows reads them.

Rows of weights lie apart, taps side by side: to put the rows of each tap side by side is to transpose, L taps of L rows
at a time in registers. Measured on one core, as opposed to one scalar after the other: 64 filters of 96 maps by 5x5 in
tiles of 11 rows 110 to 29 us, of 48 maps by 4x4 42 to 15; 16 maps from 64 by 4x4 for the gradient to the input 30 to 9.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from nnjit.kernels.compiler import kernel
from nnjit.kernels.simd import VECTOR_BYTES, entry
from nnjit.kernels.transposition import tile_of_rows, tile_store_lanes

LEAST_DENSE = 4
"""Taps of a span that are worth transposing it: it takes as long as three to five of them one by one."""


class Spans(NamedTuple):
    """The taps of a row of weights, by where they lie: L places side by side are a span."""

    firsts: Any
    """(S,) int64: where each starts."""
    taps: Any
    """(S, L) int64: the tap of each place, -1 if none has it."""
    apart: Any
    """(A, 2) int64: place and tap of those that lie in no span, since it would hold few."""


def spans_of(places: NDArray[np.int64], lanes: int) -> Spans:
    """The spans of `lanes` places that cover taps whose scalars lie at those, all different."""
    order = np.argsort(places)
    ordered = places[order].tolist()
    firsts, taps, apart = [], [], []
    start = 0
    while start < len(ordered):
        stop = bisect_left(ordered, ordered[start] + lanes, start)
        held = order[start:stop]
        if len(held) < LEAST_DENSE:
            apart += list(zip(places[held], held, strict=True))
        else:
            firsts.append(ordered[start])
            taps.append(np.full(lanes, -1, np.int64))
            taps[-1][places[held] - ordered[start]] = held
        start = stop
    shapes = ((firsts, -1), (taps, (-1, lanes)), (apart, (-1, 2)))
    return Spans(*(np.array(values, np.int64).reshape(shape) for values, shape in shapes))


def places_of(spans: Spans) -> NDArray[np.int64]:
    """Where the scalars of the taps of those spans lie: the inverse of `spans_of`."""
    numbers, lanes = np.nonzero(spans.taps >= 0)
    places = np.zeros(len(numbers) + len(spans.apart), np.int64)
    places[spans.taps[numbers, lanes]] = spans.firsts[numbers] + lanes
    places[spans.apart[:, 1]] = spans.apart[:, 0]
    return places


@kernel
def pack_rows(task, rows, whole, w, starts, row_step, spans, out):
    """out[p * T + t, k, r] = w[starts[p] + (first row of tile t + r) * row_step + place of tap k], which puts the
    scalars that a tile reads in order; some number for rows that there are not

    whole: whether every tile starts behind the rows of the one before it; if not, one that would pass the last row
    starts earlier
    w (scalars,)  starts (P,)  spans Spans (S, L) of K taps  out (P*T, K, rows of a tile), fully overwritten
    A task owns a phase's tile of rows.
    """
    row_tiles, of_tile = len(out) // len(starts), out.shape[2]
    first = task % row_tiles * of_tile
    if not whole:
        first = max(min(first, rows - of_tile), 0)
    last = min(of_tile, rows - first) - 1
    start = starts[task // row_tiles] + first * row_step
    lanes = VECTOR_BYTES // w.itemsize
    packed = out[task].reshape(-1)
    for number in range(len(spans.firsts)):
        at = start + entry(spans.firsts, number)
        if at + last * row_step + lanes <= len(w):
            for r in range(0, of_tile, lanes):
                across = tile_of_rows(w, at + min(r, last) * row_step, row_step, max(last - r, 0))
                tile_store_lanes(across, packed, r, of_tile, spans.taps, number, min(of_tile - r, lanes))
            continue
        # It would read past the end of the weights.
        for lane in range(lanes):
            if spans.taps[number, lane] >= 0:
                _pack_tap(w, at + lane, row_step, last, packed, spans.taps[number, lane], of_tile)
    for number in range(len(spans.apart)):
        _pack_tap(w, start + spans.apart[number, 0], row_step, last, packed, spans.apart[number, 1], of_tile)


@register_jitable
def _pack_tap(w, at, row_step, last, packed, tap, of_tile):
    """packed[tap, r] = w[at + r * row_step], that of row `last` from there on."""
    for r in range(of_tile):
        packed[tap * of_tile + r] = entry(w, at + min(r, last) * row_step)
