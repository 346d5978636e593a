"""The picture of a scan: errors over steps, a panel per tensor. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from nnjit.errors import ConfigError, NnjitError
from nnjit.gradcheck.scan import Row, Scan

COLUMNS = 3
FORMATS = (".png", ".pdf", ".svg")
LEAST = 1e-16
"""Errors are drawn no lower: an error of 0 has no logarithm."""


def check_file(file: Path) -> None:
    """Raise ConfigError when the format of `file` is unknown, NnjitError when its folder or matplotlib is not there."""
    if file.suffix.lower() not in FORMATS:
        raise ConfigError(f"{file}: expected a name that ends with {' or '.join(FORMATS)}")
    if not file.parent.is_dir():
        raise NnjitError(f"{file}: expected a folder that exists, got {file.parent}")
    try:
        import_module("matplotlib")
    except ImportError:
        raise NnjitError(
            "--plot needs matplotlib, which is not installed; `pip install 'nnjit[plot]'` installs it"
        ) from None


def plot(scans: Sequence[Scan], title: str, file: Path) -> None:
    """Draw scans to a file that `check_file` has passed."""
    figures: Any = import_module("matplotlib.figure")
    lines, columns = -(-len(scans) // COLUMNS), min(COLUMNS, len(scans))
    figure = figures.Figure(figsize=(4.2 * columns, 3 * lines + 0.8), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).reshape(-1)
    for panel, scan in zip(panels, scans, strict=False):
        _draw(panel, scan)
    for panel in panels[len(scans) :]:
        panel.set_visible(False)
    panels[0].legend(fontsize=7, loc="upper center", ncols=2)
    figure.supxlabel("step h")
    figure.supylabel("relative error")
    figure.savefig(file, dpi=120)


def _draw(panel: Any, scan: Scan) -> None:
    panel.set_title(f"{scan.name}[{','.join(map(str, scan.index))}]: {scan.cause}", fontsize=8)
    panel.loglog(*_points(scan.rows, lambda row: row.plain_error), "o-", label="central difference")
    panel.loglog(*_points(scan.rows, lambda row: row.extrapolated_error), "s-", label="extrapolated")
    panel.axhline(scan.tolerance, color="grey", linestyle="--", label="tolerance")
    kinks = [row.step for row in scan.rows if row.plain is None]
    panel.plot(kinks, [scan.tolerance] * len(kinks), "rx", label="kink")
    panel.grid(alpha=0.3)


def _points(rows: Sequence[Row], error: Callable[[Row], float | None]) -> tuple[list[float], list[float]]:
    """Steps and errors, with a gap where there is no error."""
    errors = [error(row) for row in rows]
    return [row.step for row in rows], [math.nan if value is None else max(value, LEAST) for value in errors]
