"""Programs over a split: batches, the last of them smaller, every form of inputs and targets, and no allocations."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from battery import Array, by_reference, compiled_only, layers_of, loss_of
from numpy.testing import assert_allclose, assert_array_equal

from nnjit import steps
from nnjit.data.dataset import Split
from nnjit.kernels.packing import pack_rows
from nnjit.kernels.program import Call
from nnjit.kernels.threads import TEAM
from nnjit.kernels.winograd import winograd_kernels
from nnjit.metrics import Accuracy, Metric, RootMeanSquaredError
from nnjit.network import Network
from nnjit.optimizers import Sgd
from nnjit.reference.base import LOSSES
from nnjit.reference.network import forward
from nnjit.reference.optimizers import sgd_update
from nnjit.steps import Evaluation, Prediction, Scaling, TrainingStep

PLAIN = Scaling(np.zeros(1), np.ones(1))
CONVOLUTION = {"conv2d": {"filters": 3, "kernel": 3, "padding": "same"}}
SGD = Sgd(learning_rate=0.1, momentum=0.9, weight_decay=0.01)


def split_of(inputs: Array, targets: Array | None) -> Split:
    """As `nnjit.data` makes them: nothing can write to the arrays."""
    for array in (inputs, targets):
        if array is not None:
            array.flags.writeable = False
    return Split(inputs, targets, np.arange(len(inputs)))


def images(samples: int, classes: int = 4) -> Split:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (samples, 1, 5, 6)).astype(np.uint8)
    return split_of(pixels, rng.integers(0, classes, samples).astype(np.int32))


def image_network(dtype: Any = np.float32) -> Network:
    return Network(layers_of(CONVOLUTION, "relu", {"max_pool": 2}, "flatten", {"dense": 4}), (1, 5, 6), dtype, seed=1)


CROSS_ENTROPY = loss_of("softmax_cross_entropy")
PIXELS = Scaling(np.full(1, 100.0), np.full(1, 1 / 255))


def training(network: Network, split: Split, batch_size: int = 8) -> TrainingStep:
    return TrainingStep(network, batch_size, CROSS_ENTROPY, Accuracy(0.5), SGD, split, PIXELS, PLAIN)


def test_steps_equal_the_reference() -> None:
    """Two epochs of three batches, the last of them smaller, with momentum and weight decay."""
    split, network = images(19), image_network(np.float64)
    step = training(network, split)
    layers, layout = network.layers, network.layout
    expected = layout.unpack(network.weights)
    velocity = {name: np.zeros_like(array) for name, array in expected.items()}
    rng = np.random.default_rng(2)
    assert step.batches == 3
    for _ in range(2):
        step.feed.order[:] = rng.permutation(19)
        step.totals[:] = 0
        total = 0.0
        for batch in range(step.batches):
            rows = step.feed.order[8 * batch : 8 * batch + 8]
            x = (split.inputs[rows] - 100.0) / 255
            assert split.targets is not None
            out = by_reference(layers, expected, x, np.zeros((len(rows), 4))).out
            cost, dout = LOSSES["softmax_cross_entropy"](out, split.targets[rows])
            gradients = by_reference(layers, expected, x, dout).gradients
            for name, gradient in gradients.items():
                decay = SGD.weight_decay if name.endswith("weight") else 0.0
                expected[name], velocity[name] = sgd_update(
                    expected[name], gradient, velocity[name], learning_rate=0.1, momentum=0.9, weight_decay=decay
                )
            total += cost * len(rows)
            assert step.run(batch) == pytest.approx(cost * len(rows), rel=1e-11)
        assert step.results()["loss"] == pytest.approx(total / 19, rel=1e-11)
    for name, array in layout.unpack(network.weights).items():
        assert_allclose(array, expected[name], rtol=1e-10, atol=1e-12)
        assert_allclose(layout.unpack(step.state["velocity"])[name], velocity[name], rtol=1e-10, atol=1e-12)


def test_padding_stays_zero_while_training() -> None:
    network = image_network()
    step = training(network, images(19))
    for batch in [*range(step.batches)] * 3:
        step.run(batch)
    layout = network.layout
    used = np.zeros(layout.size, bool)
    for name in layout.names:
        used[layout.indices(name)] = True
    assert not used.all()
    for flat in (network.weights, *step.state.values()):
        assert not flat[~used].any()
        assert flat[used].any()


@pytest.mark.parametrize("shape", [(6, 20), (2, 3, 20), (2, 3, 4, 5), (1, 2, 3, 4, 5)])
def test_flattened_inputs_of_any_rank_train_to_the_same_bits(shape: tuple[int, ...]) -> None:
    split = images(20)
    numbers = np.random.default_rng(3).random((20, 120)).astype(np.float32)
    weights = []
    for form in ((120,), shape):
        network = Network(layers_of("tanh", "flatten", {"dense": 4}), form, np.float32, seed=1)
        step = training(network, split_of(numbers.reshape(20, *form), split.targets))
        for batch in range(step.batches):
            step.run(batch)
        weights.append(network.weights.tobytes())
    assert weights[0] == weights[1]


# Allocations


def allocated(run: Callable[[int], Any], repeats: int = 50) -> int:
    """Bytes that Python and NumPy held at most, above the start, while `run` ran again and again."""
    run(0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(repeats):
            run(0)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@compiled_only("vectors are arrays there")
def test_a_step_allocates_nothing() -> None:
    from numba.core.runtime import _nrt_python, rtsys

    step = training(image_network(), images(64), batch_size=64)
    evaluation = Evaluation(image_network(), CROSS_ENTROPY, Accuracy(0.5), images(64), PIXELS, PLAIN)
    images_bytes = 64 * 30 * 4
    # A few numbers and tuples of Python come and go; an array of the batch would be an order of magnitude more.
    assert allocated(step.run) < images_bytes / 8
    assert allocated(lambda batch: evaluation.run()) < images_bytes / 4
    # A helper that comes back from sleep makes a handle of its own, whatever a step does.
    TEAM.dismiss()
    _nrt_python.memsys_enable_stats()
    try:
        before = rtsys.get_allocation_stats()
        step.run(0)
        # Inside compiled code: nothing but the driver's handles on its table of calls and what its threads share.
        assert rtsys.get_allocation_stats().alloc - before.alloc <= 2
    finally:
        _nrt_python.memsys_disable_stats()
        TEAM.gather()


def test_the_measure_sees_an_array_that_comes_and_goes() -> None:
    source = np.zeros((64, 30), np.float32)
    assert allocated(lambda batch: source + 1) >= source.nbytes


# Evaluation and prediction


@pytest.mark.parametrize("batch_size", [1, 16, 19, 64])
def test_evaluation_does_not_depend_on_the_batch_size(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, split = image_network(), images(50)
    expected = Evaluation(network, CROSS_ENTROPY, Accuracy(0.5), split, PIXELS, PLAIN).run()
    monkeypatch.setattr(steps, "EVALUATION_BATCH", batch_size)
    assert Evaluation(network, CROSS_ENTROPY, Accuracy(0.5), split, PIXELS, PLAIN).run() == expected


@pytest.mark.parametrize(("samples", "batch_size"), [(1, 16), (19, 32), (256, 256), (300, 256)])
def test_evaluation_runs_in_whole_blocks(samples: int, batch_size: int) -> None:
    """Kernels for the remainder of a batch would be compiled for it alone."""
    evaluation = Evaluation(image_network(), CROSS_ENTROPY, Accuracy(0.5), images(samples), PIXELS, PLAIN)
    assert evaluation.batch_size == batch_size


def test_evaluation_equals_the_reference_and_leaves_the_network() -> None:
    network, split = image_network(np.float64), images(50)
    before = network.weights.tobytes()
    results = Evaluation(network, CROSS_ENTROPY, Accuracy(0.5), split, PIXELS, PLAIN).run()
    x = (split.inputs - 100.0) / 255
    assert split.targets is not None
    out = by_reference(network.layers, network.layout.unpack(network.weights), x, np.zeros((50, 4))).out
    assert results["loss"] == pytest.approx(LOSSES["softmax_cross_entropy"](out, split.targets)[0], rel=1e-11)
    assert results["accuracy"] == (out.argmax(axis=1) == split.targets).mean()
    assert network.weights.tobytes() == before


def test_before_any_sample_results_are_nan() -> None:
    results = training(image_network(), images(19)).results()
    assert np.isnan(results["loss"]) and np.isnan(results["accuracy"])


def test_a_split_may_take_some_rows_of_its_arrays() -> None:
    network, split = image_network(), images(50)
    assert split.targets is not None
    rows = np.array([3, 7, 11, 40], np.int64)
    part = Split(split.inputs, split.targets, rows)
    copied = split_of(split.inputs[rows], split.targets[rows])
    results = [Evaluation(network, CROSS_ENTROPY, Accuracy(0.5), data, PIXELS, PLAIN).run() for data in (part, copied)]
    assert results[0] == results[1]


def test_memory_maps_are_read_in_place(tmp_path: Path) -> None:
    split = images(50)
    np.save(tmp_path / "inputs.npy", split.inputs)
    mapped = np.load(tmp_path / "inputs.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    weights = []
    for inputs in (split.inputs, mapped):
        network = image_network()
        step = training(network, Split(inputs, split.targets, split.rows))
        assert np.shares_memory(step.feed.split.inputs, inputs)
        for batch in range(step.batches):
            step.run(batch)
        weights.append(network.weights.tobytes())
    assert weights[0] == weights[1]


VALUES = np.random.default_rng(3).random((20, 3)).astype(np.float32)
LABELS = np.random.default_rng(3).integers(0, 2, 20).astype(np.int32)


@pytest.mark.parametrize(
    ("kind", "outputs", "targets", "as_output", "metric"),
    [
        ("half_squared_error", 2, LABELS, np.eye(2)[LABELS], Accuracy(0.5)),
        ("binary_cross_entropy", 1, LABELS, LABELS[:, None], Accuracy(0.0)),
        ("half_squared_error", 3, VALUES, VALUES, RootMeanSquaredError()),
        ("mean_squared_error", 1, VALUES[:, :1].copy(), VALUES[:, :1], RootMeanSquaredError()),
    ],
)
def test_targets_of_every_form(kind: str, outputs: int, targets: Array, as_output: Array, metric: Metric) -> None:
    inputs = np.random.default_rng(4).standard_normal((20, 5))
    network = Network(layers_of({"dense": outputs}), (5,), np.float64, seed=1)
    scaling = Scaling(np.full(1, 0.5), np.full(1, 2.0)) if targets is not LABELS else PLAIN
    results = Evaluation(network, loss_of(kind), metric, split_of(inputs, targets.copy()), PLAIN, scaling).run()
    out = by_reference(network.layers, network.layout.unpack(network.weights), inputs, np.zeros((20, outputs))).out
    expected = (as_output - scaling.shift) * scaling.factor
    assert results["loss"] == pytest.approx(LOSSES[kind](out, expected)[0], rel=1e-6)
    if targets is LABELS:
        says = out[:, 0] > 0 if outputs == 1 else out.argmax(axis=1)
        assert results["accuracy"] == (says == LABELS).mean()
    else:
        assert results["rmse"] == pytest.approx(np.sqrt(((out - expected) ** 2).mean()), rel=1e-6)


@pytest.mark.parametrize("packing", [pack_rows, winograd_kernels])
def test_a_prediction_puts_weights_in_order_once(packing: Any) -> None:
    """Or transforms them, for Winograd's algorithm."""

    def packs(calls: Sequence[Call]) -> int:
        return sum(call.kernel is packing for call in calls)

    network, samples = image_network(), 3
    if packing is winograd_kernels:
        layers = layers_of({"conv2d": {"filters": 17, "kernel": 3, "padding": "same"}})
        network, samples = Network(layers, (16, 8, 8), np.float32, seed=1), 16
    fixed, changing = (network.bind(samples, training=False, fixed=fixed) for fixed in (True, False))
    assert (packs(fixed.preparation), packs(fixed.forward)) == (1, 0)
    assert (packs(changing.preparation), packs(changing.forward)) == (0, 1)
    prediction = Prediction(network, np.uint8, PIXELS, samples)
    assert packs(prediction.program.calls) == 0
    pixels = np.random.default_rng(0).integers(0, 255, (samples, *network.shapes[0]), np.uint8)
    x = (pixels - 100.0) / 255
    expected = by_reference(
        network.layers, network.layout.unpack(network.weights), x, np.zeros(changing.out.read(samples).shape)
    ).out
    for _ in range(2):
        assert_allclose(prediction.run(pixels), expected, rtol=1e-3, atol=1e-4)


