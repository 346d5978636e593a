"""`nnjit doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from nnjit.cli.options import overrides_option, threads_option
from nnjit.errors import CheckFailedError


@click.command()
@click.argument("config")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects instead of lines.")
@overrides_option()
@threads_option
def doctor(config: str, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Check a network, its data and its first steps before training.

    Each finding is ok, a warning or a problem, with what was seen and what to do about it, or skipped where there are
    too few samples to tell: classes, and whether they follow the inputs; repeated samples, samples of another split in
    train, constant and unscaled inputs; the loss at the start against that of guessing; gradients, updates and their
    size against the weights in the first 20 steps; dead and saturated units; and whether a few samples can be learned
    by heart. A CPU without fused multiply-adds, on which all is slow, is a warning too. Nothing is written. A problem
    ends it with exit code 5; warnings do not.

    \b
    Examples:
      nnjit doctor configs/digits.yaml
      nnjit doctor configs/digits.yaml --set optimizer.learning_rate=1 --json
    """
    from nnjit.cli.compiling import compiling
    from nnjit.config import load_config
    from nnjit.prepare import prepare

    loaded = load_config(config, overrides)
    dataset = prepare(loaded)

    from nnjit.doctor import counted, examine

    findings = []
    with compiling(quiet=as_json):
        for finding in examine(loaded.config, dataset):
            findings.append(finding)
            if not as_json:
                click.echo(f"{finding.verdict:<8} {finding.check}: {finding.reason}")
                if finding.remedy:
                    click.echo(f"{'':<8} -> {finding.remedy}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    problems = sum(finding.verdict == "problem" for finding in findings)
    if problems:
        raise CheckFailedError(f"{loaded.name}: {counted(problems, 'problem')} found")
