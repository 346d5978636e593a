"""The workloads that results speak of: the configs in benchmarks/configs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from nnjit.config import LoadedConfig, load_config

CONFIGS = Path(__file__).parent / "configs"

WORKLOADS = ("nielsen-mlp", "mlp", "lenet5", "nielsen-cnn", "vgg-small", "srcnn")
"""In the order of the tables."""

IMAGES = ("images/vgg-64", "images/vgg-128", "images/strided-112", "images/bottleneck-56")
"""Networks for images so large that people train them with few samples at a time."""

INFERENCE = ("lenet5", "vgg-small")
"""Those whose predictions are timed too."""

INFERENCE_BATCH = 256
"""Samples of a batch of predictions."""


def chosen(names: Sequence[str], known: Sequence[str] = WORKLOADS) -> Sequence[str]:
    """The workloads that a command is asked for: all that are `known`, unless some are named. Raises BadParameter."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.BadParameter(f"expected workloads among {', '.join(known)}, got {unknown[0]!r}")
    return names or known


def workload(name: str) -> LoadedConfig:
    """The config called `name`. Raises ConfigError."""
    return load_config(CONFIGS / f"{name}.yaml")
