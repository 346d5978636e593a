"""The command line as tests use it: in this process where that will do, in another where the process is the point."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from nnjit.cli import main

DIGITS = Path(__file__).parents[1] / "data" / "digits"

TINY = f"""\
data:
  train: {{file: {DIGITS}/train.csv, target: digit, rows: [0, 64]}}
  validation: {{file: {DIGITS}/validation.csv, target: digit, rows: [0, 32]}}
  test: {{file: {DIGITS}/test.csv, target: digit, rows: [0, 32]}}
  divide: 16
model:
  - dense: 12
  - relu
  - dense: 10
loss: softmax_cross_entropy
optimizer: {{learning_rate: 0.1, momentum: 0.9}}
train: {{epochs: 3, batch_size: 20}}
seed: 3
"""
"""64 digits in 4 batches, the last one of 4 samples; line 7 is the first layer, 9 the last, 12 the train section."""


def nnjit(*arguments: Any, stdin: str | bytes | None = None) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def command(*arguments: Any) -> list[str]:
    """The words that run a command in a process of its own."""
    return [sys.executable, "-m", "nnjit", *map(str, arguments)]


def environment(**extra: str) -> Mapping[str, str]:
    """This process's environment and `extra`, with this checkout's nnjit, whatever the working directory."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **extra}


def process(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, to its end; one that hangs fails, one that compiles on a slow machine has
    taken two minutes."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, env=environment(), timeout=600, **options
    )


def without_compiling(text: str) -> str:
    """Standard error without the lines that tell of compilation: only some orders of tests compile."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(("compiling ", "compiled ")))
