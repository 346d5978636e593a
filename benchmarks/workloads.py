"""The workloads that results speak of: the configs in benchmarks/configs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from nnjit.config import LoadedConfig, load_config

CONFIGS = Path(__file__).parent / "configs"

WORKLOADS = ("nielsen-mlp", "mlp", "lenet5", "nielsen-cnn", "vgg-small", "srcnn")
"""In the order of the tables."""

INFERENCE = ("lenet5", "vgg-small")
"""Those whose predictions are timed too."""

INFERENCE_BATCH = 256
"""Samples of a batch of predictions."""


def chosen(names: Sequence[str]) -> Sequence[str]:
    """The workloads that a command is asked for: all of them, unless some are named. Raises BadParameter."""
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        raise click.BadParameter(f"expected workloads among {', '.join(WORKLOADS)}, got {unknown[0]!r}")
    return names or WORKLOADS


def workload(name: str) -> LoadedConfig:
    """The config called `name`. Raises ConfigError."""
    return load_config(CONFIGS / f"{name}.yaml")
