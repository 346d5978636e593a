"""Activations and gradients in lanes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.contraction import Extent, View
from nnjit.kernels.simd import lanes
from nnjit.layers.base import Shape
from nnjit.parameters import aligned_zeros


class Border(NamedTuple):
    """Zeros round each plane of an image: lines before and after, columns before and after; and vectors between
    planes.

    Those after a line, or a plane, are those before the next one as well.
    """

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0
    between: int = 0

    @property
    def zeros(self) -> bool:
        """Whether there are any zeros."""
        return any(self[:4])

    def apart(self, height: int, width: int) -> Border:
        """With an odd number of vectors from plane to plane, where they would share few lines of a cache (1x1 from 64
        maps of 16x16: 66 to 73 % of the peak)."""
        plane = self.plane(height, width)
        return self._replace(between=1) if plane % 16 == 0 and plane >= 64 else self

    def line(self, width: int) -> int:
        """Vectors from one line of `width` entries to the next."""
        return width + max(self.left, self.right)

    def plane(self, height: int, width: int) -> int:
        """Vectors from one plane to the next."""
        return (height + max(self.top, self.bottom)) * self.line(width) + self.between


def axes_in_memory(shape: Shape) -> tuple[int, int, int]:
    """Rows, lines and columns of a sample of `shape`: those of an image; of any other shape, a row for each entry."""
    if len(shape) == 3:
        return shape
    return math.prod(shape), 1, 1


class Space(NamedTuple):
    """An image in memory."""

    shape: Shape
    border: Border
    blocks: int
    """Of samples, or samples if it has its `channels_in_lanes`."""
    channels_in_lanes: bool = False

    def rows(self, width: int) -> Shape:
        """Its shape in vectors of `width` lanes."""
        channels, *sizes = self.shape
        return (-(-channels // width) if self.channels_in_lanes else channels, *sizes)


class Buffer:
    """The values of one layer for a batch: `view` says where entry (block, row, line, column) lies.

    An image (C, H, W) has rows C, lines H and columns W, with a border of zeros that nothing overwrites; a vector (F,),
    and any other shape with F entries, has F rows, one line and one column, and its memory is padded with rows up to a
    whole number of vectors. If it `clears`, other buffers share the memory, so that its border has to be cleared in
    every pass (`site.clear_call`).

    If samples are `apart`, there are too few for a block, and the numbers of each lie side by side: `view` says where
    those of an entry lie in `vectors` (samples, numbers), as if they were vectors.

    An image may have its `channels_in_lanes` instead: then a block is a sample, and a row L channels, of which the last
    row may lack some.
    """

    def __init__(
        self,
        view: View,
        blocks: int,
        shape: Shape,
        *,
        clears: bool = False,
        apart: bool = False,
        channels_in_lanes: bool = False,
    ) -> None:
        self.view = view
        self.blocks = blocks
        self.shape = shape
        self.clears = clears
        self.apart = apart
        self.channels_in_lanes = channels_in_lanes

    @classmethod
    def allocate(cls, blocks: int, shape: Shape, dtype: Any, border: Border = Border()) -> Buffer:  # noqa: B008
        """A buffer of zeros."""
        plan, size = cls._plan(blocks, shape, dtype, border)
        return cls(plan._replace(vectors=aligned_zeros((size, lanes(dtype)), dtype)), blocks, shape)

    @classmethod
    def allocate_apart(cls, samples: int, shape: Shape, dtype: Any, border: Border) -> Buffer:
        """Likewise, for samples that are apart."""
        plan, size = cls._plan(1, shape, dtype, border)
        return cls(plan._replace(vectors=aligned_zeros((samples, size), dtype)), 1, shape, apart=True)

    @classmethod
    def allocate_channels_in_lanes(cls, samples: int, shape: Shape, dtype: Any, border: Border) -> Buffer:
        """A buffer of zeros for images with their channels in lanes."""
        (buffer,) = cls.allocate_in_turns([Space(shape, border, samples, channels_in_lanes=True)], dtype)
        return buffer

    @classmethod
    def allocate_in_turns(cls, spaces: Sequence[Space], dtype: Any) -> list[Buffer]:
        """Buffers of which only neighbours in the row are used at the same time: they share memory, which odd ones take
        from one end and even ones from the other."""
        plans = [cls._plan(space.blocks, space.rows(lanes(dtype)), dtype, space.border) for space in spaces]
        sizes = [size for _, size in plans]
        memory = aligned_zeros((max(map(sum, pairwise([0, *sizes, 0])), default=0), lanes(dtype)), dtype)
        ends = [memory[:size] if k % 2 else memory[len(memory) - size :] for k, size in enumerate(sizes)]
        return [
            cls(
                plan._replace(vectors=vectors),
                space.blocks,
                space.shape,
                clears=space.border.zeros and len(spaces) > 2,
                channels_in_lanes=space.channels_in_lanes,
            )
            for (plan, _), vectors, space in zip(plans, ends, spaces, strict=True)
        ]

    @staticmethod
    def _plan(blocks: int, shape: Shape, dtype: Any, border: Border) -> tuple[View, int]:
        """A buffer's view, but for its memory, and how many vectors that has."""
        width = lanes(dtype)
        rows, height, columns = axes_in_memory(shape)
        line, row = border.line(columns), border.plane(height, columns)
        if len(shape) != 3:
            rows = -(-rows // width) * width
        start = border.top * line + border.left
        last = start + (rows - 1) * row + (height - 1 + border.bottom) * line + columns + border.right
        # Blocks an odd number of vectors apart: at a power of two, those of a dense layer's tile would share one line
        # of each cache.
        block = last | 1
        return View(None, start, block, row, line, 1), blocks * block

    @property
    def extent(self) -> Extent:
        """The sizes that a kernel runs over."""
        rows, height, width = axes_in_memory(self.shape)
        return Extent(self.blocks, -(-rows // self._lanes) if self.channels_in_lanes else rows, height, width)

    @property
    def _lanes(self) -> int:
        """Lanes of a vector, unless samples are apart."""
        return int(self.view.vectors.shape[1])

    @property
    def _samples(self) -> int:
        """How many samples it has space for."""
        if self.apart:
            return len(self.view.vectors)
        return self.blocks if self.channels_in_lanes else self.blocks * self._lanes

    @property
    def scalars(self) -> View:
        """Where the number of (sample, -, line, column) lies, if samples are apart or channels in lanes; what a row
        adds to that, `row_places` says."""
        view, width = self.view, 1 if self.apart else self._lanes
        block = view.vectors.shape[1] if self.apart else view.block
        return View(view.vectors, width * view.start, width * block, 0, width * view.line, width * view.column)

    @property
    def row_run(self) -> int:
        """How many channels in lanes have their numbers side by side, from each multiple of that on; 0 if none do."""
        return math.gcd(self.shape[0], self._lanes) if self.channels_in_lanes else 0

    def row_places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How far from that of the first one the numbers of some rows lie, or channels; of samples in lanes, the
        vectors."""
        if not self.channels_in_lanes:
            return rows * self.view.row
        return rows // self._lanes * (self.view.row * self._lanes) + rows % self._lanes

    @property
    def bordered(self) -> bool:
        """Whether the entries of a sample do not lie side by side."""
        return len(self.shape) == 3 and self.view.row != self.shape[1] * self.shape[2]

    def reshaped(self, shape: Shape) -> Buffer:
        """The same memory for samples of another shape with as many entries; only without a border."""
        assert not self.bordered and math.prod(shape) == math.prod(self.shape)
        _, height, width = axes_in_memory(shape)
        view = self.view._replace(row=height * width, line=width, column=1)
        return Buffer(view, self.blocks, shape, apart=self.apart)

    def blocks_as_columns(self) -> View:
        """The view of a vector buffer in which the blocks are the columns of a single block."""
        return self.view._replace(block=0, column=self.view.block)

    def places(self, samples: int) -> NDArray[np.int64]:
        """Where the entries of the first `samples` samples, in the order of (samples, *shape), lie in the flat
        memory."""
        rows, height, width = axes_in_memory(self.shape)
        s, c, i, j = np.ogrid[:samples, :rows, :height, :width]
        if self.apart or self.channels_in_lanes:
            view = self.scalars
            place = view.start + s * view.block + self.row_places(c) + i * view.line + j * view.column
            return np.asarray(place, dtype=np.int64).reshape(-1)
        view, lanes = self.view, self._lanes
        vector = view.start + s // lanes * view.block + c * view.row + i * view.line + j * view.column
        return np.asarray(vector * lanes + s % lanes, dtype=np.int64).reshape(-1)

    def read(self, samples: int) -> NDArray[Any]:
        """The first `samples` samples as an array (samples, *shape), a copy."""
        if self.channels_in_lanes:
            numbers: NDArray[Any] = self.view.vectors.reshape(-1)[self.places(samples)]
            return numbers.reshape(samples, *self.shape)
        view, size = self.view, self.view.vectors.itemsize
        # How many samples a block has, and how far they and their numbers lie apart.
        width, apart, step = view.vectors.shape[1], 1, view.vectors.shape[1]
        if self.apart:
            (width, apart), step = view.vectors.shape, 1
        shape = (-(-samples // width), width, *self.extent[1:])
        steps = [size * n for n in (step * view.block, apart, step * view.row, step * view.line, step * view.column)]
        # Strides instead of `places`, which takes longer than a small network (20 instead of 2 us).
        entries: NDArray[Any] = np.ndarray(shape, view.vectors.dtype, view.vectors, step * size * view.start, steps)
        return entries[:, :samples].reshape(-1, *self.shape)[:samples].copy()

    def write(self, values: NDArray[Any]) -> None:
        """Set the first len(values) samples from an array (samples, *shape) and the others to zero."""
        memory = self.view.vectors.reshape(-1)
        memory[self.places(self._samples)] = 0
        memory[self.places(len(values))] = values.reshape(-1)
