"""A run trained again from its record gives the same bits, and a record that is not its own is found out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from command import DIGITS, TINY, nnjit, without_compiling

from nnjit.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from nnjit.steps import TrainingStep

LINE = "runs/tiny/metrics.jsonl:"
CHANGED = "the data, this record or nnjit is no longer what it was"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a config, its training data and its run of three epochs."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(DIGITS / "train.csv", "train.csv")
    Path("tiny.yaml").write_text(TINY.replace(f"{DIGITS}/train.csv", "train.csv"))
    train()
    return tmp_path


def train(*arguments: Any) -> Result:
    result = nnjit("train", "tiny.yaml", "--quiet", *arguments)
    assert result.exit_code == 0, result.stderr
    return result


def records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("runs/tiny/metrics.jsonl").read_text().splitlines()]


def refused(result: Result, code: int, message: str) -> None:
    assert (result.exit_code, without_compiling(result.stderr)) == (code, f"error: {message}\n")


def same(count: int) -> str:
    """What is printed for the first `count` epochs."""
    return "".join(f"epoch {r['epoch']}: digest {r['digest']}, the same\n" for r in records()[:count])


def test_a_run_is_reproduced(folder: Path) -> None:
    before = {path: path.read_bytes() for path in Path("runs/tiny").iterdir()}
    result = nnjit("reproduce", "runs/tiny")
    assert (result.exit_code, result.stdout) == (0, same(3) + "runs/tiny: 3 epochs reproduced bit for bit\n")
    assert {path: path.read_bytes() for path in Path("runs/tiny").iterdir()} == before
    assert {path.name for path in Path("runs").iterdir()} == {"tiny"}


def test_its_first_epochs_alone() -> None:
    result = nnjit("reproduce", "runs/tiny", "--epochs", 1, "--threads", 1)
    assert (result.exit_code, result.stdout) == (0, same(1) + "runs/tiny: 1 epoch reproduced bit for bit\n")


def spoil(epoch: int, field: str, value: Any) -> Any:
    """Change a field of an epoch's record; what it was."""
    changed = records()
    before, changed[epoch - 1][field] = changed[epoch - 1][field], value
    Path("runs/tiny/metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in changed))
    return before


@pytest.mark.parametrize(
    "epoch, field, value",
    [
        (2, "digest", "0123456789abcdef"),
        (1, "train_loss", 0.25),
        (3, "validation_accuracy", 1.0),
        (2, "learning_rate", 0.2),
        (3, "step", 13),
    ],
)
def test_a_record_that_was_changed(epoch: int, field: str, value: Any) -> None:
    before = spoil(epoch, field, value)
    result = nnjit("reproduce", "runs/tiny")
    refused(result, 5, f"{LINE}{epoch}: epoch {epoch}: expected {field} {value}, got {before}; {CHANGED}")
    assert len(result.stdout.splitlines()) == epoch - 1


def test_a_field_that_is_missing() -> None:
    text = Path("runs/tiny/metrics.jsonl").read_text()
    Path("runs/tiny/metrics.jsonl").write_text(text.replace('"validation_loss"', '"other_loss"', 1))
    loss = records()[0]["other_loss"]
    message = f"{LINE}1: epoch 1: expected validation_loss None, got {loss}; {CHANGED}"
    refused(nnjit("reproduce", "runs/tiny"), 5, message)


def test_json() -> None:
    result = nnjit("reproduce", "runs/tiny", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"epoch": r["epoch"], "digest": r["digest"], "difference": "", "same": True} for r in records()
    ]
    found = spoil(2, "train_loss", 0.25)
    result = nnjit("reproduce", "runs/tiny", "--json")
    difference = f"expected train_loss 0.25, got {found}"
    assert (result.exit_code, result.stderr) == (5, f"error: {LINE}2: epoch 2: {difference}; {CHANGED}\n")
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "epoch": 2, "digest": records()[1]["digest"], "difference": difference, "same": False,
    }  # fmt: skip


def rewrite(change: Callable[[Checkpoint], object]) -> None:
    """Change the last checkpoint."""
    last = Path("runs/tiny/last.safetensors")
    checkpoint = read_checkpoint(last)
    change(checkpoint)
    write_checkpoint(last, checkpoint)


@pytest.mark.parametrize(
    "arrays, name",
    [
        (lambda checkpoint: checkpoint.optimizer["velocity"], "the velocity of layers.2.bias"),
        (lambda checkpoint: checkpoint.parameters, "layers.2.bias"),
    ],
)
def test_a_last_checkpoint_that_is_not_that_of_the_record(
    arrays: Callable[[Checkpoint], dict[str, Any]], name: str
) -> None:
    """In one bit, which the digests of metrics.jsonl say nothing of."""

    def change(checkpoint: Checkpoint) -> None:
        array = arrays(checkpoint)["layers.2.bias"]
        array[0] = np.nextafter(array[0], np.float32(1))

    rewrite(change)
    result = nnjit("reproduce", "runs/tiny")
    different = f"expected {name} as in runs/tiny/last.safetensors, got other numbers"
    refused(result, 5, f"{LINE}3: epoch 3: {different}; {CHANGED}")
    assert result.stdout == same(2)
    assert nnjit("reproduce", "runs/tiny", "--epochs", 2).exit_code == 0
    # Saved in the middle of the fourth epoch it is nobody's business here.
    rewrite(lambda checkpoint: setattr(checkpoint.progress, "batch", 1))
    assert nnjit("reproduce", "runs/tiny").exit_code == 0


