"""A stack of layers bound to shapes: the parameters, and for a batch size the buffers and the kernel calls of a
step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nnjit.buffers import Border, Buffer
from nnjit.kernels.activations import Epilogue
from nnjit.kernels.program import Call
from nnjit.kernels.simd import VECTOR_BYTES, lanes
from nnjit.layers.base import Layer, Shape, layer_shapes
from nnjit.parameters import Layout
from nnjit.pooling import pairs, unpool_call, winners_for
from nnjit.site import Site, Workspace, apply_call, clear_call
from nnjit.stages import each_alone, fuse


class Network:
    """Layers, the shapes between them, and their parameters as one flat vector.

    `weights` is that vector, in the layout `layout`; everything that is bound reads it in place.
    Unless it is `fused`, every layer is a stage of its own, so that a bound network holds every layer's output and its
    gradient. Raises LayerShapeError when a layer does not fit the one before it.
    """

    def __init__(
        self, layers: Sequence[Layer], input_shape: Shape, dtype: Any, seed: int, *, fused: bool = True
    ) -> None:
        self.layers = tuple(layers)
        self.shapes = layer_shapes(layers, input_shape)
        self.dtype = dtype
        parameters = [
            (f"layers.{position}.{parameter.name}", parameter)
            for position, layer in enumerate(self.layers)
            for parameter in layer.parameters(self.shapes[position])
        ]
        self.layout = Layout(parameters, dtype)
        self.weights = self.layout.draw(seed)
        self.stages = (fuse if fused else each_alone)(self.layers, self.shapes)

    @property
    def output_shape(self) -> Shape:
        """The shape of a sample's output."""
        return self.shapes[-1]

    def bind(
        self,
        batch_size: int,
        *,
        training: bool = True,
        input_gradient: bool = False,
        keep_gradients: bool = False,
    ) -> BoundNetwork:
        """Buffers and calls for batches of up to `batch_size` samples.

        Without `training` there is no backward pass; `input_gradient` adds the gradient of the network's input to it.
        Large gradients of images between layers share memory during the pass, unless `keep_gradients` says that they
        are to be read after it.
        """
        return BoundNetwork(self, batch_size, training, input_gradient, keep_gradients)


SHARED_BYTES = 8_000_000
"""What the gradients of all images take at least if they are to share memory: a small network saves little, and does
not have to clear borders (11 of 680 us of LeNet-5's step)."""


@dataclass(frozen=True)
class _Space:
    """Where a gradient lies during the backward pass."""

    number: int
    """How many stages come before what it is the gradient of."""
    shape: Shape
    border: Border
    is_view: bool = False
    """Whether it is the next one's memory under another shape."""
    before_pooling: bool = False
    """Whether it is the gradient of what a stage computes before it pools that."""


