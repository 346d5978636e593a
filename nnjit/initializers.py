"""How parameters start: one class per rule, drawn in float64 from a generator so that a seed fixes every bit.

`fan_in` and `fan_out` are the numbers of terms that one output sums, and of outputs that one input reaches: (in, out)
for a dense layer, (in * kh * kw, out * kh * kw) for a convolution.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from nnjit.component import Component

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Initializer(Component):
    """A rule for the first values of a parameter."""

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The only shape that the rule has values for; None for any."""
        return None

    @abstractmethod
    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[np.float64]:
        """Values of `shape` for a parameter with these fans."""


class HeNormal(Initializer):
    """Normal with variance 2 / fan_in, for ReLU. Source: He et al. 2015, arXiv:1502.01852, section 2.2."""

    type: Literal["he_normal"] = "he_normal"

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[np.float64]:
        return rng.normal(0.0, math.sqrt(2.0 / fan_in), shape)


class HeUniform(Initializer):
    """Uniform on ±sqrt(6 / fan_in), which has variance 2 / fan_in. Source: as `he_normal`."""

    type: Literal["he_uniform"] = "he_uniform"

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[np.float64]:
        limit = math.sqrt(6.0 / fan_in)
        return rng.uniform(-limit, limit, shape)


class GlorotNormal(Initializer):
    """Normal with variance 2 / (fan_in + fan_out). Source: Glorot & Bengio 2010, AISTATS, equation 12."""

    type: Literal["glorot_normal"] = "glorot_normal"

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[np.float64]:
        return rng.normal(0.0, math.sqrt(2.0 / (fan_in + fan_out)), shape)


class GlorotUniform(Initializer):
    """Uniform on ±sqrt(6 / (fan_in + fan_out)). Source: Glorot & Bengio 2010, AISTATS, equation 16."""

    type: Literal["glorot_uniform"] = "glorot_uniform"

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[np.float64]:
        limit = math.sqrt(6.0 / (fan_in + fan_out))
        return rng.uniform(-limit, limit, shape)


class Normal(Initializer):
    """Normal with a given mean and standard deviation."""

    type: Literal["normal"] = "normal"
    shorthand = "std"

    std: float = Field(default=1.0, gt=0)
    """Standard deviation."""
    mean: float = 0.0
    """Mean."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[np.float64]:
        return rng.normal(self.mean, self.std, shape)


class Zeros(Initializer):
    """All zero."""

    type: Literal["zeros"] = "zeros"

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[np.float64]:
        import numpy as np

        return np.zeros(shape)


class Constant(Initializer):
    """All equal to one value."""

    type: Literal["constant"] = "constant"
    shorthand = "value"

    value: float
    """The value."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[np.float64]:
        import numpy as np

        return np.full(shape, self.value)


class Values(Initializer):
    """The values themselves."""

    type: Literal["values"] = "values"
    shorthand = "values"

    values: list[Any]
    """Numbers in lists that are nested as the parameter's shape says: [[0.15, 0.20], [0.25, 0.30]] for (2, 2)."""

    @field_validator("values")
    @classmethod
    def _nested_evenly(cls, values: list[Any]) -> list[Any]:
        _shape_of(values)
        return values

    @property
    def shape(self) -> tuple[int, ...]:
        return _shape_of(self.values)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> NDArray[np.float64]:
        import numpy as np

        return np.array(self.values, np.float64).reshape(shape)


def _shape_of(values: Any) -> tuple[int, ...]:
    """The shape of nested lists of numbers. Raises ValueError if there is none."""
    if isinstance(values, list):
        if not values:
            raise ValueError("expected numbers, got an empty list")
        shapes = {_shape_of(value) for value in values}
        if len(shapes) != 1:
            found = " and ".join(map(str, sorted(shapes)))
            raise ValueError(f"expected lists of equal lengths, got entries of shapes {found} in one list")
        return (len(values), *shapes.pop())
    if isinstance(values, bool) or not isinstance(values, int | float) or not math.isfinite(values):
        raise ValueError(f"expected numbers, got {values!r}")
    return ()
