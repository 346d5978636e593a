"""Batches that do not fill a block: images with channels in the lanes of vectors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from battery import (
    DTYPES,
    LAYER_CASES,
    TOLERANCE,
    Passes,
    Stack,
    by_differences,
    by_reference,
    channels,
    compiled_only,
    errors,
    winograd_of_channels,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from nnjit.buffers import Border, Buffer
from nnjit.kernels import program
from nnjit.kernels.contraction import Extent
from nnjit.kernels.program import Program
from nnjit.kernels.simd import lanes
from nnjit.kernels.threads import set_threads
from nnjit.kernels.winograd_transforms import FORMS
from nnjit.layers.activations import Relu, Sigmoid, Tanh
from nnjit.layers.base import Layer, Shape
from nnjit.layers.conv2d import Conv2d
from nnjit.layers.dense import Dense
from nnjit.layers.flatten import Flatten
from nnjit.layers.pooling import AveragePool, MaxPool
from nnjit.network import Network
from nnjit.reference.network import forward
from nnjit.site import from_channels_call, to_channels_call
from nnjit.steps import Prediction, Scaling
from nnjit.tuning import algorithms, machine
from nnjit.tuning import winograd as tuning_winograd
from nnjit.tuning.algorithms import LaneCosts, choose_channels_in_lanes
from nnjit.tuning.contraction_remainder import choose_remainder_tile
from nnjit.tuning.winograd import choose_channels_tile, choose_channels_tiling

NETWORKS: dict[str, tuple[list[Layer], Shape]] = {
    # Channels that do not fill the last vector, taps that meet the border, a long activation and its derivative.
    "direct": (
        [
            Conv2d(filters=19, kernel=(3, 2), padding="same"),
            Tanh(),
            Conv2d(filters=3, kernel=3, padding="full"),
            Relu(),
        ],
        (5, 9, 7),
    ),
    # Phases of a gradient to the input, some of which read nothing; from there to samples in lanes.
    "strides": (
        [
            Conv2d(filters=35, kernel=(2, 3), stride=(3, 2), bias=False),
            Sigmoid(),
            Conv2d(filters=4, kernel=1, stride=2),
            Flatten(),
            Dense(units=3),
        ],
        (3, 11, 8),
    ),
    # Pooling of their own and of others, more vectors of channels than a tile has.
    "pooled": (
        [
            Conv2d(filters=6, kernel=5, padding="same"),
            Relu(),
            MaxPool(window=2),
            Conv2d(filters=100, kernel=(2, 3)),
            Sigmoid(),
            AveragePool(window=2, stride=1),
            Tanh(),
            Conv2d(filters=17, kernel=1),
            MaxPool(window=2),
            Flatten(),
            Dense(units=5),
        ],
        (2, 12, 11),
    ),
}


def passes(layers: list[Layer], shape: Shape, dtype: Any, samples: int) -> tuple[Passes, Passes, set[str]]:
    """What a network gives for some samples, what the formulas do, and the kernels that were called."""
    with channels(taken=True):
        stack = Stack(layers, shape, dtype, batch_size=samples)
    x, dout = stack.random(samples)
    called = {call.kernel.__name__ for call in (*stack.bound.forward, *stack.bound.backward)}
    return stack.run(x, dout), by_reference(layers, stack.parameters(), x, dout), called


@DTYPES
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_passes_equal_the_reference(name: str, samples: int, dtype: Any) -> None:
    layers, shape = NETWORKS[name]
    found, formulas, called = passes(layers, shape, dtype, samples)
    assert max(errors(found, formulas).values()) < TOLERANCE[dtype], errors(found, formulas)
    turned = {"lanes_of_channels", "channels_of_lanes"}
    assert {"contract_channels", "contract_channels_weights", "gather_apart", *turned} - called == {"gather_apart"}


@pytest.mark.usefixtures("few_tiles")
@DTYPES
@pytest.mark.parametrize(
    ("layer", "shape"), [case for case in LAYER_CASES if case[0].takes_channels_in_lanes and len(case[1]) == 3], ids=str
)
def test_every_layer_that_takes_channels_equals_the_reference(layer: Layer, shape: Shape, dtype: Any) -> None:
    """Between two that do."""
    layers: list[Layer] = [Conv2d(filters=shape[0], kernel=1), layer, Conv2d(filters=2, kernel=1)]
    found, formulas, called = passes(layers, shape, dtype, 2)
    assert max(errors(found, formulas).values()) < TOLERANCE[dtype], errors(found, formulas)
    assert "contract_channels" in called


@pytest.mark.usefixtures("few_tiles")
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_equal_differences(name: str) -> None:
    layers, shape = NETWORKS[name]
    with channels(taken=True):
        stack = Stack(layers[:4], shape, np.float64, batch_size=2)
    x, dout = stack.random(2)
    found = errors(stack.run(x, dout), by_differences(stack, x, dout))
    assert max(found.values()) < 1e-6, found


@pytest.mark.usefixtures("few_tiles")
def test_a_smaller_batch_after_a_larger_one() -> None:
    """What its other samples were changes no bit."""
    layers, shape = NETWORKS["pooled"]
    with channels(taken=True):
        stack, fresh = (Stack(layers, shape, np.float64, batch_size=5) for _ in range(2))
    x, dout = stack.random(5)
    stack.run(x, dout)
    assert stack.run(x[:2], dout[:2]).bits() == fresh.run(x[:2], dout[:2]).bits()


@pytest.mark.usefixtures("few_tiles")
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_that_share_memory_have_the_same_bits(name: str) -> None:
    """Borders are cleared in every pass."""
    layers, shape = NETWORKS[name]
    with channels(taken=True):
        stack, kept = (Stack(layers, shape, np.float64, batch_size=2, keep_gradients=keep) for keep in (False, True))
    assert any(site.dout is not None and site.dout.clears for site in stack.bound.sites) == (name != "strides")
    x, dout = stack.random(2)
    assert stack.run(x, dout).bits() == stack.run(x, dout).bits() == kept.run(x, dout).bits()


@compiled_only("only compiled programs use threads")
def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch, restored_threads: None) -> None:
    monkeypatch.setattr(program, "PARALLEL_WORK", 0)
    layers, shape = NETWORKS["pooled"]
    found = []
    for threads in (1, 2):
        set_threads(threads)
        with channels(taken=True):
            stack = Stack(layers, shape, np.float32, batch_size=3)
        found.append(stack.run(*stack.random(3)).bits())
    assert found[0] == found[1]


@DTYPES
@pytest.mark.parametrize("name", NETWORKS)
def test_predictions_have_the_bits_of_training(name: str, dtype: Any) -> None:
    """They leave channels for where samples are apart, or for nothing."""
    layers, shape = NETWORKS[name]
    with channels(taken=True):
        stack = Stack(layers, shape, dtype, batch_size=3)
        prediction = Prediction(stack.network, dtype, Scaling(np.zeros(1), np.ones(1)), 3)
    called = {call.kernel.__name__ for call in prediction.program.calls}
    assert "contract_channels" in called and "lanes_of_channels" not in called
    assert ("channels_apart" in called) == isinstance(layers[-1], Dense)
    x, _ = stack.random(3)
    assert_array_equal(prediction.run(x), stack.forward(x))
    assert_array_equal(prediction.run(x[1:]), stack.forward(x)[1:])


def test_what_follows_no_convolution_has_samples_in_lanes() -> None:
    """The network's input comes in lanes, or apart for a layer with parameters."""
    layers = [MaxPool(window=2), Conv2d(filters=4, kernel=1)]
    with channels(taken=True):
        bound = Network(layers, (2, 4, 4), np.dtype(np.float32), 0).bind(2)
    assert bound.channels_in_lanes == 0


