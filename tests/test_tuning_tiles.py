"""The choice among tiles, and what their tasks share: what fits the registers, what costs least."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import ceil
from typing import Any

import numpy as np
import pytest
from battery import Stack, compiled_only, remainders
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir
from numpy.typing import NDArray

from nnjit.kernels.bands import BandShape
from nnjit.kernels.contraction import Extent, contract, contract_pooled
from nnjit.kernels.contraction_packed import contract_packed
from nnjit.kernels.contraction_strips import Strip, strip_columns, strip_tasks
from nnjit.kernels.contraction_transposed import contract_transposed
from nnjit.kernels.simd import VECTOR_BYTES
from nnjit.kernels.tiles import (
    TileShape,
    fresh_steps,
)
from nnjit.kernels.winograd_transforms import Form
from nnjit.layers import Layer
from nnjit.layers.conv2d import Conv2d
from nnjit.layers.pooling import MaxPool
from nnjit.network import Network
from nnjit.passes import direct
from nnjit.tuning import contraction_bands, machine
from nnjit.tuning.algorithms import (
    MOST_FEW,
)
from nnjit.tuning.contraction import TASK_WORK, choose_tasks, choose_tile
from nnjit.tuning.contraction_bands import choose_band, choose_band_share
from nnjit.tuning.contraction_packed import choose_packed_shares, choose_packed_tile, choose_packed_tiles
from nnjit.tuning.contraction_remainder import choose_remainder_tile
from nnjit.tuning.contraction_strips import choose_strip, choose_strips_tile
from nnjit.tuning.contraction_transposed import choose_transposed_tile
from nnjit.tuning.contraction_weights import choose_lanes_tile, choose_part_shares
from nnjit.tuning.cost import held_vectors, shared_reads
from nnjit.tuning.lines import last_tile, line_cost, used_by_tiles
from nnjit.tuning.packing import choose_packing_shares
from nnjit.tuning.winograd import choose_row_shares, choose_tiling

Array = NDArray[Any]


@given(rows=st.integers(64, 300), taps=st.integers(4, 128), phases=st.integers(1, 9))
def test_what_the_next_task_copies_has_come_when_the_last_rows_are_done(rows: int, taps: int, phases: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "vector_registers", lambda: 32)
        patch.setattr(machine, "of_amd", lambda: False)
        tile = choose_packed_tile.__wrapped__(rows, 256, taps, phases)
    if tile is not None:
        runs = taps // tile.run * -(-rows // tile.rows)
        assert tile.task_fetches == 0 if phases > 1 else tile.task_fetches * runs >= taps * tile.columns
        assert (tile.task_fetches - 1) * runs < taps * tile.columns


@pytest.mark.parametrize("registers", [4, 8, 32])
@given(
    rows=st.integers(1, 200),
    columns=st.integers(1, 200),
    taps=st.integers(1, 1000),
    group_rows=st.sampled_from([None, 8, 16]),
    run=st.integers(1, 9),
    steps=st.tuples(st.integers(1, 3), st.integers(0, 1)),
)
def test_a_chosen_tile_fits(
    registers: int,
    rows: int,
    columns: int,
    taps: int,
    group_rows: int | None,
    run: int,
    steps: tuple[int, int],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "vector_registers", lambda: registers)
        column_step, run_step = steps
        tile = choose_tile.__wrapped__(rows, columns, taps, column_step, run, run_step)
        in_strips = choose_strips_tile.__wrapped__(rows, columns, run, group_rows)
        lanes_tile = choose_lanes_tile.__wrapped__(rows, run * taps, run, column_step)
        turned = choose_transposed_tile.__wrapped__(run * taps, columns, run)
    assert 1 <= tile.rows <= rows and 1 <= tile.columns <= columns
    assert run % tile.run == 0 and (tile.column_step, tile.run_step) == steps
    if registers == 32 and steps[1] and column_step > 1:
        assert tile.rows * tile.columns + held_vectors(tile.columns, column_step, tile.run) < 32
    assert 1 <= in_strips.rows <= rows and 1 <= in_strips.columns <= columns
    assert group_rows is None or group_rows % in_strips.rows == 0
    assert run % in_strips.run == 0 and (in_strips.column_step, in_strips.run_step) == (0, 1)
    # With fewer registers than 8 vectors any tile of use spills.
    assert max(found.rows * found.columns for found in (tile, in_strips)) <= max(registers, 8) - 2
    assert 1 <= lanes_tile.rows <= rows and 1 <= lanes_tile.columns <= run * taps
    assert lanes_tile.halved == (registers < 32) and run % lanes_tile.run == lanes_tile.columns % lanes_tile.run == 0
    assert 1 <= turned.rows <= run * taps and 1 <= turned.columns <= columns
    assert run % turned.run == turned.rows % turned.run == 0
    assert (turned.rows + 1) * turned.columns < max(registers, 8)
    registers *= 1 + lanes_tile.halved
    assert (lanes_tile.rows + 1) * lanes_tile.columns < registers


@given(rows=st.integers(1, 200), columns=st.integers(1, 200), run=st.integers(1, 9), run_step=st.integers(0, 1))
def test_halves_of_vectors_are_columns_only_where_registers_are_few(
    rows: int, columns: int, run: int, run_step: int
) -> None:
    for registers in (4, 8, 32):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine, "vector_registers", lambda registers=registers: registers)
            tile = choose_tile.__wrapped__(rows, columns, 7 * run, 1, run, run_step, halves=True)
        assert 1 <= tile.rows <= rows and 1 <= tile.columns <= columns * tile.units and run % tile.run == 0
        assert tile.run_step == run_step * tile.units
        if registers == 8:
            assert (tile.rows + 1) * tile.columns * (2 // tile.units) < 16
        else:
            assert not tile.halved


@pytest.mark.parametrize(
    ("tile", "steps"),
    [
        (TileShape(8, 4, 1, 1, run=3), [6, 7, 8, 9]),  # vectors 4 and 5 are its own
        (TileShape(8, 2, 1, 2, run=3), [5, 6, 7, 8]),
        (TileShape(8, 2, 1, 3, run=2), [6, 7, 9, 10]),
        (TileShape(8, 3, 1, 1, run=1), [3, 4, 5]),
        (TileShape(8, 4, 1, 1, run=1, halved=True), [4, 6]),
    ],
    ids=str,
)
def test_a_tile_fetches_what_the_next_columns_read_and_it_has_not(tile: TileShape, steps: list[int]) -> None:
    assert [step.constant for step in fresh_steps(None, tile, ir.Constant(ir.IntType(64), 99))] == steps


def test_tiles_that_read_much_with_many_rows_fetch_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "vector_registers", lambda: 32)

    def fetches(rows: int, taps: int, run: int = 3, column_step: int = 1, run_step: int = 1, size: int = 512) -> bool:
        return choose_tile.__wrapped__(rows, 16, taps, column_step, run, run_step, line_vectors=size).fetches

    # 3x3 from 64 maps, from 16, to 3.
    assert fetches(64, 576) and not fetches(16, 144) and not fetches(3, 576)
    # 1x1, a strided gradient's two taps of 64 maps.
    assert fetches(32, 32, 32, 1, 0) and not fetches(32, 128, 64, 1, 0)
    assert not fetches(64, 16, 16, 1, 0, size=0)


def test_the_tiles_of_all_rows_fetch_the_next_line_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for registers in (8, 32):
        monkeypatch.setattr(machine, "vector_registers", lambda registers=registers: registers)
        for rows, run, halves in ((32, 3, False), (5, 4, False), (64, 2, True)):
            sizes = (rows, 16, 20 * run, 1 if halves else run, run, 1)
            tile = choose_tile.__wrapped__(*sizes, halves=halves, apart=True)
            fetched = tile.line_fetches * -(-rows // tile.rows)
            wanted = tile.columns * (1 if halves else run) / tile.units
            assert fetched - -(-rows // tile.rows) < wanted <= fetched
            assert choose_tile.__wrapped__(*sizes, halves=halves).line_fetches == 0
            strided = choose_tile.__wrapped__(*sizes, halves=halves, strides=True)
            assert strided.line_fetches == (tile.line_fetches if registers == 32 else 0)
    # Steps are not known, or there are gaps between what columns read.
    assert choose_tile.__wrapped__(32, 16, 60, 1, 60, 0, apart=True).line_fetches == 0
    assert choose_tile.__wrapped__(32, 16, 60, 3, 2, 1, apart=True).line_fetches == 0


def test_lines_of_many_maps_are_fetched_where_the_processor_follows_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by AMD's processors without AVX-512, if no other sums read the image."""
    features: set[str] = set()
    monkeypatch.setattr(machine, "_features", lambda: features)

    def fetched(rows: int, maps: int, kernel: int, **hints: bool) -> int:
        run, run_step = (kernel, 1) if kernel > 1 else (maps, 0)
        sizes = (rows, 16, kernel**2 * maps, 1, run, run_step)
        return choose_tile.__wrapped__(*sizes, line_vectors=16 * maps, halves=True, **hints).line_fetches

    for cpu in ({"avx2", "sse4a"}, {"avx2"}, {"avx512f", "sse4a"}):
        features.clear()
        features.update(cpu)
        few = cpu == {"avx2", "sse4a"}
        assert (fetched(8, 32, 3, alone=True) > 0) == (fetched(32, 32, 1, alone=True) > 0) == few
        # Phases of a gradient share the image; few maps are followed; many tiles of rows read each line again.
        assert not any((fetched(8, 32, 3), fetched(32, 32, 1), fetched(32, 8, 1, alone=True)))
        assert not fetched(64, 32, 1, alone=True)


