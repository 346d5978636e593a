"""What is worth knowing about the samples before a network sees them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.config import Config
from nnjit.data.dataset import Dataset, Split
from nnjit.data.scaling import BLOCK_NUMBERS, moments
from nnjit.doctor.finding import ENOUGH, Finding, counted, graded, within
from nnjit.doctor.neighbours import targets_follow

IMBALANCE = 10
"""How many times as many samples the largest class may have as the smallest."""
FEW = 0.01
"""Share of the samples up to which repetitions (as a fault: conflicts, shared rows) are borne with."""
SPREAD = 100
"""How many times as wide as the narrowest column of a table the widest may be."""
SIZES = (0.05, 5.0), (1e-4, 1e3)
"""Sizes of the numbers that the network sees: within the first bounds good, beyond the second a problem."""
SHOWN = 5
"""Columns that a reason lists."""


def examine_data(config: Config, dataset: Dataset) -> Iterator[Finding]:
    """Classes (or targets) and whether they follow the inputs, repeated rows, rows in two splits, columns that say
    nothing, the scale of the numbers."""
    samples = len(dataset.train)
    yield _targets(dataset).unless_few(samples) if dataset.classes is None else _classes(dataset, dataset.classes)
    yield targets_follow(config, dataset)
    train = _Rows(config, dataset.train, "train")
    yield train.repeated()
    for name in ("validation", "test"):
        split = getattr(dataset, name)
        if split is not None:
            yield train.shared(_Rows(config, split, name))
    lowest, highest = _bounds(dataset.train)
    yield _constant(dataset, lowest == highest).unless_few(samples)
    yield _scale(dataset, lowest, highest)


def _classes(dataset: Dataset, classes: list[str]) -> Finding:
    targets = dataset.train.targets
    assert targets is not None
    counts = np.bincount(targets[dataset.train.rows], minlength=len(classes))
    missing = [name for name, count in zip(classes, counts, strict=True) if not count]
    if missing:
        reason = f"no sample of class {_listed(missing)} among {counted(len(dataset.train), 'training sample')}"
        return Finding("classes", "problem", reason, "take such a class out of data.classes, or give it samples")
    least, most = int(counts.argmin()), int(counts.argmax())
    reason = (
        f"{counts[least]} samples of class {classes[least]!r} to {counts[most]} of class {classes[most]!r}, "
        f"{len(classes)} classes"
    )
    if counts[most] > IMBALANCE * counts[least]:
        remedy = "collect or repeat samples of rare classes; accuracy says little about them"
        return Finding("classes", "warning", reason, remedy)
    return Finding("classes", "ok", reason)


def _targets(dataset: Dataset) -> Finding:
    split = dataset.train
    assert split.targets is not None
    mean, variance = moments(split.targets, split.rows)
    constant = np.flatnonzero(variance == 0)
    if len(constant):
        reason = f"{len(constant)} of {len(mean)} targets the same in every training sample: {_listed(constant)}"
        return Finding("targets", "problem", reason, "check data.train.target; there is nothing to learn in them")
    deviation = np.sqrt(variance)
    return Finding(
        "targets", "ok", f"{len(mean)} a sample, with deviations from {deviation.min():.3g} to {deviation.max():.3g}"
    )


class _Rows:
    """The inputs of a split by their digests, with the samples that have them."""

    def __init__(self, config: Config, split: Split, name: str) -> None:
        self.split = split
        self.name = name
        self.source, self.start = config.data.origin(name)
        self.samples: dict[bytes, list[int]] = defaultdict(list)
        for row in split.rows.tolist():
            self.samples[_digest(split.inputs[row])].append(row)

    def place(self, row: int) -> str:
        """A row as reasons show it: counted from 0 in its file."""
        return f"row {row + self.start} of data.{self.source}"

    def repeated(self) -> Finding:
        """On inputs that come more than once, with the same target or with others."""
        total, targets = len(self.split), self.split.targets
        assert targets is not None
        if total == 1:
            return Finding("repeated samples", "skipped", "there is 1 training sample")
        groups = [rows for rows in self.samples.values() if len(rows) > 1]
        conflicts = [rows for rows in groups if (targets[rows] != targets[rows[0]]).any()]
        if conflicts:
            count, (one, *others) = sum(map(len, conflicts)), conflicts[0]
            other = next(row for row in others if (targets[row] != targets[one]).any())
            reason = (
                f"{count} of {total} training samples have the input of another but not its target, "
                f"such as {self.place(one)} and {self.place(other)}"
            )
            verdict = graded(count / total, 0, FEW)
            return Finding("repeated samples", verdict, reason, "correct such targets, or leave the samples out")
        copies = sum(len(rows) - 1 for rows in groups)
        if not copies:
            return Finding("repeated samples", "ok", f"no two of {total} training samples have the same input")
        one, other = groups[0][:2]
        reason = (
            f"{copies} of {total} training samples are copies of others, "
            f"such as {self.place(other)} of {self.place(one)}"
        )
        if copies <= FEW * total:
            return Finding("repeated samples", "ok", reason)
        return Finding("repeated samples", "warning", reason, "leave copies out, unless they are to count more")

    def shared(self, other: _Rows) -> Finding:
        """On inputs of another split that this one has too."""
        check, total = f"{other.name} apart from train", len(other.split)
        common = [rows[0] for key, rows in other.samples.items() if key in self.samples]
        if not common:
            return Finding(check, "ok", f"none of {total} {other.name} samples has the input of a training sample")
        count = sum(len(rows) for key, rows in other.samples.items() if key in self.samples)
        twin = self.samples[_digest(other.split.inputs[common[0]])][0]
        reason = (
            f"{count} of {total} {other.name} samples have the input of a training sample, "
            f"such as {other.place(common[0])} that of {self.place(twin)}"
        )
        verdict = graded(count / total, 0, FEW)
        return Finding(check, verdict, reason, f"leave them out of one of the two: {other.name} scores flatter")


def _digest(values: NDArray[Any]) -> bytes:
    """A key for an input, the same for equal numbers of different dtypes."""
    return hashlib.blake2b(np.ascontiguousarray(values, np.float32).data, digest_size=16).digest()


def _bounds(split: Split) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The smallest and the largest number of each column, both (entries,)."""
    entries = split.inputs[0].size
    step = max(1, BLOCK_NUMBERS // entries)
    lowest, highest = np.full(entries, np.inf), np.full(entries, -np.inf)
    for start in range(0, len(split), step):
        block = split.inputs[split.rows[start : start + step]].reshape(-1, entries)
        np.minimum(lowest, block.min(axis=0), out=lowest)
        np.maximum(highest, block.max(axis=0), out=highest)
    return lowest, highest


def _constant(dataset: Dataset, constant: NDArray[np.bool_]) -> Finding:
    """Images have a rim that is never drawn on, so there only many constant pixels are worth a warning."""
    columns, image = np.flatnonzero(constant), len(dataset.shape) > 1
    if not len(columns):
        return Finding("constant inputs", "ok", f"none of {len(constant)} numbers is the same in every training sample")
    reason = f"{len(columns)} of {len(constant)} numbers are the same in every training sample: {_listed(columns)}"
    if len(columns) == len(constant):
        return Finding("constant inputs", "problem", reason, "check data.train: its samples do not differ")
    if image and 2 * len(columns) <= len(constant):
        return Finding("constant inputs", "ok", reason)
    remedy = "crop the images" if image else "leave these columns out: they say nothing"
    return Finding("constant inputs", "warning", reason, remedy)


def _scale(dataset: Dataset, lowest: NDArray[np.float64], highest: NDArray[np.float64]) -> Finding:
    """The size of the numbers as the network sees them; for a table, also how much its columns' ranges differ."""
    mean, variance = moments(dataset.train.inputs, dataset.train.rows)
    factor = np.broadcast_to(dataset.factor, mean.shape)
    size = float(np.sqrt(np.mean((((mean - dataset.shift) ** 2) + variance) * factor**2)))
    ranges = (highest - lowest) * factor
    varying = np.flatnonzero(ranges > 0)
    reason = f"the network sees numbers of size {size:.3g} (root of the mean square)"
    if len(varying):
        narrow, wide = varying[ranges[varying].argmin()], varying[ranges[varying].argmax()]
        reason += f"; column {narrow} spans {ranges[narrow]:.3g}, column {wide} {ranges[wide]:.3g}"
        if len(dataset.shape) == 1 and len(dataset.train) >= ENOUGH and ranges[wide] > SPREAD * ranges[narrow]:
            return Finding("scale of inputs", "warning", reason, "set data.standardize: column")
    verdict = within(size, *SIZES)
    remedy = "" if verdict == "ok" else "set data.standardize: all, or data.divide"
    return Finding("scale of inputs", verdict, reason, remedy)


def _listed(names: Any) -> str:
    """The first of some columns or classes."""
    shown = ", ".join(str(name) for name in list(names)[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
