"""What a layer is: its fields in YAML, its shape rule, its parameters, and the kernel calls that it binds to
buffers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

from nnjit.component import Component
from nnjit.equations import Equations
from nnjit.initializers import Initializer

if TYPE_CHECKING:
    from nnjit.buffers import Border
    from nnjit.site import Site
    from nnjit.tuning.algorithms import LaneCosts

Shape: TypeAlias = tuple[int, ...]
"""The shape of one sample: (F,) for a vector, (C, H, W) for an image; any other for layers that do not care."""


class ShapeError(ValueError):
    """The input's shape does not fit the layer; the message gives what was expected, what came and the remedy."""


class LayerShapeError(ValueError):
    """A layer cannot take the output of the one before it; `position` is its place in the stack."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


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
    takes_channels_in_lanes: ClassVar[bool] = False
    """Whether `bind` takes sites whose images have channels in lanes; the input may then also be apart, if the layer
    has parameters."""
    is_view: ClassVar[bool] = False
    """Whether the output is the input's memory under another shape."""

    @property
    def pools_pairs(self) -> bool:
        """Whether it is the maximum of 2x2 windows side by side, which a layer before it may apply."""
        return False

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

    def footprint(self, shape: Shape) -> tuple[Shape, Shape] | None:
        """The window of an input of `shape` that an entry of the output depends on and that window's step, both
        (vertical, horizontal); None for all of the input."""
        return ((1, 1), (1, 1)) if self.activation or self.is_view else None

    def applies_pooling(self, shape: Shape) -> bool:
        """Whether `bind` applies the maximum of 2x2 windows that follows (`Site.winners`), for an input of `shape`."""
        return False

    def lane_costs(self, shape: Shape, samples: int, lanes: int, training: bool, first: bool) -> LaneCosts | None:
        """What a batch of `samples` costs with samples and with channels in `lanes` lanes, forwards or in `training`;
        samples come apart to the `first` layer, and no gradient goes on from it. None for little."""
        return None

    def takes_apart(self, shape: Shape, samples: int, lanes: int) -> int:
        """How many of the last of `samples` samples the forward pass computes sample by sample, each with its numbers
        side by side: none, or those that do not fill a block of `lanes`."""
        return 0

    def input_border(self, shape: Shape, alone: int) -> Border | None:
        """The zeros that the forward pass reads round an input of `shape`: of `alone` samples with channels in lanes,
        or of samples in lanes if those are none; None for none."""
        return None

    def gradient_border(self, shape: Shape, to_input: bool, alone: int) -> Border | None:
        """The zeros that the backward pass reads round the gradient of the output, if it goes on to the input or only
        to the parameters: of `alone` samples with channels in lanes, or of samples in lanes if those are none; None for
        none."""
        return None

    def equations(self, shape: Shape) -> Equations | None:
        """The layer written out for an input of `shape`, as `nnjit explain` shows it; None if nobody has."""
        return None

    @abstractmethod
    def bind(self, site: Site) -> None:
        """Record the kernel calls of the forward and backward pass over the buffers of `site`."""


def layer_shapes(layers: Sequence[Layer], input_shape: Shape) -> list[Shape]:
    """The shape of the input and of every layer's output.

    Raises LayerShapeError at the first layer that does not fit, or whose parameters are given in another shape.
    """
    shapes = [input_shape]
    for position, layer in enumerate(layers):
        try:
            shapes.append(layer.output_shape(shapes[-1]))
            for parameter in layer.parameters(shapes[-2]):
                _check_given(parameter)
        except ShapeError as error:
            raise LayerShapeError(position, str(error)) from None
    return shapes


def _check_given(parameter: Parameter) -> None:
    given = parameter.initializer.shape
    if given is not None and given != parameter.shape:
        raise ShapeError(f"expected values of shape {parameter.shape} for the {parameter.name}, got shape {given}")
