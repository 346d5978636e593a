"""Which training samples `{fraction: ...}` holds out for validation and test."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnjit.data.section import DataSection, FractionSource
from nnjit.errors import DataError

SplitName: TypeAlias = Literal["train", "validation", "test"]


def held_out(section: DataSection, count: int) -> dict[SplitName, NDArray[np.int64]]:
    """The rows of each split that is made from `count` training samples, ascending; no row is in two of them.

    The test split takes its share first, so that it stays the same whatever happens to validation.
    Raises DataError if a split would be empty.
    """
    free = np.arange(count, dtype=np.int64)
    parts: dict[SplitName, NDArray[np.int64]] = {}
    names: tuple[SplitName, SplitName] = ("test", "validation")
    for name in names:
        source = getattr(section, name)
        if not isinstance(source, FractionSource):
            continue
        wanted = round(source.fraction * count)
        if not 0 < wanted < len(free):
            raise DataError(
                f"data.{name}: expected a fraction that takes 1 to {len(free) - 1} of {count} samples, "
                f"got {source.fraction}, which takes {wanted}"
            )
        # Every release of NumPy draws the same raw words from a bit generator; its permutations may change.
        order = np.random.PCG64(source.seed).random_raw(count)[free].argsort(kind="stable")
        parts[name] = np.sort(free[order[:wanted]])
        free = np.sort(free[order[wanted:]])
    parts["train"] = free
    return parts
