"""Max and average pooling; windows are cut at the image's edge, so padding neither wins nor counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from nnjit.reference.base import Array, Backward, layer_reference
from nnjit.reference.window import Pads, Pair, pads_of, positions

if TYPE_CHECKING:
    from nnjit.layers.pooling import Pooling


def _windows(x: Array, window: Pair, stride: Pair, pads: Pads) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
    """Each output position i, j with the index of the part of x (N, C, H, W) that its window covers."""
    _, _, H, W = x.shape
    (top, _), (left, _) = pads
    for i, j in np.ndindex(positions(x, window, stride, pads)):
        row, column = i * stride[0] - top, j * stride[1] - left
        rows = slice(max(row, 0), min(row + window[0], H))
        columns = slice(max(column, 0), min(column + window[1], W))
        yield i, j, (slice(None), slice(None), rows, columns)


def max_pool_forward(x: Array, window: Pair, stride: Pair, pads: Pads) -> Array:
    """out[n,c,i,j] = max of x[n,c] over the window at (i, j)

    x (N, C, H, W)  returns out (N, C, OH, OW)
    Source: Goodfellow et al. 2016, Deep Learning, section 9.3.
    """
    out = np.zeros((*x.shape[:2], *positions(x, window, stride, pads)), x.dtype)
    for i, j, seen in _windows(x, window, stride, pads):
        out[:, :, i, j] = x[seen].max(axis=(2, 3))
    return out


def max_pool_backward(dout: Array, x: Array, window: Pair, stride: Pair, pads: Pads) -> Array:
    """dx at the maximum of the window at (i, j) collects dout[n,c,i,j].

    Of several maxima the first in row-major order gets it all.

    dout (N, C, OH, OW)  x (N, C, H, W)  returns dx (N, C, H, W)
    Source: Goodfellow et al. 2016, Deep Learning, section 9.3.
    """
    dx = np.zeros_like(x)
    for i, j, seen in _windows(x, window, stride, pads):
        values = x[seen].reshape(*x.shape[:2], -1)
        winner = values.argmax(axis=2)  # the first of several
        won = np.arange(values.shape[2]) == winner[:, :, None]
        dx[seen] += dout[:, :, i, j, None, None] * won.reshape(x[seen].shape)
    return dx


def average_pool_forward(x: Array, window: Pair, stride: Pair, pads: Pads) -> Array:
    """out[n,c,i,j] = mean of x[n,c] over the part of the window at (i, j) that lies on the image

    x (N, C, H, W)  returns out (N, C, OH, OW)
    Source: Dumoulin & Visin 2016, arXiv:1603.07285, section 3.
    """
    out = np.zeros((*x.shape[:2], *positions(x, window, stride, pads)), x.dtype)
    for i, j, seen in _windows(x, window, stride, pads):
        out[:, :, i, j] = x[seen].mean(axis=(2, 3))
    return out


def average_pool_backward(dout: Array, x: Array, window: Pair, stride: Pair, pads: Pads) -> Array:
    """dx at every position that was averaged collects an equal share of dout[n,c,i,j].

    dout (N, C, OH, OW)  x (N, C, H, W), of which only the shape matters  returns dx (N, C, H, W)
    Source: Dumoulin & Visin 2016, arXiv:1603.07285, section 3.
    """
    dx = np.zeros_like(x)
    for i, j, seen in _windows(x, window, stride, pads):
        averaged = dx[seen].shape[2] * dx[seen].shape[3]
        dx[seen] += dout[:, :, i, j, None, None] / averaged
    return dx


def _register(
    kind: str,
    forward: Callable[[Array, Pair, Pair, Pads], Array],
    backward: Callable[[Array, Array, Pair, Pair, Pads], Array],
) -> None:
    @layer_reference(kind)
    def pooling(layer: Pooling, x: Array, parameters: dict[str, Array]) -> tuple[Array, Backward]:
        where = (layer.window, layer.stride or layer.window, pads_of(layer, x))
        return forward(x, *where), lambda dout: (backward(dout, x, *where), {})


_register("max_pool", max_pool_forward, max_pool_backward)
_register("average_pool", average_pool_forward, average_pool_backward)
