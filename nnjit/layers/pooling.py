"""Max and average pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nnjit.equations import Equation, Equations
from nnjit.layers.base import Example, Layer, Shape, ShapeError
from nnjit.layers.window import Axis, PadPair, Pair, axis, no_image, why_size

if TYPE_CHECKING:
    from nnjit.kernels.pooling import Window
    from nnjit.site import Site


class Pooling(Layer):
    """The best or the mean of a sliding window, map by map. Input (C, H, W), output (C, OH, OW)."""

    shorthand = "window"

    examples = (
        Example({"window": 2}, (2, 4, 7)),
        Example({"window": 3, "stride": 2, "padding": 1}, (1, 6, 5)),
        Example({"window": [1, 3], "stride": [2, 4]}, (3, 5, 7)),
        Example({"window": 3, "stride": 1}, (2, 3, 5)),
    )
    applies_derivative = True
    takes_channels_in_lanes = True

    window: Pair
    """Height and width of the window; one number for a square."""
    stride: Pair | None = None
    """Vertical and horizontal step; the window's size unless given."""
    padding: PadPair = (0, 0)
    """Positions added on each side, at most half the window; they never win a maximum nor count in a mean."""

    def axes(self, shape: Shape) -> tuple[Axis, Axis]:
        """The vertical and the horizontal axis for an input of `shape`."""
        stride = self.stride or self.window
        _, height, width = shape
        return (
            axis(height, self.window[0], stride[0], self.padding[0]),
            axis(width, self.window[1], stride[1], self.padding[1]),
        )

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ShapeError(no_image(shape))
        if any(2 * pad > window for pad, window in zip(self.padding, self.window, strict=True)):
            raise ShapeError(f"padding {self.padding} is more than half the window {self.window}")
        vertical, horizontal = self.axes(shape)
        if vertical.size < 1 or horizontal.size < 1:
            raise ShapeError(
                f"a window of {self.window[0]}x{self.window[1]} does not fit an image of shape {shape}; "
                "use a smaller window"
            )
        return (shape[0], vertical.size, horizontal.size)

    def footprint(self, shape: Shape) -> tuple[Shape, Shape]:
        return self.window, self.stride or self.window

    def why_size(self, shape: Shape) -> str:
        """Why the output has its size."""
        return why_size(shape, self.window, self.stride or self.window, self.axes(shape))

    def seen(self, shape: Shape) -> str:
        """The entry of x that entry (u, v) of the window at (i, j) lies on, and what u and v run over."""
        down, right = self.stride or self.window
        vertical, horizontal = self.axes(shape)
        entry = f"x[c, i * {down} + u - {vertical.before}, j * {right} + v - {horizontal.before}]"
        return f"{entry}, u={self.window[0]}, v={self.window[1]}"

    def sends_back(self, shape: Shape, share: str) -> str:
        """dx as the sum of `share` over the windows (i, j) in which a position is entry (u, v)."""
        down, right = self.stride or self.window
        vertical, horizontal = self.axes(shape)
        i, j = f"(p + {vertical.before} - u) / {down}", f"(q + {horizontal.before} - v) / {right}"
        return f"dx[c, p, q] = sum({share.format(at=f'c, {i}, {j}')}, u={self.window[0]}, v={self.window[1]})"

    def sliding(self, shape: Shape) -> Window:
        """The window as the kernels take it, for an input of `shape`."""
        from nnjit.kernels.pooling import Window

        _, height, width = shape
        return Window(height, width, *self.window, *(self.stride or self.window), *self.padding)


class MaxPool(Pooling):
    """out[c, i, j] = max over the window at (i, j) of x[c]; the gradient goes to the first winner in row-major
    order."""

    type: Literal["max_pool"] = "max_pool"

    def equations(self, shape: Shape) -> Equations:
        return Equations(
            (Equation(f"out[c, i, j] = max({self.seen(shape)})"),),
            (
                Equation(
                    f"winner[c, i, j] = argmax({self.seen(shape)})",
                    "The forward pass remembers which entry of each window won, counted in row-major order (on a tie, "
                    "the first).",
                    self.output_shape(shape),
                ),
                Equation(
                    self.sends_back(shape, f"dout[{{at}}] * (winner[{{at}}] == u * {self.window[1]} + v)"),
                    "The gradient goes to the winner; there are only whole $i$ and $j$.",
                ),
            ),
            self.why_size(shape),
        )

    @property
    def pools_pairs(self) -> bool:
        return self.window == (2, 2) and self.stride in (None, (2, 2)) and self.padding == (0, 0)

    def bind(self, site: Site) -> None:
        from nnjit.passes.pooling import decision, pool_call, unpool_call, winners_for

        window = self.sliding(site.x.shape)
        winners = winners_for(site.out, window)
        site.decisions.append(decision(winners, site.out))
        site.forward.append(pool_call(window, site.x, site.out, winners))
        if site.dx is not None and site.dout is not None:
            site.backward_input.append(unpool_call(window, site.dout, winners, site.dx, site.dx_epilogue, site.out))


class AveragePool(Pooling):
    """out[c, i, j] = mean over the window at (i, j) of x[c]; positions outside the image do not count."""

    type: Literal["average_pool"] = "average_pool"

    def equations(self, shape: Shape) -> Equations:
        return Equations(
            (Equation(f"out[c, i, j] = mean({self.seen(shape)})"),),
            (
                Equation(
                    f"inside[c, i, j] = count({self.seen(shape)})",
                    "Each window averaged so many positions; those outside the image do not count.",
                    self.output_shape(shape),
                ),
                Equation(
                    self.sends_back(shape, "dout[{at}] / inside[{at}]"),
                    "They share the gradient equally; there are only whole $i$ and $j$.",
                ),
            ),
            self.why_size(shape),
        )

    def bind(self, site: Site) -> None:
        from nnjit.kernels.pooling import average_pool_backward, average_pool_forward
        from nnjit.kernels.program import Call

        extent, window = site.out.extent, self.sliding(site.x.shape)
        planes = extent.blocks * extent.rows
        positions = planes * extent.lines * extent.columns
        work = 12 * positions * site.lanes * window.kernel_height * window.kernel_width
        site.forward.append(Call(average_pool_forward, planes, (extent, window, site.x.view, site.out.view), work))
        if site.dx is not None and site.dout is not None:
            arguments = (extent, window, site.dout.view, site.dx.view, site.dx_epilogue, site.x.view)
            site.backward_input.append(Call(average_pool_backward, planes, arguments, work))
