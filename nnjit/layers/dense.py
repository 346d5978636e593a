"""Fully connected layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nnjit.equations import Equation, Equations
from nnjit.initializers import HeNormal, Initializer, Zeros
from nnjit.layers.base import Example, Layer, Parameter, Shape, ShapeError

if TYPE_CHECKING:
    from nnjit.site import Site


class Dense(Layer):
    """out[f] = bias[f] + sum over d of weight[f, d] * x[d]

    Input (D,), output (F,). Parameters: weight (F, D), bias (F,).
    """

    type: Literal["dense"] = "dense"
    shorthand = "units"

    examples = (
        Example({"units": 1}, (1,)),
        Example({"units": 3}, (5,)),
        Example({"units": 19, "bias": False}, (23,)),
        Example({"units": 2}, (129,)),
    )
    applies_activation = True
    applies_derivative = True

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

    def takes_apart(self, shape: Shape, samples: int, lanes: int) -> int:
        from nnjit.tuning.algorithms import choose_dense_remainder

        return choose_dense_remainder(samples, lanes)

    def equations(self, shape: Shape) -> Equations:
        (features,) = shape
        bias = "bias[f] + " if self.bias else ""
        forward = (Equation(f"out[f] = {bias}sum(weight[f, d] * x[d], d={features})"),)
        backward = [
            Equation(
                f"dx[d] = sum(weight[f, d] * dout[f], f={self.units})",
                "Input $x[d]$ goes into every output, each time by another weight; the products add up.",
            ),
            Equation("dweight[f, d] = dout[f] * x[d]", "Weight $weight[f, d]$ goes into $out[f]$ alone, times $x[d]$."),
        ]
        if self.bias:
            backward.append(Equation("dbias[f] = dout[f]", "The bias goes into its output as it is."))
        return Equations(forward, tuple(backward), f"An output for each of the {self.units} units.")

    def bind(self, site: Site) -> None:
        from nnjit.passes.dense import DensePasses

        DensePasses(site.x.shape[0], self.units).bind(site)
