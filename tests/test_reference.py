"""The oracle of every kernel is itself held against published numbers, work by hand and differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from nnjit.layers import Layer
from nnjit.layers.activations import Relu, Sigmoid, Softmax, Tanh
from nnjit.layers.base import Shape
from nnjit.layers.conv2d import Conv2d
from nnjit.layers.dense import Dense
from nnjit.layers.flatten import Flatten
from nnjit.layers.pooling import AveragePool, MaxPool
from nnjit.losses import HalfSquaredError, Loss, SoftmaxCrossEntropy
from nnjit.optimizers import Optimizer
from nnjit.reference import optimizers
from nnjit.reference.activations import sigmoid_forward, softmax_forward
from nnjit.reference.base import LAYERS, LOSSES, Array
from nnjit.reference.conv2d import conv2d_backward, conv2d_forward
from nnjit.reference.losses import (
    binary_cross_entropy,
    half_squared_error,
    mean_squared_error,
    softmax_cross_entropy,
)
from nnjit.reference.network import Result, run
from nnjit.reference.optimizers import sgd_update
from nnjit.reference.pooling import (
    average_pool_backward,
    average_pool_forward,
    max_pool_backward,
    max_pool_forward,
)

LAYER_CASES: list[tuple[Layer, Shape]] = [
    (Dense(units=3), (5,)),
    (Dense(units=1, bias=False), (1,)),
    (Conv2d(filters=3, kernel=(2, 3)), (2, 5, 7)),
    (Conv2d(filters=1, kernel=(1, 1)), (1, 1, 1)),
    (Conv2d(filters=2, kernel=(2, 1), stride=(3, 2)), (1, 7, 6)),  # steps over rows and columns
    (Conv2d(filters=2, kernel=(2, 3), padding=(3, 4)), (1, 3, 2)),  # windows that see padding only
    (Conv2d(filters=2, kernel=(4, 2), stride=(2, 3), padding="same"), (2, 7, 5)),  # unequal padding
    (Conv2d(filters=2, kernel=(1, 2), stride=(3, 3), padding="same"), (1, 8, 7)),
    (Conv2d(filters=2, kernel=(3, 2), stride=(2, 1), padding="full", bias=False), (3, 2, 4)),
    (MaxPool(window=(2, 2)), (2, 5, 4)),
    (MaxPool(window=(3, 2), stride=(1, 3), padding=(1, 1)), (1, 4, 5)),
    (MaxPool(window=(1, 2), stride=(3, 3)), (3, 7, 5)),
    (AveragePool(window=(2, 2)), (2, 5, 4)),
    (AveragePool(window=(3, 2), stride=(1, 3), padding=(1, 1)), (1, 4, 5)),
    (AveragePool(window=(1, 2), stride=(3, 3)), (3, 7, 5)),
    (Flatten(), (2, 3, 5)),
    (Sigmoid(), (2, 3, 5)),
    (Tanh(), (7,)),
    (Relu(), (2, 3, 5)),
    (Softmax(), (5,)),
    (Softmax(), (1,)),
]

LABELS, VECTORS, IMAGES = "labels", "vectors", "images"
LOSS_CASES = [
    ("half_squared_error", VECTORS),
    ("half_squared_error", IMAGES),
    ("half_squared_error", LABELS),
    ("mean_squared_error", VECTORS),
    ("mean_squared_error", IMAGES),
    ("mean_squared_error", LABELS),
    ("softmax_cross_entropy", LABELS),
    ("binary_cross_entropy", VECTORS),
    ("binary_cross_entropy", IMAGES),
    ("binary_cross_entropy", LABELS),
]


def require_all(what: str, kinds: Iterable[str], known: Iterable[str]) -> None:
    missing = sorted(set(kinds) - set(known))
    if missing:
        pytest.fail(f"no {what} for: {', '.join(missing)}")


def test_every_kind_has_a_reference_and_a_case() -> None:
    require_all("reference", Layer.kinds(), LAYERS)
    require_all("reference", Loss.kinds(), LOSSES)
    require_all("reference", (f"{kind}_update" for kind in Optimizer.kinds()), vars(optimizers))
    require_all("case", Layer.kinds(), (layer.kind() for layer, _ in LAYER_CASES))
    require_all("case", Loss.kinds(), (kind for kind, _ in LOSS_CASES))


def test_a_layer_without_a_reference_fails_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(LAYERS, "max_pool")
    monkeypatch.delitem(LAYERS, "dense")
    with pytest.raises(pytest.fail.Exception, match="^no reference for: dense, max_pool$"):
        require_all("reference", Layer.kinds(), LAYERS)


# Numeric differences


def numeric_gradient(cost: Callable[[], float], x: Array) -> Array:
    """Central differences of `cost` in every entry of `x`, which it reads."""
    step = 1e-5
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        value = x[index]
        x[index] = value + step
        above = cost()
        x[index] = value - step
        below = cost()
        x[index] = value
        gradient[index] = (above - below) / (2 * step)
    return gradient


def relative_error(actual: Array, expected: Array) -> float:
    """Largest difference as a fraction of the largest entry; 0 where all is 0, infinity where an entry is NaN."""
    assert actual.shape == expected.shape
    scale = np.maximum(np.abs(actual).max(), np.abs(expected).max())
    error = float(np.abs(actual - expected).max() / scale) if scale else 0.0
    return math.inf if math.isnan(error) else error


def layer_errors(layer: Layer, shape: Shape, samples: int) -> dict[str, float]:
    """Relative error of the gradient of sum(out * dout), dout random, for the input and each parameter."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((samples, *shape))
    parameters = {p.name: rng.standard_normal(p.shape) for p in layer.parameters(shape)}
    dout = rng.standard_normal((samples, *layer.output_shape(shape)))
    reference = LAYERS[layer.kind()]
    before = [array.copy() for array in (x, dout, *parameters.values())]

    out, backward = reference(layer, x, parameters)
    assert out.shape == dout.shape
    dx, gradients = backward(dout)
    assert gradients.keys() == parameters.keys()
    for array, copy in zip((x, dout, *parameters.values()), before, strict=True):
        assert_array_equal(array, copy)

    def cost() -> float:
        return float((reference(layer, x, parameters)[0] * dout).sum())

    errors = {name: relative_error(gradients[name], numeric_gradient(cost, parameters[name])) for name in gradients}
    return {"x": relative_error(dx, numeric_gradient(cost, x)), **errors}


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("layer", "shape"), LAYER_CASES, ids=lambda value: str(value))
def test_layer_gradients_match_differences(layer: Layer, shape: Shape, samples: int) -> None:
    errors = layer_errors(layer, shape, samples)
    assert max(errors.values()) < 1e-7, errors


