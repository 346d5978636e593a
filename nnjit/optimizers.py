"""Rules that turn a gradient into a step; each is one pass over the flat parameter vector."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from nnjit.component import Component


class Optimizer(Component):
    """A rule for updating parameters from gradients."""

    default_kind = "sgd"

    learning_rate: float = Field(gt=0)
    """Step size."""


class Sgd(Optimizer):
    """v = momentum * v + g + weight_decay * w;  w = w - learning_rate * v  (nesterov: g + weight_decay * w + momentum * v).

    Weight decay applies to weights, not to biases. Source: Sutskever et al. 2013, ICML, section 2.
    """

    type: Literal["sgd"] = "sgd"
    shorthand = "learning_rate"

    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Share of the last step that is kept."""
    nesterov: bool = False
    """Whether the gradient counts as taken after the momentum's part of the step."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Factor of the weights that is added to their gradient."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Sgd:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self
