"""How far rounding moves each entry of a gradient: measured, for a bound would be too wide to be of use.

Both passes are repeated with everything that they read moved by up to a unit in the last place, at random: parameters,
inputs, targets, and the output of every stage. The loss's gradient too, by a unit in the last place of what the target
adds to it: where a network is nearly right it is a small difference of large numbers. All sums are rounded anew each
time, so the spread of an entry over the passes is what rounding does to it. A fault of the backward pass is the same in
all of them and does not add to it.
Source: Parker 1997, Monte Carlo Arithmetic: exploiting randomness in floating-point arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.gradcheck.probe import Probe

PASSES = 16
MARGIN = 16
"""Root mean squares of the spread that an entry may be off by. Between float32 and float64 the most that was seen was
0.38 of that, in millions of entries of a dozen networks at the start and trained; 0.64 in sums of 810 products."""


@dataclass(frozen=True)
class Rounding:
    """What rounding may do at a point."""

    gradients: Mapping[str, NDArray[np.float64]]
    """By how much each entry of a tensor's gradient may be off."""
    unsettled: NDArray[np.int64]
    """The samples for which rounding alone decides a branch: the side of a relu, the winner of a maximum."""
    cost: float = 0.0
    """Root mean square of what it adds to the cost in the probe's dtype."""


@np.errstate(invalid="ignore", over="ignore")  # a gradient that is no number has no rounding either, and fails
def measure(probe: Probe, twin: Probe) -> Rounding:
    """The rounding of a probe whose float64 twin is `twin`; afterwards `probe` holds its undisturbed passes."""
    tensors = probe.tensors()
    twin.cost()
    decided = twin.decisions()
    probe.backward()
    unsettled = _differ(probe, decided)
    before = [tensor.gradient[tensor.gradient_places].astype(np.float64) for tensor in tensors]
    squares = [np.zeros(len(gradient)) for gradient in before]
    cost, moved = probe.last_cost(), []
    for _ in _disturbed(probe):
        unsettled |= _differ(probe, decided)
        moved.append(probe.last_cost() - cost)
        for square, tensor, gradient in zip(squares, tensors, before, strict=True):
            square += (tensor.gradient[tensor.gradient_places] - gradient) ** 2
    probe.backward()
    spread = {tensor.name: MARGIN * np.sqrt(sums / PASSES) for tensor, sums in zip(tensors, squares, strict=True)}
    return Rounding(spread, np.flatnonzero(unsettled), float(np.sqrt(np.mean(np.square(moved)))))


def _differ(probe: Probe, decided: list[NDArray[Any]]) -> NDArray[np.bool_]:
    """(N,): the samples for which the last forward pass decided anything otherwise."""
    differ = np.zeros(probe.samples, bool)
    for ours, theirs in zip(probe.decisions(), decided, strict=True):
        differ |= (ours != theirs).any(axis=1)
    return differ


def _disturbed(probe: Probe) -> Iterator[None]:
    """Run disturbed passes and stop after each; in the end everything but the passes' results is as it was."""
    rng = np.random.default_rng(0)
    bound = probe.bound
    assert bound.dout is not None
    dout, places = bound.dout.view.vectors.reshape(-1), bound.dout.places(probe.samples)
    target = probe.target.read(probe.samples).reshape(-1) * _share_of_target(probe, rng)
    read = (probe.network.weights, bound.x.view.vectors, probe.target.view.vectors)
    undisturbed = [array.copy() for array in read]

    def disturb(values: NDArray[Any]) -> None:
        values += values * _units(values, rng)

    def disturb_loss() -> None:
        dout[places] += target * _units(target, rng)

    probe.after_loss.append(disturb_loss)
    for _ in range(PASSES):
        for array in read:
            disturb(array)
        probe.backward(disturb)
        yield
        for array, values in zip(read, undisturbed, strict=True):
            array[:] = values
    probe.after_loss.remove(disturb_loss)


def _share_of_target(probe: Probe, rng: np.random.Generator) -> Any:
    """How much a unit of the target adds to the loss's gradient, found by changing the targets after a pass."""
    dout, target = probe.bound.dout, probe.target.read(probe.samples)
    assert dout is not None
    before = dout.read(probe.samples)
    probe.target.write(target + rng.normal(size=target.shape))
    probe.cost(len(probe.network.stages))
    probe.target.write(target)
    return np.sqrt(np.mean((dout.read(probe.samples) - before) ** 2))


def _units(values: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """For each value a unit in the last place of 1, up, down or not at all."""
    units: NDArray[Any] = (np.finfo(values.dtype).eps * rng.integers(-1, 2, values.shape)).astype(values.dtype)
    return units
