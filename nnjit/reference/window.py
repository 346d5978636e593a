"""What convolution and pooling share: a window that slides over an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from nnjit.reference.base import Array

if TYPE_CHECKING:
    from nnjit.layers.conv2d import Conv2d
    from nnjit.layers.pooling import Pooling

Pair: TypeAlias = tuple[int, int]
"""(vertical, horizontal)"""

Pads: TypeAlias = tuple[Pair, Pair]
"""((top, bottom), (left, right)): positions added round the image, as `numpy.pad` takes them."""


def positions(x: Array, window: Pair, stride: Pair, pads: Pads) -> Pair:
    """OH = floor((H + top + bottom - KH) / stride) + 1, and OW likewise.

    x (N, C, H, W)
    Source: Dumoulin & Visin 2016, arXiv:1603.07285, section 2, relationship 6.
    """
    vertical, horizontal = (
        (size + sum(pad) - extent) // step + 1
        for size, pad, extent, step in zip(x.shape[2:], pads, window, stride, strict=True)
    )
    return vertical, horizontal


def pads_of(layer: Conv2d | Pooling, x: Array) -> Pads:
    """The padding of a layer for an input x (N, C, H, W)."""
    vertical, horizontal = layer.axes(x.shape[1:])
    return (vertical.before, vertical.after), (horizontal.before, horizontal.after)
