"""Compiling ahead of time: binding everything that training a config runs, and running each part of it once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nnjit.config import Config, parse_config
from nnjit.data.dataset import Dataset, Split
from nnjit.layers.base import layer_shapes
from nnjit.run_folder import RunFolder
from nnjit.trainer import Trainer

SAMPLES = 320
"""Of a made-up training split: more than an evaluation's batch, and with a last batch that is not full."""

EXAMPLES = {
    "images in classes": ((1, 28, 28), "uint8", """
      data: {train: {file: none}, classes: 10, divide: 255}
      model:
        - conv2d: {filters: 6, kernel: 5, padding: same}
        - relu
        - max_pool: 2
        - conv2d: {filters: 16, kernel: 5}
        - tanh
        - average_pool: 2
        - flatten
        - dense: 120
        - relu
        - dense: 10
      loss: softmax_cross_entropy
      optimizer: {learning_rate: 0.01, momentum: 0.9}
    """),
    "a table in two classes": ((16,), "float32", """
      data: {train: {file: none}, classes: 2}
      model: [dense: 32, relu, dense: 1]
      loss: binary_cross_entropy
      optimizer: {learning_rate: 0.01, momentum: 0.9}
    """),
    "classes by squared error": ((1, 28, 28), "uint8", """
      data: {train: {file: none}, classes: 10, divide: 255}
      model: [flatten, dense: 30, sigmoid, dense: 10, softmax]
      loss: half_squared_error
      optimizer: {learning_rate: 1.0}
      train: {batch_size: 10}
    """),
    "numbers from a table": ((16,), "float32", """
      data: {train: {file: none}}
      model: [dense: 32, tanh, dense: 1]
      loss: mean_squared_error
      optimizer: {learning_rate: 0.01, momentum: 0.9}
    """),
}  # fmt: skip
"""Networks that together hold every kind of layer and loss: input shape, its dtype in a file, config."""


def examples() -> Iterator[tuple[str, Config, Dataset]]:
    """The name, the config and made-up data of each of EXAMPLES."""
    for name, (shape, dtype, text) in EXAMPLES.items():
        config = parse_config(text, name, Path()).config
        yield name, config, _made_up(config, shape, dtype)


def _made_up(config: Config, shape: tuple[int, ...], dtype: str) -> Dataset:
    """Zeros in the form that data files would give."""
    classes = [str(label) for label in range(config.data.classes)] if isinstance(config.data.classes, int) else None
    target_shape = () if classes else layer_shapes(config.model, shape)[-1]
    targets = np.zeros((SAMPLES, *target_shape), np.int32 if classes else np.float32)
    inputs = np.zeros((SAMPLES, *shape), dtype)
    for array in (inputs, targets):
        array.flags.writeable = False
    split = Split(inputs, targets, np.arange(SAMPLES))
    zero, one = np.zeros(1), np.ones(1)
    return Dataset(split, split, None, shape, target_shape, classes, zero, one, zero, one)


def warm_up(config: Config, dataset: Dataset) -> None:
    """Compile what training `config` on `dataset` runs; nothing is kept but the kernels."""
    trainer = Trainer(config, dataset, RunFolder(Path()))
    trainer.step.run(0)
    if trainer.validation:
        trainer.validation.run()
