"""Training: it learns, config, data and seed fix every bit, a stopped run goes on as if it never had stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from battery import Array, compiled_only
from numpy.testing import assert_array_equal

from nnjit.checkpoint import Checkpoint, digest, read_checkpoint
from nnjit.config import Config
from nnjit.data.dataset import Dataset, Split
from nnjit.errors import DataError, DivergedError, InterruptedRun
from nnjit.kernels import program
from nnjit.kernels.threads import set_threads
from nnjit.metrics import Accuracy, RootMeanSquaredError
from nnjit.run_folder import RunFolder
from nnjit.stopping import StopRequest
from nnjit.trainer import EpochRecord, Trainer, metric_for


def split_of(inputs: Array, targets: Array, rows: Array | None = None) -> Split:
    for array in (inputs, targets):
        array.flags.writeable = False
    return Split(inputs, targets, np.arange(len(inputs)) if rows is None else rows)


def dataset_of(train: Split, validation: Split | None = None, classes: list[str] | None = None) -> Dataset:
    assert train.targets is not None
    return Dataset(
        train=train,
        validation=validation,
        test=None,
        shape=train.inputs.shape[1:],
        target_shape=train.targets.shape[1:],
        classes=classes,
        shift=np.zeros(1),
        factor=np.ones(1),
        target_shift=np.zeros(1),
        target_factor=np.ones(1),
    )


def xor() -> Dataset:
    inputs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.uint8)
    return dataset_of(split_of(inputs, np.array([0, 1, 1, 0], np.int32)), classes=["no", "yes"])


def spirals(samples: int = 50) -> Dataset:
    """Three arms that wind round each other, with a validation split in the same arrays."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, samples + 20).astype(np.int32)
    radius = rng.uniform(0.2, 1, len(labels))
    angle = 2 * np.pi * (labels / 3 + radius) + rng.normal(0, 0.1, len(labels))
    points = (radius * np.array([np.cos(angle), np.sin(angle)])).T.astype(np.float32).copy()
    rows = rng.permutation(len(labels))
    train, validation = (split_of(points, labels, np.sort(part)) for part in (rows[:samples], rows[samples:]))
    return dataset_of(train, validation, classes=["a", "b", "c"])