def test_a_gradient_wrong_by_one_percent_does_not_match_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = LAYERS["conv2d"]

    def wrong(layer: Any, x: Array, parameters: dict[str, Array]) -> Any:
        out, backward = correct(layer, x, parameters)

        def wrong_backward(dout: Array) -> tuple[Array, dict[str, Array]]:
            dx, gradients = backward(dout)
            return dx, {**gradients, "bias": 1.01 * gradients["bias"]}

        return out, wrong_backward

    monkeypatch.setitem(LAYERS, "conv2d", wrong)
    errors = layer_errors(Conv2d(filters=3, kernel=(2, 3)), (2, 5, 7), samples=3)
    assert errors["bias"] == pytest.approx(0.01, rel=0.02)
    assert max(errors["x"], errors["weight"]) < 1e-7


def loss_case(form: str, samples: int) -> tuple[Array, NDArray[Any]]:
    rng = np.random.default_rng(8)
    shape = (samples, 2, 3, 1) if form == IMAGES else (samples, 5)
    out = rng.standard_normal(shape)
    return out, rng.integers(0, 5, samples) if form == LABELS else rng.random(shape)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(("kind", "form"), LOSS_CASES)
def test_loss_gradients_match_differences(kind: str, form: str, samples: int) -> None:
    out, target = loss_case(form, samples)
    loss = LOSSES[kind]
    _, dout = loss(out, target)
    assert relative_error(dout, numeric_gradient(lambda: loss(out, target)[0], out)) < 1e-7


@pytest.mark.parametrize(("kind", "form"), LOSS_CASES)
def test_loss_of_a_batch_is_the_mean_over_its_samples(kind: str, form: str) -> None:
    out, target = loss_case(form, samples=3)
    value, dout = LOSSES[kind](out, target)
    single = [LOSSES[kind](out[n : n + 1], target[n : n + 1]) for n in range(3)]
    assert_allclose(value, np.mean([value for value, _ in single]), rtol=1e-14)
    assert_allclose(dout, np.concatenate([dout for _, dout in single]) / 3, rtol=1e-14)


# Convolution and pooling by hand

