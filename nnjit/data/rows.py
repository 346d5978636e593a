"""An array that grows row by row: in memory up to a budget, beyond it in a memory-mapped file."""

from __future__ import annotations

import os
import tempfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nnjit.errors import NnjitError


def memory_budget() -> int:
    """Bytes that a table may take in memory: a quarter of the machine's; 1 GiB if that is unknown."""
    if not hasattr(os, "sysconf"):
        return 1 << 30
    return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES")) // 4


class GrowingArray:
    """Blocks of rows that become one float32 array."""

    def __init__(self, width: int, budget: int) -> None:
        self._width = width
        self._budget = budget
        self._rows = 0
        self._blocks: list[NDArray[np.float32]] = []
        self._file: IO[bytes] | None = None

    def append(self, block: NDArray[np.float32]) -> None:
        """Add the rows of `block` (n, width). Raises NnjitError if the temporary folder is full."""
        self._rows += len(block)
        self._blocks.append(block)
        if self._rows * self._width * 4 > self._budget:
            self._spill()

    def _spill(self) -> None:
        """Move the blocks to a file without a name, which vanishes with the process."""
        try:
            self._file = self._file or tempfile.TemporaryFile(prefix="nnjit-")
            for block in self._blocks:
                self._file.write(np.ascontiguousarray(block).data)
            self._file.flush()
        except OSError as error:
            folder = tempfile.gettempdir()
            raise NnjitError(
                f"{folder}: {error.strerror}; a table larger than a quarter of the memory is kept there, "
                "set TMPDIR to a folder with more space"
            ) from error
        self._blocks.clear()

    def finish(self) -> NDArray[Any]:
        """All rows, (N, width); nothing can be appended afterwards."""
        shape = (self._rows, self._width)
        if self._file is None:
            return np.concatenate(self._blocks) if self._blocks else np.empty(shape, np.float32)
        with self._file as file:
            return np.asarray(np.memmap(file, np.float32, "r", shape=shape))
