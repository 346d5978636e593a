"""What is explained: a network as its config starts it, or a trained one, and the split that the sample is from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nnjit.config import Config, LoadedConfig
from nnjit.config.document import Path as Place
from nnjit.config.document import show
from nnjit.data.dataset import Split
from nnjit.data.splitting import SplitName
from nnjit.errors import ConfigError
from nnjit.layers.base import Shape
from nnjit.prepare import prepare
from nnjit.steps import Scaling
from nnjit.trained import load_model


@dataclass(frozen=True)
class Subject:
    """A network, its parameters and samples for it."""

    name: str
    """What it was read from."""
    config: Config
    shape: Shape
    """Of one input."""
    parameters: Mapping[str, NDArray[Any]] | None
    """By name; None for those that the config's seed draws."""
    origin: str
    """Where the parameters are from, in words."""
    split: Split
    split_name: str
    inputs: Scaling
    targets: Scaling
    classes: list[str] | None
    refuse: Callable[[Place, str], ConfigError]
    """The error that says something of a place in the config."""


def is_model(path: str) -> bool:
    """Whether a name is that of a trained network, a checkpoint or the folder of a run, and not of a config."""
    return Path(path).is_dir() or Path(path).suffix == ".safetensors"


def at_the_start(loaded: LoadedConfig, split_name: SplitName) -> Subject:
    """The network of a config before its first step. Raises ConfigError, DataError."""
    dataset, config = prepare(loaded), loaded.config
    split = getattr(dataset, split_name)
    if split is None:
        raise ConfigError(
            f"data.{split_name}: expected a source, since the {split_name} split is asked for; the config has none"
        )
    return Subject(
        name=loaded.name,
        config=config,
        shape=dataset.shape,
        parameters=None,
        origin=f"that seed {config.seed} draws",
        split=split,
        split_name=split_name,
        inputs=Scaling(dataset.shift, dataset.factor),
        targets=Scaling(dataset.target_shift, dataset.target_factor),
        classes=dataset.classes,
        refuse=loaded.error,
    )


def trained(path: Path, split_name: SplitName, overrides: Sequence[str]) -> Subject:
    """The network in a checkpoint, or in the best checkpoint of a run folder. Raises ConfigError, DataError."""
    model = load_model(path, overrides)
    return Subject(
        name=str(path),
        config=model.config,
        shape=model.network.shapes[0],
        parameters=model.network.layout.unpack(model.network.weights),
        origin=f"in {model.path}, after step {model.step}",
        split=model.split(split_name),
        split_name=split_name,
        inputs=model.inputs,
        targets=model.targets,
        classes=model.classes,
        refuse=lambda place, message: ConfigError(f"{model.path}: {show(place)}: {message}"),
    )
