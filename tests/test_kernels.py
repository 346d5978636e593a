"""Kernels at sizes drawn at random, odd ones above all: 1, primes, steps longer than the window, padding wider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from battery import Array, Stack, by_reference, compiled_only, errors, layers_of, remainders
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from nnjit.buffers import Border, Buffer
from nnjit.data.dataset import Split
from nnjit.kernels.bands import BandShape
from nnjit.kernels.contraction_bands import Share, contract_bands
from nnjit.kernels.program import Program
from nnjit.kernels.simd import lanes
from nnjit.kernels.tiles import TileShape
from nnjit.kernels.winograd_transforms import FORMS, Form
from nnjit.layers import Layer
from nnjit.layers.activations import Tanh
from nnjit.layers.base import LayerShapeError
from nnjit.layers.conv2d import Conv2d
from nnjit.layers.dense import Dense
from nnjit.layers.pooling import AveragePool, MaxPool
from nnjit.network import Network
from nnjit.passes import convolution, direct, weight_gradients
from nnjit.site import clear_call
from nnjit.steps import Feed, Scaling
from nnjit.tuning.algorithms import form_for

SIZES = st.sampled_from([1, 2, 3, 5, 7, 8, 11])
SMALL = st.integers(1, 4)


pytestmark = pytest.mark.usefixtures("few_tiles")


def assert_equals_reference(layers: list[Layer], shape: tuple[int, ...], samples: int) -> None:
    try:
        stack = Stack(layers, shape, np.float64, batch_size=samples)
    except LayerShapeError:
        assume(False)
    x, dout = stack.random(samples)
    found = errors(stack.run(x, dout), by_reference(layers, stack.parameters(), x, dout))
    assert max(found.values()) < 1e-11, found


@given(inputs=SIZES, units=SIZES, samples=st.sampled_from([1, 7, 8, 9, 17]), bias=st.booleans())
def test_dense(inputs: int, units: int, samples: int, bias: bool) -> None:
    assert_equals_reference([Dense(units=units, bias=bias)], (inputs,), samples)


@given(
    shape=st.tuples(st.integers(1, 3), SIZES, SIZES),
    filters=st.integers(1, 5),
    kernel=st.tuples(SMALL, SMALL),
    stride=st.tuples(SMALL, SMALL),
    padding=st.sampled_from(["valid", "same", "full"]) | st.tuples(st.integers(0, 5), st.integers(0, 5)),
    samples=st.sampled_from([1, 9]),
)
def test_conv2d(shape: Any, filters: int, kernel: Any, stride: Any, padding: Any, samples: int) -> None:
    layer = Conv2d(filters=filters, kernel=kernel, stride=stride, padding=padding)
    assert_equals_reference([layer], shape, samples)


@given(
    maps=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    shape=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel=st.tuples(SMALL, SMALL),
    further=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    padding=st.sampled_from(["valid", "same", (2, 1)]),
    activations=st.sampled_from([(), ("relu",), ("sigmoid",)]),
    tile=st.sampled_from([(3, 2), (1, 4)]),
    tiles=st.integers(1, 3),
    shares=st.integers(1, 5),
)
def test_convolutions_that_read_each_position_once(
    maps: Any, shape: Any, kernel: Any, further: Any, padding: Any, activations: Any, tile: Any, tiles: int, shares: int
) -> None:
    """With any tile, whether lines follow each other without a gap or not, and however tasks share the rows."""

    def packed_tile(rows: int, columns: int, taps: int, phases: int) -> TileShape:
        run = 2 if taps % 2 == 0 else 1
        return TileShape(min(tile[0], rows), tile[1], column_step=1, run=run, run_step=tile[1])

    stride = (kernel[0] + further[0], kernel[1] + further[1])
    layer = {"conv2d": {"filters": maps[1], "kernel": kernel, "stride": stride, "padding": padding}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "choose_packed_tile", packed_tile)
        patch.setattr(direct, "choose_packed_tiles", lambda tile, taps, column_tiles, lines: tiles)
        patch.setattr(direct, "choose_packed_shares", lambda tasks, row_tiles: shares)
        layers = layers_of({"conv2d": {"filters": maps[0], "kernel": 1}}, *activations, layer, *activations)
        assert_equals_reference(layers, (2, *shape), 9)


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize(("kernel", "stride"), [((1, 1), (2, 2)), ((2, 1), (2, 3)), ((2, 3), (3, 2))], ids=str)
def test_positions_that_no_tap_reaches_have_no_gradient(
    kernel: Any, stride: Any, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their memory held before, one block after the other and two at a time; and with them the border that the
    layer before reads, but for that nothing else."""
    monkeypatch.setattr(convolution, "choose_blocks", lambda vectors: together)
    layers = layers_of({"conv2d": {"filters": 3, "kernel": 3}}, {"conv2d": {"filters": 2, "kernel": kernel}})
    layers[1] = layers[1].model_copy(update={"stride": stride})
    stack = Stack(layers, (2, 9, 10), np.float64, 20)
    (between,) = [site.dx for site in stack.bound.sites[1:] if site.dx is not None]
    between.view.vectors[:] = np.nan
    x, dout = stack.random(20)
    expected = by_reference(layers, stack.parameters(), x, dout)
    assert max(errors(stack.run(x, dout), expected).values()) < 1e-12


