"""How the columns of a line are shared among tiles, where the last tile has only those that the others leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from nnjit.kernels.tiles import TileShape


def last_tile(tile: TileShape, columns: int) -> TileShape | None:
    """The tile for the last of a line's `columns`, counted as the tile's are, of as many as the tiles before it leave;
    None if those are none."""
    left = columns % tile.columns
    fresh = -(-tile.line_fetches * left // tile.columns)
    return replace(tile, columns=left, fetches=False, line_fetches=fresh) if left else None


def line_cost(
    used: tuple[tuple[int, int], ...], columns: int, cost: Callable[[int, int, float], float]
) -> Callable[[int, int], float]:
    """What a line of `columns` costs in tiles of r x c: each what `cost` says for one with its columns, of which the
    last may have fewer, and its share of the taps that the column with most of them uses."""
    most = max((last - first for first, last in used), default=0)

    @cache
    def tiles(c: int) -> Counter[tuple[int, float]]:
        widths = [min(c, columns - start) for start in range(0, columns, c)]
        spans = used_by_tiles(used, c) if most else [(0, 1)] * len(widths)
        return Counter(
            (width, (last - first) / (most or 1)) for width, (first, last) in zip(widths, spans, strict=True)
        )

    return lambda r, c: sum(number * cost(r, *tile) for tile, number in tiles(c).items())


def used_by_tiles(used: tuple[tuple[int, int], ...], columns: int) -> list[tuple[int, int]]:
    """The taps that at least one column of each tile uses, from those that each column uses."""
    tiles = []
    for start in range(0, len(used), columns):
        wanted = [span for span in used[start : start + columns] if span[1] > span[0]]
        tiles.append((min((span[0] for span in wanted), default=0), max((span[1] for span in wanted), default=0)))
    return tiles