def test_a_layer_tells_what_its_lines_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tiles of forward passes show that choose by it."""
    monkeypatch.setattr(machine, "vector_registers", lambda: 32)
    monkeypatch.setattr(direct, "choose_packed_tile", lambda *sizes: None)
    monkeypatch.setattr(direct, "choose_tile", choose_tile.__wrapped__)

    def tile(kernel: int, stride: int, maps: int = 16) -> TileShape:
        layer = Conv2d(filters=32, kernel=(kernel, kernel), stride=(stride, stride), algorithm="direct")
        bound = Network([layer], (maps, 16, 16), np.dtype(np.float32), 0).bind(16)
        (found,) = [call.arguments[0] for call in bound.forward if call.kernel is contract]
        return found

    assert tile(2, 2).line_fetches > 0 and tile(3, 3).line_fetches > 0
    assert tile(3, 2).line_fetches > tile(3, 1).line_fetches == 0
    assert tile(2, 2).rows >= 8 and tile(1, 1).fetches and not tile(2, 2, 3).fetches


def test_a_layer_tells_whether_its_sums_are_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []

    def choose(*sizes: Any, alone: bool, **hints: Any) -> TileShape:
        told.append(alone)
        return choose_tile.__wrapped__(*sizes, alone=alone, **hints)

    monkeypatch.setattr(direct, "choose_tile", choose)
    for stride in (1, 2):
        layers = [Conv2d(filters=16, kernel=(3, 3), stride=(on, on), algorithm="direct") for on in (1, stride)]
        Network(list(layers), (16, 16, 16), np.dtype(np.float32), 0).bind(16)
        # Both forwards, and the gradient to the input of the second, of which all phases read the same.
        assert sorted(told) == [False] * (4 if stride == 2 else 0) + [True] * (2 if stride == 2 else 3)
        told.clear()


@given(taps=st.lists(st.integers(0, 200), max_size=30, unique=True), step=st.integers(1, 4), columns=st.integers(1, 30))
def test_the_vectors_that_a_line_reads_are_counted_once(taps: list[int], step: int, columns: int) -> None:
    read = {tap + step * column for tap in taps for column in range(columns)}
    assert direct._line_vectors(np.array(taps, np.int64), step, columns) == len(read)


def test_a_line_that_does_not_stay_near_is_read_by_tiles_of_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """2x2 with a stride of 2, from 16 maps to 32."""
    monkeypatch.setattr(machine, "vector_registers", lambda: 32)
    near, far = (choose_tile.__wrapped__(32, 8, 64, 2, 2, 1, line_vectors=size) for size in (100, 512))
    assert near.rows < far.rows


@given(columns=st.integers(1, 60), size=st.integers(1, 24), fetches=st.integers(0, 6))
def test_the_last_tile_of_a_line_has_the_columns_that_are_left(columns: int, size: int, fetches: int) -> None:
    tile = TileShape(8, min(size, columns), 1, 2, fetches=True, line_fetches=fetches)
    last = last_tile(tile, columns)
    left = last.columns if last else 0
    assert left < tile.columns and (columns - left) % tile.columns == 0
    if last:
        # It has no next columns, and its share of the next line.
        assert last == replace(tile, columns=left, fetches=False, line_fetches=ceil(fetches * left / tile.columns))
    used = tuple((k, k + 3) for k in range(columns))
    tiles = used_by_tiles(used, tile.columns)
    assert len(tiles) == -(-columns // tile.columns) and tiles[-1] == (tiles[-1][0], columns + 2)
    assert all(start == number * tile.columns for number, (start, _) in enumerate(tiles))


@pytest.mark.parametrize(
    ("columns", "step", "run", "held"),
    [
        (4, 2, 1, 4),  # its own columns alone
        (5, 1, 3, 5),  # of which the next tap reads all but one
        (3, 2, 3, 5),  # those of the second tap, and two of the first that the third one reads
        (6, 2, 5, 11),
        (3, 3, 3, 3),  # no two taps read the same
    ],
)
def test_vectors_are_held_for_the_taps_that_read_them_too(columns: int, step: int, run: int, held: int) -> None:
    assert held_vectors(columns, step, run) == held


def test_a_tile_does_not_hold_more_than_the_registers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """5x5 with a stride of 2 from 2 maps: 4x6, with eleven vectors, would leave no columns over."""
    monkeypatch.setattr(machine, "vector_registers", lambda: 32)
    tile = choose_tile.__wrapped__(64, 16, 50, 2, 5, 1)
    assert tile.rows * tile.columns + held_vectors(tile.columns, 2, 5) < 32


def test_each_tile_of_a_line_costs_what_its_own_columns_use() -> None:
    """Four columns of which the outer ones use half of the taps, three at a time."""

    def line(used: tuple[tuple[int, int], ...]) -> list[tuple[int, int, float]]:
        asked = []
        line_cost(used, 4, lambda r, c, share: asked.append((r, c, share)) or 1.0)(8, 3)
        return asked

    assert line(((0, 1), (0, 2), (0, 2), (1, 2))) == [(8, 3, 1.0), (8, 1, 0.5)]
    assert line(()) == [(8, 3, 1.0), (8, 1, 1.0)]
    assert line_cost((), 9, lambda r, c, share: 5.0)(1, 3) == 15.0


def test_a_tile_may_leave_columns_to_a_narrower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """13 columns: with two at a time one more would be computed, with three at a time two."""
    monkeypatch.setattr(machine, "vector_registers", lambda: 32)
    tile = choose_tile.__wrapped__(32, 13, 216, 2, 3, 1)
    assert (tile.rows, tile.columns) == (8, 3)


def test_a_long_sum_gets_enough_accumulators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two multiply-adds a cycle, each ready after four, keep eight sums busy."""
    monkeypatch.setattr(machine, "vector_registers", lambda: 32)
    for tile in (choose_tile.__wrapped__(64, 56, 500, 1), choose_strips_tile.__wrapped__(64, 8, 500)):
        assert tile.rows * tile.columns >= 8


