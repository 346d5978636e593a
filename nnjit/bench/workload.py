"""What is measured: a config's training step, on its data or, where they are absent, on made-up data of their shape."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.config import Config, LoadedConfig
from nnjit.data.dataset import Dataset, Split
from nnjit.data.section import CsvSource
from nnjit.errors import ConfigError
from nnjit.layers.base import Shape, ShapeError
from nnjit.network import Network
from nnjit.parameters import aligned_zeros
from nnjit.prepare import check_shapes, prepare
from nnjit.steps import Scaling, TrainingStep
from nnjit.trainer import build_network, metric_for

BATCHES = 20
"""Full batches that a measurement goes round in."""


def absent_files(loaded: LoadedConfig) -> list[str]:
    """The training files that the config names and that are not there."""
    source = loaded.config.data.train
    names = [getattr(source, field) for field in source.paths]
    return [name for name in names if name not in (None, "-") and not (loaded.base / name).exists()]


def measured_data(loaded: LoadedConfig) -> Dataset:
    """BATCHES full batches of the config's training data, repeated where they are fewer, or of made-up data where a
    file of theirs is absent.

    Raises ConfigError when the data are absent and the config does not tell the shape of an input; what `prepare`
    raises.
    """
    config, absent = loaded.config, absent_files(loaded)
    if not absent:
        # Any batch size will do, since rows are repeated, and only the training split is of use.
        alone = config.data.model_copy(update={"validation": None, "test": None})
        train = config.train.model_copy(update={"batch_size": 1})
        dataset = prepare(dataclasses.replace(loaded, config=config.model_copy(update={"data": alone, "train": train})))
    else:
        if config.data.shape is None:
            raise ConfigError(
                f"{loaded.name}: data.shape: expected the shape of one input, since {absent[0]} is not there to tell; "
                f"--set data.shape={_possible_shape(config)}, say, measures with made-up data"
            )
        dataset = made_up(config, check_shapes(loaded), BATCHES * config.train.batch_size)
    train_split = dataset.train
    rows = np.resize(train_split.rows, BATCHES * config.train.batch_size)
    return dataclasses.replace(
        dataset, train=Split(train_split.inputs, train_split.targets, rows), validation=None, test=None
    )


def _possible_shape(config: Config) -> str:
    """As --set takes it: of an image or of a table's row, whichever the first layer takes; a table's own first."""
    images_first = not isinstance(config.data.train, CsvSource)
    for shape in sorted(((10,), (1, 28, 28)), key=len, reverse=images_first):
        try:
            config.model[0].output_shape(shape)
        except ShapeError:
            continue
        return str(list(shape)).replace(" ", "")
    return "[1,28,28]"


def made_up(config: Config, shapes: Sequence[Shape], samples: int) -> Dataset:
    """Uniform random inputs and targets for a network whose input and layer outputs have `shapes`."""
    rng = np.random.default_rng(0)
    output = shapes[-1]
    inputs, targets = (
        rng.random(dtype=np.float32, out=aligned_zeros((samples, *shape), np.float32)) for shape in (shapes[0], output)
    )
    classes = None
    if config.labels:
        count = max(output[0], 2)  # one output says yes or no
        classes = [str(label) for label in range(count)]
        targets = rng.integers(0, count, samples).astype(np.int32)
    for array in (inputs, targets):
        array.flags.writeable = False
    split = Split(inputs, targets, np.arange(samples))
    target_shape = () if config.labels else output
    zero, one = np.zeros(1), np.ones(1)
    return Dataset(split, None, None, shapes[0], target_shape, classes, zero, one, zero, one)


@dataclass
class Workload:
    """A training step that can be run again and again from the same start."""

    config: Config
    dataset: Dataset
    network: Network
    step: TrainingStep
    compile_seconds: float
    """What binding took: compiling kernels, or loading them from the cache."""
    initial: NDArray[Any]
    """The flat vector of parameters that training starts from."""

    def run(self, number: int) -> float:
        """Train on batch `number` of an endless round; its mean loss."""
        return self.step.run(number % BATCHES) / self.step.batch_size

    def select(self, number: int) -> None:
        """Make batch `number` of an endless round the one that the step's program works on."""
        self.step.feed.select(number % BATCHES * self.step.batch_size, self.step.batch_size)

    def reset(self) -> None:
        """Go back to the start of training."""
        self.network.weights[:] = self.initial
        for array in self.step.state.values():
            array[:] = 0

    @property
    def buffer_bytes(self) -> int:
        """Memory of every array that the step works with, the data aside: parameters, gradients, optimizer's state,
        activations, tables."""
        split = self.step.feed.split
        data = {id(_memory(array)) for array in (split.inputs, split.targets) if array is not None}
        arrays = {id(memory): memory for call in self.step.program.calls for memory in _memories(call.arguments)}
        return sum(memory.nbytes for name, memory in arrays.items() if name not in data)


def bind_workload(config: Config, dataset: Dataset) -> Workload:
    """The config's training step on a dataset, as `nnjit train` binds it."""
    network = build_network(config, dataset.shape)
    inputs, targets = Scaling(dataset.shift, dataset.factor), Scaling(dataset.target_shift, dataset.target_factor)
    metric = metric_for(config, dataset.classes)
    initial = network.weights.copy()
    start = time.perf_counter()
    step = TrainingStep(
        network, config.train.batch_size, config.loss, metric, config.optimizer, dataset.train, inputs, targets
    )
    return Workload(config, dataset, network, step, time.perf_counter() - start, initial)


def _memories(value: Any) -> Iterator[NDArray[Any]]:
    """The memory of every array in nested tuples."""
    if isinstance(value, np.ndarray):
        yield _memory(value)
    elif isinstance(value, tuple):
        for item in value:
            yield from _memories(item)


def _memory(array: NDArray[Any]) -> NDArray[Any]:
    """The array that owns the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