def config_of(**changes: Any) -> Config:
    """A small network for the spirals; `changes` replace whole sections, or fields of `train`."""
    sections: dict[str, Any] = {
        "data": {"train": {"file": "unused.csv"}},
        "model": [{"dense": 19}, "tanh", {"dense": 3}],
        "loss": "softmax_cross_entropy",
        "optimizer": {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
        "seed": 1,
    }
    train = {"epochs": 3, "batch_size": 8, **{k: v for k, v in changes.items() if k not in sections}}
    sections.update({name: value for name, value in changes.items() if name in sections})
    return Config.model_validate({**sections, "train": train})


XOR = {
    "model": [{"dense": {"units": 8, "weight_init": "glorot_normal"}}, "tanh", {"dense": 1}],
    "loss": "binary_cross_entropy",
    "optimizer": {"learning_rate": 0.5, "momentum": 0.9},
}


class Run:
    """A trainer with a folder of its own."""

    def __init__(self, path: Path, config: Config, dataset: Dataset, resumed: Checkpoint | None = None) -> None:
        self.folder = RunFolder(path)
        path.mkdir(exist_ok=True)
        self.trainer = Trainer(config, dataset, self.folder, resumed)

    def train(self, **arguments: Any) -> list[EpochRecord]:
        return list(self.trainer.epochs(**arguments))

    def train_until(self, step: int) -> InterruptedRun:
        """Train, and ask to stop once that step is done."""
        stop = StopRequest()

        def on_batch(batch: int) -> None:
            if self.trainer.progress.step == step:
                stop.signal = signal.SIGTERM

        with pytest.raises(InterruptedRun) as caught:
            self.train(stop=stop, on_batch=on_batch)
        return caught.value

    @property
    def digest(self) -> str:
        return digest(self.trainer.checkpoint().parameters)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    """A run in a new folder: run(config, dataset)."""
    count = iter(range(100))
    return lambda *arguments: Run(tmp_path / f"run{next(count)}", *arguments)


# Learning


def test_xor_is_learnt(run: Callable[..., Run]) -> None:
    trained = run(config_of(**XOR, epochs=120, batch_size=4), xor())
    records = trained.train()
    assert records[0].train["loss"] > 0.5
    assert records[-1].train["loss"] < 1e-2
    assert records[-1].train["accuracy"] == 1.0


def test_spirals_are_learnt_and_the_best_epoch_is_kept(run: Callable[..., Run]) -> None:
    trained = run(config_of(epochs=60), spirals())
    records = trained.train()
    losses = [record.validation["loss"] for record in records]
    assert min(losses) < losses[0] / 2
    best, last = read_checkpoint(trained.folder.best), read_checkpoint(trained.folder.last)
    assert best.progress.best_epoch == last.progress.best_epoch == best.progress.epoch == 1 + int(np.argmin(losses))
    assert best.progress.best_loss == min(losses)
    assert last.progress.epoch == 60 and trained.trainer.finished
    assert digest(best.parameters) == records[best.progress.epoch - 1].digest
    assert digest(last.parameters) == records[-1].digest == trained.digest


def test_without_a_validation_split_the_training_loss_decides(run: Callable[..., Run]) -> None:
    trained = run(config_of(**XOR, batch_size=4), xor())
    records = trained.train()
    losses = [record.train["loss"] for record in records]
    assert [record.validation for record in records] == [{}] * 3
    assert read_checkpoint(trained.folder.best).progress.best_loss == min(losses)


def test_numbers_are_learnt_too(run: Callable[..., Run]) -> None:
    rng = np.random.default_rng(2)
    inputs = rng.standard_normal((40, 3)).astype(np.float32)
    targets = (inputs @ np.array([[1.0], [-2.0], [0.5]]) + 3).astype(np.float32)
    settings = {"model": [{"dense": 1}], "loss": "mean_squared_error", "optimizer": {"learning_rate": 0.1}}
    trained = run(config_of(**settings, epochs=60, precision="float64"), dataset_of(split_of(inputs, targets)))
    assert trained.train()[-1].train["rmse"] < 1e-3
    parameters = trained.trainer.checkpoint().parameters
    np.testing.assert_allclose(parameters["layers.0.weight"], [[1.0, -2.0, 0.5]], atol=1e-4)
    np.testing.assert_allclose(parameters["layers.0.bias"], [3.0], atol=1e-4)


def test_metrics_fit_the_targets() -> None:
    assert metric_for(config_of(), ["a", "b", "c"]) == Accuracy(0.5)
    assert metric_for(config_of(**XOR), ["no", "yes"]) == Accuracy(0.0)
    assert metric_for(config_of(loss="mean_squared_error"), None) == RootMeanSquaredError()


def test_every_epoch_is_a_line_of_metrics(run: Callable[..., Run]) -> None:
    trained = run(config_of(), spirals())
    records = trained.train()
    lines = [json.loads(line) for line in trained.folder.metrics.read_text().splitlines()]
    assert lines == [record.flat() for record in records]
    assert list(lines[0]) == [
        "epoch",
        "step",
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "learning_rate",
        "samples_per_second",
        "seconds",
        "digest",
    ]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 7), (2, 14), (3, 21)]


# The same bits


def test_the_seed_fixes_every_bit(run: Callable[..., Run]) -> None:
    digests = []
    for seed in (1, 1, 2):
        trained = run(config_of(seed=seed), spirals())
        trained.train()
        digests.append(trained.digest)
    assert digests[0] == digests[1] != digests[2]