def by_bands(patch: pytest.MonkeyPatch, few: int, tile: tuple[int, int], share: Share) -> None:
    """Have passes to `few` maps computed by `contract_bands` for all samples, in tiles of so many lines and columns."""

    def choose_band(maps: int, kernel: tuple[int, int], lines: int, columns: int, zeros: tuple[int, int]) -> BandShape:
        return BandShape(min(tile[0], lines), maps, min(tile[1], columns), *kernel)

    patch.setattr(convolution, "choose_bands", lambda rows, maps, kernel, *sizes: rows == few and min(kernel) > 1)
    patch.setattr(convolution, "choose_remainder", lambda *of: 0)
    patch.setattr(direct, "choose_band", choose_band)
    patch.setattr(direct, "choose_band_share", lambda *sizes: share)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("few", "kernel", "stride", "padding", "activation", "tile", "share", "calls"),
    [
        (3, (3, 3), 1, "same", "relu", (2, 4), Share(2, 2), (1, 1)),
        (1, (5, 4), 1, "valid", "sigmoid", (3, 3), Share(1, 3), (1, 1)),
        (2, (2, 3), 1, (3, 4), "relu", (1, 2), Share(9, 1), (1, 1)),  # lines that read nothing but zeros
        (2, (3, 2), 1, "full", "tanh", (3, 5), Share(1, 8), (1, 1)),
        (2, (6, 3), 1, "same", "relu", (2, 4), Share(2, 2), (1, 1)),  # a loop over lines of the kernel
        (1, (7, 2), 1, (5, 1), "sigmoid", (4, 3), Share(1, 3), (1, 1)),
        (2, (4, 4), 2, 1, "relu", (2, 3), Share(3, 2), (0, 4)),  # phases one by one
        (3, (4, 4), 2, 0, "sigmoid", (2, 3), Share(1, 4), (0, 1)),  # and together
        (2, (4, 3), (2, 1), 1, "tanh", (1, 4), Share(2, 3), (0, 2)),
    ],
)
def test_few_maps(
    few: int,
    kernel: Any,
    stride: Any,
    padding: Any,
    activation: str,
    tile: Any,
    share: Share,
    calls: Any,
    backward: bool,
) -> None:
    """Few maps of the output, and of the input: with any tile and in any pieces."""
    filters, channels = (5, few) if backward else (few, 5)
    layer = {"conv2d": {"filters": filters, "kernel": kernel, "stride": stride, "padding": padding}}
    layers = layers_of({"conv2d": {"filters": channels, "kernel": 1}}, activation, layer, activation)
    with pytest.MonkeyPatch.context() as patch:
        by_bands(patch, few, tile, share)
        assert_equals_reference(layers, (2, 8, 10), 9)
        bound = Network(layers, (2, 8, 10), np.float64, 0).bind(9)
    of_pass = bound.backward if backward else bound.forward
    assert [call.kernel for call in of_pass].count(contract_bands) == calls[backward]


