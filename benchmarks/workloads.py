"""The workloads that results speak of: the configs in benchmarks/configs."""

from __future__ import annotations

from pathlib import Path

from nnjit.config import LoadedConfig, load_config

CONFIGS = Path(__file__).parent / "configs"

WORKLOADS = ("nielsen-mlp", "mlp", "lenet5", "nielsen-cnn", "vgg-small", "srcnn")
"""In the order of the tables."""

INFERENCE = ("lenet5", "vgg-small")
"""Those whose predictions are timed too."""

INFERENCE_BATCH = 256
"""Samples of a batch of predictions."""


def workload(name: str) -> LoadedConfig:
    """The config called `name`. Raises ConfigError."""
    return load_config(CONFIGS / f"{name}.yaml")
