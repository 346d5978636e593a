"""`nnjit bench`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nnjit.cli.options import Count, Seconds, overrides_option, threads_option
from nnjit.cli.text import in_bytes

if TYPE_CHECKING:
    from nnjit.bench.limits import Limits
    from nnjit.bench.profile import PassTime, Profile
    from nnjit.bench.report import Report

PEAK_SECONDS = 0.5
"""How long the machine's rate of multiply-adds is measured beside a config."""


@click.command()
@click.argument("config", required=False)
@click.option("--batch", type=Count(1), metavar="N", help="Samples per step; the config's unless given.")
@click.option(
    "--seconds",
    type=Seconds(),
    default=3.0,
    show_default=True,
    metavar="S",
    help="How long to measure, compiling apart.",
)
@click.option("--peak", is_flag=True, help="Measure the machine alone: multiply-adds and memory bandwidth.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@overrides_option("train.precision=float64")
@threads_option
def bench(
    config: str | None, batch: int | None, seconds: float, peak: bool, as_json: bool, overrides: tuple[str, ...]
) -> None:
    """Measure the speed of training steps, layer by layer.

    Steps of CONFIG go round in 20 batches of its training data, or of random numbers of the same shape where a data
    file is not there. Times are medians after a warm-up; compiling counts apart. A row per layer gives the time of each
    of its passes, its GFLOP/s (a multiply-add is two operations) and its share of the step. An activation or a pooling
    that the layer before it applies is part of that layer's row; the way back through such a pooling has a row of its
    own. The row "calls" makes the rows add up to the step: what it takes to call compiled code, most of the step of a
    few units, and what medians lack of adding up; it may be below 0.

    GFLOP/s count the multiply-adds of the formula. Winograd's algorithm leaves most of these out, and direct sums those
    with padding's zeros, so a rate may exceed what the machine reaches, and its share 100 %.

    The memory at most is that of the process. Where kernels are compiled first, it holds what the compiler takes, often
    as much as all else; a second run, which loads them, tells it without.

    \b
    Examples:
      nnjit bench configs/digits.yaml --batch 256
      nnjit bench --peak
    """
    from nnjit.cli.compiling import compiling

    if peak == (config is not None):
        raise click.UsageError("expected either a CONFIG or --peak")
    if peak:
        if batch is not None or overrides:
            raise click.UsageError("--batch and --set need a CONFIG")
        from nnjit.bench.limits import machine_limits

        with compiling(quiet=as_json):
            limits = machine_limits(seconds)
        _show_limits(limits, as_json)
        return

    from nnjit.bench.report import measure
    from nnjit.config import load_config

    assert config is not None
    if batch is not None:
        overrides = (*overrides, f"train.batch_size={batch}")
    loaded = load_config(config, overrides)
    with compiling(quiet=as_json):
        report = measure(loaded, seconds, PEAK_SECONDS)
    if as_json:
        click.echo(json.dumps(report.flat()))
        return
    _show_report(report)


HEADINGS = (
    "",
    "layer",
    "output",
    *("forward", "GFLOP/s", "%"),
    *("to input", "GFLOP/s", "%"),
    "to weights",
    "GFLOP/s",
    "%",
)


COUNTED = (
    "by the formula, of whose multiply-adds Winograd's algorithm leaves most out, direct sums those with padding's "
    "zeros: rates may exceed the machine's"
)


def table(profile: Profile) -> list[tuple[str, ...]]:
    """The rows of a profile, headings first; times in us, shares in percent of the step."""
    from nnjit.bench.profile import PASSES

    rows: list[tuple[str, ...]] = [HEADINGS]
    for layer in profile.layers:
        cells = [cell for name in PASSES for cell in _cells(layer.passes.get(name))]
        rows.append((str(layer.position), layer.kind, "x".join(map(str, layer.shape)), *cells))
    for name, taken in profile.rest.items():
        rows.append(("", name, "", _micro(taken), "", _percent(taken / profile.step_seconds), *[""] * 6))
    return rows


def _cells(taken: PassTime | None) -> tuple[str, str, str]:
    if taken is None:
        return ("", "", "")
    return (_micro(taken.seconds), f"{taken.gflops:.1f}" if taken.gflops else "", _percent(taken.share))


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f}" if abs(seconds) < 1e-4 else f"{seconds * 1e6:,.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if column in (1, 2) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def _show_report(report: Report) -> None:
    """Print the whole and the parts."""
    profile = report.profile
    share = profile.gflops / report.peak_gflops
    above = profile.highest_gflops > report.peak_gflops
    compiler = ", the compiler at work included; a second run tells it without" if report.compiled else ""
    facts = (
        ("data", f"random, since {report.absent} is not there" if report.absent else "the config's"),
        ("batch", f"{_count(report.batch_size, 'sample')} of {report.precision}, {_count(report.threads, 'thread')}"),
        ("step", f"{_micro(profile.step_seconds)} us, {report.samples_per_second:,.0f} samples/s"),
        ("rate", f"{profile.gflops:,.1f} GFLOP/s, {share:.0%} of the machine's {report.peak_gflops:,.1f}"),
        *([("counted", COUNTED)] if above else []),
        ("compiling", f"{report.compile_seconds:.2f} s, before the first step"),
        (
            "memory",
            f"{in_bytes(report.peak_memory_bytes)} at most, {in_bytes(report.buffer_bytes)} of it the step's{compiler}",
        ),
    )
    for name, value in facts:
        click.echo(f"{name:<11}{value}")
    click.echo()
    _print_table(table(profile))


def _show_limits(limits: list[Limits], as_json: bool) -> None:
    """Print what the machine reaches with one thread and with all."""
    from dataclasses import asdict

    if as_json:
        click.echo(json.dumps({"limits": [asdict(each) for each in limits]}))
        return
    for each in limits:
        rates = asdict(each.bandwidth)
        memory = ", ".join(f"{name} {rate / 1e9:.1f}" for name, rate in rates.items())
        click.echo(f"{_count(each.threads, 'thread')}: {each.peak_gflops:,.1f} GFLOP/s; memory, GB/s: {memory}")
