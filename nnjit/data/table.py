"""CSV tables: blocks of lines are parsed at once; a block that fails is searched for the cell at fault."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnjit.data.arrays import FLOAT32_MAX
from nnjit.data.files import open_binary, shown
from nnjit.data.labels import Labels
from nnjit.data.rows import GrowingArray, memory_budget
from nnjit.data.section import Column, CsvSource
from nnjit.errors import DataError

BLOCK_NUMBERS = 1 << 20


@dataclass(frozen=True)
class Layout:
    """What the first line of a table says."""

    name: str
    delimiter: str
    columns: list[str]
    """How messages name each column."""
    first_line: int
    """Line of the first sample: 2 below a header, else 1."""
    inputs: list[int]
    targets: list[int]

    def fault(self, lines: list[str], first: int, text: int | None) -> DataError:
        """What is wrong with `lines` that could not be parsed; `first` is the number of the first."""
        for number, line in enumerate(lines, first):
            where = f"{self.name}:{number}"
            cells = _cells(line, self.delimiter, where)
            if len(cells) != len(self.columns):
                return DataError(f"{where}: expected {len(self.columns)} columns, got {len(cells)}")
            for column, cell in enumerate(cells):
                value = _number(cell)
                if column == text or (value is not None and abs(value) <= FLOAT32_MAX):
                    continue
                expected = "a number" if value is None else f"a finite number of at most {FLOAT32_MAX:.2g}"
                return DataError(f"{where}: column {self.columns[column]}: expected {expected}, got {cell!r}")
        return DataError(f"{self.name}:{first}: expected one sample per line, but a cell holds a line break")


@dataclass(frozen=True)
class Table:
    """A table that is open for reading, its header behind it."""

    layout: Layout
    lines: Iterator[str]

    def blocks(
        self, text: int | None = None, rows: int | None = None
    ) -> Iterator[tuple[NDArray[np.float32], list[str]]]:
        """Blocks of up to `rows` rows: the numbers without the column `text`, and the cells of that column.

        Raises DataError for a cell that is no finite number and for a line with too few or too many columns.
        """
        width, number = len(self.layout.columns), self.layout.first_line
        dtype = _row_type(width, text)
        while lines := list(islice(self.lines, rows or max(1, BLOCK_NUMBERS // width))):
            try:
                block = np.loadtxt(lines, dtype, delimiter=self.layout.delimiter, comments=None, quotechar='"', ndmin=1)
            except ValueError:
                raise self.layout.fault(lines, number, text) from None
            parts = [block[part] for part in dtype.fields or () if part != "text"]
            numbers = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
            if len(block) != len(lines) or not np.isfinite(numbers).all():
                raise self.layout.fault(lines, number, text)
            yield numbers, [] if text is None else block["text"].tolist()
            number += len(lines)


def _row_type(width: int, text: int | None) -> np.dtype[np.void]:
    """A row of `width` columns: a text cell if there is one, and the numbers before and after it."""
    if text is None:
        return np.dtype([("before", np.float32, (width,))])
    fields: list[Any] = [("text", np.object_)]
    if text > 0:
        fields.insert(0, ("before", np.float32, (text,)))
    if text < width - 1:
        fields.append(("after", np.float32, (width - text - 1,)))
    return np.dtype(fields)


@contextmanager
def open_table(
    stream: io.BufferedReader, name: str, source: CsvSource, labels: bool, *, configured: bool = True
) -> Iterator[Table]:
    """The table in `stream`; targets may be text if they are `labels`. Raises DataError, whose remedies are settings of
    the `source` if a config has it."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig")
    try:
        yield _begin(_samples(text, name), name, source, labels, configured)
    finally:
        text.detach()


