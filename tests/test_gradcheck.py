"""The gradient checker: it passes what is right, fails what is wrong by 1 %, and says what it could not tell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from battery import Array, compiled_only, layers_of, loss_of

from nnjit.gradcheck import Probe, Report, Settings, check, faults
from nnjit.gradcheck.against import Comparison, Reference, against
from nnjit.gradcheck.cases import Case, cases, plural
from nnjit.gradcheck.check import DIRECTIONS, FAULT, TOLERANCES, analytic_gradients, relative_error, select_entries
from nnjit.gradcheck.faults import FAULTS, self_test
from nnjit.gradcheck.penalty import check_penalty
from nnjit.gradcheck.scan import Row, Scan, judge, romberg, scan
from nnjit.layers import Layer
from nnjit.losses import HalfSquaredError, Loss
from nnjit.network import Network
from nnjit.optimizers import OptimizerSite, Sgd

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
            assert tensor.missed < 0.1, (case.title, tensor)


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
        assert list(dict.fromkeys(trial.kind for trial in trials if trial.fault == fault)) == kinds


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


def test_faults_are_planted_in_every_way_to_compute(trials: list[faults.Trial]) -> None:
    """Convolutions with several forms of Winograd's algorithm, whose kernels are packed by another kernel, are among
    them, with a stride too."""
    unrotated = {trial.title for trial in trials if trial.kind == "conv2d" and trial.fault == "unrotated_kernel"}
    for kernel in (3, 5):
        assert any(title.startswith(f"conv2d {{filters: 17, kernel: {kernel}, padding: same}}") for title in unrotated)
    for case in ("kernel: 5}", "kernel: 4}", "kernel: 6, stride: 2, padding: 2}"):
        assert any(title.startswith(f"conv2d {{filters: 17, {case}") for title in unrotated)
    assert len(unrotated) >= 7


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


def test_gradients_too_small_to_tell_are_hidden() -> None:
    """With inputs of 1e-9 the weights' gradients are below the floor: a fault in them would pass."""
    report = check(probe_of([{"dense": 2}], np.full((2, 3), 1e-9)), Settings())
    (weight,) = (tensor for tensor in report.tensors if not tensor.seen)
    assert (weight.name, weight.hidden, weight.missed, weight.passed) == ("layers.0.weight", 6, 1.0, True)
    assert all(tensor.missed == 0 for tensor in check(small_probe(), Settings()).tensors)


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


def test_an_activation_that_a_layer_applies_stands_for_that_layer() -> None:
    names = [tensor.name for tensor in check(small_probe(), QUICK, positions={1}).tensors]
    assert names == ["layers.0.input", "layers.0.weight", "layers.0.bias"]


# Random directions


FAST = Settings(fast=True)


def test_directions_pass_what_is_right() -> None:
    for case in cases(np.dtype(np.float64)):
        if {"relu", "conv2d", "softmax_cross_entropy"} & set(case.kinds):
            report = check(case.probe(np.dtype(np.float64), 0), FAST, case.title)
            assert report.passed, case.title
            for tensor in report.tensors:
                assert (tensor.compared, tensor.checked, tensor.skipped) == (DIRECTIONS, tensor.entries, 0)


@pytest.mark.parametrize("entries", [slice(None), slice(7, 8)], ids=["all", "one"])
def test_a_direction_finds_one_percent(entries: slice) -> None:
    probe = small_probe()
    tensor = next(tensor for tensor in probe.tensors() if tensor.name == "layers.0.weight")

    def spoil() -> None:
        tensor.gradient[tensor.gradient_places[entries]] *= 1.01

    probe.after_backward.append(spoil)
    (wrong,) = (tensor for tensor in check(probe, FAST).tensors if not tensor.passed)
    assert (wrong.name, wrong.worst_index) == ("layers.0.weight", None) and wrong.failed > DIRECTIONS / 2


