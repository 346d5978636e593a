"""The fully connected layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnjit.reference.base import Array, Backward, layer_reference

if TYPE_CHECKING:
    from nnjit.layers.dense import Dense


def dense_forward(x: Array, weight: Array, bias: Array | None) -> Array:
    """out[n,f] = bias[f] + sum over d of weight[f,d] * x[n,d]

    x (N, D)  weight (F, D)  bias (F,) or None  returns out (N, F)
    Source: Nielsen 2015, Neural Networks and Deep Learning, chapter 2, equation 25.
    """
    out = x @ weight.T
    return out if bias is None else out + bias


def dense_backward(dout: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """dx[n,d] = sum over f of dout[n,f] * weight[f,d]

    dweight[f,d] = sum over n of dout[n,f] * x[n,d]
    dbias[f] = sum over n of dout[n,f]

    dout (N, F)  x (N, D)  weight (F, D)  returns dx (N, D), dweight (F, D), dbias (F,)
    Source: Nielsen 2015, Neural Networks and Deep Learning, chapter 2, equations BP2 to BP4.
    """
    return dout @ weight, dout.T @ x, dout.sum(axis=0)


@layer_reference("dense")
def _dense(layer: Dense, x: Array, parameters: dict[str, Array]) -> tuple[Array, Backward]:
    weight = parameters["weight"]
    bias = parameters["bias"] if layer.bias else None

    def backward(dout: Array) -> tuple[Array, dict[str, Array]]:
        dx, dweight, dbias = dense_backward(dout, x, weight)
        return dx, {"weight": dweight, "bias": dbias} if layer.bias else {"weight": dweight}

    return dense_forward(x, weight, bias), backward
