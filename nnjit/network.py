"""A stack of layers bound to shapes: the parameters, and for a batch size the buffers and the kernel calls of a
step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from nnjit.buffers import Border, Buffer, Space
from nnjit.kernels.activations import Epilogue
from nnjit.kernels.program import Call
from nnjit.kernels.simd import VECTOR_BYTES, lanes
from nnjit.layers.base import Layer, Shape, layer_shapes
from nnjit.parameters import Layout
from nnjit.passes.pooling import decision, pairs, unpool_call, winners_for
from nnjit.site import Site, Workspace, apply_call, clear_call, from_channels_call, to_channels_call
from nnjit.stages import Gradient, Stage, backward_order, each_alone, fuse, share_memory
from nnjit.tuning.algorithms import LaneCosts, choose_channels_in_lanes


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
        fixed: bool = False,
        input_gradient: bool = False,
        keep_gradients: bool = False,
    ) -> BoundNetwork:
        """Buffers and calls for batches of up to `batch_size` samples.

        Without `training` there is no backward pass; `input_gradient` adds the gradient of the network's input to it.
        If the parameters are `fixed`, `preparation` has to run before the first pass, and none of them may change then.
        Large gradients of images between layers share memory during the pass, unless `keep_gradients` says that they
        are to be read after it.
        """
        return BoundNetwork(self, batch_size, training, fixed, input_gradient, keep_gradients)


class BoundNetwork:
    """A network's buffers and kernel calls for one batch size.

    `x` holds the batch, `out` the result; after the loss has filled `dout`, the backward calls fill `gradients` (the
    layout of the weights) and, if it was asked for, `dx`.
    """

    def __init__(
        self,
        network: Network,
        batch_size: int,
        training: bool,
        fixed: bool,
        input_gradient: bool,
        keep_gradients: bool,
    ) -> None:
        self.network = network
        self.batch_size = batch_size
        self.fixed = fixed
        self.blocks = -(-batch_size // lanes(network.dtype))
        self.workspace = Workspace(network.dtype)
        self.gradients = network.layout.zeros() if training else None
        stages = network.stages
        self.channels_in_lanes = self._count_channels_in_lanes(training)
        # What the first stage reads comes as samples, as does what the first one without channels in lanes reads.
        borders = [
            _border_between(
                stage.shape,
                stage.layer.input_border(stage.shape, batch_size if 0 < number < self.channels_in_lanes else 0),
                stage.layer.is_view,
            )
            for number, stage in enumerate(stages)
        ]
        borders += [_border_between(stage.out_shape, None, is_view=False) for stage in stages[-1:]]
        apart = [not training and self._takes_apart(stage) for stage in stages]
        comes_apart = self.channels_in_lanes > 0 or any(apart) and self._stays_apart(apart, 0)
        outputs = [self._allocate(stages[0].shape, borders[0], apart=comes_apart)] if stages else []
        # What each stage makes: what the next one reads, but for the last one with channels in lanes.
        made = list(outputs)
        for number, (stage, border) in enumerate(zip(stages, borders[1:], strict=True), 1):
            stays = any(apart) and self._stays_apart(apart, number)
            if number <= self.channels_in_lanes:
                made.append(self._allocate(stage.out_shape, border, channels_in_lanes=True))
                leaves = number == self.channels_in_lanes and (training or number < len(stages))
                outputs.append(self._allocate(stage.out_shape, border, apart=stays) if leaves else made[-1])
                continue
            if stage.layer.is_view:
                outputs.append(outputs[-1].reshaped(stage.out_shape))
            else:
                outputs.append(self._allocate(stage.out_shape, border, apart=apart[number - 1] and stays))
            made.append(outputs[-1])
        self.x, self.out = outputs[0], outputs[-1]
        gradients: list[Buffer | None] = [None] * len(outputs)
        computed = gradients
        if training:
            gradients, computed = self._gradient_buffers(input_gradient, keep_gradients)
        self.dx, self.dout = gradients[0], gradients[-1]
        self.sites = [
            self._site(number, outputs[number], made[number + 1], gradients[number], computed[number + 1])
            for number in range(len(stages))
        ]
        # From the last layer to the first: mostly the one with the most parameters comes first, as the workspace asks.
        for stage, site in zip(reversed(stages), reversed(self.sites), strict=True):
            stage.layer.bind(site)
        left = self.channels_in_lanes
        if made[left] is not outputs[left]:
            self.sites[left - 1].forward.append(from_channels_call(made[left], outputs[left]))
        for number, gradient in enumerate(gradients[1:]):
            if gradient is not None:
                self._lead_back(number, gradient)

    def _count_channels_in_lanes(self, training: bool) -> int:
        """How many stages from the first on have their images with channels in lanes."""
        stages, width = self.network.stages, lanes(self.network.dtype)
        count, costs = 0, LaneCosts()
        while count < len(stages) and stages[count].layer.takes_channels_in_lanes and len(stages[count].shape) == 3:
            stage = stages[count]
            of_layer = stage.layer.lane_costs(stage.shape, self.batch_size, width, training, count == 0)
            costs += of_layer or LaneCosts()
            count += 1
        starts = count > 0 and len(stages[0].layer.parameters(stages[0].shape)) > 0
        return count if starts and choose_channels_in_lanes(self.batch_size, width, costs) else 0

    def _takes_apart(self, stage: Stage) -> bool:
        """Whether it computes all samples one by one."""
        return stage.layer.takes_apart(stage.shape, self.batch_size, lanes(self.network.dtype)) == self.batch_size

    def _stays_apart(self, apart: Sequence[bool], number: int) -> bool:
        """Whether samples may stay apart for stage `number`, if these stages compute them so: it is one of them, or the
        first that is no view after it, or there is none."""
        stages = self.network.stages
        while number < len(stages) and stages[number].layer.is_view:
            number += 1
        return number == len(stages) or apart[number]

    def _allocate(
        self, shape: Shape, border: Border, *, apart: bool = False, channels_in_lanes: bool = False
    ) -> Buffer:
        if apart:
            return Buffer.allocate_apart(self.batch_size, shape, self.network.dtype, border)
        if channels_in_lanes:
            return Buffer.allocate_channels_in_lanes(self.batch_size, shape, self.network.dtype, border)
        return Buffer.allocate(self.blocks, shape, self.network.dtype, border)

    def _border(self, gradient: Gradient, input_gradient: bool) -> Border:
        """The zeros round a gradient that the stage before it reads."""
        stage = self.network.stages[gradient.number - 1]
        border = None
        if gradient.number > 0 and (gradient.before_pooling or not stage.pooling):
            before = self.network.stages[: gradient.number - 1]
            to_input = input_gradient or any(each.layer.parameters(each.shape) for each in before)
            alone = self.batch_size if gradient.number <= self.channels_in_lanes else 0
            border = stage.layer.gradient_border(stage.shape, to_input, alone)
        return _border_between(gradient.shape, border, gradient.is_view)

    def _gradient_buffers(self, input_gradient: bool, keep: bool) -> tuple[list[Buffer | None], list[Buffer | None]]:
        """The gradients of the input and of every stage's output; and the same, but of what a stage computes before it
        pools that. Large ones of images share memory, unless they are to `keep`."""
        gradients: list[Buffer | None] = [None] * (len(self.network.stages) + 1)
        computed = list(gradients)
        borders = {
            each: self._border(each, input_gradient) for each in backward_order(self.network.stages, input_gradient)
        }
        # What leads back to images with channels in lanes has samples there, and is turned.
        turned = {each: border for each, border in borders.items() if self._is_turned(each)}
        borders |= dict.fromkeys(turned, Border())
        views = {each for each, border in borders.items() if each.is_view and not border.zeros}
        found: dict[Gradient, Buffer] = {}
        size = self.blocks * VECTOR_BYTES
        if self.channels_in_lanes:
            size = self.batch_size * self.network.layout.dtype.itemsize
        if not keep and share_memory(list(borders), size):
            images = [each for each in borders if len(each.shape) == 3 and each not in views]
            spaces = [
                Space(each.shape, borders[each], self.batch_size if in_lanes else self.blocks, in_lanes)
                for each in images
                for in_lanes in (self._has_channels_in_lanes(each),)
            ]
            found = dict(zip(images, Buffer.allocate_in_turns(spaces, self.network.dtype), strict=True))
        for each, border in borders.items():
            after = gradients[each.number + 1] if each in views else None
            buffer = after.reshaped(each.shape) if after else found.get(each)
            in_lanes = self._has_channels_in_lanes(each)
            buffer = buffer or self._allocate(each.shape, border, channels_in_lanes=in_lanes)
            if not each.before_pooling:
                gradients[each.number] = buffer
            if each in turned:
                buffer = self._allocate(each.shape, turned[each], channels_in_lanes=True)
            computed[each.number] = buffer
        return gradients, computed

    def _has_channels_in_lanes(self, gradient: Gradient) -> bool:
        """Whether it has channels in lanes from the start."""
        within = 0 < self.channels_in_lanes >= gradient.number
        return within and not self._is_turned(gradient)

    def _is_turned(self, gradient: Gradient) -> bool:
        """Whether it leads back from samples in lanes to channels."""
        return 0 < self.channels_in_lanes == gradient.number and not gradient.before_pooling

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
            fixed=self.fixed,
            workspace=self.workspace,
            parameters={short: stored(self.network.weights, name) for short, name in names.items()},
            gradients={}
            if self.gradients is None
            else {short: stored(self.gradients, name) for short, name in names.items()},
            epilogue=Epilogue(stage.activation),
            dx_epilogue=Epilogue(made_by, backward=True) if derivative else Epilogue(),
            winners=winners,
            decisions=[] if winners is None else [decision(winners, out)],
        )

    def _lead_back(self, number: int, gradient: Buffer) -> None:
        """Let the backward pass of a stage start with what leads from the `gradient` of its output to its site's dout:
        a border of zeros, the derivative of the activation that it applied, where nothing after it does that, and the
        way back through its pooling. An activation's derivative at the winner is that at the pooled output."""
        stages, site = self.network.stages, self.sites[number]
        stage, after = stages[number], number + 1
        if after == self.channels_in_lanes and site.dout is not None:
            turned = site.dout
            if site.winners is not None:
                turned = self._allocate(gradient.shape, Border(), channels_in_lanes=True)
            site.backward_output.append(to_channels_call(gradient, turned))
            gradient = turned
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
    def preparation(self) -> list[Call]:
        """The calls that come before the first pass, if the parameters are fixed."""
        return [call for site in self.sites for call in site.preparation]

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


def _border_between(shape: Shape, zeros: Border | None, is_view: bool) -> Border:
    """The border of a buffer between two stages, of which one reads `zeros` round it; planes of an image are apart, if
    the buffer is not to be a view of another shape."""
    border = zeros or Border()
    return border if is_view or len(shape) != 3 else border.apart(*shape[1:])
