"""The kernel calls of max pooling: for its layer, and for layers that apply it to their own output."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.buffers import Buffer
from nnjit.kernels.activations import Epilogue
from nnjit.kernels.contraction import View
from nnjit.kernels.pooling import Window, max_pool_backward, max_pool_forward
from nnjit.kernels.program import Call


def pairs(height: int, width: int) -> Window:
    """2x2 windows side by side over planes of height x width."""
    return Window(height, width, 2, 2, 2, 2, 0, 0)


def winners_for(out: Buffer, window: Window) -> NDArray[Any]:
    """Memory for which entry of its window each entry of `out` is: (entries, L)."""
    extent = out.extent
    entries = extent.blocks * extent.rows * extent.lines * extent.columns
    largest = window.kernel_height * window.kernel_width - 1
    return np.zeros((entries, out.view.vectors.shape[1]), np.min_scalar_type(largest))


def decision(winners: NDArray[Any], out: Buffer) -> Buffer:
    """The winners as a buffer like `out`."""
    _, rows, lines, columns = out.extent
    view = View(winners, 0, rows * lines * columns, lines * columns, columns, 1)
    return Buffer(view, out.blocks, out.shape, channels_in_lanes=out.channels_in_lanes)


def pool_call(window: Window, x: Buffer, out: Buffer, winners: NDArray[Any]) -> Call:
    """The call that fills `out` and `winners` with the largest entries of x's windows."""
    extent = out.extent
    arguments = (extent, window, x.view, out.view, winners)
    return Call(max_pool_forward, extent.blocks * extent.lines, arguments, _work(window, winners))


def unpool_call(
    window: Window, dout: Buffer, winners: NDArray[Any], dx: Buffer, epilogue: Epilogue, out: Buffer
) -> Call:
    """The call that sends `dout`, times the derivative `epilogue` at `out`, back to the winners: it fills `dx`."""
    # Lines as forwards, if each line of x is in one line of windows alone; else planes.
    extent = dout.extent
    apart = window.step_down >= window.kernel_height
    planes, bands = (extent.rows, extent.lines) if apart else (1, 1)
    arguments = (extent, window, planes, bands, dout.view, winners, dx.view, epilogue, out.view)
    tasks = extent.blocks * -(-extent.rows // planes) * bands
    return Call(max_pool_backward, tasks, arguments, _work(window, winners))


def _work(window: Window, winners: NDArray[Any]) -> int:
    return 12 * winners.size * window.kernel_height * window.kernel_width
