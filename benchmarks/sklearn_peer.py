"""A dense network's training in scikit-learn, where MLPClassifier can do nearly the same."""

from __future__ import annotations

import math
import warnings

import numpy as np
from sklearn.neural_network import MLPClassifier

from nnjit.bench.workload import BATCHES
from nnjit.config import Config
from nnjit.data.dataset import Dataset
from nnjit.layers.dense import Dense
from nnjit.layers.flatten import Flatten
from nnjit.optimizers import Sgd

ACTIVATIONS = {"sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}
"""The hidden activations that MLPClassifier knows, by nnjit's name."""

DIFFERENCES = "softmax and cross-entropy whatever the config's loss, its own first parameters"
"""What MLPClassifier does otherwise; the matrix products and the updates are the same."""


class SklearnEpoch:
    """One epoch of BATCHES batches by `partial_fit`, which also checks its input once."""

    def __init__(self, classifier: MLPClassifier, inputs: np.ndarray, labels: np.ndarray) -> None:
        self.classifier, self.inputs, self.labels = classifier, inputs, labels
        self.classes = np.unique(labels)

    def run(self, number: int) -> None:
        """Train for an epoch, of BATCHES steps."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.classifier.partial_fit(self.inputs, self.labels, classes=self.classes)


def sklearn_epoch(config: Config, dataset: Dataset) -> SklearnEpoch | None:
    """The epoch of a config; None where MLPClassifier has no such network."""
    layers = [layer for layer in config.model if not isinstance(layer, Flatten)]
    dense = [layer for layer in layers if isinstance(layer, Dense)]
    rule = config.optimizer
    hidden, last = layers[: 2 * len(dense) - 2], layers[2 * len(dense) - 2 :]
    kinds = {layer.kind() for layer in hidden[1::2]}
    alternating = all(isinstance(layer, Dense) for layer in hidden[::2]) and len(last) in (1, 2)
    if not alternating or len(kinds) != 1 or not kinds <= ACTIVATIONS.keys():
        return None
    if dataset.classes is None or not isinstance(rule, Sgd) or rule.nesterov:
        return None
    train = dataset.train
    assert train.targets is not None
    samples = BATCHES * config.train.batch_size
    classifier = MLPClassifier(
        hidden_layer_sizes=[layer.units for layer in dense[:-1]],
        activation=ACTIVATIONS[kinds.pop()],
        solver="sgd",
        alpha=rule.weight_decay,
        batch_size=config.train.batch_size,
        learning_rate_init=rule.learning_rate,
        momentum=rule.momentum,
        nesterovs_momentum=False,
        shuffle=False,
        random_state=0,
    )
    inputs = train.inputs[train.rows].reshape(samples, math.prod(dataset.shape)).astype(np.float32)
    return SklearnEpoch(classifier, inputs * np.float32(dataset.factor), train.targets[train.rows])
