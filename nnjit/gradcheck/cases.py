"""A small network for every registered layer, activation and loss, in shapes that provoke trouble."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nnjit.gradcheck.probe import Probe
from nnjit.kernels.simd import lanes
from nnjit.layers import Layer, Shape
from nnjit.layers.conv2d import Conv2d
from nnjit.layers.dense import Dense
from nnjit.losses import HalfSquaredError, Loss
from nnjit.network import Network

JITTER = 0.1
"""Standard deviation of what is added to every parameter: biases that start at 0 would put blank inputs on a relu's
kink."""


@dataclass(frozen=True)
class Case:
    """A network on random inputs and targets."""

    title: str
    kinds: tuple[str, ...]
    """The kinds of layer or loss that it is there for."""
    layers: tuple[Layer, ...]
    shape: Shape
    loss: Loss
    samples: int

    def probe(self, dtype: Any, seed: int) -> Probe:
        """The network, bound, with standard normal inputs and random targets."""
        network = Network(self.layers, self.shape, np.dtype(dtype), seed)
        rng = np.random.default_rng(seed)
        jitter(network, rng)
        inputs = rng.normal(size=(self.samples, *self.shape))
        return Probe(network, self.loss, inputs, self._targets(network.output_shape, rng))

    def _targets(self, shape: Shape, rng: np.random.Generator) -> NDArray[Any]:
        if self.loss.needs_labels:
            return rng.integers(0, shape[0], self.samples)
        return rng.uniform(size=(self.samples, *shape))


def jitter(network: Network, rng: np.random.Generator) -> None:
    """Move every parameter a little, as a few steps of training would."""
    layout = network.layout
    values = {
        name: array + rng.normal(0, JITTER, array.shape) for name, array in layout.unpack(network.weights).items()
    }
    layout.pack(values, network.weights)


def cases(dtype: Any) -> Iterator[Case]:
    """Every example of every layer; every activation where layers apply it; every loss."""
    full_block = lanes(dtype)
    for kind, layer_class in Layer.kinds().items():
        for number, example in enumerate(cast(type[Layer], layer_class).examples):
            layer = cast(Layer, layer_class.model_validate(example.fields))
            samples = (full_block + 3, 1, full_block)[number % 3]
            yield Case(
                f"{kind} {describe(example.fields)}, input {example.shape}, {plural(samples, 'sample')}",
                (kind,),
                (layer,),
                example.shape,
                HalfSquaredError(),
                samples,
            )
    for kind, layer_class in Layer.kinds().items():
        if cast(type[Layer], layer_class).activation:
            yield _applied(kind, full_block + 3)
    # Few samples have channels in lanes.
    yield _applied("relu", 2)
    for kind, loss_class in Loss.kinds().items():
        loss = cast(Loss, loss_class())
        outputs: list[Layer] = [Dense(units=7), Dense(units=2)]
        if not loss.needs_labels:
            # One output tells no classes apart: softmax is 1 whatever it is, and every gradient 0.
            outputs[1:] = [Dense(units=1), Conv2d(filters=2, kernel=(1, 1))]
        for layer, samples in zip(outputs, (full_block + 3, 3, 1), strict=False):
            shape: Shape = (2, 3, 3) if isinstance(layer, Conv2d) else (4,)
            title = f"loss {kind}, output {layer.output_shape(shape)}, {plural(samples, 'sample')}"
            yield Case(title, (kind,), (layer,), shape, loss, samples)


def _applied(kind: str, samples: int) -> Case:
    """An activation as other layers apply it: after a convolution and a dense layer, before pooling and a dense
    layer."""
    described: list[Any] = [
        {"type": "conv2d", "filters": 6, "kernel": 3, "padding": "same"},
        kind,
        {"type": "average_pool", "window": 2},
        {"type": "conv2d", "filters": 5, "kernel": 2},
        kind,
        {"type": "max_pool", "window": 2},
        "flatten",
        {"type": "dense", "units": 17},
        kind,
        {"type": "dense", "units": 9},
        kind,
    ]
    kinds = Layer.kinds()
    layers = tuple(
        cast(Layer, kinds[item["type"]].model_validate(item)) for item in (Layer.expand(entry) for entry in described)
    )
    title = f"{kind} applied by conv2d and dense, {plural(samples, 'sample')}"
    return Case(title, (kind,), layers, (2, 6, 6), HalfSquaredError(), samples)


def describe(fields: dict[str, Any]) -> str:
    """Fields as YAML would show them on one line."""
    inside = ", ".join(
        f"{name}: {str(value).lower() if isinstance(value, bool) else value}" for name, value in fields.items()
    )
    return f"{{{inside}}}"


def plural(count: int, noun: str) -> str:
    """`1 sample`, `2 samples`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
