"""All parameters as one flat vector: its layout, and the arrays of conventional shape that files and people see.

Gradients and optimizer state have vectors of the same layout, so an optimizer step is one pass, a norm one reduction,
and a checkpoint a few slabs. Weights come before biases: weight decay applies to a prefix. Each parameter starts at a
whole vector of lanes. The stored order is what the kernels like best; `unpack` and `pack` translate.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.kernels.simd import VECTOR_BYTES, lanes
from nnjit.layers.base import Parameter

FloatArray = NDArray[Any]


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> FloatArray:
    """Zeros whose memory starts at a whole vector (64 bytes). Raises MemoryError."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > sys.maxsize - VECTOR_BYTES:
        # NumPy, which says so of what is merely larger than memory, calls this a ValueError.
        raise MemoryError(f"Unable to allocate an array with shape {shape} and data type {np.dtype(dtype)}")
    memory = np.zeros(size + VECTOR_BYTES, np.uint8)
    start = -memory.ctypes.data % VECTOR_BYTES
    aligned: FloatArray = memory[start : start + size].view(dtype).reshape(shape)
    return aligned


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """The generator for one use of randomness: (0, parameter) for first values, (1, epoch) for the order of samples.

    Each use has a stream of its own, so a resumed run needs no generator's state, and one use cannot shift another.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


@dataclass(frozen=True)
class Slot:
    """One parameter's place in the flat vector."""

    name: str
    parameter: Parameter
    start: int
    size: int
    """Stored entries, padding included."""


class Layout:
    """Where each parameter lies in the flat vector.

    `names` are `layers.<position in the config>.<parameter>`; `decayed` is the number of leading entries that weight
    decay applies to, a multiple of L.
    """

    def __init__(self, parameters: Sequence[tuple[str, Parameter]], dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self.lanes = lanes(dtype)
        self.slots: dict[str, Slot] = {}
        start = 0
        self.decayed = 0
        for name, parameter in sorted(parameters, key=lambda item: not item[1].decays):
            size = self._stored_size(parameter)
            self.slots[name] = Slot(name, parameter, start, size)
            start += size
            if parameter.decays:
                self.decayed = start
        self.names = [name for name, _ in parameters]
        self.size = start

    def _stored_size(self, parameter: Parameter) -> int:
        if parameter.lane_rows:
            rows, columns = parameter.shape
            return self._whole(rows) * columns
        return self._whole(math.prod(parameter.shape))

    def _whole(self, count: int) -> int:
        """`count` rounded up to whole vectors."""
        return -(-count // self.lanes) * self.lanes

    def zeros(self) -> FloatArray:
        """A flat vector of zeros."""
        return aligned_zeros((self.size,), self.dtype)

    @property
    def vectors(self) -> list[tuple[int, int]]:
        """The first and one after the last vector of each parameter."""
        return [(slot.start // self.lanes, (slot.start + slot.size) // self.lanes) for slot in self.slots.values()]

    def stored(self, flat: FloatArray, name: str) -> FloatArray:
        """The stored entries of one parameter, a view of `flat`."""
        slot = self.slots[name]
        return flat[slot.start : slot.start + slot.size]

    def indices(self, name: str) -> NDArray[np.int64]:
        """The position in the flat vector of every entry of a parameter, in the parameter's conventional shape."""
        slot = self.slots[name]
        shape = slot.parameter.shape
        if not slot.parameter.lane_rows:
            return slot.start + np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
        row, column = np.indices(shape, dtype=np.int64)
        group, lane = np.divmod(row, self.lanes)
        return np.asarray(slot.start + (group * shape[1] + column) * self.lanes + lane)

    def unpack(self, flat: FloatArray) -> dict[str, FloatArray]:
        """The parameters as arrays of conventional shape, copies, in the order of the layers."""
        return {name: flat[self.indices(name)] for name in self.names}

    def pack(self, arrays: Mapping[str, FloatArray], flat: FloatArray) -> None:
        """Write arrays of conventional shape into `flat`, and zeros into its padding.

        Raises ValueError when a name is missing or unknown, or a shape is not the parameter's.
        """
        missing = [name for name in self.names if name not in arrays]
        unknown = [name for name in arrays if name not in self.slots]
        if missing or unknown:
            raise ValueError(f"expected the parameters {self.names}, missing {missing}, unknown {unknown}")
        flat[:] = 0
        for name in self.names:
            indices = self.indices(name)
            if arrays[name].shape != indices.shape:
                raise ValueError(f"{name}: expected shape {indices.shape}, got {arrays[name].shape}")
            flat[indices] = arrays[name]

    def draw(self, seed: int) -> FloatArray:
        """A flat vector of initial values; each parameter has a stream of its own."""
        flat = self.zeros()
        for position, name in enumerate(self.names):
            parameter = self.slots[name].parameter
            rng = random_stream(seed, 0, position)
            values = parameter.initializer.draw(rng, parameter.shape, parameter.fan_in, parameter.fan_out)
            flat[self.indices(name)] = values
        return flat

    @property
    def count(self) -> int:
        """The number of parameters, padding not counted."""
        return sum(math.prod(slot.parameter.shape) for slot in self.slots.values())
