"""Training: epochs of steps, validation, checkpoints, stopping and going on.

A run is a function of config, data and seed: the order of epoch e comes from (seed, e), so a run that was stopped in
the middle of an epoch goes on from its checkpoint with the same bits.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.checkpoint import Checkpoint, Progress, digest, read_checkpoint, write_checkpoint
from nnjit.config import Config
from nnjit.data.dataset import Dataset
from nnjit.divergence import diagnose
from nnjit.errors import DataError, InterruptedRun
from nnjit.metrics import Accuracy, Metric, RootMeanSquaredError
from nnjit.network import Network
from nnjit.parameters import random_stream
from nnjit.run_folder import RunFolder
from nnjit.steps import Evaluation, Scaling, TrainingStep
from nnjit.stopping import StopRequest


@dataclass(frozen=True)
class EpochRecord:
    """One line of metrics.jsonl."""

    epoch: int
    step: int
    train: dict[str, float]
    validation: dict[str, float]
    learning_rate: float
    samples_per_second: float
    seconds: float
    digest: str

    def flat(self) -> dict[str, Any]:
        """As one level of names: train_loss, validation_accuracy, and so on."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            **{f"train_{name}": value for name, value in self.train.items()},
            **{f"validation_{name}": value for name, value in self.validation.items()},
            "learning_rate": self.learning_rate,
            "samples_per_second": round(self.samples_per_second, 1),
            "seconds": round(self.seconds, 4),
            "digest": self.digest,
        }


def metric_for(config: Config, classes: list[str] | None) -> Metric:
    """Accuracy for class labels, root mean squared error for numbers."""
    return RootMeanSquaredError() if classes is None else Accuracy(config.loss.threshold)


def build_network(config: Config, input_shape: tuple[int, ...]) -> Network:
    """The network of a config with its initial parameters. Raises LayerShapeError."""
    return Network(config.model, input_shape, np.dtype(config.train.precision), config.seed)


def training_step(network: Network, config: Config, dataset: Dataset, *, keep_gradients: bool = False) -> TrainingStep:
    """The step that trains `network` on the training split; `keep_gradients`: see `Network.bind`."""
    return TrainingStep(
        network,
        config.train.batch_size,
        config.loss,
        metric_for(config, dataset.classes),
        config.optimizer,
        dataset.train,
        Scaling(dataset.shift, dataset.factor),
        Scaling(dataset.target_shift, dataset.target_factor),
        keep_gradients=keep_gradients,
    )


