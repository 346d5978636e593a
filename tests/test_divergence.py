"""A run that diverges says where it first went wrong, and the command that it gives goes on from there."""

from __future__ import annotations

import json
import shlex
import signal
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import DIGITS, TINY, nnjit

from nnjit import divergence
from nnjit.checkpoint import read_checkpoint, write_checkpoint
from nnjit.divergence import _norm
from nnjit.steps import TrainingStep
from nnjit.trainer import Trainer

DEEP = "model=[dense: 12, tanh, dense: 12, relu, dense: 10]"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a config in it."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    return tmp_path


def diverge(*settings: str, out: str = "runs/tiny") -> tuple[list[str], dict[str, Any]]:
    """The message's lines and the report of a run that must diverge."""
    words = [word for setting in settings for word in ("--set", setting)]
    result = nnjit("train", "tiny.yaml", "--quiet", "--out", out, *words)
    assert (result.exit_code, result.stdout) == (4, "")
    return result.stderr.removeprefix("error: ").splitlines(), json.loads(Path(out, "divergence.json").read_text())


def plant(monkeypatch: pytest.MonkeyPatch, array: str, parameter: str, value: float, batch: int = 2) -> None:
    """Put a number into a parameter before each epoch's batch of that number (or into its gradient, after it)."""
    real = TrainingStep.run

    def run(self: TrainingStep, number: int) -> float:
        if number == batch:
            layout = self.bound.network.layout
            flat = {"weights": self.bound.network.weights, **self.state}[array]
            flat[layout.indices(parameter).flat[0]] = value
        return real(self, number)

    monkeypatch.setattr(TrainingStep, "run", run)


def test_the_whole_report() -> None:
    lines, report = diverge("optimizer.learning_rate=1e30", "train.batch_size=50")
    first = report["first"]
    assert lines[1] == (
        "first trace: step 2 (epoch 1, batch 2), the output of model[2].dense, 140 of 140 numbers not finite, "
        f"for rows {', '.join(map(str, first['rows'][:8]))} and 6 more of data.train (from 0)"
    )
    assert list(report) == ["event", "step", "learning_rate", "first", "history", "go_on"]
    assert (report["event"], report["step"], report["learning_rate"]) == ("the loss became nan", 2, 1e30)
    assert {**first, "rows": len(first["rows"])} == {
        "what": "the output of model[2].dense", "step": 2, "entries": 140, "not_finite": 140, "split": "train",
        "rows": 14,
    }  # fmt: skip
    assert [norms["step"] for norms in report["history"]] == [1, 2]
    names = ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
    assert all(list(norms[kind]) == names for norms in report["history"] for kind in ("gradients", "weights"))
    assert report["history"][1]["loss"] == "nan"
    assert report["history"][0]["weights"]["layers.0.bias"] > 1e29


def test_history_holds_the_true_norms() -> None:
    """Of the step before the fault, computed again from the checkpoint that the same run would have written there."""
    _, report = diverge("optimizer.learning_rate=1e30")
    done = nnjit(
        "train", "tiny.yaml", "--quiet", "--out", "good", "--set", "optimizer.learning_rate=1e30",
        "--set", "data.train.rows=[0, 20]", "--set", "train.epochs=1", "--set", "data.validation=null",
        "--set", "train.shuffle=false",
    )  # fmt: skip
    assert done.exit_code == 0
    weights = read_checkpoint(Path("good/last.safetensors")).parameters
    _, unshuffled = diverge("optimizer.learning_rate=1e30", "train.shuffle=false", out="unshuffled")
    assert report["history"][0] != unshuffled["history"][0]
    for name, norm in unshuffled["history"][0]["weights"].items():
        assert norm == pytest.approx(np.linalg.norm(weights[name].astype(np.float64)), rel=1e-6)


@pytest.mark.parametrize(
    "parameter, value, what",
    [
        ("layers.0.weight", np.nan, "the output of model[0].dense with tanh"),
        ("layers.2.weight", np.nan, "the output of model[2].dense with relu"),
        ("layers.2.bias", np.inf, "the output of model[2].dense with relu"),
        ("layers.4.weight", np.nan, "the output of model[4].dense"),
        ("layers.4.bias", -np.inf, "the output of model[4].dense"),
        # Times a negative input, it is minus infinity, which relu makes 0: its first trace is left by the way back.
        ("layers.2.weight", np.inf, "the gradient at the output of model[0].dense with tanh"),
    ],
)
def test_the_layer_that_is_named(monkeypatch: pytest.MonkeyPatch, parameter: str, value: float, what: str) -> None:
    plant(monkeypatch, "weights", parameter, value)
    _, report = diverge(DEEP)
    assert (report["first"]["step"], report["first"]["what"]) == (3, what)


