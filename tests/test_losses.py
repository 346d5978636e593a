"""Every registered loss: costs and gradients for every form of target, and for batches of every size."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from battery import (
    BINARY,
    DTYPES,
    IMAGES,
    LABELS,
    LOSS_CASES,
    SAMPLES,
    TOLERANCE,
    VECTORS,
    Array,
    BoundLoss,
    loss_case,
    loss_of,
    relative_error,
    require_all,
)
from numpy.testing import assert_allclose, assert_array_equal

from nnjit.kernels.program import Program
from nnjit.kernels.simd import lanes
from nnjit.layers import Shape, ShapeError
from nnjit.losses import Loss
from nnjit.metrics import Accuracy, Metric, RootMeanSquaredError
from nnjit.reference.base import LOSSES

CASES = pytest.mark.parametrize(("kind", "form"), LOSS_CASES)


def test_every_loss_has_a_case() -> None:
    require_all("case", Loss.kinds(), (kind for kind, _ in LOSS_CASES))


def test_a_loss_without_a_case_fails_by_name() -> None:
    cases = (kind for kind, _ in LOSS_CASES if kind != "binary_cross_entropy")
    with pytest.raises(pytest.fail.Exception, match="^no case for: binary_cross_entropy$"):
        require_all("case", Loss.kinds(), cases)


@pytest.mark.parametrize("kind", Loss.kinds())
def test_config_round_trip(kind: str) -> None:
    loss = loss_of(kind)
    assert loss_of(json.loads(loss.model_dump_json())) == loss


def loss_errors(kind: str, form: str, samples: int, dtype: Any) -> dict[str, float]:
    out, target, as_output = loss_case(form, samples, dtype)
    costs, dout = BoundLoss(loss_of(kind), out.shape[1:], dtype, batch_size=19).run(out, as_output)
    assert costs.dtype == dout.dtype == dtype
    assert_array_equal(costs[samples:], 0)
    expected_cost, expected = LOSSES[kind](out.astype(np.float64), target)
    cost = costs.sum(dtype=np.float64) / samples
    return {"cost": abs(cost / expected_cost - 1), "dout": relative_error(dout, expected)}


@DTYPES
@pytest.mark.parametrize("samples", [1, 8, 19])
@CASES
def test_cost_and_gradient_equal_the_reference(kind: str, form: str, samples: int, dtype: Any) -> None:
    found = loss_errors(kind, form, samples, dtype)
    assert max(found.values()) < TOLERANCE[dtype], found


def test_a_wrong_reference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = LOSSES["softmax_cross_entropy"]
    monkeypatch.setitem(LOSSES, "softmax_cross_entropy", lambda out, target: (correct(out, target)[0], 1.01 * out))
    found = loss_errors("softmax_cross_entropy", LABELS, SAMPLES, np.float64)
    assert found["cost"] < 1e-11
    assert found["dout"] > 0.01


@CASES
def test_gradient_equals_differences(kind: str, form: str) -> None:
    out, _, target = loss_case(form, 3, np.float64)
    bound = BoundLoss(loss_of(kind), out.shape[1:], np.float64, batch_size=3)
    _, dout = bound.run(out, target)
    numeric, step = np.zeros_like(out), 1e-5
    for index in np.ndindex(out.shape):
        moved = [out.copy(), out.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        above, below = (bound.run(array, target)[0].sum() / 3 for array in moved)
        numeric[index] = (above - below) / (2 * step)
    assert relative_error(dout, numeric) < 1e-6


@DTYPES
@CASES
def test_costs_of_a_batch_equal_those_of_its_samples(kind: str, form: str, dtype: Any) -> None:
    out, _, target = loss_case(form, SAMPLES, dtype)
    bound = BoundLoss(loss_of(kind), out.shape[1:], dtype)
    together = bound.run(out, target)[0][:SAMPLES].copy()
    apart = [bound.run(out[n : n + 1], target[n : n + 1])[0][0] for n in range(SAMPLES)]
    assert_array_equal(together, apart)


@DTYPES
@pytest.mark.parametrize("kind", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_logits_far_from_zero_stay_finite(kind: str, dtype: Any) -> None:
    out = np.array([[1000, 0, -1000], [-1000, -1000, -1000], [1000, 1000, 1000]], dtype)
    target = np.eye(3, dtype=dtype)
    costs, dout = BoundLoss(loss_of(kind), (3,), dtype).run(out, target)
    cost, expected = LOSSES[kind](out.astype(np.float64), np.arange(3))
    assert_allclose(costs.sum() / 3, cost, rtol=1e-6)
    assert_allclose(dout, expected, rtol=1e-6, atol=1e-7)


@CASES
def test_nan_in_an_output_is_seen_in_its_cost_alone(kind: str, form: str) -> None:
    out, _, target = loss_case(form, SAMPLES, np.float32)
    out[4].flat[0] = np.nan
    costs, dout = BoundLoss(loss_of(kind), out.shape[1:], np.float32).run(out, target)
    assert_array_equal(np.flatnonzero(np.isnan(costs)), [4])
    assert np.isnan(dout[4]).any() and not np.isnan(np.delete(dout, 4, axis=0)).any()


@pytest.mark.parametrize("shape", [(2, 3, 4), (1,)])
def test_softmax_cross_entropy_takes_a_score_for_each_of_several_classes(shape: Shape) -> None:
    loss = loss_of("softmax_cross_entropy")
    loss.check_output((2,))
    with pytest.raises(ShapeError) as caught:
        loss.check_output(shape)
    assert str(caught.value) == (
        f"expected an output of one score per class, shape (F,) with F at least 2, got {shape}"
    )


@pytest.mark.parametrize("kind", ["softmax_cross_entropy", "binary_cross_entropy"])
def test_answers_are_probabilities(kind: str) -> None:
    logits = np.array([[0.0, np.log(3.0)], [1000.0, -1000.0]], np.float32)
    expected = {
        "softmax_cross_entropy": [[0.25, 0.75], [1, 0]],
        "binary_cross_entropy": [[0.5, 0.75], [1, 0]],
    }[kind]
    answers = loss_of(kind).answers(logits)
    assert answers.dtype == np.float32
    assert_allclose(answers, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["half_squared_error", "mean_squared_error"])
def test_answers_of_a_squared_error_are_the_outputs(kind: str) -> None:
    outputs = np.array([[1.5, -2.0]])
    assert_array_equal(loss_of(kind).answers(outputs), outputs)


@pytest.mark.parametrize("kind", ["half_squared_error", "mean_squared_error", "binary_cross_entropy"])
def test_the_other_losses_take_any_shape(kind: str) -> None:
    loss_of(kind).check_output((3,))
    loss_of(kind).check_output((2, 3, 4))


# Metrics: what is reported beside the loss


def scores(metric: Metric, out: Array, target: Array) -> Array:
    """Each sample's score, spare lanes included."""
    bound = BoundLoss(loss_of("half_squared_error"), out.shape[1:], out.dtype)
    bound.run(out, target)
    Program([metric.call(bound.site)]).run()
    return bound.site.scores.ravel()


