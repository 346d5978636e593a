"""A network with one batch and its targets, whose cost can be asked for at any values of parameters and layer
inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.buffers import Buffer
from nnjit.kernels.activations import FUNCTIONS
from nnjit.kernels.program import Call, Program
from nnjit.losses import Loss, LossSite
from nnjit.network import Network
from nnjit.parameters import aligned_zeros
from nnjit.site import Site


@dataclass(frozen=True)
class Tensor:
    """Entries of the network whose gradients are checked: a parameter, or the input of a layer.

    Entry e, counted in the order of `shape`, lies at memory[places[e]] and its gradient at
    gradient[gradient_places[e]].
    """

    name: str
    position: int
    """The layer's place in the config."""
    shape: tuple[int, ...]
    memory: NDArray[Any]
    places: NDArray[np.int64]
    gradient: NDArray[Any]
    gradient_places: NDArray[np.int64]
    slope: str
    """The activation that made this input, whose derivative is a factor of the gradient; empty for none."""
    stage: int
    """The first stage whose forward pass depends on the entries."""


class Probe:
    """A bound network, its batch and its loss.

    inputs (N, *input_shape); targets (N,) integers or (N, *output_shape), which `target` holds as outputs.
    `forward_calls` and `backward_calls` may be replaced (to plant a fault) before the first use.
    """

    def __init__(self, network: Network, loss: Loss, inputs: NDArray[Any], targets: NDArray[Any]) -> None:
        samples = len(inputs)
        self.network = network
        self.loss = loss
        self.bound = network.bind(samples, input_gradient=True, keep_gradients=True)
        self.bound.x.write(inputs)
        self.samples = samples
        lanes = network.layout.lanes
        self.target = Buffer.allocate(self.bound.blocks, network.output_shape, network.dtype)
        self.target.write(_as_outputs(targets, network.output_shape))
        assert self.bound.dout is not None
        costs, scores = (aligned_zeros((self.bound.blocks, lanes), network.dtype) for _ in range(2))
        count = np.full(1, samples, np.int64)
        self._loss = LossSite(self.bound.out, self.target, self.bound.dout, costs, scores, count)
        loss.bind(self._loss)
        self.forward_calls: list[Call] = [*self.bound.forward, *self._loss.calls]
        self.backward_calls: list[Call] = self.bound.backward
        self.after_loss: list[Callable[[], None]] = []
        self.after_backward: list[Callable[[], None]] = []
        self._first_calls = np.cumsum([0] + [len(site.forward) for site in self.bound.sites]).tolist()
        self._kinked = {
            number: site.out.places(samples)
            for number, (stage, site) in enumerate(zip(network.stages, self.bound.sites, strict=True))
            if (activation := stage.activation or stage.layer.activation) and FUNCTIONS[activation].kinked
        }
        self._program: Program | None = None

    def twin(self) -> Probe:
        """The same network in float64 at the same point, whose differences resolve more: itself in float64, else one
        with exactly these parameters, inputs and targets."""
        if self.network.dtype == np.float64:
            return self
        network = Network(self.network.layers, self.network.shapes[0], np.dtype(np.float64), 0)
        network.layout.pack(self.network.layout.unpack(self.network.weights), network.weights)
        return Probe(network, self.loss, self.bound.x.read(self.samples), self.target.read(self.samples))

    def compile(self) -> None:
        """Link the calls; done at the first use."""
        if self._program is None:
            self._program = Program([*self.forward_calls, *self.backward_calls])

    def cost(self, stage: int = 0) -> float:
        """The mean cost of the samples, with the forward pass run from `stage` on."""
        self._run(self._first_calls[stage], len(self.forward_calls))
        return self.last_cost()

    def last_cost(self) -> float:
        """The mean cost of the samples in the last forward pass."""
        return float(self._loss.costs.sum(dtype=np.float64)) / self.samples

    def backward(self, disturb: Callable[[NDArray[Any]], None] = lambda vectors: None) -> None:
        """Run everything, which fills all gradients; `disturb` may change each stage's output before it is read."""
        read = [*(site.x for site in self.bound.sites[1:]), self.bound.out]
        for number, output in enumerate(read):
            self._run(*self._first_calls[number : number + 2])
            disturb(output.view.vectors)
        self._run(self._first_calls[-1], len(self.forward_calls))
        for spoil in self.after_loss:
            spoil()
        self._run(len(self.forward_calls), None)
        for spoil in self.after_backward:
            spoil()

    def _run(self, first: int, last: int | None) -> None:
        self.compile()
        assert self._program is not None
        self._program.run(first, last)

    def decisions(self, first: int = 0) -> list[NDArray[Any]]:
        """Which branch each entry of a piecewise function took in the last forward pass, in stages from `first` on.

        An array (N, entries) for each such function, the same in every dtype.
        """
        taken = []
        for number, site in list(enumerate(self.bound.sites))[first:]:
            if number in self._kinked:
                outputs = site.out.view.vectors.reshape(-1)[self._kinked[number]]
                taken.append((outputs > 0).reshape(self.samples, -1))
            taken.extend(buffer.read(self.samples).reshape(self.samples, -1) for buffer in site.decisions)
        return taken

    def tensors(self) -> list[Tensor]:
        """The input of every layer (with the activation and pooling that it applies) and its parameters, in the order
        of the layers."""
        found = []
        layout, bound = self.network.layout, self.bound
        assert bound.gradients is not None
        for number, (stage, site) in enumerate(zip(self.network.stages, bound.sites, strict=True)):
            found.append(self._input(stage.position, site, number))
            for parameter in stage.layer.parameters(stage.shape):
                name = f"layers.{stage.position}.{parameter.name}"
                indices = layout.indices(name)
                places = indices.reshape(-1)
                weights = self.network.weights
                found.append(
                    Tensor(name, stage.position, indices.shape, weights, places, bound.gradients, places, "", number)
                )
        return found

    def _input(self, position: int, site: Site, stage: int) -> Tensor:
        assert site.dx is not None
        shape = (self.samples, *site.x.shape)
        return Tensor(
            f"layers.{position}.input",
            position,
            shape,
            site.x.view.vectors.reshape(-1),
            site.x.places(self.samples),
            site.dx.view.vectors.reshape(-1),
            site.dx.places(self.samples),
            self.bound.activation_before(stage),
            stage,
        )


def _as_outputs(targets: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Class labels as one-hot vectors, or as 0 and 1 for one output; numbers as they are."""
    if targets.ndim > 1:
        return targets
    return targets[:, None].astype(float) if shape == (1,) else np.eye(shape[0])[targets]
