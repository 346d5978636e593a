"""`nnjit gradcheck`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from nnjit.cli.options import overrides_option, threads_option
from nnjit.errors import CheckFailedError

if TYPE_CHECKING:
    from nnjit.gradcheck import Report, Settings, TensorReport


class Entries(click.ParamType):  # type: ignore[type-arg]
    """A number of entries, or `all`, which is None."""

    name = "N|all"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int | None:
        if value is None or value == "all":
            return None
        try:
            count = int(value)
        except ValueError:
            count = 0
        if count < 1:
            self.fail(f"expected a whole number of at least 1 or 'all', got {value!r}", parameter, context)
        return count


@click.command()
@click.argument("config", required=False)
@click.option("--samples", type=click.IntRange(1), default=4, show_default=True, help="Samples of the config's data.")
@click.option("--entries", type=Entries(), default=200, show_default=True, help="Entries of each tensor, or all.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws samples and entries.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, min_open=True),
    metavar="T",
    help="Largest relative error; 1e-6 in float64 and 2e-2 in float32 unless given.",
)
@click.option("--dtype", type=click.Choice(["float64", "float32"]), default="float64", show_default=True)
@click.option("--steps", type=click.IntRange(0), default=0, show_default=True, help="Steps of training before.")
@click.option("--layers", metavar="K,...", help="Only these layers, counted from 0, or only these kinds.")
@click.option("--self-test", is_flag=True, help="Plant faults in every kind of layer and loss; each must be caught.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object per network.")
@overrides_option()
@threads_option
def gradcheck(
    config: str | None,
    samples: int,
    entries: int | None,
    seed: int,
    tolerance: float | None,
    dtype: str,
    steps: int,
    layers: str | None,
    self_test: bool,
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """Check gradients against differences of the loss.

    With CONFIG, that network on samples of its own data; without, every kind of layer and loss in shapes that provoke
    trouble. A row per tensor, layer inputs included, shows the worst entry: the gradient of the backward kernels, the
    central difference, and their relative error |a - n| / max(|a|, |n|, floor). An entry where the difference crosses a
    kink (of relu, of a maximum) is counted, not failed. Ends with exit code 5 if a gradient is wrong.

    \b
    Examples:
      nnjit gradcheck
      nnjit gradcheck configs/digits.yaml --entries all
      nnjit gradcheck --self-test
    """
    from nnjit.cli.compiling import compiling
    from nnjit.gradcheck import Settings

    if config is None and (overrides or steps):
        raise click.UsageError("--set and --steps need a CONFIG")
    settings = Settings(entries=entries, tolerance=tolerance, seed=seed)
    with compiling(quiet=as_json):
        if self_test:
            _show_self_test(dtype, settings, as_json)
            return
        if config is None:
            reports = _check_kinds(dtype, settings, layers)
        else:
            reports = [_check_config(config, overrides, samples, dtype, steps, settings, layers)]
        failed = _show(reports, as_json)
    if failed:
        raise CheckFailedError(f"{failed} {'tensor has a' if failed == 1 else 'tensors have'} wrong gradient")


def _check_kinds(dtype: str, settings: Settings, layers: str | None) -> Iterable[Report]:
    """A report for each built-in case, one after the other."""
    import numpy as np

    from nnjit.gradcheck import check
    from nnjit.gradcheck.cases import cases

    wanted = layers.split(",") if layers else None
    known = sorted({kind for case in cases(np.dtype(dtype)) for kind in case.kinds})
    unknown = [kind for kind in wanted or [] if kind not in known]
    if unknown:
        raise click.BadParameter(f"expected kinds among {', '.join(known)}, got {unknown[0]!r}", param_hint="--layers")
    for case in cases(np.dtype(dtype)):
        if wanted is None or set(case.kinds) & set(wanted):
            yield check(case.probe(np.dtype(dtype), settings.seed), settings, case.title)


def _check_config(
    config: str,
    overrides: tuple[str, ...],
    samples: int,
    dtype: str,
    steps: int,
    settings: Settings,
    layers: str | None,
) -> Report:
    import numpy as np

    from nnjit.config import load_config
    from nnjit.gradcheck import check
    from nnjit.gradcheck.configured import configured_probe
    from nnjit.prepare import prepare

    loaded = load_config(config, overrides)
    dataset = prepare(loaded)
    positions = _positions(layers, [layer.kind() for layer in loaded.config.model])
    probe = configured_probe(
        loaded.config, dataset, samples=samples, dtype=np.dtype(dtype), seed=settings.seed, steps=steps
    )
    when = f"after {steps} steps" if steps else "at the start"
    return check(probe, settings, f"{loaded.name}, {probe.samples} samples, {dtype}, {when}", positions)


def _positions(layers: str | None, kinds: list[str]) -> set[int] | None:
    """The layers that `layers` names by number or kind; None for all."""
    if not layers:
        return None
    found: set[int] = set()
    for word in layers.split(","):
        named = {k for k, kind in enumerate(kinds) if word == kind or word == str(k)}
        if not named:
            last = len(kinds) - 1
            expected = f"expected numbers from 0 to {last} or kinds among {', '.join(sorted(set(kinds)))}"
            raise click.BadParameter(f"{expected}, got {word!r}", param_hint="--layers")
        found |= named
    return found


def _show(reports: Iterable[Report], as_json: bool) -> int:
    """Print each report as it comes; the number of tensors that failed."""
    failed = 0
    for report in reports:
        failed += sum(not tensor.passed for tensor in report.tensors)
        if as_json:
            click.echo(json.dumps({**asdict(report), "passed": report.passed}))
            continue
        click.echo(report.title)
        rows = [HEADER, *(_row(tensor) for tensor in report.tensors)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(HEADER))]
        for row in rows:
            cells = [
                cell.ljust(width) if k == 0 else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            click.echo("  " + "  ".join(cells).rstrip())
    return failed


HEADER = ("tensor", "checked", "failed", "kinks", "skipped", "worst", "analytic", "numeric", "error", "")


def _row(tensor: TensorReport) -> tuple[str, ...]:
    worst = "" if tensor.worst_index is None else ",".join(map(str, tensor.worst_index))
    verdict = "ok"
    if tensor.failed:
        verdict = "WRONG"
    elif tensor.too_many_kinks:
        verdict = "TOO MANY KINKS"
    elif tensor.blind:
        verdict = "ok, too small to tell"
    counts = (tensor.checked, tensor.failed, tensor.kinks, tensor.skipped)
    numbers = (f"{tensor.analytic:.6e}", f"{tensor.numeric:.6e}", f"{tensor.error:.1e}")
    return (tensor.name, *map(str, counts), worst, *numbers, verdict)


def _show_self_test(dtype: str, settings: Settings, as_json: bool) -> None:
    """Print a line per planted fault. Raises CheckFailedError when one passes, or what is right fails."""
    import numpy as np

    from nnjit.gradcheck.faults import self_test

    surprises = 0
    for trial in self_test(np.dtype(dtype), settings):
        surprises += not trial.expected
        worst = max(trial.report.tensors, key=lambda tensor: (not tensor.passed, tensor.error))
        if as_json:
            facts = {"kind": trial.kind, "fault": trial.fault, "case": trial.title, "caught": not trial.report.passed}
            click.echo(json.dumps({**facts, "expected": trial.expected, "tensor": worst.name, "error": worst.error}))
            continue
        said = "passed" if trial.report.passed else "caught"
        verdict = "" if trial.expected else "  NOT AS EXPECTED"
        fault = trial.fault.replace("_", " ") or "as it is"
        click.echo(f"{trial.kind:<22}{fault:<18}{said}  {worst.name}, error {worst.error:.1e}{verdict}")
    if surprises:
        raise CheckFailedError(f"{surprises} of the self-test's results are not as expected")
