"""What a layer is: its fields in YAML, its shape rule, its parameters, and the kernel calls that it binds to
buffers."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

from nnjit.component import Component
from nnjit.initializers import Initializer

if TYPE_CHECKING:
    from nnjit.buffers import Border
    from nnjit.site import Site

Shape: TypeAlias = tuple[int, ...]
"""The shape of one sample: (F,) for a vector, (C, H, W) for an image."""


class ShapeError(ValueError):
    """The input's shape does not fit the layer; the message gives what was expected, what came and the remedy."""


@dataclass(frozen=True)
class Parameter:
    """A trainable array of a layer, as files and messages show it; `Storage` says how the kernels want it."""

    name: str
    shape: tuple[int, ...]
    initializer: Initializer
    fan_in: int
    fan_out: int
    decays: bool
    """Whether weight decay applies: yes for weights, no for biases."""
    lane_rows: bool = False
    """Stored as (ceil(out / L), in, L) instead of (out, in): a dense layer's weights."""


class Example(NamedTuple):
    """A use of a layer that is worth checking: its fields and the shape of its input."""

    fields: dict[str, Any]
    shape: Shape


class Layer(Component):
    """A kind of layer.

    Its kernels are imported when it is bound, so that reading a config does not load the compiler.
    """

    examples: ClassVar[tuple[Example, ...]] = ()
    """Uses in shapes that provoke trouble; the gradient checker and the tests run over all of them."""
    activation: ClassVar[str] = ""
    """The name in `kernels.activations.FUNCTIONS` of a layer that acts on each entry on its own."""
    applies_activation: ClassVar[bool] = False
    """Whether `bind` applies the activation that follows (`Site.epilogue`)."""
    applies_derivative: ClassVar[bool] = False
    """Whether `bind` applies the derivative of the activation before it (`Site.dx_epilogue`)."""
    is_view: ClassVar[bool] = False
    """Whether the output is the input's memory under another shape."""

    @abstractmethod
    def output_shape(self, shape: Shape) -> Shape:
        """The shape of a sample's output for an input of `shape`.

        Raises ShapeError when the layer cannot take such an input.
        """

    def parameters(self, shape: Shape) -> list[Parameter]:
        """The layer's parameters for an input of `shape`; none unless a layer says otherwise."""
        return []

    def multiply_adds(self, shape: Shape) -> int:
        """Multiply-adds of the forward pass for one sample; 0 where the count says nothing about the cost."""
        return 0

    def input_border(self, shape: Shape) -> Border | None:
        """The zeros that the forward pass reads round an input of `shape`; None for none."""
        return None

    def gradient_border(self, shape: Shape) -> Border | None:
        """The zeros that the backward pass reads round the gradient of the output; None for none."""
        return None

    @abstractmethod
    def bind(self, site: Site) -> None:
        """Record the kernel calls of the forward and backward pass over the buffers of `site`."""
