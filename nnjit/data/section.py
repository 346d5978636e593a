"""The `data:` section of a config: which files hold the samples, and how they are scaled; pydantic alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from nnjit.component import Fields


def _tuple(value: Any) -> Any:
    """A list, which is what YAML gives, as the tuple that a strict field takes."""
    return tuple(value) if isinstance(value, list) else value


FromList = BeforeValidator(_tuple)
Row: TypeAlias = Annotated[int, Field(ge=0)]
Size: TypeAlias = Annotated[int, Field(ge=1)]
Column: TypeAlias = str | int


class _Source(Fields):
    """Fields that every file source has."""

    paths: ClassVar[tuple[str, ...]] = ("file",)
    """Names of the fields that hold paths."""

    rows: Annotated[tuple[Row, Row] | None, FromList] = None
    """First row and the row after the last, counted from 0; all rows if omitted."""

    @field_validator("rows")
    @classmethod
    def _some_rows(cls, rows: tuple[int, int] | None) -> tuple[int, int] | None:
        if rows and rows[0] >= rows[1]:
            raise ValueError(f"expected [start, stop] with start below stop, got {list(rows)}")
        return rows

    def located(self, base: Path) -> _Source:
        """The same source with absolute paths, `base` being the folder that its own start from."""
        given = {name: getattr(self, name) for name in self.paths}
        found = {name: os.path.abspath(base / path) for name, path in given.items() if path not in (None, "-")}
        return self.model_copy(update=found)


class CsvSource(_Source):
    """A table of numbers, one sample per line; commas, semicolons or tabs between columns; may be gzipped."""

    format: Literal["csv"] = "csv"
    """How the file is read; found from the file's name if omitted."""
    file: str
    """Path, relative to the config's folder; `-` for standard input."""
    target: Annotated[Column | Annotated[tuple[Column, ...], Field(min_length=1)] | None, FromList] = -1
    """Target column: a name, an index from 0 (-1: the last), a list of them, or null for none."""
    header: Literal["auto", True, False] = "auto"
    """Whether the first line names the columns; auto: if the cells of input columns are no numbers."""

    @property
    def target_columns(self) -> tuple[Column, ...]:
        """The target columns as a tuple, empty for none."""
        if self.target is None:
            return ()
        return self.target if isinstance(self.target, tuple) else (self.target,)

    @model_validator(mode="after")
    def _names_need_a_header(self) -> CsvSource:
        names = [column for column in self.target_columns if isinstance(column, str)]
        if names and self.header is False:
            raise ValueError(f"target column {names[0]!r} is a name, but header is false; give its index")
        return self


class NpzSource(_Source):
    """Two arrays of one NumPy archive."""

    format: Literal["npz"] = "npz"
    """How the file is read; found from the file's name if omitted."""
    file: str
    """Path, relative to the config's folder."""
    inputs: str | None = None
    """Name of the array of inputs; `inputs` or `x` if omitted."""
    targets: str | None = None
    """Name of the array of targets; `targets` or `y`, whichever there is, if omitted."""


class ArraysSource(_Source):
    """A file of inputs and a file of targets, each NumPy's .npy or IDX (MNIST's format, may be gzipped)."""

    paths = ("inputs", "targets")

    format: Literal["arrays"] = "arrays"
    """How the files are read; each file's own first bytes tell .npy from IDX."""
    inputs: str
    """Path of the inputs, relative to the config's folder."""
    targets: str | None = None
    """Path of the targets, relative to the config's folder; omitted for none."""


class FractionSource(Fields):
    """A random part of the training samples, which training then leaves out."""

    format: Literal["fraction"] = "fraction"
    """Where the samples come from."""
    fraction: float = Field(gt=0, lt=1)
    """Share of the training source, rounded to the nearest number of samples."""
    seed: int = Field(default=0, ge=0)
    """Fixes which samples are taken."""


def _format_of(value: Any) -> str | None:
    """The kind of source that a mapping (or a source object) is: its `format`, else by its other keys."""
    if isinstance(value, CsvSource | NpzSource | ArraysSource | FractionSource):
        return value.format
    if not isinstance(value, dict):
        return None
    if "format" in value:
        return str(value["format"])
    if "fraction" in value:
        return "fraction"
    if "file" not in value:
        return "arrays" if "inputs" in value else "csv"
    npz = str(value["file"]).endswith(".npz") or "inputs" in value or "targets" in value
    return "npz" if npz else "csv"


FileSource: TypeAlias = Annotated[
    Annotated[CsvSource, Tag("csv")] | Annotated[NpzSource, Tag("npz")] | Annotated[ArraysSource, Tag("arrays")],
    Discriminator(
        _format_of,
        custom_error_type="source",
        custom_error_message="expected a mapping with `file` or `inputs`",
    ),
]
HeldOutSource: TypeAlias = Annotated[
    Annotated[CsvSource, Tag("csv")]
    | Annotated[NpzSource, Tag("npz")]
    | Annotated[ArraysSource, Tag("arrays")]
    | Annotated[FractionSource, Tag("fraction")],
    Discriminator(
        _format_of,
        custom_error_type="source",
        custom_error_message="expected a mapping with `file`, `inputs` or `fraction`",
    ),
]


class DataSection(Fields):
    """Where samples come from, and how their numbers are scaled before the network sees them."""

    train: FileSource
    """Samples to train on."""
    validation: HeldOutSource | None = None
    """Samples that choose the best checkpoint: a source, or {fraction: 0.1} of the training samples."""
    test: HeldOutSource | None = None
    """Samples that are kept for the end: a source, or {fraction: 0.1} of the training samples."""
    shape: Annotated[Annotated[tuple[Size, ...], Field(min_length=1, max_length=31)] | None, FromList] = None
    """Shape of one input, of any number of axes; the file's own if omitted, an image (H, W) counting as (1, H, W)."""
    classes: Annotated[Size | Annotated[tuple[str, ...], Field(min_length=1)] | None, FromList] = None
    """Number of classes, or their names; found in the training targets if omitted."""
    divide: float = Field(default=1.0, gt=0)
    """Number that inputs are divided by."""
    standardize: Literal[False, "column", "all"] = False
    """Subtract the training inputs' mean, divide by their deviation: per column (or pixel), or over all."""
    standardize_targets: bool = False
    """Whether regression targets are scaled likewise, per column; losses are then in those units."""

    @model_validator(mode="after")
    def _one_standard_input(self) -> DataSection:
        sources = (self.train, self.validation, self.test)
        if sum(isinstance(source, CsvSource) and source.file == "-" for source in sources) > 1:
            raise ValueError("only one of train, validation and test can be read from standard input (`-`)")
        return self

    @property
    def from_standard_input(self) -> list[tuple[str, str]]:
        """The split and the field of every file that is standard input (`-`)."""
        sources = {"train": self.train, "validation": self.validation, "test": self.test}
        return [
            (split, field)
            for split, source in sources.items()
            if isinstance(source, _Source)
            for field in source.paths
            if getattr(source, field) == "-"
        ]

    def origin(self, split: str) -> tuple[str, int]:
        """Whose file the samples of a split are from, train's for a fraction, and the row of it that counts as 0."""
        source = getattr(self, split)
        if isinstance(source, FractionSource):
            split, source = "train", self.train
        return split, source.rows[0] if source.rows else 0

    def located(self, base: Path) -> DataSection:
        """The same data with absolute paths, `base` being the folder that its own start from."""
        given = {name: getattr(self, name) for name in ("train", "validation", "test")}
        return self.model_copy(
            update={name: source.located(base) for name, source in given.items() if isinstance(source, _Source)}
        )
