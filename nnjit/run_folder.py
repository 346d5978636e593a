"""A run's folder: config.yaml, metrics.jsonl, last.safetensors and best.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnjit.checkpoint import write_atomically
from nnjit.errors import ConfigError, NnjitError


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.last = path / "last.safetensors"
        self.best = path / "best.safetensors"

    def create(self, config: str) -> None:
        """Make the folder with the resolved config in it.

        Raises ConfigError when it is there already, NnjitError when the system refuses.
        """
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise ConfigError(
                f"{self.path}: expected a new folder, but it exists and a run never overwrites one; "
                "add --resume to go on with its run, or choose another --out"
            ) from None
        except OSError as error:
            raise NnjitError(f"{self.path}: cannot be made: {error.strerror}") from error
        self.write_config(config)

    def write_config(self, config: str) -> None:
        """Write the resolved config. Raises NnjitError when the system refuses."""
        write_atomically(self.config, config.encode())

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl. Raises NnjitError when the system refuses."""
        try:
            with open(self.metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise NnjitError(f"{self.metrics}: cannot be written: {error.strerror}") from error

    def keep_epochs(self, epochs: int) -> None:
        """Drop the records after the first `epochs` epochs: of a run that died between a record and its checkpoint."""
        if not self.metrics.exists():
            return
        lines = self.metrics.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _epoch_of(line) <= epochs]
        if kept != lines:
            write_atomically(self.metrics, "".join(line + "\n" for line in kept).encode())


def _epoch_of(line: str) -> float:
    """The epoch of a record; infinite for a line that was cut off."""
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def next_free(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, ... that does not exist."""
    number, candidate = 2, path
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate
