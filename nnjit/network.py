"""A stack of layers bound to shapes: the parameters, and for a batch size the buffers and the kernel calls of a
step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nnjit.buffers import Border, Buffer
from nnjit.kernels.activations import Epilogue
from nnjit.kernels.program import Call
from nnjit.kernels.simd import lanes
from nnjit.layers.base import Layer, Shape, layer_shapes
from nnjit.parameters import Layout
from nnjit.site import Site, Workspace, apply_call


@dataclass
class Stage:
    """A layer with the activation that it applies itself, if one follows."""

    position: int
    """The layer's place in the config."""
    layer: Layer
    shape: Shape
    """Of the input."""
    out_shape: Shape
    activation: str = ""
    """The activation that the layer applies to its output; empty for none."""


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
        self.stages = self._fuse() if fused else self._each_alone()

    @property
    def output_shape(self) -> Shape:
        """The shape of a sample's output."""
        return self.shapes[-1]

    def _fuse(self) -> list[Stage]:
        """The stack as stages: an activation joins the layer before it where that layer can apply it."""
        stages: list[Stage] = []
        for position, layer in enumerate(self.layers):
            last = stages[-1] if stages else None
            if layer.activation and last and last.layer.applies_activation and not last.activation:
                last.activation = layer.activation
            else:
                shape, out_shape = self.shapes[position], self.shapes[position + 1]
                stages.append(Stage(position, layer, shape, out_shape))
        return stages

    def _each_alone(self) -> list[Stage]:
        shapes = zip(self.shapes, self.shapes[1:], strict=False)
        return [Stage(k, layer, *ends) for k, (layer, ends) in enumerate(zip(self.layers, shapes, strict=True))]

    def bind(self, batch_size: int, *, training: bool = True, input_gradient: bool = False) -> BoundNetwork:
        """Buffers and calls for batches of up to `batch_size` samples.

        Without `training` there is no backward pass; `input_gradient` adds the gradient of the network's input to it.
        """
        return BoundNetwork(self, batch_size, training, input_gradient)


class BoundNetwork:
    """A network's buffers and kernel calls for one batch size.

    `x` holds the batch, `out` the result; after the loss has filled `dout`, the backward calls fill `gradients` (the
    layout of the weights) and, if it was asked for, `dx`.
    """

    def __init__(self, network: Network, batch_size: int, training: bool, input_gradient: bool) -> None:
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
        gradients: list[Buffer | None] = [None] * len(outputs)
        if training:
            gradients = self._gradient_buffers(input_gradient)
        self.dx, self.dout = gradients[0], gradients[-1]
        self.sites = [
            self._site(number, outputs, gradients, self.activation_before(number)) for number in range(len(stages))
        ]
        # From the last layer to the first: mostly the one with the most parameters comes first, as the workspace asks.
        for stage, site in zip(reversed(stages), reversed(self.sites), strict=True):
            stage.layer.bind(site)
        if training:
            self._add_derivatives()

    def _allocate(self, shape: Shape, border: Border | None) -> Buffer:
        return Buffer.allocate(self.blocks, shape, self.network.dtype, border or Border())

    def _gradient_buffers(self, input_gradient: bool) -> list[Buffer | None]:
        """The gradient buffer of the input and of every stage's output; none before the first parameter, where it is
        not used."""
        stages = self.network.stages
        buffers: list[Buffer | None] = [None] * (len(stages) + 1)
        first = next(
            (k for k, stage in enumerate(stages) if input_gradient or stage.layer.parameters(stage.shape)), len(stages)
        )
        for k in range(len(stages), -1, -1):
            if k < first or (k == first and not input_gradient):
                break
            border = stages[k - 1].layer.gradient_border(stages[k - 1].shape) if k else None
            shape = stages[k - 1].out_shape if k else stages[0].shape
            after = buffers[k + 1] if k < len(stages) else None
            if after is not None and stages[k].layer.is_view and not (border and border.zeros):
                buffers[k] = after.reshaped(shape)
            else:
                buffers[k] = self._allocate(shape, border)
        return buffers

    def activation_before(self, number: int) -> str:
        """The activation that was applied to what stage `number` reads, seen through layers that are views; empty for
        none."""
        stages = self.network.stages
        before = number - 1
        while before >= 0 and stages[before].layer.is_view:
            before -= 1
        return stages[before].activation if before >= 0 else ""

    def _site(self, number: int, outputs: list[Buffer], gradients: list[Buffer | None], made_by: str) -> Site:
        stage = self.network.stages[number]
        names = {
            parameter.name: f"layers.{stage.position}.{parameter.name}"
            for parameter in stage.layer.parameters(stage.shape)
        }
        stored = self.network.layout.stored
        derivative = stage.layer.applies_derivative and made_by
        return Site(
            x=outputs[number],
            out=outputs[number + 1],
            dx=gradients[number],
            dout=gradients[number + 1],
            batch_size=self.batch_size,
            workspace=self.workspace,
            parameters={short: stored(self.network.weights, name) for short, name in names.items()},
            gradients={}
            if self.gradients is None
            else {short: stored(self.gradients, name) for short, name in names.items()},
            epilogue=Epilogue(stage.activation),
            dx_epilogue=Epilogue(made_by, backward=True) if derivative else Epilogue(),
        )

    def _add_derivatives(self) -> None:
        """Where nothing after a stage applies the derivative of the activation that the stage applied, let it start
        with that."""
        stages = self.network.stages
        for number, (stage, site) in enumerate(zip(stages, self.sites, strict=True)):
            if not stage.activation or site.dout is None:
                continue
            after = number + 1
            while after < len(stages) and stages[after].layer.is_view:
                after += 1
            if after == len(stages) or not stages[after].layer.applies_derivative:
                call = apply_call(Epilogue(stage.activation, backward=True), site.dout, site.dout, site.out)
                site.backward_activation.append(call)

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
            for calls in (site.backward_activation, site.backward_parameters, site.backward_input)
            for call in calls
        ]

    def named_gradients(self) -> dict[str, NDArray[Any]]:
        """The gradients as arrays of conventional shape."""
        assert self.gradients is not None
        return self.network.layout.unpack(self.gradients)