@given(
    rows=st.integers(1, 5000),
    columns=st.integers(1, 300),
    of_tile=st.tuples(st.integers(1, 16), st.integers(1, 10)),
    threads=st.sampled_from([1, 2, 5]),
    run=st.integers(1, 4),
)
def test_strips_leave_work_for_every_thread(
    rows: int, columns: int, of_tile: tuple[int, int], threads: int, run: int
) -> None:
    tile = TileShape(*of_tile, run=run)
    row_tiles, column_tiles = -(-rows // tile.rows), -(-columns // tile.columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "get_threads", lambda: threads)
        strip = choose_strip(tile, rows, columns, shared=True)
        alone = choose_strip(tile, rows, columns, shared=False)
    assert strip.taps > 100 and strip.taps % run == 0
    for found in (strip, alone):
        # What a task keeps stays in the second cache.
        assert 1 <= found.rows <= 64 and strip_columns(tile, found, columns) < 8 + 2 * tile.columns
        assert 1 <= found.lines <= column_tiles
    # As strips have whole tiles, there may be somewhat fewer of them than are wanted.
    assert 2 * strip_tasks(tile, strip, rows) >= min(4 * threads, row_tiles * column_tiles)
    assert strip_tasks(tile, alone, rows) <= strip_tasks(tile, strip, rows)


def test_little_is_read_again_for_strips_and_lines() -> None:
    """A layer to many outputs for few samples is cut into strips, one to few for many samples into lines, one to few
    for few samples into both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "get_threads", lambda: 2)
        wide = choose_strip(TileShape(4, 4), 1000, 8, shared=True)
        narrow = choose_strip(TileShape(4, 4), 30, 64, shared=True)
        small = choose_strip(TileShape(4, 4), 30, 8, shared=True)
    assert wide == Strip(32, 1, 128, by_lines=False)
    assert narrow == Strip(8, 8, 128, by_lines=True)
    assert small == Strip(2, 2, 128, by_lines=True)


def test_strips_use_few_rows_and_four_columns_where_there_are_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the input, forwards, and for a batch of two blocks."""
    monkeypatch.setattr(machine, "vector_registers", lambda: 32)
    choose = choose_strips_tile.__wrapped__
    tiles = (choose(784, 8, 512), choose(512, 8, 784, 16), choose(784, 2, 512))
    assert [(tile.rows, tile.columns, tile.run) for tile in tiles] == [(6, 4, 4), (4, 4, 4), (12, 2, 4)]


def test_the_tiles_of_a_part_are_shared_among_the_threads_that_have_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "get_threads", lambda: 8)
    assert [choose_part_shares(parts, 100) for parts in (1, 2, 8, 64)] == [16, 8, 2, 1]
    assert [choose_row_shares(parts, 100) for parts in (1, 2, 4)] == [8, 4, 2]
    assert choose_part_shares(1, 3) == choose_row_shares(1, 3) == 3


