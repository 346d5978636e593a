"""`nnjit train`: what it writes where, and the whole message and exit code for everything that can be wrong."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from command import DIGITS, TINY, command, environment, nnjit, process
from safetensors import safe_open

from nnjit.checkpoint import read_checkpoint
from nnjit.config import load_config

EPOCH = re.compile(
    r"epoch (\d)/3: train loss [\d.]+ accuracy [\d.]+, validation loss [\d.]+ accuracy [\d.]+, "
    r"[\d,]+ samples/s, \d+\.\d\d s(, best so far)?"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a config in it."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    return tmp_path


def train(*arguments: str, stdin: str | None = None) -> Result:
    return nnjit("train", "tiny.yaml", *arguments, stdin=stdin)


def refused(result: Result, code: int, message: str) -> None:
    """Check that a command failed with that code and no more than that message, and left nothing behind."""
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"error: {message}\n")


def test_a_run_writes_its_folder_and_prints_its_best_checkpoint() -> None:
    result = train()
    assert (result.exit_code, result.stdout) == (0, "runs/tiny/best.safetensors\n")
    run = Path("runs/tiny")
    assert {path.name for path in run.iterdir()} == {
        "best.safetensors", "config.yaml", "last.safetensors", "metrics.jsonl",
    }  # fmt: skip
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert set(records[0]) == {
        "epoch", "step", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate",
        "samples_per_second", "seconds", "digest",
    }  # fmt: skip
    with safe_open(run / "best.safetensors", framework="np") as file:
        shapes = {name: file.get_tensor(name).shape for name in file.keys()}  # noqa: SIM118
    assert shapes["layers.0.weight"] == (12, 64)
    assert shapes["optimizer.velocity.layers.2.bias"] == (10,)


def test_one_plain_line_per_epoch_where_standard_error_is_no_terminal() -> None:
    train("--quiet")
    result = train()  # everything is compiled now
    lines = result.stderr.splitlines()
    assert [match[1] for line in lines if (match := EPOCH.fullmatch(line))] == ["1", "2", "3"]
    assert len(lines) == 3


def test_a_bar_on_a_terminal() -> None:
    main_end, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.Popen(
        command("train", "tiny.yaml", "--set", "train.epochs=2000"), stdout=subprocess.PIPE, stderr=terminal,
        env=environment(),
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(main_end, 65536):
            shown += part
    except OSError:  # what Linux answers when the other end is closed
        pass
    assert done.communicate()[0] == b"runs/tiny/best.safetensors\n"
    assert re.search(rb"\repoch \d+/2000: +\d+%\|", shown)
    assert b"epoch 2000/2000: train loss " in shown
    os.close(main_end)


def test_quiet_prints_the_result_alone() -> None:
    result = train("--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "runs/tiny/best.safetensors\n", "")


def test_runs_never_overwrite_one_another() -> None:
    outs = [train("--quiet").stdout for _ in range(3)]
    assert outs == [f"runs/tiny{suffix}/best.safetensors\n" for suffix in ("", "-2", "-3")]
    assert train("--quiet", "--out", "x/y").stdout == "x/y/best.safetensors\n"
    refused(
        train("--out", "x/y"),
        2,
        "x/y: expected a new folder, but it exists and a run never overwrites one; "
        "add --resume to go on with its run, or choose another --out",
    )


def test_the_resolved_config_means_the_same_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        Path(f"{name}.csv").symlink_to(DIGITS / f"{name}.csv")
    Path("tiny.yaml").write_text(TINY.replace(f"{DIGITS}/", ""))
    train("--quiet")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert nnjit("train", tmp_path / "runs/tiny/config.yaml", "--quiet", "--out", "again").exit_code == 0
    one, two = (read_checkpoint(path / "last.safetensors") for path in (tmp_path / "runs/tiny", Path("again")))
    assert one.config == two.config
    assert all(np.array_equal(one.parameters[name], two.parameters[name]) for name in one.parameters)


def test_config_from_standard_input() -> None:
    result = nnjit("train", "-", "--quiet", stdin=TINY)
    assert (result.exit_code, result.stdout) == (0, "runs/stdin/best.safetensors\n")


def test_the_last_override_wins_and_is_stored() -> None:
    train("--quiet", "--set", "train.epochs=9", "--set", "train.epochs=1", "--set", "model.0.units=5")
    config = load_config("runs/tiny/config.yaml").config
    assert config.train.epochs == 1
    assert read_checkpoint(Path("runs/tiny/last.safetensors")).parameters["layers.0.weight"].shape == (5, 64)


def test_compilation_is_announced_and_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    lines = process("train", "tiny.yaml", "--set", "train.epochs=1").stderr.splitlines()
    assert re.fullmatch(rf"compiling kernels, kept in {tmp_path}/cache/[0-9a-f]{{16}}", lines[0])
    assert re.fullmatch(
        r"compiled in \d+\.\d s: add_up, .*contract_strips \(\d+\), .*softmax_cross_entropy.*", lines[1]
    )
    assert len(lines) == 3


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "tiny.yaml: cannot be read: No such file or directory"),
        ("data: [\n", "tiny.yaml:2:1: not YAML: while parsing a flow node, expected the node content, "
                      "but found '<stream end>'"),
        (TINY.replace("- relu", "- rleu").replace("seed", "sede"),
         "tiny.yaml:8:5: model[1]: unknown layer 'rleu' (did you mean 'relu'?)\n"
         "tiny.yaml:13:1: unknown field 'sede' (did you mean 'seed'?)"),
        (TINY.replace("divide: 16", "shape: [1, 8, 8]"),
         "tiny.yaml:7:5: model[0].dense: expected an input of shape (D,), got (1, 8, 8); add `- flatten` before it"),
        (TINY.replace("  - relu\n", "  - conv2d: {filters: 2, kernel: 3}\n"),
         "tiny.yaml:8:5: model[1].conv2d: expected an image of shape (C, H, W), got (12,)"),
        (TINY.replace("dense: 10", "dense: 9"),
         "tiny.yaml:9:5: model[2].dense: expected an output of shape (10,) for the 10 classes of the data, got (9,)"),
        (TINY.replace("dense: 10", "dense: 1"),
         "tiny.yaml:10:7: loss.softmax_cross_entropy: expected an output of one score per class, "
         "shape (F,) with F at least 2, got (1,)"),
        (TINY.replace("softmax_cross_entropy", "half_squared_error"),
         "tiny.yaml:9:5: model[2].dense: expected an output of shape (1,) for targets that are numbers, got (10,); "
         "if they are class labels, say how many with data.classes"),
        (TINY.replace("batch_size: 20", "batch_size: 65"),
         "tiny.yaml:12:32: train.batch_size: expected at most the 64 samples of the training split, got 65"),
        (TINY.replace("target: digit", "target: null"),
         "tiny.yaml:2:10: data.train: expected targets beside the inputs, got inputs alone"),
    ],
)  # fmt: skip
def test_wrong_configs(text: str | None, message: str) -> None:
    Path("tiny.yaml").unlink()
    if text is not None:
        Path("tiny.yaml").write_text(text)
    refused(train(), 2, message)
    assert not Path("runs").exists()


def test_overrides_are_named_where_they_are_wrong() -> None:
    refused(
        train("--set", "train.epochs=x", "--set", "model.0.units=5", "--set", "model.2.unts=5"),
        2,
        "--set train.epochs=x: train.epochs: expected an integer of at least 1, got 'x'\n"
        "--set model.2.unts=5: model[2].dense: unknown field 'unts' (did you mean 'units'?)",
    )


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda path: path.unlink(), "t.csv: no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:20_000]),
         "t.csv:135: expected 65 columns, got 53"),
        (lambda path: path.write_text(path.read_text().replace("\n0,", "\nnan,", 1)),
         "t.csv:2: column 'p00': expected a finite number of at most 3.4e+38, got 'nan'"),
    ],
)  # fmt: skip
def test_wrong_data(spoil: Callable[[Path], Any], message: str) -> None:
    data = Path("t.csv")
    data.write_bytes((DIGITS / "train.csv").read_bytes())
    spoil(data)
    Path("tiny.yaml").write_text(TINY.replace(f"{DIGITS}/train.csv", "t.csv"))
    refused(train(), 3, message)
    assert not Path("runs").exists()


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", 2)
    result = train("--threads", "3")
    assert result.exit_code == 2
    assert result.stderr.endswith(
        "Error: Invalid value for '--threads': expected 1 to 2, the cores that this process may use, got 3\n"
    )


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint() -> None:
    result = train("--set", "optimizer.learning_rate=1e30", "--quiet")
    refused(
        result,
        4,
        "the loss became nan at step 2 (epoch 1, batch 2) with learning rate 1e+30\n"
        "first trace: step 2 (epoch 1, batch 2), the output of model[2].dense, 200 of 200 numbers not finite, "
        "for rows 0, 1, 2, 3, 10, 16, 17, 19 and 12 more of data.train (from 0)\n"
        "       step       loss  gradients    weights  largest gradient\n"
        "          1      2.626      1.229  1.229e+30  layers.0.weight\n"
        "          2        nan        nan        nan  layers.0.weight\n"
        "all of this in numbers: runs/tiny/divergence.json\n"
        "runs/tiny/last.safetensors is the last good checkpoint; to go on from it in smaller steps:\n"
        "  nnjit train runs/tiny/config.yaml --resume --set optimizer.learning_rate=1e+29",
    )
    kept = read_checkpoint(Path("runs/tiny/last.safetensors"))
    assert kept.progress.step == 0
    assert all(np.isfinite(array).all() for array in kept.parameters.values())


class FullDisk:
    """Lets files be written until `room` bytes are used up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        real = os.fsync
        monkeypatch.setattr("os.fsync", lambda descriptor: self.write(descriptor, real))

    def write(self, descriptor: int, real: Callable[[int], None]) -> None:
        self.room -= os.fstat(descriptor).st_size
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)


