"""The probe of a config: its network on samples of its own data, at the start or after some steps of training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.config import Config
from nnjit.data.dataset import Dataset
from nnjit.gradcheck.cases import jitter
from nnjit.gradcheck.probe import Probe
from nnjit.network import Network
from nnjit.steps import Scaling, TrainingStep
from nnjit.trainer import metric_for

INPUT_JITTER = 0.05
"""Standard deviation of what is added to the scaled inputs: a blank background makes every maximum over it a tie, where
there is no derivative to compare with."""


def configured_probe(config: Config, dataset: Dataset, *, samples: int, dtype: Any, seed: int, steps: int) -> Probe:
    """The network of `config` with `samples` training samples drawn by `seed`, after `steps` steps of training.

    The point is moved off kinks a little: the inputs, and at the start every parameter (`cases.jitter`). Fewer samples
    are taken if there are fewer.
    """
    network = Network(config.model, dataset.shape, np.dtype(dtype), config.seed)
    rng = np.random.default_rng(seed)
    if steps:
        _train(network, config, dataset, steps)
    else:
        jitter(network, rng)
    split = dataset.train
    assert split.targets is not None
    rows = split.rows[np.sort(rng.permutation(len(split))[:samples])]
    inputs = _scaled(split.inputs[rows], Scaling(dataset.shift, dataset.factor))
    inputs += rng.normal(0, INPUT_JITTER, inputs.shape)
    targets = split.targets[rows]
    if dataset.classes is None:
        targets = _scaled(targets, Scaling(dataset.target_shift, dataset.target_factor))
    return Probe(network, config.loss, inputs, targets)


def _train(network: Network, config: Config, dataset: Dataset, steps: int) -> None:
    """Train in place on the samples in their order."""
    step = TrainingStep(
        network,
        config.train.batch_size,
        config.loss,
        metric_for(config, dataset.classes),
        config.optimizer,
        dataset.train,
        Scaling(dataset.shift, dataset.factor),
        Scaling(dataset.target_shift, dataset.target_factor),
    )
    for number in range(steps):
        step.run(number % step.batches)


def _scaled(values: NDArray[Any], scaling: Scaling) -> NDArray[np.float64]:
    flat = (values.reshape(len(values), -1).astype(np.float64) - scaling.shift) * scaling.factor
    return flat.reshape(values.shape)
