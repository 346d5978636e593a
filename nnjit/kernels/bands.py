"""Tiles of a band: all maps of an output of few, in a few of its lines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from itertools import product

import numpy as np
from numba import types

from nnjit.kernels.constants import constant
from nnjit.kernels.simd import call_llvm, element_pointer, load_vector, lowered_by, splat
from nnjit.kernels.tiles import vector_step


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

        def add_line(total, q):
            """Add what line q of the image gives to the lines of the band that read it."""
            line = builder.gep(x_pointer, [vector_step(context, builder, tile.vector, x_step, q)])

            @cache
            def vector(column):
                pointer = builder.gep(line, [number(column * tile.vector.count)])
                return load_vector(context, builder, tile.vector, pointer)

            for v in range(band.width):
                for i in range(max(0, q - band.height + 1), min(band.lines, q + 1)):
                    for m in range(band.maps):
                        place = number(((q - i) * band.width + v) * band.maps + m)
                        scalar = splat(builder, form, builder.load(builder.gep(w_pointer, [place])))
                        for c in band.columns_met(v):
                            key = i * band.maps + m, c
                            total[key] = call_llvm(builder, "fma", form, [scalar, vector(v + c), total[key]])

        places = product(range(tile.rows), range(tile.columns))
        total = {(r, c): builder.extract_value(value, r * tile.columns + c) for r, c in places}
        for q in range(band.lines + band.height - 1):
            without, before = dict(total), builder.block
            inside, after = (builder.append_basic_block(name) for name in ("inside", "after"))
            not_above = builder.icmp_signed("<=", first_line, number(q))
            builder.cbranch(builder.and_(not_above, builder.icmp_signed("<", number(q), last_line)), inside, after)
            builder.position_at_end(inside)
            add_line(total, q)
            builder.branch(after)
            builder.position_at_end(after)
            for key, entry in total.items():
                if entry is not without[key]:
                    total[key] = builder.phi(form)
                    total[key].add_incoming(entry, inside)
                    total[key].add_incoming(without[key], before)
        for (r, c), entry in total.items():
            value = builder.insert_value(value, entry, r * tile.columns + c)
        return value

    return signature, generate


@lowered_by(_band_fma)
def band_fma(shape, tile, w, w_first, x, x_first, x_line, first, last):
    """tile[i * maps + m, c] += the sum over a kernel's lines u and entries v, where first <= i + u < last and c + v is
    neither one of the first `shape.left` positions nor of the last `shape.right`, of w[w_first + (u * width + v) * maps
    + m] * x[x_first + (i + u) * x_line + c + v, :]; w (scalars,), x (vectors, L).

    All of a kernel is code without a loop: a vector that is loaded serves all products of its line with it.
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
