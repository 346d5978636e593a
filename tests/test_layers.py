"""The battery over every registered layer: its config, its shapes, its kernels, in both precisions."""

from __future__ import annotations

import json
from typing import Any

import numba
import numpy as np
import pytest
from battery import (
    DTYPES,
    LAYER_CASES,
    SAMPLES,
    TOLERANCE,
    Array,
    Passes,
    Stack,
    brief,
    by_differences,
    by_reference,
    compiled_only,
    errors,
    layer_cases,
    layers_of,
    remainders,
    require_all,
    stack_of_one,
)
from numpy.testing import assert_array_equal

from nnjit.kernels import program
from nnjit.kernels.compiler import JIT
from nnjit.kernels.threads import set_threads
from nnjit.layers import Layer, Shape
from nnjit.layers.conv2d import Conv2d
from nnjit.layers.dense import Dense
from nnjit.layers.pooling import MaxPool
from nnjit.reference.base import LAYERS

pytestmark = pytest.mark.usefixtures("few_tiles")

CASES = pytest.mark.parametrize(("layer", "shape"), LAYER_CASES, ids=brief)


def test_every_layer_has_a_case() -> None:
    require_all("example", Layer.kinds(), (layer.kind() for layer, _ in layer_cases()))


def test_a_layer_without_a_case_fails_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaxPool, "examples", ())
    monkeypatch.setattr(Dense, "examples", ())
    with pytest.raises(pytest.fail.Exception, match="^no example for: dense, max_pool$"):
        test_every_layer_has_a_case()


@CASES
def test_config_round_trip(layer: Layer, shape: Shape) -> None:
    assert layers_of(layer.model_dump()) == [layer]
    assert layers_of(json.loads(layer.model_dump_json())) == [layer]


@DTYPES
@CASES
def test_passes_equal_the_reference(layer: Layer, shape: Shape, dtype: Any) -> None:
    stack = stack_of_one(layer, shape, dtype)
    x, dout = stack.random()
    passes = stack.run(x, dout)

    assert passes.out.shape == (SAMPLES, *layer.output_shape(shape))
    assert {array.dtype for array in (passes.out, passes.dx, *passes.gradients.values())} == {np.dtype(dtype)}
    assert_array_equal(stack.bound.x.read(SAMPLES), x)  # still there for the passes of the layer before
    found = errors(passes, by_reference([layer], stack.parameters(), x, dout))
    assert max(found.values()) < TOLERANCE[dtype], found


@CASES
def test_gradients_equal_differences(layer: Layer, shape: Shape) -> None:
    if not JIT and sum(np.prod(parameter.shape) for parameter in layer.parameters(shape)) > 200:
        pytest.skip("hundreds of passes take minutes without the compiler")
    stack = stack_of_one(layer, shape, np.float64, batch_size=3)
    x, dout = stack.random(3)
    found = errors(stack.run(x, dout), by_differences(stack, x, dout))
    assert found.keys() == {"out", "dx", *(f"layers.0.{p.name}" for p in layer.parameters(shape))}
    assert max(found.values()) < 1e-6, found


@DTYPES
@CASES
def test_a_batch_equals_its_samples_one_by_one(layer: Layer, shape: Shape, dtype: Any) -> None:
    """Bit for bit, in what belongs to a sample: the output and the gradient of the input. The last samples of a batch
    that are taken apart may be computed by another algorithm."""
    if not JIT and dtype == np.float32:
        pytest.skip("a dozen passes take half a minute without the compiler: float64, whose lanes are fewer, is enough")
    with remainders(taken=False):
        stack = Stack([layer], shape, dtype)
        single = Stack([layer], shape, dtype, batch_size=1)
    x, dout = stack.random()
    together = stack.run(x, dout)
    apart = [single.run(x[n : n + 1], dout[n : n + 1]) for n in range(SAMPLES)]
    assert_array_equal(together.out, np.concatenate([passes.out for passes in apart]))
    assert_array_equal(together.dx, np.concatenate([passes.dx for passes in apart]))


@CASES
def test_a_smaller_batch_after_a_larger_one(layer: Layer, shape: Shape) -> None:
    """The lanes that it leaves empty, and what was in them before, change no bit."""
    stack = stack_of_one(layer, shape, np.float64, batch_size=9)
    x, dout = stack.random(9)
    fresh = Stack([layer], shape, np.float64, batch_size=9).run(x[:3], dout[:3])
    for samples in (9, 8, 3, 1):
        passes = stack.run(x[:samples], dout[:samples])
        assert samples != 3 or passes.bits() == fresh.bits()
        found = errors(passes, by_reference([layer], stack.parameters(), x[:samples], dout[:samples]))
        assert max(found.values()) < 1e-11, found