def test_the_chance_of_missing_a_fault_is_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many directions, the counted share is the mean of the formula over the entries."""
    monkeypatch.setattr(import_module("nnjit.gradcheck.check"), "DIRECTIONS", 1)
    settings = replace(FAST, tolerance=3e-4)
    probe = small_probe()
    gradient = next(item for item in analytic_gradients(probe, {0}) if item.tensor.name == "layers.0.weight")
    share = np.abs(gradient.values) / np.linalg.norm(gradient.values)
    rest, c = np.sqrt(1 - share**2), settings.tolerance_for(np.float64) / (FAULT * share)
    expected = ((np.arctan((c - share) / rest) + np.arctan((c + share) / rest)) / np.pi).mean()
    counted = []
    for seed in range(300):
        report = check(probe, replace(settings, seed=seed), positions={0})
        counted.append(next(item.missed for item in report.tensors if item.name == gradient.tensor.name))
    assert np.mean(np.array(counted, float)) == pytest.approx(expected, rel=0.15)


# Steps


def scanned(probe: Probe) -> dict[str, Scan]:
    """The scans of a probe by tensor."""
    return {found.name: found for found in scan(probe, check(probe, Settings()), Settings())}


def test_errors_over_steps_make_a_v() -> None:
    found = scanned(small_probe())["layers.0.weight"]
    errors = [row.plain_error for row in found.rows]
    assert found.cause == "right" and all(error is not None for error in errors)
    values = [error or 0.0 for error in errors]
    assert [row.step for row in found.rows] == pytest.approx([10.0**-k for k in range(2, 10)])
    # A hundredth for a tenth of the step at first; at the end rounding.
    assert values[0] / values[1] == pytest.approx(100, rel=0.05)
    assert values[-1] > 10 * min(values) and 0 < values.index(min(values)) < 7
    assert (found.rows[0].extrapolated_error or 0.0) < 1e-4 * values[0]


def test_a_wrong_gradient_is_told_from_a_poor_difference() -> None:
    probe = small_probe()
    tensor = next(tensor for tensor in probe.tensors() if tensor.name == "layers.0.weight")
    probe.after_backward.append(lambda: tensor.gradient.__setitem__(tensor.gradient_places[7], 0.5))
    found = scanned(probe)
    assert (found["layers.0.weight"].cause, found["layers.0.weight"].index) == ("wrong gradient", (1, 3))
    assert {item.cause for name, item in found.items() if name != "layers.0.weight"} == {"right"}


def test_a_kink_within_every_step() -> None:
    found = scanned(probe_of(["relu"], np.array([[1e-12]])))["layers.0.input"]
    assert (found.cause, found.best_step) == ("kink", None)
    assert found.verdict == "a kink within every step: there is no derivative to compare with"


def rows(*, truncation: float, rounded: float) -> list[Row]:
    """Eight rows whose differences say 1 and may be off."""
    return [Row(10.0**-k, 1.0, 1.0, 1e-3, 1e-3, truncation, rounded) for k in range(2, 10)]


@pytest.mark.parametrize(
    "truncation, rounded, own, cause, verdict",
    [
        (1e-9, 1e-1, 0.0, "rounding", "the differences know no more than 1.000000e+00 +- 1e-01, at h = 1e-02, because"),
        (1e-1, 1e-9, 0.0, "truncation", "the differences know no more than 1.000000e+00 +- 1e-01, at h = 1e-02, becau"),
        (1e-9, 1e-9, 1e-3, "rounding", "the gradient is known no better than +- 1e-03; 1.000000e+00 +- 2e-09 at h = 1"),
        (1e-9, 1e-9, 1e-5, "wrong gradient", "the differences agree on 1.000000e+00 +- 2e-09, found at h = 1e-02;"),
    ],
)
def test_what_is_known_too_little_condemns_nothing(
    truncation: float, rounded: float, own: float, cause: str, verdict: str
) -> None:
    found = judge("w", (0,), 1.001, own, 1e-6, rows(truncation=truncation, rounded=rounded))
    assert found.cause == cause and found.verdict.startswith(verdict)


def test_a_tableau() -> None:
    """Differences with errors of h**2 and h**4 alone: the third entry of the diagonal has neither."""
    steps = [1.0, 0.5, 0.25]
    assert romberg([3 + h**2 + 5 * h**4 for h in steps])[-1] == pytest.approx(3, abs=1e-14)


# Weight decay


def penalty(momentum: float, nesterov: bool, dtype: Any = np.float64) -> tuple[Network, Sgd]:
    network = Network(layers_of({"dense": 5}, "tanh", {"dense": 2}), (4,), np.dtype(dtype), 3)
    network.weights[:] += network.layout.dtype.type(0.125)
    return network, Sgd(learning_rate=1e-3, momentum=momentum, nesterov=nesterov, weight_decay=1e-4)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_decay_is_the_gradient_of_its_penalty(momentum: float, nesterov: bool, dtype: Any) -> None:
    network, rule = penalty(momentum, nesterov, dtype)
    before = network.weights.tobytes()
    (row,) = check_penalty(network, rule)
    assert row.passed and row.missed < 0.05 and row.name.startswith("penalty of layers."), row
    assert (row.checked, row.entries, row.skipped) == (37, 37, 0)
    assert network.weights.tobytes() == before


def test_no_row_without_decay() -> None:
    network, rule = penalty(0.0, False)
    assert check_penalty(network, rule.model_copy(update={"weight_decay": 0.0})) == []


class Spoilt(Sgd):
    """Weight decay that is 1 % too strong."""

    def bind(self, site: OptimizerSite) -> Any:
        return Sgd.bind(self.model_copy(update={"weight_decay": 1.01 * self.weight_decay}), site)


class OnBiases(Sgd):
    """Weight decay that does not spare biases."""

    def bind(self, site: OptimizerSite) -> Any:
        return super().bind(replace(site, decayed=len(site.weights)))


@pytest.mark.parametrize("rule, failed, error", [(Spoilt, 30, 0.01 / 1.01), (OnBiases, 7, 1.0)])
def test_wrong_decay_is_found(rule: type[Sgd], failed: int, error: float) -> None:
    network, right = penalty(0.9, False)
    (row,) = check_penalty(network, rule.model_construct(**dict(right)))
    assert (row.failed, row.passed) == (failed, False)
    assert row.error == pytest.approx(error, rel=1e-6)


# Against others


def test_the_kernels_agree_with_the_reference() -> None:
    for case in cases(np.dtype(np.float64)):
        comparison = against(case.probe(np.dtype(np.float64), 0), Reference(), case.title)
        assert comparison.passed and not comparison.skipped, comparison


def test_what_is_compared() -> None:
    comparison = against(small_probe(), Reference())
    gradients = [f"layers.{name} gradient" for name in ("0.input", "0.weight", "0.bias", "2.weight", "2.bias")]
    assert [row.name for row in comparison.rows] == ["layers.1.output", "layers.2.output", "loss", *gradients]


def test_a_difference_is_found() -> None:
    probe = small_probe()
    tensor = next(tensor for tensor in probe.tensors() if tensor.name == "layers.0.weight")
    probe.after_backward.append(lambda: tensor.gradient.__setitem__(tensor.gradient_places[7], 0.5))
    comparison = against(probe, Reference())
    (row,) = (row for row in comparison.rows if not row.passed)
    assert (row.name, row.worst_index, row.ours) == ("layers.0.weight gradient", (1, 3), 0.5)
    assert row.absolute == abs(row.ours - row.theirs) and not comparison.passed


def test_what_should_be_zero_is_infinitely_different() -> None:
    comparison = Comparison("", "reference", 1e-12)
    comparison.add("zeros", np.zeros(3), np.zeros(3))
    comparison.add("ones", np.ones(3), np.zeros(3))
    assert [(row.relative, row.passed) for row in comparison.rows] == [(0.0, True), (math.inf, False)]


class Lacking(Reference):
    """A peer without tanh, or without a loss."""

    def __init__(self, layer: str = "", loss: str = "") -> None:
        self.layers = {kind: found for kind, found in Reference.layers.items() if kind != layer}
        self.losses = {kind: found for kind, found in Reference.losses.items() if kind != loss}


def test_what_the_peer_lacks_is_skipped_by_name() -> None:
    network = [{"dense": 5}, {"dense": 3}, "softmax", {"dense": 2}]
    probe = probe_of(network, np.random.default_rng(1).normal(size=(3, 4)))
    comparison = against(probe, Lacking(layer="softmax"))
    assert [row.name for row in comparison.rows] == ["layers.0.output", "layers.1.output"]
    assert comparison.skipped == ["layers.2 (softmax), what follows it, and all gradients: reference has no softmax"]
    comparison = against(probe, Lacking(loss="half_squared_error"))
    assert [row.name for row in comparison.rows] == [f"layers.{k}.output" for k in range(4)]
    assert comparison.skipped == ["the loss and all gradients: reference has no half_squared_error"]
