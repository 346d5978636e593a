"""Flatten: an image, or an array of any shape, as a vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnjit.reference.base import Array, Backward, layer_reference

if TYPE_CHECKING:
    from nnjit.layers.flatten import Flatten


def flatten_forward(x: Array) -> Array:
    """out[n,(c*H+i)*W+j] = x[n,c,i,j]

    x (N, ...)  returns out (N, F), F the number of entries of one sample
    """
    return x.reshape(len(x), -1)


def flatten_backward(dout: Array, x: Array) -> Array:
    """dx[n,c,i,j] = dout[n,(c*H+i)*W+j]

    dout (N, F)  x (N, ...), of which only the shape matters  returns dx of x's shape
    """
    return dout.reshape(x.shape)


@layer_reference("flatten")
def _flatten(layer: Flatten, x: Array, parameters: dict[str, Array]) -> tuple[Array, Backward]:
    return flatten_forward(x), lambda dout: (flatten_backward(dout, x), {})
