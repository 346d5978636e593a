"""The choice among algorithms, and among cuts of a sum, about which sizes alone decide."""

from __future__ import annotations

from typing import Any

import pytest
from numpy.typing import NDArray

from nnjit.kernels.winograd_transforms import FORMS, Form
from nnjit.tuning import machine
from nnjit.tuning.algorithms import (
    choose_bands,
    choose_input_form,
    choose_lanes,
    count_phases,
    form_cost,
    form_for,
)
from nnjit.tuning.machine import vector_registers
from nnjit.tuning.sums import choose_groups_cut, choose_lanes_cut, choose_transposed_cut, long_segment, short_segment
from nnjit.tuning.updates import choose_chunks

Array = NDArray[Any]


def test_maps_are_in_the_lanes_where_they_fill_them_and_taps_are_worth_it() -> None:
    def chosen(filters: int, channels: int, area: int = 1, samples: int = 64, shared: bool = True) -> str:
        return choose_lanes(filters, channels, area, samples, 16, shared)

    assert chosen(15, 100, 9) == chosen(15, 100, 9, shared=False) == "samples"
    assert (
        chosen(32, 16, 9) == "filters" and chosen(32, 3, 9) == "samples" and chosen(32, 8, 4, shared=False) == "filters"
    )
    # 40 maps in three groups; lanes without samples are left out.
    assert chosen(40, 50, 9) == "samples" and chosen(40, 50, 9, samples=10) == "filters"
    # The fewer maps are transposed, if the taps of the others read the same positions.
    assert chosen(64, 32, shared=False) == "channels" and chosen(32, 64, shared=False) == "filters"
    assert chosen(64, 32, 9) == "filters" and chosen(64, 20, shared=False) == "filters"


@pytest.mark.parametrize(
    ("rows", "size", "out", "expected"),
    [
        (20, 12, 8, (FORMS[5], True)),
        (20, 8, 8, (FORMS[5], False)),  # as many tiles
        (20, 64, 60, (FORMS[5], False)),  # more than the second cache holds
        (1, 12, 8, (None, False)),
    ],
)
def test_a_gradient_goes_over_the_tiles_of_the_output_where_those_are_fewer_and_fit(
    rows: int, size: int, out: int, expected: tuple[Form | None, bool]
) -> None:
    products = (out * 5) ** 2
    assert choose_input_form((5, 5), (1, 1), rows, 40, (size, size), (out, out), products, [1]) == expected


@pytest.mark.parametrize(
    ("rows", "maps", "shared", "expected"),
    [
        (32, 64, [4], FORMS[3]),
        (8, 16, [4], FORMS[3]),
        (8, 16, [1, 1, 1, 1], None),  # each transforms the gradient for itself
        (3, 64, [4], None),  # rows too few for products as fast
    ],
)
def test_phases_of_a_gradient_share_what_is_transformed(
    rows: int, maps: int, shared: list[int], expected: Form | None
) -> None:
    """5x5 kernels with a stride of 2 on images of 24x24."""
    sizes, products = (24, 24), (12 * 5) ** 2
    assert choose_input_form((5, 5), (2, 2), rows, maps, sizes, (12, 12), products, shared) == (expected, False)


def test_a_form_holds_what_a_kernel_meets_of_each_phase() -> None:
    assert [form_for((size, size), (1, 1)) for size in range(1, 9)] == [None, *FORMS.values(), None]
    assert form_for((3, 7), (1, 2)) is FORMS[4] and form_for((2, 4), (2, 4)) is None
    assert [count_phases((5, 5), stride) for stride in ((1, 1), (2, 3), (6, 1))] == [1, 6, 5]


def test_many_maps_have_fewer_tiles_to_share_a_kernel_and_cost_more_for_each() -> None:
    """512 maps four times as much as 128 where kernels stay near, five times where they do not."""
    few, many = (form_cost(FORMS[3], 4, maps, (4, 4)) for maps in (128, 512))
    assert many / few == pytest.approx(4, rel=0.05)
    few, many = (form_cost(FORMS[3], 128, maps, (16, 16)) for maps in (128, 512))
    assert many / few > 4.8


