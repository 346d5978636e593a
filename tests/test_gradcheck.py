"""The gradient checker: it passes what is right, fails what is wrong by 1 %, and says what it could not tell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from battery import Array, compiled_only, layers_of, loss_of

from nnjit.gradcheck import Probe, Report, Settings, check, faults
from nnjit.gradcheck.cases import Case, cases, plural
from nnjit.gradcheck.check import TOLERANCES, relative_error, select_entries
from nnjit.gradcheck.faults import FAULTS, self_test
from nnjit.layers import Layer
from nnjit.losses import HalfSquaredError, Loss
from nnjit.network import Network

pytestmark = [pytest.mark.usefixtures("few_tiles"), compiled_only("a check runs the forward pass thousands of times")]

QUICK = Settings(entries=12)


def probe_of(specs: list[Any], inputs: Array, *, loss: str = "half_squared_error", seed: int = 3) -> Probe:
    """A float64 network on inputs (N, *shape), with targets of 0."""
    network = Network(layers_of(*specs), inputs.shape[1:], np.dtype(np.float64), seed)
    return Probe(network, loss_of(loss), inputs, np.zeros((len(inputs), *network.output_shape)))


def small_probe() -> Probe:
    """Two dense layers with tanh between them on 3 samples."""
    return probe_of([{"dense": 5}, "tanh", {"dense": 2}], np.random.default_rng(1).normal(size=(3, 4)))


# What is right


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_case_passes(dtype: str) -> None:
    chosen = list(cases(np.dtype(dtype)))
    if dtype == "float32":
        # One per kind: each dtype compiles kernels of its own.
        chosen = list({case.kinds: case for case in reversed(chosen)}.values())
    for case in chosen:
        report = check(case.probe(np.dtype(dtype), 0), QUICK, case.title)
        for tensor in report.tensors:
            assert tensor.passed and tensor.error < TOLERANCES[dtype], (case.title, tensor)
            assert tensor.checked + tensor.skipped == tensor.entries == math.prod(tensor.shape)
            # In float32 rounding hides small gradients, as their rows say; in float64 every case proves something.
            assert dtype == "float32" or not tensor.blind, (case.title, tensor.name)


def test_every_kind_has_a_case() -> None:
    covered = {kind for case in cases(np.float64) for kind in case.kinds}
    assert covered == {*Layer.kinds(), *Loss.kinds()}


def test_the_network_is_left_as_it_was() -> None:
    probe = small_probe()
    cost, before = probe.cost(), probe.network.weights.copy()
    check(probe, QUICK)
    assert probe.network.weights.tobytes() == before.tobytes()
    assert probe.cost() == cost


def test_the_same_seed_checks_the_same_entries() -> None:
    assert check(small_probe(), QUICK) == check(small_probe(), QUICK)
    assert check(small_probe(), QUICK) != check(small_probe(), replace(QUICK, seed=1))


def test_layers_by_position() -> None:
    report = check(small_probe(), QUICK, positions={2})
    assert [tensor.name for tensor in report.tensors] == ["layers.2.input", "layers.2.weight", "layers.2.bias"]


# What is wrong


def spoilt(factor: float, entry: int) -> Report:
    """A check of the small network with one entry of a gradient multiplied by `factor`."""
    probe = small_probe()
    tensor = next(tensor for tensor in probe.tensors() if tensor.name == "layers.0.weight")

    def spoil() -> None:
        tensor.gradient[tensor.gradient_places[entry]] *= factor

    probe.after_backward.append(spoil)
    return check(probe, Settings())


@pytest.mark.parametrize("factor, error", [(1.01, 0.01 / 1.01), (0.99, 0.01), (-1.0, 2.0), (0.0, 1.0)])
def test_one_wrong_entry_is_found(factor: float, error: float) -> None:
    report = spoilt(factor, 7)
    (wrong,) = (tensor for tensor in report.tensors if not tensor.passed)
    assert (wrong.name, wrong.failed, wrong.worst_index) == ("layers.0.weight", 1, (1, 3))
    assert wrong.error == pytest.approx(error, rel=1e-4)
    assert not report.passed and spoilt(1.0, 7).passed


def test_a_gradient_that_is_no_number_is_the_worst() -> None:
    report = spoilt(math.nan, 7)
    (wrong,) = (tensor for tensor in report.tensors if not tensor.passed)
    assert (wrong.failed, wrong.worst_index) == (1, (1, 3)) and math.isnan(wrong.error)


@pytest.fixture(scope="module")
def trials(few_tiles: None) -> list[faults.Trial]:
    """The self-test's results."""
    return list(self_test(np.dtype(np.float64), QUICK))


def test_every_fault_is_caught_in_every_kind(trials: list[faults.Trial]) -> None:
    assert [trial for trial in trials if not trial.expected] == []
    kinds = [*Layer.kinds(), *Loss.kinds()]
    assert [trial.kind for trial in trials if not trial.fault] == kinds
    for fault in ("wrong_sign", "one_percent", "forgotten_mean"):
        assert [trial.kind for trial in trials if trial.fault == fault] == kinds


