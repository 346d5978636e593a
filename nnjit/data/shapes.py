"""The shape in which a network takes the samples of a file."""

from __future__ import annotations

import math
from typing import TypeAlias

from nnjit.errors import DataError

Shape: TypeAlias = tuple[int, ...]


def fit(found: Shape, wanted: Shape | None, name: str, why: str) -> Shape:
    """The shape of an input that a file holds in the shape `found`: `wanted` unless that is None.

    Raises DataError, giving `why` it is wanted, if numbers are missing or stand in another order.
    """
    if wanted is None:
        return (1, *found) if len(found) == 2 else found or (1,)
    expected = f"{name}: expected inputs of shape {wanted}, {why}"
    if math.prod(found) != math.prod(wanted):
        raise DataError(f"{expected}: {math.prod(wanted)} numbers, got {math.prod(found)} of shape {found}")
    # From a row to an image and back is reading order; (H, W, C) into (C, H, W) would tear pixels apart.
    if min(len(found), len(wanted)) > 1 and [n for n in found if n > 1] != [n for n in wanted if n > 1]:
        remedy = "store channels first, by np.moveaxis(images, -1, 1)"
        raise DataError(f"{expected}, got {found}, whose axes stand in another order; {remedy}")
    return wanted
