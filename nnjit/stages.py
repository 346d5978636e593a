"""Which layers are computed together: a stage is a layer with what it does itself to its output before that is stored,
so that nothing passes over memory for it."""

from __future__ import annotations

from collections.abc import Sequence
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
        elif layer.pools_pairs and last.layer.applies_pooling:
            last.pooling, last.out_shape = layer.kind(), alone.out_shape
        else:
            stages.append(alone)
    return stages