@pytest.mark.parametrize(
    "fault, kinds",
    [
        ("missing_bias", {"conv2d", "dense", *Loss.kinds()}),
        ("unrotated_kernel", {"conv2d"}),
        ("shifted_border", {"conv2d", "max_pool", "average_pool"}),
    ],
)
def test_faults_of_some_kinds(trials: list[faults.Trial], fault: str, kinds: set[str]) -> None:
    assert kinds <= {trial.kind for trial in trials if trial.fault == fault}


def no_fault(probe: Probe) -> bool:
    """A fault that spoils nothing."""
    return True


def test_the_self_test_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("tanh", ("tanh",), tuple(layers_of("tanh")), (3,), HalfSquaredError(), 2)
    monkeypatch.setattr(faults, "FAULTS", (FAULTS[0], no_fault))
    monkeypatch.setattr(faults, "cases", lambda dtype: [replace(case, kinds=(*Layer.kinds(), *Loss.kinds()))])
    found = [(trial.fault, trial.expected) for trial in self_test(np.dtype(np.float64), QUICK)][:3]
    assert found == [("", True), ("wrong_sign", True), ("no_fault", False)]


# Kinks


def test_a_kink_is_counted_not_failed() -> None:
    inputs = np.linspace(-3, 3, 8)[None]
    inputs[0, 2] = 1e-12
    report = check(probe_of(["relu"], inputs), Settings())
    (tensor,) = report.tensors
    assert (tensor.checked, tensor.failed, tensor.kinks, tensor.passed) == (8, 0, 1, True)


def test_a_kink_within_the_first_step_is_passed_with_a_smaller_one() -> None:
    report = check(probe_of(["relu"], np.array([[5e-5, 1.0, -5e-5]])), Settings())
    (tensor,) = report.tensors
    assert (tensor.failed, tensor.kinks) == (0, 0)


def test_a_tie_of_a_maximum_is_a_kink() -> None:
    inputs = np.random.default_rng(2).normal(size=(1, 1, 2, 4))
    inputs[0, 0, :, :2] = 3.0
    report = check(probe_of([{"max_pool": 2}], inputs), Settings())
    (tensor,) = report.tensors
    assert (tensor.checked, tensor.failed, tensor.kinks) == (8, 0, 4)


@pytest.mark.parametrize("kinks, passed", [(4, True), (5, False)])
def test_more_than_half_kinks_fail(kinks: int, passed: bool) -> None:
    inputs = np.linspace(1, 3, 8)[None]
    inputs[0, :kinks] = 0
    report = check(probe_of(["relu"], inputs), Settings())
    (tensor,) = report.tensors
    assert (tensor.failed, tensor.kinks, tensor.too_many_kinks) == (0, kinks, not passed)
    assert report.passed == passed


# The measure


@pytest.mark.parametrize(
    "analytic, numeric, floor, error",
    [(1.0, 1.01, 0.0, 0.01 / 1.01), (1.0, -1.0, 0.0, 2.0), (3e-9, -1e-9, 4e-6, 1e-3), (0.0, 0.0, 1e-9, 0.0)],
)
def test_relative_error(analytic: float, numeric: float, floor: float, error: float) -> None:
    assert relative_error(analytic, numeric, floor) == pytest.approx(error, rel=1e-12)
    assert relative_error(numeric, analytic, floor) == relative_error(analytic, numeric, floor)


def test_gradients_too_small_to_tell_are_blind() -> None:
    """With inputs of 1e-9 the weights' gradients are below the floor: a fault in them would pass."""
    report = check(probe_of([{"dense": 2}], np.full((2, 3), 1e-9)), Settings())
    assert [tensor.name for tensor in report.tensors if tensor.blind] == ["layers.0.weight"]
    assert not any(tensor.blind for tensor in check(small_probe(), Settings()).tensors)


@pytest.fixture
def gradient() -> Iterator[Array]:
    """50 numbers, the largest of them at 17."""
    values = np.random.default_rng(4).uniform(-1, 1, 50)
    values[17] = -2
    yield values


@pytest.mark.parametrize("limit", [None, 50, 51])
def test_all_entries(gradient: Array, limit: int | None) -> None:
    assert list(select_entries(gradient, limit, np.random.default_rng(0))) == list(range(50))


@pytest.mark.parametrize("limit, fixed", [(1, {17}), (2, {0, 17}), (3, {0, 17, 49}), (20, {0, 17, 49})])
def test_some_entries(gradient: Array, limit: int, fixed: set[int]) -> None:
    chosen = select_entries(gradient, limit, np.random.default_rng(0))
    assert len(set(chosen)) == len(chosen) == limit and fixed <= set(chosen)
    assert list(chosen) == sorted(chosen)


def test_counts_in_words() -> None:
    assert (plural(1, "sample"), plural(2, "sample")) == ("1 sample", "2 samples")
