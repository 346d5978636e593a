"""How parameters start: the mean and variance that each rule promises, its limits, and its fields."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from nnjit.initializers import Initializer

FAN_IN, FAN_OUT = 50, 30

# (config, mean, variance, limit)
RULES: list[tuple[Any, float, float, float]] = [
    ("he_normal", 0.0, 2 / FAN_IN, math.inf),
    ("he_uniform", 0.0, 2 / FAN_IN, math.sqrt(6 / FAN_IN)),
    ("glorot_normal", 0.0, 2 / (FAN_IN + FAN_OUT), math.inf),
    ("glorot_uniform", 0.0, 2 / (FAN_IN + FAN_OUT), math.sqrt(6 / (FAN_IN + FAN_OUT))),
    ("normal", 0.0, 1.0, math.inf),
    ({"normal": 0.3}, 0.0, 0.09, math.inf),
    ({"normal": {"std": 0.3, "mean": -2.0}}, -2.0, 0.09, math.inf),
    ("zeros", 0.0, 0.0, 0.0),
    ({"constant": 0.25}, 0.25, 0.0, 0.25),
]


def initializer(spec: Any) -> Initializer:
    return TypeAdapter(list[Initializer]).validate_python([spec])[0]


@pytest.mark.parametrize(("spec", "mean", "variance", "limit"), RULES, ids=lambda value: str(value))
def test_moments(spec: Any, mean: float, variance: float, limit: float) -> None:
    count = 200_000
    values = initializer(spec).draw(np.random.default_rng(1), (count,), FAN_IN, FAN_OUT)
    assert values.dtype == np.float64 and values.shape == (count,)
    # Five standard errors, of the mean and (for a normal) of the variance.
    assert abs(values.mean() - mean) <= 5 * math.sqrt(variance / count)
    assert abs(values.var() - variance) <= 5 * variance * math.sqrt(2 / count)
    assert np.abs(values).max() <= limit
    if 0 < limit < math.inf:
        assert np.abs(values).max() >= 0.999 * limit


def test_every_rule_is_tested() -> None:
    assert {*(initializer(spec).kind() for spec, *_ in RULES), "values"} == Initializer.kinds().keys()


def test_values_are_the_values_themselves() -> None:
    given = initializer({"values": [[0.15, 2, -1.0], [0.25, 0.3, 0.0]]})
    assert given.shape == (2, 3)
    assert given.draw(np.random.default_rng(1), (2, 3), 3, 2).tolist() == [[0.15, 2.0, -1.0], [0.25, 0.3, 0.0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, 2.0], [3.0]], "expected lists of equal lengths, got entries of shapes (1,) and (2,) in one list"),
        ([1.0, [2.0]], "expected lists of equal lengths, got entries of shapes () and (1,) in one list"),
        ([[]], "expected numbers, got an empty list"),
        ([1.0, "two"], "expected numbers, got 'two'"),
        ([True], "expected numbers, got True"),
        ([math.nan], "expected numbers, got nan"),
    ],
)
def test_values_that_are_no_array_are_refused(values: list[Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        initializer({"values": values})
    assert caught.value.errors()[0]["msg"] == f"Value error, {message}"


def test_the_generator_fixes_every_bit() -> None:
    draws = [initializer("he_normal").draw(np.random.default_rng(seed), (5, 3), 3, 5).tobytes() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_a_standard_deviation_of_zero_is_refused() -> None:
    with pytest.raises(ValidationError, match="Input should be greater than 0"):
        initializer({"normal": 0.0})
