"""The comparison with PyTorch: every workload's losses agree, and losses that do not are seen."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="PyTorch is not installed; `pip install nnjit[peers]` installs it")
pytest.importorskip("sklearn", reason="scikit-learn is not installed; `pip install nnjit[peers]` installs it")

from nnjit.bench.workload import Workload, bind_workload, measured_data  # noqa: E402
from nnjit.config import load_config, parse_config  # noqa: E402
from nnjit.errors import CheckFailedError  # noqa: E402
from nnjit.kernels.threads import get_threads, set_threads  # noqa: E402

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import compare_torch  # noqa: E402
from compare_torch import check_agreement, losses_of  # noqa: E402
from memory import PeakMemory  # noqa: E402
from sklearn_peer import sklearn_epoch  # noqa: E402
from torch_peer import MODES, TorchInference, TorchTraining, Unsupported, modes_for  # noqa: E402
from workloads import CONFIGS, WORKLOADS  # noqa: E402

pytestmark = pytest.mark.peers

TINY = """\
data: {train: {inputs: absent.npy, targets: absent.npy}, shape: [2, 8, 7], classes: 3}
model:
  - conv2d: {filters: 3, kernel: [4, 3], padding: same}
  - tanh
  - average_pool: {window: 3, stride: 2, padding: 1}
  - conv2d: {filters: 2, kernel: 3, stride: [2, 1], padding: 1, bias: false}
  - relu
  - flatten
  - dense: {units: 3, bias: false}
loss: half_squared_error
optimizer: {learning_rate: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.01}
train: {batch_size: 5}
"""


def bound(text: str, *overrides: str) -> Workload:
    loaded = parse_config(text, "tiny.yaml", Path(), overrides)
    return bind_workload(loaded.config, measured_data(loaded))


def torch_training(subject: Workload, mode: str = "NCHW") -> Any:
    return TorchTraining(subject.config, subject.dataset, subject.network, mode)


@pytest.mark.parametrize("mode", MODES[:2])
@pytest.mark.parametrize("loss", ["half_squared_error", "mean_squared_error", "binary_cross_entropy"])
def test_losses_agree(loss: str, mode: str) -> None:
    subject = bound(TINY, f"loss={loss}", "train.precision=float64")
    peer = torch_training(subject, mode)
    ours, theirs = losses_of(subject.run), losses_of(peer.run)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    assert check_agreement("tiny", mode, ours, theirs) < 1e-10


def test_reset_starts_anew() -> None:
    peer = torch_training(bound(TINY))
    losses = losses_of(peer.run)
    peer.reset()
    np.testing.assert_array_equal(losses_of(peer.run), losses)


def test_losses_that_disagree_are_seen() -> None:
    ours, theirs = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.001, 3.0])
    with pytest.raises(CheckFailedError) as error:
        check_agreement("tiny", "NCHW", ours, theirs)
    assert str(error.value) == (
        "tiny: step 2: expected losses that agree to 0.0001, got 2 from nnjit and 2.001 from PyTorch (NCHW)"
    )
    with pytest.raises(CheckFailedError):
        check_agreement("tiny", "NCHW", np.array([np.nan]), np.array([np.nan]))


def test_a_wrong_start_is_seen() -> None:
    subject, other = bound(TINY), bound(TINY, "seed=1")
    with pytest.raises(CheckFailedError):
        check_agreement("tiny", "NCHW", losses_of(subject.run), losses_of(torch_training(other).run))


class Wrong:
    """Training by a peer whose losses are those of another, times a factor."""

    def __init__(self, right: Any, factor: float) -> None:
        self.right, self.factor, self.reset = right, factor, right.reset

    def run(self, number: int) -> float:
        return self.factor * float(self.right.run(number))


def compared_training(factors: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> compare_torch.Comparison:
    """nielsen-mlp's, where losses of PyTorch's modes are wrong by factors; PyTorch compiles nothing."""

    def trainings(subject: Workload, modes: Any, notes: Any) -> dict[str, Any]:
        return {mode: Wrong(torch_training(subject), factor) for mode, factor in factors.items()}

    monkeypatch.setattr(compare_torch, "torch_trainings", trainings)
    return compare_torch.compare_training("nielsen-mlp", 1, 0.01, list(factors), 1)


NOTED = [
    (1.0, 1.001, "1e-03 too"),
    (1.00008, 1.00015, "7e-05, which counts as agreement"),
    (1.0, float("nan"), "nan too"),
]
"""By which factors the eager mode and the compiler are wrong, and how a note ends."""


@pytest.mark.parametrize(("eager", "compiler", "end"), NOTED)
def test_losses_of_torch_compile_that_disagree_are_a_note(
    eager: float, compiler: float, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compared_training({"NCHW": eager, "torch.compile": compiler}, monkeypatch)
    assert found.best_peer == "NCHW" and "torch.compile" not in found.seconds
    (note,) = (note for note in found.notes if "torch.compile" in note)
    assert note.startswith("torch.compile does not count: nielsen-mlp: step 1: expected losses that agree to 0.0001, ")
    assert note.endswith(f" (torch.compile); torch.compile differs from PyTorch's eager mode by {end}")


def test_losses_of_the_eager_mode_that_disagree_end_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckFailedError, match=r"expected losses that agree to 0.0001, got .* \(NCHW\)$"):
        compared_training({"NCHW": 1.001}, monkeypatch)


def compared_inference(factors: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> compare_torch.Comparison:
    """nielsen-mlp's, likewise."""

    class WrongInference(TorchInference):
        def __init__(self, network: Any, mode: str, blocks: Any) -> None:
            super().__init__(network, "NCHW", blocks)
            self.factor = factors[mode]

        def run(self, number: int) -> Any:
            return self.factor * super().run(number)

    monkeypatch.setattr(compare_torch, "TorchInference", WrongInference)
    return compare_torch.compare_inference("nielsen-mlp", 1, 0.01, list(factors))


