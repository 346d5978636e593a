"""The sections of a config as typed fields; from them, YAML with every default and the JSON Schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from nnjit.component import Fields
from nnjit.config.document import to_yaml
from nnjit.data.section import DataSection
from nnjit.layers import Layer
from nnjit.losses import Loss
from nnjit.optimizers import Optimizer


class TrainSection(Fields):
    """How long to train, and in which steps."""

    epochs: int = Field(default=10, ge=1)
    """Number of passes over the training split."""
    batch_size: int = Field(default=64, ge=1)
    """Samples per step."""
    shuffle: bool = True
    """Whether each epoch visits the samples in an order of its own, which the seed fixes."""
    precision: Literal["float32", "float64"] = "float32"
    """Type of every number that training computes with."""
    checkpoint_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; one per epoch if omitted."""


class Config(Fields):
    """Everything that determines a training run."""

    data: DataSection
    """Where samples come from, and how they are scaled."""
    model: list[Layer] = Field(min_length=1)
    """The layers, from input to output."""
    loss: Loss
    """What training minimises."""
    optimizer: Optimizer
    """How parameters follow their gradients; `type` may be left out for sgd."""
    train: TrainSection = TrainSection()
    """How long to train, and in which steps."""
    seed: int = Field(default=0, ge=0)
    """Fixes the first parameters and the order of the samples."""

    @property
    def labels(self) -> bool:
        """Whether targets are class labels."""
        return self.loss.needs_labels or self.data.classes is not None


def dump(config: Config) -> str:
    """`config` as YAML with every default written out; it loads again to an equal Config."""
    return to_yaml(config.model_dump(mode="json"))


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a config file, in all the ways to write it; for editors."""
    schema: dict[str, Any] = _any_of(Config.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _any_of(schema: Any) -> Any:
    """`schema` with anyOf for oneOf: a data source may fit several formats, of which its file's name picks one."""
    if isinstance(schema, dict):
        return {"anyOf" if key == "oneOf" else key: _any_of(value) for key, value in schema.items()}
    return [_any_of(item) for item in schema] if isinstance(schema, list) else schema
