"""Tiles of a band: all maps of an output of few, in a few of its lines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from itertools import product

import numpy as np
from numba import types
from numba.core import cgutils

from nnjit.kernels.constants import constant
from nnjit.kernels.simd import call_llvm, element_pointer, load_vector, lowered_by, splat

LEAST_LOOPED = 4
"""Lines that are worth a loop."""


@constant
@dataclass(frozen=True)
class BandShape:
    """The form of such a tile and of the kernel that reads for it: what `TileShape` is for tiles of rows.

    The rows of a tile are line 0's maps, then line 1's; its columns are positions side by side.
    """

    lines: int
    maps: int
    columns: int
    height: int
    """Lines of the kernel."""
    width: int
    """Entries of such a line."""
    left: int = 0
    """How many positions of each line that it reads hold zeros, from the first on: their products are left out."""
    right: int = 0
    """Likewise, up to the last."""

    @property
    def rows(self) -> int:
        """Rows of the tile."""
        return self.lines * self.maps

    def lines_reading(self, q: int) -> range:
        """The lines of the band that read line q of the image, counted from the first one that any reads."""
        return range(max(0, q - self.height + 1), min(self.lines, q + 1))

    @property
    def looped(self) -> range:
        """The lines of the image that all lines of the band read, if they are many enough for a loop: less code (from
        64 maps of 33x33 to 3 by 9x9 2.54 to 2.25 ms; but from 64 of 32x32 to 3 by 3x3, two lines, 1.08 to 1.25)."""
        read_by_all = range(self.lines - 1, self.height)
        return read_by_all if len(read_by_all) >= LEAST_LOOPED else range(0)

    def columns_met(self, v: int) -> range:
        """The columns for which entry v of a line of the kernel meets none of those zeros."""
        return range(max(0, self.left - v), min(self.columns, self.columns + self.width - 1 - self.right - v))


def _band_fma(typing_context, shape, tile, w, w_first, x, x_first, x_line, first, last):
    signature = tile(shape, tile, w, types.intp, x, types.intp, types.intp, types.intp, types.intp)
    band = shape.value

    def generate(context, builder, signature, arguments):
        _, value, w_value, w_at, x_value, x_at, x_step, first_line, last_line = arguments
        w_pointer = element_pointer(context, builder, w, w_value, types.intp, w_at)
        x_pointer = element_pointer(context, builder, x, x_value, types.intp, x_at)
        form = context.get_value_type(tile.vector)
        number = partial(context.get_constant, types.intp)
        places = list(product(range(tile.rows), range(tile.columns)))
        # LLVM keeps them in registers.
        sums = {
            (r, c): cgutils.alloca_once_value(builder, builder.extract_value(value, r * tile.columns + c))
            for r, c in places
        }

        def add_line(q, lines):
            """Add what line q of the image gives to these lines of the band, which read it."""
            line = builder.gep(x_pointer, [builder.mul(builder.mul(x_step, q), number(tile.vector.count))])
            of_line = builder.gep(w_pointer, [builder.mul(q, number(band.width * band.maps))])
            total = {}

            @cache
            def vector(column):
                pointer = builder.gep(line, [number(column * tile.vector.count)])
                return load_vector(context, builder, tile.vector, pointer)

            for v in range(band.width):
                for i, m in product(lines, range(band.maps)):
                    place = number((v - i * band.width) * band.maps + m)
                    scalar = splat(builder, form, builder.load(builder.gep(of_line, [place])))
                    for c in band.columns_met(v):
                        key = i * band.maps + m, c
                        before = total[key] if key in total else builder.load(sums[key])
                        total[key] = call_llvm(builder, "fma", form, [scalar, vector(v + c), before])
            for key, entry in total.items():
                builder.store(entry, sums[key])

        def add_if_met(q):
            not_above = builder.icmp_signed("<=", first_line, number(q))
            with builder.if_then(builder.and_(not_above, builder.icmp_signed("<", number(q), last_line))):
                add_line(number(q), band.lines_reading(q))

        looped = band.looped
        for q in range(band.lines + band.height - 1):
            if q not in looped:
                add_if_met(q)
            elif q == looped.start:
                start, stop = number(looped.start), number(looped.stop)
                start = builder.select(builder.icmp_signed("<", start, first_line), first_line, start)
                stop = builder.select(builder.icmp_signed("<", last_line, stop), last_line, stop)
                with cgutils.for_range_slice(builder, start, stop, number(1)) as (index, _):
                    add_line(index, range(band.lines))
        for r, c in places:
            value = builder.insert_value(value, builder.load(sums[r, c]), r * tile.columns + c)
        return value

    return signature, generate


@lowered_by(_band_fma)
def band_fma(shape, tile, w, w_first, x, x_first, x_line, first, last):
    """tile[i * maps + m, c] += the sum over a kernel's lines u and entries v, where first <= i + u < last and c + v is
    neither one of the first `shape.left` positions nor of the last `shape.right`, of w[w_first + (u * width + v) * maps
    + m] * x[x_first + (i + u) * x_line + c + v, :]; w (scalars,), x (vectors, L).

    A line is code without a loop: a vector that is loaded serves all products with it.
    """
    rows = np.arange(shape.rows)
    for q in range(max(first, 0), min(last, shape.lines + shape.height - 1)):
        reached = rows[(0 <= q - rows // shape.maps) & (q - rows // shape.maps < shape.height)]
        for v in range(shape.width):
            places = ((q - reached // shape.maps) * shape.width + v) * shape.maps + reached % shape.maps
            columns = np.array(shape.columns_met(v), np.int64)
            met = np.ix_(reached, columns)
            tile[met] = tile[met] + w[w_first + places][:, None, None] * x[x_first + q * x_line + v + columns]
    return tile