class BoundNetwork:
    """A network's buffers and kernel calls for one batch size.

    `x` holds the batch, `out` the result; after the loss has filled `dout`, the backward calls fill `gradients` (the
    layout of the weights) and, if it was asked for, `dx`.
    """

    def __init__(
        self, network: Network, batch_size: int, training: bool, input_gradient: bool, keep_gradients: bool
    ) -> None:
        self.network = network
        self.batch_size = batch_size
        self.blocks = -(-batch_size // lanes(network.dtype))
        self.workspace = Workspace(network.dtype)
        self.gradients = network.layout.zeros() if training else None
        stages = network.stages
        borders = [stage.layer.input_border(stage.shape) for stage in stages]
        outputs = [self._allocate(stages[0].shape, borders[0])] if stages else []
        for stage, border in zip(stages, [*borders[1:], None], strict=True):
            if stage.layer.is_view:
                outputs.append(outputs[-1].reshaped(stage.out_shape))
            else:
                outputs.append(self._allocate(stage.out_shape, border))
        self.x, self.out = outputs[0], outputs[-1]
        spaces = list(self._gradient_spaces(input_gradient)) if training else []
        gradients, computed = self._gradient_buffers(spaces, keep_gradients)
        self.dx, self.dout = gradients[0], gradients[-1]
        self.sites = [
            self._site(number, outputs[number], outputs[number + 1], gradients[number], computed[number + 1])
            for number in range(len(stages))
        ]
        # From the last layer to the first: mostly the one with the most parameters comes first, as the workspace asks.
        for stage, site in zip(reversed(stages), reversed(self.sites), strict=True):
            stage.layer.bind(site)
        for number, gradient in enumerate(gradients[1:]):
            if gradient is not None:
                self._lead_back(number, gradient)

    def _allocate(self, shape: Shape, border: Border | None) -> Buffer:
        return Buffer.allocate(self.blocks, shape, self.network.dtype, border or Border())

    def _gradient_spaces(self, input_gradient: bool) -> Iterator[_Space]:
        """The gradients of a backward pass, in the order in which it fills them; none before the first parameter, where
        they are not used."""
        stages, last = self.network.stages, len(self.network.stages)
        trained = (k for k, stage in enumerate(stages) if stage.layer.parameters(stage.shape))
        first = 0 if input_gradient else next(trained, last)
        for k in range(last, first, -1):
            stage = stages[k - 1]
            border = stage.layer.gradient_border(stage.shape, k - 1 > first or input_gradient) or Border()
            is_view = k < last and stages[k].layer.is_view
            if stage.pooling:
                yield _Space(k, stage.out_shape, Border(), is_view)
                yield _Space(k, stage.layer.output_shape(stage.shape), border, before_pooling=True)
            else:
                yield _Space(k, stage.out_shape, border, is_view and not border.zeros)
        if input_gradient:
            yield _Space(0, self.network.shapes[0], Border(), bool(stages) and stages[0].layer.is_view)

    def _gradient_buffers(
        self, spaces: Sequence[_Space], apart: bool
    ) -> tuple[list[Buffer | None], list[Buffer | None]]:
        """The gradients of the input and of every stage's output; and the same, but of what a stage computes before it
        pools that.

        Unless they are kept `apart`, images share memory if they are large.
        """
        gradients: list[Buffer | None] = [None] * (len(self.network.stages) + 1)
        computed = list(gradients)
        images = [space for space in spaces if not space.is_view and len(space.shape) == 3]
        vectors = self.blocks * sum(math.prod(space.shape) for space in images)
        found: dict[_Space, Buffer] = {}
        if not apart and vectors * VECTOR_BYTES >= SHARED_BYTES:
            places = [(space.shape, space.border) for space in images]
            found = dict(zip(images, Buffer.allocate_in_turns(self.blocks, places, self.network.dtype), strict=True))
        for space in spaces:
            after = gradients[space.number + 1] if space.is_view else None
            buffer = after.reshaped(space.shape) if after else found.get(space)
            buffer = buffer or self._allocate(space.shape, space.border)
            if not space.before_pooling:
                gradients[space.number] = buffer
            computed[space.number] = buffer
        return gradients, computed

    def activation_before(self, number: int) -> str:
        """The activation that was applied to what stage `number` reads, seen through layers that are views; empty for
        none."""
        stages = self.network.stages
        before = number - 1
        while before >= 0 and stages[before].layer.is_view:
            before -= 1
        return stages[before].activation if before >= 0 else ""

    def _site(self, number: int, x: Buffer, out: Buffer, dx: Buffer | None, dout: Buffer | None) -> Site:
        stage, made_by = self.network.stages[number], self.activation_before(number)
        winners = None
        if stage.pooling:
            winners = winners_for(out, pairs(*stage.layer.output_shape(stage.shape)[1:]))
        names = {
            parameter.name: f"layers.{stage.position}.{parameter.name}"
            for parameter in stage.layer.parameters(stage.shape)
        }
        stored = self.network.layout.stored
        derivative = stage.layer.applies_derivative and made_by
        return Site(
            x=x,
            out=out,
            dx=dx,
            dout=dout,
            batch_size=self.batch_size,
            workspace=self.workspace,
            parameters={short: stored(self.network.weights, name) for short, name in names.items()},
            gradients={}
            if self.gradients is None
            else {short: stored(self.gradients, name) for short, name in names.items()},
            epilogue=Epilogue(stage.activation),
            dx_epilogue=Epilogue(made_by, backward=True) if derivative else Epilogue(),
            winners=winners,
            decisions=[] if winners is None else [winners],
        )

    def _lead_back(self, number: int, gradient: Buffer) -> None:
        """Let the backward pass of a stage start with what leads from the `gradient` of its output to its site's dout:
        a border of zeros, the derivative of the activation that it applied, where nothing after it does that, and the
        way back through its pooling. An activation's derivative at the winner is that at the pooled output."""
        stages, site = self.network.stages, self.sites[number]
        stage, after = stages[number], number + 1
        if site.dout is not None and site.dout.clears:
            site.backward_output.append(clear_call(site.dout))
        while after < len(stages) and stages[after].layer.is_view:
            after += 1
        if stage.activation and (after == len(stages) or not stages[after].layer.applies_derivative):
            derivative = Epilogue(stage.activation, backward=True)
            site.backward_output.append(apply_call(derivative, gradient, gradient, site.out))
        if site.winners is not None and site.dout is not None:
            window = pairs(*site.dout.shape[1:])
            site.backward_output.append(unpool_call(window, gradient, site.winners, site.dout, Epilogue(), site.out))

    @property
    def forward(self) -> list[Call]:
        """The calls from `x` to `out`."""
        return [call for site in self.sites for call in site.forward]

    @property
    def backward(self) -> list[Call]:
        """The calls from `dout` to the gradients."""
        return [
            call
            for site in reversed(self.sites)
            for calls in (site.backward_output, site.backward_parameters, site.backward_input)
            for call in calls
        ]

    def named_gradients(self) -> dict[str, NDArray[Any]]:
        """The gradients as arrays of conventional shape."""
        assert self.gradients is not None
        return self.network.layout.unpack(self.gradients)
