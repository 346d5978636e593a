"""What layers, losses and optimizers say of themselves for `nnjit explain`: their formulas, with their own numbers.

A formula is written in the notation of `nnjit.explain.formula`, with the names that the code has: `x`, `out`, the
parameters' names, and `dNAME` for the gradient of the cost with respect to NAME. What is printed is also evaluated, so
a formula that does not give the kernels' numbers is found.
"""

from __future__ import annotations

from typing import NamedTuple


class Equation(NamedTuple):
    """One formula; its left side is an array's entry, such as `out[f]`, or one number."""

    text: str
    says: str = ""
    """A sentence that goes before it; formulas in it stand between dollar signs."""
    shape: tuple[int, ...] | None = None
    """Of the left side, where that is an array of the formula's own."""


class Equations(NamedTuple):
    """The formulas of a layer or loss, in the order in which they are explained."""

    forward: tuple[Equation, ...]
    backward: tuple[Equation, ...]
    size: str = ""
    """Why the output has its size, in the same form as `Equation.says`."""


def indices(shape: tuple[int, ...]) -> list[str]:
    """The names of the indices of an entry: those of a vector, of a matrix, of an image, or numbered ones."""
    usual = {1: ["f"], 2: ["i", "j"], 3: ["c", "i", "j"]}
    return usual.get(len(shape)) or [f"i{axis}" for axis in range(len(shape))]


def entry_of(shape: tuple[int, ...]) -> str:
    """The indices of an entry as they stand after an array's name: `[f]` or `[c, i, j]`."""
    return f"[{', '.join(indices(shape))}]"


def over(shape: tuple[int, ...]) -> str:
    """The indices of `shape` as a sum runs over them: `f=7` or `c=2, i=3, j=5`."""
    return ", ".join(f"{index}={size}" for index, size in zip(indices(shape), shape, strict=True))
