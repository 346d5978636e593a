"""One source of a config's `data:` section as inputs and targets, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.data.arrays import ArrayFile, check_finite, npz_array
from nnjit.data.files import locate, shown
from nnjit.data.labels import Labels, labels_of
from nnjit.data.section import ArraysSource, CsvSource, FileSource, NpzSource
from nnjit.data.table import input_width, read_table
from nnjit.errors import DataError


@dataclass(frozen=True, eq=False)
class Samples:
    """N samples of a source, as its files hold them."""

    name: str
    inputs: NDArray[Any]
    """(N, ...) numbers."""
    targets: NDArray[Any] | Labels | None
    """(N, ...) numbers, or N labels, or None."""
    targets_name: str = ""
    """How messages name the file of the targets, if it is another."""
    first: int = 0
    """Row of the first sample in the files."""

    def part(self, rows: tuple[int, int] | None) -> Samples:
        """The samples from `rows[0]` up to `rows[1]`, or all for None. Raises DataError if some lack."""
        if rows is None:
            return self
        start, stop = rows
        if stop > len(self.inputs):
            raise DataError(f"{self.name}: expected at least {stop} samples for rows {[*rows]}, got {len(self.inputs)}")
        targets = self.targets
        if targets is not None:
            targets = targets.part(start, stop) if isinstance(targets, Labels) else targets[start:stop]
        return replace(self, inputs=self.inputs[start:stop], targets=targets, first=start)

    def check_finite(self) -> None:
        """Raise DataError, with row and entry, if a number is NaN or infinite."""
        check_finite(self.inputs, self.name, self.first)
        if isinstance(self.targets, np.ndarray):
            check_finite(self.targets, self.targets_name, self.first)


def read_source(source: FileSource, base: Path, labels: bool) -> Samples:
    """All samples of the files of `source`, whose `rows` are not looked at. Raises DataError.

    Paths start from `base`. Targets are read as class labels if `labels`.
    """
    if isinstance(source, CsvSource):
        path = locate(base, source.file)
        samples = Samples(shown(path), *read_table(path, source, labels))
    else:
        samples = _read_arrays(*_array_files(source, base), labels)
    if not len(samples.inputs):
        raise DataError(f"{samples.name}: expected at least one sample, got a header alone")
    return samples


def sample_shape(source: FileSource, base: Path, labels: bool) -> tuple[str, tuple[int, ...]]:
    """How messages name the file of the inputs, and the shape of one of them.

    Nothing but the file's first line or header is read. Raises DataError.
    """
    if isinstance(source, CsvSource):
        path = locate(base, source.file)
        return shown(path), (input_width(path, source, labels),)
    inputs, _ = _array_files(source, base)
    return inputs.name, inputs.header().shape[1:]


def _array_files(source: NpzSource | ArraysSource, base: Path) -> tuple[ArrayFile, ArrayFile | None]:
    """The arrays of inputs and, if the source has them, of targets."""
    if isinstance(source, ArraysSource):
        targets = None if source.targets is None else ArrayFile(locate(base, source.targets))
        return ArrayFile(locate(base, source.inputs)), targets
    path = locate(base, source.file)
    inputs = npz_array(path, source.inputs, ("inputs", "x"))
    if inputs is None:
        raise DataError(f"{shown(path)}: expected an array 'inputs' or 'x', got neither; name it with `inputs:`")
    return inputs, npz_array(path, source.targets, ("targets", "y"))


def _read_arrays(inputs: ArrayFile, targets: ArrayFile | None, labels: bool) -> Samples:
    inputs.header().check_numbers(inputs.name)
    values = inputs.read()
    if targets is None:
        return Samples(inputs.name, values, None)
    found = targets.read()
    if len(found) != len(values):
        raise DataError(f"{targets.name}: expected {len(values)} targets, one per input, got {len(found)}")
    if labels:
        return Samples(inputs.name, values, labels_of(found, targets.name))
    targets.header().check_numbers(targets.name)
    return Samples(inputs.name, values, found, targets.name)