def test_times_may_differ() -> None:
    spoil(1, "seconds", 1e9)
    spoil(2, "samples_per_second", 1.0)
    assert nnjit("reproduce", "runs/tiny").exit_code == 0


def test_data_that_changed() -> None:
    """One pixel of one sample."""
    lines = Path("train.csv").read_text().splitlines()
    lines[40] = "1" + lines[40][1:]
    Path("train.csv").write_text("\n".join(lines))
    result = nnjit("reproduce", "runs/tiny")
    digest = records()[0]["digest"]
    assert result.exit_code == 5
    assert result.stdout == ""
    assert f"error: {LINE}1: epoch 1: expected digest {digest}, got " in result.stderr


def test_data_of_another_number() -> None:
    Path("train.csv").write_text("".join(Path("train.csv").read_text().splitlines(keepends=True)[:61]))
    train("--out", "short", "--set", "data.train.rows=null")
    shutil.copy(DIGITS / "train.csv", "train.csv")
    refused(
        nnjit("reproduce", "short"),
        3,
        "data.train: expected the number of samples that the run began with, 60, got 1295; "
        "a run can only be reproduced with its own data",
    )


def test_data_that_are_gone_or_elsewhere(folder: Path) -> None:
    Path("train.csv").rename("moved.csv")
    refused(
        nnjit("reproduce", "runs/tiny"),
        3,
        f"{folder}/train.csv: no such file",
    )
    found = nnjit("reproduce", "runs/tiny", "--set", f"data.train.file={folder}/moved.csv")
    assert found.exit_code == 0
    refused(
        nnjit("reproduce", "runs/tiny", "--set", "seed=4"),
        2,
        "--set seed: expected a key of data.train, data.validation or data.test; a trained network keeps all else",
    )


def test_a_resumed_run_whose_learning_rate_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of an epoch and within one."""
    train("--resume", "--set", "train.epochs=4", "--set", "optimizer.learning_rate=0.05")
    real, calls = TrainingStep.run, iter(range(100))

    def stop(self: TrainingStep, batch: int) -> float:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(self, batch)

    settings = ["--set", "train.epochs=6", "--set", "train.checkpoint_every=1"]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "run", stop)
        nnjit("train", "tiny.yaml", "--quiet", "--resume", *settings, "--set", "optimizer.learning_rate=0.05")
    train("--resume", *settings, "--set", "optimizer.learning_rate=0.01")
    assert [record["learning_rate"] for record in records()] == [0.1, 0.1, 0.1, 0.05, 0.01, 0.01]
    result = nnjit("reproduce", "runs/tiny")
    assert (result.exit_code, result.stdout) == (0, same(6) + "runs/tiny: 6 epochs reproduced bit for bit\n")


def test_a_run_that_diverges_where_it_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    real = TrainingStep.run
    monkeypatch.setattr(TrainingStep, "run", lambda self, batch: real(self, batch) * float("nan"))
    message = f"{LINE}1: epoch 1: expected numbers, got a loss or parameters that are not finite; {CHANGED}"
    refused(nnjit("reproduce", "runs/tiny"), 5, message)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda text: "", f"{LINE}1: expected the record of epoch 1, got ''"),
        (lambda text: text[:-20], f"{LINE}3: expected the record of epoch 3, got '{{\"epoch\": 3, \"step\": 12, "),
        (lambda text: text.partition("\n")[2], f"{LINE}1: expected the record of epoch 1, got '{{\"epoch\": 2, "),
    ],
)  # fmt: skip
def test_a_damaged_record(damage: Callable[[str], str], message: str) -> None:
    path = Path("runs/tiny/metrics.jsonl")
    path.write_text(damage(path.read_text()))
    result = nnjit("reproduce", "runs/tiny")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"error: {message}")


def test_runs_without_a_record() -> None:
    refused(nnjit("reproduce", "gone"), 3, "gone/last.safetensors: expected a checkpoint, found no such file")
    Path("runs/tiny/metrics.jsonl").unlink()
    refused(
        nnjit("reproduce", "runs/tiny"),
        3,
        "runs/tiny/metrics.jsonl: expected the record of 3 epochs, cannot be read: "
        "[Errno 2] No such file or directory: 'runs/tiny/metrics.jsonl'",
    )


def test_a_run_without_a_finished_epoch() -> None:
    assert nnjit("train", "tiny.yaml", "-q", "--out", "bad", "--set", "optimizer.learning_rate=1e30").exit_code == 4
    message = "bad/last.safetensors: expected at least one epoch that is done, found none to reproduce"
    refused(nnjit("reproduce", "bad"), 3, message)
