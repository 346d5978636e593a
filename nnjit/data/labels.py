"""Class labels: from what a file spells ('7', '7.0', 'seven') to numbers from 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.errors import DataError

MOST_CLASSES = 1 << 16
"""More classes than this are taken for a target that is no label."""


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of N samples as the file spells them."""

    codes: NDArray[np.int32]
    """(N,) index of each sample's spelling."""
    spellings: list[str]
    place: Callable[[int], str]
    """Where a sample's label stands, for messages."""

    def part(self, start: int, stop: int) -> Labels:
        """The labels of the samples from `start` up to `stop`."""
        kept, codes = np.unique(self.codes[start:stop], return_inverse=True)
        spellings = [self.spellings[code] for code in kept]
        return Labels(codes.astype(np.int32), spellings, lambda row: self.place(start + row))

    def where(self, code: int) -> str:
        """The place of the first sample with the spelling `code`."""
        return self.place(int(np.argmax(self.codes == code)))


def labels_of(array: NDArray[Any], name: str) -> Labels:
    """The labels in an array (N,) or (N, 1) of numbers or text. Raises DataError for any other shape."""
    if array.size != len(array):
        raise DataError(f"{name}: expected one class label per sample, shape ({len(array)},), got {array.shape}")
    values, codes = np.unique(array, return_inverse=True)
    spellings = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values.tolist()]
    return Labels(codes.reshape(-1).astype(np.int32), spellings, lambda i: f"{name}: row {i} (from 0)")


def _as_number(spelling: str) -> float | None:
    try:
        return float(spelling)
    except ValueError:
        return None


def find_classes(labels: Labels) -> list[str]:
    """The names of the classes among `labels`: '0', '1', ... up to the largest number, or all texts, sorted.

    Raises DataError for what cannot be a label: nothing, a fraction, or text beside numbers.
    """
    numbers = [_as_number(spelling) for spelling in labels.spellings]
    texts = all(number is None for number in numbers)
    for code, (spelling, number) in enumerate(zip(labels.spellings, numbers, strict=True)):
        if not spelling or (number is None and not texts):
            remedy = "if it is the header, set `header: true`; if it is a class, name all in `classes`"
        elif number is not None and not number.is_integer():
            remedy = "targets that are no labels need a loss for regression"
        else:
            continue
        raise DataError(f"{labels.where(code)}: expected a class label, got {spelling!r}; {remedy}")
    if texts:
        return sorted(labels.spellings)
    largest = max(int(number) for number in numbers if number is not None)
    return [str(label) for label in range(min(max(largest, 0) + 1, MOST_CLASSES))]


def encode(labels: Labels, classes: Sequence[str]) -> NDArray[np.int32]:
    """(N,) index of each sample's class in `classes`.

    A label is matched by its spelling; a number also by its value, which is the index itself if no class has
    a number for a name. Raises DataError for a label that is none of the classes.
    """
    index = {name: i for i, name in enumerate(classes)}
    if not any(name.isdecimal() for name in classes):
        index |= {str(i): i for i in range(len(classes))}
    found = [index.get(spelling, index.get(_canonical(spelling), -1)) for spelling in labels.spellings]
    if -1 in found:
        code = found.index(-1)
        raise DataError(
            f"{labels.where(code)}: expected {_choices(classes)}, got {labels.spellings[code]!r}; "
            "correct the file or data.classes"
        )
    return np.array(found, np.int32)[labels.codes]


def _canonical(spelling: str) -> str:
    """'3' for '3.0' and '3.000e+00', other spellings unchanged."""
    number = _as_number(spelling)
    return str(int(number)) if number is not None and number.is_integer() else spelling


def _choices(classes: Sequence[str]) -> str:
    if list(classes) == [str(i) for i in range(len(classes))]:
        return f"a label from 0 to {len(classes) - 1}"
    shown = ", ".join(map(repr, classes[:10])) + (", ..." if len(classes) > 10 else "")
    return f"one of the classes {shown}"
