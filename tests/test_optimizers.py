"""Optimizer kernels against the reference over several steps, on weights that decay and biases that do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from battery import DTYPES, require_all
from numpy.testing import assert_allclose, assert_array_equal
from pydantic import TypeAdapter, ValidationError

from nnjit.kernels.program import Program
from nnjit.kernels.simd import lanes
from nnjit.optimizers import Optimizer, OptimizerSite
from nnjit.parameters import aligned_zeros
from nnjit.reference import optimizers as reference

VECTORS, DECAYED = 600, 301  # three tasks, the border of weight decay within the second

SETTINGS: list[dict[str, Any]] = [
    {"type": "sgd"},
    {"type": "sgd", "weight_decay": 0.1},
    {"type": "sgd", "momentum": 0.9},
    {"type": "sgd", "momentum": 0.9, "weight_decay": 0.1},
    {"type": "sgd", "momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
]


def optimizer(fields: Any) -> Optimizer:
    return TypeAdapter(list[Optimizer]).validate_python([fields])[0]


def test_every_optimizer_has_settings() -> None:
    require_all("settings", Optimizer.kinds(), (fields["type"] for fields in SETTINGS))


@DTYPES
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda fields: " ".join(f"{k}={v}" for k, v in fields.items()))
def test_steps_equal_the_reference(settings: dict[str, Any], dtype: Any) -> None:
    rule = optimizer({**settings, "learning_rate": 0.3})
    w, g = (aligned_zeros((VECTORS, lanes(dtype)), dtype) for _ in range(2))
    state = {name: np.zeros_like(w) for name in rule.state}
    rate = np.full(1, rule.learning_rate, dtype)
    program = Program([rule.bind(OptimizerSite(w, g, state, rate, DECAYED))])

    rng = np.random.default_rng(1)
    w[:] = rng.standard_normal(w.shape)
    expected, velocity = w.astype(np.float64), np.zeros(w.shape)
    fields = {name: value for name, value in settings.items() if name != "type"}
    decay = fields.pop("weight_decay", 0.0)
    update = getattr(reference, f"{settings['type']}_update")
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    for step in range(5):
        rate[0] = learning_rate = 0.3 / (1 + step)  # it may change between steps
        g[:] = rng.standard_normal(w.shape)
        for part, decayed in ((slice(DECAYED), decay), (slice(DECAYED, None), 0.0)):
            expected[part], velocity[part] = update(
                expected[part],
                g[part].astype(np.float64),
                velocity[part],
                learning_rate=learning_rate,
                weight_decay=decayed,
                **fields,
            )
        program.run()
        assert_allclose(w, expected, rtol=tolerance, atol=tolerance)
        for array in state.values():
            assert_allclose(array, velocity, rtol=tolerance, atol=tolerance)


def test_without_decay_a_weight_without_gradient_stays() -> None:
    rule = optimizer({"sgd": 0.5})
    w = np.ones((2, 8))
    Program([rule.bind(OptimizerSite(w, np.zeros_like(w), {}, np.full(1, 0.5), 1))]).run()
    assert_array_equal(w, np.ones_like(w))
    rule = optimizer({"learning_rate": 0.5, "weight_decay": 0.5})
    Program([rule.bind(OptimizerSite(w, np.zeros_like(w), {}, np.full(1, 0.5), 1))]).run()
    assert_array_equal(w, [[0.75] * 8, [1.0] * 8])


def test_velocities_that_fade_away_end_at_zero_instead_of_denormal_numbers() -> None:
    rule = optimizer({"learning_rate": 0.5, "momentum": 0.5})
    w = aligned_zeros((1, 16), np.float32)
    velocity = np.zeros_like(w)
    velocity[0, :4] = [2.0**-125, -(2.0**-125), 2.0**-126, -(2.0**-126)]
    Program(
        [rule.bind(OptimizerSite(w, np.zeros_like(w), {"velocity": velocity}, np.full(1, 0.5, np.float32), 0))]
    ).run()
    assert_array_equal(velocity[0, :4], np.array([2.0**-126, -(2.0**-126), 0, 0], np.float32))


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValidationError, match="nesterov needs a momentum above 0"):
        optimizer({"learning_rate": 0.5, "nesterov": True})


@pytest.mark.parametrize("fields", [{"learning_rate": 0.0}, {"learning_rate": 1.0, "momentum": 1.0}])
def test_settings_that_cannot_learn_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        optimizer(fields)
