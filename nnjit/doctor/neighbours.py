"""Whether targets follow inputs at all: samples with like inputs mostly have like targets, unless the two were shuffled
against each other.

A network can learn shuffled labels by heart, so no other check sees them. For each of some samples the nearest other
one is found; how often the two have one class is compared with how often two drawn at random would.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from nnjit.config import Config
from nnjit.data.dataset import Dataset
from nnjit.doctor.finding import Finding, counted
from nnjit.trainer import epoch_order

SAMPLES = 1000
"""Samples that are compared with each other, at most."""
NUMBERS = 2**24
"""Numbers that these may have in all."""
LEAST = 50
"""Samples below which the nearest may be far."""
SURE = 4
"""Standard deviations above chance that count as more than chance."""


def targets_follow(config: Config, dataset: Dataset) -> Finding:
    """Whether a sample's target says something about that of the sample nearest to it."""
    check, split = "targets follow inputs", dataset.train
    assert split.targets is not None
    most = min(SAMPLES, NUMBERS // math.prod(dataset.shape))
    rows = np.sort(epoch_order(config, split.rows, 0)[:most])
    count = len(rows)
    if count < LEAST:
        return Finding(check, "skipped", f"{counted(count, 'sample')}: too few to compare each with the nearest")
    nearest = _nearest(_comparable(split.inputs[rows], dataset))
    targets = split.targets[rows]
    if dataset.classes is None:
        flat = targets.reshape(count, -1).astype(np.float64)
        variance = float(flat.var(axis=0).sum())
        if not variance:
            return Finding(check, "skipped", f"{counted(count, 'sample')} with one target")
        found = 1 - float(((flat - flat[nearest]) ** 2).mean(axis=0).sum()) / (2 * variance)
        chance, deviation = 0.0, 1 / math.sqrt(count)
        reason = f"the targets of {count} samples correlate by {found:.2f} with those of the nearest other"
    else:
        shares = np.bincount(targets) / count
        chance = float((shares**2).sum())
        if chance == 1:
            return Finding(check, "skipped", f"{counted(count, 'sample')} of one class")
        found, deviation = float((targets == targets[nearest]).mean()), math.sqrt(chance * (1 - chance) / count)
        reason = f"{found:.0%} of {count} samples have the class of the nearest other, where chance gives {chance:.0%}"
    if found > chance + SURE * deviation:
        return Finding(check, "ok", reason)
    remedy = "see whether inputs and targets are in the same order: they look shuffled against each other"
    return Finding(check, "warning", reason, remedy)


def _comparable(inputs: NDArray[np.generic], dataset: Dataset) -> NDArray[np.float32]:
    """Inputs as vectors (samples, numbers) round 0; the columns of a table made equally wide, as no unit is theirs."""
    vectors = inputs.reshape(len(inputs), -1).astype(np.float32)
    vectors -= vectors.mean(axis=0)
    if len(dataset.shape) == 1:
        deviation = vectors.std(axis=0)
        vectors /= np.where(deviation > 0, deviation, 1)
    return vectors


def _nearest(vectors: NDArray[np.float32]) -> NDArray[np.intp]:
    """For each of `vectors` (samples, numbers) the index of the nearest other one."""
    squares = np.einsum("ij,ij->i", vectors, vectors)
    distances = squares - 2 * vectors @ vectors.T
    np.fill_diagonal(distances, np.inf)
    nearest: NDArray[np.intp] = distances.argmin(axis=1)
    return nearest
