"""The same bits, always: however often a run is stopped, on any number of threads, for any CPU."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import pytest
from click.testing import Result
from command import TINY, command, environment, nnjit, process

from nnjit.checkpoint import read_checkpoint

EPOCHS = 8
IMAGES = (
    "data.shape=[1, 8, 8]",
    "model=[conv2d: {filters: 17, kernel: 3, padding: same}, relu, conv2d: {filters: 33, kernel: 1}, "
    "conv2d: {filters: 18, kernel: 3, padding: same}, "
    "tanh, conv2d: {filters: 16, kernel: 5, padding: full}, conv2d: {filters: 17, kernel: 5}, max_pool: 2, "
    "conv2d: {filters: 5, kernel: 3}, "
    "conv2d: {filters: 32, kernel: 2, stride: 2}, flatten, dense: 24, relu, dense: 10]",
    "optimizer.learning_rate=0.005",
)
"""The tiny config's digits as images for a convolutional network: direct sums with samples and with maps in the lanes,
Winograd's algorithm and its adjoint, tiles that overlap."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a config in it and the folder `whole` of its uninterrupted run."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    return tmp_path


def train(*arguments: Any, epochs: int = EPOCHS) -> Result:
    result = nnjit("train", "tiny.yaml", "--quiet", "--set", f"train.epochs={epochs}", *arguments)
    assert result.exit_code == 0, result.stderr
    return result


def same_state(one: str, two: str) -> bool:
    """Whether the last checkpoints of two runs are the same bytes: parameters, momentum, best so far."""
    return Path(one, "last.safetensors").read_bytes() == Path(two, "last.safetensors").read_bytes()


def digests(run: str) -> list[tuple[int, str, float]]:
    """Epoch, digest and loss of each record of a run."""
    records = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    return [(record["epoch"], record["digest"], record["train_loss"]) for record in records]


