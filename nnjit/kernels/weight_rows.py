"""The sums of tiles become rows of a convolution's weights.

    dw[r * K + k] = sum over p of parts[p, r, k]

Either each is a number, as `contract_lanes` leaves it, or they have maps in the lanes, as from `contract_transposed`.
Those of a panel are then its tiles of taps one after the other, tile.rows taps of tile.columns vectors each; a last
tile that would pass the last tap starts earlier and has some taps again.
"""

from __future__ import annotations

from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.simd import VECTOR_BYTES, full, load, load_numbers, store, store_first
from nnjit.kernels.tiles import tile_store
from nnjit.kernels.transposition import tile_of_rows


@kernel
def add_tile_parts(task, tile, rows, taps, parts, dw):
    """dw[r * K + k] = sum over p of parts[p, r, k]

    parts (P, row tiles * tap tiles * tile.rows * tile.columns + L or more): tile by tile, each row by row; the last
    tile of a row of tiles has the taps that are left, side by side, one that would pass the last row starts earlier
    dw (R * K or more,)
    A task owns a row of tiles. Written number by number, each to a place from a table, 24 x 768 weights took 7 us on
    one core with Zen 5, now 3; with AVX2 15 in tiles of two taps, 8 x 1600 in tiles of five as long as before.
    """
    tap_tiles = (taps + tile.columns - 1) // tile.columns
    first = task * tap_tiles * tile.rows * tile.columns
    row, like, lanes = min(task * tile.rows, rows - tile.rows), full(dw, 0.0), VECTOR_BYTES // dw.itemsize
    for tap in range(0, taps, tile.columns):
        width = min(tile.columns, taps - tap)
        for r in range(task * tile.rows - row, tile.rows):
            at, to = first + tap * tile.rows + r * width, (row + r) * taps + tap
            _add_numbers(like, parts, at, dw, to, min(width, lanes))
            # A tile of one or two rows may have more taps than a vector has lanes, but not twice as many (a loop over
            # its vectors would take the 7 us again).
            if width > lanes:
                _add_numbers(like, parts, at + lanes, dw, to + lanes, width - lanes)


@subroutine(forceinline=True)
def _add_numbers(like, parts, at, dw, to, count):
    """dw[to + k] = sum over p of parts[p, at + k] for k < count, which is at most L."""
    total = load_numbers(like, parts, (0, at))
    for p in range(1, len(parts)):
        total = total + load_numbers(like, parts, (p, at))
    store_first(dw, to, total, count)


@kernel
def add_transposed_parts(task, thread, tile, rows, taps, share, along, parts, dw, scratch):
    """dw[r * K + k] = sum over p of parts[p, r, k], or dw[k * R + r], if rows stand `along` the lines of dw

    parts (P, panels * tap tiles * tile.rows * tile.columns, L) as `contract_transposed` leaves them for R rows and K
    taps; the first part is overwritten in passing  dw (R * K or more,)
    scratch (threads, L, L): for what the calling thread transposes
    A task owns `share` tiles of taps of a panel's rows. Written number by number, each to a place from a table, 96 x
    576 weights took 21 us on one core with Zen 5, now 6.
    """
    lanes = parts.shape[2]
    groups = (rows + lanes - 1) // lanes
    tap_tiles = (taps + tile.rows - 1) // tile.rows
    shares = (tap_tiles + share - 1) // share
    panel = task // shares
    first_tile = task % shares * share
    last_tile = min(first_tile + share, tap_tiles)
    of_tile = tile.rows * tile.columns
    first = (panel * tap_tiles + first_tile) * of_tile
    sums = parts[0, first : first + (last_tile - first_tile) * of_tile]
    for p in range(1, len(parts)):
        for k in range(len(sums)):
            store(sums, k, load(sums, k) + load(parts, (p, first + k)))
    group = min(panel * tile.columns, groups - tile.columns)
    if along:
        _write_lines(tile, rows, panel, group, first_tile, last_tile, sums, dw, taps)
    else:
        space = scratch[thread]
        write_rows(tile, rows, panel, group, rows - lanes, first_tile, last_tile, sums, space, 0, dw, taps, False)


@subroutine
def write_rows(tile, rows, panel, group, last_row, first_tile, last_tile, sums, space, at, dw, taps, adds):
    """dw[r * taps + k] = the sums of tiles of taps from `first_tile` to before `last_tile`, which lie one after the
    other from sums[0] on, or added to it, if it `adds`.

    rows: R in all  group: the first group of L rows of the tiles, of which those of the panels before this one, and
    taps of the tiles before the first one, are left alone; a group that would start behind `last_row` starts there
    (R if none does)
    space (vectors, L): L vectors from `at` on, for what is transposed
    """
    lanes = sums.shape[1]
    own, last = first_tile * tile.rows, min(last_tile * tile.rows, taps)
    first = _close_up(tile, first_tile, last_tile, sums, taps)
    scalars, step = sums.reshape(-1), tile.columns * lanes
    for c in range(panel * tile.columns - group, tile.columns):
        row = min((group + c) * lanes, last_row)
        for k in range(own, last, lanes):
            count = min(lanes, last - k)
            across = tile_of_rows(scalars, (k - first) * step + c * lanes, step, count - 1)
            tile_store(across, space, at, 1, 0, 0)
            for r in range((group + c) * lanes - row, min(lanes, rows - row)):
                to = (row + r) * taps + k
                if count < lanes and adds:
                    for i in range(count):
                        dw[to + i] += space[at + r, i]
                elif count < lanes:
                    store_first(dw, to, load(space, at + r), count)
                else:
                    value = load(space, at + r)
                    store(dw, to, value + load(dw, to) if adds else value)


@subroutine
def _write_lines(tile, rows, panel, group, first_tile, last_tile, sums, dw, taps):
    """dw[k * rows + r] = the sums as `write_rows` has them."""
    lanes = sums.shape[1]
    first = _close_up(tile, first_tile, last_tile, sums, taps)
    for k in range(first_tile * tile.rows, min(last_tile * tile.rows, taps)):
        for c in range(panel * tile.columns - group, tile.columns):
            number, row = (k - first) * tile.columns + c, min((group + c) * lanes, rows - lanes)
            if row == (group + c) * lanes:
                store(dw, k * rows + row, load(sums, number))
            else:
                for r in range((group + c) * lanes - row, lanes):
                    dw[k * rows + row + r] = sums[number, r]


@subroutine
def _close_up(tile, first_tile, last_tile, sums, taps):
    """Have the sums of all taps follow each other, where the last tile has some again; returns the first one's tap."""
    first = min(first_tile * tile.rows, taps - tile.rows)
    again = last_tile * tile.rows - min(last_tile * tile.rows, taps) if last_tile > first_tile + 1 else 0
    if again:
        of_tile = tile.rows * tile.columns
        for k in range((last_tile - first_tile - 1) * of_tile, (last_tile - first_tile) * of_tile):
            store(sums, k - again * tile.columns, load(sums, k))
    return first