IMAGE = np.array([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]])
KERNEL = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
NO_PADS = ((0, 0), (0, 0))


def test_convolution_by_hand() -> None:
    # Upper left: 1*1 + 2*2 + 3*4 + 4*5 = 37, plus the bias 10.
    # A step to the right adds 1 to each pixel, so 1 + 2 + 3 + 4 = 10 to the sum; a step down adds 30.
    out = conv2d_forward(IMAGE, KERNEL, np.array([10.0]), (1, 1), NO_PADS)
    assert_array_equal(out, [[[[47, 57], [77, 87]]]])


def test_convolution_backward_by_hand() -> None:
    dout = np.array([[[[1.0, 0.0], [0.0, 2.0]]]])
    dx, dweight, dbias = conv2d_backward(dout, IMAGE, KERNEL, (1, 1), NO_PADS)
    # The kernel once with its corner at (0, 0), twice at (1, 1), where 4*1 and 1*2 meet.
    assert_array_equal(dx, [[[[1, 2, 0], [3, 4 + 2, 4], [0, 6, 8]]]])
    # The patch [[1, 2], [4, 5]] once and [[5, 6], [8, 9]] twice.
    assert_array_equal(dweight, [[[[11, 14], [20, 23]]]])
    assert_array_equal(dbias, [3])


def test_convolution_with_stride_and_unequal_padding_by_hand() -> None:
    # `same` with steps of two: one zero row below, one zero column on the right.
    # 1*1 + 2*2 + 3*4 + 4*5 = 37;  1*3 + 3*6 = 21;  1*7 + 2*8 = 23;  1*9 = 9
    layer = Conv2d(filters=1, kernel=(2, 2), stride=(2, 2), padding="same", bias=False)
    out, _ = LAYERS["conv2d"](layer, IMAGE, {"weight": KERNEL})
    assert_array_equal(out, [[[[37, 21], [23, 9]]]])


@pytest.mark.parametrize(
    ("size", "kernels", "padding", "sizes"),
    [(6, [3], (0, 0), [4]), (6, [3], (1, 1), [6]), (33, [9, 1, 5], (0, 0), [25, 25, 21])],
)
def test_published_sizes(size: int, kernels: list[int], padding: tuple[int, int], sizes: list[int]) -> None:
    x = np.zeros((1, 1, size, size))
    for kernel, expected in zip(kernels, sizes, strict=True):
        x = conv2d_forward(x, np.zeros((1, 1, kernel, kernel)), None, (1, 1), (padding, padding))
        assert x.shape == (1, 1, expected, expected)


def test_max_pooling_by_hand() -> None:
    # One position of padding on each side, steps of two: the windows cover 1 | 2 3 | 4 7 | 5 6 8 9.
    where = ((2, 2), (2, 2), ((1, 1), (1, 1)))
    assert_array_equal(max_pool_forward(IMAGE, *where), [[[[1, 3], [7, 9]]]])
    assert_array_equal(max_pool_forward(-IMAGE, *where), [[[[-1, -2], [-4, -5]]]])  # zeros outside would win
    dout = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert_array_equal(max_pool_backward(dout, IMAGE, *where), [[[[1, 0, 2], [0, 0, 0], [3, 0, 4]]]])


def test_average_pooling_by_hand() -> None:
    where = ((2, 2), (2, 2), ((1, 1), (1, 1)))
    assert_array_equal(average_pool_forward(IMAGE, *where), [[[[1, 2.5], [5.5, 7]]]])
    dout = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert_array_equal(average_pool_backward(dout, IMAGE, *where), [[[[1, 1, 1], [1.5, 1, 1], [1.5, 1, 1]]]])


def test_of_equal_maxima_the_first_in_row_major_order_gets_the_gradient() -> None:
    x = np.array([[[[1.0, 5.0, 5.0], [5.0, 5.0, 0.0]]]])
    dout = np.array([[[[1.0, 10.0]]]])
    dx = max_pool_backward(dout, x, (2, 2), (1, 1), NO_PADS)
    assert_array_equal(dx, [[[[0, 11, 0], [0, 0, 0]]]])
    # Padding never wins, not even over the smallest value that there is.
    lowest = np.full((1, 1, 2, 2), -np.inf)
    dx = max_pool_backward(np.ones((1, 1, 1, 1)), lowest, (3, 3), (3, 3), ((1, 0), (1, 0)))
    assert_array_equal(dx, [[[[1, 0], [0, 0]]]])


# Activations and losses by hand