@pytest.mark.parametrize("columns", [2, 5, 12])
@pytest.mark.parametrize("kernel", [(4, 3), (2, 2), (6, 2)])
def test_few_maps_read_none_of_the_zeros_round_the_image(kernel: tuple[int, int], columns: int) -> None:
    """Whether a line is one tile or several."""
    layer = Conv2d(filters=2, kernel=kernel, padding=(kernel[0] - 1, kernel[1] - 1))
    with pytest.MonkeyPatch.context() as patch:
        by_bands(patch, 2, (2, columns), Share(2, 2))
        bound = Network([layer], (5, 8, 10), np.float64, 0).bind(9)
    bound.x.view.vectors[:] = np.nan
    bound.x.write(np.ones((9, 5, 8, 10)))
    Program(bound.forward).run()
    assert np.isfinite(bound.out.read(9)).all()


WINOGRAD_SIZES = st.sampled_from([1, 4, 7, 9, 11])


@contextmanager
def winograd_wherever_possible(overlaps: bool) -> Iterator[None]:
    """`overlaps`: the gradient to the input over the tiles of the output, where the stride is 1."""

    def of_input(kernel: Any, stride: Any, *sizes: Any) -> tuple[Form | None, bool]:
        form = form_for(kernel, stride)
        return form, form is not None and overlaps and stride == (1, 1)

    def of_weights(kernel: Any, stride: Any, rows: int, *sizes: Any) -> Form | None:
        return form_for(kernel, stride) if rows >= lanes(np.float64) else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "choose_form", lambda kernel, stride, *sizes: form_for(kernel, stride))
        patch.setattr(convolution, "choose_input_form", of_input)
        patch.setattr(convolution, "choose_weights_form", of_weights)
        yield


