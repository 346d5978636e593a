"""Two-dimensional convolution (what the field calls so: a correlation with trainable kernels)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nnjit.initializers import HeNormal, Initializer, Zeros
from nnjit.layers.base import Layer, Parameter, Shape, ShapeError
from nnjit.layers.window import Axis, NamedPadding, PadPair, Pair, axis

if TYPE_CHECKING:
    from nnjit.site import Site


class Conv2d(Layer):
    """out[f, i, j] = bias[f] + sum over c, u, v of weight[f, c, u, v] * x[c, i * stride + u - top, j * stride + v - left]

    Input (C, H, W), output (F, OH, OW); x counts as 0 outside. Parameters: weight (F, C, KH, KW), bias (F,).
    """

    type: Literal["conv2d"] = "conv2d"

    filters: int = Field(ge=1)
    """Number of output maps, F."""
    kernel: Pair
    """Height and width of the kernel, KH and KW; one number for a square."""
    stride: Pair = (1, 1)
    """Vertical and horizontal step; one number for both."""
    padding: NamedPadding | PadPair = "valid"
    """Zeros round the input: valid (none), same (the output keeps the size, divided by the stride), full, or a number."""
    bias: bool = True
    """Whether a bias is added to each map."""
    weight_init: Initializer = HeNormal()
    """How the weights start."""
    bias_init: Initializer = Zeros()
    """How the biases start."""

    def axes(self, shape: Shape) -> tuple[Axis, Axis]:
        """The vertical and the horizontal axis for an input of `shape`."""
        pads = (self.padding, self.padding) if isinstance(self.padding, str) else self.padding
        _, height, width = shape
        return (
            axis(height, self.kernel[0], self.stride[0], pads[0]),
            axis(width, self.kernel[1], self.stride[1], pads[1]),
        )

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ShapeError(f"expected an image of shape (C, H, W), got {shape}")
        vertical, horizontal = self.axes(shape)
        if vertical.size < 1 or horizontal.size < 1:
            raise ShapeError(
                f"a kernel of {self.kernel[0]}x{self.kernel[1]} does not fit an image of shape {shape} "
                f"with padding {self.padding!r}; use a smaller kernel or more padding"
            )
        return (self.filters, vertical.size, horizontal.size)

    def parameters(self, shape: Shape) -> list[Parameter]:
        area = self.kernel[0] * self.kernel[1]
        fan_in, fan_out = shape[0] * area, self.filters * area
        weight = Parameter("weight", (self.filters, shape[0], *self.kernel), self.weight_init, fan_in, fan_out, True)
        bias = Parameter("bias", (self.filters,), self.bias_init, fan_in, fan_out, False)
        return [weight, bias] if self.bias else [weight]

    def multiply_adds(self, shape: Shape) -> int:
        filters, height, width = self.output_shape(shape)
        return filters * height * width * shape[0] * self.kernel[0] * self.kernel[1]

    def bind(self, site: Site) -> None:
        raise NotImplementedError