def stop_at(steps: list[int], number: int, *arguments: Any) -> Result:
    """Run a training command that gets a signal after the first of `steps` that it comes to."""
    from nnjit.trainer import TrainingStep

    real = TrainingStep.run
    done = read_checkpoint(Path("runs/tiny/last.safetensors")).progress.step if Path("runs/tiny").exists() else 0

    def counted(self: TrainingStep, batch: int) -> float:
        nonlocal done
        done += 1
        if done in steps:
            os.kill(os.getpid(), number)
        return real(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "run", counted)
        return nnjit("train", "tiny.yaml", "--quiet", "--set", f"train.epochs={EPOCHS}", *arguments)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_at_random_steps_changes_nothing(number: signal.Signals) -> None:
    train("--out", "whole")
    steps = sorted(random.Random(int(number)).sample(range(1, 4 * EPOCHS), 6))
    for visit, step in enumerate(steps):
        result = stop_at(steps, number, *(["--resume"] if visit else []))
        assert result.exit_code == 128 + number
        epoch, batch = (step - 1) // 4 + 1, (step - 1) % 4 + 1
        assert result.stderr == (
            f"stopped by {number.name} after step {step} (epoch {epoch}, batch {batch}); "
            "its state is saved; go on with\n"
            "  nnjit train runs/tiny/config.yaml --resume\n"
        )
        assert result.stdout == ""
    train("--resume")
    assert same_state("runs/tiny", "whole")
    assert digests("runs/tiny") == digests("whole")
    assert Path("runs/tiny/best.safetensors").read_bytes() == Path("whole/best.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_signal_at_a_random_moment(number: signal.Signals) -> None:
    train("--out", "whole", epochs=3)  # compiles, so that the process below comes to its steps at once
    running = subprocess.Popen(
        command("train", "tiny.yaml", "--set", "train.epochs=1000000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment(),
    )  # fmt: skip
    metrics = Path("runs/tiny/metrics.jsonl")
    deadline = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.Random(int(number)).uniform(0, 0.2))
    running.send_signal(number)
    out, errors = running.communicate(timeout=60)
    assert (running.returncode, out) == (128 + number, "")
    assert f"{number.name}: stopping after the next step; a second signal stops at once\n" in errors
    *_, stopped, go_on = errors.splitlines()
    assert stopped.startswith(f"stopped by {number.name} after step ")
    assert go_on == "  nnjit train runs/tiny/config.yaml --resume"

    epochs = read_checkpoint(Path("runs/tiny/last.safetensors")).progress.epoch + 1
    go_on_arguments = [*go_on.split()[1:], "--quiet", "--set", f"train.epochs={epochs}"]
    assert nnjit(*go_on_arguments).stdout == "runs/tiny/best.safetensors\n"
    train("--out", "long", epochs=epochs)
    assert same_state("runs/tiny", "long")


def test_a_signal_during_the_last_step_is_no_loss() -> None:
    train("--out", "whole")
    assert stop_at([4 * EPOCHS], signal.SIGTERM).exit_code == 143
    train("--resume")
    assert same_state("runs/tiny", "whole")


def test_a_run_may_go_on_for_more_epochs() -> None:
    train("--out", "whole")
    train(epochs=2)
    train("--resume", epochs=5)
    assert train("--resume").stdout == "runs/tiny/best.safetensors\n"
    assert same_state("runs/tiny", "whole")
    assert digests("runs/tiny") == digests("whole")


def test_a_finished_run_says_so() -> None:
    train(epochs=2)
    before = Path("runs/tiny/last.safetensors").read_bytes()
    result = nnjit("train", "tiny.yaml", "--resume", "--set", "train.epochs=2")
    assert (result.exit_code, result.stdout) == (0, "runs/tiny/best.safetensors\n")
    assert result.stderr == "runs/tiny: all 2 epochs are done; for more: --set train.epochs=N\n"
    assert Path("runs/tiny/last.safetensors").read_bytes() == before


def test_checkpoints_between_epochs_change_nothing() -> None:
    train("--out", "whole")
    assert stop_at([6], signal.SIGTERM).exit_code == 143
    train("--resume", "--set", "train.checkpoint_every=3")
    before, after = (read_checkpoint(Path(run, "last.safetensors")) for run in ("whole", "runs/tiny"))
    assert after.config["train"] == {**before.config["train"], "checkpoint_every": 3}
    assert after.progress == before.progress
    assert digests("runs/tiny") == digests("whole")


def test_a_run_that_was_killed_between_record_and_checkpoint() -> None:
    train("--out", "whole")
    train(epochs=2)
    metrics = Path("runs/tiny/metrics.jsonl")
    metrics.write_text(metrics.read_text() + '{"epoch": 3, "step": 12}\n{"epoch": 4, "st')
    train("--resume")
    assert digests("runs/tiny") == digests("whole")


def test_the_latest_run_is_resumed_unless_another_is_named() -> None:
    for _ in range(3):
        train(epochs=1)
    Path("runs/tiny-other").mkdir()
    os.utime("runs/tiny-2/last.safetensors", (2e9, 2e9))  # in 2033
    assert train("--resume", epochs=2).stdout == "runs/tiny-2/best.safetensors\n"
    assert train("--resume", "--out", "runs/tiny", epochs=2).stdout == "runs/tiny/best.safetensors\n"
    arguments = ["runs/tiny-3/config.yaml", "--resume", "--quiet", "--set", "train.epochs=3"]
    assert nnjit("train", *arguments).stdout == "runs/tiny-3/best.safetensors\n"
    assert [len(digests(f"runs/tiny{suffix}")) for suffix in ("", "-2", "-3")] == [2, 2, 3]


@pytest.mark.parametrize("arguments", [[], ["--out", "gone"]])
def test_no_run_to_resume(arguments: list[str]) -> None:
    result = nnjit("train", "tiny.yaml", "--resume", *arguments)
    folder = "gone" if arguments else "runs/tiny"
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == (
        f"error: {folder}: expected a run to go on with, found no last.safetensors; begin the run without --resume\n"
    )


def test_a_run_goes_on_with_its_own_config_alone() -> None:
    train(epochs=1)
    result = nnjit(
        "train", "tiny.yaml", "--resume", "--set", "model.0.units=13", "--set", "optimizer.momentum=0.8",
        "--set", "data.validation=null", "--set", "train.epochs=9",
    )  # fmt: skip
    assert (result.exit_code, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert lines[0] == "error: runs/tiny: a run goes on with its own config, but these keys differ:"
    assert "  model[0].units: 12 in the run, 13 now" in lines
    assert "  optimizer.momentum: 0.9 in the run, 0.8 now" in lines
    assert "  data.validation.format: 'csv' in the run, nothing now" in lines
    assert not any("epochs" in line for line in lines)
    assert lines[-1] == "set them back, or begin a new run without --resume"


def test_another_learning_rate_is_no_secret() -> None:
    """A line says so, for no other change that is allowed; what was trained before keeps its own rate."""
    line = "going on with optimizer.learning_rate 0.02 from step 7 (0.001 so far)"
    assert stop_at([6], signal.SIGINT, "--set", "optimizer.learning_rate=0.001").exit_code == 130
    arguments = ["train", "tiny.yaml", "--resume", "--set", "train.epochs=3", "--set", "train.checkpoint_every=100"]
    result = nnjit(*arguments, "--set", "optimizer.learning_rate=0.02")
    assert result.exit_code == 0 and result.stderr.splitlines().count(line) == 1
    rates = read_checkpoint(Path("runs/tiny/last.safetensors")).progress.learning_rates
    assert rates == [[0, 0.001], [6, 0.02]]
    # Once begun, the new rate is the run's own.
    again = nnjit("train", "runs/tiny/config.yaml", "--resume", "--set", "train.epochs=4")
    assert again.exit_code == 0 and "going on with" not in again.stderr


def test_another_learning_rate_and_quiet() -> None:
    train(epochs=1)
    assert train("--resume", "--set", "optimizer.learning_rate=0.02", epochs=2).stderr == ""


def test_a_run_goes_on_where_its_data_has_moved_but_not_with_other_data() -> None:
    copy = Path("copy.csv")
    text = TINY.replace(TINY.split("file: ")[1].split(",")[0], "copy.csv", 1)
    copy.write_bytes(Path(TINY.split("file: ")[1].split(",")[0]).read_bytes())
    train(epochs=1)
    Path("tiny.yaml").write_text(text)
    train("--resume", epochs=2)
    train("--out", "whole", epochs=2)
    assert digests("runs/tiny") == digests("whole")
    Path("tiny.yaml").write_text(text.replace("rows: [0, 64]", "rows: [0, 63]"))
    different = nnjit("train", "tiny.yaml", "--resume", "--set", "train.epochs=3")
    assert different.exit_code == 2
    assert "  data.train.rows[1]: 64 in the run, 63 now\n" in different.stderr
    Path("tiny.yaml").write_text(text.replace(", rows: [0, 64]", ""))
    train("--out", "unbounded", epochs=1)
    copy.write_text("".join(copy.read_text().splitlines(keepends=True)[:65]))
    other = nnjit("train", "tiny.yaml", "--resume", "--out", "unbounded", "--set", "train.epochs=3")
    assert (other.exit_code, other.stdout) == (3, "")
    assert other.stderr == (
        "error: data.train: expected the number of samples that the run began with, 1295, got 64; "
        "a run can only go on with its own data\n"
    )


def test_damaged_state_is_refused() -> None:
    train(epochs=1)
    last = Path("runs/tiny/last.safetensors")
    last.write_bytes(last.read_bytes()[:1000])
    result = nnjit("train", "tiny.yaml", "--resume", "--set", "train.epochs=2")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(
        "error: runs/tiny/last.safetensors: expected a checkpoint, got a damaged or incomplete file ("
    )


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one core alone cannot run two threads")
def test_any_number_of_threads_gives_the_same_bits(restored_threads: None) -> None:
    for threads in (1, 2):
        arguments = [word for setting in IMAGES for word in ("--set", setting)]
        train("--threads", threads, "--out", f"with-{threads}", *arguments, epochs=3)
    assert same_state("with-1", "with-2")


@pytest.mark.skipif(
    not llvmlite.binding.get_host_cpu_features().get("avx2"), reason="this CPU cannot run code for AVX2"
)
def test_kernels_for_another_cpu_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [word for setting in IMAGES for word in ("--set", setting)]
    train("--out", "here", *arguments, epochs=3)
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2,+fma")
    settings = ["--set", "train.epochs=3", *arguments]
    done = process("train", "tiny.yaml", "--quiet", "--out", "haswell", *settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert same_state("here", "haswell")