@given(
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.tuples(SMALL, SMALL),
    shape=st.tuples(st.sampled_from([1, 2, 6]), WINOGRAD_SIZES, WINOGRAD_SIZES),
    filters=st.sampled_from([2, 8, 9, 17]),
    padding=st.sampled_from(["valid", "same", "full", (3, 1), (2, 8)]),
    bias=st.booleans(),
    overlaps=st.booleans(),
    samples=st.sampled_from([1, 9, 17]),
)
def test_winograd(
    kernel: Any, stride: Any, shape: Any, filters: int, padding: Any, bias: bool, overlaps: bool, samples: int
) -> None:
    with winograd_wherever_possible(overlaps):
        layer = Conv2d(filters=filters, kernel=kernel, stride=stride, padding=padding, bias=bias)
        assert_equals_reference([layer], shape, samples)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("wide", "maps"), [("filters", (9, 20)), ("filters", (3, 40)), ("channels", (9, 20)), ("channels", (17, 8))]
)
def test_gradients_to_1x1_weights_with_maps_in_the_lanes(wide: str, maps: tuple[int, int], bias: bool) -> None:
    """Of which image the maps fill the lanes; sums of the biases then run over lanes or over vectors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_gradients, "choose_lanes", lambda *sizes: wide)
        layer = Conv2d(filters=maps[1], kernel=(1, 1), stride=(2, 1), bias=bias)
        assert_equals_reference([layer], (maps[0], 5, 6), 11)


@pytest.mark.parametrize(("kernel", "stride"), [((5, 5), (2, 2)), ((2, 5), (3, 2))], ids=str)
def test_phases_by_winograd_find_the_activation_before_and_leave_nothing_stale(kernel: Any, stride: Any) -> None:
    """In the second case no tap reaches some lines, whose gradient is 0 whatever their memory held before."""
    layers = [Conv2d(filters=3, kernel=(1, 1)), Tanh(), Conv2d(filters=8, kernel=kernel, stride=stride, padding=(1, 1))]
    with winograd_wherever_possible(overlaps=False):
        stack = Stack(layers, (2, 7, 6), np.float64, batch_size=8)
    last = stack.bound.sites[-1]
    assert last.dx is not None and "winograd" in {call.kernel.__name__ for call in last.backward_input}
    last.dx.view.vectors[:] = np.nan
    x, dout = stack.random(8)
    assert max(errors(stack.run(x, dout), by_reference(layers, stack.parameters(), x, dout)).values()) < 1e-11


@compiled_only("it is about rounding, which is another one there")
@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [*((kernel, 1) for kernel in FORMS), (5, 2), (7, 2)])
def test_winograd_errs_by_some_millionths_in_single_precision_and_direct_sums_by_less(
    kernel: int, stride: int, overlaps: bool
) -> None:
    found, side = {}, stride * (7 + kernel)
    for algorithm in ("auto", "direct"):
        layer = Conv2d(filters=16, kernel=(kernel, kernel), stride=(stride, stride), algorithm=algorithm)
        with remainders(taken=False), winograd_wherever_possible(overlaps):
            stack = Stack([layer], (32, side, side), np.float32, batch_size=4)
        (site,) = stack.bound.sites
        senders = {call.kernel.__name__ for call in site.backward_input}
        if algorithm == "auto":
            assert ("winograd_overlap" if overlaps and stride == 1 else "winograd") in senders
        x, dout = stack.random(4)
        found[algorithm] = errors(stack.run(x, dout), by_reference([layer], stack.parameters(), x, dout))
    # Outputs err most with 2x2 kernels and with 7x7 phase by phase, gradients to the weights with 7x7.
    most, times = (1e-5, 2) if (kernel, stride) in ((3, 1), (5, 1)) else (2e-5, 1)
    for name in ("out", "dx", "layers.0.weight"):
        assert times * found["direct"][name] < found["auto"][name] < most, (name, found)
        assert found["direct"][name] < most / 10


@given(
    kind=st.sampled_from([MaxPool, AveragePool]),
    shape=st.tuples(st.integers(1, 3), SIZES, SIZES),
    window=st.tuples(SMALL, SMALL),
    stride=st.tuples(SMALL, SMALL),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    samples=st.sampled_from([1, 9]),
)
def test_pooling(kind: Any, shape: Any, window: Any, stride: Any, padding: Any, samples: int) -> None:
    assert_equals_reference([kind(window=window, stride=stride, padding=padding)], shape, samples)


@settings(max_examples=12)
@given(
    first=st.sampled_from(["valid", "same", "full"]),
    second=st.sampled_from(["valid", "same", "full"]),
    stride=SMALL,
    size=st.sampled_from([5, 7, 8]),
)
def test_convolutions_in_a_row_read_the_borders_that_they_need(first: str, second: str, stride: int, size: int) -> None:
    layers = layers_of(
        {"conv2d": {"filters": 2, "kernel": [3, 2], "padding": first, "stride": [1, stride]}},
        {"conv2d": {"filters": 3, "kernel": [1, 2], "padding": second, "stride": [2, 1]}},
        {"max_pool": 2},
        {"conv2d": {"filters": 2, "kernel": [2, 1], "padding": "full"}},
        "flatten",
        {"dense": 3},
    )
    assert_equals_reference(layers, (2, size, size + 1), 9)


@pytest.mark.parametrize("window", [2, 3])
def test_of_equal_maxima_the_first_wins_as_in_the_reference(window: int) -> None:
    layer = MaxPool(window=(window, window), stride=(1, 1))
    stack = Stack([layer], (2, 5, 6), np.float64)
    x, dout = stack.random()
    x = np.random.default_rng(1).integers(-1, 2, x.shape).astype(np.float64)
    found = errors(stack.run(x, dout), by_reference([layer], {}, x, dout))
    assert max(found.values()) == 0, found


def test_the_winner_of_a_wide_window_gets_its_gradient() -> None:
    layer = MaxPool(window=(17, 17))
    stack = Stack([layer], (1, 17, 17), np.float64, batch_size=1)
    x, dout = stack.random(1)
    x[0, 0, 16, 16] = 100
    found = errors(stack.run(x, dout), by_reference([layer], {}, x, dout))
    assert max(found.values()) == 0, found


def test_infinite_maxima_win_and_so_does_nan() -> None:
    stack = Stack([MaxPool(window=(1, 2))], (1, 1, 8), np.float64, batch_size=1)
    pairs = [[-np.inf, -np.inf], [np.inf, 1.0], [np.nan, np.inf], [np.inf, np.nan]]
    out = stack.forward(np.array(pairs).reshape(1, 1, 1, 8))
    assert_array_equal(out.ravel(), [-np.inf, np.inf, np.nan, np.nan])


def test_softmax_far_from_zero_stays_finite() -> None:
    stack = Stack(layers_of("softmax"), (3,), np.float32, batch_size=2)
    out = stack.forward(np.array([[0, 1000, 0], [-1000, -1000, -1000]], np.float32))
    np.testing.assert_allclose(out, [[0, 1, 0], [1 / 3] * 3], rtol=1e-6)


def test_relu_keeps_nan_and_stops_gradients_at_zero() -> None:
    stack = Stack(layers_of("relu"), (5,), np.float64, batch_size=1)
    passes = stack.run(np.array([[-1.0, 0.0, 2.0, np.nan, np.inf]]), np.ones((1, 5)))
    assert_array_equal(passes.out, [[0, 0, 2, np.nan, np.inf]])
    assert_array_equal(passes.dx[0, [0, 1, 2, 4]], [0, 0, 1, 1])


@given(filters=st.integers(1, 3), padding=st.sampled_from(["same", "full"]))
def test_borders_stay_zero(filters: int, padding: str) -> None:
    """After forward and backward passes, round every image of activations and of gradients."""
    conv2d = {"conv2d": {"filters": filters, "kernel": 3, "padding": padding}}
    layers = layers_of(conv2d, "sigmoid", conv2d, {"average_pool": 2}, conv2d)
    stack = Stack(layers, (2, 4, 5), np.float64, keep_gradients=True)
    bordered = 0
    for _ in range(2):
        stack.run(*stack.random())
        for site in stack.bound.sites:
            for buffer in (site.x, site.out, site.dx, site.dout):
                assert buffer is not None
                outside = buffer.view.vectors.ravel().copy()
                outside[buffer.places(buffer.blocks * site.lanes)] = 0
                assert not outside.any()
                bordered += buffer.bordered
    assert bordered


# Batches


@pytest.mark.parametrize(
    ("data_type", "dtype"),
    [
        (np.uint8, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float32),
        (np.float32, np.float64),
        (np.int16, np.float64),
    ],
)
@pytest.mark.parametrize("shape", [(5,), (130,), (2, 3, 4), (1, 2, 19)], ids=str)
@pytest.mark.parametrize("per_column", [False, True])
def test_batches_are_rows_in_order_scaled(data_type: Any, dtype: Any, shape: Any, per_column: bool) -> None:
    rng = np.random.default_rng(1)
    data = (100 * rng.random((50, *shape))).astype(data_type)
    entries = int(np.prod(shape)) if per_column else 1
    shift, factor = rng.standard_normal(entries), rng.uniform(0.5, 2, entries)
    feed = Feed(Split(data, None, rng.permutation(50)))
    to = Buffer.allocate(3, shape, dtype, Border(1, 0, 2, 1) if len(shape) == 3 else Border())
    program = Program([feed.inputs(Scaling(shift, factor), to)])

    scaled = (data.astype(dtype) - np.resize(shift.astype(dtype), shape)) * np.resize(factor.astype(dtype), shape)
    lanes = to.blocks * to.view.vectors.shape[1]
    for first, count in ((0, lanes), (20, 9), (49, 1)):
        feed.select(first, min(count, 50 - first))
        program.run()
        rows = scaled[feed.order[first : first + count]]
        read = to.read(lanes)
        assert_array_equal(read[: len(rows)], rows)
        assert not read[len(rows) :].any()


@pytest.mark.parametrize("classes", [2, 5])
def test_labels_become_one_hot_vectors(classes: int) -> None:
    labels = np.random.default_rng(2).integers(0, classes, 30).astype(np.int32)
    feed = Feed(Split(np.zeros((30, 1), np.float32), labels, np.arange(30)))
    to = Buffer.allocate(2, (classes,), np.float64)
    program = Program([feed.targets(Scaling(np.zeros(1), np.ones(1)), to)])
    for first, count in ((0, 16), (16, 14), (29, 1)):
        feed.select(first, count)
        program.run()
        assert_array_equal(to.read(16)[:count], np.eye(classes)[labels[first : first + count]])
        assert not to.read(16)[count:].any()


def test_labels_become_zeros_and_ones_for_one_output() -> None:
    labels = np.array([0, 1, 1, 0, 1], np.int32)
    feed = Feed(Split(np.zeros((5, 1), np.float32), labels, np.arange(5)))
    to = Buffer.allocate(1, (1,), np.float32)
    feed.select(1, 4)
    Program([feed.targets(Scaling(np.zeros(1), np.ones(1)), to)]).run()
    assert_array_equal(to.read(16)[:, 0], [1, 1, 0, 1] + [0] * 12)


# Buffers


@given(shape=st.tuples(SIZES, SIZES, SIZES), zeros=st.tuples(*[st.integers(0, 2)] * 5))
def test_a_cleared_border_is_zero_everywhere(shape: Any, zeros: Any) -> None:
    buffer = Buffer.allocate(2, shape, np.float64, Border(*zeros))
    buffer.view.vectors[:] = np.nan
    buffer.view.vectors.reshape(-1)[buffer.places(16)] = 1
    Program([clear_call(buffer)]).run()
    assert_array_equal(buffer.view.vectors.sum(), 16 * np.prod(shape))
    assert_array_equal(buffer.read(16), 1)


@given(
    samples=st.integers(1, 20),
    shape=st.tuples(SIZES) | st.tuples(SIZES, SIZES, SIZES),
    zeros=st.tuples(*[st.integers(0, 2)] * 5),
)
def test_buffers_give_back_what_was_written(samples: int, shape: Any, zeros: Any) -> None:
    buffer = Buffer.allocate(3, shape, np.float64, Border(*zeros) if len(shape) == 3 else Border())
    values: Array = np.random.default_rng(3).random((samples, *shape))
    buffer.write(np.ones((20, *shape)))
    buffer.write(values)
    assert_array_equal(buffer.read(samples), values)
    assert not buffer.read(24)[samples:].any()
    assert buffer.view.vectors.sum() == pytest.approx(values.sum())
    assert buffer.view.vectors.ctypes.data % 64 == 0


@given(shape=st.tuples(SIZES, SIZES, SIZES), zeros=st.tuples(*[st.integers(0, 2)] * 5))
def test_round_every_plane_lie_zeros(shape: Any, zeros: Any) -> None:
    top, bottom, left, right, between = zeros
    rows, height, width = shape
    buffer = Buffer.allocate(3, shape, np.float64, Border(*zeros))
    buffer.write(np.ones((24, *shape)))
    view = buffer.view
    n, r, i, j = np.ogrid[:3, :rows, -top : height + bottom, -left : width + right]
    places = view.start + n * view.block + r * view.row + i * view.line + j * view.column
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    assert places.min() >= 0 and places.max() < len(view.vectors)
    assert_array_equal(view.vectors[places, 0] != 0, np.broadcast_to(inside, places.shape))
    # Neighbours share them.
    assert view.line == width + max(left, right)
    assert view.row == (height + max(top, bottom)) * view.line + between


def test_planes_that_would_share_lines_of_a_cache_lie_an_odd_number_of_vectors_apart() -> None:
    assert [Border().apart(*size).between for size in ((8, 8), (16, 16), (7, 8), (4, 4))] == [1, 1, 0, 0]
    assert Border(1, 1, 1, 1).apart(16, 16).between == 0
    assert Border(0, 0, 0, 0, 1).zeros is False and Border(right=1).zeros