def epoch_order(config: Config, rows: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
    """The rows of the training split in the order in which that epoch, counted from 0, visits them."""
    if not config.train.shuffle:
        return rows
    return rows[random_stream(config.seed, 1, epoch).permutation(len(rows))]


def check_same_data(checkpoint: Checkpoint, dataset: Dataset, purpose: str) -> None:
    """Raise DataError unless `dataset` looks like what the run of `checkpoint` began with; without it, a run cannot
    `purpose`."""
    for what, before, now in (
        ("number of samples", checkpoint.samples, len(dataset.train)),
        ("input shape", checkpoint.input_shape, dataset.shape),
        ("classes", checkpoint.classes, dataset.classes),
    ):
        if before != now:
            raise DataError(
                f"data.train: expected the {what} that the run began with, {before}, got {now}; "
                f"a run can only {purpose} with its own data"
            )


class Trainer:
    """One run of a config on a dataset that `prepare` has checked against it.

    Raises DataError when `resumed` is the state of a run on other data.
    """

    def __init__(self, config: Config, dataset: Dataset, folder: RunFolder, resumed: Checkpoint | None = None) -> None:
        self.config = config
        self.dataset = dataset
        self.folder = folder
        self.network = build_network(config, dataset.shape)
        self.step = training_step(self.network, config, dataset)
        self.validation = dataset.validation and Evaluation(
            self.network,
            config.loss,
            self.step.metric,
            dataset.validation,
            Scaling(dataset.shift, dataset.factor),
            Scaling(dataset.target_shift, dataset.target_factor),
        )
        self.progress = Progress()
        if resumed is not None:
            check_same_data(resumed, dataset, "go on")
            self._restore(resumed)
        self.use_learning_rate(config.optimizer.learning_rate)

    def use_learning_rate(self, rate: float) -> None:
        """Take steps of that size from the next one on."""
        self.step.rate[0] = rate
        begun = self.progress.step
        rates = [change for change in self.progress.learning_rates if change[0] < begun]
        if not rates or rates[-1][1] != rate:
            rates.append([begun, rate])
        self.progress.learning_rates = rates

    @property
    def finished(self) -> bool:
        """Whether every epoch of the config is done."""
        return self.progress.epoch >= self.config.train.epochs

    def epochs(
        self, stop: StopRequest | None = None, on_batch: Callable[[int], None] = lambda batch: None
    ) -> Iterator[EpochRecord]:
        """Train; one record per epoch, written to the run folder with its checkpoints before it is given.

        `on_batch` is called with the number of completed batches of the epoch after every step.
        Raises DivergedError when the loss is not finite, InterruptedRun when `stop` was asked for (after saving).
        """
        stop = stop or StopRequest()
        if self.progress.step == 0:
            # Also proves, before any work is done, that the run folder can be written.
            self.save()
        while not self.finished:
            yield self._epoch(stop, on_batch)

    def _epoch(self, stop: StopRequest, on_batch: Callable[[int], None]) -> EpochRecord:
        progress, step, every = self.progress, self.step, self.config.train.checkpoint_every
        self._order_samples(progress.epoch)
        step.totals[:] = progress.totals
        before, start = progress.seconds, time.perf_counter()
        batches = step.batches
        for batch in range(progress.batch, batches):
            cost = step.run(batch)
            if not math.isfinite(cost):
                raise diagnose(self, f"the loss became {cost}", progress.step + 1, stop)
            progress.batch = batch + 1
            progress.step += 1
            on_batch(batch + 1)
            if stop.signal is not None or (every is not None and progress.step % every == 0 and batch + 1 < batches):
                progress.totals = step.totals.tolist()
                progress.seconds = before + time.perf_counter() - start
                self._require_finite_state(stop)
                self.save()
                if stop.signal is not None:
                    raise self._interrupted(stop.signal)
        seconds = before + time.perf_counter() - start
        return self._finish_epoch(seconds, stop)

    def _finish_epoch(self, seconds: float, stop: StopRequest) -> EpochRecord:
        """Validate, write the record and the checkpoints, and turn to the next epoch."""
        progress = self.progress
        self._require_finite_state(stop)
        train = self.step.results()
        validation = self.validation.run() if self.validation else {}
        if validation and not math.isfinite(validation["loss"]):
            raise diagnose(self, f"the validation loss became {validation['loss']}", progress.step, stop)
        progress.epoch += 1
        progress.batch, progress.seconds, progress.totals = 0, 0.0, [0.0] * 4
        loss = (validation or train)["loss"]
        improved = progress.best_loss is None or loss < progress.best_loss
        if improved:
            progress.best_loss, progress.best_epoch = loss, progress.epoch
        checkpoint = self.checkpoint()
        record = EpochRecord(
            epoch=progress.epoch,
            step=progress.step,
            train=train,
            validation=validation,
            learning_rate=progress.learning_rates[-1][1],
            samples_per_second=len(self.dataset.train) / max(seconds, 1e-9),
            seconds=seconds,
            digest=digest(checkpoint.parameters),
        )
        # The record goes first: a run that dies between the two drops it when it is resumed from the older checkpoint.
        self.folder.append(record.flat())
        if improved:
            write_checkpoint(self.folder.best, checkpoint)
        write_checkpoint(self.folder.last, checkpoint)
        # A run diverges in the epoch after its last checkpoint, which is now done.
        self.folder.forget_divergence()
        return record

    def _require_finite_state(self, stop: StopRequest) -> None:
        """Raise DivergedError instead of letting a checkpoint hold what no run can go on from."""
        if not all(np.isfinite(array).all() for array in (self.network.weights, *self.step.state.values())):
            raise diagnose(self, "a parameter became infinite or NaN", self.progress.step, stop)

    def checkpoint(self) -> Checkpoint:
        """The state of the run as it is."""
        dataset, layout = self.dataset, self.network.layout
        return Checkpoint(
            parameters=layout.unpack(self.network.weights),
            optimizer={name: layout.unpack(flat) for name, flat in self.step.state.items()},
            scaling={
                "input_shift": dataset.shift,
                "input_factor": dataset.factor,
                "target_shift": dataset.target_shift,
                "target_factor": dataset.target_factor,
            },
            config=self.config.model_dump(mode="json"),
            input_shape=dataset.shape,
            classes=dataset.classes,
            samples=len(dataset.train),
            progress=self.progress,
        )

    def save(self) -> None:
        """Write last.safetensors."""
        write_checkpoint(self.folder.last, self.checkpoint())

    def keep_gradients(self) -> None:
        """Let every step from now on leave all its gradients to be read; what the optimizer remembers is lost."""
        rate = float(self.step.rate[0])
        del self.step  # before the next one takes as much memory
        self.step = training_step(self.network, self.config, self.dataset, keep_gradients=True)
        self.step.rate[0] = rate

    def go_back(self) -> None:
        """Take up the state in the last checkpoint, at the learning rate of now."""
        self._restore(read_checkpoint(self.folder.last))
        self._order_samples(self.progress.epoch)

    def repeat(self, until: int) -> Iterator[float]:
        """Take the steps up to step `until` of the running epoch, recording nothing; the sum of each one's costs."""
        progress = self.progress
        while progress.step < until:
            cost = self.step.run(progress.batch)
            progress.batch += 1
            progress.step += 1
            yield cost

    def _order_samples(self, epoch: int) -> None:
        self.step.feed.order[:] = epoch_order(self.config, self.dataset.train.rows, epoch)

    def _restore(self, checkpoint: Checkpoint) -> None:
        layout = self.network.layout
        layout.pack(checkpoint.parameters, self.network.weights)
        for name, flat in self.step.state.items():
            layout.pack(checkpoint.optimizer[name], flat)
        self.progress = checkpoint.progress

    def _interrupted(self, number: int) -> InterruptedRun:
        progress = self.progress
        return InterruptedRun(
            f"stopped by {signal.Signals(number).name} after step {progress.step} "
            f"(epoch {progress.epoch + 1}, batch {progress.batch}); its state is saved; go on with\n"
            f"  {self.folder.resume_command}",
            number,
        )