def test_a_disk_that_is_full_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    FullDisk(monkeypatch, 0)
    refused(
        train("--quiet"),
        1,
        "runs/tiny/config.yaml: cannot be written: No space left on device; the files of the run are as they were",
    )
    assert not Path("runs/tiny").exists()


def test_a_disk_that_fills_up_leaves_a_run_to_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    train("--quiet", "--out", "whole")
    with monkeypatch.context() as patch:
        FullDisk(patch, 4 * Path("whole/last.safetensors").stat().st_size)  # a config and three checkpoints
        refused(
            train("--quiet"),
            1,
            "runs/tiny/best.safetensors: cannot be written: No space left on device; "
            "the files of the run are as they were",
        )
    names = {path.name for path in Path("runs/tiny").iterdir()}
    assert names == {"config.yaml", "last.safetensors", "best.safetensors", "metrics.jsonl"}
    assert train("--quiet", "--resume").exit_code == 0
    assert Path("runs/tiny/last.safetensors").read_bytes() == Path("whole/last.safetensors").read_bytes()
    assert len(Path("runs/tiny/metrics.jsonl").read_text().splitlines()) == 3


def test_a_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("os.mkdir", refuse)
    refused(train("--quiet"), 1, "runs/tiny: cannot be made: Read-only file system")


def test_metrics_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    real = io.open

    def refuse(file: Any, *arguments: Any, **options: Any) -> Any:
        if str(file).endswith("metrics.jsonl"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return real(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", refuse)
    refused(train("--quiet"), 1, "runs/tiny/metrics.jsonl: cannot be written: Permission denied")
    assert read_checkpoint(Path("runs/tiny/last.safetensors")).progress.step == 0


def test_nothing_is_left_when_a_run_comes_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("nnjit.trainer.Trainer", fail)
    assert train("--quiet").exit_code == 1
    assert not Path("runs/tiny").exists()