@compiled_only("kernels without tiles have nothing to fetch")
def test_a_tile_fetches_what_it_is_stored_to_unless_that_is_scratch_memory() -> None:
    def fetches(*pooling: Layer) -> list[bool]:
        layers = [Conv2d(filters=64, kernel=(2, 2), stride=(2, 2)), *pooling]
        with remainders(taken=False):
            bound = Stack(layers, (64, 16, 16), np.dtype(np.float32)).bound
        calls = [call for call in (*bound.forward, *bound.backward) if "contract" in call.kernel.py_func.__name__]
        assert {call.kernel for call in calls} <= {contract, contract_pooled, contract_packed, contract_transposed}
        return [next(of for of in call.arguments if isinstance(of, TileShape)).result_fetches for call in calls]

    # Forwards, to the weights, to the input.
    assert fetches() == [True, False, True]
    assert fetches(MaxPool(window=(2, 2))) == [False, False, True]


@pytest.mark.parametrize(
    ("kernel", "stride", "forward", "to_input"),
    [
        ((1, 1), (1, 1), 1, 1),
        ((2, 2), (2, 2), 1, 4),  # of 13 positions, the first phase has one more
        ((1, 2), (2, 2), 1, 2),  # two of the four phases have no taps
        ((2, 2), (2, 1), 0, 0),
        ((2, 2), (1, 2), 0, 0),
        ((3, 3), (2, 2), 0, 1),  # of the phases, the one that a single tap reaches
    ],
)
def test_positions_are_packed_where_each_is_read_once(
    kernel: tuple[int, int], stride: tuple[int, int], forward: int, to_input: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "vector_registers", lambda: 32)
    monkeypatch.setattr(machine, "of_amd", lambda: False)
    monkeypatch.setattr(direct, "choose_packed_tile", choose_packed_tile.__wrapped__)
    layer = Conv2d(filters=64, kernel=kernel, stride=stride, algorithm="direct")
    bound = Network([layer], (64, 13, 13), np.dtype(np.float32), 0).bind(16, input_gradient=True)
    for calls, expected in ((bound.forward, forward), (bound.backward, to_input)):
        assert [call.kernel for call in calls].count(contract_packed) == expected