def test_predictions_come_batch_by_batch_and_equal_the_reference() -> None:
    network, split = image_network(np.float64), images(23)
    prediction = Prediction(network, np.uint8, PIXELS, batch_size=8)
    outputs = prediction.run(split.inputs)
    x = (split.inputs - 100.0) / 255
    expected = by_reference(network.layers, network.layout.unpack(network.weights), x, np.zeros((23, 4))).out
    assert_allclose(outputs, expected, rtol=1e-11)
    kept = outputs.copy()
    assert_array_equal(prediction.run(split.inputs[:3]), outputs[:3])
    assert prediction.run(split.inputs[:0]).shape == (0, 4)
    # Rows of every other sample do not lie side by side.
    assert_array_equal(prediction.run(split.inputs[::2]), outputs[::2])
    assert_array_equal(outputs, kept)


OUTPUTS: list[tuple[tuple[int, ...], list[Any]]] = [
    # Features, in lines shorter and longer than vectors and of a length that these do not divide; images, with and
    # without a border.
    ((5,), [{"dense": 3}]),
    ((5,), [{"dense": 16}]),
    ((5,), [{"dense": 250}, "tanh"]),
    ((2, 4, 19), [{"conv2d": {"filters": 2, "kernel": 3, "padding": "same"}}]),
    ((2, 4, 5), ["relu"]),
    ((2, 4, 3), ["flatten"]),
]


