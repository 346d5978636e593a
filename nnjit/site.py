"""What a layer is given when it is bound: its buffers and parameters, and the lists that its kernel calls go to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from nnjit.buffers import Buffer
from nnjit.kernels.activations import Epilogue, apply
from nnjit.kernels.batches import apart_tasks, channels_apart, channels_of_lanes, lanes_of_channels, samples_apart
from nnjit.kernels.borders import clear_border, clear_planes
from nnjit.kernels.contraction import View
from nnjit.kernels.program import Call
from nnjit.kernels.simd import lanes
from nnjit.kernels.threads import get_threads
from nnjit.kernels.tiles import TileShape
from nnjit.parameters import aligned_zeros


class Workspace:
    """Memory that means nothing before and after a pass of a layer; all calls of a network share it.

    What is asked for first should be the largest: memory that is outgrown stays with the calls that have it.
    """

    def __init__(self, dtype: Any) -> None:
        self._dtype = dtype
        self._by_thread = aligned_zeros((get_threads(), 0, lanes(dtype)), dtype)
        self._passed_on = aligned_zeros((0,), dtype)
        self._beside = aligned_zeros((0,), dtype)

    def by_thread(self, vectors: int) -> NDArray[Any]:
        """At least `vectors` vectors that a kernel scribbles on, for every thread: (threads, vectors, L)."""
        threads, available, width = self._by_thread.shape
        if vectors > available:
            # An odd number keeps the threads' parts from falling on the same lines of a cache.
            self._by_thread = aligned_zeros((threads, vectors * 5 // 4 | 1, width), self._dtype)
        return self._by_thread

    def passed_on(self, *shape: int) -> NDArray[Any]:
        """An array that one call fills for the next ones of the same pass: only one of them at a time."""
        size = math.prod(shape)
        if size > len(self._passed_on):
            self._passed_on = aligned_zeros((size,), self._dtype)
        return self._passed_on[:size].reshape(shape)

    def beside(self, *shape: int) -> NDArray[Any]:
        """A second one."""
        size = math.prod(shape)
        if size > len(self._beside):
            self._beside = aligned_zeros((size,), self._dtype)
        return self._beside[:size].reshape(shape)


@dataclass
class Site:
    """One layer's place in a network that is bound to a batch size.

    A layer reads `x` and writes `out`; where `dout` is there, it writes the gradients of its parameters, and `dx` where
    that is there. `epilogue` is the activation that follows, if the layer applies it (`Layer.applies_activation`);
    `winners` are for the maximum of 2x2 windows that follows then, if the layer applies that
    (`Layer.applies_pooling`): `out` is smaller than what the layer computes. `dout` is the gradient before both.
    `dx_epilogue` is the backward form of the activation that made x, for layers that apply it
    (`Layer.applies_derivative`); then `dx` is the gradient before that activation.
    """

    x: Buffer
    out: Buffer
    dx: Buffer | None
    dout: Buffer | None
    batch_size: int
    workspace: Workspace
    parameters: Mapping[str, NDArray[Any]]
    """Each parameter's stored entries, flat."""
    gradients: Mapping[str, NDArray[Any]]
    """Likewise; every entry is overwritten in each backward pass."""
    epilogue: Epilogue = Epilogue()
    dx_epilogue: Epilogue = Epilogue()
    winners: NDArray[Any] | None = None
    """(entries of out, L): which entry of its window each is, for the layer to fill."""
    fixed: bool = False
    """Whether the parameters stay as they are, so that what follows from them alone is computed once."""
    preparation: list[Call] = field(default_factory=list)
    """The calls that do so."""
    forward: list[Call] = field(default_factory=list)
    backward_output: list[Call] = field(default_factory=list)
    """From the gradient that the stages after this one leave to `dout`, for the network to fill: zeros in the border of
    shared memory, the derivative of `epilogue` where no layer after this one applies it, the way back through the
    pooling."""
    backward_parameters: list[Call] = field(default_factory=list)
    backward_input: list[Call] = field(default_factory=list)
    decisions: list[Buffer] = field(default_factory=list)
    """What the forward pass fills with the branch that each entry took (the winner of a maximum)."""

    @property
    def dtype(self) -> Any:
        """The dtype of every buffer and parameter."""
        return self.x.view.vectors.dtype

    @property
    def lanes(self) -> int:
        """Samples in a block."""
        return lanes(self.dtype)


def clear_call(buffer: Buffer) -> Call:
    """The call that fills the border of an image with zeros."""
    extent, view = buffer.extent, buffer.view
    planes = extent.blocks * extent.rows
    work = 8 * (view.vectors.size - planes * extent.lines * extent.columns * view.vectors.shape[1])
    return Call(clear_border, planes, (extent, view), work)


def apart_call(site: Site, x: View, samples: int) -> tuple[Call, View]:
    """The call that takes samples out of the lanes of the block where x starts, into memory that means nothing later,
    and x as the view of what it leaves there."""
    block = x.start // x.block * x.block
    vectors, apart = x.vectors[block : block + x.block], site.workspace.beside(samples, x.block)
    taking = (TileShape(1, 1, samples=samples), vectors, apart)
    call = Call(samples_apart, apart_tasks(x.block), taking, 5 * vectors.size)
    return call, x._replace(vectors=apart, start=x.start - block)


def zeros_call(buffer: Buffer, first: int, blocks: int) -> Call:
    """The call that fills some blocks of an image with zeros, and their border."""
    view = buffer.view
    whole = view._replace(vectors=view.vectors[first * view.block : (first + blocks) * view.block])
    extent = buffer.extent._replace(blocks=blocks)
    return Call(clear_planes, blocks * extent.rows, (extent, whole), 2 * whole.vectors.size)


def apply_call(epilogue: Epilogue, x: Buffer, out: Buffer, y: Buffer) -> Call:
    """The call that writes epilogue(x, y) to `out`, entry by entry; x and out may be the same buffer."""
    extent = x.extent
    planes = extent.blocks * extent.rows
    work = 8 * planes * extent.lines * extent.columns * x.view.vectors.shape[1]
    return Call(apply, planes, (extent, epilogue, x.view, out.view, y.view), work)


def from_channels_call(x: Buffer, out: Buffer) -> Call:
    """The call that brings images with their channels in lanes to where samples are in lanes, or apart."""
    tile, extent = TileShape(1, 1, samples=x.blocks), out.extent._replace(blocks=1)
    kernel = channels_apart if out.apart else lanes_of_channels
    tasks = x.extent.rows * extent.lines
    return Call(kernel, tasks, (tile, extent, x.view, out.view), 5 * out.view.vectors.size)


def to_channels_call(x: Buffer, out: Buffer) -> Call:
    """The call that brings images with samples in lanes to where their channels are."""
    tile, extent = TileShape(1, 1, samples=out.blocks), x.extent._replace(blocks=1)
    tasks = out.extent.rows * extent.lines
    return Call(channels_of_lanes, tasks, (tile, extent, x.view, out.view), 20 * out.view.vectors.size)