@pytest.mark.parametrize(("eager", "compiler", "end"), NOTED)
def test_outputs_of_torch_compile_that_disagree_are_a_note(
    eager: float, compiler: float, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compared_inference({"NCHW": eager, "torch.compile": compiler}, monkeypatch)
    assert found.best_peer == "NCHW" and "torch.compile" not in found.seconds
    (note,) = found.notes
    assert note.startswith("torch.compile does not count: nielsen-mlp: expected outputs that agree to 0.0001, got ")
    assert note.endswith(f" (torch.compile); torch.compile differs from PyTorch's eager mode by {end}")


def test_outputs_of_the_eager_mode_that_disagree_end_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckFailedError, match=r"nielsen-mlp: expected outputs that agree to 0.0001, .* \(NCHW\)$"):
        compared_inference({"NCHW": 1.001, "torch.compile": 1.0}, monkeypatch)


def test_a_page_says_how_to_repeat_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compare_torch.Comparison("mlp", 5, {"nnjit": 1.0, "NCHW": 2.0}, 0.0)
    monkeypatch.setattr(compare_torch, "wait_until_quiet", lambda: None)
    monkeypatch.setattr(compare_torch, "machine", lambda: {"date": "today"})
    monkeypatch.setattr(compare_torch, "machine_limits", lambda seconds: [])
    monkeypatch.setattr(compare_torch, "peak_memory_of", lambda *words: PeakMemory(1, 2))
    monkeypatch.setattr(compare_torch, "compare_training", lambda *words: found)
    words = ["mlp", "--threads", "1", "--rounds", "2", "--no-compile", "--no-inference"]
    before = get_threads(), torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            done = CliRunner().invoke(compare_torch.main, [*words, "--write", str(tmp_path / "page.md")])
    finally:
        set_threads(before[0])
        torch.set_num_threads(before[1])
    assert done.exit_code == 0, done.output
    command = f"python benchmarks/compare_torch.py {' '.join(words[:5])} --seconds 0.5 {' '.join(words[5:])}"
    assert f"- to repeat: `{command} --write FILE`\n" in (tmp_path / "page.md").read_text()


def test_predictions_agree() -> None:
    subject = bound(TINY)
    blocks = np.random.default_rng(0).random((2, 4, 2, 8, 7), np.float32)
    outputs = [TorchInference(subject.network, mode, blocks).run(1) for mode in MODES[:2]]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4)


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_can_be_compared(name: str) -> None:
    """Two samples in float64: the same network, however it is tiled."""
    overrides = ["train.batch_size=2", "train.precision=float64"]
    loaded = load_config(CONFIGS / f"{name}.yaml", overrides)
    subject = bind_workload(loaded.config, measured_data(loaded))
    peer = torch_training(subject)
    np.testing.assert_allclose([subject.run(k) for k in range(3)], [peer.run(k) for k in range(3)], rtol=1e-9)
    dense = name in ("nielsen-mlp", "mlp")
    assert modes_for(subject.network) == (MODES if not dense else ("NCHW", "torch.compile"))
    epoch = sklearn_epoch(subject.config, subject.dataset)
    assert (epoch is not None) == dense
    if epoch is not None:
        epoch.run(0)
        assert [w.shape for w in epoch.classifier.coefs_] == [
            values.T.shape for values in subject.network.layout.unpack(subject.initial).values() if values.ndim == 2
        ]


def test_what_has_no_twin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch_peer

    subject = bound(TINY)
    monkeypatch.delitem(torch_peer.MODULES, type(subject.network.layers[1]))
    with pytest.raises(Unsupported, match=r"^no PyTorch module is known for the layer tanh, model\[1\]$"):
        torch_training(subject)
