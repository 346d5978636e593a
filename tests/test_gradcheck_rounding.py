"""The gradient checker in float32: differences in float64 at the same point, and rounding that is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from battery import Array, compiled_only, layers_of, loss_of

from nnjit.config import load_config, parse_config
from nnjit.gradcheck import Probe, Settings, check, configured, rounding
from nnjit.gradcheck.cases import cases
from nnjit.gradcheck.configured import INPUT_JITTER, configured_probe
from nnjit.gradcheck.faults import FAULTS, one_percent
from nnjit.gradcheck.rounding import Rounding, measure
from nnjit.gradcheck.scan import scan
from nnjit.network import Network
from nnjit.prepare import prepare

pytestmark = [pytest.mark.usefixtures("few_tiles"), compiled_only("a check runs the forward pass thousands of times")]

FLOAT32 = np.dtype(np.float32)
RELU_NETWORK = [
    {"conv2d": {"filters": 4, "kernel": 3, "padding": "same"}},
    "relu",
    {"conv2d": {"filters": 5, "kernel": 3}},
    "relu",
    {"max_pool": 2},
    "flatten",
    {"dense": 12},
    "relu",
    {"dense": 4},
]


def probe_of(specs: list[Any], inputs: Array, targets: Array, loss: str, dtype: Any = FLOAT32) -> Probe:
    """A network on inputs (N, *shape)."""
    network = Network(layers_of(*specs), inputs.shape[1:], np.dtype(dtype), 3)
    return Probe(network, loss_of(loss), inputs, targets)


def relu_probe(dtype: Any = FLOAT32) -> Probe:
    """Four layers of relu and max pooling on 5 samples."""
    rng = np.random.default_rng(2)
    return probe_of(RELU_NETWORK, rng.normal(size=(5, 2, 8, 8)), np.arange(5) % 4, "softmax_cross_entropy", dtype)


def gradients(probe: Probe) -> dict[str, Array]:
    """Every tensor's gradient, flat."""
    probe.backward()
    return {tensor.name: tensor.gradient[tensor.gradient_places].astype(float) for tensor in probe.tensors()}


# The twin


def test_the_twin_is_at_the_same_point() -> None:
    probe = relu_probe()
    twin = probe.twin()
    assert twin.network.dtype == np.float64 and twin.twin() is twin
    ours, theirs = (network.layout.unpack(network.weights) for network in (probe.network, twin.network))
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert np.array_equal(probe.bound.x.read(5), twin.bound.x.read(5))
    assert np.array_equal(probe.target.read(5), twin.target.read(5))


def test_decisions_do_not_depend_on_the_dtype() -> None:
    probe, twin = relu_probe(), relu_probe().twin()
    probe.cost()
    twin.cost()
    ours, theirs = probe.decisions(), twin.decisions()
    assert [array.shape for array in ours] == [(5, 256), (5, 45), (5, 45), (5, 12)]
    assert all(np.array_equal(*pair) for pair in zip(ours, theirs, strict=True))


# What rounding does


def test_what_rounding_did_is_within_what_was_measured() -> None:
    """And that is nowhere wide: but for the last, far below 1 % of most entries."""
    for case in {case.kinds: case for case in cases(FLOAT32)}.values():
        probe = case.probe(FLOAT32, 0)
        twin = probe.twin()
        allowed, right = measure(probe, twin).gradients, gradients(twin)
        for name, gradient in gradients(probe).items():
            off = np.abs(gradient - right[name])
            assert (off <= 0.5 * allowed[name] + 1e-7 * np.abs(gradient)).all(), (case.title, name)
            assert np.median(allowed[name]) < 1e-4 * np.abs(gradient).max(), (case.title, name)


def test_measuring_leaves_everything_as_it_was() -> None:
    probe = relu_probe()
    before, point = gradients(probe), [probe.network.weights.copy(), probe.bound.x.read(5), probe.target.read(5)]
    measure(probe, probe.twin())
    after = {tensor.name: tensor.gradient[tensor.gradient_places] for tensor in probe.tensors()}
    assert all(np.array_equal(before[name], after[name]) for name in before)
    now = [probe.network.weights, probe.bound.x.read(5), probe.target.read(5)]
    assert all(np.array_equal(*pair) for pair in zip(point, now, strict=True))
    assert probe.after_loss == []


def learned_probe() -> Probe:
    """Two scores so far apart that softmax and label nearly cancel."""
    inputs = np.array([[12.0, 0.5], [-0.25, 13.0]])
    probe = probe_of([{"dense": 2}], inputs, np.array([0, 1]), "softmax_cross_entropy")
    probe.network.layout.pack({"layers.0.weight": np.eye(2), "layers.0.bias": np.zeros(2)}, probe.network.weights)
    return probe


def test_a_gradient_that_nearly_cancels_is_known_to_be_poor() -> None:
    probe = learned_probe()
    right, poor = gradients(probe.twin())["layers.0.weight"], gradients(probe)["layers.0.weight"]
    assert (np.abs(poor - right) > 1e-3 * np.abs(right)).any()
    (weight,) = (tensor for tensor in check(probe).tensors if tensor.name == "layers.0.weight")
    assert weight.passed and weight.hidden > 0


def test_without_the_target_s_rounding_it_would_count_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "_share_of_target", lambda probe, rng: FLOAT32.type(0))
    assert not check(learned_probe()).passed


