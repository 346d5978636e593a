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

from nnjit.checkpoint import Checkpoint, Progress, digest, write_checkpoint
from nnjit.config import Config
from nnjit.data.dataset import Dataset
from nnjit.errors import DataError, DivergedError, InterruptedRun
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


class Trainer:
    """One run of a config on a dataset that `prepare` has checked against it.

    Raises DataError when `resumed` is the state of a run on other data.
    """

    def __init__(self, config: Config, dataset: Dataset, folder: RunFolder, resumed: Checkpoint | None = None) -> None:
        self.config = config
        self.dataset = dataset
        self.folder = folder
        self.network = build_network(config, dataset.shape)
        inputs = Scaling(dataset.shift, dataset.factor)
        targets = Scaling(dataset.target_shift, dataset.target_factor)
        metric = metric_for(config, dataset.classes)
        self.step = TrainingStep(
            self.network, config.train.batch_size, config.loss, metric, config.optimizer, dataset.train, inputs, targets
        )
        self.validation = dataset.validation and Evaluation(
            self.network, config.loss, metric, dataset.validation, inputs, targets
        )
        self.progress = Progress()
        if resumed is not None:
            self._restore(resumed)

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
                raise self._diverged(cost)
            progress.batch = batch + 1
            progress.step += 1
            on_batch(batch + 1)
            if stop.signal is not None or (every is not None and progress.step % every == 0 and batch + 1 < batches):
                progress.totals = step.totals.tolist()
                progress.seconds = before + time.perf_counter() - start
                self.save()
                if stop.signal is not None:
                    raise self._interrupted(stop.signal)
        seconds = before + time.perf_counter() - start
        return self._finish_epoch(seconds)

    def _finish_epoch(self, seconds: float) -> EpochRecord:
        """Validate, write the record and the checkpoints, and turn to the next epoch."""
        progress = self.progress
        train = self.step.results()
        validation = self.validation.run() if self.validation else {}
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
            learning_rate=float(self.config.optimizer.learning_rate),
            samples_per_second=len(self.dataset.train) / max(seconds, 1e-9),
            seconds=seconds,
            digest=digest(checkpoint.parameters),
        )
        # The record goes first: a run that dies between the two drops it when it is resumed from the older checkpoint.
        self.folder.append(record.flat())
        if improved:
            write_checkpoint(self.folder.best, checkpoint)
        write_checkpoint(self.folder.last, checkpoint)
        return record

    def _order_samples(self, epoch: int) -> None:
        rows = self.dataset.train.rows
        if self.config.train.shuffle:
            self.step.feed.order[:] = rows[random_stream(self.config.seed, 1, epoch).permutation(len(rows))]

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

    def _restore(self, checkpoint: Checkpoint) -> None:
        dataset = self.dataset
        for what, before, now in (
            ("number of samples", checkpoint.samples, len(dataset.train)),
            ("input shape", checkpoint.input_shape, dataset.shape),
            ("classes", checkpoint.classes, dataset.classes),
        ):
            if before != now:
                raise DataError(
                    f"data.train: expected the {what} that the run began with, {before}, got {now}; "
                    "a run can only go on with its own data"
                )
        layout = self.network.layout
        layout.pack(checkpoint.parameters, self.network.weights)
        for name, flat in self.step.state.items():
            layout.pack(checkpoint.optimizer[name], flat)
        self.progress = checkpoint.progress

    def _diverged(self, cost: float) -> DivergedError:
        progress = self.progress
        return DivergedError(
            f"the loss became {cost} at step {progress.step + 1} (epoch {progress.epoch + 1}, "
            f"batch {progress.batch + 1}) with learning rate {self.config.optimizer.learning_rate}; "
            f"{self.folder.last} is the last good checkpoint; try a smaller optimizer.learning_rate"
        )

    def _interrupted(self, number: int) -> InterruptedRun:
        progress = self.progress
        return InterruptedRun(
            f"stopped by {signal.Signals(number).name} after step {progress.step} "
            f"(epoch {progress.epoch + 1}, batch {progress.batch}); its state is saved; go on with\n"
            f"  {self.folder.resume_command}",
            number,
        )
