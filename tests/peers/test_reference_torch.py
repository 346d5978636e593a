"""The reference against PyTorch in float64: every layer, every loss, the optimizer and a whole network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from nnjit.gradcheck.torch_peer import Torch
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
PEER = Torch()

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
    """`same` for a tensor."""
    same(actual, expected.detach().numpy())


def same(actual: Array | float, expected: Array | float) -> None:
    """Equal to ten digits; the absolute part is for sums that cancel."""
    assert np.shape(actual) == np.shape(expected)
    assert_allclose(actual, expected, rtol=1e-10, atol=1e-13)


def test_every_kind_is_compared() -> None:
    assert {layer.kind() for layer, _ in LAYER_CASES} == PEER.layers.keys() == Layer.kinds().keys()
    assert PEER.losses.keys() == Loss.kinds().keys()


def compare_layer(layer: Layer, x: Array) -> None:
    rng = np.random.default_rng(5)
    shape = x.shape[1:]
    parameters = {p.name: rng.standard_normal(p.shape) for p in layer.parameters(shape)}
    dout = rng.standard_normal((len(x), *layer.output_shape(shape)))
    out, backward = LAYERS[layer.kind()](layer, x, parameters)
    dx, gradients = backward(dout)

    peer_x, peer_parameters = leaf(x), {name: leaf(value) for name, value in parameters.items()}
    peer_out = PEER.layers[layer.kind()](layer, peer_x, **peer_parameters)
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


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("kind", PEER.losses)
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
        peer_value = PEER.losses[kind](peer_out, peer_target)
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

    peer = PEER.run(layers, SoftmaxCrossEntropy(), parameters, x, labels)
    for output, expected in zip(result.outputs, peer.outputs, strict=True):
        same(output, expected)
    same(result.loss, peer.loss)
    same(result.dx, peer.dx)
    assert result.gradients.keys() == peer.gradients.keys()
    for name, gradient in peer.gradients.items():
        same(result.gradients[name], gradient)