@pytest.mark.parametrize(
    ("rows", "columns", "phases", "expected"),
    [
        (128, 256, 1, True),
        (64, 625, 1, True),
        (48, 256, 1, False),  # what is copied serves few rows
        (8, 256, 4, True),  # of phases, fewer are enough
        (4, 256, 4, False),
    ],
)
def test_positions_are_packed_where_that_is_worth_it(
    rows: int, columns: int, phases: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "vector_registers", lambda: 32)
    monkeypatch.setattr(machine, "of_amd", lambda: False)
    tile = choose_packed_tile.__wrapped__(rows, columns, 64, phases)
    assert (tile is not None) == expected
    assert tile is None or choose_packed_tiles(tile, 64, -(-columns // tile.columns), 400) * tile.columns > 24


@pytest.mark.parametrize(
    ("rows", "phases", "expected"), [(96, 1, False), (128, 1, True), (16, 9, False), (64, 4, True), (3, 16, True)]
)
def test_small_second_caches_pack_for_more_rows(
    rows: int, phases: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not of phases with few rows each."""
    monkeypatch.setattr(machine, "vector_registers", lambda: 32)
    monkeypatch.setattr(machine, "of_amd", lambda: True)
    assert (choose_packed_tile.__wrapped__(rows, 256, 64, phases) is not None) == expected


@pytest.mark.parametrize("registers", [4, 8, 32])
def test_the_sums_of_a_band_fit_the_registers(registers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "vector_registers", lambda: registers)
    for maps, side, lines in product(range(1, MOST_FEW + 1), (2, 3, 9), (1, 4, 33)):
        tile = choose_band.__wrapped__(maps, (side, side), lines, 21, (side - 1, 0))
        assert tile.lines <= min(lines, side) and tile.columns <= 21
        assert tile.lines * tile.columns == 1 or (tile.rows + 1) * tile.columns <= max(registers, 8)


def test_a_thread_has_some_bands_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tile = BandShape(2, 3, 4, 3, 3)
    for threads, bands, others, expected in ((1, 16, 4, 16), (2, 16, 4, 8), (16, 16, 1, 1), (1, 500, 1, 21)):
        monkeypatch.setattr(machine, "get_threads", lambda threads=threads: threads)
        assert choose_band_share(tile, bands, 32, others) == (expected, contraction_bands.PIECE_MAPS)


def test_a_long_step_leaves_few_taps_to_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taps of the next position are no longer near."""
    monkeypatch.setattr(machine, "vector_registers", lambda: 32)
    monkeypatch.setattr(machine, "loads", lambda: 1.8)
    monkeypatch.setattr(machine, "of_amd", lambda: False)
    tiles = [choose_lanes_tile.__wrapped__(12, 864, 3, step) for step in (1, 2, 3)]
    assert tiles[0] == replace(tiles[1], tap_fetches=0)
    near, _, far = [(tile.rows, tile.columns) for tile in tiles]
    assert far[0] > near[0] and far[1] < near[1]
    # But more than four rows cost AMD's processors more.
    monkeypatch.setattr(machine, "of_amd", lambda: True)
    assert [choose_lanes_tile.__wrapped__(12, 864, 3, step).rows for step in (1, 2, 3)] == [4, 4, 4]


def test_a_task_has_several_tiles_of_rows_but_every_thread_some_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "get_threads", lambda: 2)
    assert choose_tasks(TASK_WORK * 50, 10_000) == 50
    assert choose_tasks(TASK_WORK * 50, 30) == 30
    assert choose_tasks(TASK_WORK * 2, 10_000) == 8
    assert choose_tasks(TASK_WORK * 2, 3) == 3


@pytest.mark.parametrize(
    ("rows", "maps", "kernel", "step", "fetches"),
    [
        (12, 96, 3, 3, 2),  # three tiles of rows share six taps
        (4, 96, 3, 3, 6),
        (64, 4, 2, 2, 1),  # rows once more for each of three tiles of taps, not taps for each of sixteen of rows
        (48, 2, 4, 3, 0),  # the other way
        (24, 12, 3, 1, 0),  # each position reads what the one before it has read
        (12, 48, 5, 2, 0),
    ],
)
def test_all_rows_follow_for_some_taps_where_that_reads_less(
    rows: int, maps: int, kernel: int, step: int, fetches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "vector_registers", lambda: 32)
    monkeypatch.setattr(machine, "of_amd", lambda: True)
    tile = choose_lanes_tile.__wrapped__(rows, maps * kernel**2, kernel, step)
    assert tile.tap_fetches == fetches
    assert tile.tap_fetches * ceil(rows / tile.rows) >= tile.columns or not fetches


def test_with_halves_fewer_rows_stay_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "vector_registers", lambda: 8)
    assert [choose_lanes_tile.__wrapped__(rows, 64, 1, 1).tap_fetches > 0 for rows in (6, 12)] == [True, False]


@pytest.mark.parametrize("rows", [5, 6, 8, 12, 24])
def test_halves_of_amd_have_four_rows_at_most(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "vector_registers", lambda: 8)
    monkeypatch.setattr(machine, "of_amd", lambda: True)
    assert choose_lanes_tile.__wrapped__(rows, 1200, 5, 2).rows <= 4
    monkeypatch.setattr(machine, "of_amd", lambda: False)
    assert (choose_lanes_tile.__wrapped__(rows, 1200, 5, 2).rows > 4) == (rows != 8)


def test_tasks_are_as_large_as_the_second_cache_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    tilings = []
    for features in ({"avx512f"}, {"avx512f", "sse4a"}, {"avx2", "sse4a"}):
        monkeypatch.setattr(machine, "_features", lambda features=features: features)
        tilings.append(choose_tiling(Form(4, 3), Extent(4, 32, 32, 32), 32))
    intel, amd, older_amd = (tiling.group * 36 * 32 * VECTOR_BYTES for tiling in tilings)
    assert 500_000 < intel <= 1_200_000 and 150_000 < amd <= 500_000 and older_amd <= 150_000


@pytest.mark.parametrize(
    ("threads", "blocks", "side", "group"),
    [
        (1, 1, 28, 7),  # 49 tiles in seven groups,
        (2, 1, 28, 6),  # or in eight and one more tile, of which each thread takes four.
        (2, 4, 28, 25),  # Each thread has two groups of two blocks.
        (2, 1, 40, 10),
        (2, 9, 40, 100),  # So many tiles that it matters little.
    ],
)
def test_threads_end_their_groups_of_tiles_together(
    threads: int, blocks: int, side: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "get_threads", lambda: threads)
    monkeypatch.setattr(machine, "task_bytes", lambda: 1 << 30)
    assert choose_tiling(Form(4, 3), Extent(blocks, 32, side, side), 12).group == group


@pytest.mark.parametrize(
    ("threads", "tasks", "row_tiles", "shares"),
    [
        (1, 3, 12, 1),
        (2, 3, 12, 2),
        (2, 4, 12, 1),  # Each thread has two.
        (2, 3, 7, 1),  # Copying would cost more.
        (2, 9, 12, 1),  # Enough tasks.
        (6, 4, 12, 3),
        (8, 1, 16, 4),
    ],
)
def test_few_tasks_share_their_rows(
    threads: int, tasks: int, row_tiles: int, shares: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "get_threads", lambda: threads)
    assert choose_packed_shares(tasks, row_tiles) == shares


def test_one_tile_of_rows_is_put_in_order_by_several_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "get_threads", lambda: 2)
    assert [choose_packing_shares(*sizes) for sizes in ((1, 100), (1, 40), (1, 3), (4, 100), (20, 100))] == [
        6,
        2,
        1,
        2,
        1,
    ]


