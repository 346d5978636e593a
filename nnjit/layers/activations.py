"""Activation functions: each acts on every entry of its input on its own, except softmax, which normalises a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nnjit.layers.base import Layer, Shape, ShapeError

if TYPE_CHECKING:
    from nnjit.site import Site


class Activation(Layer):
    """out = f(x), entry by entry, with a derivative that out alone gives. Input and output of any shape."""

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def bind(self, site: Site) -> None:
        raise NotImplementedError


class Sigmoid(Activation):
    """out = 1 / (1 + exp(-x)); derivative out * (1 - out)."""

    type: Literal["sigmoid"] = "sigmoid"


class Tanh(Activation):
    """out = tanh(x); derivative 1 - out**2."""

    type: Literal["tanh"] = "tanh"


class Relu(Activation):
    """out = max(x, 0); derivative 1 where out > 0, else 0."""

    type: Literal["relu"] = "relu"


class Softmax(Layer):
    """out[f] = exp(x[f]) / sum over g of exp(x[g]). Input and output (F,).

    A network that ends in softmax for the sake of cross-entropy wants the loss `softmax_cross_entropy` instead, from logits.
    """

    type: Literal["softmax"] = "softmax"

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ShapeError(f"expected an input of shape (F,), got {shape}; add `- flatten` before it")
        return shape

    def bind(self, site: Site) -> None:
        raise NotImplementedError
