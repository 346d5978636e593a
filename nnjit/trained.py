"""A trained network, from its checkpoint alone: its scores on a split of the data, its answers to new inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.checkpoint import Checkpoint, read_checkpoint
from nnjit.config import Config, parse_config
from nnjit.config.changes import changes
from nnjit.config.document import show, to_yaml
from nnjit.data.dataset import Split, load_split
from nnjit.data.splitting import SplitName
from nnjit.errors import ConfigError, DataError
from nnjit.kernels.simd import lanes
from nnjit.losses import Loss
from nnjit.network import Network
from nnjit.prepare import misfit
from nnjit.run_folder import RunFolder
from nnjit.steps import EVALUATION_BATCH, Evaluation, Prediction, Scaling
from nnjit.trainer import build_network, metric_for

SOURCES = (("data", "train"), ("data", "validation"), ("data", "test"))


def stored_config(checkpoint: Checkpoint, path: Path, overrides: Sequence[str] = ()) -> Config:
    """The config in the checkpoint at `path`, with `overrides` of its data sources.

    Raises DataError when this version of nnjit cannot read it, ConfigError for other overrides.
    """
    text = to_yaml(checkpoint.config)
    try:
        config = parse_config(text, str(path), Path()).config
    except ConfigError as error:
        raise DataError(
            f"{path}: expected a config that this nnjit can read, got one with problems:\n{error}"
        ) from None
    changed = parse_config(text, str(path), Path(), overrides).config
    for place in changes(config, changed):
        if place[:2] not in SOURCES:
            raise ConfigError(
                f"--set {show(place)}: expected a key of data.train, data.validation or data.test; "
                "a trained network keeps all else"
            )
    return changed


@dataclass(frozen=True)
class TrainedModel:
    """A network with the parameters and the scaling of a checkpoint."""

    config: Config
    network: Network
    inputs: Scaling
    targets: Scaling
    classes: list[str] | None
    path: Path
    """The checkpoint."""
    step: int
    """Steps that it was trained for."""

    def split(self, name: SplitName) -> Split:
        """A split of the config's data, with targets.

        Raises ConfigError when the config has no such split, DataError when it does not fit the network.
        """
        network = self.network
        split = load_split(self.config.data, Path(), name, shape=network.shapes[0], classes=self.classes)
        if split.targets is None:
            raise DataError(f"data.{name}: expected targets beside the inputs, got inputs alone")
        problem = misfit(network.output_shape, split.targets.shape[1:], self.classes)
        if problem:
            raise DataError(f"data.{name}: {problem}")
        return split

    def evaluate(self, name: SplitName) -> dict[str, float]:
        """The loss and the metric on a split of the config's data. Raises ConfigError and DataError like `split`."""
        config, split = self.config, self.split(name)
        metric = metric_for(config, self.classes)
        return Evaluation(self.network, config.loss, metric, split, self.inputs, self.targets).run()

    def outputs(self, blocks: Iterable[NDArray[Any]], most: int = EVALUATION_BATCH) -> Iterator[NDArray[Any]]:
        """The network's outputs (n, *shape) for blocks of up to `most` raw inputs (n, *shape) that share a dtype.

        Raises DataError for inputs so large that an output is NaN or infinite.
        """
        prediction: Prediction | None = None
        first = 0
        for block in blocks:
            if prediction is None:
                batch_size = most
                if most >= (width := lanes(self.network.dtype)):
                    # Whole blocks, whose kernels the evaluation has compiled. For so few that they would fill none
                    # there are kernels of their own, which answer to one image without the work for a block.
                    batch_size = -(-min(len(block), most) // width) * width
                prediction = Prediction(self.network, block.dtype, self.inputs, batch_size)
            outputs = prediction.run(block)
            finite = np.isfinite(outputs)
            if not finite.all():
                row, *entry = (int(i) for i in np.argwhere(~finite)[0])
                raise DataError(
                    f"row {first + row} (from 0) of the inputs: expected finite outputs, "
                    f"got {outputs[(row, *entry)]}; are they numbers like those of the training data?"
                )
            first += len(block)
            yield outputs

    def class_names(self, outputs: NDArray[Any]) -> list[str]:
        """The class that each of `outputs` (n, F) stands for."""
        return [(self.classes or [])[label] for label in chosen_classes(self.config.loss, outputs)]

    @property
    def answer_names(self) -> list[str]:
        """What the numbers of an answer are called: the classes, the target columns, or output_0, output_1, ..."""
        if self.classes is not None:
            return self.classes
        columns = getattr(self.config.data.train, "target_columns", ())
        if columns and all(isinstance(column, str) for column in columns):
            return list(columns)
        count = math.prod(self.network.output_shape)
        return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]

    def answers(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """What `outputs` say, (n, numbers): a probability (or output) for each class, or numbers in the units of the
        targets."""
        answers = self.config.loss.answers(outputs).reshape(len(outputs), -1)
        if self.classes is None:
            return (answers / self.targets.factor + self.targets.shift).astype(answers.dtype)
        return np.hstack([1 - answers, answers]) if answers.shape[1] < len(self.classes) else answers


def chosen_classes(loss: Loss, outputs: NDArray[Any]) -> list[int]:
    """The index of the class that each of `outputs` (n, F) stands for; one output says yes or no to the second."""
    if outputs.shape[1] == 1:
        return [int(yes) for yes in outputs[:, 0] > loss.threshold]
    labels: list[int] = outputs.argmax(axis=1).tolist()
    return labels


def load_model(path: Path, overrides: Sequence[str] = ()) -> TrainedModel:
    """The network in a checkpoint, or in the best checkpoint of a run folder. Raises ConfigError, DataError."""
    if path.is_dir():
        path = RunFolder(path).best
    checkpoint = read_checkpoint(path)
    config = stored_config(checkpoint, path, overrides)
    network = build_network(config, checkpoint.input_shape)
    try:
        network.layout.pack(checkpoint.parameters, network.weights)
    except ValueError as error:
        raise DataError(f"{path}: the parameters do not fit the config: {error}") from None
    scaling = checkpoint.scaling
    return TrainedModel(
        config,
        network,
        Scaling(scaling["input_shift"], scaling["input_factor"]),
        Scaling(scaling["target_shift"], scaling["target_factor"]),
        checkpoint.classes,
        path,
        checkpoint.progress.step,
    )
