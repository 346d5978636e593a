"""A config's `data:` section as arrays: splits, the shape and classes they share, the scaling of numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnjit.data.labels import Labels, encode, find_classes
from nnjit.data.scaling import standardizing
from nnjit.data.section import DataSection, FileSource, FractionSource
from nnjit.data.shapes import Shape, fit
from nnjit.data.source import Samples, read_source, sample_shape
from nnjit.data.splitting import SplitName, held_out
from nnjit.errors import ConfigError, DataError

Reader: TypeAlias = Callable[[FileSource], Samples]


@dataclass(frozen=True, eq=False)
class Split:
    """Samples for one purpose: sample i is inputs[rows[i]] with targets[rows[i]].

    The arrays are C-contiguous and read-only; they may be memory maps, and shared with another split.
    """

    inputs: NDArray[Any]
    """(N, *shape), numbers of the file's own dtype (CSV: float32)."""
    targets: NDArray[Any] | None
    """(N,) int32 class labels, or (N, *target_shape) float32 or float64, or None without targets."""
    rows: NDArray[np.int64]
    """(samples,), ascending."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Dataset:
    """The splits of a config, and what the training split settles for all of them.

    The network sees (raw - shift) * factor; both are float64, (1,) or (numbers of a sample,).
    """

    train: Split
    validation: Split | None
    test: Split | None
    shape: Shape
    """Shape of one input."""
    target_shape: Shape
    """Shape of one target; () for a class label, and without targets."""
    classes: list[str] | None
    """Names of the classes if targets are labels."""
    shift: NDArray[np.float64]
    factor: NDArray[np.float64]
    target_shift: NDArray[np.float64]
    target_factor: NDArray[np.float64]


def input_shape(section: DataSection, base: Path, *, labels: bool) -> Shape:
    """The shape of one input, from the head of the training file alone. Raises DataError."""
    name, shape = sample_shape(section.train, base, labels)
    return fit(shape, section.shape, name, "as data.shape says")


def load_dataset(
    section: DataSection,
    base: Path,
    *,
    labels: bool,
    splits: Collection[SplitName] = ("train", "validation", "test"),
) -> Dataset:
    """The training split, and those of `splits` that the section has. Paths start from `base`.

    Targets are class labels if `labels`, else numbers. Raises DataError for files that do not fit the
    section, ConfigError for labels to be standardized.
    """
    if labels and section.standardize_targets:
        raise ConfigError("data.standardize_targets: expected false, since targets are class labels")
    read = _reader(base, labels)
    samples, rows = _take(section, "train", read)
    shape = fit(samples.inputs.shape[1:], section.shape, samples.name, "as data.shape says")
    classes = _classes(section, samples.targets)
    train = _split(samples, rows, shape, classes)
    target_shape = () if train.targets is None else train.targets.shape[1:]

    def other(name: SplitName) -> Split | None:
        if name not in splits or getattr(section, name) is None:
            return None
        samples, rows = _take(section, name, read)
        split = _split(samples, rows, shape, classes)
        found = target_shape if split.targets is None else split.targets.shape[1:]
        if found != target_shape:
            raise DataError(f"{samples.name}: expected targets of shape {target_shape}, as in training, got {found}")
        return split

    shift, factor = np.zeros(1), np.array([1 / section.divide])
    if section.standardize:
        over_all = section.standardize == "all"
        shift, factor = standardizing(train.inputs, train.rows, over_all, constant=1 / section.divide)
    target_shift, target_factor = np.zeros(1), np.ones(1)
    if section.standardize_targets and train.targets is not None:
        target_shift, target_factor = standardizing(train.targets, train.rows)
    return Dataset(
        train=train,
        validation=other("validation"),
        test=other("test"),
        shape=shape,
        target_shape=target_shape,
        classes=classes,
        shift=shift,
        factor=factor,
        target_shift=target_shift,
        target_factor=target_factor,
    )


def load_split(
    section: DataSection, base: Path, name: SplitName, *, shape: Shape, classes: Sequence[str] | None
) -> Split:
    """One split for a trained network with its input `shape` and, if targets are class labels, its `classes`.

    No other file is read. Raises DataError for files that do not fit, ConfigError if there is no such split.
    """
    if getattr(section, name) is None:
        raise ConfigError(f"data.{name}: expected a source, since the {name} split is asked for; the config has none")
    samples, rows = _take(section, name, _reader(base, classes is not None))
    return _split(samples, rows, shape, classes)


def _reader(base: Path, labels: bool) -> Reader:
    """`read_source` that reads a file once, whatever splits and rows are taken from it."""
    whole = functools.cache(lambda source: read_source(source, base, labels))

    @functools.cache
    def read(source: FileSource) -> Samples:
        samples = whole(source.model_copy(update={"rows": None})).part(source.rows)
        samples.check_finite()
        return samples

    return read


def _take(section: DataSection, name: SplitName, read: Reader) -> tuple[Samples, NDArray[np.int64]]:
    """The samples that a split takes its own from, and the rows of these."""
    source = getattr(section, name)
    if name == "train" or isinstance(source, FractionSource):
        samples = read(section.train)
        return samples, held_out(section, len(samples.inputs))[name]
    samples = read(source)
    return samples, np.arange(len(samples.inputs), dtype=np.int64)


def _split(samples: Samples, rows: NDArray[np.int64], shape: Shape, classes: Sequence[str] | None) -> Split:
    fit(samples.inputs.shape[1:], shape, samples.name, "as the network takes")
    inputs, targets = samples.inputs.reshape(-1, *shape), samples.targets
    if isinstance(targets, Labels):
        targets = encode(targets, classes or [])
    elif targets is not None:
        targets = targets.astype(targets.dtype if targets.dtype.kind == "f" else np.float32, copy=False)
        targets = targets.reshape(len(targets), *(targets.shape[1:] or (1,)))
    return Split(_read_only(inputs), None if targets is None else _read_only(targets), rows)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A view that nothing can write to, as memory maps are: Numba would compile anew for any other."""
    view = array.view()
    view.flags.writeable = False
    return view


def _classes(section: DataSection, targets: NDArray[Any] | Labels | None) -> list[str] | None:
    """The names of the classes, None if targets are numbers."""
    if not isinstance(targets, Labels):
        return None
    if isinstance(section.classes, int):
        return [str(label) for label in range(section.classes)]
    return find_classes(targets) if section.classes is None else list(section.classes)
