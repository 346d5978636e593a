"""The reference against PyTorch in float64: every layer, every loss, the optimizer and a whole network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from nnjit.layers import Layer
from nnjit.layers.activations import Relu, Sigmoid, Softmax, Tanh
from nnjit.layers.base import Shape
from nnjit.layers.conv2d import Conv2d
from nnjit.layers.dense import Dense
from nnjit.layers.flatten import Flatten
from nnjit.layers.pooling import AveragePool, MaxPool
from nnjit.losses import Loss, SoftmaxCrossEntropy
from nnjit.reference.base import LAYERS, LOSSES, Array
from nnjit.reference.network import run
from nnjit.reference.optimizers import sgd_update

torch = pytest.importorskip("torch", reason="PyTorch is not installed; `pip install nnjit[peers]` installs it")
F = torch.nn.functional

pytestmark = pytest.mark.peers

Tensor = Any


def conv2d_pads(layer: Conv2d, axis: int, size: int) -> tuple[int, int]:
    """Zeros before and after an image of `size` along `axis`, 0 vertical or 1 horizontal."""
    kernel, stride = layer.kernel[axis], layer.stride[axis]
    if layer.padding == "same":
        # ceil(size / stride) windows have to fit: found by trying, to be independent of the layer's formula
        total = 0
        while (size + total - kernel) // stride + 1 < -(-size // stride):
            total += 1
        return total // 2, total - total // 2
    each = {"valid": 0, "full": kernel - 1}[layer.padding] if isinstance(layer.padding, str) else layer.padding[axis]
    return each, each


def conv2d(layer: Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _, _, H, W = x.shape
    pads = (*conv2d_pads(layer, 1, W), *conv2d_pads(layer, 0, H))  # F.pad begins with the last axis
    return F.conv2d(F.pad(x, pads), weight, bias, layer.stride)


PEERS: dict[str, Callable[..., Tensor]] = {
    "dense": lambda layer, x, weight, bias=None: F.linear(x, weight, bias),
    "conv2d": conv2d,
    "max_pool": lambda layer, x: F.max_pool2d(x, layer.window, layer.stride, layer.padding),
    "average_pool": lambda layer, x: F.avg_pool2d(
        x, layer.window, layer.stride, layer.padding, count_include_pad=False
    ),
    "flatten": lambda layer, x: x.flatten(1),
    "sigmoid": lambda layer, x: x.sigmoid(),
    "tanh": lambda layer, x: x.tanh(),
    "relu": lambda layer, x: x.relu(),
    "softmax": lambda layer, x: x.softmax(1),
}

LAYER_CASES: list[tuple[Layer, Shape]] = [
    (Dense(units=7), (11,)),
    (Dense(units=1, bias=False), (3,)),
    (Conv2d(filters=5, kernel=(3, 2)), (3, 9, 8)),
    (Conv2d(filters=2, kernel=(2, 3), stride=(3, 4)), (1, 11, 13)),
    (Conv2d(filters=2, kernel=(2, 3), stride=(1, 2), padding=(3, 4)), (2, 5, 6)),
    (Conv2d(filters=3, kernel=(5, 5), padding="same"), (2, 7, 6)),
    (Conv2d(filters=3, kernel=(4, 2), padding="same"), (2, 7, 6)),
    (Conv2d(filters=3, kernel=(5, 4), stride=(2, 3), padding="same"), (1, 8, 10)),
    (Conv2d(filters=3, kernel=(2, 1), stride=(3, 3), padding="same"), (1, 8, 10)),
    (Conv2d(filters=2, kernel=(3, 4), stride=(2, 1), padding="full", bias=False), (3, 2, 5)),
    (MaxPool(window=(2, 2)), (3, 7, 6)),
    (MaxPool(window=(3, 3), stride=(2, 1), padding=(1, 1)), (2, 7, 6)),
    (MaxPool(window=(2, 1), stride=(3, 2)), (1, 9, 5)),
    (AveragePool(window=(2, 2)), (3, 7, 6)),
    (AveragePool(window=(3, 3), stride=(2, 1), padding=(1, 1)), (2, 7, 6)),
    (AveragePool(window=(2, 1), stride=(3, 2)), (1, 9, 5)),
    (Flatten(), (3, 4, 5)),
    (Sigmoid(), (2, 3, 4)),
    (Tanh(), (7,)),
    (Relu(), (2, 3, 4)),
    (Softmax(), (9,)),
]


def leaf(array: NDArray[Any]) -> Tensor:
    return torch.tensor(array, requires_grad=True)


def close(actual: Array | float, expected: Tensor) -> None:
    """Equal to ten digits; the absolute part is for sums that cancel."""
    expected = expected.detach().numpy()
    assert np.shape(actual) == expected.shape
    assert_allclose(actual, expected, rtol=1e-10, atol=1e-13)


def test_every_kind_is_compared() -> None:
    assert {layer.kind() for layer, _ in LAYER_CASES} == PEERS.keys() == Layer.kinds().keys()
    assert PEER_LOSSES.keys() == Loss.kinds().keys()


def compare_layer(layer: Layer, x: Array) -> None:
    rng = np.random.default_rng(5)
    shape = x.shape[1:]
    parameters = {p.name: rng.standard_normal(p.shape) for p in layer.parameters(shape)}
    dout = rng.standard_normal((len(x), *layer.output_shape(shape)))
    out, backward = LAYERS[layer.kind()](layer, x, parameters)
    dx, gradients = backward(dout)

    peer_x, peer_parameters = leaf(x), {name: leaf(value) for name, value in parameters.items()}
    peer_out = PEERS[layer.kind()](layer, peer_x, **peer_parameters)
    peer_out.backward(torch.tensor(dout))
    close(out, peer_out)
    close(dx, peer_x.grad)
    for name, value in peer_parameters.items():
        close(gradients[name], value.grad)


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize(("layer", "shape"), LAYER_CASES, ids=lambda value: str(value))
def test_layer(layer: Layer, shape: Shape, samples: int) -> None:
    compare_layer(layer, np.random.default_rng(6).standard_normal((samples, *shape)))


@pytest.mark.parametrize("layer", [layer for layer, _ in LAYER_CASES if isinstance(layer, MaxPool)], ids=str)
def test_max_pool_with_ties(layer: MaxPool) -> None:
    compare_layer(layer, np.random.default_rng(6).integers(-2, 1, (3, 2, 9, 7)).astype(np.float64))


# PyTorch averages over every entry or sums; nnjit averages over samples what its formula says of one sample.
PEER_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "half_squared_error": lambda out, target: F.mse_loss(out, target, reduction="sum") / 2 / len(out),
    "mean_squared_error": F.mse_loss,
    "softmax_cross_entropy": F.cross_entropy,
    "binary_cross_entropy": lambda out, target: (
        F.binary_cross_entropy_with_logits(out, target, reduction="sum") / len(out)
    ),
}


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("kind", PEER_LOSSES)
def test_loss(kind: str, scale: float, samples: int) -> None:
    rng = np.random.default_rng(4)
    out = scale * rng.standard_normal((samples, 5))
    labels = rng.integers(0, 5, samples)
    vectors = rng.random((samples, 5))
    for target in [labels] if kind == "softmax_cross_entropy" else [labels, vectors]:
        value, dout = LOSSES[kind](out, target)
        peer_out, peer_target = leaf(out), torch.tensor(target)
        if target is labels and kind != "softmax_cross_entropy":
            peer_target = F.one_hot(peer_target, 5).double()
        peer_value = PEER_LOSSES[kind](peer_out, peer_target)
        peer_value.backward()
        close(value, peer_value)
        close(dout, peer_out.grad)


@pytest.mark.parametrize(
    "settings",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, {"weight_decay": 0.1}],
)
def test_sgd(settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    w = rng.standard_normal((3, 4))
    v = np.zeros_like(w)
    peer_w = leaf(w)
    peer = torch.optim.SGD([peer_w], lr=0.3, **settings)
    for _ in range(5):
        g = rng.standard_normal(w.shape)
        w, v = sgd_update(w, g, v, learning_rate=0.3, **settings)
        peer_w.grad = torch.tensor(g)
        peer.step()
        close(w, peer_w)


def test_convolutional_network() -> None:
    layers: list[Layer] = [
        Conv2d(filters=3, kernel=(5, 5), padding="same"),
        Relu(),
        MaxPool(window=(2, 2)),
        Conv2d(filters=4, kernel=(3, 3)),
        Tanh(),
        AveragePool(window=(2, 2)),
        Flatten(),
        Dense(units=6),
        Sigmoid(),
        Dense(units=5),
    ]
    rng = np.random.default_rng(2)
    shape: Shape = (1, 12, 10)
    x, labels = rng.standard_normal((4, *shape)), rng.integers(0, 5, 4)
    parameters: dict[str, Array] = {}
    for index, layer in enumerate(layers):
        for parameter in layer.parameters(shape):
            parameters[f"layers.{index}.{parameter.name}"] = rng.standard_normal(parameter.shape)
        shape = layer.output_shape(shape)
    result = run(layers, SoftmaxCrossEntropy(), parameters, x, labels)

    peer_x, peer_parameters = leaf(x), {name: leaf(value) for name, value in parameters.items()}
    out = peer_x
    for index, layer in enumerate(layers):
        names = [parameter for parameter in ("weight", "bias") if f"layers.{index}.{parameter}" in parameters]
        out = PEERS[layer.kind()](layer, out, *(peer_parameters[f"layers.{index}.{name}"] for name in names))
        close(result.outputs[index], out)
    loss = F.cross_entropy(out, torch.tensor(labels))
    loss.backward()
    close(result.loss, loss)
    close(result.dx, peer_x.grad)
    assert result.gradients.keys() == peer_parameters.keys()
    for name, value in peer_parameters.items():
        close(result.gradients[name], value.grad)
