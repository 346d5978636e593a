"""Fully connected layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nnjit.initializers import HeNormal, Initializer, Zeros
from nnjit.layers.base import Layer, Parameter, Shape, ShapeError

if TYPE_CHECKING:
    from nnjit.site import Site


class Dense(Layer):
    """out[f] = bias[f] + sum over d of weight[f, d] * x[d]

    Input (D,), output (F,). Parameters: weight (F, D), bias (F,).
    """

    type: Literal["dense"] = "dense"
    shorthand = "units"

    units: int = Field(ge=1)
    """Number of outputs, F."""
    bias: bool = True
    """Whether a bias is added."""
    weight_init: Initializer = HeNormal()
    """How the weights start."""
    bias_init: Initializer = Zeros()
    """How the biases start."""

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ShapeError(f"expected an input of shape (D,), got {shape}; add `- flatten` before it")
        return (self.units,)

    def parameters(self, shape: Shape) -> list[Parameter]:
        (features,) = shape
        weight = Parameter("weight", (self.units, features), self.weight_init, features, self.units, True, True)
        bias = Parameter("bias", (self.units,), self.bias_init, features, self.units, False)
        return [weight, bias] if self.bias else [weight]

    def multiply_adds(self, shape: Shape) -> int:
        return self.units * shape[0]

    def bind(self, site: Site) -> None:
        raise NotImplementedError
