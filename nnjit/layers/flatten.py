"""Flatten: an image, or an array of any shape, as a vector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from nnjit.equations import Equation, Equations, entry_of, indices
from nnjit.layers.base import Example, Layer, Shape

if TYPE_CHECKING:
    from nnjit.site import Site


class Flatten(Layer):
    """out[(c * H + i) * W + j] = x[c, i, j], likewise for any number of axes. Input any shape, output (F,) with F the
    number of its entries."""

    type: Literal["flatten"] = "flatten"

    examples = (Example({}, (2, 3, 5)), Example({}, (7,)), Example({}, (3, 5)), Example({}, (2, 3, 2, 2)))
    is_view = True

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def equations(self, shape: Shape) -> Equations:
        size = f"${' * '.join(map(str, shape))} = {math.prod(shape)}$ entries, in row-major order."
        if len(shape) == 1:
            return Equations((Equation("out[f] = x[f]"),), (Equation("dx[f] = dout[f]"),), size)
        first, *others = indices(shape)
        places, at = [f"f // {math.prod(shape[1:])}"], first
        for axis, index in enumerate(others, 1):
            places.append(f"f // {math.prod(shape[axis + 1 :])} % {shape[axis]}")
            at = f"({at}) * {shape[axis]} + {index}"
        forward = Equation(f"out[f] = x[{', '.join(places)}]")
        backward = Equation(f"dx{entry_of(shape)} = dout[{at}]", "Each gradient goes back.")
        return Equations((forward,), (backward,), size)

    def bind(self, site: Site) -> None:
        """Nothing forwards; backwards a copy where the gradient needs a border of zeros that `dout` does not have."""
        from nnjit.kernels.activations import Epilogue
        from nnjit.site import apply_call

        if site.dx is not None and site.dout is not None and site.dx.view.vectors is not site.dout.view.vectors:
            plain = site.dout.reshaped(site.dx.shape)
            site.backward_input.append(apply_call(Epilogue(), plain, site.dx, site.dx))