@DTYPES
def test_predictions_by_layers_that_know_lanes_alone(dtype: Any) -> None:
    """After channels."""
    layers: list[Layer] = [Conv2d(filters=3, kernel=2), Flatten(), Tanh(), Dense(units=2)]
    with channels(taken=True):
        network = Network(layers, (1, 4, 5), np.dtype(dtype), 0)
        prediction = Prediction(network, dtype, Scaling(np.zeros(1), np.ones(1)), 2)
    assert "lanes_of_channels" in {call.kernel.__name__ for call in prediction.program.calls}
    x = np.random.default_rng(0).standard_normal((2, 1, 4, 5)).astype(dtype)
    expected = forward(layers, network.layout.unpack(network.weights), x)[0][-1]
    assert_allclose(prediction.run(x), expected, rtol=1e-5 if dtype is np.float32 else 1e-13)


@DTYPES
@pytest.mark.parametrize("shape", [(3, 2, 5), (16, 3, 16), (37, 2, 21)], ids=str)
def test_changes_of_layout(shape: Shape, dtype: Any) -> None:
    """Fewer channels than lanes, as many and more, which do not fill the last vector; columns likewise."""
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(dtype)
    inside, across = (Buffer.allocate_channels_in_lanes(3, shape, dtype, Border(1, 2, 1, 0)) for _ in range(2))
    apart, within = Buffer.allocate_apart(3, shape, dtype, Border()), Buffer.allocate(1, shape, dtype)
    inside.write(x)
    for buffer in (apart, within):
        buffer.view.vectors[:] = np.nan
    program = Program(
        [from_channels_call(inside, apart), from_channels_call(inside, within), to_channels_call(within, across)]
    )
    program.run()
    for buffer in (inside, apart, within, across):
        assert_array_equal(buffer.read(3), x)
    assert not within.read(lanes(dtype))[3:].any()