@pytest.mark.parametrize(("shape", "layers"), OUTPUTS, ids=str)
def test_outputs_come_as_plain_arrays(shape: tuple[int, ...], layers: list[Any]) -> None:
    """From lanes, of whole blocks and of one that is not, and from samples that are apart."""
    network = Network(layers_of(*layers), shape, np.dtype(np.float64), 1)
    x = np.random.default_rng(0).standard_normal((21, *shape))
    expected = forward(network.layers, network.layout.unpack(network.weights), x)[0][-1]
    for batch_size in (1, 3, 16, 24):
        outputs = Prediction(network, np.float64, PLAIN, batch_size).run(x)
        assert outputs.flags.c_contiguous
        assert_allclose(outputs, expected, rtol=1e-11, atol=1e-12)


def test_inputs_need_not_lie_where_words_do() -> None:
    """Bytes of a stream may start anywhere."""
    network = Network(layers_of({"dense": 3}), (5,), np.dtype(np.float64), 1)
    prediction = Prediction(network, np.float64, PLAIN)
    x = np.random.default_rng(0).standard_normal((4, 5))
    odd = np.frombuffer(b"?" + x.tobytes(), np.float64, offset=1).reshape(x.shape)
    assert not odd.flags.aligned
    assert_array_equal(prediction.run(odd), prediction.run(x))