@DTYPES
def test_accuracy_counts_the_largest_output(dtype: Any) -> None:
    out, labels, target = loss_case(LABELS, SAMPLES, dtype)
    hits = scores(Accuracy(0.5), out, target)
    assert_array_equal(hits[:SAMPLES], out.argmax(axis=1) == labels)
    assert 0 < hits.sum() < SAMPLES
    assert_array_equal(hits[SAMPLES:], 0)


def test_of_equal_outputs_the_first_is_the_answer() -> None:
    out, target = np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    assert_array_equal(scores(Accuracy(0.5), out, target)[:2], [1, 0])


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_accuracy_of_one_output_is_on_which_side_it_lies(threshold: float) -> None:
    out, labels, target = loss_case(BINARY, SAMPLES, np.float64)
    hits = scores(Accuracy(threshold), out, target)
    assert_array_equal(hits[:SAMPLES], (out[:, 0] > threshold) == labels)
    assert_array_equal(hits[SAMPLES:], 0)


@DTYPES
@pytest.mark.parametrize("form", [VECTORS, IMAGES])
def test_root_mean_squared_error(form: str, dtype: Any) -> None:
    out, _, target = loss_case(form, SAMPLES, dtype)
    metric = RootMeanSquaredError()
    squares = scores(metric, out, target)
    expected = ((out - target) ** 2).reshape(SAMPLES, -1).mean(axis=1)
    assert_allclose(squares[:SAMPLES], expected, rtol=1e-5 if dtype == np.float32 else 1e-13)
    assert len(squares) % lanes(dtype) == 0 and not squares[SAMPLES:].any()
    assert metric.value(0.25) == 0.5
    assert np.isnan(metric.value(np.nan))
