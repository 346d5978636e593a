"""Activation functions: each acts on every entry of its input on its own, except softmax, which normalises a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from nnjit.equations import Equation, Equations, entry_of
from nnjit.layers.base import Example, Layer, Shape, ShapeError

if TYPE_CHECKING:
    from nnjit.site import Site


class Activation(Layer):
    """out = f(x), entry by entry, with a derivative that out alone gives. Input and output of any shape."""

    examples = (Example({}, (7,)), Example({}, (2, 3, 5)), Example({}, (3, 2, 2, 2)))
    takes_channels_in_lanes = True
    function: ClassVar[str]
    """f as a formula of x."""
    derivative: ClassVar[str]
    """f' as a formula of x and out."""

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def equations(self, shape: Shape) -> Equations:
        entry = entry_of(shape)
        x, out = f"x{entry}", f"out{entry}"
        derivative = self.derivative.format(x=x, out=out)
        return Equations(
            (Equation(f"{out} = {self.function.format(x=x)}"),),
            (Equation(f"dx{entry} = dout{entry} * ({derivative})", f"The derivative is ${derivative}$."),),
            "Every entry on its own.",
        )

    def bind(self, site: Site) -> None:
        """A pass of its own: for an activation that the layer before it does not apply."""
        from nnjit.kernels.activations import Epilogue
        from nnjit.site import apply_call

        site.forward.append(apply_call(Epilogue(self.activation), site.x, site.out, site.out))
        if site.dx is not None and site.dout is not None:
            backward = Epilogue(self.activation, backward=True)
            site.backward_input.append(apply_call(backward, site.dout, site.dx, site.out))


class Sigmoid(Activation):
    """out = 1 / (1 + exp(-x)); derivative out * (1 - out)."""

    type: Literal["sigmoid"] = "sigmoid"
    activation = "sigmoid"
    function = "1 / (1 + exp(-{x}))"
    derivative = "{out} * (1 - {out})"


class Tanh(Activation):
    """out = tanh(x); derivative 1 - out**2."""

    type: Literal["tanh"] = "tanh"
    activation = "tanh"
    function = "tanh({x})"
    derivative = "1 - {out} ** 2"


class Relu(Activation):
    """out = max(x, 0); derivative 1 where out > 0, else 0."""

    type: Literal["relu"] = "relu"
    activation = "relu"
    function = "max({x}, 0)"
    derivative = "{out} > 0"


class Softmax(Layer):
    """out[f] = exp(x[f]) / sum over g of exp(x[g]). Input and output (F,).

    A network that ends in softmax for the sake of cross-entropy wants the loss `softmax_cross_entropy` instead, from
    logits.
    """

    type: Literal["softmax"] = "softmax"
    examples = (Example({}, (2,)), Example({}, (11,)))

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ShapeError(f"expected an input of shape (F,), got {shape}; add `- flatten` before it")
        return shape

    def equations(self, shape: Shape) -> Equations:
        (classes,) = shape
        return Equations(
            (
                Equation(
                    f"m = max(x[f], f={classes})",
                    f"The shares are $exp(x[f]) / sum(exp(x[g]), g={classes})$. They stay the same when the largest "
                    "entry is taken off each, and then no exp can overflow (Goodfellow et al. 2016, Deep Learning, "
                    "section 4.1).",
                    (),
                ),
                Equation(f"total = sum(exp(x[g] - m), g={classes})", shape=()),
                Equation("out[f] = exp(x[f] - m) / total"),
            ),
            (
                Equation(
                    f"dx[f] = out[f] * (dout[f] - sum(dout[g] * out[g], g={classes}))",
                    "Every output depends on $x[f]$: its own rises with it, the others fall.",
                ),
            ),
            "A share for each entry.",
        )

    def bind(self, site: Site) -> None:
        from nnjit.kernels.program import Call
        from nnjit.kernels.softmax import softmax_backward, softmax_forward

        extent = site.x.extent
        work = 20 * site.batch_size * extent.rows
        site.forward.append(Call(softmax_forward, extent.blocks, (extent, site.x.view, site.out.view), work))
        if site.dx is not None and site.dout is not None:
            arguments = (extent, site.dout.view, site.out.view, site.dx.view)
            site.backward_input.append(Call(softmax_backward, extent.blocks, arguments, work))
