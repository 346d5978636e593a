"""The kernels' results against another implementation's: outputs, loss and gradients, not by differences but directly.

The other one is `nnjit.reference` (plain NumPy from the formulas) or PyTorch; both compute in float64 from the very
numbers that the kernels were given, so the error is the kernels' own. A tensor's error is its largest difference as a
fraction of its largest entry, for an entry that is small beside the others carries their rounding.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnjit.gradcheck.probe import Probe
from nnjit.layers import Layer
from nnjit.losses import Loss
from nnjit.reference import base
from nnjit.reference import network as by_reference

Array = NDArray[np.float64]

TOLERANCES = {"float64": 1e-12, "float32": 1e-4}
"""The largest error that passes; the built-in cases come to 5e-15 and 2e-6, and depth adds to that."""


class Peer(Protocol):
    """Another implementation of layers and losses."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def layers(self) -> Container[str]:
        """The kinds of layers that it has."""

    @property
    def losses(self) -> Container[str]:
        """The kinds of losses that it has."""

    def outputs(self, layers: Sequence[Layer], parameters: Mapping[str, NDArray[Any]], x: NDArray[Any]) -> list[Array]:
        """Every layer's output (N, *shape)."""

    def run(
        self,
        layers: Sequence[Layer],
        loss: Loss,
        parameters: Mapping[str, NDArray[Any]],
        x: NDArray[Any],
        target: NDArray[Any],
    ) -> by_reference.Result:
        """Outputs, loss and gradients; target (N,) labels for losses that need them, else of the output's shape."""


class Reference:
    """Plain NumPy."""

    name = "reference"
    layers = base.LAYERS
    losses = base.LOSSES

    def outputs(self, layers: Sequence[Layer], parameters: Mapping[str, NDArray[Any]], x: NDArray[Any]) -> list[Array]:
        return by_reference.forward(layers, parameters, x)[0]

    run = staticmethod(by_reference.run)


@dataclass(frozen=True)
class Row:
    """One tensor's largest differences."""

    name: str
    shape: tuple[int, ...]
    worst_index: tuple[int, ...]
    ours: float
    theirs: float
    absolute: float
    relative: float
    """A fraction of the tensor's largest entry."""
    passed: bool


@dataclass
class Comparison:
    """The rows of one network."""

    title: str
    peer: str
    tolerance: float
    rows: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """What could not be compared, in words."""

    @property
    def passed(self) -> bool:
        """Whether every row passed."""
        return all(row.passed for row in self.rows)

    def add(self, name: str, ours: NDArray[Any], theirs: Array) -> None:
        """Compare a tensor."""
        difference = np.abs(ours - theirs)
        at = np.unravel_index(int(np.argmax(difference)), difference.shape)
        absolute, largest = float(difference[at]), float(np.abs(theirs).max())
        relative = 0.0 if not absolute else absolute / largest if largest else math.inf
        index = tuple(int(k) for k in at)
        passed = relative <= self.tolerance
        self.rows.append(Row(name, ours.shape, index, float(ours[at]), float(theirs[at]), absolute, relative, passed))


def against(probe: Probe, peer: Peer, title: str = "", tolerance: float | None = None) -> Comparison:
    """Compare the passes of a probe with a peer's.

    A layer that applies an activation or a pooling gives the output after it, under that one's number. Where the peer
    lacks a layer, what comes before it is compared forwards alone.
    """
    network, loss = probe.network, probe.loss
    probe.backward()
    bound = probe.bound
    x, parameters = bound.x.read(probe.samples), network.layout.unpack(network.weights)
    comparison = Comparison(title, peer.name, tolerance or TOLERANCES[np.dtype(network.dtype).name])
    known = next((k for k, layer in enumerate(network.layers) if layer.kind() not in peer.layers), len(network.layers))
    lasts = [(stage.last, site.out) for stage, site in zip(network.stages, bound.sites, strict=True)]
    complete = known == len(network.layers) and loss.kind() in peer.losses
    if complete:
        result = peer.run(network.layers, loss, parameters, x, _target(probe))
        outputs = result.outputs
    else:
        outputs = peer.outputs(network.layers[:known], parameters, x)
    for position, out in lasts:
        if position < known:
            comparison.add(f"layers.{position}.output", out.read(probe.samples), outputs[position])
    if complete:
        comparison.add("loss", np.array([probe.cost()]), np.array([result.loss]))
        assert bound.dx is not None
        comparison.add("layers.0.input gradient", bound.dx.read(probe.samples), result.dx)
        for name, gradient in bound.named_gradients().items():
            comparison.add(f"{name} gradient", gradient, result.gradients[name])
    elif known < len(network.layers):
        kind = network.layers[known].kind()
        comparison.skipped.append(
            f"layers.{known} ({kind}), what follows it, and all gradients: {peer.name} has no {kind}"
        )
    else:
        comparison.skipped.append(f"the loss and all gradients: {peer.name} has no {loss.kind()}")
    return comparison


def _target(probe: Probe) -> NDArray[Any]:
    target = probe.target.read(probe.samples)
    if not probe.loss.needs_labels:
        return target
    labels: NDArray[np.int64] = target.argmax(axis=1)
    return labels
