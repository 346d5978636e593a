"""The kernel calls of direct sums with rows of the output in the lanes: the last block of a batch, if few of its lanes
hold a sample, and images that have channels there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.contraction import View, Weights
from nnjit.kernels.contraction_channels import channels_vectors, contract_channels
from nnjit.kernels.contraction_remainder import contract_remainder, remainder_vectors
from nnjit.kernels.program import Call
from nnjit.kernels.tiles import TileShape
from nnjit.passes.images import Filters, Sums
from nnjit.passes.packed_weights import Order, packed_rows
from nnjit.site import Site, apart_call
from nnjit.tuning.contraction_remainder import choose_remainder_tile, last_remainder_tile
from nnjit.tuning.lines import used_by_tiles


def remainder_sums(site: Site, filters: Filters, sums: Sequence[Sums], x: View, samples: int) -> list[Call]:
    """The sums for the last block, of which only `samples` lanes hold a sample: those are taken out of the lanes first,
    and put back into them."""
    last, rows = sums[0].ends.extent.blocks - 1, sums[0].ends.extent.rows
    taking, image = apart_call(site, x._replace(start=x.start + last * x.block), samples)
    parts = [part.of_blocks(last, 1) for part in sums]
    in_lanes = [_rows_in_lanes(site, part, rows, image, whole=False) for part in parts]
    packing, packed = packed_rows(site, filters, [each.order for each in in_lanes], rows)
    calls = [taking, *packing]
    for part, each, weights in zip(parts, in_lanes, packed, strict=True):
        each = each.of_samples(samples)
        vectors = remainder_vectors(each.tile, part.ends.extent, each.lines)
        operands = each.operands(site, part, weights, image, vectors)
        calls.append(Call(contract_remainder, each.tasks(weights), operands, samples * each.work(weights)))
    return calls


def channel_sums(site: Site, filters: Filters, sums: Sequence[Sums], rows: int, x: View) -> list[Call]:
    """The sums for `rows` channels of images that have those in lanes, as x has, whose view is of scalars."""
    in_lanes = [_rows_in_lanes(site, part, rows, x, whole=True) for part in sums]
    calls, packed = packed_rows(site, filters, [each.order for each in in_lanes], rows, whole=True)
    for part, each, weights in zip(sums, in_lanes, packed, strict=True):
        blocks = part.ends.extent.blocks
        vectors = channels_vectors(each.tile, part.ends.extent, each.lines if each.lines > 1 else 0)
        operands = each.operands(site, part, weights, x, vectors)
        calls.append(Call(contract_channels, each.tasks(weights) * blocks, operands, blocks * each.work(weights)))
    return calls


class RowsInLanes(NamedTuple):
    """How sums are computed with rows of the output in the lanes."""

    order: Order
    tile: TileShape
    last: TileShape | None
    columns: NDArray[np.int64]
    """`contraction.Weights.columns`."""
    lines: int
    """Of the output, that a task sums."""
    of_lines: int
    """How many times as many tasks as tiles of rows a sample has."""
    met: int
    """Taps that meet the image, of all positions together."""

    def tasks(self, packed: NDArray[Any]) -> int:
        """For a sample, if the weights are in order there."""
        return len(packed) * self.of_lines

    def work(self, packed: NDArray[Any]) -> int:
        """Likewise."""
        return len(packed) * self.order.of_tile * self.met

    def of_samples(self, samples: int) -> RowsInLanes:
        """The same for tiles of so many samples."""
        last = replace(self.last, samples=samples) if self.last is not None else None
        return self._replace(tile=replace(self.tile, samples=samples), last=last)

    def operands(self, site: Site, sums: Sums, packed: NDArray[Any], x: View, vectors: int) -> tuple[Any, ...]:
        """What the kernel takes, which needs `vectors` vectors of scratch memory."""
        passed, ends, _ = sums
        weights = Weights(packed.reshape(-1, site.lanes), passed.group, passed.lines, self.columns)
        images = (ends.extent, ends.phases.places, weights, x, passed.x)
        results = (ends.bias, ends.out, ends.epilogue, ends.y, ends.pooled_winners(site.lanes))
        return (self.tile, self.last, *images, *results, site.workspace.by_thread(vectors))


def _rows_in_lanes(site: Site, sums: Sums, rows: int, x: View, *, whole: bool) -> RowsInLanes:
    """How sums for `rows` rows are computed so; `whole`: whether tiles do not overlap."""
    passed, ends, _ = sums
    used = tuple((int(first), int(last)) for first, last in passed.columns)
    run = passed.run if passed.run_step else 1
    tile = choose_remainder_tile(rows, site.lanes, len(passed.x), run, x.column, used, whole=whole)
    order = Order(passed.w, ends.phases, tile.output_rows)
    columns = np.array(used_by_tiles(used, tile.rows), np.int64)
    lines = 1 if ends.winners is None else 2
    met = math.prod(int((spans[:, 1] - spans[:, 0]).sum()) for spans in (passed.lines, passed.columns))
    last = last_remainder_tile(tile, ends.extent.columns)
    return RowsInLanes(order, tile, last, columns, lines, ends.extent.lines // lines, met)
