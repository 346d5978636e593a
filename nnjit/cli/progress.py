"""What training shows on standard error: a line per epoch, and on a terminal a bar while an epoch runs."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nnjit.trainer import EpochRecord, Trainer

REDRAW_SECONDS = 0.1


class EpochReport:
    """The epochs of a run as text; `bar` is a tqdm bar, or None for lines alone."""

    def __init__(self, trainer: Trainer, bar: Any = None) -> None:
        self.trainer = trainer
        self._bar = bar
        self._due = math.inf if bar is None else 0.0
        self._describe()

    def on_batch(self, batch: int) -> None:
        """Move the bar, if its time has come: a step may take a few microseconds only."""
        now = time.perf_counter()
        if now >= self._due:
            self._due = now + REDRAW_SECONDS
            self._bar.n = min(batch * self.trainer.config.train.batch_size, self._bar.total)
            self._bar.refresh()

    def on_epoch(self, record: EpochRecord) -> None:
        """Print an epoch's line."""
        parts = [f"epoch {record.epoch}/{self.trainer.config.train.epochs}: train {_scores(record.train)}"]
        if record.validation:
            parts.append(f"validation {_scores(record.validation)}")
        parts += [f"{record.samples_per_second:,.0f} samples/s", f"{record.seconds:.2f} s"]
        if self.trainer.progress.best_epoch == record.epoch:
            parts.append("best so far")
        line = ", ".join(parts)
        if self._bar is None:
            click.echo(line, err=True)
            return
        self._bar.clear()
        click.echo(line, err=True)
        self._bar.reset()
        self._describe()

    def _describe(self) -> None:
        if self._bar is not None:
            epoch = min(self.trainer.progress.epoch + 1, self.trainer.config.train.epochs)
            self._bar.set_description_str(f"epoch {epoch}/{self.trainer.config.train.epochs}", refresh=False)


def _scores(scores: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in scores.items())


@contextmanager
def reporting(trainer: Trainer) -> Iterator[EpochReport]:
    """A report with a bar where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield EpochReport(trainer)
        return
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # its thread would only ever redraw a bar that redraws itself
    samples = len(trainer.dataset.train)
    begun = min(trainer.progress.batch * trainer.config.train.batch_size, samples)
    with tqdm(total=samples, initial=begun, unit=" samples", unit_scale=True, leave=False) as bar:
        yield EpochReport(trainer, bar)
