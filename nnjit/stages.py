"""Which layers are computed together: a stage is a layer with what it does itself to its output before that is stored,
so that nothing passes over memory for it; and which gradients lie between stages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nnjit.layers.base import Layer, Shape


@dataclass
class Stage:
    """A layer with the activation and then the pooling that it applies itself, if they follow."""

    position: int
    """The layer's place in the config."""
    layer: Layer
    shape: Shape
    """Of the input."""
    out_shape: Shape
    activation: str = ""
    """The activation that the layer applies to its output; empty for none."""
    pooling: str = ""
    """The kind of the pooling of 2x2 windows that it applies then; empty for none."""

    @property
    def last(self) -> int:
        """The place in the config of the last layer that the stage computes."""
        return self.position + (self.activation != "") + (self.pooling != "")

    @property
    def kinds(self) -> list[str]:
        """The kinds of the layers that it computes."""
        return [self.layer.kind(), *filter(None, (self.activation, self.pooling))]


def each_alone(layers: Sequence[Layer], shapes: Sequence[Shape]) -> list[Stage]:
    """Every layer as a stage of its own; `shapes` are those of the input and of every layer's output."""
    return [Stage(k, layer, *ends) for k, (layer, ends) in enumerate(zip(layers, pairwise(shapes), strict=True))]


def fuse(layers: Sequence[Layer], shapes: Sequence[Shape]) -> list[Stage]:
    """Likewise, but an activation, and a maximum of 2x2 windows after it, join the layer before where that can apply
    them."""
    stages: list[Stage] = []
    for alone in each_alone(layers, shapes):
        layer, last = alone.layer, stages[-1] if stages else None
        if last is None or last.pooling:
            stages.append(alone)
        elif layer.activation and last.layer.applies_activation and not last.activation:
            last.activation = layer.activation
        elif layer.pools_pairs and last.layer.applies_pooling(last.shape):
            last.pooling, last.out_shape = layer.kind(), alone.out_shape
        else:
            stages.append(alone)
    return stages


SHARED_BYTES = 8_000_000
"""What the gradients of all images take at least if they are to share memory: a small network saves little, and does
not have to clear borders (11 of 680 us of LeNet-5's step)."""


@dataclass(frozen=True)
class Gradient:
    """A gradient that the backward pass fills."""

    number: int
    """How many stages come before what it is the gradient of."""
    shape: Shape
    is_view: bool = False
    """Whether it can be the memory of the next gradient under another shape."""
    before_pooling: bool = False
    """Whether it is the gradient of what a stage computes before it pools that."""


def backward_order(stages: Sequence[Stage], input_gradient: bool) -> Iterator[Gradient]:
    """The gradients of a backward pass in the order in which it fills them; none before the first parameter, where they
    are not used, unless there is to be an `input_gradient`."""
    trained = (k for k, stage in enumerate(stages) if stage.layer.parameters(stage.shape))
    first = 0 if input_gradient else next(trained, len(stages))
    for number in range(len(stages), first, -1):
        stage = stages[number - 1]
        yield Gradient(number, stage.out_shape, number < len(stages) and stages[number].layer.is_view)
        if stage.pooling:
            yield Gradient(number, stage.layer.output_shape(stage.shape), before_pooling=True)
    if input_gradient and stages:
        yield Gradient(0, stages[0].shape, stages[0].layer.is_view)


def share_memory(gradients: Sequence[Gradient], bytes_of_entry: int) -> bool:
    """Whether the gradients of images share memory during the pass, if an entry takes so many bytes for a batch."""
    images = (math.prod(each.shape) for each in gradients if len(each.shape) == 3 and not each.is_view)
    return sum(images) * bytes_of_entry >= SHARED_BYTES
