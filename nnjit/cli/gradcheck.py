"""`nnjit gradcheck`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from nnjit.cli.options import Count, overrides_option, threads_option
from nnjit.errors import CheckFailedError

if TYPE_CHECKING:
    from nnjit.gradcheck import Probe, Settings
    from nnjit.optimizers import Optimizer


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


class Tolerance(click.ParamType):  # type: ignore[type-arg]
    """A relative error."""

    name = "T"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        try:
            tolerance = float(value)
        except ValueError:
            tolerance = 0.0
        if not 0 < tolerance < 1:
            self.fail(f"expected a number between 0 and 1, got {value!r}", parameter, context)
        return tolerance


@click.command()
@click.argument("config", required=False)
@click.option(
    "--samples",
    type=Count(1),
    show_default="a batch, at most a block and one more: 9, in float32 17",
    help="Samples of the config's data.",
)
@click.option(
    "--entries", type=Entries(), metavar="N|all", default=200, show_default=True, help="Entries of each tensor, or all."
)
@click.option("--seed", type=Count(0), default=0, show_default=True, help="Draws samples and entries.")
@click.option(
    "--tolerance",
    type=Tolerance(),
    help="Largest relative error beyond rounding; 1e-6 in float64 and 1e-5 in float32 unless given.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float64", "float32"]),
    default="float64",
    show_default=True,
    help="Of the gradients; differences are always taken in float64.",
)
@click.option("--steps", type=Count(0), default=0, metavar="K", help="Again after K steps of training.")
@click.option("--layers", metavar="K,...", help="Only these layers, counted from 0, or only these kinds.")
@click.option("--fast", is_flag=True, help="Random directions of each tensor instead of entries, for large networks.")
@click.option("--scan", is_flag=True, help="Show each worst entry's differences for steps from 1e-2 to 1e-9.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw the scan (the last one with --steps).",
)
@click.option(
    "--against",
    type=click.Choice(["reference", "torch"]),
    help="Compare outputs and gradients with plain NumPy or PyTorch instead of differences.",
)
@click.option("--self-test", is_flag=True, help="Plant faults in every kind of layer and loss; each must be caught.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object per network.")
@overrides_option()
@threads_option
@click.pass_context
def gradcheck(
    context: click.Context,
    config: str | None,
    samples: int | None,
    entries: int | None,
    seed: int,
    tolerance: float | None,
    dtype: str,
    steps: int,
    layers: str | None,
    fast: bool,
    scan: bool,
    plot: Path | None,
    against: str | None,
    self_test: bool,
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """Check gradients against differences of the loss.

    With CONFIG, that network on samples of its own data; without, every kind of layer and loss in shapes that provoke
    trouble. The inputs of a config and, at the start, its parameters are jittered: biases and pixels of 0 lie on kinks.

    A row per tensor, layer inputs included, shows the worst entry: the gradient of the backward kernels (analytic), the
    central difference (numeric), and their relative error |a - n| / max(|a|, |n|, floor); below the floor, rounding
    alone could exceed the tolerance. `1 % missed` is the share of the entries in which a fault of 1 % would not have
    been seen. An entry where the difference crosses a kink (of relu, of a maximum) is counted, not failed; more than
    half of them fail. Weight decay is checked on its own. Ends with exit code 5 if a gradient is wrong.

    \b
    Examples:
      nnjit gradcheck
      nnjit gradcheck configs/digits.yaml --entries all
      nnjit gradcheck configs/digits.yaml --scan --plot scan.png
      nnjit gradcheck configs/digits.yaml --against torch
      nnjit gradcheck --self-test
    """
    some_entries, some_samples = (
        context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in ("entries", "samples")
    )
    _refuse(
        (
            self_test and (config or layers or fast or scan or against or some_samples),
            "--self-test goes with --dtype, --entries, --seed, --tolerance and --json alone",
        ),
        (config is None and (overrides or steps or some_samples), "--set, --steps and --samples need a CONFIG"),
        (plot and not (scan and config), "--plot needs --scan and a CONFIG"),
        (fast and scan, "--scan looks at entries, of which --fast has none: drop one of them"),
        (fast and some_entries, "--fast looks at directions of all entries: drop --entries"),
        (against and (fast or scan), "--against takes no differences: drop --fast and --scan"),
        (against and some_entries, "--against compares all entries: drop --entries"),
        (against and config and layers, "--against compares all layers of a CONFIG: drop --layers"),
    )
    from nnjit.cli.compiling import compiling
    from nnjit.gradcheck import Settings

    settings = Settings(entries=entries, tolerance=tolerance, seed=seed, fast=fast)
    with compiling(quiet=as_json):
        if self_test:
            _show_self_test(dtype, settings, as_json)
            return
        if config is None:
            subjects = _built_in(dtype, seed, layers)
        else:
            subjects = _configured(config, overrides, samples, dtype, steps, seed, layers)
        if against:
            failed = _compare(subjects, against, tolerance, as_json)
        else:
            failed = _check(subjects, settings, scan, plot, as_json)
    if failed:
        raise CheckFailedError(f"{failed} {'tensor does' if failed == 1 else 'tensors do'} not pass")


def _refuse(*combinations: tuple[object, str]) -> None:
    """Raise UsageError with the message of the first combination of options that came."""
    for came, message in combinations:
        if came:
            raise click.UsageError(message)


@dataclass(frozen=True)
class Subject:
    """A network to check, and what of it."""

    title: str
    probe: Probe
    positions: set[int] | None = None
    """Layers; None for all."""
    note: str = ""
    optimizer: Optimizer | None = None


def _built_in(dtype: str, seed: int, layers: str | None) -> Iterator[Subject]:
    """The built-in cases, one after the other."""
    import numpy as np

    from nnjit.gradcheck.cases import cases

    wanted = None if layers is None else _words(layers)
    known = sorted({kind for case in cases(np.dtype(dtype)) for kind in case.kinds})
    unknown = [kind for kind in wanted or [] if kind not in known]
    if unknown:
        raise click.BadParameter(f"expected kinds among {', '.join(known)}, got {unknown[0]!r}", param_hint="--layers")
    for case in cases(np.dtype(dtype)):
        if wanted is None or set(case.kinds) & set(wanted):
            yield Subject(case.title, case.probe(np.dtype(dtype), seed))


def _configured(
    config: str, overrides: tuple[str, ...], samples: int | None, dtype: str, steps: int, seed: int, layers: str | None
) -> Iterator[Subject]:
    """The network of a config at the start and, if there are any, after `steps` steps.

    Unless it is told, there are as many samples as in a batch of training, but at most a block and one more: blocks,
    what remains of a batch, and batches of few samples are computed by kernels of their own.
    """
    import numpy as np

    from nnjit.config import load_config
    from nnjit.gradcheck.cases import JITTER, plural
    from nnjit.gradcheck.configured import INPUT_JITTER, configured_probe
    from nnjit.kernels.simd import lanes
    from nnjit.prepare import prepare

    loaded = load_config(config, overrides)
    samples = samples or min(loaded.config.train.batch_size, lanes(dtype) + 1)
    dataset = prepare(loaded)
    positions = _positions(layers, [layer.kind() for layer in loaded.config.model])
    for trained in (0, steps) if steps else (0,):
        probe = configured_probe(
            loaded.config, dataset, samples=samples, dtype=np.dtype(dtype), seed=seed, steps=trained
        )
        when = f"after {plural(trained, 'step')}" if trained else "at the start"
        title = f"{loaded.name}, {plural(probe.samples, 'sample')}, {dtype}, {when}"
        jittered = f"inputs jittered by {INPUT_JITTER}" + ("" if trained else f", parameters by {JITTER}")
        yield Subject(title, probe, positions, jittered, loaded.config.optimizer)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _positions(layers: str | None, kinds: list[str]) -> set[int] | None:
    """The layers that `layers` names by number or kind; None for all."""
    if layers is None:
        return None
    found: set[int] = set()
    for word in _words(layers):
        named = {k for k, kind in enumerate(kinds) if word == kind or word == str(k)}
        if not named:
            last = len(kinds) - 1
            expected = f"expected numbers from 0 to {last} or kinds among {', '.join(sorted(set(kinds)))}"
            raise click.BadParameter(f"{expected}, got {word!r}", param_hint="--layers")
        found |= named
    return found


def _check(subjects: Iterator[Subject], settings: Settings, scan: bool, plot: Path | None, as_json: bool) -> int:
    """Check and print one network after the other; the number of tensors that failed."""
    from nnjit.gradcheck import check
    from nnjit.gradcheck.penalty import check_penalty
    from nnjit.gradcheck.plot import check_file
    from nnjit.gradcheck.plot import plot as draw
    from nnjit.gradcheck.scan import scan as scanned
    from nnjit.gradcheck.text import as_values, report_lines, report_values, scan_lines

    if plot:
        check_file(plot)
    failed = 0
    drawn, title = [], ""
    for subject in subjects:
        report = check(subject.probe, settings, subject.title, subject.positions, subject.note)
        scans = scanned(subject.probe, report, settings, subject.positions) if scan else []
        if subject.optimizer is not None and subject.positions is None:
            report.tensors.extend(check_penalty(subject.probe.network, subject.optimizer))
        failed += sum(not tensor.passed for tensor in report.tensors)
        if as_json:
            scanned_too = {"scans": as_values(scans)} if scan else {}
            click.echo(json.dumps({**report_values(report), **scanned_too}))
        else:
            for line in report_lines(report):
                click.echo(line)
            for found in scans:
                click.echo("\n".join(scan_lines(found)))
        drawn, title = scans, subject.title
    if plot:
        draw(drawn, title, plot)
    return failed


def _compare(subjects: Iterator[Subject], name: str, tolerance: float | None, as_json: bool) -> int:
    """Compare one network after the other with a peer and print it; the number of tensors that failed."""
    from nnjit.gradcheck.against import Peer, Reference, against
    from nnjit.gradcheck.text import as_values, comparison_lines
    from nnjit.gradcheck.torch_peer import Torch

    peer: Peer = Torch() if name == "torch" else Reference()
    failed = 0
    for subject in subjects:
        comparison = against(subject.probe, peer, subject.title, tolerance)
        failed += sum(not row.passed for row in comparison.rows)
        if as_json:
            click.echo(json.dumps({**as_values(comparison), "passed": comparison.passed}))
        else:
            click.echo("\n".join(comparison_lines(comparison)))
    return failed


def _show_self_test(dtype: str, settings: Settings, as_json: bool) -> None:
    """Print a line per planted fault. Raises CheckFailedError when one passes, or what is right fails."""
    import numpy as np

    from nnjit.gradcheck.faults import self_test

    trials = planted = surprises = 0
    for trial in self_test(np.dtype(dtype), settings):
        trials += 1
        planted += bool(trial.fault)
        surprises += not trial.expected
        worst = max(trial.report.tensors, key=lambda tensor: (not tensor.passed, tensor.error))
        if as_json:
            facts = {"kind": trial.kind, "fault": trial.fault, "case": trial.title, "caught": not trial.report.passed}
            click.echo(json.dumps({**facts, "expected": trial.expected, "tensor": worst.name, "error": worst.error}))
            continue
        said = "passed" if trial.report.passed else "caught"
        verdict = "" if trial.expected else "  NOT AS EXPECTED"
        fault = trial.fault.replace("_", " ") or "as it is"
        shown = f"{worst.name}, error {worst.error:.1e}"
        click.echo(f"{trial.kind:<22}{fault:<18}{said}  {shown:<32}{trial.title}{verdict}")
    if surprises:
        raise CheckFailedError(f"{surprises} of the self-test's results are not as expected")
    if not as_json:
        click.echo(f"{trials - planted} kinds passed as they are, {planted} planted faults were caught")
