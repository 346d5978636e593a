"""Inputs without targets as a stream of blocks, for predictions from a file or a pipe of any length."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from nnjit.data.arrays import check_finite, is_array, native, read_header
from nnjit.data.files import STANDARD_INPUT, open_binary, reading, shown, unzipped
from nnjit.data.section import CsvSource
from nnjit.data.shapes import Shape, fit
from nnjit.data.table import Table, open_table
from nnjit.errors import DataError


def read_inputs(
    source: str | Path,
    shape: Shape,
    *,
    header: Literal["auto", True, False] = "auto",
    block_rows: int = 1024,
) -> Iterator[NDArray[Any]]:
    """Blocks (n, *shape), n <= `block_rows`, of a CSV table without targets, or of a .npy or IDX file.

    The file may be gzipped; `-` is standard input. A CSV gives float32, other files their own dtype.
    Raises DataError, when it comes to the block that is wrong.
    """
    name = shown(Path(source))
    with _opened(Path(source)) as stream:
        if is_array(stream):
            yield from _array_blocks(stream, name, shape, block_rows)
            return
        columns = CsvSource(file=str(source), target=None, header=header)
        with open_table(stream, name, columns, labels=False, configured=False) as table:
            yield from _table_blocks(table, shape, block_rows)


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """Like `open_binary`, but standard input is read as it comes instead of being kept."""
    if path != STANDARD_INPUT:
        with open_binary(path) as stream:
            yield stream
        return
    given = sys.stdin.buffer
    buffered = given if isinstance(given, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, given))
    with reading(shown(path)):
        yield unzipped(buffered)


def _table_blocks(table: Table, shape: Shape, block_rows: int) -> Iterator[NDArray[Any]]:
    expected, got = math.prod(shape), len(table.layout.inputs)
    if got != expected:
        remedy = "; leave the target column out" if got == expected + 1 else ""
        columns = f"{expected} columns for inputs of shape {shape}"
        raise DataError(f"{table.layout.name}:1: expected {columns}, got {got}{remedy}")
    for numbers, _ in table.blocks(rows=block_rows):
        yield numbers.reshape(-1, *shape)


def _array_blocks(stream: io.BufferedReader, name: str, shape: Shape, block_rows: int) -> Iterator[NDArray[Any]]:
    header = read_header(stream, name)
    header.check_numbers(name)
    fit(header.shape[1:], shape, name, "as the network takes")
    count = header.shape[0]
    # Rows of a Fortran array are complete only with its last number.
    step = count if header.fortran else block_rows
    order: Any = "F" if header.fortran else "C"
    for start in range(0, count, step):
        rows = min(step, count - start)
        data = stream.read(header.size // count * rows)
        if len(data) < header.size // count * rows:
            header.check_size(name, header.size // count * start + len(data))
        block = np.frombuffer(data, header.dtype).reshape(rows, *header.shape[1:], order=order)
        check_finite(block, name, start)
        yield native(block).reshape(-1, *shape)
    header.check_size(name, header.size + len(stream.read()))
