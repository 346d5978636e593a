"""nnjit's kernels against PyTorch: every example of every layer, every loss, a network with both and its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from battery import (
    DTYPES,
    LAYER_CASES,
    LOSS_CASES,
    SAMPLES,
    Array,
    BoundLoss,
    Stack,
    brief,
    layers_of,
    loss_case,
    loss_of,
    relative_error,
    require_all,
)

from nnjit.data.dataset import Split
from nnjit.layers import Layer, Shape
from nnjit.losses import Loss
from nnjit.metrics import Accuracy
from nnjit.network import Network
from nnjit.optimizers import Sgd
from nnjit.steps import Scaling, TrainingStep

torch = pytest.importorskip("torch", reason="PyTorch is not installed; `pip install nnjit[peers]` installs it")
F = torch.nn.functional

pytestmark = pytest.mark.peers

Tensor = Any
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}


def pads(layer: Any, axis: int, size: int) -> tuple[int, int]:
    """Zeros before and after an image of `size` along `axis`, 0 vertical or 1 horizontal."""
    kernel, stride = layer.kernel[axis], layer.stride[axis]
    if layer.padding == "same":
        total = next(t for t in range(kernel + stride) if (size + t - kernel) // stride + 1 == -(-size // stride))
        return total // 2, total - total // 2
    each = {"valid": 0, "full": kernel - 1}[layer.padding] if isinstance(layer.padding, str) else layer.padding[axis]
    return each, each


def conv2d(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _, _, H, W = x.shape
    return F.conv2d(F.pad(x, (*pads(layer, 1, W), *pads(layer, 0, H))), weight, bias, layer.stride)


LAYERS: dict[str, Callable[..., Tensor]] = {
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

# PyTorch averages over every entry or sums; nnjit averages over samples what its formula says of one sample.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "half_squared_error": lambda out, target: F.mse_loss(out, target, reduction="sum") / 2 / len(out),
    "mean_squared_error": F.mse_loss,
    "softmax_cross_entropy": F.cross_entropy,
    "binary_cross_entropy": lambda out, target: (
        F.binary_cross_entropy_with_logits(out, target, reduction="sum") / len(out)
    ),
}


def leaf(array: Array) -> Tensor:
    return torch.tensor(array, requires_grad=True)


def error(actual: Array, expected: Tensor) -> float:
    return relative_error(actual, expected.detach().numpy())


def peer_forward(layers: list[Layer], x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """The output of the same layers in PyTorch, with the parameters of the same names."""
    for index, layer in enumerate(layers):
        names = [f"layers.{index}.{name}" for name in ("weight", "bias")]
        x = LAYERS[layer.kind()](layer, x, *(parameters[name] for name in names if name in parameters))
    return x


def stack_errors(layers: list[Layer], shape: Shape, dtype: Any, samples: int = SAMPLES) -> dict[str, float]:
    """The error of each array of both passes."""
    stack = Stack(layers, shape, dtype, samples)
    x, dout = stack.random(samples)
    passes = stack.run(x, dout)
    peer_x, peers = leaf(x), {name: leaf(array) for name, array in stack.parameters().items()}
    out = peer_forward(layers, peer_x, peers)
    out.backward(torch.tensor(dout))
    found = {"out": error(passes.out, out), "dx": error(passes.dx, peer_x.grad)}
    return {**found, **{name: error(passes.gradients[name], tensor.grad) for name, tensor in peers.items()}}


def test_every_kind_is_compared() -> None:
    require_all("peer", Layer.kinds(), LAYERS)
    require_all("peer", Loss.kinds(), LOSSES)


@DTYPES
@pytest.mark.parametrize(("layer", "shape"), LAYER_CASES, ids=brief)
def test_layer(layer: Layer, shape: Shape, dtype: Any) -> None:
    found = stack_errors([layer], shape, dtype)
    assert max(found.values()) < TOLERANCE[dtype], found


@DTYPES
@pytest.mark.parametrize(("kind", "form"), LOSS_CASES)
def test_loss(kind: str, form: str, dtype: Any) -> None:
    out, labels, target = loss_case(form, SAMPLES, dtype)
    costs, dout = BoundLoss(loss_of(kind), out.shape[1:], dtype).run(out, target)
    peer_out = leaf(out)
    cost = LOSSES[kind](peer_out, torch.tensor(labels if kind == "softmax_cross_entropy" else target))
    cost.backward()
    assert costs.sum() / SAMPLES == pytest.approx(cost.item(), rel=TOLERANCE[dtype])
    assert error(dout, peer_out.grad) < TOLERANCE[dtype]


LENET = layers_of(
    {"conv2d": {"filters": 6, "kernel": 5, "padding": "same"}},
    "relu",
    {"max_pool": 2},
    {"conv2d": {"filters": 16, "kernel": 5}},
    "relu",
    {"max_pool": 2},
    "flatten",
    {"dense": 20},
    "tanh",
    {"dense": 10},
)


@DTYPES
def test_a_convolutional_network(dtype: Any) -> None:
    found = stack_errors(LENET, (1, 14, 14), dtype, 19)
    assert max(found.values()) < 10 * TOLERANCE[dtype], found


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_of_training(nesterov: bool) -> None:
    """Thirty steps with momentum and weight decay end at the same weights."""
    rng = np.random.default_rng(1)
    inputs, labels = rng.standard_normal((19, 1, 14, 14)), rng.integers(0, 10, 19).astype(np.int32)
    settings = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov}
    network = Network(LENET, (1, 14, 14), np.float64, seed=1)
    before = network.layout.unpack(network.weights)
    plain = Scaling(np.zeros(1), np.ones(1))
    loss, rule = loss_of("softmax_cross_entropy"), Sgd(learning_rate=0.02, **settings)
    split = Split(inputs, labels, np.arange(19))
    step = TrainingStep(network, 19, loss, Accuracy(0.5), rule, split, plain, plain)

    peers = {name: leaf(array) for name, array in before.items()}
    weights, biases = ([peers[name] for name in peers if name.endswith(end)] for end in ("weight", "bias"))
    # As in nnjit, biases do not decay.
    peer = torch.optim.SGD([{"params": weights}, {"params": biases, "weight_decay": 0}], lr=0.02, **settings)
    for _ in range(30):
        cost = step.run(0) / 19
        peer.zero_grad()
        peer_cost = F.cross_entropy(peer_forward(LENET, torch.tensor(inputs), peers), torch.tensor(labels).long())
        peer_cost.backward()
        peer.step()
        assert cost == pytest.approx(peer_cost.item(), rel=1e-9)
    for name, array in network.layout.unpack(network.weights).items():
        assert error(array, peers[name]) < 1e-9, name
        assert np.abs(array - before[name]).max() > 1e-3, name