def test_activations_far_from_zero_stay_finite() -> None:
    assert_array_equal(sigmoid_forward(np.array([-1000.0, 0.0, 1000.0])), [0, 0.5, 1])
    assert_array_equal(softmax_forward(np.array([[1000.0, 0.0], [-1000.0, -1000.0]])), [[1, 0], [0.5, 0.5]])


def test_relu_has_no_slope_at_zero() -> None:
    _, backward = LAYERS["relu"](Relu(), np.array([[-1.0, 0.0, 2.0]]), {})
    assert_array_equal(backward(np.array([[3.0, 4.0, 5.0]]))[0], [[0, 0, 5]])


def test_squared_errors_by_hand() -> None:
    out, target = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[0.0, 2.0], [3.0, 2.0]])
    # Differences 1, 0 and 0, 3: the sums of squares are 1 and 9.
    value, dout = half_squared_error(out, target)
    assert value == (0.5 + 4.5) / 2
    assert_array_equal(dout, [[0.5, 0], [0, 1.5]])
    value, dout = mean_squared_error(out, target)
    assert value == 10 / 4
    assert_array_equal(dout, [[0.5, 0], [0, 1.5]])


def test_targets_of_one_number_may_come_as_a_column_or_not() -> None:
    out = np.array([[1.0], [2.0]])
    assert half_squared_error(out, np.array([0.0, 4.0]))[0] == (0.5 + 2) / 2


def test_labels_count_as_one_hot_vectors() -> None:
    out, labels = np.array([[1.0, 2.0, 4.0]]), np.array([2], np.int32)
    for loss in (half_squared_error, mean_squared_error, binary_cross_entropy):
        by_label, by_vector = loss(out, labels), loss(out, np.array([[0.0, 0.0, 1.0]]))
        assert by_label[0] == by_vector[0]
        assert_array_equal(by_label[1], by_vector[1])


def test_softmax_cross_entropy_by_hand() -> None:
    # exp: 1 and 3, so that the probabilities are 1/4 and 3/4; the second row is the same far from zero.
    out = np.array([[0.0, np.log(3.0)], [1000.0, 1000.0 + np.log(3.0)]])
    value, dout = softmax_cross_entropy(out, np.array([0, 1]))
    assert_allclose(value, (np.log(4) + np.log(4 / 3)) / 2, rtol=1e-12)
    assert_allclose(dout, [[-0.375, 0.375], [0.125, -0.125]], rtol=1e-12)


def test_binary_cross_entropy_by_hand() -> None:
    # sigmoid(log 3) = 3/4; labels are the values 0 and 1 where there is one output.
    out = np.array([[np.log(3.0)], [np.log(3.0)]])
    value, dout = binary_cross_entropy(out, np.array([0, 1]))
    assert_allclose(value, (np.log(4) + np.log(4 / 3)) / 2, rtol=1e-15)
    assert_allclose(dout, [[0.375], [-0.125]], rtol=1e-15)


def test_binary_cross_entropy_stays_finite_where_the_sigmoid_is_full() -> None:
    value, dout = binary_cross_entropy(np.array([[1000.0, -1000.0]]), np.array([[0.0, 0.0]]))
    assert value == 1000
    assert_array_equal(dout, [[1, 0]])


# Optimizer by hand


def test_sgd_by_hand() -> None:
    w, g, v = np.array([1.0]), np.array([2.0]), np.array([4.0])
    assert_array_equal(sgd_update(w, g, v, learning_rate=0.5), [[0], [2]])
    # d = 2 + 1*1 = 3;  v = 0.5*4 + 3 = 5;  w = 1 - 0.5*5, or with Nesterov's step 1 - 0.5*(3 + 0.5*5)
    plain = sgd_update(w, g, v, learning_rate=0.5, momentum=0.5, weight_decay=1.0)
    assert_array_equal(plain, [[-1.5], [5]])
    nesterov = sgd_update(w, g, v, learning_rate=0.5, momentum=0.5, weight_decay=1.0, nesterov=True)
    assert_array_equal(nesterov, [[-1.75], [5]])


# Whole networks

TWO_LAYERS: list[Layer] = [Dense(units=2), Sigmoid(), Dense(units=2), Sigmoid()]


def two_layer_parameters() -> dict[str, Array]:
    """The start of the worked example in Mazur 2015, A Step by Step Backpropagation Example."""
    return {
        "layers.0.weight": np.array([[0.15, 0.20], [0.25, 0.30]]),
        "layers.0.bias": np.array([0.35, 0.35]),
        "layers.2.weight": np.array([[0.40, 0.45], [0.50, 0.55]]),
        "layers.2.bias": np.array([0.60, 0.60]),
    }


