"""Softmax as a layer: a distribution from a vector of scores."""

from __future__ import annotations

from nnjit.kernels.compiler import kernel
from nnjit.kernels.lane_math import exp
from nnjit.kernels.simd import fma, full, load, maximum, store


@kernel
def softmax_forward(task, extent, x, out):
    """out[n, f] = exp(x[n, f] - m) / sum over g of exp(x[n, g] - m), m = max over g of x[n, g] so that exp cannot
    overflow

    x, out View (N, F), out fully overwritten
    A task owns a block.
    """
    x_first = x.start + task * x.block
    out_first = out.start + task * out.block
    top = load(x.vectors, x_first)
    for f in range(1, extent.rows):
        top = maximum(load(x.vectors, x_first + f * x.row), top)
    total = full(top, 0.0)
    for f in range(extent.rows):
        power = exp(load(x.vectors, x_first + f * x.row) - top)
        total = total + power
        store(out.vectors, out_first + f * out.row, power)
    for f in range(extent.rows):
        at = out_first + f * out.row
        store(out.vectors, at, load(out.vectors, at) / total)


@kernel
def softmax_backward(task, extent, dout, out, dx):
    """dx[n, f] = out[n, f] * (dout[n, f] - sum over g of dout[n, g] * out[n, g])

    dout, out, dx View (N, F), dx fully overwritten
    A task owns a block.
    """
    dout_first = dout.start + task * dout.block
    out_first = out.start + task * out.block
    dx_first = dx.start + task * dx.block
    inner = full(out.vectors, 0.0)
    for f in range(extent.rows):
        inner = fma(load(dout.vectors, dout_first + f * dout.row), load(out.vectors, out_first + f * out.row), inner)
    for f in range(extent.rows):
        d = load(dout.vectors, dout_first + f * dout.row) - inner
        store(dx.vectors, dx_first + f * dx.row, load(out.vectors, out_first + f * out.row) * d)
