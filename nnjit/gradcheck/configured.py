"""The probe of a config: its network on samples of its own data, at the start or after some steps of training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.config import Config
from nnjit.data.dataset import Dataset
from nnjit.errors import DivergedError
from nnjit.gradcheck.cases import jitter
from nnjit.gradcheck.probe import Probe
from nnjit.gradcheck.rounding import measure
from nnjit.network import Network
from nnjit.steps import Scaling
from nnjit.trainer import training_step

INPUT_JITTER = 0.05
"""Standard deviation of what is added to the scaled inputs: a blank background makes every maximum over it a tie, where
there is no derivative to compare with."""
ATTEMPTS = 20
"""How often the jitter of a sample is drawn anew at the most; in float32, it is needed for one sample in 20 to 500."""


def configured_probe(config: Config, dataset: Dataset, *, samples: int, dtype: Any, seed: int, steps: int) -> Probe:
    """The network of `config` with `samples` training samples drawn by `seed`, after `steps` steps of training.

    The point is moved off kinks a little: the inputs, and at the start every parameter (`cases.jitter`). A sample that
    comes to lie so near a kink that rounding decides the side is moved elsewhere. Fewer samples are taken if there are
    fewer. Raises DivergedError when training does not get that far.
    """
    network = Network(config.model, dataset.shape, np.dtype(dtype), config.seed)
    rng = np.random.default_rng(seed)
    if steps:
        step = training_step(network, config, dataset)
        for number in range(steps):
            require_finite(step.run(number % step.batches), f"step {number + 1}", PURPOSE, FEWER)
    else:
        jitter(network, rng)
    split = dataset.train
    assert split.targets is not None
    rows = split.rows[np.sort(rng.permutation(len(split))[:samples])]
    inputs = scaled(split.inputs[rows], Scaling(dataset.shift, dataset.factor))
    targets = split.targets[rows]
    if dataset.classes is None:
        targets = scaled(targets, Scaling(dataset.target_shift, dataset.target_factor))
    probe = Probe(network, config.loss, inputs + rng.normal(0, INPUT_JITTER, inputs.shape), targets)
    require_finite(probe.cost(), f"step {steps}", PURPOSE, FEWER if steps else SMALLER)
    for _ in range(ATTEMPTS):
        unsettled = measure(probe, probe.twin()).unsettled
        if not len(unsettled):
            break
        moved = probe.bound.x.read(probe.samples)
        moved[unsettled] = inputs[unsettled] + rng.normal(0, INPUT_JITTER, inputs[unsettled].shape)
        probe.bound.x.write(moved)
    return probe


PURPOSE = "check gradients of"
FEWER = "use fewer --steps or a smaller optimizer.learning_rate"
SMALLER = "scale the data down (data.divide, data.standardize) or use smaller parameters"


def require_finite(cost: float, where: str, purpose: str, remedy: str = SMALLER) -> None:
    """Raise DivergedError for a `cost` with which there is nothing to do for a `purpose`."""
    if not math.isfinite(cost):
        raise DivergedError(f"{where}: expected a finite loss to {purpose}, got {cost}; {remedy}")


def scaled(values: NDArray[Any], scaling: Scaling) -> NDArray[np.float64]:
    """(raw - shift) * factor of samples (N, *shape)."""
    flat = (values.reshape(len(values), -1).astype(np.float64) - scaling.shift) * scaling.factor
    return flat.reshape(values.shape)