@compiled_only("only compiled programs use threads")
@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_the_number_of_threads_changes_no_bit(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, restored_threads: None
) -> None:
    monkeypatch.setattr(program, "PARALLEL_WORK", 0)
    digests = []
    for threads in (1, 2):
        set_threads(threads)
        trained = run(config_of(), spirals())
        trained.train()
        digests.append(trained.digest)
    assert digests[0] == digests[1]


def orders(trained: Run) -> list[list[int]]:
    """The order of the samples in each epoch."""
    seen = []

    def on_batch(batch: int) -> None:
        if batch == 1:
            seen.append(trained.trainer.step.feed.order.tolist())

    trained.train(on_batch=on_batch)
    return seen


def test_each_epoch_has_an_order_of_its_own_that_the_seed_fixes(run: Callable[..., Run]) -> None:
    data = spirals()
    found = orders(run(config_of(), data))
    assert all(sorted(order) == data.train.rows.tolist() for order in found)
    assert len({tuple(order) for order in [*found, data.train.rows.tolist()]}) == 4
    assert orders(run(config_of(), data)) == found
    assert orders(run(config_of(seed=2), data)) != found


def test_without_shuffling_samples_come_as_they_are(run: Callable[..., Run]) -> None:
    data = spirals()
    assert orders(run(config_of(shuffle=False), data)) == [data.train.rows.tolist()] * 3


# Stopping and going on


@pytest.mark.parametrize("step", [1, 3, 7, 8, 20])
def test_a_stopped_run_goes_on_with_the_same_bytes(run: Callable[..., Run], tmp_path: Path, step: int) -> None:
    """In the middle of an epoch and at its ends; the whole checkpoints are equal."""
    whole = run(config_of(), spirals())
    records = whole.train()

    stopped = run(config_of(), spirals())
    message = stopped.train_until(step)
    assert message.exit_code == 128 + signal.SIGTERM
    state = read_checkpoint(stopped.folder.last)
    assert state.progress.step == step
    resumed = Run(stopped.folder.path, config_of(), spirals(), state)
    later = resumed.train()

    assert resumed.folder.last.read_bytes() == whole.folder.last.read_bytes()
    assert resumed.folder.best.read_bytes() == whole.folder.best.read_bytes()
    for record, expected in zip(later, records[-len(later) :], strict=True):
        for field in ("epoch", "step", "train", "validation", "digest"):
            assert getattr(record, field) == getattr(expected, field)