def test_where_channels_lie() -> None:
    """Zeros round the image stay, and so do other samples."""
    shape = (19, 2, 3)
    buffer = Buffer.allocate_channels_in_lanes(2, shape, np.float32, Border(1, 1, 1, 1))
    x = np.arange(1.0, 1 + 2 * 19 * 6).reshape(2, *shape).astype(np.float32)
    buffer.write(x)
    assert buffer.extent == (2, 2, 2, 3)
    assert np.count_nonzero(buffer.view.vectors) == x.size
    memory, view = buffer.view.vectors, buffer.view
    assert memory[view.start + view.block + view.row + view.line + 2 * view.column, 18 - 16] == x[1, 18, 1, 2]
    buffer.write(x[:1])
    assert_array_equal(buffer.read(2), [x[0], np.zeros(shape)])


@given(samples=st.integers(1, 40), with_samples=st.floats(0, 1e9), with_channels=st.floats(0, 1e9))
def test_only_batches_that_do_not_fill_a_block_have_channels_in_lanes(
    samples: int, with_samples: float, with_channels: float
) -> None:
    chosen = choose_channels_in_lanes(samples, 16, LaneCosts(with_samples, with_channels))
    assert chosen == (samples < 16 and with_channels < with_samples)


SAME: dict[str, Any] = {"padding": "same"}
STRIDES = st.tuples(st.integers(1, 3), st.integers(1, 3))
IMAGE_SIZES = st.sampled_from([1, 4, 7, 9, 14])


