"""From a file and overrides to a Config, or to a ConfigError that lists every problem at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nnjit.component import Component
from nnjit.config import document as doc
from nnjit.config.document import Document, Place, Problem, abridged, read, refusal, show
from nnjit.config.overrides import override
from nnjit.config.problems import describe
from nnjit.config.schema import Config
from nnjit.errors import ConfigError


@dataclass(frozen=True)
class LoadedConfig:
    """A config and where it came from."""

    config: Config
    name: str
    """What messages call the file."""
    base: Path
    """Folder that relative paths in the config start from."""
    document: Document = field(repr=False)
    """What the file said."""

    def located(self) -> Config:
        """The config with absolute data paths, which means the same in any folder."""
        return self.config.model_copy(update={"data": self.config.data.located(self.base)})

    def error(self, path: doc.Path, message: str) -> ConfigError:
        """The error that says `message` of the value at `path`, such as ("model", 3), found after loading.

        It reads file:line:column: model[3].dense: message.
        """
        value: Any = self.config
        place: doc.Path = ()
        shown: doc.Path = ()
        for part in path:
            value = value[part] if isinstance(part, int) else getattr(value, part)
            place = shown = (*shown, part)
            if isinstance(value, Component):
                shown = (*shown, value.kind())
        return refusal([Problem(self.document.place(path, place), show(shown), message)])


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """The config in the file `source` (`-`: standard input), with `overrides` such as "train.epochs=5".

    Raises ConfigError for a file that cannot be read or that has problems, all of them listed.
    """
    standard_input = str(source) == "-"
    name = "<stdin>" if standard_input else str(source)
    try:
        data = sys.stdin.buffer.read() if standard_input else Path(source).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        raise ConfigError(f"{name}:{line}:{column}: not UTF-8 text (byte {data[error.start]:#04x})") from None
    loaded = parse_config(text, name, Path() if standard_input else Path(source).parent, overrides)
    for place in loaded.config.data.from_standard_input if standard_input else ():
        message = "standard input (`-`) cannot be both the config and its data; keep one of them in a file"
        raise loaded.error(("data", *place), message)
    return loaded


def parse_config(text: str, name: str, base: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """The config in the YAML `text`, which messages call `name` and whose relative paths start from `base`.

    Raises ConfigError with all problems.
    """
    document = read(text, lambda line, column: Place(line, column, f"{name}:{line}:{column}"))
    if not isinstance(document.value, dict):
        expected = f"expected a mapping with {', '.join(Config.model_fields)}"
        place = document.values.get((), Place(1, 1, f"{name}:1:1"))
        raise refusal([Problem(place, "", f"{expected}; got {abridged(document.value)}")])
    for number, assignment in enumerate(overrides):
        override(document, assignment, number)
    problems = document.problems
    try:
        config = Config.model_validate(document.value)
    except ValidationError as error:
        problems = problems + [describe(detail, document) for detail in error.errors()]
    if problems:
        raise refusal(problems)
    return LoadedConfig(config, name, base, document)
