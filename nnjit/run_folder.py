"""A run's folder: config.yaml, metrics.jsonl, last.safetensors and best.safetensors; divergence.json if it diverged."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnjit.checkpoint import write_atomically
from nnjit.errors import ConfigError, DataError, NnjitError

CONFIG_NAME = "config.yaml"


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG_NAME
        self.metrics = path / "metrics.jsonl"
        self.last = path / "last.safetensors"
        self.best = path / "best.safetensors"
        self.divergence = path / "divergence.json"

    @property
    def resume_command(self) -> str:
        """The command that goes on with the run."""
        return f"nnjit train {shlex.quote(str(self.config))} --resume"

    def create(self, config: str) -> None:
        """Make the folder with the resolved config in it.

        Raises ConfigError when it is there already, NnjitError when the system refuses.
        """
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise _exists(self.path) from None
        except OSError as error:
            raise NnjitError(f"{self.path}: cannot be made: {error.strerror}") from error
        try:
            self.write_config(config)
        except NnjitError:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the folder of a run that came to nothing, unless it holds more than the config."""
        with suppress(OSError):
            self.config.unlink(missing_ok=True)
            self.path.rmdir()

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

    def forget_divergence(self) -> None:
        """Remove the report of a divergence that the run has got past."""
        with suppress(OSError):
            self.divergence.unlink()

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


def _exists(path: Path) -> ConfigError:
    return ConfigError(
        f"{path}: expected a new folder, but it exists and a run never overwrites one; "
        "add --resume to go on with its run, or choose another --out"
    )


def new_run(config: str, out: Path | None) -> RunFolder:
    """The folder for a new run of the file `config`, not made yet: `out`, else the first free one of runs/<stem>,
    runs/<stem>-2, ... Raises ConfigError when `out` exists."""
    if out is None:
        return RunFolder(_next_free(_run_of(config) or _usual_folder(config)))
    if out.exists():
        raise _exists(out)
    return RunFolder(out)


def run_to_resume(config: str, out: Path | None) -> RunFolder:
    """The folder of the run of the file `config` to go on with: `out`, else the folder whose resolved config it is,
    else the one of runs/<stem>, runs/<stem>-2, ... that was written to last.

    Raises DataError when there is no checkpoint.
    """
    given = out or _run_of(config)
    usual = given or _usual_folder(config)
    others = [] if given else [path for path in usual.parent.glob("*") if _is_numbered(path, usual)]
    runs = [run for run in map(RunFolder, [usual, *others]) if run.last.is_file()]
    if not runs:
        raise DataError(
            f"{usual}: expected a run to go on with, found no last.safetensors; begin the run without --resume"
        )
    return max(runs, key=lambda run: run.last.stat().st_mtime_ns)


def _run_of(config: str) -> Path | None:
    """The run folder whose resolved config is the file `config`, if it is one."""
    path = Path(config)
    return path.parent if path.name == CONFIG_NAME and RunFolder(path.parent).last.is_file() else None


def _usual_folder(config: str) -> Path:
    return Path("runs") / ("stdin" if config == "-" else Path(config).stem)


def _next_free(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, ... that does not exist."""
    number, candidate = 2, path
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate


def _is_numbered(path: Path, first: Path) -> bool:
    """Whether `_next_free` gives `path` when `first` is taken."""
    return path.name.startswith(f"{first.name}-") and path.name[len(first.name) + 1 :].isdecimal()