@settings(max_examples=10)
@given(
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=STRIDES,
    shape=st.tuples(st.sampled_from([1, 6, 17, 40]), IMAGE_SIZES, IMAGE_SIZES),
    filters=st.sampled_from([2, 16, 19, 50]),
    padding=st.sampled_from(["valid", "same", "full", (3, 1), (2, 8)]),
    activation=st.sampled_from([Relu(), Tanh()]),
    samples=st.sampled_from([1, 2, 7]),
)
def test_winograd_equals_the_reference(
    kernel: Any, stride: Any, shape: Shape, filters: int, padding: Any, activation: Layer, samples: int
) -> None:
    """After a layer that leaves channels in lanes."""
    layer = Conv2d(filters=filters, kernel=kernel, stride=stride, padding=padding)
    assume(all(axis.size > 0 for axis in layer.axes(shape)))
    layers: list[Layer] = [Conv2d(filters=shape[0], kernel=1), activation, layer, activation]
    with winograd_of_channels():
        found, formulas, called = passes(layers, shape, np.float64, samples)
    assert max(errors(found, formulas).values()) < 1e-11, errors(found, formulas)
    assert ("winograd_channels" in called) == (max(-(-k // s) for k, s in zip(kernel, stride, strict=True)) in FORMS)


@pytest.mark.parametrize(("kernel", "winograd"), [(3, True), (5, False), (7, True)])
def test_winograd_pools_windows_that_no_tile_cuts(kernel: int, winograd: bool) -> None:
    """Tiles of 4x4 and 2x2; of 5x5 for kernels of 5x5 with a stride of 3, which pool after they are stored."""
    stride = 1 if winograd else 3
    layer = Conv2d(filters=20, kernel=kernel, stride=stride, padding=kernel // 2)
    layers: list[Layer] = [Conv2d(filters=17, kernel=1), layer, Relu(), MaxPool(window=2)]
    with winograd_of_channels(), channels(taken=True):
        found, formulas, _ = passes(layers, (3, 21, 26), np.float64, 3)
        bound = Network(layers, (3, 21, 26), np.dtype(np.float64), 0).bind(3)
    assert max(errors(found, formulas).values()) < 1e-11, errors(found, formulas)
    called = {call.kernel.__name__ for call in bound.forward}
    assert ("winograd_channels" in called) == winograd and "max_pool_forward" not in called


def test_winograd_errs_by_some_millionths_in_single_precision_and_direct_sums_by_less() -> None:
    found = {}
    for algorithm in ("auto", "direct"):
        layers: list[Layer] = [Conv2d(filters=32, kernel=1), Conv2d(filters=16, kernel=3, algorithm=algorithm)]
        with winograd_of_channels():
            of_network, formulas, called = passes(layers, (32, 12, 12), np.float32, 3)
        assert ("winograd_channels" in called) == (algorithm == "auto")
        found[algorithm] = errors(of_network, formulas)
    for name in ("out", "dx"):
        assert found["direct"][name] < found["auto"][name] < 1e-5, (name, found)


@compiled_only("only compiled programs use threads")
def test_threads_share_tiles_and_rows_of_winograd_and_change_no_bit(
    monkeypatch: pytest.MonkeyPatch, restored_threads: None
) -> None:
    monkeypatch.setattr(program, "PARALLEL_WORK", 0)
    layers: list[Layer] = [Conv2d(filters=40, kernel=1), Relu(), Conv2d(filters=70, kernel=3, **SAME), Tanh()]
    shape = 3, 13, 30
    found, shared = [], set()
    for threads, counted in (1, 1), (2, 8):
        set_threads(threads)
        # With two, the tasks of some CPUs' tiles are as many as with one.
        monkeypatch.setattr(machine, "get_threads", lambda counted=counted: counted)
        with channels(taken=True), winograd_of_channels():
            stack = Stack(layers, shape, np.float32, batch_size=2)
        shared |= {call.tasks for call in stack.bound.forward if call.kernel.__name__ == "winograd_channels"}
        found.append(stack.run(*stack.random(2)).bits())
    assert found[0] == found[1] and len(shared) == 2


@given(
    maps=st.integers(1, 300),
    rows=st.integers(1, 300),
    sides=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    samples=st.integers(1, 15),
)
def test_tilings_of_winograd_cover_all_tiles(maps: int, rows: int, sides: tuple[int, int], samples: int) -> None:
    vectors = -(-maps // 16)
    for registers in (4, 8, 32):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine, "vector_registers", lambda registers=registers: registers)
            patch.setattr(tuning_winograd, "choose_channels_tile", choose_channels_tile.__wrapped__)
            tile, tiling, shares = choose_channels_tiling(
                FORMS[3], Extent(samples, -(-rows // 16), *sides), vectors, maps, 1, 16
            )
        assert tiling.tiles == FORMS[3].tiles(*sides) and tiling.rows % tile.columns == 0
        assert tile.rows <= tiling.group <= samples * tiling.tiles and 1 <= shares <= tiling.rows // tile.columns
        assert maps % tile.run == 0 and 16 % tile.run == 0


CROSSINGS: dict[str, tuple[list[Layer], Shape, int]] = {
    "six maps": (
        [
            Conv2d(filters=6, kernel=3, **SAME),
            Conv2d(filters=6, kernel=3, **SAME),
            Conv2d(filters=12, kernel=3, stride=2, padding=1),
            Conv2d(filters=24, kernel=3, **SAME),
        ],
        (6, 48, 48),
        4,
    ),
    "vgg-small": (
        [
            layer
            for filters in (32, 64, 128)
            for layer in (
                Conv2d(filters=filters, kernel=3, **SAME),
                Conv2d(filters=filters, kernel=3, **SAME),
                MaxPool(window=2),
            )
        ],
        (3, 32, 32),
        10,
    ),
    "strides": (
        [
            Conv2d(filters=32, kernel=5, stride=2, **SAME),
            Conv2d(filters=64, kernel=3, stride=2, **SAME),
            Conv2d(filters=64, kernel=3),
        ],
        (3, 32, 32),
        15,
    ),
    "bottleneck": (
        [
            Conv2d(filters=256, kernel=1),
            Conv2d(filters=64, kernel=1),
            Conv2d(filters=64, kernel=3, **SAME),
            Conv2d(filters=256, kernel=1),
            Conv2d(filters=64, kernel=1),
            Conv2d(filters=128, kernel=3, stride=2, padding=1),
        ],
        (64, 56, 56),
        14,
    ),
}


@pytest.mark.parametrize("name", CROSSINGS)
def test_channels_are_in_lanes_of_few_samples(name: str) -> None:
    """Up to about as many as were measured to take no longer, of whole steps on two cores of a Zen 5: fewer where
    channels do not fill a vector, or where much of the step is the gradient to the weights, which Winograd's algorithm
    serves with samples in lanes alone."""
    layers, shape, most = CROSSINGS[name]
    network = Network(layers, shape, np.dtype(np.float32), 0)
    taken = [n for n in range(1, 20) if network.bind(n).channels_in_lanes]
    assert taken == list(range(1, len(taken) + 1)) and abs(len(taken) - most) <= 2, len(taken)


def test_samples_one_by_one_count_against_channels_in_lanes() -> None:
    """Predictions of a network whose last layer has one filter: for six samples whole blocks cost more than channels in
    lanes; a block for that layer and samples one by one in the others cost less."""
    layers: list[Layer] = [Conv2d(filters=64, kernel=9), Conv2d(filters=32, kernel=1)]
    layers.append(Conv2d(filters=1, kernel=5, algorithm="direct"))
    network = Network(layers, (1, 33, 33), np.dtype(np.float32), 0)
    assert not network.bind(6, training=False).channels_in_lanes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithms, "remainder_cost", lambda *of: math.inf)
        assert network.bind(6, training=False).channels_in_lanes


@given(rows=st.integers(1, 300), columns=st.integers(1, 40), taps=st.integers(1, 40))
def test_whole_tiles_divide_the_vectors_of_rows(rows: int, columns: int, taps: int) -> None:
    for registers in (4, 8, 32):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine, "vector_registers", lambda registers=registers: registers)
            choose = choose_remainder_tile.__wrapped__
            tile = choose(rows, 16, taps, 1, 16, ((0, taps),) * columns, whole=True)
        assert -(-rows // 16) % tile.columns == 0 and tile.rows <= columns
        assert tile.rows * tile.columns <= max(registers, 8)
