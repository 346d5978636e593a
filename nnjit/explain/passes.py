"""The numbers that an explanation shows: one sample's forward and backward pass, by nnjit's own kernels in float64.

Training lets a layer apply the activation that follows it, which hides what lies between; here every layer is bound as
a stage of its own (`Network(..., fused=False)`), so that each output and each gradient can be read. `fused_difference`
says how far the network as training binds it is from that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnjit.explain.subject import Subject
from nnjit.gradcheck.check import RETRIES, TOLERANCES, relative_error
from nnjit.gradcheck.configured import require_finite, scaled
from nnjit.gradcheck.difference import Gradient, Line, rounding_of_difference
from nnjit.gradcheck.probe import Probe, Tensor
from nnjit.gradcheck.rounding import measure
from nnjit.kernels.program import Program
from nnjit.network import Network
from nnjit.optimizers import Optimizer, OptimizerSite
from nnjit.trained import chosen_classes

Array: TypeAlias = NDArray[np.float64]

FLOAT = np.dtype(np.float64)
TOLERANCE = TOLERANCES[FLOAT.name]
"""The relative error up to which a difference confirms a gradient."""


@dataclass(frozen=True)
class Confirmation:
    """A gradient beside the difference of the cost; without numbers where that crosses a kink on both sides."""

    numeric: float | None
    error: float | None
    rounding: float
    """By how much rounding may have moved the gradient."""
    one_sided: bool = False
    """Whether there is a kink on one side, and the difference is that of the other."""

    @property
    def contradicts(self) -> bool:
        """Whether the two differ by more than rounding and truncation explain."""
        return self.error is not None and not self.error <= TOLERANCE


class Passes:
    """One sample of a network's split through it."""

    def __init__(self, subject: Subject, sample: int) -> None:
        config, split = subject.config, subject.split
        row = split.rows[sample : sample + 1]
        x = scaled(split.inputs[row], subject.inputs)
        assert split.targets is not None
        target = split.targets[row]
        self.label = None if subject.classes is None else subject.classes[int(target.item())]
        if self.label is None:
            target = scaled(target, subject.targets)
        self.network = _network(subject, fused=False)
        self._probe = Probe(self.network, config.loss, x, target)
        self._probe.backward()
        bound = self._probe.bound
        self.target: Array = self._probe.target.read(1)[0]
        self.outputs: list[Array] = [bound.x.read(1)[0], *(site.out.read(1)[0] for site in bound.sites)]
        """The input and every layer's output."""
        self.gradients: list[Array] = []
        """The gradients of the cost with respect to them."""
        for buffer in (bound.dx, *(site.dout for site in bound.sites)):
            assert buffer is not None
            self.gradients.append(buffer.read(1)[0])
        self.parameters: dict[str, Array] = self.network.layout.unpack(self.network.weights)
        self.parameter_gradients: dict[str, Array] = bound.named_gradients()
        self.cost = self._probe.cost()
        require_finite(self.cost, f"sample {sample} of the {subject.split_name} split", "explain")
        self.fused_difference = self._compare_fused(subject, x, target)
        self.answer = None
        """The class that the network gives the sample, if its outputs stand for classes."""
        if subject.classes is not None:
            self.answer = subject.classes[chosen_classes(config.loss, self.outputs[-1][None])[0]]
        self._rounding = measure(self._probe, self._probe)
        self._gradients = {tensor.name: self._gradient(tensor) for tensor in [*self._probe.tensors(), self._output()]}

    def confirm(self, name: str, place: tuple[int, ...], gradient: float) -> Confirmation:
        """The difference for one entry of a tensor: `layers.2.input`, `layers.2.weight` or `output`.

        Central, unless a relu or a maximum decides otherwise there than at the entry itself. A relu of exactly 0 (a
        bias of 0 and blank inputs, say) does so on one side: then it is the difference on the other, which sees the
        same branches as the gradient.
        """
        # A layer's input has the sample in front, of which there is one.
        entry = int(np.ravel_multi_index(place, self._gradients[name].tensor.shape[-len(place) :]))
        self._probe.cost()
        line = Line.through(self._gradients[name], entry)
        step = line.first_step()
        for _ in range(1 + RETRIES):
            numeric = line.extrapolated(step)
            if numeric is not None:
                return self._confirmation(gradient, line.rounding, numeric, step)
            for side in (step, -step):
                numeric = self._one_sided(self._gradients[name].tensor, entry, side)
                if numeric is not None:
                    return self._confirmation(gradient, line.rounding, numeric, step, one_sided=True)
            step /= 8
        return Confirmation(None, None, line.rounding)

    def _confirmation(
        self, gradient: float, rounding: float, numeric: float, step: float, one_sided: bool = False
    ) -> Confirmation:
        # As gradcheck counts it; a difference on one side is extrapolated from smaller steps.
        difference = rounding_of_difference(self.cost, step / 8 if one_sided else step, self._rounding.cost)
        floor = (difference + rounding) / TOLERANCE
        return Confirmation(numeric, relative_error(gradient, numeric, floor), rounding, one_sided)

    def _one_sided(self, tensor: Tensor, entry: int, step: float) -> float | None:
        """The difference between the cost at an entry and at the entry plus `step`, half and a quarter of it,
        extrapolated to a step of 0 with an error of order step**3; None at a kink."""
        probe, memory, place = self._probe, tensor.memory, tensor.places[entry]
        value, cost, decisions = memory[place], probe.cost(tensor.stage), probe.decisions(tensor.stage)
        found = []
        for part in (step, step / 2, step / 4):
            memory[place] = value + part
            found.append((probe.cost(tensor.stage) - cost) / part)
            same = map(np.array_equal, decisions, probe.decisions(tensor.stage))
            memory[place] = value
            if not all(same):
                return None
        whole, half, quarter = found
        return float((8 * quarter - 6 * half + whole) / 3)

    def after_step(self, optimizer: Optimizer) -> tuple[dict[str, Array], float]:
        """The parameters after one step on this sample alone, and its cost with them; the network keeps its own."""
        layout, weights, gradients = self.network.layout, self.network.weights, self._probe.bound.gradients
        assert gradients is not None
        before = weights.copy()
        site = OptimizerSite(
            weights=weights.reshape(-1, layout.lanes),
            gradients=gradients.reshape(-1, layout.lanes),
            state={name: layout.zeros().reshape(-1, layout.lanes) for name in optimizer.state},
            rate=np.full(1, optimizer.learning_rate, FLOAT),
            decayed=layout.decayed // layout.lanes,
        )
        self._probe.backward()
        Program([optimizer.bind(site)]).run()
        after, cost = layout.unpack(weights), self._probe.cost()
        weights[:] = before
        return after, cost

    def _compare_fused(self, subject: Subject, x: Array, target: NDArray[Any]) -> float:
        """The largest difference of a parameter's gradient to that of the network as training binds it."""
        fused = Probe(_network(subject, fused=True), subject.config.loss, x, target)
        fused.backward()
        theirs = fused.bound.named_gradients()
        return max(
            (float(np.abs(own - theirs[name]).max()) for name, own in self.parameter_gradients.items()), default=0.0
        )

    def _gradient(self, tensor: Tensor) -> Gradient:
        # The loss gives the output's gradient with one subtraction, whose rounding is below any tolerance.
        rounding = self._rounding.gradients.get(tensor.name, np.zeros(len(tensor.places)))
        return Gradient.take(self._probe, tensor, self._probe, tensor, rounding, self._rounding.cost)

    def _output(self) -> Tensor:
        """The network's output, whose gradient the loss gives."""
        bound, last = self._probe.bound, len(self.network.stages)
        assert bound.dout is not None
        shape = (1, *self.network.output_shape)
        memory, gradient = bound.out.view.vectors.reshape(-1), bound.dout.view.vectors.reshape(-1)
        return Tensor("output", last, shape, memory, bound.out.places(1), gradient, bound.dout.places(1), "", last)


def _network(subject: Subject, fused: bool) -> Network:
    network = Network(subject.config.model, subject.shape, FLOAT, subject.config.seed, fused=fused)
    if subject.parameters is not None:
        network.layout.pack(subject.parameters, network.weights)
    return network
