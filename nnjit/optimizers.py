"""Rules that turn a gradient into a step; each is one pass over the flat parameter vector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from nnjit.component import Component
from nnjit.equations import Equation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nnjit.kernels.program import Call


@dataclass
class OptimizerSite:
    """What an optimizer works on, all in the layout of the parameters, as (vectors, L)."""

    weights: NDArray[Any]
    gradients: NDArray[Any]
    state: dict[str, NDArray[Any]]
    """An array for each name of `Optimizer.state`, zeros at the start."""
    rate: NDArray[Any]
    """(1,): the learning rate, which the trainer may change between steps."""
    decayed: int
    """Leading vectors that weight decay applies to."""
    tensors: Sequence[tuple[int, int]] = ()
    """The first and one after the last vector of each parameter; one that has all unless given."""


class Optimizer(Component):
    """A rule for updating parameters from gradients."""

    default_kind: ClassVar[str | None] = "sgd"

    learning_rate: float = Field(gt=0)
    """Step size."""

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the arrays that the rule keeps from step to step."""
        return ()

    def equations(self, decays: bool) -> tuple[Equation, ...]:
        """The first step: `new` from a parameter `w` and its gradient `dw`, and whether weight decay applies to it; as
        `nnjit explain` shows it, empty if nobody has written it."""
        return ()

    @abstractmethod
    def bind(self, site: OptimizerSite) -> Call:
        """The call that makes one step."""


class Sgd(Optimizer):
    """v = momentum * v + g + weight_decay * w;  w = w - learning_rate * v  (nesterov: g + weight_decay * w + momentum *
    v).

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

    @property
    def state(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def equations(self, decays: bool) -> tuple[Equation, ...]:
        gradient = f"dw + {self.weight_decay} * w" if decays and self.weight_decay else "dw"
        if not self.momentum:
            return (Equation(f"new = w - {self.learning_rate} * ({gradient})"),)
        step = f"({gradient} + {self.momentum} * v)" if self.nesterov else "v"
        return (
            Equation(f"v = {self.momentum} * 0 + {gradient}", "The velocity starts at 0."),
            Equation(f"new = w - {self.learning_rate} * {step}"),
        )

    def bind(self, site: OptimizerSite) -> Call:
        import numpy as np

        from nnjit.kernels.optimizers import sgd, sgd_momentum
        from nnjit.kernels.program import Call
        from nnjit.tuning.updates import choose_chunks

        weights = site.weights
        chunks = choose_chunks(site.tensors or [(0, len(weights))])
        weight_decay = np.full(1, self.weight_decay, weights.dtype)
        if not self.momentum:
            arguments = (chunks, site.decayed, weights, site.gradients, site.rate, weight_decay)
            return Call(sgd, len(chunks), arguments, 4 * weights.size)
        momentum = np.full(1, self.momentum, weights.dtype)
        velocity = site.state["velocity"]
        return Call(
            sgd_momentum,
            len(chunks),
            (
                chunks,
                site.decayed,
                weights,
                site.gradients,
                velocity,
                site.rate,
                weight_decay,
                momentum,
                int(self.nesterov),
            ),
            6 * weights.size,
        )