def test_gradients_are_searched_before_others_take_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training those of images share it."""
    searched: list[TrainingStep] = []
    real = divergence._backward

    def backward(training: TrainingStep) -> Any:
        searched.append(training)
        return real(training)

    monkeypatch.setattr(divergence, "_backward", backward)
    conv2d = "{conv2d: {filters: 2, kernel: 3, padding: same}}"
    model = f"model=[{', '.join([conv2d] * 5)}, flatten, dense: 10]"
    diverge(model, "data.shape=[1, 8, 8]", "optimizer.learning_rate=1e30")
    (training,) = searched
    views = [site.dout.view.vectors for site in training.bound.sites if site.dout is not None]
    assert len(views) > 5
    assert not any(np.shares_memory(one, other) for one, other in combinations(views[:5], 2))


def test_only_the_samples_that_it_touches_are_named() -> None:
    """A weight of 1e38 overflows where the sample's input is large: for digit 1 of the first 20, say, but not for 0."""
    rows = [line.split(",") for line in (DIGITS / "train.csv").read_text().splitlines()[1:65]]
    large = [str(row) for row in range(64) if float(rows[row][2]) > 8]
    nnjit("train", "tiny.yaml", "--quiet", "--set", "train.epochs=1", "--set", "data.divide=1")
    last = Path("runs/tiny/last.safetensors")
    checkpoint = read_checkpoint(last)
    checkpoint.parameters["layers.0.weight"][:, 2] = 4e37
    write_checkpoint(last, checkpoint)
    result = nnjit(
        "train", "tiny.yaml", "--resume", "--quiet", "--set", "train.epochs=2", "--set", "data.divide=1",
    )  # fmt: skip
    assert result.exit_code == 4
    first = json.loads(Path("runs/tiny/divergence.json").read_text())["first"]
    assert first["what"] == "the output of model[0].dense with relu" and first["step"] == 5
    assert first["rows"] and set(map(str, first["rows"])) <= set(large)


def test_rows_are_those_of_the_file() -> None:
    _, report = diverge(
        "optimizer.learning_rate=1e30", "data.train.rows=[100, 164]", "data.validation=null", "train.batch_size=8"
    )
    assert len(report["first"]["rows"]) <= 8
    assert all(100 <= row < 164 for row in report["first"]["rows"])


def test_norms_before_the_fault_are_finite() -> None:
    """Of the steps that are taken again, whatever the diverged run left between the numbers that count."""
    lines, report = diverge("optimizer.learning_rate=1e20", "data.divide=1", DEEP.replace("tanh", "relu"))
    *before, last = report["history"]
    assert before and last["loss"] == "nan"
    for norms in before:
        assert all(isinstance(norm, float) for kind in ("gradients", "weights") for norm in norms[kind].values())
    assert lines[2] == "       step       loss  gradients    weights  largest gradient"
    assert [line.split()[-1] for line in lines[3 : 3 + len(before)]] == [
        max(norms["gradients"], key=norms["gradients"].__getitem__) for norms in before
    ]


@pytest.mark.parametrize(
    "numbers, norm",
    [
        ([3e200, -4e200], 5e200), ([3e-200, 4e-200], 5e-200), ([1.7e308, 1.7e308], np.inf), ([0.0, 0.0], 0.0),
        ([1.0, np.inf], np.inf), ([1.0, np.nan], np.nan),
    ],
)  # fmt: skip
def test_a_norm_overflows_only_where_it_is_too_large_itself(numbers: list[float], norm: float) -> None:
    assert _norm(np.array(numbers)) == pytest.approx(norm, nan_ok=True)


def test_the_report_goes_once_the_run_is_past_it() -> None:
    diverge("optimizer.learning_rate=1e30")
    go_on = ("train", "runs/tiny/config.yaml", "--resume", "--quiet", "--set")
    assert nnjit(*go_on, "optimizer.learning_rate=1e29").exit_code == 4
    assert json.loads(Path("runs/tiny/divergence.json").read_text())["learning_rate"] == 1e29
    assert nnjit(*go_on, "optimizer.learning_rate=0.001").exit_code == 0
    assert sorted(path.name for path in Path("runs/tiny").iterdir()) == [
        "best.safetensors", "config.yaml", "last.safetensors", "metrics.jsonl",
    ]  # fmt: skip


def test_the_history_is_that_of_the_last_ten_steps() -> None:
    _, report = diverge("optimizer.learning_rate=3", "loss=half_squared_error", "data.classes=10",
                        "data.divide=1", "train.batch_size=2")  # fmt: skip
    steps = [norms["step"] for norms in report["history"]]
    assert steps == list(range(steps[0], steps[0] + len(steps))) and steps[-1] == report["first"]["step"]
    assert len(steps) <= 10


