"""Flatten: an image as a vector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from nnjit.layers.base import Layer, Shape

if TYPE_CHECKING:
    from nnjit.site import Site


class Flatten(Layer):
    """out[(c * H + i) * W + j] = x[c, i, j]. Input any shape, output (F,) with F the number of its entries."""

    type: Literal["flatten"] = "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def bind(self, site: Site) -> None:
        raise NotImplementedError