def _begin(lines: Iterator[str], name: str, source: CsvSource, labels: bool, configured: bool) -> Table:
    """The table whose samples, below a header if there is one, are in `lines`."""
    line = next(lines, None)
    if line is None:
        raise DataError(f"{name}: expected a table, got an empty file")
    # The delimiter is the mark that is most frequent outside quotes.
    delimiter = max(",;\t", key=re.sub(r'"[^"]*"', "", line).count)
    cells = [cell.strip() for cell in _cells(line, delimiter, f"{name}:1")]
    header = source.header
    if any(isinstance(column, str) for column in source.target_columns):
        header = True
    targets = [_column(column, cells, name) for column in source.target_columns]
    inputs = [column for column in range(len(cells)) if column not in targets]
    if not inputs:
        raise DataError(f"{name}:1: expected input columns beside the target, got {len(cells)} columns in all")
    if header == "auto":
        remedy = "set `header: true` or `header: false`" if configured else "a header holds no numbers"
        judged = inputs if labels else range(len(cells))
        header = _is_header({column: cells[column] for column in judged}, name, remedy)
    columns = [repr(cell) for cell in cells] if header else [f"{i} (from 0)" for i in range(len(cells))]
    layout = Layout(name, delimiter, columns, 2 if header else 1, inputs, targets)
    return Table(layout, lines if header else chain([line], lines))


def _samples(stream: io.TextIOWrapper, name: str) -> Iterator[str]:
    """The lines of `stream` without blank ones at its end; a blank line before that is an error."""
    blank = 0
    for number, line in enumerate(stream, 1):
        if line.isspace():
            blank = blank or number
        elif blank:
            raise DataError(f"{name}:{blank}: expected a sample, got a blank line")
        else:
            yield line


def _cells(line: str, delimiter: str, where: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f"{where}: expected a line of a table ({error})") from None


def _number(cell: str) -> float | None:
    """The number in a cell, None if it holds none."""
    # float() also takes underscores and the digits of other scripts; the parser of whole blocks does not.
    if "_" in cell or not cell.isascii():
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _column(column: Column, cells: list[str], name: str) -> int:
    """The index that a target column means, `cells` being the first line."""
    if isinstance(column, int):
        if -len(cells) <= column < len(cells):
            return column % len(cells)
        raise DataError(f"{name}:1: expected a target column from 0 to {len(cells) - 1}, got {column}")
    if cells.count(column) != 1:
        near = difflib.get_close_matches(column, cells, n=1)
        remedy = f"; did you mean {near[0]!r}?" if near and near[0] != column else ""
        raise DataError(f"{name}:1: expected one column {column!r}, got {cells.count(column)}{remedy}")
    return cells.index(column)


def _is_header(cells: Mapping[int, str], name: str, remedy: str) -> bool:
    """Whether a first line names its columns: none of its `cells`, by column, is a number then."""
    names = [column for column, cell in cells.items() if _number(cell) is None]
    if names and len(names) < len(cells):
        raise DataError(
            f"{name}:1: column {names[0]} (from 0): expected a header or numbers, got both: "
            f"{cells[names[0]]!r} is no number, others are; {remedy}"
        )
    return bool(names)


def read_table(
    path: Path, source: CsvSource, labels: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32] | Labels | None]:
    """Inputs (N, D) of a table and its targets: `labels`, or numbers (N, T), or None. Raises DataError."""
    name = shown(path)
    with open_binary(path) as stream, open_table(stream, name, source, labels) as table:
        layout = table.layout
        if labels and len(layout.targets) > 1:
            raise DataError(f"{name}: expected one target column of class labels, got {len(layout.targets)}")
        if labels and layout.targets:
            return _read_labelled(table)
        inputs = GrowingArray(len(layout.inputs), memory_budget())
        targets = GrowingArray(len(layout.targets), memory_budget())
        for numbers, _ in table.blocks():
            inputs.append(numbers[:, layout.inputs])
            targets.append(numbers[:, layout.targets])
        return inputs.finish(), targets.finish() if layout.targets else None


def _read_labelled(table: Table) -> tuple[NDArray[np.float32], Labels]:
    layout, target = table.layout, table.layout.targets[0]
    inputs = GrowingArray(len(layout.inputs), memory_budget())
    index: dict[str, int] = {}
    codes: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
    for numbers, texts in table.blocks(target):
        inputs.append(numbers)
        codes.append(np.array([index.setdefault(text.strip(), len(index)) for text in texts], np.int32))
    return inputs.finish(), Labels(
        np.concatenate(codes),
        list(index),
        lambda row: f"{layout.name}:{layout.first_line + row}: column {layout.columns[target]}",
    )


def input_width(path: Path, source: CsvSource, labels: bool) -> int:
    """The number of input columns of a table, from its first line. Raises DataError."""
    with open_binary(path) as stream, open_table(stream, shown(path), source, labels) as table:
        return len(table.layout.inputs)