@pytest.mark.parametrize(
    "loss, shape, share", [("half_squared_error", (3,), 1 / 4), ("mean_squared_error", (3,), 2 / 3 / 4)]
)
def test_the_share_of_the_target(loss: str, shape: tuple[int, ...], share: float) -> None:
    """Both losses subtract it: from the output, then divided by the samples, or twice so over the outputs too."""
    rng = np.random.default_rng(5)
    inputs, targets = rng.normal(size=(4, 2)), np.zeros((4, *shape))
    probe = probe_of([{"dense": 3}], inputs, targets, loss)
    probe.backward()
    drawn = np.random.default_rng(1).normal(size=(4, 3))
    expected = share * np.sqrt(np.mean(drawn**2))
    assert rounding._share_of_target(probe, np.random.default_rng(1)) == pytest.approx(expected, rel=1e-5)
    assert np.array_equal(probe.target.read(4), targets)


# What is right, and what is wrong


def test_a_deep_relu_network_passes_without_kinks() -> None:
    report = check(relu_probe(), Settings(entries=100))
    assert report.passed and report.dtype == "float32" and report.tolerance == 1e-5
    assert [tensor.kinks for tensor in report.tensors] == [0] * len(report.tensors)
    assert all(tensor.missed < 0.05 for tensor in report.tensors), report


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_found(fault: Callable[[Probe], bool]) -> None:
    probe = relu_probe()
    assert fault(probe) and not check(probe, Settings(entries=50)).passed


def test_one_percent_of_any_entry_is_found() -> None:
    """Entry by entry of a bias: those that are counted as seen are."""
    for entry in range(5):
        probe = relu_probe()
        (bias,) = (tensor for tensor in probe.tensors() if tensor.name == "layers.2.bias")
        place = bias.gradient_places[entry]
        probe.after_backward.append(lambda at=place, memory=bias.gradient: memory.__setitem__(at, memory[at] * 1.01))  # type: ignore[misc]
        (wrong,) = (tensor for tensor in check(probe, positions={2}).tensors if tensor.failed)
        assert (wrong.name, wrong.worst_index, wrong.seen, wrong.missed) == ("layers.2.bias", (entry,), 5, 0.0)


def test_a_scan_tells_a_wrong_gradient_in_float32() -> None:
    probe = relu_probe()
    assert one_percent(probe)
    found = {item.name: item.cause for item in scan(probe, check(probe, Settings(entries=20)), Settings(entries=20))}
    assert found.pop("layers.0.weight") == "wrong gradient"
    assert set(found.values()) <= {"right", "rounding"}


# Points that rounding decides


def cancelling_probe() -> Probe:
    """A relu of a sum that is 0 in float32 and 2**-30 in float64, for the second of three samples."""
    inputs = np.array([[1.0, 2.0, 3.0], [1.0, 2.0**-30, -1.0], [3.0, -1.0, 2.0]])
    probe = probe_of([{"dense": 1}, "relu"], inputs, np.ones((3, 1)), "half_squared_error")
    values = {"layers.0.weight": np.ones((1, 3)), "layers.0.bias": np.zeros(1)}
    probe.network.layout.pack(values, probe.network.weights)
    return probe


def test_a_sample_on_a_kink_is_unsettled() -> None:
    probe = cancelling_probe()
    assert measure(probe, probe.twin()).unsettled.tolist() == [1]
    assert measure(relu_probe(), relu_probe().twin()).unsettled.tolist() == []


def test_a_float32_pass_that_decides_otherwise_is_a_kink() -> None:
    report = check(cancelling_probe())
    assert not report.passed
    assert [(tensor.failed, tensor.kinks, tensor.compared) for tensor in report.tensors] == [
        (0, 9, 9),
        (0, 3, 3),
        (0, 1, 1),
    ]


CONFIG = """\
data: {train: {inputs: inputs.npy, targets: targets.npy}, classes: 3}
model:
  - {dense: 4}
  - relu
  - {dense: 3}
loss: softmax_cross_entropy
optimizer: {learning_rate: 0.1}
train: {epochs: 1, batch_size: 3}
"""


@pytest.fixture
def configured_float32(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Probe]:
    """The probe of a small config."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("inputs.npy", rng.normal(size=(6, 5)).astype(np.float32))
    np.save("targets.npy", rng.integers(0, 3, 6))
    loaded = parse_config(CONFIG, "small.yaml", tmp_path)
    dataset = prepare(loaded)
    return lambda: configured_probe(loaded.config, dataset, samples=6, dtype=FLOAT32, seed=0, steps=0)


def test_unsettled_samples_are_moved(configured_float32: Callable[[], Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    before = configured_float32().bound.x.read(6)
    answers = iter([[1, 4], [4], []])
    monkeypatch.setattr(configured, "measure", lambda probe, twin: Rounding({}, np.array(next(answers), np.int64)))
    moved = np.abs(configured_float32().bound.x.read(6) - before).max(axis=1)
    assert (moved > 0).tolist() == [False, True, False, False, True, False] and moved.max() < 10 * INPUT_JITTER
    assert next(answers, None) is None


def test_moving_ends(configured_float32: Callable[[], Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(configured, "measure", lambda probe, twin: asked.append(probe) or Rounding({}, np.arange(6)))
    configured_float32()
    assert len(asked) == configured.ATTEMPTS


def test_the_cost_rounds_as_its_scores_do() -> None:
    """Of scores of thousands it is a small difference: more than rounding of the cost alone moves the differences."""
    loaded = load_config(Path(__file__).parents[1] / "configs" / "digits.yaml", ["data.divide=0.0001"])
    probe = configured_probe(loaded.config, prepare(loaded), samples=1, dtype=np.dtype(float), seed=0, steps=0)
    assert measure(probe, probe).cost > 4 * np.finfo(float).eps * probe.cost()
    assert check(probe, Settings(), positions={0}).passed
