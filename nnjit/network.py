"""A stack of layers bound to shapes: the parameters, and for a batch size the buffers and the kernel calls of a
step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from nnjit.buffers import Border, Buffer
from nnjit.kernels.activations import Epilogue
from nnjit.kernels.program import Call
from nnjit.kernels.simd import lanes
from nnjit.layers.base import Layer, Shape, layer_shapes
from nnjit.parameters import Layout
from nnjit.pooling import pairs, unpool_call, winners_for
from nnjit.site import Site, Workspace, apply_call
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
        self.sites = [self._site(number, outputs, gradients) for number in range(len(stages))]
        # From the last layer to the first: mostly the one with the most parameters comes first, as the workspace asks.
        for stage, site in zip(reversed(stages), reversed(self.sites), strict=True):
            stage.layer.bind(site)
        for number, gradient in enumerate(gradients[1:]):
            if gradient is not None:
                self._lead_back(number, gradient)

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
            border = None
            if k and not stages[k - 1].pooling:
                border = stages[k - 1].layer.gradient_border(stages[k - 1].shape)
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

    def _site(self, number: int, outputs: list[Buffer], gradients: list[Buffer | None]) -> Site:
        stage, made_by = self.network.stages[number], self.activation_before(number)
        out, dout, winners, decisions = outputs[number + 1], gradients[number + 1], None, []
        if stage.pooling:
            computed = stage.layer.output_shape(stage.shape)
            winners = winners_for(out, pairs(*computed[1:]))
            decisions.append(winners)
            if dout is not None:
                dout = self._allocate(computed, stage.layer.gradient_border(stage.shape))
        names = {
            parameter.name: f"layers.{stage.position}.{parameter.name}"
            for parameter in stage.layer.parameters(stage.shape)
        }
        stored = self.network.layout.stored
        derivative = stage.layer.applies_derivative and made_by
        return Site(
            x=outputs[number],
            out=out,
            dx=gradients[number],
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
            decisions=decisions,
        )

    def _lead_back(self, number: int, gradient: Buffer) -> None:
        """Let the backward pass of a stage start with what leads from the `gradient` of its output to its site's dout:
        the derivative of the activation that it applied, where nothing after it does that, and the way back through
        its pooling. An activation's derivative at the winner is that at the pooled output."""
        stages, site = self.network.stages, self.sites[number]
        stage, after = stages[number], number + 1
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