@compiled_only("only compiled programs use threads")
@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@CASES
def test_threads_change_no_bit(
    layer: Layer, shape: Shape, monkeypatch: pytest.MonkeyPatch, restored_threads: None
) -> None:
    monkeypatch.setattr(program, "PARALLEL_WORK", 0)
    passes = []
    for threads in (1, 2):
        set_threads(threads)
        stack = Stack([layer], shape, np.float32)
        passes.append(stack.run(*stack.random()).bits())
    assert passes[0] == passes[1]


@CASES
def test_nan_in_a_sample_is_seen_there_and_nowhere_else(layer: Layer, shape: Shape) -> None:
    stack = stack_of_one(layer, shape, np.float32)
    x, _ = stack.random()
    clean = stack.forward(x)
    x[4].flat[0] = np.nan
    out = stack.forward(x)
    assert np.isnan(out[4]).any()
    others = np.arange(SAMPLES) != 4
    assert_array_equal(out[others], clean[others])


# Several layers: activations that the layer before applies, and those that run on their own

FUSED = [
    (["dense: 19", "relu"], (18,)),
    (["dense: 19", "flatten", "relu"], (18,)),
    (["dense: 19", "sigmoid", "dense: 3", "tanh"], (18,)),
    (["dense: 19", "relu", "softmax"], (18,)),
    (["dense: 19", "tanh", "sigmoid"], (18,)),
    (["tanh", "dense: 3"], (5,)),
    (["conv2d", "relu"], (2, 5, 7)),
    (["conv2d", "relu", "max_pool: 2"], (2, 5, 7)),
    (["conv2d", "max_pool: 2", "relu"], (2, 5, 7)),
    (["conv2d", "tanh", "average_pool: 2", "sigmoid"], (2, 5, 7)),
    (["conv2d", "tanh", "flatten", "dense: 3"], (2, 5, 7)),
    (["conv2d", "sigmoid", "max_pool: 2", "flatten", "dense: 3"], (2, 5, 7)),
    (["conv2d", "relu", "conv2d"], (2, 5, 7)),
    (["conv2d", "relu", "flatten", "dense: 3"], (2, 5, 7)),
    (["conv2d", "flatten", "relu", "dense: 3"], (2, 5, 7)),
    (["max_pool: 2", "flatten", "sigmoid"], (2, 5, 7)),
    (["relu", "flatten", "softmax"], (2, 5, 7)),
]


def stack_of(names: list[str]) -> list[Layer]:
    conv2d = {"conv2d": {"filters": 3, "kernel": [2, 3], "padding": "same"}}
    specs = [name.split(": ") for name in names]
    return layers_of(
        *(conv2d if spec == ["conv2d"] else {spec[0]: int(spec[1])} if len(spec) == 2 else spec[0] for spec in specs)
    )


@pytest.mark.parametrize(("names", "shape"), FUSED, ids=str)
def test_stacks_equal_the_reference(names: list[str], shape: Shape) -> None:
    stack = Stack(stack_of(names), shape, np.float64)
    x, dout = stack.random()
    found = errors(stack.run(x, dout), by_reference(stack.layers, stack.parameters(), x, dout))
    assert max(found.values()) < 1e-11, found


def test_a_fused_activation_and_one_of_its_own_give_the_same_bits() -> None:
    fused = Stack(layers_of({"dense": 19}, "sigmoid"), (18,), np.float64)
    apart = Stack(layers_of({"dense": 19}, "flatten", "sigmoid"), (18,), np.float64)
    assert [len(stack.network.stages) for stack in (fused, apart)] == [1, 3]
    assert fused.run(*fused.random()).bits() == apart.run(*apart.random()).bits()


@pytest.mark.parametrize("activation", ["", "relu", "tanh"])
@pytest.mark.parametrize(
    ("filters", "kernel", "shape"), [(3, 3, (2, 8, 6)), (3, 3, (180, 9, 7)), (17, 3, (16, 8, 10)), (17, 5, (16, 8, 8))]
)
def test_a_fused_pooling_and_one_of_its_own_give_the_same_bits(
    filters: int, kernel: int, shape: Shape, activation: str
) -> None:
    """By direct sums, whose last tile of rows starts earlier, those map by map, and by two forms of
    Winograd's algorithm, whose last tiles are cut off."""
    conv2d = {"conv2d": {"filters": filters, "kernel": kernel, "padding": "same"}}
    layers = layers_of(*filter(None, (conv2d, activation, {"max_pool": 2})))
    fused, apart = (Stack(layers, shape, np.float32, fused=fused) for fused in (True, False))
    assert [len(stack.network.stages) for stack in (fused, apart)] == [1, len(layers)]
    assert len({call.kernel.__name__ for call in fused.bound.forward} & {"contract_pooled", "winograd"}) == 1
    assert fused.run(*fused.random()).bits() == apart.run(*apart.random()).bits()


