"""Activation functions on vectors: alone, and as the last touch of the kernel that computes their input.

An `Epilogue` in the arguments of a kernel selects what is done to each vector before it is stored: nothing, an
activation, or the product with an activation's derivative. Every derivative is a function of the activation's output y
alone, so that no input is kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from numba.extending import overload

from nnjit.kernels import lane_math
from nnjit.kernels.compiler import kernel, subroutine
from nnjit.kernels.constants import constant
from nnjit.kernels.simd import full, load, store, where


@subroutine
def relu(v):
    """max(v, 0); NaN stays NaN."""
    return where(v < 0.0, full(v, 0.0), v)


@subroutine
def relu_backward(d, y):
    """d where y > 0, else 0."""
    return where(y > 0.0, d, full(d, 0.0))


@subroutine
def sigmoid_backward(d, y):
    """d * y * (1 - y)."""
    return d * (y * (1.0 - y))


@subroutine
def tanh_backward(d, y):
    """d * (1 - y**2)."""
    return d * (1.0 - y * y)


class Function(NamedTuple):
    """An activation's formula on a vector, and its backward formula from (gradient of the output, output)."""

    forward: Callable[[Any], Any]
    backward: Callable[[Any, Any], Any]
    kinked: bool = False
    """Whether the derivative jumps at 0."""


FUNCTIONS = {
    "relu": Function(relu, relu_backward, kinked=True),
    "sigmoid": Function(lane_math.sigmoid, sigmoid_backward),
    "tanh": Function(lane_math.tanh, tanh_backward),
}


@constant
@dataclass(frozen=True)
class Epilogue:
    """What is done to a result before it is stored: `function` names an entry of FUNCTIONS, or is empty for nothing."""

    function: str = ""
    backward: bool = False
    """The product with the derivative, instead of the function."""

    @property
    def empty(self) -> bool:
        """Whether nothing is done."""
        return not self.function

    @property
    def short(self) -> bool:
        """Whether it takes a few instructions, so that a tile can hold one for each of its vectors."""
        return self.backward or self.function in ("", "relu")


def finish(epilogue, v, y, at):
    """The epilogue's result for the vector v; y (vectors, L) holds the activation's output at index `at`."""
    if not epilogue.function:
        return v
    function = FUNCTIONS[epilogue.function]
    return function.backward(v, load(y, at)) if epilogue.backward else function.forward(v)


@overload(finish)
def _finish(epilogue, v, y, at):
    if not epilogue.value.function:
        return lambda epilogue, v, y, at: v
    forward, backward, _ = FUNCTIONS[epilogue.value.function]
    if epilogue.value.backward:
        return lambda epilogue, v, y, at: backward(v, load(y, at))
    return lambda epilogue, v, y, at: forward(v)


@kernel
def apply(task, extent, epilogue, x, out, y):
    """out[n, c, i, j] = epilogue(x[n, c, i, j], y[n, c, i, j])

    x, out, y View (N, C, I, J), out fully overwritten; x and out may be the same memory
    A task owns a plane (n, c).
    """
    block = task // extent.rows
    row = task % extent.rows
    x_plane = x.start + block * x.block + row * x.row
    out_plane = out.start + block * out.block + row * out.row
    y_plane = y.start + block * y.block + row * y.row
    for i in range(extent.lines):
        for j in range(extent.columns):
            value = load(x.vectors, x_plane + i * x.line + j * x.column)
            value = finish(epilogue, value, y.vectors, y_plane + i * y.line + j * y.column)
            store(out.vectors, out_plane + i * out.line + j * out.column, value)
