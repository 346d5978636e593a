"""Arrays as blocks of a document: small ones in full, large ones as statistics and a part."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import product

import numpy as np

from nnjit.explain.document import Block, Matrix, Paragraph
from nnjit.explain.evaluate import Defined
from nnjit.explain.figures import figure
from nnjit.explain.formula import Formula, Names
from nnjit.explain.passes import Array

COLUMNS, ROWS, PLANES = 12, 16, 8
"""What is shown in full: that many columns, rows, and matrices."""
PART = 5
"""Columns and rows of the part that is shown of others."""


def numbers(name: str, array: Array | Defined, names: Names) -> Iterator[Block]:
    """The blocks that show an array."""
    shape = array.shape
    if _fits(shape):
        values = array.read(shape) if isinstance(array, Defined) else array
        for plane in np.ndindex(shape[:-2]):
            yield Matrix(entry_at(name, plane, names), _figures(values[plane]))
        return
    whole = entry_at(name, (), names)
    centre: tuple[int, ...] = tuple(size // 2 for size in shape)
    if isinstance(array, Defined):
        # Its formula is evaluated entry by entry, which statistics are not worth.
        said = "A part of it:"
    elif (array == array.flat[0]).all():
        yield Paragraph(
            (whole, f" has the shape {_by(shape)}; all its {array.size:,} numbers are {figure(float(array.flat[0]))}.")
        )
        return
    else:
        centre = tuple(int(k) for k in np.unravel_index(int(np.abs(array).argmax()), shape))
        said = f"{_statistics(array)} Round the largest:"
    yield Paragraph((whole, f" has the shape {_by(shape)}. {said}"))
    runs = [range(k, k + 1) for k in centre[:-2]]
    runs += [_around(k, size) for k, size in zip(centre[-2:], shape[-2:], strict=True)]
    values = np.array([float(array[place]) for place in product(*runs)]).reshape([len(run) for run in runs[-2:]])
    label = [run.start if len(run) == 1 else f"{run.start}…{run.stop - 1}" for run in runs]
    yield Matrix(entry_at(name, tuple(label), names), _figures(values))


def entry_at(name: str, place: tuple[int | str, ...], names: Names) -> Formula:
    """An entry, or a part of an array, as a formula."""
    array = ast.Name(name)
    indices: list[ast.expr] = [ast.Constant(k) if isinstance(k, int) else ast.Name(k) for k in place]
    return Formula((ast.Subscript(array, ast.Tuple(indices)) if place else array,), names)


def _fits(shape: tuple[int, ...]) -> bool:
    planes = int(np.prod(shape[:-2]))
    return shape[-1] <= COLUMNS and (len(shape) < 2 or shape[-2] <= ROWS) and planes <= PLANES


def _figures(values: Array) -> list[list[str]]:
    return [[figure(float(value)) for value in row] for row in np.atleast_2d(values)]


def _around(centre: int, size: int) -> range:
    first = max(0, min(centre - PART // 2, size - PART))
    return range(first, min(first + PART, size))


def _statistics(array: Array) -> str:
    with np.errstate(over="ignore", invalid="ignore"):  # squares of what is very large are infinite
        found = {"least": array.min(), "largest": array.max(), "mean": array.mean(), "standard deviation": array.std()}
    said = ", ".join(f"{name} {figure(float(value))}" for name, value in found.items())
    return f"Of its {array.size:,} numbers {np.count_nonzero(array == 0):,} are 0; {said}."


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
