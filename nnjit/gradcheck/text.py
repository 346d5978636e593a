"""Reports as lines of text, and as values that JSON knows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from nnjit.gradcheck.against import Comparison
from nnjit.gradcheck.check import Report, TensorReport
from nnjit.gradcheck.scan import Scan


def report_lines(report: Report) -> Iterator[str]:
    """A table with a row per tensor."""
    yield report.title
    differences = "" if report.dtype == "float64" else f"{report.dtype} gradients, float64 differences; "
    yield f"  {differences}tolerance {report.tolerance:.0e} beyond rounding{report.note and '; '}{report.note}"
    head, row = (DIRECTIONS, _directions) if report.fast else (ENTRIES, _entries)
    yield from _table([head, *(row(tensor, report.max_kinks) for tensor in report.tensors)])


ENTRIES = ("tensor", "checked", "failed", "kinks", "skipped", "worst", "analytic", "numeric", "error", "1 % missed", "")
DIRECTIONS = ("tensor", "entries", "directions", "failed", "kinks", "analytic", "numeric", "error", "1 % missed", "")


def _entries(tensor: TensorReport, max_kinks: float) -> tuple[str, ...]:
    counts = (tensor.checked, tensor.failed, tensor.kinks, tensor.skipped)
    return (tensor.name, *map(str, counts), _index(tensor.worst_index), *_result(tensor, max_kinks))


def _directions(tensor: TensorReport, max_kinks: float) -> tuple[str, ...]:
    directions = str(tensor.compared) if tensor.fast else ""
    counts = (str(tensor.entries), directions, str(tensor.failed), str(tensor.kinks))
    return (tensor.name, *counts, *_result(tensor, max_kinks))


def _result(tensor: TensorReport, max_kinks: float) -> tuple[str, ...]:
    numbers = [f"{tensor.analytic:.6e}", f"{tensor.numeric:.6e}", f"{tensor.error:.1e}", f"{tensor.missed:.2%}"]
    if tensor.kinks == tensor.compared:
        numbers = [""] * len(numbers)
    return (*numbers, _verdict(tensor, max_kinks))


def _verdict(tensor: TensorReport, max_kinks: float) -> str:
    if tensor.failed:
        return "WRONG"
    if tensor.too_many_kinks:
        return f"MORE THAN {max_kinks:.0%} KINKS, try fewer --samples or another --seed"
    return "ok" if tensor.seen else "ok, but 1 % would pass"


def scan_lines(scan: Scan) -> Iterator[str]:
    """The table of one entry's differences, and what they mean."""
    yield f"  {scan.name}[{_index(scan.index)}], analytic {scan.analytic:.6e}"
    rows = [("h", "difference", "error", "extrapolated", "error", "")]
    for row in scan.rows:
        best = "best" if row.step == scan.best_step else ""
        first = (_number(row.plain), _error(row.plain_error))
        rows.append((f"{row.step:.1e}", *first, _number(row.extrapolated), _error(row.extrapolated_error), best))
    yield from (f"  {line}" for line in _table(rows))
    yield f"    {scan.cause}: {scan.verdict}"


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """A table with a row per tensor, and what was skipped."""
    yield f"{comparison.title}, against {comparison.peer}, tolerance {comparison.tolerance:.0e}"
    rows = [("tensor", "entries", "worst", "nnjit", comparison.peer, "absolute", "relative", "")]
    for row in comparison.rows:
        numbers = (f"{row.ours:.6e}", f"{row.theirs:.6e}", f"{row.absolute:.1e}", f"{row.relative:.1e}")
        verdict = "ok" if row.passed else "DIFFERENT"
        rows.append((row.name, str(math.prod(row.shape)), _index(row.worst_index), *numbers, verdict))
    yield from _table(rows)
    for skipped in comparison.skipped:
        yield f"  skipped {skipped}"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells as aligned lines: the first column to the left, the last as it is, the others to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        first, *others = (
            cell.rjust(width) if 0 < k < len(row) - 1 else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(["", first, *others]).rstrip()


def _index(index: tuple[int, ...] | None) -> str:
    return "" if index is None else ",".join(map(str, index))


def _number(value: float | None) -> str:
    if value is None:
        return "kink"
    return "w + h = w" if math.isnan(value) else f"{value:.6e}"


def _error(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.1e}"


def report_values(report: Report) -> dict[str, Any]:
    """A report as JSON has it, with what its properties say."""
    tensors = [
        {
            **asdict(tensor),
            "checked": tensor.checked,
            "skipped": tensor.skipped,
            "missed": tensor.missed,
            "passed": tensor.passed,
        }
        for tensor in report.tensors
    ]
    values: dict[str, Any] = as_values({**asdict(report), "tensors": tensors, "passed": report.passed})
    return values


def as_values(item: Any) -> Any:
    """A report as dictionaries, lists and numbers; numbers that are none, which JSON has no word for, become null."""
    if is_dataclass(item) and not isinstance(item, type):
        return as_values(asdict(item))
    if isinstance(item, dict):
        return {key: as_values(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [as_values(value) for value in item]
    return None if isinstance(item, float) and not math.isfinite(item) else item