def test_a_pooling_stays_by_itself_where_tiles_would_cut_its_windows() -> None:
    """Winograd's tiles for 4x4 kernels have five lines and columns."""
    layers = layers_of({"conv2d": {"filters": 17, "kernel": 4}}, "relu", {"max_pool": 2})
    stack = Stack(layers, (16, 13, 13), np.float64)
    assert [stage.kinds for stage in stack.network.stages] == [["conv2d", "relu"], ["max_pool"]]
    assert "winograd" in {call.kernel.__name__ for call in stack.bound.forward}
    x, dout = stack.random()
    found = errors(stack.run(x, dout), by_reference(layers, stack.parameters(), x, dout))
    assert max(found.values()) < 1e-11, found


@pytest.mark.parametrize(("filters", "kernel", "shape"), [(3, 3, (2, 7, 5)), (17, 3, (16, 9, 11)), (17, 5, (16, 7, 9))])
def test_what_falls_into_no_window_is_not_computed(filters: int, kernel: int, shape: Shape) -> None:
    """The last line and column of images with odd sides, whose gradients are zero."""
    conv2d = {"conv2d": {"filters": filters, "kernel": kernel, "padding": "same"}}
    layers = layers_of(conv2d, "sigmoid", {"max_pool": 2}, conv2d)
    stack = Stack(layers, shape, np.float64)
    x, dout = stack.random()
    for _ in range(2):
        found = errors(stack.run(x, dout), by_reference(layers, stack.parameters(), x, dout))
        assert max(found.values()) < 1e-11, found


def test_a_pooling_of_nan_is_nan() -> None:
    layers = layers_of({"conv2d": {"filters": 5, "kernel": 1}}, "relu", {"max_pool": 2})
    stack = Stack(layers, (1, 6, 4), np.float32)
    x, _ = stack.random()
    x[4, 0, 2, 1] = np.nan
    spoilt = np.isnan(stack.forward(x))
    assert spoilt[4, :, 1, 0].all() and spoilt.sum() == 5


# Negative controls: the battery fails when there is something to fail


def scaled(passes: Passes, name: str, factor: float) -> Passes:
    return passes._replace(gradients={**passes.gradients, name: factor * passes.gradients[name]})


def test_a_kernel_gradient_wrong_by_one_percent_is_seen() -> None:
    stack = Stack([Dense(units=3)], (5,), np.float64, batch_size=3)
    x, dout = stack.random(3)
    wrong = scaled(stack.run(x, dout), "layers.0.weight", 1.01)
    for expected in (by_reference(stack.layers, stack.parameters(), x, dout), by_differences(stack, x, dout)):
        found = errors(wrong, expected)
        assert found["layers.0.weight"] == pytest.approx(0.01, rel=1e-3)
        assert max(found["out"], found["dx"], found["layers.0.bias"]) < 1e-6


def test_a_wrong_reference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = LAYERS["conv2d"]

    def wrong(layer: Any, x: Array, parameters: dict[str, Array]) -> Any:
        out, backward = correct(layer, x, parameters)
        return out, lambda dout: (np.roll(backward(dout)[0], 1, axis=3), backward(dout)[1])

    monkeypatch.setitem(LAYERS, "conv2d", wrong)
    layer = Conv2d(filters=3, kernel=(2, 3))
    stack = Stack([layer], (2, 5, 7), np.float64)
    x, dout = stack.random()
    found = errors(stack.run(x, dout), by_reference([layer], stack.parameters(), x, dout))
    assert found["dx"] > 0.1
    assert max(error for name, error in found.items() if name != "dx") < 1e-11


def test_a_nan_is_an_error_and_not_a_small_one() -> None:
    stack = Stack([Dense(units=3)], (5,), np.float64, batch_size=3)
    x, dout = stack.random(3)
    passes = stack.run(x, dout)
    for broken, right in (
        (scaled(passes, "layers.0.bias", np.nan), passes),
        (passes, scaled(passes, "layers.0.bias", np.nan)),
    ):
        assert max(errors(broken, right).values()) == np.inf
