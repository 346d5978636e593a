"""A network in numbers, layer by layer; found from shapes alone, before anything is read or compiled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nnjit.config import Config
from nnjit.layers.base import Layer, Shape
from nnjit.stages import backward_order, fuse, share_memory


@dataclass(frozen=True)
class LayerSummary:
    """One layer's row."""

    kind: str
    shape: Shape
    """Of the output of one sample."""
    parameters: int
    multiply_adds: int
    """Of the forward pass for one sample."""
    field: Shape | None
    """Height and width of the part of the network's input that an entry of the output depends on; None for all."""


@dataclass(frozen=True)
class Summary:
    """All layers and their totals."""

    layers: list[LayerSummary]
    parameters: int
    multiply_adds: int
    parameter_bytes: int
    """Of the parameters, their gradients and the optimizer's arrays."""
    activation_bytes: int
    """Of a batch's inputs, and of layer outputs and their gradients as far as they are kept."""


def summarize(config: Config, shapes: Sequence[Shape]) -> Summary:
    """The summary of a network whose input and layer outputs have `shapes` (see `prepare.check_shapes`)."""
    fields = _fields(config.model, shapes)
    layers = [
        LayerSummary(
            kind=layer.kind(),
            shape=after,
            parameters=sum(math.prod(parameter.shape) for parameter in layer.parameters(before)),
            multiply_adds=layer.multiply_adds(before),
            field=field,
        )
        for layer, (before, after), field in zip(config.model, pairwise(shapes), fields, strict=True)
    ]
    parameters = sum(layer.parameters for layer in layers)
    size = 4 if config.train.precision == "float32" else 8
    in_batch = size * config.train.batch_size
    return Summary(
        layers=layers,
        parameters=parameters,
        multiply_adds=sum(layer.multiply_adds for layer in layers),
        parameter_bytes=parameters * size * (2 + len(config.optimizer.state)),
        activation_bytes=(math.prod(shapes[0]) + _kept_entries(config.model, shapes, in_batch)) * in_batch,
    )


def _fields(layers: Sequence[Layer], shapes: Sequence[Shape]) -> list[Shape | None]:
    """The receptive field of each layer's output, at most as large as the input.

    Each window widens the field by (window - 1) of the steps that lie between neighbouring entries of its input.
    Source: Dumoulin & Visin 2016, arXiv:1603.07285, section 1.
    """
    whole = (*shapes[0], 1, 1)[1:3]
    field, step = (1, 1), (1, 1)
    fields: list[Shape | None] = []
    for layer, shape in zip(layers, shapes, strict=False):
        footprint = layer.footprint(shape)
        if footprint is None or (fields and fields[-1] is None):
            fields.append(None)
            continue
        window, stride = footprint
        field = (
            min(field[0] + (window[0] - 1) * step[0], whole[0]),
            min(field[1] + (window[1] - 1) * step[1], whole[1]),
        )
        step = (step[0] * stride[0], step[1] * stride[1])
        fields.append(field)
    return fields


def _kept_entries(layers: Sequence[Layer], shapes: Sequence[Shape], bytes_of_entry: int) -> int:
    """For a sample, the entries of all outputs that have memory of their own, which what a layer applies to its output
    before it is stored has not, and of the gradients, of which large ones of images share the memory of two neighbours.

    An entry takes `bytes_of_entry` for a batch.
    """
    stages = fuse(layers, shapes)
    outputs = sum(math.prod(stage.out_shape) for stage in stages if not stage.layer.is_view)
    gradients = [each for each in backward_order(stages, input_gradient=False) if not each.is_view]
    sizes = [math.prod(each.shape) for each in gradients]
    if not share_memory(gradients, bytes_of_entry):
        return outputs + sum(sizes)
    images = [size for size, each in zip(sizes, gradients, strict=True) if len(each.shape) == 3]
    return outputs + sum(sizes) - sum(images) + max(map(sum, pairwise([0, *images, 0])))