def test_a_weight_gradient_is_cut_into_parts_that_are_worth_it() -> None:
    assert choose_transposed_cut(128, 8, 600)[:2] == (8, 2)
    assert choose_transposed_cut(128, 30, 600)[:2] == (8, 1)
    assert choose_transposed_cut(7, 8, 600).parts == choose_transposed_cut(128, 8, 9_000_000).parts == 1
    lenet5 = choose_lanes_cut(4 * 28, 28, 200, 600, 5, 1)
    assert (lenet5.parts, lenet5.lines) == (8, 2)
    assert choose_lanes_cut(1, 63, 200, 600, 5, 1).parts == 1
    assert choose_lanes_cut(10_000, 28, 200, 9_000_000, 5, 1).parts == 1
    assert choose_lanes_cut(10_000, 28, 1_000_000, 600, 5, 1).lines == 1
    assert choose_groups_cut(64, 600).parts == 4
    assert choose_groups_cut(64, 1_000_000).parts == 2
    assert choose_groups_cut(64, 20_000_000).parts == 1


def test_a_piece_of_a_sum_is_shorter_where_each_position_reads_more() -> None:
    def lines(kernel: int, stride: int) -> int:
        return choose_lanes_cut(512, 4, 200, 600, kernel, stride).lines

    assert lines(3, 1) > lines(3, 2) > lines(3, 3)
    assert lines(3, 1) > lines(1, 1) == lines(1, 3)


def test_segments_divide_lines_and_have_about_the_length_that_is_wanted() -> None:
    # Of the lines of an image, and of 28 lines of 28 that are one.
    assert [short_segment(positions) for positions in (4, 12, 30, 13, 784)] == [4, 6, 10, 13, 8]
    assert [long_segment(*sizes) for sizes in ((100, 100), (784, 28), (13, 13))] == [100, 56, 13]


def test_registers_are_known_for_this_cpu() -> None:
    assert vector_registers() in (4, 8, 32)


def test_chunks_cover_every_vector_in_the_order_of_their_place_in_a_tensor() -> None:
    assert choose_chunks([(0, 600), (600, 601), (601, 1001)]).tolist() == [
        [0, 256],
        [600, 601],
        [601, 857],
        [256, 512],
        [857, 1001],
        [512, 600],
    ]
    assert choose_chunks([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("rows", "maps", "kernel", "columns", "needed", "expected"),
    [
        (3, 64, (3, 3), 32, 94, True),
        (3, 16, (3, 3), 32, 94, False),  # what a line reads stays near
        (7, 64, (3, 3), 32, 94, False),  # a tile has no room for the maps
        (1, 64, (3, 3), 32, 94, True),
        (2, 64, (2, 2), 32, 64, False),  # a kernel shares too little
        (2, 64, (3, 3), 32, 94, True),
        (1, 64, (9, 9), 33, 225, True),
        (3, 64, (1, 9), 32, 268, False),
        (6, 200, (5, 5), 10, 30, False),  # most taps meet the border
        (3, 200, (5, 5), 10, 30, True),
    ],
)
def test_an_output_of_few_maps_takes_them_in_pieces_where_that_is_worth_it(
    rows: int, maps: int, kernel: tuple[int, int], columns: int, needed: int, expected: bool
) -> None:
    assert choose_bands(rows, maps, kernel, columns, needed) == expected


@pytest.mark.parametrize(
    ("features", "registers", "loads"),
    [
        ({"sse4.2"}, 4, 2),
        ({"sse4.2", "avx", "avx2"}, 8, 2),
        ({"neon"}, 8, 2),
        ({"avx", "avx2", "avx512f"}, 32, 1.1),
        ({"avx", "avx2", "avx512f", "avx512fp16"}, 32, 1.8),
        ({"sse4a", "avx", "avx2", "avx512f"}, 32, 1.8),
        ({"sse4a", "avx", "avx2"}, 8, 2),
    ],
)
def test_what_a_cpu_can_do_follows_from_its_features(
    features: set[str], registers: int, loads: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_features", lambda: features)
    assert machine.vector_registers() == registers
    assert machine.loads() == loads
