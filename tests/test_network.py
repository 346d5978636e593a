"""Whole networks: a worked example with published numbers, the messages about shapes, fusing, sharing of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from battery import BoundLoss, Stack, by_reference, errors, layers_of, loss_of
from numpy.testing import assert_allclose

from nnjit import stages
from nnjit.buffers import Buffer
from nnjit.kernels.program import Program
from nnjit.layers import Layer
from nnjit.layers.base import LayerShapeError, layer_shapes
from nnjit.network import Network

# The worked example

TWO_LAYERS = layers_of({"dense": 2}, "sigmoid", {"dense": 2}, "sigmoid")
START = {
    "layers.0.weight": np.array([[0.15, 0.20], [0.25, 0.30]]),
    "layers.0.bias": np.array([0.35, 0.35]),
    "layers.2.weight": np.array([[0.40, 0.45], [0.50, 0.55]]),
    "layers.2.bias": np.array([0.60, 0.60]),
}


class WorkedExample:
    """Mazur 2015, A Step by Step Backpropagation Example, through the kernels in float64."""

    def __init__(self) -> None:
        self.network = Network(TWO_LAYERS, (2,), np.float64, seed=0)
        self.network.layout.pack(START, self.network.weights)
        self.bound = self.network.bind(1)
        self.loss = BoundLoss(loss_of("half_squared_error"), (2,), np.float64, 1)
        self.bound.x.write(np.array([[0.05, 0.10]]))
        self._forward, self._backward = Program(self.bound.forward), Program(self.bound.backward)

    def run(self) -> float:
        """Forward and backward; the cost."""
        self._forward.run()
        costs, dout = self.loss.run(self.bound.out.read(1), np.array([[0.01, 0.99]]))
        assert self.bound.dout is not None
        self.bound.dout.write(dout)
        self._backward.run()
        return float(costs[0])

    def step(self) -> None:
        """A step of 0.5 on the weights alone, as the publication takes it."""
        decayed = self.network.layout.decayed
        assert self.bound.gradients is not None
        self.network.weights[:decayed] -= 0.5 * self.bound.gradients[:decayed]


def assert_digits(actual: Any, published: Any) -> None:
    """The nine decimals that are printed agree."""
    assert_allclose(actual, published, rtol=0, atol=0.5e-9)


def test_the_worked_example_has_the_published_digits() -> None:
    example = WorkedExample()
    cost = example.run()
    hidden, output = (site.out.read(1) for site in example.bound.sites)
    assert_digits(hidden, [[0.593269992, 0.596884378]])
    assert_digits(output, [[0.751365070, 0.772928465]])
    assert_digits(cost, 0.298371109)
    gradients = example.bound.named_gradients()
    assert_digits(gradients["layers.2.bias"], [0.138498562, -0.038098237])
    assert_digits(gradients["layers.2.weight"], [[0.082167041, 0.082667628], [-0.022602540, -0.022740242]])
    assert_digits(gradients["layers.0.weight"], [[0.000438568, 0.000877135], [0.000497713, 0.000995425]])


def test_the_worked_example_learns_as_published() -> None:
    example = WorkedExample()
    example.run()
    costs = []
    for _ in range(10_000):
        example.step()
        costs.append(example.run())
    # After one step the publication prints 0.291027924, which the gradients that it prints do not give.
    assert_digits(costs[0], 0.291027774)
    # The printed 0.0000351085 is the cost that step 10,000 starts from.
    assert_allclose(costs[-2], 0.0000351085, rtol=0, atol=0.5e-10)
    assert_allclose(costs[-1], 0.0000351019, rtol=0, atol=0.5e-10)


# Shapes


def test_shapes_of_three_valid_convolutions() -> None:
    layers = layers_of(*({"conv2d": {"filters": f, "kernel": k}} for f, k in ((64, 9), (32, 1), (1, 5))))
    assert layer_shapes(layers, (1, 33, 33)) == [(1, 33, 33), (64, 25, 25), (32, 25, 25), (1, 21, 21)]


@pytest.mark.parametrize(
    ("specs", "shape", "position", "message"),
    [
        (
            ["relu", {"dense": 3}],
            (1, 8, 8),
            1,
            "expected an input of shape (D,), got (1, 8, 8); add `- flatten` before it",
        ),
        (
            ["softmax"],
            (1, 8, 8),
            0,
            "expected an input of shape (F,), got (1, 8, 8); add `- flatten` before it",
        ),
        (
            ["flatten", {"conv2d": {"filters": 1, "kernel": 3}}],
            (1, 8, 8),
            1,
            "expected an image of shape (C, H, W), got (64,)",
        ),
        (
            [{"conv2d": {"filters": 1, "kernel": 3}}],
            (8, 9),
            0,
            "expected an image of shape (C, H, W), got (8, 9); for one channel, set data.shape to [1, 8, 9]",
        ),
        ([{"average_pool": 2}], (2, 3, 4, 5), 0, "expected an image of shape (C, H, W), got (2, 3, 4, 5)"),
        (["relu", {"dense": 2}], (8, 9), 1, "expected an input of shape (D,), got (8, 9); add `- flatten` before it"),
        (
            [{"dense": 4}, {"max_pool": 2}],
            (5,),
            1,
            "expected an image of shape (C, H, W), got (4,)",
        ),
        (
            [{"conv2d": {"filters": 1, "kernel": [3, 9]}}],
            (1, 8, 8),
            0,
            "a kernel of 3x9 does not fit an image of shape (1, 8, 8) with padding 'valid'; "
            "use a smaller kernel or more padding",
        ),
        (
            [{"max_pool": 2}, {"max_pool": 2}, {"max_pool": 2}, {"average_pool": [2, 1]}],
            (3, 8, 8),
            3,
            "a window of 2x1 does not fit an image of shape (3, 1, 1); use a smaller window",
        ),
        (
            [{"max_pool": {"window": 3, "padding": 2}}],
            (1, 8, 8),
            0,
            "padding (2, 2) is more than half the window (3, 3)",
        ),
    ],
)
def test_shapes_that_do_not_fit(specs: list[Any], shape: tuple[int, ...], position: int, message: str) -> None:
    with pytest.raises(LayerShapeError) as caught:
        Network(layers_of(*specs), shape, np.float32, seed=0)
    assert (caught.value.position, str(caught.value)) == (position, message)


# Binding


def test_activations_join_the_layer_before_them_once() -> None:
    layers = layers_of({"dense": 4}, "relu", "tanh", "flatten", "sigmoid", {"dense": 3}, "softmax")
    stages = Network(layers, (5,), np.float32, seed=0).stages
    assert [(stage.position, stage.layer.kind(), stage.activation) for stage in stages] == [
        (0, "dense", "relu"),
        (2, "tanh", ""),
        (3, "flatten", ""),
        (4, "sigmoid", ""),
        (5, "dense", ""),
        (6, "softmax", ""),
    ]


def test_a_maximum_of_pairs_joins_a_convolution_once() -> None:
    conv2d, pool = {"conv2d": {"filters": 2, "kernel": 3, "padding": "same"}}, {"max_pool": 2}
    layers = layers_of(
        conv2d, "relu", pool, pool, conv2d, pool, "relu",
        conv2d, {"max_pool": {"window": 2, "stride": 1}}, conv2d, {"average_pool": 2},
        "flatten", {"dense": 2},
    )  # fmt: skip
    stages = Network(layers, (1, 33, 65), np.float32, seed=0).stages
    assert [(stage.position, stage.last, "+".join(stage.kinds), stage.out_shape) for stage in stages] == [
        (0, 2, "conv2d+relu+max_pool", (2, 16, 32)),
        (3, 3, "max_pool", (2, 8, 16)),
        (4, 5, "conv2d+max_pool", (2, 4, 8)),
        (6, 6, "relu", (2, 4, 8)),
        (7, 7, "conv2d", (2, 4, 8)),
        (8, 8, "max_pool", (2, 3, 7)),
        (9, 9, "conv2d", (2, 3, 7)),
        (10, 10, "average_pool", (2, 1, 3)),
        (11, 11, "flatten", (6,)),
        (12, 12, "dense", (2,)),
    ]


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


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-4), (np.float64, 1e-11)])
def test_a_convolutional_network_equals_the_reference(dtype: Any, tolerance: float) -> None:
    stack = Stack(LENET, (1, 14, 14), dtype, batch_size=19)
    x, dout = stack.random(19)
    found = errors(stack.run(x, dout), by_reference(LENET, stack.parameters(), x, dout))
    assert max(found.values()) < tolerance, found


def test_without_training_there_is_no_backward_pass() -> None:
    bound = Network(LENET, (1, 14, 14), np.float32, seed=0).bind(19, training=False)
    assert bound.gradients is None and bound.dout is None and bound.dx is None
    assert bound.backward == []


def test_no_gradient_is_computed_before_the_first_parameter() -> None:
    layers: list[Layer] = [*layers_of("tanh", {"max_pool": 2}), *LENET]
    bound = Network(layers, (1, 28, 28), np.float32, seed=0).bind(2)
    assert [site.dout is not None for site in bound.sites[:3]] == [False, False, True]
    assert bound.sites[2].dx is None
    asked = Network(layers, (1, 28, 28), np.float32, seed=0).bind(2, input_gradient=True)
    assert asked.dx is not None and all(site.dx is not None for site in asked.sites)


DEEP = layers_of(
    {"conv2d": {"filters": 3, "kernel": 3, "padding": "same"}},
    "relu",
    {"conv2d": {"filters": 16, "kernel": 5, "padding": 3}},
    "tanh",
    {"conv2d": {"filters": 16, "kernel": 3, "padding": "full"}},
    {"max_pool": 2},
    {"average_pool": 2},
    {"conv2d": {"filters": 4, "kernel": 2, "stride": 2, "padding": 1}},
    {"conv2d": {"filters": 2, "kernel": 3}},
)


def test_gradients_that_share_memory_have_the_same_bits() -> None:
    """Whatever an earlier pass left in it, NaN too."""
    shared, apart = (Stack(DEEP, (2, 15, 14), np.float32, keep_gradients=keep) for keep in (False, True))
    x, dout = shared.random()
    for _ in range(2):
        assert shared.run(x, dout).bits() == apart.run(x, dout).bits()
        for site in shared.bound.sites:
            assert site.dx is not None and site.dout is not None
            for buffer in (site.dx, site.dout):
                buffer.view.vectors[:] = np.nan


def test_gradients_of_images_take_the_memory_of_two() -> None:
    def gradients(keep: bool) -> list[Buffer]:
        bound = Network(DEEP, (2, 15, 14), np.float32, seed=0).bind(16, keep_gradients=keep)
        return [site.dout for site in bound.sites[:3] if site.dout is not None]

    def neighbours(buffers: list[Buffer], apart: int) -> list[bool]:
        pairs = zip(buffers, buffers[apart:], strict=False)
        return [np.shares_memory(one.view.vectors, other.view.vectors) for one, other in pairs]

    shared, apart = gradients(False), gradients(True)
    assert neighbours(shared, 1) == [False, False] and neighbours(shared, 2) == [True]
    assert neighbours(apart, 1) == [False, False] and neighbours(apart, 2) == [False]
    # The first needs no border: its gradient goes to no input.
    assert [buffer.clears for buffer in shared + apart] == [False, True, True] + [False] * 3


def test_small_gradients_have_memory_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def clearing(batch_size: int) -> int:
        bound = Network(DEEP, (2, 15, 14), np.float32, seed=0).bind(batch_size)
        return sum(site.dout is not None and site.dout.clears for site in bound.sites)

    assert clearing(16) == 3
    # A block's gradients take 12,044 vectors.
    monkeypatch.setattr(stages, "SHARED_BYTES", 64 * 2 * 12_044)
    assert (clearing(16), clearing(32)) == (0, 3)


def test_everything_bound_reads_the_networks_weights_in_place() -> None:
    stack = Stack(layers_of({"dense": 3}), (2,), np.float64, batch_size=2)
    x, _ = stack.random(2)
    before = stack.forward(x)
    stack.network.weights *= 2
    assert_allclose(stack.forward(x), 2 * before, rtol=1e-15)


def test_planes_of_every_image_that_is_no_view_are_apart() -> None:
    """An input, an output that nothing reads, what an activation alone, a pooling and a flattening read, and gradients
    of all of them: planes of 16x16 or 8x8."""
    specs = ["tanh", {"conv2d": {"filters": 3, "kernel": 1}}, "tanh", {"average_pool": 2}, "tanh"]
    network = Network(layers_of(*specs), (2, 16, 16), np.float32, 0)
    sites = network.bind(20, input_gradient=True).sites
    buffers = [buffer for site in sites for buffer in (site.x, site.out, site.dx, site.dout)]
    assert {buffer.view.row for buffer in buffers if buffer is not None} == {257, 65}
    flat = Network(layers_of(*specs, "flatten", {"dense": 2}), (2, 16, 16), np.float32, 0).bind(20)
    assert flat.sites[-1].x.view.row == 1 and flat.sites[-3].out.view.row == 64
