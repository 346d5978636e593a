"""How `network.run` finds the reference of a layer or loss: by its kind, registered beside the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

Backward: TypeAlias = Callable[[Array], tuple[Array, dict[str, Array]]]
"""From dout to dx and the gradient of each parameter by its name."""

LayerReference: TypeAlias = Callable[[Any, Array, dict[str, Array]], tuple[Array, Backward]]
"""From a layer's fields, its input x and its parameters by name to its output and its backward pass."""

LossReference: TypeAlias = Callable[[Array, NDArray[Any]], tuple[float, Array]]
"""From the network's output and the targets to the mean cost of the batch and its gradient, dout."""

LAYERS: dict[str, LayerReference] = {}
LOSSES: dict[str, LossReference] = {}


def layer_reference(kind: str) -> Callable[[LayerReference], LayerReference]:
    """Register the decorated function as the reference of the layer `kind`."""

    def register(reference: LayerReference) -> LayerReference:
        LAYERS[kind] = reference
        return reference

    return register


def loss_reference(reference: LossReference) -> LossReference:
    """Register the decorated function as the reference of the loss that has its name."""
    LOSSES[reference.__name__] = reference
    return reference
