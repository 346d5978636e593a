"""Two-dimensional convolution (what the field calls so: a correlation with trainable kernels)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from nnjit.equations import Equation, Equations
from nnjit.initializers import HeNormal, Initializer, Zeros
from nnjit.layers.base import Example, Layer, Parameter, Shape, ShapeError
from nnjit.layers.window import Axis, NamedPadding, PadPair, Pair, axis, why_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nnjit.buffers import Border
    from nnjit.kernels.activations import Epilogue
    from nnjit.kernels.contraction import Extent, View
    from nnjit.kernels.program import Call
    from nnjit.site import Site


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
        Example({"filters": 4, "kernel": 1}, (3, 2, 2)),
    )
    applies_activation = True
    applies_derivative = True

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

    def footprint(self, shape: Shape) -> tuple[Shape, Shape]:
        return self.kernel, self.stride

    def input_border(self, shape: Shape) -> Border:
        from nnjit.buffers import Border

        zeros = []
        for k, on in enumerate(self.axes(shape)):
            last = (on.size - 1) * self.stride[k] + self.kernel[k] - 1 - on.before
            zeros += [on.before, max(0, last - (shape[1 + k] - 1))]
        return Border(*zeros)

    def gradient_border(self, shape: Shape) -> Border:
        from nnjit.buffers import Border

        zeros = []
        for k, on in enumerate(self.axes(shape)):
            phases = _phases(shape[1 + k], on, self.kernel[k], self.stride[k])
            before = min((phase.first for phase in phases), default=0)
            after = max((phase.last for phase in phases), default=0)
            zeros += [max(0, -before), max(0, after - (on.size - 1))]
        return Border(*zeros)

    def equations(self, shape: Shape) -> Equations:
        (channels, *_), (filters, height, width) = shape, self.output_shape(shape)
        (high, wide), (down, right) = self.kernel, self.stride
        vertical, horizontal = axes = self.axes(shape)
        seen = f"x[c, i * {down} + u - {vertical.before}, j * {right} + v - {horizontal.before}]"
        taps = f"u={high}, v={wide}"
        bias = "bias[f] + " if self.bias else ""
        forward = Equation(
            f"out[f, i, j] = {bias}sum(weight[f, c, u, v] * {seen}, c={channels}, {taps})", "$x$ counts as 0 outside."
        )
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
        """A contraction over (c, u, v) forwards; to the weights, over positions and samples; to the input, one
        contraction over (f, u, v) for each phase of the stride: the positions that the same kernel entries reach."""
        import numpy as np

        from nnjit.kernels.contraction import Extent, contract_lanes
        from nnjit.kernels.program import Call
        from nnjit.kernels.sums import sum_rows
        from nnjit.kernels.tuning import choose_tile
        from nnjit.parameters import aligned_zeros

        channels = site.x.shape[0]
        (kernel_height, kernel_width), (down, right) = self.kernel, self.stride
        area = kernel_height * kernel_width
        vertical, horizontal = self.axes(site.x.shape)
        x, out, extent = site.x.view, site.out.view, site.out.extent
        weight = site.parameters["weight"]
        zeros = aligned_zeros((max(channels, self.filters),), site.dtype)
        bias = site.parameters["bias"] if self.bias else zeros
        work = site.batch_size * self.multiply_adds(site.x.shape)

        c, u, v = np.indices((channels, *self.kernel), dtype=np.int64).reshape(3, -1)
        x_taps = c * x.row + u * x.line + v * x.column
        w_taps = np.arange(channels * area, dtype=np.int64)
        window = x._replace(
            start=x.start - vertical.before * x.line - horizontal.before * x.column,
            row=0,
            line=down * x.line,
            column=right * x.column,
        )
        site.forward += _contraction(
            extent, weight, channels * area, w_taps, window, x_taps, bias, out, site.epilogue, out, work
        )
        if site.dout is None:
            return

        dout = site.dout.view
        tile = choose_tile(self.filters, channels * area, extent.lines * extent.columns * extent.blocks)
        tasks = -(-self.filters // tile.rows) * -(-channels * area // tile.columns)
        operands = (tile, extent, dout, window, x_taps, site.gradients["weight"])
        site.backward_parameters.append(Call(contract_lanes, tasks, operands, work))
        if self.bias:
            summed = (extent, dout, site.gradients["bias"])
            positions = site.batch_size * extent.lines * extent.columns
            site.backward_parameters.append(Call(sum_rows, self.filters, summed, 5 * self.filters * positions))
        if site.dx is None:
            return

        dx, y = site.dx.view, site.x.view
        for upper in _phases(site.x.shape[1], vertical, kernel_height, down):
            for lower in _phases(site.x.shape[2], horizontal, kernel_width, right):
                grids = np.meshgrid(np.arange(self.filters), upper.taps, lower.taps, indexing="ij")
                f, u, v = (grid.reshape(-1).astype(np.int64) for grid in grids)
                w_taps = f * channels * area + u * kernel_width + v
                # Position phase + stride * q, tap u: output position q + (phase + before - u) / stride.
                i = (upper.phase + vertical.before - u) // down
                j = (lower.phase + horizontal.before - v) // right
                d_taps = f * dout.row + i * dout.line + j * dout.column
                reached = Extent(extent.blocks, channels, upper.positions, lower.positions)
                to, made = (_at_phases(view, upper, lower, self.stride) for view in (dx, y))
                share = reached.lines * reached.columns * len(w_taps) * channels * site.batch_size
                site.backward_input += _contraction(
                    reached,
                    weight,
                    area,
                    w_taps,
                    dout._replace(row=0),
                    d_taps,
                    zeros,
                    to,
                    site.dx_epilogue,
                    made,
                    share,
                )


def _contraction(
    extent: Extent,
    w: NDArray[Any],
    row_step: int,
    w_taps: NDArray[np.int64],
    x: View,
    x_taps: NDArray[np.int64],
    bias: NDArray[Any],
    out: View,
    epilogue: Epilogue,
    y: View,
    work: int,
) -> list[Call]:
    """The calls for out = epilogue(bias + sum over k of w[row * row_step + w_taps[k]] * x[x_taps[k]], y): the weights
    are put in the order in which a tile reads them, then contracted."""
    import numpy as np

    from nnjit.kernels.contraction import Weights, contract, pack_rows
    from nnjit.kernels.program import Call
    from nnjit.kernels.tuning import choose_tile
    from nnjit.parameters import aligned_zeros

    taps = len(x_taps)
    tile = choose_tile(extent.rows, extent.columns, taps)
    if x.column == 1:
        tile = tile._replace(column_step=1)
    row_tiles = -(-extent.rows // tile.rows)
    packed = aligned_zeros((row_tiles, taps, tile.rows), w.dtype)
    firsts = np.arange(row_tiles, dtype=np.int64) * taps * tile.rows
    weights = Weights(packed.reshape(-1), firsts, np.arange(taps, dtype=np.int64) * tile.rows)
    pack = Call(pack_rows, row_tiles, (tile, extent.rows, w, row_step, w_taps, packed), 30 * packed.size)
    arguments = (tile, extent, weights, x, x_taps, bias, out, epilogue, y)
    return [pack, Call(contract, row_tiles * extent.lines * extent.blocks, arguments, work)]


class Phase(NamedTuple):
    """Input positions phase, phase + stride, ... on one axis: the kernel entries that reach them, how many positions
    there are, and the first and last output position that they read."""

    phase: int
    taps: list[int]
    positions: int
    first: int
    last: int


def _at_phases(view: View, upper: Phase, lower: Phase, stride: tuple[int, int]) -> View:
    """The view of one phase's positions alone."""
    start = view.start + upper.phase * view.line + lower.phase * view.column
    return view._replace(start=start, line=stride[0] * view.line, column=stride[1] * view.column)


def _phases(size: int, on: Axis, kernel: int, stride: int) -> list[Phase]:
    """The phases of an axis of `size` input positions."""
    phases = []
    for phase in range(min(stride, size)):
        taps = [u for u in range(kernel) if (phase + on.before - u) % stride == 0]
        count = (size - 1 - phase) // stride + 1
        offsets = [(phase + on.before - u) // stride for u in taps]
        first, last = min(offsets, default=0), max(offsets, default=0) + count - 1
        phases.append(Phase(phase, taps, count, first, last))
    return phases
