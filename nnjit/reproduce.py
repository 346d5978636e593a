"""Training a recorded run again, bit for bit: from the config, the seed and the learning rates in its last checkpoint.

Every line of metrics.jsonl must come out as it is there, but for the times: the scores, and the digest of the
parameters, which changes with any of their bits. The digest leaves out the optimizer's arrays: a bit of theirs that
differs is in the parameters one step later, and so in the next line. After the last line they are compared themselves,
with those in last.safetensors, unless that was saved in the middle of an epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnjit.checkpoint import read_checkpoint
from nnjit.config import dump, parse_config
from nnjit.errors import CheckFailedError, DataError, DivergedError
from nnjit.prepare import prepare
from nnjit.run_folder import RunFolder
from nnjit.trained import stored_config
from nnjit.trainer import Trainer, check_same_data

TIMES = ("seconds", "samples_per_second")
"""Fields of a record that differ from run to run."""


class Epoch(NamedTuple):
    """An epoch that was trained again."""

    epoch: int
    digest: str
    """As it was recorded."""
    difference: str
    """The first thing that was not the same; empty if all was."""


class Reproduction:
    """A recorded run, ready to be trained again in the folder `scratch`, which must be new.

    `overrides` may say where its data are now. Raises DataError when the record is incomplete or the data are gone or
    others, ConfigError for other overrides.
    """

    def __init__(self, path: Path, scratch: Path, overrides: Sequence[str] = ()) -> None:
        self.run = RunFolder(path)
        checkpoint = self._recorded = read_checkpoint(self.run.last)
        config = stored_config(checkpoint, self.run.last, overrides)
        self.records = _records(self.run, checkpoint.progress.epoch)
        dataset = prepare(parse_config(dump(config), str(self.run.last), Path()))
        check_same_data(checkpoint, dataset, "be reproduced")
        self._rates = checkpoint.progress.learning_rates
        folder = RunFolder(scratch)
        folder.create(dump(config))
        self.trainer = Trainer(config, dataset, folder)

    def epochs(self, count: int | None = None) -> Iterator[Epoch]:
        """Train the first `count` recorded epochs, all by default, until one does not come out equal."""
        trained = self.trainer.epochs(on_batch=self._on_batch)
        for number, recorded in enumerate(self.records[:count], start=1):
            self._follow_learning_rate()
            try:
                different = _difference(recorded, next(trained).flat())
            except DivergedError:
                different = "expected numbers, got a loss or parameters that are not finite"
            if not different and number == len(self.records):
                different = self._different_checkpoint()
            yield Epoch(number, recorded["digest"], different)
            if different:
                return

    def failure(self, epoch: Epoch) -> CheckFailedError:
        """The error that tells of an epoch that did not come out equal."""
        return CheckFailedError(
            f"{self.run.metrics}:{epoch.epoch}: epoch {epoch.epoch}: {epoch.difference}; "
            "the data, this record or nnjit is no longer what it was"
        )

    def _different_checkpoint(self) -> str:
        """The first array of last.safetensors that is not that of the state now, at the end of the last recorded
        epoch; empty if there is none or the file is of a later step."""
        recorded, found = self._recorded, self.trainer.checkpoint()
        if recorded.progress.batch:
            return ""
        pairs = [(name, recorded.parameters[name], array) for name, array in found.parameters.items()]
        for state, arrays in found.optimizer.items():
            pairs += [
                (f"the {state} of {name}", recorded.optimizer[state][name], array) for name, array in arrays.items()
            ]
        return next(
            (
                f"expected {name} as in {self.run.last}, got other numbers"
                for name, before, now in pairs
                if not np.array_equal(before, now)
            ),
            "",
        )

    def _on_batch(self, batch: int) -> None:
        # A rate that changed at the end of an epoch belongs to the record of the next.
        if batch < self.trainer.step.batches:
            self._follow_learning_rate()

    def _follow_learning_rate(self) -> None:
        """Change the learning rate where the run did."""
        for step, rate in self._rates:
            if step == self.trainer.progress.step:
                self.trainer.use_learning_rate(rate)


def _records(run: RunFolder, epochs: int) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl for the epochs that the last checkpoint has completed.

    Raises DataError when there are none, or one is damaged or missing.
    """
    if not epochs:
        raise DataError(f"{run.last}: expected at least one epoch that is done, found none to reproduce")
    try:
        lines = run.metrics.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{run.metrics}: expected the record of {epochs} epochs, cannot be read: {error}") from None
    records = []
    for number, line in enumerate([*lines, *[""] * epochs][:epochs], start=1):
        try:
            record = json.loads(line)
            epoch = record["epoch"]
        except (ValueError, KeyError, TypeError):
            epoch = None
        if epoch != number:
            raise DataError(f"{run.metrics}:{number}: expected the record of epoch {number}, got {line[:60]!r}")
        records.append(record)
    return records


def _difference(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The first field, the digest before all others, that is not the same in both; empty if there is none."""
    names = dict.fromkeys(["digest", *found, *recorded])
    return next(
        (
            f"expected {name} {recorded.get(name)}, got {found.get(name)}"
            for name in names
            if name not in TIMES and recorded.get(name) != found.get(name)
        ),
        "",
    )
