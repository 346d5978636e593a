"""A whole network by reference: a list of layers and a loss, forward and backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnjit.reference.base import LAYERS, LOSSES, Array, Backward

if TYPE_CHECKING:
    from nnjit.layers import Layer
    from nnjit.losses import Loss


@dataclass(frozen=True)
class Result:
    """What one pass over a batch of N samples gives, in float64."""

    loss: float
    """Mean cost of the batch."""
    outputs: list[Array]
    """Each layer's output, (N, *shape)."""
    gradients: dict[str, Array]
    """Gradient of the loss with respect to each parameter, under the parameter's name and of its shape."""
    dx: Array
    """Gradient of the loss with respect to the input, (N, *shape)."""


def forward(
    layers: Sequence[Layer], parameters: Mapping[str, NDArray[Any]], x: NDArray[Any]
) -> tuple[list[Array], list[Backward]]:
    """Each layer's output and its backward pass, in float64.

    x (N, *shape)  parameters by name, in conventional shapes: `layers.0.weight` is the first layer's weight
    """
    outputs: list[Array] = []
    backwards: list[Backward] = []
    out = x.astype(np.float64)
    for index, layer in enumerate(layers):
        prefix = f"layers.{index}."
        own = {
            name.removeprefix(prefix): value.astype(np.float64)
            for name, value in parameters.items()
            if name.startswith(prefix)
        }
        out, backward = LAYERS[layer.kind()](layer, out, own)
        outputs.append(out)
        backwards.append(backward)
    return outputs, backwards


def run(
    layers: Sequence[Layer],
    loss: Loss,
    parameters: Mapping[str, NDArray[Any]],
    x: NDArray[Any],
    target: NDArray[Any],
) -> Result:
    """The loss of a batch, each layer's output, and the gradients with respect to parameters and input.

    x (N, *shape)  target (N, *target_shape), or labels (N,)  parameters by name, as `forward` takes them
    Source: Nielsen 2015, Neural Networks and Deep Learning, chapter 2, the backpropagation algorithm.
    """
    outputs, backwards = forward(layers, parameters, x)
    cost, gradient = LOSSES[loss.kind()](outputs[-1], target)
    gradients: dict[str, Array] = {}
    for index in reversed(range(len(layers))):
        gradient, own = backwards[index](gradient)
        gradients.update({f"layers.{index}.{name}": value for name, value in own.items()})
    return Result(cost, outputs, gradients, gradient)