def two_layer_pass(parameters: dict[str, Array]) -> Result:
    return run(TWO_LAYERS, HalfSquaredError(), parameters, np.array([[0.05, 0.10]]), np.array([[0.01, 0.99]]))


def two_layer_step(parameters: dict[str, Array], gradients: dict[str, Array]) -> dict[str, Array]:
    """One step on the weights alone, as the published example takes it."""
    return {
        name: w if name.endswith("bias") else sgd_update(w, gradients[name], np.zeros_like(w), learning_rate=0.5)[0]
        for name, w in parameters.items()
    }


def assert_digits(actual: Array | float, published: Any) -> None:
    """The nine decimals that are printed agree."""
    assert_allclose(actual, published, rtol=0, atol=0.5e-9)


def test_two_layer_example_has_the_published_digits() -> None:
    result = two_layer_pass(two_layer_parameters())
    assert_digits(result.outputs[1], [[0.593269992, 0.596884378]])
    assert_digits(result.outputs[3], [[0.751365070, 0.772928465]])
    assert_digits(result.loss, 0.298371109)
    assert_digits(result.gradients["layers.2.bias"], [0.138498562, -0.038098237])
    assert_digits(result.gradients["layers.2.weight"], [[0.082167041, 0.082667628], [-0.022602540, -0.022740242]])
    assert_digits(result.gradients["layers.0.weight"], [[0.000438568, 0.000877135], [0.000497713, 0.000995425]])


def test_two_layer_example_learns_as_published() -> None:
    parameters = two_layer_parameters()
    result = two_layer_pass(parameters)
    losses = []
    for _ in range(10_000):
        parameters = two_layer_step(parameters, result.gradients)
        result = two_layer_pass(parameters)
        losses.append(result.loss)
    # After one step the publication prints 0.291027924, which the gradients that it prints do not give.
    assert_digits(losses[0], 0.291027774)
    # The printed 0.0000351085 is the loss that step 10,000 starts from.
    assert_allclose(losses[-2], 0.0000351085, rtol=0, atol=0.5e-10)
    assert_allclose(losses[-1], 0.0000351019, rtol=0, atol=0.5e-10)


def test_network_gradients_match_differences() -> None:
    layers: list[Layer] = [
        Conv2d(filters=2, kernel=(3, 2), padding="same"),
        Tanh(),
        MaxPool(window=(2, 2)),
        Flatten(),
        Dense(units=4, bias=False),
        Relu(),
        Dense(units=3),
    ]
    rng = np.random.default_rng(9)
    x, labels = rng.standard_normal((2, 1, 5, 4)), np.array([2, 0])
    shape: Shape = (1, 5, 4)
    parameters: dict[str, Array] = {}
    shapes = []
    for index, layer in enumerate(layers):
        for parameter in layer.parameters(shape):
            parameters[f"layers.{index}.{parameter.name}"] = rng.standard_normal(parameter.shape)
        shape = layer.output_shape(shape)
        shapes.append((2, *shape))

    result = run(layers, SoftmaxCrossEntropy(), parameters, x, labels)
    assert [out.shape for out in result.outputs] == shapes
    assert result.gradients.keys() == parameters.keys()

    def cost() -> float:
        return run(layers, SoftmaxCrossEntropy(), parameters, x, labels).loss

    assert relative_error(result.dx, numeric_gradient(cost, x)) < 1e-7
    for name, value in parameters.items():
        assert relative_error(result.gradients[name], numeric_gradient(cost, value)) < 1e-7, name


def test_a_network_of_single_precision_arrays_is_computed_in_double() -> None:
    parameters = {name: value.astype(np.float32) for name, value in two_layer_parameters().items()}
    x, target = np.array([[0.05, 0.10]], np.float32), np.array([[0.01, 0.99]], np.float32)
    single = run(TWO_LAYERS, HalfSquaredError(), parameters, x, target)
    arrays = [*single.outputs, *single.gradients.values(), single.dx]
    assert {array.dtype for array in arrays} == {np.dtype(np.float64)}


def test_a_missing_parameter_is_named() -> None:
    parameters = two_layer_parameters()
    del parameters["layers.2.bias"]
    with pytest.raises(KeyError, match="^'bias'$"):
        two_layer_pass(parameters)
