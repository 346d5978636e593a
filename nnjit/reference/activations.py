"""Activation functions; each backward pass needs no more than the output of the forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from nnjit.reference.base import Array, Backward, layer_reference

if TYPE_CHECKING:
    from nnjit.layers import Layer


def sigmoid_forward(x: Array) -> Array:
    """out = 1 / (1 + exp(-x))

    x of any shape  returns out of the same shape
    Source: Nielsen 2015, Neural Networks and Deep Learning, chapter 1, equation 3.
    """
    e = np.exp(-np.abs(x))  # of the absolute value, so that exp cannot overflow
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def sigmoid_backward(dout: Array, out: Array) -> Array:
    """dx = dout * out * (1 - out)

    dout, out of any one shape  returns dx of the same shape
    Source: Nielsen 2015, Neural Networks and Deep Learning, chapter 3.
    """
    return dout * out * (1.0 - out)


def tanh_forward(x: Array) -> Array:
    """out = tanh(x)

    x of any shape  returns out of the same shape
    Source: Bishop 2006, Pattern Recognition and Machine Learning, equation 5.59.
    """
    return np.tanh(x)


def tanh_backward(dout: Array, out: Array) -> Array:
    """dx = dout * (1 - out**2)

    dout, out of any one shape  returns dx of the same shape
    Source: Bishop 2006, Pattern Recognition and Machine Learning, equation 5.60.
    """
    return dout * (1.0 - out**2)


def relu_forward(x: Array) -> Array:
    """out = max(x, 0)

    x of any shape  returns out of the same shape
    Source: Goodfellow et al. 2016, Deep Learning, section 6.3.1.
    """
    return np.maximum(x, 0.0)


def relu_backward(dout: Array, out: Array) -> Array:
    """dx = dout where out > 0, else 0

    dout, out of any one shape  returns dx of the same shape
    Source: Goodfellow et al. 2016, Deep Learning, section 6.3.1.
    """
    return np.where(out > 0, dout, 0.0)


def softmax_forward(x: Array) -> Array:
    """out[n,f] = exp(x[n,f]) / sum over g of exp(x[n,g])

    x (N, F)  returns out (N, F)
    Source: Bishop 2006, Pattern Recognition and Machine Learning, equation 4.104.
    """
    e: Array = np.exp(x - x.max(axis=1, keepdims=True))  # the quotient is the same, and exp cannot overflow
    out: Array = e / e.sum(axis=1, keepdims=True)
    return out


def softmax_backward(dout: Array, out: Array) -> Array:
    """dx[n,f] = out[n,f] * (dout[n,f] - sum over g of dout[n,g] * out[n,g])

    dout, out (N, F)  returns dx (N, F)
    Source: Bishop 2006, Pattern Recognition and Machine Learning, equation 4.106.
    """
    mean: Array = (dout * out).sum(axis=1, keepdims=True)
    return out * (dout - mean)


def _register(kind: str, forward: Callable[[Array], Array], backward: Callable[[Array, Array], Array]) -> None:
    @layer_reference(kind)
    def activation(layer: Layer, x: Array, parameters: dict[str, Array]) -> tuple[Array, Backward]:
        out = forward(x)
        return out, lambda dout: (backward(dout, out), {})


_register("sigmoid", sigmoid_forward, sigmoid_backward)
_register("tanh", tanh_forward, tanh_backward)
_register("relu", relu_forward, relu_backward)
_register("softmax", softmax_forward, softmax_backward)