def test_an_infinite_velocity_is_found_before_it_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the last batch of an epoch, whose loss it does not touch any more; relu hides what it does to the bias."""
    plant(monkeypatch, "velocity", "layers.0.bias", np.inf, batch=3)
    lines, report = diverge("data.validation=null")
    assert lines[0] == "a parameter became infinite or NaN at step 4 (epoch 1, batch 4) with learning rate 0.1"
    assert report["first"]["what"] == "the velocity of layers.0.bias after the update"
    assert len(report["first"]["rows"]) == 4
    kept = read_checkpoint(Path("runs/tiny/last.safetensors"))
    assert kept.progress.step == 0
    assert not Path("runs/tiny/metrics.jsonl").exists()


def test_it_is_found_before_a_checkpoint_within_an_epoch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "velocity", "layers.0.bias", np.inf, batch=1)
    lines, _ = diverge("train.checkpoint_every=2")
    assert lines[0] == "a parameter became infinite or NaN at step 2 (epoch 1, batch 2) with learning rate 0.1"
    assert read_checkpoint(Path("runs/tiny/last.safetensors")).progress.step == 0


def test_a_validation_loss_that_is_not_finite() -> None:
    lines, report = diverge("optimizer.learning_rate=3e38", "train.batch_size=64")
    assert lines[0] == "the validation loss became nan at step 1 (epoch 1, batch 1) with learning rate 3e+38"
    assert (report["first"]["split"], report["first"]["step"]) == ("validation", 1)
    assert report["first"]["what"] == "the output of model[2].dense"
    assert report["first"]["rows"] == list(range(32))


def test_a_held_out_validation_row_is_one_of_the_training_file() -> None:
    lines, report = diverge("optimizer.learning_rate=3e38", "train.batch_size=32", "data.validation={fraction: 0.5}")
    assert lines[0].startswith("the validation loss became nan")
    assert report["first"]["split"] == "train"
    assert len(report["first"]["rows"]) == 32 and max(report["first"]["rows"]) > 32


def test_a_checkpoint_that_holds_infinity_already() -> None:
    nnjit("train", "tiny.yaml", "--quiet", "--set", "train.epochs=1")
    last = Path("runs/tiny/last.safetensors")
    checkpoint = read_checkpoint(last)
    checkpoint.parameters["layers.2.bias"][3] = -np.inf
    write_checkpoint(last, checkpoint)
    result = nnjit("train", "tiny.yaml", "--resume", "--quiet")
    assert result.exit_code == 4
    lines = result.stderr.splitlines()
    assert lines[1] == "first trace: layers.2.bias in runs/tiny/last.safetensors, 1 of 10 numbers not finite"
    assert lines[-1] == "runs/tiny/last.safetensors is no state to go on from; begin a new run"
    assert json.loads(Path("runs/tiny/divergence.json").read_text())["go_on"] is None


def test_a_fault_that_does_not_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from memory that lost a bit: the same steps are finite the second time."""
    real, calls = TrainingStep.run, iter(range(100))
    monkeypatch.setattr(TrainingStep, "run", lambda self, batch: np.nan if next(calls) == 2 else real(self, batch))
    lines, report = diverge()
    assert lines[0] == "the loss became nan at step 3 (epoch 1, batch 3) with learning rate 0.1"
    assert lines[1] == "first trace: none when the same steps were taken again; this machine, or nnjit, is at fault"
    assert report["first"] is None and len(report["history"]) == 3


def test_a_signal_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Trainer.repeat

    def interrupted(self: Trainer, until: int) -> Any:
        for cost in real(self, until):
            signal.raise_signal(signal.SIGINT)
            yield cost

    monkeypatch.setattr(Trainer, "repeat", interrupted)
    lines, report = diverge("optimizer.learning_rate=1e30")
    assert lines[1] == "first trace: not known, the search for it was stopped"
    assert [norms["step"] for norms in report["history"]] == [1]


def test_a_report_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runs/tiny/divergence.json").mkdir(parents=True)
    nnjit("train", "tiny.yaml", "--quiet", "--set", "train.epochs=1", "--out", "runs/other")
    Path("runs/other").rename("other")
    for name in ("last.safetensors", "config.yaml"):
        Path("other", name).rename(Path("runs/tiny", name))
    result = nnjit("train", "tiny.yaml", "--resume", "--quiet", "--set", "optimizer.learning_rate=1e30")
    assert result.exit_code == 4
    assert (
        "runs/tiny/divergence.json: cannot be written: Is a directory; the files of the run are as they were"
        in result.stderr.splitlines()
    )


def test_the_command_that_it_gives_goes_on() -> None:
    lines, report = diverge("optimizer.learning_rate=1e30")
    assert lines[-2:] == [
        "runs/tiny/last.safetensors is the last good checkpoint; to go on from it in smaller steps:",
        "  nnjit train runs/tiny/config.yaml --resume --set optimizer.learning_rate=1e+29",
    ]
    assert lines[-1].strip() == report["go_on"]
    words = shlex.split(report["go_on"])[1:]
    words[-1] = "optimizer.learning_rate=0.001"
    result = nnjit(*words)
    assert (result.exit_code, result.stdout) == (0, "runs/tiny/best.safetensors\n")
    said = "going on with optimizer.learning_rate 0.001 from step 1 (1e+30 so far)"
    assert result.stderr.splitlines().count(said) == 1
    records = [json.loads(line) for line in Path("runs/tiny/metrics.jsonl").read_text().splitlines()]
    assert [record["learning_rate"] for record in records] == [0.001] * 3
    progress = read_checkpoint(Path("runs/tiny/last.safetensors")).progress
    assert progress.learning_rates == [[0, 0.001]]
