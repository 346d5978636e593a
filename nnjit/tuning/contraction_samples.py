"""Tiles of `contract_samples`."""

from __future__ import annotations

from nnjit.kernels.tiles import TileShape
from nnjit.tuning import machine
from nnjit.tuning.cost import LONGEST_FAR_RUN, largest_divisor, tile_fits

MOST_STREAMS = 8
"""Groups of outputs of a tile at most, each of which reads weights at a place of its own."""


def choose_samples_tile(samples: int, groups: int, inputs: int, lanes: int, step: int) -> TileShape:
    """The tile for `samples` samples, whose numbers lie `step` apart, and `groups` groups of `lanes` outputs: as many
    samples as the registers hold, and no more groups than leave every thread some."""
    rows = max(r for r in range(1, samples + 1) if samples % r == 0 and (r == 1 or tile_fits(r, 1)))
    most = min(MOST_STREAMS, -(-groups // machine.get_threads()))
    columns = max((c for c in range(1, most + 1) if tile_fits(rows, c)), default=1)
    run = largest_divisor(inputs, LONGEST_FAR_RUN)
    return TileShape(rows, columns, row_step=step, run=run, tap_step=1, samples=samples, lanes=lanes)