@pytest.mark.parametrize(
    ("positions", "step", "run", "shared"),
    [
        (8, 1, 3, 7),  # of eight scalars the next tap reads all but the first
        (4, 2, 3, 3),  # the next tap reads those between, the one after it all but the first of the first
        (4, 2, 2, 0),
        (8, 16, 8, 0),  # channels in lanes: each position has scalars of its own
        (8, 1, 1, 0),
    ],
)
def test_scalars_that_several_taps_read(positions: int, step: int, run: int, shared: int) -> None:
    assert shared_reads(positions, step, run) == shared


@pytest.mark.parametrize("amd", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_sums_leave_registers_for_scalars_that_several_taps_read(
    groups: int, amd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tile whose taps share scalars has fewer sums than one whose taps do not."""
    monkeypatch.setattr(machine, "vector_registers", lambda: 32)
    monkeypatch.setattr(machine, "of_amd", lambda: amd)
    for run, step in ((3, 1), (5, 1), (5, 2)):
        shares, apart = (
            choose_remainder_tile.__wrapped__(16 * groups, 16, 24 * run, run, step, ((0, 1),) * 24)
            for step in (step, 16)
        )
        held = shared_reads(shares.rows, step, run)
        assert shares.rows * shares.columns + shares.columns + held <= 32
        assert shares.rows * shares.columns < apart.rows * apart.columns
    # With few registers the compiler keeps few of them.
    monkeypatch.setattr(machine, "vector_registers", lambda: 8)
    tiles = [choose_remainder_tile.__wrapped__(16, 16, 72, 3, step, ((0, 1),) * 24) for step in (1, 16)]
    assert [tile.rows for tile in tiles] == [5, 6]
