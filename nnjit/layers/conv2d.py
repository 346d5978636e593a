"""Two-dimensional convolution (what the field calls so: a correlation with trainable kernels)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nnjit.equations import Equation, Equations
from nnjit.initializers import HeNormal, Initializer, Zeros
from nnjit.layers.base import Example, Layer, Parameter, Shape, ShapeError
from nnjit.layers.window import Axis, NamedPadding, PadPair, Pair, axis, no_image, why_size

if TYPE_CHECKING:
    from nnjit.buffers import Border
    from nnjit.passes.convolution import Convolution
    from nnjit.site import Site
    from nnjit.tuning.algorithms import LaneCosts


class Conv2d(Layer):
    """out[f, i, j] = bias[f] + sum over c, u, v of weight[f, c, u, v] * x[c, i * stride + u - top, j * stride + v -
    left]

    Input (C, H, W), output (F, OH, OW); x counts as 0 outside. Parameters: weight (F, C, KH, KW), bias (F,).
    """

    type: Literal["conv2d"] = "conv2d"

    examples = (
        Example({"filters": 1, "kernel": 3}, (1, 5, 7)),
        Example({"filters": 5, "kernel": 4, "padding": "same"}, (3, 5, 6)),
        Example({"filters": 2, "kernel": [3, 2], "padding": "full", "bias": False}, (2, 4, 3)),
        Example({"filters": 3, "kernel": 2, "stride": 3, "padding": 1}, (2, 8, 7)),
        Example({"filters": 2, "kernel": 3, "stride": 2, "padding": "same"}, (1, 6, 9)),
        Example({"filters": 2, "kernel": [2, 3], "stride": [1, 2], "padding": [4, 5]}, (1, 3, 4)),
        Example({"filters": 17, "kernel": 3, "padding": "same"}, (16, 8, 8)),
        Example({"filters": 4, "kernel": 1}, (3, 2, 2)),
        Example({"filters": 17, "kernel": 5, "padding": "same"}, (16, 7, 8)),
        Example({"filters": 17, "kernel": 5}, (16, 8, 8)),
        Example({"filters": 20, "kernel": 3, "padding": "full", "bias": False}, (20, 4, 8)),
        Example({"filters": 16, "kernel": 2, "stride": 2}, (6, 4, 6)),
        Example({"filters": 16, "kernel": 1, "bias": False}, (24, 3, 5)),
        Example({"filters": 3, "kernel": 3, "padding": "same"}, (180, 5, 4)),
        Example({"filters": 90, "kernel": 5, "stride": 2, "padding": 2}, (2, 14, 13)),
        Example({"filters": 1, "kernel": 5}, (60, 9, 12)),
        Example({"filters": 40, "kernel": 1, "stride": [2, 1]}, (16, 3, 5)),
        Example({"filters": 17, "kernel": 6, "stride": 2, "padding": 2}, (16, 16, 15)),
        Example({"filters": 17, "kernel": 4}, (16, 8, 8)),
    )
    applies_activation = True
    applies_derivative = True
    takes_channels_in_lanes = True

    filters: int = Field(ge=1)
    """Number of output maps, F."""
    kernel: Pair
    """Height and width of the kernel, KH and KW; one number for a square."""
    stride: Pair = (1, 1)
    """Vertical and horizontal step; one number for both."""
    padding: NamedPadding | PadPair = "valid"
    """Zeros round the input: valid (none), same (the output keeps the size, divided by the stride), full, or a
    number."""
    bias: bool = True
    """Whether a bias is added to each map."""
    algorithm: Literal["auto", "direct"] = "auto"
    """auto: Winograd's algorithm where it is faster (kernels from 2x2 to 7x7, with a stride of 2 from 3x3 to 14x14 and
    so on), which in float32 errs by some millionths of the largest output; direct: never."""
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
            raise ShapeError(no_image(shape))
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

    def footprint(self, shape: Shape) -> tuple[Shape, Shape]:
        return self.kernel, self.stride

    def applies_pooling(self, shape: Shape) -> bool:
        return self._convolution(shape).pools_pairs

    def lane_costs(self, shape: Shape, samples: int, lanes: int, training: bool, first: bool) -> LaneCosts:
        return self._convolution(shape).lane_costs(samples, lanes, training, first)

    def input_border(self, shape: Shape, alone: int) -> Border:
        return self._convolution(shape).input_border(alone)

    def gradient_border(self, shape: Shape, to_input: bool, alone: int) -> Border:
        return self._convolution(shape).gradient_border(to_input, alone)

    def equations(self, shape: Shape) -> Equations:
        (channels, *_), (filters, height, width) = shape, self.output_shape(shape)
        (high, wide), (down, right) = self.kernel, self.stride
        vertical, horizontal = axes = self.axes(shape)
        seen = f"x[c, i * {down} + u - {vertical.before}, j * {right} + v - {horizontal.before}]"
        taps = f"u={high}, v={wide}"
        bias = "bias[f] + " if self.bias else ""
        outside = "$x$ counts as 0 outside." if any(axis.before or axis.after for axis in axes) else ""
        forward = Equation(f"out[f, i, j] = {bias}sum(weight[f, c, u, v] * {seen}, c={channels}, {taps})", outside)
        spread = "" if self.stride == (1, 1) else f" spread {down} and {right} apart, as the kernel stepped, and"
        above, left = high - 1 - vertical.before, wide - 1 - horizontal.before
        backward = [
            Equation(
                f"padded[f, p, q] = dout[f, (p - {above}) / {down}, (q - {left}) / {right}]",
                f"The gradient of the output is{spread} surrounded by zeros,",
                (filters, shape[1] + high - 1, shape[2] + wide - 1),
            ),
            Equation(
                f"rotated[f, c, u, v] = weight[f, c, {high - 1} - u, {wide - 1} - v]",
                "the kernels are rotated by 180 degrees,",
                (filters, *shape[:1], high, wide),
            ),
            Equation(
                f"dx[c, p, q] = sum(rotated[f, c, u, v] * padded[f, p + u, q + v], f={filters}, {taps})",
                "and one is correlated with the other: the entry of the kernel that took $x[c, p, q]$ into an output "
                "brings that output's gradient back, so what was reached by going right comes back by going left.",
            ),
            Equation(
                f"dweight[f, c, u, v] = sum(dout[f, i, j] * {seen}, i={height}, j={width})",
                "A weight is used at every position; what each of them contributes adds up.",
            ),
        ]
        if self.bias:
            backward.append(
                Equation(f"dbias[f] = sum(dout[f, i, j], i={height}, j={width})", "So it is with a filter's bias.")
            )
        return Equations((forward,), tuple(backward), why_size(shape, self.kernel, self.stride, axes))

    def bind(self, site: Site) -> None:
        self._convolution(site.x.shape).bind(site)

    def _convolution(self, shape: Shape) -> Convolution:
        from nnjit.passes.convolution import Convolution

        direct = self.algorithm == "direct"
        return Convolution(shape, self.filters, self.kernel, self.stride, self.axes(shape), direct)