def test_the_test_of_going_on_sees_another_order(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = run(config_of(), spirals()), run(config_of(), spirals())
    whole.train()
    stopped.train_until(3)
    resumed = Run(stopped.folder.path, config_of(), spirals(), read_checkpoint(stopped.folder.last))
    monkeypatch.setattr("nnjit.trainer.random_stream", lambda *key: np.random.default_rng(99))
    resumed.train()
    assert resumed.digest != whole.digest


def test_the_message_of_a_stopped_run(run: Callable[..., Run]) -> None:
    stopped = run(config_of(), spirals())
    message = stopped.train_until(10)
    assert str(message) == (
        "stopped by SIGTERM after step 10 (epoch 2, batch 3); its state is saved; go on with\n"
        f"  nnjit train {stopped.folder.config} --resume"
    )


def test_parameters_and_velocity_are_restored(run: Callable[..., Run]) -> None:
    stopped = run(config_of(), spirals())
    stopped.train_until(5)
    resumed = Run(stopped.folder.path, config_of(), spirals(), read_checkpoint(stopped.folder.last))
    before, after = stopped.trainer, resumed.trainer
    assert_array_equal(after.network.weights, before.network.weights)
    assert_array_equal(after.step.state["velocity"], before.step.state["velocity"])
    assert after.step.state["velocity"].any()


def test_a_run_may_go_on_for_more_epochs(run: Callable[..., Run]) -> None:
    whole = run(config_of(epochs=5), spirals())
    whole.train()
    shorter = run(config_of(epochs=2), spirals())
    shorter.train()
    longer = Run(shorter.folder.path, config_of(epochs=5), spirals(), read_checkpoint(shorter.folder.last))
    assert [record.epoch for record in longer.train()] == [3, 4, 5]
    assert longer.folder.last.read_bytes() == whole.folder.last.read_bytes()


def test_a_finished_run_has_nothing_left_to_do(run: Callable[..., Run]) -> None:
    trained = run(config_of(), spirals())
    trained.train()
    again = Run(trained.folder.path, config_of(), spirals(), read_checkpoint(trained.folder.last))
    assert again.trainer.finished and again.train() == []


def test_checkpoints_between_epochs(run: Callable[..., Run]) -> None:
    steps = []
    trained = run(config_of(checkpoint_every=3), spirals())
    trained.train(on_batch=lambda batch: steps.append(read_checkpoint(trained.folder.last).progress.step))
    # What stands on the disk after each of 21 steps in 3 epochs: of every third step, and of the ends of epochs.
    assert steps == [0, 0, 0, 3, 3, 3, 6, 7, 7, 9, 9, 9, 12, 12, 14, 15, 15, 15, 18, 18, 18]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (spirals(49), "number of samples that the run began with, 50, got 49"),
        (
            dataset_of(spirals().train, None, ["a", "b", "x"]),
            "classes that the run began with, ['a', 'b', 'c'], got ['a', 'b', 'x']",
        ),
    ],
    ids=["samples", "classes"],
)
def test_a_run_goes_on_with_its_own_data_only(run: Callable[..., Run], other: Dataset, message: str) -> None:
    stopped = run(config_of(), spirals())
    stopped.train_until(3)
    with pytest.raises(DataError) as caught:
        Run(stopped.folder.path, config_of(), other, read_checkpoint(stopped.folder.last))
    assert str(caught.value) == f"data.train: expected the {message}; a run can only go on with its own data"


# Divergence


def test_a_loss_that_is_not_finite_stops_the_run(run: Callable[..., Run]) -> None:
    settings = {"loss": "half_squared_error", "optimizer": {"learning_rate": 50.0}}
    trained = run(config_of(**settings, model=[{"dense": 3}], epochs=1000), spirals())
    with pytest.raises(DivergedError) as caught:
        trained.train()
    progress = trained.trainer.progress
    assert str(caught.value).splitlines()[0] == (
        f"the loss became inf at step {progress.step} (epoch {progress.epoch + 1}, batch {progress.batch}) "
        "with learning rate 50.0"
    )
    assert caught.value.exit_code == 4
    kept = read_checkpoint(trained.folder.last)
    assert kept.progress.epoch == progress.epoch and kept.progress.batch == 0
    assert all(np.isfinite(array).all() for array in kept.parameters.values())


@pytest.mark.parametrize("with_validation", [True, False])
def test_an_update_that_ends_an_epoch_with_infinite_parameters_stops_the_run(
    run: Callable[..., Run], with_validation: bool
) -> None:
    """Its own loss is finite still; that of the next step would not be, but it must not be saved before."""
    data = spirals()
    if not with_validation:
        data = dataset_of(data.train, None, data.classes)
    settings = {
        "model": [{"dense": {"units": 3, "weight_init": {"normal": 30.0}}}],
        "loss": "half_squared_error",
        "optimizer": {"learning_rate": 3e38, "momentum": 0.9},
    }
    trained = run(config_of(**settings, epochs=1, batch_size=50), data)
    with pytest.raises(DivergedError):
        trained.train()
    kept = read_checkpoint(trained.folder.last)
    assert all(np.isfinite(array).all() for array in kept.parameters.values())


# Signals


def test_a_signal_asks_to_stop_once_and_then_acts_as_usual() -> None:
    announced: list[int] = []
    stop = StopRequest(announced.append)
    before = signal.getsignal(signal.SIGTERM)
    with stop.listening():
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM and announced == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before
